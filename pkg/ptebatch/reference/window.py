"""What a strategy sees of the page table: one present entry and the verbs it may use.

The same names as ``ptebatch.Window``, so that a step function runs on both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import StrategyError
from . import pte as p
from .mmu import Folio

if TYPE_CHECKING:
    from .change_protection import Walk


@dataclass(eq=False, repr=False)
class Window:
    """The entry that a step is called for.

    Offsets count entries from the window's own.

    Attributes
    ----------
    walk : Walk
        The call's part that the window belongs to; not for steps.
    addr : int
        Address of the entry.
    max_nr : int
        Entries up to the end of the range in this table.
    old : int
        What ptep_get() said of the entry.
    folio : Folio or None
        None without a page: the zero page, a frame map.
    started : dict of int to int
        Entries that were started and not committed: offset, frame.
    committed : set of int
        Entries that were committed.
    """

    walk: Walk
    addr: int
    max_nr: int
    old: int
    folio: Folio | None
    started: dict[int, int] = field(default_factory=dict)
    committed: set[int] = field(default_factory=set)

    # The entry

    @property
    def idx(self) -> int:
        """Table index of the entry."""
        return self.walk.mm.pte_index(self.addr)

    @property
    def pfn(self) -> int:
        """Frame of the entry."""
        return p.pte_pfn(self.walk.mm.page_shift, self.old)

    @property
    def folio_head(self) -> int:
        """First frame of the folio, 0 without a page."""
        return self.folio.head if self.folio else 0

    @property
    def folio_nr(self) -> int:
        """Pages of the folio, 0 without a page."""
        return self.folio.nr if self.folio else 0

    @property
    def anon(self) -> bool:
        """The folio is anonymous."""
        return self.folio is not None and self.folio.anon

    @property
    def large(self) -> bool:
        """The folio has several pages."""
        return self.folio is not None and self.folio.large

    @property
    def mapped_shared(self) -> bool:
        """folio_maybe_mapped_shared(): what v1 and v2 asked."""
        return self.folio is not None and self.folio.mapped_shared

    @property
    def shared(self) -> bool:
        """The VMA is MAP_SHARED."""
        return self.walk.shared

    def _addr(self, offset: int) -> int:
        return self.addr + offset * self.walk.mm.page_size

    def _check(self, offset: int, nr: int) -> None:
        if nr < 1 or offset < 0 or offset + nr > self.max_nr:
            raise StrategyError(f"entries [{offset}, {offset + nr}) leave the window of {self.max_nr} entries; stay below max_nr")

    # Questions

    def ptep_get(self, offset: int) -> int:
        """ptep_get() of an entry (counted)."""
        self._check(offset, 1)
        return self.walk.mm.ptep_get(self._addr(offset))

    def pte_dirty(self, pte: int) -> bool:
        """pte_dirty()."""
        return p.pte_dirty(pte)

    def pte_advance_pfn(self, pte: int, nr: int) -> int:
        """The same word for the page `nr` further on."""
        return p.pte_advance_pfn(self.walk.mm.page_shift, pte, nr)

    def normal_page(self) -> None:
        """Count one vm_normal_page() more."""
        self.walk.mm.count("normal_page")

    def folio_pte_batch(self, max_nr: int | None = None, *, respect_write: bool = True) -> int:
        """mprotect_folio_pte_batch() from the window's entry: 1 without a large folio."""
        if max_nr is None:
            max_nr = self.max_nr
        self._check(0, max_nr)
        if self.folio is None or not self.folio.large:
            return 1
        return self.walk.mm.folio_pte_batch(self.folio, self.addr, self.old, max_nr, respect_write=respect_write)

    def merged_batch(self, exclusive: bool) -> int:
        """Scan entries and PageAnonExclusive in lock-step (spec 7.5); the first page is taken as known."""

        def same(offset: int, nr: int) -> int:
            for i in range(nr):
                known = offset + i == 0
                if not known and self.page_anon_exclusive(offset + i) != exclusive:
                    return i
            return nr

        if self.folio is None or not self.folio.large:
            return 1
        return self.walk.mm.folio_pte_batch(self.folio, self.addr, self.old, self.max_nr, respect_write=True, same=same)

    def page_anon_exclusive(self, offset: int) -> bool:
        """PageAnonExclusive() of the page `offset` behind the entry's own (counted)."""
        return self.walk.mm.page_anon_exclusive(self.pfn + offset)

    def anon_exclusive_batch(self, offset: int, exclusive: bool, max_nr: int) -> int:
        """Length of the run of pages from `offset` on with this exclusivity; the first is taken as known."""
        self._check(offset, max_nr)
        for nr in range(1, max_nr):
            if self.page_anon_exclusive(offset + nr) != exclusive:
                return nr
        return max_nr

    # Words

    def newpte(self, old: int) -> int:
        """The new word for an old one, before the question whether it may be writable."""
        return self.walk.newpte(old)

    def asks_writable(self, new: int) -> bool:
        """TRY_CHANGE_WRITABLE is set and the word lacks WRITE."""
        return self.walk.try_change_writable and not p.pte_write(new)

    def maybe_change_pte_writable(self, new: int) -> bool:
        """VMA, PROT_NONE and userfaultfd allow WRITE; the page is not asked (counted)."""
        self.walk.mm.count("writable_checks")
        return self.walk.may_be_writable(new)

    def needs_anon_exclusive(self) -> bool:
        """Whether this entry becomes writable exactly if its page is PageAnonExclusive.

        Asked of ptep_get()'s word, before anything is cleared; not counted as a question.
        """
        new = self.newpte(self.old)
        return self.asks_writable(new) and not self.shared and self.walk.may_be_writable(new) and self.anon

    # Changes

    def note_batch(self, nr: int) -> None:
        """Record a batch of nr entries."""
        self._check(0, nr)
        self.walk.note_batch(self.addr, nr)

    def start(self, offset: int, nr: int) -> int:
        """modify_prot_start_ptes(): clear nr entries; returns the first word with the A/D of all."""
        self._check(offset, nr)
        for i in range(offset, offset + nr):
            if i in self.started or i in self.committed:
                raise StrategyError(f"entry {i} was started already; start each entry once")
        for i in range(offset, offset + nr):
            self.started[i] = self.pfn_of(i)
        return self.walk.start(self._addr(offset), nr)

    def pfn_of(self, offset: int) -> int:
        """Frame that an entry maps now, read behind the counters' back."""
        return p.pte_pfn(self.walk.mm.page_shift, self.walk.mm.ptes[self._addr(offset)])

    def commit(self, offset: int, old: int, new: int, nr: int, write: bool = False) -> None:
        """modify_prot_commit_ptes() and the gather; `old`, `new` are of the first entry of this piece.

        Raises
        ------
        StrategyError
            An entry that was not started, or a word that would map another frame than before.
        """
        self._check(offset, nr)
        for i in range(nr):
            if offset + i not in self.started:
                raise StrategyError(f"entry {offset + i} was not started; start() it before commit()")
            pfn = p.pte_pfn(self.walk.mm.page_shift, new) + i
            if pfn != self.started[offset + i]:
                raise StrategyError(
                    f"entry {offset + i} mapped frame {self.started[offset + i]:#x} but the new word maps {pfn:#x}; "
                    "give the words of the piece's first entry, see pte_advance_pfn()"
                )
        for i in range(offset, offset + nr):
            del self.started[i]
            self.committed.add(i)
        self.walk.commit(self._addr(offset), old, new, nr, write)

    def change_unit(self, offset: int, nr: int, exclusive: bool) -> None:
        """Start, newpte and commit of one unit of known exclusivity; a batch of its own."""
        self._check(offset, nr)
        self.walk.note_batch(self._addr(offset), nr)
        old = self.start(offset, nr)
        new = self.newpte(old)
        write = False
        if self.asks_writable(new) and self.maybe_change_pte_writable(new):
            write = self.pte_dirty(new) if self.shared else self.anon and exclusive
        self.commit(offset, old, new, nr, write)
