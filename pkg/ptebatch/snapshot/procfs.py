"""Reading one process from /proc: its text by `maps`, its pages by `pagemap` and `kpage`.

Kernel counterpart: fs/proc/task_mmu.c. The process runs on while it is read.
Pagemap is therefore read twice, the page flags in between: an entry that
differs is dropped and counted. A process that executes another program
meanwhile has another address space: it is read again.
"""

from __future__ import annotations

import itertools
import os
import platform
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import bits
from ..errors import InputError
from . import kpage
from .kpage import U64
from .maps import Details, parse_maps, parse_smaps, unknown_letters, vmas_of
from .pagemap import Pagemap, Stretch
from .snapshot import (
    NOTIFY_NO,
    NOTIFY_UNKNOWN,
    NOTIFY_YES,
    PM_FRAME,
    PM_PRESENT,
    PM_SWAP,
    SKIP_HUGETLB,
    UNKNOWN_VMFLAGS,
    WITHOUT_VMFLAGS,
    Snapshot,
)

__all__ = ["read_process"]

#: how often a process is read that executes other programs meanwhile
_TRIES = 3
#: of /proc/PID/stat, counted from 1: start time; code, stack, data, heap, arguments and environment of the program
_STAT = (22, 26, 28, 45, 47, 48, 50)


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
    for _ in range(_TRIES):
        before = _identity(base)
        try:
            taken: Snapshot | InputError = _read_once(pid, proc, size)
        except InputError as e:
            taken = e
        if _identity(base) == before:
            if isinstance(taken, InputError):
                raise taken
            return taken
    raise InputError(base, "", f"executed another program each of the {_TRIES} times it was read; read it when it has settled")


def _read_once(pid: int, proc: str, size: int) -> Snapshot:
    base = f"{proc}/{pid}"
    text = _read_maps(base)
    maps = parse_maps(text, f"{base}/maps", page_size=size)
    details = _read_smaps(base)
    vmas = vmas_of(maps, details, size)
    resident = [details[m.start, m.end].resident if (m.start, m.end) in details else None for m in maps]
    wanted = _stretches(vmas, resident)
    with Pagemap(f"{base}/pagemap", wanted, size) as pages:
        vpn, words, huge = pages.collect()
        if not vpn.size and any(one for stretch in wanted for _, _, one in stretch):
            raise InputError(
                pages.path, "", "shows no page of a process that has some; it has ended or executed another program, or the "
                "file is masked, as in some containers: read it from outside"
            )  # fmt: skip
        frames = kpage.read_frames(proc, words[(words & PM_PRESENT) != 0] & PM_FRAME, size)
        again, words_again, _ = pages.collect()
    lost = {"vmas": _differing(text, _read_maps(base)), "torn": frames.torn}
    kflags, mapcount, order = frames.of(words)
    keep, lost["changed"], lost["appeared"] = _stable(vpn, words, again, words_again)
    reused = keep & kpage.reused(words, kflags)
    lost["reused"] = int(np.count_nonzero(reused))
    keep &= ~reused
    at = np.maximum(np.searchsorted(vmas["start"], vpn * np.uint64(size), side="right") - 1, 0)
    # between mappings: of one that appeared, or grew, after maps was read
    between = (vpn * np.uint64(size) >= vmas["end"][at]) | (vpn * np.uint64(size) < vmas["start"][at])
    lost["appeared"] += int(np.count_nonzero(keep & between))
    keep &= ~between
    _note_pages(vmas, at[~between], words[~between], kflags[~between])
    keep &= vmas["skip"][at] == 0
    meta = _meta(pid, proc)
    if unknown := unknown_letters(details):
        meta[UNKNOWN_VMFLAGS] = " ".join(unknown)
    shown = {where for where, one in details.items() if one.letters}
    if without := sum((m.start, m.end) not in shown for m in maps):
        meta[WITHOUT_VMFLAGS] = without
    return Snapshot(
        vmas, tuple(m.name for m in maps), vpn[keep], words[keep], kflags[keep], mapcount[keep], order[keep],
        huge[keep], size, meta, lost, source=base,
    )  # fmt: skip


def _identity(base: str) -> tuple[str, ...]:
    """What tells one program of one process from the next: exec() changes it, and so does a new process of the number."""
    try:
        stat = _read_text(f"{base}/stat").rpartition(")")[2].split()
        return tuple(stat[i - 3] for i in _STAT if i - 3 < len(stat))
    except InputError:
        return ()


def _stretches(vmas: NDArray[Any], resident: list[int | None]) -> list[list[Stretch]]:
    """Return the mappings to read, those together that have none between them that is left out."""
    mappings = list(zip(vmas["start"].tolist(), vmas["end"].tolist(), resident, strict=True))
    cuts = [-1, *np.flatnonzero(vmas["skip"]).tolist(), len(mappings)]
    return [mappings[a + 1 : b] for a, b in itertools.pairwise(cuts) if a + 1 < b]


def _read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError as e:
        kpage.refuse(path, e)


def _read_maps(base: str) -> str:
    path = f"{base}/maps"
    text = _read_text(path)
    if not text:
        raise InputError(path, "", "is empty: a kernel thread, or a process that has ended; it has no user memory")
    return text


def _read_smaps(base: str) -> dict[tuple[int, int], Details]:
    """Smaps needs CONFIG_PROC_PAGE_MONITOR; without it permissions decide, which `LOST` counts."""
    try:
        return parse_smaps(_read_text(f"{base}/smaps"))
    except InputError:
        return {}


def _differing(text: str, again: str) -> int:
    """Count the mappings that are no longer what they were."""
    if text == again:
        return 0
    before, after = set(text.splitlines()), set(again.splitlines())
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
    shared = (vmas["flags"] & np.uint64(bits.VM_MAYSHARE | bits.VM_SHARED)) != 0

    def among(pages: NDArray[np.bool_]) -> NDArray[np.bool_]:
        answer: NDArray[np.bool_] = np.bincount(at[present & pages], minlength=vmas.size) > 0
        return answer

    def has(flag: np.uint64) -> NDArray[np.bool_]:
        answer: NDArray[np.bool_] = (kflags & flag) != 0
        return answer

    swapbacked = has(kpage.KPF_SWAPBACKED)
    # in the page cache of a file that is written back; ramfs keeps its own off the lists
    on_disk = ~swapbacked & has(kpage.KPF_LRU | kpage.KPF_UPTODATE) & (~has(kpage.KPF_UNEVICTABLE) | has(kpage.KPF_MLOCKED))
    known = among(np.ones(at.size, np.bool_)) & shared & (vmas["file"] != 0)
    # neither: pages of the kernel's own, such as an io_uring ring's or a driver's
    answers = [among(on_disk), ~among(~swapbacked)]
    vmas["notify"][known] = np.select(answers, [NOTIFY_YES, NOTIFY_NO], NOTIFY_UNKNOWN)[known]


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
