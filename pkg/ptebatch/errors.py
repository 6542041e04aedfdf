"""Every error ptebatch raises on purpose.

A message says what is wrong, in one sentence that names the value and what was expected,
and behind the first semicolon what to do (docs/messages.md). Errors a system call would
return are ``OSError`` subclasses and carry the errno.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

__all__ = [
    "REASONS",
    "InputError",
    "LayoutError",
    "MachineError",
    "MprotectError",
    "NotationError",
    "PtebatchError",
    "StrategyError",
    "SyscallError",
    "closest",
    "split_hint",
]


class PtebatchError(ValueError):
    """Base of the errors about arguments and input."""

    @property
    def sentence(self) -> str:
        """What is wrong."""
        return split_hint(str(self))[0]

    @property
    def hint(self) -> str:
        """What to do."""
        return split_hint(str(self))[1]


class MachineError(PtebatchError):
    """A machine description that no kernel or geometry can have."""


class LayoutError(PtebatchError):
    """A mapping, folio or page that cannot be placed as asked."""


class StrategyError(PtebatchError):
    """An unknown strategy, or one that broke its contract while it ran."""


class NotationError(PtebatchError):
    """A strip that does not follow the notation's grammar."""


class InputError(PtebatchError):
    """A file that is unreadable, truncated or not what it should be.

    Parameters
    ----------
    path : str
        The file.
    place : str
        Where in it: a record, a key, a byte offset; may be empty.
    message : str
        What is wrong and what was expected.
    """

    def __init__(self, path: str, place: str, message: str) -> None:
        self.path = str(path)
        self.place = place
        self.message = message
        super().__init__(": ".join(part for part in (self.path, place, message) if part))


class SyscallError(OSError):
    """A system call failed; what it had changed before stays changed, as in the kernel.

    Parameters
    ----------
    errno : int
        The error number of the system call.
    reason : str
        Which check refused, and the value it refused.
    addr : int
        The address at which the call stopped.
    result : object
        The ``Result`` of the part that was done (spec 6.2: no rollback).
    """

    def __init__(self, errno: int, reason: str, addr: int = 0, result: Any = None) -> None:
        super().__init__(errno, f"{os.strerror(errno)}: {reason}")
        self.addr = addr
        self.reason = reason
        self.result = result


class MprotectError(SyscallError):
    """mprotect() failed; the parameters are those of `SyscallError`."""


#: why a system call refused: one sentence for each check, in the order of the core's WHY_ numbers (spec 6.1 to 6.4)
REASONS: Mapping[str, str] = MappingProxyType(
    {
        "OK": "no error",
        "GROWS_BOTH": "prot={prot:#x} has both PROT_GROWSDOWN and PROT_GROWSUP, expected at most one; drop one",
        "ALIGN": "start {addr:#x} is not a multiple of the page size; round it down",
        "OVERFLOW": "the range from {addr:#x} on wraps around the address space; give a shorter length",
        "PROT": "prot={prot:#x} has bits that this machine does not know; expected PROT_READ, PROT_WRITE, PROT_EXEC, PROT_SEM",
        "PKEY": "pkey={pkey} is not allocated; call pkey_alloc() or give -1",
        "NO_VMA": "no VMA lies in the range from {addr:#x} on; mmap() it first",
        "NOT_GROWSDOWN": "PROT_GROWSDOWN was given but the VMA at {addr:#x} does not grow down; drop the flag",
        "NOT_GROWSUP": "PROT_GROWSUP was given but the VMA at {addr:#x} does not grow up, none does on arm64; drop the flag",
        "HOLE": "there is a hole at {addr:#x}; what lies before it has been changed, if anything does",
        "MAY": "the VMA at {addr:#x} may never have the access that prot={prot:#x} asks for; map it with that right",
        "MDWE": "the process is under MDWE and prot={prot:#x} would give the VMA at {addr:#x} execute rights; "
        "map it executable at once",
        "ARCH": "the VMA at {addr:#x} does not allow the architecture flags of prot={prot:#x}; map it with them allowed",
        "SEALED": "the VMA at {addr:#x} is sealed; it cannot be changed any more",
        "DATA_LIMIT": "making {addr:#x} writable exceeds the limit of data pages; raise it with set_limits(data_pages=...)",
        "COMMIT": "making {addr:#x} writable exceeds the commit limit; raise it with set_limits(commit_pages=...)",
        "MAP_COUNT": "the VMA at {addr:#x} must be split but the map count limit is reached; "
        "raise it with set_limits(map_count=...)",
    }
)


def split_hint(message: str) -> tuple[str, str]:
    """Return what is wrong and what to do: the parts before and behind the first semicolon outside of quotes.

    Examples
    --------
    >>> split_hint("size 'a; b' is not a number of bytes; write for example 64K")
    ("size 'a; b' is not a number of bytes", 'write for example 64K')
    """
    quote, escaped = "", False
    for i, c in enumerate(message):
        if escaped or c == "\\":
            escaped = not escaped
        elif quote:
            quote = "" if c == quote else quote
        elif c == '"' or (c == "'" and not message[i - 1 : i].isalnum()):
            quote = c
        elif c == ";" and message[i + 1 : i + 2] == " ":
            return message[:i], message[i + 2 :]
    # a quote that never ends was no quote
    sentence, _, hint = message.rpartition("; ")
    return (sentence, hint) if sentence else (message, "")


def closest(name: str, known: list[str]) -> str:
    """Return the known names and the likeliest intended one, for an error message.

    Parameters
    ----------
    name : str
        What was given.
    known : list of str
        What would have been accepted.

    Returns
    -------
    str
        A clause such as ``known: a, b; did you mean 'a'?``.
    """
    import difflib

    match = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {match[0]!r}?" if match else ""
    return f"known: {', '.join(known)}{hint}"
