# cython: language_level=3
"""`Result`: the counters and logs of one call. Forms for people: ptebatch.report."""
from libc.stdint cimport uint64_t
from libc.string cimport memset

from ..base.counters cimport nr_counters
from ..base.log cimport pair, pairs, pairs_expand, pairs_free

import numpy as np

from ptebatch.counters import COUNTERS

_NAMES = tuple(COUNTERS)
if len(_NAMES) != nr_counters():
    raise ImportError(f"counters.py lists {len(_NAMES)} counters, the core has {nr_counters()}")

#: what a call meets that is not modelled, in the order of `not_modelled` of mm_struct.pxd
NOT_MODELLED = (
    "{} pages of locked private memory become writable: the kernel faults them in for write now, of which nothing is counted",
    "{} pages of hugetlb memory: the kernel changes entries of their size by another walk, hugetlb_change_protection()",
)


# logs are kept as they lie in memory: most results are never asked for them
def _rows(bytes log):
    return np.frombuffer(log, dtype=np.uint64).reshape(-1, 2).tolist()


# a log of lengths, in which maps may stand for some
def _lengths(bytes log):
    cdef pairs whole
    cdef bytes expanded
    memset(&whole, 0, sizeof(pairs))
    try:
        if not pairs_expand(&whole, <const pair *><const char *>log, len(log) // sizeof(pair)):
            raise MemoryError("the log of batches did not fit in memory; call with record=False")
        expanded = (<const char *>whole.at)[:whole.nr * sizeof(pair)] if whole.nr else b""
    finally:
        pairs_free(&whole)
    return _rows(expanded)


cdef class Result:
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
        Events in order, ``(kind u1, addr u8, value u8)``; see ``ptebatch.events``.
    not_modelled : tuple of str
        What the kernel does besides in such a call and the model does not; empty: nothing.
    machine : Machine
    strategy : str
    start, length, prot : int
        The call.
    """

    def __init__(self):
        raise TypeError("a Result is made by a call, for example mm.mprotect(); it cannot be made by hand")

    @property
    def counters(self):
        """Every counter by name, in the order of ``ptebatch.counters.COUNTERS``."""
        cdef uint64_t *at = <uint64_t *>&self.c
        return {name: at[i] for i, name in enumerate(_NAMES)}

    def __getitem__(self, str name):
        """One counter by name."""
        cdef uint64_t *at = <uint64_t *>&self.c
        try:
            return at[_NAMES.index(name)]
        except ValueError:
            raise KeyError(f"{name!r} is not a counter; see ptebatch.counters.COUNTERS") from None

    @property
    def not_modelled(self):
        """What the kernel does besides in such a call and the model does not, a sentence each."""
        cdef uint64_t *at = <uint64_t *>&self.left_out
        return tuple([text.format(at[i]) for i, text in enumerate(NOT_MODELLED) if at[i]])

    @property
    def batches(self):
        """Batches in order, as runs ``[count, nr_ptes]``."""
        return _lengths(self._batches)

    @property
    def subs(self):
        """Commits of batched designs in order, as runs ``[count, nr_ptes]``."""
        return _lengths(self._subs)

    @property
    def flushes(self):
        """TLBIs of contpte conversions in order: address, pages."""
        return [tuple(row) for row in _rows(self._flushes)]

    @property
    def gathers(self):
        """Final flushes in order, one a VMA with something to flush: start, end."""
        return [tuple(row) for row in _rows(self._gathers)]

    @property
    def trace(self):
        """Events in order, a structured array (kind u1, addr u8, value u8), if asked for."""
        return self._trace

    def __sub__(self, other):
        """Differences of the counters, self minus other: those that differ.

        Returns
        -------
        dict of str to int
        """
        if not isinstance(other, Result):
            return NotImplemented
        theirs = other.counters
        return {name: n - theirs[name] for name, n in self.counters.items() if n != theirs[name]}

    def __eq__(self, other):
        if not isinstance(other, Result):
            return NotImplemented
        return self._key() == (<Result>other)._key()

    def __hash__(self):
        return hash((self.strategy, self.machine, self.start, self.length, self.prot, self.pages))

    def _key(self):
        return (self.strategy, self.machine, self.start, self.length, self.prot, self.pages,
                self.counters, self._batches, self._subs, self._flushes, self._gathers)

    def to_dict(self):
        """Everything but the trace, as JSON can hold it.

        Returns
        -------
        dict
        """
        return {
            "strategy": self.strategy, "machine": str(self.machine), "start": self.start, "length": self.length,
            "prot": self.prot, "pages": self.pages, "counters": self.counters, "batches": self.batches,
            "subs": self.subs, "flushes": _rows(self._flushes), "gathers": _rows(self._gathers),
            "not_modelled": list(self.not_modelled),
        }

    def to_json(self, **kw):
        """`to_dict` as a JSON text; keywords go to ``json.dumps``.

        Returns
        -------
        str
        """
        import json

        return json.dumps(self.to_dict(), **kw)

    def __str__(self):
        from ptebatch.report import result_text

        return result_text(self)

    def _repr_html_(self):
        """The table of `str()`, for a notebook."""
        from ptebatch.report import result_html

        return result_html(self)

    def __repr__(self):
        return (f"<Result {self.strategy} {self.machine}: {self.pages} pages, {self['pte_reads']} reads, "
                f"{self['unfolds']} unfolds, {self['flush_calls']} flushes>")
