"""The checker's inner loop: build a small world, run a strategy on it, judge it.

A world is one leaf table of at most 32 entries, the metadata of its page frames,
and one call. The laws are numbered here and named, with their sources, in
``ptebatch.laws``.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ptebatch.machine import Machine
from ptebatch.strategies import Strategy

from .held import Exclusive
from .window import Window

FIRST_PFN: int

_U8 = npt.NDArray[np.uint8]
_U16 = npt.NDArray[np.uint16]
_U32 = npt.NDArray[np.uint32]
_U64 = npt.NDArray[np.uint64]
_I64 = npt.NDArray[np.int64]

class Checker(Exclusive):
    """Runs small worlds of one machine under one strategy, and judges each.

    Parameters
    ----------
    machine : Machine
        A geometry of at most 32 entries a table.
    strategy : str, callable or Strategy
        As `MM.mprotect` takes it.

    Raises
    ------
    LayoutError
        The machine's tables are too large for small worlds.
    """

    machine: Machine
    runs: int

    def __init__(self, machine: Machine, strategy: str | Strategy | Callable[[Window], int]) -> None: ...
    @property
    def start_ptes(self) -> _U64:
        """Words of the table before the run: of `check`, or of the world that ended a sweep."""
    @property
    def table_ptes(self) -> _U64:
        """Words of the table as the last run left it."""
    @property
    def counters(self) -> dict[str, int]:
        """Counters of the last run by name, final flush included if it was traced."""
    @property
    def walked(self) -> tuple[int, int]:
        """(entry at which the last run stopped, entries it had cleared and not committed)."""
    @property
    def gathered(self) -> tuple[int, int] | None:
        """(start, end) addresses that the last run gathered, None: nothing."""
    @property
    def pages(self) -> int:
        """What change_pte_range() returned in the last run."""
    @property
    def events(self) -> list[tuple[int, int, int]]:
        """(kind, address, value) of each event of the last traced run, final flush included."""
    @property
    def error(self) -> BaseException | None:
        """What a Python step raised in the last run, None: nothing."""

    @property
    def updates(self) -> list[tuple[int, int, bool]]:
        """Hardware updates of the last run: (events before it, entry, True if it was a write)."""
    def check(
        self,
        ptes: Sequence[int],
        pages: Sequence[int],
        call: tuple[int, int, int, int, int, bool],
        *,
        tlb: bool = True,
        hardware: int = 2,
    ) -> tuple[int, int, int]:
        """Judge one world by every law.

        Parameters
        ----------
        ptes : sequence of int
            Words of the table.
        pages : sequence of int
            Metadata of the frames from `FIRST_PFN` on.
        call : tuple
            (start, end, vm_flags, newprot, cp_flags, vma_anon).
        tlb : bool
            Also judge units and follow the TLB.
        hardware : int
            Also try every interleaving with at most so many hardware updates.

        Returns
        -------
        tuple of (int, int, int)
            Law number (0: all hold), entry (-1: none in particular), and which
            blocks changed CONT on live entries without a TLBI: bit b, block b
            became folded; bit 8 + b, unfolded. `error` has what a step raised.
        """

    def final(
        self, ptes: Sequence[int], pages: Sequence[int], call: tuple[int, int, int, int, int, bool], *, traced: bool = False
    ) -> _U64:
        """Run one world without judging it and return the table it leaves.

        Parameters
        ----------
        ptes, pages, call
            As for `check`.
        traced : bool
            Keep the events.

        Returns
        -------
        numpy.ndarray of uint64
        """

    def judge_outcome(
        self,
        ptes: Sequence[int],
        pages: Sequence[int],
        call: tuple[int, int, int, int, int, bool],
        *,
        after: Sequence[int],
        counters: dict[str, int],
        returned: int,
        walked: tuple[int, int],
        gathered: tuple[int, int] | None = None,
        events: Sequence[tuple[int, int, int]] = (),
        updates: Sequence[tuple[int, int, bool]] = (),
        reset: bool = True,
    ) -> tuple[int, int]:
        """Judge what a run is said to have left: for tests of the laws themselves.

        Parameters
        ----------
        ptes, pages, call
            As for `check`.
        after : sequence of int
            Words of the table after the call.
        counters : dict of str to int
        returned : int
        walked : tuple of (int, int)
            Entry at which the walk stopped, entries cleared and not committed.
        gathered : tuple of (int, int), optional
            Addresses in the gather before its flush.
        events : sequence of (int, int, int)
            Final flush included; the laws of their order are judged if there are any.
        updates : sequence of (int, int, bool)
            What hardware did, as `updates` tells it.
        reset : bool
            The gather was empty after its flush.

        Returns
        -------
        tuple of (int, int)
            Law number, entry.
        """

    def folded(self, words: _U64, pages: _U8, ad: _U64, mask: int) -> _U64:
        """Table of one world of a sweep, A/D and CONT included.

        Parameters
        ----------
        words, pages, ad : arrays
            As for `sweep`; the first row of each counts.
        mask : int
            One folding choice.

        Returns
        -------
        numpy.ndarray of uint64
        """

    def sweep(
        self,
        words: _U64,
        pages: _U8,
        calls: _I64,
        ad: _U64,
        folds: _U32,
        *,
        tlb: bool = False,
        hardware: int = 0,
        seen: _U16 | None = None,
    ) -> tuple[int, int, int, int, int, int, int, int, int]:
        """Judge every combination of word rows, calls, A/D rows and folding choices.

        Parameters
        ----------
        words : uint64 array, shape (rows, entries)
            Words without AF, dirty and CONT.
        pages : uint8 array, shape (rows, frames)
            Metadata, one row a row of `words`.
        calls : int64 array, shape (calls, 6)
            (start, end, vm_flags, newprot, cp_flags, vma_anon).
        ad : uint64 array, shape (patterns, entries)
            For each entry: 1 young, 2 software dirty, 4 hardware dirty if writable.
        folds : uint32 array
            Bit b: fold contpte block b. Left out where a block cannot be folded.
        tlb, hardware
            As for `check`.
        seen : uint16 array, shape (rows, folds, calls), optional
            Gets the blocks that changed CONT, as `check` returns them.

        Returns
        -------
        tuple
            (worlds judged, worlds left out, law, entry, saw, row, call, A/D row, folding
            choice). Left out are worlds that equal one judged before, for their A/D row
            or folding choice changes nothing. The last four belong to the first world
            that breaks a law; law 0: none does.
        """

    def each(
        self,
        words: _U64,
        pages: _U8,
        calls: _I64,
        ad: _U64,
        folds: _U32,
        *,
        tlb: bool = False,
        hardware: int = 0,
    ) -> tuple[int, int, int, int]:
        """Judge one world a row: the arguments of `sweep`, all of one length.

        Parameters
        ----------
        words, pages, calls, ad, folds, tlb, hardware
            As for `sweep`; blocks of a folding choice that cannot be folded are not.

        Returns
        -------
        tuple
            (worlds judged, law, entry, row).
        """
