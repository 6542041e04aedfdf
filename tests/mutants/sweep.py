"""Small worlds for the compiled checker: few, and each kind of mistake within reach of some of them.

Tables of eight entries in blocks of four. An arrangement says which frames stand
where and how large their folios are; rows are drawn for it, alike in most entries
and different in a few, and every range and every kind of call is tried on each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ptebatch import bits as b
from ptebatch.core.check import Checker
from ptebatch.machine import Machine
from ptebatch.strategies import STRATEGIES

from .catalogue import CORE, TREE

PTES, PFN0, FRAMES = 8, 1024, 40
YOUNG, SOFT, HARD = 1, 2, 4
SPECIAL = -1

#: slots (entry, frame behind PFN0; SPECIAL: the zero page) and folios (head, order)
ARRANGEMENTS: tuple[tuple[list[tuple[int, int]], list[tuple[int, int]]], ...] = (
    ([(i, i) for i in range(8)], [(0, 3)]),
    ([(i, i) for i in range(8)], [(0, 2), (4, 2)]),
    ([(i + 1, i) for i in range(7)], [(0, 3)]),
    ([(i, i + 2) for i in range(6)], [(0, 3)]),
    ([(i, i) for i in range(8)], [(0, 1), (2, 1), (4, 2)]),
    ([(i, i + 1) for i in range(8)], [(0, 2), (4, 3)]),
    ([(i, i) for i in range(8)], [(i, 0) for i in range(8)]),
    ([(0, SPECIAL), (1, 9), (2, 10), (3, 11), *((i, i) for i in range(4, 8))], [(8, 2), (4, 2)]),
    ([(i, i + 8) for i in range(4)] + [(i, i - 4) for i in range(4, 8)], [(8, 3), (0, 3)]),
)

#: start words: protection, write bit of private pages that are exclusive
PROTS = (
    b.PAGE_READONLY,
    b.PAGE_READONLY | b.PTE_WRITE,
    b.PAGE_NONE,
    b.PAGE_READONLY_EXEC,
    b.PAGE_READONLY | b.PTE_UFFD,
    b.PAGE_SHARED,
)

#: vm_flags, newprot, cp_flags, vma_is_anonymous
CALLS = (
    (1, b.PAGE_READONLY, 0, 1),
    (3, b.PAGE_READONLY, 1, 1),
    (0, b.PAGE_NONE, 0, 1),
    (3, b.PAGE_NONE, 3, 1),
    (1, b.PAGE_READONLY, 1, 1),
    (5, b.PAGE_READONLY_EXEC, 0, 1),
    (11, b.PAGE_SHARED, 0, 0),
    (11, b.PAGE_READONLY, 1, 0),
    (9, b.PAGE_READONLY, 1, 0),
    (3, b.PAGE_NONE, 2, 1),
    (0x1003, b.PAGE_READONLY, 5, 0),
    (0x1003, b.PAGE_READONLY, 4, 1),
    (0x1003, b.PAGE_READONLY, 1, 1),
    (3, b.PAGE_READONLY, 9, 1),
)

SOUND = [name for name, row in STRATEGIES.items() if not row.flawed]
MACHINES = ("7.3", "7.3,bbml=3", "6.17,tlb_range=off", "6.16", "6.12")


@dataclass
class Worlds:
    """Arrays as Checker.sweep takes them."""

    words: np.ndarray
    pages: np.ndarray
    calls: np.ndarray
    ad: np.ndarray
    folds: np.ndarray

    def some(self, rng: np.random.Generator, rows: int, calls: int, ad: int) -> Worlds:
        """A few of them, for the laws that take long."""
        row, call = rng.permutation(len(self.words))[:rows], rng.permutation(len(self.calls))[:calls]
        return Worlds(self.words[row], self.pages[row], self.calls[call], self.ad[:ad], self.folds[-1:])


def softleaves(machine: Machine) -> list[int]:
    """Entries that are not present: swap, markers, migration, device memory."""
    pfn = PFN0 + 1
    read = machine.swp_migration_read
    kinds = [(5, 7), (31, 1), (31, 2), (31, 4), (read, pfn), (read + 2, pfn), (read + 2, PFN0 + 30)]
    kinds += [(kind, 9) for kind in (machine.swp_device_write, machine.swp_exclusive_write) if kind]
    return [(kind << 6) | (offset << 12) | flag for kind, offset in kinds for flag in (0, b.PTE_SWP_UFFD)] + [0]


def rows(machine: Machine, which: int, nr: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Words and metadata of `nr` worlds of one arrangement."""
    slots, folios = ARRANGEMENTS[which]
    words = np.zeros((nr, PTES), np.uint64)
    pages = np.zeros((nr, FRAMES), np.uint8)
    leaves = softleaves(machine)
    for row in range(nr):
        for head, order in folios:
            flags = b.PG_ANON if rng.random() < 0.85 else 0
            flags |= b.PG_NUMA_SKIP if rng.random() < 0.25 else 0
            exclusive = rng.random(1 << order) < rng.choice([0.0, 0.5, 0.5, 1.0])
            pages[row, head : head + (1 << order)] = order | flags
            marked = np.where(exclusive & bool(flags & b.PG_ANON), b.PG_ANON_EXCLUSIVE, 0)
            pages[row, head : head + (1 << order)] |= marked.astype(np.uint8)
        usual = PROTS[rng.integers(len(PROTS))]
        for entry, frame in slots:
            prot = usual if rng.random() < 0.8 else PROTS[rng.integers(len(PROTS))]
            if rng.random() < 0.08:
                words[row, entry] = leaves[rng.integers(len(leaves))]
            elif frame == SPECIAL:
                words[row, entry] = (b.PAGE_READONLY | b.PTE_SPECIAL) & ~b.PTE_AF | 3 << 12
            else:
                words[row, entry] = prot & ~b.PTE_AF | (PFN0 + frame) << 12
    return words, pages


def worlds(machine: Machine, nr: int, seed: int) -> Iterator[Worlds]:
    """Worlds of each arrangement, `nr` rows a piece."""
    rng = np.random.default_rng(seed)
    ranges = [(s, e) for s in range(PTES) for e in range(s + 1, PTES + 1)]
    calls = np.array([(s, e, *call) for s, e in ranges for call in CALLS], np.int64)
    # all young and dirty, none, and a few drawn ones
    ad = np.array([[YOUNG | SOFT] * PTES, [0] * PTES, *rng.integers(0, 8, (2, PTES))], np.uint64)
    folds = np.array([0, 1, 2, 3], np.uint32)
    for which in range(len(ARRANGEMENTS)):
        yield Worlds(*rows(machine, which, nr, rng), calls, ad, folds)


def law_names() -> dict[int, str]:
    """Names of the laws, as the checker's source numbers them."""
    text = next(t for path in sorted((TREE / CORE).glob("*.p*")) if "PARTITION = 1\n" in (t := path.read_text()))
    found = text[text.index("    OK = 0") :].split("\n\n")[0]
    return {int(number): name for name, number in re.findall(r"^    (\w+) = (\d+)", found, re.M)}


def broken(machine: Machine, name: str, some: Iterator[Worlds], seed: int = 7) -> int:
    """Number of the first law that a design breaks in these worlds, 0: none."""
    rng = np.random.default_rng(seed)
    run = Checker(machine, name)
    for w in some:
        few, fewer = w.some(rng, 6, 40, 3), w.some(rng, 3, 8, 1)
        for part, kinds in ((w, {}), (few, {"tlb": True}), (fewer, {"hardware": True})):
            law = int(run.sweep(part.words, part.pages, part.calls, part.ad, part.folds, **kinds)[2])
            if law:
                return law
    return 0


def first_broken(nr: int = 6) -> str | None:
    """Sweep the designs over the machines: the law, the design and the machine of the first violation."""
    names = law_names()
    for kernel in MACHINES:
        for name in SOUND:
            if kernel != "7.3" and name not in ("folio", "per-pte"):
                continue
            base = Machine.parse(kernel)
            machine = Machine.parse(f"{base},cont_ptes=4,ptrs_per_pte=8")
            law = broken(machine, name, worlds(machine, nr, seed=len(kernel)))
            if law:
                return f"{names[law]} ({name}, {kernel})"
    return None
