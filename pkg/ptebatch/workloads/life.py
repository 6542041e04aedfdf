"""A process of the model that counts what it does: `Life`, and what is left to read of it: `Lived`."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .. import bits as b
from ..counters import dsb, tlbi
from ..errors import LayoutError
from ..machine import Machine
from ..reference import pte as p
from ..reference.fault import Signal
from ..reference.live import LiveMM, Thp
from ..reference.result import RefResult
from ..report import size_text

__all__ = ["Life", "Lived", "Round"]

#: where the memory of workloads begins
BASE = 1 << 40


@dataclass(frozen=True, slots=True)
class Round:
    """How the memory stands after a round.

    Attributes
    ----------
    mapped : int
        Pages of present entries.
    folded, huge : int
        Of these, in contpte blocks that are folded, and under PMD entries.
    """

    mapped: int
    folded: int
    huge: int

    @property
    def share(self) -> float:
        """Share of mapped pages that are folded or under a PMD entry; 0 where nothing is mapped."""
        return (self.folded + self.huge) / self.mapped if self.mapped else 0.0


@dataclass(slots=True)
class Lived:
    """What a workload cost.

    Attributes
    ----------
    name : str
        The workload with its parameters.
    machine : Machine
    order : int
        Order of the folios that were enabled; 0: single pages.
    calls : dict of str to int
        System calls by name.
    signals : int
        Accesses that ended with a signal, which the program handled.
    counters : dict of str to int
        Sums of all calls and faults.
    rounds : list of Round
        Before the first round, and after each.
    """

    name: str
    machine: Machine
    order: int
    calls: dict[str, int]
    signals: int
    counters: dict[str, int]
    rounds: list[Round]

    @property
    def tlbi(self) -> int:
        """TLBI instructions, of conversions and of flushes, those of one CPU included."""
        return tlbi(self.counters)

    @property
    def dsb(self) -> int:
        """Barriers."""
        return dsb(self.counters)

    def to_dict(self) -> dict[str, object]:
        """Return what ``--json`` prints."""
        return {
            "workload": self.name,
            "machine": str(self.machine),
            "folio_order": self.order,
            "calls": self.calls,
            "signals": self.signals,
            "tlbi": self.tlbi,
            "dsb": self.dsb,
            "counters": self.counters,
            "rounds": [{"mapped": r.mapped, "folded": r.folded, "huge": r.huge, "share": r.share} for r in self.rounds],
        }


def standing(mm: LiveMM) -> Round:
    """How the memory of an address space stands."""
    cont = mm.machine.contpte
    present = [word for word in mm.ptes.values() if p.pte_present(word)]
    folded = sum(cont and p.pte_valid_cont(word) for word in present)
    huge = len(mm.pmds) << mm.machine.pmd_order
    return Round(len(present) + huge, folded, huge)


def order_of(folio: int, machine: Machine) -> int:
    """Order of folios of so many bytes; 0: single pages.

    Raises
    ------
    LayoutError
        Anonymous memory cannot have such folios.
    """
    page = machine.page_size
    order = max(0, (folio // page).bit_length() - 1)
    if folio and (folio != page << order or not (order == 0 or 2 <= order <= machine.pmd_order)):
        largest = size_text(page << machine.pmd_order)
        raise LayoutError(f"folios of {folio} bytes cannot be; give {size_text(4 * page)} to {largest}, a power of two")
    return order


class Life:
    """A process that a workload runs in.

    Parameters
    ----------
    machine : Machine
    order : int
        Order of the folios that anonymous memory may get; 0: single pages.
    seed : int
        Of what the program does at random.

    Attributes
    ----------
    mm : LiveMM
    chance : random.Random
    rounds : list of Round
    """

    def __init__(self, machine: Machine, order: int, seed: int = 0) -> None:
        memory = 96 << machine.pmd_order
        self.mm = LiveMM.make(machine, memory=memory, thp=Thp.only(order))
        self.page = machine.page_size
        self.chance = random.Random(seed)
        self.calls: Counter[str] = Counter()
        self.counters: Counter[str] = Counter()
        self.signals = 0
        self.rounds: list[Round] = []
        self._next = BASE

    # Memory

    def map(self, size: int, prot: int = b.PROT_READ | b.PROT_WRITE, *, written: bool = True, vm_flags: int = 0) -> int:
        """Map memory, aligned to the largest folio, and write all of it; this is not counted.

        Returns
        -------
        int
            Its address.
        """
        start = self._next
        self._next += -(-size // self.mm.pmd_size) * self.mm.pmd_size + self.mm.pmd_size
        self.mm.mmap(start, size, prot | (b.PROT_WRITE if written else 0), vm_flags=vm_flags)
        if written:
            for addr in range(start, start + size, self.page):
                self.mm.touch(addr, write=True)
            if not prot & b.PROT_WRITE:
                self.mm.mprotect(start, size, prot)
        return start

    # Calls and accesses, counted

    def _counted(self, name: str, call: Callable[[], RefResult]) -> None:
        self.calls[name] += 1
        self.counters.update(call().counters)

    def mprotect(self, start: int, size: int, prot: int) -> None:
        """mprotect(2)."""
        self._counted("mprotect", lambda: self.mm.mprotect(start, size, prot))

    def madvise(self, start: int, size: int, advice: int) -> None:
        """madvise(2)."""
        self._counted("madvise", lambda: self.mm.madvise(start, size, advice))

    def munmap(self, start: int, size: int) -> None:
        """munmap(2)."""
        self._counted("munmap", lambda: self.mm.munmap(start, size))

    def mmap(self, start: int, size: int, prot: int) -> None:
        """mmap(2) at a place."""
        self._counted("mmap", lambda: self.mm.mmap_fixed(start, size, prot))

    def uffd_writeprotect(self, start: int, size: int, *, on: bool) -> None:
        """UFFDIO_WRITEPROTECT."""
        self._counted("UFFDIO_WRITEPROTECT", lambda: self.mm.uffd_writeprotect(start, size, int(on)))

    def fork(self) -> LiveMM:
        """fork(2); the child is not counted."""
        self.calls["fork"] += 1
        child = self.mm.fork()
        self.counters.update(self.mm.counters)
        return child

    def touch(self, addr: int, *, write: bool = False) -> bool:
        """Read or write one byte; False: the program got a signal."""
        try:
            self.counters.update(self.mm.touch(addr, write=write).counters)
        except Signal:
            self.signals += 1
            return False
        return True

    def write_all(self, start: int, size: int) -> None:
        """Write every page."""
        for addr in range(start, start + size, self.page):
            self.touch(addr, write=True)

    # What is left

    def end_round(self) -> None:
        """Look how the memory stands."""
        self.rounds.append(standing(self.mm))

    def lived(self, name: str, order: int) -> Lived:
        """What it cost."""
        counters: Mapping[str, int] = self.counters
        return Lived(name, self.mm.machine, order, dict(self.calls), self.signals, dict(counters), self.rounds)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a workload.

    Attributes
    ----------
    default : int
    what : str
        One clause; sizes are in bytes.
    size : bool
        Written as 64K, 2M.
    least, most : int
        What it may be, if it is no size.
    """

    default: int
    what: str
    size: bool = field(default=False)
    least: int = 1
    most: int = 1_000_000
