"""`MM`: an arm64 address space, and the calls on it."""

from collections.abc import Callable
from typing import final

from ..batch.window import Window
from ..strategies import Strategy
from .result import Result
from .tables import Tables

@final
class MM(Tables):
    def change_protection(
        self,
        start: int,
        nr: int,
        *,
        newprot: int,
        cp_flags: int = 0,
        vm_flags: int,
        anon: bool = True,
        strategy: str | Strategy | Callable[[Window], int] = "folio",
        trace: bool = False,
        record: bool = True,
    ) -> Result: ...
    def mprotect(
        self,
        start: int,
        length: int,
        prot: int | str,
        *,
        strategy: str | Strategy | Callable[[Window], int] = "folio",
        pkey: int = -1,
        trace: bool = False,
        record: bool = True,
    ) -> Result: ...
    def copy(self) -> MM: ...
    @property
    def replayed(self) -> dict[str, int]: ...
