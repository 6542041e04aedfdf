"""LiveMM: an address space that lives: its page tables are made by faults, fork and advice.

`RefMM` is a table that somebody draws; here frames are allocated and given back, and
each call is that of a process. The calls stand in files named as the kernel's.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from .. import bits as b
from ..counters import COUNTERS
from ..errors import LayoutError, MprotectError, SyscallError
from ..machine import Machine
from . import pte as p
from .change_protection import Record, Walk
from .fault import access
from .filemap import Inode
from .frames import Buddy, Frames
from .huge_memory import as_pte, change_huge_pmd, huge_folio, split_huge_pmd
from .madvise import do_madvise
from .mlock import check_populated, do_mlock, do_mseal, do_munlock
from .mm import RefMM, design_of
from .mmap import do_brk, do_mmap, do_mmap_free, do_munmap, dup_mmap, exit_mmap
from .mmu import Folio, Observer
from .mprotect import Mprotect, Refused
from .mremap import do_mremap
from .result import RefResult, runs
from .strategies import Step
from .task_mmu import clear_refs
from .tlb import flush_local_sequence, flush_mm_sequence, flush_nosync_sequence, flush_sequence, flush_wait_sequence
from .userfaultfd import register, writeprotect
from .vma import RefVma

#: what is counted besides ``ptebatch.counters.COUNTERS``
LIVE_COUNTERS = (
    "faults",
    "wp_page_reuse",
    "wp_page_copy",
    "zap_batches",
    "copy_batches",
    "move_batches",
    "pmd_splits",
    "folio_splits",
    "tables_allocated",
    "tables_freed",
    "flush_vae1is",
    "flush_rvae1is",
    "flush_vale1",
    "flush_rvale1",
)


@dataclass(frozen=True, slots=True)
class Thp:
    """Sizes of folios that anonymous memory may get, as in /sys/kernel/mm/transparent_hugepage.

    Attributes
    ----------
    always, madvise : frozenset of int
        Orders that every VMA may get, and those that it must have asked for.
    use_zero_page : bool
        The first read of a range of a PMD's size maps the huge zero page; else it gets a folio.
    """

    always: frozenset[int] = frozenset()
    madvise: frozenset[int] = frozenset()
    use_zero_page: bool = True

    @classmethod
    def only(cls, order: int) -> Thp:
        """One size for every VMA; 0: none but single pages."""
        return cls(frozenset({order} if order else ()))

    def of(self, flags: int) -> frozenset[int]:
        """Orders that a VMA with these flags may get."""
        if flags & b.VM_NOHUGEPAGE:
            return frozenset()
        return self.always | (self.madvise if flags & b.VM_HUGEPAGE else frozenset())


@dataclass(eq=False, repr=False)
class LiveMM(RefMM):
    """An address space on a machine's frames.

    Attributes
    ----------
    frames : Frames
        Shared with those that were forked from it.
    thp : Thp
    pmds : dict of int to int
        Words of PMD entries that map a folio, by their first address.
    mm_id : int
        Tells address spaces apart.
    above : set of (int, int)
        Tables above the leaf tables: bytes that each is for, and its first address.
    flush_pending : bool
        A deferred flush was issued and not waited for: the next walk of a table flushes first.
    mmap_base : int
        Below it mappings are placed that say no place; 0: 128 MiB below the end of the address space.
    stack_limit : int
        Bytes that a VMA that grows down becomes at most (RLIMIT_STACK).
    start_brk, brk_end : int
        Where the heap begins, and its end as brk(2) has it.
    files : dict of int to Inode
        By the number that a VMA names; those that were forked from each other share it.
    """

    frames: Frames = field(default_factory=lambda: Frames(Buddy(0, 1 << 16, 9)))
    thp: Thp = field(default_factory=Thp)
    pmds: dict[int, int] = field(default_factory=dict)
    mm_id: int = 0
    above: set[tuple[int, int]] = field(default_factory=set)
    flush_pending: bool = False
    mmap_base: int = 0
    stack_limit: int = 8 << 20
    start_brk: int = 0
    brk_end: int = 0
    files: dict[int, Inode] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Stand on the frames."""
        super().__post_init__()
        self.folios = self.frames.folios
        self.anon_exclusive = self.frames.anon_exclusive
        self.mm_id = 1 + max((mm.mm_id for mm in self.frames.mms), default=0)
        self.frames.mms.append(self)
        self.vma_list.split_at = self._split_huge_at
        self.mmap_base = self.mmap_base or (1 << self.machine.va_bits) - (128 << 20)
        self.counters |= dict.fromkeys(LIVE_COUNTERS, 0)

    @classmethod
    def make(
        cls, machine: Machine, *, memory: int = 0, thp: Thp | None = None, fragmentation: float = 0.0, seed: int = 0
    ) -> LiveMM:
        """An empty address space on a machine of its own.

        Parameters
        ----------
        machine : Machine
        memory : int
            Pages of memory; default: 64 of the largest folios.
        thp : Thp
        fragmentation, seed
            See `Buddy`.
        """
        largest = 1 << machine.pmd_order
        buddy = Buddy(0, memory or 64 * largest, machine.pmd_order, fragmentation=fragmentation, seed=seed)
        return cls(machine, frames=Frames(buddy), thp=thp or Thp())

    def copy(self) -> LiveMM:
        """Refuse: its frames are shared; fork() makes another one."""
        raise LayoutError("an address space that lives cannot be copied, its frames are shared; use fork()")

    # What is mapped

    def zero_pte(self, prot: int) -> int:
        """Entry of the zero page."""
        return p.pte_mkspecial(p.pfn_pte(self.page_shift, self.frames.zero_pfn, prot))

    @property
    def pmd_size(self) -> int:
        """Bytes that a PMD entry maps."""
        return self.page_size * self.machine.ptrs_per_pte

    def mapped_pfn(self, addr: int) -> int | None:
        """Frame of a folio that a leaf entry maps; None: none, or none with a page."""
        word = self.ptes.get(addr, 0)
        if not p.pte_present(word) or p.pte_special(word):
            return None
        return p.pte_pfn(self.page_shift, word)

    def maps(self, addr: int, folio: Folio) -> bool:
        """Whether the leaf entry maps a page of the folio."""
        pfn = self.mapped_pfn(addr)
        return pfn is not None and folio.head <= pfn < folio.head + folio.nr

    def huge_heads(self) -> Iterator[int]:
        """First frames of the folios that PMD entries map."""
        for word in self.pmds.values():
            folio = huge_folio(self, word)
            if folio is not None:
                yield folio.head

    def tables_above(self, addr: int) -> Iterator[tuple[int, int]]:
        """Tables that lead to an address, from that of PMDs on up: bytes that each is for, and its first address."""
        size = self.pmd_size * self.machine.ptrs_per_pte
        while size < 1 << self.machine.va_bits:
            yield size, addr // size * size
            size *= self.machine.ptrs_per_pte

    def alloc_above(self, addr: int, *, skip: int = 0) -> None:
        """A table of PMDs for an address, and those above it: each one's entry is stored, and a barrier follows.

        The lowest `skip` of them are not made.
        """
        for table in itertools.islice(self.tables_above(addr), skip, None):
            if table not in self.above:
                self.above.add(table)
                self.count("tables_allocated")
                self.barrier()

    def alloc_table(self, addr: int) -> None:
        """A leaf table for an address, if there is none: the entry above it is stored, and a barrier follows."""
        if not self.has_table(addr):
            self.alloc_above(addr)
            self.populate_table(addr)
            self.count("tables_allocated")
            self.barrier()

    def free_table(self, addr: int) -> None:
        """The leaf table of an address is not needed any more."""
        first = self.table_start(addr)
        for i in range(self.machine.ptrs_per_pte):
            del self.ptes[first + i * self.page_size]
        self.count("tables_freed")

    # Flushes and barriers

    def barrier(self) -> None:
        """What set_pmd() ends with."""
        self.issue([("DSB ISHST", 0, 0)])

    def flush_range(self, start: int, end: int, *, leaf: bool = True, stride: int = 1) -> None:
        """__flush_tlb_range()."""
        self.issue(flush_sequence(self.machine, start, (end - start) // self.page_size, leaf=leaf, stride=stride))

    def flush_pmd(self, first: int) -> None:
        """flush_pmd_tlb_range() of one entry."""
        self.flush_range(first, first + self.pmd_size, leaf=False, stride=self.machine.ptrs_per_pte)

    def flush_page(self, addr: int) -> None:
        """flush_tlb_page()."""
        self.flush_range(addr, addr + self.page_size)

    def flush_mm(self) -> None:
        """flush_tlb_mm()."""
        self.issue(flush_mm_sequence(self.machine))

    def flush_local(self, addr: int, pages: int = 1, *, stride: int = 1) -> None:
        """local_flush_tlb_page() and its like."""
        self.issue(flush_local_sequence(self.machine, addr, pages, stride=stride))

    def wait_for_flush(self) -> None:
        """try_to_unmap_flush()."""
        self.issue(flush_wait_sequence(self.machine))

    def flush_page_later(self, addr: int) -> None:
        """set_tlb_ubc_flush_pending(): issued now, waited for by `wait_for_flush`."""
        self.issue(flush_nosync_sequence(self.machine, addr, 1))
        self.flush_pending = True

    def flush_batched_pending(self) -> None:
        """flush_tlb_batched_pending(): whoever walks a table must not rely on what is still in flight."""
        if self.flush_pending:
            self.flush_pending = False
            self.flush_mm()

    # Calls

    def run(self, call: Callable[[Record], int | None], error: type[SyscallError] = SyscallError) -> RefResult:
        """Run a call: counters and logs from nothing, `pages` is what it returns.

        Raises
        ------
        SyscallError
            What the call refuses; what was done before stays done.
        """
        record = Record()
        self.counters = dict.fromkeys((*COUNTERS, *LIVE_COUNTERS), 0)
        self.convert_flushes = []
        self.cleared = {}
        self.vma_list.splits = self.vma_list.merges = 0
        refused: Refused | None = None
        try:
            record.pages = call(record) or record.pages
        except Refused as why:
            refused = why
        self.count("vma_splits", self.vma_list.splits)
        self.count("vma_merges", self.vma_list.merges)
        result = RefResult(
            record.pages, dict(self.counters), runs(record.batches), runs(record.subs), list(self.convert_flushes), record.gathers
        )
        if refused is not None:
            raise error(refused.errno, refused.reason, refused.addr, result)
        return result

    def _split_huge_at(self, addr: int) -> None:
        """vma_adjust_trans_huge(): a VMA begins or ends at `addr` from now on."""
        first = self.table_start(addr)
        if addr != first and first in self.pmds:
            split_huge_pmd(self, first)

    def change_pmd(self, walk: Walk, start: int, end: int) -> bool:
        """change_pmd_range() of one PMD entry; False: leaf entries are to be changed."""
        first = self.table_start(start)
        if first not in self.pmds:
            return False
        if start == first and end == first + self.pmd_size:
            change_huge_pmd(self, walk, first)
            return True
        split_huge_pmd(self, first)
        return False

    def vmas_in(self, start: int, end: int) -> list[RefVma]:
        """VMAs that meet a range."""
        return [vma for vma in self.vma_list.vmas if vma.start < end and vma.end > start]

    def vma_at(self, addr: int) -> RefVma | None:
        """VMA of an address."""
        return next(iter(self.vmas_in(addr, addr + 1)), None)

    def change_flags(self, start: int, end: int, flags: Callable[[RefVma], int]) -> None:
        """Give the VMAs of a range other flags: split and merged, page protection as before."""
        addr = start
        while (vma := self.vma_list.find(addr)) is not None and vma.start < end:
            low, high = max(vma.start, addr), min(vma.end, end)
            new = flags(vma)
            if new != vma.flags:
                vma = self.vma_list.modify(vma, low, high, new)
                vma = self.vma_list.put(vma, replace(vma, flags=new | (vma.flags & self.vma_list.sticky)))
            addr = max(high, vma.end)

    def need_range(self, start: int, end: int) -> None:
        """Refuse a range with holes: ENOMEM."""
        addr = start
        for vma in self.vmas_in(start, end):
            if vma.start > addr:
                break
            addr = vma.end
        if addr < end:
            raise Refused(errno.ENOMEM, addr, f"nothing is mapped at {addr:#x}")

    def is_there(self, addr: int, *, write: bool) -> bool:
        """Whether an access to a page needs no fault, but for A/D."""
        first = self.table_start(addr)
        word = as_pte(self.pmds[first]) if first in self.pmds else self.ptes.get(addr, 0)
        return p.pte_present(word) and not p.pte_protnone(word) and (not write or p.pte_write(word))

    def inode_of(self, vma: RefVma) -> Inode:
        """File behind a VMA."""
        return self.files[vma.file]

    def add_vma(self, vma: RefVma) -> None:
        """Add a VMA; shared anonymous memory gets its file (shmem_zero_setup())."""
        if vma.file and vma.file not in self.files:
            self.files[vma.file] = Inode(self.frames, size=(vma.end - vma.start) // self.page_size)
        super().add_vma(vma)

    def forget(self, gone: list[RefVma]) -> None:
        """VMAs are gone; with its last one, shared anonymous memory is, too."""
        self.vma_list.remove(gone)
        for number in {vma.file for vma in gone if vma.file < 0}:
            if not any(vma.file == number for mm in self.frames.mms for vma in mm.vma_list.vmas):
                self.files.pop(number).drop()

    # Calls, as a process makes them

    def _frame_at(self, addr: int) -> int:
        """Frame that an address is mapped to."""
        first = self.table_start(addr)
        if first in self.pmds:
            return p.pte_pfn(self.page_shift, self.pmds[first]) + self.pte_index(addr)
        return p.pte_pfn(self.page_shift, self.ptes[addr - addr % self.page_size])

    def load(self, addr: int) -> int:
        """The byte that was last written to a page, 0: none; for pages that are mapped."""
        return self.frames.contents.get(self._frame_at(addr), 0)

    def touch(self, addr: int, *, write: bool = False, byte: int = 1) -> RefResult:
        """Read or write one byte.

        Parameters
        ----------
        addr : int
        write : bool
        byte : int
            What is written: pages that hold nothing but 0 may be given up when their folio is split.

        Raises
        ------
        fault.Signal
            The access ends with SIGSEGV or SIGBUS.
        """
        result = self.run(lambda record: access(self, addr, write=write))
        if write:
            self.frames.contents[self._frame_at(addr)] = byte
        return result

    def mprotect(
        self, start: int, length: int, prot: int, *, strategy: str | Step = "", pkey: int = -1, observer: Observer | None = None
    ) -> RefResult:
        """mprotect(2) by this kernel's own loop, or another strategy."""
        design = design_of(strategy or self.machine.strategy)

        def call(record: Record) -> None:
            def change(vma: RefVma, low: int, high: int, newprot: int, cp_flags: int) -> None:
                part = Walk(
                    self, newprot=newprot, cp_flags=cp_flags, vm_flags=vma.flags, anon=vma.anonymous, design=design, record=record
                )
                part.change_protection(low, high)
                check_populated(self, low, high, was[low], vma.flags)

            was = {max(vma.start, start): vma.flags for vma in self.vma_list.vmas if vma.end > start}
            Mprotect(self.machine, self.vma_list, self.limits, self.pkeys, change)(start, length, prot, pkey)

        watched, self.observer = self.observer, observer or self.observer
        try:
            return self.run(call, MprotectError)
        finally:
            self.observer = watched

    def mmap_fixed(self, start: int, length: int, prot: int, *, replace: bool = True, **what: Any) -> RefResult:
        """mmap(2) with MAP_FIXED, or with MAP_FIXED_NOREPLACE; `what` is as for `mmap`."""
        return self.run(lambda record: do_mmap(self, self.vma_of(start, length, prot, **what), replace_old=replace))

    def mmap_free(self, length: int, prot: int, *, hint: int = 0, **what: Any) -> RefResult:
        """mmap(2) where there is room, or at a hint; `pages` of the result is where, `what` is as for `mmap`."""
        return self.run(lambda record: do_mmap_free(self, hint, length, prot, what))

    def brk(self, addr: int = 0) -> RefResult:
        """brk(2); `pages` of the result is the end of the heap."""
        return self.run(lambda record: do_brk(self, addr))

    def munmap(self, start: int, length: int) -> RefResult:
        """munmap(2)."""
        return self.run(lambda record: do_munmap(self, start, length))

    def mremap(self, start: int, old_length: int, new_length: int, flags: int = 0, new_start: int = 0) -> RefResult:
        """mremap(2); `pages` of the result is where the mapping is."""
        return self.run(lambda record: do_mremap(self, start, old_length, new_length, flags, new_start))

    def madvise(self, start: int, length: int, advice: int) -> RefResult:
        """madvise(2)."""
        return self.run(lambda record: do_madvise(self, start, length, advice))

    def mlock(self, start: int, length: int, *, on_fault: bool = False) -> RefResult:
        """mlock(2), or mlock2(2) with MLOCK_ONFAULT."""
        return self.run(lambda record: do_mlock(self, start, length, on_fault=on_fault))

    def munlock(self, start: int, length: int) -> RefResult:
        """munlock(2)."""
        return self.run(lambda record: do_munlock(self, start, length))

    def mseal(self, start: int, length: int) -> RefResult:
        """mseal(2)."""
        return self.run(lambda record: do_mseal(self, start, length))

    def clear_refs(self, kind: int) -> RefResult:
        """Write to /proc/self/clear_refs."""
        return self.run(lambda record: clear_refs(self, kind))

    def uffd_register(self, start: int, length: int) -> RefResult:
        """UFFDIO_REGISTER for write protection."""
        return self.run(lambda record: register(self, start, length))

    def uffd_writeprotect(self, start: int, length: int, mode: int) -> RefResult:
        """UFFDIO_WRITEPROTECT."""
        return self.run(lambda record: writeprotect(self, record, start, length, mode))

    def fork(self, *, observer: Observer | None = None) -> LiveMM:
        """fork(2): the child's address space; `observer` sees what is done to its tables. `counters` has both sides."""
        child = type(self)(self.machine, frames=self.frames, thp=self.thp, files=self.files, observer=observer)
        child.mmap_base, child.stack_limit = self.mmap_base, self.stack_limit
        child.start_brk, child.brk_end = self.start_brk, self.brk_end
        child.limits, child.pkeys = replace(self.limits), set(self.pkeys)
        self.run(lambda record: dup_mmap(child, self))
        # what was stored in the child's tables is this call's, too
        for name, nr in child.counters.items():
            self.counters[name] += nr
        child.counters = dict.fromkeys(child.counters, 0)
        return child

    def exit(self) -> RefResult:
        """The process ends; the address space is not to be used again."""
        return self.run(lambda record: exit_mmap(self))
