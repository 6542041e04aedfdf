"""`Result`: the counters and logs of one call. Forms for people: ptebatch.report."""

from typing import Any

import numpy as np
import numpy.typing as npt

from ptebatch.machine import Machine

class Result:
    """What one call counted and did; made by ``MM``, read only.

    Attributes
    ----------
    counters : dict of str to int
        Every counter, in the order of ``ptebatch.counters.COUNTERS``.
    pages : int
        Return value of change_protection(): entries dealt with.
    batches, subs : list of [int, int]
        Batches and commits in order, as runs ``[count, nr_ptes]``.
    flushes : list of (int, int)
        TLBIs of contpte conversions in order: address, pages.
    gathers : list of (int, int)
        Final flushes in order, one a VMA with something to flush: start, end.
    trace : numpy.ndarray or None
        Events in order, ``(kind u1, addr u8, value u8)``; see ``ptebatch.trace``.
    machine : Machine
    strategy : str
    start, length, prot : int
        The call.
    """

    def to_dict(self) -> dict[str, Any]:
        """Everything but the trace, as JSON can hold it.

        Returns
        -------
        dict
        """

    def to_json(self, **kw: Any) -> str:
        """`to_dict` as a JSON text; keywords go to ``json.dumps``.

        Returns
        -------
        str
        """

    def _repr_html_(self) -> str:
        """The table of `str()`, for a notebook."""

    @property
    def counters(self) -> dict[str, int]:
        """Every counter by name, in the order of ``ptebatch.counters.COUNTERS``."""

    @property
    def batches(self) -> list[list[int]]:
        """Batches in order, as runs ``[count, nr_ptes]``."""

    @property
    def subs(self) -> list[list[int]]:
        """Commits of batched designs in order, as runs ``[count, nr_ptes]``."""

    @property
    def flushes(self) -> list[tuple[int, int]]:
        """TLBIs of contpte conversions in order: address, pages."""

    @property
    def gathers(self) -> list[tuple[int, int]]:
        """Final flushes in order, one a VMA with something to flush: start, end."""

    @property
    def trace(self) -> npt.NDArray[np.void] | None:
        """Events in order, a structured array (kind u1, addr u8, value u8), if asked for."""

    @property
    def machine(self) -> Machine: ...
    @property
    def strategy(self) -> str: ...
    @property
    def start(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def prot(self) -> int | None: ...
    @property
    def pages(self) -> int: ...
    def __getitem__(self, name: str, /) -> int:
        """One counter by name; KeyError for any other."""

    def __sub__(self, other: Result, /) -> dict[str, int]:
        """Differences of the counters, self minus other: those that differ.

        Returns
        -------
        dict of str to int
        """

    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
