"""Rows of PTEs cut into blocks, runs and groups of equal blocks, as `notation` draws them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import NotationError
from ..machine import Machine
from .fields import SWP_TYPE, Fields, Number

__all__ = ["Group", "Line", "Run", "check_flags", "check_index", "check_words", "cut"]

U64 = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
#: entries up to which a run is spelled out, as the kernel's strips are
SPELLED = 4


class Run(NamedTuple):
    """Entries of a block that read alike: the first, how many, whether their numbers count on."""

    start: int
    nr: int
    counts: bool


class Group(NamedTuple):
    """Equal blocks: how many, the first entry, the length of a block, the runs of the first."""

    copies: int
    start: int
    length: int
    runs: list[Run]


class Line:
    """One row in columns: what is drawn of each entry."""

    def __init__(self, ptes: U64, pae: Bools | None, fields: Fields) -> None:
        """Split the words; ``pae`` is PageAnonExclusive of each page, if it is to be drawn."""
        self.ptes, self.pae, self.fields = ptes, pae, fields
        self.key, self.kind, self.number = fields.split(ptes)
        self.numbered = "pfn" in fields.shown
        self.bare = (self.kind == 0) | ((self.kind == 2) & (self.key & SWP_TYPE == SWP_TYPE))  # have no number
        self.texts: dict[tuple[int, int, bool | None], str] = {}

    def like(self, lag: int) -> tuple[Bools, Bools]:
        """Whether each entry draws as the one ``lag`` before it: if numbers count on, if they stand."""
        late, early = slice(lag, None), slice(None, max(len(self.ptes) - lag, 0))
        same = (self.key[late] == self.key[early]) & (self.kind[late] == self.kind[early])
        if self.pae is not None:
            same &= self.pae[late] == self.pae[early]
        if not self.numbered:
            return same, same
        step = self.number[late] - self.number[early]
        return same & ((step == lag) | self.bare[late]), same & (step == 0)

    def text(self, run: Run, copies: int) -> str:
        """The entry of a run, with the number of its first."""
        at = run.start
        key = (int(self.key[at]), int(self.kind[at]), None if self.pae is None else bool(self.pae[at]))
        if key not in self.texts:
            self.texts[key] = self.fields.text(int(self.ptes[at]), key[1], key[2])
        number = self._number(at)
        if number is None:
            return self.texts[key]
        more = ".." if run.counts and (run.nr > 1 or copies > 1) else ""
        return f"{self.texts[key]},{number.name}={int(self.number[at]):#x}{more}"

    def spelled(self, run: Run) -> bool:
        """Whether a run is written entry by entry."""
        return run.nr == 1 or (run.nr <= SPELLED and self._number(run.start) is None)

    def _number(self, at: int) -> Number | None:
        """The number drawn of an entry."""
        return self.fields.number(int(self.key[at]), int(self.kind[at])) if self.numbered else None


def cut(like: Callable[[int], tuple[Bools, Bools]], nr: int, first_idx: int, cont: int) -> Iterator[Group]:
    """Yield the blocks of a row of ``nr`` entries, equal neighbours as one group.

    ``like`` is `Line.like`, or its conjunction over rows that are cut at the same places.
    """
    if not nr:
        return
    ends = tuple(_ends(same) for same in like(1))
    head = min(-first_idx % cont, nr)
    if head:
        yield Group(1, 0, head, list(_runs(ends, 0, head, None)))
    full = (nr - head) // cont
    if full:
        last = head + (full - 1) * cont
        by_block = tuple(_ends(np.all(same[head:last].reshape(full - 1, cont), axis=1)) for same in like(cont))
        block = 0
        while block < full:
            on, still = (int(stop[block]) - block for stop in by_block)
            copies, lo = max(on, still), head + block * cont
            yield Group(copies, lo, cont, list(_runs(ends, lo, lo + cont, on > still if copies > 1 else None)))
            block += copies
    tail = head + full * cont
    if tail < nr:
        yield Group(1, tail, nr - tail, list(_runs(ends, tail, nr, None)))


def _ends(same: Bools) -> npt.NDArray[np.intp]:
    """Where the run of equals from each item stops; ``same[i]`` compares item i + 1 with item i."""
    nr = len(same) + 1
    stops = np.append(np.where(same, nr, np.arange(1, nr)), nr)
    return np.minimum.accumulate(stops[::-1])[::-1]


def _runs(ends: tuple[npt.NDArray[np.intp], ...], lo: int, hi: int, counts: bool | None) -> Iterator[Run]:
    """Runs of [lo, hi); ``counts``: whether the numbers of the group count on, None: a block by itself."""
    while lo < hi:
        on, still = (min(int(stop[lo]), hi) for stop in ends)
        counting = on > still if counts is None else counts
        stop = on if counting else still
        yield Run(lo, stop - lo, counting)
        lo = stop


# ---- arguments ----


def check_words(ptes: npt.ArrayLike) -> U64:
    """Return ``ptes`` as one-dimensional uint64, without a copy where it is that."""
    given = np.asarray(ptes) if isinstance(ptes, np.ndarray) else np.asarray(ptes, dtype=object)
    if given.ndim != 1:
        raise NotationError(f"a row of PTEs has one dimension, not {given.ndim}; draw row by row")
    if given.dtype == np.uint64:
        return given
    for word in given[[]] if given.dtype.kind == "u" else given:
        if not isinstance(word, (int, np.integer)) or isinstance(word, bool) or not 0 <= word < 1 << 64:
            raise NotationError(f"PTE {word!r} is not a word of 64 bits; give whole numbers from 0 to 2^64 - 1")
    return given.astype(np.uint64)


def check_flags(exclusive: npt.ArrayLike | None, nr: int) -> Bools | None:
    """Return ``exclusive`` as an array of ``nr`` truth values."""
    if exclusive is None:
        return None
    flags = np.asarray(exclusive)
    if flags.shape != (nr,) or (nr and flags.dtype != np.bool_):
        raise NotationError(f"exclusive has shape {flags.shape} and dtype {flags.dtype}; give {nr} truth values, one an entry")
    return flags.astype(np.bool_)


def check_index(first_idx: int, machine: Machine) -> int:
    """Return ``first_idx`` if a table of the machine has that entry."""
    if not isinstance(first_idx, (int, np.integer)) or not 0 <= first_idx < machine.ptrs_per_pte:
        raise NotationError(f"first_idx={first_idx!r} is not an index; give 0 to {machine.ptrs_per_pte - 1} (ptrs_per_pte)")
    return int(first_idx)
