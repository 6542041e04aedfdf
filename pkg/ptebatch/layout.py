"""Named address spaces to change the protection of: folio sizes and sharing, as text.

``T1``, ``T2``, ``T3`` are the cover letter's: memory in folios of one table, of
one contpte block, of one page. ``alternating``, ``1/511``, ``16/16/480`` are the
discussion's: one table-sized folio, of which a fork left some pages shared.
Options follow, separated by colons::

    T1:64M                      64M of it
    alternating:unfolded        no block has the CONT bit
    T2:shuffled=3               folios lie in random order in memory (seed 3)
    T1:pae=random:0.9           pattern of PageAnonExclusive; must be the last

All entries are young and dirty, of private anonymous memory in one VMA. What a
folio size is depends on the granule: 2M, 64K, 4K with 4K pages; 32M, 2M, 16K
with 16K; 512M, 2M, 64K with 64K.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from . import bits
from .errors import LayoutError, closest
from .machine import Machine
from .patterns import PatternSpec, exclusive_pattern
from .report import count_text, parse_size, size_text

if TYPE_CHECKING:
    from .core.mm import MM

__all__ = ["LAYOUTS", "Layout", "NamedLayout", "get_layout", "layout", "parse_layouts"]

#: address of every layout's first page, at the start of a table in each granule
START = 1 << 34
#: frame of the first page; folios of every order may begin there
PFN_BASE = 1 << 19
#: pages above which a layout is refused: its entries and metadata would take gigabytes
MAX_PAGES = 1 << 26

_RUNS = re.compile(r"[0-9]+[es]?(/[0-9]+[es]?)+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Layout:
    """Private anonymous memory in one VMA, mapped by PTEs of equal folios.

    Parameters
    ----------
    name : str
        As a registered layout, or a pattern such as ``3/5``.
    folio : {"table", "block", "page"} or int
        Folio size: one table of PTEs, one contpte block, one page, or an order.
    size : int, optional
        Bytes; one folio if not given. A folio that reaches beyond is cut.
    exclusive : pattern
        PageAnonExclusive over the whole layout, see ``ptebatch.patterns``.
    folded : bool
        Blocks that set_ptes() would paint have the CONT bit; False: none has.
    seed : int, optional
        The folios' frames are shuffled by it; in ascending order if not given.

    Raises
    ------
    LayoutError
        A folio size or seed that is none.
    """

    name: str
    folio: str | int = "table"
    size: int | None = None
    exclusive: PatternSpec = "all"
    folded: bool = True
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse a folio size, size or seed that is none."""
        if self.folio not in ("table", "block", "page") and (type(self.folio) is not int or not 0 <= self.folio <= 13):
            raise LayoutError(f"folio={self.folio!r} is not a folio size; give table, block, page or an order from 0 to 13")
        if self.seed is not None and (type(self.seed) is not int or self.seed < 0):
            raise LayoutError(f"seed={self.seed!r} is not a whole number, 0 or more")
        if self.size is not None and (type(self.size) is not int or self.size <= 0):
            raise LayoutError(f"size={self.size!r} is not a number of bytes above 0")

    def order(self, machine: Machine) -> int:
        """Return the order of the folios on a machine."""
        if isinstance(self.folio, int):
            if self.folio > machine.pmd_order:
                raise LayoutError(f"folio={self.folio} is larger than a table of {machine}, order {machine.pmd_order}; give less")
            return self.folio
        return {"table": machine.pmd_order, "block": machine.cont_ptes.bit_length() - 1, "page": 0}[self.folio]

    def length(self, machine: Machine) -> int:
        """Return the bytes it maps on a machine.

        LayoutError if that is not whole pages, or above 2**26 of them.
        """
        size = self.size if self.size is not None else machine.page_size << self.order(machine)
        if size % machine.page_size:
            raise LayoutError(f"layout {self.name}: size {size_text(size)} is not a multiple of the page size "
                              f"{size_text(machine.page_size)}; round it")  # fmt: skip
        if size // machine.page_size > MAX_PAGES:
            raise LayoutError(f"layout {self.name}: size {size_text(size)} is above "
                              f"{size_text(MAX_PAGES * machine.page_size)}; give a smaller one")  # fmt: skip
        return size

    def build(self, machine: Machine, prot: int = bits.PROT_READ) -> MM:
        """Return an address space with this layout at `START`.

        Parameters
        ----------
        machine : Machine
        prot : int
            Protection of the VMA. With PROT_WRITE, exclusive pages are writable;
            blocks that this makes unequal are not folded.

        Returns
        -------
        MM

        Raises
        ------
        LayoutError
            A size or pattern that does not fit.
        """
        from .core.mm import MM

        length, order = self.length(machine), self.order(machine)
        pages = length // machine.page_size
        nr_folios = -(-pages >> order)
        mm = MM(machine, nr_pages=nr_folios << order, pfn_base=PFN_BASE)
        mm.mmap(START, length, prot)
        heads = None
        if self.seed is not None:
            shuffled = np.random.default_rng(self.seed).permutation(nr_folios).astype(np.uint64)
            heads = np.uint64(PFN_BASE) + (shuffled << np.uint64(order))
        mm.map_folios(START, pages, order, heads=heads, exclusive=exclusive_pattern(self.exclusive, pages), fold=self.folded)
        return mm

    def describe(self, machine: Machine) -> str:
        """Return what it is in words, sizes for a machine."""
        size = machine.page_size << self.order(machine)
        nr = -(-self.length(machine) // size)
        what = f"{count_text(nr)} folio{'s' * (nr > 1)} of {size_text(size)}"
        if size > machine.page_size:
            what += ", mapped by PTEs"
        parts = [what, f"PageAnonExclusive {self.exclusive if isinstance(self.exclusive, str) else 'as given'}"]
        if not self.folded:
            parts.append("unfolded")
        if self.seed is not None:
            parts.append(f"frames shuffled by seed {self.seed}")
        return "; ".join(parts)

    def __str__(self) -> str:
        """Return the text that `get_layout` reads."""
        row = _rows.get(self.name)
        known = row.layout if row else Layout(self.name, exclusive=self.name)
        parts = [self.name]
        if self.size is not None and self.size != known.size:
            parts.append(size_text(self.size))
        if not self.folded:
            parts.append("unfolded")
        if self.seed is not None:
            parts.append(f"shuffled={self.seed}")
        if isinstance(self.exclusive, str) and self.exclusive != known.exclusive:
            parts.append(f"pae={self.exclusive}")
        return ":".join(parts)


@dataclass(frozen=True, slots=True)
class NamedLayout:
    """One row of the registry."""

    name: str
    summary: str
    layout: Layout


_rows: dict[str, NamedLayout] = {}

#: every named layout
LAYOUTS: Mapping[str, NamedLayout] = MappingProxyType(_rows)


def layout(name: str, summary: str) -> Callable[[Callable[[], Layout]], Callable[[], Layout]]:
    """Register, under a name without colon and comma, the Layout that a function returns.

    The command line then knows it. LayoutError if the name is taken or none.
    """
    if not name or {":", ",", " "} & set(name):
        raise LayoutError(f"layout name {name!r} is empty or has a colon, comma or blank; choose another")
    if name.lower() in (known.lower() for known in _rows):
        raise LayoutError(f"layout {name!r} exists already; choose another name")

    def add(make: Callable[[], Layout]) -> Callable[[], Layout]:
        _rows[name] = NamedLayout(name, summary, replace(make(), name=name))
        return make

    return add


@layout("T1", "folios of one table (2M with 4K pages), mapped by PTEs")
def _t1() -> Layout:
    return Layout("", "table", 1 << 30)


@layout("T2", "folios of one contpte block (64K with 4K pages)")
def _t2() -> Layout:
    return Layout("", "block", 1 << 30)


@layout("T3", "folios of one page")
def _t3() -> Layout:
    return Layout("", "page", 1 << 30)


@layout("uniform", "one table-sized folio, every page exclusive")
def _uniform() -> Layout:
    return Layout("", exclusive="all")


@layout("alternating", "one table-sized folio, every other page exclusive: the worst case of every scan")
def _alternating() -> Layout:
    return Layout("", exclusive="alternating")


@layout("1/511", "one table-sized folio, one page shared and 511 exclusive")
def _one_and_the_rest() -> Layout:
    return Layout("", exclusive="1/511")


@layout("16/16/480", "one table-sized folio, runs of 16, 16 and 480 pages; any A/B/... is a layout")
def _blocks_and_the_rest() -> Layout:
    return Layout("", exclusive="16/16/480")


def get_layout(text: str | Layout, size: int | None = None) -> Layout:
    """Return the layout that a text such as ``T1:64M:unfolded`` names.

    Parameters
    ----------
    text : str or Layout
        See the module's text; a Layout is returned as it is.
    size : int, optional
        Bytes, where the text gives no size.

    Raises
    ------
    LayoutError
        An unknown name or option; the message lists the known ones.

    Examples
    --------
    >>> str(get_layout("t1:64M:unfolded"))
    'T1:64M:unfolded'
    """
    if isinstance(text, Layout):
        return text
    if not isinstance(text, str):
        raise LayoutError(f"layout {text!r} is neither a name nor a Layout; {closest(str(text), list(_rows))}")
    head, pae, pattern = text.strip().partition(":pae=")
    name, *options = (part.strip() for part in head.split(":"))
    found = {known.lower(): row.layout for known, row in _rows.items()}.get(name.lower())
    if found is None and _RUNS.fullmatch(name):
        found = Layout(name, exclusive=name)
    if found is None:
        raise LayoutError(f"layout {name!r} is unknown; {closest(name, [*_rows, 'A/B/...'])}")
    if size is not None:
        found = replace(found, size=size)
    for option in options:
        found = _with_option(found, option)
    if pae:
        found = replace(found, exclusive=pattern)
    if isinstance(found.exclusive, str):
        exclusive_pattern(found.exclusive, 1)  # refuse now what build() would refuse
    return found


def _with_option(given: Layout, option: str) -> Layout:
    word, eq, value = option.lower().partition("=")
    if re.fullmatch("[0-9]+[KMGT]?", option, re.IGNORECASE):
        return replace(given, size=parse_size(option))
    if word in ("folded", "unfolded") and not eq:
        return replace(given, folded=word == "folded")
    if word == "sequential" and not eq:
        return replace(given, seed=None)
    if word == "shuffled" and (not eq or re.fullmatch("[0-9]{1,18}", value)):
        return replace(given, seed=int(value or "0"))
    known = ["64M", "folded", "unfolded", "sequential", "shuffled", "shuffled=SEED", "pae=PATTERN"]
    raise LayoutError(f"layout {given.name}: option {option!r} is unknown; {closest(option.lower(), known)}")


def parse_layouts(text: str, size: int | None = None) -> list[Layout]:
    """Return the layouts of a list separated by commas; LayoutError as `get_layout`."""
    return [get_layout(part, size) for part in text.split(",")]
