"""Detection reads: the PTE reads with which a loop finds out how far it may go.

They are those of ``ptep_get()`` in the loop and in its scans, A/D gathering
included. The rest of ``pte_reads`` belongs to start and commit: unfold checks
of one entry and of a batch's two ends, and fold tests (spec 3.3 to 3.7). No
counter tells the two apart, but either the counters determine the rest, or the
event trace shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..events import KINDS

if TYPE_CHECKING:
    from ..machine import Machine
    from ..mm.result import Result

__all__ = ["detection_reads", "nr_events"]

_KIND = {name: kind for kind, name in KINDS.items()}


def detection_reads(result: Result) -> int | None:
    """Return how many of a result's PTE reads were made to find batches.

    Parameters
    ----------
    result : Result
        Of a call to ``MM.mprotect``.

    Returns
    -------
    int or None
        Exact. None if the counters do not determine it and there is no trace.
    """
    c: Mapping[str, int] = result.counters
    machine: Machine = result.machine
    if not c["contpte_ptep_get"]:
        return c["ptep_get"]
    if not machine.gather_early_exit:
        # every gather reads the whole block
        return c["ptep_get"] + c["contpte_ptep_get"] * machine.cont_ptes
    # a verb on one entry checks it for unfolding with one read
    rest = c["prot_start"] - c["start_multi"] + c["set_ptes"] - c["set_ptes_multi"]
    if not c["start_multi"] and c["fold_tries"] == c["folds"]:
        # a fold test that succeeds has read the whole block
        return c["pte_reads"] - rest - c["folds"] * machine.cont_ptes
    trace = result.trace
    if trace is None:
        return None
    return c["pte_reads"] - rest - _end_checks(trace, result) - _fold_tests(trace, result)


def nr_events(result: Result) -> int:
    """Return how many events a trace of the same call has."""
    c: Mapping[str, int] = result.counters
    once = ("pte_reads", "pte_writes", "pte_xchg", "pae_reads", "n_batches", "prot_start", "prot_commit", "folds", "unfolds")
    flushes = [f"{of}_{what}" for of in ("convert", "flush") for what in ("vale1is", "rvale1is", "aside1is", "dsb")]
    return sum(c[name] for name in (*once, *flushes, "gather_calls")) + 2 * c["pte_locks"]


def _end_checks(trace: NDArray[Any], result: Result) -> int:
    """Count reads of contpte_try_unfold_partial(): one at each end of a batch that may cut a block."""
    start = trace[(trace["kind"] == _KIND["START"]) & (trace["value"] > 1)]
    n = np.uint64(result.machine.cont_ptes)
    idx = start["addr"] >> np.uint64(result.machine.page_shift)
    first = (idx % n != 0) | (start["value"] < n)
    last = (idx + start["value"]) % n != 0
    return int(np.count_nonzero(first) + np.count_nonzero(last))


def _fold_tests(trace: NDArray[Any], result: Result) -> int:
    """Count reads of __contpte_try_fold().

    They follow the store to a block's last entry, begin at its first and go up;
    the loop's own reads after that store are all above it.
    """
    machine = result.machine
    page, last = np.uint64(machine.page_size), np.uint64((machine.cont_ptes - 1) * machine.page_size)
    read, addr = trace["kind"] == _KIND["R"], trace["addr"]
    at = np.flatnonzero((trace["kind"][:-1] == _KIND["W"]) & read[1:] & (addr[:-1] - addr[1:] == last)) + 1
    at = at[addr[at] % (last + page) == 0]
    first, count = addr[at], 0
    for step in range(machine.cont_ptes):
        inside = at + step < len(trace)
        at, first = at[inside], first[inside]
        goes_on = read[at + step] & (addr[at + step] == first + np.uint64(step) * page)
        at, first = at[goes_on], first[goes_on]
        count += len(at)
    return count
