"""User-written loops with one planted fault each are caught through the public interface, sound ones pass."""

from __future__ import annotations

from itertools import islice

import planted
import planting
import pytest
from long import some_slow
from planted import FAULTS, SOUND

from ptebatch import MM, Window
from ptebatch import bits as b
from ptebatch.checker.check import Checker
from ptebatch.checker.search import judge, verify_strategy
from ptebatch.checker.worlds.random import random_chunks
from ptebatch.checker.worlds.small import small_machine
from ptebatch.errors import StrategyError
from ptebatch.machine import Machine
from ptebatch.reference import RefMM
from ptebatch.strategies import register, unregister

NAMES = [fault.__name__ for fault in FAULTS]


def caught(report, laws: str) -> None:
    found = report.counterexample
    assert not report.ok and not report.complete
    allowed = laws.split()
    if {"EXCLUSIVE", "SHARED_WRITE"} & {*allowed}:
        allowed.append("UPGRADED")  # many withhold WRITE as well as they give it away
    assert found.law.name in allowed, f"caught by {found.law.name}"
    if found.repeats:
        assert found.breach.expected != found.breach.got
        assert "says it does not" not in found.breach.got


@pytest.mark.parametrize("fault", FAULTS, ids=NAMES)
def test_random_worlds_catch_it_at_once(fault):
    report = verify_strategy(fault(), exhaustive=False, strict=True)
    caught(report, FAULTS[fault])
    assert report.seconds < 60


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=NAMES)
def test_the_default_search_catches_it_within_a_minute(fault):
    report = verify_strategy(fault(), strict=True)
    caught(report, FAULTS[fault])
    assert report.seconds < 60


QUICK = ("LeavesWhatDoesNotChange", "FolioEdge", "IgnoresWrite", "Page0", "AsksFilePages", "UffdForgotten", "SharedClean",
         "LosesHardwareDirty", "ReadsFirst", "SpreadsDirty", "WriteByHand", "NoFlushOfUpgrades", "KeepsExec", "ForgetsProtNone",
         "ReportsLess", "NoProtNone")  # fmt: skip


@pytest.mark.parametrize("name", QUICK)
def test_the_default_search_finds_a_small_one(name):
    fault = getattr(planted, name)
    report = verify_strategy(fault(), strict=True)
    caught(report, FAULTS[fault])
    world = report.counterexample.world
    assert sum(map(bool, world.ptes)) <= 3 and world.end - world.start <= 3


@pytest.mark.parametrize("name", [name for name in NAMES if name != "StaleContext"])
def test_what_is_found_breaks_the_law_again(name):
    fault = getattr(planted, name)
    found = verify_strategy(fault(), exhaustive=False, strict=True).counterexample
    again = judge(found.world, fault(), strict=True)
    assert again is not None and again.law == found.law


@pytest.mark.parametrize("step", SOUND, ids=lambda step: getattr(step, "__name__", ""))
def test_sound_loops_pass(step):
    for report in (verify_strategy(step, worlds=100_000), verify_strategy(step, exhaustive=False, worlds=30_000)):
        assert report.ok, str(report.counterexample)
        assert report.judged >= 4096


EVERY = [(step, kernel) for kernel in ("6.12", "6.16", "6.17", "7.3", "7.3,bbml=3", "7.3,hafdbs=off", "7.3,granule=16K")
         for step in SOUND]  # fmt: skip


@pytest.mark.parametrize(("step", "kernel"), some_slow(EVERY, 4), ids=lambda given: getattr(given, "__name__", str(given)))
def test_sound_loops_pass_on_every_machine(step, kernel):
    report = verify_strategy(step, machine=kernel, worlds=100_000)
    assert report.ok, str(report.counterexample)


def test_cont_painted_by_a_step():
    """set_ptes() takes CONT away; where there is no contpte layer, nothing does, and the law tells."""

    def paints(w: Window) -> int:
        old = w.start(0, 1)
        w.commit(0, old, w.newpte(old) | b.PTE_CONT, 1)
        return 1

    machine = "7.3,contpte=off,cont_ptes=4,ptrs_per_pte=8"
    assert verify_strategy(paints, machine=machine, worlds=400_000).counterexample.law.name in ("CONTPTE", "CONT_VALID")
    mm = MM("7.3")
    mm.mmap(0, 16 * 4096, b.PROT_READ | b.PROT_EXEC)
    mm.map_folios(0, 1, 0)
    mm.mprotect(0, 4096, b.PROT_READ, strategy=paints)
    assert not int(mm.ptes(0, 1)[0]) & b.PTE_CONT


# ---- replay: the run step by step is its oracle ----


@pytest.mark.slow
def test_a_step_that_is_not_as_pure_as_it_says_is_caught():
    """It works in single entries each other time: the same tables, but other counts than replay multiplies."""
    calls = iter(range(1 << 40))

    def moody(w: Window) -> int:
        nr = w.folio_pte_batch() if next(calls) % 2 and not w.needs_anon_exclusive() else 1
        w.change_unit(0, nr, w.needs_anon_exclusive() and w.page_anon_exclusive(0))
        return nr

    register("moody", moody, pure=True)
    try:
        report = verify_strategy("moody", exhaustive=False, worlds=50_000)
    finally:
        unregister("moody")
    assert not report.ok and report.counterexample.law.name == "REPLAY", report.text()
    assert verify_strategy(moody, exhaustive=False, worlds=50_000).ok, "it keeps every other law"


def test_worlds_reach_every_loop_that_replays():
    machine = small_machine(Machine("7.3"), 16, 32)
    checker = Checker(machine, "folio")
    for chunk in islice(random_chunks(machine, 0), 8):
        assert checker.each(chunk.words, chunk.pages, chunk.calls, chunk.ad, chunk.folds, tlb=True)[1] == 0
    assert all(checker.replayed_by.values()), checker.replayed_by
    impure = Checker(machine, planting.one_by_one)
    impure.each(chunk.words[:64], chunk.pages[:64], chunk.calls[:64], chunk.ad[:64], chunk.folds[:64])
    assert not any(impure.replayed_by.values())


# ---- what the search did not see by itself once ----


def test_state_from_one_call_to_the_next_is_told():
    """A step that fails every thousandth time: no world shows it again, and it is not passed over."""
    calls = iter(range(1 << 40))

    def sometimes(w: Window) -> int:
        w.change_unit(0, 1, (w.needs_anon_exclusive() and w.page_anon_exclusive(0)) != (next(calls) % 1009 == 1008))
        return 1

    report = verify_strategy(sometimes, worlds=1_000_000)
    assert not report.ok and not report.counterexample.repeats
    assert "repeats   no" in report.text() and report.to_dict()["counterexample"]["repeats"] is False
    assert "verify_strategy(sometimes" in report.counterexample.source()


def test_a_step_that_raises_is_a_finding():
    report = verify_strategy(lambda w: 1 // (w.old & 0), exhaustive=False)
    assert report.counterexample.law.name == "CONTRACT"
    assert "ZeroDivisionError" in report.counterexample.breach.got


def test_what_is_to_end_the_program_ends_it():
    def stop(w: Window) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify_strategy(stop, exhaustive=False)


# ---- Window: what it refuses, in the core and in the reference alike ----


def refused(step, orders=(2,)) -> str:
    """What both say to a step, word for word; nothing is changed by it."""
    said = []
    for make in (MM, RefMM):
        mm = make(Machine("7.3", cont_ptes=4, ptrs_per_pte=8))
        mm.mmap(0, 8 * 4096, b.PROT_READ | b.PROT_WRITE)
        mm.populate(0, 8 * 4096)
        at = 0
        for order in orders:
            mm.set_folio(0x400 + at, order)
            mm.set_ptes(at * 4096, b.PAGE_READONLY | (0x400 + at) << 12, 1 << order)
            at += 1 << order
        with pytest.raises(StrategyError) as error:
            mm.mprotect(0, 8 * 4096, b.PROT_READ, strategy=step)
        said.append(str(error.value))
    assert said[0] == said[1]
    return said[0]


def _commit(w, offset, by, nr=1, started=1):
    old = w.start(0, started)
    w.commit(offset, old, w.pte_advance_pfn(w.newpte(old), by), nr)
    return nr


ADVANCE = "; give the words of the piece's first entry, see pte_advance_pfn()"


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda w: _commit(w, 0, 1), "entry 0 mapped frame 0x400 but the new word maps 0x401" + ADVANCE),
        (lambda w: _commit(w, 1, 0, 2, 3), "entry 1 mapped frame 0x401 but the new word maps 0x400" + ADVANCE),
        (lambda w: _commit(w, 1, 1), "entry 1 was not started; start() it before commit()"),
        (lambda w: _commit(w, 0, 0, 2), "entry 1 was not started; start() it before commit()"),
        (lambda w: w.start(0, 2) and w.start(1, 1), "entry 1 was started already; start each entry once"),
        (lambda w: (w.change_unit(0, 2, False), w.start(1, 1)), "entry 1 was started already; start each entry once"),
    ],
)
def test_commits_of_the_wrong_entries_are_refused(step, message):
    assert refused(step) == message


def test_a_unit_over_frames_that_do_not_follow_each_other_is_refused():
    def step(w):
        w.change_unit(0, 2, False)
        return 2

    mm = MM(Machine("7.3", cont_ptes=4, ptrs_per_pte=8))
    mm.mmap(0, 8 * 4096, b.PROT_READ | b.PROT_WRITE)
    mm.map_folios(0, 2, 0, heads=[0x410, 0x420])
    before = mm.ptes(0, 8).copy()
    with pytest.raises(StrategyError, match="entry 1 mapped frame 0x420 but the new word maps 0x411"):
        mm.mprotect(0, 8 * 4096, b.PROT_READ, strategy=step)
    assert (mm.ptes(0, 8) == before).all()


def test_pte_advance_pfn():
    seen = []

    def step(w):
        seen.append((w.old, w.pte_advance_pfn(w.old, 3), w.pte_advance_pfn(w.old, -1), w.pte_advance_pfn(w.old, 0)))
        w.change_unit(0, 1, False)
        return 1

    mm = MM("7.3")
    mm.mmap(0, 4096, b.PROT_READ | b.PROT_EXEC)
    mm.map_folios(0, 1, 0, heads=[0x400])
    mm.mprotect(0, 4096, b.PROT_READ, strategy=step)
    old, further, back, same = seen[0]
    assert (further - old, back - old, same) == (3 << 12, -(1 << 12), old)
    assert further & ~((1 << 50) - (1 << 12)) == old & ~((1 << 50) - (1 << 12)), "flags are carried along"


@pytest.mark.parametrize(
    ("by", "message"),
    [(-0x401, "page -0x1 has no place"), (1 << 40, "has no place in a page"), (True, "whole number"), ("1", "whole number")],
)
def test_pte_advance_pfn_refuses_what_is_no_frame(by, message):
    mm = MM("7.3")
    mm.mmap(0, 4096, b.PROT_READ | b.PROT_EXEC)
    mm.map_folios(0, 1, 0, heads=[0x400])
    with pytest.raises(StrategyError, match=message):
        mm.mprotect(0, 4096, b.PROT_READ, strategy=lambda w: w.pte_advance_pfn(w.old, by))
