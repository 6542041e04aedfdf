"""Every error ptebatch raises on purpose.

A message is one sentence: the value, what was expected, what to do. Errors a
system call would return are ``OSError`` subclasses and carry the errno.
"""

from __future__ import annotations

import os
from typing import Any

__all__ = [
    "InputError",
    "LayoutError",
    "MachineError",
    "MprotectError",
    "NotationError",
    "PtebatchError",
    "StrategyError",
    "closest",
]


class PtebatchError(ValueError):
    """Base of the errors about arguments and input."""


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


class MprotectError(OSError):
    """mprotect() failed; what it had changed before stays changed, as in the kernel.

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
