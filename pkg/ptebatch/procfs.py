"""Reading one process from /proc: its mappings here, its pages by `pagemap` and `kpage`.

Kernel counterpart: fs/proc/task_mmu.c. The process runs on while it is read.
Pagemap is therefore read twice, the page flags in between: an entry that
differs is dropped and counted.
"""

from __future__ import annotations

import os
import platform
import re
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import bits, kpage
from .errors import InputError
from .kpage import U64
from .pagemap import Pagemap
from .snapshot import (
    PM_FRAME,
    PM_PRESENT,
    PM_SWAP,
    SKIP_HUGETLB,
    SKIP_OUTSIDE,
    SKIP_PFNMAP,
    SKIP_SHADOW_STACK,
    VMA_DTYPE,
    Snapshot,
)

__all__ = ["Mapping", "parse_maps", "parse_smaps", "read_process"]

_LINE = re.compile(
    r"([0-9a-f]{1,16})-([0-9a-f]{1,16}) ([r-])([w-])([x-])([sp])"
    r" ([0-9a-f]{1,16}) ([0-9a-f]{1,8}):([0-9a-f]{1,8}) ([0-9]{1,20})(?: +(.*))?"
)
_KIB = re.compile(r"\s*([0-9]{1,16})(?![0-9])")

#: VmFlags of smaps (fs/proc/task_mmu.c) that the model knows
_VM_FLAGS = {
    "rd": bits.VM_READ, "wr": bits.VM_WRITE, "ex": bits.VM_EXEC, "sh": bits.VM_SHARED,
    "mr": bits.VM_MAYREAD, "mw": bits.VM_MAYWRITE, "me": bits.VM_MAYEXEC, "ms": bits.VM_MAYSHARE,
    "gd": bits.VM_GROWSDOWN, "pf": bits.VM_PFNMAP, "uw": bits.VM_UFFD_WP, "lo": bits.VM_LOCKED, "io": bits.VM_IO,
    "dc": bits.VM_DONTCOPY, "de": bits.VM_DONTEXPAND, "ac": bits.VM_ACCOUNT, "nr": bits.VM_NORESERVE,
    "ht": bits.VM_HUGETLB, "bt": bits.VM_ARM64_BTI, "mt": bits.VM_MTE, "mm": bits.VM_MIXEDMAP,
    "hg": bits.VM_HUGEPAGE, "mg": bits.VM_MERGEABLE, "sl": bits.VM_SEALED,
}  # fmt: skip

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
    for number, line in enumerate(text.split("\n"), 1):
        if not line and number > text.count("\n"):
            continue
        mapping = _parse_line(line)
        if mapping is None:
            raise InputError(path, f"line {number}", f"{line!r} is no mapping; expected START-END PERMS OFFSET DEV INODE")
        if mapping.start >= mapping.end or (mapping.start | mapping.end) % page_size:
            raise InputError(path, f"line {number}", f"{line!r} has no range of whole pages of {page_size} bytes")
        if found and mapping.start < found[-1].end:
            raise InputError(path, f"line {number}", f"{line!r} begins before the mapping above it ends")
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


def parse_smaps(text: str) -> dict[tuple[int, int], tuple[frozenset[str], int]]:
    """Read VmFlags and the resident size of each mapping from /proc/PID/smaps.

    Parameters
    ----------
    text : str
        The whole file. Lines of other kinds are passed over.

    Returns
    -------
    dict
        (start, end) to the two-letter VmFlags and Rss + Swap in KiB. Mappings
        without VmFlags are left out.
    """
    found: dict[tuple[int, int], tuple[frozenset[str], int]] = {}
    where: tuple[int, int] | None = None
    resident = 0
    for line in text.split("\n"):
        mapping = _parse_line(line)
        if mapping is not None:
            where, resident = (mapping.start, mapping.end), 0
            continue
        key, _, rest = line.partition(":")
        if key in ("Rss", "Swap"):
            size = _KIB.match(rest)
            resident += int(size[1]) if size else 0
        elif key == "VmFlags" and where is not None:
            found[where] = (frozenset(rest.split()), resident)
    return found


def read_process(pid: int, *, proc: str = "/proc", page_size: int | None = None) -> Snapshot:
    """Read what the model needs of a live process.

    Parameters
    ----------
    pid : int
        The process; it is not stopped.
    proc : str
        Root of the proc file system.
    page_size : int, optional
        Bytes; default this system's.

    Returns
    -------
    Snapshot
        Its `lost` counts what changed under the reader.

    Raises
    ------
    InputError
        No such process, no user memory, no right to read frame numbers, or a
        file that is not what it should be.
    """
    if isinstance(pid, bool) or not isinstance(pid, int) or pid < 1:
        raise InputError(str(pid), "", "is no process id; give a whole number, 1 or more")
    size = page_size or os.sysconf("SC_PAGE_SIZE")
    base = f"{proc}/{pid}"
    if not os.path.isdir(base):
        raise InputError(base, "", f"there is no process {pid}; give the id of a running one")
    maps = _read_maps(base, size)
    details = _read_smaps(base)
    vmas = _vmas(maps, details, size)
    wanted = [
        (int(v["start"]), int(v["end"]), details.get((int(v["start"]), int(v["end"])), (None, None))[1])
        for v in vmas[vmas["skip"] == 0]
    ]
    with Pagemap(f"{base}/pagemap", wanted, size) as pages:
        vpn, words, huge = pages.collect()
        frames = kpage.read_frames(proc, words[(words & PM_PRESENT) != 0] & PM_FRAME, size)
        again, words_again, _ = pages.collect()
    lost = {"vmas": _differing(maps, base, size), "torn": frames.torn}
    kflags, mapcount, order = frames.of(words)
    keep, lost["changed"], lost["appeared"] = _stable(vpn, words, again, words_again)
    reused = keep & kpage.reused(words, kflags)
    lost["reused"] = int(np.count_nonzero(reused))
    keep &= ~reused
    at = np.searchsorted(vmas["start"], vpn * np.uint64(size), side="right") - 1
    _note_pages(vmas, at, words, kflags)
    keep &= vmas["skip"][at] == 0
    return Snapshot(
        vmas, tuple(m.name for m in maps), vpn[keep], words[keep], kflags[keep], mapcount[keep], order[keep],
        huge[keep], size, _meta(pid, proc), lost, source=base,
    )  # fmt: skip


def _read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError as e:
        kpage.refuse(path, e)


def _read_maps(base: str, page_size: int) -> list[Mapping]:
    path = f"{base}/maps"
    maps = parse_maps(_read_text(path), path, page_size=page_size)
    if not maps:
        raise InputError(path, "", "is empty: a kernel thread, or a process that has ended; it has no user memory")
    return maps


def _read_smaps(base: str) -> dict[tuple[int, int], tuple[frozenset[str], int]]:
    """Smaps is a bonus (it needs CONFIG_PROC_PAGE_MONITOR): without it names decide."""
    try:
        return parse_smaps(_read_text(f"{base}/smaps"))
    except InputError:
        return {}


def _vmas(maps: list[Mapping], details: dict[tuple[int, int], tuple[frozenset[str], int]], page_size: int) -> NDArray[Any]:
    files: dict[tuple[tuple[int, int], int], int] = {}
    vmas = np.zeros(len(maps), dtype=VMA_DTYPE)
    for row, m in zip(vmas, maps, strict=True):
        letters, _ = details.get((m.start, m.end), (None, 0))
        file = files.setdefault((m.device, m.inode), len(files) + 1) if m.inode else 0
        row["start"], row["end"] = m.start, m.end
        row["flags"] = _flags(m, letters)
        row["pgoff"] = m.offset // page_size if file else m.start // page_size
        row["file"] = file
        row["skip"] = _skip(m, letters)
        # a file on a block device wants to hear of first writes; shared memory does not (spec 6.6)
        row["notify"] = m.perms[3] == "s" and file != 0 and m.device[0] != 0
    return vmas


def _flags(m: Mapping, letters: frozenset[str] | None) -> int:
    if letters is not None:
        flags = 0
        for letter in letters:
            flags |= _VM_FLAGS.get(letter, 0)
        return flags
    flags = bits.VM_MAYREAD | bits.VM_MAYWRITE | bits.VM_MAYEXEC
    for letter, flag in zip(m.perms, (bits.VM_READ, bits.VM_WRITE, bits.VM_EXEC), strict=False):
        flags |= flag if letter != "-" else 0
    if m.perms[3] == "s":
        flags |= bits.VM_SHARED | bits.VM_MAYSHARE
    return flags | (bits.VM_GROWSDOWN if m.name == "[stack]" else 0)


def _skip(m: Mapping, letters: frozenset[str] | None) -> int:
    if m.end > _USER_END or m.name == "[vsyscall]":
        return SKIP_OUTSIDE
    known = letters or frozenset()
    if "ht" in known or m.name.startswith("/anon_hugepage"):
        return SKIP_HUGETLB
    if "ss" in known:
        return SKIP_SHADOW_STACK
    if known & {"pf", "io"} or m.name.startswith("[vvar"):
        return SKIP_PFNMAP
    return 0


def _differing(maps: list[Mapping], base: str, page_size: int) -> int:
    """Count the mappings that are no longer what they were."""
    before, after = set(maps), set(_read_maps(base, page_size))
    return max(len(before - after), len(after - before))


def _stable(vpn: U64, words: U64, again: U64, words_again: U64) -> tuple[NDArray[np.bool_], int, int]:
    """Return which entries read the same twice, how many did not, how many are new."""
    at = np.minimum(np.searchsorted(again, vpn), max(again.size - 1, 0))
    if not again.size:
        return np.zeros(vpn.size, np.bool_), vpn.size, 0
    there = again[at] == vpn
    # accounting bits (soft-dirty, exclusively mapped) may change while the page stays
    same = there & (((words ^ words_again[at]) & (PM_FRAME | PM_PRESENT | PM_SWAP)) == 0)
    return same, int(np.count_nonzero(~same)), again.size - int(np.count_nonzero(there))


def _note_pages(vmas: NDArray[Any], at: NDArray[np.intp], words: U64, kflags: U64) -> None:
    """Settle from the pages what the text of maps leaves open: hugetlb, and who backs a shared file."""
    present = (words & PM_PRESENT) != 0
    hugetlb = np.unique(at[present & ((kflags & kpage.KPF_HUGE) != 0)])
    vmas["skip"][hugetlb] = SKIP_HUGETLB
    seen = np.bincount(at[present], minlength=vmas.size) > 0
    on_disk = np.bincount(at[present & ((kflags & kpage.KPF_SWAPBACKED) == 0)], minlength=vmas.size) > 0
    shared = (vmas["flags"] & np.uint64(bits.VM_MAYSHARE | bits.VM_SHARED)) != 0
    known = seen & shared & (vmas["file"] != 0)
    vmas["notify"][known] = on_disk[known]


def _meta(pid: int, proc: str) -> dict[str, str | int]:
    def line(path: str, otherwise: str) -> str:
        try:
            return _read_text(path).strip() or otherwise
        except InputError:
            return otherwise

    return {
        "pid": pid,
        "comm": line(f"{proc}/{pid}/comm", ""),
        "kernel": line(f"{proc}/sys/kernel/osrelease", platform.release()),
        "machine": platform.machine(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
