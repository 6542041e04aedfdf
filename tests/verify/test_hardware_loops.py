"""Loops over large mappings of real kernels replay; a changed count is found."""

from __future__ import annotations

import copy

import pytest
from records import HARDWARE, load

from ptebatch.machine import Machine
from ptebatch.verify import loop_rows, verify_loops
from ptebatch.verify.loops import layout_order


def test_every_loop_is_equal():
    report = verify_loops(HARDWARE / "loops.json.gz")
    assert report.ok, report.text()
    assert report.total == 105


@pytest.fixture(scope="module")
def loops():
    return {(r["kernel"], r["test"]): r for r in load("loops.json.gz")}


def counters_of(write, kernel, cpu, test):
    """Counters of a test on a CPU that was not measured here."""
    row = {"kernel": kernel, "cpu": cpu, "test": test, "ptes": 16384, "instructions": 0, "loads": 0, "stores": 0}
    return loop_rows(write([row]))[0].counters


@pytest.mark.parametrize(
    ("kernel", "cpu", "test", "vale", "rvale", "aside", "dsb"),
    [
        # a conversion is 16 page TLBIs without ranges; 512 pages and more are flushed by ASID
        ("6.16", "n1", "T1.RW2RO", 2048 * 16, 0, 1, 4096 + 3),
        ("6.16", "max", "T1.RW2RO", 0, 2049, 0, 4098),
        # the workaround: one VALE1IS and one DSB more a flush, in 7.3 only
        ("7.3", "n1", "T1.RW2RO", 1, 0, 1, 3),
        ("7.3", "x4", "T2.RW2RO", 1, 1, 0, 3),
        ("7.3", "x4", "T2.NONE2RW", 0, 0, 0, 0),
        ("6.17", "x4", "T2.RW2RO", 0, 1, 0, 2),
    ],
)
def test_tlb_maintenance_of_other_cpus(write, kernel, cpu, test, vale, rvale, aside, dsb):
    c = counters_of(write, kernel, cpu, test)
    kinds = [c[f"convert_{kind}"] + c[f"flush_{kind}"] for kind in ("vale1is", "rvale1is", "aside1is", "dsb")]
    assert kinds == [vale, rvale, aside, dsb]


@pytest.mark.parametrize(
    ("test", "kernel", "counter", "nr"),
    [
        ("T4.RW2RO", "6.16", "fold_tries", 1024),
        ("T4.RW2RO", "7.3", "fold_tries", 0),
        ("T4.RW2RO", "7.3", "prot_start", 2048),
        ("T5.RW2RO", "7.3", "prot_start", 512),
        ("T5.RW2RO", "6.16", "folds", 1024),
    ],
)
def test_folios_of_half_and_of_two_blocks(write, test, kernel, counter, nr):
    assert counters_of(write, kernel, "max", test)[counter] == nr


@pytest.mark.parametrize(
    ("change", "differ"),
    [
        ({"tlbi": 2048}, {"tlbi"}),
        ({"dsb": 4098}, set()),
        ({"dsb": 4103}, set()),
        ({"dsb": 4104}, {"dsb"}),
        ({"dsb": 4097}, {"dsb"}),
        ({"ptes": 16383}, None),
    ],
)
def test_a_changed_loop_is_found(loops, write, change, differ):
    line = verify_loops(write([{**loops["6.16", "T1.RW2RO"], **change}])).files[0].lines[0]
    assert line.differ if differ is None else set(line.differ) == differ


@pytest.mark.parametrize("key", ["contpte_convert", "ptep_modify_prot_start", "contpte_ptep_get", "__contpte_try_fold"])
def test_a_changed_function_of_a_loop_is_found(loops, write, key):
    row = copy.deepcopy(loops["6.16", "T1.RW2RO"])
    row["hits"][key] += 1
    assert set(verify_loops(write([row])).files[0].lines[0].differ) == {key}


def test_folds_of_single_pages_are_not_compared(loops, write):
    row = copy.deepcopy(loops["6.16", "T3.RW2RO"])
    row["hits"]["__contpte_try_fold"] = 7
    assert verify_loops(write([row])).ok
    row["hits"]["ptep_modify_prot_start"] = 7
    assert not verify_loops(write([row])).ok


def test_an_unknown_test_is_skipped(loops, write):
    row = loops["6.16", "T1.RW2RO"]
    report = verify_loops(write([row, {**row, "test": "T9.RW2RO"}]))
    assert report.ok and report.files[0].lines[0].skipped == 1


def test_rows_for_cost_tables_pair_instructions_with_counters(loops):
    rows = loop_rows(HARDWARE / "loops.json.gz")
    row = next(r for r in rows if (r.kernel, r.test) == ("7.3", "T2.RO2RW"))
    assert len(rows) == 105
    assert row.instructions == loops["7.3", "T2.RO2RW"]["instructions"]
    assert (row.counters["prot_start"], row.counters["pae_reads"], row.machine) == (1024, 16384, Machine("7.3"))


@pytest.mark.parametrize(("granule", "orders"), [("4K", [9, 4, 0, 3, 5]), ("16K", [11, 7, 0, 6, 8]), ("64K", [13, 5, 0, 4, 6])])
def test_layouts_follow_the_geometry(granule, orders):
    machine = Machine(granule=granule)
    assert [layout_order(f"T{i}", machine) for i in range(1, 6)] == orders
    assert layout_order("T6", machine) is None
