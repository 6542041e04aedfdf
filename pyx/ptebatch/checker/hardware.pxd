# Hardware that sets AF or dirty of a valid entry between the steps of a call (spec 8.9).
#
# Whether it acts before or after a step that does not touch the entry makes no
# difference to either. So it is enough to let it act right after each access to an
# entry, and every interleaving is one sequence of such choices: none, AF, or a write,
# which sets both AF and dirty. The choices of a run are replayed up to the last one
# that can be made otherwise, depth first.
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from ..base.log cimport EV_CMPXCHG, EV_READ, EV_WRITE, EV_XCHG
from .smallworld cimport C_AF, C_CHG, C_RDONLY, C_VALID, C_WRITE, MAX_PTES, SOILED, YOUNG

cdef enum:
    STEPS = 512                # choices of one run
    UPDATES = 64               # updates of one run, for the record

# what hardware does at a step
cdef enum:
    NOTHING = 0
    ACCESS = 1
    STORE = 2

cdef struct interleaving:
    uint64_t *table
    uint32_t nr
    uint32_t shift
    uint32_t left              # updates it may still make in this run
    uint32_t given             # choices that are prescribed
    uint32_t steps             # choices met so far
    uint8_t[STEPS] choice
    uint8_t[STEPS] most        # the last choice possible at a step
    uint8_t[MAX_PTES] done     # YOUNG, SOILED: set by hardware in this run
    uint8_t[MAX_PTES] found    # the same, at the exchange before the entry got other rights
    uint8_t[MAX_PTES] moved    # it has other rights than before the call
    const uint64_t *initial    # the table before the call
    uint32_t events            # met so far
    uint32_t updates
    uint32_t[UPDATES] when     # after how many events
    uint8_t[UPDATES] entry
    uint8_t[UPDATES] what


cdef inline void hardware_begin(interleaving *h, uint32_t updates) noexcept nogil:
    cdef uint32_t i
    h.left = updates
    h.steps = h.events = h.updates = 0
    for i in range(h.nr):
        h.done[i] = h.found[i] = h.moved[i] = 0


# the next sequence of choices; False: all have been made
cdef inline bint hardware_next(interleaving *h) noexcept nogil:
    while h.steps:
        h.steps -= 1
        if h.choice[h.steps] < h.most[h.steps]:
            h.choice[h.steps] += 1
            h.given = h.steps + 1
            return True
    return False


cdef inline void hardware_update(interleaving *h, uint32_t i, uint8_t what) noexcept nogil:
    h.table[i] |= C_AF
    h.done[i] |= YOUNG
    if what == STORE:
        h.table[i] &= ~C_RDONLY
        h.done[i] |= SOILED
    h.left -= 1
    if h.updates < UPDATES:
        h.when[h.updates] = h.events
        h.entry[h.updates] = i
        h.what[h.updates] = what
        h.updates += 1


# the hook of a trace
cdef inline void hardware_step(void *arg, uint8_t kind, uint64_t addr) noexcept nogil:
    cdef interleaving *h = <interleaving *>arg
    cdef uint32_t i = <uint32_t>(addr >> h.shift), step
    cdef uint64_t p
    h.events += 1
    if (kind != EV_READ and kind != EV_WRITE and kind != EV_XCHG and kind != EV_CMPXCHG) or i >= h.nr:
        return
    p = h.table[i]
    if kind == EV_XCHG and not h.moved[i]:
        h.found[i] = h.done[i]
    elif kind == EV_WRITE and (p ^ h.initial[i]) & C_CHG & ~C_RDONLY:
        h.moved[i] = 1
    if not p & C_VALID or not h.left or h.steps == STEPS:
        return
    step = h.steps
    h.most[step] = STORE if p & C_WRITE and p & C_RDONLY else NOTHING if p & C_AF else ACCESS
    if h.most[step] == NOTHING:
        return
    h.steps += 1
    if step >= h.given:
        h.choice[step] = NOTHING
    if h.choice[step] > h.most[step]:
        h.choice[step] = h.most[step]  # a step that keeps state did something else last time
    if h.choice[step] == ACCESS and p & C_AF:
        h.choice[step] = STORE        # AF is set already: only a write changes anything
    if h.choice[step] != NOTHING:
        hardware_update(h, i, h.choice[step])
