# cython: language_level=3
"""The checker's inner loop: build a small world, run a strategy on it, judge it.

A world is one leaf table of at most MAX_PTES entries, the metadata of its page
frames, and one call. The laws are numbered here and named, with their sources,
in ``ptebatch.laws``. What a law expects is computed from the contracts of the
specification entry by entry, never by the verbs of the core.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from .change cimport change_pte_range
from .counters cimport counters
from .log cimport (
    EV_ASIDE1IS, EV_DSB_ISH, EV_RVALE1IS, EV_VALE1IS, EV_WRITE, EV_XCHG, event, trace,
)
from .mm_struct cimport mm_struct
from .strategy cimport walk
from .resolved cimport Strategy, fill_machine
from .tlb cimport tlb_end_vma, tlb_gather_mmu

import numpy as np

from ptebatch.errors import LayoutError

cdef extern from *:
    """
    /* the words of the contracts, restated: not the core's own helpers */
    #define C_VALID (1ULL << 0)
    #define C_USER (1ULL << 6)
    #define C_RDONLY (1ULL << 7)
    #define C_AF (1ULL << 10)
    #define C_NG (1ULL << 11)
    #define C_WRITE (1ULL << 51)
    #define C_CONT (1ULL << 52)
    #define C_UXN (1ULL << 54)
    #define C_DIRTY (1ULL << 55)
    #define C_SPECIAL (1ULL << 56)
    #define C_UFFD (1ULL << 58)
    #define C_CHG 0x706c0000000008ddULL
    #define C_LOOSE (C_CONT | C_AF | C_DIRTY | C_RDONLY | C_WRITE)
    #define C_AD (C_CONT | C_AF | C_DIRTY | C_RDONLY)
    """
    const uint64_t C_VALID, C_USER, C_RDONLY, C_AF, C_NG, C_WRITE, C_CONT, C_UXN, C_DIRTY, C_SPECIAL, C_UFFD
    const uint64_t C_CHG, C_LOOSE, C_AD

cdef enum:
    MAX_PTES = 32
    MAX_PAGES = 128
    PFN0 = 1024
    CACHED = 12                # words a page can be cached with in one call

    O_ORDER = 0x0f
    O_ANON = 0x10
    O_NUMA_SKIP = 0x40
    O_EXCLUSIVE = 0x80

    CP_TRY = 1
    CP_NUMA = 2
    CP_UFFD_WP = 4
    CP_UFFD_WP_RESOLVE = 8

# law numbers; ptebatch.laws has the names
cdef enum:
    OK = 0
    PARTITION = 1
    COMMITTED = 2
    OUTSIDE = 3
    CLASS = 4
    PRESERVED = 5
    EXCLUSIVE = 6
    SHARED_WRITE = 7
    WRITE_KEPT = 8
    AD_KEPT = 9
    AD_SPREAD = 10
    DIRTY_STATE = 11
    CONTPTE = 12
    CONT_VALID = 13
    FLUSH = 14
    RETURN = 15
    COUNTS = 16
    CONVERT_FLUSH = 17
    TLB_RIGHTS = 18
    BBM = 19
    HARDWARE = 20
    SOFTLEAF = 21

# events that are reported, not judged
cdef enum:
    SAW_CONT_SET = 1
    SAW_CONT_CLEAR = 2

cdef struct world:
    uint64_t[MAX_PTES] ptes
    uint8_t[MAX_PAGES] pages
    uint32_t start
    uint32_t end
    uint64_t vm_flags
    uint64_t newprot
    uint32_t cp_flags
    bint vma_anon

cdef struct verdict:
    int law
    int entry                  # first entry that breaks it, -1: none in particular
    uint32_t saw               # SAW_ bits

# ---- contracts ----

cdef inline bint present(uint64_t p) noexcept nogil:
    return (p & (C_VALID | C_NG)) != 0


cdef inline bint protnone(uint64_t p) noexcept nogil:
    return (p & (C_VALID | C_NG | C_USER | C_UXN)) == (C_NG | C_UXN)


cdef inline bint dirty(uint64_t p) noexcept nogil:
    return (p & C_DIRTY) != 0 or (p & (C_WRITE | C_RDONLY)) == C_WRITE


cdef inline uint64_t frame(uint64_t p, unsigned int shift) noexcept nogil:
    return (p & ((<uint64_t>1 << 50) - (<uint64_t>1 << shift))) >> shift


cdef class Checker:
    """Runs worlds of one machine under one strategy.

    Parameters
    ----------
    machine : Machine
        A geometry of at most 32 entries a table.
    strategy : str, callable or Strategy
        As `MM.mprotect` takes it.

    Raises
    ------
    LayoutError
        The machine's tables are too large for small worlds.
    """

    cdef mm_struct mm
    cdef Strategy row
    cdef readonly object machine
    cdef uint64_t[MAX_PTES] table
    cdef uint8_t[MAX_PAGES + 64] pages
    cdef trace tr
    cdef readonly uint64_t runs
    cdef walk w

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
        cdef uint64_t f = self.folio_of(x, p), head = f << (self.byte_of(x, p) & O_ORDER), q
        for i in range(lo, hi):
            q = x.ptes[i]
            if present(q) and self.has_page(q) and self.folio_of(x, q) == f and self.byte_of(x, q) & O_ORDER == self.byte_of(x, p) & O_ORDER:
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
        cdef uint64_t offset = old >> 12, keep = old & 8
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

    # ---- TLB model: see ptebatch.laws for what it assumes ----

    cdef verdict judge_tlb(self, const world *x) noexcept nogil:
        cdef verdict v
        cdef uint64_t[MAX_PTES][CACHED] cached
        cdef uint32_t[MAX_PTES] nr
        cdef uint64_t[MAX_PTES] memory
        cdef bint[MAX_PTES] going
        cdef uint32_t n = self.mm.m.cont_ptes, ptrs = self.mm.m.ptrs_per_pte, i, k, b
        cdef size_t e
        cdef const event *ev
        cdef uint64_t first, last
        v.law = OK
        v.entry = -1
        v.saw = 0
        tlb_end_vma(&self.mm)
        for i in range(ptrs):
            memory[i] = x.ptes[i]
            going[i] = False
            nr[i] = 0
            if memory[i] & C_VALID:
                cached[i][0] = memory[i]
                nr[i] = 1
        for e in range(self.tr.nr):
            ev = &self.tr.at[e]
            i = <uint32_t>(ev.addr >> self.mm.m.page_shift)
            if ev.kind == EV_XCHG and i < ptrs:
                memory[i] = 0
            elif ev.kind == EV_WRITE and i < ptrs:
                memory[i] = ev.value
                if ev.value & C_VALID:
                    for k in range(nr[i]):
                        if (cached[i][k] ^ ev.value) & C_CONT:
                            v.saw |= SAW_CONT_SET if ev.value & C_CONT else SAW_CONT_CLEAR
                        if frame(cached[i][k], self.mm.m.page_shift) != frame(ev.value, self.mm.m.page_shift):
                            v.law = BBM
                            v.entry = i
                            return v
                    if nr[i] == CACHED:
                        v.law = BBM
                        v.entry = i
                        return v
                    cached[i][nr[i]] = ev.value
                    nr[i] += 1
            elif ev.kind == EV_VALE1IS or ev.kind == EV_RVALE1IS:
                first = ev.addr >> self.mm.m.page_shift
                last = first + ev.value
                for i in range(ptrs):
                    b = i & ~(n - 1)
                    # an entry of a folded block spans it: any address in it removes the entry
                    if first <= i < last or (b < last and b + n > first and nr[i] and cached[i][0] & C_CONT):
                        going[i] = True
            elif ev.kind == EV_ASIDE1IS:
                for i in range(ptrs):
                    going[i] = True
            elif ev.kind == EV_DSB_ISH:
                for i in range(ptrs):
                    if going[i]:
                        going[i] = False
                        nr[i] = 0
                        if memory[i] & C_VALID:
                            cached[i][0] = memory[i]
                            nr[i] = 1
        for i in range(ptrs):
            for k in range(nr[i]):
                if self.grants_more(cached[i][k], self.table[i]):
                    v.law = TLB_RIGHTS
                    v.entry = i
                    return v
        return v

    # does a cached word let EL0 do what the table's word denies?
    cdef bint grants_more(self, uint64_t c, uint64_t p) noexcept nogil:
        if not p & C_VALID:
            return True
        if c & C_USER and not p & C_USER:
            return True
        if not c & C_UXN and p & C_UXN:
            return True
        return (c & C_USER) != 0 and (c & C_WRITE) != 0 and not p & C_WRITE

    # ---- hardware between the steps ----

    # set AF, or dirty by clearing RDONLY, of one entry after each event in turn
    cdef verdict judge_hardware(self, const world *x) noexcept nogil:
        cdef verdict v
        cdef size_t events, e
        cdef uint32_t i
        cdef int what
        v.law = OK
        v.entry = -1
        v.saw = 0
        self.run(x, True)
        events = self.tr.nr
        for i in range(self.mm.m.ptrs_per_pte):
            if not present(x.ptes[i]):
                continue
            for what in range(2):
                for e in range(events):
                    self.tr.inject_at = e + 1
                    self.tr.inject = &self.table[i]
                    self.tr.inject_dirty = what == 1
                    self.tr.injected = False
                    self.run(x, True)
                    self.tr.inject_at = 0
                    if self.tr.injected:
                        if (what == 0 and not self.table[i] & C_AF) or (what == 1 and not dirty(self.table[i])):
                            v.law = HARDWARE
                            v.entry = i
                            return v
                        # a right that the protection denies is never made by hardware: WRITE decides
                        if not self.table[i] & C_WRITE and not self.table[i] & C_RDONLY:
                            v.law = DIRTY_STATE
                            v.entry = i
                            return v
        return v

    # ---- one world from Python ----

    cdef int load(self, world *x, object ptes, object pages, object call) except -1:
        cdef uint32_t i
        memset(x, 0, sizeof(world))
        for i in range(len(ptes)):
            x.ptes[i] = ptes[i]
        for i in range(len(pages)):
            x.pages[i] = pages[i]
        x.start, x.end, x.vm_flags, x.newprot, x.cp_flags, x.vma_anon = call
        if x.start >= x.end or x.end > self.mm.m.ptrs_per_pte or len(pages) > MAX_PAGES:
            raise LayoutError(f"entries [{x.start}, {x.end}) are not a range of a table of {self.mm.m.ptrs_per_pte} entries")
        return 0

    def check(self, ptes, pages, call, *, bint tlb=True, bint hardware=True):
        """Judge one world by every law.

        Parameters
        ----------
        ptes : sequence of int
            Words of the table.
        pages : sequence of int
            Metadata of the frames from 1024 on.
        call : tuple
            (start, end, vm_flags, newprot, cp_flags, vma_anon).
        tlb, hardware : bool
            Also follow the TLB, and try hardware updates between all steps.

        Returns
        -------
        tuple of (int, int, int)
            Law number (0: all hold), entry, and what was seen: 1 CONT set, 2 CONT
            cleared on live entries without a TLBI between.
        """
        cdef world x
        cdef verdict v
        self.load(&x, ptes, pages, call)
        self.run(&x, tlb)
        self.raise_failure()
        v = self.judge(&x)
        if v.law == OK and tlb:
            v = self.judge_tlb(&x)
        if v.law == OK and hardware:
            saw = v.saw
            v = self.judge_hardware(&x)
            v.saw = saw
        return v.law, v.entry, v.saw

    def final(self, ptes, pages, call):
        """Run one world and return the table it leaves."""
        cdef world x
        self.load(&x, ptes, pages, call)
        self.run(&x, False)
        self.raise_failure()
        return self.table_ptes

    cdef int raise_failure(self) except -1:
        if self.row.window is not None and self.row.window.error is not None:
            error = self.row.window.error
            self.row.window.clear_error()
            raise error
        return 0

    def sweep(self, uint64_t[:, ::1] words, uint8_t[:, ::1] pages, int64_t[:, ::1] calls, uint64_t[:, ::1] ad, uint32_t[::1] folds,
              bint tlb=False, bint hardware=False):
        """Judge every combination of word rows, calls, A/D rows and folding choices.

        Parameters
        ----------
        words : uint64 array, shape (worlds, entries)
            Words without AF, dirty and CONT.
        pages : uint8 array, shape (worlds, frames)
            Metadata, one row a row of `words`.
        calls : int64 array, shape (calls, 6)
            (start, end, vm_flags, newprot, cp_flags, vma_anon).
        ad : uint64 array, shape (patterns, entries)
            Per entry: 1 young, 2 software dirty, 4 hardware dirty if writable.
        folds : uint32 array
            Bit b: fold contpte block b if it may be folded.

        Returns
        -------
        tuple
            (worlds judged, worlds left out because a folding choice changes nothing,
            law, entry, saw, index of the words row, call, A/D row, fold choice).
        """
        cdef world x
        cdef verdict v
        cdef uint64_t judged = 0, same = 0
        cdef Py_ssize_t r, c, a, f
        cdef uint32_t e, done, saw = 0
        cdef uint32_t entries = words.shape[1]
        cdef Py_ssize_t nr_pages = pages.shape[1]
        if entries != self.mm.m.ptrs_per_pte or nr_pages > MAX_PAGES or ad.shape[1] != entries or pages.shape[0] != words.shape[0]:
            raise LayoutError("the arrays of a sweep do not fit the machine's table; see Checker.sweep")
        memset(&x, 0, sizeof(x))
        v.law = OK
        v.entry = -1
        for r in range(words.shape[0]):
            memcpy(x.pages, &pages[r, 0], nr_pages)
            for a in range(ad.shape[0]):
                for f in range(folds.shape[0]):
                    for e in range(entries):
                        x.ptes[e] = with_ad(words[r, e], ad[a, e])
                    done = self.fold(&x, folds[f])
                    if done != folds[f]:
                        same += calls.shape[0]
                        continue
                    for c in range(calls.shape[0]):
                        x.start, x.end = <uint32_t>calls[c, 0], <uint32_t>calls[c, 1]
                        x.vm_flags, x.newprot = calls[c, 2], calls[c, 3]
                        x.cp_flags, x.vma_anon = <uint32_t>calls[c, 4], calls[c, 5] != 0
                        self.run(&x, tlb)
                        v = self.judge(&x)
                        judged += 1
                        if v.law == OK and tlb:
                            v = self.judge_tlb(&x)
                            saw |= v.saw
                        if v.law == OK and hardware:
                            v = self.judge_hardware(&x)
                        if v.law:
                            self.raise_failure()
                            return judged, same, v.law, v.entry, saw, r, c, a, f
        return judged, same, OK, -1, saw, -1, -1, -1, -1

    # paint CONT on the blocks of `mask` that may be folded; returns which were
    cdef uint32_t fold(self, world *x, uint32_t mask) noexcept nogil:
        cdef uint32_t n = self.mm.m.cont_ptes, b, i, done = 0, shift = self.mm.m.page_shift
        cdef uint64_t p, at
        cdef bint may
        for b in range(self.mm.m.ptrs_per_pte // n):
            if not mask >> b & 1:
                continue
            p = x.ptes[b * n]
            at = frame(p, shift) - PFN0
            if not p & C_VALID or p & C_SPECIAL or frame(p, shift) & (n - 1) or at >= MAX_PAGES or (<uint32_t>1 << (x.pages[at] & O_ORDER)) < n:
                continue
            may = True
            for i in range(1, n):
                may &= frame(x.ptes[b * n + i], shift) == frame(p, shift) + i
                may &= ((x.ptes[b * n + i] ^ p) & ~(((<uint64_t>1 << 50) - (<uint64_t>1 << shift)) | C_AF | C_DIRTY | C_RDONLY)) == 0
            if may:
                done |= <uint32_t>1 << b
                for i in range(n):
                    x.ptes[b * n + i] |= C_CONT
        return done


# 1 young, 2 software dirty, 4 hardware dirty: only what the word allows (spec 2.1)
cdef inline uint64_t with_ad(uint64_t p, uint64_t ad) noexcept nogil:
    if not present(p):
        return p
    p &= ~(C_AF | C_DIRTY)
    if ad & 1:
        p |= C_AF
    if p & C_WRITE:
        p |= C_RDONLY
        if ad & 2:
            p = (p | C_DIRTY) & ~C_RDONLY
        if ad & 4:
            p &= ~C_RDONLY
    elif ad & 6:
        p |= C_DIRTY
    return p
