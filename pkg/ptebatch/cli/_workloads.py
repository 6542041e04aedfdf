"""What `compare --workload` prints: a row for each kernel and size of folios, and how folding decays."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from ..errors import PtebatchError
from ..report import parse_size, size_text
from ..simulate.runs import kernel_machines
from ..workloads import Lived, parse, run_workload
from ._print import Column, put, put_csv, put_json, table

__all__ = ["compare_workload"]

#: the kernels between which most changed
KERNELS = "6.12,6.16,6.18,7.3"
FOLIOS = "4K,64K,2M"

_COLUMNS = (
    Column("folio"),
    Column("kernel"),
    Column("calls", number=True),
    Column("faults", number=True),
    Column("copied", number=True),
    Column("unfolds", number=True),
    Column("folds", number=True),
    Column("TLBI", number=True),
    Column("DSB", number=True),
    Column("folded after each round"),
)

#: options of compare that say what a call starts from or how it is made
NOT_FOR_WORKLOADS = (
    "layout", "pid", "file", "maps", "fork", "size", "range", "from", "pae", "exclusive", "unknown", "save", "strategy", "all",
    "table", "whole", "assumed",
)  # fmt: skip
_NAMES = {"range": "ranges", "from": "before"}

NOTE = """\
All numbers are counted events of the model, none is a time. folded: share of the
memory that is mapped by folded contpte blocks or by PMD entries, at the start and
after each round. The programs run on the reference, the slow form of the model."""


def compare_workload(args: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Run a workload on every kernel and with every size of folios, and print it."""
    check(args)
    row, values = parse(args.workload)
    machines = kernel_machines(args.kernels or KERNELS, args.machine or "")
    page = machines[0].page_size
    sizes = [parse_size(part) for part in (args.folio or FOLIOS).split(",")]
    lived: list[Lived] = []
    for size in sizes:
        for machine in machines:
            say(f"{args.workload}: {machine.release}, folios of {size_text(size)}")
            lived.append(run_workload(args.workload, machine, 0 if size == page else size, 0))
    if args.json:
        put_json({"verb": "compare", "workload": args.workload, "runs": [each.to_dict() for each in lived]})
    elif args.csv:
        put_csv([_flat(each) for each in lived])
    else:
        shown = ", ".join(f"{key}={size_text(v) if row.parameters[key].size else v}" for key, v in values.items())
        rows = table(_COLUMNS, [_cells(each, page) for each in lived])
        put(f"{row.name}: {row.summary}\n{shown}\n\n{rows}\n\n{_said(lived, page)}\n{NOTE}")


def _cells(one: Lived, page: int) -> list[str]:
    c = one.counters
    numbers = (sum(one.calls.values()), c.get("faults", 0), c.get("wp_page_copy", 0), c["unfolds"], c["folds"], one.tlbi, one.dsb)
    shares = " ".join(f"{100 * each.share:.0f}%" for each in one.rounds)
    return [size_text(page << one.order), one.machine.release, *map(str, numbers), shares]


def _flat(one: Lived) -> dict[str, object]:
    plain = {"workload": one.name, "machine": str(one.machine), "folio_order": one.order, "calls": sum(one.calls.values())}
    return plain | {"signals": one.signals, "tlbi": one.tlbi, "dsb": one.dsb} | one.counters


def _said(lived: Sequence[Lived], page: int) -> str:
    """The verdict in words: which kernel needs most flushes with the folios that differ most, and what is left folded."""
    by_order: dict[int, list[Lived]] = {}
    for each in lived:
        by_order.setdefault(each.order, []).append(each)
    order, runs = max(by_order.items(), key=lambda item: max(r.tlbi for r in item[1]) - min(r.tlbi for r in item[1]))
    most, least = max(runs, key=lambda r: r.tlbi), min(runs, key=lambda r: r.tlbi)
    size = size_text(page << order)
    if most.tlbi == least.tlbi:
        return "No kernel needs other TLBIs than the others."
    left = ""
    if most.rounds[-1].share != least.rounds[-1].share:
        shares = [f"{100 * each.rounds[-1].share:.0f} %" for each in (most, least)]
        left = f"; {shares[0]} are left folded on the former, {shares[1]} on the latter"
    return f"Folios of {size}: {most.machine.release} issues {most.tlbi} TLBIs, {least.machine.release} {least.tlbi}{left}."


def check(args: argparse.Namespace) -> None:
    """Refuse options that a workload has no use for."""
    for option in NOT_FOR_WORKLOADS:
        if getattr(args, _NAMES.get(option, option), None) not in (None, False):
            raise PtebatchError(
                f"--{option} is for one call and what it starts from; leave it out, --workload makes its own memory"
            )
