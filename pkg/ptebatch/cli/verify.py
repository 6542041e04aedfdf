"""Check the model against recordings, or a batching loop against every law.

Each file is replayed and every value compared. Several options may be given;
files may be plain or .gz. Exit status 1: something differs, or a law is broken.
"""

from __future__ import annotations

import argparse

from ..errors import PtebatchError
from . import verify_strategy
from ._print import progress, put, put_json

EXAMPLES = f"""\
examples:
  ptebatch verify --vectors named.json.gz random_a.json.gz
  ptebatch verify --dumps 7.3.max.dumps.json.gz --traces 7.3.max.trace.json.gz
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


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    from .. import verify

    asked = {kind: getattr(args, kind) for kind in _KINDS if getattr(args, kind)}
    if verify_strategy.asked(args):
        if asked:
            raise PtebatchError(f"--strategy {args.strategy} and --{next(iter(asked))} are two runs; give one of them")
        return verify_strategy.run(args)
    if not asked:
        options = ", ".join(f"--{kind.replace('_', '-')}" for kind in _KINDS)
        raise PtebatchError(f"there is nothing to verify; give {options} with files, or --strategy")
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
