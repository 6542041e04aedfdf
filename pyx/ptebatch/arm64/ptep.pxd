# The public verbs of core mm code. They hide the contiguous bit: it may leak out
# of a getter, never in through a setter. Everything above this file (batch,
# strategies, walks) uses these only. Counterpart: the public half of
# arch/arm64/include/asm/pgtable.h. Rules: spec 3.2.
from libc.stdint cimport uint64_t
from .contpte cimport (
    __cmpxchg, __get_and_clear_full_ptes, __ptep_get, __ptep_get_and_clear, __ptep_set_access_flags, __ptep_set_wrprotect,
    __ptep_test_and_clear_young, __set_pte, __set_ptes, contpte_align_down, contpte_ptep_get,
    contpte_ptep_set_access_flags, contpte_set_ptes, contpte_try_fold, contpte_try_unfold_partial,
    contpte_try_unfold_single, contpte_unfold,
)
from .mmu cimport table
from .pte cimport pte_cont, pte_mkclean, pte_mknoncont, pte_mkold, pte_t, pte_valid_cont, pte_wrprotect


cdef inline pte_t ptep_get(table *t, size_t idx) noexcept nogil:
    cdef uint64_t before = t.mmu.c.pte_reads
    cdef pte_t pte = __ptep_get(t, idx)
    t.mmu.c.ptep_get += 1
    if t.mmu.m.contpte and pte_valid_cont(pte):
        pte = contpte_ptep_get(t, idx, pte)
    t.mmu.c.ptep_get_reads += t.mmu.c.pte_reads - before
    return pte


cdef inline void set_ptes(table *t, size_t idx, pte_t pte, size_t nr) noexcept nogil:
    t.mmu.c.set_ptes += 1
    if not t.mmu.m.contpte:
        __set_ptes(t, idx, pte, nr)
        return
    pte = pte_mknoncont(pte)
    if nr == 1:
        contpte_try_unfold_single(t, idx, __ptep_get(t, idx))
        __set_ptes(t, idx, pte, 1)
        contpte_try_fold(t, idx, pte)
    else:
        contpte_set_ptes(t, idx, pte, nr)


cdef inline void set_pte_at(table *t, size_t idx, pte_t pte) noexcept nogil:
    set_ptes(t, idx, pte, 1)


cdef inline void pte_clear(table *t, size_t idx) noexcept nogil:
    if t.mmu.m.contpte:
        contpte_try_unfold_single(t, idx, __ptep_get(t, idx))
    __set_pte(t, idx, 0)


cdef inline pte_t get_and_clear_full_ptes(table *t, size_t idx, size_t nr) noexcept nogil:
    if nr == 1:
        if t.mmu.m.contpte:
            contpte_try_unfold_single(t, idx, __ptep_get(t, idx))
        return __ptep_get_and_clear(t, idx)
    if t.mmu.m.contpte:
        t.mmu.c.start_multi += 1
        contpte_try_unfold_partial(t, idx, nr)
    return __get_and_clear_full_ptes(t, idx, nr)


cdef inline void clear_full_ptes(table *t, size_t idx, size_t nr) noexcept nogil:
    get_and_clear_full_ptes(t, idx, nr)


cdef inline void wrprotect_ptes(table *t, size_t idx, size_t nr) noexcept nogil:
    cdef size_t i
    cdef pte_t pte
    if t.mmu.m.contpte and nr == 1:
        # CONT alone is asked, PROT_NONE blocks of 6.12 to 6.17 unfold too (spec 3.2)
        pte = __ptep_get(t, idx)
        if pte_cont(pte):
            t.mmu.c.unfold_single += 1
            contpte_unfold(t, idx, pte)
        __cmpxchg(t, idx, pte_wrprotect(t.leaf[idx]))
        return
    if t.mmu.m.contpte:
        contpte_try_unfold_partial(t, idx, nr)
    for i in range(nr):
        __ptep_set_wrprotect(t, idx + i)


# first and last entry of what an A/D operation on [idx, idx+nr) must cover
cdef inline void __expand(table *t, size_t *idx, size_t *end) noexcept nogil:
    if pte_cont(t.leaf[end[0] - 1]):
        end[0] = contpte_align_down(t, end[0] - 1) + t.mmu.m.cont_ptes
    if pte_cont(t.leaf[idx[0]]):
        idx[0] = contpte_align_down(t, idx[0])


# AF is a property of the whole block: clearing it never unfolds
cdef inline bint test_and_clear_young_ptes(table *t, size_t idx, size_t nr) noexcept nogil:
    cdef size_t end = idx + nr
    cdef bint young = False
    if t.mmu.m.contpte:
        __expand(t, &idx, &end)
    while idx < end:
        young |= __ptep_test_and_clear_young(t, idx)
        idx += 1
    return young


cdef inline void clear_young_dirty_ptes(table *t, size_t idx, size_t nr, bint young, bint dirty) noexcept nogil:
    cdef size_t end = idx + nr
    cdef pte_t pte
    if t.mmu.m.contpte:
        __expand(t, &idx, &end)
    while idx < end:
        pte = __ptep_get(t, idx)
        if dirty:
            pte = pte_mkclean(pte)
        if young:
            pte = pte_mkold(pte)
        __set_pte(t, idx, pte)
        idx += 1


cdef inline bint ptep_set_access_flags(table *t, size_t idx, pte_t entry) noexcept nogil:
    entry = pte_mknoncont(entry)
    if t.mmu.m.contpte and pte_valid_cont(__ptep_get(t, idx)):
        return contpte_ptep_set_access_flags(t, idx, entry)
    return __ptep_set_access_flags(t, idx, entry)
