"""Random worlds of full leaf tables, by seed; ``fulltables`` runs them.

Long runs of entries that are alike over folios up to the size of the table, cut by holes,
by other entries and by jumps to other frames; exclusivity in runs. The same seed gives the
same worlds, with the same version of NumPy and of this file.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from . import bits as b
from .machine import Machine
from .shrinking import foldable
from .small import CHANGES, PFN0, SmallWorld
from .smallshapes import codes

__all__ = ["full_worlds"]

#: kinds of present entries, as ``smallshapes.codes`` names them
_USUAL = ("RO", "RO", "RW", "RW", "RX", "--", "RO,uffd")


def full_worlds(machine: Machine, seed: int) -> Iterator[SmallWorld]:
    """Yield random worlds without end.

    Parameters
    ----------
    machine : Machine
        See ``fulltables.full_machine``.
    seed : int
    """
    rng = np.random.default_rng(seed)
    while True:
        yield _world(machine, rng)


def _world(machine: Machine, rng: np.random.Generator) -> SmallWorld:
    names = list(CHANGES)
    change = CHANGES[names[rng.integers(len(names))]]
    shared = bool(change.vm_flags & b.VM_SHARED)
    pages = _pages(machine, rng, anon=not shared)
    ptes, edges = _entries(machine, rng, pages, shared)
    start, end = _range(machine, rng, edges)
    world = SmallWorld(machine, tuple(ptes), tuple(pages), start, end, change)
    return _folded(world, rng) if machine.contpte and rng.random() < 0.7 else world


def _pages(machine: Machine, rng: np.random.Generator, *, anon: bool) -> list[int]:
    """Metadata of twice as many frames as a table has entries: folios cut in halves, exclusivity in runs."""
    pages: list[int] = []
    small = rng.choice((0.02, 0.1, 0.5))

    def folio(order: int) -> None:
        if order and rng.random() < small:
            folio(order - 1)
            folio(order - 1)
            return
        flags = order | b.PG_NUMA_SKIP * (rng.random() < 0.1) | b.PG_MAPPED_SHARED * (rng.random() < 0.5)
        if not anon or rng.random() < 0.1:
            pages.extend([flags] * (1 << order))
        else:
            pages.extend(flags | b.PG_ANON | b.PG_ANON_EXCLUSIVE * own for own in _flags(rng, 1 << order))

    while len(pages) < 2 * machine.ptrs_per_pte:
        folio(machine.pmd_order)
    return pages


def _flags(rng: np.random.Generator, nr: int) -> list[bool]:
    """True and false in runs; more often than not all alike."""
    if rng.random() < 0.6:
        return [bool(rng.random() < 0.5)] * nr
    mean = rng.choice((1.5, 8.0, 60.0))
    turns = rng.random(nr) < 1 / mean
    return [bool(flag) for flag in (np.cumsum(turns) + rng.integers(2)) % 2]


def _entries(machine: Machine, rng: np.random.Generator, pages: list[int], shared: bool) -> tuple[list[int], list[int]]:
    """Words of the table, and where its runs begin."""
    table, nr = codes(machine), machine.ptrs_per_pte
    mean = rng.choice((20.0, 150.0, 2000.0, 2000.0))
    words: list[int] = []
    edges = [0]
    frame = _frame(machine, rng, 0)
    while len(words) < nr:
        length = min(nr - len(words), 1 + int(rng.exponential(mean)))
        if rng.random() < 0.08:
            words += [0] * length
            frame = (frame + length) % len(pages)
        elif rng.random() < 0.05:
            words += [_other(machine, rng, list(table.values())[rng.integers(len(table))].word) for _ in range(min(length, 4))]
        else:
            if rng.random() < 0.3:
                frame = _frame(machine, rng, len(words))
            word = table[_USUAL[rng.integers(len(_USUAL))]].word
            young, soft, hard = (_flags(rng, length) for _ in range(3))
            for i in range(length):
                words.append(_entry(machine, word, frame, young[i], soft[i], hard[i], pages, shared))
                frame = (frame + 1) % len(pages)
        edges.append(len(words))
    return words[:nr], edges


def _frame(machine: Machine, rng: np.random.Generator, entry: int) -> int:
    """Some frame, often one with the entry's place in a contpte block, or in a table."""
    frame, n = int(rng.integers(2 * machine.ptrs_per_pte)), machine.ptrs_per_pte if rng.random() < 0.3 else machine.cont_ptes
    return frame & ~(n - 1) | entry & (n - 1) if rng.random() < 0.75 else frame


def _other(machine: Machine, rng: np.random.Generator, word: int) -> int:
    """An entry that is none of the usual: not present, or the zero page."""
    if word & (b.PTE_VALID | b.PTE_NG):
        return 0 if word & b.PTE_WRITE else word | b.PTE_SPECIAL | b.PTE_RDONLY
    kind, read = word >> b.SWP_TYPE_SHIFT & b.SWP_TYPE_MASK, machine.swp_migration_read
    return word | (PFN0 + int(rng.integers(64))) << b.SWP_OFFSET_SHIFT if read <= kind <= read + 2 else word


def _entry(machine: Machine, word: int, frame: int, young: bool, soft: bool, hard: bool, pages: list[int], shared: bool) -> int:
    """A present entry; in a private mapping one with WRITE maps a page that is exclusive (I-6)."""
    if word & b.PTE_WRITE and not shared:
        if pages[frame] & b.PG_ANON:
            pages[frame] |= b.PG_ANON_EXCLUSIVE
        else:
            word &= ~b.PTE_WRITE
    word |= (PFN0 + frame) << machine.page_shift | b.PTE_AF * young
    if not word & b.PTE_WRITE:
        return word | b.PTE_RDONLY | b.PTE_DIRTY * soft
    return word & ~b.PTE_RDONLY | b.PTE_DIRTY * soft if soft or hard else word | b.PTE_RDONLY


def _range(machine: Machine, rng: np.random.Generator, edges: list[int]) -> tuple[int, int]:
    """Entries of the call: all, or from and to somewhere, often next to where a run begins."""
    nr = machine.ptrs_per_pte
    if rng.random() < 0.4:
        return 0, nr
    ends = [
        int(edges[rng.integers(len(edges))] + rng.integers(-1, 2)) if rng.random() < 0.4 else int(rng.integers(nr))
        for _ in range(2)
    ]
    low, high = sorted(min(max(end, 0), nr - 1) for end in ends)
    return low, high + 1


def _folded(world: SmallWorld, rng: np.random.Generator) -> SmallWorld:
    """Every contpte block that can be folded, or half of them."""
    n, ptes = world.machine.cont_ptes, list(world.ptes)
    some = rng.random() < 0.3
    for first in range(0, len(ptes), n):
        if foldable(world, first) and not (some and rng.random() < 0.5):
            ptes[first : first + n] = [word | b.PTE_CONT for word in ptes[first : first + n]]
    return SmallWorld(world.machine, tuple(ptes), world.pages, world.start, world.end, world.change)
