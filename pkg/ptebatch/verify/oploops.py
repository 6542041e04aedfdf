"""Whole regions: 46 calls over 16 MiB of each kind of page, counted on real kernels.

The calls stand in lines, each with a region of its own, and are replayed in that order
by the reference. Compared are TLBI, and entries of functions that say what was done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from .. import bits as b
from ..errors import SyscallError
from ..reference import madvise as m
from ..reference.huge_memory import split_huge_pmd
from ..reference.live import LiveMM, Thp
from ..reference.mremap import MREMAP_FIXED, MREMAP_MAYMOVE
from .hardware import counts_of, machine_of, tlbi_seen
from .load import Node
from .report import Difference, FileReport, Paths, Report, verify_files

__all__ = ["verify_oploops"]

#: bytes of a region
REGION = 16 << 20
#: where regions begin, and where they are moved to
VA, ELSEWHERE = 0xFFFF_9000_0000, (0xFFFF_8800_0000, 0xFFFF_8A00_0000, 0xFFFF_8C00_0000)

#: kinds of regions: single pages, folios of half a contpte block, of one, of two, of a PMD's size mapped by PTEs, or not
KINDS = ("base", "half", "mthp", "double", "thp", "pmd")

#: calls of a fork and behind it: the process's own pages are shared then, and what it writes
#: of its stack is copied, too
AFTER_FORK = (
    "ro_shared", "rw_shared", "cow_copy", "ro_copied", "rw_copied", "munmap_copied", "cow_reuse", "ro_reused", "rw_reused",
    "munmap_reused",
)  # fmt: skip
#: the flushes and reuses of a page of its own that are so explained, at most
STACK_PAGES = 3
#: what is not the region's alone
NOT_COMPARED: Mapping[str, str] = {
    "fork": "copies the whole process",
    "fork_nothing": "copies a process without a region",
}

#: function -> our counters that are its entries, where a kernel has it as a function
HITS: Mapping[str, tuple[str, ...]] = {
    "contpte_convert": ("folds", "unfolds"),
    "contpte_set_ptes": ("set_ptes_multi",),
    "wp_page_reuse": ("wp_page_reuse",),
}

Do = Callable[["_Region"], object]


class _Region:
    """A region of a kind, and what is done to it."""

    def __init__(self, kind: str, node: Node) -> None:
        self.machine = machine_of(node)
        self.kind, self.page = kind, self.machine.page_size
        block = self.machine.cont_ptes.bit_length() - 1
        orders = {"base": 0, "half": block - 1, "mthp": block, "double": block + 1}
        order = orders.get(kind, self.machine.pmd_order)
        self.thp = Thp.only(order)
        self.mm = LiveMM.make(self.machine, thp=self.thp)
        # what the rest of the process keeps: tables of PMDs
        self.mm.mmap(0xFFFF_BFFF_0000, self.page, b.PROT_READ)
        self.mm.alloc_above(VA)
        self.seen: Counter[str] = Counter()
        self.mm.observer = lambda kind, addr, value: self.seen.update((kind,))
        self.at = VA
        self.child: LiveMM | None = None
        self.counters: Counter[str] = Counter()

    def call(self, do: Callable[[], object]) -> int:
        """Make a call and add up what it counted."""
        try:
            do()
        except SyscallError as e:
            return -int(e.errno or 0)
        finally:
            self.counters.update(self.mm.counters)
        return 0

    def fresh(self, *, written: bool = True) -> None:
        """Map it, and write every page."""
        self.at = VA
        self.mm.mmap(VA, REGION, b.PROT_READ | b.PROT_WRITE, vm_flags=b.VM_NOHUGEPAGE if self.kind == "base" else 0)
        if written:
            self.write()
            if self.kind == "thp":
                for first in list(self.mm.pmds):
                    split_huge_pmd(self.mm, first)

    def gone(self) -> None:
        """Unmap what is left."""
        for vma in self.mm.vmas_in(self.at, self.at + REGION):
            self.mm.munmap(vma.start, vma.end - vma.start)

    def pages(self) -> range:
        """Addresses of its pages."""
        return range(self.at, self.at + REGION, self.page)

    def write(self) -> int:
        """Write every page."""
        for addr in self.pages():
            self.call(lambda addr=addr: self.mm.touch(addr, write=True))  # type: ignore[misc]
        return 0

    def protect(self, prot: int) -> int:
        """mprotect() of all."""
        return self.call(lambda: self.mm.mprotect(self.at, REGION, prot))

    def advise(self, advice: int) -> int:
        """madvise() of all."""
        return self.call(lambda: self.mm.madvise(self.at, REGION, advice))

    def unmap(self) -> int:
        """munmap() of all."""
        return self.call(lambda: self.mm.munmap(self.at, REGION))

    def one_in_block(self, do: Callable[[int], object]) -> int:
        """A call for one page in each contpte block."""
        for addr in self.pages()[:: self.machine.cont_ptes]:
            self.call(lambda addr=addr: do(addr))  # type: ignore[misc]
        return 0

    def move(self, place: int, pages: int) -> int:
        """mremap() of all, to so many pages behind an aligned place."""
        to = ELSEWHERE[place] + pages * self.page
        ret = self.call(lambda: self.mm.mremap(self.at, REGION, REGION, MREMAP_MAYMOVE | MREMAP_FIXED, to))
        self.at = to
        return ret

    def fork(self) -> int:
        """fork()."""
        self.child = self.mm.fork()
        return 0

    def child_exits(self) -> None:
        """The child ends."""
        assert self.child is not None
        self.child.exit()
        self.child = None


_RW = b.PROT_READ | b.PROT_WRITE
_Step = tuple[str, Do]


def _ops(suffix: str) -> list[_Step]:
    return [(f"ro_{suffix}", lambda r: r.protect(b.PROT_READ)), (f"rw_{suffix}", lambda r: r.protect(_RW))]


#: the lines: each begins with a fresh region; a name that begins with `-` is not measured
LINES: Sequence[Sequence[_Step]] = (
    (
        ("-map", lambda r: r.fresh(written=False)),
        ("fault_write", lambda r: r.write()),
        ("-gone", lambda r: r.gone()),
        ("-map", lambda r: r.fresh()),
        ("ro", lambda r: r.protect(b.PROT_READ)),
        ("rw", lambda r: r.protect(_RW)),
        ("none", lambda r: r.protect(b.PROT_NONE)),
        ("none_rw", lambda r: r.protect(_RW)),
        ("write_nofault", lambda r: r.write()),
        ("fork", lambda r: r.fork()),
        *_ops("shared"),
        ("cow_copy", lambda r: r.write()),
        *_ops("copied"),
        ("munmap_copied", lambda r: r.unmap()),
        ("-child", lambda r: r.child_exits()),
    ),
    (
        ("-map", lambda r: r.fresh()),
        ("-fork", lambda r: r.fork()),
        ("-child", lambda r: r.child_exits()),
        ("cow_reuse", lambda r: r.write()),
        *_ops("reused"),
        ("munmap_reused", lambda r: r.unmap()),
    ),
    (
        ("-map", lambda r: r.fresh()),
        ("mlock", lambda r: r.call(lambda: r.mm.mlock(r.at, REGION))),
        ("munlock", lambda r: r.call(lambda: r.mm.munlock(r.at, REGION))),
        ("cold", lambda r: r.advise(m.MADV_COLD)),
        ("free", lambda r: r.advise(m.MADV_FREE)),
        ("write_freed", lambda r: r.write()),
        ("mremap_same", lambda r: r.move(0, 0)),
        ("mremap_byblock", lambda r: r.move(1, r.machine.cont_ptes)),
        ("mremap_by1", lambda r: r.move(2, 1)),
        *_ops("misaligned"),
        ("dontneed", lambda r: r.advise(m.MADV_DONTNEED)),
        ("-gone", lambda r: r.gone()),
    ),
    (
        ("-map", lambda r: r.fresh()),
        ("dontneed_1_in_block", lambda r: r.one_in_block(lambda at: r.mm.madvise(at, r.page, m.MADV_DONTNEED))),
        ("write_mixed", lambda r: r.write()),
        *_ops("holes"),
        ("munmap_holes", lambda r: r.unmap()),
    ),
    (
        ("-map", lambda r: r.fresh()),
        ("ro_1_in_block", lambda r: r.one_in_block(lambda at: r.mm.mprotect(at, r.page, b.PROT_READ))),
        ("rw_1_in_block", lambda r: r.one_in_block(lambda at: r.mm.mprotect(at, r.page, _RW))),
        *_ops("decayed"),
        ("guard", lambda r: r.advise(m.MADV_GUARD_INSTALL)),
        ("unguard", lambda r: r.advise(m.MADV_GUARD_REMOVE)),
        ("munmap_empty", lambda r: r.unmap()),
    ),
    (("-map", lambda r: r.fresh()), ("munmap", lambda r: r.unmap())),
    (
        ("-map", lambda r: r.fresh()),
        ("-all", lambda r: setattr(r.mm, "thp", Thp.only(r.machine.pmd_order))),
        ("collapse", lambda r: r.advise(m.MADV_COLLAPSE)),
        ("munmap_collapsed", lambda r: r.unmap()),
        ("-as before", lambda r: setattr(r.mm, "thp", r.thp)),
    ),
    (
        # small zero pages in every kind: no size was enabled here
        ("-none", lambda r: setattr(r.mm, "thp", Thp())),
        ("-map", lambda r: r.fresh(written=False)),
        ("populate_read", lambda r: r.advise(m.MADV_POPULATE_READ)),
        ("munmap_zero", lambda r: r.unmap()),
    ),
)


def _replay(kind: str, nodes: Mapping[str, Node]) -> Iterable[list[Difference]]:
    """Replay all lines on a region of a kind: for each record what differs."""
    region = _Region(kind, next(iter(nodes.values())))
    for line in LINES:
        if not any(name in nodes for name, _ in line):
            continue
        for name, do in line:
            region.seen.clear()
            region.counters.clear()
            ret = do(region)
            if name in nodes and name not in NOT_COMPARED:
                yield _compare(f"{kind} {name}", name, region, ret, nodes[name])


def _compare(place: str, name: str, region: _Region, ret: object, node: Node) -> list[Difference]:
    out = [] if node.key("ret").value == ret else [Difference(place, "ret", node.key("ret").value, ret)]
    theirs = counts_of(node.key("tlbi"))
    ours = tlbi_seen(region.seen)
    if theirs != ours and not (name in AFTER_FORK and _of_the_stack(theirs, ours)):
        out.append(Difference(place, "TLBI", theirs, ours))
    for function, nr in node.key("hits").members().items():
        mine = sum(region.counters[counter] for counter in HITS.get(function, ()))
        more = nr.whole() - mine
        stack = name in AFTER_FORK and function == "wp_page_reuse" and 0 <= more <= STACK_PAGES
        if function in HITS and more and not stack:
            out.append(Difference(place, function, nr.whole(), mine))
    return out


def _of_the_stack(theirs: Mapping[str, int], ours: Mapping[str, int]) -> bool:
    """Whether there are but some flushes of single pages more."""
    more = {kind: theirs.get(kind, 0) - ours.get(kind, 0) for kind in {*theirs, *ours}}
    pages = more.pop("VALE1", 0) + more.pop("VALE1IS", 0)
    return 0 <= pages <= STACK_PAGES and not any(more.values())


def check_oploops(path: str, doc: Node) -> FileReport:
    """Replay all records of one file."""
    records = doc.some("record")
    report = FileReport(path, f"{len(records)} calls", "kernel", "calls", ("ret", "TLBI"), "function entries")
    groups: dict[tuple[str, str, int, str], dict[str, Node]] = {}
    for node in records:
        who = (node.key("kernel").text(), node.key("cpu").text(), node.key("page").whole(), node.key("kind").text())
        groups.setdefault(who, {})[node.key("op").text()] = node
    for (kernel, cpu, _, kind), nodes in groups.items():
        if kind not in KINDS:
            next(iter(nodes.values())).key("kind").wrong(f"a kind of the measurement; known: {', '.join(KINDS)}")
        line = report.line(kernel, {"cpu": cpu, "machine": str(machine_of(next(iter(nodes.values()))))})
        for differences in _replay(kind, nodes):
            line.add(differences)
    return report


def verify_oploops(paths: Paths) -> Report:
    """Replay calls over whole regions of real kernels.

    What it takes, returns and raises is as for `report.verify_files`.
    """
    return verify_files("oploops", paths, check_oploops, "oploops")
