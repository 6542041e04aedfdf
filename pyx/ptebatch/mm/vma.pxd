# VMAs: flags, page protection, split and merge. Their order is an array of small numbers
# with a gap where the last VMA came or went, so that the next one, which is mostly a
# neighbour, costs nothing; the VMAs themselves never move.
#
#   order   3 0 7 . . . . 1 4     gap = 3, nr = 5, room = 9
# Counterparts: mm/vma.c, arch/arm64/mm/mmap.c. Rules: spec 1.4, 6.2, 6.4, 6.6.
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memmove
from ..arm64.machine cimport machine
from ..arm64.pte cimport PTE_ATTRINDX, PTE_GP, PTE_PO_IDX, PTE_SHARED, PTE_USER, PTE_UXN, PTE_WRITE, pte_t
from ..base.vm_flags cimport (
    VM_ACCESS, VM_BTI, VM_EXEC, VM_GROWSDOWN, VM_HUGETLB, VM_MAYBE_GUARD, VM_MTE, VM_NORESERVE, VM_NO_MERGE, VM_PKEYS,
    VM_SHARED, VM_SOFTDIRTY, VM_UFFD_WP, VM_WRITE,
)

cdef struct vma:
    uint64_t start
    uint64_t end
    uint64_t flags
    uint64_t page_prot
    uint64_t pgoff             # in pages; anonymous memory: start of the mapping's own address
    uint32_t file              # 0: anonymous
    uint32_t anon_vma          # 0: nothing was ever faulted in
    uint32_t mapping           # which mmap() made it: each shared anonymous one is a file of its own
    uint32_t name              # of anonymous memory, as prctl(PR_SET_VMA_ANON_NAME) gives it; 0: none
    bint writenotify           # the owner has a page_mkwrite hook (or does writeback)

cdef struct vmas:
    vma *pool
    uint32_t *order            # places in the pool, by address: `gap` of them, what is free, the others
    size_t gap
    size_t nr
    size_t room
    size_t used                # of the pool, ever
    uint32_t unused            # a chain by `mapping` of places that are free again; 0: none, else one more
    size_t limit               # map count limit
    uint32_t last_anon_vma
    uint32_t last_mapping


# VMA i by address; where it is does not change when others come and go, unless there is no more room
cdef inline vma *vma_at(const vmas *vs, size_t i) noexcept nogil:
    return vs.pool + vs.order[i if i < vs.gap else i + vs.room - vs.nr]


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


# is_data_mapping(): what RLIMIT_DATA counts
cdef inline bint is_data_mapping(uint64_t flags) noexcept nogil:
    return (flags & (VM_WRITE | VM_SHARED | VM_GROWSDOWN)) == VM_WRITE


# accountable_mapping(): private memory that may be written counts against the commit limit
cdef inline bint accountable_mapping(uint64_t flags) noexcept nogil:
    return (flags & (VM_NORESERVE | VM_SHARED | VM_WRITE | VM_HUGETLB)) == VM_WRITE


# first VMA that ends above addr; vs.nr: none
cdef inline size_t find_vma(const vmas *vs, uint64_t addr) noexcept nogil:
    cdef size_t lo = 0, hi = vs.nr, mid
    while lo < hi:
        mid = (lo + hi) // 2
        if vma_at(vs, mid).end > addr:
            hi = mid
        else:
            lo = mid + 1
    return lo


# -1: no memory, all is as it was
cdef inline int vmas_reserve(vmas *vs, size_t room) noexcept nogil:
    cdef size_t behind = vs.nr - vs.gap
    cdef vma *pool
    cdef uint32_t *order
    if room <= vs.room:
        return 0
    pool = <vma *>realloc(vs.pool, room * sizeof(vma))
    if pool == NULL:
        return -1
    vs.pool = pool
    order = <uint32_t *>realloc(vs.order, room * sizeof(uint32_t))
    if order == NULL:
        return -1
    memmove(order + room - behind, order + vs.room - behind, behind * sizeof(uint32_t))
    vs.order = order
    vs.room = room
    return 0


cdef inline void vmas_free(vmas *vs) noexcept nogil:
    free(vs.pool)
    free(vs.order)


# the gap begins behind i VMAs
cdef inline void move_gap(vmas *vs, size_t i) noexcept nogil:
    cdef size_t width = vs.room - vs.nr
    if i < vs.gap:
        memmove(vs.order + i + width, vs.order + i, (vs.gap - i) * sizeof(uint32_t))
    else:
        memmove(vs.order + vs.gap, vs.order + vs.gap + width, (i - vs.gap) * sizeof(uint32_t))
    vs.gap = i


cdef inline int vma_insert(vmas *vs, size_t i, const vma *v) noexcept nogil:
    cdef size_t place
    if vs.nr == vs.room and vmas_reserve(vs, 2 * vs.room if vs.room else 8):
        return -1
    move_gap(vs, i)
    if vs.unused:
        place = vs.unused - 1
        vs.unused = vs.pool[place].mapping
    else:
        place = vs.used
        vs.used += 1
    vs.pool[place] = v[0]
    vs.order[vs.gap] = <uint32_t>place
    vs.gap += 1
    vs.nr += 1
    return 0


cdef inline void vma_remove(vmas *vs, size_t i) noexcept nogil:
    cdef uint32_t place
    # the first behind the gap, which takes it in
    move_gap(vs, i)
    place = vs.order[i + vs.room - vs.nr]
    vs.pool[place].mapping = vs.unused
    vs.unused = place + 1
    vs.nr -= 1


# the same VMAs in the memory that `to` has, or in more; -1: no memory, `to` has its own still
cdef inline int vmas_copy(vmas *to, const vmas *vs) noexcept nogil:
    cdef size_t i
    if vmas_reserve(to, vs.nr):
        return -1
    for i in range(vs.nr):
        to.pool[i] = vma_at(vs, i)[0]
        to.order[i] = <uint32_t>i
    to.gap = to.nr = to.used = vs.nr
    to.unused = 0
    to.limit = vs.limit
    to.last_anon_vma, to.last_mapping = vs.last_anon_vma, vs.last_mapping
    return 0


# vma i is cut at addr into i and i + 1; -1: the map count limit, or no memory
cdef inline int split_vma(vmas *vs, size_t i, uint64_t addr, unsigned int page_shift) noexcept nogil:
    cdef vma upper = vma_at(vs, i)[0]
    if vs.nr >= vs.limit:
        return -1
    upper.pgoff += (addr - upper.start) >> page_shift
    upper.start = addr
    if vma_insert(vs, i + 1, &upper):
        return -1
    vma_at(vs, i).end = addr
    return 0


# flags in which VMAs may differ and still merge; VM_MAYBE_GUARD exists where it is sticky
cdef inline uint64_t ignored_flags(const machine *m) noexcept nogil:
    return VM_SOFTDIRTY | VM_MAYBE_GUARD if m.sticky_flags else VM_SOFTDIRTY


# flags of its parts that a merged VMA keeps: none before 6.19 (spec 6.4)
cdef inline uint64_t sticky_flags(const machine *m) noexcept nogil:
    return VM_SOFTDIRTY | VM_MAYBE_GUARD if m.sticky_flags else 0


cdef inline bint vma_is_anonymous(const vma *v) noexcept nogil:
    return v.file == 0 and not v.flags & VM_SHARED


cdef inline bint anon_vma_mergeable(const vma *a, const vma *b) noexcept nogil:
    return a.anon_vma == 0 or b.anon_vma == 0 or a.anon_vma == b.anon_vma


# may `b`, behind `a`, become one VMA with it once it has `flags`?
cdef inline bint can_vma_merge(const vma *a, const vma *b, const machine *m) noexcept nogil:
    return (a.end == b.start and ((a.flags ^ b.flags) & ~ignored_flags(m)) == 0 and a.file == b.file
            and a.pgoff + ((a.end - a.start) >> m.page_shift) == b.pgoff and a.writenotify == b.writenotify
            and (not a.flags & VM_SHARED or a.file or a.mapping == b.mapping) and a.name == b.name
            and anon_vma_mergeable(a, b))


# [start, end) of vma i will have `flags`: merge it with its neighbours if they are
# alike. Returns the VMA that now covers the range, -1: no merge.
cdef inline Py_ssize_t vma_merge(
        vmas *vs, size_t i, uint64_t start, uint64_t end, uint64_t flags, const machine *m) noexcept nogil:
    cdef vma mid = vma_at(vs, i)[0]
    cdef bint left, right
    if flags & VM_NO_MERGE:
        return -1
    mid.start = start
    mid.end = end
    mid.pgoff += (start - vma_at(vs, i).start) >> m.page_shift
    mid.flags = flags
    left = i > 0 and start == vma_at(vs, i).start and can_vma_merge(vma_at(vs, i - 1), &mid, m)
    right = i + 1 < vs.nr and end == vma_at(vs, i).end and can_vma_merge(&mid, vma_at(vs, i + 1), m)
    if left and right and not anon_vma_mergeable(vma_at(vs, i - 1), vma_at(vs, i + 1)):
        right = False
    if left and right:
        return merge_three(vs, i, &mid, m)
    if left:
        return merge_left(vs, i, &mid, m)
    if right:
        return merge_right(vs, i, &mid, m)
    return -1


# v takes the place of another VMA, with `mid`, what the call makes of a part
cdef inline void take_over(vma *v, const vma *other, const vma *mid, const machine *m) noexcept nogil:
    v.flags |= (mid.flags | other.flags) & sticky_flags(m)
    if v.anon_vma == 0:
        v.anon_vma = other.anon_vma


cdef inline Py_ssize_t merge_three(vmas *vs, size_t i, const vma *mid, const machine *m) noexcept nogil:
    cdef vma *prev = vma_at(vs, i - 1)
    prev.end = vma_at(vs, i + 1).end
    take_over(prev, vma_at(vs, i + 1), mid, m)
    take_over(prev, vma_at(vs, i), mid, m)
    vma_remove(vs, i + 1)
    vma_remove(vs, i)
    return i - 1


cdef inline Py_ssize_t merge_left(vmas *vs, size_t i, const vma *mid, const machine *m) noexcept nogil:
    cdef vma *prev = vma_at(vs, i - 1)
    cdef vma *cur = vma_at(vs, i)
    prev.end = mid.end
    take_over(prev, cur, mid, m)
    if cur.end == mid.end:
        vma_remove(vs, i)
    else:
        cur.pgoff += (mid.end - cur.start) >> m.page_shift
        cur.start = mid.end
    return i - 1


cdef inline Py_ssize_t merge_right(vmas *vs, size_t i, const vma *mid, const machine *m) noexcept nogil:
    cdef vma *next = vma_at(vs, i + 1)
    cdef vma *cur = vma_at(vs, i)
    next.start = mid.start
    next.pgoff = mid.pgoff
    take_over(next, cur, mid, m)
    if cur.start == mid.start:
        vma_remove(vs, i)
        return i
    cur.end = mid.start
    return i + 1
