# What a strategy does to a regular stretch, counted on its maps (maps.pxd): the pieces
# that formulas are put together from. Each says for all segments of a map (segments.pxd)
# what the verb of the same name does for one. Here is what is read, where runs begin,
# and how segments are started; commits.pxd has the rest.
#
# A formula counts everything that its step counts, and rewrites the entries once, at
# the end. tests/batch/test_formula.py and every world of the checker hold the two equal.
from libc.stdint cimport int64_t, uint32_t, uint64_t
from ..arm64.mmu cimport mmu_t
from ..arm64.pte cimport PTE_CONT, pte_dirty, pte_t, pte_valid_cont, pte_young
from .bitmaps cimport bit_at, lanes, last_bit, next_bit
from .maps cimport continues, cut_to, maps, same_folio
from .seam cimport walk
from .segments cimport block_starts, blocks_inside_one, ends_of, entry, inside_one, next_stop, tally
from .words cimport pb_ctz, pb_popcount

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


# so many ptep_get(), and so many reads in all of them
cdef inline void read_ptes(walk *w, uint64_t calls, uint64_t reads) noexcept nogil:
    w.t.mmu.c.ptep_get += calls
    w.t.mmu.c.pte_reads += reads
    w.t.mmu.c.ptep_get_reads += reads


# ptep_get() of nr entries that are not folded
cdef inline void read_plain(walk *w, uint64_t nr) noexcept nogil:
    read_ptes(w, nr, nr)


# ptep_get() of one entry, so many times; -1: one that was counted is taken back
cdef inline void read_entry(walk *w, size_t i, int64_t times) noexcept nogil:
    read_plain(w, times)
    if w.t.mmu.m.contpte and pte_valid_cont(w.t.leaf[i]):
        w.t.mmu.c.contpte_ptep_get += times
        read_ptes(w, 0, times * gather_reads(w, i))


# the entry that ends a scan at `end`, unless the folio or the range ends there
cdef inline void read_end(walk *w, const maps *x, size_t end, int64_t times) noexcept nogil:
    if end < w.end and not bit_at(x.last, end - 1):
        read_entry(w, end, times)


# One ptep_get() for each entry that is not folded and each folded block: what a walk by
# batches reads of `entries`, first entries and scans together, without what ends a scan.
cdef inline void read_all(walk *w, const maps *x, uint64_t entries) noexcept nogil:
    cdef uint64_t nr = 0, blocks, usual
    cdef size_t k
    if not x.folded:
        read_plain(w, entries)
        return
    for k in range(x.word, x.words_end):
        entries -= pb_popcount(x.cont[k])
        blocks = x.cont[k] & block_starts(w.t.mmu, x, k)
        if w.t.mmu.m.gather_early_exit:
            # the first entry of most is dirty and young, which is all that there is to know
            usual = blocks & x.dirty[k] & x.young[k]
            nr += pb_popcount(usual)
            blocks &= ~usual
        while blocks:
            read_entry(w, entry(k, pb_ctz(blocks)), 1)
            blocks &= blocks - 1
    read_plain(w, entries)
    w.t.mmu.c.contpte_ptep_get += nr
    read_ptes(w, nr, 3 * nr)


# the entry that ends the scan of a batch, unless its folio or the range ends there
cdef inline void read_ends(walk *w, const maps *x, const uint64_t *starts) noexcept nogil:
    cdef uint64_t ends, plain, nr = 0
    cdef size_t k
    for k in range(x.word, x.words_end):
        ends = ends_of(x, starts, k) & ~x.last[k]
        if not ends:
            continue
        # followed by an entry of the stretch that is not folded: one read
        plain = ends & (~x.cont[k] >> 1)
        if 64 * k + 64 > x.end - 1:
            plain &= lanes(k, 0, x.end - 1)
        nr += pb_popcount(plain)
        ends &= ~plain
        while ends:
            read_end(w, x, entry(k, pb_ctz(ends)) + 1, 1)
            ends &= ends - 1
    read_plain(w, nr)


# the same of a stretch that is one batch
cdef inline void read_one(walk *w, const maps *x) noexcept nogil:
    cdef size_t n = w.t.mmu.m.cont_ptes, i = x.first
    if not x.folded:
        read_plain(w, x.end - i)
    elif not x.mixed:
        read_entry(w, i, (x.end - i) // n)
    else:
        # each block is another
        while i < x.end:
            read_entry(w, i, 1)
            i += n
    read_end(w, x, x.end, 1)


# scan reads of the folded blocks before each block, summed up
cdef inline void sum_block_reads(const walk *w, maps *x) noexcept nogil:
    cdef size_t n = w.t.mmu.m.cont_ptes, b
    cdef uint32_t sum = 0
    for b in range(x.first // n, x.end // n):
        x.block_reads[b] = sum
        if bit_at(x.cont, b * n):
            sum += 1 + gather_reads(w, b * n)
    x.block_reads[x.end // n] = sum


# What units read that begin inside of a batch and know nothing of it.
cdef inline void read_rescans(walk *w, maps *x) noexcept nogil:
    cdef size_t k, i, end = x.first, to, last = x.first
    cdef uint64_t bits, times = 0
    if x.folded:
        sum_block_reads(w, x)
    for k in range(x.word, x.words_end):
        bits = x.runs[k]
        while bits:
            i = entry(k, pb_ctz(bits))
            bits &= bits - 1
            if not begins_inside(x, i):
                continue
            if i >= end:
                end = next_stop(x, x.batch, i + 1)
            to = read_again(w, x, i, end)
            # side by side they end at the same entry
            if to != last and times:
                read_end(w, x, last, times)
                times = 0
            last = to
            times += 1
    if times:
        read_end(w, x, last, times)


# One of them: to the end of its batch, `end`, or of the block that another unit has unfolded.
# Returns where it ends.
#   c c c c | c c c c        the unit at 2 found the first block unfolded:
#   - - 2 .   R              it scans to the block's end, and one entry more
cdef inline size_t read_again(walk *w, const maps *x, size_t i, size_t end) noexcept nogil:
    cdef size_t n = w.t.mmu.m.cont_ptes, blocks
    if not x.folded:
        read_plain(w, end - i)
    elif bit_at(x.cont, i) and not i & (n - 1):
        blocks = (end - i) // n
        w.t.mmu.c.contpte_ptep_get += blocks
        read_ptes(w, blocks, x.block_reads[end // n] - x.block_reads[i // n])
    else:
        if bit_at(x.cont, i):
            end = (i | (n - 1)) + 1
            if x.joining and end < x.end and bit_at(x.joined, end):
                end = next_stop(x, x.batch, end + 1)
        read_plain(w, end - i)
    return end


# ---- runs ----

# batches cut where PageAnonExclusive changes, if it is asked
cdef inline void cut_runs(maps *x, bint asked) noexcept nogil:
    cdef uint64_t before = 0, changes
    cdef size_t k
    for k in range(x.word, x.words_end):
        x.runs[k] = x.batch[k]
        if asked:
            changes = (x.exclusive[k] ^ (x.exclusive[k] << 1 | before >> 63)) & x.anon[k]
            before = x.exclusive[k]
            x.runs[k] |= changes & x.present[k]


# Units that are started by themselves unfold the folded blocks that they cut. `rescans`:
# the next unit asks the table again, and what is left of such a block is a batch of its
# own, or goes on into entries that were not folded before:
#   c c c c | c c c c      unit - - | unit - -  | c c c c
#   c c c c | - - - -      unit - - | unit - -    - - - -
cdef inline void cut_blocks(const walk *w, maps *x, bint rescans) noexcept nogil:
    cdef size_t n = w.t.mmu.m.cont_ptes, i, k, cut = <size_t>-1
    if not x.folded:
        return
    for k in range(x.word, x.words_end):
        x.cut[k] = x.joined[k] = 0
    i = next_bit(x.cont, x.first, x.end)
    while i < x.end:
        if rescans and cut + n == i and not bit_at(x.batch, i):
            x.runs[i // 64] |= <uint64_t>1 << (i % 64)
        if next_bit(x.runs, i + 1, i + n) < i + n:
            x.cutting = True
            x.cut[i // 64] |= <uint64_t>1 << (i % 64)
            cut = i
            if rescans and i + n < w.end and not pte_valid_cont(w.t.leaf[i + n]) and continues(w, x, i + n, PTE_CONT):
                if i + n == x.end or not same_folio(w, i + n):
                    cut_to(x, last_bit(x.batch, i))
                    return
                join(x, i + n)
        i = next_bit(x.cont, i + n, x.end)


# the batch at i is one with what is left of the block before it
cdef inline void join(maps *x, size_t i) noexcept nogil:
    cdef uint64_t bit = <uint64_t>1 << (i % 64)
    x.joining = True
    x.joined[i // 64] |= bit
    if bit_at(x.exclusive, i) == bit_at(x.exclusive, i - 1):
        x.runs[i // 64] &= ~bit


# Does no unit that begins at i know its batch, so that it reads what the first one did?
cdef inline bint begins_inside(const maps *x, size_t i) noexcept nogil:
    return not bit_at(x.batch, i) or (x.joining and bit_at(x.joined, i))


# Batches that were joined have no first unit: what read_all() and read_ends() counted
# of them is taken back.
cdef inline void unread_joined(walk *w, const maps *x) noexcept nogil:
    cdef size_t i, end
    if not x.joining:
        return
    i = next_bit(x.joined, x.first, x.end)
    while i < x.end:
        end = next_stop(x, x.batch, i + 1)
        read_plain(w, i - end)
        read_end(w, x, end, -1)
        i = next_bit(x.joined, i + 1, x.end)


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


# segments that begin with a block and hold all of it
cdef inline uint64_t whole_first_blocks(const walk *w, const maps *x, const uint64_t *starts) noexcept nogil:
    cdef size_t n = w.t.mmu.m.cont_ptes, k, i
    cdef uint64_t nr = 0, at
    if x.one and starts == x.batch:
        return not x.first & (n - 1) and x.first + n <= x.end
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


# modify_prot_start_ptes() of every segment, but for what it unfolds
cdef inline void start_segments(walk *w, const maps *x, const uint64_t *starts, const tally *t) noexcept nogil:
    cdef mmu_t *mmu = w.t.mmu
    cdef uint64_t odd_start = t.nr - t.alone
    mmu.c.prot_start += t.nr
    mmu.c.pte_xchg += t.entries
    if not mmu.m.contpte:
        return
    mmu.c.start_multi += odd_start
    # a block cut by either end is asked whether it is folded
    if odd_start:
        odd_start -= whole_first_blocks(w, x, starts)
    mmu.c.pte_reads += t.alone + odd_start + t.cut_ends
