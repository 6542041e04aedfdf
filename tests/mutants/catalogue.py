"""The list of faults, and their place in the source."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
TREE = HERE.parents[1]
CORE = Path("pyx/ptebatch")

#: detectors of a fault, in order, unless its file names others
USUAL = ("checker", "golden", "killed", "mprotect", "verbs", "tests")

SIGNATURE = re.compile(
    r"^cdef (?!class )(?P<inline>inline )?(?P<type>[\w *]*?[ *])(?P<name>\w+)\((?P<args>.*)\)(?P<tail>[^()]*):$"
)


class CatalogueError(Exception):
    """A fault that cannot be applied: its text is gone, or stands in several places."""


@dataclass(frozen=True)
class Mutant:
    """One fault: `old` becomes `new` in one file of the core."""

    number: int
    name: str
    file: str
    what: str
    old: str
    new: str
    detect: tuple[str, ...]
    survives: str  # why nothing can catch it; empty: something must

    def apply(self, text: str) -> str:
        """The text of its file with the fault in it."""
        found = text.count(self.old)
        if found != 1 or not self.old:
            raise CatalogueError(
                f"{self.name}: its text stands {found} times in {self.file}, expected once; adapt it to the source"
            )
        if self.old == self.new:
            raise CatalogueError(f"{self.name}: old and new text are the same")
        return text.replace(self.old, self.new)


def load(files: list[Path] | None = None) -> list[Mutant]:
    """All faults of the catalogue, or of other files, in order."""
    out: list[Mutant] = []
    for path in sorted(HERE.glob("*.toml")) if files is None else files:
        data = tomllib.loads(path.read_text())
        for row in data["mutant"]:
            detect = tuple(row.get("detect", data.get("detect", USUAL)))
            out.append(
                Mutant(len(out) + 1, row["name"], row.get("file", data.get("file", "")), row["what"],
                       row["old"], row["new"], detect, row.get("survives", ""))
            )  # fmt: skip
    names = [m.name for m in out]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CatalogueError(f"{', '.join(twice)}: two faults of one name")
    return out


def misfits(mutants: list[Mutant], tree: Path = TREE) -> dict[str, str]:
    """Faults whose text does not stand exactly once in their file, and why, by name."""
    wrong = {}
    for mutant in mutants:
        try:
            mutant.apply((tree / CORE / mutant.file).read_text())
        except (CatalogueError, OSError) as error:
            wrong[mutant.name] = str(error)
    return wrong


@dataclass(frozen=True)
class Block:
    """A top-level piece of a source file: a function with its signature, or the text between two."""

    text: str
    name: str = ""


def _signature(lines: list[str], i: int) -> tuple[str, int]:
    """The signature that begins in line i, on one line, and the line behind it; empty if none does."""
    if not lines[i].startswith("cdef ") or "(" not in lines[i]:
        return "", i
    line, end = lines[i].rstrip("\n"), i + 1
    while not line.endswith(":") and end < len(lines) and lines[end][:1].isspace() and lines[end].strip():
        line = re.sub(r"\( ", "(", f"{line} {lines[end].strip()}")
        end += 1
    return (line + "\n", end) if SIGNATURE.match(line) else ("", i)


def blocks(text: str) -> list[Block]:
    """The file in pieces; a function ends before the next line that is not indented."""
    out: list[Block] = []
    lines = text.splitlines(keepends=True)
    i = start = 0
    while i < len(lines):
        head, end = _signature(lines, i)
        if not head:
            i += 1
            continue
        out.append(Block("".join(lines[start:i])))
        body = end
        while end < len(lines) and (lines[end][0] in " \t" or not lines[end].strip()):
            end += 1
        while not lines[end - 1].strip():
            end -= 1
        found = SIGNATURE.match(head.rstrip("\n"))
        assert found is not None
        out.append(Block(head + "".join(lines[body:end]), found["name"]))
        i = start = end
    out.append(Block("".join(lines[start:])))
    return out
