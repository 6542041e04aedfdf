"""Workloads: what each costs and leaves, and that every kernel and size of folios can live them."""

from __future__ import annotations

import json

import pytest

from ptebatch.errors import LayoutError
from ptebatch.machine import MACHINES, Machine
from ptebatch.reference import pte as p
from ptebatch.workloads import WORKLOADS, parse, run_workload

SMALL = {
    "decommit": "decommit,size=1M,rounds=1",
    "lazy-free": "lazy-free,size=1M,rounds=1",
    "thread-stacks": "thread-stacks,size=64K,rounds=1,threads=3",
    "relro": "relro,size=64K,libraries=3",
}


def small(name: str) -> str:
    return SMALL.get(name, f"{name},size=1M,rounds=2")


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("folio", [0, 32 << 10, 64 << 10, 2 << 20])
def test_every_kernel_lives_it(name, folio):
    lived = {kernel: run_workload(small(name), Machine(kernel), folio) for kernel in MACHINES}
    for one in lived.values():
        assert sum(one.calls.values()) > 0 and one.rounds
        assert all(0 <= each.share <= 1 for each in one.rounds)
        json.dumps(one.to_dict())
    # what the program does is the same everywhere, but where a signal tells it to
    if name != "gc-barrier":
        assert len({json.dumps(one.calls) for one in lived.values()}) == 1


@pytest.mark.parametrize("granule", ["16K", "64K"])
def test_other_granules_live_it(granule):
    machine = Machine(granule=granule)
    block = machine.cont_ptes * machine.page_size
    one = run_workload(f"gc-barrier,size={4 * block // 1024}K,rounds=1", machine, block)
    assert one.rounds[0].share == 1 > one.rounds[-1].share


def test_6_16_refolds_what_later_kernels_leave_unfolded():
    text = "gc-barrier,size=2M,rounds=3"
    old, new = (run_workload(text, Machine(kernel), 64 << 10) for kernel in ("6.16", "6.18"))
    assert old.rounds[-1].share > 0.8 > 0.4 > new.rounds[-1].share
    assert old.counters["folds"] > 10 * new.counters["folds"]
    # and pays for it
    assert old.tlbi > new.tlbi


def test_6_12_copies_what_later_kernels_reuse():
    text = "checkpoint,size=1M,rounds=1"
    old, new = (run_workload(text, Machine(kernel), 64 << 10) for kernel in ("6.12", "6.16"))
    assert old.counters["wp_page_copy"] > new.counters["wp_page_copy"]
    assert new.counters["wp_page_reuse"] > old.counters["wp_page_reuse"]
    # pages of their own are reused in both
    plain = [run_workload(text, Machine(kernel)).counters["wp_page_copy"] for kernel in ("6.12", "6.16")]
    assert plain[0] == plain[1]


def test_a_folio_of_which_a_part_is_freed_is_split():
    one = run_workload("lazy-free,size=2M,rounds=1,span=64K", Machine(), 2 << 20)
    assert one.counters["folio_splits"] == 1 and one.rounds[0].huge == 512 and one.rounds[-1].share == 0
    whole = run_workload("lazy-free,size=2M,rounds=1,span=64K", Machine(), 64 << 10)
    assert whole.counters["folio_splits"] == 0 and whole.rounds[-1].share == 1


def test_pages_that_a_child_gives_back_are_not_copied():
    def copies(kernel: str, folio: int, dismissed: int) -> int:
        text = f"dismiss,size=1M,dismissed={dismissed}"
        return run_workload(text, Machine(kernel), folio).counters["wp_page_copy"]

    assert [copies("7.3", 0, share) for share in (0, 50, 100)] == [256, 128, 0]
    assert [copies("7.3", 64 << 10, share) for share in (0, 50, 100)] == [256, 128, 0]
    # 6.12 copies of large folios what nobody else has any more
    assert copies("6.12", 64 << 10, 100) == 256


def test_a_guard_that_comes_late_leaves_stacks_resident():
    early, late = (
        run_workload(f"thread-stacks,size=2M,rounds=1,threads=2,plain=1,late={late}", Machine(), 2 << 20).rounds[-1]
        for late in (0, 1)
    )
    assert (early.mapped, late.mapped) == (32, 1024)


@pytest.mark.parametrize("late", [0, 1])
def test_what_is_mapped_as_a_stack_has_no_large_folios(late):
    stacks = run_workload(f"thread-stacks,size=2M,rounds=1,threads=2,late={late}", Machine(), 2 << 20)
    assert stacks.rounds[-1].mapped == 32 and stacks.counters["faults"] == 32


def test_without_contpte_nothing_is_folded():
    one = run_workload("gc-barrier,size=1M,rounds=1", Machine(contpte=False), 64 << 10)
    assert one.counters["unfolds"] == 0 and {each.share for each in one.rounds} == {0.0}


def test_a_seed_gives_the_same_life():
    one, same, other = (run_workload("jit-page,size=1M", Machine(), 64 << 10, seed) for seed in (1, 1, 2))
    assert one.to_dict() == same.to_dict() != other.to_dict()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("jit", "workload 'jit' is unknown"),
        ("jit-page,patchd=3", "parameter 'patchd' of workload 'jit-page' is unknown"),
        ("jit-page,patched=x", "patched='x' of workload 'jit-page' is no number"),
        ("jit-page,patched=101", "is more than all"),
        ("jit-page,rounds=0", "rounds='0'"),
        ("thread-stacks,late=x", "late='x'"),
        ("jit-page,size=2g", "more than 256M"),
        ("jit-page,size=5K", "whole pages"),
    ],
)
def test_what_is_none_is_refused(text, said):
    with pytest.raises(LayoutError, match=said):
        run_workload(text, Machine())


@pytest.mark.parametrize("folio", [8 << 10, 96 << 10, 4 << 20, 5000])
def test_folios_that_cannot_be_are_refused(folio):
    with pytest.raises(LayoutError, match="cannot be"):
        run_workload("jit-page", Machine(), folio)


def test_defaults_are_those_of_the_row():
    row, values = parse("jit-page")
    assert values == {key: one.default for key, one in row.parameters.items()}


def test_folded_blocks_are_seen_where_they_are():
    """A look that counts every entry is seen to be wrong."""
    one = run_workload("buffer-pool,size=256K,rounds=1", Machine(), 64 << 10)
    assert one.rounds[0].share == 1 > one.rounds[-1].share
    assert not p.pte_valid_cont(0)
