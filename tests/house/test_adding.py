"""How to add: what CONTRIBUTING.md names for a kind is what an addition of it touches, and it works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.additions import ADDITIONS, Addition, Edit
from tests.mutants import build

#: said(*words): what the command line of the copy prints
SAID = """
import contextlib, io
from ptebatch.cli import main
def said(*words):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(list(words)) == 0, out.getvalue()
    return out.getvalue()
"""


def page(text: str, kind: str) -> str:
    """The page of CONTRIBUTING.md for one kind."""
    found = re.search(rf"^## Adding an? {kind}$(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert found, f"CONTRIBUTING.md has no page 'Adding a {kind}'"
    return found[1]


def named(text: str) -> set[str]:
    """Files in the first column of a page's table; what stands in angle brackets is for the contributor to name."""
    return set(re.findall(r"^\| `([^`]+)` \|", text, re.M))


def fits(name: str, file: str) -> bool:
    """Whether a file is what a row of the table names."""
    return re.fullmatch("[^/]+".join(map(re.escape, re.split(r"<[^>]+>", name))), file) is not None


def differences(names: set[str], addition: Addition) -> set[str]:
    """Files touched and not named, and rows that name none that is touched."""
    unnamed = {file for file in addition.files if not any(fits(name, file) for name in names)}
    return unnamed | {name for name in names if not any(fits(name, file) for file in addition.files)}


@pytest.mark.parametrize("kind", ADDITIONS)
def test_an_addition_touches_the_files_that_are_named(kind, tree):
    text = (tree / "CONTRIBUTING.md").read_text()
    names = named(page(text, kind))
    assert names and not differences(names, ADDITIONS[kind])


def test_every_page_has_its_addition(tree):
    kinds = re.findall(r"^## Adding an? (.*)$", (tree / "CONTRIBUTING.md").read_text(), re.M)
    assert sorted(kinds) == sorted(ADDITIONS)


def test_a_file_too_many_is_seen(tree):
    """The twin: an addition that needs one file more, and a page that names one more."""
    names = named(page((tree / "CONTRIBUTING.md").read_text(), "kernel"))
    kernel = ADDITIONS["kernel"]
    more = Addition("kernel", (*kernel.edits, Edit("pkg/ptebatch/machine.py", "x", "y")), "")
    assert differences(names, more) == {"pkg/ptebatch/machine.py"}
    assert differences(names | {"README.md"}, kernel) == {"README.md"}


@pytest.mark.parametrize("kind", ADDITIONS)
def test_every_edit_fits(kind, tree, tmp_path):
    copied = build.copy(tmp_path / "tree", tree)
    before = contents(copied)
    for edit in ADDITIONS[kind].edits:
        edit.apply(copied)
    after = contents(copied)
    assert {name for name in after if before.get(name) != after[name]} == ADDITIONS[kind].files


def contents(tree: Path) -> dict[str, bytes]:
    return {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def grown(tree, tmp_path_factory):
    """A built copy of the tree with every addition in it."""
    copied = build.copy(tmp_path_factory.mktemp("grown") / "tree", tree)
    for addition in ADDITIONS.values():
        for edit in addition.edits:
            edit.apply(copied)
    return copied, build.compile_core(build.configure(copied), os.cpu_count() or 1)


def within(grown: tuple[Path, Path], *command: str) -> None:
    """Run Python in the copy."""
    copied, package = grown
    env = {**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{copied}", "PTEBATCH_ROOT": str(package)}
    done = subprocess.run([sys.executable, *command], cwd=copied, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ADDITIONS)
def test_an_addition_works(kind, grown):
    within(grown, "-c", SAID + ADDITIONS[kind].ask)


@pytest.mark.slow
def test_core_and_reference_agree_on_what_was_added(grown):
    """The tests of the copy that read the tables hold, with nothing told them."""
    tests = ("tests/vocabulary/test_counters.py", "tests/checker/test_laws.py", "tests/reference")
    within(grown, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow", *tests)
