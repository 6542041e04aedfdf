"""A process in seven numbers, which a user can hold against smaps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .kinds import ExclusiveSpec, exclusive_pages, exclusive_unknown, kinds_of
from .snapshot import Snapshot

__all__ = ["Summary", "summary_of"]


class Summary(NamedTuple):
    """Pages of a process, by what they are; mappings that are left out are not counted.

    Attributes
    ----------
    mappings : int
        All of them.
    present : int
        Rss of smaps, with PMD-mapped ones.
    anonymous : int
        Anonymous of smaps, pages of KSM included.
    huge : int
        Mapped by PMDs on the host: AnonHugePages, ShmemPmdMapped and FilePmdMapped of smaps.
    swapped : int
        Swap entries.
    exclusive : int
        PageAnonExclusive for certain.
    unknown : int
        Of which that is unknown.
    """

    mappings: int
    present: int
    anonymous: int
    huge: int
    swapped: int
    exclusive: int
    unknown: int


def summary_of(s: Snapshot, exclusive: ExclusiveSpec = "kpageflags") -> Summary:
    """Count the pages of a snapshot.

    Parameters
    ----------
    s : Snapshot
    exclusive : str or pattern
        As for `rebuild.build`.
    """
    kinds = kinds_of(s)
    present, unknown = s.present, exclusive_unknown(s, kinds, exclusive)
    counts = (
        present, (kinds.anon | kinds.ksm) & present, s.huge & present, kinds.swap,
        exclusive_pages(s, kinds, exclusive) & present, unknown & present,
    )  # fmt: skip
    return Summary(s.vmas.size, *(int(np.count_nonzero(each)) for each in counts))
