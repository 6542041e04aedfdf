# Every event the model counts, one field each, in the order of
# pkg/ptebatch/counters.py (tests/vocabulary/test_counters.py holds the two together).
# The first 27 are the names of the golden vectors; meaning and unit stand in
# counters.py. A room without Python objects; anyone may cimport it.
from libc.stdint cimport uint64_t

cdef struct counters:
    uint64_t pte_reads
    uint64_t pte_writes
    uint64_t pte_xchg
    uint64_t pte_cmpxchg
    uint64_t ptep_get
    uint64_t contpte_ptep_get
    uint64_t pae_reads
    uint64_t batch_scans
    uint64_t fold_tries
    uint64_t folds
    uint64_t unfold_calls
    uint64_t unfolds
    uint64_t convert_tlbi
    uint64_t convert_tlbi_pages
    uint64_t convert_tlbi_ops
    uint64_t convert_tlbi_ops_range
    uint64_t prot_start
    uint64_t prot_commit
    uint64_t set_ptes
    uint64_t sync_tags
    uint64_t icache_sync
    uint64_t n_batches
    uint64_t n_subs
    uint64_t gather_calls
    uint64_t warns
    uint64_t normal_page
    uint64_t other_tlbi
    uint64_t convert_vale1is
    uint64_t convert_rvale1is
    uint64_t convert_aside1is
    uint64_t convert_dsb
    uint64_t flush_calls
    uint64_t flush_pages
    uint64_t flush_vale1is
    uint64_t flush_rvale1is
    uint64_t flush_aside1is
    uint64_t flush_dsb
    uint64_t pte_locks
    uint64_t vmas_walked
    uint64_t vma_splits
    uint64_t vma_merges
    uint64_t writable_checks
    uint64_t start_multi
    uint64_t set_ptes_multi
    uint64_t unfold_single
    uint64_t ptep_get_reads
    uint64_t cont_without_bbm


cdef inline size_t nr_counters() noexcept nogil:
    return sizeof(counters) // sizeof(uint64_t)
