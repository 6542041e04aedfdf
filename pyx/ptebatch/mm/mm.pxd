# The class that owns an address space, with the calls on it.
from libc.stdint cimport uint64_t
from ..base.log cimport pairs, trace
from ..batch.memo cimport memo
from ..batch.resolved cimport Strategy
from .operation cimport operation, request
from .result cimport Result
from .tables cimport Tables
from .undo cimport Undo

cdef class MM(Tables):
    cdef pairs batches
    cdef pairs subs
    cdef pairs flushes
    cdef pairs gathers
    cdef trace tr
    cdef memo memo_store

    cdef Result perform(self, operation call, request *r, object strategy, bint record, bint traced)
    cdef int one_vma(self, uint64_t first, uint64_t end) except -1
    cdef int enter(self, bint record, bint traced) except -1
    cdef void leave(self) noexcept
    cdef Result result(self, object start, object length, object prot, str name, uint64_t pages, bint traced)
    cdef Undo undo_of(self, const request *r)
    cdef int broken(self, Strategy s, Undo undo) except -1
    cdef MM duplicate(self)
