# VMAs: flags, page protection, split and merge. One sorted array an address
# space; the kernel's map count limit keeps it short.
# Counterparts: mm/vma.c, arch/arm64/mm/mmap.c. Rules: spec 1.4, 6.2, 6.4, 6.6.
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memmove
from .machine cimport machine
from .pte cimport PTE_ATTRINDX, PTE_GP, PTE_PO_IDX, PTE_SHARED, PTE_USER, PTE_UXN, PTE_WRITE, pte_t

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
    #define VM_STICKY (VM_SOFTDIRTY | VM_MAYBE_GUARD)
    #define VM_NO_MERGE (VM_IO | VM_DONTEXPAND | VM_PFNMAP | VM_MIXEDMAP)
    """
    const uint64_t VM_READ, VM_WRITE, VM_EXEC, VM_SHARED, VM_ACCESS, VM_GROWSDOWN, VM_PFNMAP, VM_MAYBE_GUARD
    const uint64_t VM_UFFD_WP, VM_LOCKED, VM_IO, VM_DONTEXPAND, VM_ACCOUNT, VM_NORESERVE, VM_HUGETLB, VM_BTI
    const uint64_t VM_SOFTDIRTY, VM_MIXEDMAP, VM_PKEYS, VM_MTE, VM_MTE_ALLOWED, VM_SEALED, VM_STICKY, VM_NO_MERGE

cdef struct vma:
    uint64_t start
    uint64_t end
    uint64_t flags
    uint64_t page_prot
    uint64_t pgoff             # in pages; anonymous memory: start of the mapping's own address
    uint32_t file              # 0: anonymous
    uint32_t anon_vma          # 0: nothing was ever faulted in
    uint32_t mapping           # which mmap() made it: each shared anonymous one is a file of its own
    bint writenotify           # the owner has a page_mkwrite hook (or does writeback)

cdef struct vmas:
    vma *at
    size_t nr
    size_t room
    size_t limit               # map count limit
    uint32_t last_anon_vma
    uint32_t last_mapping


cdef inline pte_t page_prot_base(uint64_t flags, const machine *m) noexcept nogil:
    cdef uint64_t a = flags & VM_ACCESS
    cdef bint shared_write = flags & VM_SHARED and flags & VM_WRITE
    cdef pte_t prot = <uint64_t>0x0060000000000fc3      # PAGE_READONLY
    if a == 0:
        return <uint64_t>0x0060000000000f82             # PAGE_NONE
    if shared_write:
        prot |= PTE_WRITE
    if a & VM_EXEC:
        prot &= ~PTE_UXN
        if a == VM_EXEC and m.epan:
            prot &= ~PTE_USER                           # PAGE_EXECONLY
    return prot


# vm_get_page_prot(): the protection map with the CPU's additions (spec 1.4)
cdef inline pte_t vm_get_page_prot(uint64_t flags, const machine *m) noexcept nogil:
    cdef pte_t prot = page_prot_base(flags, m)
    if flags & VM_BTI:
        prot |= PTE_GP
    if flags & VM_MTE:
        prot |= 4
    prot |= ((flags & VM_PKEYS) >> 32) << 60
    if m.lpa2:
        prot &= ~PTE_SHARED
    return prot


# spec 6.6: called with the still old page_prot and the new flags, on purpose
cdef inline bint vma_wants_writenotify(const vma *v, uint64_t prot, const machine *m) noexcept nogil:
    if (v.flags & (VM_WRITE | VM_SHARED)) != (VM_WRITE | VM_SHARED):
        return False
    if v.writenotify:
        return True
    if prot != vm_get_page_prot(v.flags, m):
        return False
    return (v.flags & VM_UFFD_WP) != 0


cdef inline void vma_set_page_prot(vma *v, const machine *m) noexcept nogil:
    v.page_prot = vm_get_page_prot(v.flags, m)
    if vma_wants_writenotify(v, v.page_prot, m):
        v.page_prot = vm_get_page_prot(v.flags & ~VM_SHARED, m)


# accountable_mapping(): private memory that may be written counts against the commit limit
cdef inline bint accountable_mapping(uint64_t flags) noexcept nogil:
    return (flags & (VM_NORESERVE | VM_SHARED | VM_WRITE | VM_HUGETLB)) == VM_WRITE


# first VMA that ends above addr; vs.nr: none
cdef inline size_t find_vma(const vmas *vs, uint64_t addr) noexcept nogil:
    cdef size_t lo = 0, hi = vs.nr, mid
    while lo < hi:
        mid = (lo + hi) // 2
        if vs.at[mid].end > addr:
            hi = mid
        else:
            lo = mid + 1
    return lo


cdef inline int vma_insert(vmas *vs, size_t i, const vma *v) noexcept nogil:
    cdef vma *at
    cdef size_t room
    if vs.nr == vs.room:
        room = 2 * vs.room if vs.room else 8
        at = <vma *>realloc(vs.at, room * sizeof(vma))
        if at == NULL:
            return -1
        vs.at = at
        vs.room = room
    memmove(vs.at + i + 1, vs.at + i, (vs.nr - i) * sizeof(vma))
    vs.at[i] = v[0]
    vs.nr += 1
    return 0


cdef inline void vma_remove(vmas *vs, size_t i) noexcept nogil:
    memmove(vs.at + i, vs.at + i + 1, (vs.nr - i - 1) * sizeof(vma))
    vs.nr -= 1


# vma i is cut at addr into i and i + 1; -1: the map count limit, or no memory
cdef inline int split_vma(vmas *vs, size_t i, uint64_t addr, unsigned int page_shift) noexcept nogil:
    cdef vma upper = vs.at[i]
    if vs.nr >= vs.limit:
        return -1
    upper.pgoff += (addr - upper.start) >> page_shift
    upper.start = addr
    if vma_insert(vs, i + 1, &upper):
        return -1
    vs.at[i].end = addr
    return 0


cdef inline bint anon_vma_mergeable(const vma *a, const vma *b) noexcept nogil:
    return a.anon_vma == 0 or b.anon_vma == 0 or a.anon_vma == b.anon_vma


# may `b`, behind `a`, become one VMA with it once it has `flags`?
cdef inline bint can_vma_merge(const vma *a, const vma *b, unsigned int page_shift) noexcept nogil:
    return (a.end == b.start and ((a.flags ^ b.flags) & ~VM_STICKY) == 0 and a.file == b.file
            and a.pgoff + ((a.end - a.start) >> page_shift) == b.pgoff and a.writenotify == b.writenotify
            and (not a.flags & VM_SHARED or a.file or a.mapping == b.mapping)
            and anon_vma_mergeable(a, b))


# [start, end) of vma i will have `flags`: merge it with its neighbours if they are
# alike. Returns the VMA that now covers the range, -1: no merge.
cdef inline Py_ssize_t vma_merge(
        vmas *vs, size_t i, uint64_t start, uint64_t end, uint64_t flags, unsigned int page_shift) noexcept nogil:
    cdef vma mid = vs.at[i]
    cdef bint left, right
    cdef uint64_t sticky
    if flags & VM_NO_MERGE:
        return -1
    mid.start = start
    mid.end = end
    mid.pgoff += (start - vs.at[i].start) >> page_shift
    mid.flags = flags
    left = i > 0 and start == vs.at[i].start and can_vma_merge(&vs.at[i - 1], &mid, page_shift)
    right = i + 1 < vs.nr and end == vs.at[i].end and can_vma_merge(&mid, &vs.at[i + 1], page_shift)
    if left and right and not anon_vma_mergeable(&vs.at[i - 1], &vs.at[i + 1]):
        right = False
    sticky = flags & VM_STICKY
    if left and right:
        return merge_three(vs, i, sticky)
    if left:
        return merge_left(vs, i, &mid, sticky, page_shift)
    if right:
        return merge_right(vs, i, &mid, sticky)
    return -1


cdef inline void take_over(vma *v, const vma *other, uint64_t sticky) noexcept nogil:
    v.flags |= sticky | (other.flags & VM_STICKY)
    if v.anon_vma == 0:
        v.anon_vma = other.anon_vma


cdef inline Py_ssize_t merge_three(vmas *vs, size_t i, uint64_t sticky) noexcept nogil:
    cdef vma *prev = &vs.at[i - 1]
    prev.end = vs.at[i + 1].end
    take_over(prev, &vs.at[i + 1], sticky)
    take_over(prev, &vs.at[i], sticky)
    vma_remove(vs, i + 1)
    vma_remove(vs, i)
    return i - 1


cdef inline Py_ssize_t merge_left(vmas *vs, size_t i, const vma *mid, uint64_t sticky, unsigned int page_shift) noexcept nogil:
    cdef vma *prev = &vs.at[i - 1]
    cdef vma *cur = &vs.at[i]
    prev.end = mid.end
    take_over(prev, cur, sticky)
    if cur.end == mid.end:
        vma_remove(vs, i)
    else:
        cur.pgoff += (mid.end - cur.start) >> page_shift
        cur.start = mid.end
    return i - 1


cdef inline Py_ssize_t merge_right(vmas *vs, size_t i, const vma *mid, uint64_t sticky) noexcept nogil:
    cdef vma *next = &vs.at[i + 1]
    cdef vma *cur = &vs.at[i]
    next.start = mid.start
    next.pgoff = mid.pgoff
    take_over(next, cur, sticky)
    if cur.start == mid.start:
        vma_remove(vs, i)
        return i
    cur.end = mid.start
    return i + 1
