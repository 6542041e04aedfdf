# What a strategy does to a regular stretch, counted on its maps (maps.pxd): the pieces
# that formulas are put together from. Each says for all segments of a map at once what
# the verb of the same name does for one: a segment begins at each bit and ends before
# the next, at an entry that is not present, or with the stretch.
#
# A formula counts everything that its step counts, and rewrites the entries once, at
# the end. tests/batch/test_formula.py and every world of the checker hold the two equal.
from libc.stdint cimport uint32_t, uint64_t
from ..arm64.contpte cimport contpte_try_fold
from ..arm64.mmu cimport addr_of, mmu_t
from ..arm64.pte cimport (
    PTE_AF, PTE_CHG, PTE_CONT, PTE_DIRTY, PTE_RDONLY, PTE_SWBITS, PTE_WRITE, pte_addr_mask, pte_dirty, pte_pfn, pte_present,
    pte_special, pte_t, pte_user_exec, pte_valid, pte_valid_cont, pte_write, pte_young,
)
from ..arm64.tlb cimport convert_flush
from ..base.log cimport LOG_MAP, LOG_PRESENT, LOG_TAIL, pairs, pairs_add, pairs_run
from .maps cimport bit_at, continues, cut_to, lanes, last_bit, maps, next_bit
from .seam cimport asks_writable, maybe_change_pte_writable, newpte, vma_shared, walk
from .words cimport pb_change, pb_ctz, pb_popcount, pb_rewrite, pb_rewrite_some, pb_spread_down, pb_spread_up, pb_top

# entry i of word k: an index in the table
cdef inline size_t entry(size_t k, unsigned int i) noexcept nogil:
    return 64 * k + i


# where a segment ends: the next begins, or nothing is present
cdef inline uint64_t stops(const maps *x, const uint64_t *starts, size_t k) noexcept nogil:
    return starts[k] | ~x.present[k]


# the last entries of the segments in word k
cdef inline uint64_t ends_of(const maps *x, const uint64_t *starts, size_t k) noexcept nogil:
    cdef uint64_t above = stops(x, starts, k + 1) << 63 if k + 1 < x.words_end else <uint64_t>1 << 63
    return x.present[k] & (stops(x, starts, k) >> 1 | above)


# bit i: entry i is the first (last) of a contpte block
cdef inline uint64_t block_starts(const mmu_t *mmu, const maps *x, size_t k) noexcept nogil:
    if x.blocks:
        return x.blocks
    return 0 if 64 * k & (mmu.m.cont_ptes - 1) else 1


cdef inline uint64_t block_ends(const mmu_t *mmu, const maps *x, size_t k) noexcept nogil:
    if x.blocks:
        return x.blocks << (mmu.m.cont_ptes - 1)
    return 0 if 64 * (k + 1) & (mmu.m.cont_ptes - 1) else <uint64_t>1 << 63


cdef inline uint64_t count(const maps *x, const uint64_t *map) noexcept nogil:
    cdef uint64_t sum = 0
    cdef size_t k
    for k in range(x.word, x.words_end):
        sum += pb_popcount(map[k])
    return sum


cdef inline uint64_t count_and(const maps *x, const uint64_t *map, const uint64_t *other) noexcept nogil:
    cdef uint64_t sum = 0
    cdef size_t k
    for k in range(x.word, x.words_end):
        sum += pb_popcount(map[k] & other[k])
    return sum


# the first entry from i on at which no segment goes on
cdef inline size_t next_stop(const maps *x, const uint64_t *starts, size_t i) noexcept nogil:
    cdef size_t k = i // 64
    cdef uint64_t stop
    if i >= x.end:
        return x.end
    stop = stops(x, starts, k) & ~<uint64_t>0 << (i % 64)
    while not stop:
        k += 1
        if k >= x.words_end:
            return x.end
        stop = stops(x, starts, k)
    return min(x.end, 64 * k + pb_ctz(stop))


# Segment lengths, into a log: words in which more than one begins as they are.
cdef inline void log_lengths(const maps *x, const uint64_t *starts, pairs *to) noexcept nogil:
    cdef size_t k, i, begun = <size_t>-1
    cdef uint64_t bits, ones = 0
    cdef bint mapped = False
    if to == NULL:
        return
    for k in range(x.word, x.words_end):
        bits = stops(x, starts, k)
        if not ~starts[k] and (mapped or ones or begun == <size_t>-1):
            # nothing but single entries: the last of them may be longer
            if mapped:
                pairs_add(to, 0, <uint64_t>LOG_TAIL)
            mapped = False
            ones += 64
            continue
        if ones:
            pairs_run(to, ones - 1, 1)
            begun, ones = 64 * k - 1, 0
        if starts[k] & (starts[k] - 1) and (mapped or bits & 1):
            if begun != <size_t>-1:
                pairs_run(to, 1, 64 * k - begun)
            begun = <size_t>-1
            if ~x.present[k]:
                pairs_add(to, x.present[k], <uint64_t>LOG_PRESENT)
            pairs_add(to, starts[k], <uint64_t>LOG_MAP)
            mapped = True
            continue
        if mapped:
            # what is left of the last segment
            pairs_add(to, next_stop(x, starts, 64 * k) - 64 * k, <uint64_t>LOG_TAIL)
            mapped = False
        while bits:
            i = entry(k, pb_ctz(bits))
            bits &= bits - 1
            if begun != <size_t>-1:
                pairs_run(to, 1, i - begun)
            begun = i if bit_at(x.present, i) else <size_t>-1
    # the stretch may end with a word
    if ones:
        pairs_run(to, ones, 1)
    if mapped:
        pairs_add(to, 0, <uint64_t>LOG_TAIL)
    if begun != <size_t>-1:
        pairs_run(to, 1, x.end - begun)

# ---- reading ----

# reads of contpte_ptep_get() in the folded block at i, as the table is now
cdef inline uint64_t gather_reads(const walk *w, size_t i) noexcept nogil:
    cdef size_t n = w.t.mmu.m.cont_ptes, j, d, y
    cdef const pte_t *p = w.t.leaf + (i & ~(n - 1))
    if not w.t.mmu.m.gather_early_exit:
        return n
    d = y = n
    for j in range(n):
        if d == n and pte_dirty(p[j]):
            d = j
        if y == n and pte_young(p[j]):
            y = j
        if d < n and y < n:
            break
    # dirty found first, its entry is read again; young found first, it goes on behind it
    if d == n and y == n:
        return n
    if d <= y:
        return d + 1 + (y - d + 1 if y < n else n - d)
    return y + 1 + (d - y if d < n else n - y - 1)


# ptep_get() of one entry
cdef inline void read_entry(walk *w, size_t i) noexcept nogil:
    w.t.mmu.c.ptep_get += 1
    w.t.mmu.c.pte_reads += 1
    if w.t.mmu.m.contpte and pte_valid_cont(w.t.leaf[i]):
        w.t.mmu.c.contpte_ptep_get += 1
        w.t.mmu.c.pte_reads += gather_reads(w, i)


# One ptep_get() for each entry that is not folded and each folded block: what a walk by
# batches reads, first entries and scans together, without what ends a scan.
cdef inline void read_all(walk *w, const maps *x) noexcept nogil:
    cdef uint64_t nr = 0, blocks, usual
    cdef size_t k
    for k in range(x.word, x.words_end):
        nr += pb_popcount((x.present[k] & ~x.cont[k]))
    w.t.mmu.c.ptep_get += nr
    w.t.mmu.c.pte_reads += nr
    if not x.folded:
        return
    nr = 0
    for k in range(x.word, x.words_end):
        blocks = x.cont[k] & block_starts(w.t.mmu, x, k)
        if w.t.mmu.m.gather_early_exit:
            # the first entry of most is dirty and young, which is all that there is to know
            usual = blocks & x.dirty[k] & x.young[k]
            nr += pb_popcount(usual)
            blocks &= ~usual
        while blocks:
            read_entry(w, entry(k, pb_ctz(blocks)))
            blocks &= blocks - 1
    w.t.mmu.c.ptep_get += nr
    w.t.mmu.c.contpte_ptep_get += nr
    w.t.mmu.c.pte_reads += 3 * nr


# entries of the stretch at which nothing is present
cdef inline void read_holes(walk *w, const maps *x) noexcept nogil:
    cdef uint64_t nr = x.end - x.first - count(x, x.present)
    w.t.mmu.c.ptep_get += nr
    w.t.mmu.c.pte_reads += nr


# the entry that ends the scan of a batch, unless its folio or the range ends there
cdef inline void read_ends(walk *w, const maps *x, const uint64_t *starts) noexcept nogil:
    cdef uint64_t ends, plain, nr = 0
    cdef size_t k, i
    for k in range(x.word, x.words_end):
        ends = ends_of(x, starts, k) & ~x.last[k]
        # followed by an entry of the stretch that is not folded: one read
        plain = ends & (~x.cont[k] >> 1)
        if 64 * k + 64 > x.end - 1:
            plain &= lanes(k, 0, x.end - 1)
        nr += pb_popcount(plain)
        ends &= ~plain
        while ends:
            i = entry(k, pb_ctz(ends)) + 1
            ends &= ends - 1
            if i < w.end:
                read_entry(w, i)
    w.t.mmu.c.ptep_get += nr
    w.t.mmu.c.pte_reads += nr


# scan reads of the folded blocks before each block, summed up
cdef inline void sum_block_reads(const walk *w, maps *x) noexcept nogil:
    cdef size_t n = w.t.mmu.m.cont_ptes, b
    cdef uint32_t sum = 0
    for b in range(x.first // n, x.end // n):
        x.block_reads[b] = sum
        if bit_at(x.cont, b * n):
            sum += 1 + gather_reads(w, b * n)
    x.block_reads[x.end // n] = sum


# What a unit reads that begins inside of a batch and knows nothing of it: to the end of
# its batch, or of the block that another unit has unfolded.
#   c c c c | c c c c        the unit at 2 found the first block unfolded:
#   - - 2 .   R              it scans to the block's end, and one entry more
cdef inline void read_again(walk *w, const maps *x, size_t i) noexcept nogil:
    cdef size_t n = w.t.mmu.m.cont_ptes, end = next_stop(x, x.batch, i + 1), blocks
    cdef uint64_t nr
    if bit_at(x.cont, i):
        if i & (n - 1):
            end = (i | (n - 1)) + 1
        else:
            blocks = (end - i) // n
            w.t.mmu.c.ptep_get += blocks
            w.t.mmu.c.contpte_ptep_get += blocks
            w.t.mmu.c.pte_reads += x.block_reads[end // n] - x.block_reads[i // n]
    if not bit_at(x.cont, i) or i & (n - 1):
        nr = end - i
        w.t.mmu.c.ptep_get += nr
        w.t.mmu.c.pte_reads += nr
    if end < w.end and not bit_at(x.last, end - 1):
        read_entry(w, end)


# ---- runs ----

# is PageAnonExclusive asked of pages of anonymous folios?
cdef inline bint asks_exclusive(const walk *w, const maps *x) noexcept nogil:
    cdef pte_t pte = newpte(w, x.flags)
    return asks_writable(w, pte) and not vma_shared(w) and maybe_change_pte_writable(w, pte)


# batches cut where PageAnonExclusive changes
cdef inline void cut_runs(const walk *w, maps *x) noexcept nogil:
    cdef bint asked = asks_exclusive(w, x)
    cdef uint64_t before = 0, changes
    cdef size_t k
    for k in range(x.word, x.words_end):
        x.runs[k] = x.batch[k]
        if asked:
            changes = (x.exclusive[k] ^ (x.exclusive[k] << 1 | before >> 63)) & x.anon[k]
            before = x.exclusive[k]
            x.runs[k] |= changes & x.present[k]


# Units that are started by themselves unfold the folded blocks that they cut. `rescans`: the next unit asks the table again, and
# what is left of such a block is a batch of its own:
#   c c c c | c c c c      unit - - | unit . .  | - - - -
# Where it would go on into entries that were not folded, the stretch ends before it.
cdef inline void cut_blocks(const walk *w, maps *x, bint rescans) noexcept nogil:
    cdef size_t n = w.t.mmu.m.cont_ptes, i, k, cut = <size_t>-1
    if not x.folded:
        return
    for k in range(x.word, x.words_end):
        x.cut[k] = 0
    i = next_bit(x.cont, x.first, x.end)
    while i < x.end:
        if rescans and cut + n == i and not bit_at(x.batch, i):
            x.runs[i // 64] |= <uint64_t>1 << (i % 64)
        if next_bit(x.runs, i + 1, i + n) < i + n:
            x.cutting = True
            x.cut[i // 64] |= <uint64_t>1 << (i % 64)
            cut = i
            if rescans and i + n < w.end and not pte_valid_cont(w.t.leaf[i + n]) and continues(w, x, i + n, PTE_CONT):
                cut_to(x, last_bit(x.batch, i))
                return
        i = next_bit(x.cont, i + n, x.end)


# units that end where their block was unfolded and the next is folded: no page ended them
cdef inline uint64_t joints(const walk *w, const maps *x) noexcept nogil:
    cdef size_t n = w.t.mmu.m.cont_ptes, i
    cdef uint64_t nr = 0
    if not x.cutting:
        return 0
    i = next_bit(x.cut, x.first, x.end)
    while i < x.end:
        nr += i + n < x.end and bit_at(x.cont, i + n) and bit_at(x.anon, i + n) and not bit_at(x.batch, i + n)
        i = next_bit(x.cut, i + n, x.end)
    return nr


# a block that is unfolded has the A/D of all its entries in each
cdef inline void spread_blocks(const walk *w, maps *x) noexcept nogil:
    cdef size_t n = w.t.mmu.m.cont_ptes, i
    if not x.cutting:
        return
    i = next_bit(x.cut, x.first, x.end)
    while i < x.end:
        spread_block(x.dirty, i, n)
        spread_block(x.young, i, n)
        i = next_bit(x.cut, i + n, x.end)


cdef inline void spread_block(uint64_t *map, size_t i, size_t n) noexcept nogil:
    cdef size_t k
    if next_bit(map, i, i + n) == i + n:
        return
    for k in range(i // 64, (i + n + 63) // 64):
        map[k] |= lanes(k, i, i + n)


# a bit for entries whose segment is they alone
cdef inline uint64_t alone(const maps *x, const uint64_t *starts, size_t k) noexcept nogil:
    return starts[k] & ends_of(x, starts, k)


# segments that begin with a block and hold all of it
cdef inline uint64_t whole_first_blocks(const walk *w, const maps *x, const uint64_t *starts) noexcept nogil:
    cdef size_t n = w.t.mmu.m.cont_ptes, k, i
    cdef uint64_t nr = 0, at
    for k in range(x.word, x.words_end):
        at = starts[k] & block_starts(w.t.mmu, x, k)
        if n <= 64:
            nr += pb_popcount(at & blocks_inside_one(w.t.mmu, x, starts, k))
            continue
        while at:
            i = entry(k, pb_ctz(at))
            at &= at - 1
            nr += inside_one(x, starts, i, n)
    return nr


# the first entries of the blocks of word k, none larger, that lie in one segment each
cdef inline uint64_t blocks_inside_one(const mmu_t *mmu, const maps *x, const uint64_t *starts, size_t k) noexcept nogil:
    cdef uint64_t first = block_starts(mmu, x, k), cut = (starts[k] & ~first) | ~x.present[k]
    cdef size_t n = mmu.m.cont_ptes // 2
    # what cuts a block, at the block's first entry
    while n:
        cut |= cut >> n
        n //= 2
    return first & ~cut


# do the n entries of a block larger than a word, from i on, lie in one segment?
cdef inline bint inside_one(const maps *x, const uint64_t *starts, size_t i, size_t n) noexcept nogil:
    cdef size_t k
    if i + n > x.end:
        return False
    for k in range(i // 64, (i + n) // 64):
        if ~x.present[k] or starts[k] & (~<uint64_t>1 if 64 * k == i else ~<uint64_t>0):
            return False
    return True


# modify_prot_start_ptes() of every segment, but for what it unfolds
cdef inline void start_segments(walk *w, const maps *x, const uint64_t *starts) noexcept nogil:
    cdef mmu_t *mmu = w.t.mmu
    cdef uint64_t nr = 0, single = 0, odd_start = 0, odd_end = 0, ones, ends
    cdef size_t k
    for k in range(x.word, x.words_end):
        ends = ends_of(x, starts, k)
        ones = starts[k] & ends
        nr += pb_popcount(starts[k])
        single += pb_popcount(ones)
        odd_end += pb_popcount(ends & ~ones & ~block_ends(mmu, x, k))
    mmu.c.prot_start += nr
    mmu.c.pte_xchg += count(x, x.present)
    if not mmu.m.contpte:
        return
    mmu.c.start_multi += nr - single
    # a block cut by either end is asked whether it is folded
    odd_start = nr - single
    if nr != single:
        odd_start -= whole_first_blocks(w, x, starts)
    mmu.c.pte_reads += single + odd_start + odd_end


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
    mmu.c.icache_sync += caches(x.flags)
    mmu.c.pte_writes += n


# does a store of this entry sync the instruction cache?
cdef inline bint caches(pte_t pte) noexcept nogil:
    return pte_present(pte) and pte_user_exec(pte) and not pte_special(pte)

# ---- committing ----

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
    bint differs               # the protection differs by more than WRITE and RDONLY


cdef inline fresh fresh_of(const walk *w, const maps *x) noexcept nogil:
    cdef fresh f
    cdef pte_t pte = newpte(w, x.flags)
    f.flags = (x.flags & ~PTE_CHG) | (w.newprot & PTE_CHG)
    f.asks = asks_writable(w, pte)
    f.maybe = f.asks and maybe_change_pte_writable(w, pte)
    f.shared = vma_shared(w)
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
cdef inline uint64_t needs_flush(const walk *w, const maps *x, const fresh *f, size_t k) noexcept nogil:
    cdef uint64_t up, wr, ro
    if not w.t.mmu.m.needs_flush:
        return x.present[k]
    if not pte_valid(x.flags):
        return 0
    if f.differs:
        return x.present[k]
    up = upgraded(x, f, k)
    wr = ~<uint64_t>0 if pte_write(f.flags) else up
    ro = ~not_rdonly(w, x, f, k, up) if f.flags & PTE_RDONLY else 0
    return ((x.write[k] ^ wr) | (~(x.write[k] & x.dirty[k]) ^ ro)) & x.present[k]


# blocks that one store covers are painted CONT: x.paint; returns how many were not folded before
cdef inline uint64_t paint_blocks(const walk *w, maps *x, const fresh *f) noexcept nogil:
    cdef size_t n = w.t.mmu.m.cont_ptes, k, i
    cdef unsigned int shift = w.t.mmu.m.page_shift
    cdef uint64_t at, painted = 0, mask
    cdef bint paints = w.t.mmu.m.contpte and (pte_valid(f.flags) or w.t.mmu.m.paint_invalid)
    for k in range(x.word, x.words_end):
        x.paint[k] = 0
    if not paints:
        return 0
    for k in range(x.word, x.words_end):
        at = blocks_inside_one(w.t.mmu, x, x.runs, k) if n <= 64 else x.present[k] & block_starts(w.t.mmu, x, k)
        while at:
            i = entry(k, pb_ctz(at))
            at &= at - 1
            if (n > 64 and not inside_one(x, x.runs, i, n)) or ((w.t.leaf[i] & pte_addr_mask(shift)) >> shift ^ i) & (n - 1):
                continue
            painted += not bit_at(x.cont, i)
            if n <= 64:
                mask = (~<uint64_t>0 >> (64 - n)) << (i % 64)
                x.paint[k] |= mask
            else:
                for j in range(i // 64, (i + n) // 64):
                    x.paint[j] = ~<uint64_t>0
    return painted if pte_valid(x.flags) and pte_valid(f.flags) else 0


# set_ptes() of every run, but for what it folds
cdef inline void store_runs(walk *w, const maps *x, const fresh *f, uint64_t runs, uint64_t single) noexcept nogil:
    cdef mmu_t *mmu = w.t.mmu
    cdef uint64_t synced = runs
    cdef size_t k
    mmu.c.set_ptes += runs
    mmu.c.pte_writes += count(x, x.present)
    if mmu.m.contpte:
        mmu.c.pte_reads += single
        mmu.c.set_ptes_multi += runs - single
        if pte_valid(f.flags) or mmu.m.paint_invalid:
            # a longer store goes block by block
            for k in range(x.word, x.words_end):
                synced += pb_popcount(block_starts(mmu, x, k) & x.present[k] & ~x.runs[k])
    mmu.c.sync_tags += synced
    mmu.c.icache_sync += synced if caches(f.flags) else 0


cdef inline void rewrite(walk *w, maps *x, const fresh *f) noexcept nogil:
    cdef pte_t keep = pte_addr_mask(w.t.mmu.m.page_shift)
    cdef pb_change[5] c
    cdef pte_t flags
    cdef pte_t[64] copy
    cdef pte_t *p
    cdef uint64_t up, map
    cdef size_t k
    cdef unsigned int i
    cdef int n
    for k in range(x.word, x.words_end):
        if not x.present[k]:
            continue
        up = upgraded(x, f, k)
        flags, n = f.flags, 0
        n = change(c, n, x.present[k], up, PTE_WRITE, &flags)
        n = change(c, n, x.present[k], not_rdonly(w, x, f, k, up) if flags & PTE_RDONLY else 0, PTE_RDONLY, &flags)
        n = change(c, n, x.present[k], x.dirty[k], PTE_DIRTY, &flags)
        n = change(c, n, x.present[k], x.young[k], PTE_AF, &flags)
        n = change(c, n, x.present[k], x.paint[k], PTE_CONT, &flags)
        p = w.t.leaf + 64 * k
        if not ~x.present[k]:
            pb_rewrite(p, keep, flags, c, n)
            continue
        if w.t.mmu.m.ptrs_per_pte >= 64:
            pb_rewrite_some(p, keep, flags, c, n, x.present[k])
            continue
        map = x.present[k]
        while map:
            i = pb_ctz(map)
            copy[i] = p[i]
            map &= map - 1
        pb_rewrite(copy, keep, flags, c, n)
        map = x.present[k]
        while map:
            i = pb_ctz(map)
            p[i] = copy[i]
            map &= map - 1


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


# the gather takes in the runs that need a flush
cdef inline void gather_runs(walk *w, const maps *x, const fresh *f) noexcept nogil:
    cdef mmu_t *mmu = w.t.mmu
    cdef uint64_t flush, lo = 0, hi = 0
    cdef size_t k, first = x.end, last = x.first
    cdef bint any = False
    for k in range(x.word, x.words_end):
        flush = needs_flush(w, x, f, k)
        if not flush:
            continue
        if not any:
            first = entry(k, pb_ctz(flush))
        any = True
        last = entry(k, pb_top(flush))
        mmu.c.gather_calls += pb_popcount(flush & x.runs[k])
    if any:
        lo, hi = addr_of(&w.t, first), addr_of(&w.t, last + 1)
        mmu.tlb.start = min(mmu.tlb.start, lo)
        mmu.tlb.end = max(mmu.tlb.end, hi)
        mmu.tlb.cleared_ptes = True


# Does contpte_try_fold() at i, a block's last entry, end at an entry of another WRITE? Then
# what it read is counted. Most do: a block's last entry is committed by itself where its
# exclusivity is not its neighbour's.
cdef inline bint fails_to_fold(walk *w, const maps *x, const fresh *f, size_t i) noexcept nogil:
    cdef uint64_t n = w.t.mmu.m.cont_ptes, up, block
    cdef size_t k = i // 64
    if n > 64 or pte_write(f.flags) or (pte_pfn(w.t.leaf[i], w.t.mmu.m.page_shift) & (n - 1)) != n - 1:
        return False
    block = (~<uint64_t>0 >> (64 - n)) << ((i % 64) + 1 - n)
    # one batch of a folio of a block or more, so that WRITE alone can tell its entries apart
    if (x.present[k] & block) != block or x.batch[k] & block & (block << 1):
        return False
    up = upgraded(x, f, k)
    if up >> i % 64 & 1:
        up = ~up
    up &= block
    if not up:
        return False
    w.t.mmu.c.fold_tries += 1
    w.t.mmu.c.pte_reads += pb_ctz(up) - ((i % 64) + 1 - n) + 1
    return True


# Every run is committed: prot_commit_flush_ptes(). `starts`: what was started at once,
# whose A/D was gathered.
cdef inline void commit_runs(walk *w, maps *x, const uint64_t *starts, const fresh *f) noexcept nogil:
    cdef mmu_t *mmu = w.t.mmu
    cdef uint64_t runs = count(x, x.runs), single = 0, events, ones, tries
    cdef size_t k, i
    spread(x, starts, x.dirty)
    spread(x, starts, x.young)
    for k in range(x.word, x.words_end):
        single += pb_popcount(alone(x, x.runs, k))
    mmu.c.prot_commit += runs
    mmu.c.cont_without_bbm += paint_blocks(w, x, f)
    store_runs(w, x, f, runs, single)
    gather_runs(w, x, f)
    rewrite(w, x, f)
    if not mmu.m.contpte:
        return
    # in the order of addresses: a block is unfolded, and its last entry's store may fold it
    for k in range(x.word, x.words_end):
        ones = alone(x, x.runs, k)
        events = ones & block_ends(mmu, x, k) if pte_valid(f.flags) else 0
        tries = events & x.single[k]
        events &= ~tries
        while tries:
            # no folio of one page covers a block: nothing is read
            i = entry(k, pb_ctz(tries))
            tries &= tries - 1
            mmu.c.fold_tries += (pte_pfn(w.t.leaf[i], mmu.m.page_shift) & (mmu.m.cont_ptes - 1)) == mmu.m.cont_ptes - 1
        if x.cutting:
            events |= x.cut[k]
        while events:
            i = entry(k, pb_ctz(events))
            events &= events - 1
            if x.cutting and bit_at(x.cut, i):
                unfold_block(w, x, i, ones >> i % 64 & 1)
            elif not fails_to_fold(w, x, f, i):
                contpte_try_fold(&w.t, i, w.t.leaf[i])
