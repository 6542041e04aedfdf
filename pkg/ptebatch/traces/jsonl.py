"""The event trace of a run as JSON lines: one line for each event, in program order.

A file holds the traces of one or more calls, one after the other. Its grammar, where
each line ends with a newline and is one JSON object in the order of keys shown (a
reader takes any JSON spelling of the same object)::

    file    = { trace } ;
    trace   = header , { event } , footer ;
    header  = '{"ptebatch": "events", "version": 1, "machine": ' , string ,
              ', "strategy": ' , string , ', "start": ' , hex ,
              ', "length": ' , integer , ', "prot": ' , ( integer | "null" ) , "}" ;
    event   = '{"event": ' , access , ', "addr": ' , hex , ', "value": ' , hex , "}"
            | '{"event": ' , note , ', "addr": ' , hex , ', "value": ' , integer , "}" ;
    footer  = '{"events": ' , integer , "}" ;
    access  = '"R"' | '"W"' | '"X"' | '"C"' ;
    note    = '"VALE1IS"' | '"RVALE1IS"' | '"ASIDE1IS"' | '"DSB ISHST"' | '"DSB ISH"'
            | '"PAE"' | '"BATCH"' | '"START"' | '"COMMIT"' | '"FOLD"' | '"UNFOLD"'
            | '"GATHER"' | '"LOCK"' | '"UNLOCK"' ;
    hex     = '"0x' , hexdigit , { hexdigit } , '"' ;        (lower case, below 2^64)
    integer = JSON number without sign, fraction or exponent (below 2^64)

``machine`` is what ``Machine.parse`` reads; ``start`` and ``length`` are the range of the
call in bytes; ``prot`` is that of mprotect(2), null for change_protection(). The number
in the footer is that of the events between it and its header, so that a file that was
cut off is noticed. Kinds, and what address and value mean: ``ptebatch.events.KINDS``. The
value of an access is a PTE word, of a note a number of entries or pages; the address of
PAE is a page frame, that of a DSB or an ASID TLBI means nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, MachineError, PtebatchError, split_hint
from ..events import EVENT, KINDS
from ..machine import Machine

if TYPE_CHECKING:
    from ..mm.result import Result

__all__ = ["Trace", "read", "read_all", "to_dict", "write"]

_VERSION = 1
_DO = "write the file again with 'ptebatch events'"
_HEADER = ("ptebatch", "version", "machine", "strategy", "start", "length", "prot")
_NUMBER = {name: kind for kind, name in KINDS.items()}
#: kinds whose value is a PTE word
_WORDS = frozenset({"R", "W", "X", "C"})
#: events that are formatted or parsed at a time, and characters that a line may have
_CHUNK, _LINE = 1 << 16, 1 << 16

Path = str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class Trace:
    """The trace of one call.

    Parameters
    ----------
    machine : Machine
    strategy : str
    start, length : int
        Range of the call in bytes.
    prot : int or None
        PROT_* bits of mprotect(); None: the call was change_protection().
    events : numpy.ndarray
        Structured, ``(kind u1, addr u8, value u8)``.
    """

    machine: Machine
    strategy: str
    start: int
    length: int
    prot: int | None
    events: NDArray[np.void]

    @classmethod
    def of(cls, result: Result | Trace) -> Trace:
        """Return the trace of a result.

        Raises
        ------
        PtebatchError
            The result has none.
        """
        if isinstance(result, Trace):
            return result
        if result.trace is None:
            raise PtebatchError(f"the result of strategy {result.strategy!r} has no trace; make the call with trace=True")
        return cls(result.machine, result.strategy, result.start, result.length, result.prot, result.trace)

    def header(self) -> dict[str, Any]:
        """What the first line says."""
        values = ("events", _VERSION, str(self.machine), self.strategy, hex(self.start), self.length, self.prot)
        return dict(zip(_HEADER, values, strict=True))

    def lines(self) -> Iterator[str]:
        """The lines of the file, some thousand at a time."""
        yield json.dumps(self.header()) + "\n"
        for first in range(0, len(self.events), _CHUNK):
            yield "".join(map(_line, self.events[first : first + _CHUNK].tolist()))
        yield f'{{"events": {len(self.events)}}}\n'


def _line(event: tuple[int, int, int]) -> str:
    kind, addr, value = event
    name = KINDS[kind]
    shown = f'"{value:#x}"' if name in _WORDS else value
    return f'{{"event": "{name}", "addr": "{addr:#x}", "value": {shown}}}\n'


def to_dict(result: Result | Trace) -> dict[str, Any]:
    """Return one trace as a single document: the header, and the events as a list ``events``.

    Parameters
    ----------
    result : Result or Trace

    Returns
    -------
    dict
    """
    trace = Trace.of(result)
    lines = (json.loads(_line(event)) for event in trace.events.tolist())
    return {name: value for name, value in trace.header().items() if name != "ptebatch"} | {"events": list(lines)}


def write(result: Result | Trace, file: Path | IO[str]) -> None:
    """Write the trace of a call.

    Parameters
    ----------
    result : Result or Trace
        Made with ``trace=True``, or read from a file.
    file : path or text file
        A path is replaced; to a file that is open the lines are added, chunk by chunk.

    Raises
    ------
    PtebatchError
        The result has no trace.
    OSError
        The file cannot be written.

    Examples
    --------
    >>> import io
    >>> import ptebatch
    >>> mm = ptebatch.MM("7.3,cont_ptes=4,ptrs_per_pte=8", nr_pages=64)
    >>> mm.mmap(0, 4096, 3)
    >>> mm.map_folios(0, 1)
    1024
    >>> out = io.StringIO()
    >>> write(mm.mprotect(0, 4096, 1, trace=True), out)
    >>> print(out.getvalue().splitlines()[2])
    {"event": "R", "addr": "0x0", "value": "0xe8000000400f43"}
    >>> read(io.StringIO(out.getvalue())).strategy
    'folio'
    """
    trace = Trace.of(result)
    if isinstance(file, (str, os.PathLike)):
        with open(file, "w", encoding="utf-8", newline="\n") as out:
            out.writelines(trace.lines())
    else:
        file.writelines(trace.lines())


def read(file: Path | IO[str]) -> Trace:
    """Read the only trace of a file.

    Parameters
    ----------
    file : path or text file

    Returns
    -------
    Trace
        What was written, event for event.

    Raises
    ------
    InputError
        Not such a file; names the line, what stands there and what was expected.
    OSError
        The file cannot be read.
    """
    with _opened(file) as lines:
        trace = lines.trace()
        if lines.next():
            raise lines.error("stands after the footer; a file of several traces is read with read_all()")
        return trace


def read_all(file: Path | IO[str]) -> Iterator[Trace]:
    """Read all traces of a file, one after the other.

    Parameters
    ----------
    file : path or text file

    Yields
    ------
    Trace

    Raises
    ------
    InputError, OSError
        As `read`; an empty file has no trace and is no error.
    """
    with _opened(file) as lines:
        while lines.next():
            lines.back()
            yield lines.trace()


@contextmanager
def _opened(file: Path | IO[str]) -> Iterator[_Lines]:
    if isinstance(file, (str, os.PathLike)):
        with open(file, encoding="utf-8", newline="\n") as opened:
            yield _Lines(opened, os.fspath(file))
    else:
        yield _Lines(file, str(getattr(file, "name", "<events>")))


class _Lines:
    """Lines of a file, and where we are."""

    def __init__(self, file: IO[str], name: str) -> None:
        self.file, self.name, self.number, self.line, self.again = file, name, 0, "", False

    def error(self, message: str) -> InputError:
        return InputError(self.name, f"line {self.number}", message if split_hint(message)[1] else f"{message}; {_DO}")

    def next(self) -> bool:
        """Go to the next line; False at the end."""
        if not self.again:
            self.number += 1
            try:
                self.line = self.file.readline(_LINE + 1)
            except UnicodeDecodeError as e:
                raise self.error(f"is not UTF-8 text ({e.reason} at byte {e.start}); a line is one JSON object") from None
            if len(self.line) > _LINE:
                raise self.error(f"has more than {_LINE} characters; a line is one JSON object")
        self.again = False
        return bool(self.line)

    def back(self) -> None:
        """Let `next` stay once."""
        self.again = True

    def next_object(self, expected: str) -> dict[str, Any]:
        """The JSON object of the next line."""
        if not self.next():
            raise self.error(f"is missing: the file ends here; expected {expected}")
        try:
            found = json.loads(self.line, object_pairs_hook=_pairs)
        except (ValueError, RecursionError) as e:
            raise self.error(f"is not one JSON object ({e}); expected {expected}") from None
        if not isinstance(found, dict):
            raise self.error(f"is {_short(found)}; expected {expected}")
        return found

    def trace(self) -> Trace:
        """One trace."""
        machine, strategy, start, length, prot = self.header()
        chunks, rows = [], []
        expected = 'an event {"event": KIND, "addr": ADDRESS, "value": VALUE}, or the footer {"events": NUMBER}'
        while "event" in (found := self.next_object(expected)):
            rows.append(self.event(found))
            if len(rows) == _CHUNK:
                chunks.append(np.array(rows, EVENT))
                rows.clear()
        chunks.append(np.array(rows, EVENT))
        events = np.concatenate(chunks)
        self.keys(found, ("events",), expected)
        if self.number_of("events", found["events"]) != len(events):
            raise self.error(f"says that the trace has {found['events']} events, but it has {len(events)}; lines are missing")
        return Trace(machine, strategy, start, length, prot, events)

    def header(self) -> tuple[Machine, str, int, int, int | None]:
        """The first line of a trace."""
        expected = 'a header {"ptebatch": "events", "version": 1, "machine": ...}'
        found = self.next_object(expected)
        if found.get("ptebatch") != "events":
            raise self.error(f"is {_short(found)}; expected {expected}")
        if found.get("version") != _VERSION or isinstance(found["version"], bool):
            raise self.error(f"has version {_short(found.get('version'))}; this ptebatch reads version {_VERSION}")
        self.keys(found, _HEADER, expected)
        for name in ("machine", "strategy"):
            if not isinstance(found[name], str):
                raise self.error(f"has {name} {_short(found[name])}; expected a string")
        try:
            machine = Machine.parse(found["machine"])
        except MachineError as e:
            raise self.error(f"names no machine: {e}") from None
        prot = None if found["prot"] is None else self.number_of("prot", found["prot"])
        return machine, found["strategy"], self.hex_of("start", found["start"]), self.number_of("length", found["length"]), prot

    def event(self, found: dict[str, Any]) -> tuple[int, int, int]:
        """One event: kind, address, value."""
        name = found["event"]
        if not isinstance(name, str) or name not in _NUMBER:
            raise self.error(f"has event {_short(name)}; expected one of {', '.join(_NUMBER)}")
        self.keys(found, ("event", "addr", "value"), "an event")
        value = self.hex_of("value", found["value"]) if name in _WORDS else self.number_of("value", found["value"])
        return _NUMBER[name], self.hex_of("addr", found["addr"]), value

    def keys(self, found: dict[str, Any], wanted: tuple[str, ...], expected: str) -> None:
        if set(found) != set(wanted):
            raise self.error(f"has the keys {', '.join(map(_short, found))}; expected {', '.join(wanted)}: {expected}")

    def hex_of(self, name: str, value: object) -> int:
        if isinstance(value, str) and value[:2] == "0x" and 0 < len(value) - 2 <= 16:
            digits = value[2:]
            if not digits.strip("0123456789abcdef"):
                return int(digits, 16)
        raise self.error(f'has {name} {_short(value)}; expected a text of lower case hex digits such as "0x400f43", below 2^64')

    def number_of(self, name: str, value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64:
            return value
        raise self.error(f"has {name} {_short(value)}; expected a whole number from 0 to 2^64 - 1")


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _short(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # a number too long to print
        return "a number of thousands of digits"
    return text if len(text) <= 60 else text[:60] + "..."
