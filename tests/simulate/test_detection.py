"""Detection reads are exact: from counters where they suffice, from the trace, in slices."""

from __future__ import annotations

import pytest

from ptebatch import MM, STRATEGIES, bits
from ptebatch.errors import StrategyError
from ptebatch.events import KINDS
from ptebatch.layouts.named import START
from ptebatch.simulate import detection
from ptebatch.simulate import runs as simulate
from ptebatch.simulate.detection import detection_reads, nr_events
from ptebatch.simulate.runs import compare, run, start_of

SOUND = [name for name, s in STRATEGIES.items() if not s.flawed]
R, W, START_OF, COMMIT = (next(k for k, name in KINDS.items() if name == n) for n in ("R", "W", "START", "COMMIT"))


def one(layout, strategy, op="rw", machine=None):
    (found,) = compare(layout, op, [strategy], machine)
    return found.rows[0]


ZOO = [
    ("T1:4M", "ro,rw"),
    ("T2:1M", "none,rw,ro"),
    ("T3:256K", "ro,rw"),
    ("alternating", "rw,ro"),
    ("alternating:unfolded", "rw"),
    ("1/511", "rw,none,rw"),
    ("16/16/480", "rw"),
    ("3/5:4M", "rw,ro,rw"),
    ("1/511", "ro,rwx"),
    ("T1:4M:pae=random:0.9", "rw"),
    ("T1:6M:unfolded:pae=random:0.5:2", "rw,ro"),
    ("T2:1M:shuffled=1:pae=random:0.7", "ro,rw"),
    ("7/9:1000K", "none,rw"),
]

MACHINES = ["7.3", "6.12", "7.3,contpte=off", "6.17,bbml=2", "7.3,cont_ptes=4,ptrs_per_pte=64"]


def by_automaton(result):
    """Detection reads, event by event: who is speaking when a read happens?"""
    machine = result.machine
    block = machine.cont_ptes * machine.page_size
    reads, speaker, stored, last = 0, "loop", None, None
    for kind, addr, value in result.trace.tolist():
        if kind == START_OF:
            speaker = "start"
        elif kind == COMMIT:
            speaker, stored = ("commit", None) if value == 1 else ("loop", None)
        elif kind == W:
            if speaker == "loop" and last == (R, addr):
                reads -= 1  # set_pte_at() of an entry that is not present checks it for unfolding
            stored = addr
        elif kind == R:
            if speaker == "commit" and stored is not None and not (addr // block == stored // block and addr <= stored):
                speaker = "loop"
            reads += speaker == "loop"
        last = kind, addr
    return reads


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_detection_reads_are_those_of_the_loop(machine, strategy):
    for layout, ops in ZOO:
        for result in run(layout, ops, strategy, machine, trace=True):
            assert detection_reads(result) == by_automaton(result), (layout, ops)


@pytest.mark.parametrize("strategy", ["folio", "lookahead", "per-pte"])
def test_a_comparison_has_the_detection_reads_of_a_traced_run(strategy):
    for layout, ops in ZOO:
        rows = [c.rows[0] for c in compare(layout, ops, [strategy])]
        assert [row.detection_reads for row in rows] == [by_automaton(r) for r in run(layout, ops, strategy, trace=True)]


@pytest.mark.parametrize("part", ["_fold_tests", "_end_checks"])
def test_each_part_that_is_not_detection_matters(monkeypatch, part):
    monkeypatch.setattr(detection, part, lambda trace, result: 0)
    wrong = [
        (layout, ops)
        for layout, ops in ZOO
        for result in run(layout, ops, "lookahead", trace=True)
        if detection_reads(result) != by_automaton(result)
    ]
    assert wrong


def test_counters_alone_never_give_another_number_than_the_trace():
    known = 0
    for layout, ops in ZOO:
        for strategy in SOUND:
            for plain, traced in zip(run(layout, ops, strategy), run(layout, ops, strategy, trace=True), strict=True):
                n = detection_reads(plain)
                assert n is None or n == detection_reads(traced)
                known += n is not None
    assert known > 20


def test_a_fold_test_that_fails_needs_the_trace():
    assert detection_reads(run("alternating", "rw", "lookahead")[0]) is None
    assert detection_reads(run("alternating", "rw", "lookahead", trace=True)[0]) == 7875 - 2 * 512 - 32


@pytest.mark.parametrize("machine", ["7.3", "7.3,kpti=on,repeat_tlbi=on", "7.3,tlb_range=off"])
def test_the_length_of_a_trace_is_known_before(machine):
    for layout, ops in ZOO:
        for strategy in ("folio", "per-pte", "lookahead"):
            for result in run(layout, ops, strategy, machine, trace=True):
                assert nr_events(result) == len(result.trace)


@pytest.mark.parametrize("start", [START, START + 5 * 4096])
def test_slices_of_a_traced_call_count_as_the_whole(monkeypatch, start):
    layout = "T1:16M:pae=alternating"
    whole = [c.rows[0].detection_reads for c in compare(layout, "ro,rw", ["lookahead"])]
    monkeypatch.setattr(simulate, "_EVENTS", 1000)
    assert [c.rows[0].detection_reads for c in compare(layout, "ro,rw", ["lookahead"])] == whole
    world = start_of(layout, "rw")
    r = world.ranges[0]._replace(start=start, length=16 << 20)
    cuts = list(simulate._slices(r, world.machine, 5))
    assert cuts[0][0] == start and sum(length for _, length in cuts) == r.length
    assert all((at + length) % (2 << 20) == 0 for at, length in cuts[:-1]) and len(cuts) >= 3


def test_a_strategy_that_is_not_a_function_of_the_tables_is_caught():
    calls = []

    def moody(window):
        calls.append(1)
        nr = window.folio_pte_batch()
        nr = nr if len(calls) == 1 else min(nr, 3)
        window.change_unit(0, nr, False)
        return nr

    with pytest.raises(StrategyError, match="depend on nothing but the tables"):
        compare("T1:64K", "ro", [moody])


def test_softleaf_entries_are_read_once_to_find_them():
    mm = MM("7.3")
    mm.mmap(START, 64 << 12, 3)
    mm.map_folios(START, 64, 4)
    for i in range(20, 36):
        mm.clear_full_ptes(START + (i << 12))
        mm.set_pte_at(START + (i << 12), 30 << bits.SWP_TYPE_SHIFT | (1025 + i) << bits.SWP_OFFSET_SHIFT)
    for strategy in SOUND:
        result = mm.copy().mprotect(START, 64 << 12, 1, strategy=strategy, trace=True)
        assert result.pages == 64
        assert detection_reads(result) == by_automaton(result)
