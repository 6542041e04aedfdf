"""Hardware loops: one mprotect(2) over a large uniform mapping, counted.

A test is a layout and a direction: ``T1.RW2RO``. The mapping is fresh: written
once, young, dirty, exclusive, folios aligned; the four directions follow each
other on it. Instructions are given on for cost tables (`loop_rows`), here only
counted events are compared.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..bits import PROT_NONE, PROT_READ, PROT_WRITE
from ..machine import Machine
from ..mm.mm import MM
from ..mm.result import Result
from .hardware import barriers, counts_of, entered, machine_of, tlbi_of
from .load import Node, file_list, read_json
from .report import Difference, FileReport, Paths, Report, verify_files

__all__ = ["DIRECTIONS", "LoopRow", "layout_order", "loop_rows", "verify_loops"]

_RW = PROT_READ | PROT_WRITE
#: directions in the order in which they were measured, and what they ask for
DIRECTIONS = {"RW2RO": PROT_READ, "RO2RW": _RW, "RW2NONE": PROT_NONE, "NONE2RW": _RW}
_CALIBRATIONS = {"RO": PROT_READ, "RW": _RW}

#: DSBs of timer ticks that may have fallen into a call
MAX_TICK_DSB = 5
#: entered once a call or once a table, also by others: at least the model's number
_LOOSE = ("change_protection", "pte_offset_map_lock", "flush_tlb_batched_pending")

_BASE = 1 << 40


@dataclass(frozen=True, slots=True)
class LoopRow:
    """One measured call and its replay; what a cost table is fitted to.

    Parameters
    ----------
    kernel, cpu, test : str
        As in the record.
    ptes : int
        Entries of the call.
    machine : Machine
    instructions, loads, stores : int
        Measured, of the whole call with entry and exit of the system call.
    counters : dict of str to int
        Counted by the model.
    """

    kernel: str
    cpu: str
    test: str
    ptes: int
    machine: Machine
    instructions: int
    loads: int
    stores: int
    counters: dict[str, int] = field(repr=False)


def layout_order(test: str, machine: Machine) -> int | None:
    """Folio order of a layout: T1 a table, T2 a contpte block, T3 a page, T4 half a block, T5 two blocks; None: unknown."""
    block = machine.cont_ptes.bit_length() - 1
    return {"T1": machine.pmd_order, "T2": block, "T3": 0, "T4": block - 1, "T5": block + 1}.get(test)


def _mapping(machine: Machine, ptes: int, order: int | None) -> MM:
    """Fresh mapping of `ptes` entries; None: nothing is mapped in it."""
    frames = 0 if order is None else -(-ptes // (1 << order)) << order
    mm = MM(machine, pfn_base=0, nr_pages=frames + (1 << machine.pmd_order))
    mm.mmap(_BASE, ptes << machine.page_shift, _RW)
    if order is not None:
        mm.map_folios(_BASE, ptes, order)
    return mm


class Replays:
    """Results by test, each mapping replayed once for its four directions."""

    def __init__(self) -> None:
        self._done: dict[tuple[Machine, str, int], dict[str, Result]] = {}

    def of(self, test: str, ptes: int, machine: Machine) -> Result | None:
        """Result of a test; None if its name is not known."""
        layout, _, direction = test.rpartition(".")
        order = layout_order(layout, machine)
        if layout in ("cal.mprot1page", "cal.mprot512none"):
            order, calls = 0 if layout == "cal.mprot1page" else None, _CALIBRATIONS
        elif order is not None:
            calls = DIRECTIONS
        else:
            return None
        key = (machine, layout, ptes)
        if key not in self._done:
            mm, size = _mapping(machine, ptes, order), ptes << machine.page_shift
            self._done[key] = {name: mm.mprotect(_BASE, size, prot, strategy=machine.strategy) for name, prot in calls.items()}
        return self._done[key].get(direction)


def _rows(doc: Node) -> list[tuple[Node, LoopRow, Result | None]]:
    """Rows of a file with their replays; None: a test that is not known."""
    replays, out = Replays(), []
    for node in doc.items():
        test = node.key("test").text()
        node = node.named(test)
        machine = machine_of(node)
        ptes = node.key("ptes").whole(1, 1 << 24)
        with node.guard():
            result = replays.of(test, ptes, machine)
        row = LoopRow(
            node.key("kernel").text(),
            node.key("cpu").text(),
            test,
            ptes,
            machine,
            node.key("instructions").whole(),
            node.key("loads").whole(),
            node.key("stores").whole(),
            result.counters if result is not None else {},
        )
        out.append((node, row, result))
    return out


def loop_rows(paths: Paths) -> list[LoopRow]:
    """Measured instructions beside counted events, for each call that can be replayed.

    Parameters
    ----------
    paths : list of path
        JSON, plain or gzip.

    Returns
    -------
    list of LoopRow

    Raises
    ------
    InputError
        A file that cannot be read or does not hold loops; names file and place.
    """
    return [row for path in file_list(paths) for _, row, result in _rows(read_json(path, "loops")) if result is not None]


def compare_loop(node: Node, row: LoopRow, result: Result) -> list[Difference]:
    """Quantities of one call that differ."""
    place = f"{row.kernel} {row.cpu} {row.test}"
    out = []
    tlbi, dsb = node.key("tlbi").whole(), node.key("dsb").whole()
    if tlbi != sum(tlbi_of(result).values()):
        out.append(Difference(place, "tlbi", tlbi, sum(tlbi_of(result).values())))
    if not 0 <= dsb - barriers(result) <= MAX_TICK_DSB:
        out.append(Difference(place, "dsb", f"{max(0, dsb - MAX_TICK_DSB)} to {dsb}", barriers(result)))
    theirs = counts_of(node.key("hits"))
    small = layout_order(row.test.partition(".")[0], row.machine) in (0, None)
    for name, want, got in entered(theirs, result, all_known=False):
        if small and name == "__contpte_try_fold":
            # where single pages lie in memory was not recorded
            continue
        if want < got if name in _LOOSE else want != got:
            out.append(Difference(place, name, f"at least {want}" if name in _LOOSE else want, got))
    return out


def check_loops(path: str, doc: Node) -> FileReport:
    """Replay all rows of one file."""
    rows = _rows(doc)
    report = FileReport(path, f"{len(rows)} calls", "kernel", "calls", ("tlbi", "dsb"), "functions")
    for node, row, result in rows:
        line = report.line(row.kernel, {"cpu": row.cpu, "machine": str(row.machine)})
        if result is None:
            line.skipped += 1
        else:
            line.add(compare_loop(node, row, result))
    if not any(line.total for line in report.lines):
        doc.fail("holds no call of a known test (T1.RW2RO ... T5.NONE2RW); nothing would be verified")
    return report


def verify_loops(paths: Paths) -> Report:
    """Replay loops of real kernels: TLBI and function entries exactly, DSB up to timer ticks.

    What it takes, returns and raises is as for `report.verify_files`.
    """
    return verify_files("loops", paths, check_loops, "loops")
