"""Options that verbs share: what to start from, what to do to it, on which machine."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import InputError, PtebatchError
from ..kernels import DEFAULT
from ..layouts.named import Layout, get_layout, parse_layouts
from ..machine import Machine
from ..operations import OPERATIONS, parse_operations
from ..report import parse_size
from ..simulate.runs import start_of
from ..simulate.start import UNKNOWN, World, granule_of, snapshot_world, with_ranges
from ..snapshot import LOST, SHIPPED, Snapshot, assumed, load, read_pasted, read_process, save, unknown_of
from ..strategies import resolve

__all__ = [
    "Source",
    "add_run_arguments",
    "add_source_arguments",
    "of_process",
    "ops_of",
    "source",
    "sources",
    "starts",
    "strategies_of",
]


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
    unknown : list of str
        What nothing shows of a process, and how it is taken.
    snapshot : Snapshot, optional
        Of a process, what was read.
    """

    world: World
    assumed: list[str]
    lost: list[str]
    unknown: list[str]
    snapshot: Snapshot | None = None


#: how what is unknown is taken, in words
_TAKEN = {
    "both": "counts are of both ends where they differ, no such page exclusive .. every such page; a mixture within one batch "
    "can cost more than either",
    "shared": "what is unknown is taken as not: shared, clean, not merging; --unknown exclusive takes the other end",
    "exclusive": "what is unknown is taken as so: exclusive, dirty, merging; --unknown shared takes the other end",
}


def add_source_arguments(parser: argparse.ArgumentParser, *, default: str = "T1,T2,T3", unknown: str = "shared") -> None:
    """Add where to start from; `unknown`: how the verb takes what nothing shows of a process."""
    what = parser.add_argument_group(f"what to start from (default: --layout {default})")
    one = what.add_mutually_exclusive_group()
    one.add_argument("--layout", metavar="NAME[:OPTION...][,...]", help="layouts, see 'ptebatch list layouts'")
    one.add_argument("--folio", metavar="SIZE[,...]", help="64M of folios of each size, such as 16K,64K,2M; side by side")
    one.add_argument("--pid", metavar="PID", help="the writable memory of a running process; 'demo' starts one")
    one.add_argument(
        "--file", metavar="F.npz", help="the same of a process saved with --save; 'demo': one that was saved, to try"
    )
    one.add_argument("--maps", metavar="FILE", help="a process from the text of its maps or smaps; the rest is made up, and said")
    fork = "layouts as a fork leaves them, the child alive or gone; --pae says which pages were written since (default: none)"
    what.add_argument("--fork", choices=["alive", "gone"], help=fork)
    what.add_argument("--size", metavar="SIZE", help="size of the layouts, for example 64M")
    before = "protection of a layout before the first operation (default: rw, or ro if that gives write access)"
    ranges = "change only these pages, or addresses: 0:1, 5, ::16 (every 16th page, a call each), 0x7f00:0x7f10"
    what.add_argument("--range", metavar="A:B[:STEP][,...]", dest="ranges", help=ranges)
    what.add_argument("--from", metavar="PROT", dest="before", help=before)
    pae = "which pages are PageAnonExclusive, of layouts or a process: all, none, alternating, 1/511, 511e/1s, random:P[:SEED]"
    what.add_argument("--pae", metavar="PATTERN", help=pae)
    exclusive = "the same of a process (default: kpageflags, what the kernel shows)"
    what.add_argument("--exclusive", metavar="all|none|bit56|PATTERN", help=exclusive)
    how = f"how pages of a process are taken of which it is unknown whether they are (default: {unknown})"
    what.add_argument("--unknown", choices=UNKNOWN if unknown == "both" else UNKNOWN[1:], help=how)
    parser.set_defaults(unknown_default=unknown)
    what.add_argument("--save", metavar="F.npz", help="write what was read of the process to a file")
    what.add_argument("--force", action="store_true", help="let --save replace a file")


def add_run_arguments(parser: argparse.ArgumentParser, *, op: str, strategy: str) -> None:
    """Add what to do, how, and on which machine."""
    how = parser.add_argument_group("what to do")
    names = f"one after another: {', '.join(OPERATIONS)} (default: {op})"
    how.add_argument("--op", metavar="PROT[,PROT...]", default=op, help=names)
    how.add_argument("--strategy", metavar="A[,B...]", help=f"see 'ptebatch list strategies' (default: {strategy})")
    machine = f"see 'ptebatch list machines' (default: {DEFAULT})"
    how.add_argument("--machine", metavar="KERNEL[,switch=value...]", help=machine)


def ops_of(args: argparse.Namespace) -> tuple[str, ...]:
    """Return the operations asked for."""
    return parse_operations(args.op)


def strategies_of(args: argparse.Namespace, default: Sequence[str]) -> list[str]:
    """Return the names of the strategies asked for, each once, in order."""
    if args.strategy is None:
        return list(default)
    return list(dict.fromkeys(resolve(name.strip()).name for name in args.strategy.split(",")))


def sources(args: argparse.Namespace) -> list[Source]:
    """Return what to start from, on the machine asked for.

    Raises
    ------
    PtebatchError
        Options that do not go together, names and files that do not exist.
    """
    return [source(start, args, args.machine or DEFAULT) for start in starts(args)]


def of_process(args: argparse.Namespace) -> bool:
    """Whether a process is asked for, running, saved or pasted, and not layouts."""
    return any(given is not None for given in (args.pid, args.file, args.maps))


def starts(args: argparse.Namespace) -> list[Layout | Snapshot]:
    """Return the layouts, or the process, that the options name; a process is read once, and saved."""
    _check_options(args)
    if of_process(args):
        snapshot = _snapshot(args)
        if args.save is not None:
            save(snapshot, args.save)
        return [snapshot]
    size = parse_size(args.size) if args.size is not None else None
    if args.folio is not None:
        return [_with_options(get_layout(f"folio={part.strip()}", size), args) for part in args.folio.split(",")]
    if args.pae is not None and ":pae=" in (args.layout or "").lower():
        raise PtebatchError(f"--pae {args.pae} and pae= in --layout {args.layout} say the same thing; give one of them")
    layouts = parse_layouts(args.layout if args.layout is not None else "T1,T2,T3", size)
    own = next((one for one in layouts if size is not None and one.size != size), None)
    if own is not None:
        raise PtebatchError(f"--size {args.size} and the size of {own} say two things of one layout; give one of them")
    return [_with_options(one, args) for one in layouts]


def _with_options(layout: Layout, args: argparse.Namespace) -> Layout:
    if args.fork is not None:
        if layout.fork:
            raise PtebatchError(f"--fork {args.fork} and fork= in {layout} say the same thing; give one of them")
        layout = replace(layout, fork=args.fork, exclusive="none")
    return replace(layout, exclusive=args.pae) if args.pae is not None else layout


def _snapshot(args: argparse.Namespace) -> Snapshot:
    if args.maps is not None:
        return read_pasted(args.maps)
    return load(SHIPPED if args.file == "demo" else args.file) if args.file is not None else _read(args.pid)


def source(start: Layout | Snapshot, args: argparse.Namespace, machine: str) -> Source:
    """Return one of them as a start on a machine; of a process, with its page size unless the machine's is said."""
    if isinstance(start, Layout):
        world = start_of(start, ops_of(args), Machine.parse(machine), args.before)
        return Source(with_ranges(world, args.ranges) if args.ranges is not None else world, [], [], [])
    if not any(part.split("=")[0].strip() == "granule" for part in machine.split(",")):
        machine = f"{machine},granule={granule_of(start)}"
    made = Machine.parse(machine)
    exclusive = args.exclusive or args.pae or "kpageflags"
    lost = [f"{n} {LOST[name]}" for name, n in start.lost.items() if n]
    how = args.unknown or args.unknown_default
    world = snapshot_world(start, made, exclusive, how)
    if args.ranges is not None:
        world = with_ranges(world, args.ranges)
    is_open = unknown_of(start, exclusive).sentences()
    if is_open:
        is_open.append(_TAKEN[how])
    return Source(world, assumed(start, made, exclusive), lost, is_open, start)


def _check_options(args: argparse.Namespace) -> None:
    process = of_process(args)
    for name, needs_process in (("exclusive", True), ("unknown", True), ("size", False), ("before", False), ("fork", False)):
        given = getattr(args, name) is not None
        option = "--from" if name == "before" else f"--{name}"
        if given and needs_process and not process:
            instead = ", or --pae for layouts" if name == "exclusive" else ""
            raise PtebatchError(f"{option} is for a process; use it with --pid or --file{instead}")
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


def _read(pid: str) -> Snapshot:
    if pid == "demo":
        from ..snapshot import demo

        return demo.snapshot()
    if not (pid.isascii() and pid.isdigit() and len(pid) <= 10 and 0 < int(pid) < 1 << 31):
        raise PtebatchError(f"--pid {pid!r} is not a process; give its number, or demo")
    return read_process(int(pid))
