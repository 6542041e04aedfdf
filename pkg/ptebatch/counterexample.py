"""A world that breaks a law: drawn as a strip, with lines that reproduce it; `shrinking` makes it small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .core.check import Checker
from .fulltables import FullTables
from .laws import LAWS, Law
from .laws_run import Breach, Run
from .notation import diff
from .small import SmallWorld
from .strategies import STRATEGIES
from .trace import KINDS

__all__ = ["Counterexample", "examine", "judged", "left", "told"]

#: hardware updates that are tried in one run when a world is judged by itself
UPDATES = 2
#: steps that are told at most, and pages in a row that are asked and answer alike
_STEPS_TOLD, _ASKED_TOLD = 60, 4


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

    def text(self) -> str:
        """Before, call, expected, got, the law with its source, and lines that reproduce it."""
        how = self.world.change
        rows = [
            f"{self.strategy} breaks law {self.law.name} on machine {self.world.machine}",
            f"law       {self.law.claim}",
            f"source    {self.law.source}",
            f"folios    {self.folios()}",
            f"call      {how.name} of entries [{self.world.start}, {self.world.end}): {how.summary}",
            *self.strips(),
            f"steps     {self.steps()}",
            *self.hardware(),
            f"expected  {self.breach.expected}",
            f"got       {self.breach.got}",
            *self.alone(),
            "reproduce",
            *(f"  {line}" for line in self.source().splitlines()),
        ]
        return "\n".join(rows)

    def folios(self) -> str:
        """Folios under the entries: head, order, and a letter for each page."""
        found = self.world.folios()
        return f"{found}  (e: PageAnonExclusive, s: not, f: of a file)" if found else "none"

    def steps(self) -> str:
        """What the strategy did, in order, without its reads and stores."""
        shift, told = self.world.machine.page_shift, []
        for row in _together(self.run.events):
            kind, addr, value = row[0]
            name, i = KINDS[kind], addr >> shift
            if name in ("START", "COMMIT", "GATHER"):
                told.append(f"{'flush' if name == 'GATHER' else name.lower()} [{i}, {i + value})")
            elif name in ("FOLD", "UNFOLD"):
                told.append(f"{name.lower()} block {i // self.world.machine.cont_ptes}")
            elif name == "PAE":
                said = [f"ask page {page:#x}: {'exclusive' if value else 'not exclusive'}" for _, page, _ in row]
                told += said if len(row) <= _ASKED_TOLD else [said[0], f"ask pages up to {row[-1][1]:#x}: the same"]
        if len(told) > _STEPS_TOLD:
            told[_STEPS_TOLD:] = [f"{len(told) - _STEPS_TOLD} more"]
        return "; ".join(told) or "none"

    def strips(self) -> list[str]:
        """The table before and after, with marks under what changed."""
        low, high = self.world.shown()
        old, new = (np.array(words[low:high], np.uint64) for words in (self.world.ptes, self.run.after))
        flags = self.world.exclusive(low, high)
        fields = self.world.needed()
        drawn = diff(old, new, self.world.machine, first_idx=low, exclusive=flags, fields=fields, labels=("before", "after"))
        if "\n" not in drawn:
            return [f"before    {self.world.draw(self.world.ptes[low:high], fields)}", "after     as before"]
        return [line[:8].ljust(10) + line[8:] for line in drawn.splitlines()]

    def hardware(self) -> list[str]:
        """What hardware did in between."""
        found = []
        for when, entry, write in self.run.updates:
            kind, addr, _ = self.run.events[when - 1] if when <= len(self.run.events) else (0, 0, 0)
            after = f"{KINDS.get(kind, 'event')} of entry {addr >> self.world.machine.page_shift}"
            found.append(f"hardware  {'writes to' if write else 'accesses'} entry {entry} after the {after} (event {when})")
        return found

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
            return f"from ptebatch.checker import verify_strategy\nprint({again})"
        return "\n".join(
            [
                "from ptebatch.checker import judge",
                "from ptebatch.small import SmallWorld",
                f"world = {self.world.source()}",
                f"print(judge(world, {strategy}))",
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
            "steps": self.steps(),
            "before": self.world.strip(),
            "before_words": [f"{word:#018x}" for word in self.world.ptes],
            "after_words": [f"{word:#018x}" for word in self.run.after],
            "hardware": [{"after_events": w, "entry": i, "write": d} for w, i, d in self.run.updates],
            "reproduce": self.source(),
        }


def _together(events: list[tuple[int, int, int]]) -> list[list[tuple[int, int, int]]]:
    """The events in order; pages that are asked one after the other and answer alike are together."""
    rows: list[list[tuple[int, int, int]]] = []
    for event in events:
        kind, addr, value = rows[-1][-1] if rows else (-1, 0, 0)
        alike = kind == event[0] and KINDS[kind] == "PAE" and bool(value) == bool(event[2])
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
        law != 24,
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
