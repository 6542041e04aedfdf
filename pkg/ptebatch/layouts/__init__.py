"""Named layouts, folio sizes and patterns of PageAnonExclusive, as text; see `layout` and `patterns`."""

from __future__ import annotations

from ..notation.patterns import exclusive_pattern
from .named import LAYOUTS, Layout, NamedLayout, get_layout, layout, parse_layouts

__all__ = ["LAYOUTS", "Layout", "NamedLayout", "exclusive_pattern", "get_layout", "layout", "parse_layouts"]
