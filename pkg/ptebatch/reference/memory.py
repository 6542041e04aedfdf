"""Fork's copy of page tables, and unmapping.

Restates spec 8.2 and 8.4. Kernel counterparts: mm/memory.c (copy_page_range,
unmap_page_range), mm/mmu_gather.c.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .. import bits as b
from ..machine import Machine
from . import pte as p
from .huge_memory import copy_huge_pmd, huge_folio, split_huge_pmd
from .mmu import Folio
from .tlb import MmuGather
from .vma import RefVma

if TYPE_CHECKING:
    from .live import LiveMM


def tables_of(mm: LiveMM, start: int, end: int) -> list[tuple[int, int]]:
    """The pieces of a range, one a leaf table."""
    cuts = [start, *range(mm.table_start(start) + mm.pmd_size, end, mm.pmd_size), end]
    return list(itertools.pairwise(cuts))


# ---- unmapping ----


@dataclass(slots=True)
class Unmap:
    """tlb_gather_mmu() to tlb_finish_mmu(): pages are given back when nobody can reach them any more.

    Attributes
    ----------
    mm : LiveMM
    keep_markers : bool
        Guard markers stay, as for MADV_DONTNEED.
    reclaim : bool
        A table that is emptied as a whole is given back, too, where the kernel does that.
    gather : MmuGather
    pages : list of (Folio, int)
        References to give back once the range is flushed.
    """

    mm: LiveMM
    keep_markers: bool = False
    reclaim: bool = False
    gather: MmuGather = field(default_factory=MmuGather)
    pages: list[tuple[Folio, int]] = field(default_factory=list)

    def flush(self) -> None:
        """tlb_flush_mmu()."""
        freed, stride = self.gather.freed, 1 if self.gather.ptes else self.mm.machine.ptrs_per_pte
        taken = self.gather.take()
        if taken is not None:
            self.mm.flush_range(*taken, leaf=not freed, stride=stride)
        for folio, nr in self.pages:
            self.mm.frames.put(folio, nr)
        self.pages.clear()

    def vma(self, start: int, end: int) -> None:
        """unmap_single_vma() and tlb_end_vma()."""
        mm = self.mm
        for low, high in tables_of(mm, start, end):
            first = mm.table_start(low)
            if first in mm.pmds:
                if low == first and high == first + mm.pmd_size:
                    self._huge(first)
                    continue
                split_huge_pmd(mm, first)
            if mm.has_table(low):
                self._table(low, high)
        self.flush()

    def _huge(self, first: int) -> None:
        mm = self.mm
        folio = huge_folio(mm, mm.pmds.pop(first))
        self.gather.flush_pmd_range(first, mm.pmd_size)
        if folio is not None:
            mm.frames.unmap_entire(folio, mm.mm_id)
            self.pages.append((folio, 1))

    def _table(self, start: int, end: int) -> None:
        mm = self.mm
        mm.flush_batched_pending()
        addr, at_once = start, False
        while addr < end:
            word = mm.ptep_get(addr)
            nr = 1
            if p.pte_present(word):
                nr, dirty = self._present(addr, (end - addr) // mm.page_size, word)
                at_once |= dirty
            elif not p.pte_none(word):
                self._softleaf(addr, word)
            addr += nr * mm.page_size
        if self.reclaim and mm.machine.pt_reclaim and end - start == mm.pmd_size:
            self._reclaim(start)
        if at_once:
            # a dirty page of a file may be cleaned as soon as the table is unlocked
            self.flush()

    def _reclaim(self, first: int) -> None:
        """try_get_and_clear_pmd(): a table that was emptied as a whole is given back at once."""
        mm = self.mm
        if not any(mm.ptes[addr] for addr in range(first, first + mm.pmd_size, mm.page_size)):
            self.gather.free_table(first, mm.page_size)
            mm.free_table(first)

    def _present(self, addr: int, max_nr: int, word: int) -> tuple[int, bool]:
        mm = self.mm
        folio = mm.folio_of(word)
        if folio is None:
            mm.get_and_clear_full_ptes(addr, 1)
            self.gather.flush_pte_range(addr, mm.page_size)
            return 1, False
        nr = 1
        if folio.large and max_nr > 1:
            nr = mm.folio_pte_batch(folio, addr, word, max_nr, respect_write=False)
        mm.count("zap_batches")
        old = mm.get_and_clear_full_ptes(addr, nr)
        dirty = not folio.anon and p.pte_dirty(old)
        if dirty:
            for inode in mm.frames.inodes:
                inode.note_dirty(folio)
        self.gather.flush_pte_range(addr, nr * mm.page_size)
        mm.frames.unmap_pages(folio, p.pte_pfn(mm.page_shift, word), nr, mm.mm_id)
        self.pages.append((folio, nr))
        return nr, dirty

    def _softleaf(self, addr: int, word: int) -> None:
        if not (self.keep_markers and p.pte_marker(word) & b.PTE_MARKER_GUARD):
            self.mm.pte_clear(addr)

    def tables(self, start: int, end: int) -> None:
        """free_pgtables(): tables of any level that nothing can be mapped in any more."""
        mm = self.mm
        for low, _ in tables_of(mm, start, end):
            first = mm.table_start(low)
            if mm.has_table(first) and not mm.vmas_in(first, first + mm.pmd_size):
                self.gather.free_table(first, mm.page_size)
                mm.free_table(first)
        for size, first in sorted(mm.above):
            if first < end and start < first + size and not mm.vmas_in(first, first + size):
                self.gather.free_table(max(first, start), mm.page_size)
                mm.above.remove((size, first))
                mm.count("tables_freed")
        self.flush()


# ---- fork ----


def needs_copy(machine: Machine, vma: RefVma) -> bool:
    """vma_needs_copy(): the child cannot just fault it in. Since 6.19 a VMA with guards tells so by itself."""
    kinds = b.VM_UFFD_WP | b.VM_PFNMAP | b.VM_MIXEDMAP | (b.VM_MAYBE_GUARD if machine.sticky_flags else 0)
    return bool(vma.flags & kinds) or bool(vma.anon_vma)


def copy_page_range(child: LiveMM, parent: LiveMM, vma: RefVma) -> None:
    """Give the child what the parent maps in a VMA; private pages become read-only in both."""
    for low, high in tables_of(parent, vma.start, vma.end):
        first = parent.table_start(low)
        if first in parent.pmds:
            child.alloc_above(first)
            copy_huge_pmd(child, parent, first)
        elif parent.has_table(low):
            child.alloc_table(low)
            _Copy(child, parent, vma).table(low, high)


@dataclass(slots=True)
class _Copy:
    """One VMA's copy."""

    child: LiveMM
    parent: LiveMM
    vma: RefVma

    @property
    def shared(self) -> bool:
        """MAP_SHARED."""
        return bool(self.vma.flags & b.VM_SHARED)

    @property
    def cow(self) -> bool:
        """is_cow_mapping(): private, and may be written."""
        return self.vma.flags & (b.VM_SHARED | b.VM_MAYWRITE) == b.VM_MAYWRITE

    def table(self, start: int, end: int) -> None:
        """copy_pte_range()."""
        parent = self.parent
        addr = start
        while addr < end:
            word = parent.ptep_get(addr)
            nr = 1
            if p.pte_present(word):
                nr = self._present(addr, (end - addr) // parent.page_size, word)
            elif not p.pte_none(word):
                self._softleaf(addr, word)
            addr += nr * parent.page_size

    def _softleaf(self, addr: int, word: int) -> None:
        kept = p.pte_marker(word) & (b.PTE_MARKER_GUARD | b.PTE_MARKER_POISONED)
        if kept:
            self.child.set_ptes(addr, p.make_pte_marker(kept))

    def _present(self, addr: int, max_nr: int, word: int) -> int:
        parent, child = self.parent, self.child
        folio = parent.vm_normal_page(word)
        nr = 1
        if folio is not None:
            words = [word]
            if folio.large and max_nr > 1:
                nr = parent.folio_pte_batch(
                    folio, addr, word, max_nr, respect_write=False, respect_dirty=not self.shared, seen=words
                )
            if any(p.pte_write(each) for each in words):
                word = p.pte_mkwrite(word, always=parent.machine.mkwrite_always)
            pfn = p.pte_pfn(parent.page_shift, word)
            parent.frames.get(folio, nr)
            parent.frames.map_pages(folio, pfn, nr, child.mm_id)
            if folio.anon:
                parent.anon_exclusive.difference_update(range(pfn, pfn + nr))
        parent.count("copy_batches")
        if self.cow and p.pte_write(word):
            parent.wrprotect_ptes(addr, nr)
            word = p.pte_wrprotect(word)
        if self.shared:
            word = p.pte_mkclean(word)
        child.set_ptes(addr, p.pte_clear_uffd(p.pte_mkold(word)), nr)
        return nr
