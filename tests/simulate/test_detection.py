"""Detection reads are exact: a counter, held to what a trace shows."""

from __future__ import annotations

import pytest

from ptebatch import STRATEGIES
from ptebatch.events import KINDS
from ptebatch.simulate.runs import compare, run

R, W, START_OF, COMMIT = (next(k for k, name in KINDS.items() if name == n) for n in ("R", "W", "START", "COMMIT"))

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
        traced = run(layout, ops, strategy, machine, trace=True)
        assert [result["ptep_get_reads"] for result in traced] == [by_automaton(result) for result in traced], (layout, ops)
        # replayed and counted on maps
        assert [result["ptep_get_reads"] for result in run(layout, ops, strategy, machine)] == [
            result["ptep_get_reads"] for result in traced
        ]


@pytest.mark.parametrize("strategy", ["folio", "lookahead", "per-pte"])
def test_a_comparison_has_the_detection_reads_of_a_traced_run(strategy):
    for layout, ops in ZOO:
        rows = [c.rows[0] for c in compare(layout, ops, [strategy])]
        assert [row.detection_reads for row in rows] == [by_automaton(r) for r in run(layout, ops, strategy, trace=True)]


def test_the_rest_are_checks_before_and_fold_tests_behind():
    result = run("alternating", "rw", "lookahead")[0]
    assert result["ptep_get_reads"] == 7875 - 2 * 512 - 32 == result["pte_reads"] - 2 * 512 - 32
