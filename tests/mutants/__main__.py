"""Build the core with seeded faults and show what catches each.

Exit status: 0 every fault is caught, or listed as out of reach with its reason; 1 one
is not, or a listed one is caught after all; 2 the catalogue does not fit the source,
the build fails, or the detectors complain about the core without any fault.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import build, catalogue, schemata
from .catalogue import CORE, CatalogueError, Mutant
from .detect import DETECTORS
from .run import DetectorError, Verdict, detect, judge


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(prog="python -m tests.mutants", description="Seeded faults in the core, and what catches each.")
    out.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes at a time")
    out.add_argument("--only", action="append", default=[], metavar="NAME", help="this fault; may be repeated")
    out.add_argument("--sample", type=int, metavar="N", help="so many faults, drawn at random")
    out.add_argument("--seed", type=int, default=0, metavar="S", help="of the sample")
    out.add_argument(
        "--catalogue", action="append", type=Path, metavar="FILE", help="faults of this file instead; may be repeated"
    )
    out.add_argument("--list", action="store_true", help="print the faults, check that each fits the source, and build nothing")
    out.add_argument("--separate", action="store_true", help="build each fault by itself, as a patch of the source")
    out.add_argument("--no-control", action="store_true", help="do not run the detectors on the core without a fault")
    out.add_argument("--table", type=Path, metavar="FILE", help="write the table as Markdown")
    return out


def choose(mutants: list[Mutant], given: argparse.Namespace) -> list[Mutant]:
    """The faults that were asked for."""
    unknown = sorted(set(given.only) - {m.name for m in mutants})
    if unknown:
        raise CatalogueError(f"{', '.join(unknown)}: no such fault; see --list")
    some = [m for m in mutants if not given.only or m.name in given.only]
    if given.sample is not None:
        picked = set(random.Random(given.seed).sample(range(len(some)), min(given.sample, len(some))))
        some = [m for i, m in enumerate(some) if i in picked]
    return some


def say(text: str) -> None:
    """Progress, for whoever watches."""
    print(text, file=sys.stderr, flush=True)


def control(names: Sequence[str], pool: ThreadPoolExecutor, tree: Path, package: Path) -> None:
    """The core without a fault passes every detector; else nothing can be told from them."""
    for name, found in zip(names, pool.map(lambda name: detect(name, tree, package), names), strict=True):
        if found:
            raise DetectorError(f"{name} complains about the core without any fault: {found}")


def verdicts(mutants: list[Mutant], given: argparse.Namespace, folder: Path) -> Iterator[Verdict]:
    """Build, and run every fault; those that need a build of their own come last."""
    tree = build.copy(folder / "all")
    sources = {m.file: (tree / CORE / m.file).read_text() for m in mutants}
    alone = mutants if given.separate else schemata.write(tree, mutants)
    package = build.compile_core(build.configure(tree), given.jobs)
    say(f"{len(mutants)} faults: {len(mutants) - len(alone)} in one build, {len(alone)} to be built by themselves")
    used = [name for name in DETECTORS if any(name in m.detect for m in mutants)]
    if "checker" in used:
        detect("draw", tree, package)
    with ThreadPoolExecutor(given.jobs) as pool:
        try:
            if not given.no_control:
                control(used, pool, tree, package)
            yield from pool.map(lambda m: judge(m, tree, package, m.number), [m for m in mutants if m not in alone])
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    for mutant in alone:
        with build.patched(tree, mutant, sources[mutant.file], given.jobs):
            yield judge(mutant, tree, package, 0)


def row(v: Verdict) -> tuple[str, str, str]:
    """Fault, detector, and the law, vector or test."""
    if v.detector:
        return v.mutant.name, v.detector, v.found + (" (listed as out of reach)" if v.mutant.survives else "")
    return v.mutant.name, "-" if v.mutant.survives else "SURVIVES", v.mutant.survives or v.mutant.what


def text_table(found: Sequence[Verdict]) -> str:
    """The table for a terminal."""
    rows = [("fault", "caught by", "law, vector or test"), *(row(v) for v in found)]
    wide = [max(len(r[i]) for r in rows) for i in range(2)]
    return "\n".join(f"{r[0]:<{wide[0]}}  {r[1]:<{wide[1]}}  {r[2]}".rstrip() for r in rows)


def summary(found: Sequence[Verdict]) -> str:
    """One line of counts."""
    by = {name: sum(v.detector == name for v in found) for name in DETECTORS}
    explained = sum(not v.detector and bool(v.mutant.survives) for v in found)
    left = sum(not v.detector and not v.mutant.survives for v in found)
    parts = ", ".join(f"{n} by {name}" for name, n in by.items())
    return f"{len(found)} faults: {sum(by.values())} caught ({parts}), {explained} out of reach, {left} survive"


def markdown(found: Sequence[Verdict]) -> str:
    """The table for the repository."""
    out = [
        "# Seeded faults and what catches them", "",
        "Written by `python -m tests.mutants --table tests/mutants.md`; `tests/mutants/*.toml` has the text of each fault.",
        f"Detectors run in the order {', '.join(DETECTORS)}, as far as the fault's file asks for them, and the first to",
        "see a fault gets it. A law is named with the design and the machine that broke it first, a golden vector with what",
        "differs from the kernel.", "",
        summary(found) + ".", "",
        "| fault | file | what it does | caught by | law, vector or test |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for v in found:
        name, detector, what = (part.replace("|", "\\|") for part in row(v))
        out.append(f"| {name} | {v.mutant.file} | {v.mutant.what} | {detector} | {what} |")
    return "\n".join(out) + "\n"


def listed(mutants: Sequence[Mutant], wrong: Mapping[str, str]) -> int:
    """Print the faults; status 2 if some do not fit the source any more."""
    for m in mutants:
        print(f"{m.name:<34}  {m.file:<16}  {m.what}{'  DOES NOT FIT' if m.name in wrong else ''}")
    print(f"\n{len(mutants)} faults, {len(wrong)} do not fit the source")
    for text in wrong.values():
        print(f"  {text}")
    return 2 if wrong else 0


def run(given: argparse.Namespace) -> int:
    """Do what was asked; returns the exit status."""
    some = choose(catalogue.load(given.catalogue), given)
    wrong = catalogue.misfits(some)
    if given.list:
        return listed(some, wrong)
    if wrong:
        raise CatalogueError("\n".join(wrong.values()))
    began = time.monotonic()
    found: list[Verdict] = []
    with tempfile.TemporaryDirectory(prefix="ptebatch-mutants-") as folder:
        for v in verdicts(some, given, Path(folder)):
            found.append(v)
            say(f"[{len(found)}/{len(some)}] " + "  ".join(row(v)))
    found.sort(key=lambda v: v.mutant.number)
    print(text_table(found))
    print(f"\n{summary(found)}; {time.monotonic() - began:.0f} s")
    if given.table:
        given.table.write_text(markdown(found))
    return 0 if all(v.ok for v in found) else 1


def main() -> int:
    """Entry point."""
    try:
        return run(parser().parse_args())
    except (CatalogueError, build.BuildError, DetectorError, OSError) as error:
        print(f"python -m tests.mutants: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
