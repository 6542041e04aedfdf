"""Every small world, in order of size, as products for ``Checker.sweep``.

The default size: a table of 8 entries, contpte blocks of 4. What can be mapped at
1 to 4 entries in a row is tried in full: every arrangement of folios of order 0 to
3 under them, every permission, exclusivity, userfaultfd and softleaf kind, folded or
not wherever a block can fold, every protection change, every range. 5 to 8 entries
are tried with fewer kinds of entry (`FAMILIES`).

Some worlds are left out, because another one that is tried shows the same. Each
reduction is an argument about sound and unsound loops alike, and a test runs what it
leaves out for smaller sizes (``tests/checker/test_smallworlds.py``):

*Edges.* A call reads and writes nothing outside its range rounded out to contpte
blocks, and pages of the folios mapped there. So entries in a row stand for the
same entries with anything around them, and only ranges that reach, rounded out, all
of them are tried; an empty entry at the edge of a row or a range changes nothing for
the others. That nothing outside is written is a law (OUTSIDE), and worlds with all 8
entries mapped are tried with every range.

*Translation.* Only the index within a block and the frame within the largest folio
decide anything. A row is tried from each index of the first block on, and with each
first frame of 8.

*Accessed and dirty.* They are ORed and never decide anything but each other, the
clearing of RDONLY, and WRITE in shared mappings with writenotify. What an OR of
several entries gives, it gives of one: so none, all, and one young and one dirty entry
in each place are tried, dirty in software or in hardware. With writenotify every
subset of dirty entries is tried, and one folded block has every combination.

*Entries that are not present.* Each is dealt with alone, whatever its kind: between
others it is a gap like any other. All kinds are tried in rows of up to 3 entries, the
empty one in all.

*Frames that do not continue.* Two entries whose frames do not follow each other are
never in one batch nor in one block, however far the frames lie apart. Jumps by one,
back, ahead by a block and by a folio are tried in rows of up to 4 entries.

*Page metadata that a loop has no use for.* Exclusivity of pages that are not mapped
here, and whether a folio is mapped by others: all and none are tried, crosswise in
rows of up to 2 entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import bits as b
from ...machine import Machine
from .shapes import AD, SHAPES, Code, Shape, codes, metadata
from .small import CHANGES, FAR, PFN0, SmallWorld

__all__ = ["FAMILIES", "Chunk", "Family", "chunks"]

# ---- families ----


@dataclass(frozen=True, slots=True)
class Family:
    """A product: every shape, every code in each entry, every range and change.

    Parameters
    ----------
    name : str
    changes : str
        Names of ``CHANGES``.
    codes : str
        Names of ``smallshapes.codes``; a row neither begins nor ends with none.
    sizes : range
        Entries in a row.
    pages : str
        Metadata of folios, see ``smallshapes.metadata``; tried one after another.
    shapes, ad : str
        Which arrangements, and which accessed and dirty bits.
    uniform : bool
        All entries of a row hold the same.
    every_range : bool
        Also ranges that leave mapped entries outside.
    updates : tuple of int
        Hardware updates in one run, for rows of 1, 2, ... entries; the last for longer ones.
    pfn_base : int
        First frame: `PFN0` or `FAR`.
    """

    name: str
    changes: str
    codes: str
    sizes: range
    pages: str = "others-e others-s,mapped-shared"
    shapes: str = "runs"
    ad: str = "few"
    uniform: bool = False
    every_range: bool = False
    updates: tuple[int, ...] = (2, 2, 1, 0)
    pfn_base: int = PFN0


_LEAVES = "swap swap,excl swap,uffd mig-r mig-rx mig-w mig-w,uffd hwpoison uffd-wp poisoned guard dev-w dev-r dev-x dev-xr"
_ALL = "ro rw none rx numa uffd-wp uffd-resolve ro-shared rw-shared rw-notify uffd-wp-shared uffd-resolve-shared"
_BITS = "--,uffd,e RX,uffd,e RX,bti,e RO,pkey,e RW,tagged,e RO,tagged RO,57,e RO,59,e RO,63,e"
_MORE = "ro-pkey rw-tagged rx-bti"
_CROSS = "others-e others-s others-e,mapped-shared others-s,mapped-shared"

FAMILIES = (
    Family("downgrade", "ro none rx", "none RO,e RW,e RX,e --,e", range(1, 5), "others-e"),
    Family("upgrade", "rw", "none RO RO,e RW,e -- --,e", range(1, 5)),
    Family("upgrade, more pages", "rw rwx", "none RO RO,e RX RX,e RWX,e --", range(1, 3), _CROSS),
    Family("file pages", "rw-file", "none RO RO,e RW,e", range(1, 4), "file file-first file-last"),
    Family("shared", "ro-shared rw-shared none-shared", "none RO RW --", range(1, 5), "file"),
    Family("writenotify", "rw-notify", "none RO RW --", range(1, 5), "file", ad="dirty"),
    Family("numa", "numa", "none RO,e RW,e -- zero", range(1, 4), "others-e skip skip-first skip-last"),
    Family("userfaultfd", "uffd-wp uffd-resolve", "none RO,e RW,e RO,uffd RO,uffd,e --,e", range(1, 4), "others-s"),
    Family("userfaultfd", "uffd-wp uffd-resolve", "none RO,e RW,e RO,uffd RO,uffd,e", range(4, 5), "others-s"),
    Family("userfaultfd, upgrade", "rw-uffd", "none RO,e RW,e RO,uffd RO,uffd,e", range(1, 4), "others-s"),
    Family("userfaultfd, writenotify", "rw-notify-uffd", "none RO RW RO,uffd", range(1, 4), "file"),
    Family("userfaultfd, shared", "uffd-wp-shared uffd-resolve-shared", "none RO RW RO,uffd uffd-wp", range(1, 4), "file"),
    Family("softleaf", _ALL, f"none RO,e RW,e XO,e RO,bti,e zero {_LEAVES}", range(1, 4), "others-e file", "steps", "ends"),
    Family("empty", _ALL, "none", range(1, 2), "others-e file", "steps"),
    Family("jumps", "rw ro none", "none RO RO,e RW,e", range(2, 5), "others-e", "jumps", "ends"),
    Family("folded", "rw ro none rx numa rw-file", "RO,e RW,e", range(4, 9), "others-e", "aligned",
           uniform=True, every_range=True, updates=(0, 0, 0, 2, 1)),
    Family("bits", f"{_ALL} rwx {_MORE}", f"none RO,e RW,e {_BITS}", range(1, 3), "others-e", "steps", "ends"),
    Family("bits, in a batch", f"ro rw none rx numa rw-uffd {_MORE}", f"RO,e RX,e {_BITS}", range(2, 6), "others-e", "aligned",
           "ends", uniform=True, updates=(0,)),
    Family("executable, writenotify", "rwx-notify", "none RO RX RW --", range(1, 4), "file", ad="dirty"),
    Family("far frames", "ro rw none numa ro-shared rw-notify", "none RO,e RW,e mig-w", range(1, 4), "others-e file", "steps",
           "ends", pfn_base=FAR),
    Family("folded, accessed and dirty", "ro rw none", "RO,e RW,e", range(4, 5), "others-e", "aligned", "all", True, True, (0,)),
    Family("long upgrade", "rw", "none RO RO,e", range(5, 7), ad="ends"),
    Family("long downgrade", "ro none", "none RO,e RW,e", range(5, 7), "others-e", ad="ends"),
    Family("table upgrade", "rw", "RO RO,e", range(7, 9), "others-e", ad="ends", every_range=True),
    Family("table downgrade", "ro", "RO,e RW,e", range(7, 9), "others-e", ad="ends", every_range=True),
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """One product for ``Checker.sweep``; the arrays are its arguments.

    Parameters
    ----------
    family : str
    size : int
        Entries in a row.
    words, pages, calls, ad, folds : arrays
    changes : tuple of str
        Name of the change of each call.
    updates : int
        Hardware updates in one run.
    stands_for : int
        Worlds of the unreduced product that this stands for, at least: with every
        combination of accessed and dirty, every range, at every block.
    pfn_base : int
        Frame that the first column of `pages` is of.
    """

    family: str
    size: int
    words: NDArray[np.uint64]
    pages: NDArray[np.uint8]
    calls: NDArray[np.int64]
    ad: NDArray[np.uint64]
    folds: NDArray[np.uint32]
    changes: tuple[str, ...]
    updates: int
    stands_for: int
    pfn_base: int = PFN0

    @property
    def nr(self) -> int:
        """Worlds, at most."""
        return len(self.words) * len(self.calls) * len(self.ad) * len(self.folds)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Rows, accessed and dirty patterns, foldings, calls."""
        return len(self.words), len(self.ad), len(self.folds), len(self.calls)

    def picked(self, seed: int, low: int, high: int) -> NDArray[np.intp]:
        """Numbers of the worlds [low, high) in an order that jumps through the product, each once."""
        stride = 0x9E3779B1 % self.nr or 1
        while gcd(stride, self.nr) > 1:
            stride += 1
        return (np.arange(low, high) * stride + seed * 0x85EBCA6B % self.nr) % self.nr

    def rows(self, which: NDArray[np.intp]) -> tuple[Any, ...]:
        """Worlds of these numbers, as arguments of ``Checker.each``."""
        row, ad, fold, call = np.unravel_index(which, self.shape)
        return self.words[row], self.pages[row], self.calls[call], self.ad[ad], self.folds[fold]

    def world_at(self, machine: Machine, which: int, ptes: NDArray[np.uint64]) -> SmallWorld:
        """Return the world of this number; `ptes`: its table."""
        row, _, _, call = (int(i) for i in np.unravel_index(which, self.shape))
        return self.world(machine, row, call, ptes)

    def world(self, machine: Machine, row: int, call: int, ptes: NDArray[np.uint64]) -> SmallWorld:
        """Return one world of the product as plain values; `ptes`: its table, A/D and CONT included."""
        start, end = (int(i) for i in self.calls[call, :2])
        pages = tuple(int(page) for page in self.pages[row])
        words = tuple(int(word) for word in ptes)
        return SmallWorld(machine, words, pages, start, end, CHANGES[self.changes[call]], self.pfn_base)


# ---- the products ----


def chunks(machine: Machine, families: tuple[Family, ...] = FAMILIES) -> Iterator[Chunk]:
    """Yield every product of the families, rows of one entry first.

    Parameters
    ----------
    machine : Machine
        With a small geometry, see ``small.small_machine``.
    families : tuple of Family
    """
    for size in range(1, machine.ptrs_per_pte + 1):
        for family in families:
            if size in family.sizes:
                yield from _family_chunks(machine, family, size)


def _family_chunks(machine: Machine, family: Family, size: int) -> Iterator[Chunk]:
    known = codes(machine)
    names = tuple(name for name in family.codes.split() if name in known)
    every = _rows(machine, names, size, family.uniform)
    updates = family.updates[min(size, len(family.updates)) - 1] if machine.hafdbs else 0
    for kind in family.pages.split():
        for shape in SHAPES[family.shapes](machine, size):
            for asked in _mappings(family, shape, kind):
                possible = _possible(every, shape, kind, asked)
                words, exclusive, paged = every[0][possible], every[1][possible], every[2][possible]
                if not len(words):
                    continue
                calls, changes = _calls(machine, shape.start, size, family, asked)
                table = _place(machine, shape, words, paged, family.pfn_base)
                pages = _pages(shape, kind, exclusive, paged == _PRESENT)
                weight = int(_weights(words).sum()) * _everywhere(machine, shape, size) * len(asked)
                for ad in _patterns(family, machine, shape.start, size):
                    folds = _folds(machine, shape)
                    yield Chunk(family.name, size, table, pages, calls, ad, folds, changes, updates, weight,
                                family.pfn_base)  # fmt: skip
                    weight = 0


def _mappings(family: Family, shape: Shape, kind: str) -> list[tuple[str, ...]]:
    """Changes of private mappings, and those of shared ones: these map no anonymous page, and anonymous memory none of a file."""
    names = family.changes.split()
    shared = tuple(name for name in names if CHANGES[name].vm_flags & b.VM_SHARED)
    private = tuple(name for name in names if name not in shared)
    pages = metadata(shape, kind)[list(shape.frames)] & b.PG_ANON
    anon = bool(pages.any())
    if not pages.all():
        private = tuple(name for name in private if not CHANGES[name].anon)
    return [group for group in (private, () if anon else shared) if group]


def _possible(
    rows: tuple[NDArray[np.uint64], NDArray[np.bool_], NDArray[np.uint8]], shape: Shape, kind: str, changes: tuple[str, ...]
) -> NDArray[np.bool_]:
    """Rows in which what a private mapping maps with WRITE is an exclusive page (I-6); an anonymous page is mapped once."""
    words, exclusive, paged = rows
    if CHANGES[changes[0]].vm_flags & b.VM_SHARED:
        return np.ones(len(words), np.bool_)
    anon = (metadata(shape, kind)[list(shape.frames)] & b.PG_ANON) != 0
    write = (paged == _PRESENT) & ((words & np.uint64(b.PTE_WRITE)) != 0)
    possible: NDArray[np.bool_] = ~(write & ~(exclusive & anon)).any(axis=1)
    for i, j in combinations(range(len(shape.frames)), 2):
        if shape.frames[i] == shape.frames[j]:
            possible &= ~(anon[i] & (paged[:, i] != _EMPTY) & (paged[:, j] != _EMPTY))
    return possible


_EMPTY, _PRESENT, _MIGRATION = 0, 1, 2


@cache
def _rows(
    machine: Machine, names: tuple[str, ...], size: int, uniform: bool
) -> tuple[NDArray[np.uint64], NDArray[np.bool_], NDArray[np.uint8]]:
    """Every row of codes: words without frames, exclusivity, and where a frame belongs."""
    known: list[Code] = [codes(machine)[name] for name in names]
    index = np.indices((len(names),) * size).reshape(size, -1).T
    if uniform:
        index = index[(index == index[:, :1]).all(axis=1)]
    elif len(names) > 1 and "none" in names:
        none = names.index("none")
        index = index[(index[:, 0] != none) & (index[:, -1] != none)]
    word = np.array([code.word for code in known], np.uint64)
    read = machine.swp_migration_read

    def place(word: int) -> int:
        if word & (b.PTE_VALID | b.PTE_NG):
            return _PRESENT
        return _MIGRATION if read <= word >> b.SWP_TYPE_SHIFT & 31 <= read + 2 else _EMPTY

    kind = [place(code.word) for code in known]
    return word[index], np.array([code.exclusive for code in known])[index], np.array(kind, np.uint8)[index]


def _weights(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Combinations of accessed and dirty that each row can have."""
    present = (words & np.uint64(b.PTE_VALID | b.PTE_NG)) != 0
    write = (words & np.uint64(b.PTE_WRITE)) != 0
    weights: NDArray[np.float64] = np.where(present, np.where(write, 6, 4), 1).prod(axis=1).astype(np.float64)
    return weights


def _everywhere(machine: Machine, shape: Shape, size: int) -> int:
    """Ranges of a table, times the blocks at which the row may begin."""
    nr = machine.ptrs_per_pte
    return nr * (nr + 1) // 2 * ((nr - shape.start - size) // machine.cont_ptes + 1)


def _place(
    machine: Machine, shape: Shape, words: NDArray[np.uint64], kind: NDArray[np.uint8], pfn_base: int = PFN0
) -> NDArray[np.uint64]:
    table = np.zeros((len(words), machine.ptrs_per_pte), np.uint64)
    for j, frame in enumerate(shape.frames):
        pfn = frame + pfn_base
        at = np.where(
            kind[:, j] == _PRESENT, pfn << machine.page_shift, np.where(kind[:, j] == _MIGRATION, pfn << b.SWP_OFFSET_SHIFT, 0)
        )
        table[:, shape.start + j] = words[:, j] | at.astype(np.uint64)
    return table


def _pages(shape: Shape, kind: str, exclusive: NDArray[np.bool_], present: NDArray[np.bool_]) -> NDArray[np.uint8]:
    base = metadata(shape, kind)
    pages = np.repeat(base[None], len(exclusive), axis=0)
    for j, frame in enumerate(shape.frames):
        if base[frame] & b.PG_ANON:
            on, off = base[frame] | b.PG_ANON_EXCLUSIVE, base[frame] & ~np.uint8(b.PG_ANON_EXCLUSIVE)
            pages[:, frame] = np.where(present[:, j], np.where(exclusive[:, j], on, off), pages[:, frame])
    return pages


def _calls(
    machine: Machine, start: int, size: int, family: Family, changes: tuple[str, ...]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Ranges that reach, rounded out to blocks, all entries of the row; times the changes."""
    n, end = machine.cont_ptes, start + size
    rows, names = [], []
    for name in changes:
        how = CHANGES[name]
        for low in range(start, end):
            for high in range(low + 1, end + 1):
                if family.every_range or (low // n * n <= start and -(-high // n) * n >= end):
                    rows.append((low, high, how.vm_flags, how.newprot, how.cp_flags, how.anon, family.pfn_base))
                    names.append(name)
    return np.array(rows, np.int64), tuple(names)


def _folds(machine: Machine, shape: Shape) -> NDArray[np.uint32]:
    """Sets of blocks that the frames allow to be folded."""
    n, end = machine.cont_ptes, shape.start + len(shape.frames)
    blocks = []
    for first in range(-(-shape.start // n) * n, end - n + 1, n):
        at = first - shape.start
        if machine.contpte and shape.frames[at] % n == 0 and 1 << min(shape.orders[at : at + n]) >= n:
            blocks.append(first // n)
    masks = [sum(1 << block for i, block in enumerate(blocks) if which >> i & 1) for which in range(1 << len(blocks))]
    return np.array(masks, np.uint32)


def _patterns(family: Family, machine: Machine, start: int, size: int) -> Iterator[NDArray[np.uint64]]:
    """Rows of accessed and dirty bits for the whole table, at most 64 at a time."""
    rows = AD[family.ad](size)
    table = np.zeros((len(rows), machine.ptrs_per_pte), np.uint64)
    table[:, start : start + size] = rows
    for at in range(0, len(table), 64):
        yield table[at : at + 64]
