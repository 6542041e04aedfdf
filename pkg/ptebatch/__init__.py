"""An exact, executable model of arm64 mprotect(2) over contiguous PTEs, and of every way to batch it."""

from __future__ import annotations

from .base import interrupt as _interrupt  # noqa: F401  (first: what follows takes its time)
from .batch.window import Window
from .checker import verify_strategy
from .counters import COUNTERS
from .errors import LayoutError, MachineError, MprotectError, PtebatchError, StrategyError
from .layouts import LAYOUTS, Layout
from .machine import MACHINES, Machine
from .mm.mm import MM
from .mm.result import Result
from .mm.space import Vma
from .notation import draw, parse
from .operations import OPERATIONS
from .simulate import compare, run
from .strategies import STRATEGIES, register

__version__ = "0.1.0"

__all__ = [
    "COUNTERS",
    "LAYOUTS",
    "MACHINES",
    "MM",
    "OPERATIONS",
    "STRATEGIES",
    "Layout",
    "LayoutError",
    "Machine",
    "MachineError",
    "MprotectError",
    "PtebatchError",
    "Result",
    "StrategyError",
    "Vma",
    "Window",
    "__version__",
    "compare",
    "draw",
    "parse",
    "register",
    "run",
    "verify_strategy",
]
