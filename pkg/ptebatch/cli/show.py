"""Draw the rows of PTEs before and after, as strips.

Draws the first table of each layout, or of the largest writable mappings of a
process: before above, after below, marks under the entries that differ. c and n
say whether an entry has the CONT bit. Small geometries make small pictures:
--machine 7.3,cont_ptes=4,ptrs_per_pte=8.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import bits
from ..errors import MprotectError
from ..operations import OPERATIONS
from ..report import size_text
from ..simulate.runs import REFERENCE
from ..simulate.start import Range, World
from ._options import Source, add_run_arguments, add_source_arguments, ops_of, sources, strategies_of
from ._print import printable, put, put_json

EXAMPLES = """\
examples:
  ptebatch show --layout 1/511 --op rw
  ptebatch show --layout 1/3 --op rw --machine 7.3,cont_ptes=4,ptrs_per_pte=8
  ptebatch show --layout T1 --op ro --fields dirty,pfn
  ptebatch show --pid demo --op ro
"""

#: mappings of a process that are drawn
SHOWN_RANGES = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    add_source_arguments(parser)
    add_run_arguments(parser, op="ro,rw", strategy=f"{REFERENCE}, the design in Linux 6.17")
    fields = "draw more of each entry: dirty, young, exec, special, uffd, attr, exclusive, pfn, or all"
    parser.add_argument("--fields", metavar="F[,F...]", default="", help=fields)


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    strategies = strategies_of(args, [REFERENCE])
    given = sources(args)
    drawn = [strip for source in given for strategy in strategies for strip in _strips(source, strategy, args)]
    if args.json:
        starts = [{"name": s.world.name, "assumed": s.assumed, "lost": s.lost, "unknown": s.unknown} for s in given]
        machine = given[0].world.machine
        named = {"machine": str(machine), "notes": machine.notes()}
        put_json({"verb": "show", **named, "saved": args.save, "starts": starts, "strips": drawn})
        return 0
    said = [f"note: {text}" for text in given[0].world.machine.notes()]
    said += [f"assumed: {text}" for source in given for text in source.assumed]
    said += [text for source in given for text in source.unknown]
    said += [f"lost: {text}" for source in given for text in source.lost]
    texts = ["\n".join(said)] if said else []
    texts += [f"{d['title']}\n{d['diff']}" for d in drawn]
    if args.save is not None:
        texts.append(f"saved to {args.save}")
    put("\n\n".join(texts))
    return 0


def _strips(source: Source, strategy: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run all operations, and draw the first table of each range after each."""
    from ..notation.strip import diff, draw

    world = source.world
    with_pages = [r for r in world.ranges if r.pages]
    ranges = sorted(sorted(with_pages, key=lambda r: -r.pages)[:SHOWN_RANGES], key=lambda r: r.start)
    mm = world.mm.copy()
    strips, was = [], world.before
    for op in ops_of(args):
        for r in ranges:
            at, words = _first_table(world, mm, r)
            before, exclusive = words.copy(), _exclusive(world, mm, words)
            refused = ""
            try:
                OPERATIONS[op].perform(mm, r.start, r.length, strategy=strategy)
            except MprotectError as e:
                if not source.world.process:
                    raise
                refused = str(e.strerror)
            first = at >> world.machine.page_shift & world.machine.ptrs_per_pte - 1
            how: dict[str, Any] = {"first_idx": first, "exclusive": exclusive, "fields": args.fields}
            of = f"{printable(r.name) or hex(r.start)} {size_text(r.length)}, {was} to {op} by {strategy}"
            entries = f"{len(words)} of {r.length >> world.machine.page_shift} entries from {at:#x} on"
            rows = {name: draw(row, world.machine, **how) for name, row in (("before", before), ("after", words))}
            picture = diff(before, words, world.machine, **how) if not refused else f"refused: {refused}"
            strips.append({"name": r.name, "op": op, "strategy": strategy, "title": f"{of}: {entries}", "addr": at, **rows,
                           "diff": picture, "refused": refused})  # fmt: skip
        was = op
    return strips


def _first_table(world: World, mm: Any, r: Range) -> tuple[int, NDArray[np.uint64]]:
    """Return the first table of a range with anything in it: address and words, cut to the range."""
    span = world.machine.ptrs_per_pte
    page = world.machine.page_size
    for addr, words in world.views(mm, r):
        low = 0
        while low < len(words):
            high = low + span - (addr // page + low) % span
            if words[low:high].any():
                return addr + low * page, words[low:high]
            low = high
    raise AssertionError("a range with pages has a table")


def _exclusive(world: World, mm: Any, words: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return PageAnonExclusive of each entry's page; False where there is none."""
    shift = np.uint64(world.machine.page_shift)
    present = (words & np.uint64(bits.PTE_VALID | bits.PTE_PRESENT_INVALID)) != 0
    pfn = (words & np.uint64((1 << bits.PTE_ADDR_END) - 1)) >> shift
    known = present & (pfn >= np.uint64(mm.pfn_base)) & (pfn < np.uint64(mm.pfn_base + mm.nr_pages))
    exclusive = np.zeros(len(words), np.bool_)
    exclusive[known] = (mm.pages[pfn[known].astype(np.intp) - mm.pfn_base] & bits.PG_ANON_EXCLUSIVE) != 0
    return exclusive
