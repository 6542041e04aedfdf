# Entries that are not present: swap, migration, devices, markers, and none.
# Counterparts: include/linux/leafops.h, swapops.h; mm/mprotect.c. Rules: spec 1.6, 6.7.
from libc.stdint cimport uint32_t, uint64_t
from ..arm64.machine cimport machine
from ..arm64.mmu cimport folio_anon, folio_of
from ..arm64.pte cimport (
    PTE_SWP_UFFD, pte_swp_clear_uffd, pte_swp_mkuffd, pte_t, softleaf_offset, softleaf_pte, softleaf_type,
)
from ..arm64.ptep cimport pte_clear, set_pte_at
from ..base.vm_flags cimport MM_CP_UFFD_WP, MM_CP_UFFD_WP_RESOLVE, VM_UFFD_WP
from ..batch.seam cimport walk

cdef enum:
    SWP_PTE_MARKER = 31
    MARKER_UFFD_WP = 1
    MARKER_POISONED = 2
    MARKER_GUARD = 4


cdef inline uint64_t migration_pfn(const walk *w, uint64_t offset) noexcept nogil:
    # pfn in 48 - PAGE_SHIFT bits; young and dirty above it
    return offset & ((<uint64_t>1 << (48 - w.t.mmu.m.page_shift)) - 1)


# uffd-wp markers go when the protection is resolved; poison and guards never do
cdef inline bint marker_dropped(const walk *w, uint64_t offset) noexcept nogil:
    if offset & MARKER_POISONED or (w.t.mmu.m.guard_markers and offset & MARKER_GUARD):
        return False
    return (w.cp_flags & MM_CP_UFFD_WP_RESOLVE) != 0


# a writable migration or device entry loses its right to write (spec 6.7)
cdef inline pte_t softleaf_wrprotect(const walk *w, pte_t old) noexcept nogil:
    cdef const machine *m = &w.t.mmu.m
    cdef uint32_t type = softleaf_type(old), read = m.swp_migration_read
    cdef uint64_t offset = softleaf_offset(old)
    cdef pte_t uffd = old & PTE_SWP_UFFD
    if type == read + 2:
        # anon: READ_EXCLUSIVE, file: READ; a writable entry carries no uffd bit
        f = folio_of(w.t.mmu, migration_pfn(w, offset))
        return softleaf_pte(read + 1 if folio_anon(&f) else read, offset)
    if m.swp_device_write and type == m.swp_device_write:
        return softleaf_pte(m.swp_device_write + 1, offset) | uffd
    if m.swp_exclusive_write and type == m.swp_exclusive_write:
        return softleaf_pte(m.swp_exclusive_write + 1, offset) | uffd
    return old


cdef inline void change_softleaf_pte(walk *w) noexcept nogil:
    cdef pte_t new = w.old
    if softleaf_type(w.old) == SWP_PTE_MARKER:
        if marker_dropped(w, softleaf_offset(w.old)):
            pte_clear(&w.t, w.idx)
            w.pages += 1
        return
    new = softleaf_wrprotect(w, w.old)
    if w.cp_flags & MM_CP_UFFD_WP:
        new = pte_swp_mkuffd(new)
    elif w.cp_flags & MM_CP_UFFD_WP_RESOLVE:
        new = pte_swp_clear_uffd(new)
    if new != w.old:
        set_pte_at(&w.t, w.idx, new)
        w.pages += 1


# nothing is mapped: userfaultfd write-protection of file memory leaves a marker
cdef inline void change_none_pte(walk *w) noexcept nogil:
    if w.cp_flags & MM_CP_UFFD_WP and w.vm_flags & VM_UFFD_WP and not w.vma_anon:
        set_pte_at(&w.t, w.idx, softleaf_pte(SWP_PTE_MARKER, MARKER_UFFD_WP))
        w.pages += 1
