"""Small worlds for the compiled checker: a few of every product that it tries in full.

They come from ``ptebatch.checker.worlds.products`` and ``ptebatch.checker.worlds.random``, which no
fault is in. They are drawn once and kept beside the build, for drawing takes longer
than judging them under all designs on all machines.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptebatch.checker.check import Checker
from ptebatch.checker.laws.rows import LAWS
from ptebatch.checker.worlds.products import chunks
from ptebatch.checker.worlds.random import random_chunks
from ptebatch.checker.worlds.small import small_machine
from ptebatch.machine import Machine
from ptebatch.strategies import STRATEGIES

from .catalogue import TREE

#: machines, and how many worlds of each product are tried on them
MACHINES = {
    "7.3": 5, "6.12": 2, "6.16": 2, "6.17,tlb_range=off": 2, "7.3,bbml=3": 2, "7.3,device_private=on": 1,
    "7.3,kpti=on,repeat_tlbi=on": 1,
}  # fmt: skip
#: batches of random worlds of a larger table, on each
RANDOM = 2
#: on the first machine all sound designs are tried, on the others these
FEW = ("folio", "per-pte")
SOUND = ("folio", *(name for name, row in STRATEGIES.items() if not row.flawed and name != "folio"))
FILE = TREE / "worlds"

Worlds = tuple[NDArray[Any], ...]


def drawn(kernel: str) -> Iterator[tuple[str, int, Worlds]]:
    """Machine, hardware updates in one run, and worlds as arguments of ``Checker.each``."""
    machine = small_machine(Machine.parse(kernel))
    found: dict[int, list[Worlds]] = {}
    for chunk in chunks(machine):
        which = chunk.picked(chunk.size, 0, min(MACHINES[kernel], chunk.nr))
        found.setdefault(chunk.updates, []).append(chunk.rows(which))
    for updates in sorted(found):
        yield str(machine), updates, tuple(np.concatenate(some) for some in zip(*found[updates], strict=True))
    machine = small_machine(Machine.parse(kernel), 4, 16)
    for chunk in itertools.islice(random_chunks(machine, 1), RANDOM):
        yield str(machine), chunk.updates, (chunk.words, chunk.pages, chunk.calls, chunk.ad, chunk.folds)


def worlds(kernel: str, folder: Path = FILE) -> list[tuple[str, int, Worlds]]:
    """The worlds of one machine, from a file that is written if it is not there yet."""
    file = folder / f"{kernel}.npz"
    if not file.exists():
        folder.mkdir(exist_ok=True)
        own = folder / f"{os.getpid()}.npz"
        rows = {f"{i}|{machine}|{updates}|{j}": array
                for i, (machine, updates, arrays) in enumerate(drawn(kernel)) for j, array in enumerate(arrays)}  # fmt: skip
        np.savez(own, **rows)  # type: ignore[arg-type]
        own.replace(file)
    out: list[tuple[str, int, Worlds]] = []
    with np.load(file) as kept:
        for name in kept.files:
            _, machine, updates, part = name.split("|")
            if part == "0":
                out.append((machine, int(updates), ()))
            out[-1] = (machine, int(updates), (*out[-1][2], kept[name]))
    return out


def broken(name: str, some: list[tuple[str, int, Worlds]], tlb: bool) -> int:
    """Number of the first law that a design breaks in these worlds, 0: none."""
    for machine, updates, arrays in some:
        law = Checker(Machine.parse(machine), name).each(*arrays, tlb=tlb, hardware=updates if tlb else 0)[1]
        if law:
            return int(law)
    return 0


def first_broken() -> str | None:
    """The law, the design and the machine of the first violation in a sweep of the designs over the machines."""
    for kernel in MACHINES:
        some = worlds(kernel)
        # the verbs have other loops where no trace is kept
        for tlb, name in itertools.product((False, True), SOUND if kernel == "7.3" else FEW):
            law = broken(name, some, tlb)
            if law:
                return f"{LAWS[law].name} ({name}, {kernel})"
    return None
