"""A call whose Python strategy fails is as if it had not been made, wherever it fails."""

from typing import Any

import numpy as np
import pytest

from ptebatch import MM, Machine, StrategyError
from ptebatch.bits import PROT_GROWSDOWN, VM_GROWSDOWN

PAGE = 4096
BASE = 1 << 30
TABLE = 512


class Gives(Exception):
    """What the step raises."""


def failing(after: int) -> Any:
    """A step that changes what it is called for, `after` times, and then raises."""
    left = after

    def step(window: Any) -> int:
        nonlocal left
        nr = window.folio_pte_batch()
        window.change_unit(0, nr, window.needs_anon_exclusive() and window.page_anon_exclusive(0))
        if not left:
            raise Gives
        left -= 1
        return int(nr)

    return step


def state(mm: MM, pages: int) -> tuple[Any, ...]:
    """All that later calls depend on; what is counted tells by where a limit is met."""
    limits = []
    for limit in ("data_pages", "commit_pages"):
        other = mm.copy()
        other.mmap(1 << 40, PAGE, 1)
        low, high = 0, 1 << 20
        while low < high:
            other.set_limits(**{limit: (low + high) // 2})
            try:
                other.copy().mprotect(1 << 40, PAGE, 3)
                high = (low + high) // 2
            except OSError:
                low = (low + high) // 2 + 1
        limits.append(low)
    return mm.vmas(), mm.ptes(BASE, pages).tolist(), mm.pages.tobytes(), limits


def spread() -> MM:
    """Three VMAs over three tables: what lies in the middle is alike once it is read-only; a block is folded across its start."""
    mm = MM(Machine.parse("7.3"), nr_pages=1 << 12)
    mm.populate(BASE, 3 * TABLE * PAGE)
    first = 500 * PAGE
    mm.mmap(BASE, first, 1, anon_vma=1, account=False)
    mm.mmap(BASE + first, 700 * PAGE, 3, anon_vma=1, account=False)
    mm.mmap(BASE + first + 700 * PAGE, 300 * PAGE, 1, anon_vma=1, account=False)
    mm.map_folios(BASE, 500, 9)
    mm.map_folios(BASE + first, 700, 4, skip=4, exclusive="random:0.9:2")
    mm.map_folios(BASE + first + 700 * PAGE, 300, 3)
    return mm


@pytest.mark.parametrize(
    "start, nr, prot",
    [(500, 700, 1), (508, 100, 1), (504, 1, 1), (516, 684, 0), (0, 1500, 0), (20, 1480, 3)],
    ids=["merges", "splits", "inside a block", "to the right", "all", "writable"],
)
def test_wherever_it_fails(start: int, nr: int, prot: int) -> None:
    mm = spread()
    before = state(mm, 1500)
    tried = 0
    for after in [*range(12), *range(12, 700, 41)]:
        try:
            mm.copy().mprotect(BASE + start * PAGE, nr * PAGE, prot, strategy=failing(after))
        except Gives:
            tried += 1
        else:
            break
        with pytest.raises(Gives):
            mm.mprotect(BASE + start * PAGE, nr * PAGE, prot, strategy=failing(after))
        assert state(mm, 1500) == before
    assert tried
    # and the next one is what it is on an untouched address space
    assert mm.mprotect(BASE + start * PAGE, nr * PAGE, prot) == spread().mprotect(BASE + start * PAGE, nr * PAGE, prot)


def test_down_to_where_a_stack_begins() -> None:
    mm = MM(Machine.parse("7.3"), nr_pages=1 << 12)
    mm.populate(BASE, 2 * TABLE * PAGE)
    mm.mmap(BASE, 1024 * PAGE, 3, vm_flags=VM_GROWSDOWN)
    mm.map_folios(BASE, 1024)
    before = state(mm, 1024)
    with pytest.raises(Gives):
        mm.mprotect(BASE + 900 * PAGE, 100 * PAGE, 1 | PROT_GROWSDOWN, strategy=failing(700))
    assert state(mm, 1024) == before


def test_a_range_without_vmas_or_tables() -> None:
    mm = MM("7.3")
    mm.mmap(BASE, 1 << 20, 3)
    for start, length in ((1 << 41, PAGE), (BASE, 1 << 20), (BASE, 0), (BASE, (1 << 48) - BASE), (BASE + 1, PAGE)):
        try:
            mm.mprotect(start, length, 1, strategy=lambda window: 0)
        except StrategyError:
            raise AssertionError("there is no entry that a step could be called for") from None
        except OSError:
            pass


def test_change_protection_too() -> None:
    mm = spread()
    before = state(mm, 1500)
    vma = mm.vmas()[1]
    for after in (0, 3, 30):
        with pytest.raises(Gives):
            mm.change_protection(vma.start + 8 * PAGE, 600, newprot=vma.page_prot, vm_flags=vma.flags, strategy=failing(after))
        assert state(mm, 1500) == before


def test_metadata_written_through_a_view_is_copied() -> None:
    mm = MM("7.3", nr_pages=1 << 17)
    assert not mm.copy().pages.any()
    mm.set_folio(1024, 0)
    assert mm.copy().pages[0] and not mm.copy().pages[1:].any()
    mm.pages[90_000] = 0x90
    assert mm.copy().copy().pages[90_000] == 0x90


def test_rows_of_folios_are_mapped_as_each_by_itself() -> None:
    """Orders without heads: one behind the other, each aligned."""
    rng = np.random.default_rng(1)
    for case in range(60):
        orders = rng.choice([0, 0, 0, 1, 2, 4, 5, 9], 12)
        if case % 3 == 0:
            orders = np.sort(orders)
        skip = int(rng.integers(1 << orders[0]))
        nr = int(np.left_shift(1, orders).sum()) - skip - int(rng.integers(1 << orders[-1]))
        exclusive = rng.random(nr) < 0.9 if case % 2 else None
        heads, at = [], 1024
        for order in orders:
            at = -(-at // (1 << order)) * (1 << order)
            heads.append(at)
            at += 1 << order
        spaces = []
        for how in ({}, {"heads": heads}):
            mm = MM("7.3", nr_pages=1 << 14)
            mm.mmap(BASE + 33 * PAGE, nr * PAGE, 3)
            first = mm.map_folios(BASE + 33 * PAGE, nr, orders=orders, skip=skip, exclusive=exclusive, **how)
            spaces.append((first, mm.ptes(BASE + 33 * PAGE, nr).tolist(), mm.pages.tobytes(), mm.alloc_folio(0)))
        assert spaces[0] == spaces[1]
        assert spaces[0][0] == heads[0] + skip and spaces[0][3] == at
