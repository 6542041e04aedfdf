"""The ratios that say how far the core is from the limit.

``python -m bench.ratio [--size 2M,32M,256M] [--rounds N] [--json FILE] [--check]``

Everything runs in one process, interleaved round by round; a row is the median
of the rounds' own ratios, with their quartiles. Absolute times are printed for
orientation only: the machine is not ours alone.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import builds

BUILD = builds.ensure()

import numpy as np  # noqa: E402

from . import kernel, numpy_mprotect, patterns, worlds  # noqa: E402

MIB = 1 << 20
#: (what, PTE array) -> largest ratio allowed, by layout; NumPy and kernel rows: smallest
LIMITS: dict[tuple[str, str], dict[str, float]] = {
    ("core / C twin", "2M"): {"T1": 1.05, "T2": 1.05, "T3": 1.05, "T3-shuffled": 1.05},
    ("core / in-place OR", "2M"): {"T1": 1.7, "T2": 1.7, "T3": 1.7, "T3-shuffled": 2.5},
    ("core / in-place OR", "256M"): {"T1": 1.3, "T2": 1.5, "T3": 2.0},
}
FLOORS: dict[tuple[str, str], dict[str, float]] = {
    ("running kernel / core", "2M"): {"T1": 30, "T2": 30, "T3": 50, "T3-shuffled": 50},
}
LAYOUTS = ("T1", "T2", "T3", "T3-shuffled")
#: worlds of 2M of PTEs, one after another, each somewhere else
PLACES = 15


class _Twin(ctypes.Structure):
    _fields_ = [
        ("pmd", ctypes.POINTER(ctypes.c_void_p)),
        ("leaves", ctypes.c_size_t),
        ("pages", ctypes.c_void_p),
        ("pfn_base", ctypes.c_uint64),
        ("nr_pages", ctypes.c_uint64),
        ("newprot", ctypes.c_uint64),
        ("try_writable", ctypes.c_int),
        ("c", ctypes.c_uint64 * 15),
        ("gather_start", ctypes.c_uint64),
        ("gather_end", ctypes.c_uint64),
    ]


#: the twin's counters by the core's names
TWIN_COUNTERS = (
    "pte_reads", "pte_writes", "pte_xchg", "ptep_get", "contpte_ptep_get", "pae_reads", "batch_scans", "fold_tries",
    "prot_start", "prot_commit", "sync_tags", "n_subs", "gather_calls", "pages", "pte_locks",
)  # fmt: skip


def library() -> ctypes.CDLL:
    """The C twin of the same build, for the instruction set that the core uses."""
    from ptebatch.batch.isa import ISA

    name = "twin_v3" if ISA == "v3" else "twin_base"
    found = sorted(Path(BUILD).glob(f"bench/*{name}.*"))
    libs = [p for p in found if p.suffix in (".so", ".dylib")]
    if not libs:
        raise SystemExit(f"bench: {BUILD}/bench has no {name} library; build all targets of that folder")
    lib = ctypes.CDLL(str(libs[0]))
    lib.or_in_place.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint64]
    lib.or_in_place.restype = None
    return lib


class TwinOf:
    """The C twin on the tables of an MM."""

    def __init__(self, lib: ctypes.CDLL, mm: Any, start: int, length: int) -> None:
        self.lib = lib
        ptes = mm.ptes(start, length >> 12)
        leaves = length >> 21
        self.table = (ctypes.c_void_p * leaves)(*(ptes.ctypes.data + 4096 * k for k in range(leaves)))
        self.t = _Twin(
            ctypes.cast(self.table, ctypes.POINTER(ctypes.c_void_p)), leaves, mm.pages.ctypes.data, mm.pfn_base, mm.nr_pages
        )
        self.keep = (mm, ptes)

    def mprotect(self, prot: int) -> dict[str, int]:
        from ptebatch.bits import PAGE_NONE, PAGE_READONLY

        self.t.newprot = PAGE_READONLY if prot else PAGE_NONE
        self.t.try_writable = 1 if prot & 2 else 0
        if self.lib.twin_mprotect(ctypes.byref(self.t)):
            raise SystemExit("bench: the C twin met an entry it does not know")
        return dict(zip(TWIN_COUNTERS, self.t.c, strict=True))


def check_twin(lib: ctypes.CDLL) -> None:
    """The twin counts and writes what the core counts and writes."""
    for layout in LAYOUTS:
        mm, start, length = worlds.build(layout, 16 * MIB)
        other = mm.copy()
        twin = TwinOf(lib, other, start, length)
        for prot in (1, 3, 0, 3):
            want = mm.mprotect(start, length, prot)
            got = twin.mprotect(prot)
            for name, n in got.items():
                if n != (want.pages if name == "pages" else want[name]):
                    raise SystemExit(f"bench: {layout} prot {prot}: the twin counts {name}={n}, the core {want[name]}")
            if (mm.ptes(start, length >> 12) != other.ptes(start, length >> 12)).any():
                raise SystemExit(f"bench: {layout} prot {prot}: the twin and the core write different words")


def timed(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def measure(lib: ctypes.CDLL, layout: str, bytes_of_ptes: int, rounds: int) -> dict[str, list[float]]:
    """Seconds per round of each contender, over several places in memory if the tables are small."""
    out: dict[str, list[float]] = {"or": [], "core": [], "twin": []}
    # where 2M of tables lie in a cache of that size decides more than what is compared here
    places = max(1, min(PLACES, PLACES * 2 * MIB // bytes_of_ptes))
    for _ in range(places):
        for name, seconds in one_place(lib, layout, bytes_of_ptes, rounds).items():
            out[name] += seconds
    return out


def one_place(lib: ctypes.CDLL, layout: str, bytes_of_ptes: int, rounds: int) -> dict[str, list[float]]:
    """Seconds per round of each contender; core and twin do RO and back, on the same memory."""
    mm, start, length = worlds.build(layout, bytes_of_ptes // 8 * 4096)
    twin = TwinOf(lib, mm, start, length)
    ptes = mm.ptes(start, length >> 12)
    out: dict[str, list[float]] = {"or": [], "core": [], "twin": []}
    repeat = max(1, 8 * MIB // bytes_of_ptes)
    for r in range(rounds + 1):
        one: dict[str, float] = dict.fromkeys(out, 0.0)
        for _ in range(repeat):
            # RO and RW each: two passes of every contender
            one["or"] += 2 * patterns.warm_or(lib, ptes)
            one["core"] += timed(lambda: mm.mprotect(start, length, 1)) + timed(lambda: mm.mprotect(start, length, 3))
            one["twin"] += timed(lambda: twin.mprotect(1)) + timed(lambda: twin.mprotect(3))
        if r:  # the first round warms up
            for name, seconds in one.items():
                out[name].append(seconds / repeat / 2)
    return out


def ratio(a: list[float], b: list[float]) -> tuple[float, float, float]:
    """Median and quartiles of the paired ratios."""
    pairs = sorted(x / y for x, y in zip(a, b, strict=True))
    quarter = len(pairs) // 4
    return statistics.median(pairs), pairs[quarter], pairs[-1 - quarter]


def collect(args: argparse.Namespace) -> list[dict[str, Any]]:
    lib = library()
    check_twin(lib)
    rows: list[dict[str, Any]] = []

    def add(what: str, size: str, layout: str, value: tuple[float, float, float]) -> None:
        rows.append({"what": what, "ptes": size, "layout": layout, "ratio": value[0], "low": value[1], "high": value[2]})

    core_ns: dict[str, float] = {}
    for size in args.size.split(","):
        nbytes = int(size[:-1]) * MIB
        rounds = max(3, min(args.rounds, args.rounds * 32 * MIB // nbytes))
        for layout in LAYOUTS:
            got = measure(lib, layout, nbytes, rounds)
            ns = {k: statistics.median(v) / (nbytes // 8) * 1e9 for k, v in got.items()}
            print(f"{layout:12} {size:>5} of PTEs: ns per PTE, orientation only: "
                  + "  ".join(f"{k} {v:.3f}" for k, v in ns.items()), file=sys.stderr)  # fmt: skip
            core_ns.setdefault(layout, ns["core"])
            add("core / C twin", size, layout, ratio(got["core"], got["twin"]))
            add("core / in-place OR", size, layout, ratio(got["core"], got["or"]))
    if args.numpy:
        for layout in LAYOUTS:
            got = numpy_seconds(lib, layout)
            add("NumPy / core", "2M", layout, ratio(got["numpy"], got["core"]))
            add("NumPy / in-place OR", "2M", layout, ratio(got["numpy"], got["or"]))
    if args.kernel:
        # the kernel hands out 4K frames as it likes: its T3 stands against both of ours
        theirs = kernel.nanoseconds()
        for layout in LAYOUTS:
            spent = theirs.get(layout.removesuffix("-shuffled"))
            if spent is not None:
                once = spent / core_ns[layout]
                add("running kernel / core", "2M", layout, (once, once, once))
    return rows


def numpy_seconds(lib: ctypes.CDLL, layout: str, rounds: int = 7) -> dict[str, list[float]]:
    """Seconds per round of NumPy, core and OR, on the same memory; NumPy and core must agree."""
    mm, start, length = worlds.build(layout, 1 << 30)
    other = mm.copy()
    job = numpy_mprotect.Job(other, start, length)
    for prot in (1, 3):
        mm.mprotect(start, length, prot)
        job.mprotect(prot)
        if (mm.ptes(start, length >> 12) != other.ptes(start, length >> 12)).any():
            raise SystemExit(f"bench: {layout}: NumPy and the core write different words")
    job = numpy_mprotect.Job(mm, start, length)
    ptes = mm.ptes(start, length >> 12)

    def both(call: Callable[[int], Any]) -> None:
        call(1)
        call(3)

    calls: dict[str, Callable[[], None]] = {
        "core": lambda: both(lambda prot: mm.mprotect(start, length, prot)),
        "numpy": lambda: both(job.mprotect),
    }
    out: dict[str, list[float]] = {name: [] for name in (*calls, "or")}
    for r in range(rounds + 1):
        if r:
            out["or"].append(2 * patterns.warm_or(lib, ptes))
        for name, call in calls.items():
            repeat = 1 if name == "numpy" else 4
            spent = sum(timed(call) for _ in range(repeat))
            if r:  # the first round warms up
                out[name].append(spent / repeat)
    return out


def missed(rows: list[dict[str, Any]]) -> list[str]:
    """Targets that the rows do not meet."""
    out = []
    for row in rows:
        key = (row["what"], row["ptes"])
        limit = LIMITS.get(key, {}).get(row["layout"])
        floor = FLOORS.get(key, {}).get(row["layout"])
        if limit is not None and row["ratio"] > limit:
            out.append(f"{row['what']} on {row['layout']} at {row['ptes']}: {row['ratio']:.2f}, target at most {limit}")
        if floor is not None and row["ratio"] < floor:
            out.append(f"{row['what']} on {row['layout']} at {row['ptes']}: {row['ratio']:.1f}, target at least {floor:.0f}")
    return out


def table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'median ratio [quartiles]':32}" + "".join(f"{name:>24}" for name in LAYOUTS)]
    for what, size in dict.fromkeys((r["what"], r["ptes"]) for r in rows):
        cells = {r["layout"]: r for r in rows if (r["what"], r["ptes"]) == (what, size)}
        shown = (f"{c['ratio']:.2f} [{c['low']:.2f}, {c['high']:.2f}]" if (c := cells.get(name)) else "-" for name in LAYOUTS)
        lines.append(f"{what + ', ' + size + ' of PTEs':32}" + "".join(f"{cell:>24}" for cell in shown))
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = builds.parser("ratio", __doc__)
    parser.add_argument("--size", default="2M,32M,256M", help="sizes of the PTE array, in M (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=21, help="rounds at 2M; fewer for larger arrays (default %(default)s)")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed, and name it")
    parser.add_argument("--no-numpy", dest="numpy", action="store_false", help="leave the NumPy row out")
    parser.add_argument("--no-kernel", dest="kernel", action="store_false", help="leave the running kernel's row out")
    parser.add_argument(
        "--no-irregular", dest="irregular", action="store_false", help="leave the table of what never repeats out"
    )
    parser.add_argument("--no-patterns", dest="patterns", action="store_false", help="leave the table of all strategies out")
    args = parser.parse_args(argv)
    rows = collect(args)
    print(table(rows))
    never = patterns.irregular(library(), 9) if args.irregular else []
    if never:
        print(patterns.irregular_table(never))
    every = patterns.collect(library(), 5) if args.patterns else []
    if every:
        print(patterns.table(every))
    if args.json:
        args.json.write_text(
            json.dumps({"numpy": np.__version__, "rows": rows, "irregular": never, "patterns": every}, indent=1) + "\n"
        )
    misses = missed(rows) + patterns.missed(never)
    for line in misses:
        print(f"missed: {line}")
    return 1 if args.check and misses else 0


if __name__ == "__main__":
    raise SystemExit(main())
