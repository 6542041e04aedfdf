# cython: language_level=3
"""Rewrite units that equal a remembered one: the loops that decide the speed.

Compiled twice from this source, for the baseline instruction set and for AVX2;
isa.py chooses one at import.
"""
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport uint64_t, uint8_t
from libc.string cimport memcmp

from ..arm64.mmu cimport addr_of
from ..arm64.pte cimport pte_addr_mask, pte_t, pte_valid
from .memo cimport BY_ORDER0, BY_UNIFORM, BY_WORDS, frames, memo, memo_pend, small_differs, stretch
from .seam cimport walk
from .simd cimport pb_flip_run, pb_frames_run, pb_same_down, pb_same_up, pb_within_span, pb_within_whole, pb_xor16

cdef extern from *:
    """
    #if defined(__x86_64__) && defined(__GNUC__)
    #include <cpuid.h>
    /* Has this CPU, and does its system keep, every feature of x86-64-v3? The compiler may use
       any of them in the build for it, so all are asked, by code of the build without. */
    static int pb_supports_v3(void) {
        const unsigned f1 = bit_SSE3 | bit_SSSE3 | bit_FMA | bit_CMPXCHG16B | bit_SSE4_1 | bit_SSE4_2 | bit_MOVBE | bit_POPCNT
                            | bit_OSXSAVE | bit_AVX | bit_F16C;
        const unsigned f7 = bit_BMI | bit_AVX2 | bit_BMI2, fx = bit_LAHF_LM | bit_ABM;
        unsigned a, b, c, d, low, high;
        if (!__get_cpuid(1, &a, &b, &c, &d) || (c & f1) != f1)
            return 0;
        if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (b & f7) != f7)
            return 0;
        if (!__get_cpuid(0x80000001, &a, &b, &c, &d) || (c & fx) != fx)
            return 0;
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        return (low & 6) == 6; /* XMM and YMM registers */
    }
    #else
    #define pb_supports_v3() 0
    #endif
    """
    int pb_supports_v3() noexcept nogil

cdef enum:
    LANES = 16
    CREDIT = 32                # pages to look at for an entry dealt with: as long as the entry takes
    IDLE = 8                   # groups outside the stretch that show it to be of no use


cdef void undo(pte_t *p, uint64_t flip, size_t nr) noexcept nogil:
    cdef size_t i = 0
    while i < nr:
        pb_xor16(p + i, flip)
        i += LANES


# Whole units of LANES or more entries among the first `most`, their frames one after
# another: compared and rewritten in one pass; a unit that differs in some part makes
# undone what was rewritten before that. Returns how many entries are done.
cdef inline size_t run_uniform(pte_t *p, size_t most, const memo *m, pte_t addr, uint64_t step, uint64_t flip) noexcept nogil:
    cdef size_t done = pb_flip_run(p, most, m.in_ptes[0] + addr, step, flip), rest = done & (m.nr - 1)
    undo(p + done - rest, flip, rest)
    return done - rest


# Units of LANES or more entries with equal flags: returns how many entries were rewritten.
# Where the metadata goes on alike, so many units are one run.
cdef size_t replay_uniform(walk *w, memo *m) noexcept nogil:
    cdef unsigned int shift = w.t.mmu.m.page_shift
    cdef uint64_t mask = pte_addr_mask(shift), step = <uint64_t>1 << shift, base = w.t.mmu.pfn_base
    cdef uint64_t flip = m.in_ptes[0] ^ m.out_ptes[0], nr_pages = w.t.mmu.nr_pages, at
    cdef const uint8_t *pages = w.t.mmu.pages
    cdef uint8_t byte = m.bytes[0]
    cdef size_t nr = m.nr, i = w.idx, alike, done
    cdef pte_t *p = w.t.leaf
    cdef pte_t addr
    while i + nr <= w.end:
        addr = p[i] & mask
        at = (addr >> shift) - base
        # frame aligned, metadata there and like the remembered one
        if (addr >> shift) & (nr - 1) or at >= nr_pages or at + nr > nr_pages or pages[at] != byte:
            break
        alike = pb_same_up(pages + at, min(w.end - i, nr_pages - at), byte) & ~(nr - 1)
        if alike == 0:
            if m.check_pages:
                break
            alike = nr
        done = run_uniform(p + i, alike, m, addr, step, flip)
        if done == 0:
            break
        i += done
    return i - w.idx


# small units, and units whose entries differ: word by word against the remembered ones
cdef inline bint unit_equal(const pte_t *p, const uint8_t *page, const memo *m, pte_t addr) noexcept nogil:
    cdef pte_t differ = 0
    cdef size_t i
    for i in range(m.nr):
        differ |= p[i] ^ (m.in_ptes[i] + addr)
    return differ == 0 and memcmp(page, m.bytes, m.nr) == 0


cdef size_t replay_words(walk *w, memo *m) noexcept nogil:
    cdef unsigned int shift = w.t.mmu.m.page_shift
    cdef uint64_t mask = pte_addr_mask(shift), at, pfn
    cdef uint64_t base = w.t.mmu.pfn_base, nr_pages = w.t.mmu.nr_pages
    cdef size_t nr = m.nr, i = w.idx, k
    cdef pte_t *p
    cdef pte_t addr
    cdef bint small = nr < w.t.mmu.m.cont_ptes
    while i + nr <= w.end:
        p = w.t.leaf + i
        addr = p[0] & mask
        pfn = addr >> shift
        at = pfn - base
        if pfn & (nr - 1) or at >= nr_pages or at + nr > nr_pages:
            break
        if small and small_differs(w, i, pfn, nr):
            break
        if p[0] != m.in_ptes[0] + addr or not unit_equal(p, w.t.mmu.pages + at, m, addr):
            break
        for k in range(nr):
            p[k] = m.out_ptes[k] + addr
        i += nr
    return i - w.idx


# one order-0 entry; 0: it differs
cdef inline bint entry_equal(const walk *w, const memo *m, pte_t word, uint64_t mask) noexcept nogil:
    cdef uint64_t at = ((word & mask) >> w.t.mmu.m.page_shift) - w.t.mmu.pfn_base
    return (word & ~mask) == m.in_ptes[0] and at < w.t.mmu.nr_pages and w.t.mmu.pages[at] == m.bytes[0]


# last entries of blocks among order-0 entries [i, next) whose frames follow one another from pfn on
cdef inline uint64_t gates_of(const frames *f, size_t i, size_t next, uint64_t pfn) noexcept nogil:
    if f.gate == <uint64_t>-1 or (pfn - i) & f.gate:
        return 0
    return (next >> f.gate_shift) - (i >> f.gate_shift)


# Order-0 entries whose frames follow one another, as far as the metadata goes on alike.
cdef inline size_t replay_row(pte_t *p, size_t i, size_t end, const frames *f, uint64_t nr_pages, uint64_t *gates) noexcept nogil:
    cdef uint64_t step = <uint64_t>1 << f.shift, addr, at
    cdef size_t done
    if i + LANES > end or p[i + LANES - 1] - p[i] != (LANES - 1) * step:
        return i
    addr = p[i] & f.mask
    at = (addr >> f.shift) - f.base
    if at >= nr_pages:
        return i
    done = pb_same_up(f.pages + at, min(end - i, nr_pages - at), f.byte)
    done = pb_flip_run(p + i, done, f.flags + addr, step, f.flip)
    gates[0] += gates_of(f, i, i + done, addr >> f.shift)
    return i + done


# Let the stretch reach this page; False: it cannot, or not yet.
cdef bint reach(stretch *k, const frames *f, size_t nr_pages, size_t at) noexcept nogil:
    cdef size_t most, n
    if at >= nr_pages:
        return False
    if k.lo == k.hi:
        k.lo = k.hi = at
        k.lo_ends = k.hi_ends = False
    if at >= k.hi:
        most = min(at + 1 - k.hi, k.credit)
        n = 0 if k.hi_ends else pb_same_up(f.pages + k.hi, most, f.byte)
        k.hi += n
        k.hi_ends |= n < most
    elif at < k.lo:
        most = min(k.lo - at, k.credit)
        n = 0 if k.lo_ends else pb_same_down(f.pages + k.lo, most, f.byte)
        k.lo -= n
        k.lo_ends |= n < most
    else:
        return True
    k.credit -= n
    return k.lo <= at < k.hi


# let it reach the frames of LANES entries
cdef bint reach16(stretch *k, const frames *f, size_t nr_pages, const pte_t *p) noexcept nogil:
    cdef size_t j
    for j in range(LANES):
        if (p[j] & ~f.mask) != f.flags or not reach(k, f, nr_pages, ((p[j] & f.mask) >> f.shift) - f.base):
            return False
    return True


# the same with frames in any order, inside the stretch
cdef inline size_t replay_within(
        pte_t *p, size_t i, size_t end, const frames *f, const stretch *k, uint64_t *gates) noexcept nogil:
    cdef uint64_t first = f.flags + ((f.base + k.lo) << f.shift), span = (k.hi - k.lo - 1) << f.shift
    if k.lo == k.hi or i + LANES > end:
        return i
    if (k.hi - k.lo) & (k.hi - k.lo - 1):
        return i + pb_within_span(p + i, end - i, first, span, f.flip, i, f.shift, f.gate, gates)
    return i + pb_within_whole(p + i, end - i, first, span, f.flip, i, f.shift, f.gate, gates)


# the same, each page looked at
cdef inline size_t replay_scattered(pte_t *p, size_t i, size_t end, const frames *f, uint64_t *gates) noexcept nogil:
    if i + LANES > end:
        return i
    return i + pb_frames_run(
        p + i, end - i, f.flags, f.shift, f.base, f.outside, f.pages, f.byte, f.flip, f.low, i, f.gate, gates)


# Inside the stretch as far as it reaches; a group outside it is looked at page by page.
cdef inline size_t replay_groups(walk *w, memo *m, size_t i, const frames *f, uint64_t *gates) noexcept nogil:
    cdef stretch *k = &m.known
    cdef pte_t *p = w.t.leaf
    cdef size_t end = w.end, next = replay_within(p, i, end, f, k, gates)
    if next != i:
        k.idle = 0
        return next
    # of no use here: page by page to the end of the table
    if k.idle < IDLE:
        if i + LANES <= end and reach16(k, f, w.t.mmu.nr_pages, p + i):
            return replay_within(p, i, end, f, k, gates)
        k.idle += 1
        end = min(end, i + LANES)
    return replay_scattered(p, i, end, f, gates)


cdef frames frames_of(const walk *w, const memo *m) noexcept nogil:
    cdef frames f
    cdef uint64_t whole = 1
    f.shift = w.t.mmu.m.page_shift
    f.mask = pte_addr_mask(f.shift)
    f.flags = m.in_ptes[0]
    f.flip = m.in_ptes[0] ^ m.out_ptes[0]
    f.base = w.t.mmu.pfn_base
    # frames below the largest power of two are inside without a comparison
    while 2 * whole <= w.t.mmu.nr_pages:
        whole *= 2
    f.outside = ~((whole - 1) << f.shift)
    # a unit that stored nothing (prot_numa passed over it) never comes to the gate
    f.gate = w.t.mmu.m.cont_ptes - 1 if w.t.mmu.m.contpte and m.c.set_ptes and pte_valid(m.out_ptes[0]) else <uint64_t>-1
    f.gate_shift = 0
    while (<uint64_t>1 << f.gate_shift) < w.t.mmu.m.cont_ptes:
        f.gate_shift += 1
    f.pages = w.t.mmu.pages
    f.low = (f.base + w.t.mmu.nr_pages) << f.shift <= <uint64_t>1 << 40
    f.byte = m.bytes[0]
    return f


# order 0: every entry a unit. The fold gate of a block's last entry is counted
# here: such a folio covers no block, so the try ends before it reads anything.
cdef size_t replay_order0(walk *w, memo *m) noexcept nogil:
    cdef const frames *f = &m.f
    cdef size_t i = w.idx, end = w.end, next
    cdef pte_t *p = w.t.leaf
    cdef uint64_t gates = 0
    if not m.ready:
        order0_begins(w, m)
    if not i & (LANES - 1):
        i = replay_row(p, i, end, f, w.t.mmu.nr_pages, &gates)
    if i < end:
        # one try a table, however idle
        m.known.idle = min(m.known.idle, IDLE - 1)
        m.known.credit += CREDIT * (end - i)
    while i < end:
        if not i & (LANES - 1):
            next = replay_groups(w, m, i, f, &gates)
            if next == i:
                next = replay_row(p, i, end, f, w.t.mmu.nr_pages, &gates)
            if next != i:
                i = next
                continue
        # the rest of a lane group, or a group in which some entry differs
        if not entry_equal(w, m, p[i], f.mask):
            break
        gates += (i & (p[i] & f.mask) >> f.shift & f.gate) == f.gate
        p[i] ^= f.flip
        i += 1
    w.t.mmu.c.fold_tries += gates
    return i - w.idx


# what is computed once for a remembered unit
cdef void order0_begins(const walk *w, memo *m) noexcept nogil:
    m.f = frames_of(w, m)
    m.ready = True
    if m.known.byte != m.f.byte:
        m.known.lo = m.known.hi = 0
        m.known.byte = m.f.byte


# as many units as equal the remembered one, from w.idx on; returns entries dealt with
cdef size_t replay(walk *w, memo *m) noexcept nogil:
    cdef size_t entries
    cdef int loop
    # a unit must lie in its contpte blocks as the remembered one did
    if m.nr >= w.t.mmu.m.cont_ptes and (w.idx & (w.t.mmu.m.cont_ptes - 1)) != m.phase:
        return 0
    if m.nr == 1:
        loop, entries = BY_ORDER0, replay_order0(w, m)
    elif m.uniform and m.nr >= LANES and m.nr >= w.t.mmu.m.cont_ptes:
        loop, entries = BY_UNIFORM, replay_uniform(w, m)
    else:
        loop, entries = BY_WORDS, replay_words(w, m)
    if entries:
        m.gain += entries
        m.replayed[loop] += entries
        memo_pend(w, m, addr_of(&w.t, w.idx), entries)
        w.idx += entries
    return entries


def supports_v3():
    """Whether this CPU runs the build for x86-64-v3. To be asked of the build without: importing the other may be too much."""
    return bool(pb_supports_v3())


def replay_capsule():
    """The replay function of this build, for `MM`."""
    return PyCapsule_New(<void *>replay, b"ptebatch.replay", NULL)
