"""The NumPy program of the benchmark does what the core does: words, counters, flush range."""

from __future__ import annotations

import numpy as np
import pytest
from bench import numpy_counts, numpy_mprotect, worlds
from bench.numpy_mprotect import COUNTERS, Job
from hypothesis import given, settings
from hypothesis import strategies as st

from ptebatch import MM, Machine, bits
from ptebatch.errors import LayoutError

BASE = 1 << 40
PROTS = (1, 3, 0, 3, 5, 7, 0, 1, 3)
HW_DIRTY = np.uint64(bits.PTE_WRITE | bits.PTE_RDONLY)


def differences(mm, other, job, start, nr, prot):
    """What the program says otherwise than the core, by name."""
    shift = mm.machine.page_shift
    want = mm.mprotect(start, nr << shift, prot)
    got = job.mprotect(prot)
    out = {name: (int(got[name]), want[name]) for name in COUNTERS if got[name] != want[name]}
    if set(got) - set(COUNTERS):
        out["names"] = set(got) - set(COUNTERS)
    if job.pages != want.pages:
        out["pages"] = (job.pages, want.pages)
    if ([job.gather] if job.gather else []) != want.gathers:
        out["gathers"] = (job.gather, want.gathers)
    wrong = np.flatnonzero(mm.ptes(start, nr) != other.ptes(start, nr))
    if wrong.size:
        at = wrong[0]
        out["pte"] = (int(at), hex(other.ptes(start, nr)[at]), hex(mm.ptes(start, nr)[at]))
    return out


def agree(mm, start, nr, prots=PROTS, kind=Job):
    """Run both, the program on a copy."""
    other = mm.copy()
    job = kind(other, start, nr << mm.machine.page_shift)
    for prot in prots:
        assert differences(mm, other, job, start, nr, prot) == {}, f"prot {prot}"


def touch(ptes, rng, count):
    """Entries in other legal states of accessed and dirty (spec 2.1), as hardware and aging leave them."""
    for at in rng.integers(0, len(ptes), size=count):
        word = ptes[at]
        if not word & np.uint64(bits.PTE_VALID):
            continue
        word ^= np.uint64(bits.PTE_AF) if rng.random() < 0.5 else np.uint64(0)
        dirty, hard = rng.random(2) < 0.5
        word &= ~np.uint64(bits.PTE_DIRTY)
        word |= np.uint64(bits.PTE_RDONLY)
        if dirty and word & np.uint64(bits.PTE_WRITE):
            word &= ~np.uint64(bits.PTE_RDONLY)
            word |= np.uint64(bits.PTE_DIRTY) if hard else np.uint64(0)
        elif dirty:
            word |= np.uint64(bits.PTE_DIRTY)
        ptes[at] = word


@pytest.mark.parametrize("layout", worlds.LAYOUTS)
@pytest.mark.parametrize("exclusive", [*worlds.PATTERNS, "none", "16/16/480", "15e/1s"])
def test_layouts_of_the_benchmark(layout, exclusive):
    world = worlds.build(layout, 16 << 20, exclusive=exclusive)
    agree(world.mm, world.start, world.length >> 12)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    geometry=st.sampled_from([(16, 512), (4, 16), (8, 64), (32, 256), (128, 2048)]),
    offset=st.integers(0, 40),
    fold=st.booleans(),
    skip=st.sampled_from([0, 1, 5]),
    shuffle=st.booleans(),
    block=st.sampled_from([1 << 11, 1 << 17]),
    prots=st.lists(st.sampled_from([0, 1, 3, 5, 7]), min_size=1, max_size=6),
)
def test_any_folios(seed, geometry, offset, fold, skip, shuffle, block, prots):
    """Mixed orders, patterns and A/D states, tables begun in the middle, folios cut by the range."""
    rng = np.random.default_rng(seed)
    cont, ptrs = geometry
    machine = Machine(cont_ptes=cont, ptrs_per_pte=ptrs)
    orders = np.repeat(rng.integers(0, machine.pmd_order + 1, size=10), rng.integers(1, 30, size=10))
    orders = np.append([3], orders)
    total = int(np.left_shift(1, orders).sum()) - skip
    nr = min(total, 6000) // cont * cont
    mm = MM(machine, nr_pages=1 << 20, pfn_base=1 << 11)
    start = BASE + (offset * cont << 12)
    mm.mmap(start, nr << 12, 3)
    orders = orders[: int(np.searchsorted(np.cumsum(np.left_shift(1, orders)), nr + skip)) + 1]
    heads = None
    if shuffle:
        # one table's worth of frames each, so that folios never overlap
        heads = mm.pfn_base + ptrs * rng.permutation(len(orders)).astype(np.uint64)
    mask = np.resize(rng.random(rng.integers(1, 60)) < rng.choice([0.0, 0.5, 0.95, 1.0]), nr)
    mm.map_folios(start, nr, orders=orders, heads=heads, exclusive=mask, fold=fold, skip=skip)
    touch(mm.ptes(start, nr), rng, int(rng.choice([0, 3, nr // 10])))
    saved, numpy_mprotect.BLOCK = numpy_mprotect.BLOCK, block
    try:
        agree(mm, start, nr, [p for p, before in zip(prots, [3, *prots], strict=False) if p != before])
    finally:
        numpy_mprotect.BLOCK = saved


@pytest.mark.parametrize("granule", ["16K", "64K"])
def test_granules(granule):
    machine = Machine(granule=granule)
    for layout in worlds.LAYOUTS:
        world = worlds.build(layout, 16384 << machine.page_shift, machine=machine, exclusive="random")
        agree(world.mm, world.start, 16384, (1, 3, 0, 3))


class Forgetful(Job):
    """Wrong: does not gather A/D over the entries of a batch."""

    def _batches(self, p, cut, hard):
        begins, _, _ = super()._batches(p, cut, hard)
        own = p[begins]
        return begins, own, numpy_counts.young_dirty(own)


class Unpainted(Job):
    """Wrong: never sets CONT."""

    def _paint(self, p, at, begins, folded):
        pass


@pytest.mark.parametrize("wrong", [Forgetful, Unpainted])
def test_a_wrong_program_is_caught(wrong):
    machine = Machine()
    mm = MM(machine, nr_pages=1 << 10)
    mm.mmap(BASE, 512 << 12, 3)
    mm.map_folios(BASE, 512, 9, fold=False)
    mm.ptes(BASE, 512)[:100] &= ~np.uint64(bits.PTE_AF)
    with pytest.raises(AssertionError):
        agree(mm, BASE, 512, (1, 3), kind=wrong)


@pytest.mark.parametrize("kernel", ["6.12", "6.17", "7.3,bbml=3"])
def test_other_machines_are_refused(kernel):
    world = worlds.build("T2", 4 << 20, machine=Machine.parse(kernel))
    with pytest.raises(LayoutError, match=r"use 7\.3"):
        Job(world.mm, world.start, world.length)


def test_ranges_it_does_not_know_are_refused():
    world = worlds.build("T2", 4 << 20)
    with pytest.raises(LayoutError, match="contpte block"):
        Job(world.mm, world.start + 4096, 65536)
    world.mm.ptes(world.start, 16)[3] = 0
    with pytest.raises(LayoutError, match="present"):
        Job(world.mm, world.start, world.length)
    mm = MM(nr_pages=1 << 10)
    mm.mmap(BASE, 1 << 20, 3, file=1)
    mm.map_folios(BASE, 256, 4)
    with pytest.raises(LayoutError, match="anonymous"):
        Job(mm, BASE, 1 << 20)


def test_unknown_layouts_are_refused():
    with pytest.raises(LayoutError, match="T4"):
        worlds.build("T4", 4 << 20)
    with pytest.raises(LayoutError, match="multiple"):
        worlds.build("T1", 4096)


def test_shuffled_frames_are_a_permutation():
    world = worlds.build("T3-shuffled", 8 << 20)
    frames = (world.mm.ptes(world.start, 2048) & np.uint64(((1 << 50) - 1) & ~0xFFF)) >> np.uint64(12)
    assert (np.sort(frames) == worlds.PFN_BASE + np.arange(2048, dtype=np.uint64)).all()
    assert (np.diff(frames.astype(np.int64)) != 1).mean() > 0.99
