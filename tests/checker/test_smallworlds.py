"""What the search leaves out, tried for smaller sizes: it shows nothing that the worlds kept do not show.

Each reduction argued in ``ptebatch.checker.worlds.products`` has a test here. Sound loops keep every
law in the worlds left out; of a loop that breaks one there, some world that is kept
tells too, change by change. Geometry: tables of 4 entries, blocks of 2.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import planted
import pytest

from ptebatch import bits as b
from ptebatch.checker.check import Checker
from ptebatch.checker.worlds import products as smallworlds
from ptebatch.checker.worlds import shapes as smallshapes
from ptebatch.checker.worlds.products import FAMILIES, Chunk, Family, chunks
from ptebatch.checker.worlds.random import random_chunks
from ptebatch.checker.worlds.shapes import AD, SHAPES, Shape, codes
from ptebatch.checker.worlds.small import CHANGES, small_machine
from ptebatch.machine import Machine
from ptebatch.strategies import STRATEGIES

TINY = Machine("7.3", cont_ptes=2, ptrs_per_pte=4)
SMALL = small_machine(Machine("7.3"))
#: each way to start entries and to ask for pages
SOUND = ["folio", "per-pte", "iterator", "merged"]
FLAWED = [name for name, row in STRATEGIES.items() if row.flawed]
PLANTED = [planted.FirstForAll, planted.FolioEdge, planted.SpreadsDirty, planted.OverSoftleaves, planted.SharedFirstDirty,
           planted.ForgetsProtNone, planted.NoFlushOfUpgrades]  # fmt: skip


def by_change(chunk: Chunk) -> Iterator[tuple[str, Chunk]]:
    for name in dict.fromkeys(chunk.changes):
        yield name, replace(chunk, calls=np.ascontiguousarray(chunk.calls[np.array(chunk.changes) == name]), changes=(name,))


def broken(machine: Machine, strategy, products: Iterable[Chunk]) -> tuple[set[str], int]:
    """Changes under which a strategy breaks a law in some world, and how many worlds were judged."""
    checker, found, judged = Checker(machine, strategy, strict=True), set(), 0
    for product in products:
        for name, chunk in by_change(product):
            if name not in found:
                n, _, law, *_ = checker.sweep(chunk.words, chunk.pages, chunk.calls, chunk.ad, chunk.folds, tlb=True)
                judged += n
                found |= {name} if law else set()
    return found, judged


def agree(machine: Machine, kept: Iterable[Chunk], left_out: Iterable[Chunk], least: int, *, loops=PLANTED) -> None:
    """Sound loops pass in what is left out; the others break nothing there that is not seen in what is kept."""
    kept, left_out = list(kept), list(left_out)
    for name in SOUND:
        found, judged = broken(machine, name, left_out)
        assert not found and judged >= least, name
    seen = 0
    for strategy in (*FLAWED, *(loop() for loop in loops)):
        there, here = broken(machine, strategy, left_out)[0], broken(machine, strategy, kept)[0]
        assert there <= here, f"{strategy}: {there - here} is only seen in worlds that are left out"
        seen += len(there)
    assert seen, "the worlds left out show nothing at all: the test proves nothing"


def product(
    machine: Machine, shape: Shape, rows: Iterable[tuple[str, ...]], changes: str, kind: str = "others-e", ad: str = "few",
    every_range: bool = True,
) -> Iterator[Chunk]:  # fmt: skip
    """Worlds of these rows of codes over one shape."""
    known = codes(machine)
    rows = list(rows)
    words = np.array([[known[name].word for name in row] for row in rows], np.uint64)
    exclusive = np.array([[known[name].exclusive for name in row] for row in rows])
    present = (words & np.uint64(b.PTE_VALID | b.PTE_NG)) != 0
    read = machine.swp_migration_read
    leaf = words >> np.uint64(b.SWP_TYPE_SHIFT) & np.uint64(31)
    place = np.where(present, 1, np.where((words != 0) & (leaf >= read) & (leaf <= read + 2), 2, 0)).astype(np.uint8)
    family = Family("left out", changes, "", range(1, 9), kind, ad=ad, every_range=every_range)
    calls, names = smallworlds._calls(machine, shape.start, len(shape.frames), family, tuple(changes.split()))
    table = smallworlds._place(machine, shape, words, place)
    pages = smallworlds._pages(shape, kind, exclusive, place == 1)
    for patterns in smallworlds._patterns(family, machine, shape.start, len(shape.frames)):
        yield Chunk("left out", len(shape.frames), table, pages, calls, patterns, smallworlds._folds(machine, shape), names, 0, 0)


def of(names: str, changes: str, sizes: range, **how) -> Family:
    return Family("kept", changes, names, sizes, **how)


# ---- the reductions, one by one ----


def test_every_reduction_has_a_test():
    said = re.findall(r"^\*(.+?)\.\*", smallworlds.__doc__ or "", re.M)
    assert set(said) == set(REDUCTIONS), "the docstring argues reductions that are not tested, or the other way round"
    assert all(f"test_{name}" in globals() for name in REDUCTIONS.values())


REDUCTIONS = {
    "Edges": "edges",
    "Translation": "translation",
    "Accessed and dirty": "accessed_and_dirty",
    "Entries that are not present": "entries_that_are_not_present",
    "Frames that do not continue": "frames_that_do_not_continue",
    "Page metadata that a loop has no use for": "page_metadata",
}


@pytest.mark.slow
def test_edges():
    """Full tables, empty entries at their ends too, with every range."""
    names, changes = "none RO,e RW,e RO", "rw ro"
    left_out = [
        chunk
        for shape in SHAPES["runs"](TINY, 4)
        for chunk in product(TINY, shape, itertools.product(names.split(), repeat=4), changes, ad="ends")
    ]
    agree(TINY, chunks(TINY, (of(names, changes, range(1, 5), pages="others-e"),)), left_out, 100_000,
          loops=(planted.FirstForAll, planted.FolioEdge))  # fmt: skip


def test_translation():
    """Rows that begin in later blocks, on later frames."""
    names, changes = "none RO RO,e RW,e", "rw ro"
    moved = []
    for nr in (1, 2, 3):
        rows = list(itertools.product(names.split(), repeat=nr))
        for shape in SHAPES["runs"](TINY, nr):
            for block, by in ((1, 0), (0, 1), (1, 2)):
                start = shape.start + block * TINY.cont_ptes
                if start + nr <= TINY.ptrs_per_pte and block + by:
                    frames = tuple(frame + by * TINY.ptrs_per_pte for frame in shape.frames)
                    moved += product(TINY, Shape(start, frames, shape.orders), rows, changes)
    kept = chunks(TINY, (of(names, changes, range(1, 4), pages="others-e"),))
    agree(TINY, kept, moved, 50_000, loops=(planted.FirstForAll, planted.FolioEdge))


def test_accessed_and_dirty():
    """Every combination of accessed and dirty, in software and in hardware."""
    names, changes = "RO,e RW,e", "rw ro none"
    shapes = [shape for nr, each in ((1, 1), (2, 1), (3, 3)) for shape in SHAPES["runs"](TINY, nr)[::each]]
    full = [
        chunk
        for shape in shapes
        for chunk in product(TINY, shape, itertools.product(names.split(), repeat=len(shape.frames)), changes, ad="all")
    ]
    agree(TINY, chunks(TINY, (of(names, changes, range(1, 4), pages="others-e"),)), full, 100_000,
          loops=(planted.SpreadsDirty, planted.LosesYoung, planted.LosesDirtyOfOthers, planted.WriteByHand))  # fmt: skip


def test_accessed_and_dirty_with_writenotify():
    """There, dirty decides WRITE: every subset is kept, and AF with each is left out."""
    names, changes = "RO RW", "rw-notify"
    full = [
        chunk
        for nr in (1, 2, 3)
        for shape in SHAPES["runs"](TINY, nr)
        for chunk in product(TINY, shape, itertools.product(names.split(), repeat=nr), changes, "file", "all")
    ]
    kept = chunks(TINY, (of(names, changes, range(1, 4), pages="file", ad="dirty"),))
    agree(TINY, kept, full, 40_000, loops=(planted.SharedFirstDirty, planted.SharedClean, planted.LosesDirtyOfOthers))


@pytest.mark.slow
def test_entries_that_are_not_present():
    """Softleaf entries of every kind in rows of four."""
    leaves = [name for name in smallworlds._LEAVES.split() if name in codes(TINY)]
    changes = "rw ro uffd-wp uffd-resolve"
    shapes = [shape for shape in SHAPES["runs"](TINY, 4) if shape.start == 0]
    rows = [row for leaf in leaves for row in itertools.product(("RO", "RO,e", leaf), repeat=4) if row.count(leaf) == 1]
    left_out = [chunk for shape in shapes for chunk in product(TINY, shape, rows, changes, ad="ends")]
    kept = chunks(TINY, (of("none RO RO,e", changes, range(1, 5), pages="others-e"),
                         of(f"none RO,e {smallworlds._LEAVES}", changes, range(1, 4), pages="others-e", ad="ends")))  # fmt: skip
    agree(TINY, kept, left_out, 50_000, loops=(planted.OverSoftleaves,))


def test_frames_that_do_not_continue():
    """Jumps of every length, and between folios of different order."""
    names, changes = "RO RO,e", "rw ro"
    left_out: list[Chunk] = []
    for nr, cut in ((2, 1), (3, 1), (3, 2)):
        for start, step, (one, other) in itertools.product((0, 1), (-5, 2, 6), itertools.product(range(3), repeat=2)):
            frames = tuple(16 + i + (step if i >= cut else 0) for i in range(nr))
            orders = (one,) * cut + (other,) * (nr - cut)
            heads = {frame >> order << order: order for frame, order in zip(frames, orders, strict=True)}
            spans = [set(range(head, head + (1 << order))) for head, order in heads.items()]
            overlap = any(one & other for one, other in itertools.combinations(spans, 2))
            if not overlap and start + nr <= TINY.ptrs_per_pte:
                left_out += product(TINY, Shape(start, frames, orders), itertools.product(names.split(), repeat=nr), changes)
    kept = chunks(TINY, (of(names, changes, range(1, 4), pages="others-e"),
                         of(names, changes, range(2, 4), pages="others-e", shapes="jumps")))  # fmt: skip
    agree(TINY, kept, left_out, 5_000, loops=(planted.SpreadsDirty, planted.NoFlushOfUpgrades, planted.PreviousPage))


def test_page_metadata():
    """Pages that are not mapped: any of them exclusive; folios mapped by others, crosswise, in rows of three."""
    names, changes, rng = "RO RO,e", "rw", np.random.default_rng(1)
    left_out: list[Chunk] = []
    for shape in SHAPES["runs"](TINY, 3):
        for kind in ("others-e", "others-s", "others-e,mapped-shared", "others-s,mapped-shared"):
            for chunk in product(TINY, shape, itertools.product(names.split(), repeat=3), changes, kind):
                pages = chunk.pages.copy()
                mapped = np.zeros(pages.shape[1], bool)
                mapped[list(shape.frames)] = True
                free = ~mapped & ((pages[0] & b.PG_ANON) != 0)
                pages[:, free] ^= rng.integers(0, 2, (len(pages), int(free.sum())), np.uint8) * np.uint8(b.PG_ANON_EXCLUSIVE)
                left_out += [chunk, replace(chunk, pages=pages)]
    kept = chunks(TINY, (of(names, changes, range(1, 4)), of(names, changes, range(1, 3), pages=smallworlds._CROSS)))
    agree(TINY, kept, left_out, 20_000, loops=(planted.Page0, planted.MappedShared, planted.PreviousPage))


# ---- the families ----


def test_every_change_and_every_kind_of_entry_is_in_some_family():
    assert {name for family in FAMILIES for name in family.changes.split()} == set(CHANGES)
    used = {name for family in FAMILIES for name in family.codes.split()}
    assert used >= set(codes(SMALL)) and set(codes(Machine("6.12", device_private=True))) <= used


def test_rows_of_every_size_are_tried():
    assert {size for family in FAMILIES for size in family.sizes} == set(range(1, 9))
    assert {family.shapes for family in FAMILIES} == set(SHAPES) and {family.ad for family in FAMILIES} == set(AD)


def test_every_folio_layout_is_among_the_runs():
    """Rows of three: every start, every first frame, every cut of the frames into folios."""
    shapes = set(SHAPES["runs"](TINY, 3))
    assert len(shapes) == len(SHAPES["runs"](TINY, 3))
    for start, first in itertools.product((0, 1), range(4)):
        for orders in itertools.product(range(3), repeat=3):
            frames = tuple(range(first, first + 3))
            folios = [frame >> order << order for frame, order in zip(frames, orders, strict=True)]
            whole = all(
                orders[i] == orders[j]
                for i, j in itertools.product(range(3), repeat=2)
                if folios[i] <= frames[j] < folios[i] + (1 << orders[i])
            )
            assert (Shape(start, frames, orders) in shapes) == whole


def test_kernels_have_the_softleaf_entries_they_know():
    assert "dev-w" in codes(Machine("7.3", device_private=True)) and "dev-w" not in codes(SMALL)
    old, new = (codes(Machine(kernel, device_private=True))["mig-r"].word for kernel in ("6.12", "7.3"))
    assert (new - old) >> b.SWP_TYPE_SHIFT == 1
    lpa2 = codes(Machine("7.3", lpa2=True))
    assert all(not code.word & b.PTE_SHARED for code in lpa2.values() if code.word & b.PTE_NG)
    assert codes(SMALL)["RO"].word & b.PTE_SHARED


def test_written_pages_are_exclusive():
    """I-6 holds of every world that is tried: WRITE in a private mapping of an anonymous page needs PageAnonExclusive."""
    for chunk in itertools.chain(chunks(TINY), itertools.islice(random_chunks(small_machine(Machine("7.3"), 4, 16), 3), 3)):
        write = (chunk.words & np.uint64(b.PTE_WRITE | b.PTE_SPECIAL)) == np.uint64(b.PTE_WRITE)
        write &= (chunk.words & np.uint64(b.PTE_VALID | b.PTE_NG)) != 0
        frames = ((chunk.words & np.uint64((1 << 50) - (1 << 12))) >> np.uint64(12)).astype(np.int64) - chunk.pfn_base
        rows, entries = np.nonzero(write)
        pages = chunk.pages[rows, frames[rows, entries]]
        private = (chunk.calls[:, 2] & b.VM_SHARED) == 0
        if chunk.family == "random":
            assert (pages[private[rows]] & b.PG_ANON_EXCLUSIVE).all()
        else:
            assert not private.any() or (pages & b.PG_ANON_EXCLUSIVE).all(), chunk.family
            assert private.all() or not private.any(), "shared and private mappings are apart"


# ---- arithmetic ----


@pytest.mark.parametrize("family", ["upgrade", "downgrade", "shared", "empty", "folded"])
def test_a_product_stands_for_the_worlds_that_it_says(family):
    """Counted one by one: rows, times accessed and dirty of each entry, ranges of the table, blocks to begin at."""
    total, counted = 0, 0
    known = codes(TINY)
    wanted = [row for row in FAMILIES if row.name == family]
    for chunk in chunks(TINY, tuple(wanted)):
        total += chunk.stands_for
    for row in wanted:
        for size in (n for n in row.sizes if n <= TINY.ptrs_per_pte):
            names = [name for name in row.codes.split() if name in known]
            combinations = 0
            for kinds in itertools.product(names, repeat=size):
                if row.uniform and len(set(kinds)) > 1:
                    continue
                if not row.uniform and len(names) > 1 and "none" in (kinds[0], kinds[-1]):
                    continue
                each = 1
                for name in kinds:
                    word = known[name].word
                    each *= 1 if not word & (b.PTE_VALID | b.PTE_NG) else 6 if word & b.PTE_WRITE else 4
                combinations += each
            ranges = sum(1 for low in range(4) for _ in range(low + 1, 5))
            for shape in SHAPES[row.shapes](TINY, size):
                places = len(range(shape.start, TINY.ptrs_per_pte - size + 1, TINY.cont_ptes))
                shared = sum(CHANGES[name].vm_flags & b.VM_SHARED > 0 for name in row.changes.split())
                file = sum(kind == "file" for kind in row.pages.split())
                # anonymous memory maps no page of a file
                mixed = sum(not CHANGES[name].anon and not CHANGES[name].vm_flags & b.VM_SHARED for name in row.changes.split())
                private = (len(row.changes.split()) - shared) * (len(row.pages.split()) - file) + mixed * file
                counted += combinations * ranges * places * (private + shared * file)
    assert total == counted > 0


@pytest.mark.parametrize("seed", [0, 1, 12345, 10**18 - 1])
def test_picked_is_a_permutation(seed):
    for chunk in itertools.islice(chunks(TINY), 0, None, 37):
        assert 0 <= chunk.picked(seed, 0, 1)[0] < chunk.nr
        order = chunk.picked(seed, 0, chunk.nr)
        assert (np.sort(order) == np.arange(chunk.nr)).all()
        cut = chunk.nr // 3
        parts = [chunk.picked(seed, 0, cut), chunk.picked(seed, cut, chunk.nr)]
        assert (np.concatenate(parts) == order).all()


def test_picked_worlds_are_those_of_the_sweep():
    """`rows` and `world_at` name the same world, and it is the one that Checker.each builds."""
    checker = Checker(SMALL, planted.NoFlush())
    for chunk in itertools.islice(chunks(SMALL), 0, 3000, 301):
        which = chunk.picked(7, 0, min(50, chunk.nr))
        words, pages, _, ad, folds = chunk.rows(which)
        for k, number in enumerate(which):
            row, pattern, fold, call = np.unravel_index(number, chunk.shape)
            world = chunk.world_at(SMALL, int(number), checker.folded(words[k:], pages[k:], ad[k:], int(folds[k])))
            assert (world.start, world.end) == tuple(chunk.calls[call, :2]) and world.change.name == chunk.changes[call]
            assert (words[k] == chunk.words[row]).all() and (ad[k] == chunk.ad[pattern]).all() and folds[k] == chunk.folds[fold]
            assert world.pages == tuple(chunk.pages[row])


def test_a_sweep_judges_each_world_once_and_says_what_it_leaves_out():
    checker = Checker(TINY, "folio")
    for chunk in itertools.islice(chunks(TINY), 0, None, 11):
        judged, left, law, *_ = checker.sweep(chunk.words, chunk.pages, chunk.calls, chunk.ad, chunk.folds)
        assert law == 0 and judged + left == chunk.nr and judged >= len(chunk.words) * len(chunk.calls)


# ---- the same again ----


def _print(products: Iterable[Chunk]) -> list[tuple[object, ...]]:
    return [(c.family, c.size, c.changes, c.updates, c.stands_for,
             *(a.tobytes() for a in (c.words, c.pages, c.calls, c.ad, c.folds))) for c in products]  # fmt: skip


def test_products_are_the_same_each_time():
    assert _print(chunks(TINY)) == _print(chunks(TINY))
    smallshapes.codes.cache_clear()
    assert _print(itertools.islice(chunks(SMALL), 500)) == _print(itertools.islice(chunks(SMALL), 500))


def test_random_worlds_are_those_of_the_seed():
    machine = small_machine(Machine("7.3"), 4, 16)
    once, again, other = (_print(itertools.islice(random_chunks(machine, seed), 2)) for seed in (5, 5, 6))
    assert once == again != other


@pytest.mark.parametrize("sizes", [(4, 16), (16, 32), (2, 4)])
def test_random_worlds_have_everything(sizes):
    """Folded blocks, every change, whole and partial ranges, mixed folios, in each geometry."""
    machine = small_machine(Machine("7.3"), *sizes)
    assert (machine.cont_ptes, machine.ptrs_per_pte) == sizes
    chunk = next(random_chunks(machine, 0))
    assert set(chunk.changes) == set(CHANGES)
    checker = Checker(machine, "folio")
    tables = [checker.folded(chunk.words[i:], chunk.pages[i:], chunk.ad[i:], int(chunk.folds[i])) for i in range(1000)]
    whole = (np.array(tables) & np.uint64(b.PTE_CONT | b.PTE_VALID)) == np.uint64(b.PTE_CONT | b.PTE_VALID)
    assert 20 < whole.any(axis=1).sum() < 980
    spans = chunk.calls[:, 1] - chunk.calls[:, 0]
    assert spans.min() == 1 and spans.max() == machine.ptrs_per_pte
    assert set(np.unique(chunk.pages & b.PG_ORDER_MASK)) == set(range(machine.pmd_order + 1))
