"""What every counter means. All are counted, exact, and of one call.

The first 27 are defined by the kernel functions they count, in the order of
the golden vectors. No time is here, neither modelled nor measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["COUNTERS", "GOLDEN", "Counter", "dsb", "entries", "tlbi"]


@dataclass(frozen=True, slots=True)
class Counter:
    """One counter.

    Parameters
    ----------
    name, group, meaning : str
        The group gathers what is printed together.
    """

    name: str
    group: str
    meaning: str


_TABLE = """
pte_reads              access   reads of a PTE word, __ptep_get(); what an exchange returns is not a read
pte_writes             access   stores to a PTE word, the repaint of a conversion included
pte_xchg               access   exchanges of a PTE word with 0
pte_cmpxchg            access   compare-and-exchange on a PTE word; none in mprotect
ptep_get               access   calls of the public ptep_get()
contpte_ptep_get       access   of these, those that gathered A/D over a contpte block
pae_reads              batch    evaluations of PageAnonExclusive()
batch_scans            batch    entries of folio_pte_batch_flags(); for `merged` its own scan
fold_tries             contpte  entries of __contpte_try_fold(), behind its cheap gate
folds                  contpte  conversions that set CONT
unfold_calls           contpte  entries of __contpte_try_unfold(); equal to unfolds
unfolds                contpte  conversions that clear CONT
convert_tlbi           contpte  TLB flushes issued by conversions
convert_tlbi_pages     contpte  pages that flushes of conversions cover
convert_tlbi_ops       contpte  TLBI instructions they need without FEAT_TLBIRANGE
convert_tlbi_ops_range contpte  TLBI instructions they need with FEAT_TLBIRANGE
prot_start             commit   calls of modify_prot_start_ptes()
prot_commit            commit   calls of modify_prot_commit_ptes()
set_ptes               commit   calls of the public set_ptes(), set_pte_at() included
sync_tags              commit   pieces stored, __set_ptes(); each may sync caches and tags
icache_sync            commit   of these, pieces that EL0 may execute
n_batches              batch    batches of present PTEs; none counted by per-pte
n_subs                 batch    commits of batched designs, a sub-batch each; none by per-pte
gather_calls           flush    pieces added to the mmu_gather
warns                  flush    kernel warnings hit; always 0
normal_page            batch    look-ups of struct page, vm_normal_page()
other_tlbi             flush    flushes that are neither of a conversion nor final; always 0
convert_vale1is        tlbi     TLBI VALE1IS issued by conversions on this machine
convert_rvale1is       tlbi     TLBI RVALE1IS issued by conversions
convert_aside1is       tlbi     TLBI ASIDE1IS issued by conversions
convert_dsb            tlbi     DSBs around flushes of conversions
flush_calls            flush    final flushes, one for each VMA that needs one
flush_pages            flush    pages that final flushes cover
flush_vale1is          tlbi     TLBI VALE1IS of final flushes
flush_rvale1is         tlbi     TLBI RVALE1IS of final flushes
flush_aside1is         tlbi     TLBI ASIDE1IS of final flushes
flush_dsb              tlbi     DSBs around final flushes
pte_locks              walk     page table locks taken, one for each leaf table walked
vmas_walked            walk     VMAs whose page tables were walked, change_protection()
vma_splits             walk     splits of VMAs, two for a middle part
vma_merges             walk     merges of VMAs, one for up to three VMAs
writable_checks        commit   questions whether a word may become writable
start_multi            commit   starts of more than one entry
set_ptes_multi         commit   stores of more than one entry, contpte_set_ptes()
unfold_single          contpte  unfolds caused by a verb on one entry
ptep_get_reads         access   of all reads, those of ptep_get(), gathering of A/D included: how a loop finds how far it may go
cont_without_bbm       contpte  blocks painted over valid unfolded entries with no TLBI between (spec 7.8)
"""


def _read(table: str) -> dict[str, Counter]:
    rows = (line.split(None, 2) for line in table.strip().splitlines())
    return {name: Counter(name, group, meaning) for name, group, meaning in rows}


#: every counter by name, in the core's order
COUNTERS: Mapping[str, Counter] = MappingProxyType(_read(_TABLE))

#: names of the golden vectors' counters, in their order
GOLDEN: tuple[str, ...] = tuple(COUNTERS)[:27]


def tlbi(counters: Mapping[str, int]) -> int:
    """Return the TLBI instructions of conversions and flushes together, those of one CPU included."""
    return sum(nr for name, nr in counters.items() if name.startswith(("convert_", "flush_")) and name.endswith(("e1is", "e1")))


def dsb(counters: Mapping[str, int]) -> int:
    """Return the DSB instructions of conversions and flushes together."""
    return counters.get("convert_dsb", 0) + counters.get("flush_dsb", 0)


def entries(counters: Mapping[str, int]) -> int:
    """Return the PTEs that were stored or exchanged, one a time."""
    return sum(counters.get(f"pte_{kind}", 0) for kind in ("writes", "xchg", "cmpxchg"))
