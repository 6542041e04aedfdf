"""Recordings of real programs, replayed in the model: what their calls cost, by kernel and size of folios.

What a recording does not hold is assumed, and said: which pages the program touches, what it was
loaded with, and which descriptors are the same file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from .. import bits as b
from ..counters import dsb, entries, tlbi
from ..errors import LayoutError, SyscallError
from ..machine import Machine
from ..reference import madvise as m
from ..reference.fault import Signal
from ..reference.filemap import Inode
from ..reference.live import LiveMM, Thp
from ..reference.mmap import VM_OF_MAP_STACK
from ..reference.mremap import MREMAP_FIXED, MREMAP_MAYMOVE
from .life import order_of, standing
from .strace import Traced, Unread

__all__ = ["TOUCHES", "Cost", "Replayed", "replay"]

#: which pages of what becomes writable are written: pattern -> of so many pages
TOUCHES: Mapping[str, Callable[[int], Iterable[int]]] = {
    "all": lambda nr: range(nr),
    "first": lambda nr: range(min(nr, 1)),
    "none": lambda nr: (),
}
#: pages of one range that are touched at most
MOST = 4096

_PROT = {"PROT_NONE": 0, "PROT_READ": 1, "PROT_WRITE": 2, "PROT_EXEC": 4}
_ADVICE = {name: value for name, value in vars(m).items() if name.startswith("MADV_")}
#: flags of mmap(2) -> flags of the VMA
_VM_FLAGS = {"MAP_NORESERVE": b.VM_NORESERVE, "MAP_STACK": VM_OF_MAP_STACK, "MAP_GROWSDOWN": b.VM_GROWSDOWN}
#: advice that changes nothing of page tables or VMAs that is modelled
_WITHOUT_EFFECT = frozenset(
    [
        "MADV_WILLNEED",
        "MADV_MERGEABLE",
        "MADV_UNMERGEABLE",
    ]
)
#: calls that are no business of memory
_IGNORED = frozenset(
    [
        "wait4",
        "waitid",
        "exit",
        "kill",
        "tgkill",
        "rt_sigreturn",
        "set_robust_list",
        "set_tid_address",
        "getpid",
        "gettid",
        "unshare",
        "setns",
        "msync",
        "mincore",
        "membarrier",
        "get_mempolicy",
        "set_mempolicy",
    ]
)


@dataclass(slots=True)
class Cost:
    """What calls cost together.

    Attributes
    ----------
    calls : int
    faults : int
        Of the accesses behind them.
    tlbi, dsb, unfolds, folds, ptes : int
        Instructions; conversions; entries that were written or exchanged.
    """

    calls: int = 0
    faults: int = 0
    tlbi: int = 0
    dsb: int = 0
    unfolds: int = 0
    folds: int = 0
    ptes: int = 0

    def add(self, counters: Mapping[str, int]) -> None:
        """Take in a call's counters."""
        self.faults += counters.get("faults", 0)
        self.tlbi += tlbi(counters)
        self.dsb += dsb(counters)
        self.unfolds += counters["unfolds"]
        self.folds += counters["folds"]
        self.ptes += entries(counters)

    def __iadd__(self, other: Cost) -> Cost:
        """Take in what other calls cost."""
        for each in fields(Cost):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))
        return self


@dataclass(slots=True)
class Replayed:
    """A recording on one machine.

    Attributes
    ----------
    machine : Machine
    order : int
        Order of the folios that anonymous memory may get.
    costs : dict of str to Cost
        By name of the call; ``(touch)`` are the accesses that were assumed.
    dearest : list of (int, str, Cost)
        The single calls with most TLBIs and entries: line, text, cost.
    unread : list of Unread
        Lines that were not replayed, and why.
    assumed : dict of str to int
        What was taken for granted, and how often.
    mapped, folded : int
        Pages present at the end, or when the last process ended, and those that are folded or huge.
    """

    machine: Machine
    order: int
    costs: dict[str, Cost] = field(default_factory=dict)
    dearest: list[tuple[int, str, Cost]] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)
    assumed: Counter[str] = field(default_factory=Counter)
    mapped: int = 0
    folded: int = 0

    def total(self) -> Cost:
        """All of it."""
        out = Cost()
        for cost in self.costs.values():
            out += cost
        return out


class _Replay:
    """One run."""

    def __init__(self, machine: Machine, order: int, touch: str) -> None:
        self.page = machine.page_size
        self.first = LiveMM.make(machine, memory=(1 << 14) << machine.pmd_order, thp=Thp.only(order))
        self.mms: dict[int, LiveMM] = {}
        self.out = Replayed(machine, order)
        self.touch = TOUCHES[touch]

    def process(self, pid: int) -> LiveMM:
        """Address space of a process."""
        if not self.mms:
            self.mms[pid] = self.first
        if pid not in self.mms:
            self.out.assumed["a process was met whose start is not in the file: it is taken for a thread of the first"] += 1
            self.mms[pid] = next(iter(self.mms.values()))
        return self.mms[pid]

    def make(self, call: Traced) -> None:
        """Replay a call."""
        name = call.name
        if name in _IGNORED or call.failed:
            return
        mm = self.process(call.pid)
        do = _DO.get(name)
        if do is None:
            self.unread(call, f"{name}() is not replayed")
            return
        cost = Cost(calls=1)
        try:
            do(self, mm, call, cost)
        except (SyscallError, LayoutError, KeyError, ValueError, IndexError) as e:
            self.unread(call, self._why(call, e))
            return
        total = self.out.costs.setdefault(name, Cost())
        total += cost
        self.out.dearest.append((call.line, f"{name}({', '.join(call.args)})", cost))

    def _why(self, call: Traced, e: Exception) -> str:
        if isinstance(e, SyscallError):
            return f"it succeeded, and the model refuses it: {e.reason}; what the program was loaded with is not in the file"
        if isinstance(e, LayoutError):
            return str(e)
        return f"its arguments are not understood: {', '.join(call.args)[:60]}"

    def unread(self, call: Traced, why: str) -> None:
        """Name a line that was not replayed."""
        self.out.unread.append(Unread(call.line, why))

    # Calls

    def touched(self, mm: LiveMM, start: int, size: int) -> None:
        """Write what the program is assumed to write."""
        cost = self.out.costs.setdefault("(touch)", Cost())
        nr = mm.page_align(size) // self.page
        if nr > MOST and self.touch(2):
            self.out.assumed[f"of ranges larger than {MOST} pages the first {MOST} are touched"] += 1
        for i in self.touch(min(nr, MOST)):
            addr = start + i * self.page
            vma = mm.vma_at(addr)
            if vma is None or not vma.flags & b.VM_WRITE:
                continue
            try:
                cost.add(mm.touch(addr, write=True).counters)
            except Signal:
                continue
            cost.calls += 1

    def mmap(self, mm: LiveMM, call: Traced, cost: Cost) -> None:
        """mmap() where the recording says that it went."""
        length, prot, flags, fd = int(call.args[1]), _flags(call.args[2], _PROT), call.args[3].split("|"), call.args[4]
        assert call.ret is not None
        size = mm.page_align(length)
        what: dict[str, Any] = {}
        shared = any(flag in ("MAP_SHARED", "MAP_SHARED_VALIDATE") for flag in flags)
        if "MAP_ANONYMOUS" not in flags and "MAP_ANON" not in flags:
            number = int(re.match(r"-?\d+", fd)[0])  # type: ignore[index]
            self.out.assumed["a file is told from others by its descriptor, and all of it is cached"] += 1
            inode = mm.files.setdefault(number + 1, Inode(mm.frames))
            first = int(call.args[5], 0) // self.page
            for index in range(first, first + min(size // self.page, MOST)):
                if inode.folio_at(index) is None:
                    inode.allocate(index, frozenset())
            what = {"file": number + 1, "pgoff": first}
        for flag in ("MAP_HUGETLB", "MAP_LOCKED", "MAP_DROPPABLE"):
            if flag in flags:
                raise LayoutError(f"{flag} is not modelled; record the program without it")
        what["vm_flags"] = sum(vm_flag for flag, vm_flag in _VM_FLAGS.items() if flag in flags)
        cost.add(mm.mmap_fixed(call.ret, size, prot, shared=shared, **what).counters)
        if "MAP_POPULATE" in flags or (prot & b.PROT_WRITE and not shared):
            self.touched(mm, call.ret, size)

    def munmap(self, mm: LiveMM, call: Traced, cost: Cost) -> None:
        """munmap()."""
        cost.add(mm.munmap(int(call.args[0], 0), int(call.args[1])).counters)

    def mprotect(self, mm: LiveMM, call: Traced, cost: Cost) -> None:
        """mprotect() and pkey_mprotect()."""
        start, size, prot = int(call.args[0], 0), int(call.args[1]), _flags(call.args[2], _PROT)
        cost.add(mm.mprotect(start, size, prot).counters)
        if prot & b.PROT_WRITE:
            self.touched(mm, start, size)

    def madvise(self, mm: LiveMM, call: Traced, cost: Cost) -> None:
        """madvise()."""
        advice = call.args[2].split(" ")[0]
        if advice in _WITHOUT_EFFECT:
            return
        cost.add(mm.madvise(int(call.args[0], 0), int(call.args[1]), _ADVICE[advice]).counters)

    def mremap(self, mm: LiveMM, call: Traced, cost: Cost) -> None:
        """mremap() to where the recording says that it went."""
        start, old, new = int(call.args[0], 0), int(call.args[1]), int(call.args[2])
        assert call.ret is not None
        moves = call.ret != start
        flags = MREMAP_MAYMOVE | MREMAP_FIXED if moves else 0
        cost.add(mm.mremap(start, old, new, flags, call.ret if moves else 0).counters)
        if new > old:
            self.touched(mm, call.ret + old, new - old)

    def brk(self, mm: LiveMM, call: Traced, cost: Cost) -> None:
        """brk(): the heap grows and shrinks at its end."""
        assert call.ret is not None
        if not mm.start_brk:
            mm.start_brk = mm.brk_end = call.ret
        old = mm.brk_end
        result = mm.brk(call.ret)
        if result.pages != call.ret:
            raise LayoutError(f"the model's heap ends at {result.pages:#x}; another mapping is in its way")
        cost.add(result.counters)
        if call.ret > old:
            self.touched(mm, old, call.ret - old)

    def clone(self, mm: LiveMM, call: Traced, cost: Cost) -> None:
        """fork(), vfork(), clone(), clone3(): a thread shares its address space."""
        assert call.ret is not None
        if call.name == "vfork" or any("CLONE_VM" in arg for arg in call.args):
            self.mms[call.ret] = mm
            return
        self.out.assumed["nobody writes what is mapped before a fork again: copies after it are not in the counts"] += 1
        child = mm.fork()
        cost.add(mm.counters)
        self.mms[call.ret] = child

    def execve(self, mm: LiveMM, call: Traced, cost: Cost) -> None:
        """execve(): the address space begins anew."""
        if not mm.vmas():
            return
        users = [pid for pid, other in self.mms.items() if other is mm]
        fresh = LiveMM(mm.machine, frames=mm.frames, thp=mm.thp, files=mm.files)
        self.mms[call.pid] = fresh
        if users == [call.pid]:
            cost.add(mm.exit().counters)

    def exit_group(self, mm: LiveMM, call: Traced, cost: Cost) -> None:
        """exit_group()."""
        self.look()
        gone = [pid for pid, other in self.mms.items() if other is mm]
        if len(set(map(id, self.mms.values()))) > 1:
            for pid in gone:
                del self.mms[pid]
            cost.add(mm.exit().counters)

    def mlock(self, mm: LiveMM, call: Traced, cost: Cost) -> None:
        """mlock(), mlock2() and munlock()."""
        start, size = int(call.args[0], 0), int(call.args[1])
        if call.name == "munlock":
            cost.add(mm.munlock(start, size).counters)
        else:
            cost.add(mm.mlock(start, size, on_fault="MLOCK_ONFAULT" in call.args[-1]).counters)

    def mseal(self, mm: LiveMM, call: Traced, cost: Cost) -> None:
        """mseal()."""
        cost.add(mm.mseal(int(call.args[0], 0), int(call.args[1])).counters)

    def look(self) -> None:
        """How all memory stands now."""
        seen = {id(mm): mm for mm in self.mms.values()}
        rounds = [standing(mm) for mm in seen.values()]
        self.out.mapped = sum(each.mapped for each in rounds)
        self.out.folded = sum(each.folded + each.huge for each in rounds)


_Do = Callable[[_Replay, LiveMM, Traced, Cost], None]
_DO: Mapping[str, _Do] = {
    "mmap": _Replay.mmap,
    "mmap2": _Replay.mmap,
    "munmap": _Replay.munmap,
    "mprotect": _Replay.mprotect,
    "pkey_mprotect": _Replay.mprotect,
    "madvise": _Replay.madvise,
    "mremap": _Replay.mremap,
    "brk": _Replay.brk,
    "fork": _Replay.clone,
    "vfork": _Replay.clone,
    "clone": _Replay.clone,
    "clone3": _Replay.clone,
    "execve": _Replay.execve,
    "execveat": _Replay.execve,
    "exit_group": _Replay.exit_group,
    "mlock": _Replay.mlock,
    "mlock2": _Replay.mlock,
    "munlock": _Replay.mlock,
    "mseal": _Replay.mseal,
}


def _flags(text: str, names: Mapping[str, int]) -> int:
    value = 0
    for part in text.split("|"):
        if part in names:
            value |= names[part]
        elif part not in ("PROT_GROWSDOWN", "PROT_GROWSUP", "PROT_BTI", "PROT_SEM"):
            value |= int(part, 0)
    return value


def replay(
    calls: Sequence[Traced | Unread], machine: Machine, folio: int = 0, touch: str = "first", *, dearest: int = 5
) -> Replayed:
    """Replay the calls of a recording on one machine.

    Parameters
    ----------
    calls : sequence of Traced or Unread
        See `strace.calls_of`.
    machine : Machine
        Of the page size that the recording was made with.
    folio : int
        Bytes of the folios that anonymous memory may get; 0: single pages.
    touch : {"all", "first", "none"}
        Which pages of what becomes writable are written.
    dearest : int
        So many single calls are kept.

    Returns
    -------
    Replayed

    Raises
    ------
    LayoutError
        A pattern of touches that nobody knows, or a size that is not one of folios.
    """
    if touch not in TOUCHES:
        raise LayoutError(f"touch={touch!r} is unknown; give one of {', '.join(TOUCHES)}")
    run = _Replay(machine, order_of(folio, machine), touch)
    for call in calls:
        if isinstance(call, Unread):
            run.out.unread.append(call)
        else:
            run.make(call)
    if not run.out.mapped:
        run.look()
    run.out.dearest = sorted(run.out.dearest, key=lambda row: (-row[2].tlbi, -row[2].ptes))[:dearest]
    return run.out
