"""A formula on maps leaves and counts what the steps of its strategy leave and count, in whatever is regular."""

from __future__ import annotations

import numpy as np
import pytest

from ptebatch import MM, STRATEGIES, Machine
from ptebatch import bits as b
from ptebatch.kernels import ERAS

BASE = 1 << 40
FORMULAS = ("folio", "nested", "lookahead", "iterator", "per-pte")
OPS = ((1, 3, 1), (1, 3, 0, 3), (5, 7, 1, 3), (0, 3, 1), (3, 1, 3))
AF, RDONLY, WRITE, DIRTY, CONT = (np.uint64(bit) for bit in (b.PTE_AF, b.PTE_RDONLY, b.PTE_WRITE, b.PTE_DIRTY, b.PTE_CONT))


def orders_of(draw, pages):
    """Folio sizes: all alike, a few kinds, or as they come."""
    kinds = [[0], [0, 0, 0, 1, 2, 3, 4, 5, 9], [4], [9], [0, 1, 2, 3], [4, 5, 6, 9], [7, 8, 9]][draw.integers(7)]
    orders = []
    while pages > 0:
        orders.append(int(draw.choice(kinds)))
        pages -= 1 << orders[-1]
    return orders


def shuffled(draw, orders):
    """Frames for these folios in random order, each aligned to its size."""
    heads, at = np.zeros(len(orders), np.uint64), 1 << 13
    for i in draw.permutation(len(orders)):
        at = -(-at // (1 << orders[i])) << orders[i]
        heads[i] = at
        at += 1 << orders[i]
    return heads if at < 1 << 17 else None


def exclusive(draw, pages):
    p = draw.choice([1.0, 0.99, 0.9, 0.5, 0.0])
    run = int(draw.choice([1, 1, 16, 64]))
    return np.repeat(draw.random(-(-pages // run)) < p, run)[:pages]


def damage(draw, mm, ptes):
    """A/D of any kind; holes, any bit, any metadata."""
    if draw.integers(2):
        ptes[draw.random(ptes.size) < draw.choice([0.1, 0.5, 0.9])] &= ~AF
        clean = draw.random(ptes.size) < draw.choice([0.1, 0.5, 0.9])
        ptes[clean] = (ptes[clean] & ~DIRTY) | RDONLY
    if not draw.integers(3):
        # pages that were read, or protected, and not written since
        some = draw.random(ptes.size) < draw.choice([0.1, 0.5, 0.9])
        ptes[some] = (ptes[some] & ~WRITE) | RDONLY
    if not draw.integers(4):
        # parts that are mapped no more, and entries that changed alike
        for first in draw.integers(0, ptes.size, 3):
            ptes[first : first + int(draw.choice([1, 40, 100]))] = 0
        first = int(draw.integers(0, ptes.size))
        ptes[first : first + 200] ^= np.uint64(draw.choice([b.PTE_AF, b.PTE_RDONLY, b.PTE_UXN])) * (
            ptes[first : first + 200] != 0
        )
    kind = draw.integers(6)
    if kind == 0:
        ptes[draw.random(ptes.size) < 0.1] = 0
    elif kind == 1:
        some = np.flatnonzero(draw.random(ptes.size) < 0.02)
        ptes[some] ^= np.uint64(1) << draw.integers(0, 64, some.size).astype(np.uint64)
    elif kind == 2:
        some = np.flatnonzero(draw.random(len(mm.pages)) < 0.02)
        mm.pages[some] = draw.integers(0, 256, some.size)
    elif kind == 3:
        # all of a word's pages alike, and not as those before
        words = len(mm.pages) // 64
        for word in draw.integers(0, words, 1 + words // 8):
            first = 64 * int(word) + int(draw.choice([0, 0, 8]))
            mm.pages[first : first + 64] ^= np.uint8(draw.choice([1, 2, 8, 16, 128]))


def world(seed, *, memo):
    """An address space, where it is mapped, and the calls: (first page, one behind the last, prot)."""
    draw = np.random.default_rng(seed)
    machine = Machine(
        list(ERAS)[draw.integers(len(ERAS))],
        granule=["4K", "4K", "4K", "16K", "64K"][draw.integers(5)],
        contpte=bool(draw.integers(8)),
        kpti=bool(draw.integers(2)),
        tlb_range=bool(draw.integers(2)),
    )
    orders = orders_of(draw, int(draw.integers(1, 5)) * machine.ptrs_per_pte // 2)
    skip = min(int(draw.choice([0, 0, 1, 5, 16])), (1 << orders[0]) - 1)
    pages = sum(1 << order for order in orders) - skip
    mm = MM(machine, nr_pages=1 << 17, memo=memo)
    start = BASE + (int(draw.choice([0, 0, 0, 1, 8, 15, 16, 100])) << machine.page_shift)
    mm.mmap(start, pages << machine.page_shift, 3)
    heads = shuffled(draw, orders) if draw.integers(2) else None
    mm.map_folios(
        start, pages, orders=orders, heads=heads, exclusive=exclusive(draw, pages), skip=skip, fold=bool(draw.integers(4))
    )
    ptes = mm.ptes(start, pages)
    damage(draw, mm, ptes)
    calls = []
    part = not draw.integers(3)
    for prot in OPS[draw.integers(len(OPS))]:
        first = int(draw.integers(0, pages - 1)) if part else 0
        calls.append((first, int(draw.integers(first + 1, pages + 1)) if part else pages, prot))
    return mm, start, pages, calls


def left(seed, strategy, *, memo):
    """What each call left, and the entries that formulas did."""
    mm, start, pages, calls = world(seed, memo=memo)
    shift, out, by_maps = mm.machine.page_shift, [], 0
    for first, end, prot in calls:
        r = mm.mprotect(start + (first << shift), (end - first) << shift, prot, strategy=strategy)
        out.append((r.pages, r.counters, r.batches, r.subs, r.flushes, r.gathers, mm.ptes(start, pages).tobytes()))
        by_maps += mm.replayed["maps"]
    return out, by_maps


def agree(seeds, strategies=FORMULAS):
    by_maps = 0
    for seed in seeds:
        for strategy in strategies:
            fast, entries = left(seed, strategy, memo=True)
            slow, none = left(seed, strategy, memo=False)
            assert none == 0
            for call, (one, two) in enumerate(zip(fast, slow, strict=True)):
                assert one[1] == two[1], (seed, strategy, call)
                assert one == two, (seed, strategy, call)
            by_maps += entries
    return by_maps


@pytest.mark.parametrize("first", range(0, 60, 12))
def test_formulas_agree_with_steps(first):
    """Nothing is compared in vain: most entries are done by formulas."""
    assert agree(range(first, first + 12)) > 50_000


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 1300, 50))
def test_formulas_agree_with_steps_in_many_worlds(first):
    agree(range(first, first + 50))


def mapped(pages, order, mask, *, memo, machine=None):
    machine = machine or Machine()
    mm = MM(machine, nr_pages=1 << 12, memo=memo)
    mm.mmap(BASE, pages << 12, 3)
    mm.map_folios(BASE, pages, order=order)
    mm.mprotect(BASE, pages << 12, 1)
    first = (int(mm.ptes(BASE, 1)[0]) & ((1 << 50) - 1)) >> 12
    mm.pages[first - 1024 : first - 1024 + pages][~mask] &= ~np.uint8(b.PG_ANON_EXCLUSIVE)
    return mm


@pytest.mark.parametrize("strategy", FORMULAS)
def test_a_folded_block_next_to_one_that_is_not(strategy):
    """What is left of an unfolded block goes on into entries that were never folded."""
    for seed in range(40):
        draw = np.random.default_rng(seed)
        mask = np.repeat(draw.random(64) < 0.5, draw.integers(1, 6, 64))[:128]
        unfolded = draw.integers(0, 8, 2)
        got = []
        for memo in (True, False):
            mm = mapped(128, 7, np.resize(mask, 128), memo=memo)
            ptes = mm.ptes(BASE, 128)
            for block in unfolded:
                ptes[16 * block : 16 * block + 16] &= ~CONT
            r = mm.mprotect(BASE, 128 << 12, 3, strategy=strategy)
            got.append((r.counters, r.batches, r.subs, r.flushes, mm.ptes(BASE, 128).tobytes()))
        assert got[0] == got[1], (seed, strategy)


@pytest.mark.parametrize("strategy", FORMULAS)
def test_a_hole_in_a_folded_block(strategy):
    """The hint of a block trusts its entries: what it covers is done by steps."""
    got = []
    for memo in (True, False):
        mm = mapped(64, 6, np.ones(64, bool), memo=memo)
        mm.ptes(BASE, 64)[31] = 0
        r = mm.mprotect(BASE, 64 << 12, 3, strategy=strategy)
        got.append((r.counters, r.batches, mm.ptes(BASE, 64).tobytes()))
    assert got[0] == got[1]


@pytest.mark.parametrize("strategy", FORMULAS)
def test_pages_of_files_are_never_asked(strategy):
    """Whatever stands in their metadata: PageAnonExclusive is a property of anonymous pages."""
    got = []
    for memo in (True, False):
        mm = mapped(64, 6, np.arange(64) % 3 > 0, memo=memo)
        mm.pages[:] &= ~np.uint8(b.PG_ANON)
        r = mm.mprotect(BASE, 64 << 12, 3, strategy=strategy)
        got.append((r.counters, r.batches, r.subs, mm.ptes(BASE, 64).tobytes()))
    assert got[0] == got[1] and got[0][0]["pae_reads"] == 0


def test_logs_of_short_segments_are_maps_and_read_as_lengths():
    """Lengths of one, of many, across words of 64 entries and tables: what was kept as maps, and as steps log it."""
    mask = np.resize(np.array([1, 1, 0] * 21 + [1] * 70 + [0, 1] * 40, bool), 1024)
    got = []
    for memo in (True, False):
        mm = mapped(1024, 9, mask, memo=memo)
        r = mm.mprotect(BASE, 1024 << 12, 3)
        got.append((r.batches, r.subs, r.as_dict() if hasattr(r, "as_dict") else None))
    assert got[0] == got[1]
    assert sum(count * nr for count, nr in got[0][1]) == 1024 and len(got[0][1]) > 50


def test_every_strategy_that_is_not_flawed_is_named_here_or_has_no_formula():
    """A formula that no test compares would be found by this: its strategy's entries are done by maps."""
    for name, row in STRATEGIES.items():
        if row.step is None:
            mm = mapped(512, 9, np.random.default_rng(0).random(512) < 0.5, memo=True)
            mm.mprotect(BASE, 512 << 12, 3, strategy=name)
            assert (mm.replayed["maps"] > 0) == (name in FORMULAS), name


@pytest.mark.parametrize("kernel", ERAS)
@pytest.mark.parametrize("dirty", [None, 2, 15])
def test_a_block_that_is_folded_is_dirty_where_mkwrite_makes_it_so(kernel, dirty):
    """RO RO RW RO: the last one's commit folds the block; on 6.16 what becomes writable is dirty to hardware."""
    done = []
    for memo in (True, False):
        mm = MM(kernel, nr_pages=1 << 12, memo=memo)
        mm.mmap(BASE, 128 << 12, 1)
        mm.map_folios(BASE, 128, 9, dirty=False)
        ptes = mm.ptes(BASE, 128)
        ptes &= ~(CONT | WRITE)
        ptes |= RDONLY
        ptes[14::16] |= WRITE
        if dirty is not None:
            ptes[dirty::16] |= DIRTY
        result = mm.mprotect(BASE, 128 << 12, 3)
        done.append((result.counters, mm.ptes(BASE, 128).tolist()))
    assert done[0] == done[1]


@pytest.mark.parametrize("granule", ["4K", "16K", "64K"])
@pytest.mark.parametrize("strategy", FORMULAS)
@pytest.mark.parametrize("what", ["hole", "write", "elsewhere", "unfolded"])
def test_a_folded_block_that_is_not_whole(granule, strategy, what):
    """One entry of a block with CONT is not as the kernel makes it: nothing of it is taken for regular."""
    done = []
    for memo in (True, False):
        machine = Machine("7.3", granule=granule)
        n, shift = machine.cont_ptes, np.uint64(machine.page_shift)
        mm = MM(machine, nr_pages=1 << 14, memo=memo)
        mm.mmap(BASE, 8 * n << machine.page_shift, 3)
        mm.map_folios(BASE, 8 * n, n.bit_length())
        ptes = mm.ptes(BASE, 8 * n)
        for at in (n + 3, 4 * n, 6 * n - 1):
            if what == "hole":
                ptes[at] = 0
            elif what == "write":
                ptes[at] = (ptes[at] & ~WRITE) | RDONLY
            elif what == "elsewhere":
                ptes[at] += np.uint64(2 * n) << shift
            else:
                ptes[at] &= ~CONT
        results = [mm.mprotect(BASE, 8 * n << machine.page_shift, prot, strategy=strategy).counters for prot in (1, 3)]
        done.append((results, ptes.tolist()))
    assert done[0] == done[1]


def of_512(pages, *, memo, machine="7.3", **how):
    """Folios of 512 pages, as far as so many: the address space, their metadata, the entries."""
    mm = MM(machine, nr_pages=1 << 12, memo=memo)
    mm.mmap(BASE, pages << 12, 3)
    first = mm.map_folios(BASE, pages, 9, **how)
    return mm, mm.pages[first - mm.pfn_base :][:pages], mm.ptes(BASE, pages)


@pytest.mark.parametrize("other", [1, 8, 16])
def test_a_word_of_pages_with_metadata_of_another_folio(other):
    """Sixty-four pages in the middle of a folio that say another order, or no anonymous one: no stretch goes on with them."""
    done = []
    for memo in (True, False):
        mm, pages, ptes = of_512(448, memo=memo, skip=64, fold=False)
        pages[64:128] ^= np.uint8(other)
        results = [mm.mprotect(BASE, 448 << 12, prot).counters for prot in (1, 3)]
        done.append((results, ptes.tolist()))
    assert done[0] == done[1]


@pytest.mark.parametrize("other", [0, 8, 16])
def test_an_unfolded_block_goes_on_into_pages_of_the_same_folio_only(other):
    """What is left of a block that a unit cuts goes on into entries that were not folded, by look-ahead's next unit."""
    done = []
    for memo in (True, False):
        mm, pages, ptes = of_512(128, memo=memo)
        mm.mprotect(BASE, 128 << 12, 1)
        ptes[64:] &= ~CONT
        pages[56:] &= np.uint8(0x7F)
        pages[64:128] ^= np.uint8(other)
        done.append((mm.mprotect(BASE, 128 << 12, 3, strategy="lookahead").counters, ptes.tolist()))
    assert done[0] == done[1]


RANGES = ((0, 1024), (5, 512), (5, 300), (0, 300), (16, 320), (3, 1021), (500, 1000))
#: what tells entries of the large folios apart
APART = {
    "nothing": lambda ptes, pages: None,
    "A/D": lambda ptes, pages: ptes.__iand__(~np.where(np.arange(ptes.size) % 3 == 0, AF, np.uint64(0))),
    "dirty of the last": lambda ptes, pages: ptes.__setitem__(slice(-1), (ptes[:-1] & ~DIRTY) | RDONLY),
    "exclusivity": lambda ptes, pages: pages[::70].__iand__(np.uint8(0x7F)),
    "WRITE of two": lambda ptes, pages: ptes.__setitem__([10, 258], (ptes[[10, 258]] & ~WRITE) | RDONLY),
}


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("what", APART)
@pytest.mark.parametrize("kernel", ["6.12", "7.3", "7.3,contpte=0"])
def test_any_part_of_large_folios(kernel, what, fold):
    """The batch of a large folio is done by itself, wherever a range cuts it."""
    by_maps = 0
    for low, high in RANGES:
        for strategy in FORMULAS:
            done = []
            for memo in (True, False):
                mm, pages, ptes = of_512(1024, memo=memo, machine=Machine.parse(kernel), fold=fold)
                APART[what](ptes, pages)
                for prot in (1, 3):
                    r = mm.mprotect(BASE + (low << 12), (high - low) << 12, prot, strategy=strategy)
                    done.append((r.pages, r.counters, r.batches, r.subs, r.flushes, r.gathers, ptes.tolist()))
                    by_maps += mm.replayed["maps"]
            for one, two in zip(done[:2], done[2:], strict=True):
                assert one == two, (low, high, strategy)
    assert by_maps > 20_000


@pytest.mark.parametrize(("granule", "order"), [("64K", 13), ("64K", 9), ("16K", 11), ("4K", 9)])
def test_tables_of_any_granule_are_done_at_once(granule, order):
    """One PMD's worth of a folio, and several: nothing of it is done step by step."""
    machine = Machine("7.3", granule=granule)
    for pages in (machine.ptrs_per_pte, 4 * machine.ptrs_per_pte):
        mm = MM(machine, nr_pages=1 << 16)
        mm.mmap(BASE, pages << machine.page_shift, 3)
        mm.map_folios(BASE, pages, order)
        for prot in (1, 3):
            mm.mprotect(BASE, pages << machine.page_shift, prot)
            assert sum(mm.replayed.values()) == pages
