"""What verification found: a report of files, a file of lines, and the first difference of each.

All numbers are counted. A *line* is one engine, machine or granule; its *cases*
are scenarios, records, calls, windows or rows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..machine import Machine
from .load import Node, file_list, read_json

__all__ = ["Difference", "FileReport", "Line", "Paths", "Report", "ptes_difference", "verify_files"]

#: one file, or some
Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]

Words = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that the model has otherwise than the file.

    Parameters
    ----------
    place : str
        Scenario, record or row.
    what : str
        Quantity: ``ptes``, ``pages``, the name of a counter or function ...
    expected, got : object
        Value of the file, value of the model; PTE words as hex text.
    strip : str
        Two rows of PTEs with marks below, for PTEs; else empty.
    """

    place: str
    what: str
    expected: Any
    got: Any
    strip: str = ""

    def text(self) -> str:
        """Text of one line, or of four with the strip."""
        head = f"{self.place}: {self.what}: expected {self.expected}, got {self.got}"
        return "\n".join([head, *("  " + row for row in self.strip.splitlines())])

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {"place": self.place, "what": self.what, "expected": self.expected, "got": self.got, "strip": self.strip}


def ptes_difference(
    place: str, what: str, expected: Words, got: Words, machine: Machine, first_idx: int = 0
) -> Difference | None:
    """Compare two rows of PTEs; None if they are equal.

    Parameters
    ----------
    place, what : str
        See `Difference`.
    expected, got : array of uint64, same shape
    machine : Machine
    first_idx : int
        Index in its table of the first entry.
    """
    at = np.flatnonzero(expected != got)
    if not at.size:
        return None
    from ..notation.strip import diff

    i, per = int(at[0]), machine.ptrs_per_pte
    # the strip shows the table of the first difference: a row is never longer than a table
    low = max(0, (i + first_idx) // per * per - first_idx)
    high = (i + first_idx) // per * per + per - first_idx
    strip = diff(expected[low:high], got[low:high], machine, first_idx=(low + first_idx) % per, labels=("expected", "got"))
    return Difference(f"{place}, entry {i}", what, f"{int(expected[i]):016x}", f"{int(got[i]):016x}", strip)


@dataclass(slots=True)
class Line:
    """How the cases of one engine, machine or granule came out.

    Parameters
    ----------
    name : str
        First column of the table.
    labels : dict of str to str
        Further columns: strategy, machine.
    checked : sequence of str
        Quantities that this line compares and that have a column of their own.
    total, equal : int
        Cases compared, and those without any difference.
    loose : int
        Of these, cases compared by "at least" only.
    skipped : int
        Cases that cannot be replayed, and are not in `total`.
    differ : dict of str to int
        Quantity -> cases in which it differs; only those that do.
    first : Difference or None
        The first difference met.
    """

    name: str
    labels: dict[str, str] = field(default_factory=dict)
    checked: Sequence[str] = ()
    total: int = 0
    equal: int = 0
    loose: int = 0
    skipped: int = 0
    differ: dict[str, int] = field(default_factory=dict)
    first: Difference | None = None

    def add(self, differences: Sequence[Difference], *, loose: bool = False) -> None:
        """Count one case and its differences, at most one a quantity."""
        self.total += 1
        self.loose += loose
        self.equal += not differences
        for d in differences:
            self.differ[d.what] = self.differ.get(d.what, 0) + 1
        if differences and self.first is None:
            self.first = differences[0]

    @property
    def ok(self) -> bool:
        """Whether no case differs."""
        return self.equal == self.total

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints; `differ` holds zeros for the checked quantities."""
        return {
            "name": self.name,
            **self.labels,
            "total": self.total,
            "equal": self.equal,
            "loose": self.loose,
            "skipped": self.skipped,
            "differ": {**dict.fromkeys(self.checked, 0), **self.differ},
            "first": self.first.to_dict() if self.first else None,
        }


@dataclass(slots=True)
class FileReport:
    """The lines of one file.

    Parameters
    ----------
    path : str
    title : str
        What the file holds, in one clause.
    unit : str
        Name of the first column.
    cases : str
        Name of the column with the number of cases.
    columns : sequence of str
        Quantities with a column of their own; the others are named when they differ.
    others : str
        Name of the last column.
    lines : list of Line
    """

    path: str
    title: str
    unit: str
    cases: str
    columns: Sequence[str]
    others: str
    lines: list[Line] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether no case of any line differs."""
        return all(line.ok for line in self.lines)

    def line(self, name: str, labels: dict[str, str] | None = None, checked: Sequence[str] | None = None) -> Line:
        """Return the line of that name and labels, a new one at its first use."""
        labels = labels or {}
        for line in self.lines:
            if line.name == name and line.labels == labels:
                return line
        self.lines.append(Line(name, labels, self.columns if checked is None else checked))
        return self.lines[-1]

    def text(self) -> str:
        """Heading, table, and the first difference of each line that has one."""
        firsts = [
            f"  {line.name}: first difference: " + line.first.text().replace("\n", "\n    ") for line in self.lines if line.first
        ]
        return "\n".join([f"{self.path}: {self.title}", *("  " + row for row in self._table()), *firsts])

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {"path": self.path, "title": self.title, "ok": self.ok, "lines": [line.to_dict() for line in self.lines]}

    def _table(self) -> list[str]:
        labels = list(dict.fromkeys(name for line in self.lines for name in line.labels))
        numbers = [self.cases, "equal", *(name for name in ("loose", "skipped") if any(getattr(n, name) for n in self.lines))]
        rows = [[self.unit, *labels, *numbers, *self.columns, self.others]]
        for line in self.lines:
            counts = [line.total, line.equal, *(getattr(line, name) for name in numbers[2:])]
            own = [str(line.differ.get(name, 0)) if name in line.checked else "-" for name in self.columns]
            rest = [f"{name} {nr}" for name, nr in line.differ.items() if name not in self.columns]
            rows.append(
                [line.name, *(line.labels.get(n, "") for n in labels), *map(str, counts), *own, ", ".join(rest) or "none"]
            )
        return _aligned(rows, left={*range(len(labels) + 1), len(rows[0]) - 1})


def _aligned(rows: list[list[str]], left: set[int]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def cell(i: int, text: str) -> str:
        return text.ljust(widths[i]) if i in left else text.rjust(widths[i])

    return ["  ".join(cell(i, text) for i, text in enumerate(row)).rstrip() for row in rows]


@dataclass(frozen=True, slots=True)
class Report:
    """The files of one run.

    Parameters
    ----------
    kind : str
        ``vectors``, ``dumps``, ``traces``, ``loops`` or ``prim``.
    files : list of FileReport
    """

    kind: str
    files: list[FileReport]

    @property
    def ok(self) -> bool:
        """Whether nothing differs in any file."""
        return all(file.ok for file in self.files)

    @property
    def total(self) -> int:
        """Cases compared in all files."""
        return sum(line.total for file in self.files for line in file.lines)

    @property
    def equal(self) -> int:
        """Cases without a difference in all files."""
        return sum(line.equal for file in self.files for line in file.lines)

    def text(self) -> str:
        """Every file's table and first differences, then one line of result."""
        if self.ok:
            verdict = f"no difference in {self.total} comparisons"
        else:
            verdict = f"{self.total - self.equal} of {self.total} comparisons differ"
        return "\n\n".join([*(file.text() for file in self.files), verdict])

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "kind": self.kind,
            "ok": self.ok,
            "total": self.total,
            "equal": self.equal,
            "files": [file.to_dict() for file in self.files],
        }


def verify_files(name: str, paths: Paths, check: Callable[[str, Node], FileReport], kind: str = "") -> Report:
    """Check files of one kind.

    Parameters
    ----------
    name : str
        Of the report.
    paths : path or list of path
        JSON, plain or gzip.
    check : callable
        ``check(path, document)`` replays one file.
    kind : str
        What `load.read_json` takes the files for; empty: anything.

    Returns
    -------
    Report

    Raises
    ------
    InputError
        A file that cannot be read, or is not of its kind; names file and place.
    PtebatchError
        There is no file.
    """
    return Report(name, [check(path, read_json(path, kind)) for path in file_list(paths)])
