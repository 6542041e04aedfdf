"""Reading /proc/PID/pagemap: one word a page, without reading the empty ones.

Kernel counterpart: fs/proc/task_mmu.c. A process may reserve terabytes and use
little of them; PAGEMAP_SCAN (since 6.7) says where pages are, and which are
mapped by huge entries. Without it whole mappings are read.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from .kpage import U64, open_proc, read_words, refuse
from .snapshot import PM_GUARD, PM_PRESENT, PM_SWAP

__all__ = ["Pagemap", "Stretch"]

#: a mapping: start and end in bytes, resident KiB or None if not known
Stretch: TypeAlias = tuple[int, int, int | None]
Entries: TypeAlias = tuple[U64, U64, NDArray[np.bool_]]

# include/uapi/linux/fs.h: _IOWR('f', 16, struct pm_scan_arg), 12 words
_PAGEMAP_SCAN = 0xC0606610
_PRESENT, _SWAPPED, _HUGE, _GUARD = 1 << 3, 1 << 4, 1 << 6, 1 << 8
_REGIONS = 1 << 12

_CHUNK = 1 << 18  # words read at once
_GAP = 512  # empty words that are cheaper to read than to seek over


class Pagemap:
    """The open pagemap of one process.

    Parameters
    ----------
    path : str
        The file.
    stretches : sequence of sequences of (start, end, resident)
        Mappings to read, ascending, in stretches that have nothing else between
        them: PAGEMAP_SCAN walks a stretch at once. Where the kernel has none, each
        mapping is read whole, but those known to be empty.
    page_size : int
        Bytes.

    Raises
    ------
    InputError
        The file cannot be opened.
    """

    def __init__(self, path: str, stretches: Sequence[Sequence[Stretch]], page_size: int) -> None:
        """Open the file."""
        self.path = path
        self.stretches = stretches
        self.shift = page_size.bit_length() - 1
        self.categories = _PRESENT | _SWAPPED | _GUARD  # 0: the kernel has no PAGEMAP_SCAN
        self.fd = open_proc(path)

    def __enter__(self) -> Pagemap:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        """Close the file."""
        os.close(self.fd)

    def collect(self) -> Entries:
        """Return page numbers, words and "mapped huge" of the entries that are not empty.

        Raises
        ------
        InputError
            The file cannot be read.
        """
        parts: list[Entries] = []
        for stretch in self.stretches:
            regions = self._scan(stretch[0][0], stretch[-1][1])
            if regions is None:
                for start, end, resident in stretch:
                    if resident != 0:
                        parts += self._read(start >> self.shift, end >> self.shift, None)
                continue
            for low, high in _spans(regions):
                parts += self._read(low, high, regions)
        if not parts:
            return np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.bool_)
        vpn, words, huge = (np.concatenate(part) for part in zip(*parts, strict=True))
        return vpn, words, huge

    def _read(self, low: int, high: int, regions: U64 | None) -> Iterator[Entries]:
        for first in range(low, high, _CHUNK):
            words = read_words(self.fd, self.path, first, min(_CHUNK, high - first))
            used = np.flatnonzero(words & (PM_PRESENT | PM_SWAP | PM_GUARD))
            if used.size:
                vpn = np.uint64(first) + used.astype(np.uint64)
                yield vpn, words[used], _huge(vpn, regions)

    def _scan(self, start: int, end: int) -> U64 | None:
        """Return rows (first page, end page, categories), or None if that cannot be asked."""
        if not self.categories:
            return None
        vec = np.zeros((_REGIONS, 3), dtype=np.uint64)
        parts: list[U64] = []
        while start < end:
            arg = bytearray(
                struct.pack(
                    "=12Q", 96, 0, start, end, 0, vec.ctypes.data, _REGIONS, 0, 0, 0,
                    self.categories, self.categories | _HUGE,
                )
            )  # fmt: skip
            try:
                found = fcntl.ioctl(self.fd, _PAGEMAP_SCAN, arg)
            except OSError as e:
                if e.errno == errno.EINVAL and self.categories & _GUARD:  # before 6.15
                    self.categories &= ~_GUARD
                    continue
                if e.errno in (errno.ENOTTY, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                    self.categories = 0
                    return None
                refuse(self.path, e)
            parts.append(vec[:found].copy())
            if found < _REGIONS:
                break  # all was walked, or the process has ended
            # the kernel flushes a buffer of 512 regions to `vec`; when the last flush filled it, 6.18 can
            # give the walk_end of the flush before
            start = max(struct.unpack_from("=Q", arg, 32)[0], int(vec[found - 1, 1]), start + 1)
        regions = np.concatenate(parts) if parts else vec[:0]
        regions[:, :2] >>= np.uint64(self.shift)
        return regions


def _spans(regions: U64) -> list[tuple[int, int]]:
    """Join regions that are near each other to stretches worth one read."""
    if not len(regions):
        return []
    cuts = np.flatnonzero(regions[1:, 0] > regions[:-1, 1] + np.uint64(_GAP)) + 1
    firsts = regions[np.concatenate([[0], cuts]), 0]
    lasts = regions[np.concatenate([cuts - 1, [len(regions) - 1]]), 1]
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))


def _huge(vpn: U64, regions: U64 | None) -> NDArray[np.bool_]:
    if regions is None or not len(regions):
        return np.zeros(vpn.size, np.bool_)
    at = np.maximum(np.searchsorted(regions[:, 0], vpn, side="right") - 1, 0)
    answer: NDArray[np.bool_] = (vpn < regions[at, 1]) & ((regions[at, 2] & np.uint64(_HUGE)) != 0)
    return answer
