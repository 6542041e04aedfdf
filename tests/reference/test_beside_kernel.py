"""What the running kernel does where its answer is more than an errno: places, heaps, stacks, what is resident."""

from __future__ import annotations

import ctypes
import os

import pytest

from ptebatch import bits as b
from ptebatch.machine import Machine
from ptebatch.reference.fault import Signal
from ptebatch.reference.live import LiveMM
from ptebatch.reference.mmap import VM_OF_MAP_STACK
from ptebatch.verify.hostkernel import in_child, system_call, vm_flags

BASE = 1 << 40
PAGE = 4096
R, RW, NONE = 1, 3, 0

_libc = ctypes.CDLL(None, use_errno=True)


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
    assert not system_call("mmap", BASE, 4 * PAGE, RW, 0x32, -1, 0) and not system_call("mlock", BASE, 4 * PAGE)
    to = BASE + 64 * PAGE
    assert not system_call("mremap", BASE, 4 * PAGE, 8 * PAGE, 3, to)
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
    assert ours == in_child(_resident_when_moved) == [1] * 8


def _flags_of_a_stack() -> list[str]:
    assert not system_call("mmap", BASE, PAGE, RW, 0x20032, -1, 0)
    return vm_flags(BASE)


def test_what_is_mapped_as_a_stack_takes_no_huge_pages_on_the_running_kernel(host):
    assert ("nh" in in_child(_flags_of_a_stack)) == bool(VM_OF_MAP_STACK & b.VM_NOHUGEPAGE)


def _brk_of_kernel() -> list[int]:
    """How far brk() goes with a mapping three pages behind the end of the heap, in pages; in a child."""
    _libc.syscall.restype = ctypes.c_long
    number = {"x86_64": 12, "aarch64": 214}[os.uname().machine]

    def brk(at: int) -> int:
        return int(_libc.syscall(ctypes.c_long(number), ctypes.c_long(at)))

    begin = -(-brk(0) // PAGE) * PAGE
    assert brk(begin) == begin
    assert system_call("mmap", begin + 3 * PAGE, PAGE, R, 0x100022, -1, 0) == 0
    return [(brk(begin + nr * PAGE) - begin) // PAGE for nr in (1, 3, 2, 0, 4)]


def test_a_heap_stops_where_the_running_kernels_does(host):
    if os.uname().machine not in ("x86_64", "aarch64"):
        pytest.skip("the number of brk() is not known here")
    theirs = in_child(_brk_of_kernel)
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
    room, length = bytearray(1 << 20), 0
    view = memoryview(room)
    # nothing is to be allocated between the reading and the calls: that could be mapped
    with open("/proc/self/maps", "rb", buffering=0) as maps:
        while nr := maps.readinto(view[length:]):
            length += nr
    got = _placed(lambda at, size: mmap(at, size, RW, 0x22, -1, 0), munmap, lambda *args: mremap(*args, 0))
    before = [line.split() for line in room[:length].decode().splitlines()]
    ranges = [(*(int(part, 16) for part in line[0].split("-")), line[-1] == "[stack]") for line in before]
    return [(start, end, down) for start, end, down in ranges if end < 1 << 48], got


def _ours(host: Machine, mapped: list[tuple[int, int, bool]]) -> list[int]:
    # the first ones that were placed, those of the loader, end at mmap_base
    base = max(end for _, end, _ in mapped if end <= next(start for start, _, down in mapped if down))
    mm = LiveMM(host, mmap_base=base)
    for start, end, down in mapped:
        mm.mmap(start, end - start, NONE, vm_flags=b.VM_GROWSDOWN if down else 0)

    def mremap(at, old, new, flags):
        return mm.mremap(at, old, new, flags).pages

    return _placed(lambda at, size: mm.mmap_free(size, RW, hint=at).pages, mm.munmap, mremap)


def test_a_mapping_without_a_place_goes_where_the_running_kernel_puts_it(host):
    # an allocator may map something meanwhile, once
    for _ in range(3):
        mapped, theirs = in_child(_places_of_kernel)
        ours = _ours(host, mapped)
        if ours == theirs:
            break
    assert [hex(at) for at in ours] == [hex(at) for at in theirs]
