"""Whether the sanitizers would tell: faults on purpose, and a look into the compiled modules."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

__all__ = ["asleep", "instrumented"]

_SOURCE = """
#include <stdint.h>
#include <stdlib.h>
int over_read(int n) { volatile size_t size = 16; volatile int *p = malloc(size); return p[n]; }
int overflow(int n) { return 0x7fffffff + n; }
int misaligned(int n) { static char at[16]; return *(volatile int *)(at + n); }
"""
#: function, and what its report says when it is called with 5
FAULTS = {"over_read": "heap-buffer-overflow", "overflow": "signed integer overflow", "misaligned": "misaligned address"}
_CALL = "import ctypes, sys; print(getattr(ctypes.CDLL(sys.argv[1]), sys.argv[2])(int(sys.argv[3])))"


def instrumented(package: Path) -> list[str]:
    """Modules of the core that were compiled without a sanitizer."""
    modules = sorted((package / "ptebatch").rglob("*.so"))
    marks = (b"__asan_report", b"__ubsan_handle")
    bare = [path.name for path in modules if not all(mark in path.read_bytes() for mark in marks)]
    if not modules:
        return [f"no compiled module in {package}"]
    return [f"{name} was compiled without the sanitizers" for name in bare]


def asleep(env: dict[str, str], scratch: Path) -> list[str]:
    """Faults on purpose that are not reported, and faultless calls that are."""
    source, library = scratch / "faults.c", scratch / "faults.so"
    source.write_text(_SOURCE)
    how = ["-shared", "-fPIC", "-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run(["gcc", *how, "-o", str(library), str(source)], check=True)
    found = []
    for name, words in FAULTS.items():
        for argument, wanted in (("5", True), ("0", False)):
            done = subprocess.run(
                [sys.executable, "-c", _CALL, str(library), name, argument], env=env, capture_output=True, text=True, check=False
            )
            reports = sorted(scratch.glob("report*"))
            said = done.stderr + "".join(path.read_text(errors="replace") for path in reports)
            for path in reports:
                path.unlink()
            if (done.returncode != 0 and words in said) != wanted:
                found.append(f"{name}({argument}): exit status {done.returncode}, {words!r} {'not ' * wanted}reported")
    return found
