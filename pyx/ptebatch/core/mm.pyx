# cython: language_level=3
"""`MM`: an arm64 address space of VMAs, folios and PTEs. All validation is here."""
cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from .contpte cimport __ptep_get
from .log cimport event, pairs, pairs_clear, pairs_free, trace
from .machine cimport machine
from .mm_struct cimport (
    PG_ANON, PG_ANON_EXCLUSIVE, PG_MAPPED_SHARED, PG_NUMA_SKIP, PG_ORDER_MASK, page_of, table,
)
from .memo cimport memo, memo_free, memo_init, replay_fn
from .mapping cimport map_pages, plan
from .mprotect cimport change_protection, do_mprotect, outcome, request, space
from .pgtable cimport DESC_TABLE, pgtable_free, pgtable_index, pgtable_init, pmd_offset, pte_table
from .pte cimport (
    PTE_AF, PTE_CONT, PTE_VALID, PTE_WRITE, pte_advance_pfn, pte_mkdirty, pte_mkold, pte_mkwrite, pte_mkyoung, pte_none,
    pte_pfn, pte_present, pte_t, pte_valid,
)
from .ptep cimport (
    clear_full_ptes, clear_young_dirty_ptes, ptep_get, ptep_set_access_flags, set_pte_at, set_ptes,
    test_and_clear_young_ptes, wrprotect_ptes,
)
from .result cimport Result
from .strategies cimport find
from .strategy cimport STRATEGY_LOOKUP, step_fn, strategy, walk
from .tlb cimport tlb_gather_mmu
from .vma cimport VM_ACCESS, VM_SHARED, VM_WRITE, find_vma, vma, vma_insert, vma_set_page_prot
from .window cimport python_step

import bisect
import operator
from typing import NamedTuple

import numpy as np

from ptebatch import bits
from ptebatch.errors import LayoutError, MprotectError, PtebatchError, StrategyError
from ptebatch.machine import Machine
from ptebatch.isa import REPLAY
from ptebatch.reasons import REASONS
from ptebatch.strategies import resolve
from .window import Window

cdef extern from *:
    """
    #define pb_try_lock(p) (!__atomic_exchange_n(p, 1, __ATOMIC_ACQUIRE))
    #define pb_unlock(p) __atomic_store_n(p, 0, __ATOMIC_RELEASE)
    """
    bint pb_try_lock(int *p) noexcept nogil
    void pb_unlock(int *p) noexcept nogil

EVENT = np.dtype([("kind", "u1"), ("addr", "<u8"), ("value", "<u8")])


class Vma(NamedTuple):
    """One VMA: bytes addresses [start, end), flags and page_prot as in the kernel."""

    start: int
    end: int
    flags: int
    page_prot: int
    pgoff: int
    file: int
    anon_vma: int
    writenotify: bool


cdef uint64_t number(str name, object value, uint64_t high=<uint64_t>-1) except? 0xdeadbeef:
    """A whole number from 0 to `high`, or an error that names it."""
    cdef uint64_t n
    if type(value) is bool:
        raise LayoutError(f"{name}={value!r} is a truth value; give a whole number")
    try:
        value = operator.index(value)
    except TypeError:
        raise LayoutError(f"{name}={value!r} is not a whole number; give an int") from None
    if value < 0 or value > high:
        raise LayoutError(f"{name}={value:#x} is out of range; give a number from 0 to {high:#x}")
    n = value
    return n


cdef bytes log_bytes(pairs *p):
    if p.oom:
        raise MemoryError("the log of batches and flushes did not fit in memory; call with record=False")
    return PyBytes_FromStringAndSize(<char *>p.at, p.nr * 16)


cdef class Held:
    """The address space is taken while the block runs."""

    cdef MM mm

    def __cinit__(self, MM mm):
        self.mm = mm

    def __enter__(self):
        self.mm.take()

    def __exit__(self, *exc):
        pb_unlock(&self.mm.busy)


@cython.final
cdef class MM:
    """An address space.

    Parameters
    ----------
    machine : Machine or str, optional
        Default ``Machine()``; a string is read by ``Machine.parse``.
    nr_pages : int
        Page frames that have metadata: pfn_base .. pfn_base + nr_pages - 1.
        One byte each, touched only where used.
    pfn_base : int
        First of them.
    memo : bool
        Replay units that equal one already done (same results, far faster); False
        runs every entry step by step.

    Attributes
    ----------
    machine : Machine
    pages : numpy.ndarray of uint8, shape (nr_pages,)
        Metadata of the page frames (``ptebatch.bits.PG_*``), a view without a copy.

    Raises
    ------
    LayoutError
        Numbers out of range.

    Notes
    -----
    One thread at a time: a second one gets `PtebatchError`. Different address
    spaces run in parallel, calls release the GIL.
    """

    def __cinit__(self, machine=None, *, nr_pages=1 << 22, pfn_base=1024, bint memo=True):
        if machine is None:
            machine = Machine()
        elif isinstance(machine, str):
            machine = Machine.parse(machine)
        elif not isinstance(machine, Machine):
            raise LayoutError(f"machine={machine!r} is not a Machine; give one or a string such as '7.3,granule=16K'")
        self.machine = machine
        fill_machine(self)
        limit = <uint64_t>1 << (48 - self.sp.mm.m.page_shift)
        self.sp.mm.nr_pages = number("nr_pages", nr_pages, limit)
        self.sp.mm.pfn_base = number("pfn_base", pfn_base, limit)
        if self.sp.mm.nr_pages == 0 or self.sp.mm.pfn_base + self.sp.mm.nr_pages > limit:
            raise LayoutError(
                f"pfn_base={pfn_base:#x} and nr_pages={nr_pages:#x} leave the physical address space of {limit:#x} pages; "
                "give a smaller window of at least one page")
        # one byte more, so that the array is never empty and a bulk reader may look ahead
        self._pages = np.zeros(self.sp.mm.nr_pages + 64, np.uint8)
        cdef uint8_t[::1] pages = self._pages
        self.sp.mm.pages = &pages[0]
        self.next_pfn = self.sp.mm.pfn_base
        self._pools = []
        self._starts = []
        self.sp.vs.limit = 65530
        self.sp.data_limit = self.sp.commit_limit = <uint64_t>1 << 62
        self.sp.pkeys = 1
        if pgtable_init(&self.sp.pt, &self.sp.mm.m):
            raise MemoryError("the root page table did not fit in memory")
        tlb_gather_mmu(&self.sp.mm)
        if memo:
            self.sp.memo = &self.memo_store
            self.memo_store.replay = <replay_fn>PyCapsule_GetPointer(REPLAY, b"ptebatch.replay")
            if memo_init(&self.memo_store, self.sp.mm.m.ptrs_per_pte):
                raise MemoryError("the memo of one leaf table did not fit in memory")

    def __dealloc__(self):
        pgtable_free(&self.sp.pt)
        free(self.sp.vs.at)
        pairs_free(&self.batches)
        pairs_free(&self.subs)
        pairs_free(&self.flushes)
        pairs_free(&self.gathers)
        free(self.tr.at)
        memo_free(&self.memo_store)

    # ---- page metadata ----

    @property
    def pfn_base(self):
        return self.sp.mm.pfn_base

    @property
    def nr_pages(self):
        return self.sp.mm.nr_pages

    @property
    def pages(self):
        return self._pages[: self.sp.mm.nr_pages]

    cdef uint64_t pfn_range(self, object pfn, object nr) except? 0xdeadbeef:
        """Offset into the metadata of nr pages from pfn on, all of which exist."""
        cdef uint64_t first = number("pfn", pfn), n = number("nr", nr)
        cdef uint64_t at = first - self.sp.mm.pfn_base
        if first < self.sp.mm.pfn_base or at > self.sp.mm.nr_pages or n > self.sp.mm.nr_pages - at:
            raise LayoutError(
                f"pages {first:#x}..{first + n:#x} have no metadata; this MM has {self.sp.mm.nr_pages:#x} pages from "
                f"{self.sp.mm.pfn_base:#x}, make it with a larger nr_pages")
        return at

    def set_folio(self, head_pfn, order, *, bint anon=True, bint numa_skip=False, bint mapped_shared=False):
        """Make 2^order pages from head_pfn one folio; no page of it is exclusive yet.

        Parameters
        ----------
        head_pfn : int
            Naturally aligned page frame number.
        order : int
            0 to the order of a table.
        anon : bool
            An anonymous folio (PageAnonExclusive is legal), else a file's.
        numa_skip : bool
            folio_can_map_prot_numa() refuses it.
        mapped_shared : bool
            folio_maybe_mapped_shared(): only the v1/v2 design asks.

        Raises
        ------
        LayoutError
            Order too large, head not aligned, or pages without metadata.
        """
        cdef uint64_t o = number("order", order, self.machine.pmd_order)
        cdef uint64_t at = self.pfn_range(head_pfn, <uint64_t>1 << o)
        if head_pfn & ((<uint64_t>1 << o) - 1):
            raise LayoutError(f"head_pfn={head_pfn:#x} is not aligned to a folio of order {o}; give a multiple of {<uint64_t>1 << o:#x}")
        memset(self.sp.mm.pages + at, page_byte(o, anon, numa_skip, mapped_shared), <uint64_t>1 << o)

    def set_page_anon_exclusive(self, pfn, nr=1, bint on=True):
        """Set or clear PageAnonExclusive of nr pages from pfn on.

        Raises
        ------
        LayoutError
            Pages without metadata, or not of an anonymous folio.
        """
        cdef uint64_t at = self.pfn_range(pfn, nr)
        cdef uint64_t i
        if nr and not (self._pages[at : at + nr] & bits.PG_ANON).all():
            raise LayoutError(f"pages {pfn:#x}..{pfn + nr:#x} are not all anonymous; call set_folio(..., anon=True) first")
        for i in range(at, at + <uint64_t>nr):
            if on:
                self.sp.mm.pages[i] |= PG_ANON_EXCLUSIVE
            else:
                self.sp.mm.pages[i] &= ~PG_ANON_EXCLUSIVE

    def alloc_folio(self, order, **kw):
        """Next free naturally aligned folio; returns its head pfn. See `set_folio`."""
        cdef uint64_t o = number("order", order, self.machine.pmd_order)
        cdef uint64_t head = (self.next_pfn + (<uint64_t>1 << o) - 1) & ~((<uint64_t>1 << o) - 1)
        self.set_folio(head, o, **kw)
        self.next_pfn = head + (<uint64_t>1 << o)
        return head

    # ---- VMAs ----

    cdef uint64_t page_range(self, object start, object length, uint64_t *end) except? 0xdeadbeef:
        """Check a page-aligned range of user addresses; returns its start."""
        cdef uint64_t size = <uint64_t>1 << self.sp.mm.m.va_bits
        cdef uint64_t a = number("start", start, size), n = number("length", length, size)
        cdef uint64_t mask = (<uint64_t>1 << self.sp.mm.m.page_shift) - 1
        if a & mask or n & mask:
            raise LayoutError(f"start={a:#x}, length={n:#x} are not multiples of the page size {mask + 1:#x}; round them")
        if n == 0 or a + n > size:
            raise LayoutError(f"start={a:#x}, length={n:#x} is empty or ends above {size:#x}; give a range inside the address space")
        end[0] = a + n
        return a

    def mmap(self, start, length, prot, *, bint shared=False, file=0, pgoff=None, vm_flags=0, may=7, bint writenotify=False):
        """Add a VMA as it is given, unmerged; nothing is mapped in it yet.

        Parameters
        ----------
        start, length : int
            Bytes, multiples of the page size; the range must be free.
        prot : int
            PROT_READ | PROT_WRITE | PROT_EXEC.
        shared : bool
            MAP_SHARED.
        file : int
            Identity of a file, 0 for anonymous memory.
        pgoff : int, optional
            Page offset into the file.
        vm_flags : int
            Further flags (``bits.VM_*``), for example VM_SEALED.
        may : int
            Accesses that mprotect() may give, as PROT bits (VM_MAY*).
        writenotify : bool
            The file wants to know of the first write (page_mkwrite).

        Raises
        ------
        LayoutError
            Bad numbers, or a range that is taken.
        """
        cdef uint64_t end = 0
        cdef uint64_t first = self.page_range(start, length, &end)
        cdef size_t i = find_vma(&self.sp.vs, first)
        cdef vma v
        if i < self.sp.vs.nr and self.sp.vs.at[i].start < end:
            raise LayoutError(f"[{first:#x}, {end:#x}) overlaps the VMA at {self.sp.vs.at[i].start:#x}; choose a free range")
        if self.sp.vs.nr >= self.sp.vs.limit:
            raise LayoutError(f"there are {self.sp.vs.nr} VMAs already, the limit; map fewer, larger ranges")
        v.start = first
        v.end = end
        v.flags = number("prot", prot, 7) | number("may", may, 7) << 4 | number("vm_flags", vm_flags)
        if shared:
            v.flags |= VM_SHARED | 0x80
        v.file = number("file", file, 0xffffffff)
        v.pgoff = first >> self.sp.mm.m.page_shift if pgoff is None else number("pgoff", pgoff, <uint64_t>1 << 52)
        v.anon_vma = 0
        v.writenotify = writenotify
        vma_set_page_prot(&v, &self.sp.mm.m)
        if vma_insert(&self.sp.vs, i, &v):
            raise MemoryError("the VMA did not fit in memory")
        if (v.flags & (VM_WRITE | VM_SHARED)) == VM_WRITE:
            self.sp.data_vm += (end - first) >> self.sp.mm.m.page_shift

    def vmas(self):
        """The VMAs in address order, as `Vma` tuples."""
        cdef size_t i
        cdef vma *v
        out = []
        for i in range(self.sp.vs.nr):
            v = &self.sp.vs.at[i]
            out.append(Vma(v.start, v.end, v.flags, v.page_prot, v.pgoff, v.file, v.anon_vma, bool(v.writenotify)))
        return out

    cdef vma *vma_of(self, uint64_t start, uint64_t end) except NULL:
        """The one VMA that holds [start, end)."""
        cdef size_t i = find_vma(&self.sp.vs, start)
        if i >= self.sp.vs.nr or self.sp.vs.at[i].start > start or self.sp.vs.at[i].end < end:
            raise LayoutError(f"[{start:#x}, {end:#x}) is not inside one VMA; call mmap() for it first")
        return &self.sp.vs.at[i]

    def set_limits(self, *, map_count=None, data_pages=None, commit_pages=None, read_implies_exec=None):
        """Set what mprotect() is limited by; None leaves a limit as it is.

        Parameters
        ----------
        map_count : int, optional
            Largest number of VMAs (vm.max_map_count).
        data_pages, commit_pages : int, optional
            RLIMIT_DATA and the commit limit, in pages.
        read_implies_exec : bool, optional
            Personality READ_IMPLIES_EXEC.
        """
        if map_count is not None:
            self.sp.vs.limit = number("map_count", map_count, 1 << 24)
        if data_pages is not None:
            self.sp.data_limit = number("data_pages", data_pages, <uint64_t>1 << 62)
        if commit_pages is not None:
            self.sp.commit_limit = number("commit_pages", commit_pages, <uint64_t>1 << 62)
        if read_implies_exec is not None:
            self.sp.read_implies_exec = bool(read_implies_exec)

    def pkey_alloc(self):
        """Allocate the next protection key, 1 to 7; LayoutError when none is left."""
        cdef int key
        for key in range(1, 8):
            if not self.sp.pkeys >> key & 1:
                self.sp.pkeys |= <uint64_t>1 << key
                return key
        raise LayoutError("all 7 protection keys are allocated; reuse one")

    # ---- page tables ----

    def populate(self, start, length):
        """Allocate the leaf tables of a range; entries are none.

        Tables of one call that did not exist before lie side by side, so that
        `ptes` can show them as one array.
        """
        cdef uint64_t end = 0
        cdef uint64_t addr = self.page_range(start, length, &end)
        cdef uint64_t span = <uint64_t>self.sp.mm.m.ptrs_per_pte << self.sp.mm.m.page_shift
        cdef uint64_t first
        addr &= ~(span - 1)
        while addr < end:
            if pte_table(&self.sp.pt, addr) != NULL:
                addr += span
                continue
            first = addr
            while addr < end and pte_table(&self.sp.pt, addr) == NULL:
                addr += span
            self.add_pool(first, (addr - first) // span)

    cdef int add_pool(self, uint64_t first, uint64_t nr) except -1:
        """nr leaf tables from address `first` on, entered in the upper tables."""
        cdef uint64_t span = <uint64_t>self.sp.mm.m.ptrs_per_pte << self.sp.mm.m.page_shift
        pool = np.zeros(nr * self.sp.mm.m.ptrs_per_pte, np.uint64)
        cdef uint64_t[::1] mem = pool
        cdef uint64_t *pmd
        cdef uint64_t i
        # all upper tables first: a failure leaves no half-made range
        for i in range(nr):
            if pmd_offset(&self.sp.pt, first + i * span, True) == NULL:
                raise MemoryError("the upper page tables did not fit in memory")
        for i in range(nr):
            pmd = pmd_offset(&self.sp.pt, first + i * span, False)
            pmd[0] = <uint64_t>&mem[i * self.sp.mm.m.ptrs_per_pte] | DESC_TABLE
        at = bisect.bisect_left(self._starts, first)
        self._starts.insert(at, first)
        self._pools.insert(at, pool)
        return 0

    def ptes(self, start, nr):
        """PTE words of nr pages, a writable view without a copy.

        Parameters
        ----------
        start : int
            Address of the first page.
        nr : int
            Pages.

        Returns
        -------
        numpy.ndarray of uint64, shape (nr,)
            Raw words. Writing to it is writing to the page table, unchecked.

        Raises
        ------
        LayoutError
            No tables there, or tables of several populate() calls: take parts.
        """
        cdef uint64_t end = 0
        cdef uint64_t first = self.page_range(start, number("nr", nr, <uint64_t>1 << 40) << self.sp.mm.m.page_shift, &end)
        cdef uint64_t at
        k = bisect.bisect_right(self._starts, first) - 1
        if k >= 0:
            at = (first - <uint64_t>self._starts[k]) >> self.sp.mm.m.page_shift
            pool = self._pools[k]
            if at + <uint64_t>nr <= <uint64_t>len(pool):
                return pool[at : at + nr]
            if at < <uint64_t>len(pool):
                raise LayoutError(f"[{first:#x}, {end:#x}) lies in several pools of leaf tables; ask for at most {len(pool) - at} pages")
        raise LayoutError(f"there is no page table at {first:#x}; call populate() or map_folios() first")

    def leaf(self, addr):
        """PTE words of the whole leaf table that maps addr, a writable view."""
        cdef uint64_t a = number("addr", addr, (<uint64_t>1 << self.sp.mm.m.va_bits) - 1)
        cdef uint64_t span = <uint64_t>self.sp.mm.m.ptrs_per_pte << self.sp.mm.m.page_shift
        return self.ptes(a & ~(span - 1), self.sp.mm.m.ptrs_per_pte)

    def walk(self, addr):
        """The table entries on the way to addr, from the top.

        Returns
        -------
        list of (int, int)
            Index and entry of each level; the last is the PTE. Ends early at a hole.
        """
        cdef uint64_t a = number("addr", addr, (<uint64_t>1 << self.sp.mm.m.va_bits) - 1)
        cdef uint64_t *tbl = self.sp.pt.root
        cdef int level = self.sp.pt.levels - 1
        cdef uint64_t i
        out = []
        while level >= 0:
            i = pgtable_index(&self.sp.pt, a, level)
            out.append((i, tbl[i]))
            if tbl[i] == 0:
                return out
            tbl = <uint64_t *>(tbl[i] & ~<uint64_t>DESC_TABLE)
            level -= 1
        i = (a >> self.sp.mm.m.page_shift) & (self.sp.mm.m.ptrs_per_pte - 1)
        out.append((i, tbl[i]))
        return out

    cdef bint table_at(self, uint64_t addr, table *t, size_t *idx) noexcept nogil:
        cdef uint64_t span = <uint64_t>self.sp.mm.m.ptrs_per_pte << self.sp.mm.m.page_shift
        t.mm = &self.sp.mm
        t.leaf = pte_table(&self.sp.pt, addr)
        t.addr0 = addr & ~(span - 1)
        idx[0] = (addr - t.addr0) >> self.sp.mm.m.page_shift
        return t.leaf != NULL

    cdef int one_table(self, object addr, object nr, table *t, size_t *idx) except -1:
        """Where a verb on nr entries works: one existing leaf table."""
        cdef uint64_t end = 0
        cdef uint64_t a = self.page_range(addr, number("nr", nr, <uint64_t>1 << 40) << self.sp.mm.m.page_shift, &end)
        if not self.table_at(a, t, idx):
            raise LayoutError(f"there is no page table at {a:#x}; call populate() or map_folios() first")
        if idx[0] + <size_t>nr > self.sp.mm.m.ptrs_per_pte:
            raise LayoutError(f"{nr} entries from {a:#x} on leave their leaf table; split the range at a multiple of "
                              f"{self.sp.mm.m.ptrs_per_pte << self.sp.mm.m.page_shift:#x}")
        return 0

    # ---- public verbs, as core mm code calls them ----

    def set_ptes(self, addr, word, nr):
        """set_ptes(): nr entries, frames advancing, full aligned blocks painted CONT (spec 3.2, 3.7)."""
        cdef table t
        cdef size_t idx = 0
        self.one_table(addr, nr, &t, &idx)
        set_ptes(&t, idx, number("word", word), nr)

    def set_pte_at(self, addr, word):
        """set_pte_at(): one entry; may unfold its block, may fold it (spec 3.2, 3.3)."""
        self.set_ptes(addr, word, 1)

    def ptep_get(self, addr):
        """ptep_get(): the word with young and dirty of its whole block (spec 3.6)."""
        cdef table t
        cdef size_t idx = 0
        self.one_table(addr, 1, &t, &idx)
        return ptep_get(&t, idx)

    def wrprotect_ptes(self, addr, nr=1):
        """wrprotect_ptes(), what fork does to the parent (spec 3.2)."""
        cdef table t
        cdef size_t idx = 0
        self.one_table(addr, nr, &t, &idx)
        wrprotect_ptes(&t, idx, nr)

    def clear_full_ptes(self, addr, nr=1):
        """clear_full_ptes(), what munmap does (spec 3.2)."""
        cdef table t
        cdef size_t idx = 0
        self.one_table(addr, nr, &t, &idx)
        clear_full_ptes(&t, idx, nr)

    def test_and_clear_young(self, addr, nr=1):
        """test_and_clear_young_ptes(): AF of whole blocks, never unfolds; returns whether any was young (spec 8.8)."""
        cdef table t
        cdef size_t idx = 0
        self.one_table(addr, nr, &t, &idx)
        return bool(test_and_clear_young_ptes(&t, idx, nr))

    def clear_young_dirty(self, addr, nr=1, *, bint young=True, bint dirty=True):
        """clear_young_dirty_ptes(), what MADV_FREE and MADV_COLD do; never unfolds (spec 3.2, 8.8)."""
        cdef table t
        cdef size_t idx = 0
        self.one_table(addr, nr, &t, &idx)
        clear_young_dirty_ptes(&t, idx, nr, young, dirty)

    def set_access_flags(self, addr, word):
        """ptep_set_access_flags(): returns whether anything changed (spec 3.9)."""
        cdef table t
        cdef size_t idx = 0
        self.one_table(addr, 1, &t, &idx)
        return bool(ptep_set_access_flags(&t, idx, number("word", word)))

    def hw_update(self, addr, bint write=False):
        """Hardware management of AF and dirty on this one descriptor, if VALID (spec 8.9)."""
        cdef table t
        cdef size_t idx = 0
        self.one_table(addr, 1, &t, &idx)
        if pte_valid(t.leaf[idx]):
            t.leaf[idx] |= PTE_AF
            if write and t.leaf[idx] & PTE_WRITE:
                t.leaf[idx] &= ~<uint64_t>0x80

    def reuse(self, addr):
        """Write fault that reuses a page: it becomes PageAnonExclusive and writable (spec 8.3)."""
        cdef table t
        cdef size_t idx = 0
        cdef pte_t pte
        cdef uint8_t *page
        self.one_table(addr, 1, &t, &idx)
        if not pte_present(t.leaf[idx]):
            raise LayoutError(f"nothing is mapped at {addr:#x}, so no write fault can reuse it; map it first")
        pte = ptep_get(&t, idx)
        page = page_of(&self.sp.mm, pte_pfn(pte, self.sp.mm.m.page_shift))
        if page != NULL:
            page[0] |= PG_ANON_EXCLUSIVE
        ptep_set_access_flags(&t, idx, pte_mkwrite(pte_mkdirty(pte_mkyoung(pte)), self.sp.mm.m.mkwrite_always))

    # ---- mapping folios ----

    def map_folios(self, start, nr, order=0, *, orders=None, heads=None, skip=0, exclusive=None, anon=None,
                   bint young=True, bint dirty=True, bint fold=True, bint numa_skip=False, bint mapped_shared=False):
        """Map folios side by side, as faults and fork leave them.

        Parameters
        ----------
        start : int
            Address of the first page; all pages lie in one VMA.
        nr : int
            Pages to map. The last folio is cut if they end inside it.
        order : int
            Order of every folio, unless `orders` is given.
        orders : array of int, optional
            Order of each folio; must cover skip + nr pages.
        heads : array of int, optional
            Head pfn of each folio, naturally aligned; default: the next free ones.
        skip : int
            Pages of the first folio that are not mapped.
        exclusive : array of bool, shape (nr,), optional
            PageAnonExclusive of each mapped page; default: all of anonymous folios.
            See ``ptebatch.patterns`` for patterns.
        anon : bool, optional
            Default: whether the VMA is private and without a file.
        young, dirty : bool
            State of the entries.
        fold : bool
            Paint CONT as set_ptes() does; False leaves every block unfolded.
        numa_skip, mapped_shared : bool
            See `set_folio`.

        Returns
        -------
        int
            pfn of the first mapped page.

        Raises
        ------
        LayoutError
            Nothing is changed then.

        Notes
        -----
        A private mapping gives WRITE to exclusive pages only (spec 6.9, 8.2); a
        block whose entries then differ stays unfolded.
        """
        cdef uint64_t end = 0
        cdef uint64_t first = self.page_range(start, number("nr", nr, <uint64_t>1 << 40) << self.sp.mm.m.page_shift, &end)
        cdef vma *v = self.vma_of(first, end)
        cdef uint64_t pages = end - first >> self.sp.mm.m.page_shift
        cdef bint is_anon = (v.file == 0 and not v.flags & VM_SHARED) if anon is None else bool(anon)
        cdef plan pl
        cdef uint8_t[::1] order_view, mask_view
        cdef uint64_t[::1] head_view
        pl.skip = number("skip", skip, 1 << 13)
        pl.orders = pl.exclusive = NULL
        pl.heads = NULL
        order_of = folio_orders(self, pages + pl.skip, order, orders)
        head_of = self.folio_heads(order_of, heads, pages + pl.skip)
        mask = exclusive_mask(exclusive, pages, is_anon)
        if isinstance(order_of, int):
            pl.order = order_of
        else:
            order_view = order_of
            pl.orders = &order_view[0]
            pl.order = order_view[0]
        if isinstance(head_of, int):
            pl.head = head_of
        else:
            head_view = head_of
            pl.heads = &head_view[0]
            pl.head = head_view[0]
        if mask is not None:
            mask_view = mask
            pl.exclusive = &mask_view[0]
        if pl.skip >= <uint64_t>1 << pl.order:
            raise LayoutError(f"skip={skip} leaves no page of the first folio of order {pl.order}; give a smaller one")
        pl.byte = page_byte(0, is_anon, numa_skip, mapped_shared)
        pl.all_exclusive = is_anon
        pl.fold = fold and self.sp.mm.m.contpte
        pl.plain = pte_mkyoung(v.page_prot) if young else pte_mkold(v.page_prot)
        if dirty:
            pl.plain = pte_mkdirty(pl.plain)
        pl.writable = pl.plain
        if v.flags & VM_WRITE and not v.flags & VM_SHARED:
            pl.writable = pte_mkwrite(pl.plain, self.sp.mm.m.mkwrite_always)
        self.populate(first, end - first)
        with Held(self):
            with nogil:
                map_pages(&self.sp, first, pages, &pl)
        if v.anon_vma == 0 and not v.flags & VM_SHARED and is_anon:
            self.anon_vma_prepare(find_vma(&self.sp.vs, first))
        if heads is None:
            self.next_pfn = pl.last_head + (<uint64_t>1 << pl.order)
        return int(pl.head) + int(pl.skip) if pl.heads == NULL else int(pl.heads[0]) + int(pl.skip)

    cdef object folio_heads(self, object order_of, object heads, uint64_t pages):
        """Checked head pfns: the first of a row of equal folios as an int, else one a folio."""
        cdef uint64_t size
        if isinstance(order_of, int) and heads is None:
            size = <uint64_t>1 << <int>order_of
            head = (self.next_pfn + size - 1) & ~(size - 1)
            self.frames_exist(head, head + ((pages + size - 1) & ~(size - 1)))
            return int(head)
        if isinstance(order_of, int):
            order_of = np.full((pages + (<uint64_t>1 << <int>order_of) - 1) >> <int>order_of, order_of, np.uint8)
        sizes = np.left_shift(np.uint64(1), order_of.astype(np.uint64))
        if heads is None:
            head_of = next_heads(self.next_pfn, sizes)
        else:
            head_of = whole_array("heads", heads, np.uint64)
            if head_of.shape != order_of.shape:
                raise LayoutError(f"heads has shape {head_of.shape}, expected one head for each of {len(order_of)} folios")
        if ((head_of & (sizes - np.uint64(1))) != 0).any():
            raise LayoutError("a head of `heads` is not aligned to its folio; give multiples of 2**order")
        if head_of.max() >= <uint64_t>1 << 48:
            raise LayoutError(f"heads holds {int(head_of.max()):#x}, which is no page frame number; give smaller ones")
        self.frames_exist(int(head_of.min()), int((head_of + sizes).max()))
        return head_of

    cdef int frames_exist(self, object low, object high) except -1:
        if low < self.sp.mm.pfn_base or high > self.sp.mm.pfn_base + self.sp.mm.nr_pages:
            raise LayoutError(
                f"pages {low:#x}..{high:#x} have no metadata; this MM has {self.sp.mm.nr_pages:#x} pages from "
                f"{self.sp.mm.pfn_base:#x}, make it with a larger nr_pages")
        return 0

    cdef void anon_vma_prepare(self, size_t i) noexcept:
        """First anonymous page of VMA i: share the anon_vma of an alike neighbour, else a new one."""
        cdef vma *v = &self.sp.vs.at[i]
        cdef uint64_t ignored = VM_ACCESS | 0x8000000
        cdef vma *o
        cdef int side
        for side in (-1, 1):
            if (side < 0 and i == 0) or (side > 0 and i + 1 >= self.sp.vs.nr):
                continue
            o = v + side
            if (o.end == v.start or v.end == o.start) and ((o.flags ^ v.flags) & ~ignored) == 0 and o.file == v.file and o.anon_vma:
                v.anon_vma = o.anon_vma
                return
        self.sp.vs.last_anon_vma += 1
        v.anon_vma = self.sp.vs.last_anon_vma

    # ---- calls ----

    cdef int take(self) except -1:
        if not pb_try_lock(&self.busy):
            raise PtebatchError("this MM is in use by another thread; give each thread its own address space (MM.copy())")
        return 0

    cdef int enter(self, bint record, bint traced) except -1:
        """Take the address space, and reset counters and logs for one call."""
        self.take()
        memset(&self.sp.mm.c, 0, sizeof(self.sp.mm.c))
        self.sp.mm.pages_changed = 0
        pairs_clear(&self.batches)
        pairs_clear(&self.subs)
        pairs_clear(&self.flushes)
        pairs_clear(&self.gathers)
        self.tr.nr = 0
        self.tr.oom = False
        self.sp.mm.batches = &self.batches if record else NULL
        self.sp.mm.subs = &self.subs if record else NULL
        self.sp.mm.flushes = &self.flushes if record else NULL
        self.sp.mm.gathers = &self.gathers if record else NULL
        self.sp.mm.tr = &self.tr if traced else NULL
        return 0

    cdef void leave(self) noexcept:
        self.sp.mm.batches = self.sp.mm.subs = self.sp.mm.flushes = self.sp.mm.gathers = NULL
        self.sp.mm.tr = NULL
        pb_unlock(&self.busy)

    cdef Result result(self, object start, object length, object prot, str name, uint64_t pages, bint traced):
        cdef Result r = Result.__new__(Result)
        r.c = self.sp.mm.c
        r.machine = self.machine
        r.strategy = name
        r.start, r.length, r.prot = start, length, prot
        r.pages = pages
        r._batches = log_bytes(&self.batches)
        r._subs = log_bytes(&self.subs)
        r._flushes = log_bytes(&self.flushes)
        r._gathers = log_bytes(&self.gathers)
        if traced:
            if self.tr.oom:
                raise MemoryError("the trace did not fit in memory; trace a smaller range")
            events = np.frombuffer(PyBytes_FromStringAndSize(<char *>self.tr.at, self.tr.nr * sizeof(event)), dtype=EVENT)
            r._trace = events
        return r

    def change_protection(self, start, nr, *, newprot, cp_flags=0, vm_flags, bint anon=True, strategy="folio",
                          bint trace=False, bint record=True):
        """change_protection() of one VMA's range, with one gather and its flush.

        The layer below `mprotect`: no VMA is looked at, all it needs is given.

        Parameters
        ----------
        start : int
            Address.
        nr : int
            Pages.
        newprot : int
            New page protection word.
        cp_flags : int
            MM_CP_* flags.
        vm_flags : int
            VMA flags at the time of the call.
        anon : bool
            vma_is_anonymous().
        strategy : str, callable or registered name
            See ``ptebatch.strategies``.
        trace, record : bool
            Keep the event trace; keep batch lists and flush ranges.

        Returns
        -------
        Result

        Raises
        ------
        LayoutError, StrategyError
            Bad arguments, or a strategy that broke its contract: the tables are
            as they were.
        """
        cdef uint64_t end = 0
        cdef uint64_t first = self.page_range(start, number("nr", nr, <uint64_t>1 << 40) << self.sp.mm.m.page_shift, &end)
        cdef walk w
        cdef Strategy s = Strategy(strategy)
        w.newprot = number("newprot", newprot)
        w.cp_flags = number("cp_flags", cp_flags, 15)
        w.vm_flags = number("vm_flags", vm_flags)
        w.vma_anon = anon
        w.pages = 0
        backup = self.copy() if s.window is not None else None
        self.enter(record, trace)
        try:
            w.python = <void *>s.window if s.window is not None else NULL
            tlb_gather_mmu(&self.sp.mm)
            with nogil:
                change_protection(&self.sp, first, end, &w, &s.row)
            if w.failed:
                self.broken(s, backup)
            return self.result(start, end - first, None, s.name, w.pages, trace)
        finally:
            self.leave()

    def mprotect(self, start, length, prot, *, strategy="folio", pkey=-1, bint trace=False, bint record=True):
        """mprotect(2) (or pkey_mprotect) on this address space.

        Parameters
        ----------
        start, length : int
            Bytes, as the system call takes them.
        prot : int
            PROT_* bits.
        strategy : str or callable
            A name of ``ptebatch.strategies``, or a Python step function.
        pkey : int
            Protection key, -1 for none.
        trace, record : bool
            Keep the event trace; keep batch lists and flush ranges.

        Returns
        -------
        Result

        Raises
        ------
        MprotectError
            An OSError with the errno; what was changed before stays changed and
            is in its ``result`` (spec 6.2).
        LayoutError, StrategyError
            Arguments that no system call could carry, or a strategy that broke
            its contract: nothing is changed.
        """
        cdef request r
        cdef outcome o
        cdef Strategy s = Strategy(strategy)
        r.start = number("start", start)
        r.len = number("length", length)
        r.prot = number("prot", prot)
        r.pkey = key_number(pkey)
        r.s = &s.row
        r.python = <void *>s.window if s.window is not None else NULL
        backup = self.copy() if s.window is not None else None
        self.enter(record, trace)
        try:
            with nogil:
                o = do_mprotect(&self.sp, &r)
            if o.err < 0:
                self.broken(s, backup)
            result = self.result(start, length, prot, s.name, self.sp.mm.pages_changed, trace)
        finally:
            self.leave()
        if o.err:
            raise MprotectError(o.err, REASONS[o.why].format(addr=o.addr, prot=r.prot, pkey=r.pkey), o.addr, result)
        return result

    cdef int broken(self, object given, MM backup) except -1:
        """A Python strategy failed: put everything back, then say why."""
        cdef Strategy s = given
        if backup is not None:
            for pool, saved in zip(self._pools, backup._pools, strict=True):
                pool[:] = saved
            self._pages[:] = backup._pages
            memcpy(self.sp.vs.at, backup.sp.vs.at, backup.sp.vs.nr * sizeof(vma))
            self.sp.vs.nr = backup.sp.vs.nr
            self.sp.data_vm = backup.sp.data_vm
            self.sp.committed = backup.sp.committed
        error = s.window.error if s.window is not None else None
        if error is not None:
            raise error
        raise StrategyError(f"strategy {s.name!r} dealt with no entry, or with more than the range has; return 1 to max_nr")

    def copy(self):
        """An independent copy: tables, VMAs, metadata, limits."""
        cdef MM other = MM.__new__(MM, self.machine, nr_pages=self.sp.mm.nr_pages, pfn_base=self.sp.mm.pfn_base,
                                memo=self.sp.memo != NULL)
        cdef size_t i
        if self.busy:
            raise PtebatchError("this MM is in use by another thread; copy it when the call has returned")
        used = max(int(self.next_pfn - self.sp.mm.pfn_base), self.used_pages())
        other._pages[:used] = self._pages[:used]
        for i in range(self.sp.vs.nr):
            if vma_insert(&other.sp.vs, i, &self.sp.vs.at[i]):
                raise MemoryError("the VMAs did not fit in memory")
        for start, pool in zip(self._starts, self._pools, strict=True):
            other.add_pool(start, len(pool) // self.sp.mm.m.ptrs_per_pte)
            other.ptes(start, len(pool))[:] = pool
        other.next_pfn = self.next_pfn
        other.sp.vs.limit = self.sp.vs.limit
        other.sp.vs.last_anon_vma = self.sp.vs.last_anon_vma
        other.sp.data_vm, other.sp.data_limit = self.sp.data_vm, self.sp.data_limit
        other.sp.committed, other.sp.commit_limit = self.sp.committed, self.sp.commit_limit
        other.sp.pkeys = self.sp.pkeys
        other.sp.read_implies_exec = self.sp.read_implies_exec
        return other

    cdef uint64_t used_pages(self) except? 0xdeadbeef:
        # beyond the allocator, raw views may have been written anywhere
        return self.sp.mm.nr_pages

    def __repr__(self):
        return f"<MM {self.machine}: {self.sp.vs.nr} VMAs, {sum(len(p) for p in self._pools)} PTEs>"


cdef class Strategy:
    """A strategy ready to run: a compiled row, or a Python step behind a window."""

    cdef strategy row
    cdef object window
    cdef str name
    cdef bytes keep

    def __cinit__(self, given):
        cdef const strategy *row
        self.name, kind, thing, lookup = resolve(given)
        self.window = None
        if kind == "compiled":
            self.keep = self.name.encode()
            row = find(self.keep)
            if row == NULL:
                raise StrategyError(f"strategy {self.name!r} has no compiled step")
            self.row = row[0]
            return
        self.row.flags = STRATEGY_LOOKUP if lookup else 0
        if kind == "capsule":
            if not PyCapsule_IsValid(thing, b"ptebatch.step"):
                raise StrategyError(f"strategy {self.name!r} is not a step capsule; make it with strategy_capsule()")
            self.row.step = <step_fn>PyCapsule_GetPointer(thing, b"ptebatch.step")
        else:
            self.row.step = python_step
            self.window = Window(thing)


cdef inline uint8_t page_byte(uint64_t order, bint anon, bint numa_skip, bint mapped_shared) noexcept nogil:
    return (order & PG_ORDER_MASK) | (PG_ANON if anon else 0) | (PG_NUMA_SKIP if numa_skip else 0) | (
        PG_MAPPED_SHARED if mapped_shared else 0)


def next_heads(next_pfn, sizes):
    """Naturally aligned heads, one behind the other."""
    heads = np.empty(len(sizes), np.uint64)
    for k, size in enumerate(sizes.tolist()):
        next_pfn = (next_pfn + size - 1) & ~(size - 1)
        heads[k] = next_pfn
        next_pfn += size
    return heads


def whole_array(name, values, dtype):
    """A one-dimensional contiguous array of whole numbers."""
    array = np.asarray(values)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise LayoutError(f"{name} has dtype {array.dtype} and {array.ndim} dimensions; give one dimension of whole numbers")
    if array.size and array.dtype.kind == "i" and array.min() < 0:
        raise LayoutError(f"{name} holds {array.min()}; give numbers from 0 on")
    return np.ascontiguousarray(array.astype(dtype))


def folio_orders(mm, pages, order, orders):
    """Order of each folio, as uint8, covering `pages` pages; of all of them, as an int."""
    if orders is None:
        return int(number("order", order, mm.machine.pmd_order))
    array = whole_array("orders", orders, np.int64)
    if array.size and array.max() > mm.machine.pmd_order:
        raise LayoutError(f"orders holds {array.max()}; the largest folio of {mm.machine} has order {mm.machine.pmd_order}")
    ends = np.cumsum(np.left_shift(1, array))
    if not array.size or int(ends[-1]) < pages:
        raise LayoutError(f"orders covers {int(ends[-1]) if array.size else 0} pages, expected at least {pages}; give more folios")
    need = int(np.searchsorted(ends, pages)) + 1
    return np.ascontiguousarray(array[:need].astype(np.uint8))


def exclusive_mask(exclusive, pages, anon):
    """PageAnonExclusive of each page, as uint8; None: all pages of anonymous folios."""
    if exclusive is None:
        return None
    array = np.asarray(exclusive)
    if array.shape != (pages,) or array.dtype.kind not in "biu":
        raise LayoutError(f"exclusive has shape {array.shape} and dtype {array.dtype}, expected {pages} truth values; "
                          "see ptebatch.patterns.exclusive_pattern")
    mask = np.ascontiguousarray(array.astype(bool).view(np.uint8))
    if not anon and mask.any():
        raise LayoutError("exclusive marks pages of folios that are not anonymous; PageAnonExclusive exists on anonymous pages only")
    return mask


cdef long key_number(object pkey) except? -2:
    try:
        key = operator.index(pkey)
    except TypeError:
        raise LayoutError(f"pkey={pkey!r} is not a whole number; give -1 or an allocated key") from None
    if not -1 <= key <= 0x7fffffff:
        raise LayoutError(f"pkey={key} does not fit the system call's argument; give -1 or an allocated key")
    return key


cdef void fill_machine(MM mm):
    m = mm.machine
    cdef machine *c = &mm.sp.mm.m
    c.page_shift = m.page_shift
    c.cont_ptes = m.cont_ptes
    c.ptrs_per_pte = m.ptrs_per_pte
    c.ptrs_shift = m.pmd_order
    c.va_bits = m.va_bits
    c.contpte = m.contpte
    c.tlb_range = m.tlb_range
    c.elides_bbm = m.elides_bbm
    c.lpa2 = m.lpa2
    c.kpti = m.kpti
    c.repeat_tlbi = m.repeat_tlbi
    c.gather_early_exit = m.gather_early_exit
    c.needs_flush = m.needs_flush
    c.paint_invalid = m.paint_invalid
    c.mkwrite_always = m.mkwrite_always
    c.guard_markers = m.guard_markers
    c.asid_extra_dsb = m.asid_extra_dsb
    c.epan = m.epan
    c.bti = m.bti
    c.mte = m.mte
    c.mdwe = m.mdwe
    c.swp_migration_read = m.swp_migration_read
    c.swp_device_write = m.swp_device_write
    c.swp_exclusive_write = m.swp_exclusive_write
