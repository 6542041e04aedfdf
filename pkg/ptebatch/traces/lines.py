"""The event trace of a run for people: a line for each step, like ones that follow each other in one.

A step is what the loop does: scan, start, ask, commit, flush, and the accesses and
barriers in between. Entries are counted within their leaf table, words are drawn as
the notation draws them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..events import KINDS
from ..machine import Machine
from ..notation.strip import draw
from ..operations import protection_text

if TYPE_CHECKING:
    from ..mm.result import Result

__all__ = ["write"]

_NAMES = {"R": "read", "W": "store", "X": "exchange", "C": "cmpxchg", "BATCH": "scan found", "START": "start", "COMMIT": "commit",
          "GATHER": "gather", "FOLD": "fold", "UNFOLD": "unfold", "LOCK": "lock", "UNLOCK": "unlock", "PAE": "ask"}  # fmt: skip
_WORDS = frozenset({"R", "W", "X", "C"})


def write(result: Result) -> Iterator[str]:
    """Yield the lines of a traced call.

    Parameters
    ----------
    result : Result
        With a trace.

    Yields
    ------
    str
        A head, and a line for each step: the number of its first event, what it is, where, and what was read, stored or said.
    """
    machine = result.machine
    prot = "" if result.prot is None else f" to {protection_text(result.prot)}"
    end = result.start + result.length
    yield f"{result.strategy} on {machine}: [{result.start:#x}, {end:#x}){prot}"
    trace = result.trace
    if trace is None:
        return
    at = 0
    for row in _together(((KINDS[kind], addr, value) for kind, addr, value in trace.tolist()), machine):
        yield f"{at:7}  {_line(row, machine)}"
        at += len(row)
    yield f"{at:7}  end"


_Event = tuple[str, int, int]


def _together(events: Iterator[_Event], machine: Machine) -> Iterator[list[_Event]]:
    """Accesses and questions that follow each other entry by entry, of words alike but for their frame, are one step."""
    row: list[_Event] = []
    for event in events:
        if row and _continues(row, event, machine):
            row.append(event)
            continue
        if row:
            yield row
        row = [event]
    if row:
        yield row


def _continues(row: list[_Event], event: _Event, machine: Machine) -> bool:
    kind, addr, value = event
    before = row[-1]
    if kind != before[0]:
        return False
    if kind == "PAE":
        return addr - before[1] == 1 and bool(value) == bool(before[2])
    if kind not in _WORDS or addr - before[1] != machine.page_size:
        return False
    return value - before[2] in (0, machine.page_size)


def _line(row: list[_Event], machine: Machine) -> str:
    kind, addr, value = row[0]
    name, index = _NAMES.get(kind, kind), (addr >> machine.page_shift) % machine.ptrs_per_pte
    if kind in _WORDS:
        where = f"{index}" if len(row) == 1 else f"{index}..{index + len(row) - 1}"
        more = f" x{len(row)}" if len(row) > 1 else ""
        return f"{name:<10} {where:<10} {draw(np.array([value], np.uint64), machine, fields='dirty,young,pfn')}{more}"
    if kind == "PAE":
        pages = f"{addr:#x}" if len(row) == 1 else f"{addr:#x}..{row[-1][1]:#x}"
        return f"{name:<10} page {pages}: {'exclusive' if value else 'not exclusive'}"
    if kind in ("LOCK", "UNLOCK"):
        return name
    if kind in ("FOLD", "UNFOLD"):
        return f"{name:<10} block {index // machine.cont_ptes}"
    if kind.startswith("DSB") or kind == "ASIDE1IS":
        return f"{'barrier' if kind.startswith('DSB') else 'flush':<10} {kind}"
    if kind in ("VALE1IS", "RVALE1IS"):
        return f"{'flush':<10} TLBI {kind} {index}..{index + value - 1}"
    return f"{name:<10} [{index}, {index + value})"
