"""munmap(2) and what fork does to VMAs.

Restates spec 8.2 and 8.4. Kernel counterparts: mm/mmap.c, mm/vma.c, kernel/fork.c (dup_mmap).
"""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import TYPE_CHECKING

from .. import bits as b
from .memory import Unmap, copy_page_range, needs_copy
from .mprotect import Refused
from .vma import MapCountError, RefVma

if TYPE_CHECKING:
    from .live import LiveMM


def page_range(mm: LiveMM, start: int, length: int) -> int:
    """End of a range, in whole pages; EINVAL for one that cannot be."""
    if start % mm.page_size:
        raise Refused(errno.EINVAL, start, f"start={start:#x} is not page aligned")
    end = start + -(-length // mm.page_size) * mm.page_size
    if end > 1 << mm.machine.va_bits:
        raise Refused(errno.EINVAL, start, f"length={length:#x} leaves the address space")
    return end


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
    for vma in mm.vmas_in(start, end):
        if vma.flags & b.VM_SEALED:
            raise Refused(errno.EPERM, start, f"VMA {vma.start:#x} is sealed")
    unmap_range(mm, start, end)


def unmap_range(mm: LiveMM, start: int, end: int) -> None:
    """do_vmi_align_munmap(): VMAs are cut at both ends, what they map goes, then they and their tables."""
    try:
        for addr in (start, end):
            vma = mm.vma_at(addr)
            if vma is not None and vma.start < addr:
                mm.vma_list.split(vma, addr)
    except MapCountError:
        raise Refused(errno.ENOMEM, start, "too many VMAs") from None
    gone = mm.vmas_in(start, end)
    unmap = Unmap(mm)
    for vma in gone:
        unmap.vma(vma.start, vma.end)
    mm.vma_list.remove(gone)
    for vma in gone:
        unmap.tables(vma.start, vma.end)


def dup_mmap(child: LiveMM, parent: LiveMM) -> None:
    """Every VMA that fork copies, and what it maps; then the parent's whole address space is flushed."""
    for vma in parent.vmas():
        if vma.flags & b.VM_DONTCOPY:
            continue
        # locks are not inherited, nor is a userfaultfd that does not ask for forks
        gone = b.VM_LOCKED | b.VM_LOCKONFAULT | b.VM_UFFD_WP | b.VM_UFFD_MISSING | b.VM_UFFD_MINOR
        copy = replace(vma, flags=vma.flags & ~gone, anon_vma=_anon_vma_of_child(child, vma))
        child.vma_list.vmas.append(copy)
        if needs_copy(vma) and not vma.flags & b.VM_WIPEONFORK:
            copy_page_range(child, parent, vma)
    parent.flush_mm()


def _anon_vma_of_child(child: LiveMM, vma: RefVma) -> int:
    """anon_vma_fork(): the child's pages are found by one of its own."""
    if not vma.anon_vma or vma.flags & b.VM_WIPEONFORK:
        return 0
    child.frames.anon_vmas += 1
    return child.frames.anon_vmas


def exit_mmap(mm: LiveMM) -> None:
    """The process is gone: everything that it maps is given back."""
    gone = mm.vmas()
    unmap = Unmap(mm)
    for vma in gone:
        unmap.vma(vma.start, vma.end)
    mm.vma_list.remove(gone)
    for vma in gone:
        unmap.tables(vma.start, vma.end)
    mm.frames.mms.remove(mm)
