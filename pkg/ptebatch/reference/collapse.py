"""MADV_COLLAPSE: a table of small pages becomes one large folio.

Restates spec 8.6 the other way. Kernel counterpart: mm/khugepaged.c. The advice does as
much as it can and says of the last range what became of it.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from .. import bits as b
from . import pte as p
from .fault import anon_vma_prepare, map_anon_folio_pmd
from .mprotect import Refused
from .vma import RefVma

if TYPE_CHECKING:
    from .live import LiveMM


def collapse(mm: LiveMM, vma: RefVma, start: int, end: int) -> None:
    """madvise_collapse(): every whole PMD range of [start, end).

    Raises
    ------
    Refused
        EINVAL where the VMA may not have large folios, ENOMEM where none is free, EAGAIN where
        pages are held by somebody else.
    """
    size = mm.pmd_size
    if vma.flags & b.VM_NOHUGEPAGE or not vma.anonymous:
        raise Refused(errno.EINVAL, start, f"VMA {vma.start:#x} may not have folios of a PMD's size")
    failed = 0
    for first in range(-(-start // size) * size, end // size * size, size):
        if first not in mm.pmds:
            failed = _one(mm, vma, first) or failed
    if failed:
        raise Refused(failed, start, "some range could not be collapsed")


def _one(mm: LiveMM, vma: RefVma, first: int) -> int:
    """collapse_huge_page(): copy, then put one entry in the table's place; an errno, or 0."""
    if not mm.has_table(first):
        return errno.EINVAL
    pages = range(first, first + mm.pmd_size, mm.page_size)
    held = [mm.folio_of(mm.ptes[addr]) for addr in pages if p.pte_present(mm.ptes[addr])]
    if any(not p.pte_present(mm.ptes[addr]) and mm.ptes[addr] for addr in pages):
        return errno.EINVAL
    if any(folio is not None and mm.frames.use(folio).refs != mm.frames.mapcount(folio) for folio in held):
        return errno.EAGAIN
    new = mm.frames.alloc(mm.machine.pmd_order)
    if new is None:
        return errno.ENOMEM
    vma = anon_vma_prepare(mm, vma)
    # pmdp_collapse_flush(): nobody walks the table from here on
    mm.flush_range(first, first + mm.pmd_size, leaf=False, stride=1)
    for at in pages:
        pfn = mm.mapped_pfn(at)
        if pfn is not None:
            mm.frames.copy_page(new.head + mm.pte_index(at), pfn)
    addr = first
    while addr < first + mm.pmd_size:
        addr += _clear(mm, addr, (first + mm.pmd_size - addr) // mm.page_size) * mm.page_size
    mm.free_table(first)
    map_anon_folio_pmd(mm, vma, first, new)
    return 0


def _clear(mm: LiveMM, addr: int, max_nr: int) -> int:
    """__collapse_huge_page_copy_succeeded(): an entry, or since it is done in batches a folio's, is cleared."""
    word = mm.ptep_get(addr)
    if p.pte_none(word):
        return 1
    folio = mm.folio_of(word)
    nr = 1
    if folio is not None and folio.large and mm.machine.move_batched:
        nr = mm.folio_pte_batch(folio, addr, word, max_nr, respect_write=False)
    mm.get_and_clear_full_ptes(addr, nr)
    if folio is not None:
        mm.frames.unmap_pages(folio, p.pte_pfn(mm.page_shift, word), nr, mm.mm_id)
        mm.frames.put(folio, nr)
    return nr
