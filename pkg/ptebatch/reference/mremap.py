"""mremap(2): mappings grow, shrink and move.

Restates spec 8.5. Kernel counterpart: mm/mremap.c.
"""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import TYPE_CHECKING

from .. import bits as b
from . import pte as p
from .huge_memory import split_huge_pmd
from .mmap import page_range, unmap_range
from .mprotect import Refused
from .vma import RefVma

if TYPE_CHECKING:
    from .live import LiveMM

MREMAP_MAYMOVE = 1
MREMAP_FIXED = 2
MREMAP_DONTUNMAP = 4


def do_mremap(mm: LiveMM, start: int, old_length: int, new_length: int, flags: int, new_start: int) -> int:
    """mremap(2); returns where the mapping is.

    Raises
    ------
    Refused
        EINVAL, EFAULT, EPERM, ENOMEM.
    """
    if flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP):
        raise Refused(errno.EINVAL, start, f"flags={flags:#x} has unknown bits")
    fixed = bool(flags & (MREMAP_FIXED | MREMAP_DONTUNMAP))
    if fixed and not flags & MREMAP_MAYMOVE:
        raise Refused(errno.EINVAL, start, "MREMAP_FIXED and MREMAP_DONTUNMAP go with MREMAP_MAYMOVE")
    if flags & MREMAP_DONTUNMAP and old_length != new_length:
        raise Refused(errno.EINVAL, start, "MREMAP_DONTUNMAP keeps the length")
    end = page_range(mm, start, old_length)
    new_size = -(-new_length // mm.page_size) * mm.page_size
    if not new_size or not old_length:
        raise Refused(errno.EINVAL, start, "a length is 0; mappings that are doubled by an old length of 0 are not modelled")
    vma = mm.vma_at(start)
    if vma is None or vma.end < end:
        raise Refused(errno.EFAULT, start, f"[{start:#x}, {end:#x}) is not in one VMA")
    if vma.flags & b.VM_SEALED:
        raise Refused(errno.EPERM, start, f"VMA {vma.start:#x} is sealed")
    if flags & MREMAP_FIXED:
        return _to(mm, vma, start, end, new_size, flags, new_start)
    if flags & MREMAP_DONTUNMAP:
        raise Refused(errno.EINVAL, start, "MREMAP_DONTUNMAP needs a free place, whose choice is not modelled; give MREMAP_FIXED")
    if new_size <= end - start:
        if new_size < end - start:
            unmap_range(mm, start + new_size, end)
        return start
    return _grow(mm, vma, start, end, new_size, flags)


def _grow(mm: LiveMM, vma: RefVma, start: int, end: int, new_size: int, flags: int) -> int:
    new_end = start + new_size
    if end == vma.end and not mm.vmas_in(vma.end, new_end) and new_end <= 1 << mm.machine.va_bits:
        mm.vma_list.grow(vma, new_end)
        return start
    if not flags & MREMAP_MAYMOVE:
        raise Refused(errno.ENOMEM, start, f"[{end:#x}, {new_end:#x}) is not free")
    raise Refused(errno.ENOMEM, start, "the mapping must move to a free place, whose choice is not modelled; give MREMAP_FIXED")


def _to(mm: LiveMM, vma: RefVma, start: int, end: int, new_size: int, flags: int, new_start: int) -> int:
    new_end = page_range(mm, new_start, new_size)
    if start < new_end and new_start < end:
        raise Refused(errno.EINVAL, new_start, "the old and the new range overlap")
    for other in mm.vmas_in(new_start, new_end):
        if other.flags & b.VM_SEALED:
            raise Refused(errno.EPERM, new_start, f"VMA {other.start:#x} is sealed")
    unmap_range(mm, new_start, new_end)
    if new_size < end - start:
        unmap_range(mm, start + new_size, end)
        end = start + new_size
    moved = mm.vma_at(start)
    assert moved is not None
    vma = moved
    pgoff = vma.pgoff + (start - vma.start) // mm.page_size
    if vma.anonymous and not vma.anon_vma:
        # nothing depends on where it was: it may be merged with what lies beside it now
        pgoff = new_start // mm.page_size
    mm.vma_list.insert(replace(vma, start=new_start, end=new_end, pgoff=pgoff))
    move_page_tables(mm, start, end, new_start)
    if not flags & MREMAP_DONTUNMAP:
        unmap_range(mm, start, end)
    return new_start


def move_page_tables(mm: LiveMM, start: int, end: int, to: int) -> None:
    """Move what is mapped: whole PMD entries and tables where both ends are aligned, else entry by entry."""
    while start < end:
        # no further than to where a table ends, here or there
        step = min(end - start, mm.pmd_size - start % mm.pmd_size, mm.pmd_size - to % mm.pmd_size)
        if mm.table_start(start) in mm.pmds or mm.has_table(start):
            mm.alloc_above(to)
        if start in mm.pmds and step == mm.pmd_size:
            mm.pmds[to] = mm.pmds.pop(start)
            mm.flush_range(start, start + step, leaf=False, stride=mm.machine.ptrs_per_pte)
        else:
            if mm.table_start(start) in mm.pmds:
                split_huge_pmd(mm, mm.table_start(start))
            if mm.has_table(start):
                _move_table(mm, start, step, to)
        start, to = start + step, to + step


def _move_table(mm: LiveMM, start: int, step: int, to: int) -> None:
    if step == mm.pmd_size and not mm.has_table(to):
        mm.ptes |= {to + i: mm.ptes.pop(start + i) for i in range(0, step, mm.page_size)}
        mm.barrier()
        mm.flush_range(start, start + step, leaf=False, stride=mm.machine.ptrs_per_pte)
        return
    mm.alloc_table(to)
    move_ptes(mm, start, start + step, to)


def move_ptes(mm: LiveMM, start: int, end: int, to: int) -> None:
    """Entries of one table, to another place."""
    mm.flush_batched_pending()
    addr, moved = start, False
    while addr < end:
        word = mm.ptep_get(addr)
        if p.pte_none(word):
            addr += mm.page_size
            continue
        nr = _batch(mm, addr, (end - addr) // mm.page_size, word) if mm.machine.move_batched else 1
        mm.count("move_batches")
        word = mm.get_and_clear_full_ptes(addr, nr)
        moved |= p.pte_present(word)
        mm.set_ptes(to + addr - start, word, nr)
        addr += nr * mm.page_size
    if moved:
        mm.flush_range(start, end, leaf=False)


def _batch(mm: LiveMM, addr: int, max_nr: int, word: int) -> int:
    """Entries that are moved at once: a batch is asked for where the entry is of a folded block."""
    if mm.batch_hint(addr, word) <= 1 or max_nr == 1:
        return 1
    folio = mm.folio_of(word)
    if folio is None or not folio.large:
        return 1
    return mm.folio_pte_batch(folio, addr, word, max_nr, respect_write=True)
