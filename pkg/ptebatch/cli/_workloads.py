"""What `compare --workload` prints: a row for each kernel and size of folios, and how folding decays."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from ..bits import PROT_READ, PROT_WRITE
from ..counters import dsb, entries, tlbi
from ..errors import PtebatchError
from ..layouts import get_layout
from ..operations import parse_protection
from ..report import parse_size, size_text
from ..simulate.runs import kernel_machines
from ..workloads import CALLS, Called, Lived, call_layout, parse, parse_calls, run_workload
from ._print import Column, filled, put, put_csv, put_json, table

__all__ = ["asks_calls", "compare_calls", "compare_workload"]

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
    Column("present", number=True),
    Column("folded", wraps=True),
)

#: options of compare that say what a call starts from or how it is made
NOT_FOR_WORKLOADS = (
    "layout", "pid", "file", "maps", "fork", "size", "range", "from", "pae", "exclusive", "unknown", "save", "strategy", "all",
    "table", "whole", "assumed",
)  # fmt: skip
_NAMES = {"range": "ranges", "from": "before"}

NOTE = """\
All numbers are counted events of the model, none is a time. present: at most.
folded: share of it in folded contpte blocks or under PMD entries, at the start
and after each round. Columns of zeros are left out. The programs run on the
reference, the slow form of the model."""


def compare_workload(args: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Run a workload on every kernel and with every size of folios, and print it."""
    _refuse(args, NOT_FOR_WORKLOADS, "is for one call and what it starts from", ", --workload makes its own memory")
    row, values = parse(args.workload)
    machines = kernel_machines(args.kernels or KERNELS, args.machine or "")
    page = machines[0].page_size
    lived: list[Lived] = []
    for size in map(parse_size, (args.folio or FOLIOS).split(",")):
        for machine in machines:
            say(f"{args.workload}: {machine.release}, folios of {size_text(size)}")
            lived.append(run_workload(args.workload, machine, size))
    if args.json:
        put_json({"verb": "compare", "workload": args.workload, "runs": [each.to_dict() for each in lived]})
    elif args.csv:
        put_csv([_flat(each) for each in lived])
    else:
        shown = ", ".join(f"{key}={size_text(v) if row.parameters[key].size else v}" for key, v in values.items())
        rows = _without_zeros([_cells(each, page) for each in lived])
        put(f"{filled(f'{row.name}: {row.summary}')}\n{filled(shown)}\n\n{rows}\n\n{filled(_said(lived, page))}\n{NOTE}")


def _without_zeros(rows: list[list[str]]) -> str:
    """The table, without columns in which nothing was counted: it is to fit a terminal."""
    keep = [i for i in range(len(_COLUMNS)) if any(row[i] != "0" for row in rows)]
    return table([_COLUMNS[i] for i in keep], [[row[i] for i in keep] for row in rows])


def _cells(one: Lived, page: int) -> list[str]:
    c = one.counters
    numbers = (sum(one.calls.values()), c.get("faults", 0), c.get("wp_page_copy", 0), c["unfolds"], c["folds"], one.tlbi, one.dsb)
    shares = " ".join(f"{100 * each.share:.0f}" for each in one.rounds) + "%"
    present = size_text(max(each.mapped for each in one.rounds) * page)
    return [size_text(page << one.order), one.machine.release, *map(str, numbers), present, shares]


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


# ---- single calls ----

#: size of a layout that does not say one: the model of these calls is the slow one
CALL_SIZE = 16 << 20
_CALL_COLUMNS = (
    Column("layout"),
    Column("call"),
    Column("kernel"),
    *(Column(head, number=True) for head in ("faults", "reads", "writes", "unfolds", "folds", "TLBI", "DSB")),
    Column("folded", number=True),
)
_NOT_FOR_CALLS = (
    "pid", "file", "maps", "fork", "range", "exclusive", "unknown", "save", "strategy", "all", "table", "whole", "assumed",
)  # fmt: skip


def asks_calls(args: argparse.Namespace) -> bool:
    """Whether --op names a call of the living model."""
    return any(part.strip().lower() in CALLS for part in args.op.split(","))


def compare_calls(args: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Make the calls of --op on each layout and kernel, and print what each cost."""
    _refuse(args, _NOT_FOR_CALLS, "goes with ro, rw and none only", f" of --op {args.op}")
    calls = parse_calls(args.op)
    machines = kernel_machines(args.kernels or KERNELS, args.machine or "")
    size = parse_size(args.size) if args.size is not None else CALL_SIZE
    names = [f"folio={part.strip()}" for part in args.folio.split(",")] if args.folio else (args.layout or "T1,T2,T3").split(",")
    before = parse_protection(args.before) if args.before else PROT_READ | PROT_WRITE
    found: list[tuple[str, Called]] = []
    for name in names:
        layout = get_layout(name + (f":pae={args.pae}" if args.pae else ""), size)
        for machine in machines:
            say(f"{layout}: {machine.release}")
            found += [(str(layout), one) for one in call_layout(layout, machine, calls, before)]
    # call by call, kernels side by side
    order = {name: i for i, name in enumerate(dict.fromkeys(name for name, _ in found))}
    steps = {call.name: i for i, call in enumerate(calls)}
    found.sort(key=lambda row: (order[row[0]], steps[row[1].op]))
    rows = [
        [name, one.op, one.machine.release, *map(str, _cost(one)[1:]), f"{100 * one.after.share:.0f}%"] for name, one in found
    ]
    if args.json:
        heads = ("times", "faults", "pte_reads", "entries", "unfolds", "folds", "tlbi", "dsb")
        runs = [
            {"layout": name, "call": one.op, "machine": str(one.machine)}
            | dict(zip(heads, _cost(one), strict=True))
            | {"folded": one.after.share, "counters": one.counters}
            for name, one in found
        ]
        put_json({"verb": "compare", "op": args.op, "runs": runs})
    elif args.csv:
        put_csv([{"layout": name, "call": one.op, "machine": str(one.machine)} | one.counters for name, one in found])
    else:
        put(f"{table(_CALL_COLUMNS, rows)}\n\n{NOTE_CALLS}")


NOTE_CALLS = """\
Each kernel with its own loop. reads: of PTEs. writes: PTEs stored or
exchanged. folded: share of what is mapped then. All numbers are counted events
of the model, none is a time."""


def _cost(one: Called) -> tuple[int, ...]:
    c = one.counters
    return (
        one.calls,
        c.get("faults", 0),
        c.get("pte_reads", 0),
        entries(c),
        c.get("unfolds", 0),
        c.get("folds", 0),
        tlbi(c),
        dsb(c),
    )


def _refuse(args: argparse.Namespace, options: Sequence[str], why: str, where: str) -> None:
    """Refuse options that are given and that there is no use for."""
    for option in options:
        if getattr(args, _NAMES.get(option, option), None) not in (None, False):
            raise PtebatchError(f"--{option} {why}; leave it out{where}")
