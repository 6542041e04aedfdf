# The state of a run of a small world, and what Checker does with it.
from libc.stdint cimport uint32_t, uint64_t

from ..arm64.mmu cimport mmu_gather, mmu_t
from ..base.held cimport Exclusive
from ..base.log cimport trace
from ..batch.memo cimport memo
from ..batch.resolved cimport Strategy
from ..batch.seam cimport walk
from .hardware cimport interleaving
from .smallworld cimport MAX_PTES, facts, world
from .tablelaws cimport outcome, verdict


cdef class Runner(Exclusive):
    cdef mmu_t mmu
    cdef Strategy row
    cdef void *window          # of the row, NULL: the step is compiled
    cdef bint pure
    cdef memo remembered
    cdef mmu_t again           # of the second run, in which what repeats is replayed
    cdef walk again_w
    cdef uint64_t[MAX_PTES] again_table
    cdef bint replays          # the last run was followed by a second one
    cdef readonly object machine
    cdef readonly uint64_t runs
    cdef readonly uint64_t missed      # entries that could have become writable and did not, of all worlds judged
    cdef readonly uint64_t unrecorded  # entries of which no batch was recorded, though some were
    cdef object raised
    cdef uint64_t[MAX_PTES] table
    cdef trace tr
    cdef interleaving hw
    cdef walk w
    cdef facts f
    cdef outcome out
    cdef mmu_gather gather
    cdef uint64_t[MAX_PTES] before

    cdef walk begin(self, mmu_t *mmu, uint64_t *leaf, const world *x) noexcept nogil
    cdef object words(self, const uint64_t *at)
    cdef void run(self, const world *x, bint traced) noexcept nogil
    cdef verdict run_again(self, const world *x, bint only_maps) noexcept nogil
    cdef verdict compare_again(self) noexcept nogil
    cdef verdict run_and_judge(self, const world *x, bint tlb, uint32_t updates) noexcept nogil
    cdef verdict root_cause(self, const world *x, verdict v) noexcept nogil
    cdef verdict judge_hardware(self, const world *x, uint32_t updates, uint32_t saw) noexcept nogil
    cdef int load(self, world *x, object ptes, object pages, object call) except -1
    cdef int note_failure(self, int law) except -1
