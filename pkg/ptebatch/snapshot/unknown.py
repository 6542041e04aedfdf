"""What /proc leaves open of a process, counted; `rebuild` builds the two ends between which it lies."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import bits
from .kinds import ExclusiveSpec, exclusive_unknown, kinds_of, written_unknown
from .snapshot import NOTIFY_UNKNOWN, Range, Snapshot

__all__ = ["Unknown", "ranges_of", "unknown_of"]

#: flags in which neighbours may differ and still share an anon_vma (anon_vma_compatible(), mm/vma.c)
_IGNORED = np.uint64(bits.VM_READ | bits.VM_WRITE | bits.VM_EXEC | bits.VM_SOFTDIRTY)


class Unknown(NamedTuple):
    """What is open of a process.

    Attributes
    ----------
    exclusive : ndarray of int64, shape (v,)
        Pages of each mapping of which it is unknown whether they are PageAnonExclusive.
    dirty : ndarray of int64, shape (v,)
        Entries of each mapping of a shared file of which it is unknown whether they are dirty.
    owners : int
        Mappings of which it is unknown whether their owner wants to hear of first writes.
    neighbours : int
        Pairs of neighbouring mappings that may share an anon_vma, and merge, or may not.
    """

    exclusive: NDArray[np.int64]
    dirty: NDArray[np.int64]
    owners: int
    neighbours: int

    def __bool__(self) -> bool:
        """Whether anything is open: the two ends are then two address spaces."""
        return bool(self.exclusive.any() or self.dirty.any() or self.owners or self.neighbours)

    def sentences(self) -> list[str]:
        """Return what is open, in words."""
        pages, entries = int(self.exclusive.sum()), int(self.dirty.sum())
        counts = {
            f"unknown: whether {pages} pages inside large folios are PageAnonExclusive": pages,
            f"unknown: whether {entries} entries of shared files are dirty (a folio is by write(2), too)": entries,
            f"unknown: whether the owners of {self.owners} mappings want to hear of first writes (io_uring, drivers, tmpfs)":
                self.owners,
            f"unknown: whether {self.neighbours} pairs of neighbouring mappings share an anon_vma, which lets them merge":
                self.neighbours,
        }  # fmt: skip
        return [text for text, count in counts.items() if count]


def unknown_of(s: Snapshot, exclusive: ExclusiveSpec = "kpageflags") -> Unknown:
    """Count what is open of a process.

    Parameters
    ----------
    s : Snapshot
    exclusive : str or pattern
        As for `rebuild.build`; a pattern leaves no exclusivity open.

    Returns
    -------
    Unknown
    """
    kinds = kinds_of(s)
    vma_of = s.vma_of

    def each(pages: NDArray[np.bool_]) -> NDArray[np.int64]:
        answer: NDArray[np.int64] = np.bincount(vma_of[pages], minlength=s.vmas.size)
        return answer

    anon = each((kinds.anon | kinds.ksm) & kinds.private) > 0
    owners = (s.vmas["notify"] == NOTIFY_UNKNOWN) & (s.vmas["skip"] == 0)
    return Unknown(
        each(exclusive_unknown(s, kinds, exclusive)),
        each(written_unknown(s, kinds)),
        int(np.count_nonzero(owners)),
        _neighbours(s, anon),
    )


def ranges_of(s: Snapshot, unknown: Unknown) -> list[Range]:
    """Return the writable mappings as ``Snapshot.writable_ranges`` does, with what is open of each."""
    at = {int(start): i for i, start in enumerate(s.vmas["start"].tolist())}
    return [
        r._replace(exclusive_unknown=int(unknown.exclusive[at[r.start]]), dirty_unknown=int(unknown.dirty[at[r.start]]))
        for r in s.writable_ranges()
    ]


def _neighbours(s: Snapshot, anon: NDArray[np.bool_]) -> int:
    one, two, called = s.vmas[:-1], s.vmas[1:], s.called
    alike = (one["end"] == two["start"]) & ((one["flags"] ^ two["flags"]) & ~_IGNORED == 0) & (one["file"] == two["file"])
    alike &= called[:-1] == called[1:]
    return int(np.count_nonzero(alike & anon[:-1] & anon[1:] & (one["skip"] == 0) & (two["skip"] == 0)))
