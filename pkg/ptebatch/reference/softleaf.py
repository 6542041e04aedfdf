"""mprotect of entries that are not present: swap, migration, devices, markers.

Restates the softleaf rules of spec 1.6 and 6.7. Kernel counterparts:
include/linux/leafops.h, swapops.h; mm/mprotect.c.
"""

from __future__ import annotations

from .. import bits as b
from . import pte as p
from .folio_batch import Pages


def _set_uffd(word: int, cp_flags: int) -> int:
    if cp_flags & b.MM_CP_UFFD_WP:
        return word | b.PTE_SWP_UFFD
    if cp_flags & b.MM_CP_UFFD_WP_RESOLVE:
        return word & ~b.PTE_SWP_UFFD
    return word


def _marker(mm: Pages, addr: int, word: int, cp_flags: int) -> int:
    known = b.PTE_MARKER_POISONED | (b.PTE_MARKER_GUARD if mm.machine.guard_markers else 0)
    if p.swp_offset(word) & known:
        return 0
    if cp_flags & b.MM_CP_UFFD_WP_RESOLVE:
        # The only marker left to drop is userfaultfd's.
        mm.pte_clear(addr)
        return 1
    return 0


def change_softleaf(mm: Pages, addr: int, word: int, cp_flags: int) -> int:
    """Change one entry that is neither none nor present.

    Parameters
    ----------
    mm : Pages
    addr : int
    word : int
        The entry.
    cp_flags : int
        MM_CP_*.

    Returns
    -------
    int
        1 if it changed: it counts as a page.
    """
    machine = mm.machine
    kind = p.swp_type(word)
    migration_write = machine.swp_migration_read + 2
    if kind == b.SWP_TYPE_MASK:
        return _marker(mm, addr, word, cp_flags)
    new = word
    if kind == migration_write:
        # An exclusive anonymous page stays exclusive; flags of the old word are not carried over.
        anon = mm.page_folio(p.softleaf_pfn(mm.page_shift, word)).anon
        new = p.swp_entry(migration_write - 1 if anon else migration_write - 2, p.swp_offset(word))
    elif kind != 0 and kind in (machine.swp_device_write, machine.swp_exclusive_write):
        # Writable becomes readable, which is the next type; userfaultfd's bit stays.
        new = p.swp_entry(kind + 1, p.swp_offset(word)) | (word & b.PTE_SWP_UFFD)
    new = _set_uffd(new, cp_flags)
    if new == word:
        return 0
    mm.set_ptes(addr, new)
    return 1
