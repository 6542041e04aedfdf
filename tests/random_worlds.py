"""Random page tables and calls for core and reference: small ones with everything, larger ones that repeat."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from differential import BASE, PFN, World
from hypothesis import event
from hypothesis import strategies as st

from ptebatch import bits as b
from ptebatch.kernels import ERAS
from ptebatch.machine import Machine

ZERO_PFN = 0x40

# What a present entry may look like (spec 2.1): WRITE, RDONLY, DIRTY.
CLEAN_RO, CLEAN_RW = (0, 1, 0), (1, 1, 0)
STATES = [CLEAN_RO, CLEAN_RW, (0, 1, 1), (1, 0, 0), (1, 0, 1)]


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    granule = draw(st.sampled_from(["4K", "16K", "64K"]))
    cont, ptrs = draw(st.sampled_from([(4, 16), (4, 8), (8, 16), (2, 8), (8, 8)]))
    return Machine(
        draw(st.sampled_from(list(ERAS))),
        granule,
        cont,
        ptrs,
        contpte=draw(st.sampled_from([True, True, True, False])),
        tlb_range=draw(st.booleans()),
        bbml=draw(st.integers(0, 3)),
        lpa2=granule != "64K" and draw(st.booleans()),
        kpti=draw(st.booleans()),
        repeat_tlbi=draw(st.booleans()),
        device_private=draw(st.booleans()),
    )


def word_of(machine: Machine, pfn: int, prot: int, state: tuple[int, int, int], young: bool) -> int:
    write, rdonly, dirty = state
    word = (prot & ~(b.PTE_WRITE | b.PTE_RDONLY | b.PTE_AF)) | pfn << machine.page_shift
    word |= write * b.PTE_WRITE | rdonly * b.PTE_RDONLY | dirty * b.PTE_DIRTY | young * b.PTE_AF
    return word & ~b.PTE_SHARED if machine.lpa2 else word


@st.composite
def folio_words(draw: st.DrawFn, world: World, room: int) -> list[int]:
    """A new folio and the words of some of its pages, alike but for a few."""
    machine = world.machine
    order = draw(st.integers(0, machine.pmd_order))
    last = world.folios[-1] if world.folios else (PFN, 0)
    head = (last[0] + (1 << last[1]) + (1 << order) - 1) >> order << order
    anon = draw(st.sampled_from([True, True, True, False]))
    world.folios.append((head, order, anon, draw(st.booleans()), draw(st.booleans())))
    pages = 1 << order
    first = draw(st.sampled_from([0, 0, 0, draw(st.integers(0, pages - 1))]))
    nr = min(draw(st.sampled_from([pages, pages, draw(st.integers(1, pages))])), pages - first, room)
    prot = draw(st.sampled_from([b.PAGE_READONLY, b.PAGE_READONLY, b.PAGE_READONLY_EXEC, b.PAGE_NONE]))
    prot |= draw(st.sampled_from([0, 0, 0, b.PTE_UFFD]))
    state, young = draw(st.sampled_from(STATES)), draw(st.booleans())
    words = []
    odd_ones = draw(st.sets(st.integers(0, nr - 1), max_size=3))
    for i in range(nr):
        odd = i in odd_ones
        this_state = draw(st.sampled_from(STATES)) if odd else state
        this_young = draw(st.booleans()) if odd else young
        if prot & b.PTE_VALID == 0 and this_state[0]:
            this_state = CLEAN_RO
        words.append(word_of(machine, head + first + i, prot, this_state, this_young))
    if anon:
        world.exclusive += draw_exclusive(draw, head, pages)
    return words


def draw_exclusive(draw: st.DrawFn, head: int, pages: int) -> list[int]:
    flips = draw(st.sets(st.integers(0, pages - 1), max_size=4))
    on, out = draw(st.booleans()), []
    for i in range(pages):
        on ^= i in flips
        if on:
            out.append(head + i)
    return out


@st.composite
def softleaf(draw: st.DrawFn, world: World) -> int:
    machine = world.machine
    kind = draw(st.integers(0, 31))
    flags = draw(st.sampled_from([0, b.PTE_SWP_EXCLUSIVE, b.PTE_SWP_UFFD]))
    if kind == b.SWP_TYPE_MASK:
        return kind << b.SWP_TYPE_SHIFT | draw(st.sampled_from([1, 2, 4])) << b.SWP_OFFSET_SHIFT
    offset = draw(st.integers(0, 7)) + 1
    if kind >= machine.swp_migration_read:
        offset = world.folios[draw(st.integers(0, len(world.folios) - 1))][0] if world.folios else 0
        if not offset:
            return 0
    return kind << b.SWP_TYPE_SHIFT | offset << b.SWP_OFFSET_SHIFT | flags


def fold(draw: st.DrawFn, machine: Machine, table: list[int], *, always: bool = False) -> None:
    """Give CONT to some of the blocks that may have it (spec 9, I-4), or had it painted by older kernels."""
    n = machine.cont_ptes
    ad = b.PTE_AF | b.PTE_DIRTY | b.PTE_RDONLY
    for i in range(0, len(table), n):
        block = table[i : i + n]
        alike = all((word - j * machine.page_size) & ~ad == block[0] & ~ad for j, word in enumerate(block))
        aligned = block[0] >> machine.page_shift & (n - 1) == 0
        known = block[0] & b.PTE_VALID or (machine.paint_invalid and block[0] & b.PTE_NG)
        if machine.contpte and alike and aligned and known and not block[0] & b.PTE_SPECIAL and (always or draw(st.booleans())):
            table[i : i + n] = [word | b.PTE_CONT for word in block]


@st.composite
def calls(draw: st.DrawFn, machine: Machine) -> dict[str, Any]:
    """Arguments of change_protection() that mprotect, NUMA balancing or userfaultfd could make."""
    prot = draw(st.sampled_from([1, 3, 3, 3, 0, 5, 7]))
    shared, notify = draw(st.booleans()), draw(st.booleans())
    flags = prot | (b.VM_SHARED if shared else 0)
    protection = b.PROTECTION_MAP[flags & ~b.VM_SHARED if shared and notify else flags]
    cp = b.MM_CP_TRY_CHANGE_WRITABLE if prot & 2 and (not shared or notify) else 0
    kind = draw(st.sampled_from(["mprotect"] * 5 + ["numa", "wp", "resolve"]))
    if kind == "numa":
        protection, cp = b.PAGE_NONE, b.MM_CP_PROT_NUMA
    elif kind == "wp":
        cp |= b.MM_CP_UFFD_WP
        flags |= b.VM_UFFD_WP
    elif kind == "resolve":
        cp |= b.MM_CP_UFFD_WP_RESOLVE
    if draw(st.sampled_from([False, False, False, True])):
        flags |= b.VM_UFFD_WP
    event(kind)
    if machine.lpa2:
        protection &= ~b.PTE_SHARED
    return {"newprot": protection, "cp_flags": cp, "vm_flags": flags, "anon": not shared and draw(st.booleans())}


@st.composite
def worlds(draw: st.DrawFn) -> World:
    world = World(draw(machines()))
    ptrs = world.machine.ptrs_per_pte
    words: list[int] = []
    while len(words) < 2 * ptrs:
        kind = draw(st.sampled_from(["folio"] * 6 + ["none", "softleaf", "zero"]))
        if kind == "folio":
            words += draw(folio_words(world, 2 * ptrs - len(words)))
        elif kind == "none":
            words += [0] * draw(st.integers(1, 4))
        elif kind == "softleaf":
            words.append(draw(softleaf(world)))
        else:
            words.append(word_of(world.machine, ZERO_PFN, b.PAGE_READONLY | b.PTE_SPECIAL, CLEAN_RO, True))
    for i in (0, ptrs):
        table = words[i : i + ptrs]
        fold(draw, world.machine, table)
        world.tables.append(table)
    world.tables.insert(draw(st.integers(0, 2)), draw(st.sampled_from([None, [0] * ptrs])))
    total = 3 * ptrs
    first = draw(st.sampled_from([0, draw(st.integers(0, total - 1))]))
    world.start = BASE + first * world.machine.page_size
    world.nr = draw(st.sampled_from([total - first, draw(st.integers(1, total - first))]))
    world.call = draw(calls(world.machine))
    return world


@st.composite
def repetitive_worlds(draw: st.DrawFn) -> World:
    """Many folios alike, as real mappings have them, with a few exceptions: what the core takes shortcuts for."""
    machine = draw(machines())
    cont, ptrs = draw(st.sampled_from([(4, 64), (8, 128), (16, 512)]))
    machine = replace(machine, cont_ptes=cont, ptrs_per_pte=ptrs, kpti=False)
    world = World(machine)
    order = draw(st.integers(0, machine.pmd_order))
    anon, numa_skip, shared = draw(st.sampled_from([True, True, False])), draw(st.booleans()), draw(st.booleans())
    prot = draw(st.sampled_from([b.PAGE_READONLY, b.PAGE_READONLY, b.PAGE_READONLY_EXEC, b.PAGE_NONE]))
    states = [CLEAN_RO] if prot == b.PAGE_NONE else STATES
    period = 1 << order if order > 1 else cont
    pattern = [(draw(st.sampled_from(states)), True, True)] * period
    for i in draw(st.lists(st.integers(0, period - 1), max_size=3)):
        pattern[i] = draw(st.tuples(st.sampled_from(states), st.booleans(), st.booleans()))
    shift = draw(st.sampled_from([0, 0, 0, 1]))
    words: list[int] = [0] * shift
    pfn = PFN + (1 << machine.pmd_order) & -(1 << machine.pmd_order)
    for i in range(2 * ptrs - shift):
        if i % (1 << order) == 0:
            world.folios.append((pfn + i, order, anon, numa_skip, shared))
        state, young, exclusive = pattern[i % period]
        words.append(word_of(machine, pfn + i, prot, state, young))
        if anon and exclusive:
            world.exclusive.append(pfn + i)
    for i in draw(st.sets(st.integers(0, 2 * ptrs - 1), max_size=2)):
        words[i] = draw(st.sampled_from([0, words[i] ^ b.PTE_AF, words[i] | b.PTE_UFFD]))
    everywhere = draw(st.booleans())
    world.tables = [words[:ptrs], words[ptrs:]]
    for table in world.tables:
        fold(draw, machine, table, always=everywhere)
    first = draw(st.sampled_from([0, 0, draw(st.integers(0, 2 * ptrs - 1))]))
    world.start = BASE + first * machine.page_size
    world.nr = draw(st.sampled_from([2 * ptrs - first, draw(st.integers(1, 2 * ptrs - first))]))
    world.call = draw(calls(machine))
    return world
