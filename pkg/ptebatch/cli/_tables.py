"""The full tables of `compare`, ``--table``: every number of every strategy."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..machine import Machine
from ..report import between_text, count_text, size_text
from ..simulate.comparison import Comparison, Row, dsb, tlbi, total
from ..simulate.start import Range
from ._options import Source, ops_of
from ._print import Column, printable, table

__all__ = ["LEGEND", "by_op", "full_tables", "head_line", "largest", "open_notes", "shown", "title", "whole"]

#: mappings of a process that are shown by themselves
SHOWN_RANGES = 5

_COLUMNS = (
    Column("\nstrategy"),
    Column("PTE\nreads", number=True),
    Column("of them\ndetection", number=True),
    Column("PAE\nreads", number=True),
    Column("batch\nscans", number=True),
    Column("\nstarts", number=True),
    Column("\nunfolds", number=True),
    Column("\nfolds", number=True),
    Column("\nTLBI", number=True),
    Column("\nDSB", number=True),
    Column("final PTEs\nvs {reference}"),
)
_KERNEL_COLUMNS = (Column("\nkernel"), Column("\nloop"), *_COLUMNS[1:])

#: what the columns are
LEGEND = """\
All numbers are counted events of the model, none is a time.
  detection  PTE reads of the loop and its scans, A/D gathering included; the
             others are those of start and commit (unfold checks, fold tests)
  PAE reads  how often PageAnonExclusive was asked of a page
  starts     modify_prot_start_ptes(): entries cleared, one call for a batch
  unfolds, folds   contpte conversions: a block loses or gets the CONT bit
  TLBI, DSB  instructions of conversions and final flushes together
PTE: an entry of a leaf table. Folio: what is allocated, and mapped, as one; a
contpte block is 16 entries (4K pages) that one TLB entry can hold, with the
CONT bit. Fold: to set it. Batch: entries changed together. PAE:
PageAnonExclusive, the page is this process's own and may become writable. TLBI:
invalidates TLB entries. DSB: waits for that. BBML: what the CPU asks for when a
block size changes (break-before-make level). T1, T2, T3: 1G in folios of a
table (2M), a contpte block (64K), a page (4K)."""


def by_op(comparisons: Sequence[Comparison], ops: Sequence[str]) -> list[list[Comparison]]:
    """The comparisons of each operation."""
    nr = len(comparisons) // len(ops)
    return [list(comparisons[i : i + nr]) for i in range(0, len(comparisons), nr)]


def largest(ranges: Sequence[Range]) -> list[int]:
    """Numbers of the mappings with the most pages, the largest first."""
    return sorted(range(len(ranges)), key=lambda i: -ranges[i].pages)[:SHOWN_RANGES]


def whole(part: Sequence[Comparison], ranges: Sequence[Range]) -> Comparison:
    """All writable mappings of a process together, for one operation."""
    return total(part, f"all writable mappings ({len(ranges)})", f"{count_text(sum(r.pages for r in ranges))} pages present")


def shown(source: Source, comparisons: Sequence[Comparison], ops: Sequence[str], sum_only: bool) -> list[Comparison]:
    """Return what the text shows: all, or of a process the largest mappings and the sum of the others."""
    if not source.world.process:
        return list(comparisons)
    found: list[Comparison] = []
    ranges = source.world.ranges
    own = sorted(largest(ranges))
    rest = [i for i in range(len(ranges)) if i not in own]
    for part in by_op(comparisons, ops):
        if not sum_only:
            found += [part[i] for i in own]
            if rest:
                found.append(total([part[i] for i in rest], f"the other writable mappings ({len(rest)})",
                                   f"{count_text(sum(ranges[i].pages for i in rest))} pages"))  # fmt: skip
        if sum_only or len(ranges) > 1:
            found.append(whole(part, ranges))
    return found


def title(c: Comparison) -> str:
    """What is changed, and what it is."""
    return f"{printable(c.name)} {size_text(c.length)}, {c.before} to {c.op}: {c.note}"


def full_tables(args: argparse.Namespace, found: Sequence[tuple[Source, list[Comparison]]], machines: Sequence[Machine]) -> str:
    """Return all tables, with what was assumed, is unknown and was lost."""
    parts = []
    for one, comparisons in found:
        if one.world.process:
            parts.append("\n".join([printable(f"{one.world.name}, read from {one.world.note}"), *open_notes(one)]))
        parts += [_table(c) for c in shown(one, comparisons, ops_of(args), args.whole)]
    return "\n\n".join([head_line(args, machines), *parts, LEGEND])


def open_notes(one: Source) -> list[str]:
    """Everything that was assumed of a process, is unknown of it, or was lost while it was read."""
    return [*(f"assumed: {text}" for text in one.assumed), *one.unknown,
            *([f"lost: {text}" for text in one.lost] or ["nothing dropped while it was read"])]  # fmt: skip


def head_line(args: argparse.Namespace, machines: Sequence[Machine]) -> str:
    """Return what the numbers are, and what is to be known of the machines."""
    if args.kernels is None:
        head = f"counted events on machine {machines[0]}"
    else:
        head = "counted events by kernel" + (f", all with {args.machine}" if args.machine else "")
    noted = dict.fromkeys(note for m in machines for note in m.notes())
    return "\n".join([f"{head}; no time is measured or modelled", *(f"note: {note}" for note in noted)])


def _table(c: Comparison) -> str:
    kind = _KERNEL_COLUMNS if c.reference.kernel else _COLUMNS
    columns = [Column(col.head.format(reference=c.reference.label), number=col.number) for col in kind]
    ends = zip(c.rows, c.ends[-1].rows, strict=True)
    rows = [_cells(row, other, is_reference=row.label == c.reference.label) for row, other in ends]
    text = table(columns, rows, title=title(c), dim=[i for i, row in enumerate(c.rows) if row.flawed])
    flips = [f"{name}: {a} less than {b}, or more" for name, pairs in c.flips().items() for a, b in pairs]
    said = [f"the ranking depends on what is unknown: {'; '.join(flips)}"] if flips else []
    said += [f"not modelled: {text}" for text in c.not_modelled]
    return "\n".join([text, *said, *(f"refused: {printable(error)}" for error in c.errors)])


def _cells(row: Row, other: Row, *, is_reference: bool) -> list[str]:
    """A row's cells; `other` is the same row at the other end of what is unknown."""
    ends = [_counts(one) for one in (row, other)]
    counts = [between_text(a, b) for a, b in zip(*ends, strict=True)]
    name = [row.kernel] * bool(row.kernel) + [row.strategy + " (flawed)" * row.flawed]
    verdicts = dict.fromkeys(_verdict(one) for one in (row, other))
    return [*name, *counts, "reference" if is_reference else " or ".join(verdicts)]


def _counts(row: Row) -> list[int]:
    c = row.counters
    return [c["pte_reads"], row.detection_reads, c["pae_reads"], c["batch_scans"], c["prot_start"], c["unfolds"], c["folds"],
            tlbi(c), dsb(c)]  # fmt: skip


def _verdict(row: Row) -> str:
    if row.same:
        return "same"
    where = ", ".join(f"{name} {count_text(n)}" for name, n in row.difference.bits.items())
    return f"{count_text(row.difference.ptes)} differ: {where}"
