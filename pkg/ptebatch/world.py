"""What a run starts from: an address space, and the ranges of it that are to change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .errors import LayoutError, PtebatchError
from .layout import START, Layout
from .machine import Machine
from .report import prot_text
from .snapshot import Range, Snapshot

if TYPE_CHECKING:
    from .core.mm import MM
    from .rebuild import ExclusiveSpec

__all__ = ["Range", "World", "granule_of", "layout_world", "snapshot_world"]

Words: TypeAlias = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """An address space that is copied for each run, and what is to change in it.

    Parameters
    ----------
    name, note : str
        What it is, for people.
    before : str
        Protection of the ranges, as ``ptebatch.report.prot_text`` writes it.
    mm : MM
        The start; nothing runs on it.
    ranges : tuple of Range
        Each is one call of mprotect().
    tables : tuple of (int, int)
        Stretches of leaf tables, each in one array: address and entries.
    process : bool
        A snapshot of a process, not a layout; a range may then be refused.
    """

    name: str
    note: str
    before: str
    mm: MM
    ranges: tuple[Range, ...]
    tables: tuple[tuple[int, int], ...]
    process: bool = False

    @property
    def machine(self) -> Machine:
        """The machine of the address space."""
        machine: Machine = self.mm.machine
        return machine

    def views(self, mm: MM, which: Range) -> Iterator[tuple[int, Words]]:
        """Yield address and PTE words of each stretch of a range that has tables; `mm` is a copy."""
        shift = self.machine.page_shift
        for addr, nr in self.tables:
            low, high = max(addr, which.start), min(addr + (nr << shift), which.start + which.length)
            if low < high:
                yield low, mm.ptes(low, (high - low) >> shift)


def layout_world(layout: Layout, machine: Machine, before: int) -> World:
    """Return a layout as a start.

    Parameters
    ----------
    layout : Layout
    machine : Machine
    before : int
        PROT_* bits of its VMA.

    Raises
    ------
    LayoutError
        A size or pattern that does not fit, or memory that this computer has not.
    """
    length = layout.length(machine)
    try:
        mm = layout.build(machine, before)
    except MemoryError:
        raise LayoutError(f"layout {layout} does not fit in this computer's memory; give a smaller size") from None
    pages = length // machine.page_size
    where = Range(START, length, str(layout), pages)
    return World(str(layout), layout.describe(machine), prot_text(before), mm, (where,), ((START, pages),))


def snapshot_world(snapshot: Snapshot, machine: Machine, exclusive: ExclusiveSpec = "kpageflags") -> World:
    """Return a process as a start: each writable mapping is a range.

    Parameters
    ----------
    snapshot : Snapshot
    machine : Machine
        Of the snapshot's page size.
    exclusive : str or pattern
        As for ``Snapshot.build``.

    Raises
    ------
    PtebatchError
        Another page size, a pattern that is none, no writable mapping.
    """
    ranges = tuple(snapshot.writable_ranges())
    if not ranges:
        raise PtebatchError(f"{snapshot.source} has no writable mapping; there is nothing to change the protection of")
    name = f"{snapshot.meta.get('comm', 'process')} ({snapshot.meta.get('pid', 'unknown pid')})"
    mm = snapshot.build(machine, exclusive)
    return World(name, snapshot.source, "as mapped", mm, ranges, tuple(_tables(snapshot, machine)), process=True)


def granule_of(snapshot: Snapshot) -> str:
    """Return the granule with a snapshot's page size, for ``Machine``."""
    return f"{snapshot.page_size >> 10}K"


def _tables(s: Snapshot, machine: Machine) -> Iterator[tuple[int, int]]:
    """Yield the stretches of tables that have entries; `rebuild` allocates each as one."""
    tables = np.unique(s.vpn >> np.uint64(machine.pmd_order))
    for part in np.split(tables, np.flatnonzero(np.diff(tables) != 1) + 1):
        if part.size:
            yield int(part[0]) << machine.pmd_order << machine.page_shift, part.size << machine.pmd_order
