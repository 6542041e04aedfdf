"""Prove a batching loop right over every small world, or show the smallest one that breaks it.

`verify_strategy` runs the products of ``smallworlds`` through the compiled checker,
small worlds first; `judge` judges a single world. A strategy is a name, a callable
or a registered row, as ``MM.mprotect`` takes it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import PtebatchError
from ..machine import Machine
from ..strategies import Strategy, resolve
from .check import Checker
from .counterexample import Counterexample, examine, left, told
from .fulltables import FullTables, full_machine, two_tables_machine
from .laws.rows import law_of
from .laws.run import Run
from .report import ContChanges, Line, Report
from .shrink import shrink
from .watch import BudgetOver, StepStuck, Watch
from .worlds.full import full_worlds
from .worlds.products import Chunk, chunks
from .worlds.random import random_chunks
from .worlds.small import SmallWorld, small_machine

__all__ = ["Report", "SearchInterrupted", "judge", "verify_strategy"]

Step = str | Strategy | Callable[[Any], int]

#: worlds of the default size that a strategy written in Python is given: about a minute's
PYTHON_WORLDS = 2_000_000
#: random worlds of each geometry, compiled and in Python; of a sample, each round
RANDOM, RANDOM_PYTHON, RANDOM_ROUND = 100_000, 20_000, 4096
#: random worlds of full tables, and as many of two small ones; of a sample, each round; for tables of so many entries,
#: of larger ones as many fewer, but not less than the last number
FULL, FULL_ROUND, FULL_ENTRIES, FULL_LEAST = 200, 60, 512, 16
#: entries of a block and of a table of random worlds; the second has the blocks of the 4K granule
LARGER = ((4, 16), (16, 32))
#: findings that do not come again, after which the search ends
ODD = 20
#: of a sample: families of which rows of two are tried in full, and growth of a round
FULL_PAIRS, GROWTH = ("downgrade", "upgrade", "writenotify"), 8


def judge(world: SmallWorld, strategy: Step, *, strict: bool = False) -> Counterexample | None:
    """Judge one world by every law, hardware updates between the steps included.

    Parameters
    ----------
    world : SmallWorld
        One with a table of more than 32 entries is run once, without hardware in between.
    strategy : str, callable or Strategy
        As for `verify_strategy`.
    strict : bool
        As for `verify_strategy`.

    Returns
    -------
    Counterexample or None
        None: every law holds.
    """
    found, name = _named(strategy)
    checker = Checker if world.compiled else FullTables
    return examine(checker(world.machine, found, strict=strict), world, name)


def _named(strategy: Step) -> tuple[Strategy, str]:
    """A strategy, and what to call it: text that `find_strategy` reads, if there is any."""
    row = resolve(strategy)
    if isinstance(strategy, (str, Strategy)):
        return row, row.name
    step, module = row.step, getattr(row.step, "__module__", "")
    known = getattr(sys.modules.get(module), getattr(step, "__qualname__", ""), None) is step
    return row, f"{module}:{step.__qualname__}" if known else row.name


def verify_strategy(
    strategy: Step,
    *,
    machine: Machine | str | None = None,
    exhaustive: bool = True,
    seed: int = 0,
    worlds: int | None = None,
    budget: float | None = None,
    strict: bool = False,
    skip: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Search small worlds for one in which a strategy breaks a law.

    Parameters
    ----------
    strategy : str, callable or Strategy
        A registered name, ``module:function`` or ``path.py:function``; a step; a row.
    machine : Machine or str, optional
        Default: kernel 7.3. Tables of more than 8 entries or blocks of more than 4 are
        replaced by a geometry of 8 and 4 (random worlds: 16 and 4, 32 and 16, the machine's
        own full tables and blocks, and pairs of tables of 32 entries).
    exhaustive : bool
        Every world of the default size, and random larger ones; else random worlds
        only, some seconds.
    seed : int
        Of the random worlds, and of the order of a sample. The same seed gives the same
        verdict on every computer.
    worlds : int, optional
        Stop when so many were judged. Default: never for compiled strategies, 2,000,000 for
        strategies in Python, which are a hundred times slower. A search that is to stop tries
        rows of one entry, and the plainest rows of two, in full, then random larger worlds and
        an even sample of all others, which grows round by round.
    budget : float, optional
        Stop after so many seconds, whatever was judged by then: for who waits. Then the
        verdict depends on the computer, and the report says that the clock ended it.
    strict : bool
        What may become writable must: else such entries are counted, as `Report.missed`, and break nothing, for Linux may
        leave them to the write fault.
    skip : int
        Of an exhaustive search, products of worlds that were tried before: `Report.products` of one that was interrupted.
    progress : callable, optional
        Told what is being done, now and then.

    Returns
    -------
    Report

    Raises
    ------
    SearchInterrupted
        Ctrl-C; its `report` has what was tried.
    StrategyError
        No such strategy. What a step raises while it runs is a finding, not an error, and so is a step in Python that does
        not return; a compiled one cannot be ended.
    """
    found, name = _named(strategy)
    if worlds is not None and (isinstance(worlds, bool) or not isinstance(worlds, int) or worlds < 1):
        raise PtebatchError(f"worlds={worlds!r} is not a number of worlds; give a whole number, 1 or more, or None for all")
    if budget is not None and not budget > 0:
        raise PtebatchError(f"budget={budget} is not a number of seconds above 0; give more, or None for no limit")
    if isinstance(machine, str):
        machine = Machine.parse(machine)
    if exhaustive and worlds is None and budget is None and callable(found.step):
        worlds = PYTHON_WORLDS
    if skip and (worlds is not None or budget is not None or not exhaustive):
        raise PtebatchError(
            f"skip={skip} goes on with an exhaustive search; leave worlds and budget out, which Python strategies have"
        )
    with Watch(found, 0.0 if budget is None else time.monotonic() + budget) as watch:
        search = _Search(watch, name, machine or Machine(), progress or (lambda text: None), worlds, strict)
        try:
            if not exhaustive:
                return search.random(seed)
            return search.exhaustive(seed, skip) if worlds is None and budget is None else search.sample(seed)
        except BudgetOver:
            search.report.by_clock = True
            return search.end()
        except KeyboardInterrupt:
            search.report.interrupted = True
            raise SearchInterrupted(search.end()) from None


class SearchInterrupted(KeyboardInterrupt):
    """A search was interrupted from the keyboard.

    Parameters
    ----------
    report : Report
        What was tried by then.
    """

    def __init__(self, report: Report) -> None:
        super().__init__()
        self.report = report


class _Search:
    """One search: its checker, its report, and when it is to stop."""

    def __init__(
        self, watch: Watch, name: str, machine: Machine, progress: Callable[[str], None], worlds: int | None, strict: bool
    ) -> None:
        self.strategy, self.name, self.wanted, self.progress = watch.strategy, name, machine, progress
        #: when to stop, by the clock of time.monotonic(); 0: never
        self.worlds, self.until, self.strict, self.python = worlds, watch.until, strict, watch.python
        self.told = 0.0

    def begin(self, machine: Machine, kind: str, seed: int) -> None:
        self.machine = machine
        self.checker = Checker(machine, self.strategy, strict=self.strict)
        self.report = Report(self.name, machine, kind, seed)
        self.start = time.perf_counter()
        self.odd: list[Counterexample] = []
        #: random worlds of each larger geometry, with a checker for it
        self.larger: list[tuple[Checker, Iterator[Chunk]]] = []
        for sizes in LARGER:
            other = small_machine(self.wanted, *sizes)
            if other not in [checker.machine for checker, _ in self.larger]:
                self.larger.append((Checker(other, self.strategy, strict=self.strict), random_chunks(other, seed)))
        #: random worlds of full tables, and of two small ones
        self.full: list[tuple[FullTables, Iterator[SmallWorld]]] = []
        for tables, full in ((1, full_machine(self.wanted)), (2, two_tables_machine(self.wanted))):
            if full is not None:
                self.full.append((FullTables(full, self.strategy, strict=self.strict), full_worlds(full, seed, tables=tables)))

    def over(self) -> bool:
        """Whether enough was judged, or the clock says to stop."""
        if self.worlds is not None and self.report.judged >= self.worlds:
            return True
        if 0 < self.until <= time.monotonic():
            self.report.by_clock = True
        return self.report.by_clock

    def end(self) -> Report:
        if self.odd and self.report.counterexample is None:
            self.report.counterexample = self.odd[0]
        self.report.seconds = time.perf_counter() - self.start
        self.report.runs = self.checker.runs + sum(checker.runs for checker, _ in self.larger)
        self.report.runs += sum(checker.runs for checker, _ in self.full)
        checkers: list[Checker | FullTables] = [
            self.checker,
            *(checker for checker, _ in self.larger),
            *(checker for checker, _ in self.full),
        ]
        self.report.missed = sum(checker.missed for checker in checkers)
        self.report.unrecorded = sum(checker.unrecorded for checker in checkers)
        return self.report

    def say(self, size: int) -> None:
        now = time.perf_counter()
        if now - self.told > 0.2:
            self.told = now
            self.progress(f"{self.name}: rows of {size} entries, {self.report.judged:,} worlds in {now - self.start:.0f} s")

    def broken(self, checker: Checker, world: SmallWorld, law: int) -> None:
        """A law is broken in the checker's last run."""
        self.finish(checker, world, law, left(checker, world, law))

    def finish(self, checker: Checker | FullTables, world: SmallWorld, law: int, run: Run) -> None:
        """A law is broken: make the world small. What does not come again is told if nothing else is found."""
        self.progress(f"{self.name}: found one; shrinking it to a minimal case")
        self.report.complete = False
        seen = told(world, self.name, law, run, repeats=False)
        if isinstance(run.error, StepStuck):
            # each smaller world would take as long
            self.report.counterexample = told(world, self.name, law, run)
            return
        try:
            smallest = shrink(checker, world, law)
            found = examine(checker, smallest, self.name) or examine(checker, world, self.name)
        except BudgetOver:
            self.report.by_clock, self.report.counterexample = True, seen
            return
        self.odd += [] if found else [seen]
        self.report.counterexample = found or (self.odd[0] if len(self.odd) == ODD else None)

    def left_behind(self, checker: Checker, world_of: Callable[[int, int, NDArray[np.uint64]], SmallWorld]) -> None:
        """Keep the first world in which an entry could have become writable and did not."""
        found = checker.missed_world
        if found is not None and self.report.left_behind is None:
            strict = Checker(checker.machine, self.strategy, strict=True)
            self.keep_missed(strict, world_of(*found))

    def keep_missed(self, strict: Checker | FullTables, world: SmallWorld) -> None:
        """Make a world of that kind small."""
        smallest = shrink(strict, world, law_of("UPGRADED").number)
        self.report.left_behind = examine(strict, smallest, self.name) or examine(strict, world, self.name)

    # ---- every world ----

    def exhaustive(self, seed: int, skip: int) -> Report:
        self.begin(small_machine(self.wanted), "exhaustive", seed)
        self.report.complete = not skip
        for chunk in islice(chunks(self.machine), skip, None):
            self.report.products = skip
            skip += 1
            began = time.perf_counter()
            left = self.sweep(chunk)
            self.report.add(chunk.size, chunk.stands_for, left, chunk.nr, time.perf_counter() - began)
            if self.report.counterexample is not None:
                return self.end()
            self.say(chunk.size)
        self.report.products = skip
        self.larger_worlds(RANDOM, FULL)
        return self.end()

    def sweep(self, chunk: Chunk) -> int:
        seen = (
            np.zeros((len(chunk.words), len(chunk.folds), len(chunk.calls)), np.uint16)
            if chunk.size >= self.machine.cont_ptes
            else None
        )
        found = self.checker.sweep(
            chunk.words, chunk.pages, chunk.calls, chunk.ad, chunk.folds, tlb=True, hardware=chunk.updates, seen=seen,
            until=self.until,
        )  # fmt: skip
        judged, _, law, _, _, row, call, _, _ = found
        if seen is not None:
            self.note(chunk, seen)
        self.left_behind(self.checker, lambda row, call, ptes: chunk.world(self.machine, row, call, ptes))
        if law:
            self.broken(self.checker, chunk.world(self.machine, row, call, self.checker.start_ptes), law)
        return int(judged)

    def note(self, chunk: Chunk, seen: NDArray[np.uint16]) -> None:
        """Keep which blocks changed CONT on live entries, by change."""
        for call in np.flatnonzero(seen.any(axis=(0, 1))):
            flips = seen[:, :, call]
            for kind, bits in (("folded", flips & 0xFF), ("unfolded", flips >> 8)):
                if bits.any():
                    events = self.report.events.setdefault((kind, chunk.changes[call]), ContChanges(kind, chunk.changes[call]))
                    events.layouts += int(np.count_nonzero(bits))
                    if events.example is None:
                        row, fold = (int(i[0]) for i in np.nonzero(bits))
                        events.example = self.example(chunk, row, fold, int(call), 0xFF if kind == "folded" else 0xFF00)

    def example(self, chunk: Chunk, row: int, fold: int, call: int, which: int) -> SmallWorld | None:
        """The world of a row in which blocks change so: what was never accessed is in no TLB, so its A/D decide, too."""
        again = Checker(self.machine, self.strategy)
        for at in range(len(chunk.ad)):
            ptes = self.checker.folded(chunk.words[row:], chunk.pages[row:], chunk.ad[at:], int(chunk.folds[fold]))
            world = chunk.world(self.machine, row, call, ptes)
            if again.check(world.ptes, world.pages, world.call, hardware=0)[2] & which:
                return world
        return None

    # ---- an even sample, for a search that is to stop ----

    def sample(self, seed: int) -> Report:
        self.begin(small_machine(self.wanted), "sample", seed)
        before = -1
        for round_, chunk in self.rounds():
            if round_ > before and self.larger_worlds(RANDOM_ROUND, FULL_ROUND):
                break
            before = round_
            if self.over() and self.report.judged:
                break
            began = time.perf_counter()
            if round_ < 0:
                judged = self.sweep(chunk)
            else:
                judged = self.each(chunk, seed, round_)
            new = chunk.nr if round_ <= 0 else 0
            self.report.add(chunk.size, 0, judged, new, time.perf_counter() - began)
            if self.report.counterexample is not None:
                break
            self.say(chunk.size)
        else:
            self.report.complete = not self.odd
        return self.end()

    def rounds(self) -> Iterator[tuple[int, Chunk]]:
        """What is tried in full (round -1); then the others, round by round, until every world was tried."""
        for chunk in chunks(self.machine):
            if chunk.size == 1:
                yield -1, chunk
            elif chunk.size > 2:
                break
            elif chunk.family in FULL_PAIRS:
                yield -1, replace(chunk, updates=0)
        for round_ in range(20):
            left = False
            for chunk in chunks(self.machine):
                if chunk.size > 1 and chunk.nr >= GROWTH**round_:
                    left = True
                    yield round_, chunk
            if not left:
                return

    def each(self, chunk: Chunk, seed: int, round_: int) -> int:
        """Worlds GROWTH^round - 1 to GROWTH^(round + 1) - 2 of a product, in an order that jumps through it."""
        which = chunk.picked(seed, GROWTH**round_ - 1, min(GROWTH ** (round_ + 1) - 1, chunk.nr))
        updates = chunk.updates if round_ == 0 or not self.python else 0
        judged, law, _, row = self.checker.each(*chunk.rows(which), tlb=True, hardware=updates, until=self.until)
        self.left_behind(self.checker, lambda row, _, ptes: chunk.world_at(self.machine, int(which[row]), ptes))
        if law:
            self.broken(self.checker, chunk.world_at(self.machine, int(which[row]), self.checker.start_ptes), law)
        return int(judged)

    # ---- random worlds ----

    def random(self, seed: int) -> Report:
        self.begin(small_machine(self.wanted, *LARGER[0]), "random", seed)
        self.larger_worlds(RANDOM_PYTHON if self.python else RANDOM, FULL)
        return self.end()

    def larger_worlds(self, random: int, full: int) -> bool:
        """So many random worlds more, then full tables; whether one breaks a law."""
        return self.random_worlds(random) or self.full_tables(full)

    def random_worlds(self, worlds: int) -> bool:
        """Judge so many more of each larger geometry; whether one breaks a law."""
        until = self.report.judged + worlds * len(self.larger)
        while self.report.judged < until:
            for checker, drawn in self.larger:
                machine = checker.machine
                line = self.report.larger.setdefault((machine.ptrs_per_pte, machine.cont_ptes), Line())
                if self.over():
                    return False
                began = time.perf_counter()
                chunk = next(drawn)
                judged, law, _, row = checker.each(
                    chunk.words, chunk.pages, chunk.calls, chunk.ad, chunk.folds, tlb=True, hardware=chunk.updates,
                    until=self.until,
                )  # fmt: skip
                self.left_behind(checker, partial(chunk.world, machine))
                line.judged += judged
                line.seconds += time.perf_counter() - began
                if law:
                    self.broken(checker, chunk.world(machine, row, row, checker.start_ptes), law)
                if self.report.counterexample is not None:
                    return True
                self.say(machine.ptrs_per_pte)
        return False

    def full_tables(self, worlds: int) -> bool:
        """Judge so many more full tables, and pairs of small ones; whether one breaks a law."""
        for checker, drawn in self.full:
            nr = checker.machine.ptrs_per_pte
            share = max(min(worlds, FULL_LEAST), worlds * FULL_ENTRIES // max(nr, FULL_ENTRIES))
            if self.full_worlds(checker, islice(drawn, share)):
                return True
        return False

    def full_worlds(self, checker: FullTables, drawn: Iterator[SmallWorld]) -> bool:
        """Judge these worlds of tables too large for the compiled checker, or of two; whether one breaks a law."""
        for world in drawn:
            if self.over():
                return False
            line = self.report.larger.setdefault((len(world.ptes), checker.machine.cont_ptes), Line())
            began = time.perf_counter()
            law, run = checker.judged(world)
            line.judged += 1
            line.seconds += time.perf_counter() - began
            if law:
                self.finish(checker, world, law, run)
            elif checker.missed and self.report.left_behind is None:
                self.keep_missed(FullTables(checker.machine, self.strategy, strict=True), world)
            if self.report.counterexample is not None:
                return True
            self.say(len(world.ptes))
        return False
