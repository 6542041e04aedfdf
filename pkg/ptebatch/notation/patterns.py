"""Patterns of PageAnonExclusive over a stretch of pages, from a short text.

The names are those of the discussion: ``1/511`` is one page that a fork shared
and 511 that it did not, ``alternating`` the worst case of every scan. Kernel
counterpart: PageAnonExclusive, include/linux/page-flags.h (spec 4.3).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import LayoutError, closest

__all__ = ["PATTERN_NAMES", "PatternSpec", "exclusive_pattern"]

BoolArray: TypeAlias = NDArray[np.bool_]
PatternSpec: TypeAlias = str | BoolArray | Sequence[tuple[int, bool]] | Callable[[NDArray[np.int64]], BoolArray]

PATTERN_NAMES = ("all", "none", "alternating")

_RUN = re.compile(r"([0-9]{1,18})([es]?)")


def exclusive_pattern(spec: PatternSpec, nr: int) -> BoolArray:
    """Return which of `nr` pages are PageAnonExclusive.

    Parameters
    ----------
    spec : str, array of bool, sequence of (count, value), or callable
        ``all``, ``none``; ``alternating``: page 0 shared, page 1 exclusive, and
        so on. ``A/B/...``: runs of pages, alternately shared and exclusive, the
        last one exclusive, repeated to the end: ``1/511``, ``16/16/480``; a
        letter after a length says which (``511e/1s``: e exclusive, s shared)
        and is then needed after every length. ``random:P[:SEED]``: each page
        exclusive with probability P, seed 0 unless given.
        An array gives every page, so its length is `nr`. Runs of
        ``(count, value)`` repeat like the text. A callable gets the page
        indices (int64, ``0 .. nr-1``) and returns an array of bool.
    nr : int
        Number of pages, at least 0.

    Returns
    -------
    ndarray of bool, shape (nr,)
        A new array.

    Raises
    ------
    LayoutError
        A text that names no pattern, a run without pages, a probability that is
        none, an array of another length or type.

    Examples
    --------
    >>> exclusive_pattern("1/3", 8).astype(int)
    array([0, 1, 1, 1, 0, 1, 1, 1])
    >>> exclusive_pattern("2e/1s", 6).astype(int)
    array([1, 1, 0, 1, 1, 0])

    """
    if isinstance(nr, bool) or not isinstance(nr, (int, np.integer)) or nr < 0:
        raise LayoutError(f"exclusive pattern over {nr!r} pages; give a whole number, 0 or more")
    nr = int(nr)
    if isinstance(spec, str):
        return _from_text(spec, nr)
    if isinstance(spec, np.ndarray):
        return _checked(spec, nr, "array")
    if callable(spec):
        return _checked(spec(np.arange(nr, dtype=np.int64)), nr, "callable's result")
    return _repeat(_runs_of(spec), nr)


def _from_text(spec: str, nr: int) -> BoolArray:
    text = spec.strip().lower()
    if text in ("all", "none"):
        return np.full(nr, text == "all")
    if text == "alternating":
        return _repeat([(1, False), (1, True)], nr)
    if text.startswith("random"):
        return _random(spec, text, nr)
    parts = [_RUN.fullmatch(part.strip()) for part in text.split("/")]
    if not all(parts):
        known = [*PATTERN_NAMES, "1/511", "16/16/480", "511e/1s", "random:0.5:1"]
        raise LayoutError(f"exclusive pattern {spec!r} is not known; {closest(text, known)}")
    found = [(int(m[1]), m[2]) for m in parts if m]
    letters = [letter for _, letter in found if letter]
    if letters and len(letters) != len(found):
        raise LayoutError(f"exclusive pattern {spec!r} has a letter after some lengths only; write e or s after each")
    last = len(found) - 1
    if letters:
        return _repeat(_runs_of([(count, letter == "e") for count, letter in found]), nr)
    return _repeat(_runs_of([(count, (last - i) % 2 == 0) for i, (count, _) in enumerate(found)]), nr)


def _random(spec: str, text: str, nr: int) -> BoolArray:
    word, *rest = text.split(":")
    try:
        if word != "random" or len(rest) not in (1, 2):
            raise ValueError
        chance = float(rest[0])
        seed = int(rest[1]) if len(rest) == 2 else 0
        if not 0.0 <= chance <= 1.0 or seed < 0:
            raise ValueError
    except ValueError:
        raise LayoutError(
            f"exclusive pattern {spec!r} is not random:P[:SEED]; give P from 0 to 1 and a whole SEED, 0 or more"
        ) from None
    answer: BoolArray = np.random.default_rng(seed).random(nr) < chance
    return answer


def _runs_of(spec: Sequence[tuple[int, bool]]) -> list[tuple[int, bool]]:
    runs: list[tuple[int, bool]] = []
    try:
        pairs = [(count, value) for count, value in spec]
    except (TypeError, ValueError):
        raise LayoutError(
            f"exclusive pattern {spec!r} is neither a text, an array nor a callable; give one, or (count, value) runs"
        ) from None
    for count, value in pairs:
        if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 1:
            raise LayoutError(f"a run of {count!r} pages in the exclusive pattern; give a whole number, 1 or more")
        if not isinstance(value, (bool, np.bool_, int, np.integer)) or value not in (0, 1):
            raise LayoutError(f"a run's value {value!r} in the exclusive pattern; give True (exclusive) or False")
        runs.append((int(count), bool(value)))
    if not runs:
        raise LayoutError("an exclusive pattern without runs; give at least one (count, value)")
    return runs


def _repeat(runs: list[tuple[int, bool]], nr: int) -> BoolArray:
    """Lay runs over `nr` pages again and again, the last one cut."""
    period: list[BoolArray] = []
    left = nr
    for count, value in runs:
        period.append(np.full(min(count, left), value))
        left -= min(count, left)
    once = np.concatenate(period)
    if not once.size:
        return np.zeros(0, dtype=np.bool_)
    return np.resize(once, nr)


def _checked(values: object, nr: int, what: str) -> BoolArray:
    if not isinstance(values, np.ndarray) or values.dtype != np.bool_ or values.shape != (nr,):
        shape = f"{values.dtype} of shape {values.shape}" if isinstance(values, np.ndarray) else repr(values)
        raise LayoutError(f"the exclusive pattern's {what} is {shape}; expected bool of shape ({nr},)")
    return values.copy()
