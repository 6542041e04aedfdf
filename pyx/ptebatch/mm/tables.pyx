# cython: language_level=3
"""`Tables`: the public verbs of core mm code, and mapping of folios. Base of `MM`."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ..arm64.machine cimport machine
from ..arm64.mmu cimport addr_of, page_of, table
from ..arm64.pte cimport (
    PTE_AF, PTE_RDONLY, PTE_WRITE, pte_mkdirty, pte_mkold, pte_mkwrite, pte_mkyoung, pte_pfn, pte_present, pte_t,
    pte_valid,
)
from ..arm64.ptep cimport (
    clear_full_ptes, clear_young_dirty_ptes, ptep_get, ptep_set_access_flags, set_ptes, test_and_clear_young_ptes,
    wrprotect_ptes,
)
from ..base.args cimport number, truth
from ..base.held cimport Held
from ..base.page_flags cimport PG_ANON, PG_ANON_EXCLUSIVE, page_byte
from ..base.vm_flags cimport VM_ACCESS, VM_SHARED, VM_SOFTDIRTY, VM_WRITE
from .mapping cimport aligned, map_pages, plan, top_of_rows
from .space cimport Space
from .vma cimport find_vma, vma, vma_at

import numpy as np

from ptebatch.errors import LayoutError
from ptebatch.notation.patterns import exclusive_pattern

UNALIGNED = "a head of `heads` is not aligned to its folio; give multiples of 2**order"


cdef class Tables(Space):
    """The page tables of one address space, entry by entry and folio by folio; see `MM`."""

    def set_ptes(self, addr, word, nr):
        """set_ptes(): nr entries, frames advancing, full aligned blocks painted CONT (spec 3.2, 3.7).

        Parameters
        ----------
        addr : int
            Address of the first entry; all lie in one leaf table.
        word : int
            PTE word of the first.
        nr : int
            Entries.

        Raises
        ------
        LayoutError
            No page table there, or entries that leave it. So do the other verbs.
        """
        cdef table t
        cdef size_t idx = 0, n
        cdef pte_t w = number("word", word)
        with Held(self):
            n = self.one_table(addr, nr, &t, &idx)
            set_ptes(&t, idx, w, n)

    def set_pte_at(self, addr, word):
        """set_pte_at(): one entry; may unfold its block, may fold it (spec 3.2, 3.3).

        Parameters
        ----------
        addr, word : int
            Address and new PTE word.
        """
        self.set_ptes(addr, word, 1)

    def ptep_get(self, addr):
        """ptep_get(): the word with young and dirty of its whole block (spec 3.6).

        Parameters
        ----------
        addr : int

        Returns
        -------
        int
        """
        cdef table t
        cdef size_t idx = 0
        with Held(self):
            self.one_table(addr, 1, &t, &idx)
            return ptep_get(&t, idx)

    def wrprotect_ptes(self, addr, nr=1):
        """wrprotect_ptes(), what fork does to the parent (spec 3.2).

        Parameters
        ----------
        addr, nr : int
            Address of the first entry; entries, which must be present.
        """
        cdef table t
        cdef size_t idx = 0, n
        with Held(self):
            n = self.one_table(addr, nr, &t, &idx)
            check_present(&t, idx, n)
            wrprotect_ptes(&t, idx, n)

    def clear_full_ptes(self, addr, nr=1):
        """clear_full_ptes(), what munmap does (spec 3.2).

        Parameters
        ----------
        addr, nr : int
            Address of the first entry; entries.
        """
        cdef table t
        cdef size_t idx = 0, n
        with Held(self):
            n = self.one_table(addr, nr, &t, &idx)
            clear_full_ptes(&t, idx, n)

    def test_and_clear_young(self, addr, nr=1):
        """test_and_clear_young_ptes(): AF of whole blocks, never unfolds (spec 8.8).

        Parameters
        ----------
        addr, nr : int
            Address of the first entry; entries.

        Returns
        -------
        bool
            Whether any was young.
        """
        cdef table t
        cdef size_t idx = 0, n
        with Held(self):
            n = self.one_table(addr, nr, &t, &idx)
            return bool(test_and_clear_young_ptes(&t, idx, n))

    def clear_young_dirty(self, addr, nr=1, *, young=True, dirty=True):
        """clear_young_dirty_ptes(), what MADV_FREE and MADV_COLD do; never unfolds (spec 3.2, 8.8).

        Parameters
        ----------
        addr, nr : int
            Address of the first entry; entries.
        young, dirty : bool
            What to clear.
        """
        cdef table t
        cdef size_t idx = 0, n
        cdef bint y = truth("young", young), d = truth("dirty", dirty)
        with Held(self):
            n = self.one_table(addr, nr, &t, &idx)
            check_present(&t, idx, n)
            clear_young_dirty_ptes(&t, idx, n, y, d)

    def set_access_flags(self, addr, word):
        """ptep_set_access_flags(): AF, dirty and WRITE of one entry are added (spec 3.9).

        Parameters
        ----------
        addr : int
        word : int
            PTE word whose RDONLY, AF, WRITE and DIRTY are taken.

        Returns
        -------
        bool
            Whether anything changed.
        """
        cdef table t
        cdef size_t idx = 0
        cdef pte_t w = number("word", word)
        with Held(self):
            self.one_table(addr, 1, &t, &idx)
            check_present(&t, idx, 1)
            return bool(ptep_set_access_flags(&t, idx, w))

    def hw_update(self, addr, write=False):
        """Hardware management of AF and dirty on this one descriptor, if VALID (spec 8.9).

        Parameters
        ----------
        addr : int
        write : bool
            The access was a write: RDONLY goes where WRITE (DBM) allows it.
        """
        cdef table t
        cdef size_t idx = 0
        cdef bint w = truth("write", write)
        with Held(self):
            self.one_table(addr, 1, &t, &idx)
            if pte_valid(t.leaf[idx]):
                t.leaf[idx] |= PTE_AF
                if w and t.leaf[idx] & PTE_WRITE:
                    t.leaf[idx] &= ~PTE_RDONLY

    def reuse(self, addr):
        """Write fault that reuses a page: an anonymous one becomes PageAnonExclusive; the entry writable (spec 8.3).

        Parameters
        ----------
        addr : int

        Raises
        ------
        LayoutError
            Nothing is mapped there.
        """
        cdef table t
        cdef size_t idx = 0
        cdef pte_t pte
        cdef uint8_t *page
        with Held(self):
            self.one_table(addr, 1, &t, &idx)
            check_present(&t, idx, 1)
            pte = ptep_get(&t, idx)
            page = page_of(&self.mm.mmu, pte_pfn(pte, self.mm.mmu.m.page_shift))
            if page != NULL and page[0] & PG_ANON:
                page[0] |= PG_ANON_EXCLUSIVE
            ptep_set_access_flags(&t, idx, pte_mkwrite(pte_mkdirty(pte_mkyoung(pte)), self.mm.mmu.m.mkwrite_always))

    # ---- mapping folios ----

    def map_folios(self, start, nr, order=0, *, orders=None, heads=None, skip=0, exclusive=None, anon=None,
                   young=True, dirty=True, fold=True, numa_skip=False, mapped_shared=False):
        """Map folios side by side, as faults and fork leave them.

        Parameters
        ----------
        start : int
            Address of the first page; all pages lie in one VMA, and nothing is mapped there.
        nr : int
            Pages to map. The last folio is cut if they end inside it.
        order : int
            Order of every folio, unless `orders` is given.
        orders : array of int, optional
            Order of each folio; must cover skip + nr pages.
        heads : array of int, optional
            Head pfn of each folio, naturally aligned; default: the next free ones.
        skip : int
            Pages of the first folio that are not mapped.
        exclusive : array of bool, shape (nr,), or str, optional
            A text is a pattern of ``ptebatch.notation.patterns``: ``all``, ``1/511``.
            PageAnonExclusive of each mapped page; default: all of anonymous folios.
            See ``ptebatch.notation.patterns`` for patterns.
        anon : bool, optional
            Default: whether the VMA is private and without a file.
        young, dirty : bool
            State of the entries.
        fold : bool
            Paint CONT as set_ptes() does; False leaves every block unfolded.
        numa_skip, mapped_shared : bool
            See `set_folio`.

        Returns
        -------
        int
            pfn of the first mapped page.

        Raises
        ------
        LayoutError
            Nothing is changed then.

        Notes
        -----
        A private mapping gives WRITE to exclusive pages only (spec 6.9, 8.2); a
        block whose entries then differ stays unfolded.
        """
        cdef plan pl
        cdef uint64_t end = 0
        cdef uint64_t first = self.pte_range(start, nr, &end)
        cdef uint64_t pages = end - first >> self.mm.mmu.m.page_shift
        cdef bint is_anon
        cdef vma *v
        pl.byte = page_byte(0, False, truth("numa_skip", numa_skip), truth("mapped_shared", mapped_shared))
        pl.fold = truth("fold", fold) and self.mm.mmu.m.contpte
        pl.skip = number("skip", skip, 1 << 13)
        with Held(self):
            v = self.vma_of(first, end)
            is_anon = (v.file == 0 and not v.flags & VM_SHARED) if anon is None else truth("anon", anon)
            mask = exclusive_mask(exclusive, pages, is_anon)
            plan_entries(&pl, v, &self.mm.mmu.m, is_anon, truth("young", young), truth("dirty", dirty))
            # the arrays must outlive the plan, which points into them
            keep = self.plan_folios(&pl, pages + pl.skip, order, orders, heads), plan_mask(&pl, mask)
            self.add_tables(first, end)
            check_free(self, first, pages)
            with nogil:
                map_pages(&self.mm, first, pages, &pl)
            if v.anon_vma == 0 and not v.flags & VM_SHARED and is_anon:
                self.anon_vma_prepare(find_vma(&self.mm.vs, first))
            self.next_pfn = max(self.next_pfn, pl.top)
            del keep
            return int(pl.head) + int(pl.skip)

    cdef object plan_folios(self, plan *pl, uint64_t pages, object order, object orders, object heads):
        """Orders and heads of the folios that cover `pages` pages: checked, and entered in the plan."""
        cdef uint8_t[::1] order_view
        cdef uint64_t[::1] head_view
        pl.orders = NULL
        pl.heads = NULL
        order_of = folio_orders(self, pages, order, orders)
        if isinstance(order_of, int):
            pl.order = order_of
        else:
            order_view = order_of
            pl.orders = &order_view[0]
            pl.order = order_view[0]
        if pl.skip >= <uint64_t>1 << pl.order:
            raise LayoutError(f"skip={pl.skip} leaves no page of the first folio of order {pl.order}; give a smaller one")
        if heads is None:
            pl.head = aligned(self.next_pfn, <uint64_t>1 << pl.order)
            self.frames_exist(pl.head, top_of_rows(pl, pages))
            return order_of, None
        head_of = self.folio_heads(order_of, heads, pages)
        head_view = head_of
        pl.heads = &head_view[0]
        pl.head = head_view[0]
        return order_of, head_of

    cdef object folio_heads(self, object order_of, object heads, uint64_t pages):
        """Checked head pfns, one a folio."""
        cdef uint64_t size
        given = whole_array("heads", heads, np.uint64)
        if isinstance(order_of, int):
            size = <uint64_t>1 << <int>order_of
            check_heads(given, aligned(pages, size) >> <int>order_of)
            # equal folios that are aligned are the same or apart
            if int(np.bitwise_or.reduce(given)) & (size - 1):
                raise LayoutError(UNALIGNED)
            self.frames_exist(int(given.min()), int(given.max()) + size)
            return given
        sizes = np.left_shift(np.uint64(1), order_of.astype(np.uint64))
        check_heads(given, len(sizes))
        if ((given & (sizes - np.uint64(1))) != 0).any():
            raise LayoutError(UNALIGNED)
        self.frames_exist(int(given.min()), int((given + sizes).max()))
        check_overlap(given, sizes)
        return given

    cdef int frames_exist(self, object low, object high) except -1:
        if low < self.mm.mmu.pfn_base or high > self.mm.mmu.pfn_base + self.mm.mmu.nr_pages:
            raise LayoutError(
                f"pages {low:#x}..{high:#x} have no metadata; this MM has {self.mm.mmu.nr_pages:#x} pages from "
                f"{self.mm.mmu.pfn_base:#x}, make it with a larger nr_pages")
        return 0

    cdef void anon_vma_prepare(self, size_t i) noexcept:
        """First anonymous page of VMA i: share the anon_vma of an alike neighbour, else a new one."""
        cdef vma *v = vma_at(&self.mm.vs, i)
        cdef uint64_t ignored = VM_ACCESS | VM_SOFTDIRTY
        cdef vma *o
        cdef int side
        for side in (-1, 1):
            if (side < 0 and i == 0) or (side > 0 and i + 1 >= self.mm.vs.nr):
                continue
            o = vma_at(&self.mm.vs, i + side)
            if o.end != v.start and v.end != o.start:
                continue
            if ((o.flags ^ v.flags) & ~ignored) == 0 and o.file == v.file and o.anon_vma:
                v.anon_vma = o.anon_vma
                return
        self.mm.vs.last_anon_vma += 1
        v.anon_vma = self.mm.vs.last_anon_vma


cdef void plan_entries(plan *pl, const vma *v, const machine *m, bint anon, bint young, bint dirty) noexcept:
    pl.byte |= page_byte(0, anon, False, False)
    pl.all_exclusive = anon
    pl.plain = pte_mkyoung(v.page_prot) if young else pte_mkold(v.page_prot)
    if dirty:
        pl.plain = pte_mkdirty(pl.plain)
    pl.writable = pl.plain
    if v.flags & VM_WRITE and not v.flags & VM_SHARED:
        pl.writable = pte_mkwrite(pl.plain, m.mkwrite_always)


cdef object plan_mask(plan *pl, object mask):
    cdef uint8_t[::1] view
    pl.exclusive = NULL
    if mask is not None:
        view = mask
        pl.exclusive = &view[0]
    return mask


# what these verbs write to an entry that is not present would be a softleaf of no kind
cdef int check_present(const table *t, size_t idx, size_t nr) except -1:
    cdef size_t i
    for i in range(idx, idx + nr):
        if not pte_present(t.leaf[i]):
            raise LayoutError(f"nothing is mapped at {addr_of(t, i):#x}; map it first")
    return 0


# an entry that is overwritten could leave a block half folded
cdef int check_free(Space mm, uint64_t start, uint64_t pages) except -1:
    cdef uint64_t done = 0, run, i
    cdef uint32_t shift = mm.mm.mmu.m.page_shift
    cdef table t
    cdef size_t idx = 0
    while done < pages:
        mm.table_at(start + (done << shift), &t, &idx)
        run = min(pages - done, mm.mm.mmu.m.ptrs_per_pte - idx)
        for i in range(run):
            if t.leaf[idx + i]:
                raise LayoutError(f"the entry at {start + ((done + i) << shift):#x} is in use; clear_full_ptes() it first")
        done += run
    return 0


def check_heads(heads, nr):
    """One head for each of nr folios, each a page frame number."""
    if len(heads) != nr:
        raise LayoutError(f"heads has {len(heads)} entries, expected one for each of {nr} folios; give as many")
    if heads.max() >= 1 << 48:
        raise LayoutError(f"heads holds {int(heads.max()):#x}, which is no page frame number; give smaller ones")


def check_overlap(heads, sizes):
    """Folios of one call are apart or the same: a frame belongs to one folio."""
    by = np.argsort(heads, kind="stable")
    first, size = heads[by], sizes[by]
    clash = (first[:-1] + size[:-1] > first[1:]) & ((first[:-1] != first[1:]) | (size[:-1] != size[1:]))
    if clash.any():
        raise LayoutError(f"heads and orders give frame {int(first[1:][clash][0]):#x} to two folios; a frame belongs to one")


def any_array(name, values):
    """What NumPy makes of it; ragged lists are refused."""
    try:
        return np.asarray(values)
    except ValueError:
        raise LayoutError(f"{name}={values!r} is not a regular array; give a list or an array of one dimension") from None


def whole_array(name, values, dtype):
    """A one-dimensional contiguous array of whole numbers."""
    array = any_array(name, values)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise LayoutError(f"{name} has dtype {array.dtype} and {array.ndim} dimensions; give one dimension of whole numbers")
    high = np.iinfo(dtype).max
    if array.size and (array.min() < 0 or array.max() > high):
        raise LayoutError(f"{name} holds {array.min() if array.min() < 0 else array.max()}; give numbers from 0 to {high}")
    return np.ascontiguousarray(array.astype(dtype))


cdef object folio_orders(Tables mm, uint64_t pages, object order, object orders):
    """Order of each folio, as uint8, covering `pages` pages; of all of them, as an int."""
    cdef uint64_t covered = 0, most = mm.machine.pmd_order
    cdef Py_ssize_t nr = 0
    if orders is None:
        return int(number("order", order, most))
    array = whole_array("orders", orders, np.uint64)
    if array.size and array.max() > most:
        raise LayoutError(f"orders holds {array.max()}; the largest folio of {mm.machine} has order {most}")
    narrow = array.astype(np.uint8)
    cdef const uint8_t[::1] view = narrow
    while covered < pages and nr < view.shape[0]:
        covered += <uint64_t>1 << view[nr]
        nr += 1
    if covered < pages:
        raise LayoutError(f"orders covers {covered} pages, expected at least {pages}; give more folios")
    return narrow[:nr]


def exclusive_mask(exclusive, pages, anon):
    """PageAnonExclusive of each page, as uint8; None: all pages of anonymous folios."""
    if exclusive is None:
        return None
    if isinstance(exclusive, str):
        exclusive = exclusive_pattern(exclusive, pages)
    array = any_array("exclusive", exclusive)
    if array.shape != (pages,) or array.dtype.kind not in "biu":
        raise LayoutError(f"exclusive has shape {array.shape} and dtype {array.dtype}, expected {pages} truth values; "
                          "or a pattern such as 'all'")
    mask = np.ascontiguousarray(array.astype(bool).view(np.uint8))
    if not anon and mask.any():
        raise LayoutError("exclusive marks pages of folios that are not anonymous; "
                          "PageAnonExclusive exists on anonymous pages only")
    return mask
