"""Living address spaces: what programs did to their memory, call by call, on real kernels.

Each script is replayed from nothing by the reference, whose frames are allocated and
given back. Compared after every step: the return value, VMAs, the level of tables, the
structure of folios, PageAnonExclusive and every PTE bit but the frame, and frames up to
a renaming; of measured calls TLBI, DSB and the conversions of contpte blocks.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from .. import bits as b
from ..errors import LayoutError, MprotectError
from ..machine import Machine
from ..reference import pte as p
from ..reference.fault import Signal
from ..reference.filemap import Inode
from ..reference.huge_memory import as_pte, split_huge_pmd
from ..reference.live import LiveMM, Thp
from ..reference.mremap import MREMAP_FIXED, MREMAP_MAYMOVE
from .hardware import machine_of
from .load import Node, file_list, read_json
from .report import Difference, FileReport, Report

__all__ = ["verify_live"]

#: sizes that were enabled while a step ran, where the record does not say it: scenario -> step -> sizes in
#: contpte blocks. The script is about two of them, and each size that a step got was then the only one.
SIZES: Mapping[str, Mapping[int, tuple[float, ...]]] = {"fault_two_sizes": {2: (), 3: (), 4: (0.5,), 5: (1,)}}

#: calls whose record covers the whole process: its stack and libraries are in TLBI, DSB and entries
WHOLE_PROCESS = ("fork", "child_exit")

#: function -> our counters that are its entries, where it is not inlined
HITS: Mapping[str, tuple[str, ...]] = {
    "contpte_convert": ("folds", "unfolds"),
    "split_huge_page_to_list_to_order": ("folio_splits",),
    "wp_page_reuse": ("wp_page_reuse",),
}

#: records that cannot be right, or do not belong to the call alone: (kernel, scenario, step, what) -> why
EXCUSED: Mapping[tuple[str, str, int, str], str] = {}

_PERMISSIONS = (("r", b.VM_READ), ("w", b.VM_WRITE), ("x", b.VM_EXEC))


@dataclass
class _Process:
    """One of the two processes of a script."""

    mm: LiveMM
    events: Counter[str] = field(default_factory=Counter)
    counters: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.mm.observer = self._see

    def _see(self, kind: str, _addr: int, _value: int) -> None:
        self.events[kind] += 1


class Script:
    """A replay of one script.

    Parameters
    ----------
    node : Node
        Of the script.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.machine = machine_of(node)
        self.scenario = node.key("scenario").text()
        self.kernel = node.key("kernel").text().split("+")[0]
        self.kind = self.scenario.split("_")[0]
        self.page = self.machine.page_size
        self.parent = _Process(LiveMM.make(self.machine))
        self.child: _Process | None = None
        self.armed = False
        self.va = 0

    def order(self, kib: int) -> int:
        """Order of folios of so many KiB; 0: single pages."""
        return (kib * 1024 // self.page).bit_length() - 1 if kib else 0

    # The calls

    def step(self, i: int, node: Node) -> list[Difference]:
        """Make one call and compare."""
        call = node.key("call").text()
        who = self.parent
        if node.key("proc").text() == "child":
            if call == "fork" and self.child is None:
                # the records of the two come in either order
                self._fork()
            if self.child is None:
                node.key("proc").fail("the child's step comes before any fork")
            who = self.child
        self.va = va = node.key("va").address()
        first, n, arg = node.key("first").value, node.key("n").whole(), node.key("arg").value
        start, length = va + int(first) * self.page, n * self.page
        who.events.clear()
        who.counters = {}
        ret = self._make(i, who, call, node, start, length, int(arg))
        name = f"{self.scenario} step {i} ({node.key('proc').text()} {call})"
        out = [] if ret == node.key("ret").value else [Difference(name, "ret", node.key("ret").value, ret)]
        out += self._state(name, who.mm, node)
        other = node.maybe("other")
        if other is not None:
            out += self._state(f"{name}, other", who.mm, other)
        out += self._measured(name, who, call, node)
        return [each for each in out if (self.kernel, self.scenario, i, each.what) not in EXCUSED]

    def _make(self, i: int, who: _Process, call: str, node: Node, start: int, length: int, arg: int) -> int:
        sizes = SIZES.get(self.scenario, {}).get(i)
        if sizes is not None:
            orders = (int(size * self.machine.cont_ptes).bit_length() - 1 for size in sizes)
            self.parent.mm.thp = Thp(frozenset(orders))
        if call in _BEGIN:
            _BEGIN[call](self, start, length, arg)
            return 0
        if call == "fork":
            if self.child is None:
                self._fork()
            return 0
        if call == "child_exit":
            assert self.child is not None
            self.child.mm.exit()
            return 0
        if call not in _CALLS:
            node.key("call").wrong(f"a call of the measurement; known: {', '.join([*_BEGIN, *_CALLS, 'fork', 'child_exit'])}")
        try:
            who.counters = _CALLS[call](self, who.mm, start, length, arg)
        except MprotectError as e:
            who.counters = e.result.counters
            return -int(e.errno or 0)
        except Signal as e:
            return -int(e.number)
        return 1 if call == "clear_refs" else 0

    def _fork(self) -> None:
        self.child = _Process(self.parent.mm.fork())

    def _rest_of_the_process(self, start: int, end: int) -> None:
        """Libraries and stack lie in the same range of a table of PMDs, which is there before and stays."""
        mm = self.parent.mm
        last = (start // mm.pmd_size // self.machine.ptrs_per_pte + 1) * mm.pmd_size * self.machine.ptrs_per_pte - self.page
        if last >= end:
            mm.mmap(last, self.page, 1)
            mm.alloc_above(last)

    def begin(self, start: int, length: int, arg: int) -> None:
        """Make the mapping and write every page; then no size is enabled any more."""
        self.mmap(start, length, arg)
        for addr in range(start, start + length, self.page):
            self.parent.mm.touch(addr, write=True)
        if self.kind == "thp":
            for first in list(self.parent.mm.pmds):
                split_huge_pmd(self.parent.mm, first)
        self.parent.mm.thp = Thp()

    def mmap(self, start: int, length: int, arg: int) -> None:
        """Make the mapping."""
        mm = self.parent.mm
        self._rest_of_the_process(start, start + length)
        order = self.order(arg)
        mm.thp = Thp(frozenset({order})) if order else Thp()
        mm.mmap(start, length, 3, vm_flags=0 if order else b.VM_NOHUGEPAGE)

    def mmap_file(self, start: int, length: int, arg: int) -> None:
        """Map a memfd, all of whose pages are written."""
        self._rest_of_the_process(start, start + length)
        inode = Inode(self.parent.mm.frames)
        inode.write(0, length // self.page)
        self.parent.mm.files[1] = inode
        self.parent.mm.mmap(start, length, 3, shared=bool(arg), file=1, pgoff=0)

    def mmap_shmem(self, start: int, length: int, arg: int) -> None:
        """Map shared anonymous memory."""
        mm = self.parent.mm
        self._rest_of_the_process(start, start + length)
        mm.files[1] = Inode(mm.frames, frozenset({self.order(arg)}))
        mm.mmap(start, length, 3, shared=True, file=1, pgoff=0)

    def uffd_wp(self, mm: LiveMM, start: int, length: int, mode: int) -> Mapping[str, int]:
        """Register what is mapped, once, then write-protect."""
        if not self.armed:
            for vma in mm.vmas():
                mm.uffd_register(vma.start, vma.end - vma.start)
            self.armed = True
        return mm.uffd_writeprotect(start, length, mode).counters

    # What is compared

    def _state(self, name: str, mm: LiveMM, node: Node) -> list[Difference]:
        va = node.key("va").address()
        words = [int(item.at(1).text(), 16) for item in node.key("ptes").items() for _ in range(item.at(0).whole(1))]
        addrs = [va + i * self.page for i in range(len(words))]
        levels: dict[int, None] = {}
        ours, exclusive, folio = [], "", ""
        for addr in addrs:
            first = mm.table_start(addr)
            if first in mm.pmds:
                levels[1] = None
            elif not mm.has_table(addr):
                levels[11] = None
            word = mm.pmds[first] if first in mm.pmds else mm.ptes.get(addr, 0)
            ours.append(word)
            mark = self._page(mm, word, (addr - first) // self.page if first in mm.pmds else 0)
            exclusive, folio = exclusive + mark[0], folio + mark[1]
        recorded = node.maybe("level")
        pairs = [
            ("level", sorted(recorded.wholes()) if recorded is not None else [], sorted(levels)),
            ("vmas", node.key("vmas").value, self._vmas(mm, va, va + len(words) * self.page)),
            ("excl", node.key("excl").text(), exclusive),
            ("folio", node.key("folio").text(), folio),
        ]
        out = [Difference(name, what, theirs, mine) for what, theirs, mine in pairs if theirs != mine]
        return out + self._words(name, mm, words, ours)

    def _page(self, mm: LiveMM, word: int, index: int) -> str:
        """PageAnonExclusive and place in its folio of the page of an entry."""
        if not p.pte_present(word):
            return "--"
        if p.pte_special(word):
            return "0s"
        pfn = p.pte_pfn(mm.page_shift, as_pte(word)) + index
        folio = mm.page_folio(pfn)
        place = "s" if not folio.large else "H" if pfn == folio.head else "t"
        return ("1" if pfn in mm.anon_exclusive else "0") + place

    def _words(self, name: str, mm: LiveMM, theirs: list[int], ours: list[int]) -> list[Difference]:
        """Every bit but the frame, then frames: the same for the same, large folios aligned alike."""
        frames: dict[int, int] = {}
        back: dict[int, int] = {}
        for i, (want, got) in enumerate(zip(theirs, ours, strict=True)):
            place = f"{name}, entry {i}"
            if p.pte_present(want) != p.pte_present(got) or (not p.pte_present(want) and want != got):
                return [Difference(place, "PTE", f"{want:016x}", f"{got:016x}")]
            if not p.pte_present(want):
                continue
            if p.pte_pgprot(mm.page_shift, want) != p.pte_pgprot(mm.page_shift, got):
                return [Difference(place, "PTE", f"{want:016x}", f"{got:016x}")]
            a, z = p.pte_pfn(mm.page_shift, want), p.pte_pfn(mm.page_shift, got)
            if frames.setdefault(a, z) != z or back.setdefault(z, a) != a:
                return [Difference(place, "frame", f"{a:#x}", f"{z:#x}")]
            folio = mm.folio_of(got)
            if folio is not None and (a - z) % folio.nr:
                return [Difference(place, "alignment", f"{a:#x}", f"{z:#x}")]
        return []

    def _vmas(self, mm: LiveMM, start: int, end: int) -> list[list[int | str]]:
        out: list[list[int | str]] = []
        for vma in mm.vmas_in(start, end):
            low, high = max(vma.start, start), min(vma.end, end)
            perms = "".join(c if vma.flags & bit else "-" for c, bit in _PERMISSIONS)
            perms += "s" if vma.flags & b.VM_SHARED else "p"
            out.append([(low - start) // self.page, (high - low) // self.page, perms])
        return out

    def _measured(self, name: str, who: _Process, call: str, node: Node) -> list[Difference]:
        hits = node.maybe("hits")
        if hits is None or call in WHOLE_PROCESS or not who.counters:
            return []
        theirs = {kind: nr.whole() for kind, nr in node.key("tlbi").members().items()}
        mine = {kind: nr for kind, nr in who.events.items() if "VA" in kind or "ASID" in kind}
        dsb = sum(nr for kind, nr in who.events.items() if kind.startswith("DSB"))
        pairs: list[tuple[str, object, object]] = []
        if node.key("irq").whole() == 0:
            pairs += [("TLBI", theirs, mine), ("DSB", node.key("dsb").whole(), dsb)]
        entered = {function: nr.whole() for function, nr in hits.members().items()}
        for function, ours in HITS.items():
            nr = sum(who.counters.get(counter, 0) for counter in ours)
            if function in entered and entered[function] != nr:
                pairs.append((function, entered[function], nr))
        return [Difference(name, what, want, got) for what, want, got in pairs if want != got]


_BEGIN: Mapping[str, Callable[[Script, int, int, int], None]] = {
    "begin": Script.begin,
    "mmap": Script.mmap,
    "mmap_file": Script.mmap_file,
    "mmap_shmem": Script.mmap_shmem,
}
_CALLS: Mapping[str, Callable[[Script, LiveMM, int, int, int], Mapping[str, int]]] = {
    "read": lambda s, mm, start, n, arg: mm.touch(start).counters,
    "write": lambda s, mm, start, n, arg: mm.touch(start, write=True).counters,
    "mprotect": lambda s, mm, start, n, arg: mm.mprotect(start, n, arg).counters,
    "madvise": lambda s, mm, start, n, arg: mm.madvise(start, n, arg).counters,
    "munmap": lambda s, mm, start, n, arg: mm.munmap(start, n).counters,
    "mremap": lambda s, mm, start, n, arg: _mremap(s, mm, start, n, arg),
    "mremap_shrink": lambda s, mm, start, n, arg: mm.mremap(start, n, arg * s.page).counters,
    "mlock": lambda s, mm, start, n, arg: mm.mlock(start, n).counters,
    "munlock": lambda s, mm, start, n, arg: mm.munlock(start, n).counters,
    "mseal": lambda s, mm, start, n, arg: mm.mseal(start, n).counters,
    "clear_refs": lambda s, mm, start, n, arg: mm.clear_refs(arg).counters,
    "uffd_wp": Script.uffd_wp,
}


def _mremap(script: Script, mm: LiveMM, start: int, length: int, to: int) -> Mapping[str, int]:
    # the page number that it goes to is counted from `va`, which is that of page 0
    return mm.mremap(start, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, script.va + to * script.page).counters


def replay(node: Node) -> Iterable[list[Difference]]:
    """Replay a script: for each step what differs."""
    script = Script(node)
    node = node.named(script.scenario)
    for i, step in enumerate(node.key("steps").items()):
        try:
            yield script.step(i, step)
        except (LayoutError, AssertionError) as e:
            yield [Difference(f"{script.scenario} step {i}", "model", "a step", f"{type(e).__name__}: {e}")]
            return


def check_live(path: str, doc: Node) -> FileReport:
    """Replay all scripts of one file."""
    scripts = doc.items()
    if not scripts:
        doc.fail("holds no script; nothing would be verified")
    kinds = ("ret", "level", "vmas", "excl", "folio", "PTE", "TLBI", "DSB")
    report = FileReport(path, f"{len(scripts)} scripts", "kernel", "steps", kinds, "function entries")
    for node in scripts:
        machine: Machine = machine_of(node)
        line = report.line(node.key("kernel").text(), {"cpu": node.key("cpu").text(), "machine": str(machine)})
        for differences in replay(node):
            line.add(differences)
    return report


def verify_live(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> Report:
    """Replay scripts of calls that made and changed address spaces of real kernels.

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
        A file that cannot be read or does not hold scripts; names file and place.
    """
    return Report("live", [check_live(path, read_json(path, "live")) for path in file_list(paths)])
