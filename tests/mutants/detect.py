"""The detectors, one process each: does what is built here keep every law and every test?

``python -m tests.mutants.detect checker|golden|tests`` prints one line of JSON: what
was found wrong, or null.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from .catalogue import HERE, TREE

#: tests in the order in which they are likely to see a fault of the core; the first failure ends the run
TESTS = (
    "test_memo.py",
    "test_mprotect_errno.py",
    "test_counters.py",
    "test_differential_mprotect.py",
    "test_differential.py",
    "test_layout.py",
    "test_strategies.py",
    "test_hardware.py",
    "test_hardware_traces.py",
    "test_hardware_loops.py",
    "test_reference.py",
)


def checker() -> str | None:
    """First law that a sound design breaks in a sweep over small worlds."""
    from .sweep import first_broken

    return first_broken()


def golden() -> str | None:
    """First difference from the golden vectors, and from the table of PTE helpers."""
    from ptebatch.verify import verify_prim, verify_vectors

    data = HERE.parent / "data" / "golden"
    files = ((verify_prim, "prim"), (verify_vectors, "named"), (verify_vectors, "named_16k"), (verify_vectors, "random_a"))
    for verify, name in files:
        report = verify(data / f"{name}.json.gz")
        for line in (line for file in report.files for line in file.lines if not line.ok):
            return f"{name}, {line.name}: {', '.join(list(line.differ)[:3])}"
    return None


def tests() -> str | None:
    """First test of the core that fails, with Hypothesis as it is but for shrinking."""
    import pytest
    from hypothesis import Phase, settings

    settings.register_profile("mutants", deadline=None, database=None, derandomize=True, phases=(Phase.explicit, Phase.generate))
    here = HERE.parent
    files = [str(here / name) for name in TESTS if (here / name).exists()]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = pytest.main(["-x", "-q", "--tb=no", "--no-header", "-p", "no:cacheprovider", "--hypothesis-profile=mutants",
                            "-c", str(TREE / "pyproject.toml"), "--rootdir", str(TREE), *files])  # fmt: skip
    if code == 0:
        return None
    found = re.search(r"^(?:FAILED|ERROR) (?:tests/)?(\S+)", out.getvalue(), re.M)
    return found[1] if found else f"pytest ended with {int(code)}: {out.getvalue()[-300:]}"


def loaded_from() -> Iterator[str]:
    import ptebatch.core.check

    yield str(Path(ptebatch.core.check.__file__).resolve())


if __name__ == "__main__":
    detector = {"checker": checker, "golden": golden, "tests": tests}[sys.argv[1]]
    where = next(loaded_from())
    print(json.dumps({"found": detector(), "core": where}))
