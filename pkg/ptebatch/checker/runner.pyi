"""Runs one small world after the other under one strategy, and keeps what each run left."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ..base.held import Exclusive
from ..batch.window import Window
from ..machine import Machine
from ..strategies import Strategy

_U64 = npt.NDArray[np.uint64]

class Runner(Exclusive):
    machine: Machine
    runs: int
    missed: int
    unrecorded: int

    def __init__(self, machine: Machine, strategy: str | Strategy | Callable[[Window], int], *, strict: bool = False) -> None: ...
    @property
    def start_ptes(self) -> _U64: ...
    @property
    def table_ptes(self) -> _U64: ...
    @property
    def counters(self) -> dict[str, int]: ...
    @property
    def replayed(self) -> tuple[_U64, int, dict[str, int], tuple[int, int] | None] | None: ...
    @property
    def replayed_by(self) -> dict[str, int]: ...
    @property
    def walked(self) -> tuple[int, int]: ...
    @property
    def gathered(self) -> tuple[int, int] | None: ...
    @property
    def pages(self) -> int: ...
    @property
    def events(self) -> list[tuple[int, int, int]]: ...
    @property
    def error(self) -> BaseException | None: ...
    @property
    def updates(self) -> list[tuple[int, int, bool]]: ...
