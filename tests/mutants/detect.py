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
    "killed": ("mutants/test_mutants_killed.py", "mutants/test_mutants_killed_memo.py", "mutants/test_mutants_killed_vma.py"),
    "formula": ("batch/test_formula.py",),
    "memo": ("batch/test_memo.py",),
    "window": ("batch/test_strategies.py", "checker/test_checker_planted.py::test_commits_of_the_wrong_entries_are_refused"),
    "mprotect": ("mm/test_mprotect_errno.py", "reference/test_differential_mprotect.py"),
    "space": ("mm/test_undo.py", "mm/test_many_vmas.py"),
    "verbs": ("reference/test_differential_verbs.py", "reference/test_reference_rules.py"),
    "tests": (
        "vocabulary/test_counters.py",
        "reference/test_differential.py",
        "layouts/test_layout.py",
        "batch/test_strategies.py",
        "verify/test_hardware.py",
        "verify/test_hardware_traces.py",
        "verify/test_hardware_loops.py",
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
    import ptebatch.checker.check

    yield str(Path(ptebatch.checker.check.__file__).resolve())


def main(name: str) -> dict[str, str | None]:
    """Run one detector; also tells where the core came from."""
    found = {"draw": draw, "checker": checker, "golden": golden}.get(name, lambda: tests(name))()
    return {"found": found, "core": next(loaded_from())}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
