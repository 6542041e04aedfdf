"""Dumps of real kernels replay: words, function entries, TLBI, DSB; a changed fact is found."""

from __future__ import annotations

import copy

import pytest
from records import HARDWARE, load

from ptebatch.verify import verify_dumps
from ptebatch.verify.dumps import Record, replay_record
from ptebatch.verify.hardware import machine_of
from ptebatch.verify.load import Node, read_json

DUMPS = sorted(path.name for path in HARDWARE.glob("*.dumps.json.gz"))


def test_the_files_are_there():
    assert len(DUMPS) == 11


@pytest.mark.parametrize("name", DUMPS)
def test_every_record_and_call_of_a_dump_is_equal(name):
    records = load(name)
    report = verify_dumps([HARDWARE / name])
    assert report.ok, report.text()
    state, calls = report.files[0].lines
    ops = [op for r in records for op in r["ops"]]
    assert (state.total, state.skipped) == (sum(r["vmas"] is not None for r in records), sum(r["vmas"] is None for r in records))
    assert (calls.total, calls.loose) == (len(ops), sum(op["irq"] > 0 for op in ops))


@pytest.mark.parametrize("name", DUMPS)
def test_each_record_leaves_what_the_next_one_begins_with(name):
    """VMAs after split and merge, and the entries behind the window."""
    before, seen = None, 0
    for node in read_json(str(HARDWARE / name)).items():
        record = node.value
        if record["vmas"] is None:
            before = None
            continue
        if before and before[:2] == (record["scenario"], record["step_before"]):
            mm, va, shift = before[2], int(record["va"], 16), before[2].machine.page_shift
            got = [[(v.start - va) >> shift, (v.end - v.start) >> shift, v.flags & 7] for v in mm.vmas()]
            assert got == record["vmas"]
            total = got[-1][0] + got[-1][1]
            assert (mm.ptes(va, total) == Record(node).mm().ptes(va, total)).all()
            seen += 1
        before = (record["scenario"], record["step_after"], replay_record(node)[3])
    assert seen == 37


@pytest.fixture(scope="module")
def dumps():
    return {(r["scenario"], r["op"]): r for r in load("6.16-16k.max.dumps.json.gz") + load("7.3.max.dumps.json.gz")}


@pytest.fixture
def record(dumps):
    """A copy of the record of a call that unfolds both ends of its range."""
    return copy.deepcopy(dumps["thp_none_partial", "NONE"])


@pytest.mark.parametrize("entry", [0, 5, 52, 63, -1])
def test_a_changed_word_after_the_call_is_found(record, write, entry):
    word = int(record["ptes_after"][entry], 16)
    record["ptes_after"][entry] = f"{word ^ 1 << 55:x}"
    state = verify_dumps(write([record])).files[0].lines[0]
    assert state.differ == {"PTEs": 1}
    assert f"entry {entry % len(record['ptes_after'])}" in state.first.place and "^" in state.first.strip


@pytest.mark.parametrize(
    ("key", "step"),
    [
        ("contpte_convert", 1),
        ("contpte_convert", -1),
        ("modify_prot_start_ptes", -1),
        ("change_protection", 1),
        ("vm_normal_page", -1),
        ("can_change_pte_writable", 1),
        ("novel_function", 1),
    ],
)
def test_a_changed_number_of_entries_of_a_function_is_found(record, write, key, step):
    hits = record["ops"][0]["hits"]
    hits[key] = hits.get(key, 0) + step
    assert verify_dumps(write([record])).files[0].lines[1].differ == {key: 1}


def test_functions_may_carry_a_compilers_suffix(record, write):
    hits = record["ops"][0]["hits"]
    hits["vm_normal_page.constprop.0"] = hits.pop("vm_normal_page")
    assert verify_dumps(write([record])).ok


@pytest.mark.parametrize(
    ("change", "differ"),
    [
        ({"tlbi": {"TLBI RVALE1IS": 2}}, {"TLBI RVALE1IS"}),
        ({"tlbi": {"TLBI VALE1IS": 3}}, {"TLBI RVALE1IS", "TLBI VALE1IS"}),
        ({"dsb": 5}, {"dsb"}),
        ({"dsb": 7}, {"dsb"}),
        ({"irq": 1, "dsb": 7, "tlbi": {"TLBI RVALE1IS": 3, "TLBI VALE1": 1}}, set()),
        ({"irq": 1, "dsb": 5}, {"dsb"}),
        ({"irq": 2, "tlbi": {}}, {"TLBI RVALE1IS"}),
        ({"irq": 1, "hits": {}}, None),
    ],
)
def test_tlbi_and_dsb_are_exact_unless_interrupted(record, write, change, differ):
    record["ops"][0].update(change)
    calls = verify_dumps(write([record])).files[0].lines[1]
    assert calls.loose == ("irq" in change)
    assert calls.differ if differ is None else set(calls.differ) == differ


def test_interrupted_calls_keep_exact_words(record, write):
    record["ops"][0]["irq"] = 1
    record["ptes_after"][5] = "0"
    assert not verify_dumps(write([record])).ok


def test_exclusivity_decides_who_becomes_writable(dumps, write):
    record = copy.deepcopy(dumps["thp_ptemapped_full", "RW"])
    record["excl"] = "0" + record["excl"][1:]
    assert set(verify_dumps(write([record])).files[0].lines[0].differ) == {"PTEs"}


@pytest.mark.parametrize(("key", "quantity"), [("excl_after", "exclusive"), ("pfns_after", "pfns")])
def test_a_page_that_changed_is_found(record, write, key, quantity):
    record["excl_after"], record["pfns_after"] = record["excl"], list(record["pfns"])
    assert verify_dumps(write([record])).ok
    record["excl_after"] = "0" + record["excl"][1:] if key == "excl_after" else record["excl"]
    record["pfns_after"][0] += key == "pfns_after"
    assert verify_dumps(write([record])).files[0].lines[0].differ == {quantity: 1}


@pytest.mark.parametrize(("kernel", "cpu"), [("6.16.12", "max"), ("7.3.4", "a72"), ("7.3.4", "bbml3"), ("7.3.4", "x4")])
def test_another_kernel_or_cpu_is_another_machine(record, write, kernel, cpu):
    record["kernel"], record["cpu"] = kernel, cpu
    assert not verify_dumps(write([record])).ok


@pytest.mark.parametrize(
    ("record", "machine"),
    [
        ({"kernel": "6.12.107+deb13-cloud-arm64", "cpu": "max", "page": 4096}, "6.12"),
        ({"kernel": "7.3-16k", "cpu": "max"}, "7.3,granule=16K"),
        ({"kernel": "6.16", "cpu": "n1"}, "6.16,tlb_range=off"),
        ({"kernel": "7.3", "cpu": "n1"}, "7.3,tlb_range=off,repeat_tlbi=on"),
        ({"kernel": "6.17.13", "cpu": "bbml2", "page": 4096}, "6.17,bbml=2"),
        ({"kernel": "7.3.4", "cpu": "maxlpa2", "page": 16384}, "7.3,granule=16K,lpa2=on,va_bits=52"),
        ({"kernel": "6.16.12", "cpu": "a72", "page": 4096}, "6.16,tlb_range=off,hafdbs=off"),
    ],
)
def test_kernel_and_cpu_name_a_machine(record, machine):
    assert str(machine_of(Node("record", "", record))) == machine
