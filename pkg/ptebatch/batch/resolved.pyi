"""What a caller names, made ready for the core: a strategy, a machine."""

from collections.abc import Callable

from ..strategies import Strategy as Row
from .window import Window

class Strategy:
    def __init__(self, given: str | Row | Callable[[Window], int]) -> None: ...
