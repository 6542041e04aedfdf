"""The search: sound loops pass, flawed ones fail by the law that is theirs, on every machine; the known gap is told."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import planted
import pytest
from long import some_slow

from ptebatch import STRATEGIES
from ptebatch.checker import search as checker
from ptebatch.checker.check import Checker
from ptebatch.checker.laws import rows as laws
from ptebatch.checker.search import judge, verify_strategy
from ptebatch.checker.worlds.products import chunks
from ptebatch.checker.worlds.small import CHANGES, SmallWorld, small_machine
from ptebatch.errors import LayoutError, MachineError, PtebatchError, StrategyError
from ptebatch.kernels import ERAS
from ptebatch.machine import Machine
from ptebatch.strategies import find_strategy

#: rows of one and two entries, blocks of two; rows of up to four
PAIRS, ROWS = "cont_ptes=2,ptrs_per_pte=2", "cont_ptes=2,ptrs_per_pte=4"
SOUND = [name for name, row in STRATEGIES.items() if not row.flawed]
FLAWED = {"folio-shared": "EXCLUSIVE", "nested-page0": "EXCLUSIVE", "folio-page0": "EXCLUSIVE", "nested-nowrite": "UNIT"}
MACHINES = ["6.12", "6.16", "6.17", "7.3", "7.3,bbml=3", "7.3,hafdbs=off", "7.3,granule=16K", "7.3,granule=64K", "7.3,lpa2=on",
            "7.3,contpte=off", "7.3,tlb_range=off", "7.3,kpti=on", "7.3,repeat_tlbi=on", "7.3,device_private=on",
            "6.12,device_private=on"]  # fmt: skip
#: every loop on the oldest and the newest kernel; on each other machine the merged one, and the rest in turn
TURNS = [(strategy, machine) for i, machine in enumerate(MACHINES) for j, strategy in enumerate(SOUND)
         if strategy == "folio" or machine in ("6.12", "7.3") or (i - j) % (len(SOUND) - 1) == 0]  # fmt: skip


@pytest.fixture(autouse=True)
def _fewer_random_worlds(request, monkeypatch):
    """The long tests draw as many as users do."""
    if not {"slow", "exhaustive"} & set(request.keywords):
        monkeypatch.setattr(checker, "RANDOM", 4096)
        monkeypatch.setattr(checker, "FULL", 20)
        monkeypatch.setattr(checker, "FULL_ROUND", 5)


# ---- sound loops pass ----


@pytest.mark.parametrize("strategy", SOUND)
def test_sound_loops_keep_every_law_in_rows_of_two(strategy):
    report = verify_strategy(strategy, machine=f"7.3,{PAIRS}")
    assert report.ok and report.complete and report.kind == "exhaustive", report.text()
    assert set(report.lines) == {1, 2} and report.distinct > 50_000 and report.worlds > report.distinct
    assert report.larger[2, 2].judged == 4096 and report.runs > report.judged


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("strategy", ["folio", "per-pte"])
def test_sound_loops_keep_every_law_on_every_machine(strategy, machine):
    report = verify_strategy(strategy, machine=f"{machine},{PAIRS}")
    assert report.ok and report.complete, report.text()
    assert report.machine == Machine.parse(f"{machine},{PAIRS}")


@pytest.mark.parametrize(("strategy", "machine"), some_slow(TURNS, 8))
def test_sound_loops_keep_every_law_in_rows_of_four(strategy, machine):
    report = verify_strategy(strategy, machine=f"{machine},{ROWS}")
    assert report.ok and report.complete, report.text()


@pytest.mark.exhaustive
def test_the_merged_loop_keeps_every_law_in_every_world():
    """All of the default size: some 200 million after reduction."""
    report = verify_strategy("folio")
    assert report.ok and report.complete, report.text()
    assert set(report.lines) == set(range(1, 9)) and report.distinct > 150_000_000 and report.worlds > 10**12
    assert "every law holds in every world of the default size" in report.text()
    assert report.distinct / sum(line.seconds for line in report.lines.values()) * 60 > 10e6, "ten million worlds a minute"


# ---- flawed loops do not ----


def test_every_flawed_loop_is_here():
    assert set(FLAWED) == {name for name, row in STRATEGIES.items() if row.flawed}


@pytest.mark.parametrize("machine", ["6.12", "6.16", "6.17", "7.3", "7.3,granule=16K", "7.3,hafdbs=off"])
@pytest.mark.parametrize("strategy", FLAWED)
def test_flawed_loops_break_their_law_on_every_machine(strategy, machine):
    report = verify_strategy(strategy, machine=machine)
    found = report.counterexample
    assert not report.ok and not report.complete and report.seconds < 60
    # before 6.19 every change is flushed, and a batch that ignores WRITE shows otherwise
    assert found.law.name == FLAWED[strategy]
    assert sum(map(bool, found.world.ptes)) <= 8 and found.repeats
    assert judge(found.world, strategy).law == found.law
    assert all(judge(found.world, sound) is None for sound in SOUND), "the world is at fault, not the loop"


def test_what_each_flawed_loop_is_caught_by():
    """Page 0 for the page; the folio for the page; a batch over entries that differ in WRITE."""
    said = {name: verify_strategy(name).counterexample for name in FLAWED}
    for name in ("folio-page0", "nested-page0"):
        world, breach = said[name].world, said[name].breach
        assert "0x400:1=es" in said[name].folios() and world.frames() == [0x401], "one entry, on the folio's second page"
        steps = "; ".join(said[name].steps())
        assert "page 0x401 is not PageAnonExclusive" in breach.expected and "ask page 0x400: exclusive" in steps
    shared = said["folio-shared"]
    steps = "; ".join(shared.steps())
    assert "ask page" not in steps and "start [0, 2)" in steps and "0x400:1=ss" in shared.folios()
    writes = said["nested-nowrite"]
    one, other = (bool(w & 1 << 51) for w in writes.world.ptes[:2])
    assert one != other and "start [0, 2)" in "; ".join(writes.steps())


@pytest.mark.parametrize("strategy", FLAWED)
def test_the_lines_that_reproduce_it_do(strategy, capsys):
    found = verify_strategy(strategy).counterexample
    exec(compile(found.source(), "reproduce", "exec"), {})
    assert capsys.readouterr().out.rstrip("\n") == found.text()


# ---- the known gap ----


def gap(strategy: str, machine: str) -> set[str]:
    """Directions in which whole blocks change, in rows of two on blocks of two."""
    small, saw = Machine.parse(f"{machine},{PAIRS}"), 0
    for chunk in chunks(small):
        if chunk.size == 2:
            _, _, law, _, seen, *_ = Checker(small, strategy).sweep(
                chunk.words, chunk.pages, chunk.calls, chunk.ad[:2], chunk.folds, tlb=True
            )
            assert law == 0
            saw |= seen
    return {kind for kind, bits in (("folded", 0xFF), ("unfolded", 0xFF00)) if saw & bits}


@pytest.mark.parametrize("kernel", ERAS)
def test_where_cont_changes_without_a_tlbi_between(kernel):
    """What the docstring of ``laws`` claims: which loops, which direction, on every kernel."""
    folded = {name for name in SOUND if "folded" in gap(name, kernel)}
    unfolded = {name for name in SOUND if "unfolded" in gap(name, kernel)}
    assert folded == set(SOUND) - {"per-pte"}
    assert unfolded == {"folio", "nested"}
    text = " ".join((laws.__doc__ or "").split())
    assert "all but ``per-pte``, on every kernel" in text and "which are ``folio``, ``nested``" in text


def test_it_never_changes_where_no_break_before_make_is_needed_nor_to_prot_none():
    for name in SOUND:
        assert not gap(name, "7.3,bbml=3") and not gap(name, "7.3,contpte=off")
    for kernel in ERAS:
        report = verify_strategy("folio", machine=f"{kernel},{PAIRS}")
        assert {"rw", "ro"} <= {change for _, change in report.events}
        assert not {change for _, change in report.events} & {"none", "none-shared", "numa"}
    assert gap("folio", "7.3,bbml=2"), "level 2 does not elide the TLBI on 7.3"


FOLDED = "RO,c,pfn=0x400.. x4", "0x400:2=eses", "rw [0, 4)"
LOOSE = "RO,n,pfn=0x400.. x4", "0x400:2=eeee", "rw [0, 4)"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_which_loops_have_it_flawed_ones_too(strategy):
    machine = small_machine(Machine("7.3"))
    bits = []
    for strip, folios, call in (LOOSE, FOLDED):
        world = SmallWorld.parse(machine, strip, folios=folios, call=call)
        bits.append(Checker(machine, strategy).check(world.ptes, world.pages, world.call, hardware=0)[2])
    descend = strategy in ("folio", "nested", "folio-page0", "nested-page0", "nested-nowrite")
    assert bits == [0 if strategy == "per-pte" else 1, 0x100 if descend else 0] or strategy == "folio-shared"
    if strategy == "folio-shared":
        assert bits[1] == 0, "one commit: nothing is taken to pieces"


def test_the_report_shows_the_layouts():
    report = verify_strategy("folio", machine=f"7.3,{PAIRS}")
    text = " ".join(report.text().split())
    assert "cont_change_without_bbm (reported, not judged; spec 7.8)" in text
    assert "rw: a block becomes unfolded in" in text and "first RO,c,nopae RO,c,pae, entries [0, 2)" in text
    told = report.to_dict()["events"]
    assert {event["event"] for event in told} == {"cont_change_without_bbm"}
    for event in told:
        world = report.events[event["becomes"], event["change"]].example
        run = Checker(world.machine, "folio").check(world.ptes, world.pages, world.call, hardware=0)
        assert run[0] == 0 and run[2] & (0xFF if event["becomes"] == "folded" else 0xFF00)


# ---- how to ask ----


def test_seeds_and_budgets():
    step = planted.UnrolledByFour()
    one, same = (verify_strategy(step, exhaustive=False, seed=3) for _ in range(2))
    assert one.counterexample.text() == same.counterexample.text() and one.judged == same.judged
    passed = [verify_strategy("folio", exhaustive=False, seed=seed) for seed in (1, 1, 2)]
    assert passed[0].runs == passed[1].runs != passed[2].runs


def said(report):
    """What a report says, but for the time it took."""

    def untimed(found):
        if isinstance(found, dict):
            return {name: untimed(value) for name, value in found.items() if name != "seconds"}
        return [untimed(value) for value in found] if isinstance(found, list) else found

    return untimed(report.to_dict())


@pytest.mark.parametrize("strategy", ["folio", planted.one_by_one, "folio-page0"])
def test_so_many_worlds_give_the_same_on_every_computer(strategy, monkeypatch):
    """A budget is work: a clock that races, or stands, changes nothing of what is said."""
    usual = said(verify_strategy(strategy, worlds=30_000, seed=5))
    racing = count()
    monkeypatch.setattr(checker, "time", SimpleNamespace(perf_counter=lambda: 1000.0 * next(racing)))
    assert said(verify_strategy(strategy, worlds=30_000, seed=5)) == usual
    assert not usual["by_clock"] and usual["complete"] is False
    assert said(verify_strategy(strategy, worlds=60_000, seed=5)) != usual or not usual["ok"]


def test_a_clock_that_ends_a_search_is_told():
    report = verify_strategy("folio", budget=0.5)
    assert report.ok and not report.complete and report.seconds < 5 and report.by_clock
    assert "not exhaustive" in report.text() and "the clock" in report.text()
    report = verify_strategy("folio", worlds=5000)
    assert report.ok and not report.complete and not report.by_clock and "the clock" not in report.text()


def test_as_many_worlds_as_there_are_is_exhaustive():
    report = verify_strategy("folio", machine="7.3,cont_ptes=2,ptrs_per_pte=2", worlds=10**9)
    assert report.complete and report.kind == "sample"
    assert "every law holds in every world of the default size" in report.text()


@pytest.mark.parametrize("budget", [0, -1, float("nan")])
def test_a_budget_is_a_time(budget):
    with pytest.raises(PtebatchError, match=r"budget=.* is not a number of seconds above 0"):
        verify_strategy("folio", budget=budget)


@pytest.mark.parametrize("worlds", [0, -1, 1.5, True])
def test_a_number_of_worlds_is_a_number(worlds):
    with pytest.raises(PtebatchError, match=r"worlds=.* is not a number of worlds"):
        verify_strategy("folio", worlds=worlds)


def test_strategies_by_name_by_row_and_by_place():
    assert find_strategy("folio") is find_strategy("folio")
    row = STRATEGIES["folio-page0"]
    for given in ("folio-page0", row):
        assert verify_strategy(given).counterexample.law.name == "EXCLUSIVE"
    path = f"{Path(planted.__file__)}:one_by_one"
    assert verify_strategy(path, exhaustive=False, worlds=20_000).ok
    assert verify_strategy("planted:one_by_one", exhaustive=False, worlds=20_000).strategy == "planted:one_by_one"
    assert verify_strategy(planted.one_by_one, exhaustive=False, worlds=20_000).strategy == "planting:one_by_one"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folioo", "strategy 'folioo' is unknown"),
        ("planted:nothing", "planted has no function 'nothing'; give a step"),
        ("nowhere:step", "strategy 'nowhere:step' cannot be imported: ModuleNotFoundError"),
        ("nowhere.py:step", "cannot be imported: FileNotFoundError: no Python file nowhere.py"),
        ("planted:FAULTS", "has no function 'FAULTS'"),
        (3, "neither a name nor a callable"),
        (lambda: None, None),
    ],
)
def test_what_is_no_strategy(name, message):
    if message is None:
        assert verify_strategy(name, exhaustive=False).counterexample.law.name == "CONTRACT"
        return
    with pytest.raises(StrategyError, match=message):
        verify_strategy(name)


def test_a_machine_may_be_text():
    assert verify_strategy("folio", machine=f"6.12,{PAIRS}").machine.kernel == "6.12"
    with pytest.raises(MachineError):
        verify_strategy("folio", machine="5.4")
    with pytest.raises(LayoutError, match="tables of 512 entries are too large"):
        Checker(Machine("7.3"), "folio")


def test_progress_is_told():
    said: list[str] = []
    verify_strategy("folio-page0", progress=said.append)
    assert said and "found one; shrinking it to a minimal case" in said[-1]


# ---- one world ----


def test_judge():
    world = SmallWorld.parse("7.3,cont_ptes=4,ptrs_per_pte=8", "RO,n,pfn=0x401", folios="0x400:1=es", call="rw [0, 1)")
    found = judge(world, "folio-page0")
    assert found.law.name == "EXCLUSIVE" and found.breach.entry == 0
    assert judge(world, "folio") is None and judge(world, planted.one_by_one) is None
    assert judge(world, planted.Page0()).law.name == "EXCLUSIVE"
    told = found.to_dict()
    assert (told["law"], told["call"], told["entries"]) == ("EXCLUSIVE", "rw [0, 1)", 1)


def test_hardware_updates_are_shown():
    world = SmallWorld.parse("7.3,cont_ptes=4,ptrs_per_pte=8", "RW,n,clean,pfn=0x400", folios="0x400:0=e", call="ro [0, 1)")
    found = judge(world, planted.ReadsFirst())
    assert found.law.name == "HARDWARE"
    assert "read entry 0\n     hardware writes to entry 0\n" in found.text()
    off = replace(world, machine=Machine.parse("7.3,cont_ptes=4,ptrs_per_pte=8,hafdbs=off"))
    assert judge(off, planted.ReadsFirst()) is None


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_judged(change):
    call = f"{change} [0, 2)"
    world = SmallWorld.parse("7.3,cont_ptes=4,ptrs_per_pte=8", "RO,n,pfn=0x400.. x2", folios="0x400:1=ff", call=call)
    assert judge(world, "folio") is None
    assert judge(world, planted.ReportsLess()).law.name == "CONTRACT"
