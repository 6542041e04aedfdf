"""change_protection(): the walk over one VMA's entries.

Restates spec 6.5 (PTE level), 6.6 and 6.7. Kernel counterpart: mm/mprotect.c.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .. import bits as b
from ..errors import StrategyError
from . import pte as p
from .folio_batch import Pages
from .softleaf import change_softleaf
from .strategies import Design
from .tlb import MmuGather
from .window import Window


@dataclass(slots=True)
class Record:
    """What one call leaves behind besides the page tables."""

    pages: int = 0
    batches: list[int] = field(default_factory=list)
    subs: list[int] = field(default_factory=list)
    gathers: list[tuple[int, int]] = field(default_factory=list)


@dataclass(slots=True)
class Walk:
    """One VMA's part of a call.

    Parameters
    ----------
    mm : Pages
    newprot : int
        Page protection to give.
    cp_flags, vm_flags : int
        MM_CP_* and VM_* at the time of the call.
    anon : bool
        vma_is_anonymous().
    design : Design
        The strategy.
    record : Record
    """

    mm: Pages
    newprot: int
    cp_flags: int
    vm_flags: int
    anon: bool
    design: Design
    record: Record
    gather: MmuGather = field(default_factory=MmuGather)

    @property
    def shared(self) -> bool:
        """MAP_SHARED."""
        return bool(self.vm_flags & b.VM_SHARED)

    @property
    def try_change_writable(self) -> bool:
        """MM_CP_TRY_CHANGE_WRITABLE."""
        return bool(self.cp_flags & b.MM_CP_TRY_CHANGE_WRITABLE)

    # Words

    def newpte(self, old: int) -> int:
        """pte_modify(), then userfaultfd's bit."""
        new = p.pte_modify(old, self.newprot)
        if self.cp_flags & b.MM_CP_UFFD_WP:
            return p.pte_mkuffd(new)
        if self.cp_flags & b.MM_CP_UFFD_WP_RESOLVE:
            return p.pte_clear_uffd(new)
        return new

    def may_be_writable(self, new: int) -> bool:
        """maybe_change_pte_writable(): what can be said without the page (spec 6.6)."""
        if not self.vm_flags & b.VM_WRITE:
            self.mm.count("warns")
            return False
        if p.pte_protnone(new):
            return False
        return not (self.vm_flags & b.VM_UFFD_WP and p.pte_uffd(new))

    # What a strategy does through its window

    def note_batch(self, addr: int, nr: int) -> None:
        """A batch begins."""
        self.mm.count("n_batches")
        self.mm.event("BATCH", addr, nr)
        self.record.batches.append(nr)

    def start(self, addr: int, nr: int) -> int:
        """modify_prot_start_ptes()."""
        self.mm.count("prot_start")
        self.mm.event("START", addr, nr)
        return self.mm.get_and_clear_full_ptes(addr, nr)

    def commit(self, addr: int, old: int, new: int, nr: int, write: bool) -> None:
        """prot_commit_flush_ptes(): store, then gather if the hardware may have seen another word."""
        mm = self.mm
        if write:
            new = p.pte_mkwrite(new, always=mm.machine.mkwrite_always)
        mm.count("prot_commit")
        if self.design.batched:
            mm.count("n_subs")
            self.record.subs.append(nr)
        mm.event("COMMIT", addr, nr)
        mm.set_ptes(addr, new, nr)
        if p.pte_needs_flush(mm.machine, old, new):
            mm.count("gather_calls")
            mm.event("GATHER", addr, nr)
            self.gather.flush_pte_range(addr, nr * mm.page_size)
        self.record.pages += nr

    # The walk

    def change_protection(self, start: int, end: int) -> None:
        """Every leaf table of [start, end), then the flush of what was gathered."""
        mm = self.mm
        mm.count("vmas_walked")
        addr = start
        while addr < end:
            table_end = mm.table_start(addr) + mm.machine.ptrs_per_pte * mm.page_size
            stop = min(end, table_end)
            if mm.change_pmd(self, addr, stop):
                addr = stop
                continue
            if not mm.has_table(addr) and self._wants_markers():
                # Markers need somewhere to live.
                mm.populate_table(addr)
            if mm.has_table(addr):
                self._change_pte_range(addr, stop)
            addr = stop
        self._flush()

    def _flush(self) -> None:
        stride = 1 if self.gather.ptes else self.mm.machine.ptrs_per_pte
        taken = self.gather.take()
        if taken is None:
            return
        pages = (taken[1] - taken[0]) // self.mm.page_size
        self.record.gathers.append(taken)
        self.mm.count("flush_calls")
        self.mm.count("flush_pages", pages)
        self.mm.flush_tlb(taken[0], pages, "flush", stride=stride)

    def _wants_markers(self) -> bool:
        armed = self.vm_flags & b.VM_UFFD_WP
        return bool(self.cp_flags & b.MM_CP_UFFD_WP and armed and not self.anon)

    def _change_pte_range(self, start: int, end: int) -> None:
        page = self.mm.page_size
        self.mm.count("pte_locks")
        self.mm.event("LOCK", start, (end - start) // page)
        self.mm.flush_batched_pending()
        addr = start
        while addr < end:
            old = self.mm.ptep_get(addr)
            nr = 1
            if p.pte_present(old):
                nr = self._change_present(addr, (end - addr) // page, old)
            elif p.pte_none(old):
                self._change_none(addr)
            else:
                self.record.pages += change_softleaf(self.mm, addr, old, self.cp_flags)
            addr += nr * page
        self.mm.event("UNLOCK", start, 0)

    def _change_none(self, addr: int) -> None:
        if self._wants_markers():
            self.mm.set_ptes(addr, p.make_pte_marker(b.PTE_MARKER_UFFD_WP))
            self.record.pages += 1

    def _change_present(self, addr: int, max_nr: int, old: int) -> int:
        mm = self.mm
        prot_numa = bool(self.cp_flags & b.MM_CP_PROT_NUMA)
        if prot_numa and p.pte_protnone(old):
            return 1
        if prot_numa or self.design.lookup:
            folio = mm.vm_normal_page(old)
        else:
            folio = mm.folio_of(old)
        window = Window(self, addr, max_nr, old, folio)
        if prot_numa and (folio is None or folio.numa_skip):
            # The per-PTE loop skips what it would have changed: one entry.
            return window.folio_pte_batch(respect_write=False) if self.design.batched else 1
        nr = self.design.step(window)
        self._check_step(window, nr)
        return nr

    @staticmethod
    def _check_step(window: Window, nr: object) -> None:
        """What every strategy owes: spec 7.9, points 1 and 7."""
        if not isinstance(nr, int):
            raise StrategyError(f"the strategy returned {nr!r}; return the number of entries it dealt with")
        if not 1 <= nr <= window.max_nr:
            raise StrategyError(f"the strategy returned {nr}; return a number from 1 to max_nr={window.max_nr}")
        if window.started:
            raise StrategyError(f"the strategy left {len(window.started)} started entries uncommitted; commit what it starts")
        if window.committed != set(range(nr)):
            done = len(window.committed)
            raise StrategyError(f"the strategy returned {nr} but committed {done} entries; commit each it counts, once")
