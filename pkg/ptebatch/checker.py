"""Prove a batching loop right over every small world, or show the smallest one that breaks it.

`verify_strategy` runs the products of ``smallworlds`` through the compiled checker,
small worlds first; `judge` judges a single world. A strategy is a name, a callable
or a registered row, as ``MM.mprotect`` takes it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .checker_report import ContChanges, Line, Report
from .core.check import Checker
from .counterexample import Counterexample, examine, left, told
from .errors import PtebatchError, StrategyError
from .fulltables import FullTables, full_machine
from .fullworlds import full_worlds
from .laws_run import Run
from .machine import Machine
from .randomworlds import random_chunks
from .shrinking import shrink
from .small import COMPILED, SmallWorld, small_machine
from .smallworlds import Chunk, chunks
from .strategies import STRATEGIES, Strategy, resolve

__all__ = ["Report", "find_strategy", "judge", "verify_strategy"]

Step = str | Strategy | Callable[[Any], int]

#: seconds that a strategy written in Python is given
PYTHON_BUDGET = 60.0
#: random worlds of each geometry, compiled and in Python; in Python under a budget, each round
RANDOM, RANDOM_PYTHON, RANDOM_ROUND = 100_000, 20_000, 4096
#: random worlds of full tables; under a budget, each round
FULL, FULL_ROUND = 200, 60
#: entries of a block and of a table of random worlds; the second has the blocks of the 4K granule
LARGER = ((4, 16), (16, 32))
#: findings that do not come again, after which the search ends
ODD = 20
#: under a budget: families of which rows of two are tried in full, and growth of a round
FULL_PAIRS, GROWTH = ("downgrade", "upgrade", "writenotify"), 8


def find_strategy(text: str) -> Step:
    """Strategy by name, ``module:function`` or ``path.py:function``.

    Raises
    ------
    StrategyError
        No such strategy, or a module that cannot be imported or lacks the name.
    """
    where, colon, name = text.rpartition(":")
    if not colon or text in STRATEGIES:
        return resolve(text)[0]
    try:
        module = _load(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    except Exception as error:
        raise StrategyError(f"strategy {text!r} cannot be imported: {type(error).__name__}: {error}") from error
    found = getattr(module, name, None)
    if isinstance(found, Strategy) or callable(found):
        return found
    if type(found).__name__ == "PyCapsule":
        return Strategy(name, "user", "", step=found)
    raise StrategyError(f"strategy {text!r}: {where} has no function {name!r}; give a step(window) -> int")


def _load(path: Path) -> Any:
    name = f"ptebatch_strategy_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"no Python file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def judge(world: SmallWorld, strategy: Step) -> Counterexample | None:
    """Judge one world by every law, hardware updates between the steps included.

    Parameters
    ----------
    world : SmallWorld
        One with a table of more than 32 entries is run once, without hardware in between.
    strategy : str, callable or Strategy
        As for `verify_strategy`.

    Returns
    -------
    Counterexample or None
        None: every law holds.
    """
    found, name = _named(strategy)
    checker = Checker if world.machine.ptrs_per_pte <= COMPILED else FullTables
    return examine(checker(world.machine, found), world, name)


def _named(strategy: Step) -> tuple[Step, str]:
    """A strategy, and what to call it: text that `find_strategy` reads, if there is any."""
    if isinstance(strategy, str):
        return find_strategy(strategy), strategy
    name, kind, step, _ = resolve(strategy)
    if kind == "python" and not isinstance(strategy, Strategy):
        module = getattr(step, "__module__", "")
        known = getattr(sys.modules.get(module), getattr(step, "__qualname__", ""), None) is step
        return strategy, f"{module}:{step.__qualname__}" if known else name
    return strategy, name


def verify_strategy(
    strategy: Step,
    *,
    machine: Machine | str | None = None,
    exhaustive: bool = True,
    seed: int = 0,
    budget: float | None = None,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Search small worlds for one in which a strategy breaks a law.

    Parameters
    ----------
    strategy : str, callable or Strategy
        A registered name, ``module:function`` or ``path.py:function``; a step; a row.
    machine : Machine or str, optional
        Default: kernel 7.3. Tables of more than 8 entries or blocks of more than 4 are
        replaced by a geometry of 8 and 4 (random worlds: 16 and 4, 32 and 16, and full
        tables of up to 512 entries with the machine's own blocks).
    exhaustive : bool
        Every world of the default size, and random larger ones; else random worlds
        only, some seconds.
    seed : int
        Of the random worlds, and of the order under a time budget.
    budget : float, optional
        Seconds. Default: none for compiled strategies, 60 for strategies in Python,
        which are a hundred times slower. Under a budget rows of one entry, and the plainest
        rows of two, are tried in full, then random larger worlds and an even sample of all
        others, which grows round by round.
    progress : callable, optional
        Told what is being done, now and then.

    Returns
    -------
    Report

    Raises
    ------
    StrategyError
        No such strategy. What a step raises while it runs is a finding, not an error.
    """
    found, name = _named(strategy)
    if budget is not None and not budget > 0:
        raise PtebatchError(f"budget={budget} is not a number of seconds above 0")
    if isinstance(machine, str):
        machine = Machine.parse(machine)
    search = _Search(found, name, machine or Machine(), progress or (lambda text: None))
    if not exhaustive:
        return search.random(seed, budget)
    if budget is None and resolve(found)[1] == "python":
        budget = PYTHON_BUDGET
    return search.exhaustive(seed) if budget is None else search.sample(seed, budget)


class _Search:
    """One search: its checker, its report, and the clock."""

    def __init__(self, strategy: Step, name: str, machine: Machine, progress: Callable[[str], None]) -> None:
        self.strategy, self.name, self.wanted, self.progress = strategy, name, machine, progress
        self.python = resolve(strategy)[1] == "python"
        self.told = 0.0

    def begin(self, machine: Machine, kind: str, seed: int) -> None:
        self.machine = machine
        self.checker = Checker(machine, self.strategy)
        self.report = Report(self.name, machine, kind, seed)
        self.start = time.perf_counter()
        self.odd: list[Counterexample] = []
        #: random worlds of each larger geometry, with a checker for it
        self.larger: list[tuple[Checker, Iterator[Chunk]]] = []
        for sizes in LARGER:
            other = small_machine(self.wanted, *sizes)
            if other not in [checker.machine for checker, _ in self.larger]:
                self.larger.append((Checker(other, self.strategy), random_chunks(other, seed)))
        full = full_machine(self.wanted)
        self.full = (FullTables(full, self.strategy), full_worlds(full, seed)) if full else None

    def end(self) -> Report:
        if self.odd and self.report.counterexample is None:
            self.report.counterexample = self.odd[0]
        self.report.seconds = time.perf_counter() - self.start
        self.report.runs = self.checker.runs + sum(checker.runs for checker, _ in self.larger)
        self.report.runs += self.full[0].runs if self.full else 0
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
        self.progress(f"{self.name}: found one, making it small")
        self.report.complete = False
        seen = told(world, self.name, law, run, repeats=False)
        smallest = shrink(checker, world, law)
        found = examine(checker, smallest, self.name) or examine(checker, world, self.name)
        self.odd += [] if found else [seen]
        self.report.counterexample = found or (self.odd[0] if len(self.odd) == ODD else None)

    # ---- every world ----

    def exhaustive(self, seed: int) -> Report:
        self.begin(small_machine(self.wanted), "exhaustive", seed)
        self.report.complete = True
        for chunk in chunks(self.machine):
            began = time.perf_counter()
            left = self.sweep(chunk)
            self.report.add(chunk.size, chunk.stands_for, left, chunk.nr, time.perf_counter() - began)
            if self.report.counterexample is not None:
                return self.end()
            self.say(chunk.size)
        self.larger_worlds(RANDOM, FULL)
        return self.end()

    def sweep(self, chunk: Chunk) -> int:
        seen = (
            np.zeros((len(chunk.words), len(chunk.folds), len(chunk.calls)), np.uint16)
            if chunk.size >= self.machine.cont_ptes
            else None
        )
        found = self.checker.sweep(
            chunk.words, chunk.pages, chunk.calls, chunk.ad, chunk.folds, tlb=True, hardware=chunk.updates, seen=seen
        )
        judged, _, law, _, _, row, call, _, _ = found
        if seen is not None:
            self.note(chunk, seen)
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
                        ptes = self.checker.folded(chunk.words[row:], chunk.pages[row:], chunk.ad, int(chunk.folds[fold]))
                        events.example = chunk.world(self.machine, row, int(call), ptes)

    # ---- an even sample, under a time budget ----

    def sample(self, seed: int, budget: float) -> Report:
        self.begin(small_machine(self.wanted), "sample", seed)
        before = -1
        for round_, chunk in self.rounds():
            if round_ > before and self.larger_worlds(RANDOM_ROUND, FULL_ROUND, budget):
                break
            before = round_
            began = time.perf_counter()
            if began - self.start > budget and self.report.judged:
                break
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
        judged, law, _, row = self.checker.each(*chunk.rows(which), tlb=True, hardware=updates)
        if law:
            self.broken(self.checker, chunk.world_at(self.machine, int(which[row]), self.checker.start_ptes), law)
        return int(judged)

    # ---- random worlds ----

    def random(self, seed: int, budget: float | None) -> Report:
        self.begin(small_machine(self.wanted, *LARGER[0]), "random", seed)
        self.larger_worlds(RANDOM_PYTHON if self.python else RANDOM, FULL, budget)
        return self.end()

    def larger_worlds(self, random: int, full: int, budget: float | None = None) -> bool:
        """So many random worlds more, then full tables; whether one breaks a law."""
        return self.random_worlds(random, budget) or self.full_tables(full, budget)

    def random_worlds(self, worlds: int, budget: float | None = None) -> bool:
        """Judge so many more of each larger geometry; whether one breaks a law."""
        until = self.report.judged + worlds * len(self.larger)
        while self.report.judged < until:
            for checker, drawn in self.larger:
                machine = checker.machine
                line = self.report.larger.setdefault((machine.ptrs_per_pte, machine.cont_ptes), Line())
                began = time.perf_counter()
                if budget is not None and began - self.start > budget:
                    return False
                chunk = next(drawn)
                judged, law, _, row = checker.each(
                    chunk.words, chunk.pages, chunk.calls, chunk.ad, chunk.folds, tlb=True, hardware=chunk.updates
                )
                line.judged += judged
                line.seconds += time.perf_counter() - began
                if law:
                    self.broken(checker, chunk.world(machine, row, row, checker.start_ptes), law)
                if self.report.counterexample is not None:
                    return True
                self.say(machine.ptrs_per_pte)
        return False

    def full_tables(self, worlds: int, budget: float | None = None) -> bool:
        """Judge so many more full tables; whether one breaks a law."""
        if self.full is None:
            return False
        checker, drawn = self.full
        line = self.report.larger.setdefault((checker.machine.ptrs_per_pte, checker.machine.cont_ptes), Line())
        for world in islice(drawn, worlds):
            began = time.perf_counter()
            if budget is not None and began - self.start > budget:
                return False
            law, run = checker.judged(world)
            line.judged += 1
            line.seconds += time.perf_counter() - began
            if law:
                self.finish(checker, world, law, run)
            if self.report.counterexample is not None:
                return True
            self.say(checker.machine.ptrs_per_pte)
        return False
