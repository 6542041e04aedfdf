"""Golden vectors: one change_protection() each, replayed by every engine that has a strategy.

A file is what the kernel's own functions did with one start state: final PTEs,
return value, batches, flushes and 27 counters for each *engine*, which is a
strategy on a machine. ``ops`` say how the start state came about; replaying
them is a second set of facts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..bits import PG_ANON_EXCLUSIVE
from ..core.mm import MM
from ..core.result import Result
from ..counters import COUNTERS
from ..machine import GRANULES, Machine
from .load import Node, Words, file_list, read_json
from .ops import replay
from .prim import check_prim
from .report import Difference, FileReport, Report, ptes_difference

__all__ = ["ENGINES", "Engine", "Scenario", "Vectors", "verify_vectors"]


@dataclass(frozen=True, slots=True)
class Engine:
    """What an engine of the golden vectors is called here.

    Parameters
    ----------
    strategy, kernel : str
    bbml : int
        Least break-before-make level; a scenario may ask for more.
    """

    strategy: str
    kernel: str
    bbml: int = 0


#: engine of the vectors -> strategy and machine
ENGINES: dict[str, Engine] = {
    "l612": Engine("per-pte", "6.12"),
    "l73": Engine("folio", "7.3"),
    "nested": Engine("nested", "7.3"),
    "stateless": Engine("lookahead", "7.3"),
    "iter": Engine("iterator", "7.3"),
    "merged": Engine("merged", "7.3"),
    "l73_bbml3": Engine("folio", "7.3", 3),
}

#: quantities with a column of their own; the counters are named when they differ
QUANTITIES = ("PTEs", "pages", "batches", "subs", "flushes", "gather")
_MIN_PAGES, _MAX_PAGES = 1 << 16, 1 << 26


@dataclass(frozen=True, slots=True)
class Vectors:
    """Head of a file of golden vectors.

    Parameters
    ----------
    granule : str
    page_shift, ptrs_per_pte, pfn_base : int
    counters : tuple of str
        Names of the counters of every result, in its order.
    scenarios : list of Node
    """

    granule: str
    page_shift: int
    ptrs_per_pte: int
    pfn_base: int
    counters: tuple[str, ...]
    scenarios: list[Node]

    @classmethod
    def read(cls, doc: Node) -> Vectors:
        """Check the head; the geometry must be one of arm64's."""
        granule = f"{doc.key('granule_kb').whole()}K"
        if granule not in GRANULES:
            doc.key("granule_kb").wrong(f"a granule; known: {', '.join(GRANULES)}")
        shift, cont, ptrs = GRANULES[granule]
        for size, value in (("page_shift", shift), ("cont_ptes", cont), ("ptrs_per_pte", ptrs)):
            if doc.key(size).whole() != value:
                doc.key(size).wrong(f"{value}, which the {granule} granule has")
        names = doc.key("counters").items()
        for name in names:
            if name.text() not in COUNTERS:
                name.wrong("the name of a counter; see `ptebatch list counters`")
        scenarios = doc.key("scenarios").items()
        if not scenarios:
            doc.key("scenarios").fail("holds no scenario; nothing would be verified")
        return cls(granule, shift, ptrs, doc.key("pfn_base").word(), tuple(n.text() for n in names), scenarios)


class Scenario:
    """One scenario: the start state and the call.

    Parameters
    ----------
    head : Vectors
    node : Node
        The scenario in the document.
    """

    def __init__(self, head: Vectors, node: Node) -> None:
        """See the class."""
        self.head = head
        self.name = node.key("name").text()
        self.node = node = node.named(self.name)
        self.size = 2 * head.ptrs_per_pte
        self.base = node.key("base").word()
        if self.base % (head.ptrs_per_pte << head.page_shift) or self.base >= 1 << 47:
            node.key("base").wrong("a user address aligned to a leaf table")
        self.bbml = node.key("bbml").whole(0, 1)
        self.init = node.key("init").runs(self.size, head.page_shift)
        self.start, self.nr = (node.key(name).whole(low, self.size) for name, low in (("start", 0), ("nr", 1)))
        if self.start + self.nr > self.size:
            node.key("nr").fail(f"{self.nr} entries from {self.start} on end behind the {self.size} entries of two leaf tables")
        self.folios = [(f, f.wholes(4)) for f in node.key("folios").items()]
        top = max((row[0] + (1 << min(row[1], 13)) for _, row in self.folios), default=0)
        if top > head.pfn_base + _MAX_PAGES:
            node.key("folios").fail(f"a folio ends at pfn {top:#x}; expected pfns close to {head.pfn_base:#x}")
        self.nr_pages = max(_MIN_PAGES, top - head.pfn_base)
        self.exclusive = self._exclusive()

    def _exclusive(self) -> Words:
        """Pages that are PageAnonExclusive at the time of the call, as offsets from pfn_base."""
        mask = np.zeros(self.nr_pages, bool)
        for run in self.node.key("pae").items():
            first, nr = run.wholes(2)
            at = first - self.head.pfn_base
            if at < 0 or at + nr > self.nr_pages:
                run.fail(f"pages {first:#x}..{first + nr:#x} are outside of every folio")
            mask[at : at + nr] = True
        return np.flatnonzero(mask).astype(np.uint64)

    def mm(self, machine: Machine) -> MM:
        """Two leaf tables, empty, and the folios; no page is exclusive."""
        with self.node.guard():
            mm = MM(machine, pfn_base=self.head.pfn_base, nr_pages=self.nr_pages)
            mm.populate(self.base, self.size << self.head.page_shift)
        for node, (pfn, order, anon, skip) in self.folios:
            with node.guard():
                mm.set_folio(pfn, order, anon=bool(anon), numa_skip=bool(skip))
        return mm

    def run(self, engine: Engine) -> tuple[MM, Result]:
        """Do the call of this scenario."""
        bbml = 0 if engine.kernel == "6.12" else max(engine.bbml, 3 * self.bbml)
        mm = self.mm(Machine(engine.kernel, granule=self.head.granule, bbml=bbml))
        mm.ptes(self.base, self.size)[:] = self.init
        mm.pages[self.exclusive] |= PG_ANON_EXCLUSIVE
        node = self.node
        with node.guard():
            result = mm.change_protection(
                self.address(self.start),
                self.nr,
                newprot=node.key("newprot").word(),
                cp_flags=node.key("cp").whole(0, 15),
                vm_flags=node.key("vmf").whole(),
                anon=bool(node.key("anon").whole(0, 1)),
                strategy=engine.strategy,
            )
        return mm, result

    def address(self, index: int) -> int:
        """Address of an entry."""
        return self.base + (index << self.head.page_shift)

    def index(self, addr: int) -> int:
        """Entry that an address is in."""
        return (addr - self.base) >> self.head.page_shift

    def final(self, engine: str) -> Words:
        """PTEs after the call; ``=NAME`` refers to another engine's."""
        seen: list[str] = []
        node = self.node.key("res").key(engine).key("fin")
        while isinstance(node.value, str):
            seen.append(engine)
            engine = node.value.removeprefix("=")
            if not node.value.startswith("=") or engine in seen or engine not in self.node.key("res").members():
                node.wrong("a PTE run list or =ENGINE of another engine")
            node = self.node.key("res").key(engine).key("fin")
        return node.runs(self.size, self.head.page_shift)


def compare(s: Scenario, name: str) -> list[Difference]:
    """Run one engine on one scenario; the quantities that differ."""
    mm, r = s.run(ENGINES[name])
    res = s.node.key("res").key(name)
    ptes = ptes_difference(s.name, "PTEs", s.final(name), mm.ptes(s.base, s.size), r.machine)
    counted = res.key("c").wholes(len(s.head.counters))
    gathers = [[s.index(g[0]), s.index(g[1])] for g in r.gathers] or [[-1, -1]]
    facts: list[tuple[str, Any, Any]] = [
        ("pages", res.key("pages").whole(), r.pages),
        ("batches", _pairs(res.key("b")), r.batches),
        ("subs", _pairs(res.key("s")), r.subs),
        ("flushes", _pairs(res.key("fl")), [[s.index(addr), nr] for addr, nr in r.flushes]),
        ("gather", [item.whole(-1) for item in res.key("ga").items(2)], gathers[0]),
        *((counter, value, r[counter]) for counter, value in zip(s.head.counters, counted, strict=True)),
    ]
    return ([ptes] if ptes else []) + [Difference(s.name, what, want, got) for what, want, got in facts if want != got]


def _pairs(node: Node) -> list[list[int]]:
    return [item.wholes(2) for item in node.items()]


def check_vectors(path: str, doc: Node) -> FileReport:
    """Replay all scenarios of one file."""
    head = Vectors.read(doc)
    _, cont, ptrs = GRANULES[head.granule]
    title = f"{len(head.scenarios)} scenarios, {head.granule} pages, {cont} entries a block, {ptrs} a table"
    report = FileReport(path, title, "engine", "scenarios", QUANTITIES, "counters")
    for node in head.scenarios:
        s = Scenario(head, node)
        for name in s.node.key("res").members():
            if name not in ENGINES:
                report.line(name, {"strategy": "none here", "machine": ""}, ()).skipped += 1
                continue
            engine = ENGINES[name]
            machine = engine.kernel + (f",bbml={engine.bbml}" if engine.bbml else "")
            labels = {"strategy": engine.strategy, "machine": machine}
            report.line(name, labels, (*QUANTITIES, *head.counters)).add(compare(s, name))
        if s.node.maybe("ops") is not None:
            report.line("ops", {"strategy": "(start state)", "machine": "7.3"}, ("PTEs",)).add(replay(s))
    if not report.lines:
        doc.key("scenarios").fail("holds neither results nor operations; nothing would be verified")
    return report


def verify_vectors(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> Report:
    """Replay golden vectors with every engine that has a strategy here.

    Compared are final PTEs, return value, batches, sub-batches, conversion
    flushes, the gather and every counter; and the start states that ``ops`` make.
    A file of rows for single helpers is recognised and goes through `verify_prim`'s check.

    Parameters
    ----------
    paths : list of path
        JSON, plain or gzip.

    Returns
    -------
    Report

    Raises
    ------
    InputError
        A file that cannot be read or does not hold vectors; names file and place.
    """
    files = []
    for path in file_list(paths):
        doc = read_json(path)
        check = check_prim if isinstance(doc.value, dict) and "gran" in doc.value else check_vectors
        files.append(check(path, doc))
    return Report("vectors", files)
