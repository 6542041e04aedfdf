# Flags of VMAs and of change_protection(), as the model numbers them (spec 6.2, 6.5).
# Not enums: bits beyond an int would read back as 0. For Python: ptebatch.bits.
from libc.stdint cimport uint64_t

cdef extern from *:
    """
    #define VM_READ 1ULL
    #define VM_WRITE 2ULL
    #define VM_EXEC 4ULL
    #define VM_SHARED 8ULL
    #define VM_ACCESS 7ULL
    #define VM_GROWSDOWN 0x100ULL
    #define VM_PFNMAP 0x400ULL
    #define VM_MAYBE_GUARD 0x800ULL
    #define VM_UFFD_WP 0x1000ULL
    #define VM_LOCKED 0x2000ULL
    #define VM_IO 0x4000ULL
    #define VM_DONTEXPAND 0x40000ULL
    #define VM_LOCKONFAULT 0x80000ULL
    #define VM_ACCOUNT 0x100000ULL
    #define VM_NORESERVE 0x200000ULL
    #define VM_HUGETLB 0x400000ULL
    #define VM_BTI 0x1000000ULL
    #define VM_SOFTDIRTY 0x8000000ULL
    #define VM_MIXEDMAP 0x10000000ULL
    #define VM_PKEYS (7ULL << 32)
    #define VM_MTE (1ULL << 36)
    #define VM_MTE_ALLOWED (1ULL << 37)
    #define VM_SEALED (1ULL << 42)
    #define VM_KNOWN 0x737ffffffffULL
    #define VM_NO_MERGE (VM_IO | VM_DONTEXPAND | VM_PFNMAP | VM_MIXEDMAP)
    """
    const uint64_t VM_READ, VM_WRITE, VM_EXEC, VM_SHARED, VM_ACCESS, VM_GROWSDOWN, VM_PFNMAP, VM_MAYBE_GUARD
    const uint64_t VM_UFFD_WP, VM_LOCKED, VM_IO, VM_DONTEXPAND, VM_ACCOUNT, VM_NORESERVE, VM_HUGETLB, VM_BTI
    const uint64_t VM_SOFTDIRTY, VM_MIXEDMAP, VM_PKEYS, VM_MTE, VM_MTE_ALLOWED, VM_SEALED, VM_NO_MERGE, VM_KNOWN, VM_LOCKONFAULT

cdef enum:
    MM_CP_TRY_CHANGE_WRITABLE = 1
    MM_CP_PROT_NUMA = 2
    MM_CP_UFFD_WP = 4
    MM_CP_UFFD_WP_RESOLVE = 8
