# What one call did, as Python sees it: a snapshot of counters and logs.
from libc.stdint cimport uint64_t
from ..base.counters cimport counters
from ..base.log cimport pairs, trace
from .mm_struct cimport not_modelled

cdef class Result:
    cdef counters c
    cdef not_modelled left_out
    cdef readonly object machine
    cdef readonly str strategy
    cdef readonly object start
    cdef readonly object length
    cdef readonly object prot
    cdef readonly object pages
    cdef object _batches
    cdef object _subs
    cdef object _flushes
    cdef object _gathers
    cdef object _trace
