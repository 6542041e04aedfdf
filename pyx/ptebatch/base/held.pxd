# One call at a time: what threads could share takes itself for the length of a call.
cdef class Exclusive:
    cdef int busy

    cdef int take(self) except -1
    cdef void drop(self) noexcept

cdef class Held:
    cdef Exclusive what
