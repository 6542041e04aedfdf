"""A process from the text of its /proc/PID/maps or smaps alone, as it stands in a mail: what it does not show is made up.

smaps says how much of each mapping is present, anonymous and huge, not which pages,
nor their frames; maps says not even that. `PASTED` in the meta data makes
`rebuild.assumed` say what was made up.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

import numpy as np

from .. import bits
from ..errors import InputError
from . import kpage
from .maps import parse_maps, parse_smaps, unknown_letters, vmas_of
from .snapshot import PASTED, PM_FILE, PM_MMAP_EXCLUSIVE, PM_PRESENT, UNKNOWN_VMFLAGS, WITHOUT_VMFLAGS, Snapshot

__all__ = ["read_pasted"]

_HEAD = re.compile(r"^[0-9a-f]{1,16}-[0-9a-f]{1,16} [r-][w-][x-][ps] .*$", re.M)
_FIELD = re.compile(r"^(Rss|Anonymous|AnonHugePages|KernelPageSize): +([0-9]{1,15}) kB$", re.M)
#: pages that are made up at most, in all and, of a mapping of which nothing but its size is known, in one
_MOST, _MOST_BLIND = 1 << 22, 1 << 18
#: first frame
_FRAME = 1 << 20


class _Shown(NamedTuple):
    """KiB of a mapping, as smaps has them."""

    rss: int
    anonymous: int
    huge: int


def read_pasted(path: str | os.PathLike[str]) -> Snapshot:
    """Make a snapshot of a file with the text of maps or smaps.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    Snapshot
        Of smaps: the first pages of each mapping are present, as many as Rss says, the first of these
        huge and anonymous as it says. Of maps: every page of each mapping of up to 1 GiB is present,
        anonymous in a private writable one. Anonymous pages are exclusive, folios single pages but
        for huge ones, frames in order.

    Raises
    ------
    InputError
        Neither, or more pages than a model can hold.
    """
    path = os.fspath(path)
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
    except OSError as e:
        raise InputError(path, "", f"cannot be read: {e.strerror}; check the path and its permissions") from e
    heads = _HEAD.findall(text)
    if not heads:
        raise InputError(path, "", "has no line of a mapping; give the text of /proc/PID/maps or smaps")
    size = int(next((value for name, value in _FIELD.findall(text) if name == "KernelPageSize"), "4")) << 10
    maps = parse_maps("\n".join(heads) + "\n", path, page_size=size)
    details = parse_smaps(text)
    smaps = "\nRss:" in text
    shown: list[_Shown | None] = _shown(text) if smaps else [None] * len(maps)
    vmas = vmas_of(maps, details if smaps else {}, size)
    columns = _pages(path, vmas, shown, size)
    meta: dict[str, str | int] = {PASTED: "smaps" if smaps else "maps", "comm": os.path.basename(path), "pid": "pasted"}
    if unknown := unknown_letters(details):
        meta[UNKNOWN_VMFLAGS] = " ".join(unknown)
    if without := sum((m.start, m.end) not in details or not details[m.start, m.end].letters for m in maps):
        meta[WITHOUT_VMFLAGS] = without
    return Snapshot(vmas, tuple(m.name for m in maps), *columns, size, meta, {}, source=path)


def _shown(text: str) -> list[_Shown | None]:
    """What smaps says of each mapping, in order."""
    parts = _HEAD.split(text)[1:]
    found: list[_Shown | None] = []
    for part in parts:
        kib = {name: int(value) for name, value in _FIELD.findall(part)}
        found.append(_Shown(kib.get("Rss", 0), kib.get("Anonymous", 0), kib.get("AnonHugePages", 0)))
    return found


def _pages(
    path: str, vmas: np.ndarray, shown: list[_Shown | None], size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Page numbers, words of pagemap, flags, mapcounts, orders, and which are huge."""
    pmd = size // 8  # entries of a leaf table
    frame, total, rows = _FRAME, 0, []
    for vma, what in zip(vmas, shown, strict=True):
        room = int(vma["end"] - vma["start"]) // size
        if vma["skip"]:
            continue
        private = not int(vma["flags"]) & bits.VM_SHARED
        if what is None:
            nr = room if room <= _MOST_BLIND else 0
            anon, huge = nr * (private and bool(int(vma["flags"]) & bits.VM_WRITE)), 0
        else:
            nr, anon, huge = (min(kib * 1024 // size, room) for kib in what)
        total += nr
        if total > _MOST:
            raise InputError(path, "", f"says that more than {_MOST} pages are present; give fewer mappings")
        first = int(vma["start"]) // size
        at = np.arange(nr)
        # huge entries begin where a table does
        skew = -first % pmd
        is_huge = (at >= skew) & (at < skew + huge // pmd * pmd) & (nr >= skew + huge)
        is_anon = (at < anon) | is_huge
        frame += (first - frame) % pmd  # frames are aligned as addresses are
        flags = np.where(is_anon, kpage.KPF_ANON | kpage.KPF_SWAPBACKED | kpage.KPF_ANON_EXCLUSIVE, kpage.KPF_LRU).astype(
            np.uint64
        )
        if not private:
            flags &= ~kpage.KPF_ANON_EXCLUSIVE
        word = PM_PRESENT | PM_MMAP_EXCLUSIVE | np.where(is_anon, np.uint64(0), PM_FILE) | (frame + at).astype(np.uint64)
        order = np.where(is_huge, pmd.bit_length() - 1, 0).astype(np.uint8)
        rows.append(((first + at).astype(np.uint64), word, flags, np.ones(nr, np.uint32), order, is_huge))
        frame += nr
    if not rows:
        raise InputError(path, "", "has no mapping that the model takes; give those with memory of the process")
    columns = [np.concatenate(column) for column in zip(*rows, strict=True)]
    return columns[0], columns[1], columns[2], columns[3], columns[4], columns[5]
