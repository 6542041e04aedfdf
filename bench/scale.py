"""Growth, memory, setup, import, the cost of a call, threads.

``python -m bench.scale [--only growth,setup,...] [--max 1T] [--rounds N] [--json FILE] [--check]``

What one run compares is interleaved in it. Setup, import and calls are absolute
times: on a machine that others use, believe them only when they repeat.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from . import builds, parallel

GIB = 1 << 30
SIZES = {"1G": GIB, "16G": 16 * GIB, "128G": 128 * GIB, "1T": 1024 * GIB}
LAYOUTS = ("T1", "T2", "T3")
PAGE = 4096

#: ns per PTE at 1T against 128G, which misses the caches too
GROWTH = 1.5
BYTES_PER_PAGE = 10.0
PEAK_AT_1T = 3 * GIB
SETUP = 100e6
CALL_US = 2.0
#: worlds a minute and core, all laws
WORLDS = 10e6
#: two threads against one; judged where two processes reach it, so that a second CPU is known to be free
THREADS = 1.8


def seconds(call: Callable[..., Any], *args: Any) -> float:
    begin = time.perf_counter()
    call(*args)
    return time.perf_counter() - begin


def growth_of(layout: str, largest: str, rounds: int) -> list[dict[str, Any]]:
    """One layout at every size up to `largest`: runs in a process of its own."""
    build = builds.load("bench.worlds").build
    names = list(SIZES)[: list(SIZES).index(largest) + 1]
    rows: dict[str, dict[str, Any]] = {}
    worlds: dict[str, Any] = {}
    # a virtual machine's host may have to find this memory first: not our cost
    bytearray(SIZES[largest] // PAGE * 8)[::PAGE] = bytes(SIZES[largest] // PAGE * 8 // PAGE)
    # the largest first: its memory is the peak until then
    for name in reversed(names):
        before = _resident()
        begin = time.perf_counter()
        worlds[name] = build(layout, SIZES[name])
        took = time.perf_counter() - begin
        nr = SIZES[name] // PAGE
        rows[name] = {"what": "growth", "layout": layout, "size": name, "map_s": took, "map_ptes_per_s": nr / took,
                      "bytes_per_page": (_resident() - before) / nr, "ro": [], "rw": []}  # fmt: skip
        if name == names[-1]:
            rows[name]["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for r in range(rounds + 1):
        for name, world in worlds.items():
            for key, prot in (("ro", 1), ("rw", 3)):
                took = seconds(world.mm.mprotect, world.start, world.length, prot)
                if r:  # the first round warms up
                    rows[name][key].append(took / (SIZES[name] // PAGE) * 1e9)
    # against the size before: the last one and 128G both miss the caches
    base = rows[names[-2:][0]]
    both = [ro + rw for ro, rw in zip(base["ro"], base["rw"], strict=True)]
    for row in rows.values():
        row["against"] = base["size"]
        row["ratio"] = statistics.median((ro + rw) / b for ro, rw, b in zip(row["ro"], row["rw"], both, strict=True))
    for row in rows.values():
        row["ro"], row["rw"] = statistics.median(row["ro"]), statistics.median(row["rw"])
    return [rows[name] for name in names]


def _resident() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def growth(args: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for layout in LAYOUTS:
        command = [sys.executable, "-m", "bench.scale", "--child", layout, "--max", args.max, "--rounds", str(args.rounds)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=builds.ROOT)
        rows += json.loads(done.stdout)
    return rows


def setup(args: argparse.Namespace) -> list[dict[str, Any]]:
    """PTEs a second of making the space and mapping 1 GiB: allocation and page faults of this process included."""
    worlds = builds.load("bench.worlds")
    nr = GIB // PAGE
    rows = []
    for layout in worlds.LAYOUTS:
        how = worlds.folios(layout, nr)
        took = [seconds(worlds.place, GIB, how) for _ in range(args.rounds + 1)][1:]
        rows.append({"what": "setup", "layout": layout, "ptes_per_s": nr / statistics.median(took), "best": nr / min(took)})
    return rows


def imports(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Milliseconds of ``import ptebatch``, and of the NumPy in it."""
    env = dict(os.environ, PYTHONPATH=str(builds.ensure() / "pkg"))
    total, numpy = [], []
    for _ in range(args.rounds + 1):
        command = [sys.executable, "-X", "importtime", "-c", "import ptebatch"]
        text = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stderr
        cumulative = {}
        for line in text.splitlines()[1:]:
            _, us, name = line.rsplit("|", 2)
            cumulative[name.strip()] = int(us) / 1000
        total.append(cumulative["ptebatch"])
        numpy.append(cumulative.get("numpy", 0.0))
    return [{"what": "import", "ms": statistics.median(total[1:]), "numpy_ms": statistics.median(numpy[1:])}]


def calls(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Microseconds of mprotect() of one page, from Python and from a C loop, interleaved."""
    build = builds.ensure()
    sys.path.insert(0, str(build / "bench"))
    toggle = builds.load("_calls").toggle
    mm, start, _ = builds.load("bench.worlds").build("T3", 2 << 20)
    python, c = [], []
    n = 5000

    def from_python() -> None:
        for _ in range(n):
            mm.mprotect(start, PAGE, 1)
            mm.mprotect(start, PAGE, 3)

    for _ in range(2 * args.rounds + 1):
        python.append(seconds(from_python) / (2 * n) * 1e6)
        c.append(seconds(toggle, mm, start, PAGE, n) / (2 * n) * 1e6)
    if toggle(mm, start, PAGE, 1):
        raise SystemExit("bench: a call of the C loop failed")
    extra = statistics.median(p - q for p, q in zip(python[1:], c[1:], strict=True))
    return [{"what": "call", "python_us": statistics.median(python[1:]), "c_us": statistics.median(c[1:]), "extra_us": extra}]


def threads(args: argparse.Namespace) -> list[dict[str, Any]]:
    # a round takes some milliseconds, and a neighbour's interrupt as long
    return [parallel.measure(layout, 9 * args.rounds) for layout in ("T1", "T3")]


def checker(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Worlds a minute and core of the checker: the laws of the table, with the TLB model, with one hardware update."""
    builds.ensure()
    check = builds.load("ptebatch.checker.check").Checker
    small = builds.load("ptebatch.checker.worlds.products")
    machine = builds.load("ptebatch.checker.worlds.small").small_machine(builds.load("ptebatch.machine").Machine())
    some = [chunk for chunk in small.chunks(machine) if chunk.size == 3][::7]
    rows = []
    for how, kinds in (("plain", {}), ("TLB", {"tlb": True}), ("TLB, hardware", {"tlb": True, "hardware": 1})):
        rates = []
        for _ in range(args.rounds):
            run = check(machine, "folio")
            begin, judged = time.process_time(), 0
            for chunk in some:
                found = run.sweep(chunk.words, chunk.pages, chunk.calls, chunk.ad, chunk.folds, **kinds)
                judged += int(found[0])
                if found[2]:
                    raise SystemExit("bench: folio breaks a law")
            rates.append(judged / (time.process_time() - begin) * 60)
        rows.append({"what": "checker", "laws": how, "worlds": judged, "per_minute": statistics.median(rates)})
    return rows


def exponents(args: argparse.Namespace) -> list[dict[str, Any]]:
    """How fast what takes a list, a range or an address space of n grows with n."""
    module = builds.load("bench.exponents")
    rows = []
    for name, case in module.CASES.items():
        slope, spent = module.exponent(case, min(3, args.rounds))
        each = spent[-1] / case.sizes[-1] * 1e9
        rows.append({"what": "exponent", "case": name, "exponent": slope, "most": case.most, "sizes": case.sizes,
                     "seconds": spent, "unit": case.unit, "ns_each": each})  # fmt: skip
    return rows


PARTS = {
    "growth": growth,
    "setup": setup,
    "import": imports,
    "call": calls,
    "checker": checker,
    "threads": threads,
    "exponents": exponents,
}


def missed(rows: list[dict[str, Any]]) -> list[str]:
    """Targets that are not met, a sentence each."""
    return [line for row in rows for line in _missed(row, f"{row.get('layout', '')} {row.get('size', '')}".strip())]


def _missed(row: dict[str, Any], where: str) -> Iterator[str]:
    what = row["what"]
    if what == "growth" and row["size"] == "1T" and row["ratio"] > GROWTH:
        yield f"growth: {where} takes {row['ratio']:.2f} times the ns per PTE of 128G, target at most {GROWTH}"
    if what == "growth" and row["size"] in ("128G", "1T") and row["bytes_per_page"] > BYTES_PER_PAGE:
        yield f"memory: {where} takes {row['bytes_per_page']:.2f} bytes per page, target at most {BYTES_PER_PAGE:.0f}"
    if what == "growth" and row["size"] == "1T" and row["peak"] > PEAK_AT_1T:
        yield f"memory: {where} peaks at {row['peak'] / GIB:.2f} GiB, target at most {PEAK_AT_1T / GIB:.0f}"
    if what == "setup" and row["layout"] in LAYOUTS and row["ptes_per_s"] < SETUP:
        yield f"setup: {where} maps {row['ptes_per_s'] / 1e6:.0f} million PTEs a second, target at least {SETUP / 1e6:.0f}"
    if what == "call" and row["extra_us"] > CALL_US:
        yield f"call: one page from Python takes {row['extra_us']:.2f} us more than in C, target at most {CALL_US}"
    if what == "checker" and row["per_minute"] < WORLDS:
        yield f"checker: {row['laws']} {row['per_minute'] / 1e6:.0f} million worlds a minute, target at least {WORLDS / 1e6:.0f}"
    if what == "exponent" and row["exponent"] > row["most"]:
        yield f"growth: {row['case']} grows as n^{row['exponent']:.2f}, target at most n^{row['most']}"
    if what == "threads" and row["threads"] < THREADS <= row["processes"]:
        yield f"threads: {where} two run at {row['threads']:.2f} times one, target at least {THREADS}"


def text(row: dict[str, Any]) -> str:
    """A row as a line."""
    what = row["what"]
    if what == "growth":
        peak = f"  peak {row['peak'] / GIB:.2f} GiB" if "peak" in row else ""
        return (f"growth   {row['layout']:3} {row['size']:>5}  RO {row['ro']:.2f}  RW {row['rw']:.2f} ns per PTE  "
                f"{row['ratio']:5.2f} of {row['against']}  mapped in {row['map_s']:.3f} s  "
                f"{row['bytes_per_page']:.2f} bytes per page{peak}")  # fmt: skip
    if what == "setup":
        return f"setup    {row['layout']:11}  {row['ptes_per_s'] / 1e6:6.0f} million PTEs a second (best {row['best'] / 1e6:.0f})"
    if what == "import":
        return f"import   {row['ms']:.0f} ms, of which NumPy {row['numpy_ms']:.0f}"
    if what == "call":
        return f"call     one page: {row['python_us']:.2f} us from Python, {row['c_us']:.2f} us in C, {row['extra_us']:.2f} more"
    if what == "checker":
        return f"checker  {row['laws']:13}  {row['per_minute'] / 1e6:6.0f} million worlds a minute ({row['worlds']:,} worlds)"
    if what == "exponent":
        sizes = " to ".join(f"{n:,}" for n in (row["sizes"][0], row["sizes"][-1]))
        return f"grows    n^{row['exponent']:5.2f}  {row['case']:44} {sizes} {row['unit']}, {row['ns_each']:.1f} ns each at last"
    judged = "" if row["processes"] >= THREADS else "  (not judged: no second CPU was free)"
    return f"threads  {row['layout']:3} two at {row['threads']:.2f} times one; two processes at {row['processes']:.2f}{judged}"


def main(argv: list[str] | None = None) -> int:
    parser = builds.parser("scale", __doc__)
    parser.add_argument("--only", default=",".join(PARTS), help="parts (default %(default)s)")
    parser.add_argument("--max", default="1T", choices=SIZES, help="largest address space of growth (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed, and name it")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.rounds < 1:
        parser.error(f"--rounds {args.rounds} measures nothing; give 1 or more")
    if args.child:
        print(json.dumps(growth_of(args.child, args.max, args.rounds)))
        return 0
    parts = args.only.split(",")
    if unknown := [name for name in parts if name not in PARTS]:
        parser.error(f"part {unknown[0]!r} is unknown; choose from {', '.join(PARTS)}")
    host = builds.describe()
    rows = []
    for name in parts:
        for row in PARTS[name](args):
            rows.append(row)
            print(text(row), flush=True)
    if args.json:
        args.json.write_text(json.dumps({"host": host, "rows": rows}, indent=1) + "\n")
    misses = missed(rows)
    for line in misses:
        print(f"missed: {line}")
    return 1 if args.check and misses else 0


if __name__ == "__main__":
    raise SystemExit(main())
