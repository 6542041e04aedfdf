"""Entries of a layout that are not as folios map them: holes, accessed and dirty, copies that a fork made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .. import bits

if TYPE_CHECKING:
    from ..mm.mm import MM

__all__ = ["edit"]

BoolArray = NDArray[np.bool_]


def edit(
    mm: MM,
    start: int,
    pages: int,
    writable: bool,
    copied: BoolArray,
    copies: int,
    present: BoolArray,
    young: BoolArray,
    dirty: BoolArray,
) -> None:
    """Change entries that were mapped before, as faults and fork would have left them.

    Parameters
    ----------
    mm : MM
    start, pages : int
        Where they are; one after the other.
    writable : bool
        The VMA may be written to.
    copied : array of bool, shape (pages,)
        Entries that map a copy of their own.
    copies : int
        First frame of the copies, which have no metadata yet.
    present, young, dirty : array of bool, shape (pages,)
        Which entries are there, accessed, dirty.
    """
    if not copied.any() and present.all() and young.all() and dirty.all():
        return
    words = mm.ptes(start, pages)
    cont, nr = np.uint64(bits.PTE_CONT), mm.machine.cont_ptes
    # a block with a hole or a copy in it is unfolded: `start` is where a table begins
    broken = np.add.reduceat(copied | ~present, np.arange(0, pages, nr), dtype=np.int64) > 0
    words[np.repeat(broken, nr)[:pages]] &= ~cont
    frames = np.arange(copies, copies + int(copied.sum()), dtype=np.uint64)
    mm.pages[copies - mm.pfn_base :][: frames.size] = bits.PG_ANON | bits.PG_ANON_EXCLUSIVE
    flags = words[copied] & ~np.uint64((1 << bits.PTE_ADDR_END) - (1 << mm.machine.page_shift))
    words[copied] = flags | frames << np.uint64(mm.machine.page_shift)
    if writable:
        words[copied] = (words[copied] | np.uint64(bits.PTE_WRITE | bits.PTE_DIRTY)) & ~np.uint64(bits.PTE_RDONLY)
    # clean: RDONLY is set, of an entry that may be written to too, for hardware to clear (spec 2.1)
    words[~dirty] = words[~dirty] & ~np.uint64(bits.PTE_DIRTY) | np.uint64(bits.PTE_RDONLY)
    words[~young] &= ~np.uint64(bits.PTE_AF)
    words[~present] = 0
