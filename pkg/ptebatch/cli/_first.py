"""What ``ptebatch compare`` says without arguments: what batching saves, where designs part, what to ask next."""

from __future__ import annotations

from collections.abc import Callable

from ..kernels import DEFAULT
from ..report import count_text
from ..simulate.comparison import COSTS, Comparison, total
from ..simulate.runs import compare, compare_kernels
from ._print import Column, filled, table

__all__ = ["OLD", "first_screen"]

#: the last kernel whose mprotect() changes one PTE at a time
OLD = "6.16"
#: what the first table goes through: 1G each
_FOLIOS = ("4K", "16K", "64K", "2M")
#: what the second table shows: one folio of 2M whose pages are not alike
_PARTED = ("alternating", "1/511")

_NEXT = """\
Next: compare --pid PID (or demo): your process; compare --explain: the words;
compare --layout 1/511 --op rw --table: every counter; show and events: PTEs and
steps; verify --strategy mine.py:step: is my own loop right?"""


def _runs(say: Callable[[str], None]) -> tuple[list[Comparison], list[Comparison]]:
    """Kernels by folio size, both operations together; designs on what is not alike."""
    sweep = []
    for size in _FOLIOS:
        found = compare_kernels(f"folio={size}:1G", "ro,rw", f"{OLD},{DEFAULT}", progress=say)
        sweep.append(total(found, f"{size} folios"))
    return sweep, compare([*_PARTED], "rw", progress=say)


def first_screen(say: Callable[[str], None]) -> str:
    """Return the screen."""
    sweep, parted = _runs(say)
    ratios = [_ratio(c) for c in sweep]
    rows = [_saved(c, ratio) for c, ratio in zip(sweep, ratios, strict=True)]
    heads = ["folios", f"PTE reads {OLD}", DEFAULT, "fewer", f"unfolds {OLD}", DEFAULT, f"TLBI {OLD}", DEFAULT]
    columns = [Column(head, number=i > 0) for i, head in enumerate(heads)]
    saves = f"1G made read-only and writable again: {OLD} (one PTE at a time) and {DEFAULT} (batches)"
    part = f"Where the designs part: one 2M folio made writable on {DEFAULT}; its pages are"
    designs = [
        Column("design"), Column("every other\nPTE reads", number=True), Column("exclusive\nPAE reads", number=True),
        Column("1 shared, 511\nPTE reads", number=True), Column("exclusive\nPAE reads", number=True),
    ]  # fmt: skip
    high = max(ratios)
    best = _FOLIOS[ratios.index(high)]
    same = all(c.same for c in parted)
    words = (
        f"Batching reads up to {high:.1f} times fewer PTEs, most with {best} folios. All designs end in "
        f"{'the same' if same else 'equivalent'} PTEs; they cost the same but where PageAnonExclusive changes inside a folio: "
        f"{_worst(parted)}."
    )
    return "\n".join([saves, table(columns, rows), "", part, table(designs, _designs(parted)), "", filled(words), _NEXT])


def _ratio(c: Comparison) -> float:
    old, new = c.rows
    return COSTS["pte_reads"](old) / COSTS["pte_reads"](new)


def _saved(c: Comparison, ratio: float) -> list[str]:
    old, new = c.rows
    reads, unfolds, flushed = (
        [count_text(cost(row)) for row in (old, new)] for cost in (COSTS["pte_reads"], COSTS["unfolds"], COSTS["tlbi"])
    )
    return [c.name.split()[0], *reads, f"{ratio:.1f}x", *unfolds, *flushed]


def _designs(parted: list[Comparison]) -> list[list[str]]:
    """Designs that count the same in every layout share a line."""
    found: dict[tuple[str, ...], list[str]] = {}
    for rows in zip(*(c.rows for c in parted), strict=True):
        numbers = tuple(count_text(row.counters[name]) for row in rows for name in ("pte_reads", "pae_reads"))
        found.setdefault(numbers, []).append(rows[0].strategy)
    return [[", ".join(names), *numbers] for numbers, names in found.items()]


def _worst(parted: list[Comparison]) -> str:
    """The design that reads the most PTEs, and how many times those of the least."""
    reads = {row.strategy: COSTS["pte_reads"](row) for row in parted[0].rows}
    most, least = max(reads, key=lambda name: reads[name]), min(reads.values())
    return f"{most} reads up to {reads[most] / least:.0f} times as many"
