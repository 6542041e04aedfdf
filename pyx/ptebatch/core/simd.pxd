# Sixteen PTEs at a time, in the compiler's portable vector types: AVX2, SSE2 and
# NEON come from one source. Only replay.pyx cimports it.
from libc.stdint cimport uint8_t, uint64_t

cdef extern from *:
    """
    #include <stddef.h>
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

    /* Are 16 words `flags` with any frames, each with the metadata byte `byte`? Then flip
       them. `outside` has every bit that a shifted frame number may not have once `first`,
       that of the metadata's first frame, is taken off; a frame below it borrows into them.
       `pages` is the byte of frame 0. `low`: addresses end below bit 40, so that four bytes
       from bit 8 on hold the frame: a load and a shift. */
    PB_INLINE int pb_frames16(uint64_t *p, uint64_t flags, unsigned shift, uint64_t first, uint64_t outside,
                              uintptr_t pages, uint8_t byte, uint64_t flip, int low) {
        pb_vec any = pb_all(0);
        PB_EACH(k) any |= (PB_AT(p, k) ^ flags) - first;
        if (!pb_zero(any & outside))
            return 0;
    #pragma GCC unroll 16
        for (int k = 0; k < 16; k++) {
            uint64_t frame = (p[k] ^ flags) >> shift;
    #if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
            if (low) {
                uint32_t half;
                memcpy(&half, (const uint8_t *)(p + k) + 1, 4);
                frame = half >> (shift - 8);
            }
    #endif
            if (*(const uint8_t *)(pages + frame) != byte)
                return 0;
        }
        pb_xor16(p, flip);
        return 1;
    }

    /* Are 16 words `flags` with frames at addresses `first` to `last`? Then flip them. `bad`:
       bit 63, set by a difference below zero, and the bits below a page. */
    PB_INLINE int pb_within16(uint64_t *p, uint64_t flags, uint64_t first, uint64_t last, uint64_t bad, uint64_t flip) {
        pb_vec any = pb_all(0), word[16 / PB_W];
        PB_EACH(k) {
            pb_vec x = (word[k / PB_W] = PB_AT(p, k)) ^ flags;
            any |= (x - first) | (last - x);
        }
        if (!pb_zero(any & bad))
            return 0;
        PB_EACH(k) PB_AT(p, k) = word[k / PB_W] ^ flip;
        return 1;
    }

    /* how many bytes from `p` on are `byte`, at most `most` */
    static inline size_t pb_same_up(const uint8_t *p, size_t most, uint8_t byte) {
        const uint64_t want = 0x0101010101010101ULL * byte;
        size_t n = 0;
        for (; n + 64 <= most; n += 64) {
            pb_vec differ = pb_all(0);
            for (size_t k = 0; k < 64; k += 8 * PB_W)
                differ |= *(const pb_vec *)(p + n + k) ^ want;
            if (!pb_zero(differ))
                break;
        }
        while (n < most && p[n] == byte)
            n++;
        return n;
    }

    /* how many bytes before `p` are `byte`, at most `most` */
    static inline size_t pb_same_down(const uint8_t *p, size_t most, uint8_t byte) {
        const uint64_t want = 0x0101010101010101ULL * byte;
        size_t n = 0;
        for (; n + 64 <= most; n += 64) {
            pb_vec differ = pb_all(0);
            for (size_t k = 0; k < 64; k += 8 * PB_W)
                differ |= *(const pb_vec *)(p - n - 64 + k) ^ want;
            if (!pb_zero(differ))
                break;
        }
        while (n < most && p[-1 - (ptrdiff_t)n] == byte)
            n++;
        return n;
    }
    """
    bint pb_within16(uint64_t *p, uint64_t flags, uint64_t first, uint64_t last, uint64_t bad, uint64_t flip) noexcept nogil
    size_t pb_same_up(const uint8_t *p, size_t most, uint8_t byte) noexcept nogil
    size_t pb_same_down(const uint8_t *p, size_t most, uint8_t byte) noexcept nogil
    bint pb_flip16(uint64_t *p, uint64_t want, uint64_t step, uint64_t flip) noexcept nogil
    void pb_xor16(uint64_t *p, uint64_t flip) noexcept nogil
    bint pb_bytes16(const uint8_t *p, uint64_t want) noexcept nogil
    bint pb_frames16(uint64_t *p, uint64_t flags, unsigned int shift, uint64_t first, uint64_t outside,
                     size_t pages, uint8_t byte, uint64_t flip, bint low) noexcept nogil
