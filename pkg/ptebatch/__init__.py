"""An exact, executable model of arm64 mprotect(2) over contiguous PTEs, and of every way to batch it."""

from __future__ import annotations

from .core.mm import MM
from .core.result import Result
from .core.space import Vma
from .core.window import Window
from .counters import COUNTERS
from .errors import MprotectError, PtebatchError
from .machine import Machine
from .strategies import STRATEGIES, register

__version__ = "0.1.0"

__all__ = [
    "COUNTERS",
    "MM",
    "STRATEGIES",
    "Machine",
    "MprotectError",
    "PtebatchError",
    "Result",
    "Vma",
    "Window",
    "__version__",
    "register",
]
