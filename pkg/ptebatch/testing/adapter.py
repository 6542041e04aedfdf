"""What page-table code has to offer to be driven by `MprotectMachine`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from ..checker.worlds.small import PFN0
from ..machine import Machine
from ..mm.mm import MM

__all__ = ["FRAMES", "CoreTables", "PageTables"]

#: page frames that the state machine uses, from `PFN0` on
FRAMES = 256


@runtime_checkable
class PageTables(Protocol):
    """Leaf page tables, page metadata, and change_protection() on them.

    The state machine makes one with the machine as its only argument. What it
    arranges (mappings, faults) it computes with the model and loads; what it tests it
    asks for, and compares the words afterwards.

    Besides the four methods below, any of these verbs are tested where they exist,
    under their names and meanings in ``ptebatch.MM``: ``set_ptes(addr, word, nr)``,
    ``wrprotect_ptes(addr, nr)``, ``clear_full_ptes(addr, nr)``,
    ``hw_update(addr, write)``, ``reuse(addr)``. Where one does not exist, the words that
    it should have left are loaded.
    """

    def load(self, addr: int, words: Sequence[int]) -> None:
        """Make these the words of the entries from `addr` on; whole leaf tables, new ones or old."""

    def words(self, addr: int, nr: int) -> Sequence[int]:
        """Return the words of `nr` entries from `addr` on, all inside one leaf table that was loaded."""

    def set_pages(self, pfn: int, pages: bytes) -> None:
        """Make these the metadata bytes (``ptebatch.bits.PG_*``) of the page frames from `pfn` on."""

    def change_protection(self, start: int, nr: int, *, newprot: int, cp_flags: int, vm_flags: int, anon: bool) -> int:
        """change_protection() of `nr` pages of one VMA, flush included; returns the entries dealt with.

        The range may have leaf tables that were never loaded: those are empty, and stay so
        unless userfaultfd markers have to be put there.
        """


class CoreTables:
    """`PageTables` of the compiled core: an example to follow, or to spoil in a test of tests.

    Parameters
    ----------
    machine : Machine
    """

    #: the strategy that it runs
    strategy = "folio"

    def __init__(self, machine: Machine) -> None:
        self.mm = MM(machine, pfn_base=PFN0, nr_pages=FRAMES)

    def load(self, addr: int, words: Sequence[int]) -> None:
        """See `PageTables.load`."""
        self.mm.populate(addr, len(words) * self.mm.machine.page_size)
        first = addr // self.mm.machine.page_size % self.mm.machine.ptrs_per_pte
        self.mm.leaf(addr)[first : first + len(words)] = np.array(words, np.uint64)

    def words(self, addr: int, nr: int) -> Sequence[int]:
        """See `PageTables.words`."""
        return [int(word) for word in self.mm.ptes(addr, nr)]

    def set_pages(self, pfn: int, pages: bytes) -> None:
        """See `PageTables.set_pages`."""
        first = pfn - self.mm.pfn_base
        self.mm.pages[first : first + len(pages)] = np.frombuffer(pages, np.uint8)

    def change_protection(self, start: int, nr: int, *, newprot: int, cp_flags: int, vm_flags: int, anon: bool) -> int:
        """See `PageTables.change_protection`."""
        result = self.mm.change_protection(
            start, nr, newprot=newprot, cp_flags=cp_flags, vm_flags=vm_flags, anon=anon, strategy=self.strategy
        )
        return result.pages
