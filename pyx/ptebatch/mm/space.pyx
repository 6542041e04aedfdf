# cython: language_level=3
"""`Space`: page frames, VMAs and leaf tables of an address space. Base of `MM`."""
cimport cython
from libc.stdint cimport uint64_t, uint8_t
from libc.string cimport memset

from ..arm64.mmu cimport table
from ..arm64.pgtable cimport DESC_TABLE, pgtable_free, pgtable_index, pgtable_init, pmd_offset, pte_table
from ..arm64.tlb cimport tlb_gather_mmu
from ..base.args cimport number, truth
from ..base.held cimport Exclusive, Held
from ..base.page_flags cimport PG_ANON, PG_ANON_EXCLUSIVE, page_byte
from ..base.vm_flags cimport VM_ACCOUNT, VM_KNOWN, VM_SHARED
from ..batch.resolved cimport fill_machine
from .vma cimport accountable_mapping, find_vma, is_data_mapping, vma, vma_at, vma_insert, vma_set_page_prot, vmas_free

from bisect import bisect_right, insort
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from ptebatch.base.memory import zeroed_bytes
from ptebatch.errors import LayoutError
from ptebatch.machine import Machine
from ptebatch.operations import parse_protection

FIRST = itemgetter(0)


cdef uint64_t known_flags(object vm_flags) except? 0xdeadbeef:
    cdef uint64_t flags = number("vm_flags", vm_flags)
    if flags & ~VM_KNOWN:
        raise LayoutError(
            f"vm_flags={flags:#x} has {flags & ~VM_KNOWN:#x}, which the model does not know (userfaultfd RWP and shadow stacks "
            "are such flags); give flags of ptebatch.bits, VM_*")
    return flags


class Vma(NamedTuple):
    """One VMA: addresses [start, end) in bytes, flags and page_prot as in the kernel."""

    start: int
    end: int
    flags: int
    page_prot: int
    pgoff: int
    file: int
    anon_vma: int
    writenotify: bool
    name: int


cpdef object protection(object prot):
    """PROT_* bits: a number as it is, or a text such as ``rw``."""
    return parse_protection(prot) if isinstance(prot, str) else prot


cdef class Space(Exclusive):
    """Page frames, VMAs and leaf tables of one address space; see `MM`."""

    def __cinit__(self, machine=None, *, nr_pages=1 << 22, pfn_base=1024, memo=True):
        if machine is None:
            machine = Machine()
        elif isinstance(machine, str):
            machine = Machine.parse(machine)
        elif not isinstance(machine, Machine):
            raise LayoutError(f"machine={machine!r} is not a Machine; give one or a string such as '7.3,granule=16K'")
        self._machine = machine
        fill_machine(&self.mm.mmu.m, machine)
        limit = <uint64_t>1 << (48 - self.mm.mmu.m.page_shift)
        self.mm.mmu.nr_pages = number("nr_pages", nr_pages, limit)
        self.mm.mmu.pfn_base = number("pfn_base", pfn_base, limit)
        if self.mm.mmu.nr_pages == 0 or self.mm.mmu.pfn_base + self.mm.mmu.nr_pages > limit:
            raise LayoutError(
                f"pfn_base={pfn_base:#x} and nr_pages={nr_pages:#x} leave the physical address space of {limit:#x} pages; "
                "give a smaller window of at least one page")
        # one byte more, so that the array is never empty and a bulk reader may look ahead
        self._pages = zeroed_bytes(self.mm.mmu.nr_pages + 64)
        cdef uint8_t[::1] pages = self._pages
        self.mm.mmu.pages = &pages[0]
        self.next_pfn = self.mm.mmu.pfn_base
        self.shown = False
        self._pools = []
        self.mm.vs.limit = 65530
        self.mm.data_limit = self.mm.commit_limit = <uint64_t>1 << 62
        self.mm.pkeys = 1
        if pgtable_init(&self.mm.pt, &self.mm.mmu.m):
            raise MemoryError("the root page table did not fit in memory")
        tlb_gather_mmu(&self.mm.mmu)

    def __dealloc__(self):
        pgtable_free(&self.mm.pt)
        vmas_free(&self.mm.vs)

    # ---- page metadata ----

    @property
    def machine(self):
        """The `Machine` this address space is on."""
        return self._machine

    @property
    def pfn_base(self):
        """First page frame that has metadata."""
        return self.mm.mmu.pfn_base

    @property
    def nr_pages(self):
        """Page frames that have metadata."""
        return self.mm.mmu.nr_pages

    @property
    def pages(self):
        """Metadata bytes, a writable view: index is pfn - pfn_base."""
        self.shown = True
        return self._pages[: self.mm.mmu.nr_pages]

    cdef uint64_t described(self) noexcept:
        """Page frames whose metadata may be other than 0, counted from the first."""
        return self.mm.mmu.nr_pages if self.shown else self.next_pfn - self.mm.mmu.pfn_base

    cdef uint64_t frames(self, object pfn, object nr) except? 0xdeadbeef:
        """Offset into the metadata of nr pages from pfn on, all of which exist."""
        cdef uint64_t first = number("pfn", pfn), n = number("nr", nr)
        cdef uint64_t at = first - self.mm.mmu.pfn_base
        if first < self.mm.mmu.pfn_base or at > self.mm.mmu.nr_pages or n > self.mm.mmu.nr_pages - at:
            raise LayoutError(
                f"pages {first:#x}..{int(first) + n:#x} have no metadata; this MM has {self.mm.mmu.nr_pages:#x} pages from "
                f"{self.mm.mmu.pfn_base:#x}, make it with a larger nr_pages")
        return at

    cdef int new_folio(self, uint64_t at, uint64_t order, bint anon, bint numa_skip, bint mapped_shared) except -1:
        memset(self.mm.mmu.pages + at, page_byte(order, anon, numa_skip, mapped_shared), <uint64_t>1 << order)
        # what was placed by hand is never handed out again
        self.next_pfn = max(self.next_pfn, self.mm.mmu.pfn_base + at + (<uint64_t>1 << order))
        return 0

    def set_folio(self, head_pfn, order, *, anon=True, numa_skip=False, mapped_shared=False):
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
        cdef uint64_t at = self.frames(head_pfn, <uint64_t>1 << o)
        if (self.mm.mmu.pfn_base + at) & ((<uint64_t>1 << o) - 1):
            raise LayoutError(f"head_pfn={self.mm.mmu.pfn_base + at:#x} is not aligned to a folio of order {o}; "
                              f"give a multiple of {<uint64_t>1 << o:#x}")
        cdef bint a = truth("anon", anon), n = truth("numa_skip", numa_skip), s = truth("mapped_shared", mapped_shared)
        with Held(self):
            self.new_folio(at, o, a, n, s)

    def set_page_anon_exclusive(self, pfn, nr=1, on=True):
        """Set or clear PageAnonExclusive of nr pages from pfn on.

        Parameters
        ----------
        pfn, nr : int
            First page frame; number of pages.
        on : bool
            Set, or clear.

        Raises
        ------
        LayoutError
            Pages without metadata, or not of an anonymous folio.
        """
        cdef uint64_t n = number("nr", nr)
        cdef uint64_t at = self.frames(pfn, n)
        part = self._pages[at : at + n]
        cdef bint exclusive = truth("on", on)
        with Held(self):
            if not (part & PG_ANON).all():
                first = self.mm.mmu.pfn_base + at
                raise LayoutError(f"pages {first:#x}..{first + n:#x} are not all anonymous; call set_folio(..., anon=True) first")
            if exclusive:
                part |= np.uint8(PG_ANON_EXCLUSIVE)
            else:
                part &= np.uint8(0xff ^ PG_ANON_EXCLUSIVE)

    def alloc_folio(self, order, *, anon=True, numa_skip=False, mapped_shared=False):
        """Make the next free naturally aligned frames a folio; returns its head pfn. See `set_folio`."""
        cdef uint64_t o = number("order", order, self.machine.pmd_order), size = <uint64_t>1 << o, head = 0
        cdef bint a = truth("anon", anon), n = truth("numa_skip", numa_skip), s = truth("mapped_shared", mapped_shared)
        with Held(self):
            head = (self.next_pfn + size - 1) & ~(size - 1)
            self.new_folio(self.frames(head, size), o, a, n, s)
        return head

    # ---- VMAs ----

    cdef uint64_t page_range(self, object start, object length, uint64_t *end) except? 0xdeadbeef:
        """Check a page-aligned range of user addresses; returns its start."""
        cdef uint64_t size = <uint64_t>1 << self.mm.mmu.m.va_bits
        cdef uint64_t a = number("start", start, size), n = number("length", length, size)
        cdef uint64_t mask = (<uint64_t>1 << self.mm.mmu.m.page_shift) - 1
        if a & mask or n & mask:
            raise LayoutError(f"start={a:#x}, length={n:#x} are not multiples of the page size {mask + 1:#x}; round them")
        if n == 0 or a + n > size:
            raise LayoutError(f"start={a:#x}, length={n:#x} is empty or ends above {size:#x}; "
                              "give a range inside the address space")
        end[0] = a + n
        return a

    cdef uint64_t pte_range(self, object start, object nr, uint64_t *end) except? 0xdeadbeef:
        """The same for a number of pages."""
        return self.page_range(start, number("nr", nr, <uint64_t>1 << 40) << self.mm.mmu.m.page_shift, end)

    def mmap(self, start, length, prot, *, shared=False, file=0, pgoff=None, vm_flags=0, may=7, writenotify=False,
             account=None, anon_vma=0, name=0):
        """Add a VMA as it is given, unmerged; nothing is mapped in it yet.

        Parameters
        ----------
        start, length : int
            Bytes, multiples of the page size; the range must be free.
        prot : int or str
            PROT_READ | PROT_WRITE | PROT_EXEC, or ``none``, ``ro``, ``rw``, ``rx``, ``rwx``.
        shared : bool
            MAP_SHARED.
        file : int
            Identity of a file, 0 for anonymous memory.
        pgoff : int, optional
            Page offset into the file; default: the page number of `start`.
        vm_flags : int
            Further flags (``bits.VM_*``), for example VM_SEALED.
        may : int
            Accesses that mprotect() may give, as PROT bits (VM_MAY*).
        writenotify : bool
            The file wants to know of the first write (page_mkwrite).
        account : bool, optional
            VM_ACCOUNT; default: as accountable_mapping() has it, for private memory
            that may be written and is not VM_NORESERVE.
        anon_vma : int
            Identity of the anon_vma, which decides what may merge (spec 6.4); 0: nothing was ever faulted in.
        name : int
            Identity of its PR_SET_VMA_ANON_NAME, 0: none; others do not merge (anon_vma_name_eq(), include/linux/mm_inline.h).

        Raises
        ------
        LayoutError
            Bad numbers, flags that the model does not have, or a range that is taken.
        """
        cdef uint64_t end = 0
        cdef uint64_t first = self.page_range(start, length, &end)
        cdef uint64_t own = number("prot", protection(prot), 7), allowed = number("may", may, 7), more = known_flags(vm_flags)
        cdef vma v
        if more & 0x7f:
            raise LayoutError(f"vm_flags={more:#x} holds access or sharing flags; give those with prot, may and shared")
        if own & ~allowed:
            raise LayoutError(f"prot={own:#x} has accesses that may={allowed:#x} forbids; give a may that includes prot")
        v.start, v.end = first, end
        v.flags = own | allowed << 4 | more | (VM_SHARED | 0x80 if truth("shared", shared) else 0)
        v.file = number("file", file, 0xffffffff)
        v.pgoff = first >> self.mm.mmu.m.page_shift if pgoff is None else number("pgoff", pgoff, <uint64_t>1 << 52)
        v.anon_vma = number("anon_vma", anon_vma, 0xffffffff)
        v.name = number("name", name, 0xffffffff)
        v.writenotify = truth("writenotify", writenotify)
        if accountable_mapping(v.flags) if account is None else truth("account", account):
            v.flags |= VM_ACCOUNT
        vma_set_page_prot(&v, &self.mm.mmu.m)
        with Held(self):
            self.mm.vs.last_mapping += 1
            v.mapping = self.mm.vs.last_mapping
            add_vma(self, &v)
            self.mm.vs.last_anon_vma = max(self.mm.vs.last_anon_vma, v.anon_vma)

    def vmas(self):
        """The VMAs in address order, as `Vma` tuples."""
        cdef size_t i
        cdef vma *v
        out = []
        with Held(self):
            for i in range(self.mm.vs.nr):
                v = vma_at(&self.mm.vs, i)
                out.append(Vma(v.start, v.end, v.flags, v.page_prot, v.pgoff, v.file, v.anon_vma, bool(v.writenotify), v.name))
        return out

    cdef vma *vma_of(self, uint64_t start, uint64_t end) except NULL:
        """The one VMA that holds [start, end)."""
        cdef size_t i = find_vma(&self.mm.vs, start)
        if i >= self.mm.vs.nr or vma_at(&self.mm.vs, i).start > start or vma_at(&self.mm.vs, i).end < end:
            raise LayoutError(f"[{start:#x}, {end:#x}) is not inside one VMA; call mmap() for it first")
        return vma_at(&self.mm.vs, i)

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

        Raises
        ------
        LayoutError
            A value that is no limit; none is changed then.
        """
        cdef uint64_t count = 0 if map_count is None else number("map_count", map_count, 1 << 24)
        cdef uint64_t data = 0 if data_pages is None else number("data_pages", data_pages, <uint64_t>1 << 62)
        cdef uint64_t commit = 0 if commit_pages is None else number("commit_pages", commit_pages, <uint64_t>1 << 62)
        cdef bint implies = read_implies_exec is not None and truth("read_implies_exec", read_implies_exec)
        with Held(self):
            if map_count is not None:
                self.mm.vs.limit = count
            if data_pages is not None:
                self.mm.data_limit = data
            if commit_pages is not None:
                self.mm.commit_limit = commit
            if read_implies_exec is not None:
                self.mm.read_implies_exec = implies

    def pkey_alloc(self):
        """Allocate the next protection key, 1 to 7; LayoutError when none is left."""
        cdef int key
        with Held(self):
            for key in range(1, 8):
                if not self.mm.pkeys >> key & 1:
                    self.mm.pkeys |= <uint64_t>1 << key
                    return key
        raise LayoutError("all 7 protection keys are allocated; reuse one")

    # ---- page tables ----

    def populate(self, start, length):
        """Allocate the leaf tables of a range; entries are none.

        Tables of one call that did not exist before lie side by side, so that
        `ptes` can show them as one array.

        Parameters
        ----------
        start, length : int
            Bytes, multiples of the page size.

        Raises
        ------
        LayoutError
            A range outside the address space.
        """
        cdef uint64_t end = 0
        cdef uint64_t addr = self.page_range(start, length, &end)
        with Held(self):
            self.add_tables(addr, end)

    cdef int add_tables(self, uint64_t addr, uint64_t end) except -1:
        cdef uint64_t span = <uint64_t>self.mm.mmu.m.ptrs_per_pte << self.mm.mmu.m.page_shift
        cdef uint64_t first
        addr &= ~(span - 1)
        while addr < end:
            if pte_table(&self.mm.pt, addr) != NULL:
                addr += span
                continue
            first = addr
            while addr < end and pte_table(&self.mm.pt, addr) == NULL:
                addr += span
            self.add_pool(first, (addr - first) // span)
        return 0

    cdef int add_pool(self, uint64_t first, uint64_t nr) except -1:
        """nr leaf tables from address `first` on, entered in the upper tables."""
        cdef uint64_t span = <uint64_t>self.mm.mmu.m.ptrs_per_pte << self.mm.mmu.m.page_shift
        pool = np.zeros(nr * self.mm.mmu.m.ptrs_per_pte, np.uint64)
        cdef uint64_t[::1] mem = pool
        cdef uint64_t *pmd
        cdef uint64_t i
        # all upper tables first: a failure leaves no half-made range
        for i in range(nr):
            if pmd_offset(&self.mm.pt, first + i * span, True) == NULL:
                raise MemoryError("the upper page tables did not fit in memory")
        for i in range(nr):
            pmd = pmd_offset(&self.mm.pt, first + i * span, False)
            pmd[0] = <uint64_t>&mem[i * self.mm.mmu.m.ptrs_per_pte] | DESC_TABLE
        with cython.critical_section(self):
            insort(self._pools, (first, pool), key=FIRST)
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
        cdef uint64_t first = self.pte_range(start, nr, &end)
        cdef uint64_t at, pages
        # a strategy's step may look too, so the address space is not taken
        with cython.critical_section(self):
            k = bisect_right(self._pools, first, key=FIRST)
            base, pool = self._pools[k - 1] if k else (0, None)
        if pool is not None:
            at = (first - <uint64_t>base) >> self.mm.mmu.m.page_shift
            pages = (end - first) >> self.mm.mmu.m.page_shift
            if at + pages <= <uint64_t>len(pool):
                return pool[at : at + pages]
            if at < <uint64_t>len(pool):
                raise LayoutError(f"[{first:#x}, {end:#x}) lies in several pools of leaf tables; "
                                  f"ask for at most {len(pool) - at} pages")
        raise LayoutError(f"there is no page table at {first:#x}; call populate() or map_folios() first")

    def leaf(self, addr):
        """PTE words of the whole leaf table that maps addr, a writable view; see `ptes`."""
        cdef uint64_t a = number("addr", addr, (<uint64_t>1 << self.mm.mmu.m.va_bits) - 1)
        cdef uint64_t span = <uint64_t>self.mm.mmu.m.ptrs_per_pte << self.mm.mmu.m.page_shift
        return self.ptes(a & ~(span - 1), self.mm.mmu.m.ptrs_per_pte)

    def walk(self, addr):
        """The table entries on the way to addr, from the top.

        Returns
        -------
        list of (int, int)
            Index and entry of each level; the last is the PTE. Ends early at a hole.
        """
        cdef uint64_t a = number("addr", addr, (<uint64_t>1 << self.mm.mmu.m.va_bits) - 1)
        cdef uint64_t *tbl = self.mm.pt.root
        cdef int level = self.mm.pt.levels - 1
        cdef uint64_t i
        out = []
        with Held(self):
            while level >= 0:
                i = pgtable_index(&self.mm.pt, a, level)
                out.append((i, tbl[i]))
                if tbl[i] == 0:
                    return out
                tbl = <uint64_t *>(tbl[i] & ~<uint64_t>DESC_TABLE)
                level -= 1
            i = (a >> self.mm.mmu.m.page_shift) & (self.mm.mmu.m.ptrs_per_pte - 1)
            out.append((i, tbl[i]))
        return out

    cdef bint table_at(self, uint64_t addr, table *t, size_t *idx) noexcept nogil:
        cdef uint64_t span = <uint64_t>self.mm.mmu.m.ptrs_per_pte << self.mm.mmu.m.page_shift
        t.mmu = &self.mm.mmu
        t.leaf = pte_table(&self.mm.pt, addr)
        t.addr0 = addr & ~(span - 1)
        idx[0] = (addr - t.addr0) >> self.mm.mmu.m.page_shift
        return t.leaf != NULL

    cdef size_t one_table(self, object addr, object nr, table *t, size_t *idx) except 0:
        """Where a verb on entries works, one existing leaf table; returns how many entries, converted once."""
        cdef uint64_t end = 0
        cdef uint64_t a = self.pte_range(addr, nr, &end)
        cdef size_t n = (end - a) >> self.mm.mmu.m.page_shift
        if not self.table_at(a, t, idx):
            raise LayoutError(f"there is no page table at {a:#x}; call populate() or map_folios() first")
        if idx[0] + n > self.mm.mmu.m.ptrs_per_pte:
            raise LayoutError(f"{n} entries from {a:#x} on leave their leaf table; split the range at a multiple of "
                              f"{self.mm.mmu.m.ptrs_per_pte << self.mm.mmu.m.page_shift:#x}")
        return n


cdef int add_vma(Space space, const vma *v) except -1:
    cdef size_t i = find_vma(&space.mm.vs, v.start)
    cdef const vma *other = vma_at(&space.mm.vs, i) if i < space.mm.vs.nr else NULL
    if other != NULL and other.start < v.end:
        raise LayoutError(f"[{v.start:#x}, {v.end:#x}) overlaps the VMA at {other.start:#x}; choose a free range")
    if space.mm.vs.nr >= space.mm.vs.limit:
        raise LayoutError(f"there are {space.mm.vs.nr} VMAs already, the limit; map fewer, larger ranges")
    if vma_insert(&space.mm.vs, i, v):
        raise MemoryError("the VMA did not fit in memory")
    if is_data_mapping(v.flags):
        space.mm.data_vm += (v.end - v.start) >> space.mm.mmu.m.page_shift
    if v.flags & VM_ACCOUNT:
        space.mm.committed += (v.end - v.start) >> space.mm.mmu.m.page_shift
    return 0
