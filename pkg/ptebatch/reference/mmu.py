"""Page tables and page frames in plain dictionaries, and the private PTE verbs.

The private verbs (``__ptep_get`` and so on in arch/arm64/include/asm/pgtable.h)
never look at a neighbour: spec 2.5. Every access is counted here and nowhere
else, so that a counter cannot be forgotten by a caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property

from .. import bits as b
from ..counters import COUNTERS
from ..errors import LayoutError
from ..machine import Machine
from . import pte as p
from .tlb import Op, flush_sequence

#: called with (kind, address, value) of each event, see ``ptebatch.events``
Observer = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Folio:
    """2**order physically contiguous pages (spec 4.1)."""

    head: int
    order: int
    anon: bool = True
    numa_skip: bool = False
    mapped_shared: bool = False

    @property
    def nr(self) -> int:
        """Pages."""
        return 1 << self.order

    @property
    def large(self) -> bool:
        """More than one page."""
        return self.order > 0


@dataclass(eq=False, repr=False)
class Memory:
    """Words by address, folios by frame, counters, and whoever watches.

    Attributes
    ----------
    ptes : dict of int to int
        Raw PTE word by address. An address that is a key has a leaf table.
    folios : dict of int to Folio
        By each of their frames.
    anon_exclusive : set of int
        Frames that are PageAnonExclusive.
    observer : callable or None
        Sees every event in program order.
    counters : dict of str to int
        Of the call that runs, or of the verbs since the last call.
    convert_flushes : list of (int, int)
        TLBIs of conversions: address, pages.
    cleared : dict of int to int
        Words that the running call exchanged for 0, by address.
    """

    machine: Machine = field(default_factory=Machine)
    ptes: dict[int, int] = field(default_factory=dict)
    folios: dict[int, Folio] = field(default_factory=dict)
    anon_exclusive: set[int] = field(default_factory=set)
    observer: Observer | None = None
    counters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))
    convert_flushes: list[tuple[int, int]] = field(default_factory=list)
    cleared: dict[int, int] = field(default_factory=dict)

    # Addresses

    @cached_property
    def page_size(self) -> int:
        """Bytes of a page."""
        return self.machine.page_size

    @cached_property
    def page_shift(self) -> int:
        """log2 of the page size."""
        return self.machine.page_shift

    def pte_index(self, addr: int) -> int:
        """Index of an address in its leaf table."""
        return addr // self.page_size % self.machine.ptrs_per_pte

    def block_start(self, addr: int) -> int:
        """Address of the first entry of the contpte block."""
        size = self.machine.cont_ptes * self.page_size
        return addr // size * size

    def table_start(self, addr: int) -> int:
        """Address that entry 0 of the leaf table maps."""
        size = self.machine.ptrs_per_pte * self.page_size
        return addr // size * size

    def has_table(self, addr: int) -> bool:
        """Whether a leaf table maps the address."""
        return addr in self.ptes

    def populate_table(self, addr: int) -> None:
        """Allocate the leaf table of an address; its entries are none."""
        first = self.table_start(addr)
        for i in range(self.machine.ptrs_per_pte):
            self.ptes.setdefault(first + i * self.page_size, 0)

    # Frames

    def page_folio(self, pfn: int) -> Folio:
        """Folio of a frame."""
        folio = self.folios.get(pfn)
        if folio is None:
            raise LayoutError(f"page frame {pfn:#x} is mapped but belongs to no folio; call set_folio() for it first")
        return folio

    # Events

    def count(self, name: str, nr: int = 1) -> None:
        """Add to a counter."""
        self.counters[name] += nr

    def event(self, kind: str, addr: int, value: int) -> None:
        """Tell the observer."""
        if self.observer is not None:
            self.observer(kind, addr, value)

    # Private verbs

    def raw_get(self, addr: int) -> int:
        """__ptep_get(): one read."""
        word = self.ptes[addr]
        self.counters["pte_reads"] += 1
        if self.observer:
            self.observer("R", addr, word)
        return word

    def raw_set(self, addr: int, word: int) -> None:
        """__set_pte_nosync(): one store."""
        self.ptes[addr] = word
        self.counters["pte_writes"] += 1
        if self.observer:
            self.observer("W", addr, word)

    def raw_get_and_clear(self, addr: int) -> int:
        """__ptep_get_and_clear(): one exchange with 0; the old word keeps its CONT."""
        word = self.ptes[addr]
        self.ptes[addr] = 0
        self.counters["pte_xchg"] += 1
        if self.observer:
            self.observer("X", addr, word)
        return word

    def raw_cmpxchg(self, addr: int, expected: int, word: int) -> int:
        """Store `word` if the entry is `expected`; returns what the entry was."""
        found = self.ptes[addr]
        self.count("pte_cmpxchg")
        if found == expected:
            self.ptes[addr] = word
            self.event("C", addr, word)
        return found

    def raw_set_ptes(self, addr: int, word: int, nr: int) -> None:
        """__set_ptes(): caches and tags once, then nr stores with the frame advancing."""
        self.count("sync_tags")
        if p.pte_present(word) and p.pte_user_exec(word) and not p.pte_special(word):
            self.count("icache_sync")
        for i in range(nr):
            self.raw_set(addr + i * self.page_size, self._advance(word, i))

    def _advance(self, word: int, nr: int) -> int:
        # A softleaf is only ever stored alone; its offset must not be taken for a frame.
        return p.pte_advance_pfn(self.page_shift, word, nr) if nr else word

    def raw_get_and_clear_full(self, addr: int, nr: int) -> int:
        """__get_and_clear_full_ptes(): the first word with AF and dirty of all nr."""
        first = self.raw_get_and_clear(addr)
        for i in range(1, nr):
            word = self.raw_get_and_clear(addr + i * self.page_size)
            if p.pte_dirty(word):
                first = p.pte_mkdirty(first)
            if p.pte_young(word):
                first = p.pte_mkyoung(first)
        return first

    def raw_wrprotect(self, addr: int, word: int) -> None:
        """Compare and exchange, from `word` on, until the entry is write-protected."""
        while (found := self.raw_cmpxchg(addr, word, p.pte_wrprotect(word))) != word:
            word = found

    def raw_set_access_flags(self, addr: int, entry: int) -> bool:
        """__ptep_set_access_flags(): merge RDONLY, AF, WRITE and DIRTY, most permissive wins (spec 3.9)."""
        old = self.raw_get(addr)
        if old == entry:
            return False
        new = old | (entry & (b.PTE_AF | b.PTE_WRITE | b.PTE_DIRTY))
        if not entry & b.PTE_RDONLY:
            new &= ~b.PTE_RDONLY
        self.raw_cmpxchg(addr, old, new)
        return True

    # Sizes

    def page_align(self, size: int) -> int:
        """PAGE_ALIGN(): up to whole pages."""
        return -(-size // self.page_size) * self.page_size

    # TLB

    def flush_tlb(self, start: int, pages: int, group: str, *, stride: int = 1) -> None:
        """Issue one flush; `group` is the counters' prefix, convert or flush."""
        self.issue(flush_sequence(self.machine, start, pages, stride=stride), group)

    def issue(self, ops: Iterable[Op], group: str = "flush") -> None:
        """Issue instructions of a flush: each is counted, barriers as one kind."""
        for op in ops:
            self.count(f"{group}_{'dsb' if op[0].startswith('DSB') else op[0].lower()}")
            self.event(*op)
