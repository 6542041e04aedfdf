# Growable records of a run: run-length lists, ranges, and the event trace.
# They allocate, so they may fail: `oom` is set and the door raises MemoryError.
# A NULL log is a log that nobody asked for. No Python objects.
from libc.stdint cimport uint64_t, uint8_t
from libc.stdlib cimport free, realloc

cdef struct pair:
    uint64_t a
    uint64_t b

cdef struct pairs:          # run-length [count, value], or ranges [start, size]
    pair *at
    size_t nr
    size_t room
    bint oom

# A log of lengths may hold maps instead, to be expanded when it is read: `a` has a bit
# for each of 64 entries with which a segment begins. Where not all are present, a map of
# those that are stands before it; what is left of the last segment follows as LOG_TAIL.
cdef enum:
    LOG_MAP = -1
    LOG_TAIL = -2
    LOG_PRESENT = -3

# one event of a trace; `kind` is an EV_ number, see pkg/ptebatch/events.py
cdef packed struct event:
    uint8_t kind
    uint64_t addr
    uint64_t value

cdef struct trace:
    event *at
    size_t nr
    size_t room
    bint oom
    # called after each event, unless NULL: what else happens at that moment
    void (*hook)(void *arg, uint8_t kind, uint64_t addr) noexcept nogil
    void *hook_arg

cdef enum:
    EV_READ = 1
    EV_WRITE = 2
    EV_XCHG = 3
    EV_CMPXCHG = 4
    EV_VALE1IS = 5
    EV_RVALE1IS = 6
    EV_ASIDE1IS = 7
    EV_DSB_ISHST = 8
    EV_DSB_ISH = 9
    EV_PAE = 10
    EV_BATCH = 11
    EV_START = 12
    EV_COMMIT = 13
    EV_FOLD = 14
    EV_UNFOLD = 15
    EV_GATHER = 16
    EV_LOCK = 17
    EV_UNLOCK = 18


cdef inline bint pairs_grow(pairs *p) noexcept nogil:
    cdef size_t room = 2 * p.room if p.room else 16
    cdef pair *at = <pair *>realloc(p.at, room * sizeof(pair))
    if at == NULL:
        p.oom = True
        return False
    p.at = at
    p.room = room
    return True


cdef inline void pairs_add(pairs *p, uint64_t a, uint64_t b) noexcept nogil:
    if p.nr == p.room and not pairs_grow(p):
        return
    p.at[p.nr].a = a
    p.at[p.nr].b = b
    p.nr += 1


# append `count` times `value` to a run-length list
cdef inline void pairs_run(pairs *p, uint64_t count, uint64_t value) noexcept nogil:
    if p.nr and p.at[p.nr - 1].b == value:
        p.at[p.nr - 1].a += count
    else:
        pairs_add(p, count, value)


# a log of lengths without its maps; False: no memory
cdef inline bint pairs_expand(pairs *to, const pair *at, size_t nr) noexcept nogil:
    cdef uint64_t open = 0, present = ~<uint64_t>0
    cdef size_t k
    cdef unsigned int i
    for k in range(nr):
        if at[k].b == <uint64_t>LOG_PRESENT:
            present = at[k].a
        elif at[k].b == <uint64_t>LOG_MAP:
            for i in range(64):
                if open and (at[k].a >> i & 1 or not present >> i & 1):
                    pairs_run(to, 1, open)
                    open = 0
                open += present >> i & 1
            present = ~<uint64_t>0
        elif at[k].b == <uint64_t>LOG_TAIL:
            if open + at[k].a:
                pairs_run(to, 1, open + at[k].a)
            open = 0
        else:
            pairs_run(to, at[k].a, at[k].b)
    return not to.oom


cdef inline void pairs_clear(pairs *p) noexcept nogil:
    p.nr = 0
    p.oom = False


cdef inline void pairs_free(pairs *p) noexcept nogil:
    free(p.at)
    p.at = NULL
    p.nr = p.room = 0


cdef inline void trace_grow(trace *t) noexcept nogil:
    cdef size_t room = 2 * t.room if t.room else 256
    cdef event *at = <event *>realloc(t.at, room * sizeof(event))
    if at == NULL:
        t.oom = True
        return
    t.at = at
    t.room = room


cdef inline void trace_emit(trace *t, uint8_t kind, uint64_t addr, uint64_t value) noexcept nogil:
    if t.nr == t.room:
        trace_grow(t)
        if t.nr == t.room:
            return
    t.at[t.nr].kind = kind
    t.at[t.nr].addr = addr
    t.at[t.nr].value = value
    t.nr += 1
    if t.hook != NULL:
        t.hook(t.hook_arg, kind, addr)
