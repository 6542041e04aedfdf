"""The laws of the order of events, in plain Python: units of a strategy, and a TLB.

The TLB model, spec 9: any valid word that memory holds, or held before the last
barrier, may be cached at any time; a CONT word for its whole block. A TLBI names
what it covers, a TLBI of any address of a block names the block's entry. The DSB
ISH behind it removes what was named, unless a walk may have read it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ... import bits as b
from ...events import KINDS
from ...reference import pte as p
from .run import Breach, Run, show

_NAME = dict(KINDS)


def _events(run: Run) -> Iterator[tuple[str, int, int]]:
    """Name, table index and value of each event of the table."""
    for kind, addr, value in run.events:
        i = addr >> run.machine.page_shift
        if _NAME[kind] != "PAE" and i < len(run.before):
            yield _NAME[kind], i, value


def unit(run: Run) -> Breach | None:
    """A unit holds present entries of one folio, alike but for A/D, each started and committed once (rules 1 to 3, 7)."""
    memory, state = list(run.before), [0] * len(run.before)
    for name, i, value in _events(run):
        part = range(i, min(i + value, len(memory)))
        if name in ("W", "X"):
            memory[i] = value if name == "W" else 0
        elif name == "START":
            why = _no_unit(run, memory, part)
            if not why and any(state[k] for k in part):
                why = "it was started already"
            if why:
                return Breach(
                    i,
                    "units of present entries of one folio, alike but for accessed and dirty",
                    f"start [{i}, {i + value}): {why}",
                )
            state[i : i + value] = [1] * value
        elif name == "COMMIT":
            if any(state[k] != 1 for k in part):
                return Breach(i, "a commit of what was started and not committed", f"commit [{i}, {i + value})")
            state[i : i + value] = [2] * value
    for i, done in enumerate(state):
        if run.events and done != 2 * run.handled(i):
            return Breach(
                i,
                f"entry {i} is {'' if run.handled(i) else 'not '}started and committed",
                f"it is {'' if done else 'not '}started",
            )
    return None


def asked(run: Run) -> Breach | None:
    """PageAnonExclusive is asked only of anonymous pages, of folios that the range maps."""
    anon = [folio for i in run.called if (folio := run.folio(i)) and (run.page(i) or 0) & b.PG_ANON]
    for kind, pfn, _ in run.events:
        if _NAME[kind] == "PAE" and not any(head <= pfn < head + (1 << order) for head, order in anon):
            return Breach(-1, "questions about pages of the anonymous folios that the range maps", f"page {pfn:#x} is asked")
    return None


def _no_unit(run: Run, memory: list[int], part: range) -> str:
    """Why entries are no unit; empty: they are."""
    first = memory[part.start]
    for k in part:
        word = memory[k]
        if not p.pte_present(word):
            return f"entry {k} is not present"
        if k // run.machine.ptrs_per_pte != part.start // run.machine.ptrs_per_pte:
            return f"entry {k} is in another table"
        if run.pfn(word) != run.pfn(first) + k - part.start:
            return f"frames do not follow each other at entry {k}"
        if not run.alike(first, word):
            return f"entry {k} is {show(run, word)}, entry {part.start} is {show(run, first)}"
        if len(part) > 1 and run.folio(k) != run.folio(part.start):
            return f"entry {k} maps another folio"
    return ""


@dataclass(slots=True)
class _Cached:
    """A word that a page may be cached with."""

    word: int
    visible: bool = True  # a walk may still read it
    named: bool = False  # by a TLBI


@dataclass(slots=True)
class Tlb:
    """What may be cached of each entry while a run's events pass.

    Parameters
    ----------
    run : Run
    """

    run: Run
    memory: list[int] = field(init=False)
    cached: list[list[_Cached]] = field(init=False)
    converting: int = 0
    folded: set[int] = field(default_factory=set)
    unfolded: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.memory = list(self.run.before)
        self.cached = [[_Cached(word)] if self.cacheable(i, word) else [] for i, word in enumerate(self.memory)]

    def cacheable(self, i: int, word: int) -> bool:
        """VALID with AF, of a folded block in any entry. Hardware that sets AF does so in memory, where the exchange finds it."""
        if not p.pte_valid(word) or not p.pte_cont(word):
            return p.pte_valid(word) and p.pte_young(word)
        n = self.run.machine.cont_ptes
        return any(p.pte_cont(w) and p.pte_young(w) for w in self.memory[i // n * n : i // n * n + n])

    def step(self, name: str, i: int, value: int) -> Breach | None:
        """Let one event pass."""
        if name == "X":
            self.memory[i] = 0
        elif name in ("W", "C"):
            breach = self.store(i, value)
            self.converting -= bool(self.converting)
            return breach
        elif name in ("FOLD", "UNFOLD"):
            self.converting = self.run.machine.cont_ptes
        elif name == "ASIDE1IS":
            self.invalidate(0, len(self.memory))
        elif name in ("VALE1IS", "RVALE1IS"):
            self.invalidate(i, i + value)
        elif name == "DSB ISHST":
            self.barrier()
        elif name == "DSB ISH":
            # Stores that no barrier completed before the TLBI may have been overtaken by it.
            for i, words in enumerate(self.cached):
                self.cached[i] = [c for c in words if c.visible or not c.named]
                for c in self.cached[i]:
                    c.named = False
            self.barrier()
        return None

    def store(self, i: int, new: int) -> Breach | None:
        """A store: no valid word may stand beside one of another frame, shareability or attribute."""
        self.memory[i] = new
        if not p.pte_valid(new):
            return None
        block, shift = i // self.run.machine.cont_ptes, self.run.machine.page_shift
        for c in self.cached[i]:
            moved = p.pte_pfn(shift, c.word) != p.pte_pfn(shift, new) or (c.word ^ new) & b.PTE_SHARED
            attrs = {c.word & b.PTE_ATTRINDX_MASK, new & b.PTE_ATTRINDX_MASK}
            if moved or (len(attrs) == 2 and attrs != {0, 4}):
                return Breach(i, f"a TLBI between {show(self.run, c.word)} and {show(self.run, new)}", "none")
            if p.pte_cont(c.word) != p.pte_cont(new) and not self.run.machine.elides_bbm:
                if self.converting:
                    return Breach(i, "a TLBI of the block inside its conversion", "none")
                (self.folded if p.pte_cont(new) else self.unfolded).add(block)
        if not self.cacheable(i, new):
            return None
        for c in self.cached[i]:
            if c.word == new:
                c.visible = True
                return None
        self.cached[i].append(_Cached(new))
        return None

    def barrier(self) -> None:
        """Stores are complete: walks read memory as it is."""
        for i, words in enumerate(self.cached):
            for c in words:
                c.visible &= c.word == self.memory[i]

    def invalidate(self, first: int, last: int) -> None:
        """Name what a TLBI of entries [first, last) removes."""
        n = self.run.machine.cont_ptes
        for i, words in enumerate(self.cached):
            for c in words:
                block = i // n * n
                if first <= i < last or (p.pte_cont(c.word) and block < last and first < block + n):
                    c.named = True


def follow(run: Run) -> tuple[Tlb, Breach | None]:
    """Let all events of a run pass; stop at the first broken law."""
    tlb = Tlb(run)
    for event in _events(run):
        breach = tlb.step(*event)
        if breach:
            return tlb, breach
    return tlb, None


def bbm(run: Run) -> Breach | None:
    """A live entry changes frame, shareability or attributes only through an invalid state and a TLBI (I-12)."""
    return follow(run)[1]


def tlb_rights(run: Run) -> Breach | None:
    """When the call returns, no TLB entry grants a right that the table denies (I-11)."""
    tlb, breach = follow(run)
    if breach or not run.events:
        return None
    for i, words in enumerate(tlb.cached):
        for c in words:
            if _grants_more(c.word, run.after[i]):
                return Breach(
                    i, f"no TLB entry that grants more than {show(run, run.after[i])}", f"{show(run, c.word)} may still be cached"
                )
    return None


def _grants_more(cached: int, word: int) -> bool:
    if not p.pte_valid(word):
        return True
    user = bool(cached & b.PTE_USER)
    if (user and not word & b.PTE_USER) or (p.pte_user_exec(cached) and not p.pte_user_exec(word)):
        return True
    return user and p.pte_write(cached) and not p.pte_write(word)


def gather_reset(run: Run) -> Breach | None:
    """After the final flush the gather is empty again (I-16)."""
    if run.reset or not run.events or run.gathered is None:
        return None
    return Breach(-1, "an empty gather", "what was flushed is still gathered")
