"""Sequences of calls for the running kernel and the model, and what both are asked after each.

Numbers are pages of an arena that nothing else of the process touches.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..reference import madvise as m

__all__ = ["BASE", "FILLED", "LARGE", "MOVES", "SMALL", "Arena", "Op", "Outcome", "sequence"]

#: first address of every arena
BASE = 1 << 40


@dataclass(frozen=True, slots=True)
class Arena:
    """Where a sequence makes its calls.

    Attributes
    ----------
    pages, room : int
        Its pages, and those behind it that mappings may grow into.
    steps : tuple of int
        Lengths of ranges.
    unit : int
        Ranges begin at whole ones of so many pages, half of the time.
    look : int
        Every so many pages are read at the end.
    """

    pages: int
    room: int
    steps: tuple[int, ...]
    unit: int = 1
    look: int = 1

    @property
    def all(self) -> int:
        """Pages that are looked at."""
        return self.pages + self.room


SMALL = Arena(48, 16, (1, 1, 2, 3, 5, 8, 13, 21, 48))
#: three folios of a PMD's size on 4K pages, for hosts that have them
LARGE = Arena(1536, 512, (1, 1, 7, 64, 300, 512, 512, 700, 1024, 1536), unit=256, look=37)
#: what each page of the file begins with
FILLED = 77
#: calls that move a mapping to page `arg`
MOVES = ("mremap", "mremap_longer", "mremap_shorter", "dontunmap")
#: processes of a sequence
PROCESSES = 3

ADVICE: Mapping[str, int] = {
    "MADV_NORMAL": m.MADV_NORMAL,
    "MADV_RANDOM": m.MADV_RANDOM,
    "MADV_SEQUENTIAL": m.MADV_SEQUENTIAL,
    "MADV_DONTNEED": m.MADV_DONTNEED,
    "MADV_FREE": m.MADV_FREE,
    "MADV_DONTFORK": m.MADV_DONTFORK,
    "MADV_DOFORK": m.MADV_DOFORK,
    "MADV_HUGEPAGE": m.MADV_HUGEPAGE,
    "MADV_NOHUGEPAGE": m.MADV_NOHUGEPAGE,
    "MADV_DONTDUMP": m.MADV_DONTDUMP,
    "MADV_DODUMP": m.MADV_DODUMP,
    "MADV_DONTNEED_LOCKED": m.MADV_DONTNEED_LOCKED,
    "MADV_WIPEONFORK": m.MADV_WIPEONFORK,
    "MADV_KEEPONFORK": m.MADV_KEEPONFORK,
    "MADV_COLD": m.MADV_COLD,
    "MADV_POPULATE_READ": m.MADV_POPULATE_READ,
    "MADV_POPULATE_WRITE": m.MADV_POPULATE_WRITE,
    "MADV_GUARD_INSTALL": m.MADV_GUARD_INSTALL,
    "MADV_GUARD_REMOVE": m.MADV_GUARD_REMOVE,
}


@dataclass(frozen=True, slots=True)
class Op:
    """One call.

    Parameters
    ----------
    name : str
        A key of `NAMES`.
    who : int
        Process, counted among those that are alive.
    first, nr : int
        Pages.
    arg : int
        Protection, advice, page that a mapping moves to, its new length, or byte to write.
    shared : bool
        For mmap and mapfile: MAP_SHARED. A file is mapped from its page `first` on.
    """

    name: str
    who: int = 0
    first: int = 0
    nr: int = 0
    arg: int = 0
    shared: bool = False

    @property
    def new_nr(self) -> int:
        """Pages of what moves, where it moves to."""
        return {"mremap_longer": self.nr + 3, "mremap_shorter": self.nr // 2 + 1}.get(self.name, self.nr)

    def __str__(self) -> str:
        parts = [self.name, f"process {self.who}"]
        if self.name not in ("fork", "exit"):
            parts.append(f"pages {self.first}+{self.nr}")
        if self.name == "madvise":
            parts.append(next(name for name, value in ADVICE.items() if value == self.arg))
        elif self.name not in ("fork", "exit", "munmap", "read", "mlock", "munlock", "mseal"):
            parts.append(f"{self.arg}")
        return ", ".join(parts + ["shared"] * self.shared)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is seen of a process after a call.

    Attributes
    ----------
    ret : int
        0, or an errno, negative.
    access : tuple of int
        Of a read or write: signal, faults, and the byte that was read.
    vmas : tuple of (int, int, str)
        First page, pages, permissions as in /proc/PID/maps.
    pages : str
        A character a page: ``.`` nothing, ``0`` a zero page, ``g`` a guard, ``s`` swapped, ``f`` of a file
        or shared memory, ``a`` anonymous.
    """

    ret: int
    access: tuple[int, ...]
    vmas: tuple[tuple[int, int, str], ...]
    pages: str


Draw = Callable[[random.Random, int, Arena], Op]


def _range(chance: random.Random, arena: Arena) -> tuple[int, int]:
    first = chance.randrange(arena.pages)
    if chance.random() < 0.5:
        first -= first % arena.unit
    return first, min(arena.pages - first, chance.choice(arena.steps))


def _mmap(chance: random.Random, who: int, arena: Arena) -> Op:
    return Op("mmap", who, *_range(chance, arena), chance.choice((0, 1, 3, 3, 3)), chance.random() < 0.2)


def _mapfile(chance: random.Random, who: int, arena: Arena) -> Op:
    return Op("mapfile", who, *_range(chance, arena), chance.choice((1, 3, 3)), chance.random() < 0.4)


def _mremap(name: str) -> Draw:
    def make(chance: random.Random, who: int, arena: Arena) -> Op:
        first, nr = _range(chance, arena)
        to = chance.randrange(arena.all - nr)
        return Op(name, who, first, nr, to - to % arena.unit if chance.random() < 0.5 else to)

    return make


def _remapped(name: str) -> Draw:
    move = _mremap(name)

    def make(chance: random.Random, who: int, arena: Arena) -> Op:
        op = move(chance, who, arena)
        return replace(op, arg=max(0, min(op.arg, arena.all - op.new_nr)))

    return make


def _resize(chance: random.Random, who: int, arena: Arena) -> Op:
    first, nr = _range(chance, arena)
    return Op("resize", who, first, nr, chance.choice((1, nr // 2 + 1, nr + 1, nr + 5)))


def _ranged(name: str, *args: int) -> Draw:
    def make(chance: random.Random, who: int, arena: Arena) -> Op:
        return Op(name, who, *_range(chance, arena), chance.choice(args or (0,)))

    return make


def _touch(name: str) -> Draw:
    def make(chance: random.Random, who: int, arena: Arena) -> Op:
        return Op(name, who, chance.randrange(arena.pages), 1, chance.randrange(1, 256) if name == "write" else 0)

    return make


#: call -> how often, and how one is drawn
NAMES: Mapping[str, tuple[int, Draw]] = {
    "mmap": (6, _mmap),
    "munmap": (4, _ranged("munmap")),
    "mprotect": (12, _ranged("mprotect", 0, 1, 3, 3)),
    "madvise": (14, _ranged("madvise", *ADVICE.values())),
    "mapfile": (4, _mapfile),
    "mremap": (4, _mremap("mremap")),
    "mremap_longer": (1, _remapped("mremap_longer")),
    "mremap_shorter": (1, _remapped("mremap_shorter")),
    "dontunmap": (1, _mremap("dontunmap")),
    "resize": (3, _resize),
    "mlock": (1, _ranged("mlock")),
    "munlock": (1, _ranged("munlock")),
    "mseal": (1, _ranged("mseal")),
    "read": (10, _touch("read")),
    "write": (16, _touch("write")),
    "fork": (2, lambda chance, who, arena: Op("fork", who)),
    "exit": (1, lambda chance, who, arena: Op("exit", who)),
}


def sequence(seed: str, ops: int, without: Sequence[str] = (), arena: Arena = SMALL) -> list[Op]:
    """Draw a sequence; it begins with a mapping, and ends with a look at its pages.

    Parameters
    ----------
    seed : str
    ops : int
        Calls between them.
    without : sequence of str
        Calls that this kernel has not.
    arena : Arena
    """
    chance = random.Random(seed)
    names = [name for name in NAMES if name not in without]
    weights = [0 if name == "exit" else NAMES[name][0] for name in names]
    out = [Op("mmap", 0, 0, arena.pages, 3)]
    if arena.unit > 1:
        out.append(Op("madvise", 0, 0, arena.pages, m.MADV_HUGEPAGE))
    alive = 1
    for _ in range(ops):
        name = chance.choices(names, weights)[0]
        if alive > 1 and chance.random() < 0.03:
            name = "exit"
        if name == "fork" and alive == PROCESSES:
            name = "write"
        who = chance.randrange(1, alive) if name == "exit" else chance.randrange(alive)
        out.append(NAMES[name][1](chance, who, arena))
        alive += (name == "fork") - (name == "exit")
    return out + [Op("read", who, page, 1) for who in range(alive) for page in range(0, arena.pages, arena.look)]
