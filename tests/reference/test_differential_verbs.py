"""Core against reference: sequences of the verbs that faults, fork, munmap and the hardware make."""

from __future__ import annotations

from typing import Any

from differential import BASE, World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_worlds import worlds

from ptebatch import bits as b
from ptebatch.reference import pte as p


def verbs(world: World, draw: st.DrawFn, mm: Any) -> tuple[str, tuple[Any, ...]]:
    """One verb that its contract allows in the present state."""
    addr, table = draw(st.sampled_from(list(world.present())))
    page = world.machine.page_size
    i = draw(st.integers(0, len(table) - 1))
    word = mm.ptes[addr + i * page]
    room = len(table) - i
    alike = 1
    while alike < room and p.pte_present(word) and same_batch(mm, addr + i * page, alike):
        alike += 1
    choices = ["clear_full_ptes"]
    if p.pte_present(word):
        choices += ["hw_update", "hw_update"]
        if not p.pte_special(word):
            choices += ["set_pte_at", "move", "ptep_get", "wrprotect_ptes"]
        if p.pte_valid(word) and not p.pte_special(word):
            choices.append("reuse")  # faults never ask it of PROT_NONE
    name = draw(st.sampled_from(choices))
    at = addr + i * page
    nr = draw(st.integers(1, alike))
    if name in ("clear_full_ptes", "wrprotect_ptes"):
        return name, (at, nr)
    if name == "hw_update":
        return name, (at, draw(st.booleans()))
    if name == "set_pte_at":
        return name, (at, p.pte_modify(word, draw(st.sampled_from([b.PAGE_READONLY, b.PAGE_SHARED, b.PAGE_NONE]))))
    return name, (at, nr) if name == "move" else (at,)


def same_batch(mm: Any, addr: int, nr: int) -> bool:
    """Whether the entry `nr` further on maps the next page of the same folio, present."""
    first, other = mm.ptes[addr], mm.ptes[addr + nr * mm.page_size]
    if p.pte_special(first) or not p.pte_present(other) or p.pte_special(other):
        return False
    pfn = p.pte_pfn(mm.page_shift, first)
    return p.pte_pfn(mm.page_shift, other) == pfn + nr and mm.folios[pfn] is mm.folios.get(pfn + nr)


def apply(mm: Any, name: str, args: tuple[Any, ...], word: int) -> Any:
    if name == "move":
        # What mremap does in place: clear, then set the same pages again.
        addr, nr = args
        mm.clear_full_ptes(addr, nr)
        return mm.set_ptes(addr, word, nr)
    return getattr(mm, name)(*args)


@given(world=worlds(), data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_verbs_agree(world: World, data: st.DataObject) -> None:
    core, reference = world.core(), world.reference()
    page = world.machine.page_size
    for _ in range(data.draw(st.integers(1, 8))):
        name, args = data.draw(st.composite(lambda draw: verbs(world, draw, reference))())
        word = reference.ptes[args[0]] & ~b.PTE_CONT
        got, want = apply(core, name, args, word), apply(reference, name, args, word)
        assert got == want, (name, args)
        for addr, table in world.present():
            words = [reference.ptes[addr + i * page] for i in range(len(table))]
            assert core.leaf(addr).tolist() == words, (name, [hex(arg) for arg in args])
    exclusive = {core.pfn_base + i for i in range(core.nr_pages) if core.pages[i] & b.PG_ANON_EXCLUSIVE}
    assert exclusive == reference.anon_exclusive


def test_the_base_is_aligned_for_every_geometry() -> None:
    assert BASE % (8192 << 16) == 0
