"""What runtimes do to their memory, as programs of the model: faults, calls, flushes, and how folding decays.

=============== ==========================================================
`WORKLOADS`     every workload by name
`run_workload`  one of them on one machine, with folios of one size
`parse`         ``NAME[,parameter=value…]``, as the command line takes it
`CALLS`         single calls on a layout: fork, munmap, madvise, mremap, writes
`call_layout`   some of them, one after another
=============== ==========================================================
"""

from __future__ import annotations

from .calls import CALLS, Called, call_layout, parse_calls
from .life import Life, Lived, Parameter, Round
from .rows import WORKLOADS, Workload, parse, run_workload

__all__ = [
    "CALLS",
    "WORKLOADS",
    "Called",
    "Life",
    "Lived",
    "Parameter",
    "Round",
    "Workload",
    "call_layout",
    "parse",
    "parse_calls",
    "run_workload",
]
