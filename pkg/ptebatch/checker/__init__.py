"""Prove a batching loop right over every small world, or show the smallest one that breaks it.

`verify_strategy` searches, `judge` judges one `SmallWorld`, `LAWS` has the laws with their sources.
"""

from __future__ import annotations

from ..strategies import find_strategy
from .laws.rows import LAWS
from .report import Report
from .search import judge, verify_strategy
from .worlds.small import CHANGES, SmallWorld, small_machine

__all__ = ["CHANGES", "LAWS", "Report", "SmallWorld", "find_strategy", "judge", "small_machine", "verify_strategy"]
