"""One call that fails with the smallest world in which a strategy breaks a law."""

from __future__ import annotations

from typing import Any

from ..checker.search import verify_strategy
from ..machine import Machine
from ..strategies import Strategy

__all__ = ["assert_strategy", "named"]


def named(strategy: Any) -> Any:
    """A strategy as the core takes it: a bare capsule becomes a row of the registry's kind."""
    if type(strategy).__name__ == "PyCapsule":
        return Strategy("capsule", "user", "a compiled step", step=strategy)
    return strategy


def assert_strategy(
    strategy: Any,
    *,
    machine: Machine | str | None = None,
    worlds: int | None = 500_000,
    seed: int = 0,
    random: bool = True,
) -> None:
    """Fail if the checker finds a world in which a strategy breaks a law.

    Parameters
    ----------
    strategy : callable, capsule, str or Strategy
        A step ``step(window) -> int``, what ``strategy_capsule()`` made of a Cython
        function, or a name, as for ``ptebatch.checker.search.verify_strategy``.
    machine : Machine or str, optional
        Default: kernel 7.3 in a small geometry.
    worlds : int, optional
        Worlds of an even sample of all small ones that are judged, some ten seconds for a
        strategy in Python; None: every world, minutes for a compiled strategy, very long
        for one in Python.
    seed : int
        Of the sample's order and of the random worlds. The same seed gives the same verdict
        on every computer.
    random : bool
        Then also try as many random worlds with larger tables.

    Raises
    ------
    AssertionError
        With the counterexample: before, call, after, the law, and lines that reproduce it.
    StrategyError, MachineError
        No such strategy, no such machine.

    Examples
    --------
    >>> def one_by_one(window):
    ...     exclusive = window.needs_anon_exclusive() and window.page_anon_exclusive(0)
    ...     window.change_unit(0, 1, exclusive)
    ...     return 1
    >>> assert_strategy(one_by_one, worlds=500)
    >>> def careless(window):
    ...     window.change_unit(0, 1, True)
    ...     return 1
    >>> try:
    ...     assert_strategy(careless, worlds=500)
    ... except AssertionError as error:
    ...     print(str(error)[:16])
    error[EXCLUSIVE]
    """
    found = named(strategy)
    searches = [True, False] if random else [True]
    for exhaustive in searches:
        report = verify_strategy(found, machine=machine, exhaustive=exhaustive, seed=seed, worlds=worlds)
        if report.counterexample is not None:
            raise AssertionError(report.counterexample.text())
