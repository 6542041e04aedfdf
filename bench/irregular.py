"""Address spaces in which nothing repeats: the tables that people have.

Each is one private anonymous mapping, RW, but for what its name says. `TARGETS` has
what a call may take: times an in-place OR over the same PTEs, and instructions per PTE.
Import after ``builds.ensure()``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ptebatch.layouts.entries import edit

from .worlds import PFN_BASE, START, World, place


class Target(NamedTuple):
    """What RO and back may take."""

    times_or: float
    instructions: float


def _some(p: float, nr: int, seed: int) -> Any:
    return np.random.default_rng(seed).random(nr) < p


def _edited(world: World, nr: int, **which: Any) -> World:
    """The same with some entries not as they were mapped: see `edit`. Copies take frames behind those that are mapped."""
    every = np.ones(nr, bool)
    given = {"copied": ~every, "present": every, "young": every, "dirty": every} | which
    edit(world.mm, START, nr, True, copies=PFN_BASE + nr, **given)
    return world


def _aged(world: World, nr: int) -> World:
    """Half of the pages old, half clean, page by page as hardware leaves order 0 and unfolded folios."""
    return _edited(world, nr, young=_some(0.5, nr, 7), dirty=_some(0.5, nr, 8))


def _equal(
    order: int, p: float | None = None, *, aged: bool = False, shuffled: bool = False, fold: bool = True
) -> Callable[[int], World]:
    def build(nr: int) -> World:
        how: dict[str, Any] = {"order": order, "fold": fold, "exclusive": None if p is None else _some(p, nr, 1)}
        if shuffled:
            heads = np.random.default_rng(2).permutation(nr >> order).astype(np.uint64)
            how["heads"] = (heads << np.uint64(order)) + np.uint64(PFN_BASE)
        world = place(nr << 12, how)
        return _aged(world, nr) if aged else world

    return build


def _blocks(order: int, run: int, p: float = 0.5) -> Callable[[int], World]:
    """Folios of which runs of so many pages were written since a fork, by this process or another."""
    return lambda nr: place(nr << 12, {"order": order, "exclusive": np.repeat(_some(p, nr // run, 4), run)})


def mixed_orders(nr: int) -> list[int]:
    """Folio sizes as khugepaged and mTHP leave them: many small ones, most pages in large ones."""
    draw, orders, done = np.random.default_rng(3), [], 0
    while done < nr:
        order = int(draw.choice([0, 0, 0, 0, 2, 3, 4, 5, 9]))
        if done + (1 << order) > nr:
            order = 0
        orders.append(order)
        done += 1 << order
    return orders


def scattered_heads(orders: list[int]) -> tuple[Any, int]:
    """Frames for folios of these orders, in random order, each aligned to its size; and how many frames that takes."""
    sizes = np.left_shift(1, np.asarray(orders, dtype=np.int64))
    heads, at = np.zeros(len(orders), np.uint64), PFN_BASE
    for i in np.random.default_rng(4).permutation(len(orders)):
        at = -(-at // int(sizes[i])) * int(sizes[i])
        heads[i] = at
        at += int(sizes[i])
    return heads, at - PFN_BASE


def _mixed(*, shuffled: bool = False, aged: bool = False) -> Callable[[int], World]:
    def build(nr: int) -> World:
        orders = mixed_orders(nr)
        heads, frames = scattered_heads(orders)
        how = {"orders": orders, "heads": heads if shuffled else None}
        world = place(nr << 12, how, frames=frames if shuffled else 2 * nr)
        return _aged(world, nr) if aged else world

    return build


def _partial(order: int, skip: int) -> Callable[[int], World]:
    """Folios of which the first pages are mapped no more, as partial unmaps leave them."""

    def build(nr: int) -> World:
        world = place(nr << 12, {"order": order, "fold": False})
        return _edited(world, nr, present=np.arange(nr) % (1 << order) >= skip)

    return build


def _holes(order: int, p: float) -> Callable[[int], World]:
    return lambda nr: _edited(place(nr << 12, {"order": order, "fold": False}), nr, present=~_some(p, nr, 6))


def copied(order: int, p: float, *, aged: bool = False) -> Callable[[int], World]:
    """After a fork whose child is alive: read-only, but for pages that were written since and have frames of their own."""

    def build(nr: int) -> World:
        world = place(nr << 12, {"order": order, "exclusive": np.zeros(nr, bool), "fold": False}, frames=2 * nr)
        young = ~_some(0.3, nr, 9) if aged else np.ones(nr, bool)
        return _edited(world, nr, copied=_some(p, nr, 5), young=young)

    return build


T3, T1, MIXED = Target(10, 25), Target(5, 10), Target(8, 20)
SMALL, COPIED = Target(20, 45), Target(30, 60)

#: name -> (what builds it, of how many pages; what it may take)
WORLDS: dict[str, tuple[Callable[[int], World], Target]] = {
    "T3 random": (_equal(0, 0.5), T3),
    "T3 A/D": (_equal(0, aged=True), T3),
    "T3 A/D random": (_equal(0, 0.5, aged=True), T3),
    "T3 A/D random shuffled": (_equal(0, 0.5, aged=True, shuffled=True), T3),
    "T1 A/D": (_equal(9, aged=True, fold=False), T1),
    "T1 forked in blocks of 512": (_blocks(9, 512), T1),
    "T1 forked in blocks of 64": (_blocks(9, 64), T1),
    "T1 partial": (_partial(9, 100), T1),
    "mixed": (_mixed(), MIXED),
    "mixed shuffled": (_mixed(shuffled=True), MIXED),
    "mixed A/D": (_mixed(aged=True), MIXED),
    "T1 p=.99": (_equal(9, 0.99), Target(7, 20)),
    "T1 p=.9": (_equal(9, 0.9), Target(10, 20)),
    "T1 p=.5": (_equal(9, 0.5), Target(12, 26)),
    "order 1": (_equal(1), SMALL),
    "order 2": (_equal(2), SMALL),
    "order 3": (_equal(3), SMALL),
    "order 2 p=.5": (_equal(2, 0.5), SMALL),
    "T2 forked in blocks of 16": (_blocks(4, 16), SMALL),
    "T2 partial": (_partial(4, 5), SMALL),
    "T2 holes": (_holes(4, 0.1), SMALL),
    "T3 holes": (_holes(0, 0.1), SMALL),
    "T2 copied": (copied(4, 0.2), COPIED),
    "T1 copied": (copied(9, 0.2), COPIED),
    "T1 copied A/D": (copied(9, 0.1, aged=True), COPIED),
}  # fmt: skip
