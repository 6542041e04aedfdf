"""The running kernel's side: each sequence in processes of its own, which nothing else is done in."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import marshal
import mmap
import os
import platform
import select
import signal
import struct
from collections.abc import Callable, Mapping
from typing import Any

from ..base.access import access
from ..reference.madvise import MADV_GUARD_INSTALL, MADV_HUGEPAGE
from .hostops import BASE, FILLED, MOVES, PROCESSES, Arena, Op, Outcome

__all__ = [
    "Kernel",
    "in_child",
    "kernel_release",
    "missing_calls",
    "page_size",
    "shows_maybe_guard",
    "system_call",
    "vm_flags",
    "zero_frames",
]

_PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)
_MAP_PRIVATE, _MAP_SHARED, _MAP_FIXED, _MAP_ANONYMOUS = 2, 1, 0x10, 0x20
_MREMAP_MOVE, _MREMAP_STAY = 3, 7
#: mseal(2) has the same number everywhere
_MSEAL = 462

#: bits of /proc/PID/pagemap
_PRESENT, _SWAPPED, _FILE, _GUARD = 1 << 63, 1 << 62, 1 << 61, 1 << 58
_PFN = (1 << 55) - 1


def kernel_release() -> str:
    """Release of the running kernel."""
    return platform.release()


def page_size() -> int:
    """Bytes of a page of the running kernel."""
    return _PAGE


def system_call(name: str, *args: int) -> int:
    """A function of libc: 0, or the errno below it."""
    function = getattr(_libc, name)
    function.restype = ctypes.c_long
    ctypes.set_errno(0)
    got = function(*(ctypes.c_long(arg) for arg in args))
    return -ctypes.get_errno() if got == -1 else 0


def in_child(ask: Callable[[], Any]) -> Any:
    """What `ask` returns in a child of this process, made of plain values; None: it ended without an answer."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            with os.fdopen(writing, "wb") as answer:
                answer.write(marshal.dumps(ask()))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answers:
        data = answers.read()
    os.waitpid(pid, 0)
    return marshal.loads(data) if data else None


def _map(start: int, size: int, op: Op) -> int:
    kind = (_MAP_SHARED if op.shared else _MAP_PRIVATE) | _MAP_FIXED
    if op.name == "mapfile":
        return system_call("mmap", start, size, op.arg, kind, _file, op.first * _PAGE)
    return system_call("mmap", start, size, op.arg, kind | _MAP_ANONYMOUS, -1, 0)


def _move(start: int, size: int, op: Op) -> int:
    flags = _MREMAP_STAY if op.name == "dontunmap" else _MREMAP_MOVE
    return system_call("mremap", start, size, op.new_nr * _PAGE, flags, BASE + op.arg * _PAGE)


#: descriptor of the file that sequences map; each process of a sequence has it from the first
_file = -1

_CALLS: Mapping[str, Callable[[int, int, Op], int]] = {
    **dict.fromkeys(("mmap", "mapfile"), _map),
    **dict.fromkeys(MOVES, _move),
    "munmap": lambda start, size, op: system_call("munmap", start, size),
    "mprotect": lambda start, size, op: system_call("mprotect", start, size, op.arg),
    "madvise": lambda start, size, op: system_call("madvise", start, size, op.arg),
    "resize": lambda start, size, op: system_call("mremap", start, size, op.arg * _PAGE, 0, 0),
    "mlock": lambda start, size, op: system_call("mlock", start, size),
    "munlock": lambda start, size, op: system_call("munlock", start, size),
    "mseal": lambda start, size, op: system_call("syscall", _MSEAL, start, size, 0),
}


def _make_file(pages: int) -> int:
    """A memfd, all of whose pages are written."""
    fd = os.memfd_create("ptebatch")
    for page in range(pages):
        os.pwrite(fd, bytes([FILLED]) * _PAGE, page * _PAGE)
    return fd


def missing_calls() -> list[str]:
    """Calls of `hostops.NAMES` that the running kernel has not."""
    return ["mseal"] if system_call("syscall", _MSEAL, 0, 0, 0) == -errno.ENOSYS else []


def shows_maybe_guard() -> bool:
    """Whether a VMA with a guard says so in smaps (VM_MAYBE_GUARD): 6.19 does, and later releases of earlier series."""

    def flags() -> list[str]:
        _map(BASE, _PAGE, Op("mmap", 0, 0, 1, 3))
        system_call("madvise", BASE, _PAGE, MADV_GUARD_INSTALL)
        return vm_flags(BASE)

    return "gu" in (in_child(flags) or [])


def vm_flags(start: int) -> list[str]:
    """VmFlags in smaps of the VMA of this process that begins at an address."""
    with open("/proc/self/smaps") as smaps:
        text = smaps.read()
    return text[text.index(f"{start:x}-") :].partition("VmFlags:")[2].partition("\n")[0].split()


#: mappings of the zero pages that stay, so that their frames do
_held: list[mmap.mmap] = []


def zero_frames(huge: int) -> list[range]:
    """Frames of the zero page and of the huge one; empty where frames are not shown to this user.

    Parameters
    ----------
    huge : int
        Pages of the huge one; 0: it is not used.
    """
    small = _frames_of_zeros(1)
    if not small:
        return []
    large = _frames_of_zeros(huge) if huge else range(0)
    # a huge one is one block: else the first page was read alone
    return [small, large] if len(large) == huge > 1 else [small]


def _frames_of_zeros(pages: int) -> range:
    """Frames that a read of untouched memory maps, as far as they lie side by side."""
    size = pages * _PAGE
    held = mmap.mmap(-1, 2 * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    _held.append(held)
    first = ctypes.addressof((ctypes.c_char * (2 * size)).from_buffer(held))
    at = -(-first // size) * size
    if pages > 1:
        system_call("madvise", first, 2 * size, MADV_HUGEPAGE)
    access(at)
    fd = os.open("/proc/self/pagemap", os.O_RDONLY)
    try:
        entries = os.pread(fd, 8 * pages, at // _PAGE * 8)
    finally:
        os.close(fd)
    frames = [int.from_bytes(entries[i : i + 8], "little") & _PFN for i in range(0, len(entries), 8)]
    nr = 1
    while nr < pages and frames[nr] == frames[0] + nr:
        nr += 1
    return range(frames[0], frames[0] + nr) if frames[0] else range(0)


# ---- in the process ----


class _Served:
    """What a process of a sequence does: calls as it is told, and it tells what it sees."""

    def __init__(self, pipes: list[tuple[int, int]], index: int, zeros: list[range], arena: Arena) -> None:
        self.pipes, self.zeros, self.arena = pipes, zeros, arena
        self.begin(index)

    def begin(self, index: int) -> None:
        """From here on it is this process."""
        self.read, self.write = self.pipes[index]
        self.pagemap = os.open("/proc/self/pagemap", os.O_RDONLY)

    def serve(self) -> None:
        """Until it is told to exit, or nobody is there to tell it."""
        while size := os.read(self.read, 4):
            request = marshal.loads(os.read(self.read, int.from_bytes(size, "little")))
            op = Op(*request[:6])
            if op.name == "exit":
                break
            if op.name == "fork":
                if not os.fork():
                    os.close(self.pagemap)
                    self.begin(request[6])
                # both tell that it is done
                self.answer(0, ())
                continue
            start, size_ = BASE + op.first * _PAGE, op.nr * _PAGE
            if op.name in ("read", "write"):
                number, value, faults = access(start, op.arg if op.name == "write" else -1)
                self.answer(0, (number, 0 if number else faults, -1 if number else value))
            else:
                self.answer(_CALLS[op.name](start, size_, op), ())

    def answer(self, ret: int, accessed: tuple[int, ...]) -> None:
        """Tell what a call returned and what is seen."""
        data = marshal.dumps((os.getpid(), ret, accessed, self.vmas(), self.pages()))
        os.write(self.write, len(data).to_bytes(4, "little") + data)

    def vmas(self) -> tuple[tuple[int, int, str], ...]:
        """VMAs of the arena."""
        out = []
        with open("/proc/self/maps", "rb") as maps:
            for line in maps:
                where, perms = line.split(b" ", 2)[:2]
                start, end = (int(part, 16) for part in where.split(b"-"))
                if BASE <= start < BASE + self.arena.all * _PAGE:
                    out.append(((start - BASE) // _PAGE, (end - start) // _PAGE, perms.decode()))
        return tuple(out)

    def pages(self) -> str:
        """Pages of the arena, as `Outcome` has them."""
        data = os.pread(self.pagemap, self.arena.all * 8, BASE // _PAGE * 8)
        return "".join(self._page(entry) if entry else "." for (entry,) in struct.iter_unpack("<Q", data))

    def _page(self, entry: int) -> str:
        if entry & _PRESENT:
            if any(entry & _PFN in zeros for zeros in self.zeros):
                return "0"
            return "f" if entry & _FILE else "a"
        if entry & _GUARD:
            return "g"
        return "s" if entry & _SWAPPED else "."


# ---- in the process that verifies ----


class Kernel:
    """Processes of one sequence on the running kernel."""

    def __init__(self, zeros: list[range], arena: Arena) -> None:
        self.ours: list[tuple[int, int]] = []
        theirs = []
        for _ in range(PROCESSES + 8):
            down, up = os.pipe(), os.pipe()
            theirs.append((down[0], up[1]))
            self.ours.append((up[0], down[1]))
        self.pid = os.fork()
        if not self.pid:
            # nothing of the verifier is to run here but this
            code = 1
            try:
                for read, write in self.ours:
                    os.close(read)
                    os.close(write)
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                signal.signal(signal.SIGCHLD, signal.SIG_IGN)
                global _file
                _file = _make_file(arena.pages)
                _Served(theirs, 0, zeros, arena).serve()
                code = 0
            finally:
                os._exit(code)
        for read, write in theirs:
            os.close(read)
            os.close(write)
        self.alive = [0]
        self.pids = {0: self.pid}

    def step(self, op: Op) -> Outcome:
        """Let a process make a call."""
        index = self.alive[op.who]
        if op.name == "fork":
            child = len(self.pids)
            self._tell(index, op, child)
            # both tell that it is done
            out = self._hear(index)
            self._hear(child)
            self.alive.append(child)
            return out
        if op.name == "exit":
            # what it maps is given back before its end is seen
            ended = os.pidfd_open(self.pids[index])
            self._tell(index, op, 0)
            select.select([ended], [], [])
            os.close(ended)
            self.alive.pop(op.who)
            return Outcome(0, (), (), "")
        self._tell(index, op, 0)
        return self._hear(index)

    def _tell(self, index: int, op: Op, child: int) -> None:
        data = marshal.dumps((op.name, op.who, op.first, op.nr, op.arg, op.shared, child))
        os.write(self.ours[index][1], len(data).to_bytes(4, "little") + data)

    def _hear(self, index: int) -> Outcome:
        size = os.read(self.ours[index][0], 4)
        if not size:
            raise OSError(errno.EPIPE, "a process of the sequence ended by itself")
        left, data = int.from_bytes(size, "little"), b""
        while len(data) < left:
            data += os.read(self.ours[index][0], left - len(data))
        pid, *seen = marshal.loads(data)
        self.pids[index] = pid
        return Outcome(*seen)

    def close(self) -> None:
        """End the processes that are left."""
        for read, write in self.ours:
            os.close(write)
            os.close(read)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
