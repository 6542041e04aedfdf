"""Questions to pages and folios, and folio_pte_batch().

Restates spec 4 and 5. Kernel counterparts: mm/internal.h and mm/util.c
(folio_pte_batch_flags), include/linux/page-flags.h.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from . import pte as p
from .contpte import Contpte
from .mmu import Folio

if TYPE_CHECKING:
    from .change_protection import Walk


class Pages(Contpte):
    """A page table whose entries map pages of folios."""

    def folio_of(self, word: int) -> Folio | None:
        """Folio of a present entry's normal page; None for a special one (spec 4.2). Not counted."""
        return None if p.pte_special(word) else self.page_folio(p.pte_pfn(self.page_shift, word))

    def vm_normal_page(self, word: int) -> Folio | None:
        """Look the page up: counted."""
        self.count("normal_page")
        return self.folio_of(word)

    def page_anon_exclusive(self, pfn: int) -> bool:
        """PageAnonExclusive(): counted."""
        answer = pfn in self.anon_exclusive
        self.count("pae_reads")
        self.event("PAE", pfn, int(answer))
        return answer

    def folio_pte_batch(
        self,
        folio: Folio,
        addr: int,
        first: int,
        max_nr: int,
        *,
        respect_write: bool,
        respect_dirty: bool = False,
        same: Callable[[int, int], int] | None = None,
        seen: list[int] | None = None,
    ) -> int:
        """Entries from `addr` on that map consecutive pages of one folio alike (spec 5.3).

        Parameters
        ----------
        folio : Folio
            Of the first entry; large.
        addr : int
            Address of the first entry.
        first : int
            What ptep_get() said of it.
        max_nr : int
            Entries to the end of the range in this table.
        respect_write : bool
            A different WRITE ends the batch; AF never does.
        respect_dirty : bool
            A different dirtiness ends it, too.
        same : callable, optional
            The merged design: asked ``same(offset, nr)`` for the pages that a step would
            add, it returns how many of them may stay; fewer ends the batch.
        seen : list of int, optional
            Gets the words of the entries that belong to the batch, one a step.

        Returns
        -------
        int
            1 to `max_nr`.
        """
        self.count("batch_scans")
        pfn = p.pte_pfn(self.page_shift, first)
        # A batch never leaves the folio.
        max_nr = min(max_nr, folio.head + folio.nr - pfn)
        nr, word = 0, first
        while True:
            # A folded block is one step: its entries are alike by construction.
            hint = self.batch_hint(addr + nr * self.page_size, word)
            step = min(hint, max_nr - nr)
            stay = same(nr, step) if same else step
            if stay < step:
                return nr + stay
            nr += hint
            if nr >= max_nr:
                return max_nr
            word = self.ptep_get(addr + nr * self.page_size)
            # The first entry's word, moved to this page: CONT and every other flag must agree.
            want = p.pte_advance_pfn(self.page_shift, first, nr)
            if self._comparable(word, respect_write, respect_dirty) != self._comparable(want, respect_write, respect_dirty):
                return nr
            if seen is not None:
                seen.append(word)

    def _comparable(self, word: int, respect_write: bool, respect_dirty: bool) -> int:
        return p.pte_batch_clear_ignored(word, respect_write=respect_write, respect_dirty=respect_dirty)

    # What an address space that lives does besides (live.py)

    def change_pmd(self, walk: Walk, start: int, end: int) -> bool:
        """Change the PMD entry that maps a range, if one does: there is none in a table that was drawn."""
        return False

    def flush_batched_pending(self) -> None:
        """Nothing is in flight in a table that was drawn."""
