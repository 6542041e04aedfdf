"""A world that breaks a law: drawn as a strip, with lines that reproduce it; `shrink` makes it small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..events import KINDS
from ..notation.strip import diff, draw
from ..report import wrapped
from ..strategies import STRATEGIES
from .check import Checker
from .fulltables import FullTables
from .laws.rows import LAWS, Law, law_of
from .laws.run import Breach, Replayed, Run
from .worlds.small import SmallWorld

__all__ = ["Counterexample", "examine", "judged", "left", "told"]

#: hardware updates that are tried in one run when a world is judged by itself
UPDATES = 2
#: steps that are told at most, and pages in a row that are asked and answer alike
_STEPS_TOLD, _ASKED_TOLD = 60, 4
#: columns below which lines are not broken
_NARROWEST = 40
_ACCESSES = {"R": "read", "W": "store to", "X": "exchange", "C": "compare and exchange"}


@dataclass(frozen=True, slots=True)
class Counterexample:
    """A world, a strategy, and the law that it breaks there.

    Parameters
    ----------
    world : SmallWorld
    strategy : str
        As the command line takes it.
    law : Law
    run : Run
        What the run left.
    breach : Breach
    repeats : bool
        The world breaks the law when it is judged by itself, too.
    """

    world: SmallWorld
    strategy: str
    law: Law
    run: Run
    breach: Breach
    repeats: bool = True

    def __str__(self) -> str:
        return self.text()

    def text(self, width: int = 80) -> str:
        """The law, before, after, the steps, expected, got, a hint, and lines that reproduce it.

        Parameters
        ----------
        width : int
            Of the terminal; lines that reproduce the world are never broken.
        """
        room, name = max(width, _NARROWEST), self.law.name
        rows = [
            *wrapped(f"error[{name}]: {self.strategy} breaks law {name} on machine {self.world.machine}", room, indent=10),
            *_headed("law", self.law.claim, width),
            *_headed("source", self.law.source, width),
            *_headed("folios", self.folios(), width),
            *_headed("call", self._call(), width),
            *self.strips(width),
            "steps",
            *(line for step in self.steps() for line in wrapped(step, room, lead="  ", indent=5)),
            *_headed("expected", self.breach.expected, width),
            *_headed("got", self.breach.got, width),
            *self.alone(),
            *_headed("hint", self.law.hint, width),
            "reproduce",
            *(f"  {line}" for line in self.source().splitlines()),
        ]
        return "\n".join(rows)

    def brief(self, width: int = 80) -> list[str]:
        """Call, folios and strips only."""
        return [
            *_headed("call", self._call(), width), *_headed("folios", self.folios(), width), *self.strips(width),
            *_headed("expected", self.breach.expected, width),
        ]  # fmt: skip

    def _call(self) -> str:
        how = self.world.change
        return f"{how.name} of entries [{self.world.start}, {self.world.end}): {how.summary}"

    def folios(self) -> str:
        """Folios under the entries: head, order, and a letter for each page."""
        found = self.world.folios()
        return f"{found}  (e: PageAnonExclusive, s: not, f: of a file)" if found else "none"

    def steps(self) -> list[str]:
        """What the strategy did, numbered and in order, and what hardware did in between.

        Reads and stores are left out, but for those that tell hardware's place.
        """
        told: list[str] = []
        acted: dict[int, list[str]] = {}
        for when, entry, write in self.run.updates:
            acted.setdefault(when, []).append(f"   hardware {'writes to' if write else 'accesses'} entry {entry}")
        nr = at = 0
        for row in _together(self.run.events, set(acted)):
            at += len(row)
            said = self._step(row, at in acted)
            for text in said:
                nr += 1
                told.append(f"{nr:2} {text}")
            told += acted.pop(at, [])
        told += [text for texts in acted.values() for text in texts]
        if len(told) > _STEPS_TOLD:
            told[_STEPS_TOLD - 1 :] = [f"   {len(told) - _STEPS_TOLD + 1} more"]
        return told or [" none"]

    def _step(self, row: list[tuple[int, int, int]], shown: bool) -> list[str]:
        """One event, or questions that are answered alike; `shown`: hardware acts right after it."""
        kind, addr, value = row[0]
        name, i = KINDS[kind], addr >> self.world.machine.page_shift
        if name in ("START", "COMMIT", "GATHER"):
            return [f"{'flush' if name == 'GATHER' else name.lower()} [{i}, {i + value})"]
        if name in ("FOLD", "UNFOLD"):
            return [f"{name.lower()} block {i // self.world.machine.cont_ptes}"]
        if name == "PAE":
            said = [f"ask page {page:#x}: {'exclusive' if value else 'not exclusive'}" for _, page, _ in row]
            return said if len(row) <= _ASKED_TOLD else [said[0], f"ask pages up to {row[-1][1]:#x}: the same"]
        if shown and name in _ACCESSES:
            return [f"{_ACCESSES[name]} entry {i}"]
        return []

    def strips(self, width: int = 80) -> list[str]:
        """The table before and after, with marks under what changed; if that is too wide, the block that breaks the law too."""
        low, high = self.world.shown()
        found = self._strips(low, high)
        if max(map(len, found)) <= width:
            return found
        whole = [
            line for row in found if row.startswith(("before", "after")) for line in _headed(row[:10].strip(), row[10:], width)
        ]
        if self.breach.entry < 0:
            return whole
        n = self.world.machine.cont_ptes
        first = self.breach.entry // n * n
        block = self._strips(first, first + n)
        if max(map(len, block)) > width:
            block = self._strips(max(first, self.breach.entry - 1), min(self.breach.entry + 2, first + n))
        return [*whole, f"around entry {self.breach.entry}", *block]

    def _strips(self, low: int, high: int) -> list[str]:
        old, new = (np.array(words[low:high], np.uint64) for words in (self.world.ptes, self.run.after))
        flags, fields, first = self.world.exclusive(low, high), self.world.needed(), low % self.world.machine.ptrs_per_pte
        drawn = diff(old, new, self.world.machine, first_idx=first, exclusive=flags, fields=fields, labels=("before", "after"))
        if "\n" not in drawn:
            flagged = flags if "exclusive" in fields else None
            drawn = f"before    {draw(old, self.world.machine, first_idx=first, exclusive=flagged, fields=fields)}"
            return [drawn, "after     as before"]
        return [line[:8].ljust(10) + line[8:] for line in drawn.splitlines()]

    def alone(self) -> list[str]:
        """What to know of a finding that does not come again."""
        if self.repeats:
            return []
        return ["repeats   no: by itself the world keeps every law, so the step keeps something from one call to the next"]

    def source(self) -> str:
        """Python that judges this world once more; of what does not repeat, the whole search."""
        strategy = repr(self.strategy)
        if ":" not in self.strategy and self.strategy not in STRATEGIES:
            strategy = self.strategy if self.strategy.isidentifier() else "step"  # an object that was given
        if not self.repeats:
            again = f"verify_strategy({strategy}, machine={str(self.world.machine)!r})"
            return f"from ptebatch.checker.search import verify_strategy\nprint({again})"
        return "\n".join(
            [
                "from ptebatch.checker.search import judge",
                "from ptebatch.checker.worlds.small import SmallWorld",
                f"world = {self.world.source()}",
                f"print(judge(world, {strategy}{', strict=True' * self.law.strict}))",
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        how = self.world.change
        return {
            "strategy": self.strategy,
            "machine": str(self.world.machine),
            "law": self.law.name,
            "claim": self.law.claim,
            "source": self.law.source,
            "entries": sum(word != 0 for word in self.world.ptes),
            "entry": self.breach.entry,
            "expected": self.breach.expected,
            "got": self.breach.got,
            "repeats": self.repeats,
            "folios": self.world.folios(),
            "call": f"{how.name} [{self.world.start}, {self.world.end})",
            "hint": self.law.hint,
            "steps": [" ".join(step.split()) for step in self.steps()],
            "before": self.world.strip(),
            "before_words": [f"{word:#018x}" for word in self.world.ptes],
            "after_words": [f"{word:#018x}" for word in self.run.after],
            "hardware": [{"after_events": w, "entry": i, "write": d} for w, i, d in self.run.updates],
            "reproduce": self.source(),
        }


def _headed(head: str, text: str, width: int) -> list[str]:
    """A line that begins with its head, broken into several where it is wider."""
    return wrapped(text, max(width, _NARROWEST), lead=f"{head:<10}", indent=10)


def _together(events: list[tuple[int, int, int]], places: set[int]) -> list[list[tuple[int, int, int]]]:
    """The events in order; pages asked one after the other that answer alike are together, but for what ends at `places`."""
    rows: list[list[tuple[int, int, int]]] = []
    for at, event in enumerate(events):
        kind, addr, value = rows[-1][-1] if rows else (-1, 0, 0)
        alike = kind == event[0] and KINDS[kind] == "PAE" and bool(value) == bool(event[2]) and at not in places
        if alike and event[1] in (addr, addr + 1):
            rows[-1].append(event)
        else:
            rows.append([event])
    return rows


def judged(checker: Checker | FullTables, world: SmallWorld, *, updates: int = UPDATES) -> tuple[int, Run]:
    """Judge a world by every law: number of the law it breaks, 0 none, and the run."""
    if isinstance(checker, FullTables):
        return checker.judged(world)
    law, _, _ = checker.check(world.ptes, world.pages, world.call, tlb=True, hardware=updates if world.machine.hafdbs else 0)
    return law, left(checker, world, law)


def left(checker: Checker, world: SmallWorld, law: int) -> Run:
    """What the checker's last run, of this world, left; `law`: the number of the law it broke."""
    stopped, started = checker.walked
    again = checker.replayed
    return Run(
        world,
        tuple(int(word) for word in checker.table_ptes),
        checker.pages,
        stopped,
        started,
        checker.counters,
        checker.gathered,
        checker.events,
        checker.updates,
        checker.error,
        law != law_of("GATHER_RESET").number,
        again and Replayed(tuple(int(word) for word in again[0]), *again[1:]),
    )


def examine(checker: Checker | FullTables, world: SmallWorld, strategy: str) -> Counterexample | None:
    """Return how a strategy breaks a law in this world, None if it breaks none."""
    number, run = judged(checker, world)
    return told(world, strategy, number, run) if number else None


def told(world: SmallWorld, strategy: str, number: int, run: Run, *, repeats: bool = True) -> Counterexample:
    """Return the counterexample of a run that breaks a law."""
    law = LAWS[number]
    breach = law.plain(run) or Breach(-1, "the law holds", "the compiled checker says it does not")
    return Counterexample(world, strategy, law, run, breach, repeats)
