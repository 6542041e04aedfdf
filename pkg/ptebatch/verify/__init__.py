"""Verification against facts: what the kernel's functions and real kernels did, replayed.

Kinds of files, each with a function that returns a `Report`:

=================== =========================================================
`verify_vectors`    one change_protection() by every engine: PTEs, batches, counters
`verify_dumps`      mprotect(2) of real kernels: PTEs, function entries, TLBI, DSB
`verify_traces`     mprotect(2) of real kernels: every leaf access in order
`verify_loops`      large uniform mappings: TLBI, DSB, function entries
`verify_live`       address spaces that live: state after every call, TLBI, DSB
`verify_live_traces`  the same calls: stores and exchanges, TLBI and DSB in order
`verify_oploops`    calls over whole regions: TLBI, function entries
`verify_prim`       single PTE helpers: rows of input and output
=================== =========================================================

`verify_host` runs random calls on the running kernel and on the model, side by side.

Nothing is fitted: a difference of one event is a difference. Files that are not
what they should be raise `ptebatch.errors.InputError`.
"""

from __future__ import annotations

from .dumps import verify_dumps
from .host import HostReport, verify_host
from .live import verify_live
from .livetraces import verify_live_traces
from .loops import LoopRow, loop_rows, verify_loops
from .oploops import verify_oploops
from .prim import verify_prim
from .report import Difference, FileReport, Line, Report
from .traces import verify_traces
from .vectors import verify_vectors

__all__ = [
    "Difference",
    "FileReport",
    "HostReport",
    "Line",
    "LoopRow",
    "Report",
    "loop_rows",
    "verify_dumps",
    "verify_host",
    "verify_live",
    "verify_live_traces",
    "verify_loops",
    "verify_oploops",
    "verify_prim",
    "verify_traces",
    "verify_vectors",
]
