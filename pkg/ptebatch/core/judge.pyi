"""`Judge`: run a small world and judge the table it leaves. Base of `Checker`."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ptebatch.machine import Machine
from ptebatch.strategies import Strategy

from .window import Window

class Judge:
    """One machine and one strategy, and the laws of the table; see `Checker`."""

    def __init__(self, machine: Machine, strategy: str | Strategy | Callable[[Window], int]) -> None: ...
    @property
    def table_ptes(self) -> npt.NDArray[np.uint64]:
        """The table as the last run left it."""

    @property
    def machine(self) -> Machine: ...
    @property
    def runs(self) -> int: ...
