# The batch of a large folio, by itself: entries that only A/D tell apart, as those of every batch, of pages that
# only PageAnonExclusive tells apart. What the maps of such entries are (maps.pxd) need not be looked for.
#
#   entries     RW,c RW,c,d RW,c ... RW,c |         one pass asks whether all are the first one, pages advancing
#   exclusive    1    1      0   ...  1             the only map that is read
from libc.stdint cimport uint64_t, uint8_t
from libc.string cimport memcpy
from ..arm64.mmu cimport mmu_t
from ..arm64.pte cimport PTE_AF, PTE_CONT, PTE_DIRTY, PTE_RDONLY, PTE_WRITE, pte_pfn, pte_t, pte_valid
from ..base.page_flags cimport PG_ANON, PG_ANON_EXCLUSIVE, PG_ORDER_MASK
from .bitmaps cimport every, lanes
from .maps cimport EXCLUSIVE_BIT, LARGE, class_bits, folio_rest, maps, torn_block
from .seam cimport walk
from .words cimport pb_bytes_vary, pb_map_bytes, pb_row, pb_row_of

# The maps of the batch at w.idx, if it is of this kind: A/D as a start of all of it gathers them; of its first and
# last word, if none is needed of others. `whole`: it is started at once.
cdef inline bint large_batch(const walk *w, maps *x, bint whole) noexcept nogil:
    cdef const mmu_t *mmu = w.t.mmu
    cdef const pte_t *p = w.t.leaf + w.idx
    cdef size_t left = 0, i = w.idx, n = mmu.m.cont_ptes, nr
    cdef uint64_t pfn, ad = PTE_AF | PTE_DIRTY | PTE_RDONLY
    cdef bint folded
    cdef uint8_t differ
    cdef pb_row row
    if n > 64 or i >= w.end:
        return False
    nr = folio_rest(w, i, &left)
    if not nr:
        return False
    row = pb_row_of(p, nr, <uint64_t>1 << mmu.m.page_shift, ad)
    nr = row.nr
    x.mixed = ((row.any ^ row.all) & ad) != 0
    if nr < LARGE or (x.mixed and not whole):
        return False
    # no entry of the kernel's: neither WRITE nor RDONLY, or dirty twice and read-only
    if (row.twice if p[0] & PTE_WRITE else ~row.all) & PTE_RDONLY:
        return False
    pfn = pte_pfn(p[0], mmu.m.page_shift)
    folded = mmu.m.contpte and pte_valid(p[0]) and p[0] & PTE_CONT
    if folded and (i | nr | pfn) & (n - 1):
        return False
    differ = pb_bytes_vary(mmu.pages + pfn - mmu.pfn_base, nr)
    if torn_block(w, i + nr) or differ & (PG_ORDER_MASK | PG_ANON):
        return False
    x.alike = not differ & PG_ANON_EXCLUSIVE
    x.first, x.end = i, i + nr
    x.word, x.words_end = i // 64, (i + nr + 63) // 64
    x.blocks = every(n)
    x.flags = p[0] & class_bits(mmu)
    x.folded = folded
    x.cutting = x.joining = False
    x.one = True
    fill_maps(w, x, &row, nr == left, x.alike and whole)
    return True


# `ends`: the folio does, too; `edges`: the first and the last word are enough
cdef inline void fill_maps(const walk *w, maps *x, const pb_row *row, bint ends, bint edges) noexcept nogil:
    cdef const mmu_t *mmu = w.t.mmu
    cdef pte_t pte = w.t.leaf[x.first]
    cdef uint64_t pfn = pte_pfn(pte, mmu.m.page_shift), here
    cdef const uint8_t *bytes = mmu.pages + pfn - mmu.pfn_base
    cdef uint64_t anon = -<uint64_t>((bytes[0] & PG_ANON) != 0), write = -<uint64_t>((pte & PTE_WRITE) != 0)
    cdef uint64_t dirty = -<uint64_t>((row.any & PTE_DIRTY) != 0) | (write if not row.all & PTE_RDONLY else 0)
    cdef uint64_t young = -<uint64_t>((row.any & PTE_AF) != 0), cont = -<uint64_t>x.folded
    cdef uint64_t aligned = x.blocks if not (pfn - x.first) & (mmu.m.cont_ptes - 1) else 0
    cdef size_t k = x.word
    cdef uint8_t[64] room
    while k < x.words_end:
        here = lanes(k, x.first, x.end)
        x.present[k] = here
        x.batch[k] = x.last[k] = x.apart[k] = x.single[k] = 0
        x.anon[k] = here & anon
        x.write[k] = here & write
        x.dirty[k] = here & dirty
        x.young[k] = here & young
        x.cont[k] = here & cont
        x.aligned[k] = aligned
        if not ~here:
            x.exclusive[k] = pb_map_bytes(bytes + (64 * k - x.first), EXCLUSIVE_BIT)
        else:
            bytes_of_word(room, bytes, k, x)
            x.exclusive[k] = pb_map_bytes(room, EXCLUSIVE_BIT) & here
        k = x.words_end - 1 if edges and k + 1 < x.words_end else k + 1
    x.batch[x.word] = <uint64_t>1 << (x.first % 64)
    if ends:
        x.last[x.words_end - 1] = <uint64_t>1 << ((x.end - 1) % 64)


# the metadata bytes of word k, as far as the batch goes
cdef inline void bytes_of_word(uint8_t *room, const uint8_t *bytes, size_t k, const maps *x) noexcept nogil:
    cdef size_t low = max(x.first, 64 * k), high = min(x.end, 64 * k + 64)
    memcpy(room + low - 64 * k, bytes + low - x.first, high - low)
