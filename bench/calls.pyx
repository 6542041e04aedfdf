# cython: language_level=3
"""mprotect() calls from a C loop: what one costs without Python around it."""
from libc.stdint cimport uint64_t
from libc.string cimport memset

from ptebatch.core.counters cimport counters
from ptebatch.core.mm cimport MM
from ptebatch.core.mprotect cimport do_mprotect, outcome, request
from ptebatch.core.strategies cimport find


def toggle(MM mm, uint64_t start, uint64_t length, long rounds):
    """Make [start, start + length) read-only and writable again, `rounds` times; returns the calls that failed."""
    cdef request r
    cdef outcome o
    cdef long _i, failed = 0
    cdef int k
    r.pkey = -1
    r.s = find(b"folio")
    r.python = NULL
    with nogil:
        for _i in range(rounds):
            for k in range(2):
                # do_mprotect() adds to the counters of the address space; a call begins at 0
                memset(&mm.sp.mm.c, 0, sizeof(counters))
                mm.sp.mm.pages_changed = 0
                r.start, r.len, r.prot = start, length, 3 if k else 1
                o = do_mprotect(&mm.sp, &r)
                failed += o.err != 0
    return failed
