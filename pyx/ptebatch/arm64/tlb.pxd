# TLB maintenance: which instructions a flush needs, and the gather that
# decides what to flush. Counterparts: arch/arm64/include/asm/tlbflush.h,
# include/asm-generic/tlb.h, mm/mmu_gather.c. Rules: spec 6.8.
from libc.stdint cimport uint64_t
from ..base.log cimport (
    EV_ASIDE1IS, EV_DSB_ISH, EV_DSB_ISHST, EV_GATHER, EV_RVALE1IS, EV_VALE1IS, pairs_add, trace, trace_emit,
)
from .machine cimport machine
from .mmu cimport mmu_t

cdef struct flush_ops:
    uint64_t vale1is
    uint64_t rvale1is
    uint64_t aside1is
    uint64_t dsb

cdef enum:
    MAX_TLBI_RANGE_PAGES = 32 << 16


cdef inline void note(trace *tr, int kind, uint64_t addr, uint64_t value) noexcept nogil:
    if tr != NULL:
        trace_emit(tr, kind, addr, value)


# one instruction, or two when the kernel is unmapped at EL0
cdef inline uint64_t tlbi(const machine *m, trace *tr, int kind, uint64_t addr, uint64_t pages) noexcept nogil:
    note(tr, kind, addr, pages)
    if not m.kpti:
        return 1
    note(tr, kind, addr, pages)
    return 2


# the loop of __flush_tlb_range_op(): PTE stride, no barriers
cdef inline flush_ops range_ops(const machine *m, uint64_t addr, uint64_t pages, bint use_range, trace *tr) noexcept nogil:
    cdef flush_ops ops = flush_ops(0, 0, 0, 0)
    cdef int scale = 3
    cdef uint64_t num, covered
    cdef uint64_t align64k = ((<uint64_t>1 << 16) - 1)
    while pages:
        if not use_range or pages == 1 or (m.lpa2 and addr & align64k):
            ops.vale1is += tlbi(m, tr, EV_VALE1IS, addr, 1)
            addr += <uint64_t>1 << m.page_shift
            pages -= 1
            continue
        num = pages >> (5 * scale + 1)
        if num:
            covered = num << (5 * scale + 1)
            ops.rvale1is += tlbi(m, tr, EV_RVALE1IS, addr, covered)
            addr += covered << m.page_shift
            pages -= covered
        scale -= 1
    return ops


# a flush by range with its barriers; too long a range becomes one ASID flush
cdef inline flush_ops flush_tlb_range(const machine *m, uint64_t addr, uint64_t pages, trace *tr) noexcept nogil:
    cdef flush_ops ops
    cdef bint whole = pages > MAX_TLBI_RANGE_PAGES if m.tlb_range else pages >= m.ptrs_per_pte
    note(tr, EV_DSB_ISHST, 0, 0)
    if whole:
        ops = flush_ops(0, 0, tlbi(m, tr, EV_ASIDE1IS, 0, 0), 2)
    else:
        ops = range_ops(m, addr, pages, m.tlb_range, tr)
        ops.dsb = 2
    note(tr, EV_DSB_ISH, 0, 0)
    if m.repeat_tlbi:
        # the workaround adds one TLBI and its barrier to each flush, KPTI or not
        note(tr, EV_VALE1IS, addr, 1)
        note(tr, EV_DSB_ISH, 0, 0)
        ops.vale1is += 1
        ops.dsb += 1
    if whole and m.asid_extra_dsb:
        ops.dsb += 1
        note(tr, EV_DSB_ISH, 0, 0)
    return ops


# the flush inside contpte_convert(): never an ASID flush in the kernel's geometries
cdef inline void convert_flush(mmu_t *mmu, uint64_t addr) noexcept nogil:
    cdef uint64_t nr = mmu.m.cont_ptes
    cdef flush_ops ops = range_ops(&mmu.m, addr, nr, True, NULL)
    mmu.c.convert_tlbi += 1
    mmu.c.convert_tlbi_pages += nr
    mmu.c.convert_tlbi_ops += nr
    # operations of the loop, each of them two instructions under KPTI
    mmu.c.convert_tlbi_ops_range += (ops.vale1is + ops.rvale1is) >> mmu.m.kpti
    ops = flush_tlb_range(&mmu.m, addr, nr, mmu.tr)
    mmu.c.convert_vale1is += ops.vale1is
    mmu.c.convert_rvale1is += ops.rvale1is
    mmu.c.convert_aside1is += ops.aside1is
    mmu.c.convert_dsb += ops.dsb
    if mmu.flushes != NULL:
        pairs_add(mmu.flushes, addr, nr)


# ---- mmu_gather ----

cdef inline void tlb_gather_mmu(mmu_t *mmu) noexcept nogil:
    mmu.tlb.start = <uint64_t>-1
    mmu.tlb.end = 0
    mmu.tlb.cleared_ptes = False


cdef inline void tlb_flush_pte_range(mmu_t *mmu, uint64_t addr, uint64_t size) noexcept nogil:
    mmu.c.gather_calls += 1
    note(mmu.tr, EV_GATHER, addr, size >> mmu.m.page_shift)
    if addr < mmu.tlb.start:
        mmu.tlb.start = addr
    if addr + size > mmu.tlb.end:
        mmu.tlb.end = addr + size
    mmu.tlb.cleared_ptes = True


# end of a VMA: flush what was gathered, and reset (arm64 merges no VMAs)
cdef inline void tlb_end_vma(mmu_t *mmu) noexcept nogil:
    cdef uint64_t pages
    cdef flush_ops ops
    if not mmu.tlb.cleared_ptes:
        return
    pages = (mmu.tlb.end - mmu.tlb.start) >> mmu.m.page_shift
    if mmu.gathers != NULL:
        pairs_add(mmu.gathers, mmu.tlb.start, mmu.tlb.end)
    ops = flush_tlb_range(&mmu.m, mmu.tlb.start, pages, mmu.tr)
    mmu.c.flush_calls += 1
    mmu.c.flush_pages += pages
    mmu.c.flush_vale1is += ops.vale1is
    mmu.c.flush_rvale1is += ops.rvale1is
    mmu.c.flush_aside1is += ops.aside1is
    mmu.c.flush_dsb += ops.dsb
    tlb_gather_mmu(mmu)
