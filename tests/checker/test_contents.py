"""What worlds contain: each bit, kind of entry, call and border occurs, in small, random and full ones alike."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import numpy as np
import pytest

from ptebatch import bits as b
from ptebatch.checker.fulltables import full_machine, two_tables_machine
from ptebatch.checker.worlds.full import full_worlds
from ptebatch.checker.worlds.products import FAMILIES, chunks
from ptebatch.checker.worlds.random import random_chunks
from ptebatch.checker.worlds.shapes import codes
from ptebatch.checker.worlds.small import CHANGES, FAR, PFN0, SmallWorld, small_machine
from ptebatch.machine import Machine

MACHINE = Machine("7.3")
#: bits of a present entry that a world may set, and clear
BITS = {
    "USER": b.PTE_USER, "WRITE": b.PTE_WRITE, "RDONLY": b.PTE_RDONLY, "AF": b.PTE_AF, "DIRTY": b.PTE_DIRTY, "UXN": b.PTE_UXN,
    "GP": b.PTE_GP, "UFFD": b.PTE_UFFD, "SPECIAL": b.PTE_SPECIAL, "VALID": b.PTE_VALID, "tagged": 1 << 2, "key": 1 << 60,
    "57": 1 << 57, "59": 1 << 59, "63": 1 << 63,
}  # fmt: skip


def seen(words: np.ndarray) -> set[str]:
    """Bits that some present entry has and another lacks."""
    present = words[(words & np.uint64(b.PTE_VALID | b.PTE_NG)) != 0]
    return {name for name, bit in BITS.items() if 0 < np.count_nonzero(present & np.uint64(bit)) < present.size}


def full(tables: int, nr: int, machine: Machine = MACHINE, seed: int = 0) -> list[SmallWorld]:
    made = full_machine(machine) if tables == 1 else two_tables_machine(machine)
    return list(islice(full_worlds(made, seed, tables=tables), nr))


def words_of(worlds: Iterable[SmallWorld]) -> np.ndarray:
    return np.array([word for world in worlds for word in world.ptes], np.uint64)


def test_every_bit_occurs_in_small_worlds():
    small = small_machine(MACHINE)
    found = list(islice(chunks(small), 3000))
    # accessed and dirty are laid over the words by the sweep
    assert seen(np.concatenate([chunk.words.ravel() for chunk in found])) | {"AF", "DIRTY", "RDONLY"} == set(BITS)
    assert {name for chunk in found for name in chunk.changes} == set(CHANGES)
    assert {chunk.pfn_base for chunk in found} == {PFN0, FAR}


def test_every_bit_occurs_in_random_worlds():
    found = list(islice(random_chunks(small_machine(MACHINE, 4, 16), 0), 4))
    assert seen(np.concatenate([chunk.words.ravel() for chunk in found])) | {"AF", "DIRTY", "RDONLY"} == set(BITS)
    assert {name for chunk in found for name in chunk.changes} == set(CHANGES)
    assert {chunk.pfn_base for chunk in found} == {PFN0, FAR}


@pytest.mark.parametrize("tables", [1, 2])
def test_every_bit_call_and_border_occurs_in_full_tables(tables):
    worlds = full(tables, 200)
    assert seen(words_of(worlds)) == set(BITS)
    assert {world.change.name for world in worlds} == set(CHANGES)
    assert {world.pfn_base for world in worlds} == {PFN0, FAR}
    span = worlds[0].machine.ptrs_per_pte << worlds[0].machine.page_shift
    assert {world.address >> 32 > 0 for world in worlds} == {False, True}
    assert (1 << 48) - 2 * span in {world.address for world in worlds}
    assert {len(world.ptes) // world.machine.ptrs_per_pte for world in worlds} == {tables}


def test_every_kind_of_entry_is_in_a_family():
    named = {name for family in FAMILIES for name in family.codes.split()}
    known = set(codes(small_machine(Machine.parse("6.16,device_private=on"))))
    assert known - named == set() and set(CHANGES) <= {name for family in FAMILIES for name in family.changes.split()}


def test_a_folio_lies_across_the_border_of_two_tables():
    border = 0
    for world in full(2, 100):
        nr, shift = world.machine.ptrs_per_pte, world.machine.page_shift
        one, two = world.ptes[nr - 1], world.ptes[nr]
        if one & b.PTE_VALID and two & b.PTE_VALID and world.start < nr < world.end:
            pfn = [(word & (1 << 50) - 1) >> shift for word in (one, two)]
            order = world.pages[pfn[0] - world.pfn_base] & b.PG_ORDER_MASK
            border += pfn[1] == pfn[0] + 1 and pfn[0] >> order == pfn[1] >> order
    assert border >= 5


@pytest.mark.parametrize(("granule", "batch"), [("4K", 512), ("16K", 2048), ("64K", 8192)])
def test_batches_are_as_long_as_a_table(granule, batch):
    machine = Machine("7.3", granule=granule)
    worlds = full(1, 40, machine)
    assert {len(world.ptes) for world in worlds} == {batch}
    longest = 0
    for world in worlds:
        runs = np.diff(np.flatnonzero(np.diff(np.array(world.ptes, np.uint64) >> np.uint64(58), prepend=99, append=99)))
        longest = max(longest, int(runs.max()))
    assert longest == batch


def test_exclusivity_turns_behind_the_255th_page():
    turns = 0
    for world in full(1, 200):
        own = np.array([page >> 7 for page in world.pages[:512]])
        runs = np.diff(np.flatnonzero(np.diff(own, prepend=2, append=2)))
        turns += len(runs) > 1 and runs.max() > 255
    assert turns >= 10


@pytest.mark.parametrize("tables", [1, 2])
def test_an_anonymous_page_is_mapped_once(tables):
    for world in full(tables, 60):
        if world.change.vm_flags & b.VM_SHARED:
            continue
        anon = [pfn for pfn in world.frames() if 0 <= pfn - world.pfn_base < len(world.pages)]
        anon = [pfn for pfn in anon if world.pages[pfn - world.pfn_base] & b.PG_ANON]
        assert len(anon) == len(set(anon))


def test_hardware_acts_on_batches_of_a_whole_table_of_32():
    larger = small_machine(MACHINE, 16, 32)
    assert [chunk.updates for chunk in islice(random_chunks(larger, 0), 4)] == [0, 1, 0, 1]


def test_the_same_seed_draws_the_same_worlds_of_two_tables():
    assert full(2, 5) == full(2, 5) != full(2, 5, seed=1)


def test_a_world_of_two_tables_far_away_reads_back():
    for world in full(2, 20):
        text = {"folios": world.folios(), "call": f"{world.change.name} [{world.start}, {world.end})", "address": world.address}
        again = SmallWorld.parse(world.machine, world.strip(), **text)
        if len(again.ptes) == len(world.ptes) and world.folios():
            assert (again.ptes, again.address, again.pfn_base) == (world.ptes, world.address, world.pfn_base)


def test_anonymous_memory_maps_no_page_of_a_file():
    """Counterexamples were drawn with one, which Linux cannot have."""

    def impossible(words, pages, base: int, anonymous: bool) -> bool:
        for word in words:
            at = ((int(word) & (1 << 50) - 1) >> 12) - base
            mapped = int(word) & (b.PTE_VALID | b.PTE_NG) and not int(word) & b.PTE_SPECIAL and 0 <= at < len(pages)
            if anonymous and mapped and not int(pages[at]) & b.PG_ANON:
                return True
        return False

    for world in [*full(1, 40), *full(2, 40)]:
        assert not impossible(world.ptes, world.pages, world.pfn_base, world.change.anon)
    small = small_machine(MACHINE)
    for chunk in islice(chunks(small), 0, 4000, 37):
        anonymous = any(CHANGES[name].anon for name in chunk.changes)
        assert not any(
            impossible(row, pages, chunk.pfn_base, anonymous) for row, pages in zip(chunk.words[:40], chunk.pages, strict=False)
        )
    for chunk in islice(random_chunks(small_machine(MACHINE, 4, 16), 0), 2):
        for row in range(300):
            change = CHANGES[chunk.changes[row]]
            assert not impossible(chunk.words[row], chunk.pages[row], chunk.pfn_base, change.anon)
