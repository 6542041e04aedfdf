"""Scripts of the measurement of living address spaces: their calls, made on the reference.

A script starts from nothing. Its mapping has a kind, the first part of its name: the size
of the folios, and whether one PMD entry maps them. Then come calls of the parent, and
after a fork of the child.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .. import bits as b
from ..errors import SyscallError
from ..machine import Machine
from ..reference.fault import Signal
from ..reference.filemap import Inode
from ..reference.huge_memory import split_huge_pmd
from ..reference.live import LiveMM, Thp
from ..reference.mremap import MREMAP_FIXED, MREMAP_MAYMOVE

__all__ = ["CALLS", "Call", "Process", "Script"]

#: sizes that were enabled from a step on, where the record does not say it, in contpte blocks: scenario ->
#: step -> sizes. The script is about two of them; each of its writes shows which was the only one.
SIZES: Mapping[str, Mapping[int, tuple[float, ...]]] = {"fault_two_sizes": {2: (), 4: (0.5,), 5: (1,)}}

#: kind, address and value, and whether it is the child's
Seen = tuple[str, int, int, bool]


@dataclass(frozen=True, slots=True)
class Call:
    """One step of a script.

    Parameters
    ----------
    name : str
    start, length : int
        Address and bytes.
    arg : int
        As the record has it.
    va : int
        Address of page 0 of the window.
    """

    name: str
    start: int = 0
    length: int = 0
    arg: int = 0
    va: int = 0


@dataclass
class Process:
    """One of the two processes of a script.

    Attributes
    ----------
    mm : LiveMM
    counters : dict of str to int
        Of its last call that is measured.
    """

    mm: LiveMM
    counters: Mapping[str, int] = field(default_factory=dict)


class Script:
    """A script being made.

    Parameters
    ----------
    scenario : str
        ``KIND_STORY``.
    machine : Machine

    Attributes
    ----------
    parent, child : Process
        The child is None before the fork.
    events : list
        What the last call did, in order.
    """

    def __init__(self, scenario: str, machine: Machine) -> None:
        self.scenario = scenario
        self.machine = machine
        self.kind = scenario.split("_")[0]
        self.events: list[Seen] = []
        self.parent = Process(LiveMM.make(machine))
        self.parent.mm.observer = lambda *event: self.events.append((*event, False))
        self.child: Process | None = None
        self.steps = 0
        self.armed = False

    def process(self, name: str, call: str) -> Process | None:
        """The process of a step; a fork's two records come in either order."""
        if name != "child":
            return self.parent
        if call == "fork":
            self.fork()
        return self.child

    def make(self, who: Process, call: Call) -> int:
        """Make a call; returns what it returns, or what errno or signal it ends with, negative.

        Raises
        ------
        KeyError
            An unknown call.
        """
        enabled = SIZES.get(self.scenario, {}).get(self.steps)
        if enabled is not None:
            who.mm.thp = Thp(frozenset(int(size * self.machine.cont_ptes).bit_length() - 1 for size in enabled))
        self.steps += 1
        if call.name != "fork":
            self.events.clear()
        who.counters = {}
        try:
            who.counters = CALLS[call.name](self, who.mm, call)
        except SyscallError as e:
            who.counters = e.result.counters
            return -int(e.errno or 0)
        except Signal as e:
            return -int(e.number)
        return 1 if call.name == "clear_refs" else 0

    def fork(self) -> None:
        """Fork, unless that is done."""
        if self.child is None:
            self.events.clear()
            self.child = Process(self.parent.mm.fork(observer=lambda *event: self.events.append((*event, True))))

    # The mappings that scripts begin with

    def order(self, kib: int) -> int:
        """Order of folios of so many KiB; 0: single pages."""
        return (kib * 1024 // self.machine.page_size).bit_length() - 1 if kib else 0

    def room(self, call: Call) -> LiveMM:
        """Make room for a mapping: libraries and stack lie in the same range of a table of PMDs, which is there and stays."""
        mm, size = self.parent.mm, self.parent.mm.pmd_size * self.machine.ptrs_per_pte
        last = (call.start // size + 1) * size - self.machine.page_size
        if last >= call.start + call.length:
            mm.mmap(last, self.machine.page_size, b.PROT_READ)
            mm.alloc_above(last)
        return mm

    def mmap(self, call: Call) -> LiveMM:
        """Anonymous memory; `arg`: the size in KiB that is enabled."""
        mm, order = self.room(call), self.order(call.arg)
        mm.thp = Thp.only(order)
        mm.mmap(call.start, call.length, b.PROT_READ | b.PROT_WRITE, vm_flags=0 if order else b.VM_NOHUGEPAGE)
        return mm

    def begin(self, call: Call) -> None:
        """The same with every page written; then no size is enabled any more."""
        mm = self.mmap(call)
        for addr in range(call.start, call.start + call.length, self.machine.page_size):
            mm.touch(addr, write=True)
        if self.kind == "thp":
            for first in list(mm.pmds):
                split_huge_pmd(mm, first)
        mm.thp = Thp()

    def file(self, call: Call, *, cached: bool, shared: bool) -> None:
        """A memfd, all of whose pages are written, or shared memory with nothing in it."""
        mm = self.room(call)
        orders = frozenset({self.order(call.arg)}) if not cached else frozenset()
        mm.files[1] = Inode(mm.frames, orders)
        if cached:
            mm.files[1].write(0, call.length // self.machine.page_size)
        mm.mmap(call.start, call.length, b.PROT_READ | b.PROT_WRITE, shared=shared, file=1, pgoff=0)

    def uffd_wp(self, mm: LiveMM, call: Call) -> Mapping[str, int]:
        """Register what is mapped, once, then write-protect."""
        if not self.armed:
            for vma in mm.vmas():
                mm.uffd_register(vma.start, vma.end - vma.start)
            self.armed = True
        return mm.uffd_writeprotect(call.start, call.length, call.arg).counters


Made = Callable[[Script, LiveMM, Call], Mapping[str, int]]


def _mremap(script: Script, mm: LiveMM, call: Call) -> Mapping[str, int]:
    to = call.va + call.arg * script.machine.page_size
    return mm.mremap(call.start, call.length, call.length, MREMAP_MAYMOVE | MREMAP_FIXED, to).counters


def _unmeasured(make: Callable[[Script, LiveMM, Call], object]) -> Made:
    def made(script: Script, mm: LiveMM, call: Call) -> Mapping[str, int]:
        make(script, mm, call)
        return {}

    return made


#: calls by the names of the records
CALLS: Mapping[str, Made] = {
    "begin": _unmeasured(lambda s, mm, c: s.begin(c)),
    "mmap": _unmeasured(lambda s, mm, c: s.mmap(c)),
    "mmap_file": _unmeasured(lambda s, mm, c: s.file(c, cached=True, shared=bool(c.arg))),
    "mmap_shmem": _unmeasured(lambda s, mm, c: s.file(c, cached=False, shared=True)),
    "fork": _unmeasured(lambda s, mm, c: s.fork()),
    "child_exit": _unmeasured(lambda s, mm, c: s.child.mm.exit() if s.child else None),
    "read": lambda s, mm, c: mm.touch(c.start).counters,
    "write": lambda s, mm, c: mm.touch(c.start, write=True).counters,
    "mprotect": lambda s, mm, c: mm.mprotect(c.start, c.length, c.arg).counters,
    "madvise": lambda s, mm, c: mm.madvise(c.start, c.length, c.arg).counters,
    "munmap": lambda s, mm, c: mm.munmap(c.start, c.length).counters,
    "mremap": _mremap,
    "mremap_shrink": lambda s, mm, c: mm.mremap(c.start, c.length, c.arg * s.machine.page_size).counters,
    "mlock": lambda s, mm, c: mm.mlock(c.start, c.length).counters,
    "munlock": lambda s, mm, c: mm.munlock(c.start, c.length).counters,
    "mseal": lambda s, mm, c: mm.mseal(c.start, c.length).counters,
    "clear_refs": lambda s, mm, c: mm.clear_refs(c.arg).counters,
    "uffd_wp": Script.uffd_wp,
}
