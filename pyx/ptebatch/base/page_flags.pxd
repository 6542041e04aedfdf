# Page metadata: one byte a page frame, as far as the model asks struct folio and
# struct page: order 4 bits, anon, maybe mapped shared, refused by prot_numa,
# PageAnonExclusive. Folios are naturally aligned in pfn, so the head is a mask and
# not a field (spec 4). The same numbers for Python: ptebatch.bits.
from libc.stdint cimport uint8_t, uint64_t

cdef enum:
    PG_ORDER_MASK = 0x0f
    PG_ANON = 0x10
    PG_MAPPED_SHARED = 0x20
    PG_NUMA_SKIP = 0x40
    PG_ANON_EXCLUSIVE = 0x80


cdef inline uint8_t page_byte(uint64_t order, bint anon, bint numa_skip, bint mapped_shared) noexcept nogil:
    return (order & PG_ORDER_MASK) | (PG_ANON if anon else 0) | (PG_NUMA_SKIP if numa_skip else 0) | (
        PG_MAPPED_SHARED if mapped_shared else 0)
