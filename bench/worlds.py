"""Address spaces to measure: one private anonymous mapping of equal folios.

Import after ``builds.ensure()``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ptebatch import MM, Machine
from ptebatch.errors import LayoutError
from ptebatch.notation.patterns import exclusive_pattern

START = 1 << 40
PFN_BASE = 1 << 13

#: order of the folios: 2M, 64K and 4K of them
ORDERS = {"T1": 9, "T2": 4, "T3": 0}
LAYOUTS = ("T1", "T2", "T3", "T3-shuffled")

#: PTE arrays that fit a core's cache, the last level's, and none
SIZES = {"2M": 1 << 30, "32M": 16 << 30, "256M": 128 << 30}

#: PageAnonExclusive, as ``ptebatch.notation.patterns`` reads it
PATTERNS = {"uniform": "all", "1/511": "1/511", "alternating": "alternating", "random": "random:0.5:1"}


class World(NamedTuple):
    """An address space and the one range of it that is mapped."""

    mm: MM
    start: int
    length: int


def build(layout: str, length: int, *, exclusive: str = "uniform", machine: Machine | None = None, seed: int = 1) -> World:
    """Map `length` bytes RW, young and dirty, folded as faults leave them.

    Parameters
    ----------
    layout : str
        ``T1``, ``T2`` or ``T3``; with ``-shuffled``, the folios' frames are a
        random permutation.
    length : int
        Bytes, a multiple of 2M: the PTEs take a 512th of it.
    exclusive : str
        A name of `PATTERNS`, or a pattern as ``exclusive_pattern`` takes it.
    machine : Machine, optional
        Default: ``Machine()``, the newest kernel with 4K pages.
    seed : int
        Of the permutation.

    Returns
    -------
    World
    """
    machine = machine or Machine()
    return place(length, folios(layout, length >> machine.page_shift, exclusive=exclusive, seed=seed), machine)


def folios(layout: str, nr: int, *, exclusive: str = "uniform", seed: int = 1) -> dict[str, Any]:
    """What ``MM.map_folios`` needs to map `nr` pages; see `build`."""
    name, _, frames = layout.partition("-")
    if name not in ORDERS or frames not in ("", "shuffled"):
        raise LayoutError(f"layout {layout!r} is not one of {', '.join(LAYOUTS)}; any of T1, T2, T3 may be -shuffled")
    order = ORDERS[name]
    if nr < 512 or nr % 512:
        raise LayoutError(f"{nr} pages are not a whole number of folios of 512; give a multiple of 512 pages")
    heads = None
    if frames:
        heads = np.random.default_rng(seed).permutation(np.arange(nr >> order, dtype=np.uint64))
        heads *= np.uint64(1 << order)
        heads += np.uint64(PFN_BASE)
    pattern = PATTERNS.get(exclusive, exclusive)
    mask = None if pattern == "all" else exclusive_pattern(pattern, nr)
    return {"order": order, "heads": heads, "exclusive": mask}


def place(length: int, how: dict[str, Any], machine: Machine | None = None, *, frames: int = 0) -> World:
    """Make the address space and map it: the part whose speed is of interest. `frames`: of its memory, if more than mapped."""
    machine = machine or Machine()
    nr = length >> machine.page_shift
    mm = MM(machine, nr_pages=max(nr, frames), pfn_base=PFN_BASE)
    mm.mmap(START, length, 3)
    mm.map_folios(START, nr, **how)
    return World(mm, START, length)
