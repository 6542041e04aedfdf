"""How `MprotectMachine` makes calls: by core and reference, then by the page tables under test, then judged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from .. import bits as b
from ..checker.worlds.small import PFN0
from ..errors import StrategyError
from ..reference import RefVma
from ..reference import pte as p
from .ground import Ground
from .judging import Part, Table, broken_law, runs_of, shown, unequal
from .lockstep import Outcome

__all__ = ["Calls"]


class Calls(Ground):
    """Protection changes and verbs, with everything that is held against them."""

    def change_vma(self, data: st.DataObject, vma: RefVma, newprot: int, cp_flags: int) -> None:
        """change_protection() of a part of one VMA."""
        start, nr = self.range_in(data, vma.start, vma.end)
        how = {"newprot": newprot, "cp_flags": cp_flags, "vm_flags": vma.flags, "anon": vma.anonymous}
        part = Part(start, start + nr * self.page, newprot, cp_flags, vma.flags, vma.anonymous)
        self.call("change_protection", (start, nr), how, lambda: [part])

    def call(self, name: str, args: tuple[int, ...], how: dict[str, Any], parts: Callable[[], list[Part]]) -> None:
        """A protection change: by core and reference, then by the page tables under test; judged."""
        before, pages = self.space.tables(), self.space.pages
        try:
            got = self.space.call(name, *args, strategy=self.core_strategy, twin=self.twin, **how)
        except StrategyError as error:
            raise AssertionError(f"{self.name} broke its contract in {name}({args}, {how}): {error}") from error
        after, done = self.space.tables(), parts()
        law = broken_law(runs_of(self.m, done, before, after, pages, got.result), self.name)
        assert law is None, law
        if self.twin is None:
            self.same_as_per_pte(name, done, before, after, pages)
            self.space.adopt()
        if self.mine is not None:
            self.mine_too(got, done, before, after, pages)

    def same_as_per_pte(
        self, name: str, parts: list[Part], before: dict[int, Table], after: dict[int, Table], pages: list[int]
    ) -> None:
        """The relation of spec 7.10 to what the reference's per-PTE loop left."""
        runs = {id(run.after): run for run in runs_of(self.m, parts, before, after, pages, None)}
        for at, words in after.items():
            want = tuple(self.space.ref.ptes.get(at + i * self.page, 0) for i in range(len(words)))
            self.related(f"{self.name} in {name}", at, unequal(runs.get(id(words)), words, want), words, want)

    def related(self, what: str, at: int, i: int, got: Table, want: Table) -> None:
        """Fail at the first entry that differs in more than it may."""
        assert i < 0, f"{what}: entry of {at + i * self.page:#x} is {shown(self.m, got[i])}, expected {shown(self.m, want[i])}"

    def mine_too(
        self, got: Outcome, parts: list[Part], before: dict[int, Table], after: dict[int, Table], pages: list[int]
    ) -> None:
        """The same change by the page tables under test."""
        assert self.mine is not None
        done = 0
        for part in parts:
            nr = (part.end - part.start) // self.page
            done += self.mine.change_protection(
                part.start, nr, newprot=part.newprot, cp_flags=part.cp_flags, vm_flags=part.vm_flags, anon=part.anon
            )
        assert done == got.result.pages, f"change_protection() returns {done}, expected {got.result.pages}"
        mine = {at: tuple(map(int, self.mine.words(at, len(words)))) for at, words in after.items()}
        if not type(self).exact:
            law = broken_law(runs_of(self.m, parts, before, mine, pages, None), "the page tables under test") if done else None
            assert law is None, law
        runs = {id(run.after): run for run in runs_of(self.m, parts, before, mine, pages, None)}
        for at, want in after.items():
            words = mine[at]
            exact = next((i for i, (one, two) in enumerate(zip(words, want, strict=True)) if one != two), -1)
            i = exact if type(self).exact else unequal(runs.get(id(words)), words, want)
            self.related("change_protection()", at, i, words, want)
            if exact >= 0:
                self.space.load(at, words)  # what differs lawfully is from now on the state of all

    def verbs(self, *calls: tuple[Any, ...]) -> None:
        """Verbs on all, in order; the page tables under test are compared after the last."""
        for name, *args in calls:
            self.space.verb(name, *args)
        mine = self.mine
        if mine is None:
            return
        mine.set_pages(PFN0, bytes(self.space.pages))
        at = calls[0][1] // self.space.size * self.space.size
        want = self.space.tables()[at]
        if not all(hasattr(mine, name) for name, *_ in calls):
            mine.load(at, want)
            return
        for name, *args in calls:
            getattr(mine, name)(*args)
        words = tuple(map(int, mine.words(at, len(want))))
        free = 0 if type(self).exact else b.PTE_CONT | b.PTE_AF | b.PTE_DIRTY | b.PTE_RDONLY
        i = next((i for i, (one, two) in enumerate(zip(words, want, strict=True)) if (one ^ two) & ~free), -1)
        self.related(" and ".join(name for name, *_ in calls), at, i, words, want)
        if words != want:
            self.space.load(at, words)

    def verb(self, data: st.DataObject, name: str, may: Callable[[int, int], bool], *args: Any) -> None:
        """A verb of one present entry."""
        addr = self.some(data, [at for at, word in self.entries() if p.pte_present(word) and may(at, word)])
        if addr:
            self.verbs((name, addr, *args))
