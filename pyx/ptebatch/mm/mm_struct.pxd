# An address space: its page tables, VMAs, page metadata and limits. The arrays that it
# points to belong to the class around it (space.pyx, mm.pyx), so a copy keeps its own.
# Counterpart: struct mm_struct, include/linux/mm_types.h.
from libc.stdint cimport uint64_t
from ..arm64.mmu cimport mmu_t
from ..arm64.pgtable cimport pgtable
from ..batch.memo cimport memo
from .vma cimport vmas, vmas_copy

# what the kernel does besides in the running call, and the model does not: pages of each.
# mm.result has a sentence for each, in this order
cdef struct not_modelled:
    uint64_t populate          # locked memory became writable: populate_vma_page_range()
    uint64_t hugetlb           # hugetlb_change_protection()

cdef struct mm_struct:
    mmu_t mmu
    pgtable pt
    vmas vs
    uint64_t data_vm           # pages of private writable mappings
    uint64_t data_limit
    uint64_t committed
    uint64_t commit_limit
    uint64_t pkeys             # allocated protection keys, one bit each
    bint read_implies_exec
    not_modelled left_out
    memo *memo                 # NULL: every entry is done step by step


# Everything that `mm` knows, into `to`; not what `to` owns by a pointer: metadata, tables
# and logs. Their contents are the caller's to copy. -1: no memory, `to` is as it was.
# tests/house/test_core.py holds that every pointer is named here.
cdef inline int mm_copy(mm_struct *to, const mm_struct *mm) noexcept nogil:
    cdef mm_struct own = to[0]
    if vmas_copy(&own.vs, &mm.vs):
        to.vs = own.vs
        return -1
    to[0] = mm[0]
    to.vs = own.vs
    to.pt = own.pt
    to.memo = own.memo
    to.mmu.pages = own.mmu.pages
    to.mmu.tr = own.mmu.tr
    to.mmu.batches = own.mmu.batches
    to.mmu.subs = own.mmu.subs
    to.mmu.flushes = own.mmu.flushes
    to.mmu.gathers = own.mmu.gathers
    return 0
