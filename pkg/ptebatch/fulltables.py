"""Runs of worlds with full leaf tables, judged by the plain form of the laws.

The compiled checker has tables of at most 32 entries. A loop may go wrong only in batches
longer than that: at the 64th page, at a folio as large as the table, where a number wraps
at 255. Such worlds are built as an ``ptebatch.MM`` and run once, without hardware in
between; that is some ten a second, not millions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .laws import LAWS
from .laws_run import Run
from .machine import Machine
from .small import COMPILED, LARGEST, SmallWorld
from .strategies import Strategy

__all__ = ["FullTables", "full_machine"]

_CONTRACT = 22


def full_machine(machine: Machine) -> Machine | None:
    """Return the machine with full tables; None: its own are small, and nothing is left to try.

    Parameters
    ----------
    machine : Machine
        Its blocks are kept, and its tables up to the size of those of the 4K granule.
    """
    if machine.ptrs_per_pte <= COMPILED:
        return None
    return replace(machine, ptrs_per_pte=min(machine.ptrs_per_pte, LARGEST))


class FullTables:
    """A strategy on one machine, as ``ptebatch.core.check.Checker`` is for small tables.

    Parameters
    ----------
    machine : Machine
    strategy : str, callable or Strategy
        As ``MM.mprotect`` takes it.
    """

    def __init__(self, machine: Machine, strategy: str | Strategy | Callable[[Any], int]) -> None:
        self.machine, self.strategy, self.runs = machine, strategy, 0

    def run(self, world: SmallWorld) -> Run:
        """Make the world's call on an address space of its own."""
        mm, how, size = world.build(), world.change, self.machine.page_size
        self.runs += 1
        try:
            result = mm.change_protection(
                world.start * size,
                world.end - world.start,
                newprot=how.newprot,
                cp_flags=how.cp_flags,
                vm_flags=how.vm_flags,
                anon=how.anon,
                strategy=self.strategy,
                trace=True,
            )
        except Exception as error:  # whatever a step raises is a finding
            return Run(world, world.ptes, 0, world.start, 0, {}, None, error=error)
        gathered = next(iter(result.gathers), None)
        events = [] if result.trace is None else [(kind, addr, value) for kind, addr, value in result.trace.tolist()]
        return Run(world, tuple(mm.leaf(0).tolist()), result.pages, world.end, 0, result.counters, gathered, events)

    def judged(self, world: SmallWorld) -> tuple[int, Run]:
        """Judge a world by every law: number of the first that it breaks, 0 none, and the run."""
        run = self.run(world)
        if run.error is not None:
            return _CONTRACT, run
        return next((number for number, law in LAWS.items() if law.plain(run)), 0), run

    def breaks(self, world: SmallWorld, law: int) -> bool:
        """Judge a world by one law: whether it is broken."""
        run = self.run(world)
        if run.error is not None:
            return law == _CONTRACT
        return LAWS[law].plain(run) is not None
