"""A live process: what /proc shows of it, placed in arm64 page tables.

`read_process` reads one, `save` and `load` keep it in a file, `build` places it in tables
and `assumed` says what that takes for granted, `unknown_of` what is open. `procfs`, `maps`,
`pagemap` and `kpage` read, `kinds` says what each page is, `rebuild` places it.
"""

from __future__ import annotations

from .file import SHIPPED, load, save
from .pasted import read_pasted
from .procfs import read_process
from .rebuild import assumed, build
from .snapshot import LOST, SKIPPED, Range, Snapshot
from .summary import Summary, summary_of
from .unknown import Unknown, ranges_of, unknown_of

__all__ = [
    "LOST",
    "SHIPPED",
    "SKIPPED",
    "Range",
    "Snapshot",
    "Summary",
    "Unknown",
    "assumed",
    "build",
    "load",
    "ranges_of",
    "read_pasted",
    "read_process",
    "save",
    "summary_of",
    "unknown_of",
]
