"""/proc/PID/clear_refs.

Restates spec 8.8. Kernel counterpart: fs/proc/task_mmu.c (clear_refs_write).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from .. import bits as b
from . import pte as p
from .memory import tables_of
from .mprotect import Refused

if TYPE_CHECKING:
    from .live import LiveMM

CLEAR_REFS_ALL = 1
CLEAR_REFS_ANON = 2
CLEAR_REFS_MAPPED = 3
CLEAR_REFS_SOFT_DIRTY = 4
CLEAR_REFS_MM_HIWATER_RSS = 5


def clear_refs(mm: LiveMM, kind: int) -> None:
    """Write 1 to 5: the accessed bits of all, of anonymous or of file mappings; soft-dirty; the peak of memory.

    Nothing is flushed for accessed bits. arm64 has no soft-dirty bit in its entries.

    Raises
    ------
    Refused
        EINVAL.
    """
    if kind not in range(CLEAR_REFS_ALL, CLEAR_REFS_MM_HIWATER_RSS + 1):
        raise Refused(errno.EINVAL, 0, f"clear_refs={kind} is unknown; give 1 to 5")
    if kind == CLEAR_REFS_SOFT_DIRTY:
        mm.change_flags(0, 1 << mm.machine.va_bits, lambda vma: vma.flags & ~b.VM_SOFTDIRTY)
        mm.flush_mm()
        return
    if kind == CLEAR_REFS_MM_HIWATER_RSS:
        return
    for vma in mm.vmas():
        if kind == CLEAR_REFS_ALL or (kind == CLEAR_REFS_ANON) == (not vma.file):
            for low, high in tables_of(mm, vma.start, vma.end):
                _table(mm, low, high)


def _table(mm: LiveMM, start: int, end: int) -> None:
    first = mm.table_start(start)
    if first in mm.pmds:
        mm.pmds[first] = p.pte_mkold(mm.pmds[first])
        return
    if not mm.has_table(start):
        return
    for addr in range(start, end, mm.page_size):
        word = mm.ptep_get(addr)
        if p.pte_present(word) and mm.vm_normal_page(word) is not None:
            mm.ptep_test_and_clear_young(addr)
