# The laws that are judged by the table a call leaves, its counters and its gather.
# ptebatch.checker.laws.rows names them with their sources; what a law expects is computed from the
# contracts of the specification entry by entry, never by the verbs of the core.
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from ..arm64.machine cimport machine
from ..arm64.mmu cimport mmu_gather
from ..base.counters cimport counters
from .smallworld cimport (
    C_AD, C_AF, C_CHG, C_CONT, C_DIRTY, C_RDONLY, C_SPECIAL, C_UFFD, C_VALID, C_WRITE, MAX_PAGES, NONE, O_ANON,
    O_EXCLUSIVE, O_NUMA_SKIP, O_ORDER, PRESENT, SOILED, YOUNG, ad_of, address, facts, frame, present, protnone,
    soiled, spread, world,
)

cdef enum:
    CP_TRY = 1
    CP_NUMA = 2
    CP_UFFD_WP = 4
    CP_UFFD_WP_RESOLVE = 8

    V_WRITE = 2
    V_SHARED = 8
    V_UFFD_WP = 0x1000

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
    SOFTLEAF_KEPT = 21
    CONTRACT = 22
    UNIT = 23
    GATHER_RESET = 24
    ASKED = 25
    REPLAY = 26
    UPGRADED = 27

# what a call left behind
cdef struct outcome:
    const machine *m
    const counters *c
    const mmu_gather *tlb
    const uint64_t *table
    uint64_t returned
    size_t idx                 # where the walk stopped
    size_t started             # entries cleared and not committed
    bint failed
    bint strict                # UPGRADED is a law, too

cdef struct verdict:
    int law
    int entry                  # first entry that breaks it, -1: none in particular
    uint32_t saw               # bit b: block b became folded, bit 8 + b: unfolded, without a TLBI between
    uint32_t missed            # entries that could have become writable and did not

# ---- what the call is to do with an entry ----

# prot_numa leaves this one alone (spec 6.7)
cdef inline bint skipped(const world *x, const facts *f, uint32_t i) noexcept nogil:
    if not x.cp_flags & CP_NUMA:
        return False
    return protnone(x.ptes[i]) or not f.paged[i] or (f.meta[i] & O_NUMA_SKIP) != 0


# writable migration and device entries lose their right to write (spec 6.7)
cdef inline uint64_t softleaf_after(const world *x, const machine *m, uint64_t old) noexcept nogil:
    cdef uint64_t type = (old >> 6) & 31, offset = old >> 12, at
    if type == m.swp_migration_read + 2:
        at = (offset & ((<uint64_t>1 << (48 - m.page_shift)) - 1)) - x.pfn_base
        type = m.swp_migration_read + 1 if at < MAX_PAGES and x.pages[at] & O_ANON else m.swp_migration_read
        old = (offset << 12) | (type << 6)
    elif (m.swp_device_write and type == m.swp_device_write) or (m.swp_exclusive_write and type == m.swp_exclusive_write):
        old = (offset << 12) | ((type + 1) << 6) | (old & 8)
    if x.cp_flags & CP_UFFD_WP:
        old |= 8
    elif x.cp_flags & CP_UFFD_WP_RESOLVE:
        old &= ~<uint64_t>8
    return old


# what an entry that is not present becomes
cdef inline uint64_t not_present_after(const world *x, const machine *m, uint64_t old) noexcept nogil:
    cdef uint64_t marks = old >> 12
    if old == 0:
        return 0x17c0 if x.cp_flags & CP_UFFD_WP and x.vm_flags & V_UFFD_WP and not x.vma_anon else 0
    if (old >> 6) & 31 != 31:
        return softleaf_after(x, m, old)
    if marks & 2 or (marks & 4 and m.guard_markers) or not x.cp_flags & CP_UFFD_WP_RESOLVE:
        return old
    return 0


# what a present entry becomes, but for WRITE by upgrade, A/D and CONT
cdef inline uint64_t present_after(const world *x, uint64_t old) noexcept nogil:
    cdef uint64_t want = (old & ~C_CHG) | (x.newprot & C_CHG)
    if x.cp_flags & CP_UFFD_WP:
        return (want | C_UFFD) & ~C_WRITE
    if x.cp_flags & CP_UFFD_WP_RESOLVE:
        return want & ~C_UFFD
    return want

# ---- laws of one entry ----

# A/D of a word that it may not have
cdef inline uint8_t gained(const outcome *o, uint64_t new, uint8_t may) noexcept nogil:
    if o.m.mkwrite_always and new & C_WRITE:
        may |= SOILED
    return ad_of(new) & ~may


cdef inline int judge_ad(
    const world *x, const facts *f, const outcome *o, uint32_t i, uint32_t lo, uint32_t hi
) noexcept nogil:
    cdef uint64_t new = o.table[i]
    cdef uint32_t has = ad_of(new)
    if f.must[i] & ~has:
        return AD_KEPT
    if has & ~f.must[i]:
        if gained(o, new, spread(f, i, lo, hi)):
            return AD_SPREAD
    # the states of spec 2.1
    if not new & C_WRITE:
        return OK if new & C_RDONLY else DIRTY_STATE
    if new & C_RDONLY:
        return DIRTY_STATE if has & SOILED else OK
    return OK


# WRITE: spec 6.6 and 7.10
cdef inline int judge_write(
    const world *x, const facts *f, const outcome *o, uint32_t i, uint64_t want, uint32_t lo, uint32_t hi
) noexcept nogil:
    cdef bint write = (o.table[i] & C_WRITE) != 0, maybe, exclusive
    if want & C_WRITE or not x.cp_flags & CP_TRY:
        return OK if write == ((want & C_WRITE) != 0) else WRITE_KEPT
    maybe = x.vm_flags & V_WRITE and not protnone(want) and not (x.vm_flags & V_UFFD_WP and want & C_UFFD)
    if x.vm_flags & V_SHARED:
        # a clean entry that may be written to would never tell the file system: page_mkwrite() is for the first write
        if write:
            return OK if maybe and spread(f, i, lo, hi) & SOILED and soiled(o.table[i]) else SHARED_WRITE
        return UPGRADED if maybe and f.must[i] & SOILED else OK
    exclusive = f.paged[i] and f.meta[i] & O_ANON and f.meta[i] & O_EXCLUSIVE
    if write:
        return OK if maybe and exclusive else EXCLUSIVE
    return UPGRADED if maybe and exclusive else OK


# A word that was never accessed is in no TLB; of a folded block, any entry's AF stands for all.
cdef inline bint accessed(const world *x, const facts *f, uint32_t i) noexcept nogil:
    cdef uint32_t first = i & ~(f.block - 1), k
    if not x.ptes[i] & C_CONT:
        return f.young[i] != 0
    for k in range(first, first + f.block):
        if f.young[k]:
            return True
    return False


# The gather covers an entry that was VALID, could be cached, and whose rights changed (spec 7.9, 2.4)
cdef inline int judge_flush(const world *x, const facts *f, const outcome *o, uint32_t i) noexcept nogil:
    cdef uint64_t old = x.ptes[i], new = o.table[i], changed = (old ^ new) & C_CHG
    cdef uint64_t addr = <uint64_t>i << o.m.page_shift
    if o.tlb.cleared_ptes and o.tlb.start <= addr < o.tlb.end:
        return OK
    if not o.m.needs_flush:
        return FLUSH
    if not old & C_VALID or not changed or not accessed(x, f, i):
        return OK
    # hardware and gathering only ever clear RDONLY of a writable entry
    return OK if changed == C_RDONLY and not new & C_RDONLY else FLUSH


# an entry that the call leaves alone: only hardware may have changed it
cdef inline bint untouched(const world *x, const facts *f, const outcome *o, uint32_t i) noexcept nogil:
    cdef uint64_t old = x.ptes[i], new = o.table[i], lost = old & ~new
    if old == new or f.kind[i] != PRESENT:
        return old == new
    if new & ~old & ~C_AF or lost & ~C_RDONLY or (lost and not old & C_WRITE):
        return False
    return ad_of(new) & ~f.may[i] == 0


cdef inline int judge_entry(
    const world *x, const facts *f, const outcome *o, uint32_t i, uint32_t lo, uint32_t hi, uint32_t *missed
) noexcept nogil:
    cdef uint64_t old = x.ptes[i], new = o.table[i], want
    cdef int law
    if f.kind[i] != PRESENT:
        if new == not_present_after(x, o.m, old):
            return OK
        return CLASS if f.kind[i] == NONE or present(new) else SOFTLEAF_KEPT
    if skipped(x, f, i):
        return OK if untouched(x, f, o, i) else PRESERVED
    if not present(new):
        return CLASS
    want = present_after(x, old)
    if (new ^ want) & ~(C_AD | C_WRITE):
        return PRESERVED
    law = judge_write(x, f, o, i, want, lo, hi)
    if law == UPGRADED and not o.strict:
        missed[0] += 1
        law = OK
    if law == OK:
        law = judge_ad(x, f, o, i, lo, hi)
    return law if law else judge_flush(x, f, o, i)


# an entry outside the range, in a block that its edge cuts
cdef inline int judge_neighbour(
    const world *x, const facts *f, const outcome *o, uint32_t i, uint32_t lo, uint32_t hi
) noexcept nogil:
    if o.table[i] == x.ptes[i]:
        return OK
    if f.kind[i] != PRESENT or (o.table[i] ^ x.ptes[i]) & ~C_AD:
        return OUTSIDE
    return judge_ad(x, f, o, i, lo, hi)

# ---- laws of a block, and of the call ----

# I-4 and I-5
cdef inline int judge_block(const world *x, const outcome *o, uint32_t first) noexcept nogil:
    cdef uint32_t n = o.m.cont_ptes, i
    cdef uint64_t p = o.table[first], q, at, loose = address(o.m.page_shift) | C_AF | C_DIRTY | C_RDONLY
    cdef bint folded = False
    for i in range(first, first + n):
        q = o.table[i]
        if q & C_CONT and present(q):
            if q & C_VALID:
                folded = True
            elif not o.m.paint_invalid:
                return CONT_VALID
    if not folded:
        return OK
    at = frame(p, o.m.page_shift) - x.pfn_base
    if not o.m.contpte or p & C_SPECIAL or at & (n - 1) or at + n > MAX_PAGES or <uint32_t>1 << (x.pages[at] & O_ORDER) < n:
        return CONTPTE
    for i in range(n):
        q = o.table[first + i]
        if q & (C_VALID | C_CONT) != C_VALID | C_CONT or frame(q, o.m.page_shift) - x.pfn_base != at + i or (q ^ p) & ~loose:
            return CONTPTE
    return OK


# conservation of what is counted
cdef inline int judge_counts(const world *x, const facts *f, const outcome *o) noexcept nogil:
    cdef const counters *c = o.c
    cdef uint64_t handled = 0, stored = 0, dropped = 0, after, moved = (c.folds + c.unfolds) * o.m.cont_ptes
    cdef uint32_t i
    for i in range(x.start, x.end):
        if f.kind[i] == PRESENT:
            handled += not skipped(x, f, i)
        else:
            after = not_present_after(x, o.m, x.ptes[i])
            stored += after != x.ptes[i]
            dropped += after == 0 and x.ptes[i] != 0
    if o.returned != handled + stored:
        return RETURN
    if c.pte_xchg != handled + moved or c.pte_writes != handled + stored + moved or c.pte_cmpxchg:
        return COUNTS
    if c.set_ptes != c.prot_commit + stored - dropped or c.folds > c.fold_tries or c.unfold_calls != c.unfolds:
        return COUNTS
    if c.prot_start > handled or c.prot_commit > handled or c.gather_calls > c.prot_commit:
        return COUNTS
    if c.n_subs and c.n_subs != c.prot_commit:
        return COUNTS
    if c.convert_tlbi_pages != c.convert_tlbi * o.m.cont_ptes:
        return CONVERT_FLUSH
    if c.convert_tlbi != (0 if o.m.elides_bbm else c.folds + c.unfolds):
        return CONVERT_FLUSH
    return OK


cdef inline int judge_walk(const world *x, const outcome *o) noexcept nogil:
    if o.failed:
        return CONTRACT
    if o.idx != x.end:
        return PARTITION
    if o.started:
        return COMMITTED
    # nothing that the call did not touch is flushed
    if o.tlb.cleared_ptes and (
        o.tlb.start < <uint64_t>x.start << o.m.page_shift or o.tlb.end > <uint64_t>x.end << o.m.page_shift
    ):
        return COUNTS
    return OK


cdef inline verdict judge(const world *x, const facts *f, const outcome *o) noexcept nogil:
    cdef verdict v
    cdef uint32_t n = f.block, i, lo = x.start & ~(n - 1), hi = (x.end + n - 1) & ~(n - 1)
    v.saw = v.missed = 0
    v.entry = -1
    v.law = judge_walk(x, o)
    if v.law:
        return v
    for i in range(f.nr):
        v.entry = i
        if i < lo or i >= hi:
            v.law = OK if untouched(x, f, o, i) else OUTSIDE
        elif i < x.start or i >= x.end:
            v.law = judge_neighbour(x, f, o, i, lo, hi)
        else:
            v.law = judge_entry(x, f, o, i, lo, hi, &v.missed)
        if v.law:
            return v
    i = 0
    while i < f.nr:
        v.entry = i
        v.law = judge_block(x, o, i)
        if v.law:
            return v
        i += n
    v.entry = -1
    v.law = judge_counts(x, f, o)
    return v
