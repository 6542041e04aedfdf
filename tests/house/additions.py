"""One addition of each kind, as a contributor would make it: the edits, and a question to the result.

CONTRIBUTING.md has a page for each kind, and names the files; `tests/house/test_adding.py`
holds the two together, and builds a copy of the tree with all of these in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["ADDITIONS", "Addition", "Edit"]


@dataclass(frozen=True, slots=True)
class Edit:
    """One change of a file: `new` goes before the only place of `at`; `at` empty: a new file."""

    file: str
    at: str
    new: str

    def apply(self, tree: Path) -> None:
        """Make it."""
        path = tree / self.file
        if not self.at:
            assert not path.exists(), f"{self.file} is there already"
            path.write_text(self.new)
            return
        text = path.read_text()
        assert text.count(self.at) == 1, f"{self.at!r} stands {text.count(self.at)} times in {self.file}"
        path.write_text(text.replace(self.at, self.new + self.at))


@dataclass(frozen=True, slots=True)
class Addition:
    """One addition.

    Parameters
    ----------
    kind : str
        As in "Adding a KIND" of CONTRIBUTING.md.
    edits : tuple of Edit
    ask : str
        Python that fails unless the addition works in the built copy.
    """

    kind: str
    edits: tuple[Edit, ...]
    ask: str

    @property
    def files(self) -> set[str]:
        """What it touches."""
        return {edit.file for edit in self.edits}


_KERNEL = Addition(
    "kernel",
    (
        Edit(
            "pkg/ptebatch/kernels.py",
            "}\n\n#: every kernel that is modelled, oldest first",
            '    "7.9": replace(_7_3, measured="7.9.1", asid_extra_dsb=True),\n',
        ),
    ),
    """
from ptebatch import Machine
from ptebatch.kernels import ERAS
from ptebatch.reference.mm import RefMM
assert list(ERAS)[-1] == "7.9" and Machine.parse("7.9").kernel == "7.9" and RefMM(Machine("7.9")).machine.kernel == "7.9"
assert "7.9" in said("list", "machines") and "7.9" in said("compare", "--kernels", "all")
""",
)

_COUNTER = Addition(
    "counter",
    (
        Edit(
            "pkg/ptebatch/counters.py", "unfold_single          contpte", "start_single           commit   starts of one entry\n"
        ),
        Edit("pyx/ptebatch/base/counters.pxd", "    uint64_t unfold_single\n", "    uint64_t start_single\n"),
        Edit(
            "pyx/ptebatch/arm64/ptep.pxd",
            "            contpte_try_unfold_single(t, idx, __ptep_get(t, idx))\n        return __ptep_get_and_clear(t, idx)",
            "            t.mmu.c.start_single += 1\n",
        ),
        Edit("pyx/ptebatch/batch/formula.pxd", "    mmu.c.start_multi += odd_start\n", "    mmu.c.start_single += t.alone\n"),
        Edit(
            "pkg/ptebatch/reference/contpte.py",
            '                self._unfold_single(addr)\n            else:\n                self.count("start_multi")',
            '                self.count("start_single")\n',
        ),
        Edit("tests/vocabulary/test_counters.py", '    "fold_tries",\n}\nVMAS', '    "start_single",\n'),
    ),
    """
from ptebatch import run
from ptebatch.counters import COUNTERS
assert COUNTERS["start_single"].group == "commit"
assert "start_single" in said("list", "counters")
for strategy in ("folio", "per-pte"):
    c = run("uniform:64K:sequential", "ro", strategy=strategy)[0].counters
    assert c["start_single"] + c["start_multi"] == c["prot_start"] > 0, c
""",
)

_STRATEGY = Addition(
    "strategy",
    (
        Edit(
            "pyx/ptebatch/batch/strategies.pyx",
            "# S1: v4's nested loop, with",
            "# one entry at a time, with the page looked up always\n"
            "cdef int64_t step_single(walk *w) noexcept nogil:\n"
            "    change_unit(w, w.idx, 1, needs_anon_exclusive(w) and page_anon_exclusive(w.t.mmu, walk_pfn(w)))\n"
            "    return 1\n\n\n",
        ),
        Edit(
            "pyx/ptebatch/batch/strategies.pyx",
            '    row(b"nested", step_nested,',
            '    row(b"single", step_single, LOOKUP, b"mine", b"one entry at a time"),\n',
        ),
        Edit(
            "pkg/ptebatch/reference/strategies.py",
            "#: every design by the name that",
            "def single(w: Window) -> int:\n"
            '    """One entry at a time."""\n'
            "    w.change_unit(0, 1, w.needs_anon_exclusive() and w.page_anon_exclusive(0))\n"
            "    return 1\n\n\n",
        ),
        Edit("pkg/ptebatch/reference/strategies.py", '    "nested": Design(nested),', '    "single": Design(single),\n'),
    ),
    """
from ptebatch import STRATEGIES, verify_strategy
report = verify_strategy("single", machine="7.3,cont_ptes=2,ptrs_per_pte=4")
assert report.ok and report.complete, report.text()
assert STRATEGIES["single"].pure and "single" in said("list", "strategies") and "single" in said("compare")
""",
)

_OPERATION = Addition(
    "operation",
    (
        Edit(
            "pyx/ptebatch/mm/mprobe.pxd",
            "",
            "# mprobe(): an operation that changes nothing.\n"
            "from .mm_struct cimport mm_struct\n"
            "from .operation cimport WHY_OK, outcome, request\n\n\n"
            "cdef inline outcome do_mprobe(mm_struct *mm, request *r) noexcept nogil:\n"
            "    return outcome(0, WHY_OK, r.start)\n",
        ),
        Edit("pyx/ptebatch/mm/mm.pyx", "from .mprotect cimport", "from .mprobe cimport do_mprobe\n"),
        Edit(
            "pyx/ptebatch/mm/mm.pyx",
            "    cdef Result perform(self, operation call,",
            '    def mprobe(self, start, length, *, strategy="folio", trace=False, record=True):\n'
            '        """mprobe(): changes nothing."""\n'
            "        cdef request r\n"
            '        r.start, r.len, r.prot, r.pkey = number("start", start), number("length", length), 0, -1\n'
            '        return self.perform(do_mprobe, &r, Strategy(strategy), truth("record", record), truth("trace", trace))\n\n',
        ),
        Edit(
            "pkg/ptebatch/mm/mm.pyi",
            "    def copy(self) -> MM: ...",
            "    def mprobe(\n"
            "        self, start: int, length: int, *, strategy: str = ..., trace: bool = False, record: bool = True\n"
            "    ) -> Result: ...\n",
        ),
        Edit(
            "pkg/ptebatch/reference/mm.py",
            "    def _run(self, call: Callable",
            "    def mprobe(\n"
            '        self, start: int, length: int, *, strategy: str | Step = "folio", observer: Observer | None = None\n'
            "    ) -> RefResult:\n"
            '        """mprobe(): changes nothing."""\n'
            "        return self._run(lambda record: None, observer)\n\n",
        ),
        Edit(
            "pkg/ptebatch/operations.py",
            ")\n\n#: every operation by name",
            '    Operation("probe", "mprobe", (), "mprobe()"),\n',
        ),
    ),
    """
from ptebatch import MM
from ptebatch.operations import OPERATIONS
from ptebatch.reference.mm import RefMM
from ptebatch import Machine
mine, theirs = (OPERATIONS["probe"].perform(mm, 0, 4096) for mm in (MM("7.3"), RefMM(Machine("7.3"))))
assert mine.counters == theirs.counters
assert "probe" in said("compare", "--layout", "uniform:64K:sequential", "--op", "probe")
""",
)

_LAW = Addition(
    "law",
    (
        Edit(
            "pkg/ptebatch/checker/laws/rows.py",
            ")  # fmt: skip\n\n#: every law by number",
            '    Law(28, "QUIET", "spec 6.5; change_pte_range(), mm/mprotect.c", t.quiet, "warn of nothing"),\n',
        ),
        Edit(
            "pkg/ptebatch/checker/laws/table.py",
            "def hardware(run: Run) -> Breach | None:",
            "def quiet(run: Run) -> Breach | None:\n"
            '    """Nothing warns."""\n'
            '    return Breach(-1, "no warning", str(run.counters["warns"])) if run.counters["warns"] else None\n\n\n',
        ),
        Edit("pyx/ptebatch/checker/tablelaws.pxd", "\n# what a call left behind\ncdef struct outcome:", "    QUIET = 28\n"),
        Edit(
            "pyx/ptebatch/checker/tablelaws.pxd",
            "    i = 0\n    while i < f.nr:\n        v.entry = i\n        v.law = judge_block(x, o, i)",
            "    if o.c.warns:\n        v.entry = -1\n        v.law = QUIET\n        return v\n",
        ),
        Edit(
            "tests/checker/test_laws.py",
            '    ("ASKED", "a page that is not mapped"',
            '    ("QUIET", "a warning", PAIR, count(warns=1)),\n',
        ),
    ),
    """
from ptebatch import verify_strategy
from ptebatch.checker.laws.rows import LAWS
assert LAWS[28].name == "QUIET" and verify_strategy("folio", worlds=5000).ok
""",
)

_VERB = Addition(
    "verb",
    (
        Edit(
            "pkg/ptebatch/cli/count.py",
            "",
            '"""Count what can be named."""\n\n'
            "from __future__ import annotations\n\n"
            "import argparse\n\n"
            "from ..strategies import STRATEGIES\n"
            "from ._print import put, put_json\n\n"
            'EXAMPLES = "examples:\\n  ptebatch count\\n"\n\n\n'
            "def add_arguments(parser: argparse.ArgumentParser) -> None:\n"
            '    """Add no arguments."""\n\n\n'
            "def run(args: argparse.Namespace) -> int:\n"
            '    """Run the verb."""\n'
            "    if args.json:\n"
            '        put_json({"verb": "count", "strategies": len(STRATEGIES)})\n'
            "    else:\n"
            '        put(f"{len(STRATEGIES)} strategies")\n'
            "    return 0\n",
        ),
        Edit("pkg/ptebatch/cli/meson.build", "  'events.py',\n", "  'count.py',\n"),
        Edit("pkg/ptebatch/cli/__init__.py", "from . import compare, events,", "from . import count\n"),
        Edit("pkg/ptebatch/cli/__init__.py", "_EPILOG = ", "_VERBS = (*_VERBS, count)\n"),
        Edit("tests/house/rooms.py", '"events", "list", "replay", "show", "verify_strategy"', '"count", '),
    ),
    """
assert "strategies" in said("count") and '"verb": "count"' in said("count", "--json")
""",
)

ADDITIONS = {addition.kind: addition for addition in (_KERNEL, _COUNTER, _STRATEGY, _OPERATION, _LAW, _VERB)}
