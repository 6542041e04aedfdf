"""What the manual, the test suites of others and the kernel's own selftests say of calls, case by case.

Each row is a case: what is done first, the call, what it returns, and what is mapped then. It is
run on the model, and on the running kernel where that does no harm. Left out are cases that need
a file opened read-only (LTP mprotect01 c), code that is executed (mprotect04 b), MDWE and keys
(process-wide; tests/mm has them), tags, hugetlb, and a userfaultfd that is read.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

import pytest

from ptebatch import bits as b
from ptebatch.base.access import access
from ptebatch.errors import LayoutError, MachineError, SyscallError
from ptebatch.machine import Machine
from ptebatch.reference import madvise as m
from ptebatch.reference.fault import Signal
from ptebatch.reference.live import LiveMM
from ptebatch.verify.host import host_machine
from ptebatch.verify.hostkernel import in_child, system_call

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


def on_kernel(call: Call) -> int:
    name, first, size, arg = call
    at = BASE + first
    if name in ("mmap", "shared", "stack"):
        return system_call(
            "mmap", at, size, arg, (1 if name == "shared" else 2) | 0x30 | (0x100 if name == "stack" else 0), -1, 0
        )
    if name == "mremap":
        return system_call("mremap", at, size, size, 3, BASE + arg * PAGE)
    if name == "resize":
        return system_call("mremap", at, size, arg * PAGE, 0, 0)
    if name == "mseal":
        return system_call("syscall", 462, at, size, 0)
    if name in ("munmap", "mlock"):
        return system_call(name, at, size)
    if name in ("read", "write"):
        return -access(at, arg if name == "write" else -1)[0]
    return system_call(name, at, size, arg)


def mapped() -> tuple[tuple[int, int, str], ...]:
    """VMAs of the arena: first page, pages, read and write permission."""
    vmas = []
    with open("/proc/self/maps") as maps:
        for line in maps:
            where, perms = line.split()[:2]
            start, end = (int(part, 16) for part in where.split("-"))
            if BASE <= start < BASE + 1024 * PAGE:
                vmas.append(((start - BASE) // PAGE, (end - start) // PAGE, perms[:2]))
    return tuple(vmas)


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.case)
def test_the_running_kernel_does_what_is_said(host, fact):
    if [*map(int, host.kernel.split("."))] < [*map(int, fact.since.split("."))]:
        pytest.skip(f"since {fact.since}")
    got, vmas = in_child(lambda: ([on_kernel(call) for call in (*fact.before, fact.call)], mapped()))
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
