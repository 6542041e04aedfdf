"""Replay a recording of a real program: what its memory calls cost, by kernel and size of folios.

FILE is the text of "strace -f -e trace=memory,process -o FILE PROGRAM". The calls are made in
the model where the recording says that memory lay; --touch says which pages of what becomes
writable the program writes. A line that cannot be replayed is named, and the rest goes on.
"""

from __future__ import annotations

import argparse
import gzip
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, PtebatchError
from ..report import parse_size, size_text
from ..simulate.runs import kernel_machines
from ._print import Column, filled, progress, put, put_json, table

if TYPE_CHECKING:
    from ..workloads.replay import Cost, Replayed

EXAMPLES = """\
examples:
  strace -f -e trace=memory,process -o node.strace node app.js
  ptebatch replay node.strace
  ptebatch replay node.strace --touch all --folio 64K --kernels all
"""

KERNELS, FOLIOS = "6.12,6.18,7.3", "4K,64K,2M"
#: lines that are shown of those that were not replayed
SHOWN = 5
#: bytes of a recording at most
LIMIT = 256 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("file", metavar="FILE", help="what strace wrote, plain or .gz")
    touch = "pages that are written: all, first or none (default: first)"
    parser.add_argument("--touch", metavar="PAGES", default="first", help=touch)
    parser.add_argument("--kernels", metavar="all|A,B[,...]", default=KERNELS, help=f"(default: {KERNELS})")
    parser.add_argument("--folio", metavar="SIZE[,...]", default=FOLIOS, help=f"folios of anonymous memory (default: {FOLIOS})")
    parser.add_argument("--machine", metavar="switch=value[,...]", help="switches that all kernels have")


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    from ..workloads.replay import replay
    from ..workloads.strace import Traced, calls_of

    calls = list(calls_of(_lines(args.file)))
    if not any(isinstance(call, Traced) for call in calls):
        raise PtebatchError(f"{args.file} holds no call of strace; give what 'strace -f -e trace=memory,process -o FILE' wrote")
    machines = kernel_machines(args.kernels, args.machine or "")
    page = machines[0].page_size
    found: list[Replayed] = []
    with progress() as say:
        for size in (parse_size(part) for part in args.folio.split(",")):
            for machine in machines:
                say(f"{args.file}: {machine.release}, folios of {size_text(size)}")
                found.append(replay(calls, machine, size, args.touch))
    if args.json:
        put_json({"verb": "replay", "file": args.file, "touch": args.touch, "runs": [_plain(one) for one in found]})
    else:
        put(_text(args, found, page))
    return 0


def _lines(path: str) -> list[str]:
    try:
        data = Path(path).read_bytes()
        if data[:2] == b"\x1f\x8b":
            with gzip.open(path) as packed:
                data = packed.read(LIMIT + 1)
    except (OSError, EOFError) as e:
        raise InputError(path, "", f"cannot be read ({e}); give what strace wrote") from e
    if len(data) > LIMIT:
        raise InputError(path, "", f"is larger than {LIMIT >> 20} MiB; record a shorter run")
    return data.decode("utf-8", "replace").splitlines()


def _plain(one: Replayed) -> dict[str, object]:
    return {
        "machine": str(one.machine),
        "folio_order": one.order,
        "total": asdict(one.total()),
        "calls": {name: asdict(cost) for name, cost in one.costs.items()},
        "dearest": [{"line": line, "call": text, **asdict(cost)} for line, text, cost in one.dearest],
        "unread": [{"line": each.line, "why": each.why} for each in one.unread],
        "assumed": dict(one.assumed),
        "mapped": one.mapped,
        "folded": one.folded,
    }


_HEADS = ("faults", "TLBI", "DSB", "unfolds", "folds", "entries")


def _numbers(cost: Cost) -> list[str]:
    return [str(nr) for nr in (cost.faults, cost.tlbi, cost.dsb, cost.unfolds, cost.folds, cost.ptes)]


def _text(args: argparse.Namespace, found: list[Replayed], page: int) -> str:
    rows = []
    for one in found:
        share = f"{100 * one.folded / one.mapped:.0f}%" if one.mapped else "-"
        end = [size_text(one.mapped * page), share]
        rows.append([size_text(page << one.order), one.machine.release, *_numbers(one.total()), *end])
    heads = [Column("folio"), Column("kernel"), *(Column(head, number=True) for head in _HEADS)]
    whole = table([*heads, Column("present", number=True), Column("folded", number=True)], rows)
    last = found[-1]
    named = f"{last.machine.release}, folios of {size_text(page << last.order)}"
    costs = sorted(last.costs.items(), key=lambda row: -row[1].tlbi)
    by_call = table(
        [Column("call"), Column("times", number=True), *(Column(head, number=True) for head in _HEADS)],
        [[name, str(cost.calls), *_numbers(cost)] for name, cost in costs],
    )
    dear = table(
        [Column("line", number=True), Column("TLBI", number=True), Column("entries", number=True), Column("call", wraps=True)],
        [[str(line), str(cost.tlbi), str(cost.ptes), text] for line, text, cost in last.dearest],
    )
    parts = [
        f"{args.file}, touched: {args.touch}\n\n{whole}\n\n{filled(_said(found, page))}",
        f"{named}, by call:\n\n{by_call}",
        f"the dearest calls:\n\n{dear}",
    ]
    if last.unread:
        more = len(last.unread) - SHOWN
        lines = [filled(f"  line {each.line}: {each.why}") for each in last.unread[:SHOWN]]
        parts.append("\n".join(["not replayed:", *lines, *([f"  and {more} more; --json has all"] if more > 0 else [])]))
    said = [filled(f"  {what} ({nr} times)") for what, nr in last.assumed.items()]
    parts.append("\n".join(["assumed:", f"  of what becomes writable, pages are written: {args.touch}", *said]))
    parts.append(filled("All numbers are counted events of the model, none is a time. entries: PTEs written or exchanged."))
    return "\n\n".join(parts)


def _said(found: list[Replayed], page: int) -> str:
    """What the size of folios changes, in words: the newest kernel, the first size against each other one."""
    newest = found[-1].machine
    runs = [one for one in found if one.machine == newest]
    base = runs[0]
    said = []
    for one in runs[1:]:
        faults, tlbi = one.total().faults - base.total().faults, one.total().tlbi - base.total().tlbi
        more = size_text(abs(one.mapped - base.mapped) * page)
        memory = (
            f"{more} {'more' if one.mapped > base.mapped else 'less'} present" if one.mapped != base.mapped else "as much present"
        )
        said.append(f"folios of {size_text(page << one.order)}: {faults:+} faults, {tlbi:+} TLBIs, {memory}")
    return f"On {newest.release}, against {size_text(page << base.order)}: " + "; ".join(said or ["one size only"]) + "."
