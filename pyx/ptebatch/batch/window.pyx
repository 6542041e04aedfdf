# cython: language_level=3
"""`Window`: what a strategy written in Python sees, with the core's own verbs."""
cimport cython
from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport int64_t, uint64_t

from ..arm64.mmu cimport addr_of, folio_anon, folio_large, page_anon_exclusive, page_of
from ..arm64.pte cimport FPB_RESPECT_SOFT_DIRTY, FPB_RESPECT_WRITE, pfn_pte, pte_dirty, pte_pfn, pte_pgprot, pte_t
from ..arm64.ptep cimport ptep_get
from ..base.args cimport number, truth
from ..base.page_flags cimport PG_MAPPED_SHARED
from .folio_batch cimport anon_exclusive_batch, folio_pte_batch_flags
from .seam cimport (
    asks_writable, change_unit, max_nr as nr_left, maybe_change_pte_writable, modify_prot_start_ptes,
    needs_anon_exclusive, newpte, note_batch, prot_commit_flush_ptes, vma_shared, walk, walk_pfn,
)

import operator

from ptebatch.errors import StrategyError


# calls that a step may make, and 8 for each pair of entries: one that makes more does not end
cdef enum:
    MOST_USED = 1000000

cdef struct entries:
    size_t idx                     # in the leaf table
    size_t nr


cdef class Window:
    """The entry a strategy is called for, and the verbs it may use on it.

    A strategy is a callable ``step(window) -> int``: it changes entries from
    the window's own on and returns how many it has dealt with. Offsets count
    from that entry. Every verb is the core's and counts what the core counts.

    Parameters
    ----------
    step : callable
        The strategy. The core makes windows; a step only receives them.

    Raises
    ------
    PtebatchError
        By every member: the step has returned, entries leave the window, or an
        argument is no number. Raised inside a step it ends the call, and the
        address space is as it was before.

    Notes
    -----
    What a step must keep (spec 7.9): each entry it counts is started and
    committed once; a unit stays in one folio; in a private mapping WRITE is given
    only to pages that are PageAnonExclusive.
    """

    cdef walk *w
    cdef object step
    cdef dict frames               # by table index: frame of a started entry, None once committed
    cdef unsigned long owner       # thread that runs the step
    cdef uint64_t used             # calls of this step so far
    cdef uint64_t most             # that it may make
    cdef object raised

    def __cinit__(self, step):
        self.step = step
        self.frames = {}

    def _clear_error(self):
        """Forget the exception that ended the last step."""
        self.keep(None)

    cdef void keep(self, object error) noexcept:
        with cython.critical_section(self):
            self.raised = error

    @property
    def _error(self):
        """What the last step raised, None: nothing."""
        with cython.critical_section(self):
            return self.raised

    cdef walk *live(self) except NULL:
        if self.w == NULL:
            raise StrategyError("the window is only valid while the strategy's step runs; do not keep it")
        # the step may return, and what w points to end, while another thread is here
        if self.owner != PyThread_get_thread_ident():
            raise StrategyError("the window belongs to the thread that runs the strategy's step; use it there")
        self.used += 1
        if self.used > self.most:
            raise StrategyError(f"the step used its window {self.used} times for {nr_left(self.w)} entries and has not returned; "
                                "return the number of entries that it committed")
        return self.w

    cdef entries part(self, object offset, object nr) except *:
        """Entries [offset, offset + nr), which must lie in the window.

        What a caller gives is converted here and nowhere else: it may give another number
        each time it is asked.
        """
        cdef entries e
        o, n = whole("offset", offset), whole("nr", nr)
        cdef walk *w = self.live()
        if o < 0 or n < 1 or o + n > nr_left(w):
            raise StrategyError(f"entries [{o}, {o + n}) leave the window of {nr_left(w)} entries; stay below max_nr")
        e.idx = w.idx + <size_t>o
        e.nr = n
        return e

    cdef int begin(self, size_t idx, size_t nr) except -1:
        """Remember the frames of entries that are started."""
        cdef size_t i
        for i in range(idx, idx + nr):
            if i in self.frames:
                raise StrategyError(f"entry {i - self.w.idx} was started already; start each entry once")
        for i in range(idx, idx + nr):
            self.frames[i] = pte_pfn(self.w.t.leaf[i], self.w.t.mmu.m.page_shift)
        return 0

    cdef int end(self, size_t idx, size_t nr, pte_t new) except -1:
        """Entries that are committed: started before, and `new` maps the frame that the first one mapped."""
        cdef size_t i
        cdef uint64_t pfn = pte_pfn(new, self.w.t.mmu.m.page_shift)
        for i in range(idx, idx + nr):
            was = self.frames.get(i)
            if was is None:
                raise StrategyError(f"entry {i - self.w.idx} was not started; start() it before commit()")
            if was != pfn + (i - idx):
                raise StrategyError(
                    f"entry {i - self.w.idx} mapped frame {was:#x} but the new word maps {pfn + (i - idx):#x}; "
                    "give the words of the piece's first entry, see pte_advance_pfn()")
        for i in range(idx, idx + nr):
            self.frames[i] = None
        return 0

    @property
    def addr(self):
        """Address that the entry maps."""
        return addr_of(&self.live().t, self.live().idx)

    @property
    def idx(self):
        """Index of the entry in its leaf table."""
        return self.live().idx

    @property
    def max_nr(self):
        """Entries up to the end of the range in this table."""
        return nr_left(self.live())

    @property
    def old(self):
        """What ptep_get() said of the entry: A/D are those of its whole contpte block."""
        return self.live().old

    @property
    def pfn(self):
        """Page frame that the entry maps."""
        return walk_pfn(self.live())

    @property
    def folio_head(self):
        """First page frame of the entry's folio."""
        return self.live().f.head

    @property
    def folio_nr(self):
        """Pages of the folio; 0 without a page."""
        return self.live().f.nr

    @property
    def anon(self):
        """Whether the folio is anonymous."""
        return bool(folio_anon(&self.live().f))

    @property
    def large(self):
        """Whether the folio has several pages."""
        return bool(folio_large(&self.live().f))

    @property
    def shared(self):
        """Whether the VMA is MAP_SHARED."""
        return bool(vma_shared(self.live()))

    @property
    def mapped_shared(self):
        """folio_maybe_mapped_shared(): what v1 and v2 asked."""
        return bool(self.live().f.flags & PG_MAPPED_SHARED)

    def needs_anon_exclusive(self):
        """Whether this entry becomes writable exactly if its page is PageAnonExclusive.

        Returns
        -------
        bool
            TRY_CHANGE_WRITABLE, a private mapping with VM_WRITE, an anonymous folio,
            and a new word that lacks WRITE (spec 6.6).
        """
        return bool(needs_anon_exclusive(self.live()))

    def ptep_get(self, offset):
        """ptep_get() of an entry, counted (spec 3.6).

        Parameters
        ----------
        offset : int
            Entries behind the window's own.

        Returns
        -------
        int
            Its word, with the A/D of its whole contpte block.
        """
        cdef entries e = self.part(offset, 1)
        return ptep_get(&self.w.t, e.idx)

    def folio_pte_batch(self, max_nr=None, *, respect_write=True):
        """mprotect_folio_pte_batch() from the window's entry on (spec 5.3).

        Parameters
        ----------
        max_nr : int, optional
            Look no further; default: the window.
        respect_write : bool
            A different WRITE bit ends the batch (FPB_RESPECT_WRITE).

        Returns
        -------
        int
            Entries of the batch; 1 without a large folio, and then nothing is read.
        """
        cdef int flags = FPB_RESPECT_SOFT_DIRTY | (FPB_RESPECT_WRITE if truth("respect_write", respect_write) else 0)
        cdef walk *w = self.live()
        cdef size_t limit = w.end - w.idx
        if max_nr is not None:
            limit = self.part(0, max_nr).nr
        if not folio_large(&w.f):
            return 1
        return folio_pte_batch_flags(&w.t, w.idx, &w.f, w.old, limit, flags)

    def page_anon_exclusive(self, offset):
        """PageAnonExclusive() of a page, counted.

        Parameters
        ----------
        offset : int
            Pages behind the page of the window's own entry; may be negative.

        Returns
        -------
        bool
        """
        further = whole("offset", offset)
        cdef walk *w = self.live()
        pfn = int(walk_pfn(w)) + further
        if pfn < 0 or pfn >> 52 or page_of(w.t.mmu, pfn) == NULL:
            raise StrategyError(f"page {pfn:#x} does not exist; stay inside the folio")
        return bool(page_anon_exclusive(w.t.mmu, pfn))

    def anon_exclusive_batch(self, offset, exclusive, max_nr):
        """Length of the run of pages with one exclusivity, counted; the first is taken as known.

        Parameters
        ----------
        offset : int
            Pages behind the page of the window's own entry.
        exclusive : bool
            PageAnonExclusive of the first page.
        max_nr : int
            Look no further.

        Returns
        -------
        int
            1 to max_nr. The page that ends the run is asked too.
        """
        cdef bint known = truth("exclusive", exclusive)
        cdef entries e = self.part(offset, max_nr)
        return anon_exclusive_batch(self.w.t.mmu, walk_pfn(self.w) + (e.idx - self.w.idx), known, e.nr)

    def start(self, offset, nr):
        """modify_prot_start_ptes(): clear entries, unfolding blocks that they cut.

        Parameters
        ----------
        offset, nr : int
            Entries.

        Returns
        -------
        int
            The first word, with the A/D of all of them.

        Raises
        ------
        StrategyError
            An entry that was started already.
        """
        cdef entries e = self.part(offset, nr)
        self.begin(e.idx, e.nr)
        return modify_prot_start_ptes(self.w, e.idx, e.nr)

    def newpte(self, old):
        """The new word for an old one, before the question whether it may be writable.

        Parameters
        ----------
        old : int
            What `start` returned.

        Returns
        -------
        int
            pte_modify() and the userfaultfd bit (spec 2.3, 6.7).
        """
        cdef pte_t word = number("old", old)
        return newpte(self.live(), word)

    def asks_writable(self, new):
        """Whether TRY_CHANGE_WRITABLE is set and the word lacks WRITE.

        Parameters
        ----------
        new : int
            What `newpte` returned.

        Returns
        -------
        bool
        """
        cdef pte_t word = number("new", new)
        return bool(asks_writable(self.live(), word))

    def maybe_change_pte_writable(self, new):
        """Whether VMA, PROT_NONE and userfaultfd allow WRITE; the page is not asked (spec 6.6).

        Parameters
        ----------
        new : int
            What `newpte` returned.

        Returns
        -------
        bool
        """
        cdef pte_t word = number("new", new)
        self.live().t.mmu.c.writable_checks += 1
        return bool(maybe_change_pte_writable(self.live(), word))

    def pte_dirty(self, pte):
        """pte_dirty(): DIRTY, or WRITE without RDONLY (spec 2.1).

        Parameters
        ----------
        pte : int

        Returns
        -------
        bool
        """
        cdef pte_t word = number("pte", pte)
        self.live()
        return bool(pte_dirty(word))

    def pte_advance_pfn(self, pte, nr):
        """pte_advance_pfn(): the same word for another page; for commits in pieces (spec 1.3).

        Parameters
        ----------
        pte : int
            Word of the first entry of a unit.
        nr : int
            Pages further on.

        Returns
        -------
        int
        """
        cdef pte_t word = number("pte", pte)
        further = whole("nr", nr)
        cdef unsigned int shift = self.live().t.mmu.m.page_shift
        pfn = int(pte_pfn(word, shift)) + further
        if pfn < 0 or pfn >> (50 - shift):
            raise StrategyError(f"page {pfn:#x} has no place in a page table entry; advance by less")
        return pfn_pte(pfn, pte_pgprot(word, shift), shift)

    def commit(self, offset, old, new, nr, write=False):
        """modify_prot_commit_ptes() of one run, and the gather of what it must flush.

        Parameters
        ----------
        offset : int
            First entry.
        old, new : int
            Old and new word of that entry, see `pte_advance_pfn`; the others advance from it.
        nr : int
            Entries.
        write : bool
            pte_mkwrite() the new word first.

        Raises
        ------
        StrategyError
            An entry that was not started, or a word that maps another frame than before.
        """
        cdef pte_t before = number("old", old), after = number("new", new)
        cdef bint writable = truth("write", write)
        cdef entries e = self.part(offset, nr)
        self.end(e.idx, e.nr, after)
        prot_commit_flush_ptes(self.w, e.idx, before, after, e.nr, writable)
        self.w.pages += e.nr

    def change_unit(self, offset, nr, exclusive):
        """Start and commit one unit whose pages share their exclusivity.

        Parameters
        ----------
        offset, nr : int
            Entries, of one folio.
        exclusive : bool
            PageAnonExclusive of all of them; decides WRITE in a private mapping.
        """
        cdef bint writable = truth("exclusive", exclusive)
        cdef entries e = self.part(offset, nr)
        cdef pte_t first = self.w.t.leaf[e.idx]
        self.begin(e.idx, e.nr)
        self.end(e.idx, e.nr, first)
        change_unit(self.w, e.idx, e.nr, writable)

    def normal_page(self):
        """Count one vm_normal_page() more."""
        self.live().t.mmu.c.normal_page += 1

    def note_batch(self, nr):
        """Record a batch, for ``Result.batches``.

        Parameters
        ----------
        nr : int
            Entries, from the window's own on.
        """
        cdef entries e = self.part(0, nr)
        note_batch(self.w, self.w.idx, e.nr)


cdef object whole(str name, object value):
    if not isinstance(value, bool):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise StrategyError(f"{name}={value!r} is not a whole number; give an int")


cdef int64_t call(Window window) except -1:
    cdef walk *w = window.w
    cdef uint64_t before = w.pages
    window.frames.clear()
    got = window.step(window)
    if got is None:
        raise StrategyError("the strategy returned None; return the number of entries it dealt with")
    nr = whole("the strategy's return value", got)
    if not 1 <= nr <= nr_left(w):
        raise StrategyError(f"the strategy returned {nr}; return a number from 1 to max_nr={nr_left(w)}")
    if w.started:
        raise StrategyError(f"the strategy left {<int64_t>w.started} started entries uncommitted; commit what it starts")
    if w.pages - before != <uint64_t>nr:
        raise StrategyError(f"the strategy returned {nr} but committed {<int64_t>(w.pages - before)} entries; "
                            "commit each it counts, once")
    return nr


cdef int64_t python_step(walk *w) noexcept nogil:
    """The step of a Python strategy: 0 and w.failed when it raised."""
    cdef int64_t nr = 0
    with gil:
        window = <Window>w.python
        window.owner = PyThread_get_thread_ident()
        window.w = w
        window.used, window.most = 0, MOST_USED + 8 * nr_left(w) * nr_left(w)
        try:
            nr = call(window)
        except BaseException as error:
            window.keep(error)
            w.failed = True
        finally:
            window.w = NULL
    return nr
