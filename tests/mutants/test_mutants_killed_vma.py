"""VMAs, limits and keys: facts that a seeded fault broke and that hardly another test saw (``python -m tests.mutants``).

Worked out by hand from the specification, sections 6.1 to 6.4.
"""

from __future__ import annotations

import errno

from ptebatch import MM, bits
from ptebatch.errors import MprotectError

BASE = 1 << 40
PAGE = 4096
RO, RW = 1, 3


def vma_space(*rows, **limits) -> MM:
    """VMAs of (first page, pages, prot, keywords of mmap); those of keyword `fault` have a page mapped."""
    mm = MM("7.3", nr_pages=1 << 10)
    for page, nr, prot, how in rows:
        fault = how.pop("fault", False)
        mm.mmap(BASE + page * PAGE, nr * PAGE, prot, **how)
        if fault:
            mm.map_folios(BASE + page * PAGE, 1)
    mm.set_limits(**limits)
    return mm


def change(mm: MM, page: int, nr: int, prot: int, **how) -> int:
    """errno of mprotect(), 0: none."""
    try:
        mm.mprotect(BASE + page * PAGE, nr * PAGE, prot, **how)
    except MprotectError as error:
        return int(error.errno or -1)
    return 0


def pages_of(mm: MM) -> list[tuple[int, int]]:
    return [((v.start - BASE) // PAGE, (v.end - BASE) // PAGE) for v in mm.vmas()]


def test_every_allocated_key_is_taken_and_replaces_the_last():
    mm = vma_space((0, 4, RW, {}))
    keys = [mm.pkey_alloc() for _ in range(7)]
    assert keys == [1, 2, 3, 4, 5, 6, 7]
    for key in (1, 2, 7, 4):
        assert change(mm, 0, 4, RW, pkey=key) == 0
        assert mm.vmas()[0].flags >> 32 & 7 == key


def test_pages_that_become_writable_count_as_data():
    mm = vma_space((0, 10, RO, {}), (20, 1, RO, {}), data_pages=10)
    assert change(mm, 0, 10, RW) == 0
    assert change(mm, 20, 1, RW) == errno.ENOMEM


def test_a_charge_is_given_back_when_the_call_fails():
    mm = vma_space((0, 10, RO, {}), commit_pages=4, map_count=1)
    assert change(mm, 3, 4, RW) == errno.ENOMEM
    mm.set_limits(map_count=8)
    assert change(mm, 3, 4, RW) == 0, "the failed call left nothing charged"


def test_memory_without_reservation_is_not_charged():
    mm = vma_space((0, 4, RO, {"vm_flags": bits.VM_NORESERVE}), (8, 4, RO, {}), commit_pages=3)
    assert change(mm, 0, 4, RW) == 0
    assert change(mm, 8, 4, RW) == errno.ENOMEM


def test_memory_that_was_never_written_is_charged_no_more_once_read_only():
    mm = vma_space((0, 4, RO, {}), commit_pages=4)
    for _ in range(3):
        assert change(mm, 0, 4, RW) == 0
        assert change(mm, 0, 4, RO) == 0


def test_a_merged_vma_has_the_ancestry_of_its_faulted_part():
    faulted = {"fault": True}
    mm = vma_space((0, 4, RW, {}), (4, 4, RO, {**faulted}), (12, 4, RW, {**faulted}), (8, 4, RO, {}))
    assert change(mm, 4, 4, RW) == 0 and pages_of(mm) == [(0, 8), (8, 12), (12, 16)]
    assert change(mm, 8, 4, RW) == 0 and pages_of(mm) == [(0, 12), (12, 16)], "two ancestries stay apart"


def test_three_vmas_that_merge_keep_the_sticky_flags_of_each():
    for dirty in range(3):
        rows = [(4 * i, 4, RO if i == 1 else RW, {"vm_flags": bits.VM_SOFTDIRTY if i == dirty else 0}) for i in range(3)]
        mm = vma_space(*rows)
        assert change(mm, 4, 4, RW) == 0 and pages_of(mm) == [(0, 12)]
        assert mm.vmas()[0].flags & bits.VM_SOFTDIRTY


def test_a_file_that_wants_to_hear_of_first_writes_stays_read_only():
    """page_prot is that of private memory: RDONLY, without WRITE (spec 6.6)."""
    shared = {"shared": True, "file": 1}
    mm = vma_space((0, 1, RW, shared | {"writenotify": True}), (2, 1, RW, dict(shared)), (4, 1, RW, {}))
    told, untold, private = (v.page_prot for v in mm.vmas())
    assert told == private and told & bits.PTE_RDONLY and not told & bits.PTE_WRITE
    assert untold & bits.PTE_WRITE


def test_addresses_far_apart_share_no_table():
    far = [BASE, BASE + (1 << 39), BASE + (1 << 46)]
    mm = MM("7.3", nr_pages=64)
    for at in far:
        mm.mmap(at, PAGE, RW)
        mm.map_folios(at, 1)
    mm.mprotect(far[1], PAGE, RO)
    assert len({int(mm.ptes(at, 1)[0]) >> 12 & 0xFFFF for at in far}) == 3
    assert [bool(int(mm.ptes(at, 1)[0]) & bits.PTE_WRITE) for at in far] == [True, False, True]
