# The class that owns an address space; its C part is `space` of mprotect.pxd.
from libc.stdint cimport uint8_t, uint64_t
from .log cimport pairs, trace
from .memo cimport memo
from .mm_struct cimport table
from .mprotect cimport space
from .result cimport Result
from .vma cimport vma

cdef class MM:
    cdef space sp
    cdef readonly object machine
    cdef object _pages         # uint8 array: metadata
    cdef list _pools           # uint64 arrays of leaf tables, by address
    cdef list _starts          # first address of each
    cdef uint64_t next_pfn
    cdef pairs batches
    cdef pairs subs
    cdef pairs flushes
    cdef pairs gathers
    cdef trace tr
    cdef int busy
    cdef memo memo_store
    cdef object __weakref__

    cdef bint table_at(self, uint64_t addr, table *t, size_t *idx) noexcept nogil
    cdef int take(self) except -1
    cdef int enter(self, bint record, bint traced) except -1
    cdef void leave(self) noexcept
    cdef uint64_t pfn_range(self, object pfn, object nr) except? 0xdeadbeef
    cdef uint64_t page_range(self, object start, object length, uint64_t *end) except? 0xdeadbeef
    cdef vma *vma_of(self, uint64_t start, uint64_t end) except NULL
    cdef int add_pool(self, uint64_t first, uint64_t nr) except -1
    cdef int one_table(self, object addr, object nr, table *t, size_t *idx) except -1
    cdef object folio_heads(self, object order_of, object heads, uint64_t pages)
    cdef int frames_exist(self, object low, object high) except -1
    cdef void anon_vma_prepare(self, size_t i) noexcept
    cdef Result result(self, object start, object length, object prot, str name, uint64_t pages, bint traced)
    cdef int broken(self, object s, MM backup) except -1
    cdef uint64_t used_pages(self) except? 0xdeadbeef
