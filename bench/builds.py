"""Which build is measured: an optimised one, not installed, and no other.

An editable install beats ``sys.path``, so that a run may silently measure
another build than it names. Everything here begins with `ensure` or `load`.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent


def ensure() -> Path:
    """Make `ptebatch` the package of an optimised build directory.

    Returns
    -------
    Path
        The build directory: ``PTEBATCH_BUILD`` as it is, else ``build`` in the
        repository, which is set up and brought up to date first.

    Raises
    ------
    SystemExit
        No such build, one without optimisation, or a package from elsewhere.
    """
    given = os.environ.get("PTEBATCH_BUILD")
    build = Path(given).resolve() if given else ROOT / "build"
    if not given:
        _compile(build)
    if not (build / "meson-info" / "intro-buildoptions.json").exists():
        raise SystemExit(f"bench: {build} is not a meson build directory; run: meson setup {build} && meson compile -C {build}")
    _optimised(build)
    package = str(build / "pkg")
    if package not in sys.path:
        sys.path.insert(0, package)
    core = importlib.import_module("ptebatch.mm.mm")
    if not Path(str(core.__file__)).resolve().is_relative_to(build / "pkg"):
        raise SystemExit(f"bench: ptebatch.mm.mm comes from {core.__file__}, not from {build}; uninstall the other ptebatch")
    # children and the core's other processes measure the same build
    os.environ["PTEBATCH_BUILD"] = str(build)
    return build


def load(name: str) -> ModuleType:
    """Import a module of the package or of `bench` once the build is ensured."""
    ensure()
    return importlib.import_module(name)


def parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """The command line of ``python -m bench.NAME``, whose help is the module's docstring."""
    return argparse.ArgumentParser(prog=f"python -m bench.{name}", description=doc, formatter_class=argparse.RawTextHelpFormatter)


def _compile(build: Path) -> None:
    meson = _meson()
    env = dict(os.environ, PATH=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))))
    if not (build / "build.ninja").exists():
        subprocess.run([*meson, "setup", str(build), str(ROOT)], check=True, stdout=sys.stderr, env=env)
    for target in ([], ["bench-targets"]):
        subprocess.run([*meson, "compile", "-C", str(build), *target], check=True, stdout=sys.stderr, env=env)


def _meson() -> list[str]:
    if importlib.util.find_spec("mesonbuild"):
        return [sys.executable, "-m", "mesonbuild.mesonmain"]
    found = shutil.which("meson")
    if not found:
        raise SystemExit("bench: meson is not installed; pip install meson ninja Cython, or set PTEBATCH_BUILD to a build")
    return [found]


def _optimised(build: Path) -> None:
    options = {row["name"]: row["value"] for row in json.loads((build / "meson-info" / "intro-buildoptions.json").read_text())}
    if options["buildtype"] != "release" or options.get("b_sanitize", "none") not in ("none", []):
        raise SystemExit(
            f"bench: {build} has buildtype={options['buildtype']}, b_sanitize={options.get('b_sanitize')}; "
            "measure a release build without sanitizers"
        )


def describe() -> dict[str, str]:
    """What a result belongs to: interpreter, NumPy, instruction set, compiler."""
    build = ensure()
    numpy = importlib.import_module("numpy")
    isa = importlib.import_module("ptebatch.batch.isa")
    return {
        "python": sys.version.split()[0],
        "numpy": numpy.__version__,
        "isa": isa.ISA,
        "compiler": compiler(build),
        "cpu": _cpu(),
    }


def compiler(build: Path) -> str:
    """Name and version of the C compiler that a build directory was made with."""
    found = json.loads((build / "meson-info" / "intro-compilers.json").read_text())
    c = found["host"]["c"]
    return f"{c['id']} {c['version']}"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
