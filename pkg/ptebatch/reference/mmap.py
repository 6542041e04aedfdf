"""munmap(2) and what fork does to VMAs.

Restates spec 8.2 and 8.4. Kernel counterparts: mm/mmap.c, mm/vma.c, kernel/fork.c (dup_mmap).
"""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .. import bits as b
from .memory import Unmap, copy_page_range, needs_copy
from .mprotect import Refused
from .vma import STACK_GUARD_GAP, VM_UFFD, MapCountError, RefVma

if TYPE_CHECKING:
    from .live import LiveMM


def page_range(mm: LiveMM, start: int, length: int) -> int:
    """End of a range, in whole pages; EINVAL for one that cannot be."""
    if start % mm.page_size:
        raise Refused(errno.EINVAL, start, f"start={start:#x} is not page aligned")
    end = start + mm.page_align(length)
    if end > 1 << mm.machine.va_bits:
        raise Refused(errno.EINVAL, start, f"length={length:#x} leaves the address space")
    return end


def do_mmap(mm: LiveMM, vma: RefVma, *, replace_old: bool) -> None:
    """mmap(2) at a fixed place: what was there goes, or is in the way.

    Raises
    ------
    Refused
        EEXIST with MAP_FIXED_NOREPLACE, EPERM where a VMA is sealed, ENOMEM where there are too many.
    """
    gone = mm.vmas_in(vma.start, vma.end)
    if gone and not replace_old:
        raise Refused(errno.EEXIST, vma.start, f"VMA {gone[0].start:#x} is in the way")
    if gone:
        unmap_range(mm, vma.start, vma.end)
    if len(mm.vma_list.vmas) >= mm.vma_list.map_count_limit:
        raise Refused(errno.ENOMEM, vma.start, "too many VMAs")
    mm.add_vma(vma)


#: what MAP_STACK makes of a VMA (calc_vm_flag_bits(), since 6.7, with THP): stacks have no large folios
VM_OF_MAP_STACK = b.VM_NOHUGEPAGE


def get_unmapped_area(mm: LiveMM, hint: int, length: int, *, thp_aligned: bool) -> int:
    """__get_unmapped_area(): where a mapping goes that says no place.

    Parameters
    ----------
    mm : LiveMM
    hint : int
        It goes there if that is free; 0: none.
    length : int
        Bytes, whole pages.
    thp_aligned : bool
        Private anonymous memory of whole PMD ranges is aligned to one, if there is room.

    Raises
    ------
    Refused
        ENOMEM.
    """
    hint = mm.page_align(hint)
    if hint and hint + length <= 1 << mm.machine.va_bits and not _in_the_way(mm, hint, hint + length):
        return hint
    if thp_aligned and not hint and not length % mm.pmd_size:
        found = _top_down(mm, length + mm.pmd_size)
        if found is not None:
            # the padding that is not needed stays below
            return found + (-found % mm.pmd_size or mm.pmd_size)
    found = _top_down(mm, length)
    if found is None:
        raise Refused(errno.ENOMEM, 0, f"no {length:#x} bytes are free below {mm.mmap_base:#x}")
    return found


def _in_the_way(mm: LiveMM, start: int, end: int) -> bool:
    return any(_start_gap(mm, vma) < end and start < vma.end for vma in mm.vma_list.vmas)


def _start_gap(mm: LiveMM, vma: RefVma) -> int:
    """vm_start_gap(): where a VMA begins, with the gap that one has that grows down."""
    return vma.start - (STACK_GUARD_GAP * mm.page_size if vma.flags & b.VM_GROWSDOWN else 0)


def _top_down(mm: LiveMM, length: int) -> int | None:
    """unmapped_area_topdown(): the highest gap below mmap_base that is large enough, at its top."""
    high = mm.mmap_base
    for vma in reversed(mm.vma_list.vmas):
        if vma.start >= mm.mmap_base:
            continue
        if high - vma.end >= length:
            return high - length
        high = min(high, _start_gap(mm, vma))
    return high - length if high - length >= mm.page_size else None


def do_mmap_free(mm: LiveMM, hint: int, length: int, prot: int, what: dict[str, Any]) -> int:
    """mmap(2) without MAP_FIXED; returns where it is."""
    size = mm.page_align(length)
    if not size:
        raise Refused(errno.EINVAL, hint, "length=0 is nothing")
    plain = not what.get("shared") and not what.get("file")
    at = get_unmapped_area(mm, hint, size, thp_aligned=plain)
    do_mmap(mm, mm.vma_of(at, size, prot, **what), replace_old=False)
    return at


def do_brk(mm: LiveMM, brk: int) -> int:
    """brk(2): the end of the heap from now on; what it was where it cannot be.

    A heap is private memory that may be read and written, from `start_brk` on. Another mapping within a page
    of the new end is in the way, a sealed one cannot be given back.
    """
    if brk < mm.start_brk:
        return mm.brk_end
    old, new = mm.page_align(mm.brk_end), mm.page_align(brk)
    try:
        if new < old:
            unmap_range(mm, new, old)
        elif new > old:
            if mm.vmas_in(old, new + mm.page_size) or new > 1 << mm.machine.va_bits:
                return mm.brk_end
            mm.add_vma(mm.vma_of(old, new - old, b.PROT_READ | b.PROT_WRITE))
    except Refused:
        return mm.brk_end
    mm.brk_end = brk
    return brk


def do_munmap(mm: LiveMM, start: int, length: int) -> None:
    """munmap(2).

    Raises
    ------
    Refused
        EINVAL; EPERM where a VMA is sealed; ENOMEM where a split would make too many.
    """
    end = page_range(mm, start, length)
    if end <= start:
        raise Refused(errno.EINVAL, start, f"length={length:#x} is nothing")
    unmap_range(mm, start, end)


def unmap_range(mm: LiveMM, start: int, end: int) -> None:
    """do_vmi_align_munmap(): VMAs are cut at both ends, what they map goes, then they and their tables.

    Raises
    ------
    Refused
        EPERM, ENOMEM: the cut at the start may have been made.
    """
    gone: list[RefVma] = []
    for vma in mm.vmas_in(start, end):
        if vma.flags & b.VM_SEALED:
            raise Refused(errno.EPERM, start, f"VMA {vma.start:#x} is sealed")
        try:
            if vma.start < start:
                vma = mm.vma_list.split(vma, start)[1]
            if vma.end > end:
                vma = mm.vma_list.split(vma, end)[0]
        except MapCountError:
            raise Refused(errno.ENOMEM, start, "too many VMAs") from None
        gone.append(vma)
    _unmap(mm, gone)


def _unmap(mm: LiveMM, gone: list[RefVma]) -> None:
    """What VMAs map goes, then they and their tables."""
    unmap = Unmap(mm)
    for vma in gone:
        unmap.vma(vma.start, vma.end)
    mm.forget(gone)
    for vma in gone:
        unmap.tables(vma.start, vma.end)


def dup_mmap(child: LiveMM, parent: LiveMM) -> None:
    """Every VMA that fork copies, and what it maps; then the parent's whole address space is flushed."""
    for vma in parent.vmas():
        if vma.flags & b.VM_DONTCOPY:
            continue
        # locks are not inherited, nor is a userfaultfd that does not ask for forks
        gone = b.VM_LOCKED | b.VM_LOCKONFAULT | VM_UFFD
        copy = anon_vma_fork(child, replace(vma, flags=vma.flags & ~gone))
        child.vma_list.vmas.append(copy)
        if needs_copy(parent.machine, vma) and not vma.flags & b.VM_WIPEONFORK:
            copy_page_range(child, parent, vma)
    parent.flush_mm()


def anon_vma_fork(child: LiveMM, vma: RefVma) -> RefVma:
    """A VMA's copy: found by all anon_vmas of its parent, and by one of its own, which may be one that nobody has."""
    if not vma.anon_vma or vma.flags & b.VM_WIPEONFORK:
        return replace(vma, anon_vma=0, chain=())
    for number in vma.chain:
        if child.frames.reusable_anon_vma(number):
            return replace(vma, anon_vma=number)
    number = child.frames.new_anon_vma(vma.anon_vma)
    return replace(vma, anon_vma=number, chain=(*vma.chain, number))


def exit_mmap(mm: LiveMM) -> None:
    """The process is gone: everything that it maps is given back."""
    _unmap(mm, mm.vmas())
    mm.frames.mms.remove(mm)
