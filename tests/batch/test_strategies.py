"""The registry, and strategies in Python: they count what the core counts, and break nothing when they are wrong."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptebatch import MM, STRATEGIES, Machine, Window, bits, register
from ptebatch.errors import LayoutError, PtebatchError, StrategyError
from ptebatch.kernels import ERAS
from ptebatch.strategies import get_strategy, resolve, unregister

BASE = 0x200000
SIZE = 0x200000
PYX = Path(__file__).resolve().parents[2] / "pyx/ptebatch/batch/strategies.pyx"
SOUND = [name for name, row in STRATEGIES.items() if not row.flawed]
FLAWED = [name for name, row in STRATEGIES.items() if row.flawed]


def world(exclusive=None, machine="7.3", **kw) -> MM:
    """512 pages of one folio, read-only, as a call to RW finds them."""
    mm = MM(machine, nr_pages=4096)
    mm.mmap(BASE, SIZE, 1)
    mm.map_folios(BASE, 512, 9, exclusive=exclusive, **kw)
    return mm


# ---- the registry ----


def test_the_designs_of_the_discussion_are_all_here():
    assert SOUND == ["folio", "per-pte", "nested", "lookahead", "lookahead-pae", "iterator", "merged"]
    assert FLAWED == ["folio-shared", "nested-page0", "folio-page0", "nested-nowrite"]


def test_the_table_of_the_core_is_the_registry():
    rows = re.findall(r'row\(b"([\w-]+)", step_', PYX.read_text())
    assert rows == list(STRATEGIES)


def test_every_kernel_has_its_own_loop_in_the_registry():
    assert {era.strategy for era in ERAS.values()} == {"per-pte", "folio"}
    assert all(not STRATEGIES[Machine(kernel).strategy].flawed for kernel in ERAS)


def test_the_registry_cannot_be_written_around_register():
    with pytest.raises(TypeError):
        STRATEGIES["mine"] = None  # type: ignore[index]


def test_a_registered_step_is_a_strategy_by_name_until_it_is_removed():
    row = register("by-one", lambda window: window.change_unit(0, 1, window.page_anon_exclusive(0)) or 1, summary="one at a time")
    try:
        assert STRATEGIES["by-one"] is row and get_strategy("by-one").summary == "one at a time"
        assert resolve("by-one") is row
        result = world().mprotect(BASE, SIZE, 3, strategy="by-one")
        assert result.strategy == "by-one" and result["prot_start"] == 512
    finally:
        unregister("by-one")
    with pytest.raises(StrategyError, match="'by-one' is unknown"):
        world().mprotect(BASE, SIZE, 3, strategy="by-one")


def test_the_docstring_of_a_step_is_its_summary():
    def careful(window):
        """Take care.

        And more.
        """
        return window.max_nr

    try:
        assert register("careful", careful).summary == "Take care."
    finally:
        unregister("careful")


# ---- twins: a strategy in Python is the compiled one, event for event ----


def folio(w: Window) -> int:
    nr = w.folio_pte_batch()
    w.note_batch(nr)
    old = w.start(0, nr)
    new = w.newpte(old)
    if not w.asks_writable(new):
        w.commit(0, old, new, nr)
        return nr
    maybe = w.maybe_change_pte_writable(new)
    if w.shared or not maybe or not w.anon:
        w.commit(0, old, new, nr, write=w.shared and maybe and w.pte_dirty(new))
        return nr
    done = 0
    while done < nr:
        exclusive = w.page_anon_exclusive(done)
        run = w.anon_exclusive_batch(done, exclusive, nr - done)
        step = done << 12
        w.commit(done, old + step, new + step, run, write=exclusive)
        done += run
    return nr


def lookahead(w: Window) -> int:
    nr, exclusive = w.folio_pte_batch(), False
    if w.needs_anon_exclusive():
        exclusive = w.page_anon_exclusive(0)
        nr = w.anon_exclusive_batch(0, exclusive, nr)
    w.change_unit(0, nr, exclusive)
    return nr


def iterator(w: Window) -> int:
    nr, done = w.folio_pte_batch(), 0
    if not w.needs_anon_exclusive():
        w.change_unit(0, nr, False)
        return nr
    exclusive = w.page_anon_exclusive(0)
    while done < nr:
        run = w.anon_exclusive_batch(done, exclusive, nr - done)
        w.change_unit(done, run, exclusive)
        exclusive = not exclusive
        done += run
    return nr


TWINS = {"folio": folio, "lookahead": lookahead, "iterator": iterator}


def same(mine, theirs) -> bool:
    names = ("counters", "batches", "subs", "flushes", "gathers", "pages")
    return all(getattr(mine, name) == getattr(theirs, name) for name in names)


@pytest.mark.parametrize("name", TWINS)
@given(
    runs=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    shared=st.booleans(),
    prot=st.sampled_from([0, 1, 2, 3, 4]),
    fold=st.booleans(),
    kernel=st.sampled_from(sorted(ERAS)),
    part=st.tuples(st.integers(0, 511), st.integers(1, 512)),
)
def test_a_python_step_does_and_counts_what_the_compiled_one_does(name, runs, shared, prot, fold, kernel, part):
    mm = MM(kernel, nr_pages=2048)
    mm.mmap(BASE, SIZE, 3, shared=shared, file=int(shared), writenotify=shared)
    exclusive = None if shared else np.resize(np.repeat(np.arange(len(runs)) % 2 == 0, runs), 512)
    mm.map_folios(BASE, 512, 9, exclusive=exclusive, fold=fold)
    mm.mprotect(BASE, SIZE, 1)
    first, nr = part[0], min(part[1], 512 - part[0])
    other = mm.copy()
    mine = mm.mprotect(BASE + (first << 12), nr << 12, prot, strategy=TWINS[name], trace=True)
    theirs = other.mprotect(BASE + (first << 12), nr << 12, prot, strategy=name, trace=True)
    assert same(mine, theirs)
    assert (mine.trace == theirs.trace).all()
    assert (mm.ptes(BASE, 512) == other.ptes(BASE, 512)).all()
    assert mm.vmas() == other.vmas()


def test_a_twin_that_asks_once_too_often_is_seen():
    def curious(w):
        w.page_anon_exclusive(0)
        return folio(w)

    one, other = world(), world()
    assert not same(one.mprotect(BASE, SIZE, 3, strategy=curious), other.mprotect(BASE, SIZE, 3))


# ---- the arithmetic of the discussion, on one folio of 512 pages ----

ALTERNATING = [i % 2 == 1 for i in range(512)]


@pytest.mark.parametrize(
    ("name", "runs", "reads"),
    [
        ("lookahead", [512], 512),
        ("lookahead", [1, 511], 1023),
        ("lookahead", [16, 16, 480], 1488),
        ("lookahead", [256, 256], 768),
        ("lookahead", [1] * 512, 131_328),
        ("folio", [1] * 512, 512),
        ("iterator", [1] * 512, 512),
        ("merged", [1] * 512, 1023),
        ("lookahead-pae", [1] * 512, 512),
    ],
)
def test_ptes_looked_at_without_the_contiguous_bit(name, runs, reads):
    """Detection is the sum of i * r_i for the stateless look-ahead, n for designs that remember (spec 7.3)."""
    exclusive = np.repeat(np.arange(len(runs)) % 2 == 0, runs)
    assert world(exclusive, fold=False).mprotect(BASE, SIZE, 3, strategy=name)["ptep_get"] == reads


def test_hints_save_most_of_it_while_blocks_are_folded():
    """A folded block is stepped over as one; it unfolds at its first commit of one page, and as CONT
    is compared, scans inside it then end at the next block (spec 5.2): 32 + 31 + ... + 1 for the first
    units of the blocks, 16 - k and one that differs for unit k of each, none behind the last."""
    mm = world(ALTERNATING)
    assert mm.copy().mprotect(BASE, SIZE, 3, strategy="folio")["ptep_get"] == 32
    inner = sum(16 - k + 1 for k in range(1, 16))
    assert mm.mprotect(BASE, SIZE, 3, strategy="lookahead")["ptep_get"] == sum(range(33)) + 32 * inner - 15 == 4833


def test_the_mirrored_case_is_quadratic_in_pages():
    """PAE scan first: entries that alternate in WRITE under uniform exclusivity make it ask n(n+1)/2 pages."""
    mm = world(fold=False)
    words = mm.ptes(BASE, 512)
    words[::2] |= np.uint64(bits.PTE_WRITE)
    assert mm.mprotect(BASE, SIZE, 3, strategy="lookahead-pae")["pae_reads"] == 131_328


# ---- flawed designs are really wrong, and only they ----


def granted(name: str) -> np.ndarray:
    """Pages that may be written after RO to RW from the middle of a folio on, first half exclusive."""
    exclusive = [i < 256 for i in range(512)]
    mm = world(exclusive, mapped_shared=False)
    mm.mprotect(BASE + (256 << 12), 256 << 12, 3, strategy=name)
    return (mm.ptes(BASE, 512) & np.uint64(bits.PTE_WRITE)) != 0


@pytest.mark.parametrize("name", SOUND)
def test_no_sound_strategy_makes_a_shared_page_writable(name):
    assert not granted(name)[256:].any()


@pytest.mark.parametrize("name", ["folio-shared", "nested-page0", "folio-page0"])
def test_a_flawed_one_does(name):
    assert granted(name)[256:].all()


# ---- steps that are wrong: the error says how, and nothing has happened ----


def leave_started(w):
    w.change_unit(0, 3, False)
    w.start(3, 2)
    return 5


def commit_twice(w):
    w.change_unit(0, 4, False)
    w.change_unit(0, 4, False)
    return 4


def raise_late(w):
    if w.idx > 100:
        raise RuntimeError("late")
    w.change_unit(0, 7, False)
    return 7


WRONG = [
    ("returns 0", lambda w: 0, "returned 0; return a number from 1 to max_nr=512"),
    ("returns too much", lambda w: w.max_nr + 1, "returned 513"),
    ("returns a negative", lambda w: -1, "returned -1"),
    ("returns a huge number", lambda w: 1 << 80, f"returned {1 << 80}"),
    ("returns None", lambda w: None, "returned None"),
    ("returns text", lambda w: "512", "'512' is not a whole number"),
    ("returns a float", lambda w: 512.0, "512.0 is not a whole number"),
    ("returns True", lambda w: True, "True is not a whole number"),
    ("counts what it did not do", lambda w: w.max_nr, "returned 512 but committed 0 entries"),
    ("commits twice", commit_twice, "entry 0 was started already"),
    ("commits another frame", lambda w: w.commit(0, w.old, w.pte_advance_pfn(w.start(0, 2), 1), 2) or 2, "but the new word maps"),
    ("commits behind what it started", lambda w: w.commit(0, w.old, w.start(0, 1), 2) or 2, "entry 1 was not started"),
    ("leaves entries started", leave_started, "left 2 started entries uncommitted"),
    ("commits what it did not start", lambda w: w.commit(0, w.old, w.old, 1) or 1, "entry 0 was not started"),
    ("starts outside", lambda w: w.start(0, 513), r"\[0, 513\) leave the window of 512"),
    ("starts before", lambda w: w.start(-1, 1), r"\[-1, 0\) leave the window"),
    ("starts nothing", lambda w: w.start(0, 0), r"\[0, 0\) leave the window"),
    ("starts an overflow", lambda w: w.start(1 << 64, 1), "leave the window of 512"),
    ("reads outside", lambda w: w.ptep_get(512), r"\[512, 513\)"),
    ("reads a float", lambda w: w.ptep_get(1.0), "offset=1.0"),
    ("asks a page outside", lambda w: w.page_anon_exclusive(1 << 40), "does not exist; stay inside the folio"),
    ("asks a page far below", lambda w: w.page_anon_exclusive(-(1 << 70)), "does not exist"),
    ("batches too far", lambda w: w.folio_pte_batch(513), r"\[0, 513\)"),
    ("runs too far", lambda w: w.anon_exclusive_batch(500, True, 13), r"\[500, 513\)"),
    ("commits a bad word", lambda w: w.commit(0, -1, 0, 1), "old=-0x1"),
    ("commits a large word", lambda w: w.commit(0, 0, 1 << 64, 1), "new=0x1"),
    ("writes maybe", lambda w: w.change_unit(0, 1, "yes"), "exclusive='yes'"),
    ("notes too much", lambda w: w.note_batch(513), r"\[0, 513\)"),
]


def seen(mm: MM) -> tuple:
    return mm.vmas(), mm.ptes(BASE, 512).tobytes(), mm.pages.tobytes()


@pytest.mark.parametrize(("step", "text"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_a_wrong_step_is_named_and_undone(step, text):
    mm = world(ALTERNATING)
    before = seen(mm)
    with pytest.raises(PtebatchError, match=text):
        mm.mprotect(BASE, SIZE, 3, strategy=step)
    assert seen(mm) == before
    assert mm.mprotect(BASE, SIZE, 3).pages == 512, "the address space works as before"


@pytest.mark.parametrize("error", [RuntimeError("late"), KeyboardInterrupt(), SystemExit(3)], ids=lambda e: type(e).__name__)
def test_what_a_step_raises_comes_out_and_all_is_undone(error):
    def raising(w):
        if w.idx > 100:
            raise error
        w.change_unit(0, 7, False)
        return 7

    mm = world(ALTERNATING)
    before = seen(mm)
    with pytest.raises(type(error)) as caught:
        mm.mprotect(BASE, SIZE, 3, strategy=raising)
    assert caught.value is error
    assert seen(mm) == before


def test_earlier_vmas_are_undone_too():
    mm = world()
    mm.mmap(BASE + SIZE, 0x10000, 5, vm_flags=bits.VM_HUGEPAGE)
    mm.map_folios(BASE + SIZE, 16, 4)
    before = mm.vmas(), mm.leaf(BASE).tobytes(), mm.leaf(BASE + SIZE).tobytes()

    def fails_in_the_second(w):
        if w.addr >= BASE + SIZE:
            raise RuntimeError("second")
        return folio(w)

    with pytest.raises(RuntimeError, match="second"):
        mm.mprotect(BASE, SIZE + 0x10000, 0, strategy=fails_in_the_second)
    assert (mm.vmas(), mm.leaf(BASE).tobytes(), mm.leaf(BASE + SIZE).tobytes()) == before


def test_a_window_that_is_kept_is_dead():
    kept: list[Window] = []

    def keep(w):
        kept.append(w)
        return folio(w)

    mm = world()
    mm.mprotect(BASE, SIZE, 3, strategy=keep)
    for use in ("addr", "idx", "max_nr", "old", "pfn", "folio_head", "folio_nr", "anon", "large", "shared", "mapped_shared"):
        with pytest.raises(StrategyError, match="do not keep it"):
            getattr(kept[0], use)
    for call in (lambda w: w.start(0, 1), lambda w: w.ptep_get(0), lambda w: w.newpte(0), lambda w: w.normal_page()):
        with pytest.raises(StrategyError, match="do not keep it"):
            call(kept[0])


INSIDE = {
    "mprotect": lambda mm: mm.mprotect(BASE, SIZE, 0),
    "change_protection": lambda mm: mm.change_protection(BASE, 1, newprot=0, vm_flags=0),
    "copy": lambda mm: mm.copy(),
    "mmap": lambda mm: mm.mmap(BASE + (1 << 30), 4096, 1),
    "vmas": lambda mm: mm.vmas(),
    "populate": lambda mm: mm.populate(BASE + (1 << 30), 4096),
    "map_folios": lambda mm: mm.map_folios(BASE, 1),
    "set_folio": lambda mm: mm.set_folio(2048, 0),
    "alloc_folio": lambda mm: mm.alloc_folio(0),
    "set_page_anon_exclusive": lambda mm: mm.set_page_anon_exclusive(1024),
    "set_ptes": lambda mm: mm.set_ptes(BASE, 0, 1),
    "ptep_get": lambda mm: mm.ptep_get(BASE),
    "wrprotect_ptes": lambda mm: mm.wrprotect_ptes(BASE),
    "clear_full_ptes": lambda mm: mm.clear_full_ptes(BASE),
    "test_and_clear_young": lambda mm: mm.test_and_clear_young(BASE),
    "clear_young_dirty": lambda mm: mm.clear_young_dirty(BASE),
    "set_access_flags": lambda mm: mm.set_access_flags(BASE, 0),
    "hw_update": lambda mm: mm.hw_update(BASE),
    "reuse": lambda mm: mm.reuse(BASE),
    "set_limits": lambda mm: mm.set_limits(map_count=1),
    "pkey_alloc": lambda mm: mm.pkey_alloc(),
    "replayed": lambda mm: mm.replayed,
}


@pytest.mark.parametrize("verb", INSIDE)
def test_the_address_space_is_closed_to_its_own_steps(verb):
    """A step that changed VMAs or tables under the walk would pull the ground from it."""
    mm = world(ALTERNATING)
    before = seen(mm)

    def recursive(w):
        INSIDE[verb](mm)
        return folio(w)

    with pytest.raises(PtebatchError, match="in use by a call that still runs"):
        mm.mprotect(BASE, SIZE, 3, strategy=recursive)
    assert seen(mm) == before


def test_every_verb_of_the_address_space_is_closed_or_only_looks():
    looks = {"ptes", "leaf", "walk", "pages", "pfn_base", "nr_pages", "machine", "set_pte_at"}  # set_pte_at is set_ptes
    public = {name for name in dir(MM) if not name.startswith("_")}
    assert public == set(INSIDE) | looks


def test_another_address_space_may_be_used_inside():
    mm, other = world(), world()

    def nested(w):
        assert other.mprotect(BASE, SIZE, 0).pages == 512
        other.mprotect(BASE, SIZE, 1)
        return folio(w)

    assert mm.mprotect(BASE, SIZE, 3, strategy=nested).pages == 512


def test_layout_errors_are_raised_before_a_step_runs():
    with pytest.raises(LayoutError):
        world().mprotect(BASE, SIZE, "read", strategy=lambda w: pytest.fail("the step ran"))
