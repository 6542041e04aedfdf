"""Build with the address and undefined-behaviour sanitizers, and run the tests that reach the core.

python -m tests.sanitize                  build in a temporary folder, then every test file
python -m tests.sanitize --keep DIR       build there, and build no more than is needed next time
python -m tests.sanitize tests/batch/test_memo.py tests/mm/test_garbage.py

Needs gcc with its sanitizer libraries, meson, ninja and Cython. First shows that the
sanitizers are awake: a seeded over-read, a signed overflow and a misaligned load must each be
reported. Every report of a sanitizer and every test that fails is a failure: exit
status 1. What is left out, and why, stands in `LEFT_OUT`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .awake import asleep, instrumented

TREE = Path(__file__).resolve().parents[2]
#: files of tests that say nothing about memory: they build packages, take times, read texts
LEFT_OUT = {
    "test_package.py": "builds wheels and other people's modules",
    "test_bench_guard.py": "takes times",
    "test_bench_numpy.py": "takes times",
    "test_house.py": "reads the tree",
    "test_isa.py": "runs in an emulator",
    "test_readme.py": "reads texts and repeats what other files run",
    "test_verify_input.py": "feeds thousands of broken files to readers in Python; what the core runs is in test_golden.py",
    "test_fuzz.py": "takes seconds by the clock; run python -m tests.fuzz in the environment that --shell shows",
}
FLAGS = "-O1 -g1 -fno-omit-frame-pointer -fno-sanitize-recover=all"
#: seconds for one file of tests
PATIENCE = 600


def build(folder: Path, jobs: int) -> Path:
    """Build the package, not installed; returns the folder to import it from."""
    if not (folder / "build.ninja").exists():
        options = ["-Db_sanitize=address,undefined", "-Db_lundef=false", "-Dbuildtype=plain", f"-Dc_args={FLAGS}"]
        subprocess.run(["meson", "setup", str(folder), str(TREE), *options], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["ninja", "-C", str(folder), f"-j{jobs}"], check=True, stdout=subprocess.DEVNULL)
    return folder / "pkg"


def environment(package: Path, reports: Path, *, thorough: bool) -> dict[str, str]:
    """What the interpreter needs to run instrumented modules.

    Reports of the address sanitizer go to files; those of the other go to stderr whatever
    is asked for, so pytest must leave that alone.
    """
    libraries = [
        subprocess.check_output(["gcc", f"-print-file-name={name}"], text=True).strip() for name in ("libasan.so", "libubsan.so")
    ]
    log = f"log_path={reports}/report"
    return os.environ | {
        "LD_PRELOAD": ":".join(libraries),
        # Tables, metadata and logs of the core come from malloc; what lies beside small objects of
        # Python hides in pymalloc's pools, unless they do too, at twice the time.
        "PYTHONMALLOC": "malloc" if thorough else "pymalloc",
        # The interpreter keeps memory until it ends. A request that cannot be met is a MemoryError to us.
        "ASAN_OPTIONS": f"{log}:detect_leaks=0:allocator_may_return_null=1:detect_stack_use_after_return=1",
        "UBSAN_OPTIONS": f"{log}:print_stacktrace=1:halt_on_error=1",
        "PYTHONPATH": str(package),
        "PTEBATCH_ROOT": str(package),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def run_file(path: Path, env: dict[str, str], scratch: Path) -> tuple[str, float, str]:
    """One file of tests in a process of its own: its name, seconds, and what is wrong, if anything."""
    reports = scratch / path.stem
    reports.mkdir()
    env = env | {
        key: value.replace(str(scratch / "report"), str(reports / "report")) for key, value in env.items() if "log_path" in value
    }
    argv = [sys.executable, "-m", "pytest", "-q", "--capture=sys", "--no-header", "-p", "no:cacheprovider"]
    argv += ["--rootdir", str(TREE), "-c", str(TREE / "pyproject.toml"), str(path)]
    began = time.monotonic()
    try:
        done = subprocess.run(argv, env=env, cwd=TREE, capture_output=True, text=True, timeout=PATIENCE, check=False)
        said = "\n".join(done.stdout.splitlines()[-25:])
        wrong = "" if done.returncode in (0, 5) else f"exit status {done.returncode}\n{said}"
        if "runtime error:" in done.stderr or "Sanitizer" in done.stderr:
            wrong += "\n" + "\n".join(_core_only(done.stderr))
    except subprocess.TimeoutExpired:
        wrong = f"takes more than {PATIENCE} s"
    for report in sorted(reports.iterdir()):
        wrong += f"\n{report.name}:\n" + "\n".join(_core_only(report.read_text(errors="replace")))
    return path.name, time.monotonic() - began, wrong


def _core_only(report: str) -> list[str]:
    """A report without the frames of the interpreter."""
    lines = report.splitlines()
    return [line for line in lines if not any(f" {part}/" in line for part in ("Python", "Objects", "Modules", "Include"))][:40]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.sanitize", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, help="files of tests (default: all but those left out)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="build folder to use and to keep")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one for each CPU)")
    parser.add_argument("--thorough", action="store_true", help="see small Python objects too, at twice the time")
    parser.add_argument(
        "--shell", action="store_true", help="only build (give --keep), and print the environment as shell commands"
    )
    return parser.parse_args()


def check(args: argparse.Namespace, folder: Path, scratch: Path) -> int:
    """Build, test the sanitizers, run the files; returns the number of failures."""
    began = time.monotonic()
    package = build(folder, args.jobs)
    env = environment(package, scratch, thorough=args.thorough)
    if args.shell:
        print("\n".join(f"export {key}='{value}'" for key, value in env.items() if os.environ.get(key) != value))
        return 0
    print(f"built in {time.monotonic() - began:.0f} s", flush=True)
    wrong = [*instrumented(package), *asleep(env, scratch)]
    for text in wrong:
        print(text)
    if wrong:
        return len(wrong)
    print("seeded over-read, overflow and misaligned load: each is reported", flush=True)
    files = args.files or [path for path in sorted((TREE / "tests").rglob("test_*.py")) if path.name not in LEFT_OUT]
    failed = 0
    with ThreadPoolExecutor(args.jobs) as pool:
        for name, seconds, why in pool.map(lambda path: run_file(path.resolve(), env, scratch), files):
            failed += bool(why)
            print(f"{name:32} {seconds:5.0f} s  {why or 'clean'}", flush=True)
    print(f"{len(files)} files in {time.monotonic() - began:.0f} s, {failed} with a report or a failure")
    return failed


def main() -> int:
    """Run the command."""
    args = _arguments()
    missing = [tool for tool in ("gcc", "meson", "ninja", "cython") if shutil.which(tool) is None]
    if missing:
        print(f"python -m tests.sanitize: {', '.join(missing)} not found; install what is missing", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="ptebatch-sanitize-") as scratch:
        return int(check(args, (args.keep or Path(scratch) / "build").resolve(), Path(scratch)) > 0)


if __name__ == "__main__":
    sys.exit(main())
