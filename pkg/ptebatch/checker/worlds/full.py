"""Random worlds of full leaf tables, by seed; ``fulltables`` runs them.

Long runs of entries that are alike over folios up to the size of the table, cut by holes,
by other entries and by jumps to other frames; exclusivity in runs. Frames and addresses lie
low and high, and there may be two tables, with a folio across their border. The same seed
gives the same worlds, with the same version of NumPy and of this file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ... import bits as b
from ...machine import Machine
from ..shrink import foldable
from .shapes import codes
from .small import CHANGES, FAR, PFN0, SmallWorld

__all__ = ["full_worlds"]

#: kinds of present entries, as ``smallshapes.codes`` names them
_USUAL = ("RO", "RO", "RW", "RW", "RX", "--", "RO,uffd")


def full_worlds(machine: Machine, seed: int, *, tables: int = 1) -> Iterator[SmallWorld]:
    """Yield random worlds without end.

    Parameters
    ----------
    machine : Machine
        See ``fulltables.full_machine``.
    seed : int
    tables : int
        1, or 2 that follow each other.
    """
    rng = np.random.default_rng(seed)
    while True:
        yield _world(machine, rng, tables)


def _world(machine: Machine, rng: np.random.Generator, tables: int) -> SmallWorld:
    if rng.random() < 0.4:
        return _one_folio(machine, rng, tables)
    names = list(CHANGES)
    change = CHANGES[names[rng.integers(len(names))]]
    shared = bool(change.vm_flags & b.VM_SHARED)
    pages = _pages(machine, rng, tables, 1.0 if shared else 0.0 if change.anon else 0.3)
    # the frames of PFN0 are aligned for folios of up to so many pages
    base = FAR if machine.ptrs_per_pte > PFN0 or rng.random() < 0.5 else PFN0
    ptes, edges = _entries(machine, rng, pages, shared, base, machine.ptrs_per_pte * tables)
    start, end = _range(len(ptes), rng, edges)
    world = SmallWorld(machine, tuple(ptes), tuple(pages), start, end, change, base, _address(machine, rng))
    return _folded(world, rng) if machine.contpte and rng.random() < 0.7 else world


def _one_folio(machine: Machine, rng: np.random.Generator, tables: int) -> SmallWorld:
    """The longest batches there are: the largest folios, entries all alike, exclusivity with few turns, some at 2^n."""
    nr, order = machine.ptrs_per_pte * tables, machine.pmd_order
    change = CHANGES[("rw", "rw", "rw", "rwx", "ro", "rw-notify")[rng.integers(6)]]
    anon = not change.vm_flags & b.VM_SHARED
    pages = [order | b.PG_ANON * anon] * (2 * nr)
    turns = {0 if rng.random() < 0.5 else _turn(rng, 1 << order) for _ in range(1 + rng.integers(3))}
    own = bool(rng.random() < 0.5)
    skew = int(rng.integers(1 << order)) if rng.random() < 0.3 else 0
    for at in range(len(pages)):
        own ^= (at - skew) % (1 << order) in turns
        pages[at] |= b.PG_ANON_EXCLUSIVE * (own and anon)
    name = ("RO", "RO", "RX", "--", "RO,pkey,e", "RW")[rng.integers(6)]
    word, base = codes(machine)[name].word, FAR if machine.ptrs_per_pte > PFN0 or rng.random() < 0.5 else PFN0
    young, dirty = (rng.random(nr) < rng.choice((0.0, 0.01, 1.0)) for _ in range(2))
    ptes = [
        _entry(machine, word, i + skew, bool(young[i]), bool(dirty[i]), False, pages, not anon, base) for i in range(nr)
    ]  # fmt: skip
    start, end = _range(nr, rng, [0, nr])
    world = SmallWorld(machine, tuple(ptes), tuple(pages), start, end, change, base, _address(machine, rng))
    return _folded(world, rng) if machine.contpte and rng.random() < 0.7 else world


def _turn(rng: np.random.Generator, nr: int) -> int:
    """A place in a folio of so many pages: anywhere, or next to a power of two."""
    if rng.random() < 0.5:
        return int(rng.integers(nr // 2 if rng.random() < 0.5 else 0, nr))
    return min(max((1 << int(rng.integers(nr.bit_length()))) + int(rng.integers(-1, 2)), 0), nr - 1)


def _address(machine: Machine, rng: np.random.Generator) -> int:
    """Where the first table begins: at 0, above 4 GiB, or two tables before the end of what an address can be."""
    span = machine.ptrs_per_pte * machine.page_size
    return int((0, (1 << 34) // span * span, (1 << machine.va_bits) - 2 * span)[rng.integers(3)])


def _pages(machine: Machine, rng: np.random.Generator, tables: int, file: float) -> list[int]:
    """Metadata of twice as many frames as a table has entries: folios cut in halves, exclusivity in runs."""
    pages: list[int] = []
    small = rng.choice((0.02, 0.1, 0.5))

    def folio(order: int) -> None:
        if order and rng.random() < small:
            folio(order - 1)
            folio(order - 1)
            return
        flags = order | b.PG_NUMA_SKIP * (rng.random() < 0.1) | b.PG_MAPPED_SHARED * (rng.random() < 0.5)
        if rng.random() < file:
            pages.extend([flags] * (1 << order))
        else:
            pages.extend(flags | b.PG_ANON | b.PG_ANON_EXCLUSIVE * own for own in _flags(rng, 1 << order))

    while len(pages) < 2 * tables * machine.ptrs_per_pte:
        folio(machine.pmd_order)
    return pages


def _flags(rng: np.random.Generator, nr: int) -> list[bool]:
    """True and false in runs; more often than not all alike."""
    if rng.random() < 0.6:
        return [bool(rng.random() < 0.5)] * nr
    if rng.random() < 0.2:  # one turn, far from the first
        turn = int(rng.integers(nr // 2, nr)) if nr > 1 else 0
        return [i >= turn for i in range(nr)] if rng.random() < 0.5 else [i < turn for i in range(nr)]
    mean = rng.choice((1.5, 8.0, 60.0))
    turns = rng.random(nr) < 1 / mean
    return [bool(flag) for flag in (np.cumsum(turns) + rng.integers(2)) % 2]


def _entries(
    machine: Machine, rng: np.random.Generator, pages: list[int], shared: bool, base: int, nr: int
) -> tuple[list[int], list[int]]:
    """Words of the table, and where its runs begin; an anonymous page is mapped once."""
    table = codes(machine)
    present = [name for name, code in table.items() if code.word & (b.PTE_VALID | b.PTE_NG) and name != "zero"]
    free = [True] * len(pages)
    mean = rng.choice((20.0, 150.0, 2000.0, 2000.0))
    words: list[int] = []
    edges = [0]
    frame = _frame(machine, rng, 0, len(pages))
    while len(words) < nr:
        length = min(nr - len(words), 1 + int(rng.exponential(mean)))
        if rng.random() < 0.08:
            words += [0] * length
            frame = (frame + length) % len(pages)
        elif rng.random() < 0.05:
            words += [_other(machine, list(table.values())[rng.integers(len(table))].word, base) for _ in range(min(length, 4))]
        else:
            if rng.random() < 0.3:
                frame = _frame(machine, rng, len(words), len(pages))
            names = _USUAL if rng.random() < 0.6 else present
            word = table[names[rng.integers(len(names))]].word
            young, soft, hard = (_flags(rng, length) for _ in range(3))
            for i in range(length):
                own = bool(pages[frame] & b.PG_ANON) and not shared
                words.append(_entry(machine, word, frame, young[i], soft[i], hard[i], pages, shared, base) if free[frame] else 0)
                free[frame] &= not own
                frame = (frame + 1) % len(pages)
        edges.append(len(words))
    return words[:nr], edges


def _frame(machine: Machine, rng: np.random.Generator, entry: int, frames: int) -> int:
    """Some frame, often one with the entry's place in a contpte block, or in a table."""
    frame, n = int(rng.integers(frames)), machine.ptrs_per_pte if rng.random() < 0.3 else machine.cont_ptes
    return frame & ~(n - 1) | entry & (n - 1) if rng.random() < 0.75 else frame


def _other(machine: Machine, word: int, base: int) -> int:
    """An entry that is none of the usual: not present, or the zero page."""
    if word & (b.PTE_VALID | b.PTE_NG):
        return 0 if word & b.PTE_WRITE else word | b.PTE_SPECIAL | b.PTE_RDONLY
    kind, read = word >> b.SWP_TYPE_SHIFT & b.SWP_TYPE_MASK, machine.swp_migration_read
    # a page that nothing else maps is behind those of the world
    return word | base - 1 << b.SWP_OFFSET_SHIFT if read <= kind <= read + 2 else word


def _entry(
    machine: Machine, word: int, frame: int, young: bool, soft: bool, hard: bool, pages: list[int], shared: bool, base: int
) -> int:
    """A present entry; in a private mapping one with WRITE maps a page that is exclusive (I-6)."""
    if word & b.PTE_WRITE and not shared:
        if pages[frame] & b.PG_ANON:
            pages[frame] |= b.PG_ANON_EXCLUSIVE
        else:
            word &= ~b.PTE_WRITE
    word |= (base + frame) << machine.page_shift | b.PTE_AF * young
    if not word & b.PTE_WRITE:
        return word | b.PTE_RDONLY | b.PTE_DIRTY * soft
    return word & ~b.PTE_RDONLY | b.PTE_DIRTY * soft if soft or hard else word | b.PTE_RDONLY


def _range(nr: int, rng: np.random.Generator, edges: list[int]) -> tuple[int, int]:
    """Entries of the call: all, or from and to somewhere, often next to where a run begins."""
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
    return replace(world, ptes=tuple(ptes))
