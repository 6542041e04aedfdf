# cython: language_level=3
"""`Undo`: a call takes back what it did. No copy of the address space: only of the call's range."""
cimport cython
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from ..arm64.pgtable cimport pte_table
from ..arm64.pte cimport pte_t
from .space cimport Space
from .vma cimport find_vma, vma, vma_at, vma_insert, vma_remove, vmas


@cython.final
cdef class Undo:
    """The part of `space` that a call on [start, end) may change.

    That is entries of the range's leaf tables (what is folded may begin before it and end
    behind it), VMAs of the range and those beside it, and the counts of the address space.
    Page metadata is nothing that changes of protection write.

    Parameters
    ----------
    space : Space
    start, end : int
        Addresses; nothing is kept of an empty range.
    """

    def __cinit__(self, Space space, uint64_t start, uint64_t end):
        cdef size_t i, ptrs = space.mm.mmu.m.ptrs_per_pte
        self.space = space
        self.kept = space.mm
        if start >= end:
            return
        self.keep_vmas(start, end)
        self.leaves = <pte_t **>malloc(max(self.find_leaves(start, end), 1) * sizeof(pte_t *))
        if self.leaves == NULL:
            raise MemoryError("the list of leaf tables did not fit in memory")
        self.nr_leaves = self.find_leaves(start, end)
        self.words = <pte_t *>malloc(max(self.nr_leaves, 1) * ptrs * sizeof(pte_t))
        if self.words == NULL:
            raise MemoryError("the leaf tables of the range did not fit in memory a second time")
        for i in range(self.nr_leaves):
            memcpy(self.words + i * ptrs, self.leaves[i], ptrs * sizeof(pte_t))

    def __dealloc__(self):
        free(self.vmas)
        free(self.leaves)
        free(self.words)

    cdef int keep_vmas(self, uint64_t start, uint64_t end) except -1:
        cdef const vmas *vs = &self.space.mm.vs
        cdef size_t first = find_vma(vs, start), last, i
        last = first
        while last < vs.nr and vma_at(vs, last).start < end:
            last += 1
        first -= 1 if first else 0
        last += 1 if last < vs.nr else 0
        self.vmas = <vma *>malloc(max(last - first, 1) * sizeof(vma))
        if self.vmas == NULL:
            raise MemoryError("the VMAs did not fit in memory")
        for i in range(first, last):
            self.vmas[i - first] = vma_at(vs, i)[0]
        self.nr_vmas = last - first
        return 0

    cdef size_t find_leaves(self, uint64_t start, uint64_t end) noexcept nogil:
        """How many leaf tables the range has, once each; into `leaves`, if there is such a list."""
        cdef uint64_t span = <uint64_t>1 << (self.space.mm.mmu.m.page_shift + self.space.mm.mmu.m.ptrs_shift)
        cdef uint64_t addr = start & ~(span - 1)
        cdef pte_t *leaf
        cdef size_t nr = 0
        while addr < end:
            leaf = pte_table(&self.space.mm.pt, addr)
            if leaf != NULL:
                if self.leaves != NULL:
                    self.leaves[nr] = leaf
                nr += 1
            addr += span
        return nr

    cdef void restore(self) noexcept:
        """Put everything back."""
        cdef vmas own = self.space.mm.vs
        cdef size_t first, i, ptrs = self.space.mm.mmu.m.ptrs_per_pte
        for i in range(self.nr_leaves):
            memcpy(self.leaves[i], self.words + i * ptrs, ptrs * sizeof(pte_t))
        if self.nr_vmas:
            first = find_vma(&own, self.vmas[0].start)
            while first < own.nr and vma_at(&own, first).start < self.vmas[self.nr_vmas - 1].end:
                vma_remove(&own, first)
            for i in range(self.nr_vmas):
                # there is room: so many there were
                vma_insert(&own, first + i, &self.vmas[i])
        own.limit = self.kept.vs.limit
        own.last_anon_vma, own.last_mapping = self.kept.vs.last_anon_vma, self.kept.vs.last_mapping
        self.space.mm = self.kept
        self.space.mm.vs = own
