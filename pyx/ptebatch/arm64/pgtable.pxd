# Page tables of any size: a radix tree of upper tables over leaf tables that
# live in pools owned by ../mm/space.pyx. Levels and shifts: spec 1.1. An upper entry is
# the address of the table below with the type bits of a table descriptor (0b11)
# set, 0 for a hole; 0b01 stays free for a block entry (a PMD-mapped folio).
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from .machine cimport machine
from .pte cimport pte_t

cdef enum:
    DESC_TABLE = 3

cdef struct pgtable:
    uint64_t *root
    int levels                 # upper levels above the leaf tables
    unsigned int bits          # index bits of one level
    unsigned int page_shift


cdef inline int pgtable_init(pgtable *pt, const machine *m) noexcept nogil:
    pt.bits = m.ptrs_shift
    pt.page_shift = m.page_shift
    pt.levels = <int>((m.va_bits - m.page_shift + pt.bits - 1) // pt.bits) - 1
    if pt.levels < 1:
        pt.levels = 1
    pt.root = <uint64_t *>calloc(<size_t>1 << pt.bits, 8)
    return 0 if pt.root != NULL else -1


# index into the table of `level`: 0 is just above the leaves
cdef inline size_t pgtable_index(const pgtable *pt, uint64_t addr, int level) noexcept nogil:
    return (addr >> (pt.page_shift + pt.bits * (level + 1))) & ((<size_t>1 << pt.bits) - 1)


# the entry that holds the leaf of addr, or NULL; with `alloc`, tables are made on the way
cdef inline uint64_t *pmd_offset(const pgtable *pt, uint64_t addr, bint alloc) noexcept nogil:
    cdef uint64_t *tbl = pt.root
    cdef uint64_t *entry
    cdef int level = pt.levels - 1
    while level > 0:
        entry = tbl + pgtable_index(pt, addr, level)
        if entry[0] == 0:
            if not alloc:
                return NULL
            tbl = <uint64_t *>calloc(<size_t>1 << pt.bits, 8)
            if tbl == NULL:
                return NULL
            entry[0] = <uint64_t>tbl | DESC_TABLE
        tbl = <uint64_t *>(entry[0] & ~<uint64_t>DESC_TABLE)
        level -= 1
    return tbl + pgtable_index(pt, addr, 0)


cdef inline pte_t *pte_table(const pgtable *pt, uint64_t addr) noexcept nogil:
    cdef uint64_t *pmd = pmd_offset(pt, addr, False)
    if pmd == NULL or pmd[0] == 0:
        return NULL
    return <pte_t *>(pmd[0] & ~<uint64_t>DESC_TABLE)


# free the upper tables; the leaves belong to the pools
cdef inline void pgtable_free(pgtable *pt) noexcept nogil:
    if pt.root != NULL:
        free_level(pt.root, pt.levels - 1, <size_t>1 << pt.bits)
        pt.root = NULL


cdef inline void free_level(uint64_t *tbl, int level, size_t nr) noexcept nogil:
    cdef size_t i
    if level > 0:
        for i in range(nr):
            if tbl[i]:
                free_level(<uint64_t *>(tbl[i] & ~<uint64_t>DESC_TABLE), level - 1, nr)
    free(tbl)
