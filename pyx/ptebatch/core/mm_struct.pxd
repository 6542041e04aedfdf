# What every verb carries: the machine, the counters, the page metadata, the
# gather and the logs of the running call. One mm_struct an address space.
#
# Page metadata is one byte a page frame (struct folio and struct page of the
# kernel, as far as mprotect asks them): order 4 bits, anon, maybe mapped
# shared, refused by prot_numa, PageAnonExclusive. Folios are naturally aligned
# in pfn, so the head is a mask and not a field. No Python objects.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from .counters cimport counters
from .log cimport event, pairs, trace, trace_emit
from .machine cimport machine
from .pte cimport pte_pfn, pte_special, pte_t

cdef enum:
    PG_ORDER_MASK = 0x0f
    PG_ANON = 0x10
    PG_MAPPED_SHARED = 0x20
    PG_NUMA_SKIP = 0x40
    PG_ANON_EXCLUSIVE = 0x80

# mmu_gather (include/asm-generic/tlb.h): the hull of what must be flushed
cdef struct mmu_gather:
    uint64_t start
    uint64_t end
    bint cleared_ptes

cdef struct mm_struct:
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
    mm_struct *mm
    pte_t *leaf
    uint64_t addr0

# the folio of a present PTE; none: nr == 0
cdef struct folio:
    uint64_t head
    uint64_t nr
    uint8_t flags


cdef inline uint8_t page_byte(uint64_t order, bint anon, bint numa_skip, bint mapped_shared) noexcept nogil:
    return (order & PG_ORDER_MASK) | (PG_ANON if anon else 0) | (PG_NUMA_SKIP if numa_skip else 0) | (
        PG_MAPPED_SHARED if mapped_shared else 0)


cdef inline uint64_t addr_of(const table *t, size_t idx) noexcept nogil:
    return t.addr0 + (<uint64_t>idx << t.mm.m.page_shift)


cdef inline void emit(table *t, uint8_t kind, size_t idx, uint64_t value) noexcept nogil:
    if t.mm.tr != NULL:
        trace_emit(t.mm.tr, kind, addr_of(t, idx), value)


# page metadata byte of a pfn, or NULL: memory without a struct page
cdef inline uint8_t *page_of(const mm_struct *mm, uint64_t pfn) noexcept nogil:
    cdef uint64_t at = pfn - mm.pfn_base      # wraps below pfn_base: fails the test too
    if at >= mm.nr_pages:
        return NULL
    return mm.pages + at


# The folio of a pfn, cut to the pages that exist, so that no metadata a caller
# wrote can lead outside the array.
cdef inline folio folio_of(const mm_struct *mm, uint64_t pfn) noexcept nogil:
    cdef folio f
    cdef uint8_t *page = page_of(mm, pfn)
    cdef uint64_t limit = mm.pfn_base + mm.nr_pages
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
cdef inline folio folio_of_pte(const mm_struct *mm, pte_t p) noexcept nogil:
    cdef folio f
    if pte_special(p):
        f.head = f.nr = 0
        f.flags = 0
        return f
    return folio_of(mm, pte_pfn(p, mm.m.page_shift))


cdef inline bint folio_large(const folio *f) noexcept nogil:
    return f.nr > 1


cdef inline bint folio_anon(const folio *f) noexcept nogil:
    return f.nr != 0 and (f.flags & PG_ANON) != 0


# PageAnonExclusive() of a page, counted. Out of the metadata: not exclusive.
cdef inline bint page_anon_exclusive(mm_struct *mm, uint64_t pfn) noexcept nogil:
    cdef uint8_t *page = page_of(mm, pfn)
    mm.c.pae_reads += 1
    if mm.tr != NULL:
        trace_emit(mm.tr, 10, pfn, page != NULL and page[0] & PG_ANON_EXCLUSIVE)
    return page != NULL and (page[0] & PG_ANON_EXCLUSIVE) != 0
