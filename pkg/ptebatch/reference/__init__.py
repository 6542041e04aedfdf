"""The model once more, in plain Python: slow, obvious, and independent of the compiled core.

It imports nothing compiled. Each rule of the specification stands here once, written for
the reader; the core has the same rules written for the machine, and the tests hold the
two together on random address spaces and both on the golden vectors.

``pte`` words · ``mmu`` private verbs · ``contpte`` public verbs, fold and unfold ·
``folio_batch`` pages and batches · ``tlb`` flushes · ``strategies`` the designs ·
``window`` what a design sees · ``change_protection``, ``softleaf`` the walk · ``vma``,
``mprotect`` the system call · ``mm`` the doors.

An address space that lives has more: ``frames`` memory and who maps it · ``filemap``
files · ``fault`` accesses · ``memory`` fork's copy and unmapping · ``huge_memory``
PMD entries and splits · ``mmap``, ``mremap``, ``madvise``, ``mlock``, ``userfaultfd``,
``task_mmu``, ``collapse`` the calls · ``live`` the doors.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .mm import RefMM
from .mmu import Folio, Observer
from .result import RefResult
from .strategies import DESIGNS, Design
from .vma import RefVma
from .window import Window

if TYPE_CHECKING:
    from .fault import Signal
    from .frames import Buddy, Frames
    from .live import LiveMM, Thp

__all__ = [
    "DESIGNS",
    "Buddy",
    "Design",
    "Folio",
    "Frames",
    "LiveMM",
    "Observer",
    "RefMM",
    "RefResult",
    "RefVma",
    "Signal",
    "Thp",
    "Window",
]

#: where the address space that lives has its names: whoever imports the package for its words need not load it
_LIVING = {"Buddy": "frames", "Frames": "frames", "LiveMM": "live", "Signal": "fault", "Thp": "live"}


def __getattr__(name: str) -> Any:
    """Load what lives when it is asked for."""
    if name in _LIVING:
        return getattr(import_module(f".{_LIVING[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
