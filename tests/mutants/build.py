"""A copy of the tree, built with the faults in it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from .catalogue import CORE, TREE, Mutant

#: what the build and the detectors need of the tree
PARTS = ("meson.build", "pyproject.toml", "CHANGELOG.md", "CITATION.cff", "pyx", "pkg", "tests", "bench")
IGNORED = shutil.ignore_patterns("__pycache__", ".*", "build")


class BuildError(Exception):
    """The copy does not compile; the compiler's last lines."""


def copy(to: Path, tree: Path = TREE) -> Path:
    """Copy the sources, without builds and caches."""
    to.mkdir(parents=True)
    for part in PARTS:
        if (tree / part).is_dir():
            shutil.copytree(tree / part, to / part, ignore=IGNORED)
        elif (tree / part).exists():
            shutil.copy2(tree / part, to / part)
    return to


def _run(command: list[str], cwd: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(command, cwd=cwd, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stdout + done.stderr).splitlines()
        raise BuildError("\n".join([f"{' '.join(command)} ended with {done.returncode}:", *lines[-30:]]))


def configure(tree: Path) -> Path:
    """Configure a build of the copy that compiles fast; returns its folder."""
    build = tree / "build"
    _run(["meson", "setup", "--buildtype=plain", str(build)], tree)
    ninja = build / "build.ninja"
    # the targets ask for -O3 themselves; for a run of a second each that does not pay. A fault may
    # leave a variable unused, which a warning tells and an error would refuse
    ninja.write_text(re.sub(r"-O3\b", "-O1", ninja.read_text()).replace("-Werror", ""))
    return build


def compile_core(build: Path, jobs: int) -> Path:
    """Build; returns the folder to put on PYTHONPATH."""
    _run(["ninja", "-j", str(jobs)], build)
    return build / "pkg"


@contextlib.contextmanager
def patched(tree: Path, mutant: Mutant, source: str, jobs: int) -> Iterator[None]:
    """Build one fault, put into `source`, in a copy that is built, and take it out of its file again."""
    path = tree / CORE / mutant.file
    before = path.read_text()
    path.write_text(mutant.apply(source))
    try:
        compile_core(tree / "build", jobs)
        yield
    finally:
        path.write_text(before)
