"""A world that breaks a law: drawn as a strip, with lines that reproduce it; `shrinking` makes it small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .core.check import Checker
from .laws import LAWS, Law
from .laws_run import Breach, Run
from .notation import diff
from .small import SmallWorld
from .trace import KINDS

__all__ = ["Counterexample", "examine", "judged"]

#: hardware updates that are tried in one run when a world is judged by itself
UPDATES = 2


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
    """

    world: SmallWorld
    strategy: str
    law: Law
    run: Run
    breach: Breach

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
        for kind, addr, value in self.run.events:
            name, i = KINDS[kind], addr >> shift
            if name in ("START", "COMMIT", "GATHER"):
                told.append(f"{'flush' if name == 'GATHER' else name.lower()} [{i}, {i + value})")
            elif name in ("FOLD", "UNFOLD"):
                told.append(f"{name.lower()} block {i // self.world.machine.cont_ptes}")
            elif name == "PAE":
                told.append(f"ask page {addr:#x}: {'exclusive' if value else 'not exclusive'}")
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

    def source(self) -> str:
        """Python that judges this world once more."""
        return "\n".join(
            [
                "from ptebatch.checker import judge",
                "from ptebatch.small import SmallWorld",
                f"world = {self.world.source()}",
                f"print(judge(world, {self.strategy!r}))",
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
            "folios": self.world.folios(),
            "call": f"{how.name} [{self.world.start}, {self.world.end})",
            "steps": self.steps(),
            "before": self.world.strip(),
            "before_words": [f"{word:#018x}" for word in self.world.ptes],
            "after_words": [f"{word:#018x}" for word in self.run.after],
            "hardware": [{"after_events": w, "entry": i, "write": d} for w, i, d in self.run.updates],
            "reproduce": self.source(),
        }


def judged(checker: Checker, world: SmallWorld, *, updates: int = UPDATES) -> tuple[int, Run]:
    """Judge a world by every law: number of the law it breaks, 0 none, and the run."""
    law, _, _ = checker.check(world.ptes, world.pages, world.call, tlb=True, hardware=updates if world.machine.hafdbs else 0)
    stopped, started = checker.walked
    run = Run(
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
    return law, run


def examine(checker: Checker, world: SmallWorld, strategy: str) -> Counterexample | None:
    """Return how a strategy breaks a law in this world, None if it breaks none."""
    number, run = judged(checker, world)
    if not number:
        return None
    law = LAWS[number]
    return Counterexample(
        world, strategy, law, run, law.plain(run) or Breach(-1, "the law holds", "the compiled checker says it does not")
    )
