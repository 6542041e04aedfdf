"""One row of PTEs as text, in the manner of the kernel's comic strips; the grammar is in `strip`."""

from __future__ import annotations

from .strip import FIELDS, Row, describe, diff, draw, parse

__all__ = ["FIELDS", "Row", "describe", "diff", "draw", "parse"]
