"""The model's side of a run beside the running kernel: no contpte, the host's page size."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..errors import SyscallError
from ..machine import Machine
from ..reference import pte as p
from ..reference.fault import Signal
from ..reference.filemap import Inode
from ..reference.huge_memory import huge_folio
from ..reference.live import LiveMM, Thp
from ..reference.mremap import MREMAP_DONTUNMAP, MREMAP_FIXED, MREMAP_MAYMOVE
from .hostops import BASE, FILLED, MOVES, Arena, Op, Outcome

__all__ = ["Model"]


class Model:
    """Processes of the model.

    Parameters
    ----------
    machine : Machine
    thp : Thp
        What the host has enabled.
    arena : Arena
    """

    def __init__(self, machine: Machine, thp: Thp, arena: Arena) -> None:
        self.machine, self.arena = machine, arena
        self.alive = [LiveMM.make(machine, thp=thp)]
        frames = self.alive[0].frames
        inode = Inode(frames, size=arena.pages)
        inode.write(0, arena.pages)
        frames.contents |= dict.fromkeys(inode.pages.values(), FILLED)
        self.alive[0].files[FILE] = inode

    def step(self, op: Op) -> Outcome:
        """Make a call."""
        mm = self.alive[op.who]
        if op.name == "fork":
            self.alive.append(mm.fork())
            return self.outcome(mm, 0, ())
        if op.name == "exit":
            self.alive.pop(op.who).exit()
            return Outcome(0, (), (), "")
        if op.name in ("read", "write"):
            return self.outcome(mm, 0, self._access(mm, op))
        size = self.machine.page_size
        try:
            _CALLS[op.name](mm, BASE + op.first * size, op.nr * size, op)
        except SyscallError as e:
            return self.outcome(mm, -int(e.errno or 0), ())
        return self.outcome(mm, 0, ())

    def _access(self, mm: LiveMM, op: Op) -> tuple[int, ...]:
        addr = BASE + op.first * self.machine.page_size
        try:
            faults = mm.touch(addr, write=op.name == "write", byte=op.arg).counters["faults"]
        except Signal as e:
            return int(e.number), 0, -1
        return 0, faults, mm.load(addr)

    def outcome(self, mm: LiveMM, ret: int, access: tuple[int, ...]) -> Outcome:
        """What can be seen."""
        size = self.machine.page_size
        vmas = tuple(((vma.start - BASE) // size, (vma.end - vma.start) // size, vma.perms) for vma in mm.vmas())
        end = BASE + self.arena.all * size
        pages = "".join(self._table(mm, at, min(at + mm.pmd_size, end)) for at in range(BASE, end, mm.pmd_size))
        return Outcome(ret, access, vmas, pages)

    def _table(self, mm: LiveMM, start: int, end: int) -> str:
        nr = (end - start) // mm.page_size
        if start in mm.pmds:
            return self._page(mm, start) * nr
        if not mm.has_table(start):
            return "." * nr
        return "".join(self._page(mm, at) if mm.ptes[at] else "." for at in range(start, end, mm.page_size))

    def _page(self, mm: LiveMM, addr: int) -> str:
        first = mm.table_start(addr)
        word = mm.pmds[first] if first in mm.pmds else mm.ptes.get(addr, 0)
        if p.pte_none(word):
            return "."
        if not p.pte_present(word):
            return "g"
        if first in mm.pmds:
            return "z" if huge_folio(mm, word) is None else "a"
        if p.pte_special(word):
            return "0"
        folio = mm.folio_of(word)
        return "a" if folio is not None and folio.anon else "f"


#: number by which VMAs name the file
FILE = 1


def _move(mm: LiveMM, start: int, size: int, op: Op) -> object:
    flags = MREMAP_MAYMOVE | MREMAP_FIXED | (MREMAP_DONTUNMAP if op.name == "dontunmap" else 0)
    return mm.mremap(start, size, op.new_nr * mm.page_size, flags, BASE + op.arg * mm.page_size)


_CALLS: Mapping[str, Callable[[LiveMM, int, int, Op], object]] = {
    "mmap": lambda mm, start, size, op: mm.mmap_fixed(start, size, op.arg, shared=op.shared),
    "mapfile": lambda mm, start, size, op: mm.mmap_fixed(start, size, op.arg, shared=op.shared, file=FILE, pgoff=op.first),
    "munmap": lambda mm, start, size, op: mm.munmap(start, size),
    "mprotect": lambda mm, start, size, op: mm.mprotect(start, size, op.arg),
    "madvise": lambda mm, start, size, op: mm.madvise(start, size, op.arg),
    **dict.fromkeys(MOVES, _move),
    "resize": lambda mm, start, size, op: mm.mremap(start, size, op.arg * mm.page_size),
    "mlock": lambda mm, start, size, op: mm.mlock(start, size),
    "munlock": lambda mm, start, size, op: mm.munlock(start, size),
    "mseal": lambda mm, start, size, op: mm.mseal(start, size),
}
