"""What grows with the size of its input, and how fast: an exponent over three sizes.

A case is made at a size and timed; its exponent is the slope of seconds over size, both
as logarithms, from the fastest round of each size: 1 is linear. Import after ``builds.ensure()``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ptebatch import MM
from ptebatch.strategies import STRATEGIES

from .worlds import PFN_BASE, START, build, place

PAGE = 4096
#: calls of one page are timed so many at once
CALLS = 200


class Case(NamedTuple):
    """`prepare` makes what `work` is timed on; sizes in units of `unit`; at most so large an exponent."""

    prepare: Callable[[int], Any]
    work: Callable[[Any], Any]
    sizes: tuple[int, ...]
    unit: str
    most: float


def _space(nr: int) -> MM:
    mm = MM(nr_pages=1, pfn_base=PFN_BASE)
    mm.set_limits(map_count=1 << 24)
    mm.mmap(START, 2 * nr * PAGE, 3)
    return mm


def _every_other(nr: int) -> tuple[MM, int]:
    mm = _space(nr)
    for i in range(nr):
        mm.mprotect(START + 2 * i * PAGE, PAGE, 1)
    return mm, 2 * nr * PAGE


def _all(made: tuple[MM, int]) -> None:
    made[0].mprotect(START, made[1], 1)


def _split(nr: int) -> tuple[MM, list[int]]:
    return _space(nr), np.random.default_rng(1).permutation(nr).tolist()


def _at_front(nr: int) -> None:
    mm = _space(nr)
    for i in reversed(range(nr)):
        mm.mprotect(START + 2 * i * PAGE, PAGE, 1)


def _descending(nr: int) -> None:
    mm = MM(nr_pages=1, pfn_base=PFN_BASE)
    mm.set_limits(map_count=1 << 24)
    for i in reversed(range(nr)):
        mm.mmap(START + 2 * i * PAGE, PAGE, 3)


def _anywhere(made: tuple[MM, list[int]]) -> None:
    mm, order = made
    for i in order:
        mm.mprotect(START + 2 * i * PAGE, PAGE, 1)


def _fresh(nr: int) -> tuple[MM, Any]:
    mm = MM(nr_pages=2 * nr, pfn_base=PFN_BASE)
    mm.mmap(START, nr * PAGE, 3)
    return mm, np.random.default_rng(2).choice([0, 1, 2, 4, 9], nr)


def _random(nr: int) -> Any:
    return place(nr * PAGE, {"order": 9, "exclusive": np.random.default_rng(1).random(nr) < 0.5})


def _python_calls(world: Any) -> None:
    def step(window: Any) -> int:
        nr = window.folio_pte_batch()
        window.change_unit(0, nr, False)
        return int(nr)

    for _ in range(CALLS):
        world.mm.mprotect(START, 16 * PAGE, 1, strategy=step)
        world.mm.mprotect(START, 16 * PAGE, 3, strategy=step)


def _toggle(strategy: str) -> Callable[[Any], None]:
    def work(world: Any) -> None:
        for prot in (1, 3):
            world.mm.mprotect(world.start, world.length, prot, strategy=strategy)

    return work


#: twice as many are about what the kernel allows a process
VMAS, PAGES = (2_000, 8_000, 32_000), (1 << 14, 1 << 16, 1 << 18)
CASES: dict[str, Case] = {
    "one call merges n VMAs": Case(_every_other, _all, VMAS, "VMAs", 1.2),
    "n splits, the last one first": Case(lambda nr: nr, _at_front, VMAS, "VMAs", 1.2),
    "n splits in any order": Case(_split, _anywhere, VMAS, "VMAs", 1.5),
    "n mappings, descending": Case(lambda nr: nr, _descending, VMAS, "VMAs", 1.2),
    "MM.copy()": Case(lambda nr: build("T3", nr * PAGE).mm, lambda mm: mm.copy(), PAGES, "pages", 1.2),
    "map_folios(orders=)": Case(
        _fresh, lambda made: made[0].map_folios(START, len(made[1]), orders=made[1]), PAGES, "pages", 1.2
    ),
    "calls of a Python strategy beside n pages": Case(lambda nr: build("T1", nr * PAGE), _python_calls, PAGES, "pages", 0.25),
}
CASES |= {f"{name}, random exclusivity": Case(_random, _toggle(name), PAGES, "pages", 1.2) for name in STRATEGIES}


def exponent(case: Case, rounds: int) -> tuple[float, list[float]]:
    """The slope over all sizes, and the seconds of each."""
    seconds = []
    for size in case.sizes:
        best = float("inf")
        for _ in range(rounds):
            made = case.prepare(size)
            begin = time.perf_counter()
            case.work(made)
            best = min(best, time.perf_counter() - begin)
        seconds.append(best)
    return float(np.polyfit(np.log(case.sizes), np.log(seconds), 1)[0]), seconds
