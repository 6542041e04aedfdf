"""Traces of real kernels replay event by event; a changed event is found."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
from records import HARDWARE, load

from ptebatch.verify import traces as traces_of
from ptebatch.verify import verify_traces
from ptebatch.verify.hardware import machine_of
from ptebatch.verify.load import Node

TRACES = sorted(path.name for path in HARDWARE.glob("*.trace.json.gz"))


def test_the_files_are_there():
    assert len(TRACES) == 5


@pytest.mark.parametrize("name", TRACES)
def test_every_window_is_equal_event_by_event(name):
    report = verify_traces(HARDWARE / name)
    assert report.ok, report.text()
    assert report.total == 30


@pytest.fixture(scope="module")
def windows():
    return {(kernel, w["label"][2:]): w for kernel in ("6.16", "6.17", "7.3") for w in load(f"{kernel}.max.trace.json.gz")}


# loads and stores that hit the table, TLBI, DSB: measured on CPUs of which no trace is here
@pytest.mark.parametrize(
    ("kernel", "cpu", "label", "sums"),
    [
        ("6.12", "max", "tr1_two_blocks.RO", (256, 192, 5, 10)),
        ("6.16", "a72", "tr1_two_blocks.RO", (352, 192, 96, 10)),
        ("6.16", "a72", "tr1_single_pages.RO_rest", (123, 62, 31, 4)),
        ("6.16", "a72", "tr3_partial.RW", (105, 42, 21, 2)),
        ("6.16", "bbml2", "tr1_partial.RO", (213, 170, 6, 10)),
        ("6.17", "bbml2", "tr2_partial.RO", (65, 106, 2, 2)),
        ("6.17", "bbml2", "tr1_mixed_excl.RO", (107, 96, 1, 2)),
        ("7.3", "bbml3", "tr1_partial.RO", (64, 106, 2, 2)),
        ("7.3", "bbml3", "tr2_single_pages.RW_last", (36, 34, 1, 2)),
        ("7.3", "bbml3", "tr1_mixed_excl.RW", (40, 64, 2, 2)),
    ],
)
def test_sums_of_other_cpus_are_equal(windows, kernel, cpu, label, sums):
    window = windows["6.16" if kernel == "6.12" else kernel, label]
    node = Node("window", "", {**window, "kernel": kernel, "cpu": cpu})
    result, differences = traces_of._call(node, machine_of(node))
    names = traces_of._EXCLUSIVES if cpu == "a72" else traces_of._NAMES
    kinds = [kind for kind, _ in traces_of.events_of(result, names)]
    got = (kinds.count("R"), kinds.count("W"), sum(k.startswith("TLBI") for k in kinds), sum(k.startswith("DSB") for k in kinds))
    assert got == sums
    assert not differences


@pytest.mark.parametrize("doubled", [False, True])
def test_exclusives_of_a_cpu_without_lse_may_show_one_more_load(windows, write, doubled):
    node = Node("window", "", {**windows["6.16", "tr1_partial.RO"], "cpu": "a72"})
    result, _ = traces_of._call(node, machine_of(node))
    events = traces_of.events_of(result, traces_of._EXCLUSIVES if doubled else traces_of._NAMES)
    kinds = [kind for kind, _ in events]
    facts = {
        "events": [[kind, index, "f"] for kind, index in events],
        "pte_reads": kinds.count("R"),
        "other": {kind: kinds.count(kind) for kind in set(kinds) - {"R", "W"}},
    }
    assert verify_traces(write([{**node.value, **facts}])).ok
    # the same file as one of a CPU with LSE and range TLBIs is wrong
    assert not verify_traces(write([{**node.value, **facts, "cpu": "max"}])).ok


def swap(events):
    """Swap the first two accesses that differ."""
    at = [i for i, e in enumerate(events) if e[0] != "E"]
    i, j = next((i, j) for i, j in pairwise(at) if events[i][:2] != events[j][:2])
    events[i], events[j] = events[j], events[i]


def move(events):
    next(e for e in events if e[0] == "W")[1] += 1


def drop(events):
    del events[max(i for i, e in enumerate(events) if e[0] == "W")]


def weaken(events):
    next(e for e in events if e[0] == "DSB #11")[0] = "DSB #10"


def widen(events):
    next(e for e in events if e[0].startswith("TLBI"))[0] = "TLBI ASIDE1IS"


@pytest.mark.parametrize("change", [swap, move, drop, weaken, widen])
def test_a_changed_event_is_found(windows, write, change):
    window = copy.deepcopy(windows["7.3", "tr1_partial.RO"])
    change(window["events"])
    line = verify_traces(write([window])).files[0].lines[0]
    assert set(line.differ) == {"events"}
    assert "event" in line.first.place


@pytest.mark.parametrize(
    ("key", "value", "quantity"),
    [("pte_reads", 1, "reads"), ("pte_writes", 1, "writes"), ("other", {"DSB #10": 1, "DSB #11": 1}, "TLBI RVALE1IS")],
)
def test_a_changed_total_is_found(windows, write, key, value, quantity):
    window = {**windows["7.3", "tr1_two_blocks.RO"], key: value}
    assert verify_traces(write([window])).files[0].lines[0].differ == {quantity: 1}


def test_function_entries_are_not_compared(windows, write):
    window = copy.deepcopy(windows["7.3", "tr1_two_blocks.RO"])
    window["events"] = [e for e in window["events"] if e[0] != "E"]
    assert verify_traces(write([window])).ok
