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
    cut_blocks, cut_runs, joints, read_all, read_ends, read_one, read_plain, read_rescans, spread_blocks, start_segments,
    unread_joined,
)
from .large cimport large_batch
from .maps cimport (
    FORMULA_FOLIO, FORMULA_ITERATOR, FORMULA_LOOKAHEAD, FORMULA_NESTED, FORMULA_PER_PTE, maps, maps_read,
)
from .seam cimport walk
from .segments cimport count, count_and, log_lengths, log_segments, tally, tally_of, tally_of_one

# one start a batch, one commit a run
cdef void whole_batches(walk *w, maps *x, bint lookup) noexcept nogil:
    cdef fresh f = fresh_of(w, x)
    cdef tally batches, runs
    cdef bint cut = f.exclusive and not (x.one and x.alike)
    if x.one:
        batches = tally_of_one(w.t.mmu, x)
        read_one(w, x)
    else:
        batches = tally_of(w.t.mmu, x, x.batch)
        read_all(w, x, batches.entries)
        read_ends(w, x, x.batch)
    runs = batches
    w.t.mmu.c.normal_page += batches.nr
    w.t.mmu.c.batch_scans += batches.nr - batches.small
    w.t.mmu.c.n_batches += batches.nr
    log_segments(x, x.batch, batches.nr, w.t.mmu.batches)
    start_segments(w, x, x.batch, &batches)
    if cut or not x.one:
        cut_runs(x, cut)
    if cut:
        runs = tally_of(w.t.mmu, x, x.runs)
    if f.asks:
        w.t.mmu.c.writable_checks += batches.nr
    if f.exclusive:
        # each run asks its first page, and the page that ends it
        w.t.mmu.c.pae_reads += runs.anon_entries + runs.anon - batches.anon
        if lookup:
            w.t.mmu.c.normal_page += runs.anon + batches.nr - batches.anon
    w.t.mmu.c.n_subs += runs.nr
    log_segments(x, x.runs, runs.nr, w.t.mmu.subs)
    commit_runs(w, x, x.batch, &runs, &f)


# units that are started and committed by themselves
cdef void own_units(walk *w, maps *x, bint rescans) noexcept nogil:
    cdef fresh f = fresh_of(w, x)
    cdef tally runs, asked
    cut_runs(x, f.exclusive)
    cut_blocks(w, x, rescans)
    if x.end <= x.first:
        return
    runs = tally_of(w.t.mmu, x, x.runs)
    asked = runs if rescans else tally_of(w.t.mmu, x, x.batch)
    read_all(w, x, runs.entries)
    read_ends(w, x, x.batch)
    unread_joined(w, x)
    w.t.mmu.c.batch_scans += asked.nr - asked.small
    w.t.mmu.c.normal_page += asked.nr
    if rescans:
        read_rescans(w, x)
    w.t.mmu.c.n_batches += runs.nr
    w.t.mmu.c.n_subs += runs.nr
    log_lengths(x, x.runs, w.t.mmu.batches)
    log_lengths(x, x.runs, w.t.mmu.subs)
    spread_blocks(w, x)
    start_segments(w, x, x.runs, &runs)
    if f.asks:
        w.t.mmu.c.writable_checks += runs.nr
    if f.exclusive:
        w.t.mmu.c.pae_reads += runs.anon_entries
        if rescans:
            w.t.mmu.c.pae_reads += runs.anon - begun_by_others(w, x)
    commit_runs(w, x, x.runs, &runs, &f)


# runs of anonymous pages whose end was not found by asking one page more
cdef uint64_t begun_by_others(const walk *w, const maps *x) noexcept nogil:
    cdef uint64_t joined = count_and(x, x.joined, x.anon) if x.joining else 0
    return count_and(x, x.batch, x.anon) - joined + joints(w, x)


# every entry by itself
cdef void each_entry(walk *w, maps *x) noexcept nogil:
    cdef fresh f = fresh_of(w, x)
    cdef tally runs
    cdef uint64_t folded
    cdef size_t k
    for k in range(x.word, x.words_end):
        x.runs[k] = x.present[k]
    # a folded block's first entry unfolds it
    cut_blocks(w, x, False)
    runs = tally_of(w.t.mmu, x, x.runs)
    read_all(w, x, runs.entries)
    if x.folded:
        folded = count(x, x.cont)
        read_plain(w, folded - folded // w.t.mmu.m.cont_ptes)
    spread_blocks(w, x)
    start_segments(w, x, x.runs, &runs)
    if f.asks:
        w.t.mmu.c.writable_checks += runs.nr
    if f.exclusive:
        w.t.mmu.c.normal_page += runs.nr
        w.t.mmu.c.pae_reads += runs.anon_entries
    commit_runs(w, x, x.runs, &runs, &f)


cdef void by_maps(walk *w, maps *x, int formula) noexcept nogil:
    if formula == FORMULA_PER_PTE:
        each_entry(w, x)
    elif formula == FORMULA_LOOKAHEAD:
        own_units(w, x, True)
    elif formula == FORMULA_ITERATOR:
        own_units(w, x, False)
    else:
        whole_batches(w, x, formula == FORMULA_NESTED)


# The regular stretch at w.idx, if there is one; returns the entries dealt with.
cdef size_t stretch(walk *w, maps *x, int formula) noexcept nogil:
    cdef bint whole = formula == FORMULA_FOLIO or formula == FORMULA_NESTED
    cdef size_t nr
    cdef uint64_t entries = 0
    if not large_batch(w, x, whole) and not maps_read(w, x, whole):
        return 0
    if x.flags:
        by_maps(w, x, formula)
    if x.end <= x.first:
        return 0
    nr = x.end - x.first
    if x.flags:
        entries = nr if x.one else count(x, x.present)
    w.pages += entries
    # where nothing is present, that is read
    read_plain(w, nr - entries)
    w.idx = x.end
    return nr


# What is regular from w.idx on; returns the entries dealt with.
cdef size_t regular(walk *w, maps *x, int formula) noexcept nogil:
    cdef size_t first = w.idx
    while w.idx < w.end and stretch(w, x, formula):
        pass
    return w.idx - first


def regular_capsule():
    """The function of this build that does what is regular, for `MM`."""
    return PyCapsule_New(<void *>regular, b"ptebatch.regular", NULL)
