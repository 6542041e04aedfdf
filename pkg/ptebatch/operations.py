"""Operations on a range of an address space: each is one row, and the command line reads them.

An operation is a system call with its arguments but the range: so far mprotect(2), once for
each protection that people ask for. A row says which method of ``MM`` does it and what that
gets; the reference has a method of the same name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from . import bits as b
from .errors import LayoutError, closest

__all__ = ["OPERATIONS", "PROTECTIONS", "Operation", "parse_operations", "parse_protection", "protection_text"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    Parameters
    ----------
    name : str
        As ``--op`` takes it.
    call : str
        Method of ``MM`` that does it: ``method(start, length, *arguments, strategy=..., trace=..., record=...)``.
    arguments : tuple of int
        What the method gets behind start and length.
    summary : str
    """

    name: str
    call: str
    arguments: tuple[int, ...]
    summary: str

    def perform(self, mm: Any, start: int, length: int, **how: Any) -> Any:
        """Do it on a range of an address space, compiled or of the reference; keywords go to the method."""
        return getattr(mm, self.call)(start, length, *self.arguments, **how)

    @property
    def gives_write(self) -> bool:
        """Whether memory is writable after it."""
        return self.call == "mprotect" and bool(self.arguments[0] & b.PROT_WRITE)


_ROWS = (
    Operation("ro", "mprotect", (b.PROT_READ,), "mprotect(PROT_READ)"),
    Operation("rw", "mprotect", (b.PROT_READ | b.PROT_WRITE,), "mprotect(PROT_READ | PROT_WRITE)"),
    Operation("none", "mprotect", (b.PROT_NONE,), "mprotect(PROT_NONE)"),
    Operation("rx", "mprotect", (b.PROT_READ | b.PROT_EXEC,), "mprotect(PROT_READ | PROT_EXEC)"),
    Operation("rwx", "mprotect", (b.PROT_READ | b.PROT_WRITE | b.PROT_EXEC,), "mprotect(PROT_READ | PROT_WRITE | PROT_EXEC)"),
)

#: every operation by name
OPERATIONS: Mapping[str, Operation] = MappingProxyType({row.name: row for row in _ROWS})

#: protections of a mapping by name: what the operations that set one set
PROTECTIONS: Mapping[str, int] = MappingProxyType({row.name: row.arguments[0] for row in _ROWS if row.call == "mprotect"})


def parse_operations(ops: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of a sequence such as ``ro,rw``.

    Raises
    ------
    LayoutError
        An unknown name, or none.
    """
    names = tuple(part.strip().lower() for part in (ops.split(",") if isinstance(ops, str) else ops))
    for name in names:
        if name not in OPERATIONS:
            raise LayoutError(f"operation {name!r} is unknown; {closest(name, list(OPERATIONS))}")
    if not names:
        raise LayoutError("there is no operation; give at least one, for example ro,rw")
    return names


def parse_protection(name: str) -> int:
    """Return PROT_* bits by name; LayoutError for an unknown one."""
    if name.strip().lower() not in PROTECTIONS:
        raise LayoutError(f"protection {name!r} is unknown; {closest(name, list(PROTECTIONS))}")
    return PROTECTIONS[name.strip().lower()]


def protection_text(prot: int | None) -> str:
    """Return PROT_* bits as the command line writes them: ``ro``, ``rw``, ``none``, ``rx``, ``rwx``, else in hex."""
    if prot is None:
        return "as given"
    return next((name for name, value in PROTECTIONS.items() if value == prot), f"{prot:#x}")
