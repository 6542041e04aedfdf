"""One entry of a strip: a 64-bit PTE word to text and back.

`notation` knows rows: blocks, runs, groups. This module knows words: which
permission a word gives, which softleaf it is, and what each field draws
(spec 1.2, 1.6, 2.1; arch/arm64/include/asm/pgtable.h, include/linux/swapops.h).
A word that is none of these is drawn as it is, in hex.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .. import bits as b
from ..errors import NotationError, closest
from ..machine import Machine

__all__ = ["FIELDS", "PERMS", "SWP_TYPE", "Fields", "Number", "field_names"]

U64 = npt.NDArray[np.uint64]

#: field -> what it adds to an entry; the order is the order on the strip
FIELDS = {
    "exec": "RX and RWX instead of RO and RW",
    "dirty": "clean, hw (WRITE without RDONLY), sw (DIRTY), hw+sw",
    "young": "young or old (AF)",
    "special": "special, if set",
    "uffd": "uffd, if set",
    "attr": "mte, bti, pkey=N and ^0xBITS: other bits that differ from the usual page_prot",
    "exclusive": "pae or nopae (PageAnonExclusive of the page), excl (the bit of a softleaf entry)",
    "pfn": "pfn=N, off=N of a swap entry",
}

_T, _RO = b.PTE_TYPE_PAGE & ~b.PTE_VALID, b.PTE_RDONLY
_USER = b.PTE_VALID | _T | b.PTE_USER | b.PTE_NG | b.PTE_PXN
_PERM_MASK = _USER | b.PTE_WRITE | b.PTE_UXN
#: permission -> its bits; RDONLY only where it is not a matter of dirtiness (spec 2.1)
PERMS = {
    "RO": _USER | _RO | b.PTE_UXN,
    "RX": _USER | _RO,
    "RW": _USER | b.PTE_WRITE | b.PTE_UXN,
    "RWX": _USER | b.PTE_WRITE,
    "XO": (_USER & ~b.PTE_USER) | _RO,
    "--": (_USER & ~b.PTE_USER & ~b.PTE_VALID) | _RO | b.PTE_UXN,
}
_NAMED = _PERM_MASK | _RO | b.PTE_AF | b.PTE_CONT | b.PTE_DIRTY | b.PTE_SPECIAL | b.PTE_UFFD
_WORD = (1 << 64) - 1
SWP_TYPE = b.SWP_TYPE_MASK << b.SWP_TYPE_SHIFT  # all ones: a marker
_EXCL, _SWP_UFFD = b.PTE_SWP_EXCLUSIVE, b.PTE_SWP_UFFD
_OFF = b.SWP_OFFSET_SHIFT
_MARKERS = {"uffd-wp": b.PTE_MARKER_UFFD_WP, "poisoned": b.PTE_MARKER_POISONED, "guard": b.PTE_MARKER_GUARD}
_MARKER = 31
_BITS = ("VALID", "USER", "RDONLY", "AF", "NG", "GP", "WRITE", "CONT", "PXN", "UXN", "DIRTY", "SPECIAL", "UFFD")
_LONG = {
    "RO": "read-only",
    "RX": "read and execute",
    "RW": "read and write",
    "RWX": "read, write and execute",
    "XO": "execute-only",
    "--": "PROT_NONE",
    "c": "contiguous",
    "n": "not contiguous",
    "hw": "dirty in hardware",
    "sw": "dirty in software",
    "hw+sw": "dirty in hardware and software",
    "hwpoison": "poisoned page",
    "mig-r": "migration entry, read",
    "mig-rx": "migration entry, read-exclusive",
    "mig-w": "migration entry, write",
    "excl": "exclusive",
}


class Number(NamedTuple):
    """Where an entry keeps its pfn or swap offset: token name, lowest bit, width, default of the first."""

    name: str
    shift: int
    width: int
    first: int | None


def field_names(fields: str) -> frozenset[str]:
    """Return the set of names in ``fields`` (separated by commas or blanks, or ``all``).

    Raises
    ------
    NotationError
        A name that is not in `FIELDS`.
    """
    names = fields.replace(",", " ").split()
    for name in names:
        if name not in FIELDS and name != "all":
            raise NotationError(f"field {name!r} cannot be drawn; {closest(name, [*FIELDS, 'all'])}")
    return frozenset(FIELDS) if "all" in names else frozenset(names)


class Fields:
    """How the words of one machine read, with some fields shown.

    Parameters
    ----------
    machine : Machine
        Gives PAGE_SHIFT, the numbering of softleaf types and whether SH exists.
    shown : iterable of str
        Names of `FIELDS`.
    """

    def __init__(self, machine: Machine, shown: Iterable[str] = FIELDS) -> None:
        """Lay out the words of ``machine``."""
        self.shown = frozenset(shown)
        shift = machine.page_shift
        self.base = 0 if machine.lpa2 else b.PTE_SHARED
        self.pfn = Number("pfn", shift, b.PTE_ADDR_END - shift, None)
        self.swap = Number("off", _OFF, 50, 1)  # offset 0 of a swap area is its header
        self.leaf_pfn = Number("pfn", _OFF, 48 - shift, None)
        self.addr = ((1 << b.PTE_ADDR_END) - 1) >> shift << shift
        self.attr = _WORD & ~_NAMED & ~self.addr
        self.young, self.dirty = 1 << (_OFF + 48 - shift), 2 << (_OFF + 48 - shift)
        private = ("dev-w", "dev-r", "dev-xw", "dev-xr") if machine.exclusive_write else ("dev-w", "dev-r", "dev-x")
        names = ("hwpoison", "mig-r", "mig-rx", "mig-w", *(private if machine.device_private else ()))
        self.nr_swap = _MARKER - len(names)
        self.leaves = [f"swap{t or ''}" for t in range(self.nr_swap)] + list(names)
        self.markers = {k: v for k, v in _MARKERS.items() if k != "guard" or machine.guard_markers}
        self._tables()

    def _tables(self) -> None:
        shown, pfns = self.shown, ((1 << self.leaf_pfn.width) - 1) << _OFF
        lost = {"exec": b.PTE_UXN, "dirty": b.PTE_DIRTY | _RO, "young": b.PTE_AF, "special": b.PTE_SPECIAL}
        lost |= {"uffd": b.PTE_UFFD, "attr": self.attr}
        self.hidden = sum(bits for name, bits in lost.items() if name not in shown)
        lost = {"exclusive": _EXCL, "uffd": _SWP_UFFD}
        common = sum(bits for name, bits in lost.items() if name not in shown)
        migration = sum(bits for n, bits in (("young", self.young), ("dirty", self.dirty)) if n not in shown)
        self.leaf_number, self.leaf_known, self.leaf_hidden = (np.zeros(32, np.uint64) for _ in range(3))
        for kind, name in enumerate([*self.leaves, "marker"]):
            number = b.SWP_OFFSET_MASK << _OFF if kind < self.nr_swap else 0 if kind == _MARKER else pfns
            moving = name.startswith("mig")
            more = (self.young | self.dirty) * moving | (sum(self.markers.values()) << _OFF) * (kind == _MARKER)
            self.leaf_number[kind] = number
            self.leaf_known[kind] = number | more | _EXCL | _SWP_UFFD | SWP_TYPE
            self.leaf_hidden[kind] = common | (migration if moving else 0)

    # ---- words to columns ----

    def split(self, words: U64) -> tuple[U64, npt.NDArray[np.uint8], U64]:
        """Return what is drawn of each word: (key, kind, number), three arrays.

        Kind is 0 for none and hex words, 1 for a permission, 2 for a softleaf;
        entries of equal key and kind differ on the strip in nothing but the number.
        """
        named = np.zeros(len(words), np.bool_)
        for perm in PERMS.values():
            named |= words & (_PERM_MASK if perm & b.PTE_WRITE else _PERM_MASK | _RO) == perm
        key = np.where(named, words & (_WORD & ~self.addr & ~self.hidden), words)
        kind = named.astype(np.uint8)
        shift = self.pfn.shift
        number = np.where(named, (words & self.addr) >> shift, 0).astype(np.uint64)
        if not named.all():
            self._split_leaves(words, key, kind, number)
        return key, kind, number if "pfn" in self.shown else np.zeros_like(number)

    def _split_leaves(self, words: U64, key: U64, kind: npt.NDArray[np.uint8], number: U64) -> None:
        at = np.flatnonzero((words != 0) & (words & (b.PTE_VALID | b.PTE_NG) == 0))
        w = words[at]
        leaf = (w >> b.SWP_TYPE_SHIFT & b.SWP_TYPE_MASK).astype(np.intp)
        empty = (w >> _OFF == 0) & ((leaf == 0) | (leaf == _MARKER))  # no marker, or the header of a swap area
        known = (w & ~self.leaf_known[leaf] == 0) & ~empty
        at, w, leaf = at[known], w[known], leaf[known]
        kind[at] = 2
        key[at] = w & ~self.leaf_number[leaf] & ~self.leaf_hidden[leaf]
        number[at] = (w & self.leaf_number[leaf]) >> _OFF

    def number(self, word: int, kind: int) -> Number | None:
        """Return the number that an entry of this word has."""
        if kind == 1:
            return self.pfn
        leaf = word >> b.SWP_TYPE_SHIFT & b.SWP_TYPE_MASK
        if kind == 0 or leaf == _MARKER:
            return None
        return self.swap if leaf < self.nr_swap else self.leaf_pfn

    # ---- word to text ----

    def text(self, word: int, kind: int, pae: bool | None) -> str:
        """Return an entry as text, without its number."""
        if kind == 1:
            parts = self._present(word)
        elif kind == 2:
            parts = self._leaf(word)
        else:
            parts = [f"0x{word:016x}" if word else "none"]
        if pae or (pae is not None and (kind == 1 or (word and kind == 0))):
            parts.append("pae" if pae else "nopae")
        return ",".join(parts)

    def _present(self, word: int) -> list[str]:
        seen = word | b.PTE_UXN if word & b.PTE_USER and "exec" not in self.shown else word
        hw, sw = word & (b.PTE_WRITE | _RO) == b.PTE_WRITE, bool(word & b.PTE_DIRTY)
        rest = (word ^ self.base) & self.attr
        drawn = [
            ("dirty", ("clean", "hw", "sw", "hw+sw")[hw + 2 * sw]),
            ("young", "young" if word & b.PTE_AF else "old"),
            ("special", "special" * bool(word & b.PTE_SPECIAL)),
            ("uffd", "uffd" * bool(word & b.PTE_UFFD)),
        ]
        for name, mask, bits in (("mte", b.PTE_ATTRINDX_MASK, 1 << 2), ("bti", b.PTE_GP, b.PTE_GP)):
            if rest & mask == bits:
                rest &= ~mask
                drawn.append(("attr", name))
        pkey = (rest & b.PTE_PO_IDX_MASK) >> 60
        rest &= ~b.PTE_PO_IDX_MASK
        drawn += [("attr", f"pkey={pkey}" * bool(pkey)), ("attr", f"^{rest:#x}" * bool(rest))]
        perm = next(name for name, bits in PERMS.items() if seen & _PERM_MASK == bits & _PERM_MASK)
        return [perm, "c" if word & b.PTE_CONT else "n"] + [text for name, text in drawn if text and name in self.shown]

    def _leaf(self, word: int) -> list[str]:
        leaf = word >> b.SWP_TYPE_SHIFT & b.SWP_TYPE_MASK
        if leaf == _MARKER:
            parts = ["marker:" + "+".join(k for k, v in self.markers.items() if word >> _OFF & v)]
        else:
            parts = [self.leaves[leaf]]
        drawn = [("uffd", "uffd" * bool(word & _SWP_UFFD)), ("exclusive", "excl" * bool(word & _EXCL))]
        if parts[0].startswith("mig"):
            ad = [("dirty", "dirty" if word & self.dirty else "clean"), ("young", "young" if word & self.young else "old")]
            drawn = ad + drawn
        return parts + [text for name, text in drawn if text and name in self.shown]

    def describe(self, word: int) -> str:
        """Return one word in long form, see `notation.describe`."""
        _, kinds, numbers = self.split(np.array([word], np.uint64))
        kind, number = int(kinds[0]), self.number(word, int(kinds[0]))
        if word == 0:
            return "0x0000000000000000: none, nothing is mapped"
        text = self.text(word, kind, None).replace(",", " ").split()
        said = [_LONG.get(token, token) for token in text]
        if kind == 0:
            present = "valid" if word & b.PTE_VALID else "present-invalid" if word & b.PTE_NG else "not present"
            said = [f"{present}, no permission or softleaf that a user entry of this machine has"]
        if number is not None:
            said.append(f"{'swap offset' if number.name == 'off' else 'pfn'} {int(numbers[0]):#x}")
        names = [n for n in _BITS if word & getattr(b, f"PTE_{n}")] if word & (b.PTE_VALID | b.PTE_NG) else []
        return f"0x{word:016x}: {', '.join(said)}{'; bits ' * bool(names)}{' '.join(names)}"
