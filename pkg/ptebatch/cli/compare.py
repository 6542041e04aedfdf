"""Run one change of protection by several strategies from the same start.

Prints what each strategy counted, and in which PTE bits its result differs
from that of the design in Linux 6.17 (folio). Without arguments: what batching
saves by folio size, and where the designs part. All numbers are counted events
of the model, none is a time.

Of a process, each writable mapping is one call; the sum of all is shown, and
the largest mappings; --table shows every design on these, --whole only the sum.
It needs CAP_SYS_ADMIN, or root, for frames and page flags, and CAP_SYS_PTRACE
for a process of somebody else.

--kernels puts kernels side by side instead, each with its own loop, or all with
the one that --strategy names; the first is what the others are compared with.
--machine then gives the switches that all have, without a kernel.
--op takes fork, write, munmap, dontneed and more as well ('ptebatch list calls'):
each kernel makes them with its own loop, on layouts of 16M if no size is given.
Exit status 1: final PTEs differ in what sound loops may not differ in (false as
"equivalent" in JSON); accessed, dirty and CONT bits alone are no difference.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ..errors import PtebatchError
from ..layouts import Layout
from ..machine import Machine
from ..operations import OPERATIONS
from ..simulate.comparison import Comparison, total
from ..simulate.runs import compare, kernel_machines, kernel_rows
from ..simulate.start import World
from ..snapshot import Snapshot
from ..strategies import STRATEGIES
from ._brief import brief, show_assumed
from ._first import first_screen
from ._options import Source, add_run_arguments, add_source_arguments, of_process, ops_of, source, sources, starts, strategies_of
from ._print import progress, put, put_csv, put_json
from ._tables import LEGEND, by_op, full_tables, shown

EXAMPLES = """\
examples:
  ptebatch compare
  ptebatch compare --layout alternating,1/511 --op rw --strategy lookahead,folio
  ptebatch compare --layout T2:64M --pae random:0.9 --op rw --all
  ptebatch compare --layout T1 --machine 6.17,bbml=2 --json
  ptebatch compare --pid demo --op ro --whole
  ptebatch compare --kernels all --layout T2
  ptebatch compare --kernels 6.12,6.18 --op rw --machine granule=16K
  ptebatch compare --op fork,write --layout T2 --kernels 6.12,6.16
  ptebatch compare --workload jit-page,patched=10 --kernels 6.16,7.3 --folio 64K
"""


#: what is done if nothing else is said
OPS = "ro,rw"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    add_source_arguments(parser, unknown="both")
    add_run_arguments(parser, op=OPS, strategy="all that are not flawed")
    parser.add_argument("--all", action="store_true", help="every strategy, the flawed ones too")
    kernels = "compare kernels, each with its own loop, instead of strategies"
    parser.add_argument("--kernels", metavar="all|A,B[,...]", help=kernels)
    workload = "a program instead of one call, by kernel and --folio; see 'ptebatch list workloads'"
    parser.add_argument("--workload", metavar="NAME[,parameter=value...]", help=workload)
    parser.add_argument("--table", action="store_true", help="every number of every strategy, unabridged")
    parser.add_argument("--explain", action="store_true", help="what the words and columns mean")
    parser.add_argument(
        "--assumed", action="store_true", help="of a process: what was taken for granted, what is unknown or lost"
    )
    parser.add_argument("--csv", action="store_true", help="a line for each row, with every counter")
    parser.add_argument("--whole", action="store_true", help="of a process: the sum over its writable mappings only")


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    if args.workload is not None or any(part.strip().lower() not in OPERATIONS for part in args.op.split(",")):
        # the living model is loaded only for those who ask for it
        from ._workloads import asks_calls, compare_calls, compare_workload

        made = compare_workload if args.workload is not None else compare_calls if asks_calls(args) else None
        if made is not None:
            with progress() as say:
                made(args, say)
            return 0
    every = [name for name, s in STRATEGIES.items() if args.all or not s.flawed]
    if args.all and args.strategy is not None:
        raise PtebatchError(f"--strategy {args.strategy} and --all do not go together; give one of them")
    if args.whole and not of_process(args):
        raise PtebatchError("--whole sums up the mappings of a process; use it with --pid or --file")
    if args.assumed and not of_process(args):
        raise PtebatchError("--assumed lists what is assumed of a process; use it with --pid or --file")
    if sum((args.table, args.csv, args.json)) > 1:
        raise PtebatchError("--table, --csv and --json are three forms of the same; give one of them")
    strategies = strategies_of(args, every)
    if not _asks_anything(args):
        if args.explain:
            put(LEGEND)
            return 0
        with progress() as say:
            put(first_screen(say))
        return 0
    with progress() as say:
        if args.kernels is not None:
            found, machines = _kernels(args, strategies, say)
        else:
            found = [
                (one, _joined(one, compare(one.world, ops_of(args), strategies, progress=say), ops_of(args)))
                for one in sources(args)
            ]
            machines = [found[0][0].world.machine]
    if args.json:
        put_json(_document(args, found, machines))
    elif args.csv:
        put_csv([row for _, comparisons in found for c in comparisons for row in c.records()])
    else:
        put(full_tables(args, found, machines) if args.table else brief(args, found, machines))
        if args.explain and not args.table:
            put("\n" + LEGEND)
        if args.assumed:
            show_assumed([one for one, _ in found])
        if args.save is not None:
            put(f"saved to {args.save}")
    # AF, dirty and CONT may differ between sound designs (spec 7.10): that is no finding
    return 0 if all(c.equivalent for _, comparisons in found for c in comparisons) else 1


def _asks_anything(args: argparse.Namespace) -> bool:
    """Whether any option but --explain is given; else the first screen is the answer."""
    given = {name for name, value in vars(args).items() if value not in (None, False)}
    return bool(given - {"verb", "run", "op", "explain", "unknown_default"}) or args.op != OPS


def _kernels(
    args: argparse.Namespace, strategies: Sequence[str], say: Callable[[str], None]
) -> tuple[list[tuple[Source, list[Comparison]]], list[Machine]]:
    """The same of kernels, and their machines: what each starts from is that of the first, but for its machine."""
    if args.all or (args.strategy is not None and len(strategies) > 1):
        raise PtebatchError("--kernels gives every kernel one loop; leave --all out, and name one strategy or none")
    machines = kernel_machines(args.kernels, args.machine or "")
    made: dict[str, Source] = {}

    def world_of(start: Layout | Snapshot, machine: Machine) -> World:
        made[machine.release] = source(start, args, f"{machine.release},{args.machine}" if args.machine else machine.release)
        return made[machine.release].world

    found = []
    for start in starts(args):
        rows = kernel_rows(partial(world_of, start), ops_of(args), machines, args.strategy and strategies[0], say)
        one = made[machines[0].release]
        found.append((one, _joined(one, rows, ops_of(args))))
    return found, [one.world.machine for one in made.values()]


def _joined(one: Source, comparisons: list[Comparison], ops: Sequence[str]) -> list[Comparison]:
    """Calls that --range made of a layout, summed up for each operation."""
    if not one.world.parts or one.world.process or len(one.world.ranges) == 1:
        return comparisons
    name = one.world.ranges[0].name
    return [total(part, name, one.world.note) for part in by_op(comparisons, ops)]


def _document(
    args: argparse.Namespace, found: Sequence[tuple[Source, list[Comparison]]], machines: Sequence[Machine]
) -> dict[str, Any]:
    ops = ops_of(args)
    starts = []
    for one, comparisons in found:
        if one.world.process and args.whole:
            comparisons = shown(one, comparisons, ops, sum_only=True)
        starts.append(
            {
                "name": one.world.name,
                "note": one.world.note,
                "process": one.world.process,
                "assumed": one.assumed,
                "lost": one.lost,
                "unknown": one.unknown,
                "comparisons": [c.to_dict() for c in comparisons],
            }
        )
    if args.kernels is None:
        named: dict[str, Any] = {"machine": str(machines[0]), "notes": machines[0].notes()}
    else:
        named = {"kernels": [{"kernel": m.release, "machine": str(m), "notes": m.notes()} for m in machines]}
    return {
        "verb": "compare",
        "numbers": "counted",
        **named,
        "ops": list(ops),
        "same": all(c.same for _, comparisons in found for c in comparisons),
        "equivalent": all(c.equivalent for _, comparisons in found for c in comparisons),
        "saved": args.save,
        "starts": starts,
    }
