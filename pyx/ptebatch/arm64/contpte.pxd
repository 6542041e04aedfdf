# Raw verbs (double underscore in the kernel) and the contpte layer: fold,
# unfold, convert, paint, gather. Counterparts: arch/arm64/mm/contpte.c and the
# private half of asm/pgtable.h. Rules: spec 2.5, 3.3 to 3.9.
#
# A contpte block: cont_ptes entries, aligned by table index, all VALID and CONT,
# consecutive frames from an aligned one, equal but for AF, DIRTY and RDONLY.
# Changing a part of it in anything else means unfolding the whole first, by
# break-before-make (drawn with 4 entries; n: not CONT, -: cleared):
#
#   RW,c RW,c RW,c RW,c      convert: exchange all with 0, gathering A/D
#   -    -    -    -         [ tlbi + dsb over the block, unless BBML ]
#   RW,n RW,n RW,n RW,n      write all back with the other CONT
#
# Folding is the same strip upwards.
from libc.stdint cimport uint64_t
from ..base.log cimport EV_CMPXCHG, EV_FOLD, EV_READ, EV_UNFOLD, EV_WRITE, EV_XCHG
from .mmu cimport addr_of, emit, folio, folio_of, table
from .pte cimport (
    PTE_AF, PTE_DIRTY, PTE_RDONLY, PTE_WRITE, pte_advance_pfn, pte_cont, pte_dirty, pte_mkclean, pte_mkcont, pte_mkdirty,
    pte_mknoncont, pte_mkold, pte_mkyoung, pte_none, pte_pfn, pte_present, pte_special, pte_t, pte_user_exec, pte_valid,
    pte_valid_cont, pte_write, pte_wrprotect, pte_young,
)
from .tlb cimport convert_flush

# ---- raw verbs: never look at neighbours ----

# An event is emitted when its access is complete: hardware may act right after it.

cdef inline pte_t __ptep_get(table *t, size_t idx) noexcept nogil:
    cdef pte_t pte = t.leaf[idx]
    t.mmu.c.pte_reads += 1
    emit(t, EV_READ, idx, pte)
    return pte


cdef inline void __set_pte(table *t, size_t idx, pte_t pte) noexcept nogil:
    t.mmu.c.pte_writes += 1
    t.leaf[idx] = pte
    emit(t, EV_WRITE, idx, pte)


# does a store of this entry sync the instruction cache?
cdef inline bint syncs_icache(pte_t pte) noexcept nogil:
    return pte_present(pte) and pte_user_exec(pte) and not pte_special(pte)


# flags alike in each store, frames advancing; caches are synced once
cdef inline void __set_ptes(table *t, size_t idx, pte_t pte, size_t nr) noexcept nogil:
    cdef size_t i
    t.mmu.c.sync_tags += 1
    t.mmu.c.icache_sync += syncs_icache(pte)
    t.mmu.c.pte_writes += nr
    if t.mmu.tr != NULL:
        for i in range(nr):
            t.leaf[idx + i] = pte_advance_pfn(pte, i, t.mmu.m.page_shift)
            emit(t, EV_WRITE, idx + i, t.leaf[idx + i])
        return
    for i in range(nr):
        t.leaf[idx + i] = pte_advance_pfn(pte, i, t.mmu.m.page_shift)


cdef inline pte_t __ptep_get_and_clear(table *t, size_t idx) noexcept nogil:
    cdef pte_t old = t.leaf[idx]
    t.mmu.c.pte_xchg += 1
    t.leaf[idx] = 0
    emit(t, EV_XCHG, idx, old)
    return old


# DIRTY, or WRITE without RDONLY; branchless, so that a loop over it can be widened
cdef inline pte_t dirty_bits(pte_t pte) noexcept nogil:
    return (pte & PTE_DIRTY) | ((pte & PTE_WRITE) & ~((pte & PTE_RDONLY) << 44))


# the first word, with dirty and young of all the others added
cdef inline pte_t __get_and_clear_full_ptes(table *t, size_t idx, size_t nr) noexcept nogil:
    cdef pte_t *p = t.leaf + idx
    cdef pte_t pte = p[0], old
    cdef pte_t any_dirty = 0, any_af = 0
    cdef size_t i
    if t.mmu.tr != NULL:
        pte = __ptep_get_and_clear(t, idx)
        for i in range(1, nr):
            old = __ptep_get_and_clear(t, idx + i)
            any_dirty |= dirty_bits(old)
            any_af |= old & PTE_AF
    else:
        t.mmu.c.pte_xchg += nr
        p[0] = 0
        for i in range(1, nr):
            old = p[i]
            any_dirty |= dirty_bits(old)
            any_af |= old & PTE_AF
            p[i] = 0
    if any_dirty:
        pte = pte_mkdirty(pte)
    if any_af:
        pte = pte_mkyoung(pte)
    return pte


# A compare-and-exchange that succeeds: `pte` was made of the word as it is now, so
# what hardware changed between the read and here is not lost.
cdef inline void __cmpxchg(table *t, size_t idx, pte_t pte) noexcept nogil:
    t.mmu.c.pte_cmpxchg += 1
    t.leaf[idx] = pte
    emit(t, EV_CMPXCHG, idx, pte)


cdef inline void __ptep_set_wrprotect(table *t, size_t idx) noexcept nogil:
    __ptep_get(t, idx)
    __cmpxchg(t, idx, pte_wrprotect(t.leaf[idx]))


cdef inline bint __ptep_test_and_clear_young(table *t, size_t idx) noexcept nogil:
    cdef pte_t old
    __ptep_get(t, idx)
    old = t.leaf[idx]
    __cmpxchg(t, idx, pte_mkold(old))
    return pte_young(old)


# AF, WRITE and DIRTY are added; RDONLY stays only if both have it (spec 3.9)
cdef inline bint __ptep_set_access_flags(table *t, size_t idx, pte_t entry) noexcept nogil:
    cdef pte_t old = __ptep_get(t, idx)
    if old == entry:
        return False
    entry &= PTE_RDONLY | PTE_AF | PTE_WRITE | PTE_DIRTY
    __cmpxchg(t, idx, (old & (entry | ~PTE_RDONLY)) | (entry & ~PTE_RDONLY))
    return True

# ---- contpte ----

cdef inline size_t contpte_align_down(const table *t, size_t idx) noexcept nogil:
    return idx & ~(<size_t>t.mmu.m.cont_ptes - 1)


# entry and the following ones of its block are known to continue the run
cdef inline size_t pte_batch_hint(const table *t, size_t idx, pte_t pte) noexcept nogil:
    if not t.mmu.m.contpte or not pte_valid_cont(pte):
        return 1
    return t.mmu.m.cont_ptes - (idx & (t.mmu.m.cont_ptes - 1))


cdef inline void contpte_convert(table *t, size_t idx, pte_t pte) noexcept nogil:
    cdef size_t first = contpte_align_down(t, idx), i
    cdef size_t nr = t.mmu.m.cont_ptes
    cdef pte_t old
    pte = pte_advance_pfn(pte, <uint64_t>0 - (pte_pfn(pte, t.mmu.m.page_shift) & (nr - 1)), t.mmu.m.page_shift)
    if pte_cont(pte):
        t.mmu.c.folds += 1
        emit(t, EV_FOLD, first, nr)
    else:
        t.mmu.c.unfolds += 1
        emit(t, EV_UNFOLD, first, nr)
    for i in range(nr):
        old = __ptep_get_and_clear(t, first + i)
        if pte_dirty(old):
            pte = pte_mkdirty(pte)
        if pte_young(old):
            pte = pte_mkyoung(pte)
    if not t.mmu.m.elides_bbm:
        convert_flush(t.mmu, addr_of(t, first))
    __set_ptes(t, first, pte, nr)


cdef inline void __contpte_try_fold(table *t, size_t idx, pte_t pte) noexcept nogil:
    cdef uint64_t nr = t.mmu.m.cont_ptes
    cdef size_t first = contpte_align_down(t, idx), i
    cdef uint64_t pfn = pte_pfn(pte, t.mmu.m.page_shift) - (nr - 1)
    cdef folio f = folio_of(t.mmu, pfn + nr - 1)
    cdef pte_t want
    t.mmu.c.fold_tries += 1
    # one folio must cover the block
    if pfn < f.head or pfn + nr > f.head + f.nr:
        return
    want = pte_advance_pfn(pte_mkold(pte_mkclean(pte)), <uint64_t>0 - (nr - 1), t.mmu.m.page_shift)
    for i in range(nr):
        if pte_mkold(pte_mkclean(__ptep_get(t, first + i))) != want:
            return
        want = pte_advance_pfn(want, 1, t.mmu.m.page_shift)
    contpte_convert(t, first, pte_mkcont(pte))


# Only after the store to a block's last entry: core code works upwards, so that
# is the first moment at which the block can be uniform.
cdef inline void contpte_try_fold(table *t, size_t idx, pte_t pte) noexcept nogil:
    cdef uint64_t mask = t.mmu.m.cont_ptes - 1
    if (idx & mask) != mask or (pte_pfn(pte, t.mmu.m.page_shift) & mask) != mask:
        return
    if pte_valid(pte) and not pte_cont(pte) and not pte_special(pte):
        __contpte_try_fold(t, idx, pte)


cdef inline void contpte_unfold(table *t, size_t idx, pte_t pte) noexcept nogil:
    t.mmu.c.unfold_calls += 1
    contpte_convert(t, idx, pte_mknoncont(pte))


cdef inline void contpte_try_unfold(table *t, size_t idx, pte_t pte) noexcept nogil:
    if pte_valid_cont(pte):
        contpte_unfold(t, idx, pte)


cdef inline void contpte_try_unfold_single(table *t, size_t idx, pte_t pte) noexcept nogil:
    if pte_valid_cont(pte):
        t.mmu.c.unfold_single += 1
        contpte_try_unfold(t, idx, pte)


# before [idx, idx+nr) is cleared: blocks cut by either end must not stay folded
cdef inline void contpte_try_unfold_partial(table *t, size_t idx, size_t nr) noexcept nogil:
    cdef size_t mask = t.mmu.m.cont_ptes - 1
    if idx & mask or nr < t.mmu.m.cont_ptes:
        contpte_try_unfold(t, idx, __ptep_get(t, idx))
    if (idx + nr) & mask:
        contpte_try_unfold(t, idx + nr - 1, __ptep_get(t, idx + nr - 1))


# Young and dirty of the whole block, for one of its entries. Since 6.17 the scan
# stops when it knows both; having found a dirty entry it reads the same entry
# once more for AF, having found a young one it goes on behind it (spec 3.6).
cdef inline pte_t contpte_ptep_get(table *t, size_t idx, pte_t orig) noexcept nogil:
    cdef size_t i = contpte_align_down(t, idx)
    cdef size_t end = i + t.mmu.m.cont_ptes
    cdef pte_t pte
    t.mmu.c.contpte_ptep_get += 1
    if not t.mmu.m.gather_early_exit:
        while i < end:
            pte = __ptep_get(t, i)
            if pte_dirty(pte):
                orig = pte_mkdirty(orig)
            if pte_young(pte):
                orig = pte_mkyoung(orig)
            i += 1
        return orig
    while i < end:
        pte = __ptep_get(t, i)
        if pte_dirty(pte):
            orig = pte_mkdirty(orig)
            while i < end:
                if pte_young(__ptep_get(t, i)):
                    return pte_mkyoung(orig)
                i += 1
            return orig
        i += 1
        if pte_young(pte):
            orig = pte_mkyoung(orig)
            while i < end:
                if pte_dirty(__ptep_get(t, i)):
                    return pte_mkdirty(orig)
                i += 1
            return orig
    return orig


# A full block inside one multi-entry store is painted CONT: no reads, no TLBI,
# no look at neighbours. An edge fragment never is (spec 3.7).
cdef inline void contpte_set_ptes(table *t, size_t idx, pte_t pte, size_t nr) noexcept nogil:
    cdef size_t mask = t.mmu.m.cont_ptes - 1
    cdef size_t end = idx + nr, next
    cdef bint aligned
    t.mmu.c.set_ptes_multi += 1
    if not pte_valid(pte) and not t.mmu.m.paint_invalid:
        __set_ptes(t, idx, pte, nr)
        return
    aligned = ((idx ^ pte_pfn(pte, t.mmu.m.page_shift)) & mask) == 0
    while idx < end:
        next = min(end, (idx | mask) + 1)
        if aligned and next - idx == t.mmu.m.cont_ptes:
            __set_ptes(t, idx, pte_mkcont(pte), next - idx)
        else:
            __set_ptes(t, idx, pte, next - idx)
        pte = pte_advance_pfn(pte, next - idx, t.mmu.m.page_shift)
        idx = next


# Access flags of one entry of a folded block: the block stays folded while only
# AF and dirty change, and unfolds when WRITE does (spec 3.9).
cdef inline bint contpte_ptep_set_access_flags(table *t, size_t idx, pte_t entry) noexcept nogil:
    cdef size_t first = contpte_align_down(t, idx), i
    cdef size_t end = first + t.mmu.m.cont_ptes
    cdef pte_t mask = PTE_RDONLY | PTE_AF | PTE_WRITE | PTE_DIRTY
    cdef pte_t orig
    i = first
    while i < end and ((__ptep_get(t, i) ^ entry) & mask) == 0:
        i += 1
    if i == end:
        return False
    orig = __ptep_get(t, idx)
    if pte_write(orig) == pte_write(entry):
        for i in range(first, end):
            __ptep_set_access_flags(t, i, entry)
    else:
        contpte_try_unfold_single(t, idx, orig)
        __ptep_set_access_flags(t, idx, entry)
    return True
