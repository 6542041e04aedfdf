"""Single calls on a layout by the living model: what each costs on each kernel.

`compare --op ro` runs mprotect by every strategy; the calls here have one loop, each kernel's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from .. import bits as b
from ..errors import LayoutError, closest
from ..layouts.named import START, Layout
from ..machine import Machine
from ..mm.mm import MM
from ..reference import madvise as m
from ..reference import pte as p
from ..reference.frames import Buddy, Frames
from ..reference.live import LiveMM, Thp
from ..reference.mmu import Folio
from ..reference.mremap import MREMAP_FIXED, MREMAP_MAYMOVE
from ..reference.vma import RefVma
from .life import Round, standing

__all__ = ["CALLS", "Called", "LiveCall", "call_layout", "live_of", "parse_calls"]

#: pages of memory besides those of the layout, for copies and moves
SPARE = 2


@dataclass(slots=True)
class Called:
    """What a call cost.

    Attributes
    ----------
    op : str
    machine : Machine
    calls : int
        System calls, or accesses.
    counters : dict of str to int
    after : Round
        How the memory stands then.
    """

    op: str
    machine: Machine
    calls: int
    counters: dict[str, int]
    after: Round


@dataclass(frozen=True, slots=True)
class LiveCall:
    """An operation.

    Attributes
    ----------
    name, summary : str
    make : callable
        ``make(run)`` makes the calls.
    """

    name: str
    summary: str
    make: Callable[[_Run], None]


class _Run:
    """An address space, and the counters of what is done to it."""

    def __init__(self, mm: LiveMM, start: int, size: int) -> None:
        self.mm, self.start, self.size = mm, start, size
        self.child: LiveMM | None = None
        self.nr = 0
        self.counters: Counter[str] = Counter()

    def add(self, counters: Mapping[str, int]) -> None:
        """Take in a call's counters."""
        self.nr += 1
        self.counters.update(counters)

    def each(self, step: int) -> range:
        """Addresses, so many pages apart."""
        return range(self.start, self.start + self.size, step * self.mm.page_size)


def _touch(run: _Run, *, write: bool) -> None:
    for addr in run.each(1):
        run.add(run.mm.touch(addr, write=write).counters)


def _fork(run: _Run) -> None:
    run.child = run.mm.fork()
    run.add(run.mm.counters)


def _exit(run: _Run) -> None:
    if run.child is None:
        raise LayoutError("there is no child that could exit; fork before, for example --op fork,exit,write")
    run.child.exit()
    run.child = None


def _move(pages: Callable[[Machine], int]) -> Callable[[_Run], None]:
    def make(run: _Run) -> None:
        # far away, as aligned as it was, and so many pages further
        to = run.start + (1 << 40) + pages(run.mm.machine) * run.mm.page_size
        run.add(run.mm.mremap(run.start, run.size, run.size, MREMAP_MAYMOVE | MREMAP_FIXED, to).counters)
        run.start = to

    return make


def _advise(advice: int) -> Callable[[_Run], None]:
    return lambda run: run.add(run.mm.madvise(run.start, run.size, advice).counters)


def _protect(prot: int) -> Callable[[_Run], None]:
    return lambda run: run.add(run.mm.mprotect(run.start, run.size, prot).counters)


_ROWS = (
    LiveCall("fork", "fork(), the child lives on", _fork),
    LiveCall("exit", "the child of a fork ends; not counted", _exit),
    LiveCall("read", "read every page", lambda run: _touch(run, write=False)),
    LiveCall("write", "write every page", lambda run: _touch(run, write=True)),
    LiveCall("munmap", "munmap() of all", lambda run: run.add(run.mm.munmap(run.start, run.size).counters)),
    LiveCall("dontneed", "madvise(MADV_DONTNEED)", _advise(m.MADV_DONTNEED)),
    LiveCall("free", "madvise(MADV_FREE)", _advise(m.MADV_FREE)),
    LiveCall("cold", "madvise(MADV_COLD)", _advise(m.MADV_COLD)),
    LiveCall("guard", "madvise(MADV_GUARD_INSTALL)", _advise(m.MADV_GUARD_INSTALL)),
    LiveCall("collapse", "madvise(MADV_COLLAPSE)", _advise(m.MADV_COLLAPSE)),
    LiveCall("mlock", "mlock() of all", lambda run: run.add(run.mm.mlock(run.start, run.size).counters)),
    LiveCall("mremap", "mremap() to a place that is aligned alike", _move(lambda machine: 0)),
    LiveCall("mremap-block", "mremap() to a contpte block further", _move(lambda machine: machine.cont_ptes)),
    LiveCall("mremap-page", "mremap() to a page further", _move(lambda machine: 1)),
    LiveCall("young", "write 1 to clear_refs", lambda run: run.add(run.mm.clear_refs(1).counters)),
)
#: mprotect by each kernel's own loop, between calls of the others
_PROTECTIONS = (
    LiveCall("ro", "mprotect(PROT_READ)", _protect(b.PROT_READ)),
    LiveCall("rw", "mprotect(PROT_READ | PROT_WRITE)", _protect(b.PROT_READ | b.PROT_WRITE)),
    LiveCall("none", "mprotect(PROT_NONE)", _protect(b.PROT_NONE)),
)

#: operations of the living model by name
CALLS: Mapping[str, LiveCall] = MappingProxyType({row.name: row for row in _ROWS})
_ALL = {row.name: row for row in (*_ROWS, *_PROTECTIONS)}


def parse_calls(text: str) -> list[LiveCall]:
    """Read ``fork,write``: operations one after another.

    Raises
    ------
    LayoutError
        An unknown name.
    """
    names = [part.strip().lower() for part in text.split(",")]
    for name in names:
        if name not in _ALL:
            raise LayoutError(f"operation {name!r} is unknown; {closest(name, list(_ALL))}")
    return [_ALL[name] for name in names]


def live_of(mm: MM) -> LiveMM:
    """The living model of an address space that was drawn: the same entries, folios and exclusivity.

    Parameters
    ----------
    mm : MM
        Every page is mapped by it alone.

    Returns
    -------
    LiveMM
    """
    machine, size = mm.machine, 1 << mm.machine.pmd_order
    base = mm.pfn_base // size * size
    nr = -(-(mm.pfn_base + mm.nr_pages - base) // size) * size
    buddy = Buddy(base, nr * (1 + SPARE) + 4 * size, machine.pmd_order)
    words: dict[int, int] = {}
    folios: dict[int, Folio] = {}
    exclusive: list[int] = []
    for vma in mm.vmas():
        for addr, word in _entries(mm, vma.start, vma.end):
            words[addr] = word
            if p.pte_present(word) and not p.pte_special(word):
                pfn = p.pte_pfn(machine.page_shift, word)
                byte = int(mm.pages[pfn - mm.pfn_base])
                order = byte & b.PG_ORDER_MASK
                head = pfn >> order << order
                if head not in folios:
                    buddy.take(head, order)
                    folios[head] = Folio(head, order, bool(byte & b.PG_ANON))
                if byte & b.PG_ANON_EXCLUSIVE:
                    exclusive.append(pfn)
    frames = Frames(buddy)
    live = LiveMM(machine, frames=frames)
    for folio in folios.values():
        frames.adopt(folio)
    for addr in words:
        if not live.has_table(addr):
            live.alloc_above(addr)
            live.populate_table(addr)
    live.ptes.update(words)
    for addr in words:
        mapped = live.mapped_pfn(addr)
        if mapped is not None:
            frames.get(frames.folios[mapped])
            frames.map_pages(frames.folios[mapped], mapped, 1, live.mm_id)
    for folio in folios.values():
        frames.put(folio)
    frames.anon_exclusive.update(exclusive)
    for vma in mm.vmas():
        number = frames.new_anon_vma()
        own = RefVma(*vma[:6], number, vma.writenotify, vma.name, (number,))
        live.vma_list.vmas.append(own)
    return live


def _entries(mm: MM, start: int, end: int) -> list[tuple[int, int]]:
    page = mm.machine.page_size
    return [(start + i * page, int(word)) for i, word in enumerate(mm.ptes(start, (end - start) // page))]


def call_layout(
    layout: Layout, machine: Machine, calls: Sequence[LiveCall], before: int = b.PROT_READ | b.PROT_WRITE
) -> list[Called]:
    """Make calls on a layout, one after another.

    Parameters
    ----------
    layout : Layout
        Without a fork: that is a call.
    machine : Machine
    calls : sequence of LiveCall
    before : int
        Protection that it has first.

    Returns
    -------
    list of Called
        One for each call.

    Raises
    ------
    LayoutError
        A layout that other processes map, too.
    SyscallError
        A call that the kernel refuses.
    """
    if layout.fork:
        raise LayoutError(f"layout {layout.name} is forked already; leave fork= out and give --op fork")
    run = _Run(live_of(layout.build(machine, before)), START, layout.length(machine))
    # what is refaulted gets folios of the sizes that the layout has
    run.mm.thp = Thp(frozenset(order for order in layout.orders(machine) if order >= 2))
    out = []
    for call in calls:
        run.nr, run.counters = 0, Counter()
        call.make(run)
        out.append(Called(call.name, machine, run.nr, dict(run.counters), standing(run.mm)))
    return out
