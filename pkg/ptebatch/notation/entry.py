"""One entry of a strip, text to word; the grammar is in `notation`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from .. import bits as b
from ..errors import NotationError
from .fields import PERMS, SWP_TYPE, Fields, Number

__all__ = ["Entry", "EntryReader"]

Error = Callable[[int, str, str], NotationError]  # place, found, expected

_DIRTY = {"clean": b.PTE_RDONLY, "hw": 0, "sw": b.PTE_RDONLY | b.PTE_DIRTY, "hw+sw": b.PTE_DIRTY}
_PLAIN = {
    "young": ("young", b.PTE_AF),
    "old": ("young", 0),
    "special": ("special", b.PTE_SPECIAL),
    "uffd": ("uffd", b.PTE_UFFD),
    "mte": ("mte", 1 << 2),
    "bti": ("bti", b.PTE_GP),
}
_SLOT = {"young": "young", "old": "young", "dirty": "dirty", "clean": "dirty"}


class Entry(NamedTuple):
    """An entry: its word less the number, the number (None: default), whether it counts on, PAE."""

    word: int
    number: Number | None
    at: int | None
    counts: bool
    pae: bool | None


class EntryReader:
    """Reads one entry: a head, then tokens in any order, each kind once."""

    def __init__(self, fields: Fields, error: Error, place: int) -> None:
        """Stand at ``place`` of the strip; ``error`` makes the errors of it."""
        self.f, self._error, self.place = fields, error, place
        self.seen: dict[str, str] = {}
        self.at: int | None = None
        self.counts = False

    def error(self, token: str, expected: str) -> NotationError:
        """What to raise for the token at the present place."""
        return self._error(self.place, repr(token), expected)

    def number(self, token: str, text: str, expected: str) -> int:
        """The number that ``text``, the end of a token, writes."""
        try:
            return int(text, 0)
        except ValueError:
            raise self.error(token, expected) from None

    def read(self, text: str) -> Entry:
        """Read the whole of an entry."""
        head, *tokens = text.split(",")
        start = self.place
        word, number, known = self._head(head)
        for token in tokens:
            self.place += len(head) + 1
            head = token
            if token in ("pae", "nopae"):
                self.take("PageAnonExclusive", token)
            elif number is not None and token.startswith(number.name + "="):
                self.take(number.name, token)
                text_at = token.removesuffix("..")
                self.counts = text_at != token
                self.at = self.number(token, text_at[len(number.name) + 1 :], f"a number, such as {number.name}=0x100")
            elif number is self.f.pfn:
                word = self._present(word, token)
            elif token in known:
                self.take(_SLOT.get(token, token), token)
                word |= known[token]
            else:
                raise self.error(token, " or ".join([*known, "pae", "nopae", *([f"{number.name}=N"] if number else [])]))
        self.place = start
        if number is self.f.pfn and "c or n" not in self.seen:
            raise self.error(text, "c (contiguous) or n behind the permission, as in RW,c")
        if number is self.f.swap and not word & SWP_TYPE and self.at == 0:
            raise self.error(text, "an offset from 1 up: swap type 0 at offset 0 is the empty entry")
        pae = self.seen.get("PageAnonExclusive")
        return Entry(word, number, self.at, self.counts, None if pae is None else pae == "pae")

    def take(self, what: str, token: str) -> None:
        """Note that ``token`` settles ``what``, which nothing else may."""
        if what in self.seen:
            raise self.error(token, f"only one of {what}, given already as {self.seen[what]!r}")
        self.seen[what] = token

    def _head(self, head: str) -> tuple[int, Number | None, dict[str, int]]:
        """The word a head stands for, the number it takes, the tokens that set bits of it."""
        f = self.f
        flags = {"excl": b.PTE_SWP_EXCLUSIVE, "uffd": b.PTE_SWP_UFFD}
        if head in PERMS:
            return PERMS[head] | f.base | b.PTE_AF, f.pfn, {}
        if head == "none":
            return 0, None, {}
        if re.fullmatch(r"0[xX][0-9a-fA-F]+", head):
            if int(head, 16) >> 64:
                raise self.error(head, "a word of at most 64 bits")
            return int(head, 16), None, {}
        if head in f.leaves:
            leaf = f.leaves.index(head)
            if head.startswith("mig"):
                flags |= {"young": f.young, "old": 0, "dirty": f.dirty, "clean": 0}
            return leaf << b.SWP_TYPE_SHIFT, f.swap if leaf < f.nr_swap else f.leaf_pfn, flags
        if head.startswith("marker:"):
            marks = head.removeprefix("marker:").split("+")
            for mark in marks:
                if mark not in f.markers or marks.count(mark) > 1:
                    raise self.error(head, f"a marker of {', '.join(f.markers)}, several joined by '+'")
            offset = sum(f.markers[mark] for mark in marks)
            return b.SWP_TYPE_MASK << b.SWP_TYPE_SHIFT | offset << b.SWP_OFFSET_SHIFT, None, flags
        kinds = [f"swap to swap{f.nr_swap - 1}", *f.leaves[f.nr_swap :], "marker:..."]
        raise self.error(head, f"a permission ({', '.join(PERMS)}), none, a softleaf ({', '.join(kinds)}) or a word 0x...")

    def _present(self, word: int, token: str) -> int:
        """``word`` with what one token of a present entry says."""
        if token in ("c", "n"):
            self.take("c or n", token)
            return word | b.PTE_CONT * (token == "c")
        if token in _DIRTY:
            self.take("dirty", token)
            if token.startswith("hw") and not word & b.PTE_WRITE:
                raise self.error(token, "clean or sw: only RW and RWX are dirty in hardware")
            return word & ~b.PTE_RDONLY | _DIRTY[token]
        if token in _PLAIN:
            what, bits = _PLAIN[token]
            self.take(what, token)
            return word & ~b.PTE_AF if token == "old" else word | bits
        if token.startswith("pkey="):
            self.take("pkey", token)
            pkey = self.number(token, token[5:], "pkey=1 to pkey=7")
            if not 1 <= pkey <= 7:
                raise self.error(token, "pkey=1 to pkey=7")
            return word ^ pkey << 60
        if re.fullmatch(r"\^0x[0-9a-fA-F]+", token):
            self.take("^0xBITS", token)
            if int(token[1:], 16) & ~self.f.attr or not int(token[1:], 16):
                raise self.error(token, f"bits of {self.f.attr:#x}: the others have a notation of their own")
            return word ^ int(token[1:], 16)
        raise self.error(token, f"{', '.join(['c', 'n', *_DIRTY, *_PLAIN, 'pkey=N', '^0xBITS', 'pae', 'nopae'])} or pfn=N")
