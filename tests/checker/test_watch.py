"""Searches that end: by their budget within a slow step, with a step that never returns, from the keyboard."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from messages import hear_interrupts

from ptebatch import MM, verify_strategy
from ptebatch.checker import watch
from ptebatch.checker.search import SearchInterrupted
from ptebatch.errors import PtebatchError, StrategyError


def single(w) -> int:
    w.change_unit(0, 1, w.needs_anon_exclusive() and w.page_anon_exclusive(0))
    return 1


def slow(w) -> int:
    time.sleep(0.03)
    return single(w)


def test_a_budget_holds_for_slow_steps():
    """It was looked at after every 4,096 worlds."""
    began = time.monotonic()
    report = verify_strategy(slow, budget=1.0)
    assert time.monotonic() - began < 6 and report.by_clock and report.ok


def test_a_step_that_never_returns_is_a_finding(monkeypatch):
    """The search did not return either."""
    monkeypatch.setattr(watch, "STUCK", 0.5)

    def forever(w) -> int:
        while True:
            pass

    report = verify_strategy(forever, exhaustive=False)
    assert report.counterexample.law.name == "CONTRACT" and "had not returned" in report.counterexample.breach.got


def test_a_step_that_asks_without_end_is_a_finding():
    """Its work is counted: the same on every computer."""

    def asks(w) -> int:
        while True:
            w.ptep_get(0)

    report = verify_strategy(asks, exhaustive=False)
    assert report.counterexample.law.name == "CONTRACT" and "times for" in report.counterexample.breach.got


def test_every_member_of_a_window_that_is_over_raises():
    """`error` and `clear_error` did not."""
    kept = []

    def keeps(w) -> int:
        kept.append(w)
        return single(w)

    mm = MM("7.3")
    mm.mmap(0, 4096, "rw")
    mm.map_folios(0, 1)
    mm.mprotect(0, 4096, "ro", strategy=keeps)
    (window,) = kept
    members = [name for name in dir(window) if not name.startswith("_")]
    assert len(members) > 20
    arguments = {"start": (0, 1), "commit": (0, 0, 0, 1), "change_unit": (0, 1, False), "anon_exclusive_batch": (0, True, 1),
                 "pte_advance_pfn": (0, 1)}  # fmt: skip
    for name in members:
        with pytest.raises(StrategyError, match="only valid while"):
            found = getattr(window, name)
            found(*arguments.get(name, () if name in ("needs_anon_exclusive", "folio_pte_batch", "normal_page") else (0,)))


def test_an_interrupted_search_says_what_was_tried_and_how_to_go_on():
    """It printed nothing."""
    call = [sys.executable, "-m", "ptebatch", "verify", "--strategy", "folio", "--exhaustive"]
    with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear_interrupts) as search:
        time.sleep(4)
        os.kill(search.pid, signal.SIGINT)
        out, err = search.communicate(timeout=60)
    assert search.returncode == 130 and err == ""
    assert "interrupted; no law is broken in what was tried" in " ".join(out.split())
    assert "note: go on with --exhaustive --skip " in out and "worlds" in out


def test_an_interrupt_reaches_the_caller_with_the_report(monkeypatch):
    def interrupts(w) -> int:
        raise KeyboardInterrupt

    with pytest.raises(SearchInterrupted) as stopped:
        verify_strategy(interrupts, exhaustive=False)
    assert stopped.value.report.interrupted and isinstance(stopped.value, KeyboardInterrupt)


def test_what_was_skipped_is_not_called_complete():
    tiny = "7.3,cont_ptes=2,ptrs_per_pte=2"
    whole = verify_strategy("folio", machine=tiny)
    rest = verify_strategy("folio", machine=tiny, skip=whole.products - 3)
    assert whole.complete and not rest.complete and rest.ok and rest.products == whole.products
    assert 0 < rest.distinct < whole.distinct and "that were not skipped" in rest.text(200)
    with pytest.raises(PtebatchError, match="skip=3 goes on with an exhaustive search"):
        verify_strategy("folio", machine=tiny, skip=3, worlds=100)
