"""RefMM: the address space of the reference, with the low-level doors of ``ptebatch.MM``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from .. import bits as b
from ..counters import COUNTERS
from ..errors import LayoutError, MprotectError, StrategyError, closest
from . import pte as p
from .change_protection import Record, Walk
from .folio_batch import Pages
from .mmu import Folio, Observer
from .mprotect import Limits, Mprotect, Refused
from .result import RefResult, runs
from .strategies import DESIGNS, Design, Step
from .vma import RefVma, VmaList, new_shared_file, page_prot_of


@dataclass(eq=False, repr=False)
class RefMM(Pages):
    """An address space, word by word.

    Attributes
    ----------
    machine : Machine
    ptes : dict of int to int
        Raw PTE word by address, for every entry of every table; write to it to set a state.
    observer : callable or None
        Called ``observer(kind, address, value)`` for every event in program order, with
        the kinds of ``ptebatch.events``.
    limits : Limits
        Pages that mprotect() is limited by.
    pkeys : set of int
        Allocated protection keys.

    Notes
    -----
    Slow on purpose: each rule stands once, close to how the specification says it, so
    that the compiled core has something to be compared with.
    """

    vma_list: VmaList = field(init=False)
    limits: Limits = field(default_factory=Limits)
    pkeys: set[int] = field(default_factory=lambda: {0})

    def __post_init__(self) -> None:
        """Start without VMAs."""
        self.vma_list = VmaList(self.machine)

    def copy(self) -> RefMM:
        """An independent copy, without the observer."""
        other = RefMM(self.machine, dict(self.ptes), dict(self.folios), set(self.anon_exclusive))
        other.vma_list = self.vma_list.copy()
        other.limits = replace(self.limits)
        other.pkeys = set(self.pkeys)
        return other

    # Frames and tables

    def set_folio(
        self, head_pfn: int, order: int, *, anon: bool = True, numa_skip: bool = False, mapped_shared: bool = False
    ) -> None:
        """Make 2^order pages from head_pfn one folio; no page of it is exclusive yet."""
        if not 0 <= order <= self.machine.pmd_order or head_pfn % (1 << order):
            raise LayoutError(
                f"folio of order {order} at frame {head_pfn:#x} cannot be; "
                f"give an order up to {self.machine.pmd_order} and a naturally aligned frame"
            )
        folio = Folio(head_pfn, order, anon, numa_skip, mapped_shared)
        for pfn in range(head_pfn, head_pfn + folio.nr):
            self.folios[pfn] = folio
            self.anon_exclusive.discard(pfn)

    def set_page_anon_exclusive(self, pfn: int, nr: int = 1, on: bool = True) -> None:
        """Set or clear PageAnonExclusive of nr pages from pfn on."""
        for each in range(pfn, pfn + nr):
            if each not in self.folios or not self.folios[each].anon:
                raise LayoutError(f"frame {each:#x} is not a page of an anonymous folio; call set_folio(..., anon=True) first")
            (self.anon_exclusive.add if on else self.anon_exclusive.discard)(each)

    def populate(self, start: int, length: int) -> None:
        """Allocate the leaf tables of a range; entries are none."""
        self._aligned(start, length)
        for addr in range(start, start + length, self.page_size):
            if not self.has_table(addr):
                self.populate_table(addr)

    def _aligned(self, start: int, length: int) -> None:
        if start % self.page_size or length % self.page_size or start < 0 or length <= 0:
            size = self.page_size
            raise LayoutError(f"start={start:#x}, length={length:#x} is no range of whole pages of {size:#x} bytes; round it")

    # State-building verbs that are not part of mprotect

    def set_pte_at(self, addr: int, word: int) -> None:
        """set_pte_at(): one entry."""
        self.set_ptes(addr, word, 1)

    def clear_full_ptes(self, addr: int, nr: int = 1) -> None:
        """clear_full_ptes(), what munmap does."""
        self.get_and_clear_full_ptes(addr, nr)

    def hw_update(self, addr: int, write: bool = False) -> None:
        """Hardware sets AF of this one descriptor and, for a write through DBM, clears RDONLY (spec 8.9)."""
        word = self.ptes[addr]
        if p.pte_valid(word):
            word |= b.PTE_AF
            if write and p.pte_write(word):
                word &= ~b.PTE_RDONLY
            self.ptes[addr] = word

    def reuse(self, addr: int) -> None:
        """Write fault that reuses a page: it becomes writable and, if anonymous, PageAnonExclusive (spec 8.3)."""
        word = self.ptep_get(addr)
        pfn = p.pte_pfn(self.page_shift, word)
        if self.page_folio(pfn).anon:
            self.anon_exclusive.add(pfn)
        self.ptep_set_access_flags(addr, p.pte_mkwrite(p.pte_mkdirty(p.pte_mkyoung(word))))

    # VMAs

    def vmas(self) -> list[RefVma]:
        """The VMAs in address order."""
        return list(self.vma_list.vmas)

    def mmap(self, start: int, length: int, prot: int, **what: Any) -> None:
        """Add a VMA; `what` is as for `vma_of`, and as ``ptebatch.MM.mmap`` has it."""
        self.add_vma(self.vma_of(start, length, prot, **what))

    def vma_of(
        self,
        start: int,
        length: int,
        prot: int,
        *,
        shared: bool = False,
        file: int = 0,
        pgoff: int | None = None,
        vm_flags: int = 0,
        may: int = 7,
        writenotify: bool = False,
        anon_vma: int = 0,
        name: int = 0,
    ) -> RefVma:
        """The VMA that a mapping becomes; its page protection comes when it is added."""
        self._aligned(start, length)
        flags = prot | may << 4 | vm_flags
        if shared:
            flags |= b.VM_SHARED | b.VM_MAYSHARE
            if not file:
                file, pgoff = new_shared_file(), 0
        elif prot & b.PROT_WRITE and not vm_flags & b.VM_NORESERVE:
            # Private writable memory is charged when it is mapped.
            flags |= b.VM_ACCOUNT
        if pgoff is None:
            pgoff = start >> self.machine.page_shift
        return RefVma(start, start + length, flags, 0, pgoff, file, anon_vma, writenotify, name)

    def add_vma(self, vma: RefVma) -> None:
        """Add a VMA as it is; its page protection follows from its flags."""
        prot = page_prot_of(self.machine, vma, vma.flags)
        self.vma_list.insert(replace(vma, page_prot=prot))

    # Calls

    def change_protection(
        self,
        start: int,
        nr: int,
        *,
        newprot: int,
        cp_flags: int = 0,
        vm_flags: int,
        anon: bool = True,
        strategy: str | Step = "folio",
        observer: Observer | None = None,
    ) -> RefResult:
        """change_protection() of one VMA's range, with one gather and its flush.

        Parameters
        ----------
        start : int
            Address.
        nr : int
            Pages.
        newprot, cp_flags, vm_flags : int
            New page protection word, MM_CP_* flags, VMA flags at the time of the call.
        anon : bool
            vma_is_anonymous().
        strategy : str or callable
            A name of `DESIGNS`, or a step function over a `Window`.
        observer : callable, optional
            Sees this call's events.

        Returns
        -------
        RefResult

        Raises
        ------
        LayoutError, StrategyError
            Bad arguments, or a step that broke its contract: the tables are as they were.
        """
        self._aligned(start, nr * self.page_size)

        def call(record: Record) -> None:
            walk = Walk(self, newprot=newprot, cp_flags=cp_flags, vm_flags=vm_flags, anon=anon, design=design, record=record)
            walk.change_protection(start, start + nr * self.page_size)

        design = design_of(strategy)
        return self._run(call, observer)

    def mprotect(
        self,
        start: int,
        length: int,
        prot: int,
        *,
        strategy: str | Step = "folio",
        pkey: int = -1,
        observer: Observer | None = None,
    ) -> RefResult:
        """mprotect(2) or pkey_mprotect(2).

        Raises
        ------
        MprotectError
            What was changed before stays changed and is in its ``result`` (spec 6.2).
        """
        design = design_of(strategy)
        refused: list[Refused] = []

        def call(record: Record) -> None:
            def walk(vma: RefVma, low: int, high: int, newprot: int, cp_flags: int) -> None:
                part = Walk(
                    self, newprot=newprot, cp_flags=cp_flags, vm_flags=vma.flags, anon=vma.anonymous, design=design, record=record
                )
                part.change_protection(low, high)

            self.vma_list.splits = self.vma_list.merges = 0
            try:
                Mprotect(self.machine, self.vma_list, self.limits, self.pkeys, walk)(start, length, prot, pkey)
            except Refused as why:
                refused.append(why)
            self.count("vma_splits", self.vma_list.splits)
            self.count("vma_merges", self.vma_list.merges)

        result = self._run(call, observer)
        for why in refused:
            raise MprotectError(why.errno, why.reason, why.addr, result)
        return result

    def _run(self, call: Callable[[Record], None], observer: Observer | None) -> RefResult:
        record = Record()
        before = (dict(self.ptes), self.vma_list.copy(), self.observer)
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.convert_flushes = []
        self.cleared = {}
        self.observer = observer or self.observer
        try:
            call(record)
        except BaseException:
            self.ptes, self.vma_list = before[0], before[1]
            raise
        finally:
            self.observer = before[2]
        return RefResult(
            record.pages, dict(self.counters), runs(record.batches), runs(record.subs), list(self.convert_flushes), record.gathers
        )


def design_of(strategy: str | Step) -> Design:
    """The design of a name, or of a step function.

    Raises
    ------
    StrategyError
        An unknown name.
    """
    if callable(strategy):
        return Design(strategy)
    if strategy not in DESIGNS:
        raise StrategyError(f"strategy {strategy!r} is unknown; {closest(str(strategy), list(DESIGNS))}")
    return DESIGNS[strategy]
