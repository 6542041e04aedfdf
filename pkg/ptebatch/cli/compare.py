"""Run one change of protection by several strategies from the same start.

Prints what each strategy counted, and in which PTE bits its result differs
from that of the merged design (folio). Without arguments: 1G of 2M, 64K and 4K
folios, made read-only and writable again. All numbers are counted events of
the model, none is a time.

Of a process, each writable mapping is one call; those with the most pages are
shown one by one, the others together; --whole shows only the sum of all.
Exit status 1: the final PTEs of a strategy differ from the merged design's.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ..comparison import Comparison, Row, dsb, tlbi, total
from ..errors import PtebatchError
from ..report import count_text, size_text
from ..simulate import compare
from ..strategies import STRATEGIES
from ._options import Source, add_run_arguments, add_source_arguments, ops_of, sources, strategies_of
from ._print import Column, printable, progress, put, put_json, table

EXAMPLES = """\
examples:
  ptebatch compare
  ptebatch compare --layout alternating:unfolded,1/511:unfolded --op rw --strategy lookahead,folio
  ptebatch compare --layout T2:64M --pae random:0.9 --op rw --all
  ptebatch compare --layout T1 --machine 6.17,bbml=2 --json
  ptebatch compare --pid demo --op ro --whole
"""

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
    Column("PTEs against\n{reference}"),
)

_LEGEND = """\
counted, exact: detection: PTE reads of the loop and its scans, A/D gathering included; the others are those of start and commit
(unfold checks, fold tests). PAE reads: PageAnonExclusive asked. starts: modify_prot_start_ptes(). unfolds, folds: contpte
conversions. TLBI, DSB: instructions of conversions and final flushes together."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    add_source_arguments(parser)
    add_run_arguments(parser, op="ro,rw", strategy="all that are not flawed")
    parser.add_argument("--all", action="store_true", help="every strategy, the flawed ones too")
    parser.add_argument("--whole", action="store_true", help="of a process: the sum over its writable mappings only")


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    every = [name for name, s in STRATEGIES.items() if args.all or not s.flawed]
    if args.all and args.strategy is not None:
        raise PtebatchError(f"--strategy {args.strategy} and --all do not go together; give one of them")
    strategies = strategies_of(args, every)
    with progress() as say:
        given = sources(args)
        found = [(source, compare(source.world, ops_of(args), strategies, progress=say)) for source in given]
    if args.json:
        put_json(_document(args, found))
    else:
        put(_text(args, found))
    # AF, dirty and CONT may differ between sound designs (spec 7.10): that is no finding
    return 0 if all(c.equivalent for _, comparisons in found for c in comparisons) else 1


def _by_op(comparisons: Sequence[Comparison], ops: Sequence[str]) -> list[list[Comparison]]:
    nr = len(comparisons) // len(ops)
    return [list(comparisons[i : i + nr]) for i in range(0, len(comparisons), nr)]


def _shown(source: Source, comparisons: Sequence[Comparison], ops: Sequence[str], whole: bool) -> list[Comparison]:
    """Return what the text shows: all, or of a process the largest mappings and the sum of the others."""
    if not source.world.process:
        return list(comparisons)
    shown: list[Comparison] = []
    ranges = source.world.ranges
    largest = sorted(range(len(ranges)), key=lambda i: -ranges[i].pages)[:SHOWN_RANGES]
    for part in _by_op(comparisons, ops):
        if not whole:
            own = sorted(largest) if len(ranges) > SHOWN_RANGES else range(len(ranges))
            shown += [part[i] for i in own]
            rest = [i for i in range(len(ranges)) if i not in own]
            if rest:
                shown.append(total([part[i] for i in rest], f"the other writable mappings ({len(rest)})",
                                   f"{count_text(sum(ranges[i].pages for i in rest))} pages"))  # fmt: skip
        if whole or len(ranges) > 1:
            pages = count_text(sum(r.pages for r in ranges))
            shown.append(total(part, f"all writable mappings ({len(ranges)})", f"{pages} pages"))
    return shown


def _text(args: argparse.Namespace, found: Sequence[tuple[Source, list[Comparison]]]) -> str:
    parts = []
    for source, comparisons in found:
        if source.world.process:
            said = [printable(f"{source.world.name}, read from {source.world.note}")]
            said += [f"assumed: {text}" for text in source.assumed]
            said += [f"lost: {text}" for text in source.lost] or ["lost: nothing"]
            parts.append("\n".join(said))
        parts += [_table(c) for c in _shown(source, comparisons, ops_of(args), args.whole)]
    if args.save is not None:
        parts.append(f"saved to {args.save}")
    head = f"counted events on machine {found[0][0].world.machine}; no time is measured or modelled"
    return "\n\n".join([head, *parts, _LEGEND])


def _table(c: Comparison) -> str:
    title = f"{printable(c.name)} {size_text(c.length)}, {c.before} to {c.op}: {c.note}"
    columns = [Column(col.head.format(reference=c.reference.strategy), number=col.number) for col in _COLUMNS]
    rows = [_cells(row, is_reference=row.strategy == c.reference.strategy) for row in c.rows]
    text = table(columns, rows, title=title, dim=[i for i, row in enumerate(c.rows) if row.flawed])
    errors = dict.fromkeys(error for row in (c.reference, *c.rows) for error in row.errors)
    return "\n".join([text, *(f"refused: {printable(error)}" for error in errors)])


def _cells(row: Row, *, is_reference: bool) -> list[str]:
    c = row.counters
    counts = [c["pte_reads"], row.detection_reads, c["pae_reads"], c["batch_scans"], c["prot_start"], c["unfolds"], c["folds"],
              tlbi(c), dsb(c)]  # fmt: skip
    return [row.strategy + " (flawed)" * row.flawed, *map(count_text, counts), "reference" if is_reference else _verdict(row)]


def _verdict(row: Row) -> str:
    if row.same:
        return "same"
    where = ", ".join(f"{name} {count_text(n)}" for name, n in row.difference.bits.items())
    return f"{count_text(row.difference.ptes)} differ: {where}"


def _document(args: argparse.Namespace, found: Sequence[tuple[Source, list[Comparison]]]) -> dict[str, Any]:
    ops = ops_of(args)
    starts = []
    for source, comparisons in found:
        if source.world.process and args.whole:
            comparisons = _shown(source, comparisons, ops, whole=True)
        starts.append(
            {
                "name": source.world.name,
                "note": source.world.note,
                "process": source.world.process,
                "assumed": source.assumed,
                "lost": source.lost,
                "comparisons": [c.to_dict() for c in comparisons],
            }
        )
    return {
        "verb": "compare",
        "numbers": "counted",
        "machine": str(found[0][0].world.machine),
        "ops": list(ops),
        "same": all(c.same for _, comparisons in found for c in comparisons),
        "saved": args.save,
        "starts": starts,
    }
