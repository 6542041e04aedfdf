# How a formula commits: every run of a regular stretch stored, painted, gathered and
# counted, and the entries rewritten once (formula.pxd has what comes before).
from libc.stdint cimport uint64_t
from libc.string cimport memcpy
from ..arm64.contpte cimport contpte_try_fold, syncs_icache
from ..arm64.mmu cimport addr_of, mmu_t
from ..arm64.pte cimport (
    PTE_AF, PTE_CHG, PTE_CONT, PTE_DIRTY, PTE_RDONLY, PTE_SWBITS, PTE_WRITE, pte_addr_mask, pte_pfn, pte_t,
    pte_valid, pte_write,
)
from ..arm64.tlb cimport convert_flush
from .bitmaps cimport any_in_block, bit_at, fill_blocks, whole_blocks
from .maps cimport maps
from .seam cimport asks_writable, maybe_change_pte_writable, newpte, vma_shared, walk
from .segments cimport alone, block_ends, block_starts, blocks_inside_one, ends_of, entry, inside_one, stops, tally
from .words cimport (
    pb_change, pb_ctz, pb_popcount, pb_refresh, pb_rewrite, pb_spread_down, pb_spread_up, pb_top,
)

# a start has unfolded the block at i: contpte_unfold()
cdef inline void unfold_block(walk *w, const maps *x, size_t i, bint single) noexcept nogil:
    cdef mmu_t *mmu = w.t.mmu
    cdef uint64_t n = mmu.m.cont_ptes
    mmu.c.unfold_single += single
    mmu.c.unfold_calls += 1
    mmu.c.unfolds += 1
    mmu.c.pte_xchg += n
    if not mmu.m.elides_bbm:
        convert_flush(mmu, addr_of(&w.t, i))
    mmu.c.sync_tags += 1
    mmu.c.icache_sync += syncs_icache(x.flags)
    mmu.c.pte_writes += n


# bits of a map, spread over the segments in which they are
cdef inline void spread(const maps *x, const uint64_t *starts, uint64_t *map) noexcept nogil:
    cdef uint64_t carry = 0, some = 0, missing = 0, open
    cdef size_t k
    for k in range(x.word, x.words_end):
        some |= map[k]
        missing |= x.present[k] & ~map[k]
    if not some or not missing:
        return
    for k in range(x.word, x.words_end):
        open = ~stops(x, starts, k)
        if open:
            map[k] = pb_spread_up(map[k] | (carry & open & 1), open)
        carry = map[k] >> 63
    carry = 0
    for k in range(x.words_end, x.word, -1):
        open = x.present[k - 1] & ~ends_of(x, starts, k - 1)
        if open:
            map[k - 1] = pb_spread_down(map[k - 1] | (carry << 63 & open), open)
        carry = map[k - 1] & 1


# what a commit of the stretch's entries makes of their flags
cdef struct fresh:
    pte_t flags                # of all, A/D and what is painted aside; RDONLY as the protection has it
    bint asks                  # is anything asked before an entry becomes writable?
    bint maybe                 # may one, for all that is not asked of its page?
    bint shared
    bint exclusive             # is PageAnonExclusive asked of pages of anonymous folios?
    bint paints                # are blocks that one store covers painted CONT?
    bint differs               # the protection differs by more than WRITE and RDONLY


cdef inline fresh fresh_of(const walk *w, const maps *x) noexcept nogil:
    cdef fresh f
    cdef pte_t pte = newpte(w, x.flags)
    f.flags = (x.flags & ~PTE_CHG) | (w.newprot & PTE_CHG)
    f.asks = asks_writable(w, pte)
    f.maybe = f.asks and maybe_change_pte_writable(w, pte)
    f.shared = vma_shared(w)
    f.exclusive = f.maybe and not f.shared
    f.paints = w.t.mmu.m.contpte and (pte_valid(f.flags) or w.t.mmu.m.paint_invalid)
    f.differs = ((x.flags ^ f.flags) & ~PTE_SWBITS & ~(PTE_WRITE | PTE_RDONLY)) != 0
    return f


# entries of word k that become writable by being asked
cdef inline uint64_t upgraded(const maps *x, const fresh *f, size_t k) noexcept nogil:
    if not f.maybe:
        return 0
    return x.dirty[k] if f.shared else x.exclusive[k] & x.anon[k]


# entries that lose RDONLY: dirty and writable, or writable at all where the kernel had it so
cdef inline uint64_t not_rdonly(const walk *w, const maps *x, const fresh *f, size_t k, uint64_t up) noexcept nogil:
    cdef uint64_t map = up if w.t.mmu.m.mkwrite_always else up & x.dirty[k]
    if pte_write(f.flags):
        map |= x.dirty[k]
    return map


# pte_needs_flush() of word k, dirty spread as it was gathered
cdef inline uint64_t needs_flush(const walk *w, const maps *x, const fresh *f, size_t k, uint64_t up, uint64_t rw) noexcept nogil:
    cdef uint64_t wr, ro
    if not w.t.mmu.m.needs_flush:
        return x.present[k]
    if not pte_valid(x.flags):
        return 0
    if f.differs:
        return x.present[k]
    wr = ~<uint64_t>0 if pte_write(f.flags) else up
    ro = ~rw if f.flags & PTE_RDONLY else 0
    return ((x.write[k] ^ wr) | (~(x.write[k] & x.dirty[k]) ^ ro)) & x.present[k]


# blocks that one store covers are painted CONT: x.paint; returns how many were not folded before
cdef inline uint64_t paint_blocks(const walk *w, maps *x, const fresh *f) noexcept nogil:
    cdef size_t n = w.t.mmu.m.cont_ptes, k, i
    cdef unsigned int shift = w.t.mmu.m.page_shift
    cdef uint64_t at, painted = 0
    for k in range(x.word, x.words_end):
        x.paint[k] = 0
    if not f.paints:
        return 0
    for k in range(x.word, x.words_end):
        if x.blocks:
            at = blocks_inside_one(w.t.mmu, x, x.runs, k) & x.aligned[k]
            x.paint[k] = fill_blocks(at, n)
            painted += pb_popcount(at & ~x.cont[k])
            continue
        i = entry(k, 0)
        if not i & (n - 1) and inside_one(x, x.runs, i, n) and not pte_pfn(w.t.leaf[i], shift) & (n - 1):
            painted += not bit_at(x.cont, i)
            for j in range(k, k + n // 64):
                x.paint[j] = ~<uint64_t>0
    return painted if pte_valid(x.flags) and pte_valid(f.flags) else 0


# set_ptes() of every run, but for what it folds; `inner`: blocks that begin inside of one
cdef inline void store_runs(mmu_t *mmu, const fresh *f, const tally *runs, uint64_t inner) noexcept nogil:
    # a longer store goes block by block
    cdef uint64_t synced = runs.nr + inner
    mmu.c.set_ptes += runs.nr
    mmu.c.pte_writes += runs.entries
    if mmu.m.contpte:
        mmu.c.pte_reads += runs.alone
        mmu.c.set_ptes_multi += runs.nr - runs.alone
    mmu.c.sync_tags += synced
    mmu.c.icache_sync += synced if syncs_icache(f.flags) else 0


# blocks that begin inside of runs, if a store of theirs is painted
cdef inline uint64_t inner_blocks(const mmu_t *mmu, const maps *x, const fresh *f, const tally *runs) noexcept nogil:
    cdef uint64_t nr = 0
    cdef size_t k
    if f.paints and runs.nr != runs.alone:
        for k in range(x.word, x.words_end):
            nr += pb_popcount(block_starts(mmu, x, k) & x.present[k] & ~x.runs[k])
    return nr


cdef inline void rewrite(walk *w, const maps *x, const fresh *f, size_t k, uint64_t up, uint64_t rw) noexcept nogil:
    cdef pte_t keep = pte_addr_mask(w.t.mmu.m.page_shift), flags = f.flags
    cdef uint64_t present = x.present[k]
    cdef size_t ptrs = w.t.mmu.m.ptrs_per_pte
    cdef pte_t *p = w.t.leaf + 64 * k
    cdef pb_change[5] c
    cdef pte_t[64] copy
    cdef int n
    n = changes(c, x, k, up, rw, &flags)
    n = change(c, n, present, x.paint[k], PTE_CONT, &flags)
    if ptrs >= 64:
        pb_rewrite(p, keep, flags, c, n, present)
        return
    # a table smaller than a word
    memcpy(copy, p, ptrs * sizeof(pte_t))
    pb_rewrite(copy, keep, flags, c, n, present)
    memcpy(p, copy, ptrs * sizeof(pte_t))


# `flag` is flipped where `map` has a bit: for all present entries at once if it can be
cdef inline int change(pb_change *c, int n, uint64_t present, uint64_t map, pte_t flag, pte_t *flags) noexcept nogil:
    if not map & present:
        return n
    if not present & ~map:
        flags[0] ^= flag
        return n
    c[n].map = map
    c[n].flags = flag
    return n + 1


# what entries of word k become, but for what is painted; none is left where all are alike
cdef inline int changes(pb_change *c, const maps *x, size_t k, uint64_t up, uint64_t rw, pte_t *flags) noexcept nogil:
    cdef uint64_t present = x.present[k]
    cdef int n = change(c, 0, present, up, PTE_WRITE, flags)
    n = change(c, n, present, rw if flags[0] & PTE_RDONLY else 0, PTE_RDONLY, flags)
    n = change(c, n, present, x.dirty[k], PTE_DIRTY, flags)
    return change(c, n, present, x.young[k], PTE_AF, flags)


# contpte_try_fold() of the blocks of word k whose last entry is committed by itself, where one
# large folio has all of the block, so that only WRITE can tell its entries apart:
#   RW RO RO RO   fails at the first that is not as the last one, which is what is read
#   RW RW,d RW RW is folded, and dirty
# `ends`: those last entries. What is left in it is for the table to tell.
cdef inline void fold_blocks(walk *w, maps *x, const fresh *f, size_t k, uint64_t up, uint64_t rw, uint64_t *ends) noexcept nogil:
    cdef mmu_t *mmu = w.t.mmu
    cdef uint64_t dirty = ~<uint64_t>0 if pte_write(f.flags) else up
    cdef uint64_t n = mmu.m.cont_ptes, block = ~<uint64_t>0 >> (64 - n), at, folded, others, nr
    # WRITE without RDONLY is dirty, too, as hardware has it
    dirty = x.dirty[k] | (dirty & (rw if f.flags & PTE_RDONLY else ~<uint64_t>0))
    at = whole_blocks(x.present[k], n) & ~any_in_block(x.apart[k] & ~x.blocks, n) & x.aligned[k] & ends[0] >> (n - 1)
    ends[0] &= ~(at << (n - 1))
    folded = at
    if not pte_write(f.flags):
        folded &= whole_blocks(up, n) | ~any_in_block(up, n)
    mmu.c.fold_tries += pb_popcount(at)
    at &= ~folded
    while at:
        others = up >> pb_ctz(at) & block
        at &= at - 1
        if others >> (n - 1) & 1:
            others ^= block
        mmu.c.pte_reads += pb_ctz(others) + 1
    x.folds[k] = folded
    if not folded:
        return
    nr = pb_popcount(folded)
    mmu.c.folds += nr
    mmu.c.sync_tags += nr
    mmu.c.icache_sync += nr if syncs_icache(f.flags) else 0
    mmu.c.pte_reads += nr * n
    mmu.c.pte_xchg += nr * n
    mmu.c.pte_writes += nr * n
    x.paint[k] |= fill_blocks(folded, n)
    x.dirty[k] |= fill_blocks(any_in_block(dirty, n) & folded, n)
    x.young[k] |= fill_blocks(any_in_block(x.young[k], n) & folded, n)


cdef inline void gather_entries(walk *w, size_t first, size_t last) noexcept nogil:
    cdef mmu_t *mmu = w.t.mmu
    mmu.tlb.start = min(mmu.tlb.start, addr_of(&w.t, first))
    mmu.tlb.end = max(mmu.tlb.end, addr_of(&w.t, last + 1))
    mmu.tlb.cleared_ptes = True


# the entries get what the protection gives them, and the gather takes in the runs that need a flush
cdef inline void write_entries(walk *w, maps *x, const fresh *f, bint folding) noexcept nogil:
    cdef mmu_t *mmu = w.t.mmu
    cdef uint64_t up, rw, flush, calls = 0
    cdef size_t k, first = x.end, last = x.first
    for k in range(x.word, x.words_end):
        if not x.present[k]:
            continue
        up = upgraded(x, f, k)
        rw = not_rdonly(w, x, f, k, up)
        flush = needs_flush(w, x, f, k, up, rw)
        if flush:
            first = min(first, entry(k, pb_ctz(flush)))
            last = entry(k, pb_top(flush))
            calls += pb_popcount(flush & x.runs[k])
        if folding:
            x.tries[k] = alone(x, x.runs, k) & block_ends(mmu, x, k) & ~x.single[k]
            x.folds[k] = 0
            if x.tries[k] and x.blocks:
                fold_blocks(w, x, f, k, up, rw, &x.tries[k])
                rw = not_rdonly(w, x, f, k, up)
        rewrite(w, x, f, k, up, rw)
    mmu.c.gather_calls += calls
    if first < x.end:
        gather_entries(w, first, last)


# A stretch that is one run: every entry becomes alike, but that blocks which it holds are painted.
#   - - | - - - - | - - - - | - -      what lies between the first and the last border of blocks
cdef inline void commit_one(walk *w, maps *x, const fresh *f, const tally *runs) noexcept nogil:
    cdef mmu_t *mmu = w.t.mmu
    cdef size_t n = mmu.m.cont_ptes, low = x.end, high = x.end, k = x.word
    cdef uint64_t up = upgraded(x, f, k), rw = not_rdonly(w, x, f, k, up), keep = pte_addr_mask(mmu.m.page_shift)
    cdef pte_t flags = f.flags
    cdef pte_t *p = w.t.leaf
    cdef pb_change[4] none
    if f.paints and x.aligned[k]:
        low = min(x.end, (x.first + n - 1) & ~(n - 1))
        high = max(low, x.end & ~(n - 1))
    if pte_valid(x.flags) and pte_valid(flags) and not x.folded:
        mmu.c.cont_without_bbm += (high - low) // n
    store_runs(mmu, f, runs, (x.end - 1) // n - x.first // n if f.paints else 0)
    if needs_flush(w, x, f, k, up, rw):
        mmu.c.gather_calls += 1
        gather_entries(w, x.first, x.end - 1)
    changes(none, x, k, up, rw, &flags)
    pb_refresh(p + x.first, low - x.first, keep, flags)
    pb_refresh(p + low, high - low, keep, flags ^ PTE_CONT)
    pb_refresh(p + high, x.end - high, keep, flags)


# Every run is committed: prot_commit_flush_ptes(). `starts`: what was started at once,
# whose A/D was gathered.
cdef inline void commit_runs(walk *w, maps *x, const uint64_t *starts, const tally *runs, const fresh *f) noexcept nogil:
    cdef mmu_t *mmu = w.t.mmu
    cdef bint folding = mmu.m.contpte and runs.alone and pte_valid(f.flags)
    cdef uint64_t n = mmu.m.cont_ptes, events, ones, tries
    cdef size_t k, i
    mmu.c.prot_commit += runs.nr
    if x.one and runs.nr == 1:
        commit_one(w, x, f, runs)
        return
    if not x.one:
        spread(x, starts, x.dirty)
        spread(x, starts, x.young)
    mmu.c.cont_without_bbm += paint_blocks(w, x, f)
    store_runs(mmu, f, runs, inner_blocks(mmu, x, f, runs))
    write_entries(w, x, f, folding)
    if not folding and not x.cutting:
        return
    # in the order of addresses: a block is unfolded, and its last entry's store may fold it
    for k in range(x.word, x.words_end):
        if not x.present[k]:
            continue
        ones = alone(x, x.runs, k)
        events = 0
        if folding:
            tries = ones & block_ends(mmu, x, k) & x.single[k]
            while tries:
                # no folio of one page covers a block: nothing is read
                i = entry(k, pb_ctz(tries))
                tries &= tries - 1
                mmu.c.fold_tries += (pte_pfn(w.t.leaf[i], mmu.m.page_shift) & (n - 1)) == n - 1
            events = x.tries[k]
            # none of a block larger than a word
            if x.folds[k] and not mmu.m.elides_bbm:
                events |= x.folds[k] << (n - 1)
        if x.cutting:
            events |= x.cut[k]
        while events:
            i = entry(k, pb_ctz(events))
            events &= events - 1
            if x.cutting and bit_at(x.cut, i):
                unfold_block(w, x, i, ones >> i % 64 & 1)
            elif bit_at(x.tries, i):
                contpte_try_fold(&w.t, i, w.t.leaf[i])
            else:
                convert_flush(mmu, addr_of(&w.t, i + 1 - n))
