"""What small worlds are made of: entries, frames and folios under them, accessed and dirty.

`smallworlds` multiplies these. Kernel counterparts: the PTE format of
arch/arm64/include/asm/pgtable.h, softleaf kinds of include/linux/leafops.h
(spec 1.2, 1.6), natural alignment of folios (spec 4.1).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ... import bits as b
from ...machine import Machine

__all__ = ["AD", "PAGES", "SHAPES", "Code", "Shape", "codes", "metadata"]

#: frames that have metadata
PAGES = 64


@dataclass(frozen=True, slots=True)
class Code:
    """What an entry may hold: a word without frame, AF and dirty.

    Parameters
    ----------
    word : int
    exclusive : bool
        PageAnonExclusive of its page, if that is anonymous.
    """

    word: int
    exclusive: bool = False


_AF = b.PTE_AF
_PROTS = (b.PAGE_READONLY, b.PAGE_READONLY_EXEC, b.PAGE_SHARED, b.PAGE_SHARED_EXEC, b.PAGE_EXECONLY, b.PAGE_NONE)
_RO, _RX, _RW, _RWX, _XO, _NO = (prot & ~_AF for prot in _PROTS)


def _leaf(kind: int, offset: int = 0, flags: int = 0) -> int:
    return kind << b.SWP_TYPE_SHIFT | offset << b.SWP_OFFSET_SHIFT | flags


@cache
def codes(machine: Machine) -> dict[str, Code]:
    """What an entry may hold, by name; softleaf types are the machine's."""
    read, excl, uffd = machine.swp_migration_read, b.PTE_SWP_EXCLUSIVE, b.PTE_SWP_UFFD
    found = {
        "none": Code(0),
        "RO": Code(_RO), "RO,e": Code(_RO, True), "RX": Code(_RX), "RX,e": Code(_RX, True),
        "RW": Code(_RW), "RW,e": Code(_RW, True), "RWX,e": Code(_RWX, True), "XO,e": Code(_XO, True),
        "--": Code(_NO), "--,e": Code(_NO, True),
        "RO,uffd": Code(_RO | b.PTE_UFFD), "RO,uffd,e": Code(_RO | b.PTE_UFFD, True), "RO,bti,e": Code(_RO | b.PTE_GP, True),
        "--,uffd,e": Code(_NO | b.PTE_UFFD, True), "RX,uffd,e": Code(_RX | b.PTE_UFFD, True),
        "RX,bti,e": Code(_RX | b.PTE_GP, True),
        "RO,pkey,e": Code(_RO | 3 << 60, True), "RW,tagged,e": Code(_RW | 1 << 2, True), "RO,tagged": Code(_RO | 1 << 2),
        "RO,57,e": Code(_RO | 1 << 57, True), "RO,59,e": Code(_RO | 1 << 59, True), "RO,63,e": Code(_RO | 1 << 63, True),
        "zero": Code(_RO | b.PTE_SPECIAL),
        "swap": Code(_leaf(2, 5)), "swap,excl": Code(_leaf(0, 1, excl)), "swap,uffd": Code(_leaf(1, 3, uffd | excl)),
        "mig-r": Code(_leaf(read)), "mig-rx": Code(_leaf(read + 1)), "mig-w": Code(_leaf(read + 2)),
        "mig-w,uffd": Code(_leaf(read + 2, 0, uffd)), "hwpoison": Code(_leaf(read - 1, 7)),
        "uffd-wp": Code(_leaf(31, 1)), "poisoned": Code(_leaf(31, 2)), "guard": Code(_leaf(31, 4)),
    }  # fmt: skip
    if machine.device_private:
        kinds = {"dev-w": read + 3, "dev-r": read + 4, "dev-x": 29, "dev-xr": 30}
        found |= {name: Code(_leaf(kind, 9)) for name, kind in kinds.items()}
    if machine.lpa2:
        present = {name: code for name, code in found.items() if code.word & (b.PTE_VALID | b.PTE_NG)}
        found |= {name: replace(code, word=code.word & ~b.PTE_SHARED) for name, code in present.items()}
    return found


# ---- frames under a row of entries ----


@dataclass(frozen=True, slots=True)
class Shape:
    """Frames and folios under entries in a row.

    Parameters
    ----------
    start : int
        Index of the first entry.
    frames : tuple of int
        Frame of each, counted from `PFN0`.
    orders : tuple of int
        Order of the folio of each.
    """

    start: int
    frames: tuple[int, ...]
    orders: tuple[int, ...]


@cache
def _partitions(order: int) -> tuple[tuple[int, ...], ...]:
    """Every way to cut 2^order frames into folios: the order at each frame."""
    if order == 0:
        return ((0,),)
    half = _partitions(order - 1)
    return ((order,) * (1 << order), *(low + high for low in half for high in half))


@cache
def runs(machine: Machine, nr: int) -> tuple[Shape, ...]:
    """Every arrangement of consecutive frames under `nr` entries."""
    top, block = machine.pmd_order, machine.cont_ptes
    found: dict[Shape, None] = {}
    for start in range(min(block, machine.ptrs_per_pte - nr + 1)):
        for first in range(1 << top):
            parts = itertools.product(_partitions(top), repeat=((first + nr - 1) >> top) + 1)
            for orders in parts:
                found[Shape(start, tuple(range(first, first + nr)), sum(orders, ())[first : first + nr])] = None
    return tuple(found)


@cache
def jumps(machine: Machine, nr: int) -> tuple[Shape, ...]:
    """Arrangements of two runs of frames that do not continue each other, in folios of one order."""
    top, block = machine.pmd_order, machine.cont_ptes
    found: dict[Shape, None] = {}
    for start, first, cut in itertools.product(range(block), range(block), range(1, nr)):
        for order, step in itertools.product(range(top + 1), (-2, -1, 1, block, 1 << top)):
            if start + nr <= machine.ptrs_per_pte:
                at = first + (1 << top)
                frames = [at + i + (step if i >= cut else 0) for i in range(nr)]
                found[Shape(start, tuple(frames), (order,) * nr)] = None
    return tuple(found)


@cache
def aligned(machine: Machine, nr: int) -> tuple[Shape, ...]:
    """Rows at the first index, frames aligned to it, in folios that can fold."""
    top, low = machine.pmd_order, machine.cont_ptes.bit_length() - 1
    firsts = range(0, 1 << top, machine.cont_ptes)
    return tuple(Shape(0, tuple(range(p, p + nr)), (order,) * nr) for p in firsts for order in range(low, top + 1))


@cache
def steps(machine: Machine, nr: int) -> tuple[Shape, ...]:
    """Rows at each index of the first block, frames aligned to it, in one folio of the largest order."""
    firsts = range(min(machine.cont_ptes, machine.ptrs_per_pte - nr + 1))
    return tuple(Shape(i, tuple(range(i, i + nr)), (machine.pmd_order,) * nr) for i in firsts)


#: arrangements by name, each for (machine, entries)
SHAPES = {"runs": runs, "jumps": jumps, "aligned": aligned, "steps": steps}

# ---- accessed and dirty ----


def _ad_few(nr: int) -> list[list[int]]:
    """None, all; one young and one dirty entry, in each place."""
    rows = [[0] * nr, [3] * nr, [5] * nr]
    return rows + [[(i == j) | 4 * (i == (j + 1) % nr) for i in range(nr)] for j in range(nr)]


def _ad_ends(nr: int) -> list[list[int]]:
    """None, all; the first young and the last dirty, and the other way round."""
    if nr == 1:
        return _ad_few(nr)
    return [[0] * nr, [3] * nr, [1, *[0] * (nr - 2), 4], [4, *[0] * (nr - 2), 1]]


def _ad_dirty(nr: int) -> list[list[int]]:
    """Every subset of dirty entries; those of one young and one dirty."""
    return [[2 * (mask >> i & 1) for i in range(nr)] for mask in range(1 << nr)] + _ad_few(nr)[3:]


def _ad_all(nr: int) -> list[list[int]]:
    """Every combination; dirty in hardware is left to words with WRITE."""
    return [list(row) for row in itertools.product((0, 1, 2, 3, 4, 5), repeat=nr)]


#: accessed and dirty bits by name: rows for so many entries, 1 young, 2 dirty, 4 dirty in hardware if writable
AD = {"few": _ad_few, "ends": _ad_ends, "dirty": _ad_dirty, "all": _ad_all}


# ---- metadata of the pages ----


def metadata(shape: Shape, kind: str) -> NDArray[np.uint8]:
    """Metadata of all frames before entries say which pages are exclusive.

    Parameters
    ----------
    shape : Shape
    kind : str
        ``others-e`` and ``others-s``: pages that are not mapped here are exclusive, or not;
        ``mapped-shared``; ``file``, ``file-first``, ``file-last``: all folios, the first,
        the last one are of a file; ``skip``, ``skip-first``, ``skip-last``: prot_numa
        leaves them alone. Joined by commas.
    """
    words = kind.split(",")
    heads = sorted({frame >> order << order: order for frame, order in zip(shape.frames, shape.orders, strict=True)}.items())
    pages = np.zeros(PAGES, np.uint8)
    for i, (head, order) in enumerate(heads):
        here = ("", *["-first"] * (i == 0), *["-last"] * (i == len(heads) - 1))
        file = any(f"file{place}" in words for place in here)
        skip = any(f"skip{place}" in words for place in here)
        flags = order | b.PG_NUMA_SKIP * skip | b.PG_MAPPED_SHARED * ("mapped-shared" in words)
        if not file:
            flags |= b.PG_ANON | b.PG_ANON_EXCLUSIVE * ("others-e" in words)
        pages[head : head + (1 << order)] = flags
    return pages
