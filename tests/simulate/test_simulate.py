"""Runs and comparisons: the discussion's numbers, exactness of detection reads, equal starts."""

from __future__ import annotations

import numpy as np
import pytest

from ptebatch import STRATEGIES, Machine, MprotectError, bits
from ptebatch.errors import LayoutError, MachineError, PtebatchError, StrategyError
from ptebatch.events import KINDS
from ptebatch.layouts.named import START, Layout
from ptebatch.operations import parse_operations
from ptebatch.simulate.comparison import BITS, Difference, dsb, tlbi, total
from ptebatch.simulate.runs import compare, run, start_of
from ptebatch.simulate.start import snapshot_world
from ptebatch.snapshot.snapshot import VMA_DTYPE, Snapshot

SOUND = [name for name, s in STRATEGIES.items() if not s.flawed]
R, W, START_OF, COMMIT = (next(k for k, name in KINDS.items() if name == n) for n in ("R", "W", "START", "COMMIT"))


def one(layout, strategy, op="rw", machine=None):
    (found,) = compare(layout, op, [strategy], machine)
    return found.rows[0]


# ---- the discussion's numbers ----


@pytest.mark.parametrize(
    ("layout", "detection", "reads", "scans"),
    [
        ("alternating:unfolded", 512 * 513 // 2, 132_384, 512),
        ("1/511:unfolded", 1023, 1026, 2),
        ("16/16/480:unfolded", 512 + 496 + 480, 1488, 3),
    ],
)
def test_looking_ahead_without_memory_reads_what_the_discussion_says(layout, detection, reads, scans):
    row = one(layout, "lookahead")
    assert (row.detection_reads, row.counters["pte_reads"], row.counters["batch_scans"]) == (detection, reads, scans)


def test_folded_the_quadratic_design_pays_unfolds_and_the_merged_one_does_not():
    (found,) = compare("alternating", "rw", ["lookahead", "folio"])
    ahead, merged = (row.counters for row in found.rows)
    assert (ahead["pte_reads"], ahead["unfolds"]) == (7875, 32)
    assert (merged["pte_reads"], merged["unfolds"]) == (640, 0)
    assert found.same and found.rows[1] is found.reference


@pytest.mark.parametrize("n", [16, 32, 64, 128, 256, 512])
def test_growth_is_quadratic_for_lookahead_and_linear_for_folio(n):
    machine = Machine(ptrs_per_pte=n)
    assert one("alternating:unfolded", "lookahead", machine=machine).counters["pte_reads"] == n * (n + 1) // 2 + 2 * n + n // 16
    assert one("alternating:unfolded", "folio", machine=machine).counters["pte_reads"] == 2 * n + n // 16


def test_the_cover_letters_loop_at_full_size():
    found = compare(["T1", "T2", "T3"])
    assert [(c.name, c.before, c.op, c.length) for c in found] == [
        (name, *ops, 1 << 30) for name in ("T1", "T2", "T3") for ops in (("rw", "ro"), ("ro", "rw"))
    ]
    reads = {(c.name, row.strategy): row.counters["pte_reads"] for c in found for row in c.rows}
    blocks = (1 << 18) // 16
    assert reads["T1", "folio"] == reads["T2", "folio"] == 3 * blocks
    assert reads["T1", "per-pte"] == reads["T2", "per-pte"] == 66 * blocks
    assert reads["T3", "folio"] == reads["T3", "per-pte"] == 3 << 18
    assert all(c.same for c in found)


# ---- equal starts, equal ends ----


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_strategy_starts_from_the_same_words(strategy):
    alone = run("3/5:2M", "ro,rwx", strategy)
    after_others = compare("3/5:2M", "ro,rwx", [*SOUND, strategy])
    assert [c.rows[-1].counters for c in after_others] == [r.counters for r in alone]
    assert [c.rows[-1].results[0] for c in after_others] == alone


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_difference_counts_each_entry_and_each_bit(strategy):
    layout, ops = "1/511", "rwx"
    for before in ("ro", "rw"):
        (found,) = compare(layout, ops, [strategy], before=before)
        ends = []
        for name in ("folio", strategy):
            mm = start_of(layout, ops, before=before).mm.copy()
            mm.mprotect(START, 2 << 20, 7, strategy=name)
            ends.append(mm.ptes(START, 512).tolist())
        xor = [a ^ b for a, b in zip(*ends, strict=True)]
        row = found.rows[0]
        assert row.difference.ptes == sum(x != 0 for x in xor)
        assert row.difference.bits == {name: n for name, bit in BITS.items() if (n := sum(x & bit != 0 for x in xor))}
        assert row.same == found.same == (ends[0] == ends[1])


def test_flawed_strategies_are_caught_where_they_are_wrong_and_only_there():
    wrong = compare("1/511", "rw", ["folio-shared"])[0].rows[0]
    assert wrong.flawed and wrong.difference.bits["WRITE"] == 1
    assert compare("uniform", "rw", ["folio-shared"])[0].same
    # the shared page is not writable, so it is a batch of its own that does not begin at the folio's page 0
    wrong = compare("511e/1s", "rwx", ["folio-page0"], before="rw")[0].rows[0]
    assert wrong.difference.bits["WRITE"] == 1
    assert compare("511e/1s", "rwx", ["folio-page0"], before="ro")[0].same


def test_a_reference_runs_even_if_it_is_not_shown_and_may_be_another():
    (found,) = compare("1/511", "rw", ["lookahead"])
    assert [row.strategy for row in found.rows] == ["lookahead"] and found.reference.strategy == "folio"
    (found,) = compare("1/511", "rw", ["folio"], reference="folio-shared")
    assert found.rows[0].difference.bits["WRITE"] == 1 and found.reference.flawed


def test_differing_counters_are_those_of_any_row():
    (found,) = compare("T3:64K", "ro", ["folio", "nested", "iterator"])
    assert found.differing_counters() == []
    (found,) = compare("T3:64K", "ro", ["per-pte"])
    assert found.differing_counters() == ["n_batches", "n_subs", "normal_page"]


def test_differences_add_up():
    a, b = Difference(2, {"AF": 2, "CONT": 1}), Difference(3, {"AF": 1, "other": 2})
    assert a + b == Difference(5, {"AF": 3, "CONT": 1, "other": 2})
    words = np.array([0, bits.PTE_CONT | 1, 5], np.uint64)
    assert Difference.between(words, np.zeros(3, np.uint64)) == Difference(2, {"CONT": 1, "other": 2})


def test_tlbi_and_dsb_are_sums_of_conversions_and_final_flushes():
    c = run("1/511", "rw", "lookahead", "7.3,kpti=on")[0].counters
    assert tlbi(c) == sum(n for name, n in c.items() if name.endswith("1is"))
    assert dsb(c) == sum(n for name, n in c.items() if name.endswith("_dsb")) and tlbi(c) > dsb(c) > 0


# ---- what it starts from ----


@pytest.mark.parametrize(
    ("ops", "before"),
    [("ro", "rw"), ("rw", "ro"), ("none", "rw"), ("rx", "rw"), ("rwx", "ro"), ("rw,ro", "ro"), ("none,rw", "rw")],
)
def test_a_layout_starts_where_the_first_operation_has_something_to_do(ops, before):
    assert start_of("T3:64K", ops).before == before
    assert compare("T3:64K", ops, ["folio"])[0].before == before


def test_a_given_start_is_taken():
    assert start_of("T3:64K", "rwx", before="none").before == "none"
    assert [c.before for c in compare("T3:64K", "ro,rw", ["folio"], before="rx")] == ["rx", "ro"]


def test_operations_are_read_from_text_or_a_list():
    assert parse_operations(" RO,rw") == parse_operations(["ro", "rw"]) == ("ro", "rw")


def test_a_python_callable_is_compared_like_any_strategy():
    def one_by_one(window):
        exclusive = window.needs_anon_exclusive() and window.page_anon_exclusive(0)
        window.change_unit(0, 1, exclusive)
        return 1

    (found,) = compare("alternating", "rw", [one_by_one, "per-pte"])
    mine, theirs = found.rows
    assert mine.strategy == "one_by_one" and not mine.flawed and mine.same
    assert mine.counters["pte_reads"] == theirs.counters["pte_reads"] and mine.detection_reads == theirs.detection_reads


def test_progress_names_each_run():
    said = []
    compare(["T3:4K", "T2:64K"], "ro", ["folio", "merged"], progress=said.append)
    assert said == ["T3:4K: folio", "T3:4K: merged", "T2:64K: folio", "T2:64K: merged"]


# ---- a process ----


def process(vmas, page_size=4096):
    """Private anonymous mappings of single dirty pages that nobody else maps."""
    rows = np.zeros(len(vmas), VMA_DTYPE)
    vpn = []
    for row, (start, pages, flags, mapped) in zip(rows, vmas, strict=True):
        row["start"], row["end"], row["flags"] = start, start + pages * page_size, flags
        row["pgoff"] = start // page_size
        vpn += range(start // page_size, start // page_size + mapped)
    nr = len(vpn)
    pagemap = np.arange(0x100, 0x100 + nr, dtype=np.uint64) | np.uint64(1 << 63 | 1 << 56)
    return Snapshot(
        rows, tuple(f"[{i}]" for i in range(len(vmas))), np.array(vpn, np.uint64), pagemap,
        np.full(nr, 1 << 12 | 1 << 14, np.uint64), np.ones(nr, np.uint32), np.zeros(nr, np.uint8), np.zeros(nr, np.bool_),
        page_size, {"pid": 7, "comm": "made", "kernel": "6.9.0", "machine": "x86_64"}, {}, "made",
    )  # fmt: skip


MAY = bits.VM_MAYREAD | bits.VM_MAYWRITE | bits.VM_MAYEXEC
RW = bits.VM_READ | bits.VM_WRITE | MAY
BASE = 0x7F00_0000_0000


def test_of_a_process_each_writable_mapping_is_one_call():
    s = process([(BASE, 600, RW, 600), (BASE + (4 << 20), 10, bits.VM_READ | MAY, 3), (BASE + (6 << 20), 8, RW, 0)])
    found = compare(s, "ro,rw", ["folio", "per-pte"])
    assert [(c.name, c.op, c.length >> 12, c.before) for c in found] == [
        ("[0]", "ro", 600, "current protection"), ("[2]", "ro", 8, "current protection"), ("[0]", "rw", 600, "ro"),
        ("[2]", "rw", 8, "ro"),
    ]  # fmt: skip
    assert [c.rows[0].counters["pte_reads"] for c in found] == [1800, 0, 1800, 0]
    both = total(found[:2], "all")
    assert both.length >> 12 == 608 and both.rows[1].counters["pte_reads"] == 1800 and both.rows[1].pages == 600
    assert both.rows[0].difference == Difference() and len(both.rows[0].results) == 2


def test_a_process_has_the_machine_of_its_page_size():
    s = process([(BASE, 16, RW, 16)], 16384)
    assert start_of(s, "ro").machine.granule == "16K"
    with pytest.raises(MachineError, match="granule"):
        compare(s, "ro", machine="7.3")


def test_a_refused_mapping_is_noted_and_the_others_go_on():
    no_exec = RW & ~bits.VM_MAYEXEC
    s = process([(BASE, 4, no_exec, 4), (BASE + (4 << 20), 4, RW, 4)])
    found = compare(s, "rx", ["folio"])
    (error,) = found[0].rows[0].errors
    assert error.startswith("[0]: Permission denied: ") and found[0].rows[0].pages == 0
    assert found[1].rows[0].errors == () and found[1].rows[0].pages == 4
    assert total(found, "all").rows[0].errors == (error,)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: compare("T9"), LayoutError, "'T9' is unknown"),
        (lambda: compare("T1", "rwz"), LayoutError, "did you mean 'rw'"),
        (lambda: compare("T1", ""), LayoutError, "operation '' is unknown"),
        (lambda: compare("T1", []), LayoutError, "at least one"),
        (lambda: compare("T3:4K", "ro", ["foli"]), StrategyError, "did you mean 'folio'"),
        (lambda: compare("T3:4K", "ro", [3]), StrategyError, "neither a name nor a callable"),
        (lambda: compare("T3:4K", "ro", []), PtebatchError, "no strategy"),
        (lambda: compare("T3:4K", "ro", reference="merge"), StrategyError, "did you mean 'merged'"),
        (lambda: compare("T3:4K", "ro", machine="7.4"), MachineError, "'7.4' is not modelled"),
        (lambda: compare("T3:4K", "ro", before="xx"), LayoutError, "protection 'xx'"),
        (lambda: run("T3:4K", "ro,,rw"), LayoutError, "operation ''"),
        (lambda: run(Layout("x", 12), "ro"), LayoutError, "larger than a table"),
        (lambda: run("T3:4K", "rx", machine="7.3,mdwe=on"), MprotectError, "MDWE"),
        (lambda: compare("T3:4K", "rx", machine="7.3,mdwe=on"), MprotectError, "MDWE"),
        (lambda: run(start_of("T3:4K", "ro"), "ro", machine="6.12"), LayoutError, "leave it out"),
        (lambda: snapshot_world(process([(BASE, 4, RW & ~bits.VM_WRITE, 4)]), Machine()), PtebatchError, "no writable mapping"),
        (lambda: snapshot_world(process([(BASE, 4, RW, 4)]), Machine(), "sometimes"), LayoutError, "'sometimes'"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(call, error, said):
    with pytest.raises(error) as e:
        call()
    assert said in str(e.value) and "\n" not in str(e.value)
