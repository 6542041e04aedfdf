# A strategy and a machine as the core runs them.
from .machine cimport machine
from .strategy cimport strategy

cdef class Strategy:
    cdef strategy row
    cdef object window         # a Python step's window, or None
    cdef str name
    cdef bytes keep

cdef int fill_machine(machine *c, object m) except -1
