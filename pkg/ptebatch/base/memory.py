"""Memory that is there when it is touched."""

from __future__ import annotations

from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap

import numpy as np
from numpy.typing import NDArray

__all__ = ["zeroed_bytes"]


def zeroed_bytes(nr: int) -> NDArray[np.uint8]:
    """An array of zeros that costs nothing where it is not touched: calloc() clears what was freed before.

    Raises
    ------
    MemoryError
        So much cannot be had.
    """
    if nr < 1 << 16:
        return np.zeros(nr, np.uint8)
    try:
        return np.frombuffer(mmap(-1, nr, flags=MAP_PRIVATE | MAP_ANONYMOUS), np.uint8)
    except OSError as error:
        raise MemoryError(f"{nr} bytes of page metadata did not fit in memory; give a smaller nr_pages") from error
