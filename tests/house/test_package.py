"""What is installed: the files of the package, the command, and headers that another package can cimport."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from pathlib import Path

import pytest

import ptebatch
from ptebatch.strategies import STRATEGIES, register, unregister

THIRD_PARTY = textwrap.dedent(
    """
    # cython: language_level=3, freethreading_compatible=True
    from libc.stdint cimport int64_t
    from ptebatch.batch.seam cimport FPB_MPROTECT, strategy_capsule, walk, walk_pfn, whole_batch

    cdef int64_t step(walk *w) noexcept nogil:
        return whole_batch(w, FPB_MPROTECT, walk_pfn(w), False)

    cdef int64_t lazy(walk *w) noexcept nogil:
        return 0

    STEP = strategy_capsule(step)
    LAZY = strategy_capsule(lazy)
    """
)


def run(*command: object, cwd: Path | None = None, **env: str) -> str:
    """Output of a command that must succeed."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def wanted(tree: Path) -> set[str]:
    """Files of the package that are shipped as they are."""
    python = {p.relative_to(tree / "pkg") for s in ("*.py", "*.pyi", "py.typed") for p in (tree / "pkg/ptebatch").rglob(s)}
    headers = {p.relative_to(tree / "pyx") for p in (tree / "pyx/ptebatch").rglob("*.pxd")}
    return {str(path) for path in python | headers}


def modules(tree: Path) -> set[str]:
    return {p.stem for p in (tree / "pyx/ptebatch").rglob("*.pyx")} - {"replay", "regular"} | {"_replay_base", "_regular_base"}


def lacking(tree: Path, names: set[str]) -> set[str]:
    """What a list of installed files should have and has not."""
    compiled = {name.split("/")[-1].split(".")[0] for name in names if name.endswith(".so")}
    return (wanted(tree) - names) | (modules(tree) - compiled)


def test_the_package_is_complete(tree, package):
    names = {str(path.relative_to(package.parent)) for path in package.rglob("*") if path.is_file()}
    assert not lacking(tree, names)


def test_a_lost_header_is_seen(tree, package):
    names = {str(path.relative_to(package.parent)) for path in package.rglob("*") if path.is_file()}
    assert lacking(tree, names - {"ptebatch/batch/seam.pxd"}) == {"ptebatch/batch/seam.pxd"}


def test_the_module_runs_as_a_command():
    assert ptebatch.__version__ in run(sys.executable, "-m", "ptebatch", "--version")


def test_the_installed_command_is_the_module():
    try:
        entries = importlib.metadata.distribution("ptebatch").entry_points
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("an uninstalled build has no commands")
    (command,) = [entry for entry in entries if entry.group == "console_scripts"]
    from ptebatch.cli import main

    assert command.name == "ptebatch" and command.load() is main


def headers_of(package: Path) -> str:
    return os.pathsep.join(filter(None, [str(package.parent), os.environ.get("PYTHONPATH")]))


def compile_against(headers: str, folder: Path, name: str = "mine", text: str = THIRD_PARTY) -> object:
    """A third party's module, built as the README tells, and imported."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.pyx").write_text(text)
    run(Path(sys.executable).parent / "cythonize", "-i", "-q", f"{name}.pyx", cwd=folder, PYTHONPATH=headers)
    sys.path.insert(0, str(folder))
    try:
        return __import__(name)
    finally:
        sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def mine(package, tmp_path_factory):
    return compile_against(headers_of(package), tmp_path_factory.mktemp("mine"))


def world() -> ptebatch.MM:
    mm = ptebatch.MM(nr_pages=4096)
    mm.mmap(0x200000, 0x200000, 3)
    mm.map_folios(0x200000, 512, 9, exclusive=[i % 7 < 4 for i in range(512)])
    mm.mprotect(0x200000, 0x200000, 1)
    return mm


def test_a_third_partys_step_runs_like_the_one_it_repeats(mine):
    register("mine", mine.STEP, summary="a compiled step of another package")
    try:
        theirs, ours = world(), world()
        got = theirs.mprotect(0x200000, 0x200000, 3, strategy="mine")
        want = ours.mprotect(0x200000, 0x200000, 3, strategy="folio")
        assert got.strategy == "mine" and got.counters == want.counters and got.batches == want.batches
        assert (theirs.ptes(0x200000, 512) == ours.ptes(0x200000, 512)).all()
        assert got["n_subs"] > 100, "the pattern must split the batch"
    finally:
        unregister("mine")
    assert "mine" not in STRATEGIES


@pytest.mark.parametrize("order", [0, 4, 9])
def test_a_pure_step_of_a_third_party_is_replayed_as_a_built_in_one_is(mine, order):
    """As fast: the step is called no more often. One that does not say so is called for every batch."""
    done = {}
    for name in ("folio", "mine", "careful"):
        if name != "folio":
            register(name, mine.STEP, pure=name == "mine")
        try:
            mm = ptebatch.MM(nr_pages=1 << 14)
            mm.mmap(0x200000, 8192 * 4096, 3)
            mm.map_folios(0x200000, 8192, order)
            done[name] = mm.mprotect(0x200000, 8192 * 4096, 1, strategy=name).counters, mm.replayed
            # which unit was learnt, and how, is a built-in one's own: a third party has no formula
            del done[name][1]["maps"]
        finally:
            if name != "folio":
                unregister(name)
    assert done["mine"] == done["folio"] and sum(done["mine"][1].values()) > 6000
    assert done["careful"] == (done["folio"][0], dict.fromkeys(done["folio"][1], 0))


def test_a_third_partys_step_that_does_nothing_is_stopped(mine):
    register("lazy", mine.LAZY)
    try:
        with pytest.raises(ptebatch.strategies.StrategyError, match="'lazy' dealt with no entry"):
            world().mprotect(0x200000, 0x200000, 3, strategy="lazy")
    finally:
        unregister("lazy")


def test_a_step_built_against_other_headers_is_refused(package, tmp_path):
    """A module of an older release would read the wrong fields of the walk."""
    shutil.copytree(
        package, tmp_path / "old" / "ptebatch", ignore=shutil.ignore_patterns("*.so", "*.so.p", "__pycache__", "*.py")
    )
    (tmp_path / "old/ptebatch/__init__.py").touch()
    for room in ("base", "arm64", "batch", "mm"):
        (tmp_path / "old/ptebatch" / room / "__init__.py").touch()
    header = tmp_path / "old/ptebatch/batch/seam.pxd"
    header.write_text(header.read_text().replace("    bint vma_anon\n", "    bint vma_anon\n    uint64_t one_more\n"))
    old = compile_against(str(tmp_path / "old"), tmp_path / "src", name="older")
    with pytest.raises(ptebatch.strategies.StrategyError, match="another ptebatch"):
        world().mprotect(0x200000, 0x200000, 3, strategy=register("older", old.STEP))
    unregister("older")


# ---- building: from a copy of the tree that is a repository of its own ----


@pytest.fixture(scope="module")
def clone(tree, tmp_path_factory) -> Path:
    """The tree as it is, committed: an sdist takes committed files only."""
    to = tmp_path_factory.mktemp("clone") / "ptebatch"
    skip = shutil.ignore_patterns(".git", "build", "builddir", "dist", "__pycache__", ".*_cache", ".hypothesis", ".venv", "*.so")
    shutil.copytree(tree, to, ignore=skip)
    git = ("git", "-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    run("git", "init", "-q", cwd=to)
    run("git", "add", "-A", cwd=to)
    run(*git, "commit", "-q", "-m", "tree", cwd=to)
    return to


@pytest.fixture(scope="module")
def artefacts(clone, tmp_path_factory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--skip-dependency-check", "--outdir", out, clone)
    return {"sdist": next(out.glob("*.tar.gz")), "wheel": next(out.glob("*.whl"))}


@pytest.mark.slow
def test_the_sdist_holds_the_tree(clone, artefacts):
    with tarfile.open(artefacts["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = set(run("git", "ls-files", cwd=clone).split())
    assert not tracked - names
    assert "PKG-INFO" in names


@pytest.mark.slow
def test_the_wheel_holds_modules_stubs_and_headers(tree, artefacts):
    with zipfile.ZipFile(artefacts["wheel"]) as archive:
        names = set(archive.namelist())
        metadata = next(archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
        scripts = next(archive.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    assert not lacking(tree, names)
    assert not [name for name in names if name.endswith((".pyx", ".c", ".o"))]
    assert "License-Expression: BSD-3-Clause" in metadata and "ptebatch" in scripts
    assert metadata.count("Project-URL: ") >= 2


@pytest.mark.slow
def test_the_wheel_works_away_from_the_tree(artefacts, package, tmp_path):
    run(
        sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", tmp_path / "site", artefacts["wheel"]
    )
    program = "import ptebatch.mm.mm as m, sys; print(m.__file__); from ptebatch.cli import main; sys.exit(main(sys.argv[1:]))"
    out = run(
        sys.executable, "-c", program, "list", "strategies", cwd=tmp_path, PYTHONPATH=str(tmp_path / "site"), PTEBATCH_ROOT=""
    )
    assert out.startswith(str(tmp_path / "site")) and "lookahead-pae" in out


def other_python(minor: str) -> Path | None:
    """An interpreter of another minor release that runs; None: there is none."""
    found = shutil.which(f"python{minor}")
    if found is None:
        return None
    done = subprocess.run([found, "-c", "import sys; print(sys.executable)"], capture_output=True, text=True, check=False)
    return Path(done.stdout.strip()) if done.returncode == 0 else None


@pytest.mark.slow
@pytest.mark.parametrize("minor", ["3.12", "3.13"])
def test_the_sdist_builds_and_its_wheel_runs_on_other_pythons(artefacts, tmp_path, minor):
    python = other_python(minor)
    if python is None:
        pytest.skip(f"there is no Python {minor} here")
    clean = {"PYTHONPATH": "", "PTEBATCH_ROOT": ""}
    run(python, "-m", "venv", tmp_path / "venv", **clean)
    mine = tmp_path / "venv" / "bin" / "python"
    # plain code is compiled in half the time
    how = ("--no-deps", "-Csetup-args=-Doptimization=0")
    run(mine, "-m", "pip", "wheel", "-q", *how, "-w", tmp_path / "dist", artefacts["sdist"], **clean)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert f"cp{minor.replace('.', '')}" in wheel.name
    run(mine, "-m", "pip", "install", "-q", wheel, **clean)
    out = run(tmp_path / "venv" / "bin" / "ptebatch", "compare", "--layout", "T2:1M", "--op", "ro", cwd=tmp_path, **clean)
    assert "folio" in out and "All end in the same PTEs." in out


# ---- an editable install, and the uninstalled build ----


@pytest.mark.slow
def test_an_editable_install_rebuilds_when_a_header_changes(clone, tmp_path):
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env")
    site = next((tmp_path / "env/lib").glob("python*/site-packages"))
    tools = Path(importlib.metadata.distribution("numpy").locate_file(""))
    (site / "tools.pth").write_text(f"{tools}\n")  # the build tools and numpy of this environment, but not its ptebatch
    python = tmp_path / "env/bin/python"
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "-q",
        "--no-build-isolation",
        "--no-deps",
        "--ignore-installed",
        "-e",
        clone,
    )
    probe = (
        "import ptebatch.arm64.accessors as a\nprint(a.__file__)\n"
        "try:\n    a.pte_mkold(-1)\nexcept ValueError as e:\n    print(e)"
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    where, message = run(python, "-c", probe, cwd=tmp_path, PATH=path, PYTHONPATH="").splitlines()
    assert Path(where).is_relative_to(clone) and "is out of range" in message
    header = clone / "pyx/ptebatch/base/args.pxd"  # few rooms cimport it
    before = header.read_text()
    try:
        header.write_text(before.replace("is out of range", "is far out of range"))
        assert header.read_text() != before
        assert "is far out of range" in run(python, "-c", probe, cwd=tmp_path, PATH=path, PYTHONPATH="")
    finally:
        header.write_text(before)


@pytest.mark.slow
def test_the_uninstalled_build_is_a_whole_package(clone, tmp_path):
    tools = Path(sys.executable).parent
    build = tmp_path / "build"
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    run(tools / "meson", "setup", build, clone, PATH=path)
    run(tools / "meson", "compile", "-C", build, PATH=path)
    listed = run(tools / "meson", "test", "-C", build, "--list", PATH=path)
    assert "pytest" in listed
    quick = "--test-args=-k test_prim"
    run(tools / "meson", "test", "-C", build, "--print-errorlogs", quick, PATH=path)
