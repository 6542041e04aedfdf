"""What a search of small worlds found, for people and as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..machine import Machine
from ..report import wrapped
from .counterexample import Counterexample
from .worlds.small import SmallWorld

__all__ = ["ContChanges", "Line", "Report"]


@dataclass(slots=True)
class Line:
    """Worlds with so many entries in a row.

    Parameters
    ----------
    worlds : int
        Of the unreduced product, at least; see ``worlds.products.Chunk.stands_for``.
    judged : int
        Distinct after reduction.
    total : int
        How many there are after reduction, at most.
    seconds : float
    """

    worlds: int = 0
    judged: int = 0
    total: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class ContChanges:
    """Event ``cont_change_without_bbm``: CONT changed on live entries with no TLBI between (spec 7.8).

    Parameters
    ----------
    kind : str
        ``folded`` or ``unfolded``: what the block became.
    change : str
        Name of ``small.CHANGES``.
    layouts : int
        Rows, foldings and ranges in which it happens.
    example : SmallWorld or None
        The first of them.
    """

    kind: str
    change: str
    layouts: int = 0
    example: SmallWorld | None = None

    def text(self) -> str:
        """One line."""
        world = self.example
        if world is None:
            return f"{self.change}: a block becomes {self.kind} in {self.layouts:,} layouts"
        low, high = world.shown()
        strip = world.draw(world.ptes[low:high], "exclusive")
        where = f"first {strip}, entries [{world.start}, {world.end})"
        return f"{self.change}: a block becomes {self.kind} in {self.layouts:,} layouts, {where}"


@dataclass(slots=True)
class Report:
    """A search for a world in which a strategy breaks a law.

    Parameters
    ----------
    strategy : str
    machine : Machine
        With the geometry that was searched.
    kind : str
        ``exhaustive``, ``sample`` (of a search that was to stop) or ``random``.
    seed : int
        Of random worlds.
    lines : dict of int to Line
        By entries in a row.
    complete : bool
        Every world of the default size was judged.
    events : dict
        `ContChanges` by kind and change.
    seconds : float
    runs : int
        Calls that were run, those with hardware updates in between included.
    counterexample : Counterexample or None
    larger : dict
        Random worlds of larger tables, by entries of a table and of a block.
    by_clock : bool
        The search was ended by the clock: another computer may judge more or fewer worlds.
    missed : int
        Entries, of all worlds, that could have become writable and did not: each is left to a write fault (law UPGRADED).
    unrecorded : int
        Entries that no batch was recorded of, in worlds with some that were: `Result.batches` is not whole.
    left_behind : Counterexample or None
        A small world with an entry of `missed`.
    products : int
        Of an exhaustive search, products of worlds that were tried in full, or skipped.
    interrupted : bool
        From the keyboard, before it was through.
    """

    strategy: str
    machine: Machine
    kind: str
    seed: int = 0
    lines: dict[int, Line] = field(default_factory=dict)
    complete: bool = False
    events: dict[tuple[str, str], ContChanges] = field(default_factory=dict)
    seconds: float = 0.0
    runs: int = 0
    counterexample: Counterexample | None = None
    larger: dict[tuple[int, int], Line] = field(default_factory=dict)
    by_clock: bool = False
    missed: int = 0
    unrecorded: int = 0
    left_behind: Counterexample | None = None
    products: int = 0
    interrupted: bool = False

    def add(self, size: int, worlds: int, judged: int, total: int, seconds: float) -> None:
        """Count worlds with so many entries in a row."""
        line = self.lines.setdefault(size, Line())
        line.worlds += worlds
        line.judged += judged
        line.total += total
        line.seconds += seconds

    @property
    def ok(self) -> bool:
        """No law was broken."""
        return self.counterexample is None

    @property
    def worlds(self) -> int:
        """Worlds of the unreduced product that were covered, at least; of a sample, those judged."""
        return sum(line.worlds or line.judged for line in self.lines.values())

    @property
    def judged(self) -> int:
        """Worlds judged, random larger ones included."""
        return sum(line.judged for line in (*self.lines.values(), *self.larger.values()))

    @property
    def distinct(self) -> int:
        """Worlds of the product that were judged: those left after reduction."""
        return sum(line.judged for line in self.lines.values())

    def __str__(self) -> str:
        return self.text()

    def text(self, width: int = 80) -> str:
        """The verdict, what was covered, the events, and the counterexample.

        Parameters
        ----------
        width : int
            Of the terminal.
        """
        notes = [f"note: {note}" for note in self.notes()]
        said = [self._verdict(), *notes, *self._warnings(width)]
        lines = [line for text in said for line in (wrapped(text, width) if not text.startswith("  ") else [text])]
        events = [line for text in self._events() for line in wrapped(text, width)]
        return "\n".join([*lines, *self._table(), *events, *self._shown(width)])

    def notes(self) -> list[str]:
        """Return what to know of the machine, and of how the search ended."""
        clock = "the clock ended the search: another computer may judge more worlds, or fewer"
        go_on = (
            f"go on with --exhaustive --skip {self.products}"
            if self.kind == "exhaustive"
            else "the same seed tries the same worlds"
        )
        return self.machine.notes() + [clock] * self.by_clock + [go_on] * self.interrupted

    def _warnings(self, width: int) -> list[str]:
        found = []
        if self.missed:
            found.append(
                f"warning[UPGRADED]: {self.missed:,} entries could have become writable and did not: safe, and a write fault "
                "each; --strict makes it an error"
            )
            if self.left_behind is not None and self.counterexample is None:
                found += [f"  {line}" for line in self.left_behind.brief(width - 2)]
        if self.unrecorded:
            found.append(
                f"note: no batch is recorded of {self.unrecorded:,} entries; without note_batch() Result.batches is not whole"
            )
        return found

    def _verdict(self) -> str:
        tables = self.larger if self.kind == "random" else {(self.machine.ptrs_per_pte, self.machine.cont_ptes): None}
        geometry = "; ".join(f"tables of {entries} entries, blocks of {block}" for entries, block in tables)
        if not self.ok:
            return f"{self.strategy} on {self.machine} ({geometry}): a law is broken"
        if self.interrupted:
            return f"{self.strategy} on {self.machine} ({geometry}): interrupted; no law is broken in what was tried"
        what = {
            "exhaustive": "every law holds in every world of the default size"
            if self.complete
            else "every law holds in the worlds of the default size that were not skipped",
            "sample": "every law holds in every world of the default size"
            if self.complete
            else "no law is broken in what was tried; not exhaustive",
            "random": f"no law is broken in random worlds of seed {self.seed}; not exhaustive",
        }
        return f"{self.strategy} on {self.machine} ({geometry}): {what[self.kind]}"

    def _table(self) -> list[str]:
        said = f"  {self.seconds:.1f} s, {self.runs:,} runs, hardware updates between their steps included"
        if self.kind == "random":
            return [*self._larger(), said]
        heads = ("entries", "worlds", "judged") if self.kind == "exhaustive" else ("entries", "judged", "of")
        rows: list[tuple[str, ...]] = [(*heads, "seconds", "million/min")]
        for size, line in sorted(self.lines.items()):
            rows.append(self._row(str(size), line))
        total = Line(
            self.worlds, self.distinct, sum(n.total for n in self.lines.values()), sum(n.seconds for n in self.lines.values())
        )
        rows.append(self._row("all", total))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return [*table, *self._larger(), said]

    def _larger(self) -> list[str]:
        return [
            f"  {line.judged:,} random worlds, tables of {entries} entries, blocks of {block}: {line.seconds:.1f} s"
            for (entries, block), line in self.larger.items()
        ]

    def _row(self, name: str, line: Line) -> tuple[str, ...]:
        cells = (line.worlds, line.judged) if self.kind == "exhaustive" else (line.judged, line.total)
        speed = line.judged / line.seconds * 60e-6 if line.seconds > 0 else 0.0
        return name, *(f"{cell:,}" for cell in cells), f"{line.seconds:.1f}", f"{speed:.1f}"

    def _events(self) -> list[str]:
        if not self.events:
            return []
        head = "cont_change_without_bbm (reported, not judged; spec 7.8): CONT changes on live entries, no TLBI between"
        return [head, *(f"  {self.events[key].text()}" for key in sorted(self.events))]

    def _shown(self, width: int) -> list[str]:
        return ["", self.counterexample.text(width)] if self.counterexample else []

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "strategy": self.strategy,
            "machine": str(self.machine),
            "notes": self.notes(),
            "by_clock": self.by_clock,
            "missed": self.missed,
            "missed_example": self.left_behind.to_dict() if self.left_behind else None,
            "unrecorded": self.unrecorded,
            "products": self.products,
            "interrupted": self.interrupted,
            "kind": self.kind,
            "ok": self.ok,
            "complete": self.complete,
            "seed": self.seed,
            "worlds": self.worlds,
            "distinct": self.distinct,
            "runs": self.runs,
            "seconds": round(self.seconds, 3),
            "sizes": [
                {"entries": size, "worlds": n.worlds, "judged": n.judged, "seconds": round(n.seconds, 3)}
                for size, n in sorted(self.lines.items())
            ],
            "larger": [
                {"entries": entries, "block": block, "judged": line.judged, "seconds": round(line.seconds, 3)}
                for (entries, block), line in self.larger.items()
            ],
            "events": [
                {
                    "event": "cont_change_without_bbm",
                    "becomes": event.kind,
                    "change": event.change,
                    "layouts": event.layouts,
                    "first": event.example.strip() if event.example else "",
                    "entries": [event.example.start, event.example.end] if event.example else [],
                }
                for _, event in sorted(self.events.items())
            ],
            "counterexample": self.counterexample.to_dict() if self.counterexample else None,
        }
