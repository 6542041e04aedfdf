# A small world: one leaf table, the metadata of its page frames, and one call. And
# what the laws need to know of it. Nothing of the core's own rules is used here:
# bits and classes are stated again, from the specification.
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcmp

cdef extern from *:
    """
    #define C_VALID (1ULL << 0)
    #define C_USER (1ULL << 6)
    #define C_RDONLY (1ULL << 7)
    #define C_AF (1ULL << 10)
    #define C_NG (1ULL << 11)
    #define C_WRITE (1ULL << 51)
    #define C_CONT (1ULL << 52)
    #define C_UXN (1ULL << 54)
    #define C_DIRTY (1ULL << 55)
    #define C_SPECIAL (1ULL << 56)
    #define C_UFFD (1ULL << 58)
    #define C_ATTR (7ULL << 2)
    #define C_SH (3ULL << 8)
    /* what pte_modify() takes from the new protection, spec 1.2 */
    #define C_CHG 0x706c0000000008ddULL
    /* accessed, dirty, and where a block folds */
    #define C_AD (C_CONT | C_AF | C_DIRTY | C_RDONLY)
    """
    const uint64_t C_VALID, C_USER, C_RDONLY, C_AF, C_NG, C_WRITE, C_CONT, C_UXN, C_DIRTY, C_SPECIAL, C_UFFD
    const uint64_t C_ATTR, C_SH, C_CHG, C_AD

cdef enum:
    MAX_PTES = 32
    MAX_PAGES = 128
    MAX_PATTERNS = 64          # A/D rows of a sweep
    PFN0 = 1024

    O_ORDER = 0x0f
    O_ANON = 0x10
    O_NUMA_SKIP = 0x40
    O_EXCLUSIVE = 0x80

    NONE = 0
    SOFTLEAF = 1
    PRESENT = 2

    YOUNG = 1
    SOILED = 2                 # dirty, in software or in hardware

cdef struct world:
    uint64_t[MAX_PTES] ptes
    uint8_t[MAX_PAGES] pages
    uint32_t start
    uint32_t end
    uint64_t vm_flags
    uint64_t newprot
    uint32_t cp_flags
    bint vma_anon
    uint64_t pfn_base          # frame of pages[0]

# the table before a call, classified; the same for every call on it
cdef struct facts:
    uint32_t nr                # entries
    uint32_t block             # entries of a contpte block
    uint32_t shift             # of a page
    uint8_t[MAX_PTES] kind
    uint8_t[MAX_PTES] paged    # there is a struct page
    uint8_t[MAX_PTES] meta     # its metadata byte
    uint8_t[MAX_PTES] must     # YOUNG, SOILED: what it has
    uint8_t[MAX_PTES] may      # the same, with what hardware sets during the call
    uint8_t[MAX_PTES] young    # its AF was set before the call took its rights: a TLB may have it
    uint8_t[MAX_PTES] link     # A/D may pass between this entry and the next one


cdef inline bint present(uint64_t p) noexcept nogil:
    return (p & (C_VALID | C_NG)) != 0


cdef inline bint protnone(uint64_t p) noexcept nogil:
    return (p & (C_VALID | C_NG | C_USER | C_UXN)) == (C_NG | C_UXN)


cdef inline bint soiled(uint64_t p) noexcept nogil:
    return (p & C_DIRTY) != 0 or (p & (C_WRITE | C_RDONLY)) == C_WRITE


cdef inline uint8_t ad_of(uint64_t p) noexcept nogil:
    return (YOUNG if p & C_AF else 0) | (SOILED if soiled(p) else 0)


cdef inline uint64_t address(uint32_t shift) noexcept nogil:
    return (<uint64_t>1 << 50) - (<uint64_t>1 << shift)


cdef inline uint64_t frame(uint64_t p, uint32_t shift) noexcept nogil:
    return (p & address(shift)) >> shift


cdef inline void classify(const world *x, facts *f, uint32_t i) noexcept nogil:
    cdef uint64_t p = x.ptes[i], at
    f.kind[i] = PRESENT if present(p) else SOFTLEAF if p else NONE
    f.paged[i] = f.meta[i] = f.must[i] = f.may[i] = f.young[i] = f.link[i] = 0
    if f.kind[i] != PRESENT:
        return
    f.must[i] = f.may[i] = ad_of(p)
    f.young[i] = f.must[i] & YOUNG
    at = frame(p, f.shift) - x.pfn_base
    if at < MAX_PAGES and not p & C_SPECIAL:
        f.paged[i] = 1
        f.meta[i] = x.pages[at]


# neighbours that map consecutive pages of one folio
cdef inline bint adjacent(const world *x, const facts *f, uint32_t i) noexcept nogil:
    cdef uint64_t pfn = frame(x.ptes[i], f.shift)
    if not f.paged[i] or not f.paged[i + 1] or frame(x.ptes[i + 1], f.shift) != pfn + 1:
        return False
    return f.meta[i] & O_ORDER == f.meta[i + 1] & O_ORDER and pfn >> (f.meta[i] & O_ORDER) == (pfn + 1) >> (f.meta[i] & O_ORDER)


# Between which neighbours A/D may pass (spec 7.10): inside a start unit, whose words
# agree in all but A/D, and inside a block that contpte may convert: one that maps an
# aligned piece of one folio.
cdef inline void know(const world *x, facts *f, uint32_t nr, uint32_t block, uint32_t shift) noexcept nogil:
    cdef uint32_t i, first, last
    cdef bint whole
    f.nr = nr
    f.block = block
    f.shift = shift
    for i in range(nr):
        classify(x, f, i)
    first = 0
    while first < nr:
        last = first + block - 1
        whole = f.paged[first] and not frame(x.ptes[first], shift) & (block - 1)
        for i in range(first, last + 1):
            f.link[i] = i + 1 < nr and adjacent(x, f, i)
            whole = whole and (f.link[i] or i == last)
        for i in range(first, last + 1):
            if f.link[i] and (i == last or not whole) and (x.ptes[i] ^ x.ptes[i + 1]) & ~(address(shift) | C_AD):
                f.link[i] = 0
        first += block


# OR of what may spread to entry i from inside [lo, hi)
cdef inline uint8_t spread(const facts *f, uint32_t i, uint32_t lo, uint32_t hi) noexcept nogil:
    cdef uint8_t out = f.may[i]
    cdef uint32_t j = i
    while j > lo and f.link[j - 1]:
        j -= 1
        out |= f.may[j]
    j = i
    while j + 1 < hi and f.link[j]:
        j += 1
        out |= f.may[j]
    return out


# paint CONT on the blocks of `mask` that may be folded; returns which were
cdef inline uint32_t fold_blocks(world *x, const facts *f, uint32_t mask) noexcept nogil:
    cdef uint32_t b, i, done = 0
    cdef uint64_t p
    cdef bint may
    for b in range(f.nr // f.block):
        i = b * f.block
        p = x.ptes[i]
        may = mask >> b & 1 and p & C_VALID and not frame(p, f.shift) & (f.block - 1)
        while may and i + 1 < (b + 1) * f.block:
            may = adjacent(x, f, i) and (x.ptes[i + 1] ^ p) & ~(address(f.shift) | C_AD) == 0
            i += 1
        if may:
            done |= <uint32_t>1 << b
            for i in range(b * f.block, (b + 1) * f.block):
                x.ptes[i] |= C_CONT
    return done


# 1 young, 2 software dirty, 4 hardware dirty: only what the word allows (spec 2.1)
cdef inline uint64_t with_ad(uint64_t p, uint64_t ad) noexcept nogil:
    if not present(p):
        return p
    p &= ~(C_AF | C_DIRTY)
    if ad & 1:
        p |= C_AF
    if p & C_WRITE:
        p |= C_RDONLY
        if ad & 2:
            p = (p | C_DIRTY) & ~C_RDONLY
        if ad & 4:
            p &= ~C_RDONLY
    elif ad & 6:
        p |= C_DIRTY
    return p


# The row with its A/D, in `x` and in done[a]; False: an earlier pattern gave the same.
cdef inline bint apply_ad(
    world *x, const uint64_t *words, const uint64_t *ad, uint64_t[MAX_PTES] *done, Py_ssize_t a, uint32_t nr
) noexcept nogil:
    cdef uint32_t i
    cdef Py_ssize_t k
    for i in range(nr):
        x.ptes[i] = done[a][i] = with_ad(words[i], ad[i])
    for k in range(a):
        if memcmp(done[k], done[a], nr * sizeof(uint64_t)) == 0:
            return False
    return True


cdef inline void set_call(world *x, const int64_t *call) noexcept nogil:
    x.start, x.end = <uint32_t>call[0], <uint32_t>call[1]
    x.vm_flags, x.newprot = call[2], call[3]
    x.cp_flags, x.vma_anon = <uint32_t>call[4], call[5] != 0
