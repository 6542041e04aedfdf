# cython: language_level=3
"""Runs one small world after the other under one strategy, and keeps what each run left.

A world is one leaf table of at most 32 entries, the metadata of its page frames,
and one call. If the strategy is pure, a world is run twice: step by step, and with
what repeats replayed; the first run is the oracle of the second.
"""
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset

from ..arm64.tlb cimport tlb_end_vma, tlb_gather_mmu
from ..base.counters cimport counters as counted
from ..base.held cimport Exclusive, Held
from ..batch.memo cimport memo, memo_count, memo_fits, memo_free, memo_replayed, memo_start
from ..batch.resolved cimport Strategy, fill_machine, make_memo
from ..batch.seam cimport STRATEGY_PURE, walk_of
from ..mm.change_protection cimport change_pte_range, formula_of
from .eventlaws cimport judge_tlb, judge_units
from .hardware cimport STORE, hardware_begin, hardware_next, hardware_step
from .smallworld cimport MAX_PAGES, MAX_PTES, PFN0, YOUNG, ad_of, know, world
from .tablelaws cimport COMMITTED, CONTRACT, HARDWARE, OK, REPLAY, UNIT, judge, verdict

import numpy as np

from ptebatch.batch.isa import LOOPS
from ptebatch.counters import COUNTERS
from ptebatch.errors import LayoutError


cdef dict by_name(const counted *c):
    cdef const uint64_t *at = <const uint64_t *>c
    return {name: at[i] for i, name in enumerate(COUNTERS)}


cdef class Runner(Exclusive):
    """Runs small worlds; what the last run left can be read.

    Parameters
    ----------
    machine : Machine
        A geometry of at most 32 entries a table.
    strategy : str, callable or Strategy
        As `MM.mprotect` takes it.
    strict : bool
        UPGRADED, that what may become writable does, is a law, too.

    Raises
    ------
    LayoutError
        The machine's tables are too large for small worlds.
    """

    def __cinit__(self, machine, strategy, *, bint strict=False):
        if machine.ptrs_per_pte > MAX_PTES:
            raise LayoutError(f"tables of {machine.ptrs_per_pte} entries are too large for small worlds; "
                              f"use at most {MAX_PTES}")
        self.machine = machine
        self.row = Strategy(strategy)
        self.window = <void *>self.row.window if self.row.window is not None else NULL
        fill_machine(&self.mmu.m, machine)
        self.pure = (self.row.row.flags & STRATEGY_PURE) != 0 and memo_fits(&self.mmu)
        make_memo(&self.remembered, self.mmu.m.ptrs_per_pte)
        self.remembered.eager = self.remembered.other.eager = True
        self.again.m = self.mmu.m
        self.again.nr_pages = MAX_PAGES
        self.mmu.pfn_base = self.again.pfn_base = PFN0
        self.mmu.nr_pages = MAX_PAGES
        self.hw.table = self.table
        self.hw.nr = machine.ptrs_per_pte
        self.hw.shift = machine.page_shift
        self.tr.hook_arg = &self.hw
        self.out.m = &self.mmu.m
        self.out.c = &self.mmu.c
        self.out.tlb = &self.mmu.tlb
        self.out.table = self.table
        self.out.strict = strict

    def __dealloc__(self):
        free(self.tr.at)
        memo_free(&self.remembered)

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
        with Held(self):
            return by_name(&self.mmu.c)

    @property
    def replayed(self):
        """What the second run left, in which what repeats was replayed: (table, pages, counters, gathered).

        None: there was none, the strategy is not pure or another law was broken before.
        """
        with Held(self):
            if not self.replays:
                return None
            gathered = (self.again.tlb.start, self.again.tlb.end) if self.again.tlb.cleared_ptes else None
            return self.words(self.again_table), self.again_w.pages, by_name(&self.again.c), gathered

    @property
    def replayed_by(self):
        """Entries that second runs replayed so far, by loop: order0, uniform, words."""
        with Held(self):
            return {name: memo_replayed(&self.remembered, i) for i, name in enumerate(LOOPS)}

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
        return np.array([at[i] for i in range(self.mmu.m.ptrs_per_pte)], np.uint64)

    # the world's call, about to begin on a table of its own
    cdef walk begin(self, mmu_t *mmu, uint64_t *leaf, const world *x) noexcept nogil:
        cdef walk w
        memcpy(leaf, x.ptes, mmu.m.ptrs_per_pte * sizeof(uint64_t))
        memset(&mmu.c, 0, sizeof(counted))
        mmu.pages = <uint8_t *>x.pages
        tlb_gather_mmu(mmu)
        w = walk_of(mmu, x.newprot, x.cp_flags, x.vm_flags, x.vma_anon, self.window)
        w.t.leaf = leaf
        w.idx = x.start
        w.end = x.end
        w.range_end = <uint64_t>x.end << mmu.m.page_shift
        return w

    # run the world's call; table and gather stay for the laws
    cdef void run(self, const world *x, bint traced) noexcept nogil:
        self.runs += 1
        self.tr.nr = 0
        self.mmu.tr = &self.tr if traced else NULL
        self.w = self.begin(&self.mmu, self.table, x)
        change_pte_range(&self.w, &self.row.row)
        self.out.returned = self.w.pages
        self.out.idx = self.w.idx
        self.out.started = self.w.started
        self.out.failed = self.w.failed

    # the same call once more, as an address space does it: what repeats is replayed, or
    # what is regular is done by the formula
    cdef verdict run_again(self, const world *x, bint only_maps) noexcept nogil:
        self.again_w = self.begin(&self.again, self.again_table, x)
        self.again_w.memo = &self.remembered
        memo_start(&self.remembered, x.end - x.start, formula_of(&self.again_w, &self.row.row))
        self.remembered.only_maps = only_maps
        change_pte_range(&self.again_w, &self.row.row)
        memo_count(&self.again_w, <memo *>self.again_w.memo)
        self.replays = True
        return self.compare_again()

    # the run step by step is the oracle of the other
    cdef verdict compare_again(self) noexcept nogil:
        cdef verdict v
        cdef uint32_t i
        v.saw = v.missed = 0
        v.entry = -1
        v.law = OK
        for i in range(self.mmu.m.ptrs_per_pte):
            if self.table[i] != self.again_table[i]:
                v.law = REPLAY
                v.entry = i
                return v
        if (self.again_w.failed or self.again_w.pages != self.out.returned
                or memcmp(&self.mmu.c, &self.again.c, sizeof(counted))
                or self.mmu.tlb.cleared_ptes != self.again.tlb.cleared_ptes
                or self.mmu.tlb.start != self.again.tlb.start or self.mmu.tlb.end != self.again.tlb.end):
            v.law = REPLAY
        return v

    # the laws of a plain run, that of a replayed one, then those of the order of events
    cdef verdict run_and_judge(self, const world *x, bint tlb, uint32_t updates) noexcept nogil:
        cdef verdict v
        cdef uint32_t missed
        self.hw.updates = 0
        self.replays = False
        self.run(x, tlb)
        v = judge(x, &self.f, &self.out)
        missed = v.missed
        if v.law > COMMITTED and v.law != CONTRACT and tlb:
            v = self.root_cause(x, v)
        self.gather = self.mmu.tlb
        if v.law == OK and self.pure:
            v = self.run_again(x, False)
            if v.law == OK and self.row.row.formula:
                v = self.run_again(x, True)
        if v.law == OK and tlb:
            v = judge_units(x, &self.f, &self.out, &self.tr)
            self.unrecorded += v.missed
            if v.law == OK:
                tlb_end_vma(&self.mmu)
                v = judge_tlb(x, &self.f, &self.out, &self.tr)
        if v.law == OK and updates:
            v = self.judge_hardware(x, updates, v.saw)
        v.missed = missed
        self.missed += missed
        return v

    # entries that are no unit explain whatever their table breaks
    cdef verdict root_cause(self, const world *x, verdict v) noexcept nogil:
        cdef verdict units = judge_units(x, &self.f, &self.out, &self.tr)
        return units if units.law == UNIT else v

    # every interleaving with at most so many updates
    cdef verdict judge_hardware(self, const world *x, uint32_t updates, uint32_t saw) noexcept nogil:
        cdef verdict v
        cdef uint32_t i
        cdef uint8_t lost
        self.tr.hook = hardware_step
        self.hw.initial = &x.ptes[0]
        self.hw.given = 0
        # hardware took no part in the run that was replayed
        self.replays = False
        while True:
            hardware_begin(&self.hw, updates)
            self.run(x, True)
            for i in range(self.f.nr):
                self.f.may[i] = self.f.must[i] | self.hw.done[i]
                self.f.young[i] = (self.f.must[i] | self.hw.found[i]) & YOUNG
            v = judge(x, &self.f, &self.out)
            self.gather = self.mmu.tlb
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
            self.f.young[i] = self.f.must[i] & YOUNG
        return v

    cdef int load(self, world *x, object ptes, object pages, object call) except -1:
        cdef uint32_t i, nr = self.mmu.m.ptrs_per_pte
        if len(ptes) != nr or len(pages) > MAX_PAGES:
            raise LayoutError(f"a small world has {nr} entries and at most {MAX_PAGES} pages, not {len(ptes)} and "
                              f"{len(pages)}; give such a one")
        memset(x, 0, sizeof(world))
        for i in range(nr):
            x.ptes[i] = ptes[i]
        for i in range(len(pages)):
            x.pages[i] = pages[i]
        x.start, x.end, x.vm_flags, x.newprot, x.cp_flags, x.vma_anon = call[:6]
        x.pfn_base = self.mmu.pfn_base = self.again.pfn_base = call[6] if len(call) > 6 else PFN0
        if x.start >= x.end or x.end > nr:
            raise LayoutError(f"entries [{x.start}, {x.end}) are no range of a table of {nr} entries; give start < end")
        self.before = x.ptes
        know(x, &self.f, nr, self.mmu.m.cont_ptes, self.mmu.m.page_shift)
        return 0

    # an exception that ended a Python step: kept in `raised`, unless it is to end the program
    cdef int note_failure(self, int law) except -1:
        self.raised = None
        if law == CONTRACT and self.row.window is not None:
            self.raised = self.row.window._error
            self.row.window._clear_error()
            if self.raised is not None and not isinstance(self.raised, Exception):
                raise self.raised
        return 0
