# How far does a batch reach? folio_pte_batch() over PTEs, and the run of equal
# PageAnonExclusive over pages. Two independent scans: that is what the whole
# discussion is about. Counterparts: mm/internal.h, mm/mprotect.c. Rules: spec 5, 7.
from libc.stdint cimport uint64_t
from ..arm64.contpte cimport pte_batch_hint
from ..arm64.mmu cimport folio, mmu_t, page_anon_exclusive, table
from ..arm64.pte cimport pte_advance_pfn, pte_batch_clear_ignored, pte_pfn, pte_t
from ..arm64.ptep cimport ptep_get


# pages from this PTE to the end of its folio, at most max_nr
cdef inline size_t folio_limit(const table *t, const folio *f, pte_t pte, size_t max_nr) noexcept nogil:
    return min(max_nr, f.head + f.nr - pte_pfn(pte, t.mmu.m.page_shift))


# Entries from idx on that map consecutive pages of the large folio `f` and are
# equal but for what `flags` let differ. `pte` is what ptep_get() said of idx.
cdef inline size_t folio_pte_batch_flags(
        table *t, size_t idx, const folio *f, pte_t pte, size_t max_nr, int flags) noexcept nogil:
    cdef size_t nr = pte_batch_hint(t, idx, pte)
    cdef pte_t want, next
    t.mmu.c.batch_scans += 1
    max_nr = folio_limit(t, f, pte, max_nr)
    want = pte_batch_clear_ignored(pte_advance_pfn(pte, nr, t.mmu.m.page_shift), flags)
    while nr < max_nr:
        next = ptep_get(t, idx + nr)
        if pte_batch_clear_ignored(next, flags) != want:
            break
        # a hint may overshoot; CONT is not masked, so a batch ends where folding does
        next = pte_batch_hint(t, idx + nr, next)
        want = pte_advance_pfn(want, next, t.mmu.m.page_shift)
        nr += next
    return min(nr, max_nr)


# Pages from pfn on, at most max_nr, whose PageAnonExclusive is `exclusive`; that of
# the first is known. The page that ends the run is asked too.
cdef inline size_t anon_exclusive_batch(mmu_t *mmu, uint64_t pfn, bint exclusive, size_t max_nr) noexcept nogil:
    cdef size_t nr = 1
    while nr < max_nr and page_anon_exclusive(mmu, pfn + nr) == exclusive:
        nr += 1
    return nr
