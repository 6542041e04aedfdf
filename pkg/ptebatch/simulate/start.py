"""What a run starts from: an address space, and the ranges of it that are to change."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..bits import PTE_NG, PTE_VALID
from ..errors import LayoutError, PtebatchError
from ..layouts.named import START, Layout
from ..machine import Machine
from ..operations import protection_text
from ..report import count_text
from ..snapshot import Range, Snapshot, build, ranges_of, unknown_of

if TYPE_CHECKING:
    from ..mm.mm import MM
    from ..snapshot.rebuild import ExclusiveSpec

__all__ = ["UNKNOWN", "Range", "World", "granule_of", "layout_world", "snapshot_world", "with_ranges"]

#: how what is unknown of a process is taken: at one end, or at both
UNKNOWN = ("both", "shared", "exclusive")

#: calls that `with_ranges` makes of one text at most
MOST_RANGES = 1 << 16
_NUMBER = re.compile("(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,12})?")

Words: TypeAlias = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """An address space that is copied for each run, and what is to change in it.

    Parameters
    ----------
    name, note : str
        What it is, for people.
    before : str
        Protection of the ranges, as ``ptebatch.operations.protection_text`` writes it.
    mm : MM
        The start; nothing runs on it.
    ranges : tuple of Range
        Each is one call of mprotect().
    tables : tuple of (int, int)
        Stretches of leaf tables, each in one array: address and entries.
    process : bool
        A snapshot of a process, not a layout; a range may then be refused.
    unknown : str
        Of a process, how what /proc does not show is taken, one of `UNKNOWN`; ``both``:
        `mm` is the end at which no such page is exclusive, `other` that at which each is.
        Empty: nothing is unknown.
    other : MM, optional
    parts : bool
        `ranges` are not those of the layout or process, but were asked for.
    """

    name: str
    note: str
    before: str
    mm: MM
    ranges: tuple[Range, ...]
    tables: tuple[tuple[int, int], ...]
    process: bool = False
    unknown: str = ""
    other: MM | None = None
    parts: bool = False

    @property
    def machine(self) -> Machine:
        """The machine of the address space."""
        machine: Machine = self.mm.machine
        return machine

    def ends(self) -> tuple[World, ...]:
        """The worlds between which what is unknown lies: one, or two."""
        if self.other is None:
            return (self,)
        return replace(self, other=None, unknown="shared"), replace(self, mm=self.other, other=None, unknown="exclusive")

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
    return World(str(layout), layout.describe(machine), protection_text(before), mm, (where,), ((START, pages),))


def snapshot_world(snapshot: Snapshot, machine: Machine, exclusive: ExclusiveSpec = "kpageflags", unknown: str = "both") -> World:
    """Return a process as a start: each writable mapping is a range.

    Parameters
    ----------
    snapshot : Snapshot
    machine : Machine
        Of the snapshot's page size.
    exclusive : str or pattern
        As for ``ptebatch.snapshot.build``.
    unknown : str
        How that is taken which /proc does not show, one of `UNKNOWN`.

    Raises
    ------
    PtebatchError
        Another page size, a pattern that is none, no writable mapping.
    """
    if unknown not in UNKNOWN:
        raise LayoutError(f"unknown={unknown!r} is no way to take what is unknown; give one of {', '.join(UNKNOWN)}")
    is_open = unknown_of(snapshot, exclusive)
    ranges = tuple(ranges_of(snapshot, is_open))
    if not ranges:
        raise PtebatchError(f"{snapshot.source} has no writable mapping; there is nothing to change the protection of")
    name = f"{snapshot.meta.get('comm', 'process')} ({snapshot.meta.get('pid', 'unknown pid')})"
    mm = build(snapshot, machine, exclusive, "exclusive" if unknown == "exclusive" else "shared")
    other = build(snapshot, machine, exclusive, "exclusive") if is_open and unknown == "both" else None
    tables = tuple(_tables(snapshot, machine))
    return World(name, snapshot.source, "current protection", mm, ranges, tables, True, unknown if is_open else "", other)


def with_ranges(world: World, text: str) -> World:
    """Return a world with other ranges to change.

    Parameters
    ----------
    world : World
    text : str
        Parts separated by commas. ``A:B``: pages A to B - 1; ``A``: one page; ``A:B:S``: every
        S-th page of them, a call each; A and B may be left out. Pages count from the start of a
        layout; with ``0x`` they are addresses, and for a process they must be.

    Returns
    -------
    World

    Raises
    ------
    LayoutError
        No such range, one beyond the layout, or above `MOST_RANGES` calls.
    """
    size = world.machine.page_size
    found: list[Range] = []
    for part in text.split(","):
        for low, high in _cut(world, part.strip()):
            pages = _present(world, low, high)
            found.append(Range(low, high - low, f"{_name_at(world, low)}[{part.strip()}]", pages))
            if len(found) > MOST_RANGES:
                raise LayoutError(f"range {text!r} is above {MOST_RANGES} calls; give a larger step, or fewer parts")
    known = {r.start: r for r in world.ranges}
    whole = len(found) == 1 and found[0].start in known and known[found[0].start].length == found[0].length
    changed = sum(r.length for r in found) // size
    note = f"{world.note}; {len(found)} call{'s' * (len(found) > 1)}, {count_text(changed)} page{'s' * (changed > 1)} in all"
    return replace(world, ranges=tuple(found), note=world.note if whole else note, parts=True)


def _cut(world: World, part: str) -> Iterator[tuple[int, int]]:
    """Addresses of the calls that one part of a text says."""
    size, first = world.machine.page_size, world.ranges[0]
    fields = part.split(":")
    if not 1 <= len(fields) <= 3 or not part or not all(_NUMBER.fullmatch(field) for field in fields):
        raise LayoutError(f"range {part!r} is not A:B, A, or A:B:STEP; give pages, or addresses that begin with 0x")

    def place(field: str, otherwise: int) -> int:
        if not field:
            if world.process:
                raise LayoutError(
                    f"range {part!r} of a process has no end; give two addresses, such as 0x7f0000000000:0x7f0000010000"
                )
            return otherwise
        if field.lower().startswith("0x"):
            return int(field, 16)
        if world.process:
            raise LayoutError(f"range {part!r} of a process gives a page; give addresses, which begin with 0x")
        return first.start + int(field) * size

    low = place(fields[0], first.start)
    high = place(fields[1], first.start + first.length) if len(fields) > 1 else low + size
    step = int(fields[2], 0) if len(fields) == 3 and fields[2] else 0
    if low % size or high % size or not low < high:
        raise LayoutError(f"range {part!r} is [{low:#x}, {high:#x}); give whole pages of {size} bytes, the first below the last")
    if not world.process and not first.start <= low < high <= first.start + first.length:
        raise LayoutError(f"range {part!r} leaves the layout's {first.length // size} pages; stay within them")
    if not step:
        yield low, high
    for at in range(low, high, step * size) if step else ():
        yield at, at + size


def _present(world: World, low: int, high: int) -> int:
    where = Range(low, high - low, "", 0)
    mask = np.uint64(PTE_VALID | PTE_NG)
    return sum(int(np.count_nonzero(words & mask)) for _, words in world.views(world.mm, where))


def _name_at(world: World, addr: int) -> str:
    return next((r.name for r in world.ranges if r.start <= addr < r.start + r.length), "")


def granule_of(snapshot: Snapshot) -> str:
    """Return the granule with a snapshot's page size, for ``Machine``."""
    return f"{snapshot.page_size >> 10}K"


def _tables(s: Snapshot, machine: Machine) -> Iterator[tuple[int, int]]:
    """Yield the stretches of tables that have entries; `rebuild` allocates each as one."""
    tables = np.unique(s.vpn >> np.uint64(machine.pmd_order))
    for part in np.split(tables, np.flatnonzero(np.diff(tables) != 1) + 1):
        if part.size:
            yield int(part[0]) << machine.pmd_order << machine.page_shift, part.size << machine.pmd_order
