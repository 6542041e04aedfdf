"""Tables, JSON and progress of the command line."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..report import wrapped

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Column", "filled", "printable", "progress", "put", "put_csv", "put_json", "table", "width"]


class Column:
    """A column of a table: its head, and how its cells stand.

    Parameters
    ----------
    head : str
        May have several lines.
    number : bool
        Right aligned.
    wraps : bool
        May be broken into lines where the terminal is too narrow.
    least : int
        Characters to which a column that wraps may be squeezed before the table grows wider than the terminal.
    """

    def __init__(self, head: str, *, number: bool = False, wraps: bool = False, least: int = 22) -> None:
        self.head, self.number, self.wraps, self.least = head, number, wraps, least


def put(text: str) -> None:
    """Write lines to standard output; what its encoding lacks is written as an escape."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.rstrip("\n").encode(encoding, "backslashreplace").decode(encoding) + "\n")


def width() -> int:
    """Columns of the terminal; of a pipe, what COLUMNS says, or 80."""
    return max(shutil.get_terminal_size().columns, 40)


def filled(text: str) -> str:
    """Return text broken at the terminal's width, what follows the first line indented."""
    return "\n".join(wrapped(text, width()))


def printable(name: str) -> str:
    """Return a name from outside without characters that would steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)


def put_json(document: dict[str, Any]) -> None:
    """Write one JSON document to standard output."""
    from .. import __version__

    put(json.dumps({"ptebatch": __version__, **document}, indent=2))


def put_csv(rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as comma-separated values, with a head."""
    out = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    put(out.getvalue())


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], *, title: str = "", dim: Sequence[int] = ()) -> str:
    """Return a table as text: numbers right, text left, two spaces between.

    Parameters
    ----------
    columns : sequence of Column
    rows : sequence of sequence of str
    title : str
        A line above; never broken.
    dim : sequence of int
        Rows that a colour terminal shows faintly; nothing else tells them.

    Returns
    -------
    str
        Never cut: a table too wide for the terminal is as wide as it must be.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    body = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold", show_edge=False)
    widths = _widths(columns, rows)
    for c, room in zip(columns, widths, strict=True):
        body.add_column(Text(c.head), justify="right" if c.number else "left", no_wrap=not c.wraps, width=room)
    for i, row in enumerate(rows):
        body.add_row(*(Text(cell) for cell in row), style="dim" if i in dim else None)
    out = io.StringIO()
    whole = sum(widths) + 2 * len(widths)
    console = Console(file=out, force_terminal=_styled(), width=whole, markup=False, emoji=False, highlight=False)
    console.print(body)
    text = "\n".join(line.rstrip() for line in out.getvalue().splitlines())
    return f"{_bold(title)}\n{text}" if title else text


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[int]:
    """Characters of each column: those that wrap give way, the one with the most to give first, until the table fits.

    They are fixed here: left to itself the table's maker squeezes a column below its least, and cuts another instead.
    """
    texts = [[c.head, *(row[i] for row in rows)] for i, c in enumerate(columns)]
    widths = [max((len(line) for text in column for line in text.splitlines()), default=1) for column in texts]
    longest = [max((len(word) for text in column for word in text.split()), default=1) for column in texts]
    gives = {
        i: widths[i] - max(min(widths[i], c.least), longest[i]) for i, c in enumerate(columns) if c.wraps
    }  # fmt: skip
    excess = sum(widths) + 2 * (len(widths) - 1) - width()
    for i in sorted(gives, key=lambda i: -gives[i]):
        given = min(max(excess, 0), gives[i])
        widths[i] -= given
        excess -= given
    return widths


def _styled() -> bool:
    """Return whether standard output takes bold and faint text; NO_COLOR and FORCE_COLOR decide first."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (sys.stdout.isatty() and os.environ.get("TERM") != "dumb")


def _bold(text: str) -> str:
    return f"\x1b[1m{text}\x1b[0m" if _styled() else text


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Give a function that shows what is being done, on stderr and only on a terminal."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return

    def show(text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()

    try:
        yield show
    finally:
        show("")
