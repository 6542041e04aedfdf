"""The model once more, in plain Python: slow, obvious, and independent of the compiled core.

It imports nothing compiled. Each rule of the specification stands here once, written for
the reader; the core has the same rules written for the machine, and the tests hold the
two together on random address spaces and both on the golden vectors.

``pte`` words · ``memory`` private verbs · ``contpte`` public verbs, fold and unfold ·
``folio`` pages and batches · ``tlb`` flushes · ``strategies`` the designs ·
``window`` what a design sees · ``change``, ``softleaf`` the walk · ``vma``,
``mprotect`` the system call · ``mm`` the doors.
"""

from __future__ import annotations

from .mm import RefMM
from .mmu import Folio, Observer
from .result import RefResult
from .strategies import DESIGNS, Design
from .vma import RefVma
from .window import Window

__all__ = ["DESIGNS", "Design", "Folio", "Observer", "RefMM", "RefResult", "RefVma", "Window"]
