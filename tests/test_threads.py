"""Threads: an address space is one thread's at a time, different ones run side by side."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ptebatch import MM, STRATEGIES
from ptebatch.errors import PtebatchError

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
