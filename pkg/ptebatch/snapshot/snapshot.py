"""A process's VMAs and pages as a running kernel showed them.

A `Snapshot` is what was read, nothing interpreted: the words of pagemap and
kpageflags (Documentation/admin-guide/mm/pagemap.rst), the order of each page's
folio, the VMAs. `rebuild` places it in arm64 tables, `procfs` takes it.
"""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from .. import bits
from ..errors import InputError

__all__ = ["LOST", "SKIPPED", "VMA_DTYPE", "Range", "Snapshot"]

#: one mapping: byte addresses, VM_* flags, file offset in pages, file number
#: (0: anonymous), why it is left out (`SKIPPED`), whether it wants writenotify (``NOTIFY_*``)
VMA_DTYPE = np.dtype(
    [
        ("start", "<u8"),
        ("end", "<u8"),
        ("flags", "<u8"),
        ("pgoff", "<u8"),
        ("file", "<u4"),
        ("skip", "u1"),
        ("notify", "u1"),
    ]
)

#: why a mapping is left out, by its `skip` number
SKIPPED = (
    "", "hugetlb", "no struct pages (PFNMAP or IO)", "outside the user address space", "shadow stack",
    "VmFlags that the model does not know",
)  # fmt: skip

SKIP_HUGETLB, SKIP_PFNMAP, SKIP_OUTSIDE, SKIP_SHADOW_STACK, SKIP_FLAGS = range(1, len(SKIPPED))

#: whether the owner of a shared mapping wants to hear of first writes (spec 6.6)
NOTIFY_NO, NOTIFY_YES, NOTIFY_UNKNOWN = range(3)

#: what can be lost while a running process is read; the keys of `Snapshot.lost`
LOST = {
    "changed": "pages whose entry changed between two readings",
    "appeared": "pages that were mapped after the first reading",
    "reused": "pages whose frame already belonged to something else",
    "torn": "compound pages whose head and tails did not agree; their pages count as single ones",
    "vmas": "mappings that appeared, went or changed",
}

#: keys of `Snapshot.meta`
UNKNOWN_VMFLAGS, WITHOUT_VMFLAGS, PASTED = "unknown_vmflags", "without_vmflags", "pasted"

PM_PRESENT = np.uint64(1 << 63)
PM_SWAP = np.uint64(1 << 62)
PM_FILE = np.uint64(1 << 61)
PM_GUARD = np.uint64(1 << 58)
PM_UFFD_WP = np.uint64(1 << 57)
PM_MMAP_EXCLUSIVE = np.uint64(1 << 56)
PM_SOFT_DIRTY = np.uint64(1 << 55)
PM_FRAME = np.uint64((1 << 55) - 1)

PAGE_ARRAYS: dict[str, np.dtype[Any]] = {
    "vpn": np.dtype("<u8"),
    "pagemap": np.dtype("<u8"),
    "kflags": np.dtype("<u8"),
    "mapcount": np.dtype("<u4"),
    "order": np.dtype("|u1"),
    "huge": np.dtype("|b1"),
}
_PAGE_SIZES = (1 << 12, 1 << 14, 1 << 16)
_MAX_ORDER = bits.PG_ORDER_MASK
_MAX_ADDR = 1 << 56
_VM_KNOWN = np.uint64(
    functools.reduce(operator.or_, (v for n, v in vars(bits).items() if n.startswith("VM_") and not n.endswith("_SHIFT")))
)


class Range(NamedTuple):
    """One mapping that mprotect() can be asked about.

    Attributes
    ----------
    start, length : int
        Bytes.
    name : str
        Path or name in brackets; empty for unnamed anonymous memory.
    pages : int
        Present pages in it.
    exclusive_unknown : int
        Pages of them of which it is unknown whether they are PageAnonExclusive.
    dirty_unknown : int
        Pages of them, of shared files, of which it is unknown whether their entry is dirty.
    """

    start: int
    length: int
    name: str
    pages: int
    exclusive_unknown: int = 0
    dirty_unknown: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """What was read of one process.

    Parameters
    ----------
    vmas : ndarray of VMA_DTYPE, shape (v,)
        The mappings, ascending, not overlapping.
    names : tuple of str, length v
        Their paths or names.
    vpn : ndarray of uint64, shape (n,)
        Virtual page numbers of the entries that are not empty, ascending, each
        in a mapping that is not left out.
    pagemap : ndarray of uint64, shape (n,)
        Their words in /proc/PID/pagemap.
    kflags : ndarray of uint64, shape (n,)
        Their frames' words in /proc/kpageflags; 0 without a frame.
    mapcount : ndarray of uint32, shape (n,)
        Their frames' /proc/kpagecount, at most 2**32-1; 0 where not known.
    order : ndarray of uint8, shape (n,)
        Order of the folio of the frame, 0 to 15.
    huge : ndarray of bool, shape (n,)
        Mapped by one huge entry (PMD) on the host.
    page_size : int
        Bytes of a page: 4K, 16K or 64K.
    meta : dict of str to str or int
        pid, comm, kernel, machine, time; where it applies `UNKNOWN_VMFLAGS` (letters that
        the model does not know) and `WITHOUT_VMFLAGS` (mappings of which none are shown).
    lost : dict of str to int
        What the reader lost, keys of `LOST`.
    source : str
        Where it came from, for error messages.

    Raises
    ------
    InputError
        An array of another type or shape, or values that no kernel shows.
    """

    vmas: NDArray[Any]
    names: tuple[str, ...]
    vpn: NDArray[np.uint64]
    pagemap: NDArray[np.uint64]
    kflags: NDArray[np.uint64]
    mapcount: NDArray[np.uint32]
    order: NDArray[np.uint8]
    huge: NDArray[np.bool_]
    page_size: int
    meta: dict[str, str | int]
    lost: dict[str, int]
    source: str = "snapshot"

    def __post_init__(self) -> None:
        """Check every value, and make the arrays read-only."""
        _check_types(self)
        _check_vmas(self)
        _check_pages(self)
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, np.ndarray):
                frozen = value.view()
                frozen.setflags(write=False)
                object.__setattr__(self, f.name, frozen)

    @property
    def pfn(self) -> NDArray[np.uint64]:
        """Frame numbers, uint64; meaningful where `present`."""
        return self.pagemap & PM_FRAME

    @property
    def present(self) -> NDArray[np.bool_]:
        """Which entries map a page."""
        answer: NDArray[np.bool_] = (self.pagemap & PM_PRESENT) != 0
        return answer

    @property
    def page_shift(self) -> int:
        """log2 of `page_size`."""
        return self.page_size.bit_length() - 1

    @property
    def vma_of(self) -> NDArray[np.intp]:
        """Index into `vmas` of every entry."""
        first = self.vmas["start"] >> np.uint64(self.page_shift)
        return np.searchsorted(first, self.vpn, side="right") - 1

    @property
    def called(self) -> NDArray[np.int64]:
        """Of each mapping, a number for the name that prctl(PR_SET_VMA_ANON_NAME) gave it, 0 for none; shape (v,)."""
        ids: dict[str, int] = {}
        given = [name if name.startswith(("[anon:", "[anon_shmem:")) else "" for name in self.names]
        return np.array([ids.setdefault(name, len(ids) + 1) if name else 0 for name in given], np.int64)

    def writable_ranges(self) -> list[Range]:
        """Return the mappings that are writable now and not left out, ascending."""
        pages = np.bincount(self.vma_of[self.present], minlength=self.vmas.size)
        keep = (self.vmas["skip"] == 0) & (self.vmas["flags"] & np.uint64(bits.VM_WRITE) != 0)
        return [
            Range(int(v["start"]), int(v["end"] - v["start"]), self.names[i], int(pages[i]))
            for i, v in enumerate(self.vmas)
            if keep[i]
        ]


def _fail(s: Snapshot, place: str, message: str) -> NoReturn:
    raise InputError(s.source, place, f"{message}; give what a kernel showed, or save the snapshot again")


def _check_types(s: Snapshot) -> None:
    if isinstance(s.page_size, bool) or s.page_size not in _PAGE_SIZES:
        _fail(s, "page_size", f"is {s.page_size!r}, expected {', '.join(map(str, _PAGE_SIZES))}")
    for name, dtype in {"vmas": VMA_DTYPE, **PAGE_ARRAYS}.items():
        value = getattr(s, name)
        if not isinstance(value, np.ndarray) or value.dtype != dtype or value.ndim != 1:
            what = f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
            _fail(s, name, f"is {what}, expected one dimension of {dtype}")
        if name != "vmas" and value.size != s.vpn.size:
            _fail(s, name, f"has {value.size} items, expected {s.vpn.size} as vpn has")
    if len(s.names) != s.vmas.size or not all(isinstance(n, str) for n in s.names):
        _fail(s, "names", f"has {len(s.names)} items, expected a text for each of {s.vmas.size} mappings")
    for key, value in s.meta.items():
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            _fail(s, f"meta.{key}", f"is {value!r}, expected a text or a whole number")
    for key, value in s.lost.items():
        if key not in LOST or isinstance(value, bool) or not isinstance(value, int) or value < 0:
            _fail(s, f"lost.{key}", f"is {value!r}, expected one of {', '.join(LOST)} with a count")


def _check_vmas(s: Snapshot) -> None:
    v = s.vmas
    low = np.uint64(s.page_size - 1)
    bad = {
        "start or end is not page aligned": ((v["start"] | v["end"]) & low) != 0,
        "end is not above start": v["end"] <= v["start"],
        "skip names no reason": v["skip"] >= len(SKIPPED),
        "is outside the user address space": (v["end"] > _MAX_ADDR) & (v["skip"] != SKIP_OUTSIDE),
        "has unknown flags": (v["flags"] & ~_VM_KNOWN) != 0,
        "notify is none of 0, 1 and 2": v["notify"] > NOTIFY_UNKNOWN,
        "overlaps the mapping before it": np.concatenate([[False], v["start"][1:] < v["end"][:-1]])[: v.size],
    }
    for message, where in bad.items():
        if where.any():
            at = int(np.argmax(where))
            _fail(s, f"vmas[{at}]", f"{int(v['start'][at]):#x}-{int(v['end'][at]):#x} {message}")


def _check_pages(s: Snapshot) -> None:
    if not s.vpn.size:
        return
    first = s.vmas["start"] >> np.uint64(s.page_shift)
    end = s.vmas["end"] >> np.uint64(s.page_shift)
    at = np.searchsorted(first, s.vpn, side="right") - 1
    inside = (at >= 0) & (s.vpn < end[at]) & (s.vmas["skip"][at] == 0) if s.vmas.size else np.zeros(s.vpn.size, bool)
    pfn = s.pagemap & PM_FRAME
    limit = np.uint64(1) << np.uint64(bits.PTE_ADDR_END - s.page_shift)
    bad = {
        "is not above the page before it": np.concatenate([[False], s.vpn[1:] <= s.vpn[:-1]]),
        "is in no mapping": ~inside,
        "has neither a page nor a swap entry": (s.pagemap & (PM_PRESENT | PM_SWAP | PM_GUARD)) == 0,
        "has a folio order that cannot be": s.order > _MAX_ORDER,
        "has a frame beyond what a PTE holds": s.present & (pfn >= limit),
    }
    for message, where in bad.items():
        if where.any():
            i = int(np.argmax(where))
            _fail(s, f"vpn[{i}]", f"page {int(s.vpn[i]):#x} {message}")
    _check_folios(s, pfn)


def _check_folios(s: Snapshot, pfn: NDArray[np.uint64]) -> None:
    """Refuse folios that overlap: two pages of one folio must agree on its order."""
    size = np.uint64(1) << s.order[s.present].astype(np.uint64)
    head = pfn[s.present] & ~(size - np.uint64(1))
    by = np.lexsort((size, head))
    head, size = head[by], size[by]
    different = (head[1:] != head[:-1]) | (size[1:] != size[:-1])
    overlap = different & (head[1:] < head[:-1] + size[:-1])
    if overlap.any():
        i = int(np.argmax(overlap))
        _fail(s, "order", f"the folio at frame {int(head[i]):#x} has {int(size[i])} pages, but another begins among them")
