"""Counters: one list, told alike by core and documents, and bound to each other by what they count."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptebatch import COUNTERS, MM, STRATEGIES, Machine, Result, bits
from ptebatch.counters import GOLDEN
from ptebatch.events import KINDS
from ptebatch.kernels import ERAS

HEADER = Path(__file__).resolve().parents[2] / "pyx/ptebatch/base/counters.pxd"
BASE = 1 << 21
#: names of the golden vectors, which fix their meaning
VECTORS = (
    "pte_reads pte_writes pte_xchg pte_cmpxchg ptep_get contpte_ptep_get pae_reads batch_scans fold_tries folds "
    "unfold_calls unfolds convert_tlbi convert_tlbi_pages convert_tlbi_ops convert_tlbi_ops_range prot_start prot_commit "
    "set_ptes sync_tags icache_sync n_batches n_subs gather_calls warns normal_page other_tlbi"
)


def test_the_core_and_the_table_name_the_same_counters_in_the_same_order():
    assert re.findall(r"^    uint64_t (\w+)$", HEADER.read_text(), re.M) == list(COUNTERS)


def test_the_first_are_those_of_the_golden_vectors():
    assert tuple(VECTORS.split()) == GOLDEN


def test_every_counter_says_what_it_counts():
    meanings = [counter.meaning for counter in COUNTERS.values()]
    assert len(set(meanings)) == len(COUNTERS) > len(GOLDEN) == 27
    for counter in COUNTERS.values():
        assert len(counter.meaning.split()) >= 3 and counter.group in {
            "access",
            "batch",
            "contpte",
            "commit",
            "flush",
            "tlbi",
            "walk",
        }


def test_a_result_has_them_all_in_order():
    mm = MM(nr_pages=64)
    mm.mmap(BASE, 4096, 1)
    result = mm.mprotect(BASE, 4096, 3)
    assert list(result.counters) == list(COUNTERS)
    assert all(result[name] == value and isinstance(value, int) for name, value in result.counters.items())


# ---- what must hold between them, whatever was done ----


def total(runs) -> int:
    return sum(count * value for count, value in runs)


def events(result: Result) -> dict[str, int]:
    kinds, counts = np.unique(result.trace["kind"], return_counts=True)
    found = {KINDS[kind]: count for kind, count in zip(kinds.tolist(), counts.tolist(), strict=True)}
    return {name: found.get(name, 0) for name in KINDS.values()}


def broken(c: dict[str, int], result: Result, present: int) -> list[str]:
    """Laws that the counters `c` of a result break; `present` entries were there to be changed."""
    m, e = result.machine, events(result)
    conversions = c["folds"] + c["unfolds"]
    laws = {
        "an unfold is a conversion": c["unfold_calls"] == c["unfolds"],
        "a conversion flushes, unless the CPU needs none": c["convert_tlbi"] == (0 if m.elides_bbm else conversions),
        "it flushes its block": c["convert_tlbi_pages"] == m.cont_ptes * c["convert_tlbi"],
        "one instruction a page without ranges": c["convert_tlbi_ops"] == c["convert_tlbi_pages"],
        "flushes are listed": len(result.flushes) == c["convert_tlbi"],
        "final flushes are listed": len(result.gathers) == c["flush_calls"],
        "and cover what they say": sum(end - start for start, end in result.gathers) == c["flush_pages"] * m.page_size,
        "a flush needs something gathered": (c["gather_calls"] > 0) == (c["flush_calls"] > 0),
        "every start has its commit's entries": c["pte_xchg"] == present + m.cont_ptes * conversions,
        "every entry is stored once": c["pte_writes"] == present + m.cont_ptes * conversions,
        "gathering is part of getting": c["contpte_ptep_get"] <= c["ptep_get"] <= c["pte_reads"],
        "what is got is read": c["ptep_get"] <= c["ptep_get_reads"] <= c["pte_reads"],
        "a gather that does not end early reads its block": m.gather_early_exit
        or c["ptep_get_reads"] == c["ptep_get"] + m.cont_ptes * c["contpte_ptep_get"],
        "single and multiple starts": c["start_multi"] <= c["prot_start"],
        "stores in pieces": c["set_ptes"] + conversions <= c["sync_tags"] or not m.contpte,
        "instruction caches are synced by the piece": c["icache_sync"] <= c["sync_tags"],
        "never in mprotect": c["pte_cmpxchg"] == c["warns"] == c["other_tlbi"] == 0,
        "an unfold of one entry is an unfold": c["unfold_single"] <= c["unfolds"],
        "a fold was tried": c["folds"] <= c["fold_tries"],
        "commits store": c["prot_commit"] == c["set_ptes"],
        "batches are listed": sum(count for count, _ in result.batches) == c["n_batches"],
        "commits are listed": sum(count for count, _ in result.subs) == c["n_subs"],
        "starts and commits cover the entries": result.strategy == "per-pte"
        or total(result.batches) == total(result.subs) == present,
        "reads": e["R"] == c["pte_reads"],
        "writes": e["W"] == c["pte_writes"],
        "exchanges": e["X"] == c["pte_xchg"],
        "page reads": e["PAE"] == c["pae_reads"],
        "page flushes": e["VALE1IS"] == c["convert_vale1is"] + c["flush_vale1is"],
        "range flushes": e["RVALE1IS"] == c["convert_rvale1is"] + c["flush_rvale1is"],
        "ASID flushes": e["ASIDE1IS"] == c["convert_aside1is"] + c["flush_aside1is"],
        "barriers": e["DSB ISH"] + e["DSB ISHST"] == c["convert_dsb"] + c["flush_dsb"],
        "starts": e["START"] == c["prot_start"],
        "commits": e["COMMIT"] == c["prot_commit"],
        "batches": e["BATCH"] == c["n_batches"],
        "folds": e["FOLD"] == c["folds"],
        "unfolds": e["UNFOLD"] == c["unfolds"],
        "gathers": e["GATHER"] == c["gather_calls"],
        "locks": e["LOCK"] == e["UNLOCK"] == c["pte_locks"],
        "return value": result.pages == present,
    }
    return [name for name, holds in laws.items() if not holds]


def start_state(machine: Machine, runs: list[int], order: int, fold: bool, prot: int) -> MM:
    """Two tables of private memory in folios of one order, exclusive in runs."""
    nr = 2 * machine.ptrs_per_pte
    start = nr * machine.page_size
    mm = MM(machine, nr_pages=8 * nr, pfn_base=0)
    mm.mmap(start, nr * machine.page_size, prot)
    exclusive = np.resize(np.repeat(np.arange(len(runs)) % 2 == 0, runs), nr)
    mm.map_folios(start, nr, min(order, machine.pmd_order), exclusive=exclusive, fold=fold)
    return mm


@pytest.mark.parametrize("name", STRATEGIES)
@settings(max_examples=50)
@given(
    kernel=st.sampled_from(sorted(ERAS)),
    switches=st.fixed_dictionaries(
        {"bbml": st.integers(0, 3), "tlb_range": st.booleans(), "kpti": st.booleans(), "contpte": st.booleans()}
    ),
    small=st.booleans(),
    runs=st.lists(st.integers(1, 20), min_size=1, max_size=20),
    order=st.integers(0, 9),
    fold=st.booleans(),
    prots=st.tuples(st.sampled_from([1, 3, 5]), st.sampled_from([0, 1, 3, 4])),
    part=st.tuples(st.integers(0, 1023), st.integers(1, 1024)),
)
def test_counters_agree_with_each_other_and_with_the_trace(name, kernel, switches, small, runs, order, fold, prots, part):
    shape = {"cont_ptes": 4, "ptrs_per_pte": 16} if small else {}
    machine = Machine(kernel, **switches, **shape)
    mm = start_state(machine, runs, order, fold, prots[0])
    nr = 2 * machine.ptrs_per_pte
    first = part[0] % nr
    count = min(part[1], nr - first)
    start = (nr + first) * machine.page_size
    result = mm.mprotect(start, count * machine.page_size, prots[1], strategy=name, trace=True)
    assert broken(result.counters, result, 0 if prots[0] == prots[1] else count) == []


#: counts that no other number of a result repeats; golden vectors and tests of their rooms hold them
ALONE = {
    "ptep_get_reads",
    "normal_page",
    "batch_scans",
    "writable_checks",
    "set_ptes_multi",
    "cont_without_bbm",
    "convert_tlbi_ops_range",
    "fold_tries",
}
VMAS = {"vmas_walked", "vma_splits", "vma_merges"}


@pytest.mark.parametrize("name", [name for name in COUNTERS if name not in ALONE | VMAS])
def test_a_counter_that_is_off_by_one_is_seen(name):
    """The laws above are not idle: raising one counter breaks one of them, but for those that stand alone."""
    mm = start_state(Machine("7.3", tlb_range=False), [3, 5, 16], 9, True, 1)
    result = mm.mprotect(1024 * 4096 + 5 * 4096, 100 * 4096, 3, trace=True)
    assert broken(result.counters, result, 100) == []
    counters = result.counters
    bounded = {"ptep_get": 10**6, "icache_sync": 10**6, "start_multi": 10**6, "unfold_single": 10**6, "sync_tags": -(10**6)}
    counters[name] += bounded.get(name, 1)
    assert broken(counters, result, 100)


def test_counters_of_one_call_do_not_leak_into_the_next():
    mm = start_state(Machine("7.3"), [1], 9, True, 3)
    first = mm.mprotect(1024 * 4096, 4096, 1).counters
    assert not any(mm.mprotect(1024 * 4096, 0, 1).counters.values())
    assert mm.mprotect(1024 * 4096, 4096, 3).counters != first


def test_the_difference_of_two_results_names_what_differs():
    mm = start_state(Machine("7.3"), [1, 1], 9, False, 1)
    one, other = (mm.copy().mprotect(1024 * 4096, 512 * 4096, 3, strategy=name) for name in ("lookahead", "folio"))
    differ = one - other
    assert differ["ptep_get"] == 131_328 - 512 and "pages" not in differ
    assert one - one == {} and one == one and one != other
    assert bits.PTE_CONT not in differ


def test_without_a_record_only_the_lists_are_gone():
    mm = start_state(Machine("7.3"), [3], 9, True, 1)
    kept, dropped = (mm.copy().mprotect(1024 * 4096, 512 * 4096, 3, record=flag) for flag in (True, False))
    assert kept.counters == dropped.counters and kept.batches
    assert dropped.batches == dropped.subs == dropped.flushes == dropped.gathers == []
