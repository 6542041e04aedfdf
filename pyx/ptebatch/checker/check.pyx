# cython: language_level=3
"""The checker's inner loop: build a small world, run a strategy on it, judge it.

The laws are numbered here and named, with their sources, in
``ptebatch.checker.laws.rows``.
"""
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from cpython.exc cimport PyErr_CheckSignals

from ..arm64.tlb cimport tlb_gather_mmu
from ..base.held cimport Held
from ..base.log cimport EV_WRITE, trace_emit
from .eventlaws cimport judge_tlb, judge_units
from .runner cimport Runner
from .smallworld cimport (
    C_CHG, C_RDONLY, MAX_PAGES, MAX_PATTERNS, MAX_PTES, PFN0, SOILED, YOUNG, ad_of, apply_ad, fold_blocks, know, set_call, world,
)
from .tablelaws cimport CONTRACT, HARDWARE, OK, judge, verdict

from ptebatch.errors import LayoutError

#: first frame that has metadata in a small world, unless its call says otherwise
FIRST_PFN = PFN0


cdef class Checker(Runner):
    """A `Runner` that judges what it runs: arguments and errors are those of `Runner`."""

    cdef Py_ssize_t missed_row, missed_call
    cdef uint64_t[MAX_PTES] missed_ptes

    def __init__(self, machine, strategy, *, strict=False):
        self.missed_row = -1

    # ---- one world from Python ----

    def check(self, ptes, pages, call, *, bint tlb=True, uint32_t hardware=2):
        """Judge one world by every law.

        Parameters
        ----------
        ptes : sequence of int
            Words of the table.
        pages : sequence of int
            Metadata of the frames from `FIRST_PFN` on.
        call : tuple
            (start, end, vm_flags, newprot, cp_flags, vma_anon[, first frame]).
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
            self.gather = self.mmu.tlb
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
        x.pfn_base = self.mmu.pfn_base
        with Held(self):
            self.fits(words, pages, ad)
            memcpy(x.pages, &pages[0, 0], pages.shape[1])
            apply_ad(&x, &words[0, 0], &ad[0, 0], done, 0, self.mmu.m.ptrs_per_pte)
            self.fold(&x, done[0], mask)
            return self.words(x.ptes)

    def judge_outcome(self, ptes, pages, call, *, after, counters, returned, walked, gathered=None, events=(), updates=(),
                      bint reset=True, replayed=None):
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
        replayed : tuple, optional
            What `replayed` tells of a second run.

        Returns
        -------
        tuple of (int, int)
            Law number, entry.
        """
        cdef world x
        cdef verdict v
        cdef uint32_t i
        with Held(self):
            self.load(&x, ptes, pages, call)
            self.mmu.c = counters
            for i in range(self.f.nr):
                self.table[i] = after[i]
            self.out.returned, (self.out.idx, self.out.started), self.out.failed = returned, walked, False
            self.tr.nr = 0
            for kind, addr, value in events:
                trace_emit(&self.tr, kind, addr, value)
            for when, entry, write in updates:
                self.f.may[<uint32_t>entry] |= YOUNG | (SOILED if write else 0)
                if not self.moved_before(&x, entry, when):
                    self.f.young[<uint32_t>entry] = YOUNG
            tlb_gather_mmu(&self.mmu)
            if gathered is not None:
                self.mmu.tlb.start, self.mmu.tlb.end = gathered
                self.mmu.tlb.cleared_ptes = True
            v = judge(&x, &self.f, &self.out)
            if v.law == OK and replayed is not None:
                self.again.c = replayed[2]
                for i in range(self.f.nr):
                    self.again_table[i] = replayed[0][i]
                self.again_w.pages, self.again_w.failed = replayed[1], False
                tlb_gather_mmu(&self.again)
                if replayed[3] is not None:
                    self.again.tlb.start, self.again.tlb.end = replayed[3]
                    self.again.tlb.cleared_ptes = True
                v = self.compare_again()
            if v.law == OK and self.tr.nr:
                v = judge_units(&x, &self.f, &self.out, &self.tr)
            if v.law == OK and self.tr.nr:
                if reset:
                    tlb_gather_mmu(&self.mmu)
                v = judge_tlb(&x, &self.f, &self.out, &self.tr)
            for _, entry, write in updates:
                if v.law == OK and (YOUNG | (SOILED if write else 0)) & ~ad_of(self.table[<uint32_t>entry]):
                    v.law = HARDWARE
                    v.entry = entry
            return v.law, v.entry

    # does the entry get other rights in one of the first so many events?
    cdef bint moved_before(self, const world *x, uint32_t entry, size_t when) noexcept nogil:
        cdef size_t k
        for k in range(min(when, self.tr.nr)):
            if self.tr.at[k].kind == EV_WRITE and self.tr.at[k].addr >> self.f.shift == entry:
                if (self.tr.at[k].value ^ x.ptes[entry]) & C_CHG & ~C_RDONLY:
                    return True
        return False

    # ---- many worlds ----

    def sweep(self, uint64_t[:, ::1] words, uint8_t[:, ::1] pages, int64_t[:, ::1] calls, uint64_t[:, ::1] ad,
              uint32_t[::1] folds, *, bint tlb=False, uint32_t hardware=0, uint16_t[:, :, ::1] seen=None,
              double until=0.0):
        """Judge every combination of word rows, calls, A/D rows and folding choices.

        Parameters
        ----------
        words : uint64 array, shape (rows, entries)
            Words without AF, dirty and CONT.
        pages : uint8 array, shape (rows, frames)
            Metadata, one row a row of `words`.
        calls : int64 array, shape (calls, 6) or (calls, 7)
            (start, end, vm_flags, newprot, cp_flags, vma_anon) and the first frame that has
            metadata, `FIRST_PFN` if not given; one for all calls of a sweep.
        ad : uint64 array, shape (patterns, entries)
            For each entry: 1 young, 2 software dirty, 4 hardware dirty if writable.
        folds : uint32 array
            Bit b: fold contpte block b. Left out where a block cannot be folded.
        tlb, hardware
            As for `check`.
        seen : uint16 array, shape (rows, folds, calls), optional
            Gets the blocks that changed CONT, as `check` returns them.
        until : float
            Stop before the next world once the monotonic clock has reached so many seconds; 0: never.

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
        cdef uint32_t nr = self.mmu.m.ptrs_per_pte
        with Held(self):
            self.fits(words, pages, ad)
            self.missed_row = -1
            if calls.shape[0] == 0 or calls.shape[1] < 6:
                raise LayoutError("the calls of a sweep are at least one row of six numbers; see Checker.sweep")
            if ad.shape[0] > MAX_PATTERNS:
                raise LayoutError(f"a sweep takes at most {MAX_PATTERNS} A/D rows, not {ad.shape[0]}; call it several times")
            memset(&x, 0, sizeof(x))
            x.pfn_base = self.base_of(calls, 0)
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
                            if self.is_over(judged, until):
                                return judged, 0, OK, -1, saw, -1, -1, -1, -1
                            v = self.run_and_judge(&x, tlb, hardware)
                            judged += 1
                            if v.missed:
                                self.keep_missed(&x, r, c)
                            saw |= v.saw
                            if seen is not None:
                                seen[r, f, c] |= <uint16_t>v.saw
                            if v.law:
                                self.before = x.ptes
                                self.note_failure(v.law)
                                return judged, 0, v.law, v.entry, saw, r, c, a, f
            return judged, worlds - judged, OK, -1, saw, -1, -1, -1, -1

    def each(self, uint64_t[:, ::1] words, uint8_t[:, ::1] pages, int64_t[:, ::1] calls, uint64_t[:, ::1] ad,
             uint32_t[::1] folds, *, bint tlb=False, uint32_t hardware=0, double until=0.0):
        """Judge one world a row: the arguments of `sweep`, all of one length.

        Parameters
        ----------
        words, pages, calls, ad, folds, tlb, hardware, until
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
            self.missed_row = -1
            if not words.shape[0] == calls.shape[0] == ad.shape[0] == folds.shape[0]:
                raise LayoutError("the arrays of Checker.each differ in length; give one row a world")
            memset(&x, 0, sizeof(x))
            for r in range(words.shape[0]):
                if self.is_over(r, until):
                    return r, OK, -1, -1
                x.pfn_base = self.base_of(calls, r)
                memcpy(x.pages, &pages[r, 0], pages.shape[1])
                apply_ad(&x, &words[r, 0], &ad[r, 0], done, 0, self.mmu.m.ptrs_per_pte)
                know(&x, &self.f, self.mmu.m.ptrs_per_pte, self.mmu.m.cont_ptes, self.mmu.m.page_shift)
                fold_blocks(&x, &self.f, folds[r])
                set_call(&x, &calls[r, 0])
                v = self.run_and_judge(&x, tlb, hardware)
                if v.missed:
                    self.keep_missed(&x, r, r)
                if v.law:
                    self.before = x.ptes
                    self.note_failure(v.law)
                    return r + 1, v.law, v.entry, r
            return words.shape[0], OK, -1, -1

    @property
    def missed_world(self):
        """First world of the last `sweep` or `each` with an entry that could have become writable and did not.

        Returns
        -------
        tuple of (int, int, numpy.ndarray of uint64) or None
            Row, call, and words of the table before.
        """
        with Held(self):
            return None if self.missed_row < 0 else (self.missed_row, self.missed_call, self.words(self.missed_ptes))

    cdef void keep_missed(self, world *x, Py_ssize_t row, Py_ssize_t call) noexcept nogil:
        if self.missed_row < 0:
            self.missed_row, self.missed_call, self.missed_ptes = row, call, x.ptes

    # before a world: is it time to stop? An interrupt from the keyboard is raised.
    cdef bint is_over(self, uint64_t judged, double until) except -1:
        cdef timespec now
        if judged & 1023 == 0:
            PyErr_CheckSignals()
        if until <= 0 or (judged & 15 and self.window == NULL):
            return False
        clock_gettime(CLOCK_MONOTONIC, &now)
        return now.tv_sec + now.tv_nsec * 1e-9 >= until

    # the first frame that has metadata in the worlds of a call
    cdef uint64_t base_of(self, const int64_t[:, ::1] calls, Py_ssize_t row) noexcept:
        self.mmu.pfn_base = self.again.pfn_base = calls[row, 6] if calls.shape[1] > 6 else PFN0
        return self.mmu.pfn_base

    cdef int fits(self, uint64_t[:, ::1] words, uint8_t[:, ::1] pages, uint64_t[:, ::1] ad) except -1:
        cdef Py_ssize_t nr = self.mmu.m.ptrs_per_pte
        if words.shape[1] != nr or ad.shape[1] != nr or pages.shape[1] > MAX_PAGES or pages.shape[0] != words.shape[0]:
            raise LayoutError("the arrays do not fit the machine's table; see Checker.sweep")
        return 0

    # the table `done` with these blocks folded; False: not all of them can be
    cdef bint fold(self, world *x, const uint64_t *done, uint32_t mask) noexcept nogil:
        memcpy(x.ptes, done, self.mmu.m.ptrs_per_pte * sizeof(uint64_t))
        know(x, &self.f, self.mmu.m.ptrs_per_pte, self.mmu.m.cont_ptes, self.mmu.m.page_shift)
        return not mask or fold_blocks(x, &self.f, mask) == mask
