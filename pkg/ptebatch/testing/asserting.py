"""One call that fails with the smallest world in which a strategy breaks a law."""

from __future__ import annotations

from typing import Any

from ..checker import verify_strategy
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
    budget: float | None = 10.0,
    seed: int = 0,
    random: bool = True,
) -> None:
    """Fail if the checker finds a world in which a strategy breaks a law.

    Parameters
    ----------
    strategy : callable, capsule, str or Strategy
        A step ``step(window) -> int``, what ``strategy_capsule()`` made of a Cython
        function, or a name, as for ``ptebatch.checker.verify_strategy``.
    machine : Machine or str, optional
        Default: kernel 7.3 in a small geometry.
    budget : float, optional
        Seconds for an even sample of all small worlds; None: every world, minutes for a
        compiled strategy, very long for one in Python.
    seed : int
        Of the sample's order and of the random worlds.
    random : bool
        Then also try random worlds with larger tables, in as many seconds.

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
    >>> assert_strategy(one_by_one, budget=0.2)
    >>> def careless(window):
    ...     window.change_unit(0, 1, True)
    ...     return 1
    >>> try:
    ...     assert_strategy(careless, budget=0.2)
    ... except AssertionError as error:
    ...     print(str(error).splitlines()[1])
    law       In a private mapping WRITE is given to an entry exactly if its own page is PageAnonExclusive (rule 4)
    """
    found = named(strategy)
    searches = [True, False] if random else [True]
    for exhaustive in searches:
        report = verify_strategy(found, machine=machine, exhaustive=exhaustive, seed=seed, budget=budget)
        if report.counterexample is not None:
            raise AssertionError(report.counterexample.text())
