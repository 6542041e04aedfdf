"""Worlds of full leaf tables: what is drawn, that sound loops pass, and faults that only long batches show."""

from __future__ import annotations

from itertools import islice

import numpy as np
import planted
import pytest
from long import some_slow
from planting import SOUND as STEPS
from planting import Folio

from ptebatch import STRATEGIES, Window
from ptebatch import bits as b
from ptebatch.checker import search as checker
from ptebatch.checker import shrink as shrinking
from ptebatch.checker.counterexample import Counterexample, told
from ptebatch.checker.fulltables import FullTables, full_machine
from ptebatch.checker.laws.rows import LAWS, law_of
from ptebatch.checker.laws.run import Breach, Run
from ptebatch.checker.search import judge, verify_strategy
from ptebatch.checker.shrink import shrink
from ptebatch.checker.worlds.full import full_worlds
from ptebatch.checker.worlds.small import CHANGES, SmallWorld, small_machine
from ptebatch.errors import LayoutError
from ptebatch.events import KINDS
from ptebatch.machine import Machine
from ptebatch.strategies import resolve

SOUND = [name for name, row in STRATEGIES.items() if not row.flawed]
MACHINES = ["6.12", "6.17", "7.3", "7.3,bbml=3", "7.3,hafdbs=off", "7.3,granule=16K", "7.3,granule=64K", "7.3,lpa2=on",
            "7.3,contpte=off", "6.16,device_private=on"]  # fmt: skip


def drawn(machine: str, nr: int, seed: int = 0) -> list[SmallWorld]:
    return list(islice(full_worlds(full_machine(Machine.parse(machine)), seed), nr))


# ---- what is drawn ----


def test_the_machine_keeps_its_blocks_and_its_tables():
    sizes = {name: full_machine(Machine.parse(name)) for name in ("7.3", "7.3,granule=16K", "7.3,granule=64K")}
    assert [(m.ptrs_per_pte, m.cont_ptes) for m in sizes.values()] == [(512, 16), (2048, 128), (8192, 32)]
    assert full_machine(small_machine(Machine("7.3"))) is None
    assert full_machine(Machine("7.3", cont_ptes=4, ptrs_per_pte=64)).ptrs_per_pte == 64


def test_the_same_seed_draws_the_same_worlds():
    assert drawn("7.3", 5) == drawn("7.3", 5) != drawn("7.3", 5, seed=1)


@pytest.mark.parametrize("machine", ["7.3", "6.12,device_private=on", "7.3,granule=16K", "7.3,lpa2=on,contpte=off"])
def test_worlds_keep_the_invariants(machine):
    for world in drawn(machine, 60):
        nr = world.machine.ptrs_per_pte
        assert len(world.ptes) == nr >= 512 and len(world.pages) >= 2 * nr and 0 <= world.start < world.end <= nr
        before = Run(world, world.ptes, 0, world.end, 0, {}, None)
        for name in ("CONTPTE", "CONT_VALID", "DIRTY_STATE"):
            assert law_of(name).plain(before) is None
        for i, word in enumerate(world.ptes):
            if word & b.PTE_WRITE and word & b.PTE_VALID and not world.change.vm_flags & b.VM_SHARED:
                assert before.exclusive(i), "I-6"


def test_worlds_have_long_batches_and_everything_else():
    worlds = drawn("7.3", 300)
    assert {world.change.name for world in worlds} == set(CHANGES)
    orders = {page & b.PG_ORDER_MASK for world in worlds for page in world.pages}
    assert orders == set(range(10))
    lengths, begins = [], set()
    for world in worlds:
        run = FullTables(world.machine, "folio").run(world)
        units = [(value, addr >> 12) for kind, addr, value in run.events if KINDS[kind] == "START"]
        lengths += [nr for nr, _ in units]
        begins |= {run.pfn(world.ptes[at]) - run.folio(at)[0] for nr, at in units if nr > 1 and run.folio(at)}
    assert sum(nr > 64 for nr in lengths) > 50 and sum(nr > 256 for nr in lengths) > 20 and max(lengths) == 512
    assert len(begins) > 100, "batches begin all over their folios"
    folded = sum(any(word & b.PTE_CONT and word & b.PTE_VALID for word in world.ptes) for world in worlds)
    assert 0.3 < folded / len(worlds) < 0.9
    assert sum(0 in world.ptes for world in worlds) > 50


def test_a_world_reads_back_from_its_own_text():
    for world in drawn("7.3", 40):
        made: dict[str, SmallWorld] = {}
        exec(f"world = {world.source()}", {"SmallWorld": SmallWorld}, made)
        again = made["world"]
        mapped = {pfn - world.pfn_base for pfn in world.frames() if pfn >= world.pfn_base}
        assert again.ptes == world.ptes and (again.start, again.end, again.change) == (world.start, world.end, world.change)
        assert all(again.pages[at] == world.pages[at] for at in mapped)


def test_letters_of_large_folios_have_lengths():
    world = SmallWorld.parse("7.3", "RO,n,pfn=0x400.. x512", folios="0x400:9=100e411se", call="rw [0, 512)")
    assert world.folios() == "0x400:9=100e411se"
    assert sum(bool(page & b.PG_ANON_EXCLUSIVE) for page in world.pages) == 101
    for folios in (
        "0x400:9=100e411s",
        "0x400:9=100e412se",
        "0x400:10=1024e",
        "0x500:9=512e",
        "0x800:0=e",
        "0x400:9=512e0x",
        "0x400:9=" + "9999e" * 100_000,
    ):
        with pytest.raises(LayoutError, match="folio"):
            SmallWorld.parse("7.3", "RO,n,pfn=0x400.. x512", folios=folios, call="rw [0, 512)")
    with pytest.raises(LayoutError, match="do not fit two tables"):
        SmallWorld.parse("7.3", "RO,n,pfn=0x400.. x1100", folios="", call="rw [0, 1)")


# ---- A/D that may spread, for tables of this size ----


def spread_by_its_words(run: Run, i: int) -> int:
    """From the entry outwards on both sides, while A/D may pass."""
    low, high = run.rounded
    found = run.may(i)
    for j in range(i, low, -1):
        if not run.linked(j - 1):
            break
        found |= run.may(j - 1)
    for j in range(i, high - 1):
        if not run.linked(j):
            break
        found |= run.may(j + 1)
    return found


def test_what_spreads_is_what_the_relation_says():
    small = small_machine(Machine("7.3"), 4, 32)
    rng, seen = np.random.default_rng(0), set()
    for world in [*drawn("7.3,cont_ptes=4,ptrs_per_pte=64", 60), *islice(full_worlds(small, 1), 200)]:
        nr = len(world.ptes)
        updates = [(0, int(rng.integers(nr)), bool(rng.integers(2))) for _ in range(3)]
        run = Run(world, world.ptes, 0, world.end, 0, {}, None, updates=updates)
        found = [run.spread(i) for i in range(nr)]
        assert found == [spread_by_its_words(run, i) for i in range(nr)]
        seen |= set(zip(map(run.may, range(nr)), found, strict=True))
    assert len(seen) >= 8, "something spreads"


# ---- sound loops ----


def keeps_every_law(strategy, machine: str, nr: int, seed: int) -> None:
    tables = FullTables(full_machine(Machine.parse(machine)), strategy)
    for world in drawn(machine, nr, seed):
        law, run = tables.judged(world)
        assert not law, told(world, getattr(strategy, "__name__", strategy), law, run).text()
    # traced, and with what repeats replayed
    assert tables.runs == nr * (2 if resolve(strategy).pure else 1)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("strategy", SOUND)
def test_sound_loops_keep_every_law(strategy, machine):
    # a table of 8192 entries takes seconds, traced
    keeps_every_law(strategy, machine, 2 if "64K" in machine else 6, seed=2)


@pytest.mark.parametrize(("strategy", "machine"), some_slow([(s, m) for m in MACHINES for s in SOUND], 5))
def test_sound_loops_keep_every_law_in_many_worlds(strategy, machine):
    keeps_every_law(strategy, machine, 20, seed=3)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: getattr(step, "__name__", ""))
def test_sound_steps_of_users_keep_every_law(step):
    tables = FullTables(full_machine(Machine("7.3")), step)
    for world in drawn("7.3", 25, seed=4):
        if getattr(step, "__name__", "") == "Context":
            step.left = 0  # what it remembers is of another address space
        law, run = tables.judged(world)
        assert not law, told(world, "step", law, run).text()


# ---- faults that 32 entries do not show ----


class First64(Folio):
    """Becomes writable in the first 64 pages of a batch only."""

    def pieces(self, w, nr, new):
        return [(at, length, write and at < 64) for at, length, write in super().pieces(w, nr, new)]


class Wraps(Folio):
    """The index of a page is kept in a byte."""

    def exclusive(self, w, at):
        return w.page_anon_exclusive(at & 0xFF)


class LongBatchesYoung(Folio):
    """A batch longer than half a table becomes young."""

    def new(self, w, old, nr):
        return super().new(w, old, nr) | b.PTE_AF * (nr > 256)


class LongRunsStay(Folio):
    """A run of 100 pages and more stays read-only."""

    def commit(self, w, at, old, new, nr, write):
        super().commit(w, at, old, new, nr, write and nr < 100)


class TableEdge(Folio):
    """Off by one at the end of a table of the 4K granule."""

    def commit(self, w, at, old, new, nr, write):
        last = (w.addr >> 12) % 512 + at + nr == 512
        super().commit(w, at, old, new | b.PTE_DIRTY * (last and nr > 40), nr, write)


class LongUffd(Folio):
    """userfaultfd is forgotten where a batch of 33 and more becomes writable."""

    def new(self, w, old, nr):
        return super().new(w, old, nr) & ~(b.PTE_UFFD * (nr > 32))


LONG = {
    First64: {"UPGRADED"},
    Wraps: {"EXCLUSIVE", "UPGRADED"},
    LongBatchesYoung: {"AD_SPREAD"},
    LongRunsStay: {"UPGRADED"},
    TableEdge: {"AD_SPREAD"},
    LongUffd: {"PRESERVED"},
}


@pytest.fixture
def _fewer_small_worlds(monkeypatch):
    monkeypatch.setattr(checker, "RANDOM_PYTHON", 4096)
    monkeypatch.setattr(shrinking, "PATIENCE", 600)


def caught(found: Counterexample | None, laws: set[str], step: Folio) -> None:
    assert found is not None and found.law.name in laws and found.repeats
    assert found.world.machine.ptrs_per_pte == 512 and sum(map(bool, found.world.ptes)) > 32
    made: dict[str, SmallWorld] = {}
    exec(f"world = {found.world.source()}", {"SmallWorld": SmallWorld}, made)
    assert judge(made["world"], step, strict=True).law == found.law, "what is printed breaks the law again"
    assert judge(made["world"], "folio", strict=True) is None, "the world is at fault, not the loop"
    assert max(map(len, found.text().splitlines())) < 2000


@pytest.mark.parametrize("fault", LONG, ids=lambda fault: fault.__name__)
@pytest.mark.usefixtures("_fewer_small_worlds")
def test_faults_of_long_batches_are_caught(fault):
    step = fault()
    report = verify_strategy(step, exhaustive=False, strict=True)
    caught(report.counterexample, LONG[fault], step)
    assert report.larger[512, 16].judged > 0 and "tables of 512 entries, blocks of 16" in report.text()
    assert not report.complete and report.runs > report.judged


@pytest.mark.slow
@pytest.mark.parametrize("fault", LONG, ids=lambda fault: fault.__name__)
def test_the_default_search_catches_them(fault):
    step = fault()
    caught(verify_strategy(step, strict=True).counterexample, LONG[fault], step)


@pytest.mark.usefixtures("_fewer_small_worlds")
def test_small_tables_alone_do_not_show_them():
    """The twin: without full tables the same search says that no law is broken."""
    for fault in LONG:
        assert verify_strategy(fault(), machine="7.3,cont_ptes=4,ptrs_per_pte=8", exhaustive=False).ok


@pytest.mark.parametrize("name", [name for name, row in STRATEGIES.items() if row.flawed])
def test_flawed_loops_are_caught_here_too(name):
    tables = FullTables(full_machine(Machine("7.3")), name)
    world, law = next((w, law) for w in drawn("7.3", 200) if (law := tables.judged(w)[0]))
    smallest = shrink(tables, world, law)
    assert tables.breaks(smallest, law) and judge(smallest, name) is not None
    assert sum(map(bool, smallest.ptes)) <= 40


# ---- one world ----


def test_a_world_breaks_one_law_or_keeps_it():
    step = First64()
    world = SmallWorld.parse("7.3", "RO,n,pfn=0x400.. x100", folios="0x400:9=99s413e", call="rw [0, 100)")
    tables = FullTables(world.machine, step, strict=True)
    exclusive = law_of("UPGRADED").number
    assert FullTables(world.machine, step).judged(world)[0] == 0, "an upgrade that is missed is safe"
    assert tables.breaks(world, exclusive) and tables.judged(world)[0] == exclusive
    assert not any(tables.breaks(world, number) for number in LAWS if number != exclusive)
    short = SmallWorld.parse("7.3", "RO,n,pfn=0x400.. x64", folios="0x400:9=63s449e", call="rw [0, 64)")
    assert not tables.breaks(short, exclusive) and tables.judged(short)[0] == 0


def test_what_a_step_raises_is_a_finding():
    def step(w: Window) -> int:
        if w.folio_pte_batch() > 32:
            raise KeyError("planted")
        w.change_unit(0, 1, False)
        return 1

    world = SmallWorld.parse("7.3", "RO,n,pfn=0x400.. x64", folios="0x400:9=512s", call="ro [0, 64)")
    found = judge(world, step)
    assert found.law.name == "CONTRACT" and "planted" in found.breach.got
    assert FullTables(world.machine, step).breaks(world, found.law.number)
    assert not FullTables(world.machine, step).breaks(world, law_of("EXCLUSIVE").number)


def test_asking_is_told_in_few_words():
    step = planted.SharedFirstDirty()  # any loop that asks page by page
    world = SmallWorld.parse("7.3", "RO,n,pfn=0x400.. x200", folios="0x400:9=100e412s", call="rw [0, 200)")
    run = FullTables(world.machine, step).run(world)
    said = Counterexample(world, "step", law_of("EXCLUSIVE"), run, Breach(-1, "", "")).steps()
    asked = [step.split(maxsplit=1)[1] for step in said if "ask" in step]
    assert asked[:3] == ["ask page 0x400: exclusive", "ask pages up to 0x463: the same", "ask page 0x464: not exclusive"]
    assert len(said) < 12
    world = SmallWorld.parse("7.3", "RO,n,pfn=0x400.. x200", folios=f"0x400:9={'es' * 256}", call="rw [0, 200)")
    run = FullTables(world.machine, step).run(world)
    assert Counterexample(world, "step", LAWS[1], run, Breach(-1, "", "")).steps()[-1].endswith(" more")
