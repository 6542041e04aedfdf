"""`Tables`: the public verbs of core mm code, and mapping of folios. Base of `MM`."""

import numpy.typing as npt

from .space import Space

class Tables(Space):
    """The page tables of one address space, entry by entry and folio by folio; see `MM`."""

    def set_ptes(self, addr: int, word: int, nr: int) -> None:
        """set_ptes(): nr entries, frames advancing, full aligned blocks painted CONT (spec 3.2, 3.7).

        Parameters
        ----------
        addr : int
            Address of the first entry; all lie in one leaf table.
        word : int
            PTE word of the first.
        nr : int
            Entries.

        Raises
        ------
        LayoutError
            No page table there, or entries that leave it. So do the other verbs.
        """

    def set_pte_at(self, addr: int, word: int) -> None:
        """set_pte_at(): one entry; may unfold its block, may fold it (spec 3.2, 3.3).

        Parameters
        ----------
        addr, word : int
            Address and new PTE word.
        """

    def ptep_get(self, addr: int) -> int:
        """ptep_get(): the word with young and dirty of its whole block (spec 3.6).

        Parameters
        ----------
        addr : int

        Returns
        -------
        int
        """

    def wrprotect_ptes(self, addr: int, nr: int = 1) -> None:
        """wrprotect_ptes(), what fork does to the parent (spec 3.2).

        Parameters
        ----------
        addr, nr : int
            Address of the first entry; entries, which must be present.
        """

    def clear_full_ptes(self, addr: int, nr: int = 1) -> None:
        """clear_full_ptes(), what munmap does (spec 3.2).

        Parameters
        ----------
        addr, nr : int
            Address of the first entry; entries.
        """

    def test_and_clear_young(self, addr: int, nr: int = 1) -> bool:
        """test_and_clear_young_ptes(): AF of whole blocks, never unfolds (spec 8.8).

        Parameters
        ----------
        addr, nr : int
            Address of the first entry; entries.

        Returns
        -------
        bool
            Whether any was young.
        """

    def clear_young_dirty(self, addr: int, nr: int = 1, *, young: bool = True, dirty: bool = True) -> None:
        """clear_young_dirty_ptes(), what MADV_FREE and MADV_COLD do; never unfolds (spec 3.2, 8.8).

        Parameters
        ----------
        addr, nr : int
            Address of the first entry; entries.
        young, dirty : bool
            What to clear.
        """

    def set_access_flags(self, addr: int, word: int) -> bool:
        """ptep_set_access_flags(): AF, dirty and WRITE of one entry are added (spec 3.9).

        Parameters
        ----------
        addr : int
        word : int
            PTE word whose RDONLY, AF, WRITE and DIRTY are taken.

        Returns
        -------
        bool
            Whether anything changed.
        """

    def hw_update(self, addr: int, write: bool = False) -> None:
        """Hardware management of AF and dirty on this one descriptor, if VALID (spec 8.9).

        Parameters
        ----------
        addr : int
        write : bool
            The access was a write: RDONLY goes where WRITE (DBM) allows it.
        """

    def reuse(self, addr: int) -> None:
        """Write fault that reuses a page: an anonymous one becomes PageAnonExclusive; the entry writable (spec 8.3).

        Parameters
        ----------
        addr : int

        Raises
        ------
        LayoutError
            Nothing is mapped there.
        """

    def map_folios(
        self,
        start: int,
        nr: int,
        order: int = 0,
        *,
        orders: npt.ArrayLike | None = None,
        heads: npt.ArrayLike | None = None,
        skip: int = 0,
        exclusive: npt.ArrayLike | None = None,
        anon: bool | None = None,
        young: bool = True,
        dirty: bool = True,
        fold: bool = True,
        numa_skip: bool = False,
        mapped_shared: bool = False,
    ) -> int:
        """Map folios side by side, as faults and fork leave them.

        Parameters
        ----------
        start : int
            Address of the first page; all pages lie in one VMA, and nothing is mapped there.
        nr : int
            Pages to map. The last folio is cut if they end inside it.
        order : int
            Order of every folio, unless `orders` is given.
        orders : array of int, optional
            Order of each folio; must cover skip + nr pages.
        heads : array of int, optional
            Head pfn of each folio, naturally aligned; default: the next free ones.
        skip : int
            Pages of the first folio that are not mapped.
        exclusive : array of bool, shape (nr,), optional
            PageAnonExclusive of each mapped page; default: all of anonymous folios.
            See ``ptebatch.patterns`` for patterns.
        anon : bool, optional
            Default: whether the VMA is private and without a file.
        young, dirty : bool
            State of the entries.
        fold : bool
            Paint CONT as set_ptes() does; False leaves every block unfolded.
        numa_skip, mapped_shared : bool
            See `set_folio`.

        Returns
        -------
        int
            pfn of the first mapped page.

        Raises
        ------
        LayoutError
            Nothing is changed then.

        Notes
        -----
        A private mapping gives WRITE to exclusive pages only (spec 6.9, 8.2); a
        block whose entries then differ stays unfolded.
        """
