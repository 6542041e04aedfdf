# cython: language_level=3
"""What is regular, done by maps: the formulas of the strategies.

Compiled twice from this source, for the baseline instruction set and for x86-64-v3;
isa.py chooses one at import. A formula says what a strategy's step does to all batches
of a regular stretch at once (formula.pxd); the step is its oracle.
"""
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport uint64_t

from .commits cimport commit_runs, fresh, fresh_of
from .formula cimport (
    begins_inside, cut_blocks, cut_runs, joints, read_again, read_all, read_ends, read_holes, read_plain, spread_blocks,
    start_segments, sum_block_reads, unread_joined,
)
from .maps cimport FORMULA_ITERATOR, FORMULA_LOOKAHEAD, FORMULA_NESTED, FORMULA_PER_PTE, maps, maps_read, next_bit
from .seam cimport walk
from .segments cimport count, count_and, log_lengths

# one start a batch, one commit a run
cdef void whole_batches(walk *w, maps *x, bint lookup) noexcept nogil:
    cdef fresh f = fresh_of(w, x)
    cdef uint64_t nr = count(x, x.batch), runs, anon
    w.t.mmu.c.normal_page += nr
    w.t.mmu.c.batch_scans += nr - count_and(x, x.batch, x.single)
    read_all(w, x)
    read_ends(w, x, x.batch)
    w.t.mmu.c.n_batches += nr
    log_lengths(x, x.batch, w.t.mmu.batches)
    start_segments(w, x, x.batch)
    cut_runs(x, f.exclusive)
    if f.asks:
        w.t.mmu.c.writable_checks += nr
    if f.exclusive:
        # each run asks its first page, and the page that ends it
        runs, anon = count_and(x, x.runs, x.anon), count_and(x, x.batch, x.anon)
        w.t.mmu.c.pae_reads += count(x, x.anon) + runs - anon
        if lookup:
            w.t.mmu.c.normal_page += runs + nr - anon
    w.t.mmu.c.n_subs += count(x, x.runs)
    log_lengths(x, x.runs, w.t.mmu.subs)
    commit_runs(w, x, x.batch, &f)


# units that are started and committed by themselves
cdef void own_units(walk *w, maps *x, bint rescans) noexcept nogil:
    cdef fresh f = fresh_of(w, x)
    cdef uint64_t nr, asked
    cdef size_t i
    cut_runs(x, f.exclusive)
    cut_blocks(w, x, rescans)
    if x.end <= x.first:
        return
    nr = asked = count(x, x.runs)
    read_all(w, x)
    read_ends(w, x, x.batch)
    unread_joined(w, x)
    if rescans:
        w.t.mmu.c.batch_scans += nr - count_and(x, x.runs, x.single)
    else:
        asked = count(x, x.batch)
        w.t.mmu.c.batch_scans += asked - count_and(x, x.batch, x.single)
    w.t.mmu.c.normal_page += asked
    if rescans:
        if x.folded:
            sum_block_reads(w, x)
        i = next_bit(x.runs, x.first, x.end)
        while i < x.end:
            if begins_inside(x, i):
                read_again(w, x, i)
            i = next_bit(x.runs, i + 1, x.end)
    w.t.mmu.c.n_batches += nr
    w.t.mmu.c.n_subs += nr
    log_lengths(x, x.runs, w.t.mmu.batches)
    log_lengths(x, x.runs, w.t.mmu.subs)
    spread_blocks(w, x)
    start_segments(w, x, x.runs)
    if f.asks:
        w.t.mmu.c.writable_checks += nr
    if f.exclusive:
        w.t.mmu.c.pae_reads += count(x, x.anon)
        if rescans:
            w.t.mmu.c.pae_reads += ended_by_exclusive(w, x)
    commit_runs(w, x, x.runs, &f)


# runs whose end was found by asking one page more
cdef uint64_t ended_by_exclusive(const walk *w, const maps *x) noexcept nogil:
    cdef uint64_t joined = count_and(x, x.joined, x.anon) if x.joining else 0
    return count_and(x, x.runs, x.anon) - (count_and(x, x.batch, x.anon) - joined) - joints(w, x)


# every entry by itself
cdef void each_entry(walk *w, maps *x) noexcept nogil:
    cdef fresh f = fresh_of(w, x)
    cdef uint64_t nr = count(x, x.present), folded
    cdef size_t k
    for k in range(x.word, x.words_end):
        x.runs[k] = x.present[k]
    # a folded block's first entry unfolds it
    cut_blocks(w, x, False)
    read_all(w, x)
    if x.folded:
        folded = count(x, x.cont)
        read_plain(w, folded - folded // w.t.mmu.m.cont_ptes)
    spread_blocks(w, x)
    start_segments(w, x, x.runs)
    if f.asks:
        w.t.mmu.c.writable_checks += nr
    if f.exclusive:
        w.t.mmu.c.normal_page += nr
        w.t.mmu.c.pae_reads += count(x, x.anon)
    commit_runs(w, x, x.runs, &f)


# The regular stretch at w.idx, if there is one; returns the entries dealt with.
cdef size_t regular(walk *w, maps *x, int formula) noexcept nogil:
    cdef size_t nr
    if not maps_read(w, x):
        return 0
    if x.flags:
        if formula == FORMULA_PER_PTE:
            each_entry(w, x)
        elif formula == FORMULA_LOOKAHEAD:
            own_units(w, x, True)
        elif formula == FORMULA_ITERATOR:
            own_units(w, x, False)
        else:
            whole_batches(w, x, formula == FORMULA_NESTED)
        if x.end <= x.first:
            return 0
        w.pages += count(x, x.present)
    read_holes(w, x)
    nr = x.end - x.first
    w.idx = x.end
    return nr


def regular_capsule():
    """The function of this build that does what is regular, for `MM`."""
    return PyCapsule_New(<void *>regular, b"ptebatch.regular", NULL)
