"""The checker's inner loop: build a small world, run a strategy on it, judge it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .runner import Runner

FIRST_PFN: int

_U8 = npt.NDArray[np.uint8]
_U16 = npt.NDArray[np.uint16]
_U32 = npt.NDArray[np.uint32]
_U64 = npt.NDArray[np.uint64]
_I64 = npt.NDArray[np.int64]

class Checker(Runner):
    def check(
        self,
        ptes: Sequence[int],
        pages: Sequence[int],
        call: tuple[int, ...],
        *,
        tlb: bool = True,
        hardware: int = 2,
    ) -> tuple[int, int, int]: ...
    def final(self, ptes: Sequence[int], pages: Sequence[int], call: tuple[int, ...], *, traced: bool = False) -> _U64: ...
    def judge_outcome(
        self,
        ptes: Sequence[int],
        pages: Sequence[int],
        call: tuple[int, ...],
        *,
        after: Sequence[int],
        counters: dict[str, int],
        returned: int,
        walked: tuple[int, int],
        gathered: tuple[int, int] | None = None,
        events: Sequence[tuple[int, int, int]] = (),
        updates: Sequence[tuple[int, int, bool]] = (),
        reset: bool = True,
        replayed: tuple[Any, ...] | None = None,
    ) -> tuple[int, int]: ...
    def folded(self, words: _U64, pages: _U8, ad: _U64, mask: int) -> _U64: ...
    def sweep(
        self,
        words: _U64,
        pages: _U8,
        calls: _I64,
        ad: _U64,
        folds: _U32,
        *,
        tlb: bool = False,
        hardware: int = 0,
        seen: _U16 | None = None,
        until: float = 0.0,
    ) -> tuple[int, int, int, int, int, int, int, int, int]: ...
    def each(
        self,
        words: _U64,
        pages: _U8,
        calls: _I64,
        ad: _U64,
        folds: _U32,
        *,
        tlb: bool = False,
        hardware: int = 0,
        until: float = 0.0,
    ) -> tuple[int, int, int, int]: ...
    @property
    def missed_world(self) -> tuple[int, int, _U64] | None: ...
