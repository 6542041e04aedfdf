"""madvise(2).

Restates spec 8.4 and 8.8. Kernel counterpart: mm/madvise.c; population: mm/gup.c.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from .. import bits as b
from ..errors import LayoutError
from . import pte as p
from .collapse import collapse
from .fault import Signal, access, anon_vma_prepare
from .huge_memory import huge_folio, split_folio, young_huge_pmd
from .memory import Unmap, tables_of
from .mmap import page_range
from .mprotect import Refused
from .vma import RefVma

if TYPE_CHECKING:
    from .live import LiveMM

MADV_NORMAL = 0
MADV_RANDOM = 1
MADV_SEQUENTIAL = 2
MADV_DONTNEED = 4
MADV_FREE = 8
MADV_DONTFORK = 10
MADV_DOFORK = 11
MADV_HUGEPAGE = 14
MADV_NOHUGEPAGE = 15
MADV_DONTDUMP = 16
MADV_DODUMP = 17
MADV_WIPEONFORK = 18
MADV_KEEPONFORK = 19
MADV_COLD = 20
MADV_POPULATE_READ = 22
MADV_POPULATE_WRITE = 23
MADV_DONTNEED_LOCKED = 24
MADV_COLLAPSE = 25
MADV_GUARD_INSTALL = 102
MADV_GUARD_REMOVE = 103

#: advice -> flags of a VMA that it sets, and those that it clears
_FLAGS = {
    MADV_NORMAL: (0, b.VM_SEQ_READ | b.VM_RAND_READ),
    MADV_RANDOM: (b.VM_RAND_READ, b.VM_SEQ_READ),
    MADV_SEQUENTIAL: (b.VM_SEQ_READ, b.VM_RAND_READ),
    MADV_DONTDUMP: (b.VM_DONTDUMP, 0),
    MADV_DODUMP: (0, b.VM_DONTDUMP),
    MADV_DONTFORK: (b.VM_DONTCOPY, 0),
    MADV_DOFORK: (0, b.VM_DONTCOPY),
    MADV_HUGEPAGE: (b.VM_HUGEPAGE, b.VM_NOHUGEPAGE),
    MADV_NOHUGEPAGE: (b.VM_NOHUGEPAGE, b.VM_HUGEPAGE),
    MADV_WIPEONFORK: (b.VM_WIPEONFORK, 0),
    MADV_KEEPONFORK: (0, b.VM_WIPEONFORK),
}
#: flags of a VMA that an advice is refused for (6.12; later kernels refuse DOFORK for more that is no memory)
_NEVER = {
    MADV_DOFORK: b.VM_IO,
    MADV_DODUMP: b.VM_IO | b.VM_DONTEXPAND | b.VM_PFNMAP | b.VM_MIXEDMAP | b.VM_DROPPABLE,
    MADV_KEEPONFORK: b.VM_DROPPABLE,
}
#: advice that kernels know and the model does not
_NOT_MODELLED = {
    3: "MADV_WILLNEED",
    9: "MADV_REMOVE",
    12: "MADV_MERGEABLE",
    13: "MADV_UNMERGEABLE",
    21: "MADV_PAGEOUT",
    100: "MADV_HWPOISON",
    101: "MADV_SOFT_OFFLINE",
}

#: advice after which what was there is gone
_DISCARDS = frozenset({MADV_FREE, MADV_DONTNEED, MADV_DONTNEED_LOCKED, MADV_DONTFORK, MADV_WIPEONFORK, MADV_GUARD_INSTALL})


def do_madvise(mm: LiveMM, start: int, length: int, advice: int) -> None:
    """madvise(2).

    Raises
    ------
    Refused
        EINVAL: advice that is unknown or not for this memory; EPERM: sealed memory would lose
        what it holds; ENOMEM: holes, of which those behind were dealt with.
    LayoutError
        Advice that the kernel knows and the model does not.
    """
    if advice in _NOT_MODELLED:
        raise LayoutError(f"{_NOT_MODELLED[advice]} is not modelled; leave the call out")
    acts = _ACTIONS.get(advice)
    if acts is None and advice not in _FLAGS and advice not in (MADV_POPULATE_READ, MADV_POPULATE_WRITE):
        raise Refused(errno.EINVAL, start, f"advice={advice} is unknown; known: {', '.join(map(str, sorted(KNOWN)))}")
    if advice in (MADV_GUARD_INSTALL, MADV_GUARD_REMOVE) and not mm.machine.guard_markers:
        raise Refused(errno.EINVAL, start, f"{mm.machine.kernel} has no guard markers")
    end = page_range(mm, start, length)
    if advice in (MADV_POPULATE_READ, MADV_POPULATE_WRITE):
        populate(mm, start, end, write=advice == MADV_POPULATE_WRITE)
        return
    addr, hole = start, False
    for vma in mm.vmas_in(start, end):
        hole |= vma.start > addr
        low, high = max(vma.start, start), min(vma.end, end)
        if advice in _DISCARDS and vma.flags & b.VM_SEALED and vma.anonymous and not vma.flags & b.VM_WRITE:
            raise Refused(errno.EPERM, low, f"VMA {vma.start:#x} is sealed and may not be written")
        if advice == MADV_WIPEONFORK and not vma.anonymous:
            raise Refused(errno.EINVAL, low, f"VMA {vma.start:#x} is not anonymous")
        if advice in _NEVER and vma.flags & _NEVER[advice]:
            raise Refused(errno.EINVAL, low, f"VMA {vma.start:#x} is no plain memory: flags={vma.flags:#x}")
        if acts is not None:
            acts(mm, vma, low, high)
        else:
            mm.change_flags(low, high, _advised(*_FLAGS[advice]))
        addr = vma.end
    if hole or addr < end:
        raise Refused(errno.ENOMEM, addr, "a part of the range is not mapped; the rest was advised")


def _advised(on: int, off: int) -> Callable[[RefVma], int]:
    return lambda vma: vma.flags & ~off | on


# ---- giving back ----


def _dontneed(mm: LiveMM, vma: RefVma, start: int, end: int) -> None:
    if vma.flags & (b.VM_LOCKED | b.VM_HUGETLB | b.VM_PFNMAP):
        raise Refused(errno.EINVAL, start, f"VMA {vma.start:#x} is locked or no memory")
    _dontneed_locked(mm, vma, start, end)


def _dontneed_locked(mm: LiveMM, vma: RefVma, start: int, end: int) -> None:
    if vma.flags & (b.VM_HUGETLB | b.VM_PFNMAP):
        raise Refused(errno.EINVAL, start, f"VMA {vma.start:#x} is no memory")
    Unmap(mm, keep_markers=True, reclaim=True).vma(start, end)


def _free(mm: LiveMM, vma: RefVma, start: int, end: int) -> None:
    if not vma.anonymous or vma.flags & b.VM_LOCKED:
        raise Refused(errno.EINVAL, start, f"VMA {vma.start:#x} is not anonymous, or locked")
    _grow_old(mm, start, end, dirty=True)


def _cold(mm: LiveMM, vma: RefVma, start: int, end: int) -> None:
    if vma.flags & (b.VM_LOCKED | b.VM_HUGETLB | b.VM_PFNMAP):
        raise Refused(errno.EINVAL, start, f"VMA {vma.start:#x} is locked or no memory")
    _grow_old(mm, start, end, dirty=False)


def _grow_old(mm: LiveMM, start: int, end: int, *, dirty: bool) -> None:
    """madvise_free_pte_range(), madvise_cold_or_pageout_pte_range(): A, and with `dirty` D, are cleared.

    A folio of which only a part is meant is split first.
    """
    unmap = Unmap(mm)
    for low, high in tables_of(mm, start, end):
        first = mm.table_start(low)
        if first in mm.pmds:
            folio = huge_folio(mm, mm.pmds[first])
            if folio is None:
                continue
            if low == first and high == first + mm.pmd_size:
                if young_huge_pmd(mm, first, dirty=dirty):
                    unmap.gather.flush_pmd_range(first, mm.pmd_size)
                continue
            if mm.frames.use(folio).shared or not split_folio(mm, folio):
                continue
        if mm.has_table(low):
            _grow_old_table(mm, unmap, low, high, dirty=dirty)
    unmap.flush()


def _grow_old_table(mm: LiveMM, unmap: Unmap, start: int, end: int, *, dirty: bool) -> None:
    mm.flush_batched_pending()
    addr = start
    while addr < end:
        word = mm.ptep_get(addr)
        folio = mm.vm_normal_page(word) if p.pte_present(word) else None
        nr = 1
        if folio is not None and folio.large:
            words = [word]
            nr = mm.folio_pte_batch(folio, addr, word, (end - addr) // mm.page_size, respect_write=False, seen=words)
            if nr < folio.nr:
                shared = mm.frames.use(folio).shared
                if not shared and split_folio(mm, folio):
                    # the table was unlocked meanwhile
                    mm.flush_batched_pending()
                    continue
                addr += nr * mm.page_size
                continue
            word |= b.PTE_AF if any(p.pte_young(each) for each in words) else 0
            word |= b.PTE_DIRTY if any(p.pte_dirty(each) for each in words) else 0
        alone = folio is not None and (dirty or mm.frames.mapcount(folio) == folio.nr)
        if alone and (p.pte_young(word) or (dirty and p.pte_dirty(word))):
            mm.clear_young_dirty_ptes(addr, nr, dirty=dirty)
            unmap.gather.flush_pte_range(addr, nr * mm.page_size)
        addr += nr * mm.page_size


# ---- guards ----

_GUARD = p.make_pte_marker(b.PTE_MARKER_GUARD)


def _guard_install(mm: LiveMM, vma: RefVma, start: int, end: int) -> None:
    if vma.flags & (b.VM_LOCKED | b.VM_HUGETLB | b.VM_PFNMAP | b.VM_IO | b.VM_MIXEDMAP):
        raise Refused(errno.EINVAL, start, f"VMA {vma.start:#x} cannot have guards")
    if mm.machine.sticky_flags:
        # all of the VMA says that there may be some
        vma = mm.vma_list.put(vma, replace(vma, flags=vma.flags | b.VM_MAYBE_GUARD))
    if vma.anonymous or not mm.machine.sticky_flags:
        # fork is to copy the table; where the VMA says so itself, only anonymous ones need it
        anon_vma_prepare(mm, vma)
    while not _install(mm, start, end):
        # something is mapped: all of the range is given back, then it begins again
        Unmap(mm, keep_markers=True).vma(start, end)


def _install(mm: LiveMM, start: int, end: int) -> bool:
    for low, high in tables_of(mm, start, end):
        if mm.table_start(low) in mm.pmds:
            return False
        mm.alloc_table(low)
        for addr in range(low, high, mm.page_size):
            word = mm.ptep_get(addr)
            if word == _GUARD:
                continue
            if not p.pte_none(word):
                return False
            mm.set_ptes(addr, _GUARD)
    return True


def _guard_remove(mm: LiveMM, vma: RefVma, start: int, end: int) -> None:
    for addr in range(start, end, mm.page_size):
        if mm.has_table(addr) and mm.ptep_get(addr) == _GUARD:
            mm.pte_clear(addr)


# ---- population ----


def populate(mm: LiveMM, start: int, end: int, *, write: bool) -> None:
    """faultin_page_range(): pages that are not there, or not writable, fault as if they were accessed.

    Raises
    ------
    Refused
        ENOMEM for a hole, EINVAL for a VMA that has not the access, EFAULT for a guard.
    """
    for addr in range(start, end, mm.page_size):
        vma = mm.vma_at(addr)
        if vma is None:
            raise Refused(errno.ENOMEM, addr, f"nothing is mapped at {addr:#x}")
        if not vma.flags & (b.VM_WRITE if write else b.VM_READ):
            raise Refused(errno.EINVAL, addr, f"VMA {vma.start:#x} has not the access")
        fault_in(mm, addr, write=write)


def fault_in(mm: LiveMM, addr: int, *, write: bool) -> None:
    """What get_user_pages() does to have a page: a fault where there is none, or none that may be written.

    Raises
    ------
    Refused
        EFAULT.
    """
    if not mm.is_there(addr, write=write):
        try:
            access(mm, addr, write=write)
        except Signal:
            raise Refused(errno.EFAULT, addr, f"there is a guard at {addr:#x}") from None


def _collapse(mm: LiveMM, vma: RefVma, start: int, end: int) -> None:
    collapse(mm, vma, start, end)


_ACTIONS: dict[int, Callable[[LiveMM, RefVma, int, int], None]] = {
    MADV_DONTNEED: _dontneed,
    MADV_DONTNEED_LOCKED: _dontneed_locked,
    MADV_FREE: _free,
    MADV_COLD: _cold,
    MADV_COLLAPSE: _collapse,
    MADV_GUARD_INSTALL: _guard_install,
    MADV_GUARD_REMOVE: _guard_remove,
}
#: what `do_madvise` knows
KNOWN = frozenset(_ACTIONS) | frozenset(_FLAGS) | {MADV_POPULATE_READ, MADV_POPULATE_WRITE}
