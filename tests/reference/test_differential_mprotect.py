"""Core against reference: sequences of mprotect() over several VMAs, with errors in the middle."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import differential as low
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from random_worlds import worlds

from ptebatch import MM, MprotectError
from ptebatch import bits as b
from ptebatch.machine import Machine
from ptebatch.reference import DESIGNS, RefMM, RefVma

BASE = low.BASE


@dataclass
class Space:
    """An address space with VMAs, tables behind them, and the calls to make."""

    world: Any
    vmas: list[dict[str, Any]] = field(default_factory=list)
    touched: list[int] = field(default_factory=list)
    limits: dict[str, Any] = field(default_factory=dict)
    calls: list[dict[str, Any]] = field(default_factory=list)


def build(space: Space) -> tuple[MM, RefMM]:
    core, reference = space.world.core(), space.world.reference()
    for vma in space.vmas:
        core.mmap(**vma)
    core.set_limits(**space.limits)
    core.pkey_alloc()
    reference.pkeys.add(1)
    for name, value in space.limits.items():
        if name == "map_count":
            reference.vma_list.map_count_limit = value
        else:
            setattr(reference.limits, name, value)
    # From here on both have the same VMAs, whoever made them.
    reference.vma_list.vmas = [RefVma(*vma) for vma in core.vmas()]
    return core, reference


@st.composite
def vma_lists(draw: st.DrawFn, machine: Machine, pages: int) -> list[dict[str, Any]]:
    out, at = [], draw(st.sampled_from([0, 0, 1]))
    while at < pages:
        nr = draw(st.sampled_from([draw(st.integers(1, pages - at)), min(4, pages - at)]))
        vma: dict[str, Any] = {
            "start": BASE + at * machine.page_size,
            "length": nr * machine.page_size,
            "prot": draw(st.sampled_from([1, 3, 3, 3, 0, 5, 7])),
        }
        kind = draw(st.sampled_from(["anon"] * 5 + ["file", "shared"]))
        if kind != "anon":
            vma |= {"file": draw(st.integers(1, 2)), "shared": kind == "shared"}
            vma["writenotify"] = draw(st.booleans())
        flags = draw(st.sampled_from([0] * 12 + [b.VM_SEALED, b.VM_UFFD_WP, b.VM_GROWSDOWN, b.VM_NORESERVE, b.VM_ACCOUNT]))
        sticky = b.VM_MAYBE_GUARD if machine.kernel == "7.3" else 0
        vma["vm_flags"] = flags | draw(st.sampled_from([0, 0, 0, b.VM_MTE_ALLOWED, b.VM_SOFTDIRTY, sticky, b.VM_MIXEDMAP]))
        vma["may"] = 7 if draw(st.integers(0, 9)) else draw(st.integers(0, 7)) | vma["prot"]
        out.append(vma)
        at += nr + draw(st.sampled_from([0] * 8 + [1]))
    return out


@st.composite
def mprotect_calls(draw: st.DrawFn, machine: Machine, pages: int) -> dict[str, Any]:
    first = draw(st.integers(0, pages))
    nr = draw(st.integers(1, pages))
    start, length = BASE + first * machine.page_size, nr * machine.page_size
    prot = draw(st.sampled_from([1, 1, 3, 3, 3, 0, 5, 7, 4]))
    odd = draw(st.sampled_from([None] * 12 + ["unaligned", "empty", "huge", "short", "tag", "prot", "grows", "pkey", "below"]))
    call = {"start": start, "length": length, "prot": prot, "pkey": -1}
    if odd:
        event(odd)
        call |= {
            "unaligned": {"start": start + 8},
            "empty": {"length": 0},
            "huge": {"length": (1 << 64) - 8},
            "short": {"length": length - 5},
            "tag": {"start": start | 0xAB << 56},
            "prot": {"prot": prot | draw(st.sampled_from([8, 0x10, 0x20, 0x40]))},
            "grows": {"prot": prot | draw(st.sampled_from([0x0100_0000, 0x0200_0000, 0x0300_0000]))},
            "pkey": {"pkey": draw(st.integers(0, 3))},
            "below": {"start": BASE - machine.page_size},
        }[odd]
    call["strategy"] = draw(st.sampled_from(sorted(DESIGNS)))
    return call


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    world = draw(worlds())
    old = world.machine
    world.machine = Machine(
        old.kernel,
        old.granule,
        old.cont_ptes,
        old.ptrs_per_pte,
        lpa2=old.lpa2,
        tlb_range=old.tlb_range,
        bti=draw(st.booleans()),
        mte=draw(st.booleans()),
        epan=draw(st.booleans()),
        mdwe=draw(st.sampled_from([False] * 6 + [True])),
    )
    pages = len(world.tables) * old.ptrs_per_pte
    space = Space(world, draw(vma_lists(world.machine, pages)))
    if draw(st.sampled_from([True, False, False, False])):
        space.limits = {
            "map_count": len(space.vmas) + draw(st.integers(0, 2)),
            "data_pages": draw(st.integers(0, pages)),
            "commit_pages": draw(st.integers(0, pages)),
            "read_implies_exec": draw(st.booleans()),
        }
    space.calls = draw(st.lists(mprotect_calls(world.machine, pages), min_size=1, max_size=4))
    return space


def attempt(mm: Any, call: dict[str, Any], **extra: Any) -> tuple[Any, int, int]:
    try:
        return mm.mprotect(**call, **extra), 0, 0
    except MprotectError as error:
        return error.result, error.errno, error.addr


def vma_facts(vmas: list[Any]) -> list[tuple[Any, ...]]:
    facts = [(v.start, v.end, v.flags, v.page_prot, v.pgoff, v.file, v.anon_vma, v.writenotify) for v in vmas]
    return [tuple(hex(x) for x in each) for each in facts]


def different_vmas(core: MM, reference: RefMM) -> list[Any]:
    pairs = zip_longest(vma_facts(core.vmas()), vma_facts(reference.vmas()))
    return [(ours, theirs) for ours, theirs in pairs if ours != theirs]


def place(mm: RefMM, addr: int) -> int:
    """The VMA in which a call stopped, or the hole."""
    vma = mm.vma_list.find(addr)
    return vma.start if vma and vma.start <= addr else addr


def check(space: Space) -> None:
    core, reference = build(space)
    assert not different_vmas(core, reference)
    for i, call in enumerate(space.calls):
        seen: list[Any] = []
        plain = core.copy()
        got, errno, addr = attempt(core, call, trace=True)
        want, ref_errno, ref_addr = attempt(reference, call, observer=lambda *each, seen=seen: seen.append(each))
        event(f"errno {errno}")
        stopped = [(errno, hex(place(reference, addr))), (ref_errno, hex(place(reference, ref_addr)))]
        assert stopped[0] == stopped[1], f"call {i}: {stopped}"
        wrong_vmas = different_vmas(core, reference)
        assert not wrong_vmas, f"call {i}: {wrong_vmas}"
        differences = low.different(low.outcome(got), low.outcome(want))
        assert not differences, f"call {i}: {differences}"
        wrong_event = low.first_difference(got.trace, seen)
        assert wrong_event is None, f"call {i}: event {wrong_event}"
        untraced, *stopped_too = attempt(plain, call)
        assert (stopped_too, low.outcome(untraced)) == ([errno, addr], low.outcome(got)), f"call {i}: untraced"
        assert vma_facts(plain.vmas()) == vma_facts(core.vmas())
        for table, _ in space.world.present():
            page = space.world.machine.page_size
            words = [reference.ptes[table + j * page] for j in range(space.world.machine.ptrs_per_pte)]
            assert core.leaf(table).tolist() == words, f"call {i}: words of {table:#x}"
            assert plain.leaf(table).tolist() == words, f"call {i}: untraced words of {table:#x}"


@given(space=spaces())
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_mprotect_sequences_agree(space: Space) -> None:
    check(space)


@pytest.mark.parametrize("make", [lambda: MM(Machine(), nr_pages=16), lambda: RefMM(Machine())], ids=["core", "reference"])
def test_read_only_and_writable_again_is_one_vma(make: Any) -> None:
    """Private writable memory is charged when it is mapped: the flags of the parts are equal again."""
    mm = make()
    mm.mmap(BASE, 16 << 12, 3)
    before = vma_facts(mm.vmas())
    assert mm.mprotect(BASE + (4 << 12), 4 << 12, 1).counters["vma_splits"] == 2
    assert mm.mprotect(BASE + (4 << 12), 4 << 12, 3).counters["vma_merges"] == 1
    assert vma_facts(mm.vmas()) == before


@pytest.mark.parametrize("make", [lambda: MM(Machine(), nr_pages=16), lambda: RefMM(Machine())], ids=["core", "reference"])
def test_two_shared_anonymous_mappings_never_merge(make: Any) -> None:
    """Each MAP_SHARED | MAP_ANONYMOUS mapping has a file of its own behind it."""
    mm = make()
    mm.mmap(BASE, 4 << 12, 1, shared=True)
    mm.mmap(BASE + (4 << 12), 4 << 12, 3, shared=True)
    assert mm.mprotect(BASE, 4 << 12, 3).counters["vma_merges"] == 0
    assert [vma.end - vma.start for vma in mm.vmas()] == [4 << 12, 4 << 12]
