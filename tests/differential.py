"""One start state and one call for core and reference, and the comparison of what they did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np

from ptebatch import MM
from ptebatch.events import KINDS
from ptebatch.machine import Machine
from ptebatch.reference import RefMM

BASE = 0x4000_0000_0000
PFN = 0x1000


@dataclass
class World:
    """A start state and a call, as plain values."""

    machine: Machine
    folios: list[tuple[int, int, bool, bool, bool]] = field(default_factory=list)
    exclusive: list[int] = field(default_factory=list)
    tables: list[list[int] | None] = field(default_factory=list)
    start: int = 0
    nr: int = 1
    call: dict[str, Any] = field(default_factory=dict)

    @property
    def table_bytes(self) -> int:
        return self.machine.ptrs_per_pte * self.machine.page_size

    def present(self) -> Iterator[tuple[int, list[int]]]:
        for i, table in enumerate(self.tables):
            if table is not None:
                yield BASE + i * self.table_bytes, table

    def core(self) -> MM:
        mm = MM(self.machine, nr_pages=4096, pfn_base=PFN)
        self._frames(mm)
        for addr, table in self.present():
            mm.populate(addr, self.table_bytes)
            mm.leaf(addr)[:] = np.array(table, np.uint64)
        return mm

    def reference(self) -> RefMM:
        mm = RefMM(self.machine)
        self._frames(mm)
        for addr, table in self.present():
            mm.populate(addr, self.table_bytes)
            for i, word in enumerate(table):
                mm.ptes[addr + i * self.machine.page_size] = word
        return mm

    def _frames(self, mm: Any) -> None:
        for head, order, anon, numa_skip, mapped_shared in self.folios:
            mm.set_folio(head, order, anon=anon, numa_skip=numa_skip, mapped_shared=mapped_shared)
        for pfn in self.exclusive:
            mm.set_page_anon_exclusive(pfn, 1)


# Comparison

Event = tuple[str, int, int]


def core_events(trace: np.ndarray) -> list[Event]:
    return normal([(KINDS[int(kind)], int(addr), int(value)) for kind, addr, value in trace])


def normal(events: list[Event]) -> list[Event]:
    """Drop what an event's number does not mean: where a lock is given back, the address of a barrier."""
    out: list[Event] = []
    for kind, addr, value in events:
        # The REPEAT_TLBI workaround's second VALE1IS follows a barrier and is for no address in particular.
        repeated = kind == "VALE1IS" and out and out[-1][0] == "DSB ISH"
        if kind.startswith("DSB") or kind == "ASIDE1IS" or repeated:
            addr = value = 0
        if kind != "UNLOCK":
            out.append((kind, addr, int(bool(value)) if kind == "PAE" else value))
    return out


def first_difference(trace: np.ndarray, seen: list[Event]) -> tuple[int, Event | None, Event | None] | None:
    events = zip_longest(core_events(trace), normal(seen))
    return next(((i, ours, theirs) for i, (ours, theirs) in enumerate(events) if ours != theirs), None)


def outcome(result: Any) -> dict[str, Any]:
    return {
        "pages": result.pages,
        **{f"counter {name}": value for name, value in result.counters.items()},
        "batches": [list(run) for run in result.batches],
        "subs": [list(run) for run in result.subs],
        "flushes": [tuple(each) for each in result.flushes],
        "gathers": [tuple(each) for each in result.gathers],
    }


def different(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    assert one.keys() == other.keys()
    return {key: (one[key], other[key]) for key in one if one[key] != other[key]}


def compare(world: World, core_strategy: Any, reference_strategy: Any) -> None:
    core, reference = world.core(), world.reference()
    seen: list[Event] = []
    plain, bare = core.copy(), core.copy()
    got = core.change_protection(world.start, world.nr, strategy=core_strategy, trace=True, **world.call)
    want = reference.change_protection(
        world.start, world.nr, strategy=reference_strategy, observer=lambda *each: seen.append(each), **world.call
    )
    differences = different(outcome(got), outcome(want))
    assert not differences, differences
    for addr, _ in world.present():
        page = world.machine.page_size
        words = [reference.ptes[addr + i * page] for i in range(world.machine.ptrs_per_pte)]
        wrong = [(i, hex(w), hex(r)) for i, (w, r) in enumerate(zip(core.leaf(addr).tolist(), words, strict=True)) if w != r]
        assert not wrong, f"words of {addr:#x}: {wrong}"
    wrong_event = first_difference(got.trace, seen)
    assert wrong_event is None, f"event {wrong_event}"
    compare_untraced(world, core_strategy, core, got, plain, record=True)
    compare_untraced(world, core_strategy, core, got, bare, record=False)


def compare_untraced(world: World, strategy: Any, core: MM, got: Any, other: MM, *, record: bool) -> None:
    """Without a trace the core may take shortcuts; nothing but the trace may tell."""
    result = other.change_protection(world.start, world.nr, strategy=strategy, record=record, **world.call)
    kept = outcome(got)
    if not record:
        kept |= {"batches": [], "subs": [], "flushes": [], "gathers": []}
    differences = different(outcome(result), kept)
    assert not differences, f"untraced, record={record}: {differences}"
    for addr, _ in world.present():
        assert np.array_equal(other.leaf(addr), core.leaf(addr)), f"untraced, record={record}: words of {addr:#x}"
