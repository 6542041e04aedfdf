"""The compiled core and the reference as one address space: every operation on both, everything observable compared.

A difference is an `AssertionError` that says what was asked, and what each answered.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import numpy as np

from .. import bits as b
from ..checker.worlds.small import PFN0
from ..errors import LayoutError, MprotectError
from ..events import KINDS
from ..machine import Machine
from ..mm.mm import MM
from ..reference import Folio, RefMM, RefVma
from .adapter import FRAMES
from .judging import Table, shown

__all__ = ["Lockstep", "Outcome"]

Event = tuple[str, int, int]


class Outcome:
    """What a call on the core did: its result, and how it ended.

    Parameters
    ----------
    result : Result
    errno, addr : int
        Of an `MprotectError`; 0: none.
    """

    def __init__(self, result: Any, errno: int = 0, addr: int = 0) -> None:
        self.result, self.errno, self.addr = result, errno, addr

    @classmethod
    def of(cls, call: Any, *args: Any, **how: Any) -> Outcome:
        """Make a call; a refusal by the system call is an outcome too."""
        try:
            return cls(call(*args, **how))
        except MprotectError as error:
            return cls(error.result, error.errno or 0, error.addr)

    def facts(self) -> dict[str, Any]:
        """Everything of the result that can be compared."""
        r = self.result
        return {
            "errno": self.errno,
            "pages": r.pages,
            **r.counters,
            "batches": [list(run) for run in r.batches],
            "subs": [list(run) for run in r.subs],
            "flushes": [tuple(each) for each in r.flushes],
            "gathers": [tuple(each) for each in r.gathers],
        }


class Lockstep:
    """One address space in the core and in the reference.

    Parameters
    ----------
    machine : Machine
    base : int
        Address of the first leaf table.
    tables : int
        Leaf tables.
    """

    def __init__(self, machine: Machine, base: int, tables: int) -> None:
        self.machine, self.base = machine, base
        self.core = MM(machine, pfn_base=PFN0, nr_pages=FRAMES)
        self.ref = RefMM(machine)
        self.size = machine.ptrs_per_pte * machine.page_size
        self.places = [base + i * self.size for i in range(tables)]
        self.known: dict[str, Any] = {}
        self.frames = b""

    # ---- what there is ----

    def _once(self, name: str, make: Any) -> Any:
        """Make something once until the state changes: rules ask for it again and again."""
        if name not in self.known:
            self.known[name] = make()
        return self.known[name]

    @property
    def vmas(self) -> list[RefVma]:
        """The VMAs."""
        found: list[RefVma] = self._once("vmas", lambda: [RefVma(*vma) for vma in self.core.vmas()])
        return found

    @property
    def pages(self) -> list[int]:
        """Metadata of the page frames from `PFN0` on."""
        return list(self.core.pages.tobytes())

    def tables(self) -> dict[int, Table]:
        """Words of each leaf table there is."""
        found: dict[int, Table] = self._once("tables", self._tables)
        return found

    def _tables(self) -> dict[int, Table]:
        found = {at: self._leaf(at) for at in self.places}
        return {at: tuple(leaf.tolist()) for at, leaf in found.items() if leaf is not None}

    def word(self, addr: int) -> int:
        """Raw word of an entry; 0 without a table."""
        return self.ref.ptes.get(addr, 0)

    # ---- arranging ----

    def adopt(self) -> None:
        """Let the reference take VMAs, tables, folios and exclusivity from the core."""
        self.known.clear()
        self.ref.vma_list.vmas = list(self.vmas)  # the reference changes its list in place
        for at, words in self.tables().items():
            self.ref.populate(at, self.size)
            for i, word in enumerate(words):
                self.ref.ptes[at + i * self.machine.page_size] = word
        # fork changes exclusivity on both since: frames alone, once as they were, would hide it
        if self.frames != self.core.pages.tobytes() or self._exclusive() != self.ref.anon_exclusive:
            self.frames = self.core.pages.tobytes()
            self._adopt_frames()

    def _exclusive(self) -> set[int]:
        """PageAnonExclusive of the core."""
        return {PFN0 + i for i, byte in enumerate(self.pages) if byte & b.PG_ANON_EXCLUSIVE}

    def _adopt_frames(self) -> None:
        self.ref.folios.clear()
        self.ref.anon_exclusive.clear()
        for i, byte in enumerate(self.frames):
            order = byte & b.PG_ORDER_MASK
            head = PFN0 + (i >> order << order)
            numa_skip, mapped_shared = bool(byte & b.PG_NUMA_SKIP), bool(byte & b.PG_MAPPED_SHARED)
            # one object for each folio: the reference asks whether pages share it
            folio = self.ref.folios.get(head) or Folio(head, order, bool(byte & b.PG_ANON), numa_skip, mapped_shared)
            self.ref.folios[PFN0 + i] = folio
            if byte & b.PG_ANON_EXCLUSIVE:
                self.ref.anon_exclusive.add(PFN0 + i)

    def _leaf(self, at: int) -> Any:
        try:
            return self.core.leaf(at)
        except LayoutError:
            return None  # no table there

    def load(self, addr: int, words: Table) -> None:
        """Make these the words of a leaf table, in both."""
        self.core.populate(addr, self.size)
        self.core.leaf(addr)[:] = np.array(words, np.uint64)
        self.adopt()

    # ---- acting ----

    def verb(self, name: str, *args: Any) -> None:
        """One verb of MM on both."""
        got, want = getattr(self.core, name)(*args), getattr(self.ref, name)(*args)
        self.known.clear()
        what = f"{name}({', '.join(hex(arg) if isinstance(arg, int) else str(arg) for arg in args)})"
        assert got == want, f"{what} returns {got} from the core, {want} from the reference"
        self.same_words(what)

    def call(self, name: str, *args: Any, strategy: Any, twin: Any, **how: Any) -> Outcome:
        """mprotect() or change_protection() on both.

        Parameters
        ----------
        name : str
        *args, **how
            Of the call.
        strategy : object
            What the core runs.
        twin : object
            What the reference runs; None: per-pte, and only what every loop must agree in
            is compared: refusal, return value and VMAs.
        """
        seen: list[Event] = []
        plain = self.core.copy() if twin is not None else None
        self.known.clear()
        got = Outcome.of(getattr(self.core, name), *args, strategy=strategy, trace=True, **how)
        note = self._note(seen)
        want = Outcome.of(getattr(self.ref, name), *args, strategy=twin or "per-pte", observer=note, **how)
        what = f"{name}({', '.join(map(hex, args))}, {how})"
        ours, theirs = got.facts(), want.facts()
        if twin is None:
            ours, theirs = ({key: facts[key] for key in ("errno", "pages")} for facts in (ours, theirs))
        wrong = {key: (ours[key], theirs[key]) for key in ours if ours[key] != theirs[key]}
        assert not wrong, f"{what}: strategy and {'reference' if twin else 'the per-PTE loop'} differ in {wrong}"
        ours_vmas, theirs_vmas = self.vmas, self.ref.vmas()
        assert ours_vmas == theirs_vmas, f"{what}: VMAs of the core {ours_vmas}, of the reference {theirs_vmas}"
        if plain is not None:
            self.same_words(what)
            self._same_events(what, got.result, seen)
            self._same_untraced(what, name, plain, got, Outcome.of(getattr(plain, name), *args, strategy=strategy, **how))
        return got

    @staticmethod
    def _note(seen: list[Event]) -> Any:
        return lambda kind, addr, value: seen.append((kind, addr, value))

    # ---- comparing ----

    def same_words(self, what: str) -> None:
        """Words and exclusivity of both."""
        page = self.machine.page_size
        for at, ours in self.tables().items():
            theirs = tuple(self.ref.ptes[at + i * page] for i in range(len(ours)))
            for i, (one, two) in enumerate(zip(ours, theirs, strict=True)):
                assert one == two, (
                    f"{what}: entry of {at + i * page:#x}: core {shown(self.machine, one)} ({one:#x}), "
                    f"reference {shown(self.machine, two)} ({two:#x})"
                )
        exclusive = self._exclusive()
        assert exclusive == self.ref.anon_exclusive, f"{what}: PageAnonExclusive of {exclusive ^ self.ref.anon_exclusive} differs"

    def _same_events(self, what: str, result: Any, seen: list[Event]) -> None:
        ours = _normal([(KINDS[kind], addr, value) for kind, addr, value in result.trace.tolist()])
        for i, (one, two) in enumerate(zip_longest(ours, _normal(seen))):
            assert one == two, f"{what}: event {i}: core {one}, reference {two}"

    def _same_untraced(self, what: str, name: str, plain: MM, got: Outcome, again: Outcome) -> None:
        """Without a trace the core may take shortcuts; nothing but the trace may tell."""
        ours, theirs = got.facts(), again.facts()
        assert ours == theirs, f"{what}: untraced {[(k, ours[k], theirs[k]) for k in ours if ours[k] != theirs[k]]}"
        for at in self.tables():
            assert np.array_equal(plain.leaf(at), self.core.leaf(at)), f"{what}: untraced words of {at:#x} differ"


def _normal(events: list[Event]) -> list[Event]:
    """Drop what an event's number does not mean: where a lock is given back, the address of a barrier."""
    out: list[Event] = []
    for kind, addr, value in events:
        # The second VALE1IS of REPEAT_TLBI follows a barrier and is for no address in particular.
        repeated = kind == "VALE1IS" and bool(out) and out[-1][0] == "DSB ISH"
        if kind.startswith("DSB") or kind == "ASIDE1IS" or repeated:
            addr = value = 0
        if kind != "UNLOCK":
            out.append((kind, addr, int(bool(value)) if kind == "PAE" else value))
    return out
