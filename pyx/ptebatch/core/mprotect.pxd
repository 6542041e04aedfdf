# mprotect(): the checks in the kernel's order, the loop over VMAs, fixup, and
# the walk over the leaf tables. No rollback: what was changed before a failure
# stays. Counterpart: mm/mprotect.c (7.3). Rules: spec 6.1 to 6.5, 11.1.
from libc.errno cimport EACCES, EINVAL, ENOMEM, EPERM
from libc.stdint cimport uint64_t
from .change cimport change_pte_range
from .counters cimport counters
from .machine cimport machine, page_size
from .memo cimport memo, memo_count
from .mm_struct cimport mm_struct
from .pgtable cimport DESC_TABLE, pgtable, pgtable_index, pmd_offset
from .pte cimport pte_t
from .strategy cimport MM_CP_TRY_CHANGE_WRITABLE, STRATEGY_PURE, strategy, walk
from .tlb cimport tlb_end_vma, tlb_gather_mmu
from .vma cimport (
    VM_ACCESS, VM_ACCOUNT, VM_BTI, VM_EXEC, VM_GROWSDOWN, VM_HUGETLB, VM_MTE, VM_MTE_ALLOWED, VM_NORESERVE, VM_PKEYS,
    VM_SEALED, VM_SHARED, VM_STICKY, VM_WRITE, find_vma, split_vma, vma, vma_merge, vma_set_page_prot,
    vma_wants_writenotify, vmas,
)

cdef enum:
    PROT_READ = 1
    PROT_EXEC = 4
    PROT_BTI = 0x10
    PROT_MTE = 0x20
    PROT_GROWSDOWN = 0x01000000
    PROT_GROWSUP = 0x02000000

# why a call failed; the texts stand in mm.pyx
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
    int err
    int why
    uint64_t addr

# an address space: what mm_struct of the kernel holds besides the counters
cdef struct space:
    mm_struct mm
    pgtable pt
    vmas vs
    uint64_t data_vm           # pages of private writable mappings
    uint64_t data_limit
    uint64_t committed
    uint64_t commit_limit
    uint64_t pkeys             # allocated protection keys, one bit each
    bint read_implies_exec
    memo *memo                 # NULL: every entry is done step by step

cdef struct request:
    uint64_t start
    uint64_t len
    uint64_t prot
    long pkey
    const strategy *s
    void *python


cdef inline outcome fail(int err, int why, uint64_t addr) noexcept nogil:
    return outcome(err, why, addr)


# bit 55 chooses the half: a user address loses its tag, a kernel one keeps all bits
cdef inline uint64_t untagged_addr(uint64_t addr) noexcept nogil:
    return addr if addr >> 55 & 1 else addr & ~(<uint64_t>0xff << 56)


# the address space's memo, cleared, if this call can use it
cdef inline void *memo_for(space *sp, const strategy *s, uint64_t pages) noexcept nogil:
    cdef memo *m = sp.memo
    if m == NULL or pages < 64 or sp.mm.tr != NULL or not s.flags & STRATEGY_PURE:
        return NULL
    # a small block may share a 64K unit of LPA2's range TLBIs with its neighbours
    if sp.mm.m.lpa2 and (<uint64_t>sp.mm.m.cont_ptes << sp.mm.m.page_shift) < 65536:
        return NULL
    m.valid = False
    m.gain = 0
    m.skip = m.backoff = 0
    m.pending = 0
    m.known.lo = m.known.hi = 0
    m.known.credit = 2 * pages
    return m


# change_protection(): every leaf table of [start, end), one VMA
cdef inline bint change_protection(space *sp, uint64_t start, uint64_t end, walk *w, const strategy *s) noexcept nogil:
    cdef uint64_t span = <uint64_t>sp.mm.m.ptrs_per_pte << sp.mm.m.page_shift
    cdef uint64_t addr = start, next
    cdef uint64_t *pmd = NULL
    sp.mm.c.vmas_walked += 1
    w.t.mm = &sp.mm
    w.failed = False
    w.started = 0
    w.range_end = end
    w.memo = memo_for(sp, s, (end - start) >> sp.mm.m.page_shift)
    while addr < end and not w.failed:
        next = min(end, (addr | (span - 1)) + 1)
        # tables of one upper table lie side by side in it: only its first is looked up
        if pmd == NULL or pgtable_index(&sp.pt, addr, 0) == 0:
            pmd = pmd_offset(&sp.pt, addr, False)
        else:
            pmd += 1
        if pmd != NULL and pmd[0]:
            w.t.leaf = <pte_t *>(pmd[0] & ~<uint64_t>DESC_TABLE)
            w.t.addr0 = addr & ~(span - 1)
            w.idx = (addr - w.t.addr0) >> sp.mm.m.page_shift
            w.end = (next - w.t.addr0) >> sp.mm.m.page_shift
            change_pte_range(w, s)
        addr = next
    if w.memo != NULL:
        memo_count(w, <memo *>w.memo)
    tlb_end_vma(&sp.mm)
    return not w.failed


cdef inline bint is_data_mapping(uint64_t flags) noexcept nogil:
    return (flags & (VM_WRITE | VM_SHARED | VM_GROWSDOWN)) == VM_WRITE


cdef inline bint may_expand_vm(const space *sp, uint64_t flags, uint64_t pages) noexcept nogil:
    return not is_data_mapping(flags) or sp.data_vm + pages <= sp.data_limit


# limits of a range that becomes writable (spec 6.3, step 4); adds ACCOUNT to flags
cdef inline int charge_writable(space *sp, const vma *v, uint64_t pages, uint64_t *flags, uint64_t *charged) noexcept nogil:
    if not flags[0] & VM_WRITE:
        return WHY_OK
    if not may_expand_vm(sp, flags[0], pages) and may_expand_vm(sp, v.flags, pages):
        return WHY_DATA_LIMIT
    if v.flags & (VM_ACCOUNT | VM_WRITE | VM_HUGETLB | VM_SHARED | VM_NORESERVE):
        return WHY_OK
    if sp.committed + pages > sp.commit_limit:
        return WHY_COMMIT
    sp.committed += pages
    charged[0] = pages
    flags[0] |= VM_ACCOUNT
    return WHY_OK


# make vma i exactly [start, end) with `flags`: by merging, else by splitting
cdef inline Py_ssize_t vma_modify(space *sp, size_t i, uint64_t start, uint64_t end, uint64_t flags) noexcept nogil:
    cdef unsigned int shift = sp.mm.m.page_shift
    cdef Py_ssize_t merged = vma_merge(&sp.vs, i, start, end, flags, shift)
    if merged >= 0:
        sp.mm.c.vma_merges += 1
        return merged
    if sp.vs.at[i].start < start:
        if split_vma(&sp.vs, i, start, shift):
            return -1
        sp.mm.c.vma_splits += 1
        i += 1
    if sp.vs.at[i].end > end:
        if split_vma(&sp.vs, i, end, shift):
            return -1
        sp.mm.c.vma_splits += 1
    return i


# mprotect_fixup(): vma i, the part [start, end) of it
cdef inline outcome mprotect_fixup(
        space *sp, size_t *index, uint64_t start, uint64_t end, uint64_t flags, const request *r) noexcept nogil:
    cdef vma *v = &sp.vs.at[index[0]]
    cdef uint64_t old = v.flags, pages = (end - start) >> sp.mm.m.page_shift, charged = 0
    cdef Py_ssize_t i
    cdef int why
    cdef walk w
    if old & VM_SEALED:
        return fail(EPERM, WHY_SEALED, start)
    if flags == old:
        return fail(0, WHY_OK, start)
    why = charge_writable(sp, v, pages, &flags, &charged)
    if why:
        return fail(ENOMEM, why, start)
    if not flags & VM_WRITE and old & VM_ACCOUNT and v.file == 0 and v.anon_vma == 0:
        flags &= ~VM_ACCOUNT
    i = vma_modify(sp, index[0], start, end, flags)
    if i < 0:
        sp.committed -= charged
        return fail(ENOMEM, WHY_MAP_COUNT, start)
    index[0] = i
    v = &sp.vs.at[i]
    v.flags = flags | (v.flags & VM_STICKY)
    w.cp_flags = try_change_writable(v, &sp.mm.m)
    vma_set_page_prot(v, &sp.mm.m)
    w.newprot = v.page_prot
    w.vm_flags = v.flags
    w.vma_anon = v.file == 0 and not v.flags & VM_SHARED
    w.pages = 0
    w.python = r.python
    change_protection(sp, start, end, &w, r.s)
    sp.mm.pages_changed += w.pages
    if old & VM_ACCOUNT and not flags & VM_ACCOUNT:
        sp.committed -= min(pages, sp.committed)
    account_data(sp, old, flags, pages)
    return fail(-1 if w.failed else 0, WHY_OK, start)


cdef inline void account_data(space *sp, uint64_t old, uint64_t new, uint64_t pages) noexcept nogil:
    if is_data_mapping(old):
        sp.data_vm -= min(pages, sp.data_vm)
    if is_data_mapping(new):
        sp.data_vm += pages


# with the new flags and the still old page_prot (spec 6.6)
cdef inline unsigned int try_change_writable(const vma *v, const machine *m) noexcept nogil:
    cdef bint wanted = vma_wants_writenotify(v, v.page_prot, m) if v.flags & VM_SHARED else v.flags & VM_WRITE
    return MM_CP_TRY_CHANGE_WRITABLE if wanted else 0


# steps 1 to 7 of spec 6.1: no side effects
cdef inline outcome check_request(const space *sp, request *r, uint64_t *end) noexcept nogil:
    cdef const machine *m = &sp.mm.m
    cdef uint64_t mask = page_size(m) - 1
    cdef uint64_t valid = 0xf | (PROT_BTI if m.bti else 0) | (PROT_MTE if m.mte else 0)
    cdef uint64_t prot = r.prot & ~<uint64_t>(PROT_GROWSDOWN | PROT_GROWSUP)
    r.start = untagged_addr(r.start)
    end[0] = r.start
    if r.prot & PROT_GROWSDOWN and r.prot & PROT_GROWSUP:
        return fail(EINVAL, WHY_GROWS_BOTH, r.start)
    if r.start & mask:
        return fail(EINVAL, WHY_ALIGN, r.start)
    if r.len == 0:
        return fail(0, WHY_OK, r.start)
    end[0] = r.start + ((r.len + mask) & ~mask)
    if end[0] <= r.start:
        return fail(ENOMEM, WHY_OVERFLOW, r.start)
    if prot & ~valid:
        return fail(EINVAL, WHY_PROT, r.start)
    if r.pkey != -1 and (r.pkey < 0 or r.pkey > 7 or not sp.pkeys >> r.pkey & 1):
        return fail(EINVAL, WHY_PKEY, r.start)
    return fail(0, WHY_OK, r.start)


# steps 8 and 9: where the walk over VMAs begins
cdef inline outcome find_first(const space *sp, request *r, uint64_t *end, size_t *index) noexcept nogil:
    cdef size_t i = find_vma(&sp.vs, r.start)
    cdef const vma *v
    index[0] = i
    if i >= sp.vs.nr or sp.vs.at[i].start >= end[0]:
        return fail(ENOMEM, WHY_NO_VMA, r.start)
    v = &sp.vs.at[i]
    if r.prot & PROT_GROWSDOWN:
        if not v.flags & VM_GROWSDOWN:
            return fail(EINVAL, WHY_NOT_GROWSDOWN, v.start)
        r.start = v.start
    elif v.start > r.start:
        return fail(ENOMEM, WHY_HOLE, r.start)
    elif r.prot & PROT_GROWSUP:
        # no VMA of arm64 grows upwards
        return fail(EINVAL, WHY_NOT_GROWSUP, v.start)
    return fail(0, WHY_OK, r.start)


cdef inline uint64_t new_flags(const request *r, uint64_t prot, const vma *v) noexcept nogil:
    cdef uint64_t flags = v.flags & ~(VM_ACCESS | VM_BTI)
    flags |= prot & VM_ACCESS
    if prot & PROT_BTI:
        flags |= VM_BTI
    if prot & PROT_MTE:
        flags |= VM_MTE
    if r.pkey != -1:
        flags = (flags & ~VM_PKEYS) | (<uint64_t>r.pkey << 32)
    return flags


# steps d to f of spec 6.2
cdef inline outcome may_have(const space *sp, const vma *v, uint64_t flags) noexcept nogil:
    if (flags & VM_ACCESS) & ~(v.flags >> 4):
        return fail(EACCES, WHY_MAY, v.start)
    if sp.mm.m.mdwe and flags & VM_EXEC and (flags & VM_WRITE or not v.flags & VM_EXEC):
        return fail(EACCES, WHY_MDWE, v.start)
    if flags & VM_MTE and not flags & VM_MTE_ALLOWED:
        return fail(EINVAL, WHY_ARCH, v.start)
    return fail(0, WHY_OK, v.start)


cdef inline outcome do_mprotect(space *sp, request *r) noexcept nogil:
    cdef uint64_t end = 0, at, expect, tmp, prot, flags
    cdef size_t i = 0
    cdef vma *v
    cdef outcome o = check_request(sp, r, &end)
    if o.err or r.len == 0:
        return o
    o = find_first(sp, r, &end, &i)
    if o.err:
        return o
    tlb_gather_mmu(&sp.mm)
    at = r.start
    expect = sp.vs.at[i].start
    while i < sp.vs.nr and sp.vs.at[i].start < end:
        v = &sp.vs.at[i]
        if v.start != expect:
            return fail(ENOMEM, WHY_HOLE, expect)
        prot = r.prot
        if sp.read_implies_exec and prot & PROT_READ and v.flags >> 4 & VM_EXEC:
            prot |= PROT_EXEC
        flags = new_flags(r, prot, v)
        o = may_have(sp, v, flags)
        if o.err:
            o.addr = at
            return o
        tmp = min(v.end, end)
        o = mprotect_fixup(sp, &i, at, tmp, flags, r)
        if o.err:
            return o
        expect = at = sp.vs.at[i].end
        i += 1
    if expect < end:
        return fail(ENOMEM, WHY_HOLE, expect)
    return fail(0, WHY_OK, r.start)
