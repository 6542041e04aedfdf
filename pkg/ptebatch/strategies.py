"""The registry of strategies: what the core has, and what a user adds.

A strategy decides how far one step of the loop goes and in which units it
starts and commits entries. To try one, pass a Python callable to ``mprotect``::

    def step(window):
        nr = window.folio_pte_batch()
        ...
        return nr

See ``ptebatch.Window`` for what it may use. To measure one, write it in Cython:
``cimport`` ``ptebatch.batch.seam`` (the recipe stands at the top of that
file) and `register` the capsule.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .errors import StrategyError, closest

__all__ = ["STRATEGIES", "Strategy", "enter", "find_strategy", "get_strategy", "name_of", "register", "resolve", "unregister"]


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
    pure : bool
        A step depends on nothing but its entries and their pages, and changes nothing else;
        then work that repeats is replayed and the step not called for it.
    step : object
        None for a strategy of the core; else a capsule or a Python callable.
    """

    name: str
    since: str
    summary: str
    flawed: bool = False
    lookup: bool = True
    pure: bool = False
    step: Any = None


#: what can stand in a list of names on the command line
_NAME = re.compile(r"[\w.-]+")
_rows: dict[str, Strategy] = {}
#: modules that were named, from where, and when their file was written
_modules: dict[tuple[str, str, int], Any] = {}

#: every strategy by name; the first is the design in Linux 6.17, the reference of comparisons
STRATEGIES: Mapping[str, Strategy] = MappingProxyType(_rows)


def enter(name: str, since: str, summary: str, *, flawed: bool, lookup: bool, pure: bool) -> Strategy:
    """Add a row of the core's own table; ``batch.strategies`` does, when it is imported."""
    return _rows.setdefault(name, Strategy(name, since, summary, flawed, lookup, pure))


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
    name: str,
    step: Any,
    *,
    summary: str = "",
    since: str = "user",
    flawed: bool = False,
    lookup: bool = True,
    pure: bool = False,
) -> Strategy:
    """Add a strategy; command line, checker and benchmarks then know it.

    Parameters
    ----------
    name : str
    step : callable or capsule
        A Python callable ``step(window) -> int``, or what ``strategy_capsule()``
        of ``ptebatch.batch.seam`` made of a Cython function.
    summary, since : str
    flawed, lookup, pure : bool
        See `Strategy`. A pure step is as fast as a built-in one where work repeats.

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
    row = Strategy(name, since, summary or first_line, flawed, lookup, pure, step)
    # asked and added in one step: another thread may register it too
    if _rows.setdefault(name, row) is not row:
        raise StrategyError(f"strategy {name!r} exists already; choose another name or unregister it")
    return row


def unregister(name: str) -> None:
    """Remove a strategy that `register` added; StrategyError for any other."""
    row = _rows.get(name)
    if row is None or row.step is None or _rows.pop(name, None) is None:
        raise StrategyError(f"strategy {name!r} was not registered by a user; only those can be removed")


def find_strategy(text: str) -> Strategy:
    """Strategy by name, ``module:name`` or ``path.py:name``; the last two from the current directory.

    Parameters
    ----------
    text : str
        What is named in a module is a step, a step capsule or a `Strategy`.

    Returns
    -------
    Strategy
        With the text as its name.

    Raises
    ------
    StrategyError
        No such strategy, or a module that cannot be imported or lacks the name.
    """
    where, colon, name = text.rpartition(":")
    if text.endswith(".py"):
        raise StrategyError(f"strategy {text!r} names a file; add the function of it, as in {text}:step")
    if not colon or text in _rows:
        return get_strategy(text)
    try:
        # a file that was changed since is read again
        key = (where, os.getcwd(), _written(where))
        module = _modules.get(key) or _load(where)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise StrategyError(f"strategy {text!r} cannot be imported: {why}; mend the module, or name another") from error
    _modules[key] = module
    found = getattr(module, name, None)
    if isinstance(found, Strategy):
        return replace(found, name=text)  # by its own name it could not be found again
    if not callable(found) and type(found).__name__ != "PyCapsule":
        raise StrategyError(f"strategy {text!r}: {where} has no function {name!r}; give a step(window) -> int")
    return Strategy(text, "user", "", step=found)


def _written(where: str) -> int:
    """When a file was written last; 0: there is none."""
    path = Path(where)
    return path.stat().st_mtime_ns if where.endswith(".py") and path.is_file() else 0


def _load(where: str) -> Any:
    """Import a module by its name or its file."""
    if not where.endswith(".py"):
        here = os.getcwd()
        sys.path.insert(0, here)
        try:
            return importlib.import_module(where)
        finally:
            sys.path.remove(here)
    path = Path(where)
    name = f"ptebatch_strategy_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"no Python file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def name_of(step: Callable[[Any], int]) -> str:
    """By what a step that is not registered goes."""
    return getattr(step, "__name__", "callable")


def resolve(given: str | Strategy | Callable[[Any], int]) -> Strategy:
    """Row of what `find_strategy` reads, of a callable or a row; StrategyError for anything else."""
    if isinstance(given, str):
        return _rows.get(given) or find_strategy(given)
    if isinstance(given, Strategy):
        return given
    if callable(given):
        return Strategy(name_of(given), "user", "", step=given)
    raise StrategyError(f"strategy {given!r} is neither a name nor a callable; {closest(str(given), list(_rows))}")
