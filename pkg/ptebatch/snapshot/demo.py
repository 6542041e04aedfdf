"""A process to look at: one region of each kind that mprotect() meets.

Run as ``python -m ptebatch.snapshot.demo``; it maps and touches its regions, forks a
second process that keeps sharing one of them, prints where they are and
``ready PID``, and sleeps until its standard input closes. `running` does that
for a ``with`` block, `snapshot` reads it and names the regions.

``thp``: huge pages as they are faulted in. ``pte-mapped``: huge pages with
tables, made by protecting one page. ``forked``: the same, and a fork shared every
page with a process that has ended, so that none is exclusive but every fifth, which has
been written since; /proc shows that of each folio's first page only. ``mthp``: no whole table
fits in, so only multi-size THP can serve it where enabled. ``small``: single
pages. ``shared by fork``: shared with a living process, every other page
written since. ``shmem``: shared anonymous memory. ``zero``: pages read, never
written. ``holes``: every third page.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

from ..errors import InputError
from .procfs import read_process
from .snapshot import Snapshot

__all__ = ["Demo", "running", "snapshot"]

_MADV_DONTFORK = 10
_MADV_DOFORK = 11
_MADV_HUGEPAGE = 14
_MADV_NOHUGEPAGE = 15

_PAGE = mmap.PAGESIZE
_TABLE = min(_PAGE * (_PAGE // 8), 32 << 20)  # what one table of PTEs maps, where that is not too much to fill
_SECONDS = 60
_WHY = "run python -m ptebatch.snapshot.demo to see why"


class Demo(NamedTuple):
    """A demo process that is ready.

    Attributes
    ----------
    pid : int
        Its process id.
    regions : dict of int to str
        Start address of each region and its name.
    """

    pid: int
    regions: dict[int, str]


@contextmanager
def running(*, seconds: float = _SECONDS) -> Iterator[Demo]:
    """Run the demo process for a ``with`` block.

    Parameters
    ----------
    seconds : float
        How long it may take to set itself up.

    Yields
    ------
    Demo

    Raises
    ------
    InputError
        It ended or was not ready in time.
    """
    child = subprocess.Popen(
        [sys.executable, "-m", "ptebatch.snapshot.demo"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment()
    )
    assert child.stdin is not None and child.stdout is not None
    try:
        yield Demo(child.pid, _wait_until_ready(child.stdout.fileno(), child.pid, time.monotonic() + seconds))
    finally:
        child.stdin.close()
        child.stdout.close()
        try:
            child.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def snapshot(*, proc: str = "/proc") -> Snapshot:
    """Run a demo process, read it, and end it.

    Parameters
    ----------
    proc : str
        Root of the proc file system.

    Returns
    -------
    Snapshot
        The regions carry their names in brackets: ``[demo: thp]``.

    Raises
    ------
    InputError
        The process could not be run or read.
    """
    with running() as demo:
        taken = read_process(demo.pid, proc=proc)
    starts = taken.vmas["start"].tolist()
    names = [
        f"[demo: {demo.regions[start]}]" if start in demo.regions else name
        for start, name in zip(starts, taken.names, strict=True)
    ]
    return replace(taken, names=tuple(names), source="self-demo")


def _wait_until_ready(fd: int, pid: int, until: float) -> dict[int, str]:
    """Read ``START NAME`` lines up to ``ready PID``."""
    text = b""
    end = f"ready {pid}\n".encode()
    while not text.endswith(end):
        left = until - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            raise InputError("self-demo", "", f"the demo process was not ready in time; {_WHY}")
        piece = os.read(fd, 4096)
        if not piece:
            raise InputError("self-demo", "", f"the demo process has ended; {_WHY}")
        text += piece
    lines = [line.partition(" ") for line in text[: -len(end)].decode().splitlines()]
    return {int(start, 16): name for start, _, name in lines}


def _environment() -> dict[str, str]:
    """Let the child import the same package, installed or not."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


class _Memory:
    """System calls on ranges of this process."""

    def __init__(self) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.kept: list[mmap.mmap] = []
        self.regions: dict[int, str] = {}

    def map(self, name: str, length: int, *, flags: int = mmap.MAP_PRIVATE, shift: int = 0, advice: int = 0) -> int:
        """Map `length` bytes that begin `shift` above a table's first address, with no access on either side."""
        area = mmap.mmap(-1, length + shift + 2 * _TABLE, flags=flags | mmap.MAP_ANONYMOUS)
        self.kept.append(area)
        base = ctypes.addressof(ctypes.c_char.from_buffer(area))
        start = -(-(base + _PAGE) // _TABLE) * _TABLE + shift
        self.protect(base, start - base, 0)
        self.protect(start + length, base + len(area) - start - length, 0)
        self.regions[start] = name
        if advice:
            self.advise(start, length, advice)
        return start

    def advise(self, start: int, length: int, advice: int) -> None:
        """madvise(); kernels without THP refuse some advice, which changes nothing here."""
        self.libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), advice)

    def protect(self, start: int, length: int, prot: int) -> None:
        """mprotect(); OSError on failure."""
        if self.libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(length), prot):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def write(self, start: int, length: int, step: int = _PAGE) -> None:
        """Write to one byte of every `step`."""
        for at in range(start, start + length, step):
            ctypes.c_char.from_address(at).value = b"x"

    def read(self, start: int, length: int) -> None:
        """Read one byte of every page."""
        for at in range(start, start + length, _PAGE):
            ctypes.string_at(at, 1)

    def split_huge(self, start: int, length: int) -> None:
        """Give the host tables of PTEs where it has huge entries: protect one page of each, and back."""
        for table in range(start, start + length, _TABLE):
            self.protect(table + _PAGE, _PAGE, mmap.PROT_READ)
            self.protect(table + _PAGE, _PAGE, mmap.PROT_READ | mmap.PROT_WRITE)


def _fork_and_wait() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _keep_sharing() -> int:
    """Fork a process that lives as long as this one; return this one's end of the pipe."""
    theirs, ours = os.pipe()
    if os.fork() == 0:
        for fd in (0, 1, ours):
            os.close(fd)
        os.read(theirs, 1)  # returns when the last writer is gone
        os._exit(0)
    os.close(theirs)
    return ours


def _set_up(memory: _Memory, size: int) -> int:
    """Map and touch every region; return the pipe that keeps the second process."""
    forked = memory.map("forked", size, advice=_MADV_HUGEPAGE)
    memory.write(forked, size)
    memory.split_huge(forked, size)
    _fork_and_wait()
    memory.advise(forked, size, _MADV_DONTFORK)
    memory.write(forked, size, 5 * _PAGE)
    both = memory.map("shared by fork", _TABLE, advice=_MADV_NOHUGEPAGE)
    memory.write(both, _TABLE)
    pipe = _keep_sharing()
    memory.write(both, _TABLE, 2 * _PAGE)
    memory.advise(forked, size, _MADV_DOFORK)
    memory.write(memory.map("thp", size, advice=_MADV_HUGEPAGE), size)
    tables = memory.map("pte-mapped", size, advice=_MADV_HUGEPAGE)
    memory.write(tables, size)
    memory.split_huge(tables, size)
    edge = _TABLE // 32
    memory.write(memory.map("mthp", _TABLE - 2 * edge, shift=edge, advice=_MADV_HUGEPAGE), _TABLE - 2 * edge)
    memory.write(memory.map("small", size, advice=_MADV_NOHUGEPAGE), size)
    memory.write(memory.map("shmem", _TABLE, flags=mmap.MAP_SHARED), _TABLE)
    memory.read(memory.map("zero", _TABLE // 8), _TABLE // 8)
    memory.write(memory.map("holes", _TABLE, advice=_MADV_NOHUGEPAGE), _TABLE, 3 * _PAGE)
    return pipe


def main() -> None:
    """Set up, say where the regions are, and sleep until standard input closes."""
    memory = _Memory()
    pipe = _set_up(memory, max(4 << 20, _TABLE))
    for start, name in memory.regions.items():
        sys.stdout.write(f"{start:#x} {name}\n")
    sys.stdout.write(f"ready {os.getpid()}\n")
    sys.stdout.flush()
    sys.stdin.buffer.read()
    os.close(pipe)


if __name__ == "__main__":
    main()
