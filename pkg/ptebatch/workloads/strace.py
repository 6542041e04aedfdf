"""The text of ``strace -f -e trace=memory,process``, as people have it.

A line is a call with its arguments and what it returned, of a process or thread whose number
may stand before it; an unfinished one and what resumes it are one call. Times are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["Traced", "Unread", "calls_of"]


@dataclass(frozen=True, slots=True)
class Traced:
    """A call.

    Attributes
    ----------
    line : int
        Where it began, counted from 1.
    pid : int
        Process or thread; 0: the file has one and does not number it.
    name : str
    args : tuple of str
    ret : int or None
        None: ``?``, the call did not return.
    """

    line: int
    pid: int
    name: str
    args: tuple[str, ...]
    ret: int | None

    @property
    def failed(self) -> bool:
        """Whether it returned an error."""
        return self.ret is not None and -4096 < self.ret < 0


@dataclass(frozen=True, slots=True)
class Unread:
    """A line that is no call.

    Attributes
    ----------
    line : int
    why : str
    """

    line: int
    why: str


_PID = re.compile(r"(?:\[pid\s+(\d+)\]|(\d+))\s+")
# seconds, with -r, -t, -tt or -ttt
_TIME = re.compile(r"(?:\d\d:\d\d:\d\d(?:\.\d+)?|\d+\.\d+)\s+")
_CALL = re.compile(r"(\w+)\((.*)\)\s*=\s*(0x[0-9a-f]+|-?\d+|\?)(.*)", re.S)
_BEGUN = re.compile(r"(\w+)\((.*?)\s*<unfinished \.\.\.>$", re.S)
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>\s*(.*)", re.S)


def calls_of(lines: Iterable[str]) -> Iterator[Traced | Unread]:
    """Calls in the order in which they began to return, and lines that could not be read."""
    open_calls: dict[int, tuple[int, str, str]] = {}
    for number, raw in enumerate(lines, 1):
        text = raw.rstrip("\n")
        pid = 0
        m = _PID.match(text)
        if m:
            pid, text = int(m[1] or m[2]), text[m.end() :]
        text = _TIME.sub("", text, count=1) if _TIME.match(text) else text
        if not text.strip() or text.startswith(("+++", "---", "strace:")):
            # exits are calls too, signals change nothing here
            continue
        m = _BEGUN.match(text)
        if m:
            open_calls[pid] = (number, m[1], m[2])
            continue
        m = _RESUMED.match(text)
        begun = number
        if m:
            if pid not in open_calls or open_calls[pid][1] != m[1]:
                yield Unread(number, f"resumes {m[1]}, which was not begun")
                continue
            begun, name, head = open_calls.pop(pid)
            text = f"{name}({head}{m[2]}"
        m = _CALL.match(text)
        if m is None:
            yield Unread(number, "is no call of strace")
            continue
        yield Traced(begun, pid, m[1], tuple(_args(m[2])), _number(m[3], m[4]))
    for number, name, _ in open_calls.values():
        yield Unread(number, f"{name} did not end")


def _args(text: str) -> Iterator[str]:
    """Arguments: commas inside of brackets and strings part nothing."""
    depth, quoted, start, escaped = 0, False, 0, False
    for i, c in enumerate(text):
        if quoted:
            quoted = escaped or c != '"'
            escaped = c == "\\" and not escaped
        elif c == '"':
            quoted = True
        elif c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
        elif c == "," and not depth:
            yield text[start:i].strip()
            start = i + 1
    if text[start:].strip():
        yield text[start:].strip()


def _number(text: str, behind: str) -> int | None:
    if text == "?":
        return None
    value = int(text, 0)
    if value == -1:
        m = re.match(r"\s*(E[A-Z0-9]+)", behind)
        if m:
            import errno

            return -int(getattr(errno, m[1], 1))
    return value
