# What every verb carries (mmu_t): the machine, the counters, the page metadata, the
# gather and the logs of the running call. An address space, mm_struct of ../mm, owns
# one; the checker has one of its own. No Python objects.
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from ..base.counters cimport counters
from ..base.log cimport EV_PAE, pairs, trace, trace_emit
from ..base.page_flags cimport PG_ANON, PG_ANON_EXCLUSIVE, PG_ORDER_MASK
from .machine cimport machine
from .pte cimport pte_pfn, pte_special, pte_t

# mmu_gather (include/asm-generic/tlb.h): the hull of what must be flushed
cdef struct mmu_gather:
    uint64_t start
    uint64_t end
    bint cleared_ptes

cdef struct mmu_t:
    machine m
    counters c
    mmu_gather tlb
    uint64_t pages_changed     # sum of change_protection()'s return values
    uint8_t *pages             # metadata of pfn_base .. pfn_base + nr_pages - 1
    uint64_t pfn_base
    uint64_t nr_pages
    trace *tr                  # NULL: no trace
    pairs *batches             # NULL: not recorded
    pairs *subs
    pairs *flushes             # conversions that issued a TLBI: addr, pages
    pairs *gathers             # final flushes: start, end

# where a verb works: one leaf table, its entry 0 maps addr0
cdef struct table:
    mmu_t *mmu
    pte_t *leaf
    uint64_t addr0

# the folio of a present PTE; none: nr == 0
cdef struct folio:
    uint64_t head
    uint64_t nr
    uint8_t flags


cdef inline uint64_t addr_of(const table *t, size_t idx) noexcept nogil:
    return t.addr0 + (<uint64_t>idx << t.mmu.m.page_shift)


cdef inline void emit(table *t, uint8_t kind, size_t idx, uint64_t value) noexcept nogil:
    if t.mmu.tr != NULL:
        trace_emit(t.mmu.tr, kind, addr_of(t, idx), value)


# page metadata byte of a pfn, or NULL: memory without a struct page
cdef inline uint8_t *page_of(const mmu_t *mmu, uint64_t pfn) noexcept nogil:
    cdef uint64_t at = pfn - mmu.pfn_base      # wraps below pfn_base: fails the test too
    if at >= mmu.nr_pages:
        return NULL
    return mmu.pages + at


# The folio of a pfn, cut to the pages that exist, so that no metadata a caller
# wrote can lead outside the array.
cdef inline folio folio_of(const mmu_t *mmu, uint64_t pfn) noexcept nogil:
    cdef folio f
    cdef uint8_t *page = page_of(mmu, pfn)
    cdef uint64_t limit = mmu.pfn_base + mmu.nr_pages
    if page == NULL:
        f.head = f.nr = 0
        f.flags = 0
        return f
    f.flags = page[0]
    f.nr = <uint64_t>1 << (f.flags & PG_ORDER_MASK)
    f.head = pfn & ~(f.nr - 1)
    if f.head + f.nr > limit:
        f.nr = limit - f.head
    return f


# vm_normal_folio() without the count: SPECIAL has no page (spec 4.2)
cdef inline folio folio_of_pte(const mmu_t *mmu, pte_t p) noexcept nogil:
    cdef folio f
    if pte_special(p):
        f.head = f.nr = 0
        f.flags = 0
        return f
    return folio_of(mmu, pte_pfn(p, mmu.m.page_shift))


cdef inline bint folio_large(const folio *f) noexcept nogil:
    return f.nr > 1


cdef inline bint folio_anon(const folio *f) noexcept nogil:
    return f.nr != 0 and (f.flags & PG_ANON) != 0


# PageAnonExclusive() of a page, counted. Out of the metadata: not exclusive.
cdef inline bint page_anon_exclusive(mmu_t *mmu, uint64_t pfn) noexcept nogil:
    cdef uint8_t *page = page_of(mmu, pfn)
    mmu.c.pae_reads += 1
    if mmu.tr != NULL:
        trace_emit(mmu.tr, EV_PAE, pfn, page != NULL and page[0] & PG_ANON_EXCLUSIVE)
    return page != NULL and (page[0] & PG_ANON_EXCLUSIVE) != 0
