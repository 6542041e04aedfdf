"""What a comparison of strategies found: rows of counted numbers, and differences of PTE bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import bits
from ..counters import dsb, tlbi
from ..machine import Machine
from ..report import between_text, count_text

if TYPE_CHECKING:
    from ..mm.result import Result

__all__ = ["BITS", "COSTS", "Comparison", "Difference", "Row", "dsb", "tlbi", "total"]

#: PTE bits in which strategies may end differently
BITS: Mapping[str, int] = MappingProxyType(
    {
        "AF": bits.PTE_AF,
        "DIRTY": bits.PTE_DIRTY,
        "RDONLY": bits.PTE_RDONLY,
        "WRITE": bits.PTE_WRITE,
        "CONT": bits.PTE_CONT,
    }
)


@dataclass(frozen=True, slots=True)
class Difference:
    """In what final PTEs differ from the reference's.

    Parameters
    ----------
    ptes : int
        Entries that differ.
    bits : dict of str to int
        Entries that differ in a bit of `BITS`, or in ``other`` bits; no zeros.
    """

    ptes: int = 0
    bits: dict[str, int] = field(default_factory=dict)

    @classmethod
    def between(cls, ours: NDArray[np.uint64], theirs: NDArray[np.uint64]) -> Difference:
        """Return the difference of two arrays of words, uint64 of one shape."""
        changed = ours ^ theirs
        changed = changed[changed != 0]
        masks = {**BITS, "other": ~sum(BITS.values()) & (1 << 64) - 1}
        counts = {name: int(np.count_nonzero(changed & np.uint64(mask))) for name, mask in masks.items()}
        return cls(changed.size, {name: n for name, n in counts.items() if n})

    def __add__(self, other: Difference) -> Difference:
        """Return the two counted together."""
        both = {name: self.bits.get(name, 0) + other.bits.get(name, 0) for name in (*BITS, "other")}
        return Difference(self.ptes + other.ptes, {name: n for name, n in both.items() if n})


@dataclass(frozen=True, slots=True)
class Row:
    """What one strategy, or one kernel, did in one change of protection.

    Parameters
    ----------
    strategy : str
    flawed : bool
        Kept to be caught, see ``ptebatch.strategies``.
    results : tuple of Result
        One a range.
    detection_reads : int
        PTE reads made to find batches: those of ptep_get() in the loop and its scans, gathering included.
    difference : Difference
        Final PTEs against the reference's.
    errors : tuple of str
        Ranges that mprotect() refused, and why; what it did before is counted.
    kernel : str
        Of a comparison of kernels: the release that was asked for; else empty.
    """

    strategy: str
    flawed: bool
    results: tuple[Result, ...]
    detection_reads: int
    difference: Difference
    errors: tuple[str, ...] = ()
    kernel: str = ""

    @property
    def label(self) -> str:
        """What tells it from the other rows: its kernel, or its strategy."""
        return self.kernel or self.strategy

    @property
    def counters(self) -> dict[str, int]:
        """Every counter, summed over the ranges."""
        rows = [result.counters for result in self.results]
        return {name: sum(row[name] for row in rows) for name in rows[0]}

    @property
    def pages(self) -> int:
        """Entries dealt with."""
        return sum(result.pages for result in self.results)

    @property
    def not_modelled(self) -> list[str]:
        """What the kernel does besides and the model does not, each sentence once."""
        return list(dict.fromkeys(text for result in self.results for text in result.not_modelled))

    @property
    def same(self) -> bool:
        """Whether the final PTEs equal the reference's."""
        return not self.difference.ptes

    @property
    def equivalent(self) -> bool:
        """Whether they differ at most in what sound designs may differ in: AF, dirty, CONT (spec 7.10)."""
        return set(self.difference.bits) <= {"AF", "DIRTY", "RDONLY", "CONT"}

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON can hold it; ``tlbi`` and ``dsb`` are sums of counters, see `tlbi`."""
        c = self.counters
        return ({"kernel": self.kernel} if self.kernel else {}) | {
            "strategy": self.strategy,
            "flawed": self.flawed,
            "pages": self.pages,
            "detection_reads": self.detection_reads,
            "tlbi": tlbi(c),
            "dsb": dsb(c),
            "same": self.same,
            "differing_ptes": self.difference.ptes,
            "differing_bits": self.difference.bits,
            "counters": c,
            "errors": list(self.errors),
            "not_modelled": self.not_modelled,
        }


#: what rows are ranked by: a name, and the number; less is better
COSTS: Mapping[str, Callable[[Row], int]] = MappingProxyType(
    {
        "pte_reads": lambda row: row.counters["pte_reads"],
        "pae_reads": lambda row: row.counters["pae_reads"],
        "prot_start": lambda row: row.counters["prot_start"],
        "prot_commit": lambda row: row.counters["prot_commit"],
        "unfolds": lambda row: row.counters["unfolds"],
        "tlbi": lambda row: tlbi(row.counters),
        "dsb": lambda row: dsb(row.counters),
    }
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One change of protection, by several strategies, or on several kernels, from the same start.

    Parameters
    ----------
    name, note : str
        Layout or mapping, and what it is.
    length : int
        Bytes.
    before, op : str
        Protection at the start of the sequence or after its last operation, and the new one.
    machine : Machine
    reference : Row
        Of the strategy, or kernel, that the others are compared with.
    rows : tuple of Row
        In the order asked for.
    unknown : str
        Of a process, how what /proc does not show was taken, one of ``start.UNKNOWN``;
        empty: nothing was unknown.
    exclusive_unknown, dirty_unknown : int
        Pages in the range of which it is unknown whether they are PageAnonExclusive, or
        whether their entry is dirty.
    if_exclusive : Comparison, optional
        The same at the other end: `rows` have no such page exclusive, these have each.
        What counts lies between them where all such pages are alike; a mixture within
        one batch can cost more than either.
    """

    name: str
    note: str
    length: int
    before: str
    op: str
    machine: Machine
    reference: Row
    rows: tuple[Row, ...]
    unknown: str = ""
    exclusive_unknown: int = 0
    dirty_unknown: int = 0
    if_exclusive: Comparison | None = None

    @property
    def ends(self) -> tuple[Comparison, ...]:
        """This comparison, and that at the other end of what is unknown."""
        return (self,) if self.if_exclusive is None else (self, self.if_exclusive)

    @property
    def same(self) -> bool:
        """Whether all rows end in the reference's PTEs, at both ends."""
        return all(row.same for end in self.ends for row in end.rows)

    @property
    def equivalent(self) -> bool:
        """Whether all rows are equivalent to the reference (spec 7.10), at both ends."""
        return all(row.equivalent for end in self.ends for row in end.rows)

    @property
    def errors(self) -> list[str]:
        """What mprotect() refused, and why, each sentence once."""
        return list(dict.fromkeys(error for row in (self.reference, *self.rows) for error in row.errors))

    @property
    def not_modelled(self) -> list[str]:
        """What the kernel does besides and the model does not, each sentence once."""
        return list(dict.fromkeys(text for row in (self.reference, *self.rows) for text in row.not_modelled))

    def flips(self) -> dict[str, list[tuple[str, str]]]:
        """Return in what the ranking of two rows depends on what is unknown.

        Returns
        -------
        dict of str to list of (str, str)
            A number of `COSTS`, and the labels of rows (a, b): a has less than b where
            no unknown page is exclusive, and more where each is.
        """
        if self.if_exclusive is None:
            return {}
        found: dict[str, list[tuple[str, str]]] = {}
        for name, cost in COSTS.items():
            here, there = ([cost(row) for row in end.rows] for end in self.ends)
            pairs = [
                (self.rows[i].label, self.rows[j].label)
                for i in range(len(here))
                for j in range(len(here))
                if here[i] < here[j] and there[i] > there[j]
            ]
            if pairs:
                found[name] = pairs
        return found

    def differing_counters(self) -> list[str]:
        """Return the names of counters that are not equal in all rows and the reference."""
        every = [self.reference.counters, *(row.counters for row in self.rows)]
        return [name for name in every[0] if len({c[name] for c in every}) > 1]

    def records(self) -> list[dict[str, Any]]:
        """Return a flat dict for each row, every counter in it, for tables of any kind.

        Returns
        -------
        list of dict
            Of a comparison with two ends, rows of both; ``end`` says which.
        """
        found = []
        for end, name in zip(self.ends, ("shared", "exclusive") if self.if_exclusive else ("",), strict=True):
            for row in end.rows:
                whole = row.to_dict()
                counters = whole.pop("counters")
                whole |= {"differing_bits": " ".join(f"{bit}:{n}" for bit, n in whole["differing_bits"].items())}
                whole |= {key: "; ".join(whole[key]) for key in ("errors", "not_modelled")}
                place = {
                    "name": self.name,
                    "length": self.length,
                    "before": self.before,
                    "op": self.op,
                    "machine": str(self.machine),
                }
                found.append({**place, **({"end": name} if name else {}), **whole, **counters})
        return found

    def to_frame(self) -> Any:
        """Return `records` as a ``pandas.DataFrame``; ImportError without pandas."""
        import pandas as pd  # type: ignore[import-untyped, unused-ignore]

        return pd.DataFrame(self.records())

    def _cells(self) -> list[list[str]]:
        head = [
            "kernel" if self.reference.kernel else "strategy",
            *(name.replace("_", " ") for name in COSTS),
            f"vs {self.reference.label}",
        ]
        rows = [head]
        for row, other in zip(self.rows, self.ends[-1].rows, strict=True):
            cells = [between_text(cost(row), cost(other)) for cost in COSTS.values()]
            name = row.label + " (flawed)" * row.flawed
            rows.append([name, *cells, "same" if row.same else f"{count_text(row.difference.ptes)} differ"])
        return rows

    def __str__(self) -> str:
        """Return the comparison as text: a line for each row."""
        rows = self._cells()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(w) if i in (0, len(row) - 1) else cell.rjust(w)
                for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        return "\n".join([f"{self.name}, {self.before} to {self.op}: {self.note}", *(line.rstrip() for line in lines)])

    def _repr_html_(self) -> str:
        """Return the comparison as a table for notebooks."""
        head, *rows = self._cells()
        title = escape(f"{self.name}, {self.before} to {self.op}: {self.note}")
        heads = "".join(f"<th>{escape(cell)}</th>" for cell in head)
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        return f"<table><caption>{title}</caption><tr>{heads}</tr>{body}</table>"

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON can hold it."""
        return {
            "name": self.name,
            "note": self.note,
            "length": self.length,
            "before": self.before,
            "op": self.op,
            "reference": self.reference.label,
            "differing_counters": self.differing_counters(),
            "rows": [row.to_dict() for row in self.rows],
            "unknown": self.unknown or None,
            "unknown_pages": {"exclusive": self.exclusive_unknown, "dirty": self.dirty_unknown},
            "rows_if_exclusive": None if self.if_exclusive is None else [row.to_dict() for row in self.if_exclusive.rows],
            "ranking_flips": {name: [list(pair) for pair in pairs] for name, pairs in self.flips().items()},
        }


def total(comparisons: Sequence[Comparison], name: str, note: str = "") -> Comparison:
    """Return comparisons of one operation by the same strategies, summed up.

    Parameters
    ----------
    comparisons : sequence of Comparison
        At least one; ranges of one world.
    name, note : str
        Of the sum.
    """
    first = comparisons[0]
    rows = [_summed(parts) for parts in zip(*(c.rows for c in comparisons), strict=True)]
    reference = _summed([c.reference for c in comparisons])
    length = sum(c.length for c in comparisons)
    other = None
    if any(c.if_exclusive is not None for c in comparisons):
        other = total([c.ends[-1] for c in comparisons], name, note)
    return Comparison(
        name, note, length, first.before, first.op, first.machine, reference, tuple(rows), first.unknown,
        sum(c.exclusive_unknown for c in comparisons), sum(c.dirty_unknown for c in comparisons), other,
    )  # fmt: skip


def _summed(rows: Sequence[Row]) -> Row:
    return Row(
        strategy=rows[0].strategy,
        flawed=rows[0].flawed,
        results=tuple(result for row in rows for result in row.results),
        detection_reads=sum(row.detection_reads for row in rows),
        difference=sum((row.difference for row in rows), Difference()),
        errors=tuple(error for row in rows for error in row.errors),
        kernel=rows[0].kernel,
    )
