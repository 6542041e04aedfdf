"""Text of a strip to PTE words; the grammar is in `notation`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import NotationError
from ..machine import Machine
from .entry import Entry, EntryReader
from .fields import Fields

__all__ = ["MAX_ENTRIES", "Row", "read"]

#: longest row that is read: 256G of 4K pages, 512M of words
MAX_ENTRIES = 1 << 26

Words = np.uint64 | npt.NDArray[np.uint64]

_SEE = "the grammar stands in 'pydoc ptebatch.notation.strip'"
_TOKEN = re.compile(r"(?P<blank>\s+)|(?P<bar>\|)|(?P<open>\d{1,9}\*\()|(?P<close>\))|(?P<word>[^\s|()]+)|(?P<other>.)")


class Row(NamedTuple):
    """One row of PTEs.

    Attributes
    ----------
    ptes : ndarray of uint64, shape (n,)
        The words.
    exclusive : ndarray of bool, shape (n,), or None
        PageAnonExclusive of each entry's page; None when no entry says.
    first_idx : int
        Index in its table of the first entry.
    """

    ptes: npt.NDArray[np.uint64]
    exclusive: npt.NDArray[np.bool_] | None
    first_idx: int


@dataclass
class _Group:
    """Runs, each an entry, how often, and where in the text; one group of one copy holds what is in no group."""

    copies: int
    runs: list[tuple[Entry, int, int]] = field(default_factory=list)
    barred: bool = False

    def length(self) -> int:
        return sum(count for _, count, _ in self.runs)


class _Reader:
    """Reads one strip from left to right."""

    def __init__(self, text: str, machine: Machine, pfn0: int) -> None:
        self.all, self.machine, self.fields, self.pfn0 = text, machine, Fields(machine), pfn0
        self.groups: list[_Group] = []
        self.inside = False
        self.needed = ""  # after what an entry must follow
        self.first_idx, self.done = 0, 0
        self.countable = False  # the token before was an entry
        self.entries: dict[str, Entry] = {}

    def error(self, place: int, found: str, expected: str) -> NotationError:
        lines = self.all[:place].split("\n")
        line = f"line {len(lines)}, " if "\n" in self.all.strip("\n") else ""
        return NotationError(f"strip, {line}column {len(lines[-1]) + 1}: found {found}, expected {expected}; {_SEE}")

    def read(self) -> Row:
        verbs = {"bar": self._bar, "open": self._open, "close": self._close, "word": self._word, "other": self._other}
        for token in _TOKEN.finditer(self.all):
            kind, text = str(token.lastgroup), token.group()
            if kind != "blank":
                verbs[kind](text, token.start())
                self.countable = kind == "word" and text[0] not in "@x"
        if self.needed or self.inside:
            raise self.error(len(self.all), "the end", f"an entry after {self.needed!r}" if self.needed else "')'")
        return Row(*self._build(), self.first_idx)

    def _other(self, text: str, place: int) -> None:
        raise self.error(place, repr(text), "a group such as 3*(RW,c x16)")

    def _open(self, text: str, place: int) -> None:
        copies = int(text[:-2])
        if self.inside:
            raise self.error(place, repr(text), "an entry: a group has no group in it")
        if copies == 0:
            raise self.error(place, repr(text), "at least one copy")
        self.groups.append(_Group(copies))
        self.inside, self.needed = True, "("

    def _close(self, text: str, place: int) -> None:
        if not self.inside or self.needed:
            raise self.error(place, "')'", f"an entry after {self.needed!r}" if self.inside else "a '3*(' before it")
        group = self.groups[-1]
        length = group.length()
        if group.barred and group.copies > 1 and length % self.machine.cont_ptes:
            raise self.error(place, f"a group of {length} entries with '|' in it", f"a multiple of {self.machine.cont_ptes}")
        self._count(length * (group.copies - 1), place)
        self.inside = False

    def _bar(self, text: str, place: int) -> None:
        cont = self.machine.cont_ptes
        over = (self.first_idx + self.done) % cont
        if self.needed or not self.done:
            raise self.error(place, "'|'", f"an entry {f'after {self.needed!r}' if self.needed else 'first'}")
        if over:
            raise self.error(place, f"'|' behind entry {over} of a block", f"it behind entry {cont} (cont_ptes)")
        self.needed = "|"
        if self.inside:
            self.groups[-1].barred = True

    def _word(self, text: str, place: int) -> None:
        if text[0] == "@":
            self._at(text, place)
        elif re.fullmatch(r"x\d{1,9}", text):
            self._times(int(text[1:]), text, place)
        else:
            if text not in self.entries:
                self.entries[text] = EntryReader(self.fields, self.error, place).read(text)
            if not self.inside and not (self.groups and self.groups[-1].copies == 1):
                self.groups.append(_Group(1))
            self.groups[-1].runs.append((self.entries[text], 1, place))
            self.needed = ""
            self._count(1, place)

    def _at(self, text: str, place: int) -> None:
        if self.all[:place].strip():
            raise self.error(place, repr(text), "an index only in front of the row")
        idx = text[1:]
        if not re.fullmatch(r"\d{1,9}", idx) or int(idx) >= self.machine.ptrs_per_pte:
            raise self.error(place, repr(text), f"an index below {self.machine.ptrs_per_pte} (ptrs_per_pte), such as @5")
        self.first_idx = int(idx)

    def _times(self, count: int, text: str, place: int) -> None:
        if not self.countable or count == 0:
            raise self.error(place, repr(text), "a count from x1 up behind one entry")
        runs = self.groups[-1].runs
        runs[-1] = (runs[-1][0], count, runs[-1][2])
        self._count(count - 1, place)

    def _count(self, more: int, place: int) -> None:
        self.done += more
        if self.done > MAX_ENTRIES:
            raise self.error(place, f"a row of {self.done} entries", f"at most {MAX_ENTRIES}")

    def _build(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_] | None]:
        ptes, pae = np.zeros(self.done, np.uint64), np.zeros(self.done, np.bool_)
        said, start = False, 0
        for group in self.groups:
            length = group.length()
            stop = start + group.copies * length
            block, flags = (a[start:stop].reshape(group.copies, length) for a in (ptes, pae))
            at = 0
            for entry, count, place in group.runs:
                run = slice(at, at + count)
                block[:, run] = self._words(entry, block[:, run].shape, start + at, length, place)
                if entry.pae is not None:
                    flags[:, run], said = entry.pae, True
                at += count
            start = stop
        return ptes, pae if said else None

    def _words(self, entry: Entry, shape: tuple[int, ...], start: int, length: int, place: int) -> Words:
        """The words of a run in every copy of its group of ``length``; ``start``: its place in the row."""
        number = entry.number
        if number is None:
            return np.uint64(entry.word)
        copies, count = shape
        first = entry.at
        if first is None:
            first = start + (self.pfn0 if number.first is None else number.first)
        more = (copies - 1) * length + count - 1 if entry.at is None or entry.counts else 0
        if not 0 <= first <= first + more < 1 << number.width:
            raise self.error(place, f"{number.name} {first:#x} to {first + more:#x}", f"0 to {(1 << number.width) - 1:#x}")
        if not more:
            return np.uint64(entry.word | first << number.shift)
        by_copy, by_entry = np.arange(copies, dtype=np.uint64), np.arange(count, dtype=np.uint64)
        numbers = np.uint64(first) + np.uint64(length) * by_copy[:, None] + by_entry
        return (numbers << np.uint64(number.shift)) | np.uint64(entry.word)


def read(text: str, machine: Machine, pfn0: int) -> Row:
    """Return the row that ``text`` draws, see `notation.parse`."""
    return _Reader(text, machine, pfn0).read()
