# The words of the checker: small worlds, verdicts, and the contracts that the laws
# are computed from, restated entry by entry. `Judge` runs a world and judges what
# can be seen in the table; check.pyx adds what needs the events, and the sweeps.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from .log cimport trace
from .mm_struct cimport mm_struct
from .resolved cimport Strategy
from .strategy cimport walk

cdef extern from *:
    """
    /* the words of the contracts, restated: not the core's own helpers */
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
    #define C_CHG 0x706c0000000008ddULL
    #define C_LOOSE (C_CONT | C_AF | C_DIRTY | C_RDONLY | C_WRITE)
    #define C_AD (C_CONT | C_AF | C_DIRTY | C_RDONLY)
    """
    const uint64_t C_VALID, C_USER, C_RDONLY, C_AF, C_NG, C_WRITE, C_CONT, C_UXN, C_DIRTY, C_SPECIAL, C_UFFD
    const uint64_t C_CHG, C_LOOSE, C_AD

cdef enum:
    MAX_PTES = 32
    MAX_PAGES = 128
    PFN0 = 1024
    CACHED = 12                # words a page can be cached with in one call

    O_ORDER = 0x0f
    O_ANON = 0x10
    O_NUMA_SKIP = 0x40
    O_EXCLUSIVE = 0x80

    CP_TRY = 1
    CP_NUMA = 2
    CP_UFFD_WP = 4
    CP_UFFD_WP_RESOLVE = 8

# law numbers; ptebatch.laws has the names
cdef enum:
    OK = 0
    PARTITION = 1
    COMMITTED = 2
    OUTSIDE = 3
    CLASS = 4
    PRESERVED = 5
    EXCLUSIVE = 6
    SHARED_WRITE = 7
    WRITE_KEPT = 8
    AD_KEPT = 9
    AD_SPREAD = 10
    DIRTY_STATE = 11
    CONTPTE = 12
    CONT_VALID = 13
    FLUSH = 14
    RETURN = 15
    COUNTS = 16
    CONVERT_FLUSH = 17
    TLB_RIGHTS = 18
    BBM = 19
    HARDWARE = 20
    SOFTLEAF = 21

# events that are reported, not judged
cdef enum:
    SAW_CONT_SET = 1
    SAW_CONT_CLEAR = 2

cdef struct world:
    uint64_t[MAX_PTES] ptes
    uint8_t[MAX_PAGES] pages
    uint32_t start
    uint32_t end
    uint64_t vm_flags
    uint64_t newprot
    uint32_t cp_flags
    bint vma_anon

cdef struct verdict:
    int law
    int entry                  # first entry that breaks it, -1: none in particular
    uint32_t saw               # SAW_ bits

# ---- contracts ----

cdef inline bint present(uint64_t p) noexcept nogil:
    return (p & (C_VALID | C_NG)) != 0


cdef inline bint protnone(uint64_t p) noexcept nogil:
    return (p & (C_VALID | C_NG | C_USER | C_UXN)) == (C_NG | C_UXN)


cdef inline bint dirty(uint64_t p) noexcept nogil:
    return (p & C_DIRTY) != 0 or (p & (C_WRITE | C_RDONLY)) == C_WRITE


cdef inline uint64_t frame(uint64_t p, unsigned int shift) noexcept nogil:
    return (p & ((<uint64_t>1 << 50) - (<uint64_t>1 << shift))) >> shift


cdef class Judge:
    cdef mm_struct mm
    cdef Strategy row
    cdef readonly object machine
    cdef uint64_t[MAX_PTES] table
    cdef uint8_t[MAX_PAGES + 64] pages
    cdef trace tr
    cdef readonly uint64_t runs
    cdef walk w

    cdef void run(self, const world *x, bint traced) noexcept nogil
    cdef uint8_t byte_of(self, const world *x, uint64_t p) noexcept nogil
    cdef bint has_page(self, uint64_t p) noexcept nogil
    cdef bint skipped(self, const world *x, uint64_t p) noexcept nogil
    cdef uint64_t folio_of(self, const world *x, uint64_t p) noexcept nogil
    cdef int folio_ad(self, const world *x, uint64_t p, uint32_t lo, uint32_t hi) noexcept nogil
    cdef verdict judge(self, const world *x) noexcept nogil
    cdef int judge_neighbour(self, const world *x, uint32_t i, uint32_t lo, uint32_t hi) noexcept nogil
    cdef int judge_ad(self, const world *x, uint32_t i, uint32_t lo, uint32_t hi) noexcept nogil
    cdef int judge_entry(self, const world *x, uint32_t i, uint32_t lo, uint32_t hi) noexcept nogil
    cdef int judge_write(self, const world *x, uint32_t i, uint64_t want, uint32_t lo, uint32_t hi) noexcept nogil
    cdef int judge_flush(self, const world *x, uint32_t i) noexcept nogil
    cdef uint64_t not_present(self, const world *x, uint64_t old) noexcept nogil
    cdef int judge_block(self, const world *x, uint32_t first) noexcept nogil
    cdef int judge_walk(self, const world *x) noexcept nogil
