"""Write protection by userfaultfd.

Kernel counterparts: mm/userfaultfd.c (mwriteprotect_range), fs/userfaultfd.c (registration).
Nobody reads the descriptor here: a write that would wait for its owner is refused.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from .. import bits as b
from .change_protection import Record, Walk
from .mm import design_of
from .mmap import page_range
from .mprotect import Refused

if TYPE_CHECKING:
    from .live import LiveMM

UFFDIO_WRITEPROTECT_MODE_WP = 1


def register(mm: LiveMM, start: int, length: int) -> None:
    """UFFDIO_REGISTER with UFFDIO_REGISTER_MODE_WP."""
    end = page_range(mm, start, length)
    mm.need_range(start, end)
    mm.change_flags(start, end, lambda vma: vma.flags | b.VM_UFFD_WP)


def writeprotect(mm: LiveMM, record: Record, start: int, length: int, mode: int) -> None:
    """UFFDIO_WRITEPROTECT of a range, VMA by VMA.

    Raises
    ------
    Refused
        EINVAL; ENOENT where a VMA is not registered or nothing is mapped.
    """
    end = page_range(mm, start, length)
    if mode & ~UFFDIO_WRITEPROTECT_MODE_WP:
        raise Refused(errno.EINVAL, start, f"mode={mode:#x} has unknown bits")
    vmas = mm.vmas_in(start, end)
    if not vmas or any(not vma.flags & b.VM_UFFD_WP for vma in vmas):
        raise Refused(errno.ENOENT, start, "the range is not registered for write protection")
    for vma in vmas:
        flags = b.MM_CP_UFFD_WP if mode else b.MM_CP_UFFD_WP_RESOLVE
        if not mode and vma.flags & b.VM_WRITE and not vma.flags & b.VM_SHARED:
            # what was writable becomes so again at once
            flags |= b.MM_CP_TRY_CHANGE_WRITABLE
        walk = Walk(
            mm,
            newprot=vma.page_prot,
            cp_flags=flags,
            vm_flags=vma.flags,
            anon=vma.anonymous,
            design=design_of(mm.machine.strategy),
            record=record,
        )
        walk.change_protection(max(vma.start, start), min(vma.end, end))
