"""Fuzz every parser and the API.

python -m tests.fuzz                        each target for ten seconds
python -m tests.fuzz --seconds 600 --target notation
python -m tests.fuzz --target notation --input FILE     one input once more

Says for each target what made the bytes. Exit status 1: a finding, whose input is
written to a file; 2: the command is wrong.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

if sys.argv[1:3] == ["--engine", "atheris"]:
    import atheris

    with atheris.instrument_imports(include=["ptebatch"]):  # only what is imported here reports its coverage
        from .targets import TARGETS
else:
    from .targets import TARGETS

from .engine import Finding, by_atheris, by_hypothesis, feed


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10, help="for each target (default: 10)")
    parser.add_argument("--target", choices=list(TARGETS), help="only this one")
    parser.add_argument("--seed", type=int, default=0, help="the same seed makes the same inputs with Hypothesis (default: 0)")
    parser.add_argument("--input", type=Path, help="feed this file to --target and end")
    parser.add_argument(
        "--engine",
        choices=["atheris", "hypothesis"],
        help="default: atheris if it is installed, and then each target in a process",
    )
    return parser.parse_args()


def _one(name: str, seconds: float, seed: int) -> bool:
    """One target by Hypothesis; False: a finding."""
    began = time.monotonic()
    try:
        fed = by_hypothesis(name, TARGETS[name], seconds, seed)
    except Finding as finding:
        path = Path(f"fuzz-{name}-{hashlib.sha256(finding.data).hexdigest()[:8]}")
        path.write_bytes(finding.data)
        print(f"{finding}\n  again: python -m tests.fuzz --target {name} --input {path}", flush=True)
        return False
    print(f"{name:10} {fed:>8,} inputs in {time.monotonic() - began:5.1f} s", flush=True)
    return True


def main() -> int:
    """Run the command."""
    faulthandler.enable()
    args = _arguments()
    if args.input is not None:
        if args.target is None:
            print("python -m tests.fuzz: --input is for one target; give --target", file=sys.stderr)
            return 2
        feed(args.target, TARGETS[args.target], args.input.read_bytes())
        return 0
    names = [args.target] if args.target else list(TARGETS)
    if args.engine == "atheris":
        by_atheris(args.target, TARGETS[args.target], args.seconds, args.seed)
    with_atheris = args.engine is None and importlib.util.find_spec("atheris") is not None
    engine = "atheris" if with_atheris else "Hypothesis"
    print(f"bytes are made by {engine}, {args.seconds:g} s for each of {len(names)} targets, seed {args.seed}", flush=True)
    if not with_atheris:
        return int(sum(not _one(name, args.seconds, args.seed) for name in names) > 0)
    # libFuzzer ends its process: one for each target
    again = [sys.executable, "-m", "tests.fuzz", "--engine", "atheris", "--seconds", str(args.seconds), "--seed", str(args.seed)]
    failed = [name for name in names if subprocess.run([*again, "--target", name], check=False, env=os.environ).returncode]
    print(f"findings in {', '.join(failed)}" if failed else "no findings")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
