"""The core over every layout, frame order, exclusivity pattern, operation and strategy; and where nothing repeats.

A figure is the time of one call against a warm in-place OR over the same PTEs, the
median of rounds in which all strategies take turns. Part of ``python -m bench.ratio``.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from . import builds

LAYOUTS = tuple(f"{name}{frames}" for name in ("T1", "T2", "T3") for frames in ("", "-shuffled"))
#: what is done, and what brings the table back
OPS = {"ro": 1, "none": 0}
LENGTH = 256 << 20


def _seconds(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def warm_or(lib: ctypes.CDLL, ptes: Any, passes: int = 4) -> float:
    """Seconds of an in-place OR over `ptes` that has just gone over them, so that all of it is where it can be."""
    lib.or_in_place(ptes.ctypes.data, ptes.size, 1 << 10)
    begin = time.perf_counter()
    for _ in range(passes):
        lib.or_in_place(ptes.ctypes.data, ptes.size, 1 << 10)
    return (time.perf_counter() - begin) / passes


def irregular(lib: ctypes.CDLL, rounds: int, nr: int = 1 << 18) -> list[dict[str, Any]]:
    """RO and back on each address space of irregular.py, `nr` pages, again and again: times the OR, and the target."""
    rows = []
    for name, (build, target) in builds.load("bench.irregular").WORLDS.items():
        mm, start, length = build(nr)
        # the OR sets AF, which would be part of what the next call reads: it has the same words elsewhere
        ptes = mm.ptes(start, length >> 12).copy()
        spent = []
        for r in range(rounds + 1):
            limit = 2 * warm_or(lib, ptes)
            call = _seconds(partial(mm.mprotect, start, length, 1)) + _seconds(partial(mm.mprotect, start, length, 3))
            if r:  # the first round warms up
                spent.append(call / limit)
        rows.append({"what": "core / warm OR", "ptes": "2M", "world": name, "ratio": statistics.median(spent),
                     "low": min(spent), "high": max(spent), "most": target.times_or})  # fmt: skip
    return rows


def missed(rows: list[dict[str, Any]]) -> list[str]:
    """Targets that rows of `irregular` do not meet."""
    return [
        f"{row['what']} on {row['world']}: {row['ratio']:.1f}, target at most {row['most']}"
        for row in rows
        if row["ratio"] > row["most"]
    ]


def irregular_table(rows: list[dict[str, Any]]) -> str:
    """A line each."""
    lines = [f"{'where nothing repeats: core / warm OR, 2M of PTEs':52}{'median':>8}  [all rounds]      at most"]
    for row in rows:
        lines.append(
            f"{row['world']:52}{row['ratio']:8.1f}  [{row['low']:.1f}, {row['high']:.1f}]".ljust(80) + f"{row['most']:5}"
        )
    return "\n".join(lines)


def collect(lib: ctypes.CDLL, rounds: int) -> list[dict[str, Any]]:
    """Rows of every combination: ``there`` and ``back`` are ratios to OR."""
    worlds = builds.load("bench.worlds")
    rows = []
    for layout in LAYOUTS:
        for pattern in worlds.PATTERNS:
            world = worlds.build(layout, LENGTH, exclusive=pattern)
            for op in OPS:
                rows += _one(lib, world, layout, pattern, op, rounds)
    return rows


def _one(lib: ctypes.CDLL, world: Any, layout: str, pattern: str, op: str, rounds: int) -> list[dict[str, Any]]:
    from ptebatch import STRATEGIES

    mm, start, length = world
    ptes = mm.ptes(start, length >> 12)
    spent: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in STRATEGIES}
    for r in range(rounds + 1):
        limit = warm_or(lib, ptes)
        for name, (there, back) in spent.items():
            one = _seconds(lambda name=name: mm.mprotect(start, length, OPS[op], strategy=name))  # type: ignore[misc]
            two = _seconds(lambda name=name: mm.mprotect(start, length, 3, strategy=name))  # type: ignore[misc]
            if r:  # the first round warms up
                there.append(one / limit)
                back.append(two / limit)
    return [
        {"what": "core / in-place OR", "ptes": f"{length >> 9 >> 10}K", "layout": layout, "pattern": pattern, "op": op,
         "strategy": name, "there": statistics.median(there), "back": statistics.median(back)}
        for name, (there, back) in spent.items()
    ]  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of layout, pattern and operation; a column for each strategy: there/back."""
    names = list(dict.fromkeys(row["strategy"] for row in rows))
    lines = [f"{'core / in-place OR, there/back':36}" + "".join(f"{name:>15}" for name in names)]
    for key in dict.fromkeys((row["layout"], row["pattern"], row["op"]) for row in rows):
        cells = {row["strategy"]: row for row in rows if (row["layout"], row["pattern"], row["op"]) == key}
        shown = (f"{cells[name]['there']:.1f}/{cells[name]['back']:.1f}" for name in names)
        lines.append(f"{key[0]:13}{key[1]:13}{key[2]:10}" + "".join(f"{cell:>15}" for cell in shown))
    return "\n".join(lines)
