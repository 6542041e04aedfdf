# What of a leaf table is regular, as maps of one bit an entry. A stretch of entries is
# regular when all that are present have the same flags, A/D, WRITE and CONT aside, map
# pages that have metadata, and are such as the kernel makes them. Where a batch begins,
# what is exclusive, dirty, young, folded: each is a map, so that what a strategy does to
# the whole stretch is counted and not walked (formula.pxd).
#
#   entries    RW,d RW RW | RO RO | -  | RW,c ...          (a folio ends at each bar)
#   present     1    1  1    1  1   0     1
#   batch       1    0  0    1  0   0     1
#   dirty       1    0  0    0  0   0     0
#
# A stretch ends before what is not regular; the entry there is dealt with step by step.
# A batch is never cut: where its own end is not regular, the stretch ends before it.
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy, memset
from ..arm64.mmu cimport mmu_t
from ..arm64.pte cimport (
    PTE_AF, PTE_CONT, PTE_DIRTY, PTE_RDONLY, PTE_SPECIAL, PTE_WRITE, pte_addr_mask, pte_pfn, pte_present, pte_t, pte_valid,
    pte_valid_cont,
)
from ..base.page_flags cimport PG_ANON, PG_ORDER_MASK
from .bitmaps cimport all_bits, any_in_block, bit_at, every, fill_blocks, lanes, last_bit, next_bit, whole_blocks
from .seam cimport walk
from .words cimport (
    pb_bytes_vary, pb_ctz, pb_gather_bytes, pb_indices, pb_look, pb_look_closer, pb_map_breaks, pb_map_byte_breaks,
    pb_map_bytes, pb_map_differs, pb_map_off_row, pb_pack, pb_packed, pb_popcount, pb_seen, pb_top, pb_unpack,
)

cdef enum:
    LARGE = 128                # entries from which on a batch is worth to be done by itself (large.pxd)
    LONG = 256                 # and those that are worth to end a stretch for it
    MAP_WORDS = 8192 // 64     # of the largest table, that of the 64K granule
    AF_BIT = 10
    RDONLY_BIT = 7
    WRITE_BIT = 51
    CONT_BIT = 52
    DIRTY_BIT = 55
    ANON_BIT = 4               # of a metadata byte
    EXCLUSIVE_BIT = 7

# the formulas of regular.pyx; a strategy's row names its own
cdef enum:
    FORMULA_FOLIO = 1
    FORMULA_NESTED = 2
    FORMULA_LOOKAHEAD = 3
    FORMULA_ITERATOR = 4
    FORMULA_PER_PTE = 5

cdef struct maps:
    size_t first               # the stretch: its first entry, and the one behind its last
    size_t end
    size_t word                # the same in words of the maps
    size_t words_end
    uint64_t blocks            # a bit for the first entry of each contpte block, if none is larger than a word
    pte_t flags                # of every present entry, A/D, WRITE, RDONLY and CONT aside
    bint one                   # one batch is all of the stretch: its A/D are as its start gathers them (large.pxd)
    bint mixed                 # whose entries differ in A/D
    bint alike                 # and its pages are exclusive all, or none
    bint folded                # some entry is valid and has CONT
    bint cutting               # starts unfold blocks, those of `cut`
    bint joining               # some of them go on into the next batch, those of `joined`
    uint64_t[MAP_WORDS] present
    uint64_t[MAP_WORDS] batch          # the first entry of each batch of folio_pte_batch()
    uint64_t[MAP_WORDS] last           # the entry maps the last page of its folio
    uint64_t[MAP_WORDS] apart          # the entry does not map the page behind the one before it, or another folio's
    uint64_t[MAP_WORDS] single         # the folio is no large one
    uint64_t[MAP_WORDS] anon
    uint64_t[MAP_WORDS] exclusive      # PageAnonExclusive
    uint64_t[MAP_WORDS] write
    uint64_t[MAP_WORDS] dirty
    uint64_t[MAP_WORDS] young
    uint64_t[MAP_WORDS] cont           # valid and CONT: folded
    uint64_t[MAP_WORDS] aligned        # first entries of blocks whose page has the block's alignment, too
    # made by formulas
    uint64_t[MAP_WORDS] runs           # the first entry of each stretch committed at once
    uint64_t[MAP_WORDS] cut            # first entry of each folded block that a start unfolds
    uint64_t[MAP_WORDS] joined         # first entry of each batch that what is left of an unfolded block goes on into
    uint64_t[MAP_WORDS] paint          # entries that are painted CONT
    uint64_t[MAP_WORDS] folds          # first entry of each block that its last one's commit folds
    uint64_t[MAP_WORDS] tries          # last entries that try to fold a block, and the table tells whether they do
    uint32_t[MAP_WORDS * 32 + 1] block_reads   # of the folded blocks before each, to be scanned


# every bit but the address and those that maps tell; without contpte nothing clears CONT
cdef inline uint64_t class_bits(const mmu_t *mmu) noexcept nogil:
    cdef uint64_t told = PTE_AF | PTE_DIRTY | PTE_RDONLY | PTE_WRITE | (PTE_CONT if mmu.m.contpte else 0)
    return ~(pte_addr_mask(mmu.m.page_shift) | told)


# the bits in which entries of a batch are equal, but for the address that advances: those
# that pte_batch_clear_ignored() leaves of what mprotect asks for
cdef inline uint64_t batch_bits() noexcept nogil:
    return ~(PTE_AF | PTE_DIRTY | PTE_RDONLY)


# one bit of each entry: looked for only where it varies
cdef inline uint64_t map_of(const pb_packed *bits, const pb_seen *seen, unsigned int bit) noexcept nogil:
    if seen.all >> bit & 1:
        return ~<uint64_t>0
    if not seen.any >> bit & 1:
        return 0
    return pb_unpack(bits, bit if bit < 16 else bit - 47)


# Metadata bytes of 64 entries: where their pages lie side by side, there, else gathered
# in `room`, run by run or one by one. `breaks` are entries whose page does not follow on
# the one before; `bad`: an entry's page has no metadata.
cdef inline const uint8_t *page_bytes(
        const mmu_t *mmu, const pte_t *p, uint64_t present, uint64_t breaks, uint8_t *room, uint64_t *bad) noexcept nogil:
    cdef unsigned int shift = mmu.m.page_shift, i = pb_ctz(present)
    cdef uint64_t mask = pte_addr_mask(shift), base = mmu.pfn_base, at
    cdef uint64_t[64] index
    bad[0] = 0
    # all in a row, as far as they are present; its first may not be
    at = ((p[i] & mask) >> shift) - base - i
    if at < mmu.nr_pages and at + 64 <= mmu.nr_pages:
        if not breaks or (~present and not pb_map_off_row(p, (base + at) << shift, <uint64_t>1 << shift, mask) & present):
            return mmu.pages + at
    if pb_popcount(breaks) <= 24:
        # a run and what lies behind it; the next run's go over that
        breaks = (breaks | <uint64_t>1 << i) & present
        while breaks:
            i = pb_ctz(breaks)
            at = ((p[i] & mask) >> shift) - base
            if at >= mmu.nr_pages or at + 64 > mmu.nr_pages:
                break
            memcpy(room + i, mmu.pages + at, 64)
            breaks &= breaks - 1
        if not breaks:
            return room
    if pb_indices(index, p, shift, mask, base, mmu.nr_pages):
        pb_gather_bytes(room, mmu.pages, index)
        return room
    memset(room, 0, 64)
    for i in range(64):
        at = ((p[i] & mask) >> shift) - base
        if at < mmu.nr_pages:
            room[i] = mmu.pages[at]
        else:
            bad[0] |= <uint64_t>1 << i
    return room


# Where folios end: `breaks` are entries whose page does not follow on the one before. `bad`: the
# metadata of a folio's pages ends before the folio does.
cdef inline uint64_t folio_ends(
        const mmu_t *mmu, const pte_t *p, const uint8_t *bytes, bint one_order, uint64_t present, uint64_t single,
        uint64_t breaks, uint64_t *bad) noexcept nogil:
    cdef unsigned int shift = mmu.m.page_shift, i, z, stop
    cdef uint64_t ends = single, left = present & ~single, size, pfn, mask = pte_addr_mask(shift)
    if one_order and not breaks and present & 1:
        # a row of equal folios: where one ends, the next ends as many entries behind
        size = <uint64_t>1 << (bytes[0] & PG_ORDER_MASK)
        pfn = (p[0] & mask) >> shift
        if (pfn | (size - 1)) + 64 - mmu.pfn_base < mmu.nr_pages:
            pfn &= size - 1
            if size > 64:
                return present & (<uint64_t>1 << (size - 1 - pfn)) if size - pfn <= 64 else 0
            ends = every(size) << (size - 1)
            return present & (ends >> pfn | (ends << (64 - pfn) if pfn else 0))
    while left:
        i = pb_ctz(left)
        size = <uint64_t>1 << (bytes[i] & PG_ORDER_MASK)
        pfn = (p[i] & mask) >> shift
        if (pfn | (size - 1)) - mmu.pfn_base >= mmu.nr_pages:
            bad[0] |= <uint64_t>1 << i
        # this folio's entries: up to its last page, or to where something else is mapped
        stop = pb_ctz(breaks & ~<uint64_t>1 << i) if i < 63 else 64
        z = 63 if size - (pfn & (size - 1)) > 63 - i else i + (size - (pfn & (size - 1))) - 1
        if z < stop and z + 1 - i == size - (pfn & (size - 1)):
            ends |= <uint64_t>1 << z
        if min(z + 1, stop) >= 64:
            break
        left &= ~<uint64_t>0 << min(z + 1, stop)
    return ends & present


# one bit of each page's metadata: looked for only where it varies
cdef inline uint64_t byte_map(const uint8_t *bytes, uint8_t differ, unsigned int bit) noexcept nogil:
    if differ >> bit & 1:
        return pb_map_bytes(bytes, bit)
    return ~<uint64_t>0 if bytes[0] >> bit & 1 else 0


# the first entries of blocks whose page is aligned as the block is; where the block is present
cdef inline uint64_t aligned_blocks(
        const mmu_t *mmu, const maps *x, const pte_t *p, uint64_t elsewhere, uint64_t present) noexcept nogil:
    cdef uint64_t n = mmu.m.cont_ptes, left = x.blocks, at = 0, mask = (n - 1) << mmu.m.page_shift
    cdef unsigned int i = pb_ctz(present)
    if not elsewhere:
        # one row of pages
        return x.blocks if not (p[i] - (<uint64_t>i << mmu.m.page_shift)) & mask else 0
    while left:
        i = pb_ctz(left)
        at |= left & -left if not p[i] & mask else 0
        left &= left - 1
    return at


cdef inline void stretch_ends(maps *x, size_t k, uint64_t bad, uint64_t *present, bint *more) noexcept nogil:
    bad &= present[0]
    if bad:
        x.end = 64 * k + pb_ctz(bad)
        present[0] &= lanes(k, 0, x.end)
        more[0] = False


# where batches begin in word k: at `breaks`, behind folios, and at the stretch's first entry
cdef inline void begin_batches(const walk *w, maps *x, size_t k, pte_t first, uint64_t breaks) noexcept nogil:
    breaks |= x.last[k] << 1
    if k == x.word:
        breaks |= <uint64_t>1 << (x.first - 64 * k) | 1
    elif x.last[k - 1] >> 63 or ((w.t.leaf[64 * k - 1] + (<uint64_t>1 << w.t.mmu.m.page_shift)) ^ first) & batch_bits():
        breaks |= 1
    x.batch[k] = x.present[k] & breaks


# Do entries i and i - 1, pages in a row, map the same folio, if the metadata is the kernel's?
cdef inline bint same_folio(const walk *w, size_t i) noexcept nogil:
    cdef const uint8_t *page = w.t.mmu.pages + pte_pfn(w.t.leaf[i], w.t.mmu.m.page_shift) - w.t.mmu.pfn_base
    return ((page[0] ^ page[-1]) & (PG_ORDER_MASK | PG_ANON)) == 0


# does word k go on with a folio whose last page, in the word before, has other metadata?
cdef inline bint torn_folio(const walk *w, const maps *x, size_t k) noexcept nogil:
    return k != x.word and not x.batch[k] & 1 and not same_folio(w, 64 * k)


# all of a map, or nothing
cdef inline uint64_t spread_bit(uint64_t value, unsigned int bit) noexcept nogil:
    return -(value >> bit & 1)


# The maps of a word whose entries are the first one, pages advancing, all pages alike: nothing to be
# looked for. False: it is no such word, or an odd one.
cdef inline bint plain_word(const walk *w, maps *x, size_t k) noexcept nogil:
    cdef const mmu_t *mmu = w.t.mmu
    cdef const pte_t *p = w.t.leaf + 64 * k
    cdef pte_t pte = p[0]
    cdef uint64_t pfn = pte_pfn(pte, mmu.m.page_shift), at = pfn - mmu.pfn_base, wr, ro, sw, bad = 0
    cdef const uint8_t *bytes = mmu.pages + at
    if at >= mmu.nr_pages or at + 64 > mmu.nr_pages or pb_bytes_vary(bytes, 64):
        return False
    wr, ro, sw = spread_bit(pte, WRITE_BIT), spread_bit(pte, RDONLY_BIT), spread_bit(pte, DIRTY_BIT)
    if (~wr & ~ro) | (wr & ro & sw):
        return False
    x.single[k] = 0 if bytes[0] & PG_ORDER_MASK else ~<uint64_t>0
    x.last[k] = x.single[k]
    if not x.single[k]:
        x.last[k] = folio_ends(mmu, p, bytes, True, ~<uint64_t>0, 0, 0, &bad)
    x.apart[k] = x.last[k] << 1
    x.present[k] = ~<uint64_t>0
    begin_batches(w, x, k, pte, 0)
    if bad or torn_folio(w, x, k):
        return False
    x.anon[k], x.exclusive[k] = spread_bit(bytes[0], ANON_BIT), spread_bit(bytes[0], EXCLUSIVE_BIT)
    x.write[k], x.dirty[k], x.young[k] = wr, sw | (wr & ~ro), spread_bit(pte, AF_BIT)
    x.cont[k] = spread_bit(pte, CONT_BIT) if mmu.m.contpte and pte_valid(pte) else 0
    x.folded |= x.cont[k] != 0
    x.aligned[k] = x.blocks if not pfn & (mmu.m.cont_ptes - 1) else 0
    return True


# The maps of one word; False: the stretch ends in it. What lies outside of the range
# is as if nothing were mapped there.
cdef inline bint map_word(const walk *w, maps *x, size_t k, size_t range_end) noexcept nogil:
    cdef const mmu_t *mmu = w.t.mmu
    cdef unsigned int shift = mmu.m.page_shift
    cdef uint64_t page = <uint64_t>1 << shift, address = pte_addr_mask(shift), kind = class_bits(mmu)
    cdef uint64_t within = lanes(k, x.first, range_end), present, bad = 0, breaks, wr, ro, sw, ct, ends, single, elsewhere
    cdef pte_t[64] copy
    cdef uint8_t[128] room
    cdef const uint8_t *bytes
    cdef const pte_t *p = w.t.leaf + 64 * k
    cdef pb_seen seen
    cdef pb_packed bits
    cdef bint more = True, holes
    cdef uint8_t differ
    cdef unsigned int i
    if ~within:
        for i in range(64):
            copy[i] = p[i] if within >> i & 1 else 0
        p = copy
    seen = pb_look(p, page) if p[0] else pb_look_closer(p, page)
    if not seen.breaks and p[0] & kind == x.flags and not ~within and plain_word(w, x, k):
        return True
    if not seen.any:
        clear_word(x, k)
        return True
    if not x.flags:
        i = pb_ctz(pb_map_differs(p, 0, ~<uint64_t>0))
        x.flags = p[i] & kind
        if not pte_present(x.flags) or x.flags & PTE_SPECIAL:
            # nothing to begin with: the stretch is what is empty before
            x.end = 64 * k + i
            x.flags = 0
            clear_word(x, k)
            return False
    present = ~<uint64_t>0
    holes = (((seen.any ^ x.flags) | (seen.all ^ x.flags)) & kind) != 0
    if holes:
        present = pb_map_differs(p, 0, ~<uint64_t>0)
        stretch_ends(x, k, pb_map_differs(p, x.flags, kind), &present, &more)
    if (seen.any & ~seen.all) & (PTE_AF | PTE_DIRTY | PTE_RDONLY | PTE_WRITE | PTE_CONT):
        pb_pack(&bits, p, PTE_AF | PTE_RDONLY, PTE_DIRTY | PTE_WRITE | PTE_CONT)
    wr = map_of(&bits, &seen, WRITE_BIT)
    ro = map_of(&bits, &seen, RDONLY_BIT)
    sw = map_of(&bits, &seen, DIRTY_BIT)
    # no entry of the kernel's: neither WRITE nor RDONLY, or dirty twice and read-only
    stretch_ends(x, k, (~wr & ~ro) | (wr & ro & sw), &present, &more)
    if not present:
        clear_word(x, k)
        return more
    elsewhere = 0
    if holes or seen.breaks & address:
        elsewhere = pb_map_breaks(p, page, address)
    bytes = page_bytes(mmu, p, present, elsewhere, room, &bad)
    stretch_ends(x, k, bad, &present, &more)
    if not present:
        clear_word(x, k)
        return more
    differ = pb_bytes_vary(bytes, 64)
    if not differ & PG_ORDER_MASK:
        single = 0 if bytes[0] & PG_ORDER_MASK else present
    else:
        single = present & ~(pb_map_bytes(bytes, 0) | pb_map_bytes(bytes, 1) | pb_map_bytes(bytes, 2) | pb_map_bytes(bytes, 3))
    # pages of one folio may differ in flags: such an entry begins a batch, too
    ct = map_of(&bits, &seen, CONT_BIT) if mmu.m.contpte else 0
    breaks = elsewhere | ~present << 1 | (((wr ^ wr << 1) | (ct ^ ct << 1)) & ~<uint64_t>1)
    bad = 0
    ends = folio_ends(
        mmu, p, bytes, not differ & PG_ORDER_MASK, present, single, elsewhere, &bad) if single != present else single
    stretch_ends(x, k, bad, &present, &more)
    x.present[k] = present
    x.last[k] = ends
    x.apart[k] = elsewhere | ends << 1
    x.single[k] = single
    x.anon[k] = present & byte_map(bytes, differ, ANON_BIT)
    x.exclusive[k] = present & byte_map(bytes, differ, EXCLUSIVE_BIT)
    x.write[k] = wr & present
    x.dirty[k] = (sw | (wr & ~ro)) & present
    x.young[k] = map_of(&bits, &seen, AF_BIT) & present
    x.cont[k] = 0
    if mmu.m.contpte and pte_valid(x.flags):
        x.cont[k] = ct & present
        x.folded |= x.cont[k] != 0
    x.aligned[k] = aligned_blocks(mmu, x, p, elsewhere, present) if mmu.m.contpte and single != present else 0
    begin_batches(w, x, k, p[0], breaks)
    # one folio, two orders: no metadata of the kernel's
    bad = 0
    if differ & (PG_ORDER_MASK | PG_ANON):
        bad = pb_map_byte_breaks(bytes, PG_ORDER_MASK | PG_ANON) & ~(elsewhere | ends << 1 | 1)
    if present & 1 and torn_folio(w, x, k):
        bad |= 1
    bad &= present
    if bad:
        stretch_ends(x, k, bad, &present, &more)
    return more


cdef inline void clear_word(maps *x, size_t k) noexcept nogil:
    x.present[k] = x.batch[k] = x.last[k] = x.single[k] = x.anon[k] = x.exclusive[k] = 0
    x.write[k] = x.dirty[k] = x.young[k] = x.cont[k] = x.aligned[k] = 0


# the stretch ends with the batches that end at or before `end`
cdef inline void cut_to(maps *x, size_t end) noexcept nogil:
    cdef size_t k
    cdef uint64_t inside
    x.end = end
    x.words_end = (end + 63) // 64
    if end <= x.first:
        return
    k = (end - 1) // 64
    inside = lanes(k, 0, end)
    x.present[k] &= inside
    x.batch[k] &= inside
    x.last[k] &= inside
    x.single[k] &= inside
    x.anon[k] &= inside
    x.exclusive[k] &= inside
    x.write[k] &= inside
    x.dirty[k] &= inside
    x.young[k] &= inside
    x.cont[k] &= inside
    x.runs[k] &= inside
    x.cut[k] &= inside


# does entry i go on with the folio batch of the one before it? Bits of `more` may differ.
cdef inline bint continues(const walk *w, const maps *x, size_t i, pte_t more) noexcept nogil:
    cdef uint64_t norm = batch_bits() & ~more
    if i >= w.end or i <= x.first or not bit_at(x.present, i - 1) or bit_at(x.last, i - 1):
        return False
    return (((w.t.leaf[i - 1] + (<uint64_t>1 << w.t.mmu.m.page_shift)) ^ w.t.leaf[i]) & norm) == 0


# A folded block is regular when all of it is there, in order, in one batch. Returns the
# first entry of one that is not, else x.end.
cdef inline size_t odd_block(const walk *w, const maps *x) noexcept nogil:
    cdef size_t n = w.t.mmu.m.cont_ptes, k
    cdef uint64_t odd
    if not x.blocks:
        return odd_large_block(w, x)
    for k in range(x.word, x.words_end):
        odd = x.cont[k]
        if odd:
            odd &= ~fill_blocks(whole_blocks(odd, n) & x.aligned[k] & ~any_in_block(x.batch[k] & ~x.blocks, n), n)
            if odd:
                return 64 * k + pb_ctz(odd)
    return x.end


cdef inline size_t odd_large_block(const walk *w, const maps *x) noexcept nogil:
    cdef size_t n = w.t.mmu.m.cont_ptes, i = next_bit(x.cont, x.first, x.end), j
    cdef unsigned int shift = w.t.mmu.m.page_shift
    while i < x.end:
        j = i & ~(n - 1)
        if j != i or i + n > x.end or not all_bits(x.cont, i, n) or next_bit(x.batch, i + 1, x.end) < i + n:
            return i
        if ((w.t.leaf[i] & pte_addr_mask(shift)) >> shift) & (n - 1):
            return i
        i = next_bit(x.cont, i + n, x.end)
    return x.end


# CONT in the middle of a block that the stretch changes first: what a scan reads of it changes too
cdef inline bint torn_block(const walk *w, size_t i) noexcept nogil:
    return w.t.mmu.m.contpte and i < w.end and i & (w.t.mmu.m.cont_ptes - 1) and pte_valid_cont(w.t.leaf[i])


# entries from i on that the folio there may map, up to the end of the range; 0: fewer than LARGE
cdef inline size_t folio_rest(const walk *w, size_t i, size_t *left) noexcept nogil:
    cdef const mmu_t *mmu = w.t.mmu
    cdef pte_t pte = w.t.leaf[i]
    cdef uint64_t pfn = pte_pfn(pte, mmu.m.page_shift), at = pfn - mmu.pfn_base, size
    if not pte_present(pte) or pte & PTE_SPECIAL or at >= mmu.nr_pages:
        return 0
    size = <uint64_t>1 << (mmu.pages[at] & PG_ORDER_MASK)
    left[0] = size - (pfn & (size - 1))
    if left[0] < LARGE or w.end - i < LARGE or at + left[0] > mmu.nr_pages:
        return 0
    return min(left[0], w.end - i)


# The last batch that begins in word k, if it may be a large one: it is its folio's first, or what is mapped of the
# folio begins with it or with the rest of a block before it. Else 0.
cdef inline size_t large_begins(const walk *w, const maps *x, size_t k) noexcept nogil:
    cdef const pte_t *p = w.t.leaf
    cdef uint64_t page = <uint64_t>1 << w.t.mmu.m.page_shift, far = LONG - 1
    cdef size_t i, left = 0, n = w.t.mmu.m.cont_ptes
    if not x.batch[k] or not x.present[k] >> 63 or x.last[k] >> 63:
        return 0
    i = 64 * k + pb_top(x.batch[k])
    if i <= x.first or folio_rest(w, i, &left) < LONG:
        return 0
    # what is left of a folio at its head is a power of two, and seldom elsewhere
    if bit_at(x.present, i - 1) and left & (left - 1):
        if i < x.first + n or not bit_at(x.cont, i) or bit_at(x.present, i - n):
            return 0
    # whether all between are such is asked there
    return 0 if ((p[i] + far * page) ^ p[i + far]) & batch_bits() else i


# The regular stretch from w.idx on; False: there is none. It ends before a large batch that `apart` asks to leave.
cdef inline bint maps_read(const walk *w, maps *x, bint apart) noexcept nogil:
    cdef size_t k, odd, large
    x.first, x.end = w.idx, w.end
    x.word = x.first // 64
    x.blocks = every(w.t.mmu.m.cont_ptes) if w.t.mmu.m.cont_ptes <= 64 else 0
    x.flags = 0
    x.folded = x.cutting = x.joining = x.one = False
    k = x.word
    while 64 * k < w.end:
        if not map_word(w, x, k, w.end):
            break
        if apart:
            large = large_begins(w, x, k)
            if large:
                x.end = large
                break
        k += 1
    if x.end <= x.first:
        return False
    cut_to(x, x.end)
    if continues(w, x, x.end, 0):
        cut_to(x, last_bit(x.batch, x.end - 1))
    if x.folded:
        odd = odd_block(w, x)
        if odd < x.end:
            cut_to(x, last_bit(x.batch, odd))
    if x.end > x.first and torn_block(w, x.end) and bit_at(x.present, x.end - 1):
        cut_to(x, last_bit(x.batch, x.end - 1))
    return x.end > x.first
