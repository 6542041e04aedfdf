"""Check the model against recordings, or a batching loop against every law.

Each file is replayed and every value compared. Several options may be given;
files may be plain or .gz. Exit status 1: something differs, or a law is broken.
"""

from __future__ import annotations

import argparse

from ..errors import PtebatchError
from . import verify_strategy
from ._print import progress, put, put_json
from .verify_strategy import whole

EXAMPLES = f"""\
examples:
  ptebatch verify --vectors named.json.gz random_a.json.gz
  ptebatch verify --dumps 7.3.max.dumps.json.gz --traces 7.3.max.trace.json.gz
  ptebatch verify --live 7.3.max.live.json.gz --oploops oploops.json.gz
  ptebatch verify --host 1000 --ops 50 --seed 7
{verify_strategy.EXAMPLES}"""

#: option -> what is checked; the library has a function verify_<option> for each
_KINDS = {
    "vectors": "golden vectors: every engine that has a strategy here, every value and counter",
    "dumps": "hardware dumps: each mprotect replayed: PTEs, TLBI, DSB, functions called",
    "traces": "hardware traces: PTE reads and writes in order",
    "live": "living address spaces: each script replayed from nothing: state after every call, TLBI, DSB",
    "live_traces": "the same: stores, exchanges, TLBI and DSB of each call in order",
    "oploops": "calls over whole regions of 16 MiB: TLBI, functions called",
    "loops": "hardware loops over large mappings: TLBI, DSB, functions called",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    for kind, summary in _KINDS.items():
        parser.add_argument(f"--{kind.replace('_', '-')}", nargs="+", action="extend", metavar="FILE", help=summary)
    verify_strategy.add_arguments(parser)
    group = parser.add_argument_group("the running kernel", "random calls of processes of their own, and the same on the model")
    group.add_argument("--host", nargs="?", type=whole, const=100, metavar="SEQUENCES", help="so many sequences (default: 100)")
    group.add_argument("--ops", type=whole, metavar="N", help="calls in each (default: 50); --seed gives others")


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    from .. import verify

    asked = {kind: getattr(args, kind) for kind in _KINDS if getattr(args, kind)}
    if args.host is not None:
        if asked or args.strategy is not None:
            raise PtebatchError("--host is a run of its own; give nothing else but --ops and --seed")
        return _host(args)
    if args.ops is not None:
        raise PtebatchError("--ops is for the running kernel; use it with --host")
    if verify_strategy.asked(args):
        if asked:
            raise PtebatchError(f"--strategy {args.strategy} and --{next(iter(asked))} are two runs; give one of them")
        return verify_strategy.run(args)
    if not asked:
        options = ", ".join(f"--{kind.replace('_', '-')}" for kind in _KINDS)
        raise PtebatchError(f"there is nothing to verify; give {options} with files, or --strategy, or --host")
    reports = {}
    with progress() as say:
        for kind, paths in asked.items():
            say(f"{kind}: {len(paths)} file{'s' * (len(paths) > 1)}")
            reports[kind] = getattr(verify, f"verify_{kind}")(paths)
    ok = all(report.ok for report in reports.values())
    if args.json:
        put_json({"verb": "verify", "ok": ok, "reports": {kind: report.to_dict() for kind, report in reports.items()}})
    else:
        put("\n\n".join(report.text() for report in reports.values()))
    return 0 if ok else 1


def _host(args: argparse.Namespace) -> int:
    from ..verify import verify_host

    with progress() as say:
        seed = args.seed if args.seed is not None else 1
        report = verify_host(args.host, 50 if args.ops is None else args.ops, seed, say=say)
    if args.json:
        put_json({"verb": "verify", **report.to_dict()})
    else:
        put(report.text())
    return 0 if report.ok else 1
