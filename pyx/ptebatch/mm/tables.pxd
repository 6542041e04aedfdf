# `MM` without its calls: the verbs of core mm code, and mapping of folios.
from libc.stdint cimport uint64_t
from .mapping cimport plan
from .space cimport Space

cdef class Tables(Space):
    cdef object plan_folios(self, plan *pl, uint64_t pages, object order, object orders, object heads)
    cdef object folio_heads(self, object order_of, object heads, uint64_t pages)
    cdef int frames_exist(self, object low, object high) except -1
    cdef void anon_vma_prepare(self, size_t i) noexcept
