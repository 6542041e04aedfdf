"""Replaying equal units: facts that a seeded fault broke and that no other test saw (``python -m tests.mutants``).

Each world is run with the memo and without; what is expected of the words is worked out by hand besides.
"""

from __future__ import annotations

import numpy as np
import pytest

from ptebatch import MM, Machine, bits
from ptebatch.events import KINDS

BASE = 1 << 40
PAGE = 4096
NONE, RO, RW = 0, 1, 3
WRITE = np.uint64(bits.PTE_WRITE)
ADDR = np.uint64((1 << bits.PTE_ADDR_END) - PAGE)
FIRST = 1024


def both_ways(
    calls, nr, order=0, *, heads=None, exclusive=None, machine="7.3", strategy="folio", damage=None, anon=True, pfn_base=FIRST
):
    """Run calls of (first page, pages, prot) with and without the memo; returns which words have WRITE."""
    left = []
    for memo in (True, False):
        mm = MM(Machine.parse(machine), nr_pages=1 << 14, pfn_base=pfn_base, memo=memo)
        mm.mmap(BASE, nr * PAGE, RO)
        mm.map_folios(BASE, nr, order, heads=heads, exclusive=exclusive, anon=anon)
        if damage is not None:
            damage(mm.ptes(BASE, nr))
        told = [mm.mprotect(BASE + at * PAGE, pages * PAGE, prot, strategy=strategy) for at, pages, prot in calls]
        left.append((mm.ptes(BASE, nr).tolist(), [(r.pages, r.counters, r.flushes, r.gathers) for r in told]))
    assert left[0] == left[1]
    return ((np.array(left[0][0], np.uint64) & WRITE) != 0).tolist()


def scattered(low, nr, seed=3):
    """Frames [low, low + nr) in an order in which hardly two follow each other."""
    return low + np.random.default_rng(seed).permutation(nr)


def test_a_run_of_units_ends_with_the_range():
    assert both_ways([(0, 256, RW)], 512, 4) == [True] * 256 + [False] * 256


def test_nothing_is_remembered_from_call_to_call():
    assert both_ways([(0, 256, RW), (256, 256, NONE)], 512, 4) == [True] * 256 + [False] * 256


def test_scattered_pages_are_told_apart_downwards():
    heads = (4096 + 15 + 16 * np.arange(31, -1, -1)[:, None] - np.arange(16)).ravel()
    for shared in (0, 100, 255, 300, 511):
        exclusive = np.arange(512) != shared
        assert both_ways([(0, 512, RW)], 512, heads=heads, exclusive=exclusive) == exclusive.tolist()


def groups(*parts):
    """Order-0 heads: entries in groups of 16, frames relative to the first; 160 entries in all."""
    used = np.concatenate(parts)
    return FIRST + np.concatenate([used, scattered(4000, 160 - len(used))])


@pytest.mark.parametrize("cont_ptes", [32, 128])
def test_a_row_that_begins_inside_a_block_ends_blocks(cont_ptes):
    """Entry 15 is remembered, a row begins at entry 16: the gate of the fold is passed where a block ends."""
    assert both_ways([(15, 497, RW)], 512, machine=f"7.3,cont_ptes={cont_ptes}") == [False] * 15 + [True] * 497


def test_the_page_that_ends_a_stretch_is_not_in_it():
    # entries 16 to 31 make a stretch of pages 0 to 39, entries 32 to 47 map pages of it and page 40
    begun, ended = np.r_[0:24:2, 60:64], np.r_[1:31:2, 40]
    rest = np.setdiff1d(np.arange(64), np.r_[begun, ended])[::-1]
    heads = groups(2000 + np.arange(16), begun, ended, rest)
    exclusive = heads != FIRST + 40
    assert both_ways([(0, 160, RW)], 160, heads=heads, exclusive=exclusive) == exclusive.tolist()


def test_the_page_below_a_stretch_is_not_in_it():
    # entries 16 to 31 make a stretch of pages 95 down to 41, entries 32 to 47 map pages of it and page 40
    begun, ended = np.r_[95:71:-2, 3:-1:-1], np.r_[94:64:-2, 40]
    rest = np.setdiff1d(np.arange(96), np.r_[begun, ended])[::-1]
    heads = groups(2000 + np.arange(16), begun, ended, rest)
    exclusive = heads != FIRST + 40
    assert both_ways([(0, 160, RW)], 160, heads=heads, exclusive=exclusive) == exclusive.tolist()


def test_a_stretch_begins_where_its_pages_do():
    # entries 16 to 31 make a stretch from page 1000 on, entries 32 to 47 map pages 0 to 15
    heads = groups(2000 + np.arange(16), np.r_[1000:1032:2], np.arange(15, -1, -1), np.r_[1001:1033:2])
    exclusive = heads != FIRST + 8
    assert both_ways([(0, 160, RW)], 160, heads=heads, exclusive=exclusive) == exclusive.tolist()


def test_a_stretch_of_exclusive_pages_is_none_of_shared_ones():
    ours, shared = scattered(4096, 512), scattered(8192, 256)
    heads = np.concatenate([ours[:256], shared, ours[256:]])
    exclusive = heads < 8192
    assert both_ways([(0, 768, RW)], 768, heads=heads, exclusive=exclusive) == exclusive.tolist()


def test_entries_without_a_page_never_try_to_fold():
    def special(words):
        words |= np.uint64(bits.PTE_SPECIAL)

    both_ways([(0, 512, NONE), (0, 512, RO)], 512, heads=4096 + np.arange(512), damage=special)


def test_frames_far_beyond_the_metadata_are_not_looked_up():
    """Sixteen of them behind file pages, the four lowest first: the byte of such a frame lies in no memory."""
    beyond = np.uint64(1 << 37) + np.r_[0, 2, 1, 3, 5, 9, 7, 12, 14, 4, 11, 6, 13, 8, 10, 15].astype(np.uint64)

    def outside(words):
        words[256:272] = words[256:272] & ~ADDR | beyond << np.uint64(12)

    high = 1 << 29  # addresses above bit 40: frames are not taken from four bytes of the word
    both_ways([(0, 512, RW)], 512, heads=high + scattered(4096, 512), damage=outside, anon=False, pfn_base=high)


def test_conversions_with_lpa2_depend_on_their_place_in_64k():
    machine = "7.3,lpa2=on,cont_ptes=8"
    assert all(both_ways([(0, 512, RW)], 512, 3, machine=machine, strategy="per-pte"))


def test_units_on_both_sides_of_a_missing_table_are_flushed():
    for memo in (True, False):
        mm = MM("7.3", nr_pages=1 << 12, memo=memo)
        mm.mmap(BASE, 1536 * PAGE, RW)
        for at in (0, 1024):
            mm.map_folios(BASE + at * PAGE, 512, 4)
        got = mm.mprotect(BASE, 1536 * PAGE, RO)
        assert (got.pages, got.gathers) == (1024, [(BASE, BASE + 1536 * PAGE)])
        assert got["flush_pages"] == 1536


def test_a_trace_has_every_unit():
    mm = MM("7.3", nr_pages=1 << 12)
    mm.mmap(BASE, 512 * PAGE, RW)
    mm.map_folios(BASE, 512, 4)
    trace = mm.mprotect(BASE, 512 * PAGE, RO, trace=True).trace
    commits = next(kind for kind, name in KINDS.items() if name == "COMMIT")
    assert np.count_nonzero(trace["kind"] == commits) == 32


def test_a_step_that_is_not_known_to_be_pure_is_called_for_each_unit():
    mm = MM("7.3", nr_pages=1 << 12)
    mm.mmap(BASE, 512 * PAGE, RW)
    mm.map_folios(BASE, 512)
    seen = []

    def step(window):
        seen.append(window.addr)
        window.change_unit(0, 1, False)
        return 1

    assert mm.mprotect(BASE, 512 * PAGE, RO, strategy=step).pages == 512
    assert seen == [BASE + i * PAGE for i in range(512)]


@pytest.mark.parametrize("other", range(0, 2048, 173))
def test_a_stretch_ends_before_the_first_page_that_is_not_alike(other):
    """One page of 2,048 is shared: wherever it lies, and however frames are mixed, only its entry stays read-only."""
    heads = np.random.default_rng(other).permutation(np.arange(2048, dtype=np.uint64)) + np.uint64(1024)
    mm = MM(Machine(), nr_pages=1 << 12, pfn_base=1024)
    mm.mmap(1 << 40, 2048 << 12, 3)
    mm.map_folios(1 << 40, 2048, heads=heads, exclusive=heads != 1024 + other)
    mm.mprotect(1 << 40, 2048 << 12, 1)
    mm.mprotect(1 << 40, 2048 << 12, 3)
    writable = (mm.ptes(1 << 40, 2048) & np.uint64(1 << 51)) != 0
    assert (writable == (heads != 1024 + other)).all()
