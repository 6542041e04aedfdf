"""The registry of strategies: what the core has, and what a user adds.

A strategy decides how far one step of the loop goes and in which units it
starts and commits entries. To try one, pass a Python callable to ``mprotect``::

    def step(window):
        nr = window.folio_pte_batch()
        ...
        return nr

See ``ptebatch.Window`` for what it may use. To measure one, write it in Cython:
``cimport`` ``ptebatch.core.strategy`` (the recipe stands at the top of that
file) and `register` the capsule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from .core.strategies import table
from .errors import StrategyError, closest

__all__ = ["STRATEGIES", "Strategy", "get_strategy", "register", "resolve", "unregister"]


@dataclass(frozen=True, slots=True)
class Strategy:
    """One row of the registry.

    Parameters
    ----------
    name : str
    since : str
        Kernel release, posting, or thread in which it appeared.
    summary : str
    flawed : bool
        Kept to be caught: its result is wrong for some page tables.
    lookup : bool
        The loop looks the page of every present entry up before the step.
    step : object
        None for a strategy of the core; else a capsule or a Python callable.
    """

    name: str
    since: str
    summary: str
    flawed: bool = False
    lookup: bool = True
    step: Any = None


#: what can stand in a list of names on the command line
_NAME = re.compile(r"[\w.-]+")
_rows: dict[str, Strategy] = {row[0]: Strategy(*row) for row in table()}
_own = frozenset(_rows)

#: every strategy by name; the first is the merged design, the reference of comparisons
STRATEGIES: Mapping[str, Strategy] = MappingProxyType(_rows)


def get_strategy(name: str) -> Strategy:
    """Row of the registry by name.

    Raises
    ------
    StrategyError
        Unknown name; the message lists the known ones.
    """
    row = _rows.get(name) if isinstance(name, str) else None
    if row is None:
        raise StrategyError(f"strategy {name!r} is unknown; {closest(str(name), list(_rows))}")
    return row


def register(
    name: str, step: Any, *, summary: str = "", since: str = "user", flawed: bool = False, lookup: bool = True
) -> Strategy:
    """Add a strategy; command line, checker and benchmarks then know it.

    Parameters
    ----------
    name : str
    step : callable or capsule
        A Python callable ``step(window) -> int``, or what ``strategy_capsule()``
        of ``ptebatch.core.strategy`` made of a Cython function.
    summary, since : str
    flawed, lookup : bool
        See `Strategy`.

    Returns
    -------
    Strategy

    Raises
    ------
    StrategyError
        The name is taken, or `step` is neither callable nor a step capsule.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise StrategyError(f"strategy name {name!r} is not one of letters, digits, dots, hyphens, underscores; give such a one")
    if not callable(step) and type(step).__name__ != "PyCapsule":
        raise StrategyError(f"step {step!r} is neither callable nor a capsule; give a function or strategy_capsule(step)")
    first_line = (getattr(step, "__doc__", None) or "user strategy").strip().splitlines()[0]
    row = Strategy(name, since, summary or first_line, flawed, lookup, step)
    # asked and added in one step: another thread may register it too
    if _rows.setdefault(name, row) is not row:
        raise StrategyError(f"strategy {name!r} exists already; choose another name or unregister it")
    return row


def unregister(name: str) -> None:
    """Remove a strategy that `register` added; StrategyError for any other."""
    if name in _own or _rows.pop(name, None) is None:
        raise StrategyError(f"strategy {name!r} was not registered by a user; only those can be removed")


def resolve(given: str | Strategy | Callable[[Any], int]) -> tuple[str, str, Any, bool]:
    """What the core needs to run a strategy: name, kind, step, lookup."""
    if isinstance(given, str):
        given = get_strategy(given)
    if isinstance(given, Strategy):
        kind = "compiled" if given.step is None else "python" if callable(given.step) else "capsule"
        return given.name, kind, given.step, given.lookup
    if callable(given):
        return getattr(given, "__name__", "callable"), "python", given, True
    raise StrategyError(f"strategy {given!r} is neither a name nor a callable; {closest(str(given), list(_rows))}")
