"""Nanoseconds per PTE of one call, by layout and strategy.

``meson test --benchmark -C build walk``, or ``python -m pytest bench/test_walk.py``.
Absolute times of a machine that others use too: compare rows of one run only.
"""

from __future__ import annotations

from typing import Any

import pytest

from . import builds

worlds = builds.load("bench.worlds")
strategies = builds.load("ptebatch.strategies").STRATEGIES

LENGTH = 256 << 20
PTES = LENGTH >> 12
CASES = [(layout, "uniform") for layout in worlds.LAYOUTS]
CASES += [("T1", pattern) for pattern in worlds.PATTERNS if pattern != "uniform"]


@pytest.mark.parametrize("strategy", [name for name, row in strategies.items() if row.step is None])
@pytest.mark.parametrize(("layout", "exclusive"), CASES)
def test_walk(benchmark: Any, layout: str, exclusive: str, strategy: str) -> None:
    mm, start, length = worlds.build(layout, LENGTH, exclusive=exclusive)

    def there_and_back() -> int:
        return sum(mm.mprotect(start, length, prot, strategy=strategy).pages for prot in (1, 3))

    benchmark.group = f"{layout} {exclusive}"
    benchmark.extra_info.update(layout=layout, exclusive=exclusive, strategy=strategy, ptes=2 * PTES)
    assert benchmark.pedantic(there_and_back, rounds=7, warmup_rounds=1) == 2 * PTES
