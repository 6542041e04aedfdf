# What a call of a Python strategy may change, kept to be put back.
from libc.stdint cimport uint64_t
from ..arm64.pte cimport pte_t
from .mm_struct cimport mm_struct
from .space cimport Space
from .vma cimport vma

cdef class Undo:
    cdef Space space
    cdef mm_struct kept        # all that is no array
    cdef vma *vmas             # those of the range and its neighbours, which may merge
    cdef size_t nr_vmas
    cdef pte_t **leaves        # the leaf tables of the range,
    cdef size_t nr_leaves
    cdef pte_t *words          # and what is in them

    cdef int keep_vmas(self, uint64_t start, uint64_t end) except -1
    cdef size_t find_leaves(self, uint64_t start, uint64_t end) noexcept nogil
    cdef void restore(self) noexcept
