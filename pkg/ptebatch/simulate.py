"""Run one change of protection, or one for each strategy from the same start.

``run`` gives the results of one strategy; ``compare`` runs several on copies of
one address space and says what each counted, and in which PTE bits it ended
otherwise than the reference. All numbers are counted and exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from . import bits
from .comparison import Comparison, Difference, Row, total
from .detection import detection_reads, nr_events
from .errors import LayoutError, MprotectError, PtebatchError, StrategyError, closest
from .layout import Layout, get_layout
from .machine import Machine
from .report import count_text
from .snapshot import Snapshot
from .strategies import STRATEGIES, Strategy, get_strategy, resolve
from .world import Range, Words, World, granule_of, layout_world, snapshot_world

if TYPE_CHECKING:
    from .core.mm import MM
    from .core.result import Result

__all__ = ["OPS", "REFERENCE", "compare", "parse_ops", "run", "start_of", "total"]

StrategySpec: TypeAlias = str | Strategy | Callable[[Any], int]
Start: TypeAlias = str | Layout | Snapshot | World

#: names of protections, as `compare` and the command line take them
OPS: Mapping[str, int] = MappingProxyType(
    {
        "ro": bits.PROT_READ,
        "rw": bits.PROT_READ | bits.PROT_WRITE,
        "none": bits.PROT_NONE,
        "rx": bits.PROT_READ | bits.PROT_EXEC,
        "rwx": bits.PROT_READ | bits.PROT_WRITE | bits.PROT_EXEC,
    }
)

#: the strategy that the others are compared with: what was merged
REFERENCE = "folio"

#: events of one traced call, about; a trace takes 17 bytes an event
_EVENTS = 1 << 21


def parse_ops(ops: str | Sequence[str]) -> tuple[str, ...]:
    """Return the protections of a sequence such as ``ro,rw``.

    Raises
    ------
    LayoutError
        An unknown name, or none.
    """
    names = tuple(part.strip().lower() for part in (ops.split(",") if isinstance(ops, str) else ops))
    for name in names:
        if name not in OPS:
            raise LayoutError(f"operation {name!r} is unknown; {closest(name, list(OPS))}")
    if not names:
        raise LayoutError("there is no operation; give at least one, for example ro,rw")
    return names


def start_of(start: Start, ops: str | Sequence[str], machine: Machine | str | None = None, before: str | None = None) -> World:
    """Return what a sequence of operations starts from.

    Parameters
    ----------
    start : str, Layout, Snapshot or World
        A layout's text, see ``ptebatch.layout``; a process; or a World, as it is.
    ops : str or sequence of str
        Names of `OPS`.
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
    names = parse_ops(ops if before is None else (before, *parse_ops(ops)))
    if isinstance(machine, str):
        machine = Machine.parse(machine)
    if isinstance(start, World):
        if machine is not None and machine != start.machine:
            raise LayoutError(f"machine {machine} is not that of {start.name}, {start.machine}; leave it out")
        return start
    if isinstance(start, Snapshot):
        return snapshot_world(start, machine or Machine(granule=granule_of(start)))
    prot = OPS[names[0]]
    if before is None:
        prot = OPS["ro"] if prot & bits.PROT_WRITE else OPS["rw"]
    return layout_world(get_layout(start), machine or Machine(), prot)


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
    names, world = parse_ops(ops), start_of(start, ops, machine, before)
    mm = world.mm.copy()
    return [mm.mprotect(r.start, r.length, OPS[op], strategy=strategy, trace=trace) for op in names for r in world.ranges]


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
    names = parse_ops(ops)
    asked = list(strategies) if strategies is not None else [s.name for s in STRATEGIES.values() if not s.flawed]
    for one in (reference, *asked):
        resolve(one)
    if not asked:
        raise PtebatchError("there is no strategy to compare; give at least one")
    found: list[Comparison] = []
    for start in [starts] if isinstance(starts, (str, Layout, Snapshot, World)) else starts:
        world = start_of(start, names, machine, before)
        columns: dict[StrategySpec, _Runs] = {}
        for strategy in dict.fromkeys((reference, *asked)):
            if progress:
                progress(f"{world.name}: {resolve(strategy)[0]}")
            columns[strategy] = _Runs(world, names, strategy, columns.get(reference))
        ours, theirs = [columns[strategy] for strategy in asked], columns[reference]
        for i, op in enumerate(names):
            was = names[i - 1] if i else world.before
            for j, r in enumerate(world.ranges):
                note = f"{count_text(r.pages)} pages from {r.start:#x} on" if world.process else world.note
                rows = tuple(runs.rows[i][j] for runs in ours)
                name = r.name or hex(r.start)
                found.append(Comparison(name, note, r.length, was, op, world.machine, theirs.rows[i][j], rows))
    return found


class _Runs:
    """One strategy through all operations: rows and final words, by operation and range."""

    def __init__(self, world: World, ops: Sequence[str], strategy: StrategySpec, reference: _Runs | None) -> None:
        self.world, self.strategy = world, strategy
        self.flawed = isinstance(strategy, Strategy) and strategy.flawed
        if isinstance(strategy, str):
            self.flawed = get_strategy(strategy).flawed
        self.words: list[list[Words]] = []
        done: list[list[tuple[Result, str]]] = []
        mm = world.mm.copy()
        for op in ops:
            done.append([self._call(mm, r, op) for r in world.ranges])
            self.words.append([self._final(mm, r) for r in world.ranges])
        reads = self._detection(ops, [[result for result, _ in results] for results in done])
        self.rows = [
            [
                self._row(result, error, reads[i][j], reference.words[i][j] if reference else None, self.words[i][j])
                for j, (result, error) in enumerate(results)
            ]
            for i, results in enumerate(done)
        ]
        if reference is not None:
            self.words.clear()  # only the reference's are asked for again

    def _call(self, mm: MM, r: Range, op: str) -> tuple[Result, str]:
        try:
            return mm.mprotect(r.start, r.length, OPS[op], strategy=self.strategy), ""
        except MprotectError as e:
            if not self.world.process:
                raise
            result: Result = e.result
            return result, f"{r.name or hex(r.start)}: {e.strerror}"

    def _final(self, mm: MM, r: Range) -> Words:
        parts = [words for _, words in self.world.views(mm, r)]
        return np.concatenate(parts) if parts else np.zeros(0, np.uint64)

    def _row(self, result: Result, error: str, reads: int, theirs: Words | None, ours: Words) -> Row:
        difference = Difference() if theirs is None else Difference.between(ours, theirs)
        return Row(result.strategy, self.flawed, (result,), reads, difference, (error,) if error else ())

    def _detection(self, ops: Sequence[str], results: list[list[Result]]) -> list[list[int]]:
        """Detection reads; where counters do not determine them, of the same calls run once more and traced."""
        reads = [[detection_reads(result) for result in row] for row in results]
        if all(n is not None for row in reads for n in row):
            return [[n or 0 for n in row] for row in reads]
        mm = self.world.mm.copy()
        return [
            [self._traced(mm, r, op, results[i][j], reads[i][j]) for j, r in enumerate(self.world.ranges)]
            for i, op in enumerate(ops)
        ]

    def _traced(self, mm: MM, r: Range, op: str, whole: Result, known: int | None) -> int:
        """Repeat one call on another copy, in slices of whole tables if it has to be traced.

        The loop knows nothing beyond a leaf table, so slices count the same
        (spec 6.7); only VMAs split and merge more often.
        """
        if known is not None:
            self._call(mm, r, op)
            return known
        reads = total_reads = 0
        for start, length in _slices(r, self.world.machine, 1 + nr_events(whole) // _EVENTS):
            part = mm.mprotect(start, length, OPS[op], strategy=self.strategy, trace=True)
            reads += detection_reads(part) or 0
            total_reads += part["pte_reads"]
        if total_reads != whole["pte_reads"]:
            raise StrategyError(
                f"strategy {whole.strategy!r} read {total_reads} PTEs when run again, {whole['pte_reads']} before; "
                "it must depend on nothing but the tables"
            )
        return reads


def _slices(r: Range, machine: Machine, parts: int) -> Iterator[tuple[int, int]]:
    """Cut a range into about `parts`, at table boundaries."""
    table = machine.page_size << machine.pmd_order
    step = -(-r.length // (parts * table)) * table
    start, end = r.start, r.start + r.length
    while start < end:
        stop = min(end, (start // table) * table + step)
        yield start, stop - start
        start = stop
