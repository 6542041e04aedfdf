# Map folios in bulk: the entries and metadata that faults, fork and set_ptes()
# leave. Rules: spec 3.7 (painting), 6.9 and 8.2 (WRITE only on exclusive pages).
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memset
from .mm_struct cimport PG_ANON_EXCLUSIVE
from .mprotect cimport space
from .pgtable cimport pte_table
from .pte cimport PTE_CONT, pte_t, pte_valid

# what is mapped: rows of equal folios need no arrays
cdef struct plan:
    const uint8_t *orders      # of each folio; NULL: all `order`
    const uint64_t *heads      # of each folio; NULL: side by side from `head` on
    const uint8_t *exclusive   # of each mapped page; NULL: `all_exclusive`
    int order
    uint64_t head
    uint64_t skip              # pages of the first folio that are not mapped
    uint8_t byte               # metadata without order and exclusivity
    bint all_exclusive
    bint fold
    pte_t plain
    pte_t writable             # for exclusive pages
    uint64_t last_head


# do entries idx .. idx + nr form a block that set_ptes() would paint?
cdef inline pte_t painted(
        const space *sp, const plan *pl, size_t idx, uint64_t pfn, uint64_t nr, const uint8_t *exclusive) noexcept nogil:
    cdef uint64_t n = sp.mm.m.cont_ptes, i
    if not pl.fold or nr != n or (idx | pfn) & (n - 1) or not pte_valid(pl.plain):
        return 0
    if exclusive != NULL and pl.plain != pl.writable:
        for i in range(1, n):
            if exclusive[i] != exclusive[0]:
                return 0
    return PTE_CONT


# entries of one folio inside one table
cdef inline void map_run(
        space *sp, const plan *pl, pte_t *leaf, size_t idx, uint64_t pfn, uint64_t nr,
        const uint8_t *exclusive) noexcept nogil:
    cdef unsigned int shift = sp.mm.m.page_shift
    cdef uint64_t n = sp.mm.m.cont_ptes, run, i
    cdef uint8_t *page = sp.mm.pages + (pfn - sp.mm.pfn_base)
    cdef pte_t word = (pl.writable if pl.all_exclusive else pl.plain) | pfn << shift, cont
    while nr:
        run = min(nr, n - (idx & (n - 1)))
        cont = painted(sp, pl, idx, pfn, run, exclusive)
        if exclusive == NULL:
            for i in range(run):
                leaf[idx + i] = (word | cont) + (i << shift)
        else:
            for i in range(run):
                word = (pl.writable if exclusive[i] else pl.plain) | cont
                leaf[idx + i] = word | (pfn + i) << shift
                page[i] |= PG_ANON_EXCLUSIVE if exclusive[i] else 0
            exclusive += run
        word += run << shift
        page += run
        pfn += run
        idx += run
        nr -= run


# Equal folios side by side: one run of frames. A block lies in one folio or in
# several small ones, which are never painted.
cdef inline void map_row(space *sp, plan *pl, uint64_t addr, uint64_t pages) noexcept nogil:
    cdef unsigned int shift = sp.mm.m.page_shift
    cdef size_t ptrs = sp.mm.m.ptrs_per_pte, idx = (addr >> shift) & (ptrs - 1)
    cdef uint64_t done = 0, n, size = <uint64_t>1 << pl.order
    pl.fold = pl.fold and size >= sp.mm.m.cont_ptes
    while done < pages:
        n = min(pages - done, ptrs - idx)
        map_run(sp, pl, pte_table(&sp.pt, addr + (done << shift)), idx, pl.head + pl.skip + done, n,
                NULL if pl.exclusive == NULL else pl.exclusive + done)
        done += n
        idx = 0
    pl.last_head = pl.head + ((pl.skip + pages - 1) & ~(size - 1))


# order-0 folios with frames in any order: never painted
cdef inline void map_singles(space *sp, plan *pl, uint64_t addr, uint64_t pages) noexcept nogil:
    cdef unsigned int shift = sp.mm.m.page_shift
    cdef size_t ptrs = sp.mm.m.ptrs_per_pte, idx = (addr >> shift) & (ptrs - 1)
    cdef uint8_t *page0 = sp.mm.pages
    cdef uint64_t base = sp.mm.pfn_base, done = 0, end, head
    cdef const uint64_t *heads = pl.heads
    cdef const uint8_t *exclusive = pl.exclusive
    cdef uint8_t bytes[2]
    cdef pte_t words[2]
    cdef pte_t *leaf
    cdef bint all = pl.all_exclusive
    bytes[0], bytes[1] = pl.byte, pl.byte | PG_ANON_EXCLUSIVE
    words[0], words[1] = pl.plain, pl.writable
    while done < pages:
        leaf = pte_table(&sp.pt, addr + (done << shift)) + idx - done
        end = min(pages, done + ptrs - idx)
        idx = 0
        while done < end:
            head = heads[done]
            if exclusive != NULL:
                all = exclusive[done] != 0
            leaf[done] = words[all] | head << shift
            page0[head - base] = bytes[all]
            done += 1
    pl.last_head = heads[pages - 1]


# The whole range; its leaf tables exist, heads and orders were checked.
cdef inline void map_pages(space *sp, uint64_t addr, uint64_t pages, plan *pl) noexcept nogil:
    cdef unsigned int shift = sp.mm.m.page_shift
    cdef size_t ptrs = sp.mm.m.ptrs_per_pte, idx = (addr >> shift) & (ptrs - 1)
    cdef pte_t *leaf = pte_table(&sp.pt, addr)
    cdef uint64_t done = 0, k = 0, cut = pl.skip, n, size = <uint64_t>1 << pl.order, head = pl.head
    cdef uint8_t byte = pl.byte | (PG_ANON_EXCLUSIVE if pl.exclusive == NULL and pl.all_exclusive else 0)
    cdef bint row = pl.heads == NULL
    if row:
        memset(sp.mm.pages + (head - sp.mm.pfn_base), byte | pl.order, (pages + cut + size - 1) & ~(size - 1))
    if row and pl.orders == NULL:
        map_row(sp, pl, addr, pages)
        return
    if not row and pl.orders == NULL and pl.order == 0:
        map_singles(sp, pl, addr, pages)
        return
    while done < pages:
        if pl.orders != NULL:
            pl.order = pl.orders[k]
            size = <uint64_t>1 << pl.order
        if not row:
            head = pl.heads[k]
            if size == 1:
                sp.mm.pages[head - sp.mm.pfn_base] = byte
            else:
                memset(sp.mm.pages + (head - sp.mm.pfn_base), byte | pl.order, size)
        # a folio may begin in one table and end in the next
        while cut < size and done < pages:
            n = min(min(size - cut, pages - done), ptrs - idx)
            map_run(sp, pl, leaf, idx, head + cut, n, NULL if pl.exclusive == NULL else pl.exclusive + done)
            cut += n
            done += n
            idx += n
            if idx == ptrs and done < pages:
                leaf = pte_table(&sp.pt, addr + (done << shift))
                idx = 0
        pl.last_head = head
        head += size
        cut = 0
        k += 1
