"""What every test relies on: that the package under test is the one that is meant.

An editable install beats PYTHONPATH, and an old install beats a newer tree. Both
would let tests pass that never ran the code they name, so both end the run.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import settings

import ptebatch
from ptebatch.mm import mm as core

HERE = Path(__file__).resolve().parent
TREE = HERE.parent
#: what a stale install shows: files that are shipped as they are
SHIPPED = ((TREE / "pkg" / "ptebatch", ("*.py", "*.pyi")), (TREE / "pyx" / "ptebatch", ("*.pxd",)))

settings.register_profile("ptebatch", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("ptebatch")


def complaint(root: str, loaded: Path, installed: Path) -> str:
    """Why the loaded package is not the one under test; empty if it is."""
    if root:
        if not loaded.is_relative_to(Path(root).resolve()):
            return f"ptebatch.mm.mm was loaded from {loaded}, expected below {root}; uninstall the ptebatch that hides it"
        return ""
    wanted = tomllib.loads((TREE / "pyproject.toml").read_text())["project"]["version"]
    if ptebatch.__version__ != wanted:
        return f"ptebatch {ptebatch.__version__} is installed, this tree is {wanted}; run pip install ."
    if "site-packages" not in installed.parts:
        return ""  # editable installs rebuild themselves; PYTHONPATH names a build on purpose
    for folder, patterns in SHIPPED:
        for ours in (path for pattern in patterns for path in sorted(folder.rglob(pattern))):
            theirs = installed / ours.relative_to(folder)
            if not theirs.is_file() or theirs.read_bytes() != ours.read_bytes():
                return f"{theirs} is not what this tree has in {ours}; run pip install ."
    return ""


def pytest_sessionstart() -> None:
    package = Path(ptebatch.__file__).resolve().parent
    message = complaint(os.environ.get("PTEBATCH_ROOT", ""), Path(core.__file__).resolve(), package)
    if message:
        pytest.exit(message, returncode=4)


@pytest.fixture(scope="session")
def tree() -> Path:
    """Root of the source tree."""
    return TREE


@pytest.fixture(scope="session")
def package() -> Path:
    """Folder of the package under test, with its headers; the source tree's are not it."""
    folder = Path(ptebatch.__file__).resolve().parent
    if folder == TREE / "pkg" / "ptebatch":
        pytest.skip("an editable install has no headers beside its modules")
    return folder
