# cython: language_level=3
"""The checker's inner loop: build a small world, run a strategy on it, judge it.

A world is one leaf table of at most 32 entries, the metadata of its page frames,
and one call. The laws are numbered here and named, with their sources, in
``ptebatch.laws``.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from .change cimport change_pte_range
from .counters cimport counters as counted
from .eventlaws cimport judge_tlb, judge_units
from .hardware cimport STORE, hardware_begin, hardware_next, hardware_step, interleaving
from .held cimport Exclusive, Held
from .laws cimport CONTRACT, HARDWARE, OK, judge, outcome, verdict
from .log cimport trace, trace_emit
from .mm_struct cimport mm_struct, mmu_gather
from .resolved cimport Strategy, fill_machine
from .smallworld cimport (
    MAX_PAGES, MAX_PATTERNS, MAX_PTES, PFN0, SOILED, YOUNG, ad_of, apply_ad, facts, fold_blocks, know, set_call, world,
)
from .strategy cimport walk
from .tlb cimport tlb_end_vma, tlb_gather_mmu

import numpy as np

from ptebatch.counters import COUNTERS
from ptebatch.errors import LayoutError

#: first frame that has metadata in a small world
FIRST_PFN = PFN0


cdef class Checker(Exclusive):
    """Runs small worlds of one machine under one strategy, and judges each.

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
    cdef readonly uint64_t runs
    cdef object raised
    cdef uint64_t[MAX_PTES] table
    cdef trace tr
    cdef interleaving hw
    cdef walk w
    cdef facts f
    cdef outcome out
    cdef mmu_gather gather
    cdef uint64_t[MAX_PTES] before

    def __cinit__(self, machine, strategy):
        if machine.ptrs_per_pte > MAX_PTES:
            raise LayoutError(f"tables of {machine.ptrs_per_pte} entries are too large for small worlds; "
                              f"use at most {MAX_PTES}")
        self.machine = machine
        self.row = Strategy(strategy)
        fill_machine(&self.mm.m, machine)
        self.mm.pfn_base = PFN0
        self.mm.nr_pages = MAX_PAGES
        self.hw.table = self.table
        self.hw.nr = machine.ptrs_per_pte
        self.hw.shift = machine.page_shift
        self.tr.hook_arg = &self.hw
        self.out.m = &self.mm.m
        self.out.c = &self.mm.c
        self.out.tlb = &self.mm.tlb
        self.out.table = self.table

    def __dealloc__(self):
        free(self.tr.at)

    # ---- what the last run left ----

    @property
    def start_ptes(self):
        """Words of the table before the run: of `check`, or of the world that ended a sweep."""
        with Held(self):
            return self.words(self.before)

    @property
    def table_ptes(self):
        """Words of the table as the last run left it."""
        with Held(self):
            return self.words(self.table)

    @property
    def gathered(self):
        """(start, end) addresses that the last run gathered, None: nothing."""
        with Held(self):
            return (self.gather.start, self.gather.end) if self.gather.cleared_ptes else None

    @property
    def counters(self):
        """Counters of the last run by name, final flush included if it was traced."""
        cdef uint64_t *at = <uint64_t *>&self.mm.c
        with Held(self):
            return {name: at[i] for i, name in enumerate(COUNTERS)}

    @property
    def walked(self):
        """(entry at which the last run stopped, entries it had cleared and not committed)."""
        with Held(self):
            return self.out.idx, self.out.started

    @property
    def pages(self):
        """What change_pte_range() returned in the last run."""
        with Held(self):
            return self.w.pages

    @property
    def events(self):
        """(kind, address, value) of each event of the last traced run, final flush included."""
        with Held(self):
            return [(self.tr.at[i].kind, self.tr.at[i].addr, self.tr.at[i].value) for i in range(self.tr.nr)]

    @property
    def updates(self):
        """Hardware updates of the last run: (events before it, entry, True if it was a write)."""
        with Held(self):
            return [(self.hw.when[i], self.hw.entry[i], self.hw.what[i] == STORE) for i in range(self.hw.updates)]

    @property
    def error(self):
        """What a Python step raised in the last run, None: nothing."""
        with Held(self):
            return self.raised

    cdef object words(self, const uint64_t *at):
        return np.array([at[i] for i in range(self.mm.m.ptrs_per_pte)], np.uint64)

    # run the world's call; table and gather stay for the laws
    cdef void run(self, const world *x, bint traced) noexcept nogil:
        self.runs += 1
        memcpy(self.table, x.ptes, self.mm.m.ptrs_per_pte * sizeof(uint64_t))
        memset(&self.mm.c, 0, sizeof(counted))
        self.mm.pages = <uint8_t *>x.pages
        self.tr.nr = 0
        self.mm.tr = &self.tr if traced else NULL
        tlb_gather_mmu(&self.mm)
        memset(&self.w, 0, sizeof(walk))
        self.w.t.mm = &self.mm
        self.w.t.leaf = self.table
        self.w.idx = x.start
        self.w.end = x.end
        self.w.newprot = x.newprot
        self.w.cp_flags = x.cp_flags
        self.w.vm_flags = x.vm_flags
        self.w.vma_anon = x.vma_anon
        self.w.range_end = <uint64_t>x.end << self.mm.m.page_shift
        self.w.python = <void *>self.row.window
        change_pte_range(&self.w, &self.row.row)
        self.out.returned = self.w.pages
        self.out.idx = self.w.idx
        self.out.started = self.w.started
        self.out.failed = self.w.failed

    # the laws of a plain run, then those of the order of events
    cdef verdict run_and_judge(self, const world *x, bint tlb, uint32_t updates) noexcept nogil:
        cdef verdict v
        self.hw.updates = 0
        self.run(x, tlb)
        v = judge(x, &self.f, &self.out)
        self.gather = self.mm.tlb
        if v.law == OK and tlb:
            v = judge_units(x, &self.f, &self.tr)
            if v.law == OK:
                tlb_end_vma(&self.mm)
                v = judge_tlb(x, &self.f, &self.out, &self.tr)
        if v.law == OK and updates:
            v = self.judge_hardware(x, updates, v.saw)
        return v

    # every interleaving with at most so many updates
    cdef verdict judge_hardware(self, const world *x, uint32_t updates, uint32_t saw) noexcept nogil:
        cdef verdict v
        cdef uint32_t i
        cdef uint8_t lost
        self.tr.hook = hardware_step
        self.hw.given = 0
        while True:
            hardware_begin(&self.hw, updates)
            self.run(x, True)
            for i in range(self.f.nr):
                self.f.may[i] = self.f.must[i] | self.hw.done[i]
            v = judge(x, &self.f, &self.out)
            self.gather = self.mm.tlb
            for i in range(self.f.nr):
                lost = self.hw.done[i] & ~ad_of(self.table[i])
                if lost and v.law == OK:
                    v.law = HARDWARE
                    v.entry = i
            if v.law or not hardware_next(&self.hw):
                break
        self.tr.hook = NULL
        v.saw = saw
        for i in range(self.f.nr):
            self.f.may[i] = self.f.must[i]
        return v

    # ---- one world from Python ----

    cdef int load(self, world *x, object ptes, object pages, object call) except -1:
        cdef uint32_t i, nr = self.mm.m.ptrs_per_pte
        if len(ptes) != nr or len(pages) > MAX_PAGES:
            raise LayoutError(f"a small world has {nr} entries and at most {MAX_PAGES} pages, not {len(ptes)} and {len(pages)}")
        memset(x, 0, sizeof(world))
        for i in range(nr):
            x.ptes[i] = ptes[i]
        for i in range(len(pages)):
            x.pages[i] = pages[i]
        x.start, x.end, x.vm_flags, x.newprot, x.cp_flags, x.vma_anon = call
        if x.start >= x.end or x.end > nr:
            raise LayoutError(f"entries [{x.start}, {x.end}) are no range of a table of {nr} entries")
        self.before = x.ptes
        know(x, &self.f, nr, self.mm.m.cont_ptes, self.mm.m.page_shift)
        return 0

    # an exception that ended a Python step: kept in `raised`, unless it is to end the program
    cdef int note_failure(self, int law) except -1:
        self.raised = None
        if law == CONTRACT and self.row.window is not None:
            self.raised = self.row.window.error
            self.row.window.clear_error()
            if self.raised is not None and not isinstance(self.raised, Exception):
                raise self.raised
        return 0

    def check(self, ptes, pages, call, *, bint tlb=True, uint32_t hardware=2):
        """Judge one world by every law.

        Parameters
        ----------
        ptes : sequence of int
            Words of the table.
        pages : sequence of int
            Metadata of the frames from `FIRST_PFN` on.
        call : tuple
            (start, end, vm_flags, newprot, cp_flags, vma_anon).
        tlb : bool
            Also judge units and follow the TLB.
        hardware : int
            Also try every interleaving with at most so many hardware updates.

        Returns
        -------
        tuple of (int, int, int)
            Law number (0: all hold), entry (-1: none in particular), and which
            blocks changed CONT on live entries without a TLBI: bit b, block b
            became folded; bit 8 + b, unfolded. `error` has what a step raised.
        """
        cdef world x
        cdef verdict v
        with Held(self):
            self.load(&x, ptes, pages, call)
            v = self.run_and_judge(&x, tlb, hardware)
            self.note_failure(v.law)
            return v.law, v.entry, v.saw

    def final(self, ptes, pages, call, *, bint traced=False):
        """Run one world without judging it and return the table it leaves.

        Parameters
        ----------
        ptes, pages, call
            As for `check`.
        traced : bool
            Keep the events.

        Returns
        -------
        numpy.ndarray of uint64
        """
        cdef world x
        with Held(self):
            self.load(&x, ptes, pages, call)
            self.run(&x, traced)
            self.gather = self.mm.tlb
            self.note_failure(CONTRACT if self.w.failed else OK)
            return self.words(self.table)

    def folded(self, uint64_t[:, ::1] words, uint8_t[:, ::1] pages, uint64_t[:, ::1] ad, uint32_t mask):
        """Table of one world of a sweep, A/D and CONT included.

        Parameters
        ----------
        words, pages, ad : arrays
            As for `sweep`; the first row of each counts.
        mask : int
            One folding choice.

        Returns
        -------
        numpy.ndarray of uint64
        """
        cdef world x
        cdef uint64_t[MAX_PATTERNS][MAX_PTES] done
        memset(&x, 0, sizeof(x))
        with Held(self):
            self.fits(words, pages, ad)
            memcpy(x.pages, &pages[0, 0], pages.shape[1])
            apply_ad(&x, &words[0, 0], &ad[0, 0], done, 0, self.mm.m.ptrs_per_pte)
            self.fold(&x, done[0], mask)
            return self.words(x.ptes)

    def judge_outcome(self, ptes, pages, call, *, after, counters, returned, walked, gathered=None, events=(), updates=(),
                      bint reset=True):
        """Judge what a run is said to have left: for tests of the laws themselves.

        Parameters
        ----------
        ptes, pages, call
            As for `check`.
        after : sequence of int
            Words of the table after the call.
        counters : dict of str to int
        returned : int
        walked : tuple of (int, int)
            Entry at which the walk stopped, entries cleared and not committed.
        gathered : tuple of (int, int), optional
            Addresses in the gather before its flush.
        events : sequence of (int, int, int)
            Final flush included; the laws of their order are judged if there are any.
        updates : sequence of (int, int, bool)
            What hardware did, as `updates` tells it.
        reset : bool
            The gather was empty after its flush.

        Returns
        -------
        tuple of (int, int)
            Law number, entry.
        """
        cdef world x
        cdef verdict v
        cdef uint64_t *c = <uint64_t *>&self.mm.c
        cdef uint32_t i
        with Held(self):
            self.load(&x, ptes, pages, call)
            for i, name in enumerate(COUNTERS):
                c[i] = counters[name]
            for i in range(self.f.nr):
                self.table[i] = after[i]
            self.out.returned, (self.out.idx, self.out.started), self.out.failed = returned, walked, False
            self.tr.nr = 0
            for kind, addr, value in events:
                trace_emit(&self.tr, kind, addr, value)
            for _, entry, write in updates:
                self.f.may[<uint32_t>entry] |= YOUNG | (SOILED if write else 0)
            tlb_gather_mmu(&self.mm)
            if gathered is not None:
                self.mm.tlb.start, self.mm.tlb.end = gathered
                self.mm.tlb.cleared_ptes = True
            v = judge(&x, &self.f, &self.out)
            if v.law == OK and self.tr.nr:
                v = judge_units(&x, &self.f, &self.tr)
            if v.law == OK and self.tr.nr:
                if reset:
                    tlb_gather_mmu(&self.mm)
                v = judge_tlb(&x, &self.f, &self.out, &self.tr)
            for _, entry, write in updates:
                if v.law == OK and (YOUNG | (SOILED if write else 0)) & ~ad_of(self.table[<uint32_t>entry]):
                    v.law = HARDWARE
                    v.entry = entry
            return v.law, v.entry

    # ---- many worlds ----

    def sweep(self, uint64_t[:, ::1] words, uint8_t[:, ::1] pages, int64_t[:, ::1] calls, uint64_t[:, ::1] ad,
              uint32_t[::1] folds, *, bint tlb=False, uint32_t hardware=0, uint16_t[:, :, ::1] seen=None):
        """Judge every combination of word rows, calls, A/D rows and folding choices.

        Parameters
        ----------
        words : uint64 array, shape (rows, entries)
            Words without AF, dirty and CONT.
        pages : uint8 array, shape (rows, frames)
            Metadata, one row a row of `words`.
        calls : int64 array, shape (calls, 6)
            (start, end, vm_flags, newprot, cp_flags, vma_anon).
        ad : uint64 array, shape (patterns, entries)
            For each entry: 1 young, 2 software dirty, 4 hardware dirty if writable.
        folds : uint32 array
            Bit b: fold contpte block b. Left out where a block cannot be folded.
        tlb, hardware
            As for `check`.
        seen : uint16 array, shape (rows, folds, calls), optional
            Gets the blocks that changed CONT, as `check` returns them.

        Returns
        -------
        tuple
            (worlds judged, worlds left out, law, entry, saw, row, call, A/D row, folding
            choice). Left out are worlds that equal one judged before, for their A/D row
            or folding choice changes nothing. The last four belong to the first world
            that breaks a law; law 0: none does.
        """
        cdef world x
        cdef verdict v
        cdef uint64_t judged = 0, worlds
        cdef uint32_t saw = 0
        cdef uint64_t[MAX_PATTERNS][MAX_PTES] done
        cdef Py_ssize_t r, c, a, f
        cdef uint32_t nr = self.mm.m.ptrs_per_pte
        with Held(self):
            self.fits(words, pages, ad)
            if ad.shape[0] > MAX_PATTERNS:
                raise LayoutError(f"a sweep takes at most {MAX_PATTERNS} A/D rows, not {ad.shape[0]}; call it several times")
            memset(&x, 0, sizeof(x))
            v.entry = -1
            worlds = <uint64_t>words.shape[0] * ad.shape[0] * folds.shape[0] * calls.shape[0]
            for r in range(words.shape[0]):
                memcpy(x.pages, &pages[r, 0], pages.shape[1])
                for a in range(ad.shape[0]):
                    if not apply_ad(&x, &words[r, 0], &ad[a, 0], done, a, nr):
                        continue
                    for f in range(folds.shape[0]):
                        if not self.fold(&x, done[a], folds[f]):
                            continue
                        for c in range(calls.shape[0]):
                            set_call(&x, &calls[c, 0])
                            v = self.run_and_judge(&x, tlb, hardware)
                            judged += 1
                            saw |= v.saw
                            if seen is not None:
                                seen[r, f, c] |= <uint16_t>v.saw
                            if v.law:
                                self.before = x.ptes
                                self.note_failure(v.law)
                                return judged, 0, v.law, v.entry, saw, r, c, a, f
            return judged, worlds - judged, OK, -1, saw, -1, -1, -1, -1

    def each(self, uint64_t[:, ::1] words, uint8_t[:, ::1] pages, int64_t[:, ::1] calls, uint64_t[:, ::1] ad,
             uint32_t[::1] folds, *, bint tlb=False, uint32_t hardware=0):
        """Judge one world a row: the arguments of `sweep`, all of one length.

        Parameters
        ----------
        words, pages, calls, ad, folds, tlb, hardware
            As for `sweep`; blocks of a folding choice that cannot be folded are not.

        Returns
        -------
        tuple
            (worlds judged, law, entry, row).
        """
        cdef world x
        cdef verdict v
        cdef Py_ssize_t r
        cdef uint64_t[MAX_PATTERNS][MAX_PTES] done
        with Held(self):
            self.fits(words, pages, ad)
            if not words.shape[0] == calls.shape[0] == ad.shape[0] == folds.shape[0]:
                raise LayoutError("the arrays of Checker.each differ in length; give one row a world")
            memset(&x, 0, sizeof(x))
            for r in range(words.shape[0]):
                memcpy(x.pages, &pages[r, 0], pages.shape[1])
                apply_ad(&x, &words[r, 0], &ad[r, 0], done, 0, self.mm.m.ptrs_per_pte)
                know(&x, &self.f, self.mm.m.ptrs_per_pte, self.mm.m.cont_ptes, self.mm.m.page_shift)
                fold_blocks(&x, &self.f, folds[r])
                set_call(&x, &calls[r, 0])
                v = self.run_and_judge(&x, tlb, hardware)
                if v.law:
                    self.before = x.ptes
                    self.note_failure(v.law)
                    return r + 1, v.law, v.entry, r
            return words.shape[0], OK, -1, -1

    cdef int fits(self, uint64_t[:, ::1] words, uint8_t[:, ::1] pages, uint64_t[:, ::1] ad) except -1:
        cdef Py_ssize_t nr = self.mm.m.ptrs_per_pte
        if words.shape[1] != nr or ad.shape[1] != nr or pages.shape[1] > MAX_PAGES or pages.shape[0] != words.shape[0]:
            raise LayoutError("the arrays do not fit the machine's table; see Checker.sweep")
        return 0

    # the table `done` with these blocks folded; False: not all of them can be
    cdef bint fold(self, world *x, const uint64_t *done, uint32_t mask) noexcept nogil:
        memcpy(x.ptes, done, self.mm.m.ptrs_per_pte * sizeof(uint64_t))
        know(x, &self.f, self.mm.m.ptrs_per_pte, self.mm.m.cont_ptes, self.mm.m.page_shift)
        return not mask or fold_blocks(x, &self.f, mask) == mask
