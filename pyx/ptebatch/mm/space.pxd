# Base of `MM`: page frames, VMAs and leaf tables; its C part is `space` of mprotect.pxd.
from libc.stdint cimport uint64_t
from ..arm64.mmu cimport table
from ..base.held cimport Exclusive
from .mm_struct cimport mm_struct
from .vma cimport vma

cdef class Space(Exclusive):
    cdef mm_struct mm
    cdef object _machine
    cdef object _pages         # uint8 array: metadata
    cdef list _pools           # (first address, uint64 array of leaf tables), by address
    cdef uint64_t next_pfn     # behind the last frame that a folio was placed in
    cdef bint shown            # somebody has a view of the metadata, and may write anywhere
    cdef object __weakref__

    cdef uint64_t frames(self, object pfn, object nr) except? 0xdeadbeef
    cdef int new_folio(self, uint64_t at, uint64_t order, bint anon, bint numa_skip, bint mapped_shared) except -1
    cdef uint64_t page_range(self, object start, object length, uint64_t *end) except? 0xdeadbeef
    cdef uint64_t pte_range(self, object start, object nr, uint64_t *end) except? 0xdeadbeef
    cdef vma *vma_of(self, uint64_t start, uint64_t end) except NULL
    cdef int add_tables(self, uint64_t addr, uint64_t end) except -1
    cdef uint64_t described(self) noexcept
    cdef int add_pool(self, uint64_t first, uint64_t nr) except -1
    cdef bint table_at(self, uint64_t addr, table *t, size_t *idx) noexcept nogil
    cdef size_t one_table(self, object addr, object nr, table *t, size_t *idx) except 0

# VMA flags of a caller, all of which the model has
cpdef object protection(object prot)
cdef uint64_t known_flags(object vm_flags) except? 0xdeadbeef
