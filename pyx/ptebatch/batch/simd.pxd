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
    typedef uint64_t pb_any __attribute__((vector_size(8 * PB_W), aligned(1), may_alias));
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

    /* groups of 16 words as pb_frames16 takes them, until one is not; counts block ends */
    static __attribute__((noinline)) size_t pb_frames_run(
            uint64_t *p, size_t nr, uint64_t flags, unsigned shift, uint64_t base, uint64_t outside, const uint8_t *pages,
            uint8_t byte, uint64_t flip, int low, size_t at, uint64_t gate, uint64_t *gates) {
        const uintptr_t page0 = (uintptr_t)pages - base;
        uint64_t *const end = p + nr / 16 * 16, *const begin = p;
        for (at += 15; p != end; p += 16, at += 16) {
            const uint64_t last = p[15] >> shift;
            if (low ? !pb_frames16(p, flags, shift, base << shift, outside, page0, byte, flip, 1)
                    : !pb_frames16(p, flags, shift, base << shift, outside, page0, byte, flip, 0))
                break;
            *gates += (at & last & gate) == gate;
        }
        return p - begin;
    }

    /* Are groups of 16 words want, want + step, ...? Flip them, until one is not; returns
       how many words. No step carries out of the address, so what is stored steps alike. */
    static __attribute__((noinline)) size_t pb_flip_run(uint64_t *p, size_t nr, uint64_t want, uint64_t step, uint64_t flip) {
        pb_vec w = pb_ramp(want, step), store = w ^ flip;
        uint64_t *const end = p + nr / 16 * 16, *const begin = p;
        for (; p != end; p += 16) {
            pb_vec differ = pb_all(0);
            PB_EACH(k) {
                differ |= PB_AT(p, k) ^ w;
                w += PB_W * step;
            }
            if (!pb_zero(differ))
                break;
            PB_EACH(k) {
                PB_AT(p, k) = store;
                store += PB_W * step;
            }
        }
        return p - begin;
    }

    /* Are groups of 16 words `first`, a word, plus multiples of the page size up to `span`?
       Flip them, until one is not; returns how many words. A word with other flags, less
       `first`, has bit 63 or a bit below a page, or is larger than any span: flags stand
       below the page size and above every address. `whole`: span + 1 page is a power of
       two, `bad` all bits beyond it. Words that end a block with their index, `at` and on,
       and with their frame, are counted in `gates`. */
    PB_INLINE size_t pb_within(uint64_t *p, size_t nr, uint64_t first, uint64_t span, uint64_t bad, uint64_t flip, int whole,
                               size_t at, unsigned shift, uint64_t gate, uint64_t *gates) {
        uint64_t *const end = p + nr / 16 * 16, *const begin = p;
        uint64_t ends = 0;
        for (at += 15; p != end; p += 16, at += 16) {
            pb_vec any = pb_all(0);
            PB_EACH(k) {
                pb_vec x = PB_AT(p, k) - first;
                if (!whole)
                    x |= span - x;
                any |= x;
            }
            if (!pb_zero(any & bad))
                break;
            ends += (at & p[15] >> shift & gate) == gate;
            PB_EACH(k) PB_AT(p, k) ^= pb_all(flip);
        }
        *gates += ends;
        return p - begin;
    }

    static __attribute__((noinline)) size_t pb_within_whole(uint64_t *p, size_t nr, uint64_t first, uint64_t span, uint64_t flip,
                                                            size_t at, unsigned shift, uint64_t gate, uint64_t *gates) {
        return pb_within(p, nr, first, span, ~span, flip, 1, at, shift, gate, gates);
    }

    static __attribute__((noinline)) size_t pb_within_span(uint64_t *p, size_t nr, uint64_t first, uint64_t span, uint64_t flip,
                                                           size_t at, unsigned shift, uint64_t gate, uint64_t *gates) {
        return pb_within(p, nr, first, span, 1ULL << 63 | ((1ULL << shift) - 1), flip, 0, at, shift, gate, gates);
    }

    /* how many bytes from `p` on are `byte`, at most `most` */
    static inline size_t pb_same_up(const uint8_t *p, size_t most, uint8_t byte) {
        const uint64_t want = 0x0101010101010101ULL * byte;
        size_t n = 0;
        for (; n + 64 <= most; n += 64) {
            pb_vec differ = pb_all(0);
            for (size_t k = 0; k < 64; k += 8 * PB_W)
                differ |= *(const pb_any *)(p + n + k) ^ want;
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
                differ |= *(const pb_any *)(p - n - 64 + k) ^ want;
            if (!pb_zero(differ))
                break;
        }
        while (n < most && p[-1 - (ptrdiff_t)n] == byte)
            n++;
        return n;
    }
    """
    size_t pb_frames_run(uint64_t *p, size_t nr, uint64_t flags, unsigned int shift, uint64_t base, uint64_t outside,
                         const uint8_t *pages, uint8_t byte, uint64_t flip, bint low,
                         size_t at, uint64_t gate, uint64_t *gates) noexcept nogil
    size_t pb_flip_run(uint64_t *p, size_t nr, uint64_t want, uint64_t step, uint64_t flip) noexcept nogil
    size_t pb_within_whole(uint64_t *p, size_t nr, uint64_t first, uint64_t span, uint64_t flip,
                           size_t at, unsigned int shift, uint64_t gate, uint64_t *gates) noexcept nogil
    size_t pb_within_span(uint64_t *p, size_t nr, uint64_t first, uint64_t span, uint64_t flip,
                          size_t at, unsigned int shift, uint64_t gate, uint64_t *gates) noexcept nogil
    size_t pb_same_up(const uint8_t *p, size_t most, uint8_t byte) noexcept nogil
    size_t pb_same_down(const uint8_t *p, size_t most, uint8_t byte) noexcept nogil
    void pb_xor16(uint64_t *p, uint64_t flip) noexcept nogil
