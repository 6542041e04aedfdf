"""A Hypothesis state machine over an address space: random operations, the laws after every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from .. import bits as b
from ..checker.worlds.shapes import codes
from ..checker.worlds.small import PFN0
from ..errors import StrategyError
from ..machine import Machine
from ..reference import pte as p
from ..strategies import resolve
from .adapter import PageTables
from .asserting import named
from .calls import Calls
from .judging import at_rest, parts_of
from .worlds import protections, softleaf_words

__all__ = ["MprotectMachine", "machine_of"]

_ACCESS = b.VM_READ | b.VM_WRITE | b.VM_EXEC


class MprotectMachine(Calls):
    """Random operations on an address space of three small leaf tables.

    Operations: mmap, map_folios with any pattern of exclusivity, single faults, swap
    entries and markers, mprotect, NUMA balancing, userfaultfd write-protection and its
    end, hardware updates, write faults that reuse the page, fork, mremap in place, unmap.

    After each step the core and the reference agree, in words, VMAs, return value,
    refusal, every counter and event; every law of ``ptebatch.checker.laws.rows`` holds of the call
    where it is one VMA in one table, the laws of entries hold of each table otherwise;
    and the invariants of spec 9 hold of the address space.

    Attributes
    ----------
    strategy : str, callable, capsule or Strategy
        What protection changes run. A name of the core runs in lock-step with its twin of
        the reference. Any other is compared with the per-PTE loop by the relation of
        spec 7.10, and judged by the laws.
    machine : Machine or str, optional
        Default: any small geometry, kernel and switches, drawn anew each time. Its tables
        have at most 32 entries.
    page_tables : callable, optional
        ``page_tables(machine)`` makes the `PageTables` to test, see there.
    exact : bool
        Whether their words must be those of `strategy` bit for bit; otherwise by the
        relation of spec 7.10 to it, and by the laws of entries.

    See Also
    --------
    machine_of : A subclass with these attributes.

    Examples
    --------
    ::

        class MyMachine(MprotectMachine):
            strategy = my_step
            machine = "6.17,cont_ptes=4,ptrs_per_pte=8"

        TestMyStep = MyMachine.TestCase
        TestMyStep.settings = settings(max_examples=500, stateful_step_count=30)
    """

    strategy: ClassVar[Any] = "folio"
    machine: ClassVar[Machine | str | None] = None
    page_tables: ClassVar[Callable[[Machine], PageTables] | None] = None
    exact: ClassVar[bool] = True

    # ---- arranging: computed by the core, loaded by the others ----

    @precondition(lambda self: len(self.free_pages) > 0)
    @rule(data=st.data())
    def mmap(self, data: st.DataObject) -> None:
        """Add a VMA where none is."""
        start = data.draw(st.sampled_from(self.free_pages), "start")
        room = next(i for i in range(1, len(self.free_pages) + 1) if start + i * self.page not in self.free_pages)
        self.add_vma(data, start, room)

    @precondition(lambda self: len(self.empty) > 0)
    @rule(data=st.data())
    def map_folios(self, data: st.DataObject) -> None:
        """Map folios side by side, as faults and fork leave them."""
        start = data.draw(st.sampled_from(self.empty), "start")
        vma = self.vma(start)
        assert vma is not None
        self.add_folios(data, start, vma)

    @precondition(lambda self: len(self.empty_in_tables) > 0)
    @rule(data=st.data())
    def place_softleaf(self, data: st.DataObject) -> None:
        """Swap, a marker, a migration entry or the zero page, where nothing is."""
        addr = data.draw(st.sampled_from(self.empty_in_tables), "address")
        vma = self.vma(addr)
        assert vma is not None
        frame = self.free_heads(0, 1, data)
        words = softleaf_words(self.m, frame[0] if frame else None)
        if vma.anonymous and vma.flags & _ACCESS == b.VM_READ | b.VM_WRITE:
            words |= st.just(codes(self.m)["zero"].word | b.PTE_AF)
        word = data.draw(words, "word")
        at = addr // self.space.size * self.space.size
        table = list(self.space.tables()[at])
        table[(addr - at) // self.page] = word
        if frame and word >> b.SWP_OFFSET_SHIFT & (1 << 20) - 1 == frame[0]:
            self.space.core.set_folio(frame[0], 0, anon=vma.anonymous)
        self.load(at, tuple(table))

    # ---- acting: done by all, compared ----

    @rule(data=st.data(), prot=protections())
    def mprotect(self, data: st.DataObject, prot: int) -> None:
        """mprotect(2): of one VMA or a part, and of any range, holes and all."""
        before = self.space.vmas
        vma = data.draw(st.sampled_from([*before, *before, None]), "VMA")
        start, nr = self.range_in(data, *((vma.start, vma.end) if vma else (self.space.base - self.page, self.end)))
        self.call(
            "mprotect", (start, nr * self.page, prot), {},
            lambda: parts_of(self.m, before, self.space.vmas, start, start + nr * self.page),
        )  # fmt: skip

    @precondition(lambda self: any(vma.flags & _ACCESS for vma in self.space.vmas))
    @rule(data=st.data())
    def numa_balancing(self, data: st.DataObject) -> None:
        """change_prot_numa() of a part of a VMA."""
        vma = data.draw(st.sampled_from([vma for vma in self.space.vmas if vma.flags & _ACCESS]), "VMA")
        none = b.PAGE_NONE & ~b.PTE_SHARED if self.m.lpa2 else b.PAGE_NONE
        self.change_vma(data, vma, none, b.MM_CP_PROT_NUMA)

    @precondition(lambda self: any(vma.flags & b.VM_UFFD_WP for vma in self.space.vmas))
    @rule(data=st.data(), resolve=st.booleans())
    def userfaultfd(self, data: st.DataObject, resolve: bool) -> None:
        """Write-protect a part of an armed VMA, or end that."""
        vma = data.draw(st.sampled_from([vma for vma in self.space.vmas if vma.flags & b.VM_UFFD_WP]), "VMA")
        notified = not vma.page_prot & b.PTE_WRITE  # a shared mapping in which the first write faults
        upgrade = vma.flags & b.VM_WRITE and (notified or not vma.flags & b.VM_SHARED)
        resolved = b.MM_CP_UFFD_WP_RESOLVE | b.MM_CP_TRY_CHANGE_WRITABLE * bool(upgrade)
        self.change_vma(data, vma, vma.page_prot, resolved if resolve else b.MM_CP_UFFD_WP)

    @rule(data=st.data(), write=st.booleans())
    def hw_update(self, data: st.DataObject, write: bool) -> None:
        """Hardware sets AF of an entry, or dirty."""
        self.verb(data, "hw_update", lambda addr, word: p.pte_valid(word) and self.m.hafdbs, write)

    @rule(data=st.data())
    def reuse(self, data: st.DataObject) -> None:
        """A write fault that keeps the page."""

        def may(addr: int, word: int) -> bool:
            vma = self.vma(addr)
            own = vma and vma.flags & b.VM_WRITE and (vma.anonymous or vma.flags & b.VM_SHARED)
            waits = vma and vma.flags & b.VM_UFFD_WP and p.pte_uffd(word)
            return bool(own) and not waits and p.pte_valid(word) and not p.pte_special(word)

        self.verb(data, "reuse", may)

    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        """Fork shares some pages of a folio: they are no longer exclusive, and read-only."""
        found = self.batch(data, lambda addr, word: p.pte_valid(word) and not self.shared(addr))
        if found:
            addr, nr, pfn = found
            for space in (self.space.core, self.space.ref):
                if self.space.pages[pfn - PFN0] & b.PG_ANON:
                    space.set_page_anon_exclusive(pfn, nr, False)
            self.verbs(("wrprotect_ptes", addr, nr))

    @rule(data=st.data())
    def move(self, data: st.DataObject) -> None:
        """mremap() in place: clear some pages of a folio, and set them again."""
        found = self.batch(data, lambda addr, word: p.pte_valid(word))
        if found:
            addr, nr, _ = found
            word = self.space.word(addr) & ~b.PTE_CONT
            self.verbs(("clear_full_ptes", addr, nr), ("set_ptes", addr, word, nr))

    @rule(data=st.data())
    def unmap(self, data: st.DataObject) -> None:
        """Zap some pages of a folio, or one entry that is not present."""
        addr = self.some(data, [at for at, word in self.entries() if word and not p.pte_present(word)])
        if addr and data.draw(st.booleans(), "not present"):
            self.verbs(("clear_full_ptes", addr, 1))
            return
        found = self.batch(data, lambda addr, word: True)
        if found:
            self.verbs(("clear_full_ptes", *found[:2]))

    @rule(data=st.data())
    def fault(self, data: st.DataObject) -> None:
        """Map the next page of the folio that ends before an empty entry: it may complete a block."""

        def free(addr: int) -> bool:
            word = self.space.word(addr - self.page)
            vma, pfn = self.vma(addr), p.pte_pfn(self.m.page_shift, word)
            fits = p.pte_valid(word) and not p.pte_special(word) and vma is not None and vma is self.vma(addr - self.page, vma)
            return bool(fits and not self.space.word(addr) and self.one_folio(pfn, pfn + 1) and pfn + 1 not in self.mapped())

        addr = self.some(data, [at for at, _ in self.entries() if at % self.space.size and free(at)])
        if addr:
            word = p.pte_advance_pfn(self.m.page_shift, self.space.word(addr - self.page) & ~b.PTE_CONT, 1)
            page = self.space.pages[p.pte_pfn(self.m.page_shift, word) - PFN0]
            if not self.shared(addr) and not page & b.PG_ANON_EXCLUSIVE:
                word = p.pte_wrprotect(word)
            self.verbs(("set_ptes", addr, word, 1))

    # ---- laws ----

    @invariant()
    @precondition(lambda self: hasattr(self, "space"))
    def at_rest(self) -> None:
        """The invariants of spec 9."""
        broken = at_rest(self.m, self.space.vmas, self.space.tables(), self.space.pages)
        assert broken is None, broken


def machine_of(
    strategy: Any = "folio",
    *,
    machine: Machine | str | None = None,
    page_tables: Callable[[Machine], PageTables] | None = None,
    exact: bool = True,
) -> type[MprotectMachine]:
    """Return an `MprotectMachine` that tests a strategy, or page tables.

    Parameters
    ----------
    strategy, machine, page_tables, exact
        See `MprotectMachine`.

    Returns
    -------
    type
        Its ``TestCase`` is collected by pytest and unittest.

    Examples
    --------
    >>> from hypothesis import settings
    >>> from hypothesis.stateful import run_state_machine_as_test
    >>> few = settings(max_examples=3, stateful_step_count=5, database=None)
    >>> run_state_machine_as_test(machine_of("lookahead", machine="6.17,cont_ptes=4,ptrs_per_pte=8"), settings=few)
    """
    made = Machine.parse(machine) if isinstance(machine, str) else machine
    if made is not None and made.ptrs_per_pte > 32:
        raise StrategyError(f"machine {made} has tables of {made.ptrs_per_pte} entries; give a small geometry, at most 32")
    resolve(named(strategy))
    body = {"strategy": strategy, "machine": made, "page_tables": page_tables, "exact": exact, "__doc__": MprotectMachine.__doc__}
    return type("MprotectMachine", (MprotectMachine,), body)
