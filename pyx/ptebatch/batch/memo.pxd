# Work that is already known. What a strategy does to a fully mapped folio depends
# only on the folio's entries relative to its first frame, on its metadata bytes,
# and on its place in a contpte block: batches never leave a folio (spec 5.3), and
# no verb reads beyond the blocks of its own entries. So the first such unit is
# run step by step and remembered, words in, words out, counters and logs; the
# units that follow and are equal are rewritten in one pass (replay.pyx), their
# counts multiplied. tests/batch/test_memo.py holds both ways equal.
#
# Off when a trace is asked for, and for strategies from outside that do not
# promise to be pure.
from libc.stdint cimport uint64_t, uint8_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset
from ..arm64.mmu cimport addr_of, mmu_gather, mmu_t, page_of
from ..arm64.pte cimport PTE_CONT, PTE_SPECIAL, PTE_VALID, pte_addr_mask, pte_present, pte_t
from ..arm64.tlb cimport tlb_gather_mmu
from ..base.counters cimport counters, nr_counters
from ..base.log cimport LOG_PRESENT, pairs, pairs_add, pairs_clear, pairs_expand, pairs_free, pairs_run
from ..base.page_flags cimport PG_ORDER_MASK
from .maps cimport LARGE, maps
from .seam cimport strategy, walk

ctypedef size_t (*replay_fn)(walk *w, memo *m) noexcept nogil
ctypedef size_t (*regular_fn)(walk *w, maps *x, int formula) noexcept nogil

# what the order-0 loops compare with
cdef struct frames:
    uint64_t mask
    uint64_t flags
    uint64_t flip
    uint64_t base
    uint64_t outside
    uint64_t gate              # index and pfn bits that make the fold gate; never true: no fold
    unsigned int gate_shift
    const uint8_t *pages
    unsigned int shift
    uint8_t byte
    bint low                   # every address with metadata ends below bit 40, see simd.pxd

# A stretch of page metadata that is one byte throughout: order-0 entries whose frames
# lie in it need no look at their pages. It grows towards frames that are met, as far
# as the work already done pays for (CREDIT).
cdef struct stretch:
    uint8_t byte
    size_t lo                  # first page and the one behind the last, from pfn_base
    size_t hi
    bint lo_ends               # the page before lo, or at hi, is another
    bint hi_ends
    size_t credit              # pages that may be looked at
    unsigned int idle          # groups of entries in a row that lay outside

cdef enum:
    MAX_BACKOFF = 64
    WORTH = 64                 # entries that pay for learning
    RUNS = 8                   # of lengths, in the logs of a unit that has a pattern

# what did the replaying; replay.pyx has the loops
cdef enum:
    BY_ORDER0 = 0
    BY_UNIFORM = 1
    BY_WORDS = 2
    BY_MAPS = 3                # not replayed: done by the strategy's formula
    NR_LOOPS = 4

cdef struct memo:
    replay_fn replay
    regular_fn regular
    maps *maps
    int formula                # of the strategy, 0: none
    memo *other                # a second unit that is remembered
    bint eager                 # whatever may be replayed is, worth it or not: for the checker
    bint only_maps             # nothing is: for the checker, too
    uint64_t[NR_LOOPS] replayed    # entries of the running call, by loop
    stretch known
    bint valid
    size_t gain                # entries replayed since it was learnt
    bint uniform               # flags of all entries equal, before and after
    bint check_pages           # the metadata byte of every page was asked, not only the first
    size_t nr                  # entries of a unit
    size_t phase               # its first index in a contpte block, for units of a block or more
    size_t room                # entries that in_ptes, out_ptes and bytes hold
    pte_t *in_ptes             # words minus the first frame
    pte_t *out_ptes
    uint8_t *bytes
    bint gathered
    uint64_t gather_lo         # bytes from the unit's first address
    uint64_t gather_hi
    uint64_t pages             # return value of a unit
    counters c
    pairs batches
    pairs subs
    pairs flushes
    bint ready                 # f belongs to this unit
    frames f
    uint64_t pending           # entries replayed and not yet counted,
    uint64_t pending_addr      # side by side from this address on
    size_t skip                # units to pass over before learning again
    size_t backoff


# a memo and its other one; -1: no memory, memo_free() takes back what there is
cdef inline int memo_init(memo *m, size_t room) noexcept nogil:
    m.other = <memo *>calloc(1, sizeof(memo))
    m.maps = <maps *>malloc(sizeof(maps))
    if m.other == NULL or m.maps == NULL or memo_room(m, room) or memo_room(m.other, room):
        return -1
    m.other.other, m.other.maps = m, m.maps
    m.other.replay, m.other.regular = m.replay, m.regular
    return 0


cdef inline bint memo_room(memo *m, size_t room) noexcept nogil:
    m.room = room
    m.in_ptes = <pte_t *>malloc(room * sizeof(pte_t))
    m.out_ptes = <pte_t *>malloc(room * sizeof(pte_t))
    m.bytes = <uint8_t *>malloc(room)
    return m.in_ptes == NULL or m.out_ptes == NULL or m.bytes == NULL


cdef inline void memo_free(memo *m) noexcept nogil:
    free(m.maps)
    if m.other != NULL:
        memo_free_room(m.other)
    free(m.other)
    memo_free_room(m)


cdef inline void memo_free_room(memo *m) noexcept nogil:
    free(m.in_ptes)
    free(m.out_ptes)
    free(m.bytes)
    pairs_free(&m.batches)
    pairs_free(&m.subs)
    pairs_free(&m.flushes)


# a call begins: nothing is remembered of the one before
cdef inline void memo_start(memo *m, uint64_t pages, int formula) noexcept nogil:
    m.skip, m.backoff = 0, 7
    forget(m, pages, formula)
    forget(m.other, pages, formula)


cdef inline void forget(memo *m, uint64_t pages, int formula) noexcept nogil:
    m.valid = False
    m.gain = 0
    m.pending = 0
    m.known.lo = m.known.hi = 0
    m.known.credit = 2 * pages
    m.formula = formula


# entries of the running call, or since they were last set to none, by loop
cdef inline uint64_t memo_replayed(const memo *m, size_t loop) noexcept nogil:
    return m.replayed[loop] + (m.other.replayed[loop] if m.other != NULL else 0)


cdef inline void memo_recount(memo *m) noexcept nogil:
    memset(m.replayed, 0, sizeof(m.replayed))
    if m.other != NULL:
        memset(m.other.replayed, 0, sizeof(m.other.replayed))


# the regular stretch at w.idx, by the strategy's formula; 0: there is none
cdef inline size_t memo_regular(walk *w, memo *m) noexcept nogil:
    cdef size_t nr = m.regular(w, m.maps, m.formula) if m.formula else 0
    m.replayed[BY_MAPS] += nr
    return nr


# to the other unit that is remembered, or to the place for one
cdef inline memo *memo_turn(walk *w, memo *m) noexcept nogil:
    m.other.skip, m.other.backoff = m.skip, m.backoff
    w.memo = m.other
    return m.other


# may this machine's units be replayed, wherever they lie? A small block may share a 64K
# unit of LPA2's range TLBIs with its neighbours.
cdef inline bint memo_fits(const mmu_t *mmu) noexcept nogil:
    return not mmu.m.lpa2 or (<uint64_t>mmu.m.cont_ptes << mmu.m.page_shift) >= 65536


# does the entry pass the cheap gate of contpte_try_fold()?
cdef inline bint at_fold_gate(const walk *w, size_t idx, uint64_t pfn) noexcept nogil:
    cdef uint64_t mask = w.t.mmu.m.cont_ptes - 1
    return (idx & mask) == mask and (pfn & mask) == mask


# A unit smaller than a block behaves alike wherever it lies in the block, but for
# its end: an order-0 entry may pass the fold gate, a larger one saves a read.
cdef inline bint small_differs(const walk *w, size_t idx, uint64_t pfn, size_t nr) noexcept nogil:
    if nr == 1:
        return at_fold_gate(w, idx, pfn)
    return (idx & (nr - 1)) != 0 or ((idx + nr) & (w.t.mmu.m.cont_ptes - 1)) == 0


# are the pages behind the folio at `pfn`, as many again, others than its own?
cdef inline bint next_differs(const walk *w, const uint8_t *page, uint64_t pfn, size_t nr) noexcept nogil:
    return page_of(w.t.mmu, pfn + 2 * nr - 1) != NULL and memcmp(page, page + nr, nr) != 0


# Entries of the unit that begins at w.idx: a whole folio, all of it mapped in order
# inside the range; 0: none, or not worth it.
cdef inline size_t memo_unit(const walk *w, const memo *m) noexcept nogil:
    cdef unsigned int shift = w.t.mmu.m.page_shift
    cdef uint64_t mask = pte_addr_mask(shift), n = w.t.mmu.m.cont_ptes
    cdef const pte_t *p = w.t.leaf + w.idx
    cdef uint64_t pfn = (p[0] & mask) >> shift
    cdef const uint8_t *page = page_of(w.t.mmu, pfn)
    cdef size_t nr, i
    cdef pte_t any = 0, wrong = 0, at = p[0] & mask, present = PTE_VALID
    if page == NULL or not pte_present(p[0]):
        return 0
    nr = <size_t>1 << (page[0] & PG_ORDER_MASK)
    if pfn & (nr - 1) or nr > w.end - w.idx or nr > m.room or page_of(w.t.mmu, pfn + nr - 1) == NULL:
        return 0
    # a short rest is done before it is learnt
    if not m.eager and 4 * nr > (w.range_end - addr_of(&w.t, w.idx)) >> shift:
        return 0
    # small blocks have several fold gates in a lane
    if nr == 1 and n < 16:
        return 0
    # formulas are quick enough with a large folio, unless the next is another like it
    if m.formula and nr >= LARGE and not m.eager and next_differs(w, page, pfn, nr):
        return 0
    # no early end: a loop that the compiler makes wide. NG, bit 11, tells PROT_NONE from none.
    for i in range(nr):
        any |= p[i]
        wrong |= (p[i] & mask) ^ (at + (<uint64_t>i << shift))
        present &= p[i] | p[i] >> 11
    if wrong or not present & PTE_VALID or any & PTE_SPECIAL:
        return 0
    if any & PTE_CONT and (nr < n or w.idx & (n - 1)):
        return 0
    if nr < n and small_differs(w, w.idx, pfn, nr):
        return 0
    return nr


cdef inline void memo_copy_in(const walk *w, memo *m, size_t nr) noexcept nogil:
    cdef pte_t base = w.t.leaf[w.idx] & pte_addr_mask(w.t.mmu.m.page_shift)
    cdef const uint8_t *page = page_of(w.t.mmu, base >> w.t.mmu.m.page_shift)
    cdef const pte_t *p = w.t.leaf + w.idx
    cdef pte_t *to = m.in_ptes
    cdef size_t i
    m.nr = nr
    m.phase = w.idx & (w.t.mmu.m.cont_ptes - 1)
    memcpy(m.bytes, page, nr)
    for i in range(nr):
        to[i] = p[i] - base


# are all pages of the unit such as a folio has? Else a batch may leave it
cdef inline bint one_order(const memo *m) noexcept nogil:
    cdef uint8_t differ = 0
    cdef size_t i
    for i in range(m.nr):
        differ |= m.bytes[i] ^ m.bytes[0]
    return m.nr > 1 and not differ & PG_ORDER_MASK


cdef inline void memo_copy_out(const walk *w, memo *m, size_t first) noexcept nogil:
    cdef unsigned int shift = w.t.mmu.m.page_shift
    cdef const pte_t *p = w.t.leaf + first
    cdef const pte_t *before = m.in_ptes
    cdef pte_t *to = m.out_ptes
    cdef pte_t base = p[0] & pte_addr_mask(shift), one, flags = p[0] - base, differ = 0
    cdef pte_t was = before[0]
    cdef size_t i
    for i in range(m.nr):
        to[i] = one = p[i] - base
        differ |= (one - (<uint64_t>i << shift)) ^ flags
        differ |= (before[i] - (<uint64_t>i << shift)) ^ was
    m.uniform = differ == 0 and memcmp(m.bytes, m.bytes + 1, m.nr - 1) == 0


# counts of replayed units wait, so that many tables cost one addition
cdef inline void memo_count(walk *w, memo *m) noexcept nogil:
    if m.pending:
        memo_add(w, m, m.pending_addr, m.pending // m.nr)
        m.pending = 0


cdef inline void memo_pend(walk *w, memo *m, uint64_t addr, uint64_t entries) noexcept nogil:
    if m.pending and m.pending_addr + (m.pending << w.t.mmu.m.page_shift) != addr:
        memo_count(w, m)
    if m.pending == 0:
        m.pending_addr = addr
    m.pending += entries


# a unit's log is repeated: without maps
cdef inline void plain_log(pairs *p) noexcept nogil:
    cdef pairs whole
    cdef size_t i = 0
    while i < p.nr and p.at[i].b < <uint64_t>LOG_PRESENT:
        i += 1
    if i == p.nr:
        return
    memset(&whole, 0, sizeof(pairs))
    pairs_expand(&whole, p.at, p.nr)
    pairs_free(p)
    p[0] = whole


# before a unit is run: its counts and logs start from zero, the call's are put aside
cdef struct aside:
    counters c
    mmu_gather tlb
    pairs *batches
    pairs *subs
    pairs *flushes
    uint64_t pages


cdef inline void memo_begin(walk *w, memo *m, aside *a) noexcept nogil:
    cdef mmu_t *mmu = w.t.mmu
    a.c = mmu.c
    a.tlb = mmu.tlb
    a.batches, a.subs, a.flushes = mmu.batches, mmu.subs, mmu.flushes
    a.pages = w.pages
    memset(&mmu.c, 0, sizeof(counters))
    tlb_gather_mmu(mmu)
    pairs_clear(&m.batches)
    pairs_clear(&m.subs)
    pairs_clear(&m.flushes)
    mmu.batches = &m.batches if a.batches != NULL else NULL
    mmu.subs = &m.subs if a.subs != NULL else NULL
    mmu.flushes = &m.flushes if a.flushes != NULL else NULL


# add `units` times what a unit counted, the first of them at address `addr`
cdef inline void memo_add(walk *w, memo *m, uint64_t addr, uint64_t units) noexcept nogil:
    cdef mmu_t *mmu = w.t.mmu
    cdef uint64_t *to = <uint64_t *>&mmu.c
    cdef const uint64_t *per = <const uint64_t *>&m.c
    cdef uint64_t size = <uint64_t>m.nr << mmu.m.page_shift, last = addr + (units - 1) * size
    cdef size_t i
    for i in range(nr_counters()):
        to[i] += units * per[i]
    w.pages += units * m.pages
    if m.gathered:
        mmu.tlb.start = min(mmu.tlb.start, addr + m.gather_lo)
        mmu.tlb.end = max(mmu.tlb.end, last + m.gather_hi)
        mmu.tlb.cleared_ptes = True
    if mmu.batches != NULL:
        log_units(mmu.batches, &m.batches, units)
    if mmu.subs != NULL:
        log_units(mmu.subs, &m.subs, units)
    if mmu.flushes != NULL and m.flushes.nr:
        log_flushes(mmu.flushes, &m.flushes, addr, size, units)


cdef inline void log_units(pairs *to, const pairs *unit, uint64_t units) noexcept nogil:
    cdef size_t i
    if unit.nr == 0:
        return
    if unit.nr == 1:
        pairs_run(to, units * unit.at[0].a, unit.at[0].b)
        return
    while units:
        for i in range(unit.nr):
            pairs_run(to, unit.at[i].a, unit.at[i].b)
        units -= 1


# addresses in a remembered log count from the unit's first one
cdef inline void log_flushes(pairs *to, const pairs *unit, uint64_t addr, uint64_t size, uint64_t units) noexcept nogil:
    cdef uint64_t u
    cdef size_t i
    for u in range(units):
        for i in range(unit.nr):
            pairs_add(to, addr + u * size + unit.at[i].a, unit.at[i].b)


# after a unit was run: remember it, and give the call its counts back
cdef inline void memo_end(walk *w, memo *m, const aside *a, size_t first) noexcept nogil:
    cdef mmu_t *mmu = w.t.mmu
    cdef uint64_t addr = addr_of(&w.t, first)
    cdef size_t i
    m.c = mmu.c
    m.pages = w.pages - a.pages
    m.gathered = mmu.tlb.cleared_ptes
    m.gather_lo = mmu.tlb.start - addr
    m.gather_hi = mmu.tlb.end - addr
    for i in range(m.flushes.nr):
        m.flushes.at[i].a -= addr
    plain_log(&m.batches)
    plain_log(&m.subs)
    mmu.c = a.c
    mmu.tlb = a.tlb
    mmu.batches, mmu.subs, mmu.flushes = a.batches, a.subs, a.flushes
    w.pages = a.pages
    memo_copy_out(w, m, first)
    m.check_pages = m.nr > 1 and (m.c.pae_reads or m.c.normal_page != 1 or m.c.fold_tries)
    m.gain = 0
    m.ready = False
    m.valid = not (m.batches.oom or m.subs.oom or m.flushes.oom)
    if m.formula and m.batches.nr + m.subs.nr > RUNS and not m.eager:
        # no pattern: it will not recur, and maps do it well
        m.valid = False
        m.skip = m.backoff = min(8 * m.backoff + 7, MAX_BACKOFF)
    memo_add(w, m, addr, 1)


# is the unit large enough to take turns with another?
cdef inline bint large(const memo *m) noexcept nogil:
    return m.nr >= 16


# How many units to learn of the next one is 0 or its size: units that never recur
# are not worth learning, so the wait grows each time too little was replayed.
cdef inline size_t memo_wanted(walk *w, memo *m) noexcept nogil:
    cdef size_t nr
    if m.skip:
        m.skip -= 1
        return 0
    nr = memo_unit(w, m)
    if nr and m.valid and (not large(m) or m.other.valid) and m.gain < WORTH and m.other.gain < WORTH and not m.eager:
        m.skip = m.backoff
        m.backoff = min(8 * m.backoff + 7, MAX_BACKOFF)
        m.valid = m.other.valid = False
        return 0
    if m.gain >= WORTH:
        m.backoff = 0
    return nr
