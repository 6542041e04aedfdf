"""The text of /proc/PID/maps and smaps: mappings, their flags, and what is resident.

Kernel counterpart: fs/proc/task_mmu.c, show_map_vma() and show_smap_vma_flags(), 6.12 to 7.3.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import bits
from ..errors import InputError
from .snapshot import (
    NOTIFY_NO,
    NOTIFY_UNKNOWN,
    NOTIFY_YES,
    SKIP_FLAGS,
    SKIP_HUGETLB,
    SKIP_OUTSIDE,
    SKIP_PFNMAP,
    SKIP_SHADOW_STACK,
    VMA_DTYPE,
)

__all__ = ["Details", "Mapping", "parse_maps", "parse_smaps", "unknown_letters", "vmas_of"]

_LINE = re.compile(
    r"([0-9a-f]{1,16})-([0-9a-f]{1,16}) ([r-])([w-])([x-])([sp])"
    r" ([0-9a-f]{1,16}) ([0-9a-f]{1,8}):([0-9a-f]{1,8}) ([0-9]{1,20})(?: +(.*))?"
)
_RANGE = re.compile(r"([0-9a-f]{1,16})-([0-9a-f]{1,16}) ")
_NUMBER = re.compile(r"\s*([0-9]{1,16})(?![0-9])")
_HEX = frozenset("0123456789abcdef")

#: VmFlags of smaps, and the flag of the model. ``ht``, ``ss``, ``pf`` and ``io`` leave a mapping out
_VM_FLAGS = {
    "rd": bits.VM_READ, "wr": bits.VM_WRITE, "ex": bits.VM_EXEC, "sh": bits.VM_SHARED,
    "mr": bits.VM_MAYREAD, "mw": bits.VM_MAYWRITE, "me": bits.VM_MAYEXEC, "ms": bits.VM_MAYSHARE,
    "gd": bits.VM_GROWSDOWN, "pf": bits.VM_PFNMAP, "lo": bits.VM_LOCKED, "io": bits.VM_IO,
    "sr": bits.VM_SEQ_READ, "rr": bits.VM_RAND_READ, "dc": bits.VM_DONTCOPY, "de": bits.VM_DONTEXPAND,
    "lf": bits.VM_LOCKONFAULT, "ac": bits.VM_ACCOUNT, "nr": bits.VM_NORESERVE, "ht": bits.VM_HUGETLB,
    "sf": bits.VM_SYNC, "wf": bits.VM_WIPEONFORK, "dd": bits.VM_DONTDUMP, "bt": bits.VM_ARM64_BTI,
    "sd": bits.VM_SOFTDIRTY, "mm": bits.VM_MIXEDMAP, "hg": bits.VM_HUGEPAGE, "nh": bits.VM_NOHUGEPAGE,
    "mg": bits.VM_MERGEABLE, "um": bits.VM_UFFD_MISSING, "uw": bits.VM_UFFD_WP, "ui": bits.VM_UFFD_MINOR,
    "mt": bits.VM_MTE | bits.VM_MTE_ALLOWED, "ss": bits.VM_SHADOW_STACK, "sl": bits.VM_SEALED, "dp": bits.VM_DROPPABLE,
    "gu": bits.VM_MAYBE_GUARD,
}  # fmt: skip

#: names of mappings that are shared memory, whose owner hears of no write
_SHMEM = ("/memfd:", "/dev/shm/", "/SYSV", "/dev/zero", "[anon_shmem:")
_USER_END = 1 << 56


class Mapping(NamedTuple):
    """One line of /proc/PID/maps.

    Attributes
    ----------
    start, end : int
        Byte addresses.
    perms : str
        Four letters, such as ``rw-p``.
    offset : int
        Byte offset in the file.
    device : tuple of int
        Major and minor number.
    inode : int
        0 without a file.
    name : str
        Path, name in brackets, or empty.
    """

    start: int
    end: int
    perms: str
    offset: int
    device: tuple[int, int]
    inode: int
    name: str


class Details(NamedTuple):
    """What smaps shows of a mapping beyond its line in maps.

    Attributes
    ----------
    letters : str
        Its VmFlags as shown; empty where they are not.
    resident : int
        Rss + Swap, KiB.
    pkey : int
        ProtectionKey, 0 without one.
    """

    letters: str
    resident: int
    pkey: int


def parse_maps(text: str, path: str = "maps", *, page_size: int = 4096) -> list[Mapping]:
    """Read the text of /proc/PID/maps.

    Parameters
    ----------
    text : str
        The whole file.
    path : str
        Its name, for errors.
    page_size : int
        Bytes; every address is a multiple of it.

    Returns
    -------
    list of Mapping
        Ascending.

    Raises
    ------
    InputError
        A line that is no mapping, or mappings out of order.
    """
    found: list[Mapping] = []
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, 1):
        mapping = _parse_line(line)
        if mapping is None:
            raise InputError(path, f"line {number}", f"{line!r} is no mapping; expected START-END PERMS OFFSET DEV INODE")
        if mapping.start >= mapping.end or (mapping.start | mapping.end) % page_size:
            what = f"{line!r} has no range of whole pages of {page_size} bytes"
            raise InputError(path, f"line {number}", f"{what}; read it on the machine that it is from")
        if found and mapping.start < found[-1].end:
            what = f"{line!r} begins before the mapping above it ends"
            raise InputError(path, f"line {number}", f"{what}; give the file as the kernel wrote it")
        found.append(mapping)
    return found


def _parse_line(line: str) -> Mapping | None:
    m = _LINE.fullmatch(line)
    if m is None:
        return None
    start, end, r, w, x, s, offset, major, minor, inode, name = m.groups()
    return Mapping(
        int(start, 16), int(end, 16), r + w + x + s, int(offset, 16),
        (int(major, 16), int(minor, 16)), int(inode), (name or "").rstrip(),
    )  # fmt: skip


def parse_smaps(text: str) -> dict[tuple[int, int], Details]:
    """Read what smaps adds to maps.

    Parameters
    ----------
    text : str
        The whole file. Lines of other kinds are passed over.

    Returns
    -------
    dict
        (start, end) to `Details`.
    """
    found: dict[tuple[int, int], Details] = {}
    where: tuple[int, int] | None = None
    letters, resident, pkey = "", 0, 0
    # some 25 lines a mapping: all but five are passed over by their first letter
    for line in text.split("\n"):
        first = line[:1]
        if first in _HEX and (range_ := _RANGE.match(line)) is not None:
            if where is not None:
                found[where] = Details(letters, resident, pkey)
            where, letters, resident, pkey = (int(range_[1], 16), int(range_[2], 16)), "", 0, 0
        elif first == "V" and line.startswith("VmFlags:"):
            letters = " ".join(line[8:].split())
        elif (first == "R" and line.startswith("Rss:")) or (first == "S" and line.startswith("Swap:")):
            resident += _number(line)
        elif first == "P" and line.startswith("ProtectionKey:"):
            pkey = _number(line)
    if where is not None:
        found[where] = Details(letters, resident, pkey)
    return found


def _number(line: str) -> int:
    found = _NUMBER.match(line.partition(":")[2])
    return int(found[1]) if found else 0


def unknown_letters(details: dict[tuple[int, int], Details]) -> list[str]:
    """Return the VmFlags that the model does not know, sorted; a mapping with one is left out."""
    shown = {letter for letters in {one.letters for one in details.values()} for letter in letters.split()}
    return sorted(shown - _VM_FLAGS.keys())


def vmas_of(maps: Sequence[Mapping], details: dict[tuple[int, int], Details], page_size: int) -> NDArray[Any]:
    """Return the mappings as `VMA_DTYPE` has them.

    Parameters
    ----------
    maps : sequence of Mapping
    details : dict
        Of `parse_smaps`; a mapping that is not in it, or has no VmFlags there, gets
        the flags that follow from its permissions.
    page_size : int
        Bytes.
    """
    files: dict[tuple[tuple[int, int], int], int] = {}
    none = Details("", 0, 0)
    rows = []
    for m in maps:
        more = details.get((m.start, m.end), none)
        flags, unknown = _flags_of(more.letters) if more.letters else (_flags_of_permissions(m.perms, m.name), False)
        file = files.setdefault((m.device, m.inode), len(files) + 1) if m.inode else 0
        pgoff = (m.offset if file else m.start) // page_size
        rows.append((m.start, m.end, flags | more.pkey << bits.VM_PKEY_SHIFT & bits.VM_PKEY_MASK, pgoff, file,
                     _skip(m, flags, unknown), _notify(m, file)))  # fmt: skip
    return np.array(rows, dtype=VMA_DTYPE)


@functools.lru_cache(maxsize=256)
def _flags_of(letters: str) -> tuple[int, bool]:
    """The flags of VmFlags, and whether there is one that the model does not know."""
    flags = 0
    known = True
    for letter in letters.split():
        known &= letter in _VM_FLAGS
        flags |= _VM_FLAGS.get(letter, 0)
    return flags, not known


def _flags_of_permissions(perms: str, name: str) -> int:
    flags = bits.VM_MAYREAD | bits.VM_MAYWRITE | bits.VM_MAYEXEC
    for letter, flag in zip(perms, (bits.VM_READ, bits.VM_WRITE, bits.VM_EXEC), strict=False):
        flags |= flag if letter != "-" else 0
    if perms[3] == "s":
        flags |= bits.VM_SHARED | bits.VM_MAYSHARE
    return flags | (bits.VM_GROWSDOWN if name == "[stack]" else 0)


def _skip(m: Mapping, flags: int, unknown: bool) -> int:
    if m.end > _USER_END or m.name == "[vsyscall]":
        return SKIP_OUTSIDE
    if flags & bits.VM_HUGETLB or m.name.startswith("/anon_hugepage"):
        return SKIP_HUGETLB
    if flags & bits.VM_SHADOW_STACK:
        return SKIP_SHADOW_STACK
    if flags & (bits.VM_PFNMAP | bits.VM_IO) or m.name.startswith("[vvar"):
        return SKIP_PFNMAP
    return SKIP_FLAGS if unknown else 0


def _notify(m: Mapping, file: int) -> int:
    """Whether the owner wants to hear of first writes (spec 6.6).

    A file system on a block device does; shared memory does not. What has a
    device of its own (major 0) can be tmpfs, btrfs, nfs, a driver or an io_uring ring.
    """
    if m.perms[3] != "s" or not file or m.name.startswith(_SHMEM):
        return NOTIFY_NO
    return NOTIFY_YES if m.device[0] else NOTIFY_UNKNOWN
