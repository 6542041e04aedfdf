# A strategy, a machine and a memo as the core runs them.
from ..arm64.machine cimport machine
from .memo cimport memo
from .seam cimport strategy

cdef class Strategy:
    cdef strategy row
    cdef object window         # a Python step's window, or None
    cdef str name
    cdef bytes keep

cdef int fill_machine(machine *c, object m) except -1
cdef int make_memo(memo *m, unsigned int ptrs_per_pte) except -1
