"""Start states of golden vectors: the operations that made them, done again.

Each operation is a row ``[verb, ...]``; indices are entries of the scenario,
pfns are absolute. All run on a 7.3 machine without BBML, as the vectors say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from .. import bits
from ..arm64 import accessors as pte
from ..errors import LayoutError
from ..machine import Machine
from ..mm.mm import MM
from .load import Node
from .report import Difference, ptes_difference
from .scenario import Scenario

__all__ = ["VERBS", "replay"]

Verb = Callable[[Scenario, MM, list[int]], None]

# flags of "map"
MAP_WRITE, MAP_DIRTY, MAP_YOUNG, MAP_SPECIAL, MAP_UFFD = 1, 2, 4, 8, 16


def mapped_word(pfn: int, vm_flags: int, flags: int, page_shift: int) -> int:
    """Word that ``map`` stores: page protection of the VMA flags, then one modifier after another."""
    word = bits.PROTECTION_MAP[vm_flags & 15] | pfn << page_shift
    word = pte.pte_mkyoung(word) if flags & MAP_YOUNG else pte.pte_mkold(word)
    if flags & MAP_DIRTY:
        word = pte.pte_mkdirty(word)
    if flags & MAP_WRITE:
        word = pte.pte_mkwrite(word)
    if flags & MAP_SPECIAL:
        word |= bits.PTE_SPECIAL
    return int(pte.pte_mkuffd(word) if flags & MAP_UFFD else word)


def _tables(s: Scenario, index: int, nr: int) -> Iterator[tuple[int, int]]:
    """Address and entries of each part of a range: no verb leaves its leaf table."""
    if index + nr > s.size:
        raise LayoutError(f"entries {index}..{index + nr} end behind the {s.size} entries of two leaf tables; give fewer")
    end = index + nr
    while index < end:
        n = min(end - index, s.head.ptrs_per_pte - index % s.head.ptrs_per_pte)
        yield s.address(index), n
        index += n


def _map(s: Scenario, mm: MM, args: list[int]) -> None:
    index, pfn, nr, vm_flags, flags = args
    if pfn + nr > 1 << 36:
        raise LayoutError(f"pfn {pfn:#x} does not fit in a PTE; expected pfns of `folios`")
    for addr, n in _tables(s, index, nr):
        mm.set_ptes(addr, mapped_word(pfn, vm_flags, flags, s.head.page_shift), n)
        pfn += n


def _wrprotect(s: Scenario, mm: MM, args: list[int]) -> None:
    for addr, n in _tables(s, *args):
        mm.wrprotect_ptes(addr, n)


def _clear(s: Scenario, mm: MM, args: list[int]) -> None:
    for addr, n in _tables(s, *args):
        mm.clear_full_ptes(addr, n)


def _pae(s: Scenario, mm: MM, args: list[int]) -> None:
    pfn, nr, on = args
    at = pfn - s.head.pfn_base
    if at < 0 or at + nr > s.nr_pages:
        raise LayoutError(f"pages {pfn:#x}..{pfn + nr:#x} are outside of every folio; expected pfns of `folios`")
    # raw: the vectors also mark pages of files, where nothing asks for it
    if on:
        mm.pages[at : at + nr] |= bits.PG_ANON_EXCLUSIVE
    else:
        mm.pages[at : at + nr] &= 0xFF ^ bits.PG_ANON_EXCLUSIVE


def _swp(s: Scenario, mm: MM, args: list[int]) -> None:
    index, kind, offset, exclusive, uffd = args
    word = (kind & bits.SWP_TYPE_MASK) << bits.SWP_TYPE_SHIFT | (offset & bits.SWP_OFFSET_MASK) << bits.SWP_OFFSET_SHIFT
    word |= (bits.PTE_SWP_EXCLUSIVE if exclusive else 0) | (bits.PTE_SWP_UFFD if uffd else 0)
    mm.set_pte_at(s.address(index), word)


def _mprotect(s: Scenario, mm: MM, args: list[int]) -> None:
    vm_flags, npf, cp_flags, anon, start, nr = args
    mm.change_protection(
        s.address(start),
        nr,
        newprot=bits.PAGE_NONE if cp_flags & bits.MM_CP_PROT_NUMA else bits.PROTECTION_MAP[npf & 15],
        cp_flags=cp_flags,
        vm_flags=vm_flags,
        anon=bool(anon),
        strategy="folio",
    )


#: verb -> number of arguments, action
VERBS: dict[str, tuple[int, Verb]] = {
    "map": (5, _map),
    "wrprotect": (2, _wrprotect),
    "clear": (2, _clear),
    "pae": (3, _pae),
    "hw": (2, lambda s, mm, a: mm.hw_update(s.address(a[0]), bool(a[1]))),
    "reuse": (1, lambda s, mm, a: mm.reuse(s.address(a[0]))),
    "swp": (5, _swp),
    "mprotect73": (6, _mprotect),
}


def _do(s: Scenario, mm: MM, op: Node) -> None:
    verb = op.at(0).text() if isinstance(op.value, list) and op.value else op.wrong("an operation [verb, ...]")
    if verb not in VERBS:
        op.at(0).wrong(f"a verb; known: {', '.join(VERBS)}")
    nr, action = VERBS[verb]
    args = [item.whole() for item in op.items(nr + 1)[1:]]
    with op.guard():
        action(s, mm, args)


def replay(s: Scenario) -> list[Difference]:
    """Do the operations of a scenario; compare the PTEs and the exclusive pages with its start state."""
    machine = Machine("7.3", granule=s.head.granule)
    mm = s.mm(machine)
    for op in s.node.key("ops").items():
        _do(s, mm, op)
    out = [ptes_difference(s.name, "PTEs", s.init, mm.ptes(s.base, s.size), machine)]
    exclusive = np.flatnonzero(mm.pages & bits.PG_ANON_EXCLUSIVE).astype(np.uint64)
    if not np.array_equal(exclusive, s.exclusive):
        pfn = int(np.setxor1d(exclusive, s.exclusive)[0]) + s.head.pfn_base
        want, got = (bool(np.isin(pfn - s.head.pfn_base, side)) for side in (s.exclusive, exclusive))
        out.append(Difference(f"{s.name} pfn {pfn:#x}", "exclusive", want, got))
    return [d for d in out if d is not None]
