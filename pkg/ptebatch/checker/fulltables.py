"""Runs of worlds with full leaf tables, judged by the plain form of the laws.

The compiled checker has tables of at most 32 entries. A loop may go wrong only in batches
longer than that: at the 64th page, at a folio as large as the table, where a number wraps
at 255. Such worlds are built as an ``ptebatch.MM`` and run without hardware in between, once
traced, and once more with what repeats replayed if the strategy is pure; that is some ten a second, not millions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..events import KINDS
from ..machine import Machine
from ..mm.result import Result
from ..strategies import Strategy, resolve
from .laws.rows import JUDGED, LAWS, law_of
from .laws.run import Replayed, Run
from .laws.table import missed, unrecorded
from .worlds.small import COMPILED, LARGEST, SmallWorld

__all__ = ["FullTables", "full_machine", "two_tables_machine"]

_CONTRACT, _REPLAY = law_of("CONTRACT").number, law_of("REPLAY").number


def full_machine(machine: Machine) -> Machine | None:
    """Return the machine with full tables; None: its own are small, and nothing is left to try.

    Parameters
    ----------
    machine : Machine
        Its blocks and tables are kept.
    """
    if machine.ptrs_per_pte <= COMPILED:
        return None
    return replace(machine, ptrs_per_pte=min(machine.ptrs_per_pte, LARGEST))


def two_tables_machine(machine: Machine) -> Machine:
    """Return the machine with tables so small that two are soon judged: 32 entries, blocks of 16 at most."""
    return replace(machine, cont_ptes=min(machine.cont_ptes, 16), ptrs_per_pte=min(machine.ptrs_per_pte, COMPILED))


class FullTables:
    """A strategy on one machine, as ``ptebatch.checker.check.Checker`` is for small tables.

    Parameters
    ----------
    machine : Machine
    strategy : str, callable or Strategy
        As ``MM.mprotect`` takes it.
    strict : bool
        Laws of efficiency are judged, too.
    """

    def __init__(self, machine: Machine, strategy: str | Strategy | Callable[[Any], int], *, strict: bool = False) -> None:
        self.machine, self.strategy, self.runs, self.strict = machine, strategy, 0, strict
        #: entries that could have become writable and did not; entries that no batch was recorded of, though some were
        self.missed, self.unrecorded = 0, 0
        self.pure = resolve(strategy).pure
        #: entries that were replayed, by loop
        self.replayed_by: dict[str, int] = {}

    def run(self, world: SmallWorld, *, replay: bool = True) -> Run:
        """Make the world's call on an address space of its own: traced, so step by step; if the strategy is pure, again."""
        try:
            result, after = self._call(world, trace=True)
            replayed = self._replayed(world, result) if replay and self.pure else None
        except Exception as error:  # whatever a step raises is a finding
            return Run(world, world.ptes, 0, world.start, 0, {}, None, error=error)
        events = [] if result.trace is None else [_here(world, *event) for event in result.trace.tolist()]
        return Run(world, after, result.pages, world.end, 0, result.counters, _gathered(world, result), events,
                   replayed=replayed)  # fmt: skip

    def _call(self, world: SmallWorld, *, trace: bool) -> tuple[Result, tuple[int, ...]]:
        """One call; what it did, and the table it left."""
        mm, how, size = world.build(), world.change, world.machine.page_size
        self.runs += 1
        result = mm.change_protection(
            world.address + world.start * size,
            world.end - world.start,
            newprot=how.newprot,
            cp_flags=how.cp_flags,
            vm_flags=how.vm_flags,
            anon=how.anon,
            strategy=self.strategy,
            trace=trace,
        )
        for loop, nr in mm.replayed.items():
            self.replayed_by[loop] = self.replayed_by.get(loop, 0) + nr
        reach = range(0, len(world.ptes), world.machine.ptrs_per_pte)
        return result, tuple(word for first in reach for word in mm.leaf(world.address + first * size).tolist())

    def _replayed(self, world: SmallWorld, slow: Result) -> Replayed:
        """What the call leaves untraced, with work that repeats replayed; its lists are held to those of the run step by step."""
        fast, after = self._call(world, trace=False)
        differ = next((name for name in ("batches", "subs", "flushes") if getattr(fast, name) != getattr(slow, name)), "")
        return Replayed(after, fast.pages, fast.counters, _gathered(world, fast), differ)

    def judged(self, world: SmallWorld) -> tuple[int, Run]:
        """Judge a world by every law: number of the first that it breaks, 0 none, and the run."""
        run = self.run(world)
        if run.error is not None:
            return _CONTRACT, run
        broken = (law.number for law in JUDGED if (self.strict or not law.strict) and law.plain(run))
        number = next(broken, 0)
        if not number:
            self.missed += len(missed(run))
            self.unrecorded += unrecorded(run)
        return number, run

    def breaks(self, world: SmallWorld, law: int) -> bool:
        """Judge a world by one law: whether it is broken."""
        run = self.run(world, replay=law == _REPLAY)
        if run.error is not None:
            return law == _CONTRACT
        return LAWS[law].plain(run) is not None


def _gathered(world: SmallWorld, result: Result) -> tuple[int, int] | None:
    """What was gathered, in addresses from the world's first entry on."""
    found = next(iter(result.gathers), None)
    return found and (found[0] - world.address, found[1] - world.address)


def _here(world: SmallWorld, kind: int, addr: int, value: int) -> tuple[int, int, int]:
    """An event with its address counted from the world's first entry on; some name a frame, or nothing."""
    return kind, addr - world.address if KINDS[kind] != "PAE" and addr >= world.address else addr, value
