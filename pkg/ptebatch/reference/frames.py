"""Page frames of a machine: an allocator, references, and who maps what.

Restates spec 4. Kernel counterparts: mm/page_alloc.c (a buddy allocator without zones
or per-CPU lists), include/linux/rmap.h (mapcounts, PageAnonExclusive), mm/rmap.c.
Several address spaces stand on the same frames; mprotect(2) touches none of this.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import LayoutError
from .mmu import Folio

if TYPE_CHECKING:
    from .filemap import Inode
    from .live import LiveMM

_SLOTS = 2


class Buddy:
    """Naturally aligned blocks of frames, the lowest that fits first.

    Parameters
    ----------
    base, nr : int
        First frame and how many there are.
    max_order : int
        Of the largest block.
    fragmentation : float
        Share of the blocks of the largest size in which single frames are taken from the
        start, so that no block of that size can be had there.
    seed : int
        Of the choice where.
    """

    def __init__(self, base: int, nr: int, max_order: int, *, fragmentation: float = 0.0, seed: int = 0) -> None:
        size = 1 << max_order
        if base % size or nr % size or nr <= 0 or not 0 <= fragmentation <= 1:
            raise LayoutError(
                f"memory of {nr:#x} frames from {base:#x} on, fragmentation={fragmentation}, cannot be; "
                f"give multiples of {size:#x} frames and a share from 0 to 1"
            )
        self.max_order = max_order
        self.free: list[set[int]] = [set() for _ in range(max_order + 1)]
        self.free[max_order] = set(range(base, base + nr, size))
        chance = random.Random(seed)
        for block in sorted(self.free[max_order]):
            if chance.random() < fragmentation:
                self._take(block + chance.randrange(size), 0)

    def nr_free(self) -> int:
        """Frames that are free."""
        return sum(len(blocks) << order for order, blocks in enumerate(self.free))

    def alloc(self, order: int) -> int | None:
        """Take 2**order frames; the first of them, None where there are none."""
        for have in range(order, self.max_order + 1):
            if self.free[have]:
                block = min(self.free[have])
                self._take(block, order)
                return block
        return None

    def take(self, pfn: int, order: int) -> None:
        """Take the block that begins at a frame; it must be free."""
        if not any(pfn >> have << have in self.free[have] for have in range(order, self.max_order + 1)):
            raise LayoutError(f"frames {pfn:#x} to {pfn + (1 << order):#x} are not free; choose others")
        self._take(pfn, order)

    def _take(self, pfn: int, order: int) -> None:
        have = next(o for o in range(order, self.max_order + 1) if pfn >> o << o in self.free[o])
        block = pfn >> have << have
        self.free[have].remove(block)
        while have > order:
            # the half that is not wanted stays free
            have -= 1
            half = block + (1 << have)
            self.free[have].add(block if pfn >= half else half)
            block = half if pfn >= half else block

    def give_back(self, pfn: int, order: int) -> None:
        """Free 2**order frames; buddies become one."""
        while order < self.max_order and pfn ^ (1 << order) in self.free[order]:
            self.free[order].remove(pfn ^ (1 << order))
            pfn &= ~(1 << order)
            order += 1
        self.free[order].add(pfn)


@dataclass(slots=True)
class Use:
    """Who uses a folio.

    Attributes
    ----------
    refs : int
        References: one a mapped entry, one a page of the page cache, one by who allocates.
    entire : int
        PMD entries that map it.
    slots : dict of int to int
        Address spaces that the kernel tells apart, at most two, and how often each maps
        a page of it (CONFIG_MM_ID, since 6.15).
    shared : bool
        folio_maybe_mapped_shared().
    deferred : bool
        Some of its pages are not mapped any more: it waits to be split.
    """

    refs: int = 1
    entire: int = 0
    slots: dict[int, int] = field(default_factory=dict)
    shared: bool = False
    deferred: bool = False


class Frames:
    """Memory of a machine.

    Parameters
    ----------
    buddy : Buddy
    """

    def __init__(self, buddy: Buddy) -> None:
        self.buddy = buddy
        self.folios: dict[int, Folio] = {}
        self.anon_exclusive: set[int] = set()
        self.uses: dict[int, Use] = {}
        self.mapcounts: dict[int, int] = {}
        self.mms: list[LiveMM] = []
        self.inodes: list[Inode] = []
        # what pages hold, one byte each; those that are not here hold 0
        self.contents: dict[int, int] = {}
        # parent of each anon_vma that was made; one without a parent is its own
        self.anon_vmas: dict[int, int] = {}
        zero = buddy.alloc(0)
        assert zero is not None
        self.zero_pfn = zero
        # first frame of the huge zero page, once one was asked for
        self.huge_zero_pfn: int | None = None
        # what folios can have: all but the zero page and what fragmentation took
        self.owned = buddy.nr_free()

    def huge_zero(self, order: int) -> int | None:
        """mm_get_huge_zero_folio(): its first frame; None where no such block is free."""
        if self.huge_zero_pfn is None:
            self.huge_zero_pfn = self.buddy.alloc(order)
            if self.huge_zero_pfn is not None:
                self.owned -= 1 << order
        return self.huge_zero_pfn

    # Allocation and references

    def alloc(self, order: int, *, anon: bool = True) -> Folio | None:
        """A new folio with one reference; None where no such block is free."""
        head = self.buddy.alloc(order)
        if head is None:
            return None
        folio = Folio(head, order, anon)
        self._add(folio, Use())
        return folio

    def _add(self, folio: Folio, use: Use) -> None:
        self.uses[folio.head] = use
        for pfn in range(folio.head, folio.head + folio.nr):
            self.folios[pfn] = folio

    def adopt(self, folio: Folio) -> None:
        """A folio whose frames were taken before this was made: one reference, that of who calls."""
        self._add(folio, Use())
        self.owned += folio.nr

    def use(self, folio: Folio) -> Use:
        """References and mappings of a folio."""
        return self.uses[folio.head]

    def get(self, folio: Folio, nr: int = 1) -> None:
        """folio_ref_add()."""
        self.uses[folio.head].refs += nr

    def put(self, folio: Folio, nr: int = 1) -> None:
        """folio_put_refs(): the last reference gives the memory back."""
        use = self.uses[folio.head]
        use.refs -= nr
        if use.refs > 0:
            return
        assert use.refs == 0 and not self.mapcount(folio), (folio, use)
        del self.uses[folio.head]
        for pfn in range(folio.head, folio.head + folio.nr):
            del self.folios[pfn]
            self.anon_exclusive.discard(pfn)
            self.mapcounts.pop(pfn, None)
            self.contents.pop(pfn, None)
        self.buddy.give_back(folio.head, folio.order)

    def copy_page(self, to: int, pfn: int) -> None:
        """copy_user_highpage()."""
        if pfn in self.contents:
            self.contents[to] = self.contents[pfn]

    # Mapcounts

    def mapcount(self, folio: Folio) -> int:
        """folio_mapcount(): entries of any level that map a page of it."""
        pages = range(folio.head, folio.head + folio.nr)
        return self.uses[folio.head].entire + sum(self.mapcounts.get(pfn, 0) for pfn in pages)

    def map_pages(self, folio: Folio, pfn: int, nr: int, mm_id: int) -> None:
        """folio_add_*_rmap_ptes(): nr pages from pfn on are mapped once more."""
        for each in range(pfn, pfn + nr):
            self.mapcounts[each] = self.mapcounts.get(each, 0) + 1
        self._note(folio, nr, mm_id)

    def unmap_pages(self, folio: Folio, pfn: int, nr: int, mm_id: int) -> None:
        """folio_remove_rmap_ptes()."""
        for each in range(pfn, pfn + nr):
            self.mapcounts[each] -= 1
            assert self.mapcounts[each] >= 0, each
        self._note(folio, -nr, mm_id)
        if folio.large and folio.anon and self.mapcount(folio):
            mapped = sum(self.mapcounts.get(each, 0) > 0 for each in range(folio.head, folio.head + folio.nr))
            if not self.uses[folio.head].entire and mapped < folio.nr:
                self.uses[folio.head].deferred = True

    def map_entire(self, folio: Folio, mm_id: int) -> None:
        """folio_add_*_rmap_pmd()."""
        self.uses[folio.head].entire += 1
        self._note(folio, 1, mm_id)

    def unmap_entire(self, folio: Folio, mm_id: int) -> None:
        """folio_remove_rmap_pmd()."""
        self.uses[folio.head].entire -= 1
        self._note(folio, -1, mm_id)

    def _note(self, folio: Folio, nr: int, mm_id: int) -> None:
        use = self.uses[folio.head]
        if mm_id in use.slots:
            use.slots[mm_id] += nr
            if not use.slots[mm_id]:
                del use.slots[mm_id]
        elif nr > 0 and len(use.slots) < _SLOTS:
            use.slots[mm_id] = nr
        # A third address space has no slot: only when one that has maps all of it again is it known alone.
        total = self.mapcount(folio)
        use.shared = total > 0 and total not in use.slots.values()

    # anon_vmas: how many VMAs have one, and how many have one of it

    def new_anon_vma(self, parent: int = 0) -> int:
        """Number of a new one."""
        number = len(self.anon_vmas) + 1
        self.anon_vmas[number] = parent or number
        return number

    def reusable_anon_vma(self, number: int) -> bool:
        """maybe_reuse_anon_vma(): no VMA has it for its own any more, and at most one anon_vma comes from it."""
        vmas = [vma for mm in self.mms for vma in mm.vma_list.vmas]
        linked = {each for vma in vmas for each in vma.chain}
        children = sum(parent == number and child in linked for child, parent in self.anon_vmas.items())
        return children < 2 and all(vma.anon_vma != number for vma in vmas)

    # Questions of the whole machine

    def mappings(self, folio: Folio) -> Iterator[tuple[LiveMM, int]]:
        """rmap_walk(): each leaf entry that maps a page of it: address space and address."""
        for mm in self.mms:
            for addr in sorted(mm.ptes):
                if mm.maps(addr, folio):
                    yield mm, addr

    def split(self, folio: Folio) -> list[Folio]:
        """Make each page a folio of its own; nothing of it is mapped. Returns those that are used."""
        use = self.uses.pop(folio.head)
        kept = []
        for pfn in range(folio.head, folio.head + folio.nr):
            page = Folio(pfn, 0, folio.anon)
            self._add(page, Use())
            kept.append(page)
        assert not use.entire
        return kept

    def check(self) -> None:
        """Conservation: every reference is one of an entry or of a page cache, every mapcount an entry's.

        Raises
        ------
        AssertionError
            With the folio that breaks it.
        """
        maps: dict[int, int] = {}
        entire: dict[int, int] = {}
        held: dict[int, int] = {}
        for mm in self.mms:
            for addr in mm.ptes:
                pfn = mm.mapped_pfn(addr)
                if pfn is not None:
                    maps[pfn] = maps.get(pfn, 0) + 1
            for head in mm.huge_heads():
                entire[head] = entire.get(head, 0) + 1
        for inode in self.inodes:
            held |= dict.fromkeys(inode.pages.values(), 1)
        for head, use in self.uses.items():
            folio = self.folios[head]
            pages = range(head, head + folio.nr)
            for pfn in pages:
                assert self.mapcounts.get(pfn, 0) == maps.get(pfn, 0), (folio, pfn, "mapcount")
            assert use.entire == entire.get(head, 0), (folio, use, "entire mapcount")
            owed = use.entire + sum(maps.get(pfn, 0) + held.get(pfn, 0) for pfn in pages)
            assert use.refs == owed, (folio, use, owed, "references")
        assert set(maps) <= set(self.folios), "a frame is mapped that is free"
        used = sum(self.folios[head].nr for head in self.uses)
        assert used + self.buddy.nr_free() == self.owned, "frames are lost"
