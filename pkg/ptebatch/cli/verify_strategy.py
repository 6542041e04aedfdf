"""``ptebatch verify --strategy``: the checker, as options of `verify`."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import PtebatchError
from ..kernels import DEFAULT
from ..machine import Machine
from ._print import progress, put, put_json, width

__all__ = ["EXAMPLES", "add_arguments", "asked", "run"]

EXAMPLES = """\
  ptebatch verify --strategy folio-page0
  ptebatch verify --strategy folio --exhaustive --machine 6.17
  ptebatch verify --strategy mine.py:step --exhaustive
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the checker."""
    group = parser.add_argument_group("prove a batching loop right, or print the smallest page table that breaks it")
    group.add_argument("--strategy", metavar="NAME", help="see 'ptebatch list strategies'; or MODULE:FUNCTION, PATH.py:FUNCTION")
    group.add_argument("--exhaustive", action="store_true", help="every world of the default size (default: random ones)")
    group.add_argument("--seed", type=whole, metavar="S", help="seed for random worlds and the order of a sample (default: 0)")
    worlds = "stop when so many were judged (default: never; 2000000 for Python strategies)"
    group.add_argument("--worlds", type=_count, metavar="N", help=worlds)
    budget = "stop after SECONDS; the verdict then depends on the computer, and says so"
    group.add_argument("--budget", type=_seconds, metavar="SECONDS", help=budget)
    strict = "what may become writable must: else it is a warning, with a count of write faults left behind"
    group.add_argument("--strict", action="store_true", help=strict)
    skip = "of --exhaustive: products of worlds that an interrupted search had tried"
    group.add_argument("--skip", type=whole, metavar="N", help=skip)
    group.add_argument("--machine", metavar="KERNEL[,switch=value...]", help=f"see 'ptebatch list machines' (default: {DEFAULT})")


def whole(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def _count(text: str) -> int:
    if not (found := whole(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return found


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return found


def asked(args: argparse.Namespace) -> bool:
    """Whether the command line asks for the checker; options of it without a strategy are an error."""
    if args.strategy is not None:
        return True
    for name in ("exhaustive", "seed", "worlds", "budget", "strict", "skip", "machine"):
        if getattr(args, name) not in (None, False):
            raise PtebatchError(f"--{name} is for the checker; use it with --strategy NAME")
    return False


def run(args: argparse.Namespace) -> int:
    """Check one strategy and print what was found.

    Returns
    -------
    int
        Exit status: 1 if a law is broken.
    """
    from ..checker.search import SearchInterrupted, verify_strategy

    how: dict[str, Any] = {"exhaustive": args.exhaustive, "seed": args.seed or 0, "worlds": args.worlds, "budget": args.budget}
    how |= {"strict": args.strict, "skip": args.skip or 0}
    try:
        with progress() as say:
            report = verify_strategy(args.strategy, machine=Machine.parse(args.machine or DEFAULT), progress=say, **how)
    except SearchInterrupted as stopped:
        report = stopped.report
    if args.json:
        put_json({"verb": "verify", "ok": report.ok, "reports": {"strategy": report.to_dict()}})
    else:
        put(report.text(width()))
    if report.interrupted:
        return 130  # as a shell says of a program that SIGINT ended
    return 0 if report.ok else 1
