# cython: language_level=3
"""`MM`: an arm64 address space, and the calls on it."""
cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from .args cimport index, number, truth
from .held cimport Held
from .log cimport event, pairs, pairs_clear, pairs_free
from .memo cimport memo_free, memo_init, replay_fn
from .mprotect cimport change_protection, do_mprotect, outcome, request
from .resolved cimport Strategy
from .result cimport Result
from .strategy cimport MM_CP_UFFD_WP, VM_UFFD_WP, walk
from .tables cimport Tables
from .tlb cimport tlb_gather_mmu
from .vma cimport vma, vma_insert

import numpy as np

from ptebatch.errors import LayoutError, MprotectError, StrategyError
from ptebatch.isa import REPLAY
from ptebatch.reasons import REASONS

EVENT = np.dtype([("kind", "u1"), ("addr", "<u8"), ("value", "<u8")])


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
            self.sp.memo = &self.memo_store
            self.memo_store.replay = <replay_fn>PyCapsule_GetPointer(REPLAY, b"ptebatch.replay")
            if memo_init(&self.memo_store, self.sp.mm.m.ptrs_per_pte):
                raise MemoryError("the memo of one leaf table did not fit in memory")

    def __dealloc__(self):
        memo_free(&self.memo_store)
        pairs_free(&self.batches)
        pairs_free(&self.subs)
        pairs_free(&self.flushes)
        pairs_free(&self.gathers)
        free(self.tr.at)

    # ---- calls ----

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
        self.drop()

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

    def change_protection(self, start, nr, *, newprot, cp_flags=0, vm_flags, anon=True, strategy="folio",
                          trace=False, record=True):
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
            Bad arguments, or a Python strategy that broke its contract: the tables
            are as they were.
        """
        cdef uint64_t end = 0
        cdef uint64_t first = self.pte_range(start, nr, &end)
        cdef walk w
        cdef Strategy s = Strategy(strategy)
        w.newprot = number("newprot", newprot)
        w.cp_flags = number("cp_flags", cp_flags, 15)
        w.vm_flags = number("vm_flags", vm_flags)
        w.vma_anon = truth("anon", anon)
        w.pages = 0
        w.python = <void *>s.window if s.window is not None else NULL
        cdef bint traced = truth("trace", trace)
        self.enter(truth("record", record), traced)
        try:
            if w.cp_flags & MM_CP_UFFD_WP and w.vm_flags & VM_UFFD_WP and not w.vma_anon:
                # markers need tables: the only walk that allocates them (spec 6.5)
                self.add_tables(first, end)
            backup = self.duplicate() if s.window is not None else None
            tlb_gather_mmu(&self.sp.mm)
            with nogil:
                change_protection(&self.sp, first, end, &w, &s.row)
            if w.failed:
                self.broken(s, backup)
            return self.result(first, end - first, None, s.name, w.pages, traced)
        finally:
            self.leave()

    def mprotect(self, start, length, prot, *, strategy="folio", pkey=-1, trace=False, record=True):
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
            Arguments that no system call could carry, or a Python strategy that
            broke its contract: nothing is changed.
        """
        cdef request r
        cdef outcome o
        cdef Strategy s = Strategy(strategy)
        cdef uint64_t first = number("start", start), size = number("length", length), bits = number("prot", prot)
        cdef bint traced = truth("trace", trace)
        r.start, r.len, r.prot = first, size, bits
        r.pkey = key_number(pkey)
        r.s = &s.row
        r.python = <void *>s.window if s.window is not None else NULL
        self.enter(truth("record", record), traced)
        try:
            backup = self.duplicate() if s.window is not None else None
            with nogil:
                o = do_mprotect(&self.sp, &r)
            if o.err < 0:
                self.broken(s, backup)
            result = self.result(first, size, bits, s.name, self.sp.mm.pages_changed, traced)
        finally:
            self.leave()
        if o.err:
            raise MprotectError(o.err, REASONS[o.why].format(addr=o.addr, prot=r.prot, pkey=r.pkey), o.addr, result)
        return result

    cdef int broken(self, object given, MM backup) except -1:
        """A Python strategy failed: put everything back, then say why."""
        cdef Strategy s = given
        if backup is not None:
            for (_, pool), (_, saved) in zip(self._pools, backup._pools, strict=True):
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
        """An independent copy: tables, VMAs, metadata, limits.

        Returns
        -------
        MM
        """
        with Held(self):
            return self.duplicate()

    cdef MM duplicate(self):
        cdef MM other = MM.__new__(MM, self.machine, nr_pages=self.sp.mm.nr_pages, pfn_base=self.sp.mm.pfn_base,
                                   memo=self.sp.memo != NULL)
        cdef size_t i
        other._pages[:] = self._pages
        for i in range(self.sp.vs.nr):
            if vma_insert(&other.sp.vs, i, &self.sp.vs.at[i]):
                raise MemoryError("the VMAs did not fit in memory")
        for start, pool in self._pools:
            other.add_pool(start, len(pool) // self.sp.mm.m.ptrs_per_pte)
            other.ptes(start, len(pool))[:] = pool
        other.next_pfn = self.next_pfn
        other.sp.vs.limit = self.sp.vs.limit
        other.sp.vs.last_anon_vma = self.sp.vs.last_anon_vma
        other.sp.vs.last_mapping = self.sp.vs.last_mapping
        other.sp.data_vm, other.sp.data_limit = self.sp.data_vm, self.sp.data_limit
        other.sp.committed, other.sp.commit_limit = self.sp.committed, self.sp.commit_limit
        other.sp.pkeys = self.sp.pkeys
        other.sp.read_implies_exec = self.sp.read_implies_exec
        return other

    def __repr__(self):
        return f"<MM {self.machine}: {self.sp.vs.nr} VMAs, {sum(len(pool) for _, pool in self._pools)} PTEs>"


cdef long key_number(object pkey) except? -2:
    key = index("pkey", pkey)
    if not -1 <= key <= 0x7fffffff:
        raise LayoutError(f"pkey={key} does not fit the system call's argument; give -1 or an allocated key")
    return key
