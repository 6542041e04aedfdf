"""Two rows of PTEs one above the other, with marks under the entries that differ."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..errors import NotationError
from ..machine import Machine
from .fields import FIELDS, Fields, field_names
from .rows import Group, Line, check_flags, check_index, check_words, cut

__all__ = ["diff"]

U64 = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]


def diff(
    before: npt.ArrayLike,
    after: npt.ArrayLike,
    machine: Machine,
    *,
    first_idx: int = 0,
    exclusive: npt.ArrayLike | None = None,
    fields: str = "",
    labels: tuple[str, str] = ("before", "after"),
) -> str:
    """Return two rows one above the other, with marks under the entries that differ.

    Blocks without a difference are only counted. Fields are added to
    ``fields`` until every two words that differ also look different.

    Parameters
    ----------
    before, after : array of uint64, shape (n,)
        The words.
    machine, first_idx, exclusive, fields
        As for `draw`.
    labels : pair of str
        What to call the rows.

    Returns
    -------
    str
        Three lines; one line when nothing differs.

    Raises
    ------
    NotationError
        As `draw`; rows of different length.
    """
    old, new = check_words(before), check_words(after)
    if len(old) != len(new):
        raise NotationError(f"the rows to compare have {len(old)} and {len(new)} entries; give two of one length")
    differ = old != new
    if not differ.any():
        return f"no difference in {len(old)} entries"
    shown = _telling(old[differ], new[differ], machine, field_names(fields))
    if exclusive is not None:
        shown |= {"exclusive"}
    pae, view = check_flags(exclusive, len(old)), Fields(machine, shown)
    pair = Line(old, pae, view), Line(new, pae, view)

    def like(lag: int) -> tuple[Bools, Bools]:
        (on, still), (on2, still2) = (line.like(lag) for line in pair)
        same = differ[lag:] == differ[: max(len(differ) - lag, 0)]
        return on & on2 & same, still & still2 & same

    columns = _Columns(labels, first_idx, machine.cont_ptes)
    for group in cut(like, len(old), check_index(first_idx, machine), machine.cont_ptes):
        columns.group(pair, group, differ)
    return columns.text()


def _telling(old: U64, new: U64, machine: Machine, shown: frozenset[str]) -> frozenset[str]:
    """``shown`` and the fields without which some of these words would look equal."""

    def alike(names: frozenset[str]) -> int:
        columns = (Fields(machine, names).split(words) for words in (old, new))
        return int(np.logical_and.reduce([a == b for a, b in zip(*columns, strict=True)]).sum())

    for name in FIELDS:
        if not (left := alike(shown)):
            break
        if alike(shown | {name}) < left:
            shown |= {name}
    return shown


class _Columns:
    """Two rows and a row of marks, filled from left to right."""

    def __init__(self, labels: tuple[str, str], first_idx: int, cont: int) -> None:
        self.cont, self.same, self.whole, self.empty = cont, 0, True, True  # same: entries not yet written
        width = max(map(len, labels)) + 2
        self.rows = [label.ljust(width) + f"@{first_idx} " * bool(first_idx) for label in labels]
        self.rows.append(" " * len(self.rows[0]))

    def put(self, old: str, new: str, mark: str = " ") -> None:
        width = max(len(old), len(new))
        added = old.ljust(width), new.ljust(width), mark * width
        self.rows = [row + text for row, text in zip(self.rows, added, strict=True)]

    def both(self, text: str) -> None:
        self.put(text, text)

    def bar(self) -> None:
        if not self.empty:
            self.both(" | ")
        self.empty = False

    def flush(self) -> None:
        """Write how many entries were the same since the last difference."""
        if self.same:
            nr, one, more = (self.same // self.cont, "block", "blocks") if self.whole else (self.same, "entry", "entries")
            self.bar()
            self.both(f"({nr} {one if nr == 1 else more} same)")
        self.same, self.whole = 0, True

    def group(self, lines: tuple[Line, Line], group: Group, differ: Bools) -> None:
        if not differ[group.start : group.start + group.length].any():
            self.same += group.copies * group.length
            self.whole &= group.length == self.cont
            return
        self.flush()
        self.bar()
        self.both(f"{group.copies}*(" if group.copies > 1 else "")
        for run in group.runs:
            old, new = (line.text(run, group.copies) for line in lines)
            spelled = all(line.spelled(run) for line in lines)
            times = "" if spelled else f" x{run.nr}"
            for nr in range(run.nr if spelled else 1):
                self.both(" " if nr or run.start > group.start else "")
                self.put(old + times, new + times, "^" if differ[run.start] else " ")
        self.both(")" if group.copies > 1 else "")

    def text(self) -> str:
        self.flush()
        return "\n".join(row.rstrip() for row in self.rows)
