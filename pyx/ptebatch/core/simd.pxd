# Sixteen PTEs at a time, in the compiler's portable vector types: AVX2, SSE2 and
# NEON come from one source. Only replay.pyx cimports it.
from libc.stdint cimport uint8_t, uint64_t

cdef extern from *:
    """
    #include <string.h>
    #define PB_INLINE static inline __attribute__((always_inline))
    #if defined(__AVX__)
    #define PB_W 4
    #else
    #define PB_W 2
    #endif
    typedef uint64_t pb_vec __attribute__((vector_size(8 * PB_W), aligned(8), may_alias));
    #define PB_AT(p, k) (*(pb_vec *)((p) + (k)))
    #define PB_EACH(k) for (int k = 0; k < 16; k += PB_W)

    PB_INLINE pb_vec pb_all(uint64_t x) { return (pb_vec){0} + x; }

    PB_INLINE pb_vec pb_ramp(uint64_t first, uint64_t step) {
    #if PB_W == 4
        return pb_all(first) + (pb_vec){0, step, 2 * step, 3 * step};
    #else
        return pb_all(first) + (pb_vec){0, step};
    #endif
    }

    PB_INLINE int pb_zero(pb_vec a) {
    #if PB_W == 4
        typedef long long di __attribute__((vector_size(32)));
        return __builtin_ia32_ptestz256((di)a, (di)a);
    #else
        return (a[0] | a[1]) == 0;
    #endif
    }

    PB_INLINE void pb_xor16(uint64_t *p, uint64_t flip) {
        PB_EACH(k) PB_AT(p, k) ^= pb_all(flip);
    }

    /* are 16 words want, want + step, ...? then flip them; else touch nothing */
    PB_INLINE int pb_flip16(uint64_t *p, uint64_t want, uint64_t step, uint64_t flip) {
        pb_vec w = pb_ramp(want, step), differ = pb_all(0), word[16 / PB_W];
        PB_EACH(k) {
            word[k / PB_W] = PB_AT(p, k);
            differ |= word[k / PB_W] ^ w;
            w += PB_W * step;
        }
        if (!pb_zero(differ))
            return 0;
        PB_EACH(k) PB_AT(p, k) = word[k / PB_W] ^ pb_all(flip);
        return 1;
    }

    PB_INLINE int pb_bytes16(const uint8_t *p, uint64_t want) {
        uint64_t a, b;
        memcpy(&a, p, 8);
        memcpy(&b, p + 8, 8);
        return ((a ^ want) | (b ^ want)) == 0;
    }

    /* 16 words with these flags and any frames: are all metadata bytes `byte`?
       base and nr, of the frames that have metadata, are shifted like the address field */
    PB_INLINE int pb_frames16(uint64_t *p, uint64_t flags, uint64_t mask, unsigned shift, uint64_t base, uint64_t nr,
                              const uint8_t *pages, uint8_t byte) {
        pb_vec differ = pb_all(0), high = pb_all(0);
        uint64_t at[16];
        uint8_t any = 0, all = 0xff;
        PB_EACH(k) {
            pb_vec w = PB_AT(p, k), a = (w & mask) - base;
            differ |= (w & ~mask) ^ flags;
            high |= (nr - 1 - a) | a;      /* the top bit: outside */
            PB_AT(at, k) = a >> shift;
        }
        if (!pb_zero(differ | (high & (1ULL << 63))))
            return 0;
    #pragma GCC unroll 16
        for (int k = 0; k < 16; k++) {
            any |= pages[at[k]];
            all &= pages[at[k]];
        }
        return any == byte && all == byte;
    }
    """
    bint pb_flip16(uint64_t *p, uint64_t want, uint64_t step, uint64_t flip) noexcept nogil
    void pb_xor16(uint64_t *p, uint64_t flip) noexcept nogil
    bint pb_bytes16(const uint8_t *p, uint64_t want) noexcept nogil
    bint pb_frames16(uint64_t *p, uint64_t flags, uint64_t mask, unsigned int shift, uint64_t base, uint64_t nr,
                     const uint8_t *pages, uint8_t byte) noexcept nogil
