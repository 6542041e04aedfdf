"""Which build of the replay loops is loaded: asked of the CPU first, of every feature that the build may use."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

import ptebatch
from ptebatch.batch import isa

CODE = """
import sys
from ptebatch.batch.isa import ISA
from ptebatch import MM
mm = MM("7.3", nr_pages=2048)
mm.mmap(0x200000, 0x200000, 3)
mm.map_folios(0x200000, 512, 4)
result = mm.mprotect(0x200000, 0x200000, 1)
print(ISA, result.pages, "ptebatch.batch._replay_v3" in sys.modules)
"""
EMULATOR = shutil.which("qemu-x86_64")
emulated = pytest.mark.skipif(
    EMULATOR is None or platform.machine() != "x86_64", reason="no user emulation of x86-64 here (qemu-x86_64)"
)


def run(*command: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The code above with the package under test, however it was found."""
    roots = [str(Path(module.__file__).resolve().parents[1]) for module in (ptebatch, numpy)]
    environ = {**os.environ, **env, "PYTHONPATH": os.pathsep.join(roots)}
    return subprocess.run([*command, "-c", CODE], env=environ, capture_output=True, text=True, check=False, timeout=300)


def need_numpy(cpu: str) -> None:
    """Some releases of NumPy die on CPUs without XSAVE, before anything of this package runs there."""
    alone = subprocess.run(
        [EMULATOR, "-cpu", cpu, os.path.realpath(sys.executable), "-c", "import numpy"],
        env={**os.environ, "PYTHONPATH": str(Path(numpy.__file__).resolve().parents[1])},
        capture_output=True,
        check=False,
        timeout=300,
    )
    if alone.returncode < 0:
        pytest.skip(f"NumPy {numpy.__version__} itself does not run on {cpu}")


@emulated
@pytest.mark.parametrize(("cpu", "build"), [("Nehalem", "base"), ("SandyBridge", "base"), ("Haswell", "v3")])
def test_each_cpu_gets_the_build_that_it_runs(cpu, build):
    """Neither of the first two has AVX2; the first has no AVX at all: importing the other build would be too much."""
    need_numpy(cpu)
    done = run(EMULATOR, "-cpu", cpu, os.path.realpath(sys.executable), PTEBATCH_ISA="")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [build, "512", str(build == "v3")]


@emulated
@pytest.mark.parametrize("lacking", ["bmi2", "fma", "movbe", "f16c", "abm", "avx2", "xsave"])
def test_a_cpu_that_lacks_one_feature_gets_the_plain_build(lacking):
    need_numpy(f"Haswell,{lacking}=off")
    done = run(EMULATOR, "-cpu", f"Haswell,{lacking}=off", os.path.realpath(sys.executable), PTEBATCH_ISA="")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["base", "512", "False"]


@emulated
def test_asking_for_a_build_that_the_cpu_does_not_run_is_refused():
    done = run(EMULATOR, "-cpu", "SandyBridge", os.path.realpath(sys.executable), PTEBATCH_ISA="v3")
    assert done.returncode == 1 and "lacks x86-64-v3" in done.stderr


def test_the_plain_build_can_be_chosen():
    done = run(sys.executable, PTEBATCH_ISA="base")
    assert done.stdout.split() == ["base", "512", "False"], done.stderr


@pytest.mark.skipif(platform.machine() != "x86_64", reason="there is one build elsewhere")
def test_this_cpu_has_what_it_says():
    flags = set(re.search(r"^flags\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)[1].split())
    names = "pni ssse3 fma cx16 sse4_1 sse4_2 movbe popcnt avx f16c bmi1 avx2 bmi2 lahf_lm abm"
    assert isa._replay_base.supports_v3() == (set(names.split()) <= flags)
