"""Kinds of events in ``Result.trace``, in program order.

``addr`` is an address unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

__all__ = ["EVENT", "KINDS"]

#: one event, as the core stores it
EVENT = np.dtype([("kind", "u1"), ("addr", "<u8"), ("value", "<u8")])

#: kind number -> name; value in brackets
KINDS: Mapping[int, str] = MappingProxyType(
    {
        1: "R",  # read of a PTE [word]
        2: "W",  # store to a PTE [word]
        3: "X",  # exchange with 0, a read and a store [old word]
        4: "C",  # compare and exchange [new word]
        5: "VALE1IS",  # TLBI of a page [1]
        6: "RVALE1IS",  # TLBI of a range [pages]
        7: "ASIDE1IS",  # TLBI of the address space
        8: "DSB ISHST",
        9: "DSB ISH",
        10: "PAE",  # PageAnonExclusive asked: addr is the pfn [answer]
        11: "BATCH",  # a batch begins [entries]
        12: "START",  # modify_prot_start_ptes() [entries]
        13: "COMMIT",  # modify_prot_commit_ptes() [entries]
        14: "FOLD",  # contpte_convert() to CONT begins [entries]
        15: "UNFOLD",  # contpte_convert() from CONT begins [entries]
        16: "GATHER",  # added to the mmu_gather [pages]
        17: "LOCK",  # page table lock taken [entries to walk]
        18: "UNLOCK",
    }
)
