"""What the laws look at: a world, what a run of it left, and what the contracts say of it.

Plain Python over integers, one entry at a time, with the accessors of the
reference; nothing compiled. Rules: spec 6.6, 6.7, 7.9, 7.10.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from operator import or_

import numpy as np

from ... import bits as b
from ...events import KINDS
from ...machine import Machine
from ...notation.strip import draw
from ...reference import pte as p
from ..worlds.small import SmallWorld

__all__ = ["CLEAN", "SOILED", "YOUNG", "Breach", "Replayed", "Run", "show"]

CLEAN, YOUNG, SOILED = 0, 1, 2
#: accessed, dirty, and where a block folds
AD_BITS = b.PTE_CONT | b.PTE_AF | b.PTE_DIRTY | b.PTE_RDONLY


@dataclass(frozen=True, slots=True)
class Breach:
    """How a law is broken.

    Parameters
    ----------
    entry : int
        First entry that breaks it; -1: none in particular.
    expected, got : str
        In words.
    """

    entry: int
    expected: str
    got: str


@dataclass(frozen=True, slots=True)
class Replayed:
    """What the same call left when work that repeats was replayed, as an address space does it.

    Parameters
    ----------
    after, pages, counters, gathered
        As of `Run`.
    differ : str
        What else is not as it is step by step: ``batches``, ``subs`` or ``flushes``; else empty.
    """

    after: tuple[int, ...]
    pages: int
    counters: dict[str, int]
    gathered: tuple[int, int] | None
    differ: str = ""


@dataclass(slots=True)
class Run:
    """A world and what one run of its call left.

    Parameters
    ----------
    world : SmallWorld
    after : tuple of int
        Words of the table.
    pages : int
        What the call returned.
    stopped, started : int
        Entry at which the walk ended; entries cleared and not committed.
    counters : dict of str to int
    gathered : (int, int) or None
        Addresses that were gathered for the final flush.
    events : list of (int, int, int)
        Kind, address, value; empty if not traced.
    updates : list of (int, int, bool)
        What hardware did: after how many events, which entry, whether it was a write.
    error : Exception or None
        What ended the step.
    reset : bool
        The gather was empty again after the final flush.
    replayed : Replayed or None
        Of a second run; None: there was none.
    reached, spreads : list of int
        What `reaches` and `spread` found, once they were asked.
    known, whole : list, dict
        What `page` found, and by first entry whether a block maps one piece of a folio.
    """

    world: SmallWorld
    after: tuple[int, ...]
    pages: int
    stopped: int
    started: int
    counters: dict[str, int]
    gathered: tuple[int, int] | None
    events: list[tuple[int, int, int]] = field(default_factory=list)
    updates: list[tuple[int, int, bool]] = field(default_factory=list)
    error: BaseException | None = None
    reset: bool = True
    replayed: Replayed | None = None
    reached: list[int] = field(default_factory=list, init=False, repr=False, compare=False)
    spreads: list[int] = field(default_factory=list, init=False, repr=False, compare=False)
    known: list[int | None] = field(default_factory=list, init=False, repr=False, compare=False)
    whole: dict[int, bool] = field(default_factory=dict, init=False, repr=False, compare=False)

    # ---- the world ----

    @property
    def machine(self) -> Machine:
        """The world's machine."""
        return self.world.machine

    @property
    def before(self) -> tuple[int, ...]:
        """Words of the table before the call."""
        return self.world.ptes

    @property
    def cp_flags(self) -> int:
        """MM_CP_* flags of the call."""
        return self.world.change.cp_flags

    @property
    def vm_flags(self) -> int:
        """VM_* flags of the call."""
        return self.world.change.vm_flags

    @property
    def rounded(self) -> tuple[int, int]:
        """The range rounded out to contpte blocks."""
        n = self.machine.cont_ptes
        return self.world.start // n * n, -(-self.world.end // n) * n

    @property
    def called(self) -> range:
        """Entries of the range."""
        return range(self.world.start, self.world.end)

    def pfn(self, word: int) -> int:
        """Frame of a present word."""
        return p.pte_pfn(self.world.machine.page_shift, word)

    def page(self, i: int) -> int | None:
        """Metadata of the page that entry i mapped before; None without one."""
        if not self.known:
            self.known = [self._page(word) for word in self.world.ptes]
        return self.known[i]

    def _page(self, word: int) -> int | None:
        if not p.pte_present(word) or p.pte_special(word):
            return None
        at = self.pfn(word) - self.world.pfn_base
        return self.world.pages[at] if 0 <= at < len(self.world.pages) else None

    def folio(self, i: int) -> tuple[int, int] | None:
        """Head and order of the folio that entry i mapped before."""
        page = self.page(i)
        if page is None:
            return None
        order = page & b.PG_ORDER_MASK
        return self.pfn(self.before[i]) >> order << order, order

    def exclusive(self, i: int) -> bool:
        """The page of entry i is anonymous and PageAnonExclusive."""
        page = self.page(i)
        return page is not None and bool(page & b.PG_ANON) and bool(page & b.PG_ANON_EXCLUSIVE)

    # ---- contracts ----

    def skipped(self, i: int) -> bool:
        """prot_numa leaves a present entry alone (spec 6.7)."""
        page = self.page(i)
        numa = bool(self.cp_flags & b.MM_CP_PROT_NUMA)
        return numa and (p.pte_protnone(self.before[i]) or page is None or bool(page & b.PG_NUMA_SKIP))

    def handled(self, i: int) -> bool:
        """Entry i is one that the call must start and commit."""
        return i in self.called and p.pte_present(self.before[i]) and not self.skipped(i)

    def not_present_after(self, word: int) -> int:
        """What an entry that is not present becomes (spec 6.7)."""
        wp, resolve = self.cp_flags & b.MM_CP_UFFD_WP, self.cp_flags & b.MM_CP_UFFD_WP_RESOLVE
        if word == 0:
            marks = wp and self.vm_flags & b.VM_UFFD_WP and not self.world.change.anon
            return p.swp_entry(31, b.PTE_MARKER_UFFD_WP) if marks else 0
        kind, offset, uffd = p.swp_type(word), p.swp_offset(word), word & b.PTE_SWP_UFFD
        if kind == 31:
            stays = offset & b.PTE_MARKER_POISONED or (offset & b.PTE_MARKER_GUARD and self.machine.guard_markers)
            return 0 if resolve and not stays else word
        if kind == self.machine.swp_migration_read + 2:
            at = p.softleaf_pfn(self.machine.page_shift, word) - self.world.pfn_base
            anon = 0 <= at < len(self.world.pages) and self.world.pages[at] & b.PG_ANON
            word = p.swp_entry(kind - 1 if anon else kind - 2, offset)
        elif kind and kind in (self.machine.swp_device_write, self.machine.swp_exclusive_write):
            word = p.swp_entry(kind + 1, offset) | uffd
        if wp:
            return word | b.PTE_SWP_UFFD
        return word & ~b.PTE_SWP_UFFD if resolve else word

    def present_after(self, i: int) -> int:
        """What a present entry becomes, without the upgrade to WRITE (spec 2.3, 6.7)."""
        new = p.pte_modify(self.before[i], self.world.change.newprot)
        if self.cp_flags & b.MM_CP_UFFD_WP:
            return p.pte_mkuffd(new)
        return p.pte_clear_uffd(new) if self.cp_flags & b.MM_CP_UFFD_WP_RESOLVE else new

    def may_be_writable(self, i: int) -> bool:
        """TRY_CHANGE_WRITABLE may give entry i WRITE, as far as VMA and word go (spec 6.6)."""
        new = self.present_after(i)
        tries = self.cp_flags & b.MM_CP_TRY_CHANGE_WRITABLE and self.vm_flags & b.VM_WRITE and not p.pte_protnone(new)
        return bool(tries) and not (self.vm_flags & b.VM_UFFD_WP and p.pte_uffd(new))

    # ---- accessed and dirty ----

    @staticmethod
    def ad(word: int) -> int:
        """YOUNG and SOILED of a word."""
        return YOUNG * p.pte_young(word) | SOILED * p.pte_dirty(word)

    def must(self, i: int) -> int:
        """What entry i had before."""
        return self.ad(self.before[i]) if p.pte_present(self.before[i]) else CLEAN

    def set_by_hardware(self, i: int) -> int:
        """What hardware set in entry i during the call."""
        found = CLEAN
        for _, entry, write in self.updates:
            if entry == i:
                found |= YOUNG | SOILED * write
        return found

    def accessed(self, i: int) -> bool:
        """AF of entry i was set before the call, or by hardware before the entry got other rights."""
        rights = b.PTE_CHG_MASK & ~b.PTE_RDONLY
        for when, entry, _ in self.updates:
            before = self.events[:when] if entry == i else []
            moved = any(
                KINDS[kind] == "W" and addr >> self.machine.page_shift == i and (word ^ self.before[i]) & rights
                for kind, addr, word in before
            )
            if entry == i and not moved:
                return True
        return bool(self.must(i) & YOUNG)

    def may(self, i: int) -> int:
        """What entry i had before or got from hardware."""
        return self.must(i) | self.set_by_hardware(i)

    def linked(self, i: int) -> bool:
        """A/D may pass between entries i and i + 1 (spec 7.10): inside a unit, or a block that may be converted."""
        if not self.adjacent(i):
            return False
        n = self.world.machine.cont_ptes
        first = i // n * n
        if (i + 1) % n and self.pfn(self.before[first]) % n == 0:
            if first not in self.whole:
                self.whole[first] = all(map(self.adjacent, range(first, first + n - 1)))
            if self.whole[first]:
                return True
        return self.alike(self.before[i], self.before[i + 1])

    def adjacent(self, i: int) -> bool:
        """Entries i and i + 1, of one table, map consecutive pages of one folio."""
        if (i + 1) % self.machine.ptrs_per_pte == 0 or self.folio(i) is None or self.folio(i) != self.folio(i + 1):
            return False
        return self.pfn(self.before[i + 1]) == self.pfn(self.before[i]) + 1

    def alike(self, one: int, other: int) -> bool:
        """Two words differ in nothing but the frame, A/D and CONT."""
        shift = self.machine.page_shift
        return not (p.pte_pgprot(shift, one) ^ p.pte_pgprot(shift, other)) & ~AD_BITS

    def spread(self, i: int) -> int:
        """A/D that may have come to entry i: of a traced run from what was started at a time, or converted with it."""
        if not self.spreads:
            self.spreads = [self.reaches(k) for k in range(len(self.before))]
            if self.events:
                self.spreads = [one & other for one, other in zip(self.spreads, self._passed_on(), strict=True)]
        return self.spreads[i]

    def reaches(self, i: int) -> int:
        """A/D that any loop's unit could bring to entry i from its neighbours inside the rounded range."""
        if not self.reached:
            self.reached = self._reached()
        return self.reached[i]

    def _passed_on(self) -> list[int]:
        """What the events of the call pass on to each entry: a step may give what it holds to all that it holds."""
        got = [self.may(i) for i in range(len(self.before))]
        held: set[int] = set()
        every = 0
        for kind, addr, value in self.events:
            name, i = KINDS[kind], addr >> self.machine.page_shift
            part = range(i, i + value)
            if name not in ("START", "COMMIT", "FOLD", "UNFOLD") or part.stop > len(got):
                continue
            seen = reduce(or_, got[i : part.stop], 0)
            if name == "START":
                held.update(part)
                every |= seen
            elif name == "COMMIT":
                got[i : part.stop] = [every] * value
                held.difference_update(part)
                every = every if held else 0
            else:
                got[i : part.stop] = [seen] * value
                # a block that start() unfolds: its A/D go on to all that is started
                every |= 0 if held.isdisjoint(part) else seen
        return got

    def _reached(self) -> list[int]:
        """`reaches` of every entry: what comes from below, and what comes from above."""
        low, high = self.rounded
        own = [self.may(i) for i in range(len(self.before))]
        below, above = own.copy(), own.copy()
        for i in range(low + 1, len(own)):
            if self.linked(i - 1):
                below[i] |= below[i - 1]
        for i in range(high - 2, -1, -1):
            if self.linked(i):
                above[i] |= above[i + 1]
        return [one | other for one, other in zip(below, above, strict=True)]


_HOW = "dirty,young,exec,special,uffd,exclusive,pfn"


def show(run: Run, word: int) -> str:
    """One word as the notation draws it."""
    return draw(np.array([word], np.uint64), run.machine, exclusive=np.array([False]), fields=_HOW).replace(",nopae", "")
