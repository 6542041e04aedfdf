"""`Space`: page frames, VMAs and leaf tables of an address space. Base of `MM`."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ptebatch.machine import Machine

from .held import Exclusive

class Vma(NamedTuple):
    """One VMA: addresses [start, end) in bytes, flags and page_prot as in the kernel."""

    start: int
    end: int
    flags: int
    page_prot: int
    pgoff: int
    file: int
    anon_vma: int
    writenotify: bool

class Space(Exclusive):
    """Page frames, VMAs and leaf tables of one address space; see `MM`."""

    def __init__(
        self, machine: Machine | str | None = None, *, nr_pages: int = 4194304, pfn_base: int = 1024, memo: bool = True
    ) -> None: ...
    def set_folio(
        self,
        head_pfn: int,
        order: int,
        *,
        anon: bool = True,
        numa_skip: bool = False,
        mapped_shared: bool = False,
    ) -> None:
        """Make 2^order pages from head_pfn one folio; no page of it is exclusive yet.

        Parameters
        ----------
        head_pfn : int
            Naturally aligned page frame number.
        order : int
            0 to the order of a table.
        anon : bool
            An anonymous folio (PageAnonExclusive is legal), else a file's.
        numa_skip : bool
            folio_can_map_prot_numa() refuses it.
        mapped_shared : bool
            folio_maybe_mapped_shared(): only the v1/v2 design asks.

        Raises
        ------
        LayoutError
            Order too large, head not aligned, or pages without metadata.
        """

    def set_page_anon_exclusive(self, pfn: int, nr: int = 1, on: bool = True) -> None:
        """Set or clear PageAnonExclusive of nr pages from pfn on.

        Parameters
        ----------
        pfn, nr : int
            First page frame; number of pages.
        on : bool
            Set, or clear.

        Raises
        ------
        LayoutError
            Pages without metadata, or not of an anonymous folio.
        """

    def alloc_folio(self, order: int, *, anon: bool = True, numa_skip: bool = False, mapped_shared: bool = False) -> int:
        """Make the next free naturally aligned frames a folio; returns its head pfn. See `set_folio`."""

    def mmap(
        self,
        start: int,
        length: int,
        prot: int,
        *,
        shared: bool = False,
        file: int = 0,
        pgoff: int | None = None,
        vm_flags: int = 0,
        may: int = 7,
        writenotify: bool = False,
        account: bool | None = None,
    ) -> None:
        """Add a VMA as it is given, unmerged; nothing is mapped in it yet.

        Parameters
        ----------
        start, length : int
            Bytes, multiples of the page size; the range must be free.
        prot : int
            PROT_READ | PROT_WRITE | PROT_EXEC.
        shared : bool
            MAP_SHARED.
        file : int
            Identity of a file, 0 for anonymous memory.
        pgoff : int, optional
            Page offset into the file; default: the page number of `start`.
        vm_flags : int
            Further flags (``bits.VM_*``), for example VM_SEALED.
        may : int
            Accesses that mprotect() may give, as PROT bits (VM_MAY*).
        writenotify : bool
            The file wants to know of the first write (page_mkwrite).
        account : bool, optional
            VM_ACCOUNT; default: as accountable_mapping() has it, for private memory
            that may be written and is not VM_NORESERVE.

        Raises
        ------
        LayoutError
            Bad numbers, or a range that is taken.
        """

    def vmas(self) -> list[Vma]:
        """The VMAs in address order, as `Vma` tuples."""

    def set_limits(
        self,
        *,
        map_count: int | None = None,
        data_pages: int | None = None,
        commit_pages: int | None = None,
        read_implies_exec: bool | None = None,
    ) -> None:
        """Set what mprotect() is limited by; None leaves a limit as it is.

        Parameters
        ----------
        map_count : int, optional
            Largest number of VMAs (vm.max_map_count).
        data_pages, commit_pages : int, optional
            RLIMIT_DATA and the commit limit, in pages.
        read_implies_exec : bool, optional
            Personality READ_IMPLIES_EXEC.

        Raises
        ------
        LayoutError
            A value that is no limit; none is changed then.
        """

    def pkey_alloc(self) -> int:
        """Allocate the next protection key, 1 to 7; LayoutError when none is left."""

    def populate(self, start: int, length: int) -> None:
        """Allocate the leaf tables of a range; entries are none.

        Tables of one call that did not exist before lie side by side, so that
        `ptes` can show them as one array.

        Parameters
        ----------
        start, length : int
            Bytes, multiples of the page size.

        Raises
        ------
        LayoutError
            A range outside the address space.
        """

    def ptes(self, start: int, nr: int) -> npt.NDArray[np.uint64]:
        """PTE words of nr pages, a writable view without a copy.

        Parameters
        ----------
        start : int
            Address of the first page.
        nr : int
            Pages.

        Returns
        -------
        numpy.ndarray of uint64, shape (nr,)
            Raw words. Writing to it is writing to the page table, unchecked.

        Raises
        ------
        LayoutError
            No tables there, or tables of several populate() calls: take parts.
        """

    def leaf(self, addr: int) -> npt.NDArray[np.uint64]:
        """PTE words of the whole leaf table that maps addr, a writable view; see `ptes`."""

    def walk(self, addr: int) -> list[tuple[int, int]]:
        """The table entries on the way to addr, from the top.

        Returns
        -------
        list of (int, int)
            Index and entry of each level; the last is the PTE. Ends early at a hole.
        """

    @property
    def pfn_base(self) -> int:
        """First page frame that has metadata."""

    @property
    def nr_pages(self) -> int:
        """Page frames that have metadata."""

    @property
    def pages(self) -> npt.NDArray[np.uint8]:
        """Metadata bytes, a writable view: index is pfn - pfn_base."""

    @property
    def machine(self) -> Machine: ...
