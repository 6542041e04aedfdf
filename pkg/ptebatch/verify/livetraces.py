"""Traces of calls in living address spaces: stores and exchanges, TLBI and DSB of each, in order.

A file holds the measured calls of scripts, one window each. What a script does besides, its
begin and what the child does, is in `BETWEEN`. An exchange shows as its store. Plain reads
are not compared: how often a fault or a reverse map looks at an entry is the compiler's business.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence

from ..machine import Machine
from .hardware import is_tlbi, machine_of
from .live import WHOLE_PROCESS, call_of
from .load import Node
from .report import Difference, FileReport, Paths, Report, verify_files
from .script import Call, Script

__all__ = ["verify_live_traces"]

#: a table's first entry: scripts begin as far behind it as `idx` of their windows says
TABLE = 0xFFFF_9000_0000

#: calls that are not measured: story -> after so many windows -> process, call, page
BETWEEN: Mapping[str, Mapping[int, Sequence[tuple[str, str, int]]]] = {
    "fork": {5: (("child", "write", 34), ("child", "read", 2), ("parent", "child_exit", 0))},
    "fork_part": {5: (("parent", "child_exit", 0),)},
    "ro_fork": {5: (("parent", "child_exit", 0),)},
}

#: functions in which barriers are seen that are not the call's, and why
NOT_THE_CALLS: Mapping[str, str] = {
    "gic_handle_irq": "the interrupt of a timer begins with a barrier of the full system",
    "__switch_to": "another task ran behind it; a switch waits for what the task before it issued",
}

Event = tuple[str, int | None]

_STORES = ("W", "X", "C")
_BARRIERS = {"DSB ISHST": "DSB #10", "DSB ISH": "DSB #11", "DSB NSHST": "DSB #6", "DSB NSH": "DSB #7"}


class _Windows:
    """The windows of one script."""

    def __init__(self, scenario: str, machine: Machine, kib: int, first: int) -> None:
        self.script = Script(scenario, machine)
        self.story = scenario.partition("_")[2]
        self.done = 0
        self.begin = self.va = TABLE + first * machine.page_size
        self.script.make(self.script.parent, Call("begin", self.va, 512 * machine.page_size, kib, self.va))

    def window(self, node: Node) -> list[Difference]:
        """Replay one window."""
        script = self.script
        call = call_of(node, script.machine.page_size, self.va)
        name = f"{script.scenario}, window {self.done} ({call.name})"
        ret = script.make(script.parent, call)
        out = [] if ret == node.key("ret").value else [Difference(name, "ret", node.key("ret").value, ret)]
        flushes = call.name not in WHOLE_PROCESS
        out += _first(name, _recorded(node, flushes=flushes), self._events(call, flushes=flushes))
        if call.name == "mremap":
            # from here on pages are counted from where the mapping went
            self.va += (call.arg - (call.start - call.va) // script.machine.page_size) * script.machine.page_size
        self.done += 1
        for proc, between, page in BETWEEN.get(self.story, {}).get(self.done, ()):
            who = script.process(proc, between)
            assert who is not None
            at = self.begin + page * script.machine.page_size
            script.make(who, Call(between, at, script.machine.page_size, 0, self.begin))
        return out

    def _events(self, call: Call, *, flushes: bool) -> list[Event]:
        mm = self.script.parent.mm
        out: list[Event] = []
        here, there = mm.table_start(call.start), mm.table_start(call.va + call.arg * mm.page_size)
        for kind, addr, _, child in self.script.events:
            if kind in _STORES:
                table = mm.table_start(addr)
                if call.name == "mremap" and table not in (here, there):
                    # a third table was not watched
                    continue
                where = ":child" if child else ":to" if table != here and call.name == "mremap" else ""
                out.append(("W" + where, mm.pte_index(addr)))
            elif flushes and kind in _BARRIERS:
                out.append((_BARRIERS[kind], None))
            elif flushes and is_tlbi(kind):
                out.append((f"TLBI {kind}", None))
        return out


def _recorded(node: Node, *, flushes: bool) -> list[Event]:
    out: list[Event] = []
    for item in node.key("events").items():
        kind = item.at(0).text()
        if kind.startswith("W"):
            out.append((kind, item.at(1).whole()))
        elif flushes and kind.startswith(("TLBI ", "DSB ")) and item.at(2).value not in NOT_THE_CALLS:
            out.append((kind, None))
    return out


def _first(name: str, theirs: Sequence[Event], ours: Sequence[Event]) -> list[Difference]:
    """The first event that differs."""
    for i in range(max(len(theirs), len(ours))):
        want, got = (side[i] if i < len(side) else None for side in (theirs, ours))
        if want != got:
            return [Difference(f"{name}, event {i} of {len(theirs)}", "events", _show(want), _show(got))]
    return []


def _show(event: Event | None) -> str:
    if event is None:
        return "the end"
    return event[0] if event[1] is None else f"{event[0]} {event[1]}"


def _scripts(windows: Sequence[Node]) -> Iterator[list[Node]]:
    """Windows script by script."""
    group: list[Node] = []
    for node in windows:
        if group and node.key("scenario").text() != group[0].key("scenario").text():
            yield group
            group = []
        group.append(node)
    if group:
        yield group


def _named(path: str, doc: Node) -> Node:
    """Kernel and CPU, which only the name of a file tells: ``KERNEL.CPU.livetrace.json.gz``."""
    m = re.match(r"(\d+\.\d+(?:-\d+k)?)\.(\w+)\.", os.path.basename(path))
    if m is None:
        doc.fail("says nothing of its kernel; its name must begin with KERNEL.CPU, such as 7.3.max")
    return Node(path, "its name", {"kernel": m[1], "cpu": m[2]})


def check_live_traces(path: str, doc: Node) -> FileReport:
    """Replay all windows of one file."""
    windows = doc.some("window")
    report = FileReport(path, f"{len(windows)} windows", "kernel", "windows", ("ret", "events"), "")
    who = _named(path, doc)
    machine = machine_of(who)
    line = report.line(who.key("kernel").text(), {"cpu": who.key("cpu").text(), "machine": str(machine)})
    block = machine.cont_ptes * machine.page_size // 1024
    for group in _scripts(windows):
        first = group[0].key("idx").whole() - group[0].key("first").whole()
        if not 0 <= first < machine.ptrs_per_pte:
            group[0].key("idx").wrong(f"the index in its leaf table of page {group[0].key('first').whole()}")
        replay = _Windows(group[0].key("scenario").text(), machine, block, first)
        for node in group:
            with node.guard():
                line.add(replay.window(node))
    return report


def verify_live_traces(paths: Paths) -> Report:
    """Replay traces of calls in living address spaces of real kernels.

    What it takes, returns and raises is as for `report.verify_files`.
    """
    return verify_files("live traces", paths, check_live_traces, "live-traces")
