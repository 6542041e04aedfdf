"""One fact each that a seeded fault broke and that hardly another test saw (``python -m tests.mutants``).

Worked out by hand from the specification; each test's name tells the fact.
"""

from __future__ import annotations

import numpy as np
import pytest

from ptebatch import MM, Machine, bits
from ptebatch.arm64.accessors import predicates, pte_pfn
from ptebatch.errors import StrategyError
from ptebatch.events import KINDS

BASE = 1 << 40
PAGE = 4096
NONE, RO, RW = 0, 1, 3
CONT = np.uint64(bits.PTE_CONT)


def mapped(machine: str = "7.3", nr: int = 16, order: int = 4, **how) -> MM:
    """A private anonymous RW mapping of `nr` pages at BASE, folios side by side, folded where they can be."""
    mm = MM(Machine.parse(machine), nr_pages=1 << 14)
    mm.mmap(BASE, nr * PAGE, RW)
    mm.map_folios(BASE, nr, order, **how)
    return mm


def far_apart(machine: str, pages: int) -> dict[str, int]:
    """mprotect() of a mapping with one page mapped at either end: its one flush covers it all."""
    mm = MM(Machine.parse(machine), nr_pages=1 << 10)
    mm.mmap(BASE, pages * PAGE, RW)
    for at in (0, pages - 1):
        mm.map_folios(BASE + at * PAGE, 1)
    return mm.mprotect(BASE, pages * PAGE, RO).counters


def one_page(machine: str) -> dict[str, int]:
    """mprotect() of the first page of a folded block: one conversion, one final flush of a page."""
    return mapped(machine).mprotect(BASE, PAGE, RO).counters


# ---- flushes ----

MOST = 32 << 16


@pytest.mark.parametrize(
    ("pages", "ranges", "asids"),
    [(2048, 1, 0), (65536 + 2048, 2, 0), (MOST, 1, 0), (MOST + 1, 0, 1)],
)
def test_a_range_flush_takes_an_instruction_a_scale_and_reaches_two_million_pages(pages, ranges, asids):
    got = far_apart("7.3", pages)
    assert got["flush_pages"] == pages
    assert (got["flush_rvale1is"], got["flush_vale1is"], got["flush_aside1is"]) == (ranges, 0, asids)


@pytest.mark.parametrize(("pages", "one_by_one", "asids"), [(511, 511, 0), (512, 0, 1)])
def test_without_ranges_a_whole_table_is_one_asid_flush(pages, one_by_one, asids):
    got = far_apart("7.3,tlb_range=off", pages)
    assert (got["flush_vale1is"], got["flush_aside1is"], got["flush_rvale1is"]) == (one_by_one, asids, 0)


@pytest.mark.parametrize(
    ("machine", "barriers"), [("7.3", 2), ("7.3,asid_extra_dsb=on", 3), ("6.17", 3), ("7.3,asid_extra_dsb=on,repeat_tlbi=on", 4)]
)
def test_an_asid_flush_has_two_barriers_and_one_more_before_7_3(machine, barriers):
    assert far_apart(machine, MOST + 1)["flush_dsb"] == barriers


def test_a_range_flush_has_two_barriers_on_every_kernel():
    assert {far_apart(kernel, 1000)["flush_dsb"] for kernel in ("6.12", "6.16", "6.17", "7.3")} == {2}


def test_repeat_tlbi_adds_one_instruction_and_one_barrier_to_each_flush():
    for kpti in ("", ",kpti=on"):
        plain, repeated = one_page("7.3" + kpti), one_page("7.3,repeat_tlbi=on" + kpti)
        more = {name: repeated[name] - plain[name] for name in plain if repeated[name] != plain[name]}
        assert more == {"convert_vale1is": 1, "convert_dsb": 1, "flush_vale1is": 1, "flush_dsb": 1}


def test_kpti_flushes_each_page_for_both_address_spaces():
    plain, kpti = one_page("7.3"), one_page("7.3,kpti=on")
    more = {name: (plain[name], kpti[name]) for name in plain if kpti[name] != plain[name]}
    assert more == {"convert_rvale1is": (1, 2), "flush_vale1is": (1, 2)}
    assert plain["convert_tlbi_ops_range"] == 1


@pytest.mark.parametrize(("first", "singles"), [(0, 0), (1, 15), (8, 8)])
def test_a_range_instruction_of_lpa2_begins_at_64k(first, singles):
    mm = mapped("7.3,lpa2=on", nr=48)
    got = mm.mprotect(BASE + first * PAGE, (32 - first) * PAGE, RO).counters
    assert (got["flush_vale1is"], got["flush_rvale1is"]) == (singles, 1)


def test_the_trace_of_a_flush_is_between_its_barriers():
    mm = mapped("7.3,repeat_tlbi=on")
    trace = mm.mprotect(BASE, 16 * PAGE, RO, trace=True).trace
    named = [(KINDS[int(kind)], int(addr), int(value)) for kind, addr, value in trace if 5 <= kind <= 9]
    assert [name for name, *_ in named] == [KINDS[kind] for kind in (8, 6, 9, 5, 9)]
    assert named[1][1:] == (BASE, 16) and named[3][1] == BASE


# ---- contpte ----


@pytest.mark.parametrize(("kernel", "painted"), [("6.12", True), ("6.16", True), ("6.17", True), ("7.3", False)])
def test_prot_none_blocks_stay_painted_before_7_3(kernel, painted):
    mm = mapped(kernel)
    mm.mprotect(BASE, 16 * PAGE, NONE, strategy="folio")
    assert ((mm.ptes(BASE, 16) & CONT) != 0).tolist() == [painted] * 16


def test_single_and_partial_unfolds_are_told_apart():
    single = mapped().mprotect(BASE, PAGE, RO).counters
    partial = mapped().mprotect(BASE, 2 * PAGE, RO).counters
    assert [(c["unfolds"], c["unfold_single"], c["start_multi"], c["set_ptes_multi"]) for c in (single, partial)] == [
        (1, 1, 0, 0),
        (1, 0, 1, 1),
    ]


def test_access_flags_of_a_folded_block_go_to_all_its_entries():
    mm = mapped(young=False, dirty=False, exclusive=np.zeros(16, bool))
    block = mm.ptes(BASE, 16)
    assert (block & CONT).all() and not (block & np.uint64(bits.PTE_AF)).any()
    assert mm.set_access_flags(BASE + 5 * PAGE, int(block[5]) | bits.PTE_AF)
    assert (block & np.uint64(bits.PTE_CONT | bits.PTE_AF) == np.uint64(bits.PTE_CONT | bits.PTE_AF)).all()


VERBS = {
    "set_pte_at": (lambda mm, at: mm.set_pte_at(at, 0), 1, False),
    "clear_full_ptes of one": (lambda mm, at: mm.clear_full_ptes(at), 1, False),
    "clear_full_ptes of three": (lambda mm, at: mm.clear_full_ptes(at, 3), 3, False),
    "wrprotect_ptes of one": (lambda mm, at: mm.wrprotect_ptes(at), 1, False),
    "wrprotect_ptes of three": (lambda mm, at: mm.wrprotect_ptes(at, 3), 3, False),
    "test_and_clear_young": (lambda mm, at: mm.test_and_clear_young(at), 16, True),
    "clear_young_dirty": (lambda mm, at: mm.clear_young_dirty(at), 16, True),
    "hw_update": (lambda mm, at: mm.hw_update(at, True), 1, True),
}


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_on_part_of_a_folded_block(name):
    verb, touched, folded = VERBS[name]
    mm = mapped(young=name != "hw_update")
    block = mm.ptes(BASE, 16)
    before = block & ~CONT
    verb(mm, BASE + 5 * PAGE)
    assert ((block & CONT) != 0)[[0, 4, 8, 15]].tolist() == [folded] * 4
    changed = np.flatnonzero((block & ~CONT) != before).tolist()
    assert changed == (list(range(16)) if touched == 16 else list(range(5, 5 + touched)))


def test_ageing_ends_with_the_block_that_ends_the_range():
    mm = mapped(nr=48)
    mm.clear_young_dirty(BASE + 16 * PAGE, 16, dirty=False)
    words = mm.ptes(BASE, 48)
    assert ((words & np.uint64(bits.PTE_AF)) == 0).tolist() == [False] * 16 + [True] * 16 + [False] * 16
    assert (words & np.uint64(bits.PTE_DIRTY)).all(), "young and dirty are cleared each by itself"


# ---- one entry ----


def test_a_frame_number_fills_the_address_field():
    most = (1 << bits.PTE_ADDR_END) - 1
    assert pte_pfn(most) == most >> 12 and pte_pfn(most + 1) == 0


def test_an_invalidated_entry_is_not_prot_none():
    none = bits.PAGE_NONE
    assert predicates(none)["protnone"] and not predicates(none & ~bits.PTE_UXN)["protnone"]
    assert predicates(none & ~bits.PTE_UXN)["present_invalid"]


# ---- the walk ----


def test_each_table_is_locked_once_and_each_vma_walked_once():
    mm = mapped(nr=1024, order=9)
    got = mm.mprotect(BASE, 1024 * PAGE, RO).counters
    assert (got["pte_locks"], got["vmas_walked"]) == (2, 1)


def test_a_writable_device_entry_keeps_its_userfaultfd_bit():
    machine = Machine.parse("7.3,device_private=on")
    mm = MM(machine, nr_pages=16)
    mm.populate(BASE, PAGE)
    leaf = mm.ptes(BASE, 1)
    word = machine.swp_device_write << bits.SWP_TYPE_SHIFT | 9 << bits.SWP_OFFSET_SHIFT
    leaf[0] = word | bits.PTE_SWP_UFFD
    got = mm.change_protection(BASE, 1, newprot=bits.PAGE_READONLY, vm_flags=bits.VM_READ)
    assert got.pages == 1
    assert int(leaf[0]) == word + (1 << bits.SWP_TYPE_SHIFT) | bits.PTE_SWP_UFFD


def test_tables_of_two_upper_tables_are_walked():
    edge = BASE + (1 << 30)
    mm = MM("7.3", nr_pages=64)
    mm.mmap(edge - 2 * PAGE, 4 * PAGE, RW)
    mm.map_folios(edge - 2 * PAGE, 4)
    assert mm.mprotect(edge - 2 * PAGE, 4 * PAGE, RO).pages == 4
    assert not any(int(word) & bits.PTE_WRITE for side in (edge - 2 * PAGE, edge) for word in mm.ptes(side, 2))


def test_a_page_that_is_asked_for_in_part_is_changed():
    mm = mapped(nr=4, order=0)
    assert mm.mprotect(BASE, PAGE + 1, RO).pages == 2


def writable_beside(index: int) -> bool:
    """Whether an entry becomes writable whose frame has no metadata, next to the first or the last that has."""
    mm = MM("7.3", pfn_base=1024, nr_pages=8)
    mm.mmap(BASE, 8 * PAGE, RO)
    mm.map_folios(BASE, 8)
    leaf = mm.ptes(BASE, 8)
    leaf[0] = (leaf[0] & np.uint64(PAGE - 1 | 0xFFFF << 48)) | np.uint64((1024 + index) * PAGE)
    assert mm.mprotect(BASE, 8 * PAGE, RW).pages == 8
    assert (leaf[1:] & np.uint64(bits.PTE_WRITE)).all()
    return bool(int(leaf[0]) & bits.PTE_WRITE)


def test_frames_without_metadata_are_never_exclusive():
    assert [writable_beside(index) for index in (-1, 0, 7, 8)] == [False, True, True, False]


def test_a_folio_ends_with_its_metadata():
    mm = MM("7.3", pfn_base=1024, nr_pages=8)
    mm.mmap(BASE, 16 * PAGE, RW)
    mm.populate(BASE, 16 * PAGE)
    mm.pages[:] = bits.PG_ANON | 4
    mm.ptes(BASE, 16)[:] = [bits.PAGE_READONLY | (1024 + i) * PAGE for i in range(16)]
    assert mm.mprotect(BASE, 16 * PAGE, NONE).batches == [[1, 8], [8, 1]]


def test_metadata_ends_with_its_last_page():
    mm = MM("7.3", pfn_base=1024, nr_pages=8)
    mm.mmap(BASE, 8 * PAGE, RO)
    mm.map_folios(BASE, 8)

    def step(window):
        window.page_anon_exclusive(7)
        window.page_anon_exclusive(8)

    with pytest.raises(StrategyError, match="page 0x408 does not exist"):
        mm.mprotect(BASE, 8 * PAGE, RW, strategy=step)


# ---- mapping folios ----


@pytest.mark.parametrize(("order", "exclusive", "folded"), [(4, 16, True), (4, 0, True), (4, 9, False), (3, 16, False)])
def test_a_block_is_mapped_folded_if_one_folio_covers_it_and_its_pages_are_alike(order, exclusive, folded):
    mask = np.arange(16) < exclusive
    words = mapped(order=order, exclusive=mask).ptes(BASE, 16)
    assert ((words & CONT) != 0).tolist() == [folded] * 16
    assert ((words & np.uint64(bits.PTE_WRITE)) != 0).tolist() == mask.tolist()


def test_a_folio_may_end_in_the_next_table():
    start = BASE + 504 * PAGE
    mm = MM("7.3", nr_pages=1 << 10)
    mm.mmap(start, 32 * PAGE, RW)
    first = mm.map_folios(start, 32, orders=np.array([4, 4]))
    words = np.concatenate([mm.ptes(start, 8), mm.ptes(start + 8 * PAGE, 24)])
    frames = (words & np.uint64((1 << 48) - PAGE)) >> np.uint64(12)
    assert frames.tolist() == list(range(first, first + 32))


def test_what_is_writable_already_is_not_asked():
    mm = mapped(exclusive=np.arange(16) % 2 == 0)
    found = mm.change_protection(
        BASE, 16, newprot=bits.PAGE_SHARED, cp_flags=bits.MM_CP_TRY_CHANGE_WRITABLE, vm_flags=bits.VM_READ | bits.VM_WRITE
    )
    assert found["pae_reads"] == 0 and found["writable_checks"] == 0


def test_without_vm_write_nothing_becomes_writable():
    mm = mapped()
    mm.mprotect(BASE, 16 * PAGE, RO)
    mm.change_protection(BASE, 16, newprot=bits.PAGE_READONLY, cp_flags=bits.MM_CP_TRY_CHANGE_WRITABLE, vm_flags=bits.VM_READ)
    assert not (mm.ptes(BASE, 16) & np.uint64(bits.PTE_WRITE)).any()


def test_prot_none_never_becomes_writable():
    how = {"newprot": bits.PAGE_NONE, "cp_flags": bits.MM_CP_TRY_CHANGE_WRITABLE, "vm_flags": bits.VM_READ | bits.VM_WRITE}
    for before in (RW, RO):
        mm = mapped()
        mm.mprotect(BASE, 16 * PAGE, before)
        mm.change_protection(BASE, 16, **how)
        assert not (mm.ptes(BASE, 16) & np.uint64(bits.PTE_WRITE | bits.PTE_VALID)).any()


@pytest.mark.parametrize("shift", range(21, 47))
def test_addresses_that_differ_in_one_bit_have_their_own_entries(shift):
    mm = MM(Machine(), nr_pages=1 << 10)
    for at in (1 << 47, 1 << 47 | 1 << shift):
        mm.mmap(at, PAGE, RW)
        mm.map_folios(at, 1)
    mm.mprotect(1 << 47, PAGE, RO)
    one, other = (int(mm.ptes(at, 1)[0]) for at in (1 << 47, 1 << 47 | 1 << shift))
    assert pte_pfn(one) != pte_pfn(other)
    assert not one & bits.PTE_WRITE and other & bits.PTE_WRITE
