"""Print what a change of protection does, event by event.

Every access to an entry, every TLBI and barrier, and the steps of the strategy,
in program order: a line for each step on a terminal, JSON lines in a pipe, in
the grammar of ptebatch.traces.jsonl. Several layouts, operations, strategies or
mappings are several traces, one after the other. Without a layout: one
PTE-mapped folio of 2M whose first page alone is shared.

--format casemate writes a log for the page-table checker casemate. It knows no
stage 1 tables of EL1, so it needs --as-el2: the same steps on EL2's own tables.
It takes one trace, of a machine of 4K pages.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from ..errors import MprotectError, PtebatchError
from ..mm.result import Result
from ..operations import OPERATIONS
from ..simulate.runs import REFERENCE
from ..traces import casemate, lines
from ..traces import jsonl as events
from ._options import Source, add_run_arguments, add_source_arguments, of_process, ops_of, sources, strategies_of
from ._print import filled, put, put_json

EXAMPLES = """\
examples:
  ptebatch events --layout 1/511 --op rw
  ptebatch events --layout T2:1M --op ro,rw --machine 6.17
  ptebatch events --op none --format casemate --as-el2
"""

#: without a layout, process or file
DEFAULT = "1/511"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    add_source_arguments(parser, default=DEFAULT)
    add_run_arguments(parser, op="ro,rw", strategy=f"{REFERENCE}, the design in Linux 6.17")
    form = parser.add_argument_group("how to print it")
    form.add_argument(
        "--format",
        choices=["text", "jsonl", "casemate"],
        help="lines for people, JSON lines, or a log for casemate (default: text on a terminal, else jsonl)",
    )
    form.add_argument("--as-el2", action="store_true", help="for casemate: the same steps on stage 1 tables of EL2")


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    form = args.format or ("text" if sys.stdout.isatty() else "jsonl")
    if args.json and args.format not in (None, "jsonl"):
        raise PtebatchError(f"--json and --format {args.format} do not go together; give one of them")
    if args.as_el2 and args.format != "casemate":
        raise PtebatchError("--as-el2 is for casemate; use it with --format casemate")
    if args.layout is None and args.folio is None and not of_process(args):
        args.layout = DEFAULT
    strategies = strategies_of(args, [REFERENCE])
    given = sources(args)
    # assumptions and losses too: JSON lines have no room for them
    notes = [*given[0].world.machine.notes(), *(text for one in given for text in (*one.assumed, *one.unknown, *one.lost))]
    traced = (result for source in given for name in strategies for result in _results(source, name, ops_of(args)))
    if not args.json and form != "text":
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
    if args.json:
        put_json({"verb": "events", "notes": notes, "traces": [events.to_dict(result) for result in traced]})
    elif form == "text":
        for note in notes:
            put(filled(f"note: {note}"))
        for result in traced:
            for line in lines.write(result):
                put(line)
    elif form == "casemate":
        first, second = next(traced), next(traced, None)
        if second is not None:
            raise PtebatchError("--format casemate takes one trace; give one layout, one --op and one --strategy")
        casemate.write(first, sys.stdout, as_el2=args.as_el2)
    else:
        for result in traced:
            events.write(result, sys.stdout)
    return 0


def _results(source: Source, strategy: str, ops: tuple[str, ...]) -> Iterator[Result]:
    """The traced calls, one at a time; of a process, a refused call up to where it stopped."""
    mm = source.world.mm.copy()
    for op in ops:
        for r in source.world.ranges:
            try:
                yield OPERATIONS[op].perform(mm, r.start, r.length, strategy=strategy, trace=True)
            except MprotectError as e:
                if not source.world.process:
                    raise
                yield e.result
