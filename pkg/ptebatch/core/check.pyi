"""The checker's inner loop: build a small world, run a strategy on it, judge it.

A world is one leaf table of at most MAX_PTES entries, the metadata of its page
frames, and one call. The laws are numbered in judge.pxd and named, with their
sources, in ``ptebatch.laws``. What a law expects is computed from the contracts
of the specification entry by entry, never by the verbs of the core.
"""

import numpy as np
import numpy.typing as npt

from .judge import Judge

class Checker(Judge):
    """Runs worlds of one machine under one strategy.

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

    def check(
        self,
        ptes: npt.ArrayLike,
        pages: npt.ArrayLike,
        call: tuple[int, int, int, int, int, bool],
        *,
        tlb: bool = True,
        hardware: bool = True,
    ) -> tuple[int, int, int]:
        """Judge one world by every law.

        Parameters
        ----------
        ptes : sequence of int
            Words of the table.
        pages : sequence of int
            Metadata of the frames from 1024 on.
        call : tuple
            (start, end, vm_flags, newprot, cp_flags, vma_anon).
        tlb, hardware : bool
            Also follow the TLB, and try hardware updates between all steps.

        Returns
        -------
        tuple of (int, int, int)
            Law number (0: all hold), entry, and what was seen: 1 CONT set, 2 CONT
            cleared on live entries without a TLBI between.
        """

    def final(
        self,
        ptes: npt.ArrayLike,
        pages: npt.ArrayLike,
        call: tuple[int, int, int, int, int, bool],
    ) -> npt.NDArray[np.uint64]:
        """Run one world and return the table it leaves."""

    def sweep(
        self,
        words: npt.NDArray[np.uint64],
        pages: npt.NDArray[np.uint8],
        calls: npt.NDArray[np.int64],
        ad: npt.NDArray[np.uint64],
        folds: npt.NDArray[np.uint32],
        tlb: bool = False,
        hardware: bool = False,
    ) -> tuple[int, ...]:
        """Judge every combination of word rows, calls, A/D rows and folding choices.

        Parameters
        ----------
        words : uint64 array, shape (worlds, entries)
            Words without AF, dirty and CONT.
        pages : uint8 array, shape (worlds, frames)
            Metadata, one row a row of `words`.
        calls : int64 array, shape (calls, 6)
            (start, end, vm_flags, newprot, cp_flags, vma_anon).
        ad : uint64 array, shape (patterns, entries)
            Per entry: 1 young, 2 software dirty, 4 hardware dirty if writable.
        folds : uint32 array
            Bit b: fold contpte block b if it may be folded.

        Returns
        -------
        tuple
            (worlds judged, worlds left out because a folding choice changes nothing,
            law, entry, saw, index of the words row, call, A/D row, fold choice).
        """
