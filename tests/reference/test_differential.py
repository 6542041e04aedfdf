"""Core against reference: random address spaces, every design, every era, one call at a time.

The two were written apart from the same specification. Whatever one can observe must
agree: words, return value, counters, batches, flushes, gathers, and the order of every
access to a PTE, every TLB instruction and every PageAnonExclusive question.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from differential import BASE, PFN, World, compare
from hypothesis import HealthCheck, Phase, find, given, settings
from random_worlds import repetitive_worlds, worlds

from ptebatch import STRATEGIES, Window
from ptebatch import bits as b
from ptebatch.machine import Machine
from ptebatch.reference import DESIGNS, RefMM, contpte
from ptebatch.reference import folio_batch as folio
from ptebatch.reference import pte as p
from ptebatch.reference import strategies as steps

NAMES = list(DESIGNS)
FEW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(FEW, max_examples=250)


def test_reference_has_every_strategy() -> None:
    assert set(DESIGNS) <= set(STRATEGIES)
    assert {name for name, row in STRATEGIES.items() if row.step is None} == set(DESIGNS)


@pytest.mark.parametrize("name", NAMES)
@given(world=worlds())
@FEW
def test_core_and_reference_agree(name: str, world: World) -> None:
    compare(world, name, name)


@pytest.mark.parametrize("name", NAMES)
@given(world=repetitive_worlds())
@settings(FEW, max_examples=15)
def test_they_agree_where_folios_repeat(name: str, world: World) -> None:
    compare(world, name, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@given(world=worlds() | repetitive_worlds())
@MANY
def test_they_agree_at_length(name: str, world: World) -> None:
    compare(world, name, name)


@pytest.mark.parametrize("name", NAMES)
def test_folios_that_numa_balancing_skips_are_not_counted_as_fold_tries(name: str) -> None:
    words = [p.pfn_pte(12, PFN + i, b.PAGE_SHARED & ~b.PTE_RDONLY) for i in range(512)]
    folios = [(PFN + i, 0, True, True, False) for i in range(512)]
    call = {"newprot": b.PAGE_NONE, "cp_flags": b.MM_CP_PROT_NUMA, "vm_flags": 3}
    compare(World(Machine(), folios, [], [words], BASE, 64, call), name, name)


# A strategy in Python runs on both: the same step, a window of the core and one of the reference


def one_by_one(window: Any) -> int:
    """The shortest strategy there is."""
    exclusive = window.needs_anon_exclusive() and window.page_anon_exclusive(0)
    window.change_unit(0, 1, exclusive)
    return 1


def never_writable(window: Any) -> int:
    """Starts and commits by hand, in threes, and leaves every upgrade to the write fault."""
    nr = min(window.folio_pte_batch(), 3)
    window.note_batch(nr)
    old = window.start(0, nr)
    window.commit(0, old, window.newpte(old), nr)
    return nr


PORTABLE = [one_by_one, never_writable, steps.per_pte, steps.lookahead, steps.lookahead_pae, steps.iterator, steps.folio_shared]
if hasattr(Window, "pte_advance_pfn"):
    PORTABLE += [steps.folio, steps.folio_page0, steps.nested, steps.nested_page0, steps.nested_nowrite]


@pytest.mark.parametrize("step", PORTABLE, ids=lambda step: step.__name__)
@given(world=worlds())
@settings(FEW, max_examples=40)
def test_a_python_step_runs_on_both(step: Callable[[Any], int], world: World) -> None:
    compare(world, step, step)


# Bad twins: with one rule of the reference broken, a few hundred worlds tell

intact_batch = folio.Pages.folio_pte_batch


def leaky_batch(self: RefMM, *args: Any, **kw: Any) -> int:
    return intact_batch(self, *args, **{**kw, "respect_write": False})


TWINS: dict[str, tuple[Any, str, Any, str]] = {
    "a batch ignores WRITE": (folio.Pages, "folio_pte_batch", leaky_batch, "folio"),
    "nothing is ever folded": (contpte.Contpte, "_try_fold", lambda self, addr, word: None, "per-pte"),
    "edge blocks stay folded": (contpte.Contpte, "_unfold_partial", lambda self, addr, nr: None, "folio"),
    "special pages have a folio": (p, "pte_special", lambda pte: False, "folio"),
    "AF is lost": (p, "pte_mkyoung", lambda pte: pte, "merged"),
    "PROT_NONE may be writable": (p, "pte_protnone", lambda pte: False, "nested"),
    "userfaultfd loses its bit": (p, "pte_mkuffd", lambda pte: pte & ~b.PTE_UFFD, "iterator"),
}


def disagrees(world: World, strategy: str) -> bool:
    try:
        compare(world, strategy, strategy)
    except Exception:
        return True
    return False


@pytest.mark.parametrize("twin", TWINS)
def test_a_broken_rule_is_found(twin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, wrong, strategy = TWINS[twin]
    monkeypatch.setattr(owner, name, wrong)
    looking = settings(FEW, max_examples=1500, database=None, phases=[Phase.generate])
    assert find(worlds(), lambda world: disagrees(world, strategy), settings=looking)
