# cython: language_level=3
"""`Window`: what a strategy written in Python sees, with the core's own verbs."""
from libc.stdint cimport int64_t, uint64_t

from .batch cimport anon_exclusive_batch, folio_pte_batch_flags
from .mm_struct cimport addr_of, folio_anon, folio_large, page_anon_exclusive, page_of
from .pte cimport FPB_RESPECT_SOFT_DIRTY, FPB_RESPECT_WRITE, pte_dirty, pte_t
from .ptep cimport ptep_get
from .strategy cimport (
    asks_writable, change_unit, max_nr, maybe_change_pte_writable, modify_prot_start_ptes, needs_anon_exclusive, newpte,
    note_batch, prot_commit_flush_ptes, vma_shared, walk, walk_pfn,
)

import operator

from ptebatch.errors import StrategyError


cdef class Window:
    """The entry a strategy is called for, and the verbs it may use on it.

    A strategy is a callable ``step(window) -> int``: it changes entries from
    the window's own on and returns how many it has dealt with. Offsets count
    from that entry. Every verb is the core's and counts what the core counts.

    Attributes
    ----------
    addr, idx : int
        Address and table index of the entry.
    max_nr : int
        Entries up to the end of the range in this table.
    old : int
        What ptep_get() said of the entry (A/D of its whole contpte block).
    pfn, folio_head, folio_nr : int
        Its page; ``folio_nr`` is 0 without a page.
    anon, large, shared : bool
        Folio is anonymous; has several pages; the VMA is MAP_SHARED.
    """

    cdef walk *w
    cdef object step
    cdef readonly object error

    def __cinit__(self, step):
        self.step = step

    cdef walk *live(self) except NULL:
        if self.w == NULL:
            raise StrategyError("the window is only valid while the strategy's step runs; do not keep it")
        return self.w

    cdef size_t part(self, object offset, object nr) except? 0:
        """Table index of [offset, offset + nr), which must lie in the window."""
        cdef walk *w = self.live()
        try:
            o, n = operator.index(offset), operator.index(nr)
        except TypeError:
            raise StrategyError(f"offset={offset!r}, nr={nr!r} are not whole numbers; give ints") from None
        if o < 0 or n < 1 or o + n > max_nr(w):
            raise StrategyError(f"entries [{o}, {o + n}) leave the window of {max_nr(w)} entries; stay below max_nr")
        return w.idx + <size_t>o

    @property
    def addr(self):
        return addr_of(&self.live().t, self.live().idx)

    @property
    def idx(self):
        return self.live().idx

    @property
    def max_nr(self):
        return max_nr(self.live())

    @property
    def old(self):
        return self.live().old

    @property
    def pfn(self):
        return walk_pfn(self.live())

    @property
    def folio_head(self):
        return self.live().f.head

    @property
    def folio_nr(self):
        return self.live().f.nr

    @property
    def anon(self):
        return bool(folio_anon(&self.live().f))

    @property
    def large(self):
        return bool(folio_large(&self.live().f))

    @property
    def shared(self):
        return bool(vma_shared(self.live()))

    @property
    def mapped_shared(self):
        """folio_maybe_mapped_shared(): what v1 and v2 asked."""
        return bool(self.live().f.flags & 0x20)

    def needs_anon_exclusive(self):
        """Whether this entry becomes writable exactly if its page is PageAnonExclusive."""
        return bool(needs_anon_exclusive(self.live()))

    def ptep_get(self, offset):
        """ptep_get() of an entry (counted)."""
        cdef size_t idx = self.part(offset, 1)
        return ptep_get(&self.w.t, idx)

    def folio_pte_batch(self, max_nr=None, *, bint respect_write=True):
        """mprotect_folio_pte_batch() from the window's entry: 1 without a large folio."""
        cdef walk *w = self.live()
        cdef int flags = FPB_RESPECT_SOFT_DIRTY | (FPB_RESPECT_WRITE if respect_write else 0)
        cdef size_t limit = w.end - w.idx
        if max_nr is not None:
            self.part(0, max_nr)
            limit = max_nr
        if not folio_large(&w.f):
            return 1
        return folio_pte_batch_flags(&w.t, w.idx, &w.f, w.old, limit, flags)

    def page_anon_exclusive(self, offset):
        """PageAnonExclusive() of the page `offset` behind the entry's own (counted)."""
        cdef walk *w = self.live()
        cdef int64_t o = operator.index(offset)
        if page_of(w.t.mm, walk_pfn(w) + o) == NULL:
            raise StrategyError(f"page {walk_pfn(w) + o:#x} does not exist; stay inside the folio")
        return bool(page_anon_exclusive(w.t.mm, walk_pfn(w) + o))

    def anon_exclusive_batch(self, offset, bint exclusive, max_nr):
        """Length of the run of pages from `offset` on with this exclusivity; the first is taken as known."""
        cdef size_t idx = self.part(offset, max_nr)
        return anon_exclusive_batch(self.w.t.mm, walk_pfn(self.w) + (idx - self.w.idx), exclusive, max_nr)

    def start(self, offset, nr):
        """modify_prot_start_ptes(): clear nr entries; returns the first word with the A/D of all."""
        cdef size_t idx = self.part(offset, nr)
        return modify_prot_start_ptes(self.w, idx, nr)

    def newpte(self, pte_t old):
        """The new word for an old one, before the question whether it may be writable."""
        return newpte(self.live(), old)

    def asks_writable(self, pte_t new):
        """TRY_CHANGE_WRITABLE is set and the word lacks WRITE."""
        return bool(asks_writable(self.live(), new))

    def maybe_change_pte_writable(self, pte_t new):
        """VMA, PROT_NONE and userfaultfd allow WRITE; the page is not asked."""
        self.live().t.mm.c.writable_checks += 1
        return bool(maybe_change_pte_writable(self.live(), new))

    def pte_dirty(self, pte_t pte):
        """pte_dirty()."""
        return bool(pte_dirty(pte))

    def commit(self, offset, pte_t old, pte_t new, nr, bint write=False):
        """modify_prot_commit_ptes() and the gather; `old`, `new` are of the first entry."""
        cdef size_t idx = self.part(offset, nr)
        prot_commit_flush_ptes(self.w, idx, old, new, nr, write)
        self.w.pages += <size_t>nr

    def change_unit(self, offset, nr, bint exclusive):
        """start, newpte and commit of one unit of known exclusivity."""
        cdef size_t idx = self.part(offset, nr)
        change_unit(self.w, idx, nr, exclusive)

    def normal_page(self):
        """Count one vm_normal_page() more."""
        self.live().t.mm.c.normal_page += 1

    def note_batch(self, nr):
        """Record a batch of nr entries."""
        self.part(0, nr)
        note_batch(self.w, nr)


cdef int64_t call(Window window) except -1:
    cdef walk *w = window.w
    got = window.step(window)
    try:
        nr = operator.index(got)
    except TypeError:
        raise StrategyError(f"the strategy returned {got!r}; return the number of entries it dealt with") from None
    if not 1 <= nr <= max_nr(w):
        raise StrategyError(f"the strategy returned {nr}; return a number from 1 to max_nr={max_nr(w)}")
    if w.started:
        raise StrategyError(f"the strategy left {<int64_t>w.started} started entries uncommitted; commit what it starts")
    return nr


cdef int64_t python_step(walk *w) noexcept nogil:
    """The step of a Python strategy: 0 and w.failed when it raised."""
    cdef int64_t nr = 0
    with gil:
        window = <Window>w.python
        window.w = w
        try:
            nr = call(window)
        except BaseException as error:
            window.error = error
            w.failed = True
        finally:
            window.w = NULL
    return nr
