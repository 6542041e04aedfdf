"""Replaying remembered units gives what running them step by step gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptebatch import MM, STRATEGIES, Machine
from ptebatch.kernels import ERAS

BASE = 1 << 40
COMPILED = [name for name, row in STRATEGIES.items() if row.step is None]


def world(machine, orders, exclusive, *, memo, fold=True, skip=0, heads=None, offset=0):
    """One private RW mapping of these folios, `offset` pages into a table."""
    nr = int(np.left_shift(1, np.asarray(orders)).sum()) - skip
    mm = MM(machine, nr_pages=1 << 16, memo=memo)
    start = BASE + (offset << machine.page_shift)
    mm.mmap(start, nr << machine.page_shift, 3)
    mask = np.resize(np.asarray(exclusive, bool), nr)
    mm.map_folios(start, nr, orders=orders, heads=heads, exclusive=mask, fold=fold, skip=skip)
    return mm, start, nr


def run(mm, start, nr, machine, ops, strategy):
    out = []
    for prot in ops:
        result = mm.mprotect(start, nr << machine.page_shift, prot, strategy=strategy)
        out.append((result.pages, result.counters, result.batches, result.subs, result.flushes, result.gathers))
    return out, mm.ptes(start, nr).copy()


def agree(machine, orders, exclusive, ops, strategy, damage=None, **kw):
    got = []
    for memo in (True, False):
        mm, start, nr = world(machine, orders, exclusive, memo=memo, **kw)
        if damage is not None:
            damage(mm.ptes(start, nr), mm.pages)
        got.append(run(mm, start, nr, machine, ops, strategy))
    assert got[0][0] == got[1][0]
    assert (got[0][1] == got[1][1]).all()


@pytest.mark.parametrize("strategy", COMPILED)
@pytest.mark.parametrize("kernel", ERAS)
@pytest.mark.parametrize("order", [0, 1, 2, 3, 4, 5, 9])
def test_uniform_folios(kernel, order, strategy):
    machine = Machine(kernel)
    agree(machine, [order] * (2048 >> order), [1], (1, 3, 0, 3, 5), strategy)


@pytest.mark.parametrize("strategy", COMPILED)
@pytest.mark.parametrize("pattern", [[1, 0], [1] + [0] * 511, [1] * 16 + [0] * 16 + [1] * 480, [0], [1, 1, 0]])
def test_exclusive_patterns(pattern, strategy):
    machine = Machine()
    agree(machine, [9] * 4, pattern, (1, 3, 1, 0, 3), strategy)
    agree(machine, [4] * 128, pattern, (1, 3, 1), strategy)
    agree(machine, [0] * 2048, pattern, (1, 3, 1), strategy)


@pytest.mark.parametrize("granule", ["16K", "64K"])
@pytest.mark.parametrize("order", [0, 4, 5, 7])
def test_granules(granule, order):
    machine = Machine(granule=granule, tlb_range=False, kpti=True)
    for strategy in ("folio", "per-pte", "lookahead"):
        agree(machine, [order] * (16384 >> order), [1, 1, 0, 1], (1, 3), strategy)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    kernel=st.sampled_from(list(ERAS)),
    strategy=st.sampled_from(COMPILED),
    offset=st.sampled_from([0, 1, 8, 15, 16, 511]),
    skip=st.sampled_from([0, 1, 5]),
    fold=st.booleans(),
    shuffle=st.booleans(),
    cont=st.sampled_from([4, 8, 16, 32]),
)
def test_mixed_worlds(seed, kernel, strategy, offset, skip, fold, shuffle, cont):
    rng = np.random.default_rng(seed)
    machine = Machine(kernel, cont_ptes=cont, ptrs_per_pte=512)
    kinds = rng.choice([0, 1, 2, 3, 4, 5, 6], size=3)
    orders = np.repeat(rng.choice(kinds, size=12), rng.integers(1, 40, size=12))
    orders[0] = 3
    heads = None
    if shuffle:
        # folios of one size change places among each other
        sizes = np.left_shift(1, orders)
        step = 64
        heads = (1024 + step * rng.permutation(len(orders))).astype(np.uint64) if len(orders) * step < 60000 else None
        assert sizes.max() <= step
    pattern = rng.random(rng.integers(1, 40)) < rng.choice([0.0, 0.5, 0.9, 1.0])

    def damage(ptes, pages):
        for _ in range(rng2.integers(0, 6)):
            at = rng2.integers(0, len(ptes))
            ptes[at] ^= np.uint64(rng2.choice([1 << 10, 1 << 7, 1 << 55, 1 << 51, 1 << 58]))
        for _ in range(rng2.integers(0, 3)):
            ptes[rng2.integers(0, len(ptes))] = 0

    def fresh(ptes, pages):
        nonlocal rng2
        rng2 = np.random.default_rng(seed + 1)
        damage(ptes, pages)

    rng2 = np.random.default_rng(seed + 1)
    agree(machine, orders, pattern, (1, 3, 0, 3), strategy, damage=fresh, skip=skip, fold=fold, heads=heads, offset=offset)


@pytest.mark.parametrize("cont", [32, 64, 128])
def test_folios_of_half_a_block(cont):
    """A unit that ends its block reads one entry less than one that does not."""
    agree(Machine(cont_ptes=cont), [4] * 128, [1], (1, 3), "folio", fold=False)


def test_the_memo_is_used():
    """A remembered unit that is made wrong shows: the fast path really runs."""
    machine = Machine()
    mm, start, nr = world(machine, [9] * 8, [1], memo=True)
    result = mm.mprotect(start, nr << 12, 1)
    assert result["pte_reads"] == 8 * 96
    slow, start, nr = world(machine, [9] * 8, [1], memo=False)
    assert slow.mprotect(start, nr << 12, 1).counters == result.counters


def test_metadata_of_tails_is_respected():
    """Only the last page of one folio is not exclusive: its folio is not replayed."""
    mask = np.ones(8 * 512, bool)
    mask[3 * 512 + 511] = False
    agree(Machine(), [9] * 8, mask, (1, 3), "folio")


def test_frames_outside_the_metadata_end_a_replay():
    for strategy in COMPILED:

        def outside(ptes, pages):
            ptes[700] = (ptes[700] & ~np.uint64(((1 << 50) - 1) & ~0xFFF)) | np.uint64(0x3FFFFFFFFF000 & (0xFFFFFFFFF << 12))

        agree(Machine(), [0] * 2048, [1], (1, 3), strategy, damage=outside)
