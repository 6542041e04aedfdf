# change_pte_range(): the loop over one leaf table that every strategy shares.
# It reads each entry, skips what prot_numa skips, deals with entries that are
# not present, and leaves present ones to the strategy's step.
# Counterpart: mm/mprotect.c. Rules: spec 6.7.
from libc.stdint cimport int64_t, uint32_t, uint64_t
from .batch cimport folio_pte_batch_flags
from .log cimport EV_LOCK, EV_UNLOCK
from .machine cimport machine
from .memo cimport aside, memo, memo_begin, memo_copy_in, memo_count, memo_end, memo_wanted
from .mm_struct cimport PG_NUMA_SKIP, emit, folio_anon, folio_large, folio_of, folio_of_pte
from .pte cimport (
    PTE_SWP_UFFD, pte_none, pte_present, pte_protnone, pte_swp_clear_uffd, pte_swp_mkuffd, pte_t, softleaf_offset,
    softleaf_pte, softleaf_type,
)
from .ptep cimport pte_clear, ptep_get, set_pte_at
from .strategy cimport (
    MM_CP_PROT_NUMA, MM_CP_UFFD_WP, MM_CP_UFFD_WP_RESOLVE, STRATEGY_LOOKUP, VM_UFFD_WP, max_nr, strategy, walk, walk_pfn,
)

cdef enum:
    SWP_PTE_MARKER = 31
    MARKER_UFFD_WP = 1
    MARKER_POISONED = 2
    MARKER_GUARD = 4


cdef inline uint64_t migration_pfn(const walk *w, uint64_t offset) noexcept nogil:
    # pfn in 48 - PAGE_SHIFT bits; young and dirty above it
    return offset & ((<uint64_t>1 << (48 - w.t.mm.m.page_shift)) - 1)


# uffd-wp markers go when the protection is resolved; poison and guards never do
cdef inline bint marker_dropped(const walk *w, uint64_t offset) noexcept nogil:
    if offset & MARKER_POISONED or (w.t.mm.m.guard_markers and offset & MARKER_GUARD):
        return False
    return (w.cp_flags & MM_CP_UFFD_WP_RESOLVE) != 0


# a writable migration or device entry loses its right to write (spec 6.7)
cdef inline pte_t softleaf_wrprotect(const walk *w, pte_t old) noexcept nogil:
    cdef const machine *m = &w.t.mm.m
    cdef uint32_t type = softleaf_type(old), read = m.swp_migration_read
    cdef uint64_t offset = softleaf_offset(old)
    cdef pte_t uffd = old & PTE_SWP_UFFD
    if type == read + 2:
        # anon: READ_EXCLUSIVE, file: READ; a writable entry carries no uffd bit
        f = folio_of(w.t.mm, migration_pfn(w, offset))
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


# entries that prot_numa passes over; 0: none
cdef inline size_t numa_skips(walk *w) noexcept nogil:
    if w.f.nr and not w.f.flags & PG_NUMA_SKIP:
        return 0
    if not folio_large(&w.f):
        return 1
    return folio_pte_batch_flags(&w.t, w.idx, &w.f, w.old, max_nr(w), 0)


cdef inline int64_t change_present_ptes(walk *w, const strategy *s) noexcept nogil:
    cdef bint numa = (w.cp_flags & MM_CP_PROT_NUMA) != 0
    cdef size_t skip
    if numa and pte_protnone(w.old):
        return 1
    w.f = folio_of_pte(w.t.mm, w.old)
    if s.flags & STRATEGY_LOOKUP:
        w.t.mm.c.normal_page += 1
        if numa:
            skip = numa_skips(w)
            if skip:
                return skip
    elif numa:
        w.t.mm.c.normal_page += 1
        if w.f.nr == 0 or w.f.flags & PG_NUMA_SKIP:
            return 1
    return s.step(w)


# one entry, or the batch that begins at it
cdef inline void change_one(walk *w, const strategy *s) noexcept nogil:
    cdef int64_t nr
    w.old = ptep_get(&w.t, w.idx)
    if pte_present(w.old):
        nr = change_present_ptes(w, s)
        if nr <= 0 or nr > <int64_t>max_nr(w):
            # only a strategy from outside can do this: stop rather than loop for ever
            w.failed = True
            return
        w.idx += nr
        return
    if pte_none(w.old):
        change_none_pte(w)
    else:
        change_softleaf_pte(w)
    w.idx += 1


# run the unit of nr entries at w.idx and remember what it did
cdef inline void learn(walk *w, const strategy *s, memo *m, size_t nr) noexcept nogil:
    cdef size_t first = w.idx
    cdef aside a
    memo_copy_in(w, m, nr)
    memo_begin(w, m, &a)
    while w.idx < first + nr and not w.failed:
        change_one(w, s)
    memo_end(w, m, &a, first)


cdef inline void change_pte_range(walk *w, const strategy *s) noexcept nogil:
    cdef memo *m = <memo *>w.memo
    cdef size_t nr
    w.t.mm.c.pte_locks += 1
    emit(&w.t, EV_LOCK, w.idx, w.end - w.idx)
    while w.idx < w.end and not w.failed:
        if m != NULL:
            if m.valid and m.replay(w, m):
                continue
            memo_count(w, m)
            nr = memo_wanted(w, m)
            if nr:
                learn(w, s, m, nr)
                continue
        change_one(w, s)
    emit(&w.t, EV_UNLOCK, w.end - 1, 0)
