"""Long tests: a share of them for CI, all of them before a release."""

from __future__ import annotations

from typing import Any

import pytest


def some_slow(rows: list[Any], share: int) -> list[Any]:
    """One row of so many is ``slow``, which CI runs; the others are ``exhaustive``, before a release.

    A share that has no divisor in common with the length of the inner of two lists meets
    each member of both.
    """
    return [pytest.param(*row, marks=pytest.mark.exhaustive if i % share else pytest.mark.slow) for i, row in enumerate(rows)]
