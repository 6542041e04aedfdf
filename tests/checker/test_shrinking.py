"""A world that breaks a law becomes small, keeps breaking that law, and never grows."""

from __future__ import annotations

import numpy as np
import planted
import pytest

from ptebatch import bits as b
from ptebatch.checker import shrink as shrinking
from ptebatch.checker.check import Checker
from ptebatch.checker.counterexample import judged
from ptebatch.checker.laws.rows import LAWS
from ptebatch.checker.shrink import shrink
from ptebatch.checker.worlds.random import random_chunks
from ptebatch.checker.worlds.small import CHANGES, SmallWorld, small_machine
from ptebatch.machine import Machine

LARGE = small_machine(Machine("7.3"), 4, 16)
LOOPS = ["folio-page0", "nested-nowrite", "folio-shared", planted.FirstForAll(), planted.FolioEdge(), planted.SpreadsDirty(),
         planted.SharedFirstDirty(), planted.NoFlushOfExec(), planted.RangeEdge(), planted.AsksFilePages(),
         planted.UnrolledByFour()]  # fmt: skip
IDS = [getattr(loop, "__name__", loop) for loop in LOOPS]


def size(world: SmallWorld) -> tuple[int, int, int, int]:
    """What never grows: entries, range, folded entries, pages of the folios mapped."""
    heads = {at >> (o := world.pages[at] & b.PG_ORDER_MASK) << o: o for at in _frames(world)}
    folded = sum(bool(w & b.PTE_CONT and w & b.PTE_VALID) for w in world.ptes)
    return sum(map(bool, world.ptes)), world.end - world.start, folded, sum(1 << order for order in heads.values())


def _frames(world: SmallWorld) -> list[int]:
    return [pfn - world.pfn_base for pfn in world.frames() if 0 <= pfn - world.pfn_base < len(world.pages)]


def found(loop, nr: int) -> list[tuple[SmallWorld, int]]:
    """The first random worlds that break a law."""
    checker, worlds = Checker(LARGE, loop, strict=True), []
    for chunk in random_chunks(LARGE, 11):
        arrays = [chunk.words, chunk.pages, chunk.calls, chunk.ad, chunk.folds]
        first = 0
        while len(worlds) < nr and first < len(chunk.words):
            rest = [np.ascontiguousarray(array[first:]) for array in arrays]
            judged_, law, _, row = checker.each(*rest, tlb=True)
            if law:
                worlds.append((chunk.world(LARGE, first + row, first + row, checker.start_ptes), law))
            first += judged_
        if len(worlds) == nr:
            return worlds
    raise AssertionError


@pytest.mark.parametrize("loop", LOOPS, ids=IDS)
def test_the_law_is_kept_and_nothing_grows(loop):
    checker = Checker(LARGE, loop, strict=True)
    for world, law in found(loop, 4):
        law = judged(checker, world)[0] or law
        small = shrink(checker, world, law)
        assert judged(checker, small)[0] == law, LAWS[law].name
        assert all(new <= old for new, old in zip(size(small), size(world), strict=True))
        assert list(CHANGES).index(small.change.name) <= list(CHANGES).index(world.change.name)
        assert small.machine == world.machine and len(small.ptes) == len(world.ptes)
        assert shrink(checker, small, law) == small, "the smallest stays as it is"


@pytest.mark.parametrize("loop", LOOPS, ids=IDS)
def test_every_step_keeps_a_start_that_can_be(loop):
    """Folded blocks are whole (I-4) and what is mapped with WRITE in a private mapping is exclusive (I-6), all the way down."""
    sound, checker = Checker(LARGE, "folio", strict=True), Checker(LARGE, loop, strict=True)
    for world, law in found(loop, 2):
        law = judged(checker, world)[0] or law
        for small in _way_down(checker, world, law):
            assert judged(sound, small)[0] == 0, f"{small.source()} breaks a law by itself"
            assert SmallWorld.parse(small.machine, small.strip(), folios=small.folios(), call=_call(small)).ptes == small.ptes


def _call(world: SmallWorld) -> str:
    return f"{world.change.name} [{world.start}, {world.end})"


def _way_down(checker: Checker, world: SmallWorld, law: int) -> list[SmallWorld]:
    seen = [world]
    while True:
        steps = (w for step in shrinking._STEPS for w in step(seen[-1]) if w != seen[-1])
        smaller = next((w for w in steps if judged(checker, w)[0] == law), None)
        if smaller is None:
            return seen
        seen.append(smaller)


@pytest.mark.parametrize("loop", LOOPS[:4], ids=IDS[:4])
def test_it_ends_wherever_it_goes(loop):
    """A loop that breaks its law everywhere: every step is taken, and there is an end."""
    checker = Checker(LARGE, planted.LeavesWhatDoesNotChange())
    for world, _ in found(loop, 3):
        steps = 0
        now = world
        while (after := next((w for step in shrinking._STEPS for w in step(now) if w != now), None)) is not None:
            now, steps = after, steps + 1
            assert steps < 2000
        assert size(now) <= size(world) and judged(checker, now)


def test_a_world_that_is_smallest_already_stays():
    world = SmallWorld.parse("7.3,cont_ptes=4,ptrs_per_pte=8", "RO,n,pfn=0x401", folios="0x400:1=es", call="rw [0, 1)")
    checker = Checker(world.machine, "folio-page0")
    law = judged(checker, world)[0]
    assert LAWS[law].name == "EXCLUSIVE"
    assert shrink(checker, world, law) == world


def test_an_exception_of_another_kind_is_another_finding():
    def step(w):
        if w.max_nr > 1:
            raise ZeroDivisionError
        raise KeyError

    world = SmallWorld.parse("7.3,cont_ptes=4,ptrs_per_pte=8", "RO,n,pfn=0x400 RO,n,pfn=0x402", folios="0x400:0=s 0x402:0=s",
                             call="ro [0, 2)")  # fmt: skip
    checker = Checker(world.machine, step)
    small = shrink(checker, world, judged(checker, world)[0])
    assert isinstance(judged(checker, small)[1].error, ZeroDivisionError)
    assert small.end - small.start == 2 and sum(map(bool, small.ptes)) == 1


def test_a_folded_block_stays_whole_or_is_unfolded():
    """What takes an entry out of a folded block takes CONT from the others."""
    world = SmallWorld.parse("7.3,cont_ptes=4,ptrs_per_pte=8", "RW,c,pfn=0x400.. x4", folios="0x400:2=eeee", call="ro [0, 4)")
    smaller = [w for step in shrinking._STEPS for w in step(world)]
    for w in smaller:
        folded = [bool(word & b.PTE_CONT) for word in w.ptes[:4]]
        assert all(folded) or not any(folded)
    assert any(w.ptes[0] and not w.ptes[1] for w in smaller) and any(all(w.ptes[:4]) for w in smaller)
