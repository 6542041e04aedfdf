"""A `Result` for people: text for terminals, HTML for notebooks, and how numbers are written.

Counts have thousands separators, sizes are exact (64K, 2M, 1536K), addresses hex.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from html import escape
from typing import Protocol

from .counters import COUNTERS
from .errors import LayoutError
from .machine import Machine
from .operations import protection_text

__all__ = [
    "Counted",
    "between_text",
    "count_text",
    "parse_size",
    "result_html",
    "result_text",
    "runs_text",
    "size_text",
    "wrapped",
]


class Counted(Protocol):
    """What a call counted, as these functions look at it: a `Result`, or anything with its attributes."""

    @property
    def counters(self) -> dict[str, int]:
        """Every counter by name."""

    @property
    def batches(self) -> list[list[int]]:
        """Batches in order, as runs."""

    @property
    def subs(self) -> list[list[int]]:
        """Commits in order, as runs."""

    @property
    def flushes(self) -> list[tuple[int, int]]:
        """TLBIs of conversions: address, pages."""

    @property
    def gathers(self) -> list[tuple[int, int]]:
        """Final flushes: start, end."""

    @property
    def not_modelled(self) -> tuple[str, ...]:
        """What the kernel does besides and the model does not."""

    @property
    def machine(self) -> Machine:
        """The machine of the call."""

    @property
    def strategy(self) -> str:
        """Its strategy."""

    @property
    def start(self) -> int:
        """Its range in bytes, with `length`."""

    @property
    def length(self) -> int:
        """See `start`."""

    @property
    def prot(self) -> int | None:
        """PROT_* bits, None: not given."""

    @property
    def pages(self) -> int:
        """Entries dealt with."""


_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}

#: runs of a list that are written out before the rest is only counted
SHOWN_RUNS = 8


def count_text(n: int) -> str:
    """Return a number with thousands separators: ``132,384``."""
    return f"{n:,}"


def size_text(size: int) -> str:
    """Return bytes in the largest unit that is exact: ``64K``, ``2M``, ``1536K``, ``100``.

    Examples
    --------
    >>> size_text(2 << 20), size_text(3 << 19), size_text(0)
    ('2M', '1536K', '0')
    """
    for shift, unit in ((40, "T"), (30, "G"), (20, "M"), (10, "K")):
        if size and size % (1 << shift) == 0:
            return f"{size >> shift}{unit}"
    return str(size)


def between_text(a: int, b: int) -> str:
    """Return a count, or the two it lies between: ``19..47``."""
    return count_text(a) if a == b else f"{count_text(min(a, b))}..{count_text(max(a, b))}"


def wrapped(text: str, width: int, *, lead: str = "", indent: int = 2) -> list[str]:
    """Return text as lines of at most `width` characters, words and paths whole.

    Parameters
    ----------
    text : str
    width : int
    lead : str
        Stands before the first line.
    indent : int
        Blanks before all others.
    """
    return textwrap.wrap(
        text, width, initial_indent=lead, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    ) or [lead.rstrip()]


def parse_size(text: str) -> int:
    """Return the bytes of ``4K``, ``64M``, ``1G``, ``1T`` or a plain number.

    Raises
    ------
    LayoutError
        Anything else, and 0.
    """
    m = re.fullmatch("([0-9]{1,15})([KMGT]?)", text.strip(), re.IGNORECASE)
    size = int(m[1]) << _UNITS[m[2].upper()] if m else 0
    if not size and re.fullmatch("[0-9]{1,15}[KMGT]i?B", text.strip(), re.IGNORECASE):
        raise LayoutError(f"size {text!r} is not a number of bytes; write {re.sub('[iI]?[bB]$', '', text.strip())!r}: K is 1024")
    if not size:
        raise LayoutError(f"size {text!r} is not a number of bytes; write for example 64K, 2M or 1G")
    return size


def runs_text(runs: Sequence[Sequence[int]], shown: int = SHOWN_RUNS) -> str:
    """Return a run-length list of batch lengths: ``1, 31 x 16, 15``.

    Parameters
    ----------
    runs : list of (count, value)
        As in ``Result.batches``.
    shown : int
        Runs that are written out.
    """
    if not runs:
        return "none"
    parts = [count_text(value) if count == 1 else f"{count_text(count)} x {count_text(value)}" for count, value in runs[:shown]]
    left = sum(count for count, _ in runs[shown:])
    return ", ".join(parts) + (f", and {count_text(left)} more" if left else "")


def _groups(result: Counted) -> Iterable[tuple[str, list[tuple[str, int]]]]:
    """Counters that are not 0, by group, both in the order of `COUNTERS`."""
    groups: dict[str, list[tuple[str, int]]] = {}
    for name, n in result.counters.items():
        if n:
            groups.setdefault(COUNTERS[name].group, []).append((name, n))
    order = dict.fromkeys(c.group for c in COUNTERS.values())
    return ((group, groups[group]) for group in order if group in groups)


def _title(result: Counted) -> str:
    end = result.start + result.length
    return (f"{result.strategy} on {result.machine}: [{result.start:#x}, {end:#x}), {size_text(result.length)}, "
            f"to {protection_text(result.prot)}: {count_text(result.pages)} page{'s' * (result.pages != 1)}")  # fmt: skip


def _ranges(result: Counted) -> list[tuple[str, str]]:
    """Batches and flushes, each in a line."""
    page = result.machine.page_size
    lines = [("batches", runs_text(result.batches)), ("commits", runs_text(result.subs))]
    flushed = [f"{addr:#x} {size_text(pages * page)}" for addr, pages in result.flushes[:SHOWN_RUNS]]
    more = len(result.flushes) - len(flushed)
    lines.append(("flushes of conversions", (", ".join(flushed) or "none") + (f", and {count_text(more)} more" if more else "")))
    final = [f"{start:#x} {size_text(end - start)}" for start, end in result.gathers[:SHOWN_RUNS]]
    more = len(result.gathers) - len(final)
    lines.append(("final flushes", (", ".join(final) or "none") + (f", and {count_text(more)} more" if more else "")))
    return lines


def result_text(result: Counted) -> str:
    """Return a result as text: what was called, counters that are not 0, batches, flushes.

    Parameters
    ----------
    result : Result

    Returns
    -------
    str
        Lines without one at the end; numbers right aligned.
    """
    rows = list(_groups(result))
    width = max((len(count_text(n)) for _, row in rows for _, n in row), default=1)
    lines = [_title(result), "counted (exact); counters that are 0 are left out"]
    for group, row in rows:
        lines.append(group)
        lines += [f"  {name:<22}  {count_text(n):>{width}}" for name, n in row]
    lines += [f"{name:<22}  {text}" for name, text in _ranges(result)]
    lines += [f"not modelled: {text}" for text in result.not_modelled]
    return "\n".join(lines)


def result_html(result: Counted) -> str:
    """Return a result as a small HTML fragment without scripts, styles from elsewhere or images.

    Parameters
    ----------
    result : Result

    Returns
    -------
    str
    """
    head = '<table><caption style="text-align:left">{}</caption>'
    rows = [head.format(escape(_title(result)) + "; counted (exact), zeros left out")]
    for group, row in _groups(result):
        for i, (name, n) in enumerate(row):
            first = f'<th rowspan="{len(row)}" style="text-align:left">{escape(group)}</th>' if i == 0 else ""
            cell = f'<td style="text-align:left" title="{escape(COUNTERS[name].meaning)}">{escape(name)}</td>'
            rows.append(f'<tr>{first}{cell}<td style="text-align:right">{count_text(n)}</td></tr>')
    for text in result.not_modelled:
        rows.append(f'<tr><td colspan="3" style="text-align:left">not modelled: {escape(text)}</td></tr>')
    rows.append("</table>")
    items = "".join(f"<li>{escape(name)}: {escape(text)}</li>" for name, text in _ranges(result))
    return "\n".join(rows) + f"\n<details><summary>batches and flushes</summary><ul>{items}</ul></details>"
