"""Run one change of protection, or one for each strategy from the same start.

``run`` gives the results of one strategy; ``compare`` runs several on copies of
one address space and says what each counted, and in which PTE bits it ended
otherwise than the reference. All numbers are counted and exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..errors import LayoutError, MprotectError, PtebatchError
from ..kernels import ERAS
from ..layouts.named import Layout, get_layout
from ..machine import Machine
from ..operations import OPERATIONS, PROTECTIONS, parse_operations, parse_protection
from ..report import count_text
from ..snapshot.snapshot import Snapshot
from ..strategies import STRATEGIES, Strategy, resolve
from .comparison import Comparison, Difference, Row, total
from .start import Range, Words, World, granule_of, layout_world, snapshot_world

if TYPE_CHECKING:
    from ..mm.mm import MM
    from ..mm.result import Result

__all__ = ["REFERENCE", "compare", "compare_kernels", "kernel_machines", "kernel_rows", "run", "start_of", "total"]

StrategySpec: TypeAlias = str | Strategy | Callable[[Any], int]
Start: TypeAlias = str | Layout | Snapshot | World

#: the strategy that the others are compared with: the design in Linux 6.17
REFERENCE = "folio"

#: events of one traced call, about; a trace takes 17 bytes an event
_EVENTS = 1 << 21


def start_of(start: Start, ops: str | Sequence[str], machine: Machine | str | None = None, before: str | None = None) -> World:
    """Return what a sequence of operations starts from.

    Parameters
    ----------
    start : str, Layout, Snapshot or World
        A layout's text, see ``ptebatch.layouts.named``; a process; or a World, as it is.
    ops : str or sequence of str
        Names of ``ptebatch.OPERATIONS``.
    machine : Machine or str, optional
        Default: the 7.3 kernel; for a Snapshot, with its page size.
    before : str, optional
        Protection of a layout's VMA at the start. Default: ``ro`` if the first
        operation gives write access, else ``rw``, so that it has something to do.

    Returns
    -------
    World

    Raises
    ------
    PtebatchError
        Unknown names, sizes that cannot be, a World on another machine.
    """
    names = parse_operations(ops)
    was = None if before is None else parse_protection(before)
    if isinstance(machine, str):
        machine = Machine.parse(machine)
    if isinstance(start, World):
        if machine is not None and machine != start.machine:
            raise LayoutError(f"machine {machine} is not that of {start.name}, {start.machine}; leave it out")
        return start
    if isinstance(start, Snapshot):
        return snapshot_world(start, machine or Machine(granule=granule_of(start)))
    if was is None:
        was = PROTECTIONS["ro" if OPERATIONS[names[0]].gives_write else "rw"]
    return layout_world(get_layout(start), machine or Machine(), was)


def run(
    start: Start,
    ops: str | Sequence[str] = "ro,rw",
    strategy: StrategySpec = REFERENCE,
    machine: Machine | str | None = None,
    *,
    before: str | None = None,
    trace: bool = False,
) -> list[Result]:
    """Change the protection of something by one strategy, operation by operation.

    Parameters
    ----------
    start, ops, machine, before
        As for `start_of`.
    strategy : str, Strategy or callable
    trace : bool
        Keep the event traces.

    Returns
    -------
    list of Result
        One for each operation and range, operations outermost.

    Raises
    ------
    PtebatchError
        Unknown names, sizes that cannot be.
    MprotectError
        As the system call fails.
    """
    names, world = parse_operations(ops), start_of(start, ops, machine, before)
    if world.other is not None:
        pages = sum(r.exclusive_unknown + r.dirty_unknown for r in world.ranges)
        raise LayoutError(
            f"{world.name} is not known whole ({pages} pages in its writable mappings); run `compare`, which takes both ends, or "
            "give snapshot_world(..., unknown='shared') or 'exclusive'"
        )
    mm = world.mm.copy()
    rows = [OPERATIONS[name] for name in names]
    return [row.perform(mm, r.start, r.length, strategy=strategy, trace=trace) for row in rows for r in world.ranges]


def compare(
    starts: Start | Sequence[Start],
    ops: str | Sequence[str] = "ro,rw",
    strategies: Sequence[StrategySpec] | None = None,
    machine: Machine | str | None = None,
    *,
    before: str | None = None,
    reference: StrategySpec = REFERENCE,
    progress: Callable[[str], None] | None = None,
) -> list[Comparison]:
    """Change the protection of something by each strategy, always from the same start.

    Parameters
    ----------
    starts, ops, machine, before
        As for `start_of`; several as a sequence.
    strategies : sequence of str, Strategy or callable, optional
        Default: all that are not flawed.
    reference : str, Strategy or callable
        Its final PTEs are what the others are compared with; it runs in any case.
    progress : callable, optional
        Gets a text before each run.

    Returns
    -------
    list of Comparison
        For each start, operation and range, ranges innermost.

    Raises
    ------
    PtebatchError
        Unknown names, sizes that cannot be.
    MprotectError
        As the system call fails. In a process, a refused range is noted in its
        row instead.
    """
    names = parse_operations(ops)
    asked = list(strategies) if strategies is not None else [s.name for s in STRATEGIES.values() if not s.flawed]
    for one in (reference, *asked):
        resolve(one)
    if not asked:
        raise PtebatchError("there is no strategy to compare; give at least one")
    found: list[Comparison] = []
    for start in _each(starts):
        ends: list[Iterator[Comparison]] = []
        for world in start_of(start, names, machine, before).ends():
            columns: dict[StrategySpec, _Runs] = {}
            for strategy in dict.fromkeys((reference, *asked)):
                if progress:
                    progress(f"{world.name}: {resolve(strategy).name}")
                columns[strategy] = _Runs(world, names, strategy, columns.get(reference))
            ends.append(_comparisons(names, columns[reference], [columns[strategy] for strategy in asked]))
        found += _joined(ends)
    return found


def compare_kernels(
    starts: Start | Sequence[Start],
    ops: str | Sequence[str] = "ro,rw",
    kernels: str | Sequence[str] = "all",
    machine: str = "",
    *,
    strategy: StrategySpec | None = None,
    before: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Comparison]:
    """Change the protection of something on several kernels, each with its own loop.

    Parameters
    ----------
    starts, ops, before
        As for `start_of`, but no World: that is of one machine.
    kernels : str or sequence of str
        ``all``, or releases such as ``6.12,6.18``; the others are compared with the first.
    machine : str
        Switches that all of them have, as ``Machine.parse`` reads them without a kernel:
        ``granule=16K,bbml=2``.
    strategy : str, Strategy or callable, optional
        A loop that every kernel is given instead of its own.
    progress : callable, optional
        Gets a text before each run.

    Returns
    -------
    list of Comparison
        For each start, operation and range, ranges innermost; one row a kernel.

    Raises
    ------
    PtebatchError
        Unknown names, kernels that are not modelled, sizes that cannot be.
    MprotectError
        As for `compare`.
    """
    machines = kernel_machines(kernels, machine)
    found: list[Comparison] = []
    for start in _each(starts):
        found += kernel_rows(partial(start_of, start, ops, before=before), ops, machines, strategy, progress)
    return found


def kernel_machines(kernels: str | Sequence[str], switches: str = "") -> list[Machine]:
    """Return the machines of ``all`` or of some kernels, each once and in the order given, with the same switches.

    Raises
    ------
    PtebatchError
        A kernel that is not modelled, or one among the switches.
    """
    names = [part.strip() for part in (kernels.split(",") if isinstance(kernels, str) else kernels)]
    if names == ["all"]:
        names = list(ERAS)
    if switches and "=" not in switches.split(",")[0]:
        raise LayoutError(f"machine {switches!r} names a kernel beside the kernels to compare; give its switches only")
    return [Machine.parse(",".join(filter(None, (name, switches)))) for name in dict.fromkeys(names)]


def kernel_rows(
    world_of: Callable[[Machine], World],
    ops: str | Sequence[str],
    machines: Sequence[Machine],
    strategy: StrategySpec | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Comparison]:
    """Compare kernels from the same start; `world_of` makes it for each machine. See `compare_kernels`."""
    names = parse_operations(ops)
    ends: list[list[_Runs]] = []
    for machine in machines:
        for i, world in enumerate(world_of(machine).ends()):
            if progress:
                progress(f"{world.name}: {machine.release}")
            if i == len(ends):
                ends.append([])
            first = ends[i][0] if ends[i] else None
            ends[i].append(_Runs(world, names, strategy or machine.strategy, first, kernel=machine.release))
    return _joined([_comparisons(names, columns[0], columns) for columns in ends])


def _each(starts: Start | Sequence[Start]) -> Sequence[Start]:
    return [starts] if isinstance(starts, (str, Layout, Snapshot, World)) else starts


def _comparisons(ops: Sequence[str], reference: _Runs, columns: Sequence[_Runs]) -> Iterator[Comparison]:
    """One for each operation and range of the reference's world, ranges innermost."""
    world = reference.world
    for i, op in enumerate(ops):
        was = ops[i - 1] if i else world.before
        for j, r in enumerate(world.ranges):
            note = (
                f"{count_text(r.pages)} page{'s' * (r.pages != 1)} from {r.start:#x} on"
                if world.process or world.parts
                else world.note
            )
            rows = tuple(runs.rows[i][j] for runs in columns)
            yield Comparison(
                r.name or hex(r.start), note, r.length, was, op, world.machine, reference.rows[i][j], rows, world.unknown,
                r.exclusive_unknown, r.dirty_unknown,
            )  # fmt: skip


def _joined(ends: Sequence[Iterable[Comparison]]) -> list[Comparison]:
    """Comparisons at the one or two ends of what is unknown, the other end in the first."""
    if len(ends) == 1:
        return list(ends[0])
    return [replace(one, unknown="both", if_exclusive=other) for one, other in zip(*ends, strict=True)]


class _Runs:
    """One strategy through all operations: rows and final words, by operation and range."""

    def __init__(
        self, world: World, ops: Sequence[str], strategy: StrategySpec, reference: _Runs | None, *, kernel: str = ""
    ) -> None:
        self.world, self.strategy, self.kernel = world, strategy, kernel
        self.flawed = resolve(strategy).flawed
        self.words: list[list[Words]] = []
        done: list[list[tuple[Result, str]]] = []
        mm = world.mm.copy()
        for op in ops:
            done.append([self._call(mm, r, op) for r in world.ranges])
            self.words.append([self._final(mm, r) for r in world.ranges])
        self.rows = [
            [
                self._row(result, error, reference.words[i][j] if reference else None, self.words[i][j])
                for j, (result, error) in enumerate(results)
            ]
            for i, results in enumerate(done)
        ]
        if reference is not None:
            self.words.clear()  # only the reference's are asked for again

    def _call(self, mm: MM, r: Range, op: str) -> tuple[Result, str]:
        try:
            return OPERATIONS[op].perform(mm, r.start, r.length, strategy=self.strategy), ""
        except MprotectError as e:
            if not self.world.process and not self.world.parts:
                raise
            result: Result = e.result
            return result, f"{r.name or hex(r.start)}: {e.strerror}"

    def _final(self, mm: MM, r: Range) -> Words:
        parts = [words for _, words in self.world.views(mm, r)]
        return np.concatenate(parts) if parts else np.zeros(0, np.uint64)

    def _row(self, result: Result, error: str, theirs: Words | None, ours: Words) -> Row:
        difference = Difference() if theirs is None else Difference.between(ours, theirs)
        return Row(
            result.strategy, self.flawed, (result,), result["ptep_get_reads"], difference, (error,) if error else (), self.kernel
        )
