"""What `compare` says on one screen of 80 columns: few numbers, equal rows together, and a verdict in words."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .. import bits
from ..machine import Machine
from ..report import between_text, count_text, size_text
from ..simulate.comparison import COSTS, Comparison, Row, dsb, tlbi, total
from ..simulate.start import Range
from ..snapshot import summary_of
from ._options import Source, ops_of
from ._print import Column, filled, printable, put, table
from ._tables import by_op, head_line, largest, open_notes, title, whole

__all__ = ["brief", "show_assumed", "verdict"]

#: mappings of a process that are shown on a screen, and characters of two counts that are
_LARGEST, _LONG = 3, 16
#: between what a row is called and what its result is
_NUMBERS = tuple(Column(head, number=True) for head in ("PTE reads", "PAE reads", "unfolds", "TLBI", "DSB"))


def brief(args: argparse.Namespace, found: Sequence[tuple[Source, list[Comparison]]], machines: Sequence[Machine]) -> str:
    """Return the answer for each start, shortly."""
    parts = [filled(line) for line in head_line(args, machines).split("\n")]
    every = [c for _, comparisons in found for c in comparisons]
    if args.folio is not None:
        for same_op in zip(*(comparisons for _, comparisons in found), strict=True):
            parts += ["", _sweep(same_op)]
    else:
        for one, comparisons in found:
            parts += _process(args, one, comparisons) if one.world.process else _layout(comparisons)
    of_process = any(one.world.process for one, _ in found)
    more = f"--table: all counters{', --assumed' * of_process}, --explain: what the words mean, --json, --csv"
    # what a process consists of takes the room of an empty line
    return "\n".join([*parts, *[""] * (not of_process), filled(verdict(every)), filled(more)])


# ---- one table ----


def _layout(comparisons: Sequence[Comparison]) -> list[str]:
    return [text for c in comparisons for text in ("", filled(title(c)), _table(c), *_besides(c))]


def _columns(c: Comparison, *first: str) -> list[Column]:
    kind = "kernel" if c.reference.kernel else "design"
    return [*map(Column, first), Column(kind, wraps=True), *_NUMBERS, Column(f"vs {c.reference.label}", wraps=True)]


def _table(c: Comparison) -> str:
    """One comparison, rows that counted the same in one line."""
    return table(_columns(c), [[names, *cells] for names, cells in _grouped(c)])


def _besides(c: Comparison) -> list[str]:
    """What was refused, the first and how many more, and what is not modelled."""
    more = f", and {len(c.errors) - 1} more" if len(c.errors) > 1 else ""
    return [filled(f"refused: {printable(error)}{more}") for error in c.errors[:1]] + [
        filled(f"not modelled: {text}") for text in c.not_modelled
    ]


def _sweep(comparisons: Sequence[Comparison]) -> str:
    """One operation on folios of each size, in one table."""
    first, rows = comparisons[0], []
    for c in comparisons:
        size = c.name.removeprefix("folio=").split(":")[0]
        rows += [["" if i else size, names, *cells] for i, (names, cells) in enumerate(_grouped(c))]
    head = f"{size_text(first.length)} in folios of each size, {first.before} to {first.op}"
    return filled(head) + "\n" + table(_columns(first, "folio"), rows)


def _grouped(c: Comparison) -> list[tuple[str, list[str]]]:
    """Names of rows with the same numbers and the same result, and these."""
    found: dict[tuple[str, ...], list[str]] = {}
    for row, other in zip(c.rows, c.ends[-1].rows, strict=True):
        numbers = [between_text(a, b) for a, b in zip(_numbers(row), _numbers(other), strict=True)]
        name = row.kernel or row.strategy + " (flawed)" * row.flawed
        found.setdefault((*numbers, _result(row, other), row.strategy if row.kernel else "flawed" * row.flawed), []).append(name)
    loop = " ({})" if c.reference.kernel else ""
    return [(", ".join(names) + loop.format(cells[-1]), list(cells[:-1])) for cells, names in found.items()]


def _numbers(row: Row) -> list[int]:
    c = row.counters
    return [c["pte_reads"], c["pae_reads"], c["unfolds"], tlbi(c), dsb(c)]


def _result(row: Row, other: Row) -> str:
    """In which bits of how many entries the result differs, at both ends of what is unknown."""
    if row.same and other.same:
        return "same here; see verify" if row.flawed else "same"
    one, two = row.difference, other.difference
    where = [f"{name} in {between_text(one.bits.get(name, 0), two.bits.get(name, 0))}" for name in {**one.bits, **two.bits}]
    return ", ".join(where)


# ---- in words ----


def verdict(comparisons: Sequence[Comparison]) -> str:
    """Say whether the designs end alike, where one costs more, and what depends on what is unknown."""
    rows = [row for c in comparisons for end in c.ends for row in end.rows]
    wrong = sorted({row.label for row in rows if not row.equivalent})
    if wrong:
        said = [f"Not the same result: {', '.join(wrong)} leave other entries writable than {comparisons[0].reference.label}."]
    elif all(row.same for row in rows):
        said = ["All end in the same PTEs."]
    else:
        said = ["All end in equivalent PTEs (accessed, dirty and CONT bits may differ)."]
    said += _spread(comparisons)
    flips = sorted({f"{a} and {b} ({name})" for c in comparisons for name, pairs in c.flips().items() for a, b in pairs})
    if flips:
        more = f" and {len(flips) - 2} more" if len(flips) > 2 else ""
        said.append(f"The ranking flips with what is unknown: {', '.join(flips[:2])}{more}.")
    return " ".join(said)


def _spread(comparisons: Sequence[Comparison]) -> list[str]:
    """The number in which sound rows differ the most, by how much, and where."""
    best: tuple[float, str] | None = None
    for c in comparisons:
        rows = [row for row in c.rows if not row.flawed]
        for name, cost in COSTS.items():
            found = [(cost(row), row.label) for row in rows]
            if not found or name in ("prot_start", "prot_commit"):
                continue
            (low, least), (high, most) = min(found), max(found)
            if low and high > low and (best is None or high / low > best[0]):
                best = (
                    high / low,
                    f"{most} needs {count_text(high)} {_WORDS[name]}, {least} {count_text(low)} ({c.name}, {c.op})",
                )
    if best is None:
        return ["They cost the same." if len({row.label for c in comparisons for row in c.rows}) > 1 else ""]
    return [f"The most they part is {best[0]:.1f} times: {best[1]}."]


_WORDS = {"pte_reads": "PTE reads", "pae_reads": "PAE reads", "unfolds": "unfolds", "tlbi": "TLBIs", "dsb": "DSBs"}

# ---- a process ----


def _process(args: argparse.Namespace, one: Source, comparisons: Sequence[Comparison]) -> list[str]:
    """What it consists of, all its writable mappings and all operations together, and the largest mappings."""
    ops, ranges = ops_of(args), one.world.ranges
    parts = by_op(comparisons, ops)
    sums = [whole(part, ranges) for part in parts]
    every = total(sums, "")
    then = f"; then {', '.join(ops[1:])}" if ops[1:] else ""
    # barriers follow the TLBIs: their column, and a narrow last one, make room for the ranges of what is unknown
    kept = [i for i, column in enumerate(_columns(every)) if column.head != "DSB"]
    columns = [_columns(every)[i] for i in kept]
    columns[-1].least = 8
    cells = [[_others(names, every), *map(_narrow, numbers)] for names, numbers in _grouped(every)]
    rows = [[row[i] for i in kept] for row in cells]
    said = [
        *map(filled, _consists(one)),
        "",
        filled(title(replace(sums[0], name=f"writable ({len(ranges)})")) + then),
        table(columns, rows),
        *_besides(every),
    ]
    if not args.whole and len(ranges) > 1:
        said += ["", _largest(ranges, parts)]
    return said


def _others(names: str, c: Comparison) -> str:
    """Names of rows that count the same; of most of them in two words."""
    return names if names.count(",") < 3 else "all others" if names.count(",") < len(c.rows) - 1 else "all designs"


def _narrow(cell: str) -> str:
    """A cell of two long counts, one below the other."""
    return cell.replace("..", "..\n") if ".." in cell and len(cell) > _LONG and " " not in cell else cell


def _consists(one: Source) -> list[str]:
    snapshot, world = one.snapshot, one.world
    if snapshot is None:
        return []
    s = summary_of(snapshot)
    size = snapshot.page_size
    folded, ptes = _folded(one)
    mappings = f"{s.mappings} mapping{'s' * (s.mappings != 1)}"
    said = [
        f"{printable(world.name)}: {count_text(s.present)} pages ({size_text(s.present * size)}) in {mappings}; "
        f"{count_text(s.anonymous)} anonymous, {count_text(s.huge)} under huge entries, {count_text(s.swapped)} swapped; "
        f"PageAnonExclusive {between_text(s.exclusive, s.exclusive + s.unknown)}"
        + (f" ({count_text(s.unknown)} unknown)" if s.unknown else "")
        + f"; folded in the model {folded / ptes:.0%}"
    ]
    unknown = [text for text in one.unknown if not text.startswith("counts are")]
    open_ = len(one.assumed) + len(unknown)
    lost = f", {len(one.lost)} lost" if one.lost else ""
    return [f"{said[0]}; {open_} assumed or unknown{lost}, --assumed lists them"]


def _folded(one: Source) -> tuple[int, int]:
    """Entries of the process that are folded, and that are present."""
    folded = present = 0
    for addr, nr in one.world.tables:
        words = one.world.mm.ptes(addr, nr)
        valid = (words & np.uint64(bits.PTE_VALID | bits.PTE_NG)) != 0
        present += int(np.count_nonzero(valid))
        folded += int(np.count_nonzero(valid & ((words & np.uint64(bits.PTE_CONT)) != 0)))
    return folded, max(present, 1)


def _largest(ranges: Sequence[Range], parts: Sequence[Sequence[Comparison]]) -> str:
    """The mappings with the most pages, and what the reference does to each."""
    reference = parts[0][0].reference.label
    columns = [Column(f"largest mappings ({reference}) of {len(ranges)}", wraps=True), Column("pages", number=True)]
    columns += [Column(f"{part[0].op}: PTE reads", number=True) for part in parts] + [Column("TLBI", number=True)]
    rows = []
    for i in largest(ranges)[:_LARGEST]:
        # each operation at the one or two ends of what is unknown
        ends = [[end.reference.counters for end in part[i].ends] for part in parts]
        reads = [between_text(end[0]["pte_reads"], end[-1]["pte_reads"]) for end in ends]
        flushed = between_text(*(sum(tlbi(end[at]) for end in ends) for at in (0, -1)))
        rows.append([printable(ranges[i].name) or hex(ranges[i].start), count_text(ranges[i].pages), *reads, flushed])
    return table(columns, rows)


def show_assumed(sources: Sequence[Source]) -> None:
    """Print everything that is assumed of processes, unknown of them, or was lost."""
    for one in sources:
        for line in open_notes(one):
            put(filled(line))
