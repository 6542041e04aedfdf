"""The same calls on the running kernel, for perspective.

``python -m bench.kernel [--size MIB] [--rounds N] [--layout T1,T2,T3] [--json FILE]``

Compiles kernel_mprotect.c and runs it once a layout: nanoseconds per PTE of
mprotect() to read-only and back, to none and back. The kernel does more than the
model (locks, exchanges, VMAs, a TLB flush) and less (it counts nothing).
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from . import builds

LAYOUTS = ("T1", "T2", "T3")
CALLS = ("ro", "rw", "none", "back")
SOURCE = Path(__file__).with_name("kernel_mprotect.c")
SETTING = Path("/sys/kernel/mm/transparent_hugepage/hugepages-64kB/enabled")


def measure(layouts: Iterable[str] = LAYOUTS, mib: int = 1024, rounds: int = 15) -> list[dict[str, Any]]:
    """Run the C program on each layout.

    Parameters
    ----------
    layouts : iterable of str
        Of `LAYOUTS`.
    mib : int
        Size of the mapping; less is used where memory is short.
    rounds : int
        Rounds of four calls, of which the medians are taken.

    Returns
    -------
    list of dict
        One a layout: ``ro``, ``rw``, ``none``, ``back`` in nanoseconds per PTE
        (medians; ``_min`` the smallest) and ``verified`` (the folios were seen in
        /proc/kpageflags), or ``error``.
    """
    if not sys.platform.startswith("linux"):
        return [{"layout": layout, "error": f"{sys.platform} is not Linux"} for layout in layouts]
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return [{"layout": layout, "error": "there is no C compiler (cc)"} for layout in layouts]
    mib = min(mib, _room())
    with tempfile.TemporaryDirectory() as folder, _setting_kept():
        program = str(Path(folder, "kernel_mprotect"))
        subprocess.run([compiler, "-O2", "-o", program, str(SOURCE)], check=True)
        return [_run(program, layout, mib, rounds) for layout in layouts]


def nanoseconds(mib: int = 1024, rounds: int = 15) -> dict[str, float]:
    """Nanoseconds per PTE of a call, the mean of RO and back, for each layout that could be had."""
    return {row["layout"]: (row["ro"] + row["rw"]) / 2 for row in measure(mib=mib, rounds=rounds) if "error" not in row}


def _run(program: str, layout: str, mib: int, rounds: int) -> dict[str, Any]:
    done = subprocess.run([program, layout, str(mib), str(rounds)], capture_output=True, text=True)
    if done.returncode:
        why = done.stderr.strip() or f"the program ended with status {done.returncode}"
        return {"layout": layout, "error": why}
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _room() -> int:
    """MiB that may be touched: a third of what is available, in whole 2M."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return max(2, int(line.split()[1]) // 1024 // 3 & ~1)
    return 64


@contextmanager
def _setting_kept() -> Iterator[None]:
    """The program's guard restores the setting; this does when even the guard was killed."""
    before = _word()
    try:
        yield
    finally:
        if _word() != before:
            with suppress(OSError):
                SETTING.write_text(before)


def _word() -> str:
    """The chosen word of the setting for 64K folios, empty where there is none."""
    try:
        return SETTING.read_text().partition("[")[2].partition("]")[0]
    except OSError:
        return ""


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as text."""
    lines = [f"{'ns per PTE':10}" + "".join(f"{name:>9}" for name in CALLS) + "  folios"]
    for row in rows:
        if "error" in row:
            lines.append(f"{row['layout']:10}  {row['error']}")
        else:
            seen = "seen in kpageflags" if row["verified"] else "not verified: needs root"
            lines.append(f"{row['layout']:10}" + "".join(f"{row[name]:9.1f}" for name in CALLS) + f"  {seen}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = builds.parser("kernel", __doc__)
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="size of the mapping (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="rounds (default %(default)s)")
    parser.add_argument("--layout", default=",".join(LAYOUTS), help="layouts (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    args = parser.parse_args(argv)
    layouts = args.layout.split(",")
    unknown = [name for name in layouts if name not in LAYOUTS]
    if unknown or args.size < 2 or args.size % 2 or not 1 <= args.rounds <= 1000:
        given = f"layout {unknown or layouts}, size {args.size}, rounds {args.rounds}"
        parser.error(f"{given}: give layouts T1, T2, T3; an even number of MiB; 1 to 1000 rounds")
    rows = measure(layouts, args.size, args.rounds)
    print(table(rows))
    if args.json:
        host = {"kernel": platform.release(), "machine": platform.machine(), "cpus": os.cpu_count()}
        args.json.write_text(json.dumps({"host": host, "mib": args.size, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
