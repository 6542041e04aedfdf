# What an operation is: a system call on an address space. It gets a request, does its
# work without Python, and says how it ended. `MM.perform` runs any of them.
#
# To add one: a header of its own beside mprotect.pxd with a function of the type
# `operation`, a method of MM, and its rows; CONTRIBUTING.md has the whole list.
from libc.stdint cimport uint64_t
from ..batch.seam cimport strategy
from .mm_struct cimport mm_struct

# why a call failed; ptebatch.errors.REASONS has a sentence for each, in this order
cdef enum:
    WHY_OK
    WHY_GROWS_BOTH
    WHY_ALIGN
    WHY_OVERFLOW
    WHY_PROT
    WHY_PKEY
    WHY_NO_VMA
    WHY_NOT_GROWSDOWN
    WHY_NOT_GROWSUP
    WHY_HOLE
    WHY_MAY
    WHY_MDWE
    WHY_ARCH
    WHY_SEALED
    WHY_DATA_LIMIT
    WHY_COMMIT
    WHY_MAP_COUNT

cdef struct outcome:
    int err                    # errno, 0: done, below 0: the strategy's step failed
    int why
    uint64_t addr              # where the call stopped

cdef struct request:
    uint64_t start
    uint64_t len
    uint64_t prot
    long pkey
    const strategy *s
    void *python

ctypedef outcome (*operation)(mm_struct *mm, request *r) noexcept nogil


cdef inline outcome fail(int err, int why, uint64_t addr) noexcept nogil:
    return outcome(err, why, addr)
