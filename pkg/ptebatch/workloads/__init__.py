"""What runtimes do to their memory, as programs of the model: faults, calls, flushes, and how folding decays.

=============== ==========================================================
`WORKLOADS`     every workload by name
`run_workload`  one of them on one machine, with folios of one size
`parse`         ``NAME[,parameter=value…]``, as the command line takes it
=============== ==========================================================
"""

from __future__ import annotations

from .life import Life, Lived, Parameter, Round
from .rows import WORKLOADS, Workload, parse, run_workload

__all__ = ["WORKLOADS", "Life", "Lived", "Parameter", "Round", "Workload", "parse", "run_workload"]
