"""Files in memory: a page cache, its faults, and what is mapped around a fault.

Restates spec 8.1 for files. Kernel counterparts: mm/filemap.c (filemap_map_pages),
mm/shmem.c (what a memfd and shared anonymous memory are), mm/memory.c (do_fault).
There is no writeback and no read from a disk: a page that is not cached is a hole.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .frames import Frames
from .mmu import Folio

if TYPE_CHECKING:
    from .live import LiveMM

#: bytes that a read fault looks around in
FAULT_AROUND = 0x1_0000


@dataclass(eq=False)
class Inode:
    """A file of shared memory.

    Parameters
    ----------
    frames : Frames
    orders : frozenset of int
        Sizes of folios that a fault in a hole may allocate, besides single pages.
    size : int or None
        Pages that it has: a page behind them raises SIGBUS. None: as many as are asked for.

    Attributes
    ----------
    pages : dict of int to int
        Frame by page of the file; each holds a reference.
    dirty : set of int
        Heads of folios that are dirty.
    """

    frames: Frames
    orders: frozenset[int] = frozenset()
    size: int | None = None
    pages: dict[int, int] = field(default_factory=dict)
    dirty: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Let the machine know it."""
        self.frames.inodes.append(self)

    def write(self, first: int, nr: int) -> None:
        """write(2) of whole pages: they are cached and dirty."""
        for index in range(first, first + nr):
            folio = self.folio_at(index) or self.allocate(index, frozenset())
            self.dirty.add(folio.head)

    def note_dirty(self, folio: Folio) -> None:
        """folio_mark_dirty(), if it caches a page of this file."""
        if folio.head in self.pages.values():
            self.dirty.add(folio.head)

    def folio_at(self, index: int) -> Folio | None:
        """Folio that caches a page of the file."""
        return self.frames.folios[self.pages[index]] if index in self.pages else None

    def allocate(self, index: int, orders: frozenset[int]) -> Folio:
        """shmem_alloc_and_add_folio(): the largest folio that may and can be, naturally aligned in the file."""
        for order in sorted(orders | {0}, reverse=True):
            first = index >> order << order
            if any(each in self.pages for each in range(first, first + (1 << order))):
                continue
            folio = self.frames.alloc(order, anon=False)
            if folio is not None:
                self.frames.get(folio, folio.nr - 1)
                self.pages |= {first + i: folio.head + i for i in range(folio.nr)}
                return folio
        raise MemoryError("no frame is free")

    def drop(self) -> None:
        """The file is gone: its pages are given back once nothing maps them."""
        for index in sorted(self.pages):
            self.frames.put(self.frames.folios[self.pages[index]])
        self.pages.clear()
        self.dirty.clear()
        self.frames.inodes.remove(self)


def around(mm: LiveMM, addr: int, start: int, end: int) -> tuple[int, int]:
    """do_fault_around(): the addresses that a read fault at `addr` may map in a VMA [start, end)."""
    page = mm.page_size
    nr = max(1, FAULT_AROUND // page)
    index = mm.pte_index(addr)
    in_vma = (addr - start) // page
    low = max(index // nr * nr, index - min(index, in_vma))
    high = min(low + nr, mm.machine.ptrs_per_pte, index + (end - addr) // page)
    table = mm.table_start(addr)
    return table + low * page, table + high * page
