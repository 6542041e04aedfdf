# cython: language_level=3
"""mprotect() calls from a C loop: what one costs without Python around it."""
from libc.stdint cimport uint64_t
from libc.string cimport memset

from ptebatch.base.counters cimport counters
from ptebatch.batch.strategies cimport find
from ptebatch.mm.mm cimport MM
from ptebatch.mm.mprotect cimport do_mprotect
from ptebatch.mm.operation cimport outcome, request


def toggle(MM mm, uint64_t start, uint64_t length, long rounds):
    """Make [start, start + length) read-only and writable again, `rounds` times; returns the calls that failed."""
    cdef request r
    cdef outcome o
    cdef long failed = 0
    cdef int k
    r.pkey = -1
    r.s = find(b"folio")
    r.python = NULL
    with nogil:
        while rounds > 0:
            rounds -= 1
            for k in range(2):
                # do_mprotect() adds to the counters of the address space; a call begins at 0
                memset(&mm.mm.mmu.c, 0, sizeof(counters))
                mm.mm.mmu.pages_changed = 0
                r.start, r.len, r.prot = start, length, 3 if k else 1
                o = do_mprotect(&mm.mm, &r)
                failed += o.err != 0
    return failed
