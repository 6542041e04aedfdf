# One arm64 page table entry: its bits and every accessor, as truth tables.
# Counterparts: arch/arm64/include/asm/{pgtable-hwdef,pgtable-prot,pgtable}.h.
# Rules: spec 1.2, 1.6, 2. A pure function of words; no state, no counters.
#
# To add another architecture's format: restate each helper of this file for its
# bits, and let the verbs of contpte.pxd and ptep.pxd cimport that file instead;
# strategies see entries only through these helpers.
from libc.stdint cimport uint32_t, uint64_t

ctypedef uint64_t pte_t

# Not an enum: bits beyond an int would read back as 0.
cdef extern from *:
    """
    #define PTE_VALID    (1ULL << 0)
    #define PTE_TYPE     (3ULL << 0)
    #define PTE_ATTRINDX (7ULL << 2)
    #define PTE_USER     (1ULL << 6)
    #define PTE_RDONLY   (1ULL << 7)
    #define PTE_SHARED   (3ULL << 8)
    #define PTE_AF       (1ULL << 10)
    #define PTE_NG       (1ULL << 11)
    #define PTE_GP       (1ULL << 50)
    #define PTE_WRITE    (1ULL << 51)
    #define PTE_CONT     (1ULL << 52)
    #define PTE_PXN      (1ULL << 53)
    #define PTE_UXN      (1ULL << 54)
    #define PTE_DIRTY    (1ULL << 55)
    #define PTE_SPECIAL  (1ULL << 56)
    #define PTE_UFFD     (1ULL << 58)
    #define PTE_PO_IDX   (7ULL << 60)
    #define PTE_SWBITS   ((1ULL << 63) | (15ULL << 55))
    #define PTE_ADDR_TOP (1ULL << 50)
    #define PTE_CHG (PTE_USER | PTE_RDONLY | PTE_VALID | PTE_NG | PTE_ATTRINDX | PTE_GP \\
                     | PTE_WRITE | PTE_PXN | PTE_UXN | PTE_PO_IDX)
    #define PTE_SWP_EXCLUSIVE (1ULL << 2)
    #define PTE_SWP_UFFD      (1ULL << 3)
    """
    const uint64_t PTE_VALID, PTE_TYPE, PTE_ATTRINDX, PTE_USER, PTE_RDONLY, PTE_SHARED, PTE_AF, PTE_NG
    const uint64_t PTE_GP, PTE_WRITE, PTE_CONT, PTE_PXN, PTE_UXN, PTE_DIRTY, PTE_SPECIAL, PTE_UFFD
    const uint64_t PTE_PO_IDX, PTE_SWBITS, PTE_ADDR_TOP, PTE_CHG
    const uint64_t PTE_SWP_EXCLUSIVE, PTE_SWP_UFFD

cdef enum:
    FPB_RESPECT_DIRTY = 1
    FPB_RESPECT_SOFT_DIRTY = 2
    FPB_RESPECT_WRITE = 4

# ---- questions (spec 2.1) ----

cdef inline bint pte_none(pte_t p) noexcept nogil:
    return p == 0

cdef inline bint pte_valid(pte_t p) noexcept nogil:
    return (p & PTE_VALID) != 0

# VALID, or the NG bit read as PRESENT_INVALID
cdef inline bint pte_present(pte_t p) noexcept nogil:
    return (p & (PTE_VALID | PTE_NG)) != 0

cdef inline bint pte_present_invalid(pte_t p) noexcept nogil:
    return (p & (PTE_VALID | PTE_NG)) == PTE_NG

# USER=0 and UXN=1 tell PROT_NONE from a PMD that is invalid for a moment
cdef inline bint pte_protnone(pte_t p) noexcept nogil:
    return (p & (PTE_VALID | PTE_NG | PTE_USER | PTE_UXN)) == (PTE_NG | PTE_UXN)

cdef inline bint pte_young(pte_t p) noexcept nogil:
    return (p & PTE_AF) != 0

cdef inline bint pte_write(pte_t p) noexcept nogil:
    return (p & PTE_WRITE) != 0

cdef inline bint pte_hw_dirty(pte_t p) noexcept nogil:
    return (p & (PTE_WRITE | PTE_RDONLY)) == PTE_WRITE

cdef inline bint pte_sw_dirty(pte_t p) noexcept nogil:
    return (p & PTE_DIRTY) != 0

cdef inline bint pte_dirty(pte_t p) noexcept nogil:
    return pte_sw_dirty(p) or pte_hw_dirty(p)

cdef inline bint pte_user_exec(pte_t p) noexcept nogil:
    return (p & PTE_UXN) == 0

cdef inline bint pte_special(pte_t p) noexcept nogil:
    return (p & PTE_SPECIAL) != 0

cdef inline bint pte_cont(pte_t p) noexcept nogil:
    return (p & PTE_CONT) != 0

cdef inline bint pte_valid_cont(pte_t p) noexcept nogil:
    return (p & (PTE_VALID | PTE_CONT)) == (PTE_VALID | PTE_CONT)

cdef inline bint pte_uffd(pte_t p) noexcept nogil:
    return (p & PTE_UFFD) != 0

# ---- the address field (spec 1.3; 48-bit physical addresses) ----

cdef inline uint64_t pte_addr_mask(uint32_t page_shift) noexcept nogil:
    return PTE_ADDR_TOP - (<uint64_t>1 << page_shift)

cdef inline uint64_t pte_pfn(pte_t p, uint32_t page_shift) noexcept nogil:
    return (p & pte_addr_mask(page_shift)) >> page_shift

cdef inline pte_t pte_pgprot(pte_t p, uint32_t page_shift) noexcept nogil:
    return p & ~pte_addr_mask(page_shift)

cdef inline pte_t pfn_pte(uint64_t pfn, pte_t prot, uint32_t page_shift) noexcept nogil:
    return (pfn << page_shift) | prot

# A plain addition: flags are carried along, CONT and A/D included.
cdef inline pte_t pte_advance_pfn(pte_t p, uint64_t nr, uint32_t page_shift) noexcept nogil:
    return p + (nr << page_shift)

# ---- changes (spec 2.2, 2.3) ----

cdef inline pte_t pte_mkdirty(pte_t p) noexcept nogil:
    p |= PTE_DIRTY
    if pte_write(p):
        p &= ~PTE_RDONLY
    return p

cdef inline pte_t pte_mkclean(pte_t p) noexcept nogil:
    return (p & ~PTE_DIRTY) | PTE_RDONLY

# `always`: 6.16 made clean entries dirty-writable here
cdef inline pte_t pte_mkwrite(pte_t p, bint always) noexcept nogil:
    p |= PTE_WRITE
    if always or pte_sw_dirty(p):
        p &= ~PTE_RDONLY
    return p

cdef inline pte_t pte_wrprotect(pte_t p) noexcept nogil:
    if pte_hw_dirty(p):
        p |= PTE_DIRTY
    return (p & ~PTE_WRITE) | PTE_RDONLY

cdef inline pte_t pte_mkold(pte_t p) noexcept nogil:
    return p & ~PTE_AF

cdef inline pte_t pte_mkyoung(pte_t p) noexcept nogil:
    return p | PTE_AF

cdef inline pte_t pte_mkcont(pte_t p) noexcept nogil:
    return p | PTE_CONT

cdef inline pte_t pte_mknoncont(pte_t p) noexcept nogil:
    return p & ~PTE_CONT

cdef inline pte_t pte_mkspecial(pte_t p) noexcept nogil:
    return p | PTE_SPECIAL

cdef inline pte_t pte_mkuffd(pte_t p) noexcept nogil:
    return pte_wrprotect(p | PTE_UFFD)

cdef inline pte_t pte_clear_uffd(pte_t p) noexcept nogil:
    return p & ~PTE_UFFD

# RW dirty -> RO dirty -> RW dirty: hardware dirtiness survives in DIRTY
cdef inline pte_t pte_modify(pte_t p, pte_t newprot) noexcept nogil:
    if pte_hw_dirty(p):
        p |= PTE_DIRTY
    p = (p & ~PTE_CHG) | (newprot & PTE_CHG)
    if pte_sw_dirty(p):
        p = pte_mkdirty(p)
    return p

# ---- comparisons ----

# The literal normalisation of spec 5.2. With the flags of mprotect it ignores
# RDONLY, AF and DIRTY; tests/arm64/test_pte.py holds it to that.
cdef inline pte_t pte_batch_clear_ignored(pte_t p, int flags) noexcept nogil:
    if not flags & FPB_RESPECT_DIRTY:
        p = pte_mkclean(p)
    if not flags & FPB_RESPECT_WRITE:
        p = pte_wrprotect(p)
    return pte_mkold(p)

# `own_rule`: arm64's rule of 7.3; without it every change flushes (spec 2.4)
cdef inline bint pte_needs_flush(pte_t old, pte_t new, bint own_rule) noexcept nogil:
    if not own_rule:
        return True
    return pte_valid(old) and ((old ^ new) & ~PTE_SWBITS) != 0

# ---- softleaf entries: swap, migration, markers (spec 1.6) ----

cdef inline uint32_t softleaf_type(pte_t p) noexcept nogil:
    return (p >> 6) & 0x1f

cdef inline uint64_t softleaf_offset(pte_t p) noexcept nogil:
    return (p >> 12) & ((<uint64_t>1 << 50) - 1)

cdef inline pte_t softleaf_pte(uint32_t type, uint64_t offset) noexcept nogil:
    return (<uint64_t>type << 6) | (offset << 12)

cdef inline pte_t pte_swp_mkuffd(pte_t p) noexcept nogil:
    return p | PTE_SWP_UFFD

cdef inline pte_t pte_swp_clear_uffd(pte_t p) noexcept nogil:
    return p & ~PTE_SWP_UFFD
