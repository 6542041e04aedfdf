"""Run a change of protection, or compare strategies from one start; see `runs` and `start`."""

from __future__ import annotations

from .runs import REFERENCE, compare, compare_kernels, run, start_of, total

__all__ = ["REFERENCE", "compare", "compare_kernels", "run", "start_of", "total"]
