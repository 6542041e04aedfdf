# cython: language_level=3
"""The checker's inner loop: build a small world, run a strategy on it, judge it.

A world is one leaf table of at most MAX_PTES entries, the metadata of its page
frames, and one call. The laws are numbered in judge.pxd and named, with their
sources, in ``ptebatch.laws``. What a law expects is computed from the contracts
of the specification entry by entry, never by the verbs of the core.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from .judge cimport (
    BBM, CACHED, C_AF, C_CONT, C_DIRTY, C_RDONLY, C_SPECIAL, C_USER, C_UXN, C_VALID, C_WRITE, DIRTY_STATE, HARDWARE,
    Judge, MAX_PAGES, MAX_PTES, OK, O_ORDER, PFN0, SAW_CONT_CLEAR, SAW_CONT_SET, TLB_RIGHTS, dirty, frame, present,
    verdict, world,
)
from .log cimport EV_ASIDE1IS, EV_DSB_ISH, EV_RVALE1IS, EV_VALE1IS, EV_WRITE, EV_XCHG, event
from .tlb cimport tlb_end_vma

from ptebatch.errors import LayoutError


cdef class Checker(Judge):
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

    def sweep(self, uint64_t[:, ::1] words, uint8_t[:, ::1] pages, int64_t[:, ::1] calls, uint64_t[:, ::1] ad,
              uint32_t[::1] folds, bint tlb=False, bint hardware=False):
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
        if (entries != self.mm.m.ptrs_per_pte or nr_pages > MAX_PAGES or ad.shape[1] != entries
                or pages.shape[0] != words.shape[0]):
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
        cdef uint64_t address = (<uint64_t>1 << 50) - (<uint64_t>1 << shift), p, at
        cdef bint may
        for b in range(self.mm.m.ptrs_per_pte // n):
            if not mask >> b & 1:
                continue
            p = x.ptes[b * n]
            at = frame(p, shift) - PFN0
            if not p & C_VALID or p & C_SPECIAL or frame(p, shift) & (n - 1) or at >= MAX_PAGES:
                continue
            if (<uint32_t>1 << (x.pages[at] & O_ORDER)) < n:
                continue
            may = True
            for i in range(1, n):
                may &= frame(x.ptes[b * n + i], shift) == frame(p, shift) + i
                may &= ((x.ptes[b * n + i] ^ p) & ~(address | C_AF | C_DIRTY | C_RDONLY)) == 0
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
