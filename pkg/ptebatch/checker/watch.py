"""A step written in Python that takes too long: ended by the clock of a search, or because it does not return.

Results do not depend on the clock, but for these two: a search that was given a budget
stops when it is used up, within a slow step too; and a step that is still running after
`STUCK` seconds is taken for one that never ends.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any

from ..strategies import Strategy, resolve

__all__ = ["STUCK", "BudgetOver", "StepStuck", "Watch"]

#: seconds after which a step that has not returned is ended
STUCK = 10.0


class StepStuck(Exception):
    """A step has not returned; raised inside it."""

    def __str__(self) -> str:
        return f"the step had not returned after {STUCK:.0f} s; a step ends, and returns the entries that it committed"


class BudgetOver(BaseException):
    """The search's time is used up; raised before a step begins."""


class Watch:
    """Watches the Python steps of one search; for as long as its ``with`` block runs.

    Parameters
    ----------
    strategy : str, callable or Strategy
    until : float
        When to stop, by ``time.monotonic()``; 0: never.
    """

    def __init__(self, strategy: str | Strategy | Callable[[Any], int], until: float = 0.0) -> None:
        row = resolve(strategy)
        self.until = until
        self.began = 0.0  # of the step that runs; 0: none does
        self.thread = threading.get_ident()
        self.over = threading.Event()
        self.python, self.step = callable(row.step), row.step
        #: the strategy, with its step watched
        self.strategy = replace(row, step=self._watched) if self.python else row

    def _watched(self, window: Any) -> Any:
        now = time.monotonic()
        if 0 < self.until <= now:
            raise BudgetOver
        self.began = now
        try:
            return self.step(window)
        finally:
            self.began = 0.0

    def __enter__(self) -> Watch:
        if self.python:
            threading.Thread(target=self._guard, name="ptebatch-watch", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.over.set()

    def _guard(self) -> None:
        """Look now and then; a step that runs for too long gets an exception."""
        while not self.over.wait(min(1.0, STUCK / 4)):
            began = self.began
            if began and time.monotonic() - began > STUCK:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.thread), ctypes.py_object(StepStuck))
                self.began = 0.0
