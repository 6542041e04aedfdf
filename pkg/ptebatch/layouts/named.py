"""Named address spaces to change the protection of: folio sizes and sharing, as text.

``T1``, ``T2``, ``T3`` are the cover letter's: memory in folios of one table, of
one contpte block, of one page. ``alternating``, ``1/511``, ``16/16/480`` are the
discussion's: one table-sized folio, of which a fork left some pages shared.
Options follow, separated by colons::

    T1:64M                      64M of it
    alternating:unfolded        no block has the CONT bit
    T2:shuffled=3               folios lie in random order in memory (seed 3)
    T1:pae=random:0.9           pattern of PageAnonExclusive
    T1:fork=alive:pae=1/15      after a fork: every page shared with the child, but those written
                                since, which are copies; fork=gone: the child has ended, the pages
                                written since were reused
    mixed:present=7/1           folios of several sizes; pages that are mapped, in the same patterns
    T2:dirty=none:young=1/1     which entries are dirty, and accessed
    folio=16K                   64M of folios of 16K

Private anonymous memory in one VMA, young and dirty if nothing else is said. What a
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
from numpy.typing import NDArray

from .. import bits
from ..errors import LayoutError, closest
from ..machine import Machine
from ..notation.patterns import PatternSpec, exclusive_pattern
from ..report import count_text, parse_size, size_text
from .entries import edit

if TYPE_CHECKING:
    from ..mm.mm import MM

__all__ = ["LAYOUTS", "Layout", "NamedLayout", "get_layout", "layout", "parse_layouts"]

#: address of every layout's first page, at the start of a table in each granule
START = 1 << 34
#: frame of the first page; folios of every order may begin there
PFN_BASE = 1 << 19
#: pages above which a layout is refused: its entries and metadata would take gigabytes
MAX_PAGES = 1 << 26

_NAMED = ("table", "block", "page")
_SIZE = re.compile("[0-9]+[KMG]?", re.IGNORECASE)
_RUNS = re.compile(r"[0-9]+[es]?(/[0-9]+[es]?)+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Layout:
    """Private anonymous memory in one VMA, mapped by PTEs of equal folios.

    Parameters
    ----------
    name : str
        As a registered layout, or a pattern such as ``3/5``.
    folio : {"table", "block", "page"}, int or str
        Folio size: one table of PTEs, one contpte block, one page, an order, or bytes such as ``64K``.
        Several, joined by ``+``: what one table maps is all of one of them, drawn by `seed`.
    size : int, optional
        Bytes; one folio if not given. A folio that reaches beyond is cut.
    exclusive : pattern
        PageAnonExclusive over the whole layout, see ``ptebatch.notation.patterns``.
    folded : bool
        Blocks that set_ptes() would paint have the CONT bit; False: none has.
    seed : int, optional
        The folios' frames are shuffled by it; in ascending order if not given.
    present, young, dirty : pattern
        Which pages are mapped, and which entries are accessed and dirty.
    fork : {"alive", "gone"}, optional
        A fork shared all pages; `exclusive` (default: none) are those that were written since: copies
        in folios of their own while the child is alive, and reused ones when it has ended.

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
    present: PatternSpec = "all"
    young: PatternSpec = "all"
    dirty: PatternSpec = "all"
    fork: str | None = None

    def __post_init__(self) -> None:
        """Refuse a folio size, size or seed that is none."""
        sized = isinstance(self.folio, str) and all(part in _NAMED or _SIZE.fullmatch(part) for part in self.folio.split("+"))
        if not sized and (type(self.folio) is not int or not 0 <= self.folio <= 13):
            raise LayoutError(f"folio={self.folio!r} is not a folio size; give table, block, page, an order from 0 to 13, or 64K")
        if self.fork not in (None, "alive", "gone"):
            raise LayoutError(f"fork={self.fork!r} is no state after a fork; give alive or gone, which the child is")
        if self.seed is not None and (type(self.seed) is not int or self.seed < 0):
            raise LayoutError(f"seed={self.seed!r} is not a seed; give a whole number, 0 or more")
        if self.size is not None and (type(self.size) is not int or self.size <= 0):
            raise LayoutError(f"size={self.size!r} is not a size; give a number of bytes above 0")

    def order(self, machine: Machine) -> int:
        """Return the order of the folios on a machine, of several sizes the largest."""
        return max(self.orders(machine))

    def orders(self, machine: Machine) -> list[int]:
        """Return the order of each folio size on a machine."""
        if isinstance(self.folio, int):
            return [self._order(machine, self.folio)]
        return [self._order(machine, part) for part in self.folio.split("+")]

    @staticmethod
    def _order(machine: Machine, folio: int | str) -> int:
        if isinstance(folio, int):
            if folio > machine.pmd_order:
                raise LayoutError(f"folio={folio} is larger than a table of {machine}, order {machine.pmd_order}; give less")
            return folio
        named = {"table": machine.pmd_order, "block": machine.cont_ptes.bit_length() - 1, "page": 0}
        if folio in named:
            return named[folio]
        size = parse_size(folio)
        order = (size // machine.page_size).bit_length() - 1
        if size & (size - 1) or not 0 <= order <= machine.pmd_order:
            most = size_text(machine.page_size << machine.pmd_order)
            raise LayoutError(
                f"folio={folio} is no folio of {machine}; give a power of two from {size_text(machine.page_size)} to {most}"
            )
        return order

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
        from ..mm.mm import MM

        length, order = self.length(machine), self.order(machine)
        pages = length // machine.page_size
        written = exclusive_pattern(self.exclusive, pages)
        copied = written if self.fork == "alive" else np.zeros(pages, np.bool_)
        orders, heads, frames = self._folios(machine, pages)
        mm = MM(machine, nr_pages=frames + int(copied.sum()), pfn_base=PFN_BASE)
        mm.mmap(START, length, prot)
        mm.map_folios(START, pages, order, orders=orders, heads=heads, exclusive=written & ~copied, fold=self.folded,
                      mapped_shared=self.fork == "alive")  # fmt: skip
        edit(mm, START, pages, bool(prot & bits.PROT_WRITE), copied, PFN_BASE + frames,
             *(exclusive_pattern(spec, pages) for spec in (self.present, self.young, self.dirty)))  # fmt: skip
        return mm

    def _folios(self, machine: Machine, pages: int) -> tuple[NDArray[np.uint8] | None, NDArray[np.uint64] | None, int]:
        """Order and head of each folio, None where one says all; and the frames that they need."""
        sizes, rng = self.orders(machine), np.random.default_rng(self.seed)
        order = max(sizes) if len(sizes) == 1 else machine.pmd_order
        nr = -(-pages >> order)
        where = (rng.permutation(nr) if self.seed is not None else np.arange(nr)).astype(np.uint64) << np.uint64(order)
        if len(sizes) == 1:
            return None, where + np.uint64(PFN_BASE) if self.seed is not None else None, nr << order
        drawn = np.random.default_rng(self.seed or 0).choice(np.array(sizes), nr)
        orders = np.repeat(drawn, 1 << (order - drawn)).astype(np.uint8)
        heads = np.concatenate([head + (np.arange(1 << (order - o), dtype=np.uint64) << np.uint64(o))
                                for head, o in zip(where, drawn.tolist(), strict=True)])  # fmt: skip
        return orders, heads + np.uint64(PFN_BASE), nr << order

    def describe(self, machine: Machine) -> str:
        """Return what it is in words, sizes for a machine."""
        sizes = [machine.page_size << order for order in self.orders(machine)]
        size = max(sizes)
        nr = -(-self.length(machine) // size)
        what = f"{count_text(nr)} folio{'s' * (nr > 1)} of {size_text(size)}"
        if len(sizes) > 1:
            what = "folios of " + " and ".join(map(size_text, sorted(sizes)))
        if size > machine.page_size:
            what += ", mapped by PTEs"
        parts = [what, f"PageAnonExclusive {self.exclusive if isinstance(self.exclusive, str) else 'as given'}"]
        parts += [f"{name} {spec if isinstance(spec, str) else 'as given'}" for name, spec in self._others() if spec != "all"]
        if self.fork:
            parts.append(f"after a fork, child {self.fork}; exclusive what was written since")
        if not self.folded:
            parts.append("unfolded")
        if self.seed is not None:
            parts.append(f"frames shuffled by seed {self.seed}")
        return "; ".join(parts)

    def _others(self) -> list[tuple[str, PatternSpec]]:
        return [("present", self.present), ("young", self.young), ("dirty", self.dirty)]

    def __str__(self) -> str:
        """Return the text that `get_layout` reads."""
        row = _rows.get(self.name)
        known = row.layout if row else Layout(self.name, exclusive="all" if self.name.startswith("folio=") else self.name)
        parts = [self.name]
        if self.size is not None and self.size != known.size:
            parts.append(size_text(self.size))
        if not self.folded:
            parts.append("unfolded")
        if self.seed is not None:
            parts.append(f"shuffled={self.seed}")
        if self.folio != known.folio and not self.name.startswith("folio="):
            parts.append(f"folio={self.folio}")
        parts += [f"{name}={spec}" for name, spec in self._others() if isinstance(spec, str) and spec != "all"]
        if self.fork:
            parts.append(f"fork={self.fork}")
        if isinstance(self.exclusive, str) and self.exclusive != ("none" if self.fork else known.exclusive):
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


@layout("mixed", "folios of a page, a block or a table, one kind in what a table maps")
def _mixed() -> Layout:
    return Layout("", "page+block+table", 1 << 26)


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
    name, *options = _options(text)
    found = {known.lower(): row.layout for known, row in _rows.items()}.get(name.lower())
    if found is None and _RUNS.fullmatch(name):
        found = Layout(name, exclusive=name)
    if found is None and name.lower().startswith("folio="):
        found = Layout(name, name[6:].upper(), 64 << 20)
    if found is None:
        raise LayoutError(f"layout {name!r} is unknown; {closest(name, [*_rows, 'A/B/...'])}")
    said: dict[str, str] = {}
    if size is not None:
        found = replace(found, size=size)
    for option in options:
        kind, found = _with_option(found, option)
        if kind in said:
            raise LayoutError(f"layout {text!r} gives its {kind} twice, {said[kind]} and {option}; give it once")
        said[kind] = option
    if found.fork and "pae" not in said:
        found = replace(found, exclusive="none")
    for spec in (found.exclusive, found.present, found.young, found.dirty):
        if isinstance(spec, str):
            exclusive_pattern(spec, 1)  # refuse now what build() would refuse
    return found


def _options(text: str) -> list[str]:
    """The parts of a text between colons; those of ``random:P:SEED`` belong together."""
    found: list[str] = []
    for part in (part.strip() for part in text.strip().split(":")):
        before = found[-1].lower() if found else ""
        if before.endswith("=random") or (re.search("=random:[0-9.]+$", before) and re.fullmatch("[0-9]+", part)):
            found[-1] += f":{part}"
        else:
            found.append(part)
    return found


def _with_option(given: Layout, option: str) -> tuple[str, Layout]:
    """What kind of option it is, and the layout with it."""
    word, eq, value = option.lower().partition("=")
    if re.fullmatch("[0-9]+[KMGT]?", option, re.IGNORECASE):
        return "size", replace(given, size=parse_size(option))
    if word in ("folded", "unfolded") and not eq:
        return "folding", replace(given, folded=word == "folded")
    if word == "sequential" and not eq:
        return "order of frames", replace(given, seed=None)
    if word == "shuffled" and (not eq or re.fullmatch("[0-9]{1,18}", value)):
        return "order of frames", replace(given, seed=int(value or "0"))
    if word in ("present", "young", "dirty", "pae") and eq:
        where = "exclusive" if word == "pae" else word
        return word, replace(given, **{where: option.partition("=")[2].strip()})  # type: ignore[arg-type]
    if word == "fork" and eq:
        return "fork", replace(given, fork=value)
    if word == "folio" and eq:
        return "folio", replace(given, folio=value if value in _NAMED else value.upper())
    known = [
        "folio=64K",
        "present=PATTERN",
        "young=PATTERN",
        "dirty=PATTERN",
        "fork=alive",
        "fork=gone",
        "64M",
        "folded",
        "unfolded",
        "sequential",
        "shuffled",
        "shuffled=SEED",
        "pae=PATTERN",
    ]
    raise LayoutError(f"layout {given.name}: option {option!r} is unknown; {closest(option.lower(), known)}")


def parse_layouts(text: str, size: int | None = None) -> list[Layout]:
    """Return the layouts of a list separated by commas; LayoutError as `get_layout`."""
    return [get_layout(part, size) for part in text.split(",")]
