# Sixty-four PTEs as 64-bit words: one bit an entry. What a bit means is the caller's;
# here is how to get bits out of entries and page metadata and how to put them back,
# in the vector types of simd.pxd, and the few things that are done with maps of bits.
from libc.stdint cimport uint8_t, uint64_t
from .simd cimport pb_xor16

cdef extern from *:
    """
    #define PB_TOP 0x8000000000000000ULL

    /* Lane l of `acc` has taken in the bits of words l, l + PB_W, ... from the top down. */
    PB_INLINE uint64_t pb_map_of(pb_vec acc) {
        uint64_t map = 0;
        for (int lane = 0; lane < PB_W; lane++)
            map |= acc[lane] >> (PB_W - 1 - lane);
        return map;
    }

    /* Maps of several bits at once. A word's bits of `low`, which lie below bit 16, and those
       of `high`, from bit 47 on, share sixteen: four words fit in one. Word 16h + W*g + lane is
       in sixteen h of the lane of vector g, so that with g and the lane the bits fall in place. */
    #define PB_PACKS (16 / PB_W)
    typedef struct { pb_vec at[PB_PACKS]; } pb_packed;

    PB_INLINE void pb_pack(pb_packed *to, const uint64_t *p, uint64_t low, uint64_t high) {
        for (int g = 0; g < PB_PACKS; g++) {
            pb_vec four = pb_all(0);
            for (int h = 0; h < 4; h++) {
                const pb_vec v = PB_AT(p, 16 * h + PB_W * g);
                four |= ((v & low) | (v >> 47 & high >> 47)) << 16 * h;
            }
            to->at[g] = four;
        }
    }

    /* the map of one packed bit: `bit` below 16, or less 47 */
    PB_INLINE uint64_t pb_unpack(const pb_packed *from, unsigned bit) {
        pb_vec map = pb_all(0);
        uint64_t all = 0;
        for (int g = 0; g < PB_PACKS; g++)
            map |= (from->at[g] >> bit & 0x0001000100010001ULL) << PB_W * g;
        for (int lane = 0; lane < PB_W; lane++)
            all |= map[lane] << lane;
        return all;
    }

    /* a bit for each word that is not `first` plus as many steps as it stands behind it, under `mask` */
    static uint64_t pb_map_off_row(const uint64_t *p, uint64_t first, uint64_t step, uint64_t mask) {
        pb_vec acc = pb_all(0), want = pb_ramp(first, step);
    #pragma GCC unroll 4
        for (size_t k = 0; k < 64; k += PB_W) {
            acc = (acc >> PB_W) | ((pb_vec)(((PB_AT(p, k) ^ want) & mask) != 0) & pb_all(PB_TOP));
            want += PB_W * step;
        }
        return pb_map_of(acc);
    }

    /* a bit for each word that differs from `want` under `mask` */
    static uint64_t pb_map_differs(const uint64_t *p, uint64_t want, uint64_t mask) {
        return pb_map_off_row(p, want, 0, mask);
    }

    /* A bit for each word that is not the one before it plus `step`, under `mask`; bit 0 is
       not asked: no word need be there before the first. */
    static uint64_t pb_map_breaks(const uint64_t *p, uint64_t step, uint64_t mask) {
        pb_vec before = pb_all(p[0]) - step, acc = pb_all(0);
        for (int lane = 1; lane < PB_W; lane++)
            before[lane] = p[lane - 1];
    #pragma GCC unroll 4
        for (size_t k = 0; k < 64; k += PB_W) {
            if (k)
                before = PB_AT(p, k - 1);
            acc = (acc >> PB_W) | ((pb_vec)((((before + step) ^ PB_AT(p, k)) & mask) != 0) & pb_all(PB_TOP));
        }
        return pb_map_of(acc);
    }

    typedef struct {
        uint64_t any;    /* bits that some word has */
        uint64_t all;    /* bits that every word has */
        uint64_t breaks; /* bits in which a word differs from the first and the steps to it: 0 if none does */
    } pb_seen;

    /* bits in which a word differs from `first` and the steps to it */
    PB_INLINE uint64_t pb_strays(const uint64_t *p, uint64_t first, uint64_t step) {
        pb_vec want = pb_ramp(first, step), differ = pb_all(0);
        uint64_t bits = 0;
    #pragma GCC unroll 16
        for (size_t k = 0; k < 64; k += PB_W) {
            differ |= PB_AT(p, k) ^ want;
            want += PB_W * step;
        }
        for (int lane = 0; lane < PB_W; lane++)
            bits |= differ[lane];
        return bits;
    }

    /* The first word is not 0: what none differs in, all have as it has. */
    static pb_seen pb_look(const uint64_t *p, uint64_t step) {
        const uint64_t first = p[0], bits = pb_strays(p, first, step);
        return (pb_seen){first | bits, first & ~bits, bits};
    }

    /* the same, whatever the first word is */
    static pb_seen pb_look_closer(const uint64_t *p, uint64_t step) {
        pb_vec any = PB_AT(p, 0), all = any, breaks = pb_all(0), before;
        pb_seen seen = {0, ~0ULL, 0};
        for (int lane = 1; lane < PB_W; lane++)
            seen.breaks |= (p[lane - 1] + step) ^ p[lane];
    #pragma GCC unroll 4
        for (size_t k = PB_W; k < 64; k += PB_W) {
            before = PB_AT(p, k - 1);
            breaks |= (before + step) ^ PB_AT(p, k);
            any |= PB_AT(p, k);
            all &= PB_AT(p, k);
        }
        for (int lane = 0; lane < PB_W; lane++) {
            seen.any |= any[lane];
            seen.all &= all[lane];
            seen.breaks |= breaks[lane];
        }
        return seen;
    }

    /* A map laid out so that the bits of its last PB_W words are signs, one a lane, and after
       each shift by PB_W those of the words before; all ones where a sign is set. */
    typedef int64_t pb_signed __attribute__((vector_size(sizeof(pb_vec))));
    PB_INLINE pb_vec pb_signs(uint64_t map) { return pb_all(map) << (PB_W - 1 - pb_ramp(0, 1)); }
    PB_INLINE pb_vec pb_set(pb_vec signs) { return (pb_vec)((pb_signed)signs < 0); }

    #define PB_CHANGES 5
    typedef struct {
        uint64_t map;
        uint64_t flags; /* those that change where the map has a bit */
    } pb_change;

    PB_INLINE void pb_rewrite_n(uint64_t *p, uint64_t keep, uint64_t flags, const pb_change *c, int n, uint64_t some) {
        pb_vec signs[PB_CHANGES], these = pb_signs(some);
        for (int j = 0; j < n; j++)
            signs[j] = pb_signs(c[j].map);
    #pragma GCC unroll 4
        for (size_t k = 64; k > 0; k -= PB_W) {
            const pb_vec old = PB_AT(p, k - PB_W);
            pb_vec v = (old & keep) | flags;
            for (int j = 0; j < n; j++) {
                v ^= pb_set(signs[j]) & c[j].flags;
                signs[j] <<= PB_W;
            }
            if (some != ~0ULL) {
                v = old ^ ((old ^ v) & pb_set(these));
                these <<= PB_W;
            }
            PB_AT(p, k - PB_W) = v;
        }
    }

    /* every word of `some`: its bits of `keep`, and `flags` as the changes leave them; all of them, with
       few changes, is what there is most of */
    static void pb_rewrite(uint64_t *p, uint64_t keep, uint64_t flags, const pb_change *c, int n, uint64_t some) {
        switch (some == ~0ULL ? n : -1) {
        case 0: pb_rewrite_n(p, keep, flags, c, 0, ~0ULL); break;
        case 1: pb_rewrite_n(p, keep, flags, c, 1, ~0ULL); break;
        case 2: pb_rewrite_n(p, keep, flags, c, 2, ~0ULL); break;
        case 3: pb_rewrite_n(p, keep, flags, c, 3, ~0ULL); break;
        case 4: pb_rewrite_n(p, keep, flags, c, 4, ~0ULL); break;
        default: pb_rewrite_n(p, keep, flags, c, n, some);
        }
    }

    /* nr words get `flags`, and keep their bits of `keep` */
    static void pb_refresh(uint64_t *p, size_t nr, uint64_t keep, uint64_t flags) {
        size_t k = 0;
        for (; k + 16 <= nr; k += 16)
            for (size_t j = k; j < k + 16; j += PB_W)
                PB_AT(p, j) = (PB_AT(p, j) & keep) | flags;
        for (; k < nr; k++)
            p[k] = (p[k] & keep) | flags;
    }

    /* How far behind `base` the pages of 64 words lie; 0: not all below `limit`, which is below 2^63. */
    PB_INLINE int pb_indices(uint64_t *to, const uint64_t *p, unsigned shift, uint64_t mask, uint64_t base, uint64_t limit) {
        pb_vec outside = pb_all(0);
        uint64_t any = 0;
        for (size_t k = 0; k < 64; k += PB_W) {
            const pb_vec at = ((PB_AT(p, k) & mask) >> shift) - base;
            outside |= at | (limit - 1 - at);
            PB_AT(to, k) = at;
        }
        for (int lane = 0; lane < PB_W; lane++)
            any |= outside[lane];
        return !(any >> 63);
    }

    PB_INLINE void pb_gather_bytes(uint8_t *to, const uint8_t *bytes, const uint64_t *index) {
    #pragma GCC unroll 16
        for (size_t k = 0; k < 64; k++)
            to[k] = bytes[index[k]];
    }

    /* a bit for each of 64 bytes that has bit `bit` */
    PB_INLINE uint64_t pb_map_bytes(const uint8_t *p, unsigned bit) {
        uint64_t map = 0;
    #if defined(__SSE2__)
        typedef uint64_t words __attribute__((vector_size(16), aligned(1), may_alias));
        typedef char bytes __attribute__((vector_size(16)));
        for (size_t k = 0; k < 64; k += 16)
            map |= (uint64_t)(uint32_t)__builtin_ia32_pmovmskb128((bytes)(*(const words *)(p + k) << (7 - bit))) << k;
    #else
        uint64_t eight;
        for (size_t k = 0; k < 64; k += 8) {
            memcpy(&eight, p + k, 8);
            map |= (((eight >> bit & 0x0101010101010101ULL) * 0x0102040810204080ULL) >> 56) << k;
        }
    #endif
        return map;
    }

    /* a bit for each of 64 bytes that differs from the one before it under `mask`; bit 0 is not asked */
    PB_INLINE uint64_t pb_map_byte_breaks(const uint8_t *p, uint8_t mask) {
        const uint64_t every = 0x0101010101010101ULL;
        uint64_t map = 0, eight, before = p[0];
        for (size_t k = 0; k < 64; k += 8) {
            memcpy(&eight, p + k, 8);
            before = (eight ^ (eight << 8 | before)) & every * mask;
            before = (((before & every * 0x7f) + every * 0x7f) | before) >> 7 & every;
            map |= ((before * 0x0102040810204080ULL) >> 56) << k;
            before = eight >> 56;
        }
        return map;
    }

    /* mask of bits in which any of nr bytes, at least one, differs from the first */
    PB_INLINE uint8_t pb_bytes_vary(const uint8_t *p, size_t nr) {
        const pb_vec first = pb_all(0x0101010101010101ULL * p[0]);
        pb_vec many, all = pb_all(0);
        uint64_t differ = 0;
        size_t k = 0;
        for (; k + sizeof(many) <= nr; k += sizeof(many)) {
            memcpy(&many, p + k, sizeof(many));
            all |= many ^ first;
        }
        for (int lane = 0; lane < PB_W; lane++)
            differ |= all[lane];
        for (; k < nr; k++)
            differ |= p[k] ^ p[0];
        differ |= differ >> 32;
        differ |= differ >> 16;
        return (uint8_t)(differ | differ >> 8);
    }

    typedef struct {
        size_t nr;       /* words from the first on that are it and the steps to them, but for bits of `loose` */
        uint64_t any;    /* bits that some of them has */
        uint64_t all;    /* bits that each of them has */
        uint64_t twice;  /* bits that some of them has together with the one 48 above */
    } pb_row;

    static void pb_row_add(pb_row *row, uint64_t word) {
        row->any |= word;
        row->all &= word;
        row->twice |= word >> 48 & word;
        row->nr++;
    }

    /* How far do nr words go on like the first one? None, if not sixty-four. */
    static pb_row pb_row_of(const uint64_t *p, size_t nr, uint64_t step, uint64_t loose) {
        pb_row row = {0, p[0], p[0], p[0] >> 48 & p[0]};
        while (row.nr + 64 <= nr) {
            const uint64_t *at = p + row.nr;
            const uint64_t want = p[0] + row.nr * step, bits = pb_strays(at, want, step);
            pb_vec any = pb_all(0), all = pb_all(~0ULL), twice = any;
            if (bits & ~loose)
                break;
            if (bits) {
    #pragma GCC unroll 4
                for (size_t k = 0; k < 64; k += PB_W) {
                    const pb_vec v = PB_AT(at, k);
                    any |= v;
                    all &= v;
                    twice |= v >> 48 & v;
                }
                for (int lane = 0; lane < PB_W; lane++) {
                    row.any |= any[lane];
                    row.all &= all[lane];
                    row.twice |= twice[lane];
                }
            } else {
                row.any |= want;
                row.all &= want;
                row.twice |= want >> 48 & want;
            }
            row.nr += 64;
        }
        /* fewer than that are nobody's concern */
        while (row.nr && row.nr < nr && !((p[row.nr] ^ (p[0] + row.nr * step)) & ~loose))
            pb_row_add(&row, p[row.nr]);
        return row;
    }

    PB_INLINE int pb_popcount(uint64_t map) { return __builtin_popcountll(map); }
    PB_INLINE unsigned pb_ctz(uint64_t map) { return map ? (unsigned)__builtin_ctzll(map) : 64; }
    PB_INLINE unsigned pb_top(uint64_t map) { return 63 - (unsigned)__builtin_clzll(map); }

    /* spread bits upward (downward) over the bits that `open` lets them into */
    PB_INLINE uint64_t pb_spread_up(uint64_t map, uint64_t open) {
        for (int k = 1; k < 64; k *= 2) {
            map |= open & map << k;
            open &= open << k;
        }
        return map;
    }

    PB_INLINE uint64_t pb_spread_down(uint64_t map, uint64_t open) {
        for (int k = 1; k < 64; k *= 2) {
            map |= open & map >> k;
            open &= open >> k;
        }
        return map;
    }
    """
    ctypedef struct pb_packed:
        pass

    ctypedef struct pb_seen:
        uint64_t any
        uint64_t all
        uint64_t breaks

    ctypedef struct pb_row:
        size_t nr
        uint64_t any
        uint64_t all
        uint64_t twice

    ctypedef struct pb_change:
        uint64_t map
        uint64_t flags

    void pb_pack(pb_packed *to, const uint64_t *p, uint64_t low, uint64_t high) noexcept nogil
    uint64_t pb_unpack(const pb_packed *source, unsigned int bit) noexcept nogil
    uint64_t pb_map_differs(const uint64_t *p, uint64_t want, uint64_t mask) noexcept nogil
    uint64_t pb_map_breaks(const uint64_t *p, uint64_t step, uint64_t mask) noexcept nogil
    pb_seen pb_look(const uint64_t *p, uint64_t step) noexcept nogil
    pb_seen pb_look_closer(const uint64_t *p, uint64_t step) noexcept nogil
    void pb_rewrite(uint64_t *p, uint64_t keep, uint64_t flags, const pb_change *c, int n, uint64_t some) noexcept nogil
    void pb_refresh(uint64_t *p, size_t nr, uint64_t keep, uint64_t flags) noexcept nogil
    uint64_t pb_map_off_row(const uint64_t *p, uint64_t first, uint64_t step, uint64_t mask) noexcept nogil
    bint pb_indices(
        uint64_t *to, const uint64_t *p, unsigned int shift, uint64_t mask, uint64_t base, uint64_t limit) noexcept nogil
    void pb_gather_bytes(uint8_t *to, const uint8_t *bytes, const uint64_t *index) noexcept nogil
    uint64_t pb_map_bytes(const uint8_t *p, unsigned int bit) noexcept nogil
    uint64_t pb_map_byte_breaks(const uint8_t *p, uint8_t mask) noexcept nogil
    uint8_t pb_bytes_vary(const uint8_t *p, size_t nr) noexcept nogil
    pb_row pb_row_of(const uint64_t *p, size_t nr, uint64_t step, uint64_t loose) noexcept nogil
    int pb_popcount(uint64_t map) noexcept nogil
    unsigned int pb_ctz(uint64_t map) noexcept nogil
    unsigned int pb_top(uint64_t map) noexcept nogil
    uint64_t pb_spread_up(uint64_t map, uint64_t open) noexcept nogil
    uint64_t pb_spread_down(uint64_t map, uint64_t open) noexcept nogil
