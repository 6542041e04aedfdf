"""mlock(2), munlock(2) and mseal(2).

Kernel counterparts: mm/mlock.c, mm/mseal.c.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from typing import TYPE_CHECKING

from .. import bits as b
from .madvise import fault_in
from .mmap import page_range
from .mprotect import Refused

if TYPE_CHECKING:
    from .live import LiveMM


def do_mlock(mm: LiveMM, start: int, length: int, *, on_fault: bool = False) -> None:
    """mlock(2); `on_fault`: MLOCK_ONFAULT. The range is locked, then populated.

    Raises
    ------
    Refused
        ENOMEM for a hole: what lies before it is locked.
    """
    start, end = _whole_pages(mm, start, length)
    flags = b.VM_LOCKED | (b.VM_LOCKONFAULT if on_fault else 0)
    _apply(mm, start, end, flags)
    if on_fault:
        return
    for vma in mm.vmas_in(start, end):
        try:
            populate_vma(mm, max(vma.start, start), min(vma.end, end))
        except Refused as why:
            raise Refused(errno.ENOMEM, why.addr, f"what is locked could not be populated: {why.reason}") from None


def populate_vma(mm: LiveMM, start: int, end: int) -> None:
    """populate_vma_page_range(): private pages that may be written are written.

    Raises
    ------
    Refused
        EFAULT: PROT_NONE, or a guard; what lies before it is populated.
    """
    vma = mm.vma_at(start)
    assert vma is not None
    if vma.flags & b.VM_LOCKONFAULT:
        return
    if not vma.accessible:
        raise Refused(errno.EFAULT, start, f"VMA {vma.start:#x} has no access")
    write = vma.flags & (b.VM_WRITE | b.VM_SHARED) == b.VM_WRITE
    for addr in range(start, end, mm.page_size):
        fault_in(mm, addr, write=write)


def do_munlock(mm: LiveMM, start: int, length: int) -> None:
    """munlock(2)."""
    _apply(mm, *_whole_pages(mm, start, length), 0)


def _whole_pages(mm: LiveMM, start: int, length: int) -> tuple[int, int]:
    """The pages that a range meets: it need not begin with one."""
    inside = start % mm.page_size
    return start - inside, page_range(mm, start - inside, length + inside)


def _apply(mm: LiveMM, start: int, end: int, flags: int) -> None:
    """apply_vma_lock_flags(): up to the first hole."""
    addr = start
    while addr < end:
        vma = mm.vma_at(addr)
        if vma is None:
            raise Refused(errno.ENOMEM, addr, f"nothing is mapped at {addr:#x}")
        stop = min(vma.end, end)
        mm.change_flags(addr, stop, lambda vma: vma.flags & ~(b.VM_LOCKED | b.VM_LOCKONFAULT) | flags)
        addr = stop


def do_mseal(mm: LiveMM, start: int, length: int) -> None:
    """mseal(2): all of the range, or nothing.

    Raises
    ------
    Refused
        EINVAL, ENOMEM.
    """
    end = page_range(mm, start, length)
    if end == start:
        return
    mm.need_range(start, end)
    mm.change_flags(start, end, lambda vma: vma.flags | b.VM_SEALED)


def check_populated(mm: LiveMM, start: int, end: int, old_flags: int, new_flags: int) -> None:
    """What mprotect() does at the end of a VMA that is locked and becomes writable; it does not tell what fails."""
    kind = b.VM_WRITE | b.VM_SHARED | b.VM_LOCKED
    if old_flags & kind == b.VM_LOCKED and new_flags & b.VM_WRITE:
        with suppress(Refused):
            populate_vma(mm, start, end)
