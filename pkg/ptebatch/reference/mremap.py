"""mremap(2): mappings grow, shrink and move.

Restates spec 8.5. Kernel counterpart: mm/mremap.c.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from .. import bits as b
from ..errors import LayoutError
from . import pte as p
from .huge_memory import split_huge_pmd
from .mlock import populate_vma
from .mmap import get_unmapped_area, unmap_range
from .mprotect import Refused
from .vma import VM_UFFD, RefVma

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
        EINVAL, EFAULT, EPERM, ENOMEM: since 6.17 what was moved before stays moved.
    """
    if flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP):
        raise Refused(errno.EINVAL, start, f"flags={flags:#x} has unknown bits")
    old, new = mm.page_align(old_length), mm.page_align(new_length)
    if start % mm.page_size or not new or new > 1 << mm.machine.va_bits:
        raise Refused(errno.EINVAL, start, f"start={start:#x} or new length={new_length:#x} cannot be")
    if flags & (MREMAP_FIXED | MREMAP_DONTUNMAP):
        if new_start % mm.page_size or new_start > (1 << mm.machine.va_bits) - new or not flags & MREMAP_MAYMOVE:
            raise Refused(errno.EINVAL, new_start, f"new start={new_start:#x} cannot be, or MREMAP_MAYMOVE is missing")
        if flags & MREMAP_DONTUNMAP and old != new:
            raise Refused(errno.EINVAL, start, "MREMAP_DONTUNMAP keeps the length")
        if start < new_start + new and new_start < start + old:
            raise Refused(errno.EINVAL, new_start, "the old and the new range overlap")
        if old == new and mm.machine.mremap_many and flags & MREMAP_FIXED:
            return _move_all(mm, start, start + old, flags, new_start)
    moves = bool(flags & (MREMAP_FIXED | MREMAP_DONTUNMAP))
    vma = _check(mm, start, old, new, moves=moves)
    if moves:
        if not flags & MREMAP_FIXED:
            # the new start is a hint
            new_start = get_unmapped_area(mm, new_start, new, thp_aligned=vma.anonymous)
        return _move(mm, start, old, new, flags, new_start)
    if new <= old:
        if new < old:
            unmap_range(mm, start + new, start + old)
        return start
    return _grow(mm, vma, start, old, new, flags)


def _check(mm: LiveMM, start: int, old: int, new: int, *, moves: bool) -> RefVma:
    """check_prep_vma(): the VMA of the start; what shrinks in its place may reach beyond it."""
    vma = mm.vma_at(start)
    if vma is None:
        raise Refused(errno.EFAULT, start, f"nothing is mapped at {start:#x}")
    if vma.flags & b.VM_SEALED:
        raise Refused(errno.EPERM, start, f"VMA {vma.start:#x} is sealed")
    if not moves and new <= old:
        return vma
    if not old:
        if not vma.flags & (b.VM_SHARED | b.VM_MAYSHARE):
            raise Refused(errno.EINVAL, start, f"an old length of 0 is for shared memory, and VMA {vma.start:#x} is private")
        raise LayoutError("an old length of 0 doubles shared memory, which is not modelled; give a length")
    # of a range that shrinks only what is left must lie in one VMA
    if min(old, new) > vma.end - start:
        raise Refused(errno.EFAULT, start, f"[{start:#x}, {start + min(old, new):#x}) is not in one VMA")
    return vma


def _move_all(mm: LiveMM, start: int, end: int, flags: int, new_start: int) -> int:
    """remap_move(): one VMA after the other, as far apart as they were."""
    vmas = mm.vmas_in(start, end)
    if not vmas or vmas[0].start > start:
        raise Refused(errno.EFAULT, start, f"nothing is mapped at {start:#x}")
    for i, vma in enumerate(vmas):
        low, high = max(vma.start, start), min(vma.end, end)
        if vma.flags & VM_UFFD and (i or vma.end < end):
            raise Refused(errno.EFAULT, low, f"VMA {vma.start:#x} has a userfaultfd and is not moved with others")
        _check(mm, low, high - low, high - low, moves=True)
        _move(mm, low, high - low, high - low, flags, new_start + low - start)
    return new_start


def _grow(mm: LiveMM, vma: RefVma, start: int, old: int, new: int, flags: int) -> int:
    end = start + new
    if start + old == vma.end and not mm.vmas_in(vma.end, end) and end <= 1 << mm.machine.va_bits:
        mm.vma_list.grow(vma, end)
        if vma.flags & b.VM_LOCKED:
            _populate(mm, start + old, end)
        return start
    if not flags & MREMAP_MAYMOVE:
        raise Refused(errno.ENOMEM, start, f"[{start + old:#x}, {end:#x}) is not free")
    # a longer one is mapped anew, and what is mapped moves there
    return _move(mm, start, old, new, flags, get_unmapped_area(mm, 0, new, thp_aligned=vma.anonymous))


def _move(mm: LiveMM, start: int, old: int, new: int, flags: int, new_start: int) -> int:
    """mremap_to() and move_vma(): what is in the way goes first."""
    if mm.vmas_in(new_start, new_start + new):
        unmap_range(mm, new_start, new_start + new)
    if new < old:
        unmap_range(mm, start + new, start + old)
    vma = mm.vma_at(start)
    assert vma is not None
    end = start + min(old, new)
    pgoff = vma.pgoff + (start - vma.start) // mm.page_size
    if vma.anonymous and not vma.anon_vma:
        # nothing depends on where it was: it may be merged with what lies beside it now
        pgoff = new_start // mm.page_size
    mm.vma_list.insert(replace(vma, start=new_start, end=new_start + new, pgoff=pgoff))
    move_page_tables(mm, start, end, new_start)
    if flags & MREMAP_DONTUNMAP:
        _left_behind(mm, start, end)
    else:
        unmap_range(mm, start, end)
    if vma.flags & b.VM_LOCKED and new > old:
        _populate(mm, new_start + old, new_start + new)
    return new_start


def _populate(mm: LiveMM, start: int, end: int) -> None:
    """mm_populate(): what cannot be populated faults later."""
    with suppress(Refused):
        populate_vma(mm, start, end)


def _left_behind(mm: LiveMM, start: int, end: int) -> None:
    """dontunmap_complete(): the old VMA stays, empty where it was moved: not locked, and without anon_vma if all of it was."""
    vma = mm.vma_at(start)
    assert vma is not None
    left = replace(vma, flags=vma.flags & ~(b.VM_LOCKED | b.VM_LOCKONFAULT))
    if (vma.start, vma.end) == (start, end):
        left = replace(left, anon_vma=0, chain=())
    mm.vma_list.put(vma, left)


def move_page_tables(mm: LiveMM, start: int, end: int, to: int) -> None:
    """Move what is mapped: whole PMD entries and tables where both ends are aligned, else entry by entry."""
    while start < end:
        whole = mm.pmd_size * mm.machine.ptrs_per_pte
        if not (start % whole or to % whole) and end - start >= whole and (whole, to) not in mm.above:
            _move_upper(mm, start, whole, to)
            start, to = start + whole, to + whole
            continue
        # no further than to where a table ends, here or there
        step = min(end - start, mm.pmd_size - start % mm.pmd_size, mm.pmd_size - to % mm.pmd_size)
        if mm.table_start(start) in mm.pmds or mm.has_table(start):
            mm.alloc_above(to)
        if start in mm.pmds and step == mm.pmd_size:
            mm.pmds[to] = mm.pmds.pop(start)
            mm.flush_pmd(start)
        else:
            if mm.table_start(start) in mm.pmds:
                split_huge_pmd(mm, mm.table_start(start))
            if mm.has_table(start):
                _move_table(mm, start, step, to)
        start, to = start + step, to + step


def _move_upper(mm: LiveMM, start: int, whole: int, to: int) -> None:
    """move_normal_pud(): a table of PMDs as it is."""
    if (whole, start) not in mm.above:
        return
    mm.alloc_above(to, skip=1)
    mm.above ^= {(whole, start), (whole, to)}
    for words in (mm.ptes, mm.pmds):
        for addr in [each for each in words if start <= each < start + whole]:
            words[addr - start + to] = words.pop(addr)
    mm.barrier()
    mm.flush_range(start, start + whole, leaf=False)


def _move_table(mm: LiveMM, start: int, step: int, to: int) -> None:
    if step == mm.pmd_size and not mm.has_table(to):
        mm.ptes |= {to + i: mm.ptes.pop(start + i) for i in range(0, step, mm.page_size)}
        mm.barrier()
        # page by page where there is no range TLBI: move_normal_pmd() does not say that it was a table
        mm.flush_range(start, start + step, leaf=False)
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
