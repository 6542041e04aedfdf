"""What a comparison of strategies found: rows of counted numbers, and differences of PTE bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import bits
from .machine import Machine

if TYPE_CHECKING:
    from .core.result import Result

__all__ = ["BITS", "Comparison", "Difference", "Row", "dsb", "tlbi", "total"]

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


def tlbi(counters: Mapping[str, int]) -> int:
    """Return the TLBI instructions of conversions and final flushes together."""
    return sum(counters[f"{of}_{kind}"] for of in ("convert", "flush") for kind in ("vale1is", "rvale1is", "aside1is"))


def dsb(counters: Mapping[str, int]) -> int:
    """Return the DSB instructions of conversions and final flushes together."""
    return counters["convert_dsb"] + counters["flush_dsb"]


@dataclass(frozen=True, slots=True)
class Row:
    """What one strategy did in one change of protection.

    Parameters
    ----------
    strategy : str
    flawed : bool
        Kept to be caught, see ``ptebatch.strategies``.
    results : tuple of Result
        One a range.
    detection_reads : int
        PTE reads made to find batches, see ``ptebatch.detection``.
    difference : Difference
        Final PTEs against the reference's.
    errors : tuple of str
        Ranges that mprotect() refused, and why; what it did before is counted.
    """

    strategy: str
    flawed: bool
    results: tuple[Result, ...]
    detection_reads: int
    difference: Difference
    errors: tuple[str, ...] = ()

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
        return {
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
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """One change of protection, by several strategies from the same start.

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
        Of the strategy that the others are compared with.
    rows : tuple of Row
        In the order asked for.
    """

    name: str
    note: str
    length: int
    before: str
    op: str
    machine: Machine
    reference: Row
    rows: tuple[Row, ...]

    @property
    def same(self) -> bool:
        """Whether all rows end in the reference's PTEs."""
        return all(row.same for row in self.rows)

    @property
    def equivalent(self) -> bool:
        """Whether all rows are equivalent to the reference (spec 7.10)."""
        return all(row.equivalent for row in self.rows)

    def differing_counters(self) -> list[str]:
        """Return the names of counters that are not equal in all rows and the reference."""
        every = [self.reference.counters, *(row.counters for row in self.rows)]
        return [name for name in every[0] if len({c[name] for c in every}) > 1]

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON can hold it."""
        return {
            "name": self.name,
            "note": self.note,
            "length": self.length,
            "before": self.before,
            "op": self.op,
            "reference": self.reference.strategy,
            "differing_counters": self.differing_counters(),
            "rows": [row.to_dict() for row in self.rows],
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
    return Comparison(name, note, length, first.before, first.op, first.machine, reference, tuple(rows))


def _summed(rows: Sequence[Row]) -> Row:
    return Row(
        strategy=rows[0].strategy,
        flawed=rows[0].flawed,
        results=tuple(result for row in rows for result in row.results),
        detection_reads=sum(row.detection_reads for row in rows),
        difference=sum((row.difference for row in rows), Difference()),
        errors=tuple(error for row in rows for error in row.errors),
    )
