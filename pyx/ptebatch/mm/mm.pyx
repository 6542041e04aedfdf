# cython: language_level=3
"""`MM`: an arm64 address space, and the calls on it."""
cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

from ..arm64.machine cimport page_size
from ..arm64.tlb cimport tlb_gather_mmu
from ..base.args cimport index, number, truth
from ..base.held cimport Held
from ..base.log cimport event, pairs, pairs_clear, pairs_free
from ..base.vm_flags cimport MM_CP_UFFD_WP, VM_UFFD_WP
from ..batch.memo cimport memo_free, memo_recount, memo_replayed
from ..batch.resolved cimport Strategy, make_memo
from ..batch.seam cimport walk, walk_of
from .change_protection cimport change_protection
from .mm_struct cimport mm_copy
from .mprotect cimport PROT_GROWSDOWN, do_mprotect, untagged_addr
from .operation cimport operation, outcome, request
from .result cimport Result
from .space cimport known_flags, protection
from .tables cimport Tables
from .undo cimport Undo
from .vma cimport find_vma, vma, vma_at

import numpy as np

from ptebatch.batch.isa import LOOPS
from ptebatch.errors import LayoutError, MprotectError, REASONS, StrategyError
from ptebatch.events import EVENT


REASON = tuple(REASONS.values())


cdef bytes log_bytes(pairs *p):
    if p.oom:
        raise MemoryError("the log of batches and flushes did not fit in memory; call with record=False")
    return PyBytes_FromStringAndSize(<char *>p.at, p.nr * 16)


@cython.final
cdef class MM(Tables):
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
    spaces run in parallel, calls release the GIL. Views (`ptes`, `leaf`, `pages`)
    are memory: let none be written while a call runs in another thread.
    """

    def __cinit__(self, machine=None, *, nr_pages=1 << 22, pfn_base=1024, memo=True):
        # the base class has checked and used the others
        if truth("memo", memo):
            self.mm.memo = &self.memo_store
            make_memo(&self.memo_store, self.mm.mmu.m.ptrs_per_pte)

    def __dealloc__(self):
        memo_free(&self.memo_store)
        pairs_free(&self.batches)
        pairs_free(&self.subs)
        pairs_free(&self.flushes)
        pairs_free(&self.gathers)
        free(self.tr.at)

    # ---- calls ----

    @property
    def replayed(self):
        """Entries of the last call that were not done step by step, by what did them.

        Replayed: ``order0``, single pages; ``uniform``, large folios whose entries are alike;
        ``words``, other folios. Counted on maps: ``maps``, what does not repeat and is
        regular. All 0 with a trace, with ``memo=False``, and where neither can be.

        Returns
        -------
        dict of str to int
        """
        with Held(self):
            return {name: memo_replayed(&self.memo_store, i) for i, name in enumerate(LOOPS)}

    cdef int enter(self, bint record, bint traced) except -1:
        """Take the address space, and reset counters and logs for one call."""
        self.take()
        memset(&self.mm.mmu.c, 0, sizeof(self.mm.mmu.c))
        memo_recount(&self.memo_store)
        self.mm.mmu.pages_changed = 0
        memset(&self.mm.left_out, 0, sizeof(self.mm.left_out))
        pairs_clear(&self.batches)
        pairs_clear(&self.subs)
        pairs_clear(&self.flushes)
        pairs_clear(&self.gathers)
        self.tr.nr = 0
        self.tr.oom = False
        self.mm.mmu.batches = &self.batches if record else NULL
        self.mm.mmu.subs = &self.subs if record else NULL
        self.mm.mmu.flushes = &self.flushes if record else NULL
        self.mm.mmu.gathers = &self.gathers if record else NULL
        self.mm.mmu.tr = &self.tr if traced else NULL
        return 0

    cdef void leave(self) noexcept:
        self.mm.mmu.batches = self.mm.mmu.subs = self.mm.mmu.flushes = self.mm.mmu.gathers = NULL
        self.mm.mmu.tr = NULL
        self.drop()

    cdef Result result(self, object start, object length, object prot, str name, uint64_t pages, bint traced):
        cdef Result r = Result.__new__(Result)
        r.c = self.mm.mmu.c
        r.machine = self.machine
        r.strategy = name
        r.start, r.length, r.prot = start, length, prot
        r.pages = pages
        r.left_out = self.mm.left_out
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

    def change_protection(self, start, nr, *, newprot, cp_flags=0, vm_flags, anon=True, strategy="folio",
                          trace=False, record=True):
        """change_protection() of one VMA's range, with one gather and its flush.

        The layer below `mprotect`: what it asks of the VMA is given. The range must lie in
        one VMA, as its callers in the kernel see to, or in none.

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
            Bad arguments, a range of more than one VMA, or a Python strategy that broke
            its contract: the tables are as they were.
        """
        cdef uint64_t end = 0
        cdef uint64_t first = self.pte_range(start, nr, &end)
        cdef Strategy s = Strategy(strategy)
        cdef walk w = walk_of(&self.mm.mmu, number("newprot", newprot), number("cp_flags", cp_flags, 15),
                              known_flags(vm_flags), truth("anon", anon), step_window(s))
        cdef bint traced = truth("trace", trace)
        self.enter(truth("record", record), traced)
        try:
            self.one_vma(first, end)
            if w.cp_flags & MM_CP_UFFD_WP and w.vm_flags & VM_UFFD_WP and not w.vma_anon:
                # markers need tables: the only walk that allocates them (spec 6.5)
                self.add_tables(first, end)
            undo = Undo(self, first, end) if s.window is not None else None
            tlb_gather_mmu(&self.mm.mmu)
            with nogil:
                change_protection(&self.mm, first, end, &w, &s.row)
            if w.failed:
                self.broken(s, undo)
            return self.result(first, end - first, None, s.name, w.pages, traced)
        finally:
            self.leave()

    cdef int one_vma(self, uint64_t first, uint64_t end) except -1:
        """Refuse a range that is partly in a VMA: the flags of the call would be another's."""
        cdef size_t i = find_vma(&self.mm.vs, first)
        cdef const vma *v
        if i == self.mm.vs.nr or vma_at(&self.mm.vs, i).start >= end:
            return 0
        v = vma_at(&self.mm.vs, i)
        if v.start > first or v.end < end:
            raise LayoutError(f"[{first:#x}, {end:#x}) is not inside one VMA: one is [{v.start:#x}, {v.end:#x}); "
                              "call change_protection() for each by itself")
        return 0

    def mprotect(self, start, length, prot, *, strategy="folio", pkey=-1, trace=False, record=True):
        """mprotect(2) (or pkey_mprotect) on this address space.

        Parameters
        ----------
        start, length : int
            Bytes, as the system call takes them.
        prot : int or str
            PROT_* bits, or ``none``, ``ro``, ``rw``, ``rx``, ``rwx``.
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
            Arguments that no system call could carry, or a Python strategy that
            broke its contract: nothing is changed.
        """
        cdef request r
        r.start, r.len, r.prot = number("start", start), number("length", length), number("prot", protection(prot))
        r.pkey = key_number(pkey)
        return self.perform(do_mprotect, &r, Strategy(strategy), truth("record", record), truth("trace", trace))

    cdef Result perform(self, operation call, request *r, object strategy, bint record, bint traced):
        """Any operation: run it, and give back what it did, or raise what it ended with."""
        cdef outcome o
        cdef Strategy s = strategy
        start, length, prot = r.start, r.len, r.prot
        r.s = &s.row
        r.python = step_window(s)
        self.enter(record, traced)
        try:
            undo = self.undo_of(r) if s.window is not None else None
            with nogil:
                o = call(&self.mm, r)
            if o.err < 0:
                self.broken(s, undo)
            result = self.result(start, length, prot, s.name, self.mm.mmu.pages_changed, traced)
        finally:
            self.leave()
        if o.err:
            raise MprotectError(o.err, REASON[o.why].format(addr=o.addr, prot=prot, pkey=r.pkey), o.addr, result)
        return result

    cdef Undo undo_of(self, const request *r):
        """Of what a call may change: no more than its range, or than the VMA of a stack that grows down."""
        cdef uint64_t mask = page_size(&self.mm.mmu.m) - 1, start = untagged_addr(r.start), end = start + ((r.len + mask) & ~mask)
        cdef size_t i = find_vma(&self.mm.vs, start)
        if r.prot & PROT_GROWSDOWN and i < self.mm.vs.nr:
            start = min(start, vma_at(&self.mm.vs, i).start)
        return Undo(self, start, end)

    cdef int broken(self, Strategy s, Undo undo) except -1:
        """A Python strategy failed: put everything back, then say why."""
        if undo is not None:
            undo.restore()
        error = s.window._error if s.window is not None else None
        if error is not None:
            raise error
        raise StrategyError(f"strategy {s.name!r} dealt with no entry, or with more than the range has; return 1 to max_nr")

    def copy(self):
        """An independent copy: tables, VMAs, metadata, limits.

        Returns
        -------
        MM
        """
        with Held(self):
            return self.duplicate()

    cdef MM duplicate(self):
        cdef MM other = MM.__new__(MM, self.machine, nr_pages=self.mm.mmu.nr_pages, pfn_base=self.mm.mmu.pfn_base,
                                   memo=self.mm.memo != NULL)
        described = self.described()
        other._pages[:described] = self._pages[:described]
        other.shown = self.shown
        if mm_copy(&other.mm, &self.mm):
            raise MemoryError("the VMAs did not fit in memory")
        for start, pool in self._pools:
            other.add_pool(start, len(pool) // self.mm.mmu.m.ptrs_per_pte)
            other.ptes(start, len(pool))[:] = pool
        other.next_pfn = self.next_pfn
        return other

    def __repr__(self):
        cdef size_t nr = 0
        for _, pool in self._pools:
            nr += len(pool)
        return f"<MM {self.machine}: {self.mm.vs.nr} VMAs, {nr} PTEs>"


# the window of a Python step, which walks carry; NULL: the step is compiled
cdef void *step_window(Strategy s) noexcept:
    return <void *>s.window if s.window is not None else NULL


cdef long key_number(object pkey) except? -2:
    key = index("pkey", pkey)
    if not -1 <= key <= 0x7fffffff:
        raise LayoutError(f"pkey={key} does not fit the system call's argument; give -1 or an allocated key")
    return key
