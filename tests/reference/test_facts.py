"""What the manual, the test suites of others and the kernel's own selftests say of calls, case by case.

Each row is a case: what is done first, the call, what it returns, and what is mapped then. It is
run on the model, and on the running kernel where that does no harm. Left out are cases that need
a file opened read-only (LTP mprotect01 c), code that is executed (mprotect04 b), MDWE and keys
(process-wide; tests/mm has them), tags, hugetlb, and a userfaultfd that is read.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from ptebatch import bits as b
from ptebatch.base.access import access
from ptebatch.errors import LayoutError, MachineError, SyscallError
from ptebatch.machine import Machine
from ptebatch.reference import madvise as m
from ptebatch.reference.fault import Signal
from ptebatch.reference.live import LiveMM
from ptebatch.reference.mmap import VM_OF_MAP_STACK
from ptebatch.verify.host import host_machine

BASE = 1 << 40
PAGE = 4096
R, RW, NONE = 1, 3, 0
GROWSDOWN, GROWSUP = 0x0100_0000, 0x0200_0000
OK = 0
EINVAL, ENOMEM, EPERM, EFAULT, EEXIST = (-getattr(errno, name) for name in ("EINVAL", "ENOMEM", "EPERM", "EFAULT", "EEXIST"))

#: name, first byte, bytes, and what else the call gets
Call = tuple[str, int, int, int]


def p(pages: float) -> int:
    return int(pages * PAGE)


@dataclass(frozen=True)
class Fact:
    """One case."""

    case: str
    before: tuple[Call, ...]
    call: Call
    expected: int
    source: str
    vmas: tuple[tuple[int, int, str], ...] | None = None
    since: str = field(default="6.12")


def c(name: str, first: float, pages: float, arg: int = 0) -> Call:
    return name, p(first), p(pages), arg


MAP4 = (c("mmap", 0, 4, RW),)
STACK = (c("stack", 1000, 4, RW),)
SEALED = (*MAP4, c("mseal", 1, 2))
GAP = (c("mmap", 0, 1, RW), c("mmap", 3, 1, RW))
GUARDS = (*MAP4, c("write", 1, 1, 7), c("madvise", 1, 2, m.MADV_GUARD_INSTALL))
MAN = "man 2 "
ROWS = "spec 6.1, row "
SELF = "selftests/mm "

FACTS = (
    # mprotect: the order of its checks
    Fact("grows both ways", MAP4, c("mprotect", 0, 1, R | GROWSDOWN | GROWSUP), EINVAL, ROWS + "E1"),
    Fact("not aligned", MAP4, ("mprotect", 100, PAGE, R), EINVAL, ROWS + "E2"),
    Fact("not aligned, nothing", MAP4, ("mprotect", 100, 0, R), EINVAL, ROWS + "E2"),
    Fact("nothing", MAP4, c("mprotect", 0, 0, R), OK, ROWS + "E3"),
    Fact("nothing, and bits that nobody knows", MAP4, c("mprotect", 0, 0, 0x8000), OK, ROWS + "E3"),
    Fact("nothing, of what is not mapped", (), c("mprotect", 0, 0, R), OK, ROWS + "E3"),
    Fact("around the end of the address space", MAP4, ("mprotect", 0, -PAGE, R), ENOMEM, ROWS + "E4"),
    Fact("bits that nobody knows", MAP4, c("mprotect", 0, 1, 0x8000), EINVAL, ROWS + "E5"),
    Fact("not mapped", (), c("mprotect", 0, 1, R), ENOMEM, ROWS + "E8, LTP mprotect01 a"),
    Fact("grows down where nothing does", MAP4, c("mprotect", 0, 1, R | GROWSDOWN), EINVAL, ROWS + "E10"),
    Fact("begins below", (c("mmap", 1, 2, RW),), c("mprotect", 0, 2, R), ENOMEM, ROWS + "E11", ((1, 2, "rw"),)),
    Fact("a hole", GAP, c("mprotect", 0, 4, R), ENOMEM, ROWS + "E12", ((0, 1, "r-"), (3, 1, "rw"))),
    Fact("ends in a hole", MAP4, c("mprotect", 2, 4, R), ENOMEM, ROWS + "E22", ((0, 2, "rw"), (2, 2, "r-"))),
    Fact("sealed behind", SEALED, c("mprotect", 0, 4, R), EPERM, ROWS + "E18", ((0, 1, "r-"), (1, 2, "rw"), (3, 1, "rw"))),
    Fact("sealed, the same access", SEALED, c("mprotect", 1, 1, RW), EPERM, ROWS + "E18"),
    Fact("sealed, nothing", SEALED, c("mprotect", 1, 0, R), OK, SELF + "mseal_test"),
    Fact("the same access", MAP4, c("mprotect", 0, 4, RW), OK, ROWS + "E19", ((0, 4, "rw"),)),
    Fact("a byte is a page", MAP4, ("mprotect", p(1), 1, R), OK, MAN + "mprotect", ((0, 1, "rw"), (1, 1, "r-"), (2, 2, "rw"))),
    # mseal
    Fact("seal a hole", GAP, c("mseal", 0, 4), ENOMEM, SELF + "mseal_test", ((0, 1, "rw"), (3, 1, "rw"))),
    Fact("seal nothing", MAP4, c("mseal", 0, 0), OK, SELF + "mseal_test"),
    Fact("seal, not aligned", MAP4, ("mseal", 1, PAGE, 0), EINVAL, SELF + "mseal_test"),
    Fact("seal twice", SEALED, c("mseal", 1, 2), OK, SELF + "mseal_test"),
    Fact("unmap what is sealed", SEALED, c("munmap", 1, 1), EPERM, "LTP mseal01", ((0, 1, "rw"), (1, 2, "rw"), (3, 1, "rw"))),
    Fact("unmap around it", SEALED, c("munmap", 0, 4), EPERM, SELF + "mseal_test", ((0, 1, "rw"), (1, 2, "rw"), (3, 1, "rw"))),
    Fact("map over it", SEALED, c("mmap", 1, 1, RW), EPERM, "LTP mseal01"),
    Fact("move it", SEALED, c("mremap", 1, 1, 8), EPERM, "LTP mseal01"),
    Fact("shrink it", SEALED, c("resize", 1, 2, 1), EPERM, SELF + "mseal_test"),
    Fact("discard it where it may be written", SEALED, c("madvise", 1, 1, m.MADV_DONTNEED), OK, SELF + "mseal_test"),
    Fact(
        "discard it where it may not",
        (c("mmap", 0, 4, R), c("mseal", 0, 4)),
        c("madvise", 1, 1, m.MADV_DONTNEED),
        EPERM,
        SELF + "mseal_test",
    ),
    # munmap
    Fact("unmap nothing", MAP4, c("munmap", 0, 0), EINVAL, MAN + "munmap"),
    Fact("unmap, not aligned", MAP4, ("munmap", 8, PAGE, 0), EINVAL, MAN + "munmap"),
    Fact("unmap what is not mapped", (), c("munmap", 0, 4), OK, MAN + "munmap", ()),
    Fact("unmap the middle", MAP4, c("munmap", 1, 2), OK, MAN + "munmap", ((0, 1, "rw"), (3, 1, "rw"))),
    # mremap
    Fact("move from a hole", (), c("mremap", 0, 1, 8), EFAULT, MAN + "mremap"),
    Fact("move onto itself", MAP4, c("mremap", 0, 4, 2), EINVAL, MAN + "mremap"),
    Fact("move, not aligned", MAP4, ("mremap", 1, PAGE, 8), EINVAL, MAN + "mremap"),
    Fact("grow where something is", (*MAP4, c("mmap", 4, 1, R)), c("resize", 0, 4, 5), ENOMEM, MAN + "mremap"),
    Fact("grow", MAP4, c("resize", 0, 4, 6), OK, MAN + "mremap", ((0, 6, "rw"),)),
    Fact("grow from the middle", MAP4, c("resize", 1, 2, 3), ENOMEM, MAN + "mremap"),
    Fact("shrink", MAP4, c("resize", 0, 4, 2), OK, MAN + "mremap", ((0, 2, "rw"),)),
    Fact("shrink over two", (*MAP4, c("mprotect", 2, 2, R)), c("resize", 0, 4, 1), OK, "mm/mremap.c", ((0, 1, "rw"),)),
    Fact("to nothing", MAP4, c("resize", 0, 4, 0), EINVAL, MAN + "mremap"),
    Fact(
        "move several",
        (*MAP4, c("mprotect", 2, 2, R)),
        c("mremap", 0, 4, 8),
        OK,
        SELF + "mremap_test (since 6.17)",
        ((8, 2, "rw"), (10, 2, "r-")),
        since="6.17",
    ),
    # madvise
    Fact("advise a hole", GAP, c("madvise", 0, 4, m.MADV_DONTNEED), ENOMEM, MAN + "madvise"),
    Fact("advise nothing that is known", MAP4, c("madvise", 0, 4, 4711), EINVAL, MAN + "madvise"),
    Fact("advise, not aligned", MAP4, ("madvise", 1, PAGE, 4), EINVAL, MAN + "madvise"),
    Fact("discard what is locked", (*MAP4, c("mlock", 0, 4)), c("madvise", 0, 4, m.MADV_DONTNEED), EINVAL, MAN + "madvise"),
    Fact("discard what is locked, and mean it", (*MAP4, c("mlock", 0, 4)), c("madvise", 0, 4, 24), OK, MAN + "madvise"),
    Fact(
        "say how it is read",
        MAP4,
        c("madvise", 1, 1, m.MADV_RANDOM),
        OK,
        MAN + "madvise",
        ((0, 1, "rw"), (1, 1, "rw"), (2, 2, "rw")),
    ),
    Fact(
        "take it back",
        (*MAP4, c("madvise", 1, 1, m.MADV_SEQUENTIAL)),
        c("madvise", 0, 4, m.MADV_NORMAL),
        OK,
        MAN + "madvise",
        ((0, 4, "rw"),),
    ),
    Fact(
        "leave it out of dumps",
        MAP4,
        c("madvise", 2, 2, m.MADV_DONTDUMP),
        OK,
        MAN + "madvise",
        ((0, 2, "rw"), (2, 2, "rw")),
    ),
    Fact("free what is shared", (c("shared", 0, 4, RW),), c("madvise", 0, 4, m.MADV_FREE), EINVAL, MAN + "madvise"),
    Fact("wipe what is shared", (c("shared", 0, 4, RW),), c("madvise", 0, 4, m.MADV_WIPEONFORK), EINVAL, MAN + "madvise"),
    Fact("populate a hole", GAP, c("madvise", 0, 4, m.MADV_POPULATE_READ), ENOMEM, SELF + "madv_populate"),
    Fact("populate for reading", (c("mmap", 0, 4, R),), c("madvise", 0, 4, m.MADV_POPULATE_READ), OK, SELF + "madv_populate"),
    Fact("populate to write", (c("mmap", 0, 4, R),), c("madvise", 0, 4, 23), EINVAL, SELF + "madv_populate"),
    Fact(
        "populate what has no access",
        (c("mmap", 0, 4),),
        c("madvise", 0, 4, m.MADV_POPULATE_READ),
        EINVAL,
        SELF + "madv_populate",
    ),
    # guards
    Fact("touch a guard", GUARDS, c("read", 1, 1), -11, SELF + "guard-regions", since="6.16"),
    Fact("touch beside it", GUARDS, c("write", 0, 1, 3), OK, SELF + "guard-regions", since="6.16"),
    Fact(
        "guard what is locked", (*MAP4, c("mlock", 0, 4)), c("madvise", 0, 1, 102), EINVAL, SELF + "guard-regions", since="6.16"
    ),
    Fact("populate over a guard", GUARDS, c("madvise", 0, 4, m.MADV_POPULATE_READ), EFAULT, SELF + "guard-regions", since="6.16"),
    Fact("lock over a guard", GUARDS, c("mlock", 0, 4), ENOMEM, SELF + "guard-regions", since="6.16"),
    Fact(
        "a guard outlives mprotect",
        (*GUARDS, c("mprotect", 0, 4, R), c("mprotect", 0, 4, RW)),
        c("write", 2, 1, 1),
        -11,
        SELF + "guard-regions",
        since="6.16",
    ),
    Fact(
        "a guard outlives a discard",
        (*GUARDS, c("madvise", 0, 4, m.MADV_DONTNEED)),
        c("read", 2, 1),
        -11,
        SELF + "guard-regions",
        since="6.16",
    ),
    Fact(
        "a guard goes with its mapping",
        (*GUARDS, c("munmap", 0, 4), *MAP4),
        c("read", 1, 1),
        OK,
        SELF + "guard-regions",
        since="6.16",
    ),
    Fact("a guard moves", (*GUARDS, c("mremap", 0, 4, 8)), c("read", 9, 1), -11, SELF + "guard-regions", since="6.16"),
    # locks
    Fact("lock a hole", GAP, c("mlock", 0, 4), ENOMEM, MAN + "mlock"),
    Fact("lock what has no access", (c("mmap", 0, 4),), c("mlock", 0, 4), ENOMEM, MAN + "mlock"),
    # merges
    Fact("unfaulted parts", (*MAP4, c("mprotect", 1, 2, R)), c("mprotect", 1, 2, RW), OK, SELF + "merge", ((0, 4, "rw"),)),
    Fact(
        "left faulted",
        (*MAP4, c("write", 0, 1, 1), c("mprotect", 1, 3, R)),
        c("mprotect", 0, 1, R),
        OK,
        SELF + "merge",
        ((0, 4, "r-"),),
    ),
    Fact(
        "both faulted apart",
        (c("mmap", 0, 1, RW), c("mmap", 2, 2, RW), c("write", 0, 1, 1), c("write", 2, 1, 1)),
        c("mmap", 1, 1, RW),
        OK,
        SELF + "merge",
        ((0, 2, "rw"), (2, 2, "rw")),
    ),
    # what grows down
    Fact("grow a stack", STACK, c("write", 900, 1, 1), OK, MAN + "mmap MAP_GROWSDOWN", ((900, 104, "rw"),)),
    Fact("by a read", STACK, c("read", 999, 1), OK, MAN + "mmap MAP_GROWSDOWN", ((999, 5, "rw"),)),
    Fact(
        "as far as the gap",
        (c("mmap", 0, 1, R), *STACK),
        c("write", 257, 1, 1),
        OK,
        MAN + "mmap MAP_GROWSDOWN",
        ((0, 1, "r-"), (257, 747, "rw")),
    ),
    Fact(
        "into the gap",
        (c("mmap", 0, 1, R), *STACK),
        c("write", 256, 1, 1),
        -11,
        MAN + "mmap MAP_GROWSDOWN",
        ((0, 1, "r-"), (1000, 4, "rw")),
    ),
    Fact("over a guard", (c("mmap", 0, 1), *STACK), c("write", 1, 1, 1), OK, "mm/vma.c", ((0, 1, "--"), (1, 1003, "rw"))),
    Fact(
        "it grows, and may not be written",
        (*STACK, c("mprotect", 1000, 4, R)),
        c("write", 990, 1, 1),
        -11,
        "mm/vma.c",
        ((990, 14, "r-"),),
    ),
    Fact("what does not grow", (c("mmap", 1000, 4, RW),), c("write", 999, 1, 1), -11, MAN + "mmap", ((1000, 4, "rw"),)),
    Fact("populate does not grow it", STACK, c("madvise", 999, 1, m.MADV_POPULATE_WRITE), ENOMEM, "mm/gup.c", ((1000, 4, "rw"),)),
    Fact("write where none may", (c("mmap", 0, 4, R),), c("write", 0, 1, 1), -11, "LTP mprotect03"),
    Fact("read where none may", (c("mmap", 0, 4),), c("read", 0, 1), -11, "LTP mprotect04 a"),
)


# ---- the model ----


class OnModel:
    """Calls made on an address space of the model."""

    def __init__(self, machine: Machine) -> None:
        self.mm = LiveMM.make(machine)

    def __call__(self, call: Call) -> int:
        name, first, size, arg = call
        mm, at, to = self.mm, BASE + first, BASE + arg * PAGE
        size &= (1 << 64) - 1
        try:
            if name in ("mmap", "shared", "stack"):
                grows = b.VM_GROWSDOWN if name == "stack" else 0
                mm.mmap_fixed(at, size, arg, shared=name == "shared", vm_flags=grows)
            elif name in ("mprotect", "madvise"):
                getattr(mm, name)(at, size, arg)
            elif name in ("munmap", "mlock", "mseal"):
                getattr(mm, name)(at, size)
            elif name == "mremap":
                mm.mremap(at, size, size, 3, to)
            elif name == "resize":
                mm.mremap(at, size, arg * PAGE)
            else:
                mm.touch(at, write=name == "write")
        except SyscallError as e:
            return -e.errno
        except Signal as e:
            return -int(e.number)
        return 0

    def vmas(self) -> tuple[tuple[int, int, str], ...]:
        return tuple(
            ((v.start - BASE) // PAGE, (v.end - v.start) // PAGE, ("r" if v.flags & 1 else "-") + ("w" if v.flags & 2 else "-"))
            for v in self.mm.vmas()
        )


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.case)
@pytest.mark.parametrize("kernel", ["6.12", "6.16", "6.18", "7.0", "7.3"])
def test_the_model_does_what_is_said(kernel, fact):
    if [*map(int, kernel.split("."))] < [*map(int, fact.since.split("."))]:
        pytest.skip(f"since {fact.since}")
    do = OnModel(Machine(kernel))
    assert [do(call) for call in fact.before] == [0] * len(fact.before)
    assert do(fact.call) == fact.expected
    if fact.vmas is not None:
        assert do.vmas() == fact.vmas


# ---- the running kernel ----

_libc = ctypes.CDLL(None, use_errno=True)


def _system(name: str, *args: int) -> int:
    function = getattr(_libc, name)
    function.restype = ctypes.c_long
    ctypes.set_errno(0)
    return -ctypes.get_errno() if function(*(ctypes.c_long(arg) for arg in args)) == -1 else 0


def on_kernel(call: Call) -> int:
    name, first, size, arg = call
    at = BASE + first
    if name in ("mmap", "shared", "stack"):
        return _system("mmap", at, size, arg, (1 if name == "shared" else 2) | 0x30 | (0x100 if name == "stack" else 0), -1, 0)
    if name == "mremap":
        return _system("mremap", at, size, size, 3, BASE + arg * PAGE)
    if name == "resize":
        return _system("mremap", at, size, arg * PAGE, 0, 0)
    if name == "mseal":
        return _system("syscall", 462, at, size, 0)
    if name in ("munmap", "mlock"):
        return _system(name, at, size)
    if name in ("read", "write"):
        return -access(at, arg if name == "write" else -1)[0]
    return _system(name, at, size, arg)


@pytest.fixture(scope="module")
def host() -> Machine:
    """The machine of this host, if its kernel is one that is modelled."""
    if not sys.platform.startswith("linux"):
        pytest.skip("not Linux")
    machine, notes = host_machine()
    if any("is not modelled" in note for note in notes) or machine.page_size != PAGE:
        pytest.skip(f"the running kernel is not modelled: {notes}")
    return machine


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.case)
def test_the_running_kernel_does_what_is_said(host, fact):
    if [*map(int, host.kernel.split("."))] < [*map(int, fact.since.split("."))]:
        pytest.skip(f"since {fact.since}")
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            got = [on_kernel(call) for call in (*fact.before, fact.call)]
            vmas = []
            with open("/proc/self/maps") as maps:
                for line in maps:
                    where, perms = line.split()[:2]
                    start, end = (int(part, 16) for part in where.split("-"))
                    if BASE <= start < BASE + 1024 * PAGE:
                        vmas.append(((start - BASE) // PAGE, (end - start) // PAGE, perms[:2]))
            os.write(writing, repr((got, tuple(vmas))).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answers:
        got, vmas = eval(answers.read())
    os.waitpid(pid, 0)
    assert got[-1] == fact.expected
    assert fact.vmas is None or vmas == fact.vmas


def test_a_kernel_that_nobody_knows_is_not_asked(monkeypatch):
    monkeypatch.setattr("ptebatch.verify.host.kernel_release", lambda: "5.4.0")
    machine, notes = host_machine()
    assert machine.kernel == "7.3" and "is not modelled" in notes[0]
    with pytest.raises(MachineError):
        Machine("5.4")


@pytest.mark.parametrize("advice", [3, 9, 12, 13, 21, 100, 101])
def test_what_only_the_kernel_knows_is_refused_by_name_not_with_an_errno(advice):
    mm = LiveMM.make(Machine())
    mm.mmap(BASE, PAGE, RW)
    with pytest.raises(LayoutError, match=r"MADV_[A-Z_]+ is not modelled"):
        mm.madvise(BASE, PAGE, advice)
    mm.mmap(BASE + 4 * PAGE, PAGE, RW, shared=True)
    with pytest.raises(LayoutError, match="old length of 0"):
        mm.mremap(BASE + 4 * PAGE, 0, PAGE, 1)
    with pytest.raises(SyscallError, match="private"):
        mm.mremap(BASE, 0, PAGE, 1)


def test_a_stack_grows_to_its_limit():
    mm = LiveMM(Machine(), stack_limit=8 * PAGE)
    mm.mmap(BASE, 4 * PAGE, RW, vm_flags=b.VM_GROWSDOWN)
    mm.touch(BASE - 4 * PAGE, write=True)
    with pytest.raises(Signal, match="SIGSEGV"):
        mm.touch(BASE - 5 * PAGE, write=True)
    assert [(vma.start - BASE) // PAGE for vma in mm.vmas()] == [-4]
    child = mm.fork()
    with pytest.raises(Signal, match="SIGSEGV"):
        child.touch(BASE - 5 * PAGE, write=True)


def _resident_when_moved() -> list[int]:
    assert not _system("mmap", BASE, 4 * PAGE, RW, 0x32, -1, 0) and not _system("mlock", BASE, 4 * PAGE)
    to = BASE + 64 * PAGE
    assert not _system("mremap", BASE, 4 * PAGE, 8 * PAGE, 3, to)
    there = (ctypes.c_ubyte * 8)()
    assert not _libc.mincore(ctypes.c_long(to), ctypes.c_long(8 * PAGE), there)
    return [each & 1 for each in there]


def test_what_is_locked_is_there_when_it_has_moved_and_grown(host):
    mm = LiveMM(host)
    mm.mmap(BASE, 4 * PAGE, RW)
    mm.mlock(BASE, 4 * PAGE)
    to = BASE + 64 * PAGE
    mm.mremap(BASE, 4 * PAGE, 8 * PAGE, 3, to)
    ours = [int(mm.is_there(to + i * PAGE, write=False)) for i in range(8)]
    assert ours == _of_a_child(_resident_when_moved) == [1] * 8


def _flags_of_a_stack() -> list[str]:
    function = _libc.mmap
    function.restype = ctypes.c_long
    at = function(*(ctypes.c_long(arg) for arg in (BASE, PAGE, RW, 0x20032, -1, 0)))
    with open("/proc/self/smaps") as smaps:
        text = smaps.read().split(f"{at:x}-", 1)[1]
    return text.split("VmFlags:", 1)[1].split("\n", 1)[0].split()


def test_what_is_mapped_as_a_stack_takes_no_huge_pages_on_the_running_kernel(host):
    assert ("nh" in _of_a_child(_flags_of_a_stack)) == bool(VM_OF_MAP_STACK & b.VM_NOHUGEPAGE)


def _brk_of_kernel() -> list[int]:
    """How far brk() goes with a mapping three pages behind the end of the heap, in pages; in a child."""
    _libc.syscall.restype = ctypes.c_long
    number = {"x86_64": 12, "aarch64": 214}[os.uname().machine]

    def brk(at: int) -> int:
        return int(_libc.syscall(ctypes.c_long(number), ctypes.c_long(at)))

    begin = -(-brk(0) // PAGE) * PAGE
    assert brk(begin) == begin
    assert _system("mmap", begin + 3 * PAGE, PAGE, R, 0x100022, -1, 0) == 0
    return [(brk(begin + nr * PAGE) - begin) // PAGE for nr in (1, 3, 2, 0, 4)]


def _of_a_child(ask: Callable[[], Any]) -> Any:
    """What `ask` returns in a child of this process."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(writing, repr(ask()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answers:
        theirs = answers.read()
    os.waitpid(pid, 0)
    return eval(theirs)


def test_a_heap_stops_where_the_running_kernels_does(host):
    if os.uname().machine not in ("x86_64", "aarch64"):
        pytest.skip("the number of brk() is not known here")
    theirs = _of_a_child(_brk_of_kernel)
    mm = LiveMM.make(host)
    mm.start_brk = mm.brk_end = BASE
    mm.mmap(BASE + 3 * PAGE, PAGE, R)
    assert [(mm.brk(BASE + nr * PAGE).pages - BASE) // PAGE for nr in (1, 3, 2, 0, 4)] == theirs == [1, 1, 2, 0, 0]


#: calls that say no place, in pages: (name, which earlier result, first page of it, length, new length or hint)
PLACES = (
    ("mmap", 0, 0, 1, 0),
    ("mmap", 0, 0, 512, 0),
    ("mmap", 0, 0, 600, 0),
    ("mmap", 0, 0, 40, 0),
    ("munmap", 3, 10, 4, 0),
    ("mmap", 0, 0, 4, 0),
    ("munmap", 2, 100, 30, 0),
    ("mmap", 0, 0, 30, 0),
    ("hint", 1, 512, 3, 0),
    ("hint", 1, 5, 3, 0),
    ("mmap", 0, 0, 1024, 0),
    ("grow", 3, 0, 4, 70),
    ("grow", 1, 0, 512, 1024),
    ("dontunmap", 2, 0, 8, 0),
    ("mmap", 0, 0, 4, 0),
)


def _placed(mmap, munmap, mremap) -> list[int]:
    """Where the calls of PLACES put things."""
    got: list[int] = []
    for name, which, first, nr, new in PLACES:
        at = got[which] + first * PAGE if got else 0
        if name == "mmap":
            got.append(mmap(0, nr * PAGE))
        elif name == "hint":
            got.append(mmap(at, nr * PAGE))
        elif name == "munmap":
            munmap(at, nr * PAGE)
            got.append(at)
        elif name == "grow":
            got.append(mremap(at, nr * PAGE, new * PAGE, 1))
        else:
            got.append(mremap(at, nr * PAGE, nr * PAGE, 5))
    return got


def _places_of_kernel() -> tuple[list[tuple[int, int, bool]], list[int]]:
    """The mappings of this process, (first, end, grows down), and where it places what says no place."""

    def calls(name):
        function = getattr(_libc, name)
        function.restype = ctypes.c_long
        return lambda *args: int(function(*(ctypes.c_long(arg) for arg in args)))

    mmap, munmap, mremap = (calls(name) for name in ("mmap", "munmap", "mremap"))
    for _ in range(2):  # the first reading warms up what this needs itself
        with open("/proc/self/maps", "rb", buffering=0) as maps:
            text = b"".join(iter(lambda: maps.read(1 << 16), b""))
        before = [line.split() for line in text.decode().splitlines()]
    got = _placed(lambda at, size: mmap(at, size, RW, 0x22, -1, 0), munmap, lambda *args: mremap(*args, 0))
    ranges = [(*(int(part, 16) for part in line[0].split("-")), line[-1] == "[stack]") for line in before]
    return [(start, end, down) for start, end, down in ranges if end < 1 << 48], got


def test_a_mapping_without_a_place_goes_where_the_running_kernel_puts_it(host):
    mapped, theirs = _of_a_child(_places_of_kernel)
    # the first ones that were placed, those of the loader, end at mmap_base
    base = max(end for _, end, _ in mapped if end <= next(start for start, _, down in mapped if down))
    mm = LiveMM(host, mmap_base=base)
    for start, end, down in mapped:
        mm.mmap(start, end - start, NONE, vm_flags=b.VM_GROWSDOWN if down else 0)

    def mremap(at, old, new, flags):
        return mm.mremap(at, old, new, flags).pages

    ours = _placed(lambda at, size: mm.mmap_free(size, RW, hint=at).pages, mm.munmap, mremap)
    assert [hex(at) for at in ours] == [hex(at) for at in theirs]
