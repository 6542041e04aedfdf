"""Threads: an address space is one thread's at a time, different ones run side by side."""

from __future__ import annotations

import itertools
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import ptebatch
from ptebatch import MM, STRATEGIES, Machine
from ptebatch.checker.check import FIRST_PFN, Checker
from ptebatch.errors import PtebatchError, StrategyError
from ptebatch.strategies import unregister

BASE = 1 << 30
PAGES = 1 << 13


def world(pages: int = PAGES, **kw) -> MM:
    mm = MM("7.3", nr_pages=2 * pages, **kw)
    mm.mmap(BASE, pages << 12, 1)
    mm.map_folios(BASE, pages, 9, exclusive=np.arange(pages) % 3 != 0)
    return mm


def outcome(mm: MM, name: str) -> tuple:
    result = mm.mprotect(BASE, PAGES << 12, 3, strategy=name)
    return result.pages, tuple(result.counters.values()), mm.ptes(BASE, PAGES).tobytes()


def test_threads_with_their_own_address_space_get_what_one_thread_gets():
    start = world()
    names = [name for name in STRATEGIES for _ in range(4)]
    expected = {name: outcome(start.copy(), name) for name in STRATEGIES}
    copies = [start.copy() for _ in names]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(outcome, copies, names))
    assert all(result == expected[name] for name, result in zip(names, got, strict=True))


def test_threads_may_copy_one_address_space():
    start = world()
    expected = outcome(start.copy(), "folio")

    def copy_and_run(_: int) -> tuple:
        while True:
            try:
                return outcome(start.copy(), "folio")
            except PtebatchError:
                time.sleep(0.001)  # another thread is copying it

    with ThreadPoolExecutor(4) as pool:
        assert all(result == expected for result in pool.map(copy_and_run, range(16)))


def test_a_call_lets_other_threads_run():
    """Ticks of another thread lie inside the call: with the GIL held there would be none."""
    mm = world(1 << 19, memo=False)
    ticks: list[float] = []
    done = threading.Event()
    ready = threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticks.append(time.perf_counter())
            ready.set()
            time.sleep(0)

    ticker = threading.Thread(target=tick)
    ticker.start()
    ready.wait()
    try:
        start = time.perf_counter()
        mm.mprotect(BASE, 1 << 31, 3, strategy="per-pte", record=False)
        end = time.perf_counter()
    finally:
        done.set()
        ticker.join()
    quarter = (end - start) / 4
    inside = [t for t in ticks if start + quarter < t < end - quarter]
    assert end - start > 0.004, "too short a call to tell"
    assert len(inside) > 3


def test_an_address_space_in_use_is_refused_to_another_thread():
    mm = world()
    inside, leave = threading.Event(), threading.Event()

    def waiting(window) -> int:
        inside.set()
        assert leave.wait(60)
        window.change_unit(0, window.max_nr, False)
        return window.max_nr

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(mm.mprotect, BASE, PAGES << 12, 0, strategy=waiting)
        assert inside.wait(60)
        for use in (mm.copy, mm.vmas, lambda: mm.mprotect(BASE, 4096, 1), lambda: mm.set_ptes(BASE, 0, 1)):
            with pytest.raises(PtebatchError, match="in use by a call that still runs"):
                use()
        leave.set()
        assert running.result(60).pages == PAGES
    assert mm.vmas()[0].flags & 7 == 0
    assert mm.mprotect(BASE, PAGES << 12, 1).pages == PAGES, "it is free again"


def test_an_error_sets_the_address_space_free():
    mm = world()
    for _ in range(3):
        with pytest.raises(PtebatchError, match="returned 0"):
            mm.mprotect(BASE, PAGES << 12, 3, strategy=lambda window: 0)
        with pytest.raises(OSError, match="Invalid argument"):
            mm.mprotect(BASE + 1, 4096, 3)
    assert mm.mprotect(BASE, PAGES << 12, 3).pages == PAGES


def test_many_threads_on_one_address_space_never_mix():
    """Each call runs whole or is refused; what is left is what the ones that ran in turn leave."""
    mm = world(512)
    ran: list[int] = []

    def toggle(prot: int) -> int:
        refused = 0
        for _ in range(50):
            try:
                result = mm.mprotect(BASE, 512 << 12, prot)
            except PtebatchError:
                refused += 1
            else:
                ran.append(result.pages)
        return refused

    with ThreadPoolExecutor(4) as pool:
        refused = sum(pool.map(toggle, [1, 3, 0, 1]))
    assert len(ran) + refused == 200 and set(ran) <= {0, 512}
    assert len({v.flags & 7 for v in mm.vmas()}) == 1
    words = mm.ptes(BASE, 512)
    assert ((words >> np.uint64(12)) & np.uint64(0xFFFFFFFF) == np.arange(1024, 1536, dtype=np.uint64)).all()


# ---- what another thread could break ----

NR = 4  # threads; each has so much to do that they meet
IN_USE = "in use by a call that still runs"


def together(*work: Callable[[int], Any]) -> list[Any]:
    """What each function returns, each in a thread of its own, begun at one moment; its argument is its number."""
    gate = threading.Barrier(len(work))

    def run(i: int) -> Any:
        gate.wait(60)
        return work[i](i)

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(run, range(len(work)), timeout=120))


def until_free(call: Callable[[], Any]) -> Any:
    while True:
        try:
            return call()
        except PtebatchError as e:
            assert IN_USE in str(e), e
            time.sleep(1e-5)


@pytest.fixture
def often():
    """Threads take turns every few bytecodes, where there is a GIL to take turns with."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_frames_keys_and_ids_are_given_out_once(often):
    mm = MM("7.3", nr_pages=1 << 17)
    each = 5000

    def take(_: int) -> list[int]:
        return [until_free(lambda: mm.alloc_folio(2)) for _ in range(each)]

    heads = sorted(head for part in together(*[take] * NR) for head in part)
    assert heads == list(range(1024, 1024 + 4 * NR * each, 4))
    keys = [key for part in together(*[lambda _: [until_free(mm.pkey_alloc)]] * 7) for key in part]
    assert sorted(keys) == list(range(1, 8))


def test_mappings_made_at_one_time_are_all_there(often):
    """Tables, VMAs and frames of many threads; each finds its own words again where the upper tables lead."""
    mm = MM("7.3", nr_pages=1 << 16)
    span, each = 1 << 21, 400

    def fill(i: int) -> list[tuple[int, int]]:
        made = []
        for k in range(each):
            start = BASE + (k * NR + i) * span
            until_free(lambda at=start: mm.mmap(at, span, 3))
            first = until_free(lambda at=start: mm.map_folios(at, 16, 4))
            view = mm.ptes(start, 16)
            view[:] |= np.uint64(i + 1) << np.uint64(59)
            assert until_free(lambda at=start: mm.walk(at))[-1] == (0, int(view[0]))
            made.append((start, first))
        return made

    made = sorted(row for part in together(*[fill] * NR) for row in part)
    vmas = mm.vmas()
    assert [v.start for v in vmas] == [start for start, _ in made]
    assert len({first for _, first in made}) == len(made)
    for start, first in made:
        words = mm.ptes(start, 16)
        owner = (start - BASE) // span % NR + 1
        assert (words >> np.uint64(59) == owner).all()
        assert ((words >> np.uint64(12)) & np.uint64(0xFFFFFFFF) == np.arange(first, first + 16, dtype=np.uint64)).all()


def state(mm: MM) -> tuple[int, bytes]:
    return mm.vmas()[0].flags & 7, mm.ptes(BASE, 512).tobytes()


def reached(start: MM) -> tuple[set[tuple[int, bytes]], set[tuple]]:
    """States that calls in any order lead to, and what each such call returns: its prot, pages and counters."""
    states, returned, todo = {state(start)}, set(), [start]
    while todo:
        mm = todo.pop()
        for prot in (0, 1, 3):
            other = mm.copy()
            result = other.mprotect(BASE, 512 << 12, prot)
            returned.add((prot, result.pages, *result.counters.values()))
            if state(other) not in states:
                states.add(state(other))
                todo.append(other)
    return states, returned


def test_calls_of_all_kinds_at_one_time_leave_a_state_that_calls_in_turn_leave(often):
    mm = world(512)
    states, returned = reached(mm)
    assert 3 <= len(states) < 20 and len(returned) > len(states)

    def toggle(i: int) -> list[Any]:
        return [until_free(lambda p=(0, 1, 3)[(i + k) % 3]: mm.mprotect(BASE, 512 << 12, p)) for k in range(2000)]

    def look(_: int) -> list[Any]:
        for _ in range(500):
            assert until_free(mm.vmas)[0].end == BASE + (512 << 12)
            assert state(until_free(mm.copy)) in states, "half a call was copied"
            assert repr(mm).endswith("1 VMAs, 512 PTEs>")
        return []

    for result in itertools.chain.from_iterable(together(toggle, toggle, look, look)):
        assert (result.prot, result.pages, *result.counters.values()) in returned, "counters of two calls were mixed"


def test_a_window_belongs_to_the_thread_of_the_step():
    mm = world(512)
    heard: list[str] = []

    def other(window) -> None:
        for use in (lambda: window.change_unit(0, 1, False), lambda: window.old, lambda: window.max_nr):
            with pytest.raises(StrategyError, match="belongs to the thread that runs") as e:
                use()
            heard.append(str(e.value))

    def step(window) -> int:
        if not heard:
            thread = threading.Thread(target=other, args=(window,))
            thread.start()
            thread.join()
        window.change_unit(0, 1, False)
        return 1

    assert mm.mprotect(BASE, 512 << 12, 0, strategy=step).pages == 512
    assert len(heard) == 3


def small_world() -> tuple[Machine, tuple[Any, ...]]:
    machine = Machine("7.3", cont_ptes=2, ptrs_per_pte=4)
    word = 1 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 11 | 3 << 8 | 3 << 53
    ptes = [word | (FIRST_PFN + i) << 12 for i in range(4)]
    return machine, (ptes, [0x90] * 4, (0, 4, 0x73, word, 1, True))


def test_a_checker_is_one_threads_at_a_time(often):
    machine, call = small_world()
    checker = Checker(machine, "folio")
    expected = checker.check(*call), checker.events, checker.counters
    assert expected[1]

    def judge(_: int) -> None:
        for _ in range(2000):
            assert until_free(lambda: checker.check(*call)) == expected[0]
            assert until_free(lambda: checker.events) in (expected[1], [])
            assert until_free(lambda: checker.counters) == expected[2]

    together(*[judge] * NR)


def test_a_checker_is_refused_to_the_step_it_runs():
    machine, call = small_world()
    heard: list[str] = []

    def step(window) -> int:
        with pytest.raises(PtebatchError, match=IN_USE) as e:
            checker.check(*call)
        heard.append(str(e.value))
        window.change_unit(0, window.max_nr, True)
        return window.max_nr

    checker = Checker(machine, step)
    checker.final(*call)
    assert "Checker" in heard[0] and checker.error is None


def test_a_strategy_is_registered_once(often):
    def take(_: int) -> int:
        try:
            ptebatch.register("by-many", lambda window: 1)
        except StrategyError:
            return 0
        return 1

    for _ in range(10):
        assert sum(together(*[take] * NR)) == 1
        unregister("by-many")


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has a GIL")
def test_no_part_of_the_package_switches_the_gil_on():
    program = """
import importlib, pkgutil, sys, ptebatch
for module in pkgutil.walk_packages(ptebatch.__path__, "ptebatch."):
    if not module.name.endswith(("__main__", "_replay_v3")):
        importlib.import_module(module.name)
assert any(name.startswith("ptebatch.mm.mm") for name in sys.modules)
assert not sys._is_gil_enabled()
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=120)
    assert not sys._is_gil_enabled(), "something switched the GIL on for these tests"


def test_a_copy_is_independent():
    one = world()
    two = one.copy()
    one.mprotect(BASE, PAGES << 12, 0)
    assert two.pages[1] & 0x80, "page 1 is exclusive in the pattern"
    one.set_page_anon_exclusive(1025, 1, on=False)
    assert (two.vmas()[0].flags & 7 == 1 and two.pages[0] != one.pages[0]) or two.pages[1] & 0x80
    assert (two.ptes(BASE, PAGES) != one.ptes(BASE, PAGES)).all()
    assert two.alloc_folio(0) == one.alloc_folio(0), "each has its own frames"


def test_views_outlive_their_address_space():
    words, pages = (lambda mm: (mm.ptes(BASE, PAGES), mm.pages))(world())
    words[:] = 7
    pages[:] = 1
    assert int(words.sum()) == 7 * PAGES and int(pages.sum()) == 2 * PAGES
