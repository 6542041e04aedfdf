# Segments of a regular stretch: one begins at each bit of a map and ends before the next,
# at an entry that is not present, or with the stretch. Batches are segments of
# folio_pte_batch(), runs those that are committed at once (maps.pxd).
from libc.stdint cimport uint64_t
from libc.string cimport memset
from ..arm64.mmu cimport mmu_t
from ..base.log cimport LOG_MAP, LOG_PRESENT, LOG_TAIL, pairs, pairs_add, pairs_run
from .bitmaps cimport bit_at
from .maps cimport maps
from .words cimport pb_ctz, pb_popcount

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


# what formulas ask of all segments of a map, counted in one pass
cdef struct tally:
    uint64_t nr
    uint64_t alone             # of one entry
    uint64_t small             # whose folio is no large one
    uint64_t anon              # that begin at a page of an anonymous folio
    uint64_t cut_ends          # of several entries, and not ended by a block's end
    uint64_t entries           # present, in all of them
    uint64_t anon_entries


cdef inline tally tally_of(const mmu_t *mmu, const maps *x, const uint64_t *starts) noexcept nogil:
    cdef tally t
    cdef uint64_t ends, one
    cdef size_t k
    memset(&t, 0, sizeof(t))
    for k in range(x.word, x.words_end):
        t.entries += pb_popcount(x.present[k])
        t.anon_entries += pb_popcount(x.anon[k])
        ends = ends_of(x, starts, k)
        if not ends | starts[k]:
            continue
        one = starts[k] & ends
        t.nr += pb_popcount(starts[k])
        t.alone += pb_popcount(one)
        t.small += pb_popcount(starts[k] & x.single[k])
        t.anon += pb_popcount(starts[k] & x.anon[k])
        t.cut_ends += pb_popcount(ends & ~one & ~block_ends(mmu, x, k))
    return t


# the same of a stretch that is one segment of several entries
cdef inline tally tally_of_one(const mmu_t *mmu, const maps *x) noexcept nogil:
    cdef tally t
    cdef uint64_t nr = x.end - x.first
    t.nr, t.alone, t.entries = 1, 0, nr
    t.small = bit_at(x.single, x.first)
    t.anon = bit_at(x.anon, x.first)
    t.anon_entries = nr if t.anon else 0
    t.cut_ends = not block_ends(mmu, x, (x.end - 1) // 64) >> (x.end - 1) % 64 & 1
    return t


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
        if not bits and not mapped and not ones:
            # nothing begins or ends: what goes on goes on
            continue
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
        # where a segment begins, or the open one ends because nothing follows
        bits = starts[k] | (~x.present[k] & (x.present[k] << 1 | (1 if begun != <size_t>-1 else 0)))
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


# the same of `nr` segments: one that is all of the stretch need not be looked for
cdef inline void log_segments(const maps *x, const uint64_t *starts, uint64_t nr, pairs *to) noexcept nogil:
    if nr == 1 and x.one:
        if to != NULL:
            pairs_run(to, 1, x.end - x.first)
    else:
        log_lengths(x, starts, to)


# a bit for entries whose segment is they alone
cdef inline uint64_t alone(const maps *x, const uint64_t *starts, size_t k) noexcept nogil:
    return starts[k] & ends_of(x, starts, k)


# the first entries of the blocks of word k, none larger, that lie in one segment each
cdef inline uint64_t blocks_inside_one(const mmu_t *mmu, const maps *x, const uint64_t *starts, size_t k) noexcept nogil:
    cdef uint64_t first = block_starts(mmu, x, k), cut = (starts[k] & ~first) | ~x.present[k]
    cdef size_t n = mmu.m.cont_ptes // 2
    if not cut:
        return first
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
