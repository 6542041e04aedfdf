"""ptebatch.testing: what it finds, what it lets pass, what its strategies draw, and what it says without Hypothesis."""

from __future__ import annotations

import doctest
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, find, given, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from ptebatch import STRATEGIES, Machine, bits, testing
from ptebatch.checker.search import judge
from ptebatch.checker.worlds.small import PFN0, SmallWorld
from ptebatch.errors import StrategyError
from ptebatch.layouts.named import Layout
from ptebatch.reference import RefVma
from ptebatch.testing import CoreTables, MprotectMachine, PageTables, assert_strategy, machine_of
from ptebatch.testing.judging import at_rest, parts_of
from ptebatch.testing.lockstep import Lockstep

# generate only: what is found need not be made small here
FEW = settings(
    max_examples=25, stateful_step_count=15, database=None, deadline=None, derandomize=True,
    phases=[Phase.generate], suppress_health_check=list(HealthCheck),
)  # fmt: skip
#: a planted fault has more time
MANY = settings(FEW, max_examples=400)


def run(machine: type[MprotectMachine], how: settings = FEW) -> None:
    run_state_machine_as_test(machine, settings=how)


def found_by(machine: type[MprotectMachine], *words: str) -> None:
    # what Hypothesis draws depends on the constants of every module that is loaded: no one seed finds
    # a fault for ever
    for number in range(12):
        try:
            run(seed(number)(machine), MANY)
        except AssertionError as caught:
            assert any(word in str(caught) for word in words), str(caught)
            return
    pytest.fail("12 searches of 400 examples did not find it")


# ---- strategies ----

SOUND = [name for name, row in STRATEGIES.items() if not row.flawed]


@pytest.mark.parametrize("name", SOUND)
def test_core_and_reference_stay_in_step(name: str) -> None:
    run(machine_of(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", SOUND)
def test_they_stay_in_step_at_length(name: str) -> None:
    run(machine_of(name), settings(FEW, max_examples=1500, derandomize=False))


def test_a_folio_given_back_and_mapped_anew_is_exclusive_for_both() -> None:
    """The frames are what they were when last adopted, but fork took the exclusivity since."""
    both = Lockstep(Machine("6.17", cont_ptes=2, ptrs_per_pte=8), 1 << 30, 1)
    both.core.mmap(1 << 30, both.machine.page_size, "rw")
    both.load(1 << 30, (0,) * 8)
    for again in (False, True):
        both.core.map_folios(1 << 30, 1, order=0, heads=[PFN0], exclusive=[True])
        both.adopt()
        assert both.ref.anon_exclusive == {PFN0}, again
        for space in (both.core, both.ref):
            space.set_page_anon_exclusive(PFN0, 1, False)
        both.verb("wrprotect_ptes", 1 << 30, 1)
        both.verb("clear_full_ptes", 1 << 30, 1)


@pytest.mark.parametrize("name", [name for name, row in STRATEGIES.items() if row.flawed])
def test_a_flawed_strategy_breaks_a_law(name: str) -> None:
    found_by(machine_of(name), f"{name} breaks law", "I-6", "I-2")


def sound(window: Any) -> int:
    """The shortest step that asks every page."""
    nr = window.folio_pte_batch()
    exclusive = False
    if window.needs_anon_exclusive():
        exclusive = window.page_anon_exclusive(0)
        nr = window.anon_exclusive_batch(0, exclusive, nr)
    window.change_unit(0, nr, exclusive)
    return int(nr)


def first_page_only(window: Any) -> int:
    nr = window.folio_pte_batch()
    window.change_unit(0, nr, window.needs_anon_exclusive() and window.page_anon_exclusive(0))
    return int(nr)


def ignores_write(window: Any) -> int:
    nr = window.folio_pte_batch(respect_write=False)
    if window.needs_anon_exclusive():
        nr = 1
    window.change_unit(0, nr, nr == 1 and window.needs_anon_exclusive() and window.page_anon_exclusive(0))
    return int(nr)


def forgets_dirty(window: Any) -> int:
    exclusive = window.needs_anon_exclusive() and window.page_anon_exclusive(0)
    old = window.start(0, 1) & ~bits.PTE_DIRTY | bits.PTE_RDONLY
    new = window.newpte(old)
    asked = window.asks_writable(new) and window.maybe_change_pte_writable(new)
    window.commit(0, old, new, 1, bool(asked and (window.pte_dirty(new) if window.shared else exclusive)))
    return 1


def forgets_exec(window: Any) -> int:
    old = window.start(0, 1)
    window.commit(0, old, window.newpte(old) | bits.PTE_UXN, 1, False)
    return 1


def two_for_one(window: Any) -> int:
    window.change_unit(0, 1, False)
    return min(2, int(window.max_nr))


def raises(window: Any) -> int:
    raise ZeroDivisionError("planted")


def test_a_sound_step_passes() -> None:
    run(machine_of(sound))
    assert_strategy(sound, worlds=20_000)


PLANTED = {
    first_page_only: ("EXCLUSIVE", "I-6", "UPGRADED", "expected RW"),  # WRITE for pages that are not exclusive, or none
    ignores_write: ("breaks law", "I-2", "I-3"),
    forgets_dirty: ("AD_KEPT", "SHARED_WRITE"),
    forgets_exec: ("PRESERVED", "EXCLUSIVE", "SHARED_WRITE", "UPGRADED"),
    two_for_one: ("broke its contract",),
}


@pytest.mark.parametrize("step", PLANTED, ids=lambda step: step.__name__)
def test_a_planted_fault_is_found_by_the_state_machine(step: Any) -> None:
    found_by(machine_of(step), *PLANTED[step])


@pytest.mark.parametrize("step", [*PLANTED, raises], ids=lambda step: step.__name__)
def test_a_planted_fault_is_found_by_one_call(step: Any) -> None:
    with pytest.raises(AssertionError) as caught:
        assert_strategy(step)
    text = str(caught.value)
    assert "breaks law" in text and "before" in text and "reproduce" in text and "judge(world" in text


def test_one_call_takes_names_and_machines() -> None:
    assert_strategy("folio", machine="6.17,bbml=2", worlds=50_000)
    with pytest.raises(AssertionError, match="folio-page0 breaks law EXCLUSIVE"):
        assert_strategy("folio-page0", machine=Machine("6.17"))
    with pytest.raises(StrategyError, match="foliO"):
        assert_strategy("foliO")


def test_what_a_step_raises_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run(machine_of(raises))


class Mine(MprotectMachine):
    strategy = sound
    machine = "6.16,cont_ptes=2,ptrs_per_pte=8"


def test_attributes_of_a_subclass_are_used() -> None:
    seen = []

    class Watched(Mine):
        def teardown(self) -> None:
            if hasattr(self, "m"):
                seen.append((str(self.m), self.name))

    run(Watched, settings(FEW, max_examples=5))
    assert set(seen) == {("6.16,cont_ptes=2,ptrs_per_pte=8", "sound")}


def test_large_tables_are_refused() -> None:
    with pytest.raises(StrategyError, match="at most 32"):
        machine_of("folio", machine="7.3")


def test_every_operation_is_reached() -> None:
    """The machine is worth nothing if its calls find nothing to do."""
    done: dict[str, int] = {}

    class Counting(machine_of("folio")):  # type: ignore[misc]
        def call(self, name: str, *args: Any) -> None:
            folded = any(word & bits.PTE_CONT for _, word in self.entries())
            super().call(name, *args)
            for what, on in ((name, True), ("on folded blocks", folded)):
                done[what] = done.get(what, 0) + on

        def verbs(self, *calls: Any) -> None:
            super().verbs(*calls)
            for name, *_ in calls:
                done[name] = done.get(name, 0) + 1

    run(Counting, settings(FEW, max_examples=80))
    wanted = {
        "mprotect",
        "change_protection",
        "on folded blocks",
        "set_ptes",
        "clear_full_ptes",
        "wrprotect_ptes",
        "reuse",
        "hw_update",
    }
    assert not {name for name in wanted if done.get(name, 0) < 10}, done


# ---- page-table code of one's own ----


class Complete(CoreTables):
    """With the verbs that are optional."""

    def set_ptes(self, *args: Any) -> None:
        self.mm.set_ptes(*args)

    def clear_full_ptes(self, *args: Any) -> None:
        self.mm.clear_full_ptes(*args)

    def wrprotect_ptes(self, *args: Any) -> None:
        self.mm.wrprotect_ptes(*args)

    def hw_update(self, *args: Any) -> None:
        self.mm.hw_update(*args)

    def reuse(self, *args: Any) -> None:
        self.mm.reuse(*args)


class PerPte(Complete):
    strategy = "per-pte"


class Leaky(CoreTables):
    """Loses one dirty bit."""

    def change_protection(self, start: int, nr: int, **how: Any) -> int:
        done = super().change_protection(start, nr, **how)
        page = self.mm.machine.page_size
        for addr in range(start, start + nr * page, page):
            if len(self.mm.walk(addr)) > 1 and self.mm.walk(addr)[-1][1] & bits.PTE_DIRTY:
                leaf, i = self.mm.leaf(addr), self.mm.walk(addr)[-1][0]
                if leaf[i] & bits.PTE_RDONLY and leaf[i] & (bits.PTE_VALID | bits.PTE_NG):
                    leaf[i] ^= bits.PTE_DIRTY
                    break
        return done


class OffByOne(CoreTables):
    def change_protection(self, start: int, nr: int, **how: Any) -> int:
        return super().change_protection(start, nr, **how) + 1


class Generous(Complete):
    """A write fault that leaves the entry read-only."""

    def reuse(self, addr: int) -> None:
        self.mm.hw_update(addr, True)


def test_page_tables_like_the_core_pass() -> None:
    assert isinstance(Complete(Machine()), PageTables)
    run(machine_of(page_tables=CoreTables))
    run(machine_of(page_tables=Complete))


def test_another_loop_passes_by_the_relation_only() -> None:
    run(machine_of(page_tables=PerPte, exact=False))
    found_by(machine_of(page_tables=PerPte), "change_protection(): entry of")


@pytest.mark.parametrize("exact", [True, False])
def test_a_lost_dirty_bit_is_found(exact: bool) -> None:
    found_by(machine_of(page_tables=Leaky, exact=exact), "AD_KEPT" if not exact else "change_protection(): entry of")


@pytest.mark.parametrize("exact", [True, False])
def test_a_wrong_return_value_is_found(exact: bool) -> None:
    found_by(machine_of(page_tables=OffByOne, exact=exact), "returns")


def test_a_wrong_verb_is_found() -> None:
    found_by(machine_of(page_tables=Generous, exact=False), "reuse: entry of")


# ---- invariants of an address space, each with the entry that breaks it ----

M = Machine("7.3", cont_ptes=4, ptrs_per_pte=8)
RW = RefVma(0, 8 * 4096, 3, 0, 0)
RO = RefVma(0, 8 * 4096, 1, 0, 0)
PAGE = (PFN0 << 12) + 4096
OWN = [bits.PG_ANON | bits.PG_ANON_EXCLUSIVE] * 8
DIRTY_RW = bits.PAGE_SHARED & ~bits.PTE_RDONLY


def entry(word: int, vma: RefVma = RW, pages: list[int] = OWN) -> str | None:
    return at_rest(M, [vma], {0: (0, word, 0, 0, 0, 0, 0, 0)}, pages)


BROKEN = {
    "I-1": entry(bits.PAGE_READONLY & ~bits.PTE_NG | PAGE),
    "I-2": entry(bits.PAGE_SHARED | bits.PTE_DIRTY | PAGE),
    "I-3": entry(bits.PAGE_READONLY & ~bits.PTE_RDONLY | PAGE),
    "I-4": entry(bits.PAGE_READONLY | bits.PTE_CONT | PAGE),
    "I-5": entry(bits.PAGE_NONE | bits.PTE_CONT | PAGE),
    "I-6": entry(DIRTY_RW | PAGE, pages=[bits.PG_ANON] * 8),
    "I-8": entry(DIRTY_RW | PAGE, vma=RO),
    "I-9": entry(DIRTY_RW | bits.PTE_UFFD | PAGE, vma=RefVma(0, 8 * 4096, 3 | bits.VM_UFFD_WP, 0, 0)),
    "I-10": entry(2),
    "no VMA": entry(bits.PAGE_READONLY | PAGE, vma=RefVma(1 << 20, 2 << 20, 1, 0, 0)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_entry_that_breaks_an_invariant_is_named(name: str) -> None:
    found = BROKEN[name]
    assert found is not None and (name in found or "no VMA" in name)


def test_lawful_entries_break_none() -> None:
    assert entry(DIRTY_RW | PAGE) is None and entry(bits.PAGE_READONLY | PAGE) is None and entry(0) is None
    assert entry(2 << bits.SWP_TYPE_SHIFT | 5 << bits.SWP_OFFSET_SHIFT) is None


def test_parts_are_what_changed() -> None:
    before = [RefVma(0, 8192, 3, 0, 0), RefVma(8192, 16384, 1, 0, 2), RefVma(16384, 32768, 3, 0, 4)]
    after = [RefVma(0, 4096, 3, 0, 0), RefVma(4096, 20480, 1, 0, 1), RefVma(20480, 32768, 3, 0, 5)]
    assert [(part.start, part.end, part.vm_flags) for part in parts_of(M, before, after, 4096, 20480)] == [
        (4096, 8192, 1),
        (16384, 20480, 1),
    ]


# ---- strategies of Hypothesis ----


@settings(max_examples=150, deadline=None)
@given(world=testing.small_worlds())
def test_small_worlds_keep_every_law(world: SmallWorld) -> None:
    """They are lawful starts: the merged design and the per-PTE loop break nothing in them."""
    assert judge(world, "folio") is None and judge(world, "per-pte") is None


def test_small_worlds_find_the_known_faults() -> None:
    how = settings(max_examples=3000, database=None, phases=[Phase.generate], deadline=None)
    for name in ("folio-page0", "folio-shared", "nested-page0", "nested-nowrite"):
        assert find(testing.small_worlds(), lambda world, name=name: judge(world, name) is not None, settings=how)


def test_small_worlds_have_folded_blocks_and_everything_else() -> None:
    how = settings(max_examples=3000, database=None, phases=[Phase.generate], deadline=None)

    def has(word: int) -> Any:
        return lambda world: any(w & word and w & bits.PTE_VALID for w in world.ptes)

    for word in (bits.PTE_CONT, bits.PTE_SPECIAL, bits.PTE_WRITE, bits.PTE_UFFD, bits.PTE_DIRTY):
        assert find(testing.small_worlds(), has(word), settings=how)
    assert find(
        testing.small_worlds("6.12,cont_ptes=2,ptrs_per_pte=8"), lambda w: any(x > 0 and not x & 1 for x in w.ptes), settings=how
    )


@settings(max_examples=40, deadline=None)
@given(data=testing.machines().flatmap(lambda m: testing.folios(m).map(lambda f: (m, f))), layout=testing.layouts())
def test_machines_folios_and_layouts_are_usable(data: Any, layout: Layout) -> None:
    machine, folio = data
    assert Machine.parse(str(machine)) == machine and folio.head % folio.nr == 0 and folio.order <= machine.pmd_order
    assert 0 < layout.length(Machine()) <= 4 << 20


@settings(max_examples=50)
@given(testing.exclusivity(20), testing.protections(), testing.changes())
def test_the_small_ones_draw_what_they_say(pattern: list[bool], prot: int, change: Any) -> None:
    assert len(pattern) == 20 and prot & ~7 == 0 and change.name


# ---- without Hypothesis ----


def test_without_hypothesis_there_is_one_sentence() -> None:
    text = (
        "import sys; sys.modules['hypothesis'] = None\ntry:\n    import ptebatch.testing\nexcept ImportError as e:\n    print(e)"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "ptebatch.testing needs Hypothesis, which is not installed; run: pip install hypothesis\n"


def test_ptebatch_itself_does_not_import_it() -> None:
    text = "import sys, ptebatch, ptebatch.cli; print('hypothesis' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"


def test_examples_of_the_docstrings() -> None:
    from ptebatch.testing import asserting, stateful

    for module in (asserting, stateful):
        result = doctest.testmod(module)
        assert result.failed == 0 and result.attempted > 2
