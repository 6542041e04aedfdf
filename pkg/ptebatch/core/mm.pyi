"""`MM`: an arm64 address space, and the calls on it."""

from collections.abc import Callable
from typing import final

from ptebatch.strategies import Strategy

from .result import Result
from .tables import Tables
from .window import Window

@final
class MM(Tables):
    """An address space.

    Parameters
    ----------
    machine : Machine or str, optional
        Default ``Machine()``; a string is read by ``Machine.parse``.
    nr_pages : int
        Page frames that have metadata: pfn_base .. pfn_base + nr_pages - 1.
        One byte each, touched only where used.
    pfn_base : int
        First of them.
    memo : bool
        Replay units that equal one already done (same results, far faster); False
        runs every entry step by step.

    Attributes
    ----------
    machine : Machine
    pages : numpy.ndarray of uint8, shape (nr_pages,)
        Metadata of the page frames (``ptebatch.bits.PG_*``), a view without a copy.

    Raises
    ------
    LayoutError
        Numbers out of range.

    Notes
    -----
    One thread at a time: a second one gets `PtebatchError`. Different address
    spaces run in parallel, calls release the GIL. Views (`ptes`, `leaf`, `pages`)
    are memory: let none be written while a call runs in another thread.
    """

    def change_protection(
        self,
        start: int,
        nr: int,
        *,
        newprot: int,
        cp_flags: int = 0,
        vm_flags: int,
        anon: bool = True,
        strategy: str | Strategy | Callable[[Window], int] = "folio",
        trace: bool = False,
        record: bool = True,
    ) -> Result:
        """change_protection() of one VMA's range, with one gather and its flush.

        The layer below `mprotect`: no VMA is looked at, all it needs is given.

        Parameters
        ----------
        start : int
            Address.
        nr : int
            Pages.
        newprot : int
            New page protection word.
        cp_flags : int
            MM_CP_* flags.
        vm_flags : int
            VMA flags at the time of the call.
        anon : bool
            vma_is_anonymous().
        strategy : str, callable or registered name
            See ``ptebatch.strategies``.
        trace, record : bool
            Keep the event trace; keep batch lists and flush ranges.

        Returns
        -------
        Result

        Raises
        ------
        LayoutError, StrategyError
            Bad arguments, or a Python strategy that broke its contract: the tables
            are as they were.
        """

    def mprotect(
        self,
        start: int,
        length: int,
        prot: int,
        *,
        strategy: str | Strategy | Callable[[Window], int] = "folio",
        pkey: int = -1,
        trace: bool = False,
        record: bool = True,
    ) -> Result:
        """mprotect(2) (or pkey_mprotect) on this address space.

        Parameters
        ----------
        start, length : int
            Bytes, as the system call takes them.
        prot : int
            PROT_* bits.
        strategy : str or callable
            A name of ``ptebatch.strategies``, or a Python step function.
        pkey : int
            Protection key, -1 for none.
        trace, record : bool
            Keep the event trace; keep batch lists and flush ranges.

        Returns
        -------
        Result

        Raises
        ------
        MprotectError
            An OSError with the errno; what was changed before stays changed and
            is in its ``result`` (spec 6.2).
        LayoutError, StrategyError
            Arguments that no system call could carry, or a Python strategy that
            broke its contract: nothing is changed.
        """

    def copy(self) -> MM:
        """An independent copy: tables, VMAs, metadata, limits.

        Returns
        -------
        MM
        """
