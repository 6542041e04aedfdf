# Map folios in bulk: the entries and metadata that faults, fork and set_ptes()
# leave. Rules: spec 3.7 (painting), 6.9 and 8.2 (WRITE only on exclusive pages).
from libc.stdint cimport uint64_t, uint8_t
from libc.string cimport memset
from ..arm64.pgtable cimport pte_table
from ..arm64.pte cimport PTE_CONT, pte_t, pte_valid
from ..base.page_flags cimport PG_ANON_EXCLUSIVE
from .mm_struct cimport mm_struct

# what is mapped: rows of equal folios need no arrays
cdef struct plan:
    const uint8_t *orders      # of each folio; NULL: all `order`
    const uint64_t *heads      # of each folio; NULL: one behind the other, aligned, from `head` on
    const uint8_t *exclusive   # of each mapped page; NULL: `all_exclusive`
    int order
    uint64_t head
    uint64_t skip              # pages of the first folio that are not mapped
    uint8_t byte               # metadata without order and exclusivity
    bint all_exclusive
    bint fold
    pte_t plain
    pte_t writable             # for exclusive pages
    uint64_t top               # behind the last frame of all folios


# exclusivity from a mapped page on, NULL: all alike
cdef inline const uint8_t *exclusive_at(const plan *pl, uint64_t page) noexcept nogil:
    if pl.exclusive == NULL:
        return NULL
    return pl.exclusive + page


# metadata of a folio's pages without its order, as far as all have the same
cdef inline uint8_t page_byte_of(const plan *pl) noexcept nogil:
    return pl.byte | (PG_ANON_EXCLUSIVE if pl.exclusive == NULL and pl.all_exclusive else 0)


# do entries idx .. idx + nr form a block that set_ptes() would paint?
cdef inline pte_t painted(
        const mm_struct *mm, const plan *pl, size_t idx, uint64_t pfn, uint64_t nr, const uint8_t *exclusive) noexcept nogil:
    cdef uint64_t n = mm.mmu.m.cont_ptes, i
    if not pl.fold or nr != n or (idx | pfn) & (n - 1) or not pte_valid(pl.plain):
        return 0
    if exclusive != NULL and pl.plain != pl.writable:
        for i in range(1, n):
            if exclusive[i] != exclusive[0]:
                return 0
    return PTE_CONT


# entries of one folio inside one table
cdef inline void map_run(
        mm_struct *mm, const plan *pl, pte_t *leaf, size_t idx, uint64_t pfn, uint64_t nr,
        const uint8_t *exclusive) noexcept nogil:
    cdef unsigned int shift = mm.mmu.m.page_shift
    cdef uint64_t n = mm.mmu.m.cont_ptes, run, i
    cdef uint8_t *page = mm.mmu.pages + (pfn - mm.mmu.pfn_base)
    cdef pte_t word = (pl.writable if pl.all_exclusive else pl.plain) | pfn << shift, cont
    while nr:
        run = min(nr, n - (idx & (n - 1)))
        cont = painted(mm, pl, idx, pfn, run, exclusive)
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


# the next folio of `size` pages at or behind frame pfn
cdef inline uint64_t aligned(uint64_t pfn, uint64_t size) noexcept nogil:
    return (pfn + size - 1) & ~(size - 1)


# folios of one order that begin at folio k: at most as many as cover `pages`
cdef inline uint64_t equal_folios(const plan *pl, size_t k, uint64_t pages) noexcept nogil:
    cdef unsigned int order = pl.orders[k] if pl.orders != NULL else pl.order
    cdef uint64_t most = aligned(pages, <uint64_t>1 << order) >> order, nr = 1
    if pl.orders == NULL:
        return most
    while nr < most and pl.orders[k + nr] == order:
        nr += 1
    return nr


# Where folios go that are mapped one behind the other: behind the last of their frames. The first
# is at `head`, `pages` count from its first.
cdef inline uint64_t top_of_rows(const plan *pl, uint64_t pages) noexcept nogil:
    cdef uint64_t done = 0, head = pl.head, nr
    cdef size_t k = 0
    cdef unsigned int order = pl.order
    while done < pages:
        if pl.orders != NULL:
            order = pl.orders[k]
        nr = equal_folios(pl, k, pages - done)
        head = aligned(head, <uint64_t>1 << order) + (nr << order)
        done += nr << order
        k += nr
    return head


# Folios one behind the other, row by row of equal ones. A block lies in one folio, or in
# several small ones, which are never painted.
cdef inline void map_rows(mm_struct *mm, plan *pl, uint64_t addr, uint64_t pages) noexcept nogil:
    cdef unsigned int shift = mm.mmu.m.page_shift
    cdef size_t ptrs = mm.mmu.m.ptrs_per_pte, idx = (addr >> shift) & (ptrs - 1), k = 0
    cdef uint8_t byte = page_byte_of(pl)
    cdef uint64_t done = 0, end, n, nr, head = pl.head, cut = pl.skip
    cdef bint fold = pl.fold
    while done < pages:
        if pl.orders != NULL:
            pl.order = pl.orders[k]
        nr = equal_folios(pl, k, pages - done + cut)
        head = aligned(head, <uint64_t>1 << pl.order)
        memset(mm.mmu.pages + (head - mm.mmu.pfn_base), byte | pl.order, nr << pl.order)
        pl.fold = fold and <uint64_t>1 << pl.order >= mm.mmu.m.cont_ptes
        end = min(pages, done + (nr << pl.order) - cut)
        head += cut
        while done < end:
            n = min(end - done, ptrs - idx)
            map_run(mm, pl, pte_table(&mm.pt, addr + (done << shift)), idx, head, n, exclusive_at(pl, done))
            done += n
            head += n
            idx = (idx + n) & (ptrs - 1)
        cut = 0
        k += nr


# order-0 folios with frames in any order: never painted
cdef inline void map_singles(mm_struct *mm, plan *pl, uint64_t addr, uint64_t pages) noexcept nogil:
    cdef unsigned int shift = mm.mmu.m.page_shift
    cdef size_t ptrs = mm.mmu.m.ptrs_per_pte, idx = (addr >> shift) & (ptrs - 1)
    cdef uint8_t *page0 = mm.mmu.pages
    cdef uint64_t base = mm.mmu.pfn_base, done = 0, end, head
    cdef const uint64_t *heads = pl.heads
    cdef const uint8_t *exclusive = pl.exclusive
    cdef uint8_t bytes[2]
    cdef pte_t words[2]
    cdef pte_t *leaf
    cdef bint all = pl.all_exclusive
    bytes[0], bytes[1] = pl.byte, pl.byte | PG_ANON_EXCLUSIVE
    words[0], words[1] = pl.plain, pl.writable
    while done < pages:
        leaf = pte_table(&mm.pt, addr + (done << shift)) + idx - done
        end = min(pages, done + ptrs - idx)
        idx = 0
        while done < end:
            head = heads[done]
            if exclusive != NULL:
                all = exclusive[done] != 0
            leaf[done] = words[all] | head << shift
            page0[head - base] = bytes[all]
            pl.top = max(pl.top, head + 1)
            done += 1


# The whole range; its leaf tables exist, heads and orders were checked.
cdef inline void map_pages(mm_struct *mm, uint64_t addr, uint64_t pages, plan *pl) noexcept nogil:
    pl.top = 0
    if pl.heads == NULL:
        pl.top = top_of_rows(pl, pages + pl.skip)
        map_rows(mm, pl, addr, pages)
    elif pl.orders == NULL and pl.order == 0:
        map_singles(mm, pl, addr, pages)
    else:
        map_each(mm, pl, addr, pages)


# folios with frames in any order
cdef inline void map_each(mm_struct *mm, plan *pl, uint64_t addr, uint64_t pages) noexcept nogil:
    cdef unsigned int shift = mm.mmu.m.page_shift
    cdef size_t ptrs = mm.mmu.m.ptrs_per_pte, idx = (addr >> shift) & (ptrs - 1)
    cdef pte_t *leaf = pte_table(&mm.pt, addr)
    cdef uint64_t done = 0, k = 0, cut = pl.skip, n, size = <uint64_t>1 << pl.order, head
    cdef uint8_t byte = page_byte_of(pl)
    while done < pages:
        if pl.orders != NULL:
            pl.order = pl.orders[k]
            size = <uint64_t>1 << pl.order
        head = pl.heads[k]
        pl.top = max(pl.top, head + size)
        memset(mm.mmu.pages + (head - mm.mmu.pfn_base), byte | pl.order, size)
        # a folio may begin in one table and end in the next
        while cut < size and done < pages:
            n = min(min(size - cut, pages - done), ptrs - idx)
            map_run(mm, pl, leaf, idx, head + cut, n, exclusive_at(pl, done))
            cut += n
            done += n
            idx += n
            if idx == ptrs and done < pages:
                leaf = pte_table(&mm.pt, addr + (done << shift))
                idx = 0
        cut = 0
        k += 1
