"""`Window`: what a strategy written in Python sees, with the core's own verbs."""

from collections.abc import Callable

class Window:
    """The entry a strategy is called for, and the verbs it may use on it.

    A strategy is a callable ``step(window) -> int``: it changes entries from
    the window's own on and returns how many it has dealt with. Offsets count
    from that entry. Every verb is the core's and counts what the core counts.

    Parameters
    ----------
    step : callable
        The strategy. The core makes windows; a step only receives them.

    Raises
    ------
    PtebatchError
        By every member: the step has returned, entries leave the window, or an
        argument is no number. Raised inside a step it ends the call, and the
        address space is as it was before.

    Notes
    -----
    What a step must keep (spec 7.9): each entry it counts is started and
    committed once; a unit stays in one folio; in a private mapping WRITE is given
    only to pages that are PageAnonExclusive.
    """

    def __init__(self, step: Callable[[Window], int]) -> None: ...
    def clear_error(self) -> None:
        """Forget the exception that ended the last step."""

    def needs_anon_exclusive(self) -> bool:
        """Whether this entry becomes writable exactly if its page is PageAnonExclusive.

        Returns
        -------
        bool
            TRY_CHANGE_WRITABLE, a private mapping with VM_WRITE, an anonymous folio,
            and a new word that lacks WRITE (spec 6.6).
        """

    def ptep_get(self, offset: int) -> int:
        """ptep_get() of an entry, counted (spec 3.6).

        Parameters
        ----------
        offset : int
            Entries behind the window's own.

        Returns
        -------
        int
            Its word, with the A/D of its whole contpte block.
        """

    def folio_pte_batch(self, max_nr: int | None = None, *, respect_write: bool = True) -> int:
        """mprotect_folio_pte_batch() from the window's entry on (spec 5.3).

        Parameters
        ----------
        max_nr : int, optional
            Look no further; default: the window.
        respect_write : bool
            A different WRITE bit ends the batch (FPB_RESPECT_WRITE).

        Returns
        -------
        int
            Entries of the batch; 1 without a large folio, and then nothing is read.
        """

    def page_anon_exclusive(self, offset: int) -> bool:
        """PageAnonExclusive() of a page, counted.

        Parameters
        ----------
        offset : int
            Pages behind the page of the window's own entry; may be negative.

        Returns
        -------
        bool
        """

    def anon_exclusive_batch(self, offset: int, exclusive: bool, max_nr: int) -> int:
        """Length of the run of pages with one exclusivity, counted; the first is taken as known.

        Parameters
        ----------
        offset : int
            Pages behind the page of the window's own entry.
        exclusive : bool
            PageAnonExclusive of the first page.
        max_nr : int
            Look no further.

        Returns
        -------
        int
            1 to max_nr. The page that ends the run is asked too.
        """

    def start(self, offset: int, nr: int) -> int:
        """modify_prot_start_ptes(): clear entries, unfolding blocks that they cut.

        Parameters
        ----------
        offset, nr : int
            Entries.

        Returns
        -------
        int
            The first word, with the A/D of all of them.

        Raises
        ------
        StrategyError
            An entry that was started already.
        """

    def newpte(self, old: int) -> int:
        """The new word for an old one, before the question whether it may be writable.

        Parameters
        ----------
        old : int
            What `start` returned.

        Returns
        -------
        int
            pte_modify() and the userfaultfd bit (spec 2.3, 6.7).
        """

    def asks_writable(self, new: int) -> bool:
        """Whether TRY_CHANGE_WRITABLE is set and the word lacks WRITE.

        Parameters
        ----------
        new : int
            What `newpte` returned.

        Returns
        -------
        bool
        """

    def maybe_change_pte_writable(self, new: int) -> bool:
        """Whether VMA, PROT_NONE and userfaultfd allow WRITE; the page is not asked (spec 6.6).

        Parameters
        ----------
        new : int
            What `newpte` returned.

        Returns
        -------
        bool
        """

    def pte_dirty(self, pte: int) -> bool:
        """pte_dirty(): DIRTY, or WRITE without RDONLY (spec 2.1).

        Parameters
        ----------
        pte : int

        Returns
        -------
        bool
        """

    def pte_advance_pfn(self, pte: int, nr: int) -> int:
        """pte_advance_pfn(): the same word for another page; for commits in pieces (spec 1.3).

        Parameters
        ----------
        pte : int
            Word of the first entry of a unit.
        nr : int
            Pages further on.

        Returns
        -------
        int
        """

    def commit(self, offset: int, old: int, new: int, nr: int, write: bool = False) -> None:
        """modify_prot_commit_ptes() of one run, and the gather of what it must flush.

        Parameters
        ----------
        offset : int
            First entry.
        old, new : int
            Old and new word of that entry, see `pte_advance_pfn`; the others advance from it.
        nr : int
            Entries.
        write : bool
            pte_mkwrite() the new word first.

        Raises
        ------
        StrategyError
            An entry that was not started, or a word that maps another frame than before.
        """

    def change_unit(self, offset: int, nr: int, exclusive: bool) -> None:
        """Start and commit one unit whose pages share their exclusivity.

        Parameters
        ----------
        offset, nr : int
            Entries, of one folio.
        exclusive : bool
            PageAnonExclusive of all of them; decides WRITE in a private mapping.
        """

    def normal_page(self) -> None:
        """Count one vm_normal_page() more."""

    def note_batch(self, nr: int) -> None:
        """Record a batch, for ``Result.batches``.

        Parameters
        ----------
        nr : int
            Entries, from the window's own on.
        """

    @property
    def addr(self) -> int:
        """Address that the entry maps."""

    @property
    def idx(self) -> int:
        """Index of the entry in its leaf table."""

    @property
    def max_nr(self) -> int:
        """Entries up to the end of the range in this table."""

    @property
    def old(self) -> int:
        """What ptep_get() said of the entry: A/D are those of its whole contpte block."""

    @property
    def pfn(self) -> int:
        """Page frame that the entry maps."""

    @property
    def folio_head(self) -> int:
        """First page frame of the entry's folio."""

    @property
    def folio_nr(self) -> int:
        """Pages of the folio; 0 without a page."""

    @property
    def anon(self) -> bool:
        """Whether the folio is anonymous."""

    @property
    def large(self) -> bool:
        """Whether the folio has several pages."""

    @property
    def shared(self) -> bool:
        """Whether the VMA is MAP_SHARED."""

    @property
    def mapped_shared(self) -> bool:
        """folio_maybe_mapped_shared(): what v1 and v2 asked."""

    @property
    def error(self) -> BaseException | None:
        """What the last step raised, None: nothing."""
