"""The address space that `MprotectMachine` runs on: how it begins, what is in it, and how more is put there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize

from .. import bits as b
from ..checker.worlds.small import PFN0
from ..machine import Machine
from ..reference import DESIGNS, RefVma
from ..reference import pte as p
from ..strategies import resolve
from .adapter import FRAMES, PageTables
from .asserting import named
from .judging import Table
from .lockstep import Lockstep
from .worlds import exclusivity, machines

__all__ = ["Ground"]

_TABLES = 3


class Ground(RuleBasedStateMachine):
    """State and arrangements: the core computes them, the others load them."""

    strategy: ClassVar[Any] = "folio"
    machine: ClassVar[Machine | str | None] = None
    page_tables: ClassVar[Callable[[Machine], PageTables] | None] = None
    exact: ClassVar[bool] = True

    space: Lockstep
    mine: PageTables | None = None

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        """An address space of a few VMAs, mostly mapped; two or three of its tables exist."""
        given = type(self).machine
        machine = Machine.parse(given) if isinstance(given, str) else given or data.draw(machines(), "machine")
        size = machine.ptrs_per_pte * machine.page_size
        self.m, self.page = machine, machine.page_size
        self.space = Lockstep(machine, -(-(1 << 30) // size) * size, _TABLES)
        self.end = self.space.base + _TABLES * size
        self.core_strategy = named(type(self).strategy)
        self.twin = self.core_strategy if isinstance(self.core_strategy, str) and self.core_strategy in DESIGNS else None
        self.name = resolve(self.core_strategy).name
        make = type(self).page_tables
        self.mine = make(machine) if make else None
        for at in data.draw(st.sampled_from([self.space.places, self.space.places[:2]]), "tables"):
            self.load(at, (0,) * machine.ptrs_per_pte)
        at = self.space.base + self.page * data.draw(st.sampled_from([0, 0, 0, 1, 3]), "hole")
        while at < self.end:
            self.add_vma(data, at, (self.end - at) // self.page)
            vma = self.space.vmas[-1]
            at = vma.start
            while at < vma.end:
                at += self.page * (self.add_folios(data, at, vma) or vma.end)
                at += self.page * data.draw(st.sampled_from([0] * 6 + [1]), "hole")
            at = vma.end + self.page * data.draw(st.sampled_from([0] * 6 + [1]), "hole")

    def add_vma(self, data: st.DataObject, start: int, room: int) -> None:
        """A VMA of at most `room` pages from `start` on."""
        nr = data.draw(st.sampled_from([room, data.draw(st.integers(1, room))]), "pages")
        kind = data.draw(st.sampled_from(["anon"] * 5 + ["file", "shared", "notify"]), "kind")
        how: dict[str, Any] = {"vm_flags": data.draw(st.sampled_from([0, 0, 0, b.VM_UFFD_WP]), "vm_flags")}
        if kind != "anon":
            how |= {"file": data.draw(st.integers(1, 2)), "shared": kind != "file", "writenotify": kind == "notify"}
        else:
            how["name"] = int(nr % 4 == 3)
        self.space.core.mmap(start, nr * self.page, data.draw(st.sampled_from([3, 3, 1, 1, 0, 5, 7]), "prot"), **how)
        self.space.adopt()

    def add_folios(self, data: st.DataObject, start: int, vma: RefVma) -> int:
        """Folios of one order from `start` on; returns the pages that they take, 0: there are no frames."""
        room = next(i for i in range(1, FRAMES) if start + i * self.page >= vma.end or self.space.word(start + i * self.page))
        block = self.m.cont_ptes.bit_length() - 1
        order = data.draw(st.sampled_from([block, self.m.pmd_order, *range(self.m.pmd_order + 1)]), "order")
        skip = data.draw(st.sampled_from([0, 0, data.draw(st.integers(0, (1 << order) - 1))]), "skip")
        nr = min(room, data.draw(st.sampled_from([(1 << order) - skip, room, data.draw(st.integers(1, room))]), "pages"))
        heads = self.free_heads(order, -(-(skip + nr) // (1 << order)), data)
        if heads is None:
            return 0
        own = data.draw(st.just([True] * nr) | exclusivity(nr), "exclusive") if vma.anonymous else None
        young, fold = data.draw(st.booleans(), "young"), data.draw(st.sampled_from([True, True, True, False]), "fold")
        self.space.core.map_folios(
            start, nr, order, heads=heads, skip=skip, exclusive=own, anon=vma.anonymous, young=young, fold=fold,
            dirty=data.draw(st.booleans(), "dirty"),
            numa_skip=data.draw(st.sampled_from([False, False, False, True]), "numa_skip"),
            mapped_shared=data.draw(st.booleans(), "mapped_shared"),
        )  # fmt: skip
        self.arranged()
        return int(nr)

    # ---- the state ----

    def load(self, at: int, words: Table) -> None:
        """Make these the words of a table, everywhere."""
        self.space.load(at, words)
        self.arranged()

    def arranged(self) -> None:
        """The core was arranged: let the others follow."""
        self.space.adopt()
        if self.mine is not None:
            self.mine.set_pages(PFN0, bytes(self.space.pages))
            for at, words in self.space.tables().items():
                self.mine.load(at, words)

    def entries(self) -> list[tuple[int, int]]:
        """Address and word of every entry."""
        return [(at + i * self.page, word) for at, words in self.space.tables().items() for i, word in enumerate(words)]

    @property
    def free_pages(self) -> list[int]:
        """Addresses in no VMA."""
        taken = [range(vma.start, vma.end) for vma in self.space.vmas]
        return [at for at in range(self.space.base, self.end, self.page) if not any(at in vma for vma in taken)]

    @property
    def empty(self) -> list[int]:
        """Addresses of VMAs where nothing is mapped."""
        return [at for vma in self.space.vmas for at in range(vma.start, vma.end, self.page) if not self.space.word(at)]

    @property
    def empty_in_tables(self) -> list[int]:
        """Those that have a table."""
        return [at for at in self.empty if self.space.ref.has_table(at)]

    def vma(self, addr: int, like: RefVma | None = None) -> RefVma | None:
        """The VMA of an address; `like` itself if it is that one."""
        found = next((vma for vma in self.space.vmas if vma.start <= addr < vma.end), None)
        return like if like is not None and found == like else found

    def shared(self, addr: int) -> bool:
        """Whether an address lies in a shared mapping."""
        vma = self.vma(addr)
        return vma is not None and bool(vma.flags & b.VM_SHARED)

    def mapped(self) -> set[int]:
        """Frames that an entry maps, and those of migration entries."""
        shift, read = self.m.page_shift, self.m.swp_migration_read
        found = set()
        for _, word in self.entries():
            if p.pte_present(word):
                found.add(p.pte_pfn(shift, word))
            elif word and read <= p.swp_type(word) <= read + 2:
                found.add(p.softleaf_pfn(shift, word))
        return found

    def free_heads(self, order: int, nr: int, data: st.DataObject) -> list[int] | None:
        """Heads of `nr` folios whose frames nothing maps and that no mapped folio covers; None: too few."""
        taken: set[int] = set()
        for pfn in self.mapped():
            at = pfn - PFN0
            if 0 <= at < FRAMES:
                span = self.space.pages[at] & b.PG_ORDER_MASK
                taken |= set(range(at >> span << span, (at >> span << span) + (1 << span)))
        size = 1 << order
        free = [head for head in range(0, FRAMES, size) if taken.isdisjoint(range(head, head + size))]
        if len(free) < nr:
            return None
        first = data.draw(st.integers(0, min(3, len(free) - nr)), "free folio")
        return [PFN0 + head for head in free[first : first + nr]]

    def some(self, data: st.DataObject, choices: list[Any]) -> Any:
        """One of a list; None if it is empty."""
        return data.draw(st.sampled_from(choices), "which") if choices else None

    def range_in(self, data: st.DataObject, low: int, high: int) -> tuple[int, int]:
        """Start and pages of a range; often all of it."""
        total = (high - low) // self.page
        first = data.draw(st.sampled_from([0, data.draw(st.integers(0, total - 1))]), "first page")
        nr = data.draw(st.sampled_from([total - first, data.draw(st.integers(1, total - first))]), "pages")
        return low + first * self.page, nr

    def one_folio(self, pfn: int, other: int) -> bool:
        """Whether two frames lie in one folio."""
        folios = self.space.ref.folios
        return pfn in folios and folios[pfn] is folios.get(other)

    def batch(self, data: st.DataObject, may: Callable[[int, int], bool]) -> tuple[int, int, int] | None:
        """Address, pages and first frame of consecutive present pages of one folio, in one table and alike."""
        shift = self.m.page_shift
        usable = {at: w for at, w in self.entries() if p.pte_present(w) and not p.pte_special(w) and may(at, w)}
        addr = self.some(data, list(usable))
        if addr is None:
            return None
        first, nr = p.pte_pfn(shift, usable[addr]), 1
        loose = b.PTE_CONT
        while True:
            at = addr + nr * self.page
            word = usable.get(at)
            if word is None or at % self.space.size == 0 or self.vma(at) != self.vma(addr):
                break
            want = p.pte_advance_pfn(shift, usable[addr], nr)
            if (word ^ want) & ~loose or not self.one_folio(first, first + nr):
                break
            nr += 1
        return addr, data.draw(st.integers(1, nr), "pages"), first
