# cython: language_level=3
"""The ways of batching, one step function each, and their table.

The table is the only list of strategies there is; CONTRIBUTING.md says how to
add one. Sources: spec 7; the designs of the v4 discussion are rebuilt from its
text, `folio` from the contract of mm/mprotect.c in 6.17 to 7.3.
"""
from libc.stdint cimport int64_t, uint64_t

from ..arm64.contpte cimport pte_batch_hint
from ..arm64.mmu cimport folio_anon, folio_large, page_anon_exclusive
from ..arm64.pte cimport FPB_RESPECT_SOFT_DIRTY, pte_advance_pfn, pte_batch_clear_ignored, pte_dirty, pte_t
from ..arm64.ptep cimport ptep_get
from ..base.page_flags cimport PG_MAPPED_SHARED
from .folio_batch cimport anon_exclusive_batch, folio_limit, folio_pte_batch_flags
from .maps cimport FORMULA_FOLIO, FORMULA_ITERATOR, FORMULA_LOOKAHEAD, FORMULA_NESTED, FORMULA_PER_PTE
from .seam cimport (
    FPB_MPROTECT, STRATEGY_FLAWED, STRATEGY_LOOKUP, STRATEGY_PURE, asks_writable, change_unit, commit_flush_ptes, max_nr,
    maybe_change_pte_writable, modify_prot_start_ptes, mprotect_folio_pte_batch, needs_anon_exclusive, newpte, note_batch,
    prot_commit_flush_ptes, step_fn, strategy, vma_shared, walk, walk_pfn, whole_batch,
)

from ptebatch.strategies import enter

# ---- the strategies ----

# S0, to 6.16: one entry at a time; the page is looked up only if it matters
cdef int64_t step_per_pte(walk *w) noexcept nogil:
    cdef pte_t old = modify_prot_start_ptes(w, w.idx, 1)
    cdef pte_t new = newpte(w, old)
    cdef bint writable = False
    if asks_writable(w, new):
        w.t.mmu.c.writable_checks += 1
        if maybe_change_pte_writable(w, new):
            if vma_shared(w):
                writable = pte_dirty(new)
            else:
                w.t.mmu.c.normal_page += 1
                writable = folio_anon(&w.f) and page_anon_exclusive(w.t.mmu, walk_pfn(w))
    commit_flush_ptes(w, w.idx, old, new, 1, writable)
    w.pages += 1
    return 1


# S5 and S6, 6.17 to 7.3: the folio batch is started whole, committed by runs
cdef int64_t step_folio(walk *w) noexcept nogil:
    return whole_batch(w, FPB_MPROTECT, walk_pfn(w), False)


# S1: v4's nested loop, with the first page and the write bit as 7.3 has them
cdef int64_t step_nested(walk *w) noexcept nogil:
    return whole_batch(w, FPB_MPROTECT, walk_pfn(w), True)


# S2a: PTE scan to the end of the batch, then the PAE run; nothing is remembered
cdef int64_t step_lookahead(walk *w) noexcept nogil:
    cdef bint need = needs_anon_exclusive(w), exclusive = False
    cdef size_t nr = mprotect_folio_pte_batch(w, FPB_MPROTECT)
    if need:
        exclusive = page_anon_exclusive(w.t.mmu, walk_pfn(w))
        nr = anon_exclusive_batch(w.t.mmu, walk_pfn(w), exclusive, nr)
    change_unit(w, w.idx, nr, exclusive)
    return nr


# S2b: the PAE run of the folio first, then PTEs no further than that
cdef int64_t step_lookahead_pae(walk *w) noexcept nogil:
    cdef bint need = needs_anon_exclusive(w), exclusive = False
    cdef size_t limit = max_nr(w), nr = 1
    if need:
        limit = folio_limit(&w.t, &w.f, w.old, limit)
        exclusive = page_anon_exclusive(w.t.mmu, walk_pfn(w))
        limit = anon_exclusive_batch(w.t.mmu, walk_pfn(w), exclusive, limit)
    if folio_large(&w.f):
        nr = folio_pte_batch_flags(&w.t, w.idx, &w.f, w.old, limit, FPB_MPROTECT)
    change_unit(w, w.idx, nr, exclusive)
    return nr


# S3: one PTE scan a batch; the rest of it and the PAE value that ended the last
# run are remembered, words and hints are not
cdef int64_t step_iterator(walk *w) noexcept nogil:
    cdef bint need = needs_anon_exclusive(w), exclusive = False
    cdef size_t nr = mprotect_folio_pte_batch(w, FPB_MPROTECT), done = 0, run
    cdef uint64_t pfn = walk_pfn(w)
    if not need:
        change_unit(w, w.idx, nr, False)
        return nr
    exclusive = page_anon_exclusive(w.t.mmu, pfn)
    while done < nr:
        run = anon_exclusive_batch(w.t.mmu, pfn + done, exclusive, nr - done)
        change_unit(w, w.idx + done, run, exclusive)
        exclusive = not exclusive
        done += run
    return nr


# pages of one scan step, cut where PageAnonExclusive changes
cdef size_t merged_pages(walk *w, size_t nr, size_t step, bint need, bint exclusive) noexcept nogil:
    cdef size_t i
    if not need:
        return step
    for i in range(step):
        if page_anon_exclusive(w.t.mmu, walk_pfn(w) + nr + i) != exclusive:
            return i
    return step


# S4: one lock-step scan over PTEs and pages, stopping at the first change of either
cdef int64_t step_merged(walk *w) noexcept nogil:
    cdef bint need = needs_anon_exclusive(w)
    cdef bint exclusive = need and page_anon_exclusive(w.t.mmu, walk_pfn(w))
    cdef unsigned int shift = w.t.mmu.m.page_shift
    cdef size_t nr = 1, limit, step, run
    cdef pte_t want, next
    if folio_large(&w.f):
        w.t.mmu.c.batch_scans += 1
        limit = folio_limit(&w.t, &w.f, w.old, max_nr(w))
        step = min(pte_batch_hint(&w.t, w.idx, w.old), limit)
        want = pte_batch_clear_ignored(w.old, FPB_MPROTECT)
        nr = 1 + merged_pages(w, 1, step - 1, need, exclusive)
        while nr == step and nr < limit:
            next = ptep_get(&w.t, w.idx + nr)
            if pte_batch_clear_ignored(next, FPB_MPROTECT) != pte_advance_pfn(want, nr, shift):
                break
            step = min(pte_batch_hint(&w.t, w.idx + nr, next), limit - nr)
            run = merged_pages(w, nr, step, need, exclusive)
            step += nr
            nr += run
    change_unit(w, w.idx, nr, exclusive)
    return nr

# ---- flawed, kept to be caught ----

# v1 and v2: a whole batch becomes writable when its *folio* is not mapped by others
cdef int64_t step_folio_shared(walk *w) noexcept nogil:
    cdef size_t nr = mprotect_folio_pte_batch(w, FPB_MPROTECT)
    cdef pte_t old, new
    cdef bint writable = False
    if nr == 1:
        return step_per_unit(w)
    note_batch(w, w.idx, nr)
    old = modify_prot_start_ptes(w, w.idx, nr)
    new = newpte(w, old)
    if asks_writable(w, new):
        w.t.mmu.c.writable_checks += 1
        if maybe_change_pte_writable(w, new):
            writable = pte_dirty(new) if vma_shared(w) else folio_anon(&w.f) and not w.f.flags & PG_MAPPED_SHARED
    prot_commit_flush_ptes(w, w.idx, old, new, nr, writable)
    w.pages += nr
    return nr


# a batch of one asked PageAnonExclusive in v1 too
cdef int64_t step_per_unit(walk *w) noexcept nogil:
    cdef bint exclusive = needs_anon_exclusive(w) and page_anon_exclusive(w.t.mmu, walk_pfn(w))
    change_unit(w, w.idx, 1, exclusive)
    return 1


# 6.17-rc1: exclusivity is read from the folio's page 0 on, wherever the batch begins
cdef int64_t step_folio_page0(walk *w) noexcept nogil:
    return whole_batch(w, FPB_MPROTECT, w.f.head if w.f.nr else walk_pfn(w), False)


# v4 as posted: page 0 of the folio, and a batch that does not look at WRITE
cdef int64_t step_nested_page0(walk *w) noexcept nogil:
    return whole_batch(w, FPB_RESPECT_SOFT_DIRTY, w.f.head if w.f.nr else walk_pfn(w), True)


# v4 with the first page right, and still a batch that does not look at WRITE
cdef int64_t step_nested_nowrite(walk *w) noexcept nogil:
    return whole_batch(w, FPB_RESPECT_SOFT_DIRTY, walk_pfn(w), True)


# ---- the table: all of these are pure, and replayed ----

cdef enum:
    LOOKUP = 1 | 4             # STRATEGY_LOOKUP | STRATEGY_PURE
    FLAWED = 2                 # STRATEGY_FLAWED
    MAX_STRATEGIES = 64

cdef strategy[MAX_STRATEGIES] TABLE
cdef int nr_strategies = 0


cdef object row(const char *name, step_fn step, int flags, const char *since, const char *summary, int formula=0):
    """Enter one strategy, here and in ``ptebatch.strategies``."""
    global nr_strategies
    TABLE[nr_strategies] = strategy(name, step, flags | STRATEGY_PURE, formula, since, summary)
    nr_strategies += 1
    return enter(name.decode(), since.decode(), summary.decode(), flawed=bool(flags & STRATEGY_FLAWED),
                 lookup=bool(flags & STRATEGY_LOOKUP), pure=True)


ROWS = (
    row(b"folio", step_folio, LOOKUP, b"6.17", b"the design in Linux 6.17: batch, then commit per PAE run",
        FORMULA_FOLIO),
    row(b"per-pte", step_per_pte, 0, b"6.12", b"one PTE at a time",
        FORMULA_PER_PTE),
    row(b"nested", step_nested, LOOKUP, b"v4", b"folio batch, inner loop over PAE runs (first page fixed)",
        FORMULA_NESTED),
    row(b"lookahead", step_lookahead, LOOKUP, b"thread", b"stateless: returns the PAE-aware size, rescans; PTE scan first",
        FORMULA_LOOKAHEAD),
    row(b"lookahead-pae", step_lookahead_pae, LOOKUP, b"thread", b"stateless: PAE scan first, PTE scan no further"),
    row(b"iterator", step_iterator, LOOKUP, b"thread", b"a context remembers the folio batch",
        FORMULA_ITERATOR),
    row(b"merged", step_merged, LOOKUP, b"thread", b"one scan over PTE and PAE together"),
    row(b"folio-shared", step_folio_shared, LOOKUP | FLAWED, b"v1", b"upgrades when the folio, not the page, is exclusive"),
    row(b"nested-page0", step_nested_page0, LOOKUP | FLAWED, b"v4",
        b"as posted: reads PAE from the folio's page 0, ignores WRITE"),
    row(b"folio-page0", step_folio_page0, LOOKUP | FLAWED, b"6.17-rc1", b"reads PAE from the folio's page 0"),
    row(b"nested-nowrite", step_nested_nowrite, LOOKUP | FLAWED, b"v4", b"the batch ignores the write bit"),
)


cdef const strategy *find(bytes name):
    """Row of the table with this name, or NULL."""
    cdef int i
    for i in range(nr_strategies):
        if TABLE[i].name == name:
            return &TABLE[i]
    return NULL
