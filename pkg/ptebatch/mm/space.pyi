"""`Space`: page frames, VMAs and leaf tables of an address space. Base of `MM`."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..base.held import Exclusive
from ..machine import Machine

class Vma(NamedTuple):
    start: int
    end: int
    flags: int
    page_prot: int
    pgoff: int
    file: int
    anon_vma: int
    writenotify: bool
    name: int

class Space(Exclusive):
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
    ) -> None: ...
    def set_page_anon_exclusive(self, pfn: int, nr: int = 1, on: bool = True) -> None: ...
    def alloc_folio(self, order: int, *, anon: bool = True, numa_skip: bool = False, mapped_shared: bool = False) -> int: ...
    def mmap(
        self,
        start: int,
        length: int,
        prot: int | str,
        *,
        shared: bool = False,
        file: int = 0,
        pgoff: int | None = None,
        vm_flags: int = 0,
        may: int = 7,
        writenotify: bool = False,
        account: bool | None = None,
        anon_vma: int = 0,
        name: int = 0,
    ) -> None: ...
    def vmas(self) -> list[Vma]: ...
    def set_limits(
        self,
        *,
        map_count: int | None = None,
        data_pages: int | None = None,
        commit_pages: int | None = None,
        read_implies_exec: bool | None = None,
    ) -> None: ...
    def pkey_alloc(self) -> int: ...
    def populate(self, start: int, length: int) -> None: ...
    def ptes(self, start: int, nr: int) -> npt.NDArray[np.uint64]: ...
    def leaf(self, addr: int) -> npt.NDArray[np.uint64]: ...
    def walk(self, addr: int) -> list[tuple[int, int]]: ...
    @property
    def pfn_base(self) -> int: ...
    @property
    def nr_pages(self) -> int: ...
    @property
    def pages(self) -> npt.NDArray[np.uint8]: ...
    @property
    def machine(self) -> Machine: ...
