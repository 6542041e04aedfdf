# change_protection(): the walk over one VMA's leaf tables, and change_pte_range(), the
# loop over one of them that every strategy shares. It reads each entry, skips what
# prot_numa skips, deals with entries that are not present, and leaves present ones to
# the strategy's step. Counterpart: mm/mprotect.c. Rules: spec 6.5, 6.7.
from libc.stdint cimport int64_t, uint64_t
from ..arm64.mmu cimport emit, folio_large, folio_of_pte
from ..arm64.pgtable cimport DESC_TABLE, pgtable_index, pmd_offset
from ..arm64.pte cimport pte_none, pte_present, pte_protnone, pte_t
from ..arm64.ptep cimport ptep_get
from ..arm64.tlb cimport tlb_end_vma
from ..base.log cimport EV_LOCK, EV_UNLOCK
from ..base.page_flags cimport PG_NUMA_SKIP
from ..base.vm_flags cimport MM_CP_PROT_NUMA, MM_CP_UFFD_WP, MM_CP_UFFD_WP_RESOLVE
from ..batch.folio_batch cimport folio_pte_batch_flags
from ..batch.memo cimport (
    aside, large, memo, memo_begin, memo_copy_in, memo_count, memo_end, memo_fits, memo_regular,
    memo_start, memo_turn, memo_wanted, one_order,
)
from ..batch.seam cimport STRATEGY_LOOKUP, STRATEGY_PURE, max_nr, strategy, walk
from .mm_struct cimport mm_struct
from .softleaf cimport change_none_pte, change_softleaf_pte


# entries that prot_numa passes over; 0: none
cdef inline size_t numa_skips(walk *w) noexcept nogil:
    if w.f.nr and not w.f.flags & PG_NUMA_SKIP:
        return 0
    if not folio_large(&w.f):
        return 1
    return folio_pte_batch_flags(&w.t, w.idx, &w.f, w.old, max_nr(w), 0)


cdef inline int64_t change_present_ptes(walk *w, const strategy *s) noexcept nogil:
    cdef bint numa = (w.cp_flags & MM_CP_PROT_NUMA) != 0
    cdef size_t skip
    if numa and pte_protnone(w.old):
        return 1
    w.f = folio_of_pte(w.t.mmu, w.old)
    if s.flags & STRATEGY_LOOKUP:
        w.t.mmu.c.normal_page += 1
        if numa:
            skip = numa_skips(w)
            if skip:
                return skip
    elif numa:
        w.t.mmu.c.normal_page += 1
        if w.f.nr == 0 or w.f.flags & PG_NUMA_SKIP:
            return 1
    return s.step(w)


# one entry, or the batch that begins at it
cdef inline void change_one(walk *w, const strategy *s) noexcept nogil:
    cdef int64_t nr
    w.old = ptep_get(&w.t, w.idx)
    if pte_present(w.old):
        nr = change_present_ptes(w, s)
        if nr <= 0 or nr > <int64_t>max_nr(w):
            # only a strategy from outside can do this: stop rather than loop for ever
            w.failed = True
            return
        w.idx += nr
        return
    if pte_none(w.old):
        change_none_pte(w)
    else:
        change_softleaf_pte(w)
    w.idx += 1


# run the unit of nr entries at w.idx and remember what it did
cdef inline void learn(walk *w, const strategy *s, memo *m, size_t nr) noexcept nogil:
    cdef size_t first = w.idx, end = w.end
    cdef aside a
    memo_copy_in(w, m, nr)
    memo_begin(w, m, &a)
    if m.formula and nr >= 64 and one_order(m):
        w.end = first + nr
        memo_regular(w, m)
        w.end = end
    while w.idx < first + nr and not w.failed:
        change_one(w, s)
    memo_end(w, m, &a, first)


# As many entries as a memo knows how to do at once: units that it remembers, one to be
# remembered, what is regular. False: the next entry is to be done by itself.
cdef inline bint change_at_once(walk *w, const strategy *s) noexcept nogil:
    cdef memo *m = <memo *>w.memo
    cdef size_t nr
    if m.only_maps:
        return memo_regular(w, m) != 0
    if m.valid and m.replay(w, m):
        return True
    memo_count(w, m)
    if m.other.valid and m.other.replay(w, m.other):
        memo_turn(w, m)
        return True
    nr = memo_wanted(w, m)
    if not nr:
        return memo_regular(w, m) != 0
    # what was remembered last stays: two kinds of units may take turns
    learn(w, s, memo_turn(w, m) if m.valid and large(m) else m, nr)
    return True


cdef inline void change_pte_range(walk *w, const strategy *s) noexcept nogil:
    w.t.mmu.c.pte_locks += 1
    emit(&w.t, EV_LOCK, w.idx, w.end - w.idx)
    while w.idx < w.end and not w.failed:
        if w.memo == NULL or not change_at_once(w, s):
            change_one(w, s)
    emit(&w.t, EV_UNLOCK, w.end - 1, 0)


# maps know nothing of hinting faults and userfaultfd
cdef inline int formula_of(const walk *w, const strategy *s) noexcept nogil:
    return 0 if w.cp_flags & (MM_CP_PROT_NUMA | MM_CP_UFFD_WP | MM_CP_UFFD_WP_RESOLVE) else s.formula


# the address space's memo, cleared, if this call can use it
cdef inline void *memo_for(mm_struct *mm, const walk *w, const strategy *s, uint64_t pages) noexcept nogil:
    cdef memo *m = mm.memo
    if m == NULL or pages < 64 or mm.mmu.tr != NULL or not s.flags & STRATEGY_PURE or not memo_fits(&mm.mmu):
        return NULL
    memo_start(m, pages, formula_of(w, s))
    return m


# change_protection(): every leaf table of [start, end), one VMA
cdef inline bint change_protection(mm_struct *mm, uint64_t start, uint64_t end, walk *w, const strategy *s) noexcept nogil:
    cdef uint64_t span = <uint64_t>mm.mmu.m.ptrs_per_pte << mm.mmu.m.page_shift
    cdef uint64_t addr = start, next
    cdef uint64_t *pmd = NULL
    mm.mmu.c.vmas_walked += 1
    w.range_end = end
    w.memo = memo_for(mm, w, s, (end - start) >> mm.mmu.m.page_shift)
    while addr < end and not w.failed:
        next = min(end, (addr | (span - 1)) + 1)
        # tables of one upper table lie side by side in it: only its first is looked up
        if pmd == NULL or pgtable_index(&mm.pt, addr, 0) == 0:
            pmd = pmd_offset(&mm.pt, addr, False)
        else:
            pmd += 1
        if pmd != NULL and pmd[0]:
            w.t.leaf = <pte_t *>(pmd[0] & ~<uint64_t>DESC_TABLE)
            w.t.addr0 = addr & ~(span - 1)
            w.idx = (addr - w.t.addr0) >> mm.mmu.m.page_shift
            w.end = (next - w.t.addr0) >> mm.mmu.m.page_shift
            change_pte_range(w, s)
        addr = next
    if w.memo != NULL:
        memo_count(w, <memo *>w.memo)
    tlb_end_vma(&mm.mmu)
    return not w.failed
