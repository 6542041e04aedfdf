# cython: language_level=3
"""`Judge`: run a small world and judge the table it leaves. Base of `Checker`."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from .change cimport change_pte_range
from .counters cimport counters
from .judge cimport (
    AD_KEPT, AD_SPREAD, CLASS, COMMITTED, CONTPTE, CONT_VALID, CONVERT_FLUSH, COUNTS, CP_NUMA, CP_TRY, CP_UFFD_WP,
    CP_UFFD_WP_RESOLVE, C_AD, C_AF, C_CHG, C_CONT, C_DIRTY, C_LOOSE, C_RDONLY, C_SPECIAL, C_UFFD, C_VALID, C_WRITE,
    DIRTY_STATE, EXCLUSIVE, FLUSH, MAX_PAGES, MAX_PTES, OK, OUTSIDE, O_ANON, O_EXCLUSIVE, O_NUMA_SKIP, O_ORDER,
    PARTITION, PFN0, PRESERVED, RETURN, SHARED_WRITE, SOFTLEAF, WRITE_KEPT, dirty, frame, present, protnone, verdict,
    world,
)
from .resolved cimport Strategy, fill_machine
from .tlb cimport tlb_gather_mmu

import numpy as np

from ptebatch.errors import LayoutError


cdef class Judge:
    """One machine and one strategy, and the laws of the table; see `Checker`."""

    def __cinit__(self, machine, strategy):
        if machine.ptrs_per_pte > MAX_PTES:
            raise LayoutError(f"tables of {machine.ptrs_per_pte} entries are too large for small worlds; use at most {MAX_PTES}")
        self.machine = machine
        self.row = Strategy(strategy)
        fill_machine(&self.mm.m, machine)
        self.mm.pages = self.pages
        self.mm.pfn_base = PFN0
        self.mm.nr_pages = MAX_PAGES

    def __dealloc__(self):
        free(self.tr.at)

    @property
    def table_ptes(self):
        """The table as the last run left it."""
        return np.array([self.table[i] for i in range(self.mm.m.ptrs_per_pte)], np.uint64)

    # run the world's call; the table and the gather stay for the laws
    cdef void run(self, const world *x, bint traced) noexcept nogil:
        self.runs += 1
        memcpy(self.table, x.ptes, sizeof(self.table))
        memcpy(self.pages, x.pages, MAX_PAGES)
        memset(&self.mm.c, 0, sizeof(counters))
        self.tr.nr = 0
        self.mm.tr = &self.tr if traced else NULL
        tlb_gather_mmu(&self.mm)
        self.w.t.mm = &self.mm
        self.w.t.leaf = self.table
        self.w.t.addr0 = 0
        self.w.idx = x.start
        self.w.end = x.end
        self.w.newprot = x.newprot
        self.w.cp_flags = x.cp_flags
        self.w.vm_flags = x.vm_flags
        self.w.vma_anon = x.vma_anon
        self.w.pages = 0
        self.w.started = 0
        self.w.failed = False
        self.w.memo = NULL
        self.w.range_end = <uint64_t>x.end << self.mm.m.page_shift
        self.w.python = <void *>self.row.window
        change_pte_range(&self.w, &self.row.row)

    # ---- what the laws need to know of an entry before the call ----

    cdef uint8_t byte_of(self, const world *x, uint64_t p) noexcept nogil:
        cdef uint64_t at = frame(p, self.mm.m.page_shift) - PFN0
        return x.pages[at] if at < MAX_PAGES else 0

    cdef bint has_page(self, uint64_t p) noexcept nogil:
        return not p & C_SPECIAL and frame(p, self.mm.m.page_shift) - PFN0 < MAX_PAGES

    # prot_numa leaves this entry alone
    cdef bint skipped(self, const world *x, uint64_t p) noexcept nogil:
        if not x.cp_flags & CP_NUMA:
            return False
        return protnone(p) or not self.has_page(p) or (self.byte_of(x, p) & O_NUMA_SKIP) != 0

    cdef uint64_t folio_of(self, const world *x, uint64_t p) noexcept nogil:
        cdef uint64_t pfn = frame(p, self.mm.m.page_shift)
        return pfn >> (self.byte_of(x, p) & O_ORDER) if self.has_page(p) else <uint64_t>-1

    # OR of AF and of dirtiness over the present entries of p's folio, in the called
    # range rounded out to contpte blocks (spec 7.10); bit 0 young, bit 1 dirty
    cdef int folio_ad(self, const world *x, uint64_t p, uint32_t lo, uint32_t hi) noexcept nogil:
        cdef int out = 0
        cdef uint32_t i
        cdef uint64_t f = self.folio_of(x, p), q
        for i in range(lo, hi):
            q = x.ptes[i]
            if not present(q) or not self.has_page(q):
                continue
            if self.folio_of(x, q) == f and self.byte_of(x, q) & O_ORDER == self.byte_of(x, p) & O_ORDER:
                out |= (1 if q & C_AF else 0) | (2 if dirty(q) else 0)
        if f == <uint64_t>-1:
            out = (1 if p & C_AF else 0) | (2 if dirty(p) else 0)
        return out

    # ---- laws ----

    cdef verdict judge(self, const world *x) noexcept nogil:
        cdef verdict v
        cdef uint32_t n = self.mm.m.cont_ptes, i
        cdef uint32_t lo = x.start & ~(n - 1), hi = (x.end + n - 1) & ~(n - 1)
        v.entry = -1
        v.saw = 0
        v.law = self.judge_walk(x)
        if v.law:
            return v
        for i in range(self.mm.m.ptrs_per_pte):
            v.entry = i
            if i < lo or i >= hi:
                v.law = OK if self.table[i] == x.ptes[i] else OUTSIDE
            elif i < x.start or i >= x.end:
                v.law = self.judge_neighbour(x, i, lo, hi)
            else:
                v.law = self.judge_entry(x, i, lo, hi)
            if v.law:
                return v
        i = 0
        while i < self.mm.m.ptrs_per_pte:
            v.entry = i
            v.law = self.judge_block(x, i)
            if v.law:
                return v
            i += n
        v.entry = -1
        return v

    # an entry outside the range, in a block that its edge cuts
    cdef int judge_neighbour(self, const world *x, uint32_t i, uint32_t lo, uint32_t hi) noexcept nogil:
        cdef uint64_t old = x.ptes[i], new = self.table[i]
        if old == new:
            return OK
        if not present(old) or (old ^ new) & ~C_AD:
            return OUTSIDE
        return self.judge_ad(x, i, lo, hi)

    # AF and dirty: never lost, and only from the entry's own folio
    cdef int judge_ad(self, const world *x, uint32_t i, uint32_t lo, uint32_t hi) noexcept nogil:
        cdef uint64_t old = x.ptes[i], new = self.table[i]
        cdef int may = self.folio_ad(x, old, lo, hi)
        if (old & C_AF and not new & C_AF) or (dirty(old) and not dirty(new)):
            return AD_KEPT
        if new & C_AF and not may & 1:
            return AD_SPREAD
        if dirty(new) and not may & 2 and not (self.mm.m.mkwrite_always and new & C_WRITE):
            return AD_SPREAD
        # the five states of spec 2.1
        if new & C_WRITE:
            if ((new & C_RDONLY) != 0) == dirty(new) and not (self.mm.m.mkwrite_always and not new & C_RDONLY):
                return DIRTY_STATE
        elif not new & C_RDONLY:
            return DIRTY_STATE
        return OK

    cdef int judge_entry(self, const world *x, uint32_t i, uint32_t lo, uint32_t hi) noexcept nogil:
        cdef uint64_t old = x.ptes[i], new = self.table[i], want
        if not present(old):
            return OK if new == self.not_present(x, old) else (SOFTLEAF if old else CLASS)
        if self.skipped(x, old):
            return OK if new == old else PRESERVED
        want = (old & ~C_CHG) | (x.newprot & C_CHG)
        if x.cp_flags & CP_UFFD_WP:
            want |= C_UFFD
        elif x.cp_flags & CP_UFFD_WP_RESOLVE:
            want &= ~C_UFFD
        if not present(new):
            return CLASS
        if (new ^ want) & ~C_LOOSE:
            return PRESERVED
        return self.judge_write(x, i, want, lo, hi) or self.judge_ad(x, i, lo, hi) or self.judge_flush(x, i)

    # WRITE: spec 6.6 and 7.10
    cdef int judge_write(self, const world *x, uint32_t i, uint64_t want, uint32_t lo, uint32_t hi) noexcept nogil:
        cdef uint64_t old = x.ptes[i], new = self.table[i]
        cdef bint write = (want & C_WRITE) != 0 and not x.cp_flags & CP_UFFD_WP
        cdef bint maybe, exclusive
        if write or not x.cp_flags & CP_TRY:
            return OK if ((new & C_WRITE) != 0) == write else WRITE_KEPT
        maybe = (x.vm_flags & 2) != 0 and not protnone(want) and not (x.vm_flags & 0x1000 and want & C_UFFD)
        if x.vm_flags & 8:
            if not maybe:
                return SHARED_WRITE if new & C_WRITE else OK
            if new & C_WRITE:
                return OK if self.folio_ad(x, old, lo, hi) & 2 else SHARED_WRITE
            return SHARED_WRITE if dirty(old) else OK
        exclusive = self.has_page(old) and (self.byte_of(x, old) & (O_ANON | O_EXCLUSIVE)) == (O_ANON | O_EXCLUSIVE)
        return OK if ((new & C_WRITE) != 0) == (maybe and exclusive) else EXCLUSIVE

    # the gathered range covers an entry that was valid and whose rights changed (spec 7.9, 8)
    cdef int judge_flush(self, const world *x, uint32_t i) noexcept nogil:
        cdef uint64_t old = x.ptes[i], new = self.table[i], changed = (old ^ new) & C_CHG
        cdef uint64_t addr = <uint64_t>i << self.mm.m.page_shift
        if not old & C_VALID:
            return OK
        # hardware and gathering only ever clear RDONLY of a writable entry
        if changed == C_RDONLY and not new & C_RDONLY:
            return OK
        if changed and not (self.mm.tlb.cleared_ptes and self.mm.tlb.start <= addr < self.mm.tlb.end):
            return FLUSH
        return OK

    # what an entry that is not present becomes (spec 6.7)
    cdef uint64_t not_present(self, const world *x, uint64_t old) noexcept nogil:
        cdef uint32_t type = (old >> 6) & 31, read = self.mm.m.swp_migration_read
        cdef uint64_t offset = old >> 12
        cdef uint64_t at
        if old == 0:
            return 0x17c0 if x.cp_flags & CP_UFFD_WP and x.vm_flags & 0x1000 and not x.vma_anon else 0
        if type == 31:
            if offset & 2 or (offset & 4 and self.mm.m.guard_markers) or not x.cp_flags & CP_UFFD_WP_RESOLVE:
                return old
            return 0
        if type == read + 2:
            at = (offset & ((<uint64_t>1 << (48 - self.mm.m.page_shift)) - 1)) - PFN0
            type = read + 1 if at < MAX_PAGES and x.pages[at] & O_ANON else read
            old = (offset << 12) | (<uint64_t>type << 6)
        if x.cp_flags & CP_UFFD_WP:
            old |= 8
        elif x.cp_flags & CP_UFFD_WP_RESOLVE:
            old &= ~<uint64_t>8
        return old

    # I-4 and I-5
    cdef int judge_block(self, const world *x, uint32_t first) noexcept nogil:
        cdef uint32_t n = self.mm.m.cont_ptes, i, shift = self.mm.m.page_shift
        cdef uint64_t p = self.table[first], q
        cdef bint folded = False
        cdef uint64_t at
        for i in range(first, first + n):
            q = self.table[i]
            if q & C_CONT and present(q):
                if q & C_VALID:
                    folded = True
                elif not self.mm.m.paint_invalid:
                    return CONT_VALID
        if not folded:
            return OK
        if frame(p, shift) & (n - 1) or p & C_SPECIAL:
            return CONTPTE
        at = frame(p, shift) - PFN0
        if at + n > MAX_PAGES or <uint32_t>1 << (x.pages[at] & O_ORDER) < n:
            return CONTPTE
        for i in range(n):
            q = self.table[first + i]
            if (q & (C_VALID | C_CONT)) != (C_VALID | C_CONT) or frame(q, shift) != frame(p, shift) + i:
                return CONTPTE
            if (q ^ p) & ~(((<uint64_t>1 << 50) - (<uint64_t>1 << shift)) | C_AF | C_DIRTY | C_RDONLY):
                return CONTPTE
        return OK

    # laws of the call as a whole
    cdef int judge_walk(self, const world *x) noexcept nogil:
        cdef const counters *c = &self.mm.c
        cdef uint64_t n = self.mm.m.cont_ptes, handled = 0, stored = 0, conversions = c.folds + c.unfolds
        cdef uint32_t i
        if self.w.failed or self.w.idx != x.end:
            return PARTITION
        if self.w.started:
            return COMMITTED
        for i in range(x.start, x.end):
            if present(x.ptes[i]):
                handled += not self.skipped(x, x.ptes[i])
            elif self.not_present(x, x.ptes[i]) != x.ptes[i]:
                stored += 1
        if self.w.pages != handled + stored:
            return RETURN
        if c.pte_xchg != handled + conversions * n or c.pte_writes != handled + stored + conversions * n:
            return COUNTS
        if c.unfold_calls != c.unfolds or c.prot_start > handled or c.prot_commit > handled or c.prot_start > c.prot_commit:
            return COUNTS
        if c.gather_calls > c.prot_commit or (c.n_subs and c.n_subs != c.prot_commit) or c.pte_cmpxchg:
            return COUNTS
        if c.convert_tlbi != (0 if self.mm.m.elides_bbm else conversions) or c.convert_tlbi_pages != c.convert_tlbi * n:
            return CONVERT_FLUSH
        return OK
