"""Instruction counts of the walk: a guard against slow-downs that needs no quiet machine.

``python -m bench.instructions [--check | --record] [--json FILE]``

Valgrind's callgrind counts what ``MM.mprotect`` executes, RO and back on 64 MiB,
for each row of layout, pattern and strategy, once with the AVX2 loops and once
with the portable ones; then on the address spaces of irregular.py, in which nothing
repeats, each call on a fresh one. ``--check`` compares with instructions.json and exits 1
when a row needs more; ``--record`` writes that file. Exit status 77: nothing
could be counted here, and why.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from . import builds

RECORD = Path(__file__).with_name("instructions.json")
LENGTH = 64 << 20
PTES = LENGTH >> 12
WORLDS = [(layout, "uniform") for layout in ("T1", "T2", "T3", "T3-shuffled")] + [("T1", "alternating"), ("T1", "random")]
CASES = [(*world, strategy) for world in WORLDS for strategy in ("folio", "lookahead", "per-pte")]
#: names of irregular.py, which is imported where the core is, and the strategies they run under
IRREGULAR = (
    "T3 random", "T3 A/D", "T3 A/D random", "T3 A/D random shuffled", "T1 A/D", "T1 forked in blocks of 512",
    "T1 forked in blocks of 64", "T1 partial", "mixed", "mixed shuffled", "mixed A/D", "T1 p=.99", "T1 p=.9", "T1 p=.5",
    "order 1", "order 2", "order 3", "order 2 p=.5", "T2 forked in blocks of 16", "T2 partial", "T2 holes", "T3 holes",
    "T2 copied", "T1 copied", "T1 copied A/D",
)  # fmt: skip
CASES += [(name, "folio") for name in IRREGULAR] + [("T1 p=.5", "lookahead"), ("T1 p=.5", "per-pte")]
ISAS = ("v3", "base")
#: share by which a row may grow
TOLERANCE = 0.03
#: the same where another compiler made the code
OTHER_COMPILER = 0.25
SKIPPED = 77


class Uncounted(Exception):
    """Why nothing could be counted."""


def drive() -> None:
    """What runs below valgrind: a call of getppid() before and behind each case, at which callgrind writes a dump."""
    build = builds.load("bench.worlds").build
    irregular = builds.load("bench.irregular").WORLDS
    assert set(IRREGULAR) == set(irregular)
    for *world, strategy in CASES:
        if len(world) == 1:
            fresh, start, length = irregular[world[0]][0](PTES)
            mm = fresh.copy()
        else:
            mm, start, length = build(world[0], LENGTH, exclusive=world[1])
        for prot in (1, 3):
            mm.mprotect(start, length, prot, strategy=strategy)
        if len(world) == 1:
            mm = fresh.copy()
        os.getppid()
        for prot in (1, 3):
            mm.mprotect(start, length, prot, strategy=strategy)
        os.getppid()
    print(builds.load("ptebatch.batch.isa").ISA)


def count(isa: str) -> dict[str, int]:
    """Instructions of every case, RO and back together.

    Raises
    ------
    Uncounted
        No valgrind, or one that does not know this machine's instructions.
    """
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise Uncounted("valgrind is not installed")
    env = dict(os.environ, PTEBATCH_ISA=isa, PYTHONHASHSEED="0", PYTHONDONTWRITEBYTECODE="1")
    with tempfile.TemporaryDirectory() as folder:
        command = [valgrind, "--tool=callgrind", f"--callgrind-out-file={folder}/out", "--combine-dumps=no",
                   "--dump-before=getppid", "--toggle-collect=__pyx_pw_*MM_*mprotect",
                   sys.executable, "-m", "bench.instructions", "--drive"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=builds.ROOT)
        if done.returncode:
            raise Uncounted(_reason(done))
        if done.stdout.split() != [isa]:
            raise Uncounted(f"the core ran as {done.stdout.strip()!r}, not as {isa}")
        texts = (path.read_text() for k in range(2 * len(CASES)) if (path := Path(folder, f"out.{k + 1}")).exists())
        dumps = [int(found[1]) for text in texts if (found := _TOTAL.search(text))]
    if len(dumps) != 2 * len(CASES):
        raise Uncounted(f"callgrind wrote {len(dumps)} dumps, expected {2 * len(CASES)}")
    rows = {" ".join(case): dumps[2 * k + 1] for k, case in enumerate(CASES)}
    if empty := [name for name, n in rows.items() if n < PTES // 16]:
        raise Uncounted(f"callgrind saw no call of mprotect in {empty[0]!r}: is the build stripped?")
    return rows


_TOTAL = re.compile(r"^(?:totals|summary): (\d+)$", re.MULTILINE)


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr + done.stdout).strip().splitlines()
    for word in ("unrecognised instruction", "Illegal opcode", "AVX2", "SystemExit"):
        for line in lines:
            if word in line:
                return f"below valgrind: {line.strip()}"
    return f"below valgrind: status {done.returncode}, {lines[-1].strip() if lines else 'no message'}"


def compare(now: dict[str, Any], then: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Rows that need more than recorded, and remarks.

    Parameters
    ----------
    now, then : dict
        As `document` makes them.

    Returns
    -------
    tuple of (list of str, list of str)
        Failures and remarks, a sentence each.
    """
    failures, remarks = [], []
    allowed = TOLERANCE
    if now["compiler"] != then["compiler"]:
        allowed = OTHER_COMPILER
        remarks.append(f"recorded with {then['compiler']}, counted with {now['compiler']}: {allowed:.0%} more is allowed")
    for isa, rows in now["rows"].items():
        known = then["rows"].get(isa, {})
        for name, n in rows.items():
            if name not in known:
                failures.append(f"{isa} {name}: {n} instructions, nothing recorded; run --record")
                continue
            growth = n / known[name] - 1
            what = f"{isa} {name}: {n} instructions, {growth:+.1%} to the recorded {known[name]}"
            if growth > allowed:
                failures.append(f"{what}; {allowed:.0%} is allowed")
            elif growth < -allowed:
                remarks.append(f"{what}: better; run --record to keep it")
        for name in sorted(set(known) - set(rows)):
            failures.append(f"{isa} {name}: recorded, but not counted any more; run --record")
    return failures, remarks


def document() -> dict[str, Any]:
    """Counts of every instruction set that can be counted here, and what they belong to."""
    host = builds.describe()
    rows: dict[str, dict[str, int]] = {}
    skipped: dict[str, str] = {}
    for isa in ISAS:
        try:
            rows[isa] = count(isa)
        except Uncounted as why:
            skipped[isa] = str(why)
    return {"compiler": host["compiler"], "python": host["python"], "length": LENGTH, "rows": rows, "skipped": skipped}


def table(doc: dict[str, Any]) -> str:
    """Instructions per PTE."""
    lines = [f"{'instructions per PTE':36}" + "".join(f"{isa:>10}" for isa in doc["rows"])]
    for case in CASES:
        name = " ".join(case)
        lines.append(f"{name:36}" + "".join(f"{rows[name] / (2 * PTES):10.2f}" for rows in doc["rows"].values()))
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = builds.parser("instructions", __doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="compare with instructions.json; exit 1 when a row needs more")
    what.add_argument("--record", action="store_true", help="write instructions.json")
    what.add_argument("--drive", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts to this file")
    args = parser.parse_args(argv)
    if args.drive:
        drive()
        return 0
    doc = document()
    for isa, why in doc["skipped"].items():
        print(f"skipped {isa}: {why}")
    if not doc["rows"]:
        return SKIPPED
    print(table(doc))
    if args.json:
        args.json.write_text(json.dumps(doc, indent=1) + "\n")
    if args.record:
        if doc["skipped"]:
            raise SystemExit("bench: nothing recorded, since not every instruction set could be counted here")
        del doc["skipped"]
        RECORD.write_text(json.dumps(doc, indent=1) + "\n")
    if args.check:
        if not RECORD.exists():
            raise SystemExit(f"bench: there is no {RECORD.name} to compare with; run --record first")
        failures, remarks = compare(doc, json.loads(RECORD.read_text()))
        for line in remarks:
            print(line)
        for line in failures:
            print(f"more: {line}")
        return 1 if failures else 0
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
