"""What records of real kernels have in common: their machine, their page tables, their counters.

A record names a kernel and a CPU of the measurement; that is a `Machine`. It
shows the leaf PTEs and folios of one mapping; that is an `MM`. It counts
function entries; those are sums of our counters. The names of the functions differ
between kernels (`ALIASES`), and some are inlined in one and not in another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bits import PG_ANON_EXCLUSIVE, PTE_SPECIAL, VM_NORESERVE
from ..counters import dsb
from ..errors import MachineError, PtebatchError
from ..kernels import ERAS, row_of
from ..machine import GRANULES, Machine
from ..mm.mm import MM
from ..mm.result import Result
from ..strategies import get_strategy
from .load import Node, Words

__all__ = [
    "CPUS",
    "barriers",
    "counts_of",
    "entered",
    "hits_of",
    "is_tlbi",
    "machine_of",
    "make_mm",
    "pfns_of",
    "prot_of",
    "tlbi_of",
    "tlbi_seen",
]

#: CPU of the measurement -> switches that follow from it alone (spec 10.3)
CPUS: Mapping[str, dict[str, Any]] = {
    "max": {},
    "maxlpa2": {"lpa2": True, "va_bits": 52},
    "a72": {"tlb_range": False, "hafdbs": False},
    "bbml2": {"bbml": 2},
    "bbml3": {"bbml": 3},
    "n1": {"tlb_range": False},
    "x4": {},
}

#: names that a function had in other kernels
ALIASES: Mapping[str, str] = {
    "__pte_offset_map_lock": "pte_offset_map_lock",
    "__flush_tlb_range_nosync": "__flush_tlb_range",
}
#: functions that some kernels have inlined: compared where a record has entered them
MAY_BE_INLINED = frozenset({"flush_tlb_mm", "prot_commit_flush_ptes"})

_PAGE = {1 << shift: name for name, (shift, _, _) in GRANULES.items()}
#: page frames between the first and the last folio of a record
_MAX_PAGES = 1 << 28


def machine_of(record: Node) -> Machine:
    """Machine of a record: its ``kernel``, ``cpu`` and ``page``; 4K pages where neither key nor kernel name tells."""
    kernel, cpu = record.key("kernel"), record.key("cpu")
    try:
        row, _ = row_of(kernel.text().split()[0] if kernel.text().split() else "")
    except MachineError as e:
        kernel.fail(str(e))
    if cpu.text() not in CPUS:
        cpu.wrong(f"a CPU of the measurement; known: {', '.join(CPUS)}")
    size = record.maybe("page")
    if size is None:
        named = re.search(r"\b(16|64)k\b", kernel.text().lower())
        granule = f"{named[1]}K" if named else "4K"
    elif size.whole() in _PAGE:
        granule = _PAGE[size.whole()]
    else:
        size.wrong(f"a page size; known: {', '.join(map(str, _PAGE))}")
    with record.guard():
        return Machine(row, granule=granule, repeat_tlbi=cpu.text() in ERAS[row].repeat_tlbi_cpus, **CPUS[cpu.text()])


def prot_of(node: Node) -> int:
    """PROT bits of a call or a VMA."""
    return node.whole(0, 7)


def pfns_of(words: Words, machine: Machine) -> Words:
    """Page frame of each word; of LPA2 words the low part, which holds all memory measured."""
    return (words & np.uint64((1 << 50) - 1)) >> np.uint64(machine.page_shift)


def _folios(node: Node) -> list[tuple[Node, int, int]]:
    rows = []
    for item in node.items():
        pfn, order = item.wholes(2)
        rows.append((item, pfn, order))
    ends = [(pfn, pfn + (1 << min(order, 13))) for _, pfn, order in rows]
    if ends and max(end for _, end in ends) - min(pfn for pfn, _ in ends) > _MAX_PAGES:
        node.fail(f"the folios lie more than {_MAX_PAGES:#x} pages apart; expected those of one machine of the measurement")
    return rows


def make_mm(
    record: Node,
    machine: Machine,
    va: int,
    words: Words,
    exclusive: NDArray[np.bool_],
    vmas: Iterable[tuple[Node, int, int, int]],
    shared: bool = False,
) -> MM:
    """Address space of a record.

    Parameters
    ----------
    record : Node
        Has ``folios``.
    machine : Machine
    va : int
        Address of entry 0.
    words : array of uint64, shape (n,)
        PTEs from there on, stored as they are.
    exclusive : array of bool, shape (n,)
        PageAnonExclusive of the page of each.
    vmas : iterable of (place, first, entries, prot)
    shared : bool
        A shared mapping of memory without writenotify; its folios are not anonymous.
    """
    folios = _folios(record.key("folios"))
    low = min((pfn for _, pfn, _ in folios), default=0)
    high = max((pfn + (1 << min(order, 13)) for _, pfn, order in folios), default=1)
    with record.guard():
        if va + (len(words) << machine.page_shift) > 1 << machine.va_bits:
            what = f"{len(words)} entries from {va:#x} on leave the address space of {machine.va_bits} bits"
            raise PtebatchError(f"{what}; give a lower address")
        mm = MM(machine, pfn_base=low, nr_pages=high - low)
        mm.populate(va, len(words) << machine.page_shift)
        mm.ptes(va, len(words))[:] = words
    for node, pfn, order in folios:
        with node.guard():
            mm.set_folio(pfn, order, anon=not shared)
    mapped = words[exclusive & (words & np.uint64(PTE_SPECIAL) == 0)]
    at = pfns_of(mapped, machine) - np.uint64(low)
    mm.pages[at[at < mm.nr_pages]] |= PG_ANON_EXCLUSIVE
    # no accounting: in the kernel all parts of the mapping carry the same accounting
    # flag, so that it never keeps them from being merged
    kind: dict[str, Any] = {"shared": shared, "file": int(shared), "vm_flags": VM_NORESERVE}
    for node, first, nr, prot in vmas:
        with node.guard():
            mm.mmap(va + (first << machine.page_shift), nr << machine.page_shift, prot, **kind)
    return mm


def flags_of(node: Node, nr: int) -> NDArray[np.bool_]:
    """PageAnonExclusive of `nr` entries: ``1``, ``0``, or ``-`` where there is no page."""
    text = node.text()
    if len(text) != nr or text.strip("01-"):
        node.wrong(f"{nr} characters 1, 0 or -")
    return np.array([c == "1" for c in text], bool)


# ---- counters ----


def hits_of(result: Result) -> dict[str, int]:
    """Entries of the kernel's functions, by their names in the newest kernel that has them."""
    c = result.counters
    hits = {
        "contpte_ptep_get": c["contpte_ptep_get"],
        "__contpte_try_fold": c["fold_tries"],
        "contpte_convert": c["folds"] + c["unfolds"],
        "vm_normal_page": c["normal_page"],
        "folio_pte_batch_flags": c["batch_scans"],
        "change_protection": c["vmas_walked"],
        "flush_tlb_batched_pending": c["pte_locks"],
        "pte_offset_map_lock": c["pte_locks"],
        "__flush_tlb_range": c["convert_tlbi"],
        "flush_tlb_mm": c["flush_aside1is"],
    }
    # the loop that looks up no page but those in question is the one without batches
    return hits | (_batched_hits(c) if get_strategy(result.strategy).lookup else _per_pte_hits(c))


def _per_pte_hits(c: dict[str, int]) -> dict[str, int]:
    return {
        "ptep_modify_prot_start": c["prot_start"],
        "ptep_modify_prot_commit": c["prot_commit"],
        "__contpte_try_unfold": c["unfold_calls"],
        "can_change_pte_writable": c["writable_checks"],
    }


def _batched_hits(c: dict[str, int]) -> dict[str, int]:
    return {
        "modify_prot_start_ptes": c["prot_start"],
        "modify_prot_commit_ptes": c["prot_commit"],
        "prot_commit_flush_ptes": c["prot_commit"],
        # inlined where several entries are started at once
        "__contpte_try_unfold": c["unfold_single"],
        "contpte_get_and_clear_full_ptes": c["start_multi"],
        "contpte_try_unfold_partial": c["start_multi"],
        "contpte_set_ptes": c["set_ptes_multi"],
        "__set_ptes_anysz": c["sync_tags"] - (c["set_ptes"] - c["set_ptes_multi"]) - c["folds"] - c["unfolds"],
        "maybe_change_pte_writable": c["writable_checks"],
    }


def entered(theirs: Mapping[str, int], result: Result, *, all_known: bool = True) -> Iterator[tuple[str, int, int]]:
    """Name, entries recorded and entries of the model, for every function that can be compared.

    `all_known`: the record holds no function that the model does not count.
    """
    ours = hits_of(result)
    for name in dict.fromkeys([*theirs, *ours]) if all_known else ours:
        if name in theirs or name not in MAY_BE_INLINED:
            yield name, theirs.get(name, 0), ours.get(name, 0)


def counts_of(node: Node) -> dict[str, int]:
    """Counts by name; a compiler's suffix behind the first dot is not part of a function's name."""
    out: dict[str, int] = {}
    for name, value in node.members().items():
        name = name.split(".", 1)[0]
        name = ALIASES.get(name, name)
        out[name] = out.get(name, 0) + value.whole()
    return out


def tlbi_seen(seen: Mapping[str, int]) -> dict[str, int]:
    """TLBI instructions among events that were counted by kind."""
    return {kind: nr for kind, nr in seen.items() if is_tlbi(kind)}


def is_tlbi(kind: str) -> bool:
    """Whether an event is a TLBI instruction, of all CPUs or of one."""
    return kind.endswith(("E1IS", "E1"))


def tlbi_of(result: Result) -> dict[str, int]:
    """TLBI instructions by kind, of conversions and of the final flushes; kinds that occur."""
    out = {}
    for kind in ("vale1is", "rvale1is", "aside1is"):
        nr = result[f"convert_{kind}"] + result[f"flush_{kind}"]
        if nr:
            out[f"TLBI {kind.upper()}"] = nr
    return out


def barriers(result: Result) -> int:
    """DSBs of conversions and of the final flushes."""
    return dsb(result.counters)
