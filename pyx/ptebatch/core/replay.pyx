# cython: language_level=3
"""Rewrite units that equal a remembered one: the loops that decide the speed.

Compiled twice from this source, for the baseline instruction set and for AVX2;
isa.py chooses one at import.
"""
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp

from .memo cimport frames, memo, memo_pend, small_differs, stretch
from .mm_struct cimport addr_of
from .pte cimport pte_addr_mask, pte_t, pte_valid
from .simd cimport pb_bytes16, pb_flip16, pb_frames16, pb_same_down, pb_same_up, pb_within16, pb_xor16
from .strategy cimport walk

cdef extern from *:
    """
    #if defined(__x86_64__) && defined(__GNUC__)
    #define pb_supported() (__builtin_cpu_init(), __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2"))
    #else
    #define pb_supported() 0
    #endif
    """
    int pb_supported() noexcept nogil

cdef enum:
    LANES = 16
    CREDIT = 32                # pages to look at for an entry dealt with: as long as the entry takes
    IDLE = 8                   # groups outside the stretch that show it to be of no use


# One unit of LANES or more entries with equal flags: compare and rewrite in one
# pass; a part that differs makes undone what was rewritten before it.
cdef inline bint unit_uniform(
        pte_t *p, const uint8_t *page, pte_t want, uint64_t flip, size_t nr, uint64_t step, uint64_t bytes,
        bint pages) noexcept nogil:
    cdef size_t i = 0
    while i < nr:
        if (pages and not pb_bytes16(page + i, bytes)) or not pb_flip16(p + i, want + i * step, step, flip):
            undo(p, flip, i)
            return False
        i += LANES
    return True


cdef void undo(pte_t *p, uint64_t flip, size_t nr) noexcept nogil:
    cdef size_t i = 0
    while i < nr:
        pb_xor16(p + i, flip)
        i += LANES


# units of LANES or more entries: returns how many were rewritten
cdef size_t replay_uniform(walk *w, memo *m) noexcept nogil:
    cdef unsigned int shift = w.t.mm.m.page_shift
    cdef uint64_t mask = pte_addr_mask(shift), step = <uint64_t>1 << shift
    cdef pte_t before = m.in_ptes[0], addr
    cdef uint64_t flip = before ^ m.out_ptes[0], unaligned = (<uint64_t>m.nr << shift) - step
    cdef uint64_t bytes = <uint64_t>0x0101010101010101 * m.bytes[0], at
    cdef uint64_t base = w.t.mm.pfn_base, last = w.t.mm.nr_pages - m.nr
    cdef const uint8_t *pages = w.t.mm.pages
    cdef uint8_t byte = m.bytes[0]
    cdef size_t nr = m.nr, units = 0
    cdef pte_t *p = w.t.leaf + w.idx
    cdef const pte_t *end = w.t.leaf + w.end
    cdef bint check = m.check_pages
    cdef bint small = nr < w.t.mm.m.cont_ptes
    if m.nr > w.t.mm.nr_pages:
        return 0
    while p + nr <= end:
        addr = p[0] & mask
        at = (addr >> shift) - base
        if small and small_differs(w, p - w.t.leaf, addr >> shift, nr):
            break
        # frame aligned, metadata there and like the remembered one
        if addr & unaligned or at > last or pages[at] != byte:
            break
        if not unit_uniform(p, pages + at, before + addr, flip, nr, step, bytes, check):
            break
        p += nr
        units += 1
    return units


# small units, and units whose entries differ: word by word against the remembered ones
cdef inline bint unit_equal(const pte_t *p, const uint8_t *page, const memo *m, pte_t addr) noexcept nogil:
    cdef pte_t differ = 0
    cdef size_t i
    for i in range(m.nr):
        differ |= p[i] ^ (m.in_ptes[i] + addr)
    return differ == 0 and memcmp(page, m.bytes, m.nr) == 0


cdef size_t replay_words(walk *w, memo *m) noexcept nogil:
    cdef unsigned int shift = w.t.mm.m.page_shift
    cdef uint64_t mask = pte_addr_mask(shift), at, pfn
    cdef uint64_t base = w.t.mm.pfn_base, nr_pages = w.t.mm.nr_pages
    cdef size_t nr = m.nr, units = 0, i = w.idx, k
    cdef pte_t *p
    cdef pte_t addr
    cdef bint small = nr < w.t.mm.m.cont_ptes
    while i + nr <= w.end:
        p = w.t.leaf + i
        addr = p[0] & mask
        pfn = addr >> shift
        at = pfn - base
        if pfn & (nr - 1) or at >= nr_pages or at + nr > nr_pages:
            break
        if small and small_differs(w, i, pfn, nr):
            break
        if p[0] != m.in_ptes[0] + addr or not unit_equal(p, w.t.mm.pages + at, m, addr):
            break
        for k in range(nr):
            p[k] = m.out_ptes[k] + addr
        i += nr
        units += 1
    return units


# one order-0 entry; 0: it differs
cdef inline bint entry_equal(const walk *w, const memo *m, pte_t word, uint64_t mask) noexcept nogil:
    cdef uint64_t at = ((word & mask) >> w.t.mm.m.page_shift) - w.t.mm.pfn_base
    return (word & ~mask) == m.in_ptes[0] and at < w.t.mm.nr_pages and w.t.mm.pages[at] == m.bytes[0]


# LANES order-0 entries at a time whose frames follow one another
cdef inline size_t replay_row(pte_t *p, size_t i, size_t end, const frames *f, uint64_t *gates) noexcept nogil:
    cdef uint64_t step = <uint64_t>1 << f.shift, bytes = <uint64_t>0x0101010101010101 * f.byte, addr, at
    while i + LANES <= end:
        addr = p[i] & f.mask
        at = (addr >> f.shift) - f.base
        if at > f.last16 or not pb_bytes16(f.pages + at, bytes) or not pb_flip16(p + i, f.flags + addr, step, f.flip):
            break
        i += LANES
        gates[0] += ((i - 1) & ((addr >> f.shift) + LANES - 1) & f.gate) == f.gate
    return i


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
    cdef uint64_t pfn, first = (f.base + k.lo) << f.shift, last = (f.base + k.hi - 1) << f.shift
    cdef uint64_t bad = <uint64_t>1 << 63 | ~f.mask & ((<uint64_t>1 << f.shift) - 1)
    if k.lo == k.hi:
        return i
    while i + LANES <= end:
        pfn = (p[i + LANES - 1] & f.mask) >> f.shift
        if not pb_within16(p + i, f.flags, first, last, bad, f.flip):
            break
        i += LANES
        gates[0] += ((i - 1) & pfn & f.gate) == f.gate
    return i


# the same, each page looked at
cdef inline size_t replay_scattered(pte_t *p, size_t i, size_t end, const frames *f, uint64_t *gates, bint low) noexcept nogil:
    cdef uint64_t pfn
    cdef size_t page0 = <size_t>f.pages - f.base
    while i + LANES <= end:
        pfn = (p[i + LANES - 1] & f.mask) >> f.shift
        if not pb_frames16(p + i, f.flags, f.shift, f.base << f.shift, f.outside, page0, f.byte, f.flip, low):
            break
        i += LANES
        gates[0] += ((i - 1) & pfn & f.gate) == f.gate
    return i


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
        if i + LANES <= end and reach16(k, f, w.t.mm.nr_pages, p + i):
            return replay_within(p, i, end, f, k, gates)
        k.idle += 1
        end = min(end, i + LANES)
    if f.low:
        return replay_scattered(p, i, end, f, gates, True)
    return replay_scattered(p, i, end, f, gates, False)


# computed once for a remembered unit
cdef frames frames_of(const walk *w, const memo *m) noexcept nogil:
    cdef frames f
    cdef uint64_t whole = 1
    f.shift = w.t.mm.m.page_shift
    f.mask = pte_addr_mask(f.shift)
    f.flags = m.in_ptes[0]
    f.flip = m.in_ptes[0] ^ m.out_ptes[0]
    f.base = w.t.mm.pfn_base
    f.last16 = w.t.mm.nr_pages - LANES if w.t.mm.nr_pages >= LANES else 0
    # frames below the largest power of two are inside without a comparison
    while 2 * whole <= w.t.mm.nr_pages:
        whole *= 2
    f.outside = ~((whole - 1) << f.shift)
    # a unit that stored nothing (prot_numa passed over it) never comes to the gate
    f.gate = w.t.mm.m.cont_ptes - 1 if w.t.mm.m.contpte and m.c.set_ptes and pte_valid(m.out_ptes[0]) else <uint64_t>-1
    f.pages = w.t.mm.pages
    f.low = (f.base + w.t.mm.nr_pages) << f.shift <= <uint64_t>1 << 40
    f.byte = m.bytes[0]
    return f


# order 0: every entry a unit. The fold gate of a block's last entry is counted
# here: such a folio covers no block, so the try ends before it reads anything.
cdef size_t replay_order0(walk *w, memo *m) noexcept nogil:
    cdef frames f
    cdef size_t i = w.idx, end = w.end, next
    cdef pte_t *p = w.t.leaf
    cdef uint64_t gates = 0
    if not m.ready:
        m.f = frames_of(w, m)
        m.ready = True
        if m.known.byte != m.f.byte:
            m.known.lo = m.known.hi = 0
            m.known.byte = m.f.byte
    f = m.f
    # one try a table, however idle
    m.known.idle = min(m.known.idle, IDLE - 1)
    m.known.credit += CREDIT * (end - i)
    while i < end:
        if not i & (LANES - 1):
            next = replay_row(p, i, end, &f, &gates)
            if next == i:
                next = replay_groups(w, m, i, &f, &gates)
            if next != i:
                i = next
                continue
        # the rest of a lane group, or a group in which some entry differs
        if not entry_equal(w, m, p[i], f.mask):
            break
        gates += (i & (p[i] & f.mask) >> f.shift & f.gate) == f.gate
        p[i] ^= f.flip
        i += 1
    w.t.mm.c.fold_tries += gates
    return i - w.idx


# as many units as equal the remembered one, from w.idx on; returns entries dealt with
cdef size_t replay(walk *w, memo *m) noexcept nogil:
    cdef size_t units
    # a unit must lie in its contpte blocks as the remembered one did
    if m.nr >= w.t.mm.m.cont_ptes and (w.idx & (w.t.mm.m.cont_ptes - 1)) != m.phase:
        return 0
    if m.nr == 1:
        units = replay_order0(w, m)
    elif m.uniform and m.nr >= LANES and m.nr >= w.t.mm.m.cont_ptes:
        units = replay_uniform(w, m)
    else:
        units = replay_words(w, m)
    if units:
        m.gain += units * m.nr
        memo_pend(w, m, addr_of(&w.t, w.idx), units)
        w.idx += units * m.nr
    return units * m.nr


def supported():
    """Whether this CPU runs the AVX2 build."""
    return bool(pb_supported())


def replay_capsule():
    """The replay function of this build, for mm.pyx."""
    return PyCapsule_New(<void *>replay, b"ptebatch.replay", NULL)
