"""Running detectors on one build, each in a process of its own."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .catalogue import Mutant
from .schemata import VARIABLE

#: seconds of CPU time that a detector may take: ten times what it takes on the core as it is
LIMITS = {
    "draw": 300, "checker": 40, "golden": 40, "killed": 40, "memo": 60, "window": 60, "mprotect": 60, "verbs": 60, "tests": 200,
    "formula": 60, "space": 60,
}  # fmt: skip
MEMORY = 16 << 30


@dataclass(frozen=True)
class Verdict:
    """What one fault came to: who caught it and by what, or nobody."""

    mutant: Mutant
    detector: str = ""
    found: str = ""

    @property
    def ok(self) -> bool:
        """Caught, or known to be out of reach; what is listed as such must not be caught either."""
        return bool(self.detector) != bool(self.mutant.survives)


class DetectorError(Exception):
    """A detector did not run, or ran on something else than the build."""


def _limit(seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def detect(detector: str, tree: Path, package: Path, number: int = 0, *, faulty: bool = False) -> str:
    """What a detector finds wrong with this build under fault `number`; empty: nothing.

    A build that is `faulty` may bring a detector down; one that is not must not.
    """
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "COV_"))}
    env |= {"PYTHONPATH": str(package), "PTEBATCH_ROOT": str(package), VARIABLE: str(number), "PYTHONDONTWRITEBYTECODE": "1"}
    limit = LIMITS[detector]
    done = subprocess.run([sys.executable, "-m", "tests.mutants.detect", detector], cwd=tree, env=env, capture_output=True,
                          text=True, check=False, preexec_fn=lambda: _limit(limit))  # fmt: skip
    if done.returncode == -signal.SIGXCPU or done.returncode == -signal.SIGKILL:
        return f"no end within {limit} s"
    if done.returncode < 0:
        return f"ended by {signal.Signals(-done.returncode).name}"
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["nothing was printed"])[-1]
        if faulty:
            return f"ended with {done.returncode}: {last[:120]}"
        raise DetectorError(f"{detector} ended with {done.returncode}: {last}") from None
    if not Path(answer["core"]).is_relative_to(package.resolve()):
        raise DetectorError(
            f"{detector} loaded {answer['core']}, not the build in {package}; uninstall the ptebatch that hides it"
        )
    return answer["found"] or ""


def judge(mutant: Mutant, tree: Path, package: Path, number: int) -> Verdict:
    """Run the detectors in the fault's order until one sees it."""
    for detector in mutant.detect:
        found = detect(detector, tree, package, number, faulty=True)
        if found:
            return Verdict(mutant, detector, found)
    return Verdict(mutant)
