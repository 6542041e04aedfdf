from libc.stdint cimport int64_t
from .seam cimport walk

cdef int64_t python_step(walk *w) noexcept nogil
