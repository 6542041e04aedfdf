# Maps of one bit an entry, as arrays of words: finding bits, and blocks of them.
# What the bits mean is the caller's (maps.pxd); words.pxd gets them out of entries.
from libc.stdint cimport uint64_t
from .words cimport pb_ctz, pb_top

# entries of word k that lie in [first, end)
cdef inline uint64_t lanes(size_t k, size_t first, size_t end) noexcept nogil:
    cdef uint64_t map = ~<uint64_t>0
    if first > 64 * k:
        map &= map << (first - 64 * k) if first < 64 * k + 64 else 0
    if end < 64 * k + 64:
        map &= ~(~<uint64_t>0 << (end - 64 * k)) if end > 64 * k else 0
    return map


# a bit each `step` entries, a power of two up to 64
cdef inline uint64_t every(size_t step) noexcept nogil:
    return ~<uint64_t>0 // (~<uint64_t>0 >> (64 - step)) if step < 64 else 1


cdef inline bint bit_at(const uint64_t *map, size_t i) noexcept nogil:
    return map[i // 64] >> (i % 64) & 1


# the first entry from i on, before `end`, that has its bit; else `end`
cdef inline size_t next_bit(const uint64_t *map, size_t i, size_t end) noexcept nogil:
    cdef uint64_t word
    cdef size_t k = i // 64
    if i >= end:
        return end
    word = map[k] & ~<uint64_t>0 << (i % 64)
    while not word:
        k += 1
        if 64 * k >= end:
            return end
        word = map[k]
    return min(end, 64 * k + pb_ctz(word))


# have all n entries of a block, from i on, their bit?
cdef inline bint all_bits(const uint64_t *map, size_t i, size_t n) noexcept nogil:
    cdef uint64_t missing = 0
    cdef size_t k
    for k in range(i // 64, (i + n + 63) // 64):
        missing |= lanes(k, i, i + n) & ~map[k]
    return missing == 0


# the last entry at or before i that has its bit; there is one
cdef inline size_t last_bit(const uint64_t *map, size_t i) noexcept nogil:
    cdef size_t k = i // 64
    cdef uint64_t word = map[k] & ~<uint64_t>0 >> (63 - i % 64)
    while not word:
        k -= 1
        word = map[k]
    return 64 * k + pb_top(word)


# first entries of blocks of n that have all their bits; the bits of the blocks that begin at `starts`
cdef inline uint64_t whole_blocks(uint64_t map, uint64_t n) noexcept nogil:
    n //= 2
    while n:
        map &= map >> n
        n //= 2
    return map


cdef inline uint64_t any_in_block(uint64_t map, uint64_t n) noexcept nogil:
    n //= 2
    while n:
        map |= map >> n
        n //= 2
    return map


cdef inline uint64_t fill_blocks(uint64_t starts, uint64_t n) noexcept nogil:
    return starts * (~<uint64_t>0 >> (64 - n))
