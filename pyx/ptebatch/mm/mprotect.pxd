# mprotect(): the checks in the kernel's order, the loop over VMAs, and fixup. No
# rollback: what was changed before a failure stays.
# Counterpart: mm/mprotect.c (7.3). Rules: spec 6.1 to 6.4, 11.1.
from libc.errno cimport EACCES, EINVAL, ENOMEM, EPERM
from libc.stdint cimport uint64_t
from ..arm64.machine cimport machine, page_size
from ..arm64.tlb cimport tlb_gather_mmu
from ..base.vm_flags cimport (
    MM_CP_TRY_CHANGE_WRITABLE, VM_ACCESS, VM_ACCOUNT, VM_BTI, VM_EXEC, VM_GROWSDOWN, VM_HUGETLB, VM_LOCKED,
    VM_LOCKONFAULT, VM_MTE, VM_MTE_ALLOWED, VM_NORESERVE, VM_PKEYS, VM_SEALED, VM_SHARED, VM_WRITE,
)
from ..batch.seam cimport walk, walk_of
from .change_protection cimport change_protection
from .mm_struct cimport mm_struct, not_modelled
from .operation cimport (
    WHY_ALIGN, WHY_ARCH, WHY_COMMIT, WHY_DATA_LIMIT, WHY_GROWS_BOTH, WHY_HOLE, WHY_MAP_COUNT, WHY_MAY, WHY_MDWE,
    WHY_NOT_GROWSDOWN, WHY_NOT_GROWSUP, WHY_NO_VMA, WHY_OK, WHY_OVERFLOW, WHY_PKEY, WHY_PROT, WHY_SEALED, fail, outcome,
    request,
)
from .vma cimport (
    find_vma, is_data_mapping, split_vma, sticky_flags, vma, vma_at, vma_is_anonymous, vma_merge, vma_set_page_prot,
    vma_wants_writenotify,
)

cdef enum:
    PROT_READ = 1
    PROT_EXEC = 4
    PROT_BTI = 0x10
    PROT_MTE = 0x20
    PROT_GROWSDOWN = 0x01000000
    PROT_GROWSUP = 0x02000000


# bit 55 chooses the half: a user address loses its tag, a kernel one keeps all bits
cdef inline uint64_t untagged_addr(uint64_t addr) noexcept nogil:
    return addr if addr >> 55 & 1 else addr & ~(<uint64_t>0xff << 56)


cdef inline bint may_expand_vm(const mm_struct *mm, uint64_t flags, uint64_t pages) noexcept nogil:
    return not is_data_mapping(flags) or mm.data_vm + pages <= mm.data_limit


# limits of a range that becomes writable (spec 6.3, step 4); adds ACCOUNT to flags
cdef inline int charge_writable(mm_struct *mm, const vma *v, uint64_t pages, uint64_t *flags, uint64_t *charged) noexcept nogil:
    if not flags[0] & VM_WRITE:
        return WHY_OK
    if not may_expand_vm(mm, flags[0], pages) and may_expand_vm(mm, v.flags, pages):
        return WHY_DATA_LIMIT
    if v.flags & (VM_ACCOUNT | VM_WRITE | VM_HUGETLB | VM_SHARED | VM_NORESERVE):
        return WHY_OK
    if mm.committed + pages > mm.commit_limit:
        return WHY_COMMIT
    mm.committed += pages
    charged[0] = pages
    flags[0] |= VM_ACCOUNT
    return WHY_OK


# make vma i exactly [start, end) with `flags`: by merging, else by splitting
cdef inline Py_ssize_t vma_modify(mm_struct *mm, size_t i, uint64_t start, uint64_t end, uint64_t flags) noexcept nogil:
    cdef unsigned int shift = mm.mmu.m.page_shift
    cdef Py_ssize_t merged = vma_merge(&mm.vs, i, start, end, flags, &mm.mmu.m)
    if merged >= 0:
        mm.mmu.c.vma_merges += 1
        return merged
    if vma_at(&mm.vs, i).start < start:
        if split_vma(&mm.vs, i, start, shift):
            return -1
        mm.mmu.c.vma_splits += 1
        i += 1
    if vma_at(&mm.vs, i).end > end:
        if split_vma(&mm.vs, i, end, shift):
            return -1
        mm.mmu.c.vma_splits += 1
    return i


# mprotect_fixup(): vma i, the part [start, end) of it
cdef inline outcome mprotect_fixup(
        mm_struct *mm, size_t *index, uint64_t start, uint64_t end, uint64_t flags, const request *r) noexcept nogil:
    cdef vma *v = vma_at(&mm.vs, index[0])
    cdef uint64_t old = v.flags, pages = (end - start) >> mm.mmu.m.page_shift, charged = 0
    cdef Py_ssize_t i
    cdef int why
    cdef unsigned int cp_flags
    cdef walk w
    if old & VM_SEALED:
        return fail(EPERM, WHY_SEALED, start)
    if flags == old:
        return fail(0, WHY_OK, start)
    why = charge_writable(mm, v, pages, &flags, &charged)
    if why:
        return fail(ENOMEM, why, start)
    if not flags & VM_WRITE and old & VM_ACCOUNT and v.file == 0 and v.anon_vma == 0:
        flags &= ~VM_ACCOUNT
    i = vma_modify(mm, index[0], start, end, flags)
    if i < 0:
        mm.committed -= charged
        return fail(ENOMEM, WHY_MAP_COUNT, start)
    index[0] = i
    v = vma_at(&mm.vs, i)
    v.flags = flags | (v.flags & sticky_flags(&mm.mmu.m))
    cp_flags = try_change_writable(v, &mm.mmu.m)
    vma_set_page_prot(v, &mm.mmu.m)
    w = walk_of(&mm.mmu, v.page_prot, cp_flags, v.flags, vma_is_anonymous(v), r.python)
    change_protection(mm, start, end, &w, r.s)
    mm.mmu.pages_changed += w.pages
    if old & VM_ACCOUNT and not flags & VM_ACCOUNT:
        mm.committed -= min(pages, mm.committed)
    account_data(mm, old, flags, pages)
    note_left_out(&mm.left_out, old, flags, pages)
    return fail(-1 if w.failed else 0, WHY_OK, start)


# step 8 of spec 6.3: private memory that is locked and becomes writable is faulted in, now
cdef inline void note_left_out(not_modelled *left_out, uint64_t old, uint64_t new, uint64_t pages) noexcept nogil:
    if (old & (VM_WRITE | VM_SHARED | VM_LOCKED | VM_LOCKONFAULT)) == VM_LOCKED and new & VM_WRITE:
        left_out.populate += pages
    if old & VM_HUGETLB:
        left_out.hugetlb += pages


cdef inline void account_data(mm_struct *mm, uint64_t old, uint64_t new, uint64_t pages) noexcept nogil:
    if is_data_mapping(old):
        mm.data_vm -= min(pages, mm.data_vm)
    if is_data_mapping(new):
        mm.data_vm += pages


# with the new flags and the still old page_prot (spec 6.6)
cdef inline unsigned int try_change_writable(const vma *v, const machine *m) noexcept nogil:
    cdef bint wanted = vma_wants_writenotify(v, v.page_prot, m) if v.flags & VM_SHARED else v.flags & VM_WRITE
    return MM_CP_TRY_CHANGE_WRITABLE if wanted else 0


# steps 1 to 7 of spec 6.1: no side effects
cdef inline outcome check_request(const mm_struct *mm, request *r, uint64_t *end) noexcept nogil:
    cdef const machine *m = &mm.mmu.m
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
    if r.pkey != -1 and (r.pkey < 0 or r.pkey > 7 or not mm.pkeys >> r.pkey & 1):
        return fail(EINVAL, WHY_PKEY, r.start)
    return fail(0, WHY_OK, r.start)


# steps 8 and 9: where the walk over VMAs begins
cdef inline outcome find_first(const mm_struct *mm, request *r, uint64_t *end, size_t *index) noexcept nogil:
    cdef size_t i = find_vma(&mm.vs, r.start)
    cdef const vma *v
    index[0] = i
    if i >= mm.vs.nr or vma_at(&mm.vs, i).start >= end[0]:
        return fail(ENOMEM, WHY_NO_VMA, r.start)
    v = vma_at(&mm.vs, i)
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
cdef inline outcome may_have(const mm_struct *mm, const vma *v, uint64_t flags) noexcept nogil:
    if (flags & VM_ACCESS) & ~(v.flags >> 4):
        return fail(EACCES, WHY_MAY, v.start)
    if mm.mmu.m.mdwe and flags & VM_EXEC and (flags & VM_WRITE or not v.flags & VM_EXEC):
        return fail(EACCES, WHY_MDWE, v.start)
    if flags & VM_MTE and not flags & VM_MTE_ALLOWED:
        return fail(EINVAL, WHY_ARCH, v.start)
    return fail(0, WHY_OK, v.start)


cdef inline outcome do_mprotect(mm_struct *mm, request *r) noexcept nogil:
    cdef uint64_t end = 0, at, expect, tmp, prot, flags
    cdef size_t i = 0
    cdef vma *v
    cdef outcome o = check_request(mm, r, &end)
    if o.err or r.len == 0:
        return o
    o = find_first(mm, r, &end, &i)
    if o.err:
        return o
    tlb_gather_mmu(&mm.mmu)
    at = r.start
    expect = vma_at(&mm.vs, i).start
    while i < mm.vs.nr and vma_at(&mm.vs, i).start < end:
        v = vma_at(&mm.vs, i)
        if v.start != expect:
            return fail(ENOMEM, WHY_HOLE, expect)
        prot = r.prot
        if mm.read_implies_exec and prot & PROT_READ and v.flags >> 4 & VM_EXEC:
            prot |= PROT_EXEC
        flags = new_flags(r, prot, v)
        o = may_have(mm, v, flags)
        if o.err:
            o.addr = at
            return o
        tmp = min(v.end, end)
        o = mprotect_fixup(mm, &i, at, tmp, flags, r)
        if o.err:
            return o
        expect = at = vma_at(&mm.vs, i).end
        i += 1
    if expect < end:
        return fail(ENOMEM, WHY_HOLE, expect)
    return fail(0, WHY_OK, r.start)
