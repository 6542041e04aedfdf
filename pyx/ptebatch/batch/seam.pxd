# The seam between the walk and the ways of batching.
#
# To add a strategy: write one `step` function in strategies.pyx and one row in
# its table. The command line, the tests, the checker and the benchmarks read
# the table. From another package: cimport this file, write the function, and
# hand `strategy_capsule(step)` to ptebatch.strategies.register(). To try an idea
# first, pass a plain Python callable (see ptebatch.Window).
#
# A step is called for a present PTE that must change: `w.idx`, what ptep_get()
# said in `w.old`, and its folio in `w.f` (nr == 0: none). It changes entries
# from w.idx on and returns how many it has dealt with.
#
# Context: the page table lock is held; the entries up to `max_nr(w)` lie in one
# table, one VMA and the called range. What a step must keep (spec 7.9): every
# entry it counts is started and committed once; a unit stays in one folio;
# WRITE is given in a private mapping only to a page that is PageAnonExclusive.
from cpython.pycapsule cimport PyCapsule_New, PyCapsule_SetContext
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset
from ..arm64.mmu cimport addr_of, emit, folio, folio_anon, folio_large, folio_of_pte, mmu_t, page_anon_exclusive, table
from ..arm64.pte cimport (
    FPB_RESPECT_SOFT_DIRTY, FPB_RESPECT_WRITE, PTE_CONT, PTE_VALID, pte_advance_pfn, pte_clear_uffd, pte_dirty,
    pte_mkuffd, pte_mkwrite, pte_modify, pte_needs_flush, pte_pfn, pte_protnone, pte_t, pte_uffd, pte_write,
)
from ..arm64.ptep cimport get_and_clear_full_ptes, set_ptes
from ..arm64.tlb cimport tlb_flush_pte_range
from ..base.log cimport EV_BATCH, EV_COMMIT, EV_START, pairs_run
from ..base.vm_flags cimport (
    MM_CP_TRY_CHANGE_WRITABLE, MM_CP_UFFD_WP, MM_CP_UFFD_WP_RESOLVE, VM_SHARED, VM_UFFD_WP, VM_WRITE,
)
from .folio_batch cimport anon_exclusive_batch, folio_limit, folio_pte_batch_flags

cdef enum:
    FPB_MPROTECT = FPB_RESPECT_SOFT_DIRTY | FPB_RESPECT_WRITE

# change_pte_range() in one leaf table, and the step it is at
cdef struct walk:
    table t
    size_t end
    pte_t newprot
    unsigned int cp_flags
    uint64_t vm_flags
    bint vma_anon
    size_t idx
    pte_t old
    folio f
    uint64_t pages             # return value so far
    size_t started             # entries cleared and not yet committed
    uint64_t range_end         # where the call ends in this VMA
    void *memo                 # what is remembered of a unit, else NULL (memo.pxd)
    void *python               # a Python strategy's window, else NULL
    bint failed                # a Python strategy raised or broke its contract

ctypedef int64_t (*step_fn)(walk *w) noexcept nogil

cdef enum:
    STRATEGY_LOOKUP = 1        # the walk looks the page up for each present PTE (since 6.17)
    STRATEGY_FLAWED = 2        # kept to be caught
    STRATEGY_PURE = 4          # a step depends on nothing but its entries and pages

cdef struct strategy:
    const char *name
    step_fn step
    int flags
    int formula                # what it does on maps (regular.pyx), 0: none
    const char *since
    const char *summary


cdef inline object strategy_capsule(step_fn step):
    """Wrap a step function for ptebatch.strategies.register()."""
    capsule = PyCapsule_New(<void *>step, b"ptebatch.step", NULL)
    PyCapsule_SetContext(capsule, step_layout())
    return capsule


# The structures that a compiled step was built with. A module built against another
# release would read the wrong fields, so its capsule is refused.
cdef inline void *step_layout() noexcept nogil:
    return <void *>(sizeof(walk) + (<size_t>sizeof(mmu_t) << 12) + (<size_t>sizeof(table) << 24))


# what is the same in every walk, whoever starts it; the caller says what is to change
cdef inline walk walk_of(
        mmu_t *mmu, pte_t newprot, unsigned int cp_flags, uint64_t vm_flags, bint vma_anon, void *python) noexcept nogil:
    cdef walk w
    memset(&w, 0, sizeof(walk))
    w.t.mmu = mmu
    w.newprot, w.cp_flags, w.vm_flags = newprot, cp_flags, vm_flags
    w.vma_anon, w.python = vma_anon, python
    return w


cdef inline size_t max_nr(const walk *w) noexcept nogil:
    return w.end - w.idx


# mprotect_folio_pte_batch(): 1 without a large folio, and then nothing is read
cdef inline size_t mprotect_folio_pte_batch(walk *w, int flags) noexcept nogil:
    if not folio_large(&w.f):
        return 1
    return folio_pte_batch_flags(&w.t, w.idx, &w.f, w.old, max_nr(w), flags)


# the new value, without the question whether it may be writable
cdef inline pte_t newpte(const walk *w, pte_t old) noexcept nogil:
    cdef pte_t pte = pte_modify(old, w.newprot)
    if w.cp_flags & MM_CP_UFFD_WP:
        pte = pte_mkuffd(pte)
    elif w.cp_flags & MM_CP_UFFD_WP_RESOLVE:
        pte = pte_clear_uffd(pte)
    return pte


cdef inline pte_t modify_prot_start_ptes(walk *w, size_t idx, size_t nr) noexcept nogil:
    w.t.mmu.c.prot_start += 1
    emit(&w.t, EV_START, idx, nr)
    w.started += nr
    return get_and_clear_full_ptes(&w.t, idx, nr)


# Blocks that this store paints although their entries were valid and not folded,
# with no TLBI between (spec 7.8): the recorded gap, not an error of the loop.
# w.old tells what they were: all of a batch is folded or none, and a start has unfolded
# (with its TLBI) only blocks that the unit cuts.
cdef inline void count_cont_without_bbm(walk *w, size_t idx, pte_t new, size_t nr) noexcept nogil:
    cdef size_t n = w.t.mmu.m.cont_ptes
    cdef size_t first = (idx + n - 1) & ~(n - 1), last = (idx + nr) & ~(n - 1)
    if (w.old & (PTE_VALID | PTE_CONT)) != PTE_VALID or not new & PTE_VALID or not w.t.mmu.m.contpte or nr == 1:
        return
    if last > first and ((idx ^ pte_pfn(new, w.t.mmu.m.page_shift)) & (n - 1)) == 0:
        w.t.mmu.c.cont_without_bbm += (last - first) // n


# modify_prot_commit_ptes() and the gather, for nr entries at idx. `old` and `new`
# belong to the first of them.
cdef inline void commit_flush_ptes(walk *w, size_t idx, pte_t old, pte_t new, size_t nr, bint set_write) noexcept nogil:
    cdef mmu_t *mmu = w.t.mmu
    if set_write:
        new = pte_mkwrite(new, mmu.m.mkwrite_always)
    mmu.c.prot_commit += 1
    w.started -= nr
    emit(&w.t, EV_COMMIT, idx, nr)
    count_cont_without_bbm(w, idx, new, nr)
    set_ptes(&w.t, idx, new, nr)
    if pte_needs_flush(old, new, mmu.m.needs_flush):
        tlb_flush_pte_range(mmu, addr_of(&w.t, idx), <uint64_t>nr << mmu.m.page_shift)


# the same, logged as a sub-batch: what every batched design does
cdef inline void prot_commit_flush_ptes(walk *w, size_t idx, pte_t old, pte_t new, size_t nr, bint set_write) noexcept nogil:
    w.t.mmu.c.n_subs += 1
    if w.t.mmu.subs != NULL:
        pairs_run(w.t.mmu.subs, 1, nr)
    commit_flush_ptes(w, idx, old, new, nr, set_write)


cdef inline void note_batch(walk *w, size_t idx, size_t nr) noexcept nogil:
    w.t.mmu.c.n_batches += 1
    if w.t.mmu.batches != NULL:
        pairs_run(w.t.mmu.batches, 1, nr)
    emit(&w.t, EV_BATCH, idx, nr)


# may_be_writable() before PageAnonExclusive or dirty is asked (spec 6.6)
cdef inline bint maybe_change_pte_writable(const walk *w, pte_t pte) noexcept nogil:
    if not w.vm_flags & VM_WRITE or pte_protnone(pte):
        return False
    return not (w.vm_flags & VM_UFFD_WP and pte_uffd(pte))


cdef inline bint asks_writable(const walk *w, pte_t pte) noexcept nogil:
    return w.cp_flags & MM_CP_TRY_CHANGE_WRITABLE and not pte_write(pte)


cdef inline bint vma_shared(const walk *w) noexcept nogil:
    return (w.vm_flags & VM_SHARED) != 0


# Does a unit have to respect PageAnonExclusive? Known before anything is cleared:
# the answer depends on bits that A/D gathering does not change.
cdef inline bint needs_anon_exclusive(walk *w) noexcept nogil:
    cdef pte_t pte = newpte(w, w.old)
    return asks_writable(w, pte) and not vma_shared(w) and maybe_change_pte_writable(w, pte) and folio_anon(&w.f)


cdef inline uint64_t walk_pfn(const walk *w) noexcept nogil:
    return pte_pfn(w.old, w.t.mmu.m.page_shift)

# ---- units: what most strategies do once they know how far ----

# commit [start, start+nr) of a started batch in runs of equal PageAnonExclusive
cdef inline void commit_anon_folio_batch(walk *w, uint64_t pfn, pte_t old, pte_t new, size_t nr, bint lookup) noexcept nogil:
    cdef size_t done = 0, run
    cdef bint exclusive
    cdef unsigned int shift = w.t.mmu.m.page_shift
    while done < nr:
        if lookup:
            w.t.mmu.c.normal_page += 1
        exclusive = page_anon_exclusive(w.t.mmu, pfn + done)
        run = anon_exclusive_batch(w.t.mmu, pfn + done, exclusive, nr - done)
        prot_commit_flush_ptes(
            w, w.idx + done, pte_advance_pfn(old, done, shift), pte_advance_pfn(new, done, shift), run, exclusive)
        done += run


# the started batch of nr entries: one commit, or one a run (`lookup`: as v4 did,
# each sub-batch looks its page up)
cdef inline void commit_maybe_writable(walk *w, uint64_t pfn, pte_t old, pte_t new, size_t nr, bint lookup) noexcept nogil:
    cdef bint maybe
    if not asks_writable(w, new):
        prot_commit_flush_ptes(w, w.idx, old, new, nr, False)
        return
    w.t.mmu.c.writable_checks += 1
    maybe = maybe_change_pte_writable(w, new)
    if vma_shared(w):
        prot_commit_flush_ptes(w, w.idx, old, new, nr, maybe and pte_dirty(new))
    elif maybe and folio_anon(&w.f):
        commit_anon_folio_batch(w, pfn, old, new, nr, lookup)
    else:
        if maybe and lookup:
            w.t.mmu.c.normal_page += 1
        prot_commit_flush_ptes(w, w.idx, old, new, nr, False)


# a unit that is started and committed by itself, its exclusivity known
cdef inline void change_unit(walk *w, size_t idx, size_t nr, bint exclusive) noexcept nogil:
    cdef pte_t old, new
    cdef bint writable = False
    note_batch(w, idx, nr)
    old = modify_prot_start_ptes(w, idx, nr)
    new = newpte(w, old)
    if asks_writable(w, new):
        w.t.mmu.c.writable_checks += 1
        if vma_shared(w):
            writable = maybe_change_pte_writable(w, new) and pte_dirty(new)
        else:
            writable = exclusive
    prot_commit_flush_ptes(w, idx, old, new, nr, writable)
    w.pages += nr


# one start for the whole folio batch, then commits: S1, S5, S6 and the flawed ones
cdef inline int64_t whole_batch(walk *w, int flags, uint64_t pfn, bint lookup) noexcept nogil:
    cdef size_t nr = mprotect_folio_pte_batch(w, flags)
    cdef pte_t old, new
    note_batch(w, w.idx, nr)
    old = modify_prot_start_ptes(w, w.idx, nr)
    new = newpte(w, old)
    commit_maybe_writable(w, pfn, old, new, nr, lookup)
    w.pages += nr
    return nr
