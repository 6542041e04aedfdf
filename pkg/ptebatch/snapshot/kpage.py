"""Reading page frames: /proc/kpageflags, /proc/kpagecount, and the folios in them.

Kernel counterparts: fs/proc/page.c, include/uapi/linux/kernel-page-flags.h.
A folio is found by its head and the tails behind it, also where this process
maps only part of it: the flags of its whole table-sized window are read.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .snapshot import PM_FILE, PM_FRAME, PM_PRESENT

__all__ = ["Frames", "open_proc", "read_frames", "read_words", "refuse", "reused"]

U64: TypeAlias = NDArray[np.uint64]

KPF_UPTODATE = np.uint64(1 << 3)
KPF_DIRTY = np.uint64(1 << 4)
KPF_LRU = np.uint64(1 << 5)
KPF_SLAB = np.uint64(1 << 7)
KPF_BUDDY = np.uint64(1 << 10)
KPF_ANON = np.uint64(1 << 12)
KPF_SWAPBACKED = np.uint64(1 << 14)
KPF_COMPOUND_HEAD = np.uint64(1 << 15)
KPF_COMPOUND_TAIL = np.uint64(1 << 16)
KPF_HUGE = np.uint64(1 << 17)
KPF_UNEVICTABLE = np.uint64(1 << 18)
KPF_NOPAGE = np.uint64(1 << 20)
KPF_KSM = np.uint64(1 << 21)
KPF_OFFLINE = np.uint64(1 << 23)
KPF_ZERO_PAGE = np.uint64(1 << 24)
KPF_PGTABLE = np.uint64(1 << 26)
KPF_MLOCKED = np.uint64(1 << 33)
#: KPF_OWNER_2, before 6.12 KPF_MAPPEDTODISK: on anonymous pages PageAnonExclusive (since 5.19)
KPF_ANON_EXCLUSIVE = np.uint64(1 << 34)

_GAP = 64  # frames that are cheaper to read than to seek over
_WINDOWS = 1 << 10  # windows looked at together

_RIGHT = "frame numbers and page flags need root (CAP_SYS_ADMIN): run as root, or load a snapshot that root saved"


def refuse(path: str, e: OSError) -> NoReturn:
    """Raise InputError for a file of /proc that cannot be opened or read."""
    if e.errno in (errno.EACCES, errno.EPERM):
        raise InputError(path, "", f"may not be read ({e.strerror}); {_RIGHT}") from e
    if e.errno in (errno.ESRCH, errno.ENOENT):
        raise InputError(path, "", "is not there; the process has ended, or the kernel lacks CONFIG_PROC_PAGE_MONITOR") from e
    raise InputError(path, "", f"cannot be read: {e.strerror or e}; check that /proc is mounted") from e


def open_proc(path: str) -> int:
    """Open a binary file of /proc for reading; InputError says why not."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as e:
        refuse(path, e)


def read_words(fd: int, path: str, first: int, nr: int) -> U64:
    """Read `nr` words from word `first` on; fewer where the file ends.

    Parameters
    ----------
    fd : int
        The open file.
    path : str
        Its name, for errors.
    first, nr : int
        In words of 8 bytes.

    Returns
    -------
    ndarray of uint64, shape (<= nr,)

    Raises
    ------
    InputError
        The file cannot be read, or ends inside a word.
    """
    words = np.empty(nr, dtype=np.uint64)
    view = words.data.cast("B")
    done = 0
    while done < view.nbytes:
        try:
            got = os.preadv(fd, [view[done:]], first * 8 + done)
        except OSError as e:
            refuse(path, e)
        if not got:
            break
        done += got
    if done % 8:
        raise InputError(path, f"byte {first * 8 + done}", "ends inside a word of 8 bytes; the file is cut short")
    return words[: done // 8]


@dataclass(frozen=True, slots=True)
class Frames:
    """What was read about some frames.

    Parameters
    ----------
    pfn : ndarray of uint64
        The frames, ascending.
    kflags : ndarray of uint64
        Their flags; NOPAGE beyond the end of memory.
    mapcount : ndarray of uint32
        How often each is mapped; 0 where /proc/kpagecount is not there.
    order : ndarray of uint8
        Order of the folio of each.
    torn : int
        Compound pages among them that are in no whole folio.
    """

    pfn: U64
    kflags: U64
    mapcount: NDArray[np.uint32]
    order: NDArray[np.uint8]
    torn: int

    def of(self, words: U64) -> tuple[U64, NDArray[np.uint32], NDArray[np.uint8]]:
        """Return flags, map counts and orders for pagemap words; 0 where no page is present."""
        present = (words & PM_PRESENT) != 0
        if not self.pfn.size:
            return np.zeros(words.size, np.uint64), np.zeros(words.size, np.uint32), np.zeros(words.size, np.uint8)
        at = np.searchsorted(self.pfn, np.where(present, words & PM_FRAME, self.pfn[0]))
        return (
            np.where(present, self.kflags[at], 0).astype(np.uint64),
            np.where(present, self.mapcount[at], 0).astype(np.uint32),
            np.where(present, self.order[at], 0).astype(np.uint8),
        )


def read_frames(proc: str, pfns: U64, page_size: int) -> Frames:
    """Read flags and map counts of frames, and find their folios.

    Parameters
    ----------
    proc : str
        Root of the proc file system.
    pfns : ndarray of uint64
        Frame numbers, in any order, repeated or not.
    page_size : int
        Bytes of a page; no folio of a process is larger than a table maps.

    Returns
    -------
    Frames

    Raises
    ------
    InputError
        The files cannot be read; every frame number is 0, which is what a reader
        without CAP_SYS_ADMIN sees; or no frame shows anything, which is what a masked
        file gives.
    """
    if pfns.size and not pfns.any():
        raise InputError(f"{proc}/PID/pagemap", "", f"every frame number reads as zero; {_RIGHT}")
    pfn = np.unique(pfns)
    path = f"{proc}/kpageflags"
    fd = open_proc(path)
    try:
        kflags = _read_sparse(fd, path, pfn, KPF_NOPAGE)
        if pfn.size and not (kflags & ~KPF_NOPAGE).any():
            what = f"shows nothing of {pfn.size} frames that the process maps"
            raise InputError(path, "", f"{what}; the file is masked, as in some containers: read the process from outside")
        order = np.zeros(pfn.size, np.uint8)
        torn = _find_folios(fd, path, pfn, kflags, order, page_size.bit_length() - 4)
    finally:
        os.close(fd)
    return Frames(pfn, kflags, _read_counts(proc, pfn), order, torn)


def reused(words: U64, kflags: U64) -> NDArray[np.bool_]:
    """Return which present entries name a frame that had already become something else.

    Pagemap bit 61 says "not anonymous"; kpageflags must agree, and the frame may
    be neither free nor the kernel's own.
    """
    present = (words & PM_PRESENT) != 0
    kernels = (kflags & (KPF_SLAB | KPF_BUDDY | KPF_OFFLINE | KPF_PGTABLE)) != 0
    contradiction = ((words & PM_FILE) != 0) & ((kflags & KPF_ANON) != 0)
    answer: NDArray[np.bool_] = present & (kernels | contradiction)
    return answer


def _read_counts(proc: str, pfn: U64) -> NDArray[np.uint32]:
    path = f"{proc}/kpagecount"
    if not os.path.exists(path):
        return np.zeros(pfn.size, np.uint32)
    fd = open_proc(path)
    try:
        counts = _read_sparse(fd, path, pfn, np.uint64(0))
    finally:
        os.close(fd)
    return np.minimum(counts, np.uint64(0xFFFF_FFFF)).astype(np.uint32)


def _read_sparse(fd: int, path: str, pfn: U64, beyond: np.uint64) -> U64:
    """Read the words of ascending frames, near ones with one call."""
    out = np.full(pfn.size, beyond)
    if not pfn.size:
        return out
    cuts = np.flatnonzero(np.diff(pfn) > _GAP) + 1
    for a, b in zip([0, *cuts.tolist()], [*cuts.tolist(), pfn.size], strict=True):
        first = int(pfn[a])
        words = read_words(fd, path, first, int(pfn[b - 1]) - first + 1)
        at = (pfn[a:b] - np.uint64(first)).astype(np.intp)
        inside = at < words.size
        out[a:b][inside] = words[at[inside]]
    return out


def _find_folios(fd: int, path: str, pfn: U64, kflags: U64, order: NDArray[np.uint8], shift: int) -> int:
    """Set the order of compound pages and refresh their flags; return how many are torn.

    Works on naturally aligned windows of ``1 << shift`` frames: a folio that a
    process maps never crosses one. A window is read at once, and all frames in
    it are taken from there: so no two folios overlap.
    """
    width = 1 << shift
    window = pfn >> np.uint64(shift)
    every = np.unique(window[(kflags & (KPF_COMPOUND_HEAD | KPF_COMPOUND_TAIL)) != 0])
    inside = np.flatnonzero(np.isin(window, every))
    inverse = np.searchsorted(every, window[inside])
    torn = 0
    for low in range(0, every.size, _WINDOWS):
        some = every[low : low + _WINDOWS]
        frames = (some[:, None] << np.uint64(shift)) | np.arange(width, dtype=np.uint64)
        flags = _read_sparse(fd, path, frames.ravel(), KPF_NOPAGE).reshape(-1, width)
        orders, heads = _folio_orders(flags)
        mine = np.flatnonzero((inverse >= low) & (inverse < low + _WINDOWS))
        row, column = inverse[mine] - low, (pfn[inside[mine]] & np.uint64(width - 1)).astype(np.intp)
        found = orders[row, column]
        torn += int(np.count_nonzero(found < 0))
        order[inside[mine]] = np.maximum(found, 0)
        # tails of older kernels do not carry the folio's dirty bit; their heads do
        kflags[inside[mine]] = flags[row, column] | (flags[row, heads[row, column]] & KPF_DIRTY)
    return torn


def _folio_orders(flags: U64) -> tuple[NDArray[np.int8], NDArray[np.intp]]:
    """Return for windows of frames each frame's folio order (-1: torn) and head column."""
    nr, width = flags.shape
    column = np.arange(width)
    head = (flags & KPF_COMPOUND_HEAD) != 0
    tail = (flags & KPF_COMPOUND_TAIL) != 0
    start = np.maximum.accumulate(np.where(tail, -1, column), axis=1)  # last frame that is no tail
    stop = np.where(tail, width, column)  # next frame that is no tail, behind this one
    stop = np.minimum.accumulate(stop[:, ::-1], axis=1)[:, ::-1]
    stop = np.concatenate([stop[:, 1:], np.full((nr, 1), width)], axis=1)
    # a folio larger than a window shows nothing but tails in it: it counts as that large
    whole = tail.all(axis=1)
    start[whole] = 0
    has_head = head[np.arange(nr)[:, None], np.maximum(start, 0)] & (start >= 0) | whole[:, None]
    # what a race tore is rounded down to a power of two that is naturally aligned
    align = np.where(start > 0, start & -start, width)
    span = np.maximum(np.minimum(stop - start, align), 1)
    order = np.zeros_like(span)
    for bit in range(1, width.bit_length()):
        order[(span >> bit) > 0] = bit
    good = (head | tail) & has_head & (column < start + (1 << order))
    single = ~(head | tail)
    answer = np.where(good, order, np.where(single, 0, -1)).astype(np.int8)
    return answer, np.maximum(start, 0)
