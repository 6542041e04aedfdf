"""The detectors, one process each: does what is built here keep every law and every test?

``python -m tests.mutants.detect NAME`` prints one line of JSON: what was found
wrong, or null. Names: ``checker``, ``golden``, and the groups of `TESTS`; ``draw``
prepares what ``checker`` needs.
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

#: groups of tests; in each, the first failure ends the run
TESTS = {
    "killed": ("test_mutants_killed.py", "test_mutants_killed_memo.py", "test_mutants_killed_vma.py"),
    "memo": ("test_memo.py",),
    "window": ("test_strategies.py", "test_checker_planted.py::test_commits_of_the_wrong_entries_are_refused"),
    "mprotect": ("test_mprotect_errno.py", "test_differential_mprotect.py"),
    "verbs": ("test_differential_verbs.py", "test_reference_rules.py"),
    "tests": (
        "test_counters.py",
        "test_differential.py",
        "test_layout.py",
        "test_strategies.py",
        "test_hardware.py",
        "test_hardware_traces.py",
        "test_hardware_loops.py",
    ),
}
DETECTORS = ("checker", "golden", *TESTS)


def draw() -> str | None:
    """No detector: draws the worlds that `checker` judges, once for all faults."""
    from .sweep import MACHINES, worlds

    for kernel in MACHINES:
        worlds(kernel)
    return None


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


def tests(group: str) -> str | None:
    """First test of a group that fails, with Hypothesis as it is but for shrinking."""
    import pytest
    from hypothesis import Phase, settings

    settings.register_profile("mutants", deadline=None, database=None, derandomize=True, phases=(Phase.explicit, Phase.generate))
    here = HERE.parent
    files = [str(here / name) for name in TESTS[group]]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = pytest.main(["-x", "-q", "--tb=no", "--no-header", "-p", "no:cacheprovider", "--hypothesis-profile=mutants",
                            "-c", str(TREE / "pyproject.toml"), "--rootdir", str(TREE), *files])  # fmt: skip
    if code == 0:
        return None
    found = re.search(r"^(?:FAILED|ERROR) (?:tests/)?(.+?)(?: - .*)?$", out.getvalue(), re.M)
    return found[1] if found else f"pytest ended with {int(code)}: {out.getvalue()[-300:]}"


def loaded_from() -> Iterator[str]:
    import ptebatch.core.check

    yield str(Path(ptebatch.core.check.__file__).resolve())


def main(name: str) -> dict[str, str | None]:
    """Run one detector; also tells where the core came from."""
    found = {"draw": draw, "checker": checker, "golden": golden}.get(name, lambda: tests(name))()
    return {"found": found, "core": next(loaded_from())}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
