"""Valid inputs to begin with: from the tests' data, from what the package prints, and from its registries."""

from __future__ import annotations

import gzip
import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ptebatch import MM, STRATEGIES
from ptebatch.checker.worlds.small import CHANGES
from ptebatch.layouts.named import LAYOUTS
from ptebatch.notation.patterns import PATTERN_NAMES
from ptebatch.traces import jsonl as events

from .targets import CUT, SMALL, VALID_SNAPSHOT

HERE = Path(__file__).resolve().parents[1]
DATA = HERE / "data"
sys.path[:0] = [str(HERE), str(HERE / "verify")]

STRIPS = (
    "RW,c RW,c RW,c RW,c | RO,n RO,n RO,n RO,n",
    "RO,n x8",
    "@4 RW,c,hw,young,pae,pfn=0x400.. x4",
    "--,n none swap2,off=5 RW,n,sw,old,nopae,pfn=0x401",
    "RO,n,uffd,special RX,n RWX,n,clean XO,n",
    "RO,c,pfn=0x408.. x4 | none x4",
    "0x00e8000000400f43 RO,n,bti,pkey=3,^0x100",
    "marker:guard swap3,excl hwpoison mig-w,pfn=0x401",
    "2*(RW,c,pfn=0x100.. x4)",
    "marker:uffd-wp+poisoned none",
)
MACHINES = (
    "7.3",
    "6.17,bbml=2",
    "7.3,granule=16K,tlb_range=off",
    "6.12,cont_ptes=4,ptrs_per_pte=8",
    "7.3,lpa2=on,kpti=1,repeat_tlbi=yes",
    "6.16,va_bits=52,bbml_elides=0",
)
WORLDS = (
    ("7.3,cont_ptes=4,ptrs_per_pte=8", "RO,n,pfn=0x401.. x2", "0x400:2=sese", "rw [0, 2)"),
    (
        "6.12,cont_ptes=4,ptrs_per_pte=8",
        "RO,c,pfn=0x400.. x4 | RO,n,pfn=0x410 none x3",
        "0x400:2=eess 0x410:0=f,numa-skip",
        "numa [1, 8)",
    ),
)
MAPS = """\
7f0000000000-7f0000200000 rw-p 00000000 00:00 0                          [heap]
7f0000200000-7f0000208000 r--s 00001000 fe:00 260131                     /usr/lib/x (deleted)
7f0000300000-7f0000301000 ---p 00000000 00:00 0
"""
SMAPS = "7f0000000000-7f0000200000 rw-p 00000000 00:00 0   [heap]\nRss:                  16 kB\nVmFlags: rd wr mr mw me ac\n"
COMMANDS = (
    ("compare", "--layout", "1/511", "--op", "rw", "--strategy", "folio,lookahead"),
    ("compare", "--layout", "T2:64K:pae=alternating", "--json"),
    ("show", "--layout", "alternating", "--op", "ro,rw", "--machine", "7.3,cont_ptes=4,ptrs_per_pte=8", "--fields", "dirty,pfn"),
    ("events", "--layout", "1/511", "--machine", "6.12,cont_ptes=4,ptrs_per_pte=8", "--op", "rw", "--strategy", "per-pte"),
    ("events", "--layout", "T3:16K", "--op", "none", "--format", "casemate", "--as-el2"),
    ("list", "strategies"),
    ("list", "machines", "--json"),
    ("list", "--help"),
    ("--version",),
    ("verify", "--help"),
)


def texts(*found: str) -> list[bytes]:
    return [text.encode("utf-8", "surrogateescape") for text in found]


def _process() -> bytes:
    pagemap = np.zeros(8, np.uint64)
    frames = np.full(0x110, 1 << 12 | 1 << 5 | 1 << 14, np.uint64)
    pagemap[:4] = np.arange(0x100, 0x104, dtype=np.uint64) | np.uint64(1 << 63 | 1 << 56)
    maps, smaps = MAPS.replace("7f0000", "0000000"), SMAPS.replace("7f0000", "0000000")
    return CUT.join([maps.encode(), smaps.encode(), pagemap.tobytes(), frames.tobytes(), np.ones(0x110, np.uint64).tobytes()])


def _snapshot() -> list[bytes]:
    with zipfile.ZipFile(io.BytesIO(VALID_SNAPSHOT)) as archive:
        return [VALID_SNAPSHOT, *(CUT.join([name.encode(), archive.read(name)]) for name in archive.namelist())]


def _trace() -> bytes:
    mm = MM(SMALL, nr_pages=64)
    mm.mmap(0, 8 * 4096, 1)
    mm.map_folios(0, 8, 3, exclusive=[1, 1, 0, 0, 1, 1, 1, 0])
    out = io.StringIO()
    events.write(mm.mprotect(4096, 4 * 4096, 3, trace=True), out)
    return out.getvalue().encode()


def _cut(document: Any, most: int = 2) -> Any:
    """The same document with its longest lists cut, so that one run of it is short."""
    if isinstance(document, dict):
        keep = {"counters"}
        return {key: value if key in keep else _cut(value, most) for key, value in document.items()}
    if isinstance(document, list):
        return document[:most] if document and isinstance(document[0], dict) else document
    return document


def _files(pattern: str, most: int = 1) -> list[bytes]:
    found = []
    for path in sorted(DATA.glob(pattern))[:2]:
        document = json.loads(gzip.decompress(path.read_bytes()))
        found.append(json.dumps(_cut(document, most)).encode())
    return found


def corpus(name: str) -> list[bytes]:
    """Valid inputs of a target."""
    if name == "vectors":
        from test_verify_input import VECTORS

        return [json.dumps(VECTORS).encode(), *_files("golden/named.json.gz")]
    made: dict[str, Any] = {
        "notation": lambda: texts(*STRIPS),
        "machine": lambda: texts(*MACHINES),
        "layout": lambda: texts(
            *LAYOUTS, "T1:2M", "T2:64K:unfolded:shuffled=3", "T3:1M:sequential:pae=1/511", "1/511,alternating:folded"
        ),
        "patterns": lambda: texts(*PATTERN_NAMES, "1/511", "16/16/480", "511e/1s", "random:0.5", "random:0.9:7"),
        "size": lambda: texts("4K", "64K", "2M", "1G", "4096", "ro,rw", "none,rx,rwx"),
        "strategy": lambda: texts(*STRATEGIES, "nowhere.py"),
        "world": lambda: (
            [CUT.join(texts(*each)) for each in WORLDS]
            + [CUT.join(texts(str(SMALL), "RO,n", "", f"{c} [0, 1)")) for c in CHANGES]
        ),
        "events": lambda: [_trace()],
        "maps": lambda: texts(MAPS, SMAPS),
        "process": lambda: [_process()],
        "snapshot": _snapshot,
        "dumps": lambda: _files("hardware/*.dumps.json.gz"),
        "traces": lambda: _files("hardware/*.trace.json.gz"),
        "loops": lambda: _files("hardware/loops.json.gz"),
        "prim": lambda: _files("golden/prim.json.gz"),
        "command": lambda: texts(*("\n".join(argv) for argv in COMMANDS)),
        "api": lambda: [bytes(np.random.default_rng(i).integers(0, 256, 120, np.uint8)) for i in range(8)],
    }
    found: list[bytes] = made[name]()
    assert found, name
    return found
