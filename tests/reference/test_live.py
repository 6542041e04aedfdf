"""Laws of address spaces that live: what every sequence of calls keeps, and twins that break them."""

from __future__ import annotations

import random
import signal
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ptebatch import bits as b
from ptebatch.errors import LayoutError, SyscallError
from ptebatch.machine import Machine
from ptebatch.reference import huge_memory
from ptebatch.reference import madvise as m
from ptebatch.reference import pte as p
from ptebatch.reference.fault import Signal
from ptebatch.reference.frames import Buddy, Frames
from ptebatch.reference.live import LiveMM, Thp
from ptebatch.reference.mremap import MREMAP_FIXED, MREMAP_MAYMOVE

RW = b.PROT_READ | b.PROT_WRITE
BASE = 1 << 24
SMALL = Machine(cont_ptes=4, ptrs_per_pte=16)


def laws(mm: LiveMM) -> None:
    """Conservation, and that nobody writes to what another one may read."""
    mm.frames.check()
    for each in mm.frames.mms:
        for addr, word in each.ptes.items():
            vma = each.vma_at(addr)
            assert vma is not None or not word, f"{addr:#x} is mapped without a VMA"
            pfn = each.mapped_pfn(addr)
            if pfn is not None and p.pte_write(word) and not vma.flags & b.VM_SHARED:
                assert pfn in each.anon_exclusive, f"{addr:#x} is writable and not exclusive"
                assert each.frames.mapcounts[pfn] == 1, f"{addr:#x} is writable and mapped by others"
        for first, word in each.pmds.items():
            if p.pte_write(word):
                assert p.pte_pfn(each.page_shift, word) in each.anon_exclusive, f"{first:#x}"
        for addr, word in each.ptes.items():
            if p.pte_valid(word) and p.pte_cont(word):
                first = each.block_start(addr)
                pages = [each.ptes[first + i * each.page_size] for i in range(each.machine.cont_ptes)]
                assert all(p.pte_valid(one) and p.pte_cont(one) for one in pages), f"block {first:#x} is torn"


@pytest.fixture
def mm() -> LiveMM:
    mm = LiveMM.make(SMALL, thp=Thp(frozenset({2})))
    mm.mmap(BASE, 64 << 12, RW)
    return mm


def touch_all(mm: LiveMM, nr: int = 64) -> None:
    for i in range(nr):
        mm.touch(BASE + (i << 12), write=True)


# ---- one call each ----


def test_memory_is_given_back(mm):
    free = mm.frames.buddy.nr_free()
    touch_all(mm)
    assert mm.frames.buddy.nr_free() == free - 64
    child = mm.fork()
    laws(mm)
    child.exit()
    mm.munmap(BASE, 64 << 12)
    laws(mm)
    assert mm.frames.buddy.nr_free() == free == mm.frames.owned


def test_memory_that_is_not_given_back_is_seen(mm, monkeypatch):
    touch_all(mm)
    monkeypatch.setattr(Frames, "put", lambda self, folio, nr=1: None)
    mm.munmap(BASE, 4 << 12)
    with pytest.raises(AssertionError, match="references"):
        mm.frames.check()


def test_a_fork_that_leaves_the_parent_writable_is_seen(mm, monkeypatch):
    touch_all(mm)
    monkeypatch.setattr(LiveMM, "wrprotect_ptes", lambda self, addr, nr: None)
    mm.fork()
    with pytest.raises(AssertionError, match="writable and not exclusive"):
        laws(mm)


def test_what_a_folio_gets_depends_on_what_is_enabled_and_free():
    mm = LiveMM.make(SMALL, thp=Thp(frozenset({2, 3})))
    mm.mmap(BASE, 64 << 12, RW)
    mm.touch(BASE + (9 << 12), write=True)
    assert mm.page_folio(mm.mapped_pfn(BASE + (8 << 12))).order == 3
    mm.thp = Thp()
    mm.touch(BASE, write=True)
    mm.thp = Thp(frozenset({2, 3}))
    mm.touch(BASE + (7 << 12), write=True)
    # page 0 is there: the larger size does not fit
    assert mm.page_folio(mm.mapped_pfn(BASE + (4 << 12))).order == 2


def test_fragmented_memory_gives_what_it_has():
    mm = LiveMM.make(SMALL, thp=Thp(frozenset({4})), fragmentation=1.0, seed=3)
    mm.mmap(BASE, 64 << 12, RW)
    mm.touch(BASE, write=True)
    assert not mm.pmds and mm.page_folio(mm.mapped_pfn(BASE)).order == 0
    laws(mm)


def test_guards_raise_a_signal_until_they_are_removed(mm):
    touch_all(mm, 8)
    mm.madvise(BASE + (2 << 12), 2 << 12, m.MADV_GUARD_INSTALL)
    with pytest.raises(Signal) as raised:
        mm.touch(BASE + (2 << 12))
    assert raised.value.number == signal.SIGSEGV
    mm.madvise(BASE, 8 << 12, m.MADV_DONTNEED)
    with pytest.raises(Signal):
        mm.touch(BASE + (3 << 12), write=True)
    mm.madvise(BASE, 8 << 12, m.MADV_GUARD_REMOVE)
    mm.touch(BASE + (3 << 12), write=True)
    laws(mm)


def test_a_kernel_without_guards_refuses_them():
    mm = LiveMM.make(Machine("6.12"))
    mm.mmap(BASE, 1 << 14, RW)
    with pytest.raises(SyscallError, match="has no guard markers"):
        mm.madvise(BASE, 1 << 12, m.MADV_GUARD_INSTALL)


def test_a_deferred_flush_is_waited_for_by_the_next_walk(mm):
    touch_all(mm)
    child = mm.fork()
    for i in range(4):
        child.touch(BASE + (i << 12), write=True)
    # the child is gone, the folio is the parent's alone: a part of it is split off
    child.exit()
    folio = mm.page_folio(mm.mapped_pfn(BASE))
    assert huge_memory.split_folio(mm, folio) and mm.flush_pending
    seen: list[str] = []
    mm.observer = lambda kind, addr, value: seen.append(kind)
    mm.mprotect(BASE, 1 << 12, b.PROT_READ)
    assert "ASIDE1IS" in seen and not mm.flush_pending


@pytest.mark.parametrize(("kernel", "huge"), [("6.12", False), ("6.16", True), ("7.3", True)])
def test_a_write_to_the_huge_zero_page_gets_a_folio_or_splits_it(kernel, huge):
    mm = LiveMM.make(Machine(kernel, cont_ptes=4, ptrs_per_pte=16), thp=Thp(frozenset({4})))
    mm.mmap(BASE, 64 << 12, RW)
    mm.touch(BASE + (3 << 12))
    assert list(mm.pmds) == [BASE] and not list(mm.huge_heads())
    child = mm.fork()
    child.touch(BASE)
    laws(mm)
    mm.touch(BASE + (5 << 12), write=True)
    laws(mm)
    assert bool(mm.pmds) == huge
    if not huge:
        assert sum(p.pte_special(word) for word in mm.ptes.values()) == 15
    mm.touch(BASE + (20 << 12))
    mm.mprotect(BASE + (18 << 12), 2 << 12, b.PROT_READ)
    assert sum(p.pte_special(mm.ptes[BASE + (i << 12)]) for i in range(16, 32)) == 16
    child.exit()
    mm.munmap(BASE, 64 << 12)
    laws(mm)


def test_a_sequence_that_is_not_modelled_is_refused_by_name(mm):
    touch_all(mm, 4)
    mm.ptes[BASE] = p.pte_modify(mm.ptes[BASE], b.PAGE_NONE)
    with pytest.raises(LayoutError, match="NUMA hint, whose fault is not modelled"):
        mm.touch(BASE)


def test_a_table_of_pmds_moves_as_a_whole():
    # 16 tables of 16 pages: 1M of address space
    mm = LiveMM.make(SMALL, memory=1024)
    start, to, size = BASE, BASE + (1 << 22), 1 << 20
    mm.mmap(start, size + (4 << 12), RW)
    for addr in (start, start + (200 << 12), start + size):
        mm.touch(addr, write=True, byte=addr >> 12 & 0xFF)
    seen: list[str] = []
    mm.observer = lambda kind, addr, value: seen.append(kind)
    mm.mremap(start, size + (4 << 12), size + (4 << 12), MREMAP_MAYMOVE | MREMAP_FIXED, to)
    laws(mm)
    assert [mm.load(at) for at in (to, to + (200 << 12), to + size)] == [0, 200, 0]
    # one flush for the table of PMDs, one for the page behind it, and its table is given back
    assert seen.count("RVAE1IS") + seen.count("VAE1IS") == 3 and seen.count("X") == 1
    assert not any(start <= addr < start + size for addr in mm.ptes)


def test_a_heap_grows_and_shrinks_and_stops_before_what_is_in_its_way(mm):
    mm.start_brk = mm.brk_end = BASE + (100 << 12) + 40
    assert mm.brk().pages == mm.brk_end
    assert mm.brk(BASE + (110 << 12)).pages == BASE + (110 << 12)
    assert mm.vmas()[-1].end == BASE + (110 << 12) and mm.vmas()[-1].start == BASE + (101 << 12)
    mm.touch(BASE + (109 << 12), write=True)
    assert mm.brk(BASE + (105 << 12) + 1).pages == BASE + (105 << 12) + 1
    assert mm.vmas()[-1].end == BASE + (106 << 12)
    laws(mm)
    mm.mmap(BASE + (120 << 12), 1 << 12, RW)
    # a page stays free between them
    assert mm.brk(BASE + (120 << 12)).pages == BASE + (105 << 12) + 1
    assert mm.brk(BASE + (119 << 12)).pages == BASE + (119 << 12)
    # below its start, and where it is sealed, it stays
    assert mm.brk(BASE).pages == BASE + (119 << 12)
    mm.mseal(BASE + (118 << 12), 1 << 12)
    assert mm.brk(BASE + (110 << 12)).pages == BASE + (119 << 12)
    child = mm.fork()
    assert child.brk().pages == BASE + (119 << 12)


def test_a_buddy_gives_every_frame_once_and_takes_all_back():
    buddy = Buddy(0, 64, 4)
    chance = random.Random(5)
    held: dict[int, int] = {}
    for _ in range(400):
        if held and chance.random() < 0.5:
            pfn = chance.choice(list(held))
            buddy.give_back(pfn, held.pop(pfn))
        else:
            order = chance.randrange(5)
            pfn = buddy.alloc(order)
            if pfn is not None:
                assert pfn % (1 << order) == 0
                mine = set(range(pfn, pfn + (1 << order)))
                assert not any(mine & set(range(at, at + (1 << nr))) for at, nr in held.items())
                held[pfn] = order
    for pfn, order in held.items():
        buddy.give_back(pfn, order)
    assert buddy.free[4] == {0, 16, 32, 48}


# ---- sequences ----

PAGES = 48
ranges = st.tuples(st.integers(0, PAGES - 1), st.integers(1, 20))


class Living(RuleBasedStateMachine):
    """Any sequence of calls of a process and its children keeps the laws."""

    @initialize(
        kernel=st.sampled_from(["6.12", "6.16", "6.17", "7.0", "7.3"]),
        orders=st.sets(st.integers(2, 4), max_size=2),
        hafdbs=st.booleans(),
        zero=st.booleans(),
    )
    def begin(self, kernel: str, orders: set[int], hafdbs: bool, zero: bool) -> None:
        machine = Machine(kernel, cont_ptes=4, ptrs_per_pte=16, hafdbs=hafdbs)
        self.mms = [LiveMM.make(machine, memory=1024, thp=Thp(frozenset(orders), use_zero_page=zero))]
        self.mms[0].mmap(BASE, PAGES << 12, RW)

    def call(self, who: int, what: str, *args: object, **how: object) -> None:
        with suppress(SyscallError, Signal):
            getattr(self.mms[who % len(self.mms)], what)(*args, **how)

    @rule(who=st.integers(0, 2), page=st.integers(0, PAGES - 1), write=st.booleans())
    def touch(self, who: int, page: int, write: bool) -> None:
        self.call(who, "touch", BASE + (page << 12), write=write)

    @rule(who=st.integers(0, 2), at=ranges, prot=st.sampled_from([0, 1, 3]))
    def mprotect(self, who: int, at: tuple[int, int], prot: int) -> None:
        self.call(who, "mprotect", BASE + (at[0] << 12), at[1] << 12, prot)

    @rule(who=st.integers(0, 2), at=ranges)
    def munmap(self, who: int, at: tuple[int, int]) -> None:
        self.call(who, "munmap", BASE + (at[0] << 12), at[1] << 12)

    @rule(who=st.integers(0, 2), at=ranges)
    def mmap(self, who: int, at: tuple[int, int]) -> None:
        mm = self.mms[who % len(self.mms)]
        start, size = BASE + (at[0] << 12), at[1] << 12
        if not mm.vmas_in(start, start + size):
            mm.mmap(start, size, RW)

    @rule(who=st.integers(0, 2), at=ranges, advice=st.sampled_from(sorted(m.KNOWN)))
    def madvise(self, who: int, at: tuple[int, int], advice: int) -> None:
        self.call(who, "madvise", BASE + (at[0] << 12), at[1] << 12, advice)

    @rule(who=st.integers(0, 2), at=ranges, to=st.integers(0, 80))
    def mremap(self, who: int, at: tuple[int, int], to: int) -> None:
        start, size = BASE + (at[0] << 12), at[1] << 12
        self.call(who, "mremap", start, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, BASE + (to << 12))

    @rule(who=st.integers(0, 2), kind=st.integers(1, 5))
    def clear_refs(self, who: int, kind: int) -> None:
        self.call(who, "clear_refs", kind)

    @rule(who=st.integers(0, 2), at=ranges)
    def mlock(self, who: int, at: tuple[int, int]) -> None:
        self.call(who, "mlock", BASE + (at[0] << 12), at[1] << 12)

    @rule(who=st.integers(0, 2))
    def fork(self, who: int) -> None:
        if len(self.mms) < 3:
            self.mms.append(self.mms[who % len(self.mms)].fork())

    @precondition(lambda self: len(self.mms) > 1)
    @rule(who=st.integers(0, 2))
    def exit(self, who: int) -> None:
        self.mms.pop(who % len(self.mms)).exit()

    @invariant()
    def lawful(self) -> None:
        if hasattr(self, "mms"):
            laws(self.mms[0])


Living.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLiving = Living.TestCase
