"""Options that verbs share: what to start from, what to do to it, on which machine."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import InputError, PtebatchError
from ..layout import parse_layouts
from ..machine import Machine
from ..report import parse_size
from ..simulate import OPS, parse_ops, start_of
from ..snapshot import LOST, Snapshot
from ..strategies import get_strategy
from ..world import World, granule_of, snapshot_world

__all__ = ["Source", "add_run_arguments", "add_source_arguments", "machine_of", "ops_of", "sources", "strategies_of"]


@dataclass(frozen=True, slots=True)
class Source:
    """What a command starts from.

    Parameters
    ----------
    world : World
    assumed : list of str
        What was taken for granted to build it.
    lost : list of str
        What the reader of a process lost.
    """

    world: World
    assumed: list[str]
    lost: list[str]


def add_source_arguments(parser: argparse.ArgumentParser, *, default: str = "T1,T2,T3") -> None:
    """Add where to start from."""
    what = parser.add_argument_group(f"what to start from (default: --layout {default})")
    one = what.add_mutually_exclusive_group()
    one.add_argument("--layout", metavar="NAME[:OPTION...][,...]", help="layouts, see 'ptebatch list layouts'")
    one.add_argument("--pid", metavar="PID", help="the writable memory of a running process; 'demo' starts one")
    one.add_argument("--file", metavar="F.npz", help="the same of a process saved with --save")
    what.add_argument("--size", metavar="SIZE", help="size of layouts that do not give one, for example 64M")
    before = "protection of a layout before the first operation (default: rw, or ro if that gives write access)"
    what.add_argument("--from", metavar="PROT", dest="before", help=before)
    pae = "which pages are PageAnonExclusive: all, none, alternating, 1/511, 511e/1s, random:P[:SEED]"
    what.add_argument("--pae", metavar="PATTERN", help=pae)
    exclusive = "the same of a process (default: kpageflags, what the kernel shows)"
    what.add_argument("--exclusive", metavar="all|none|bit56|PATTERN", help=exclusive)
    what.add_argument("--save", metavar="F.npz", help="write what was read of the process to a file")
    what.add_argument("--force", action="store_true", help="let --save replace a file")


def add_run_arguments(parser: argparse.ArgumentParser, *, op: str, strategy: str) -> None:
    """Add what to do, how, and on which machine."""
    how = parser.add_argument_group("what to do")
    how.add_argument("--op", metavar="PROT[,PROT...]", default=op, help=f"one after another: {', '.join(OPS)} (default: {op})")
    how.add_argument("--strategy", metavar="A[,B...]", help=f"see 'ptebatch list strategies' (default: {strategy})")
    machine = "see 'ptebatch list machines' (default: 7.3)"
    how.add_argument("--machine", metavar="KERNEL[,switch=value...]", default="7.3", help=machine)


def ops_of(args: argparse.Namespace) -> tuple[str, ...]:
    """Return the operations asked for."""
    return parse_ops(args.op)


def machine_of(args: argparse.Namespace) -> Machine:
    """Return the machine asked for."""
    return Machine.parse(args.machine)


def strategies_of(args: argparse.Namespace, default: Sequence[str]) -> list[str]:
    """Return the names of the strategies asked for, each once, in order."""
    if args.strategy is None:
        return list(default)
    return list(dict.fromkeys(get_strategy(name.strip()).name for name in args.strategy.split(",")))


def sources(args: argparse.Namespace) -> list[Source]:
    """Return what to start from.

    Raises
    ------
    PtebatchError
        Options that do not go together, names and files that do not exist.
    """
    _check_options(args)
    machine, ops = machine_of(args), ops_of(args)
    if args.pid is not None or args.file is not None:
        return [_process(args, machine)]
    size = parse_size(args.size) if args.size is not None else None
    layouts = parse_layouts(args.layout if args.layout is not None else "T1,T2,T3", size)
    if args.pae is not None:
        layouts = [replace(one, exclusive=args.pae) for one in layouts]
    worlds = [start_of(one, ops, machine, args.before) for one in layouts]
    return [Source(world, [], []) for world in worlds]


def _check_options(args: argparse.Namespace) -> None:
    process = args.pid is not None or args.file is not None
    for name, needs_process in (("exclusive", True), ("size", False), ("before", False)):
        given = getattr(args, name) is not None
        option = "--from" if name == "before" else f"--{name}"
        if given and needs_process and not process:
            raise PtebatchError(f"{option} is for a process; use it with --pid or --file, or --pae for layouts")
        if given and not needs_process and process:
            raise PtebatchError(f"{option} is for layouts; a process has its own, leave it out")
    if args.save is not None and args.pid is None:
        raise PtebatchError(f"--save {args.save} has no process to save; use it with --pid")
    if args.force and args.save is None:
        raise PtebatchError("--force has nothing to replace; use it with --save")
    if args.exclusive is not None and args.pae is not None:
        raise PtebatchError(f"--exclusive {args.exclusive} and --pae {args.pae} say the same thing; give one of them")
    if args.save is not None and os.path.exists(args.save) and not args.force:
        raise InputError(args.save, "", "exists already; give another name, or --force to replace it")
    if args.save is not None and not os.path.isdir(os.path.dirname(args.save) or "."):
        raise InputError(args.save, "", "cannot be written: its folder does not exist; make it first")


def _process(args: argparse.Namespace, machine: Machine) -> Source:
    snapshot = Snapshot.load(args.file) if args.file is not None else _read(args.pid)
    if args.save is not None:
        snapshot.save(args.save)
    if "granule" not in args.machine:
        machine = Machine.parse(f"{args.machine},granule={granule_of(snapshot)}")
    exclusive = args.exclusive or args.pae or "kpageflags"
    world = snapshot_world(snapshot, machine, exclusive)
    lost = [f"{n} {LOST[name]}" for name, n in snapshot.lost.items() if n]
    return Source(world, snapshot.assumed(machine, exclusive), lost)


def _read(pid: str) -> Snapshot:
    if pid == "demo":
        from .. import demo

        return demo.snapshot()
    if not (pid.isascii() and pid.isdigit() and len(pid) <= 10 and 0 < int(pid) < 1 << 31):
        raise PtebatchError(f"--pid {pid!r} is not a process; give its number, or demo")
    return Snapshot.of_process(int(pid))
