# The machine as the core sees it: plain numbers, filled from ptebatch.Machine
# by batch/resolved.pyx. Geometry: spec 1.1; switches: spec 0 and 10.1. No Python objects.
from libc.stdint cimport uint32_t, uint64_t

cdef struct machine:
    uint32_t page_shift
    uint32_t cont_ptes         # entries of a contpte block
    uint32_t ptrs_per_pte      # entries of a table
    uint32_t ptrs_shift
    uint32_t va_bits
    bint contpte
    bint tlb_range
    bint elides_bbm            # a conversion issues no TLBI (BBML)
    bint lpa2
    bint kpti
    bint repeat_tlbi
    bint gather_early_exit
    bint needs_flush           # arm64's own pte_needs_flush()
    bint paint_invalid
    bint mkwrite_always
    bint guard_markers
    bint asid_extra_dsb
    bint epan
    bint bti
    bint mte
    bint mdwe
    bint sticky_flags          # VM_SOFTDIRTY and VM_MAYBE_GUARD survive a merge of VMAs
    uint32_t swp_migration_read      # types of softleaf entries (spec 1.6)
    uint32_t swp_device_write        # 0: no CONFIG_DEVICE_PRIVATE
    uint32_t swp_exclusive_write     # 6.12's writable device-exclusive entry; 0: none


cdef inline uint64_t page_size(const machine *m) noexcept nogil:
    return <uint64_t>1 << m.page_shift
