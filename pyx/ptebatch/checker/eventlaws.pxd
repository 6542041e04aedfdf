# The laws that are judged by the order of events: units of a strategy, and a TLB.
#
# The TLB model (spec 9): an entry of any valid word that memory holds, or held before
# the last barrier, may be cached at any time, the whole block if it is CONT. A TLBI
# names what it covers, any address inside a cached block names the block; a DSB ISH
# that follows removes what was named, unless a walk may have read it again.
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from ..base.log cimport (
    EV_ASIDE1IS, EV_BATCH, EV_CMPXCHG, EV_COMMIT, EV_DSB_ISH, EV_DSB_ISHST, EV_FOLD, EV_PAE, EV_RVALE1IS, EV_START,
    EV_UNFOLD, EV_VALE1IS, EV_WRITE, EV_XCHG, event, trace,
)
from .smallworld cimport (
    C_AD, C_AF, C_ATTR, C_CONT, C_SH, C_USER, C_UXN, C_VALID, C_WRITE, MAX_PTES, O_ANON, O_ORDER, PRESENT, SOILED,
    address, facts, frame, present, world,
)
from .tablelaws cimport (
    AD_SPREAD, ASKED, BBM, COUNTS, CP_TRY, GATHER_RESET, OK, SHARED_WRITE, TLB_RIGHTS, UNIT, V_SHARED, gained, outcome,
    present_after, skipped, verdict,
)

cdef enum:
    CACHED = 12                # words that one page may be cached with during a call
    VISIBLE = 1                # a walk may still read it from memory
    NAMED = 2                  # a TLBI has named it

    STARTED = 1
    DONE = 2

cdef struct tlb:
    uint64_t[MAX_PTES] memory
    uint64_t[MAX_PTES][CACHED] word
    uint8_t[MAX_PTES][CACHED] mark
    uint8_t[MAX_PTES] nr
    uint32_t converting        # stores that a contpte conversion still makes
    uint32_t saw


# Is AF set, of a folded block in any entry? A word without is in no TLB. Hardware that sets it
# does so in memory, where the exchange finds it: that is another world.
cdef inline bint tlb_accessed(const tlb *t, const facts *f, uint32_t i, uint64_t p) noexcept nogil:
    cdef uint32_t first = i & ~(f.block - 1), k
    if not p & C_CONT:
        return (p & C_AF) != 0
    for k in range(first, first + f.block):
        if t.memory[k] & C_CONT and t.memory[k] & C_AF:
            return True
    return False


# the word can now be walked
cdef inline bint tlb_walkable(tlb *t, const facts *f, uint32_t i, uint64_t p) noexcept nogil:
    cdef uint32_t k
    if not p & C_VALID or not tlb_accessed(t, f, i, p):
        return True
    for k in range(t.nr[i]):
        if t.word[i][k] == p:
            t.mark[i][k] |= VISIBLE
            return True
    if t.nr[i] == CACHED:
        return False
    t.word[i][t.nr[i]] = p
    t.mark[i][t.nr[i]] = VISIBLE
    t.nr[i] += 1
    return True


# May a valid word stand beside those that are cached? (I-12: frame, block size,
# shareability and attributes, Normal to Tagged apart; permissions may change)
cdef inline int tlb_store(tlb *t, const facts *f, const outcome *o, uint32_t i, uint64_t p) noexcept nogil:
    cdef uint32_t k, flip = 0
    cdef uint64_t q, attr
    t.memory[i] = p
    if p & C_VALID:
        for k in range(t.nr[i]):
            q = t.word[i][k] ^ p
            attr = q & C_ATTR
            if q & (address(f.shift) | C_SH) or (attr and ((t.word[i][k] | p) & C_ATTR) > 4):
                return BBM
            if q & C_CONT and not o.m.elides_bbm:
                flip = <uint32_t>1 << (i // f.block) if p & C_CONT else <uint32_t>0x100 << (i // f.block)
    if flip and t.converting:
        return BBM
    t.saw |= flip
    return OK if tlb_walkable(t, f, i, p) else BBM


# stores are complete: walks read memory as it is
cdef inline void tlb_barrier(tlb *t, uint32_t nr) noexcept nogil:
    cdef uint32_t i, k
    for i in range(nr):
        for k in range(t.nr[i]):
            if t.word[i][k] != t.memory[i]:
                t.mark[i][k] &= ~VISIBLE


cdef inline void tlb_invalidate(tlb *t, const facts *f, uint64_t first, uint64_t last) noexcept nogil:
    cdef uint32_t i, k, b
    for i in range(f.nr):
        b = i & ~(f.block - 1)
        for k in range(t.nr[i]):
            if first <= i < last or (t.word[i][k] & C_CONT and b < last and b + f.block > first):
                t.mark[i][k] |= NAMED


cdef inline void tlb_complete(tlb *t, uint32_t nr) noexcept nogil:
    cdef uint32_t i, k, kept
    for i in range(nr):
        kept = 0
        for k in range(t.nr[i]):
            if t.mark[i][k] & VISIBLE or not t.mark[i][k] & NAMED:
                t.word[i][kept] = t.word[i][k]
                t.mark[i][kept] = t.mark[i][k] & VISIBLE
                kept += 1
        t.nr[i] = kept


# does a cached word let EL0 do what the table's word denies?
cdef inline bint grants_more(uint64_t c, uint64_t p) noexcept nogil:
    if not p & C_VALID or (c & C_USER and not p & C_USER) or (not c & C_UXN and p & C_UXN):
        return True
    return (c & C_USER) != 0 and (c & C_WRITE) != 0 and not p & C_WRITE


cdef inline int tlb_event(tlb *t, const facts *f, const outcome *o, const event *e, uint32_t i) noexcept nogil:
    cdef int law = OK
    if e.kind == EV_XCHG:
        t.memory[i] = 0
    elif e.kind == EV_WRITE or e.kind == EV_CMPXCHG:
        law = tlb_store(t, f, o, i, e.value)
        t.converting -= t.converting != 0
    elif e.kind == EV_FOLD or e.kind == EV_UNFOLD:
        t.converting = f.block
    elif e.kind == EV_VALE1IS or e.kind == EV_RVALE1IS:
        tlb_invalidate(t, f, i, i + e.value)
    elif e.kind == EV_ASIDE1IS:
        tlb_invalidate(t, f, 0, f.nr)
    elif e.kind == EV_DSB_ISHST:
        tlb_barrier(t, f.nr)
    elif e.kind == EV_DSB_ISH:
        # stores that no barrier completed before the TLBI may have been overtaken by it
        tlb_complete(t, f.nr)
        tlb_barrier(t, f.nr)
    return law


# The events of a call and of its final flush. The gather must be flushed before.
cdef inline verdict judge_tlb(const world *x, const facts *f, const outcome *o, const trace *tr) noexcept nogil:
    cdef verdict v
    cdef tlb t
    cdef size_t e
    cdef uint32_t i, k
    t.converting = t.saw = v.missed = 0
    v.law = GATHER_RESET if o.tlb.cleared_ptes or o.tlb.start != <uint64_t>-1 or o.tlb.end else OK
    v.entry = -1
    for i in range(f.nr):
        t.nr[i] = 0
        t.memory[i] = x.ptes[i]
    for i in range(f.nr):
        tlb_walkable(&t, f, i, x.ptes[i])
    for e in range(tr.nr):
        if v.law or tr.at[e].kind == EV_PAE:
            continue
        i = <uint32_t>(tr.at[e].addr >> f.shift)
        if i < f.nr:
            v.law = tlb_event(&t, f, o, &tr.at[e], i)
            v.entry = i if v.law else -1
    v.saw = t.saw
    for i in range(f.nr):
        for k in range(t.nr[i]):
            if v.law == OK and grants_more(t.word[i][k], o.table[i]):
                v.law = TLB_RIGHTS
                v.entry = i
    return v

# ---- units: rules 1, 2, 3 and 7 of spec 7.9 ----

# entries of a unit: present, of one folio, equal in all but A/D and folding
cdef inline bint one_unit(const tlb *t, const facts *f, uint32_t i, uint64_t nr) noexcept nogil:
    cdef uint32_t k
    cdef uint64_t p = t.memory[i], pfn = frame(p, f.shift)
    for k in range(nr):
        if not present(t.memory[i + k]) or (t.memory[i + k] ^ p) & ~(address(f.shift) | C_AD):
            return False
        if frame(t.memory[i + k], f.shift) != pfn + k or (k and not f.paged[i]):
            return False
    return nr == 1 or pfn >> (f.meta[i] & O_ORDER) == (pfn + nr - 1) >> (f.meta[i] & O_ORDER)


cdef inline bint move(uint8_t *state, uint32_t i, uint64_t nr, uint8_t old) noexcept nogil:
    cdef uint64_t k
    for k in range(nr):
        if state[i + k] != old:
            return False
        state[i + k] = old + 1
    return True


# PageAnonExclusive may be read of anonymous pages only, and a scan stays in the folios that the range maps
cdef inline bint may_ask(const world *x, const facts *f, uint64_t pfn) noexcept nogil:
    cdef uint32_t i
    for i in range(x.start, x.end):
        if f.paged[i] and f.meta[i] & O_ANON and (frame(x.ptes[i], f.shift) ^ pfn) >> (f.meta[i] & O_ORDER) == 0:
            return True
    return False


# ---- A/D: a step may give what it holds, started and not committed yet, to all that it holds (spec 7.10) ----

cdef struct flow:
    uint8_t[MAX_PTES] may
    uint8_t[MAX_PTES] held
    uint32_t nr                # that are held
    uint8_t every              # what they have, together


# an event of entries [i, last)
cdef inline void pass_on(flow *a, uint8_t kind, uint32_t i, uint32_t last) noexcept nogil:
    cdef uint32_t k
    cdef uint8_t seen = 0
    cdef bint open = kind == EV_START
    for k in range(i, last):
        seen |= a.may[k]
        open = open or a.held[k]
    # a block that start() unfolds: its A/D go on to all that is started
    if open:
        a.every |= seen
    for k in range(i, last):
        if kind == EV_START:
            a.nr += not a.held[k]
            a.held[k] = 1
        elif kind == EV_COMMIT:
            a.may[k] = a.every
            a.nr -= a.held[k]
            a.held[k] = 0
        else:
            a.may[k] = seen
    if a.nr == 0:
        a.every = 0


cdef inline int judge_spread(
    const world *x, const facts *f, const outcome *o, const flow *a, uint32_t i
) noexcept nogil:
    cdef uint64_t new = o.table[i]
    if f.kind[i] != PRESENT or not present(new):
        return OK
    if (x.vm_flags & V_SHARED and x.cp_flags & CP_TRY and x.start <= i < x.end and not skipped(x, f, i)
            and new & ~present_after(x, x.ptes[i]) & C_WRITE and not a.may[i] & SOILED):
        return SHARED_WRITE
    return AD_SPREAD if gained(o, new, a.may[i]) else OK


# Entries are started in units of one folio, once each, in any order, and then committed. `missed` of the
# verdict: entries of which no batch was recorded, though some were.
cdef inline verdict judge_units(const world *x, const facts *f, const outcome *o, const trace *tr) noexcept nogil:
    cdef verdict v
    cdef tlb t
    cdef uint8_t[MAX_PTES] state
    cdef size_t e
    cdef uint64_t batches = 0, handled = 0
    cdef uint32_t i
    cdef const event *at
    cdef flow a
    a.nr = a.every = 0
    v.law = OK
    v.saw = v.missed = 0
    for i in range(f.nr):
        t.memory[i] = x.ptes[i]
        state[i] = 0
        a.may[i] = f.may[i]
        a.held[i] = 0
    for e in range(tr.nr):
        at = &tr.at[e]
        i = <uint32_t>(at.addr >> f.shift)
        v.entry = i
        if at.kind == EV_PAE and not may_ask(x, f, at.addr):
            v.law = ASKED
            v.entry = -1
            return v
        if at.kind == EV_PAE or i >= f.nr:
            continue
        if at.kind == EV_XCHG or at.kind == EV_WRITE:
            t.memory[i] = 0 if at.kind == EV_XCHG else at.value
        elif at.kind == EV_BATCH:
            batches += at.value
        elif (at.kind == EV_FOLD or at.kind == EV_UNFOLD) and i + at.value <= f.nr:
            pass_on(&a, at.kind, i, i + <uint32_t>at.value)
        elif at.kind == EV_START:
            if i + at.value > f.nr or not one_unit(&t, f, i, at.value) or not move(state, i, at.value, 0):
                v.law = UNIT
                return v
            pass_on(&a, EV_START, i, i + <uint32_t>at.value)
        elif at.kind == EV_COMMIT:
            if i + at.value > f.nr or not move(state, i, at.value, STARTED):
                v.law = UNIT
                return v
            pass_on(&a, EV_COMMIT, i, i + <uint32_t>at.value)
    for i in range(f.nr):
        v.entry = i
        if state[i] != (DONE if x.start <= i < x.end and f.kind[i] == PRESENT and not skipped(x, f, i) else 0):
            v.law = UNIT
            return v
        handled += state[i] == DONE
    for i in range(f.nr):
        v.entry = i
        v.law = judge_spread(x, f, o, &a, i)
        if v.law:
            return v
    v.entry = -1
    if batches > handled:
        v.law = COUNTS
    elif batches:
        v.missed = handled - batches
    return v
