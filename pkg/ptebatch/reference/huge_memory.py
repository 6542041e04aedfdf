"""Folios mapped by one PMD entry, and folios that are split.

Restates spec 6.9, 8.2 and 8.6. Kernel counterpart: mm/huge_memory.c. A PMD entry has
the bits of a leaf entry but bit 1; its folio's first page carries PageAnonExclusive for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import bits as b
from . import pte as p
from .frames import Frames
from .mmu import Folio

if TYPE_CHECKING:
    from .change_protection import Walk
    from .live import LiveMM

#: bit 1 of a leaf entry at the last level; a block entry has it clear
_TABLE_BIT = b.PTE_TYPE_PAGE & ~b.PTE_VALID


def mk_pmd(word: int) -> int:
    """A leaf entry's word as that of a PMD."""
    return word & ~_TABLE_BIT


def as_pte(word: int) -> int:
    """A PMD's word as that of the leaf entry of its first page."""
    return word | _TABLE_BIT


def huge_folio(mm: LiveMM, word: int) -> Folio | None:
    """The folio that a PMD's word maps; None: the huge zero page."""
    pfn = p.pte_pfn(mm.page_shift, word)
    return None if pfn == mm.frames.huge_zero_pfn else mm.page_folio(pfn)


def prot_at(mm: LiveMM, addr: int) -> int:
    """vm_page_prot of the VMA of an address."""
    vma = mm.vma_at(addr)
    assert vma is not None, hex(addr)
    return vma.page_prot


# ---- taken apart ----


def split_huge_pmd(mm: LiveMM, first: int) -> None:
    """__split_huge_pmd(): the same pages, mapped by a table of leaf entries.

    ====  PMD RW,d  ->  RW,d,c RW,d,c ... RW,d,c: blocks come out folded
    """
    word = _invalidate(mm, first)
    folio = huge_folio(mm, word)
    if folio is None:
        _split_huge_zero(mm, first, word)
        return
    new = _remapped(mm, first, word)
    exclusive = folio.head in mm.anon_exclusive
    mm.frames.unmap_entire(folio, mm.mm_id)
    mm.frames.map_pages(folio, folio.head, folio.nr, mm.mm_id)
    mm.frames.get(folio, folio.nr - 1)
    if exclusive:
        mm.anon_exclusive.update(range(folio.head, folio.head + folio.nr))
    mm.populate_table(first)
    mm.set_ptes(first, new, folio.nr)
    _populated(mm)


def _split_huge_zero(mm: LiveMM, first: int, word: int) -> None:
    """__split_huge_zero_page_pmd(): the small zero page, entry by entry."""
    mm.populate_table(first)
    new = mm.zero_pte(prot_at(mm, first))
    for i in range(mm.machine.ptrs_per_pte):
        mm.set_ptes(first + i * mm.page_size, p.pte_mkuffd(new) if p.pte_uffd(word) else new)
    _populated(mm)


def _invalidate(mm: LiveMM, first: int) -> int:
    """pmdp_invalidate(): nobody may use the entry any more."""
    mm.count("pmd_splits")
    word = mm.pmds.pop(first)
    mm.flush_pmd(first)
    return word


def _populated(mm: LiveMM) -> None:
    # pmd_populate() of a local entry, to find the leaf entries by, then of the real one: each ends with a barrier
    mm.barrier()
    mm.barrier()


def _remapped(mm: LiveMM, addr: int, word: int) -> int:
    """The leaf entry that a split makes of a word: the VMA's protection, and the word's own WRITE, AF, dirty and UFFD."""
    new = p.pfn_pte(mm.page_shift, p.pte_pfn(mm.page_shift, word), prot_at(mm, addr))
    if p.pte_write(word):
        new = p.pte_mkwrite(new, always=mm.machine.mkwrite_always)
    if not p.pte_young(word):
        new = p.pte_mkold(new)
    if p.pte_dirty(word):
        new = p.pte_mkdirty(new)
    return p.pte_mkuffd(new) if p.pte_uffd(word) else new


# ---- a folio is split into its pages ----


@dataclass(frozen=True, slots=True)
class _Mapped:
    """An entry that maps a page of a folio that is being split."""

    mm: LiveMM
    addr: int
    word: int
    exclusive: bool

    def unmapped(self, shift: int) -> int:
        """Migration entry that stands in its place (spec 1.6): A/D above the frame, writable, exclusive or neither."""
        machine = self.mm.machine
        kind = machine.swp_migration_read + (2 if p.pte_write(self.word) else int(self.exclusive))
        bits = 48 - machine.page_shift
        offset = p.pte_pfn(shift, self.word) | p.pte_young(self.word) << bits | p.pte_dirty(self.word) << (bits + 1)
        return p.swp_entry(kind, offset) | (b.PTE_SWP_UFFD if p.pte_uffd(self.word) else 0)

    def mapped(self) -> int:
        """remove_migration_pte(): the word that maps the page again."""
        return _remapped(self.mm, self.addr, self.word)

    def unused(self, pfn: int) -> bool:
        """try_to_map_unused_to_zeropage(): the page holds nothing but zeros, and the kernel gives it up then."""
        vma = self.mm.vma_at(self.addr)
        locked = vma is not None and vma.flags & b.VM_LOCKED
        return self.mm.machine.split_to_zero and not locked and not self.mm.frames.contents.get(pfn)

    def zero(self) -> int:
        """The zero page in its place."""
        new = self.mm.zero_pte(prot_at(self.mm, self.addr))
        return p.pte_mkuffd(new) if p.pte_uffd(self.word) else new


def split_folio(mm: LiveMM, folio: Folio) -> bool:
    """split_folio(): every page of it becomes a folio; False: somebody holds it, and nothing is changed.

    It is unmapped everywhere, by migration entries, and mapped again; what holds nothing is not, since 6.13.
    Whoever mapped it by leaf entries is left with a flush that is issued and not waited for, where the CPU allows that.
    """
    frames = mm.frames
    if frames.use(folio).refs != frames.mapcount(folio):
        return False
    mm.count("folio_splits")
    # the caller's own reference, which becomes one of each page
    frames.get(folio)
    mapped = _unmap(mm, frames, folio)
    pages = {page.head: page for page in frames.split(folio)}
    for each in mapped:
        pfn = p.pte_pfn(mm.page_shift, each.word)
        if each.unused(pfn):
            each.mm.set_ptes(each.addr, each.zero())
            continue
        frames.get(pages[pfn])
        frames.map_pages(pages[pfn], pfn, 1, each.mm.mm_id)
        if each.exclusive:
            frames.anon_exclusive.add(pfn)
        each.mm.set_ptes(each.addr, each.mapped())
    for page in pages.values():
        # the reference that it got when it was made: one that nobody maps is free now
        frames.put(page)
    return True


def _unmap(mm: LiveMM, frames: Frames, folio: Folio) -> list[_Mapped]:
    mapped: list[_Mapped] = []
    for each in frames.mms:
        for first in [at for at, word in each.pmds.items() if p.pte_pfn(mm.page_shift, word) == folio.head]:
            mapped += _unmap_pmd(each, first)
    in_flight = False
    for each, addr in list(frames.mappings(folio)):
        word = each.get_and_clear_full_ptes(addr, 1)
        if p.pte_valid(word):
            each.flush_page_later(addr)
            in_flight = True
        mapped.append(_replaced(each, addr, word))
        each.set_ptes(addr, mapped[-1].unmapped(mm.page_shift))
        frames.unmap_pages(folio, p.pte_pfn(mm.page_shift, word), 1, each.mm_id)
        frames.put(folio)
    if in_flight:
        mm.wait_for_flush()
    return mapped


def _replaced(mm: LiveMM, addr: int, word: int) -> _Mapped:
    pfn = p.pte_pfn(mm.page_shift, word)
    entry = _Mapped(mm, addr, word, pfn in mm.anon_exclusive)
    mm.anon_exclusive.discard(pfn)
    return entry


def _unmap_pmd(mm: LiveMM, first: int) -> list[_Mapped]:
    """split_huge_pmd_address(freeze): a table of migration entries."""
    word = _invalidate(mm, first)
    folio = mm.page_folio(p.pte_pfn(mm.page_shift, word))
    exclusive = folio.head in mm.anon_exclusive
    mm.anon_exclusive.discard(folio.head)
    mm.frames.unmap_entire(folio, mm.mm_id)
    mm.populate_table(first)
    out = []
    for i in range(folio.nr):
        one = p.pte_advance_pfn(mm.page_shift, as_pte(word), i)
        out.append(_Mapped(mm, first + i * mm.page_size, one, exclusive))
        mm.set_ptes(out[-1].addr, out[-1].unmapped(mm.page_shift))
    _populated(mm)
    mm.frames.put(folio)
    return out


# ---- changed, copied, unmapped as a whole ----


def change_huge_pmd(mm: LiveMM, walk: Walk, first: int) -> None:
    """change_huge_pmd(): mprotect of all that one PMD entry maps."""
    old = mm.pmds[first]
    mm.flush_pmd(first)
    new = mk_pmd(walk.newpte(as_pte(old)))
    folio = huge_folio(mm, old)
    if folio is not None and walk.try_change_writable and not p.pte_write(new) and walk.may_be_writable(as_pte(new)):
        writable = p.pte_dirty(new) if walk.shared else folio.anon and folio.head in mm.anon_exclusive
        if writable:
            new = p.pte_mkwrite(new, always=mm.machine.mkwrite_always)
    mm.pmds[first] = new
    if p.pte_needs_flush(mm.machine, old, new):
        walk.gather.flush_pmd_range(first, mm.pmd_size)
    walk.record.pages += mm.machine.ptrs_per_pte


def copy_huge_pmd(child: LiveMM, parent: LiveMM, first: int) -> None:
    """copy_huge_pmd(): fork shares the folio; both may only read."""
    word = p.pte_wrprotect(parent.pmds[first])
    folio = huge_folio(parent, word)
    if folio is not None:
        parent.frames.get(folio)
        parent.frames.map_entire(folio, child.mm_id)
        parent.anon_exclusive.discard(folio.head)
    parent.pmds[first] = word
    child.pmds[first] = p.pte_mkold(word)


def young_huge_pmd(mm: LiveMM, first: int, *, dirty: bool) -> bool:
    """What MADV_COLD, and with `dirty` MADV_FREE, do to a whole PMD entry; whether it changed."""
    word = mm.pmds[first]
    if not (p.pte_young(word) or (dirty and p.pte_dirty(word))):
        return False
    if dirty or mm.machine.cold_invalidates:
        mm.flush_pmd(first)
    word = p.pte_mkold(word)
    mm.pmds[first] = p.pte_mkclean(word) if dirty else word
    return True
