"""What a caller names, made ready for the core: a strategy, a machine."""

from collections.abc import Callable

from ptebatch.strategies import Strategy as Row

from .window import Window

class Strategy:
    """A strategy ready to run: a compiled row, or a Python step behind a window."""

    def __init__(self, given: str | Row | Callable[[Window], int]) -> None: ...
