"""Laws of calls on whole address spaces, and of address spaces at rest (spec 9).

A call is cut into parts, one for each VMA and leaf table it changes; each part is a
small world, which ``ptebatch.checker.laws.rows`` judges. Between calls `at_rest` holds every entry
to the invariants that do not need to know what happened.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import bits as b
from ..checker.counterexample import Counterexample
from ..checker.laws.rows import LAWS, equivalent, law_of
from ..checker.laws.run import Run
from ..checker.worlds.small import CHANGES, PFN0, Change, SmallWorld
from ..events import KINDS
from ..machine import Machine
from ..notation.strip import draw
from ..reference import RefVma
from ..reference import pte as p
from ..reference.vma import wants_writenotify

__all__ = ["Part", "Table", "at_rest", "broken_law", "parts_of", "shown", "unequal"]

#: laws that look at entries only; the others need the whole call in one part
_ENTRY_LAWS = tuple(
    law_of(name)
    for name in (
        "OUTSIDE", "CLASS", "PRESERVED", "EXCLUSIVE", "SHARED_WRITE", "WRITE_KEPT", "AD_KEPT", "AD_SPREAD",
        "DIRTY_STATE", "CONTPTE", "CONT_VALID", "SOFTLEAF_KEPT",
    )
)  # fmt: skip
#: changes of small worlds by what they do
_KNOWN = {(row.vm_flags, row.newprot, row.cp_flags, row.anon): row for row in CHANGES.values()}
_PLACELESS = frozenset(kind for kind, name in KINDS.items() if name.startswith("DSB") or name == "ASIDE1IS")
_PAE = next(kind for kind, name in KINDS.items() if name == "PAE")

Table = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """What a call does to the range of one VMA.

    Parameters
    ----------
    start, end : int
        Addresses.
    newprot, cp_flags, vm_flags : int
    anon : bool
        vma_is_anonymous().
    """

    start: int
    end: int
    newprot: int
    cp_flags: int
    vm_flags: int
    anon: bool

    def change(self) -> Change:
        """The same as a small world has it, by its known name if it has one."""
        flags = self.vm_flags & (b.VM_READ | b.VM_WRITE | b.VM_EXEC | b.VM_SHARED | b.VM_UFFD_WP)
        row = _KNOWN.get((flags, self.newprot, self.cp_flags, self.anon))
        return row or Change("other", "a protection change", flags, self.newprot, self.cp_flags, self.anon)


def parts_of(machine: Machine, before: Sequence[RefVma], after: Sequence[RefVma], start: int, end: int) -> list[Part]:
    """Return what mprotect() changed: parts whose VMA flags are others than before.

    Parameters
    ----------
    machine : Machine
    before, after : sequence of RefVma
        The VMAs.
    start, end : int
        Addresses of the call.
    """
    found = []
    for old in before:
        low, high = max(start, old.start), min(end, old.end)
        new = next((vma for vma in after if vma.start <= low < vma.end), None)
        if low >= high or new is None or new.flags == old.flags:
            continue
        write = bool(new.flags & b.VM_WRITE)
        if new.flags & b.VM_SHARED:
            write = wants_writenotify(machine, new, new.flags, old.page_prot)
        found.append(Part(low, high, new.page_prot, b.MM_CP_TRY_CHANGE_WRITABLE * write, new.flags, new.anonymous))
    return found


# ---- laws of a call ----


def _events(result: Any, table: int) -> list[tuple[int, int, int]]:
    """Events of a call as a small world at address 0 has them."""
    found = []
    for kind, addr, value in result.trace.tolist():
        if kind in _PLACELESS or (kind != _PAE and addr < table):
            addr = 0  # the second TLBI of REPEAT_TLBI and barriers are for no address
        elif kind != _PAE:
            addr -= table
        found.append((kind, addr, value))
    return found


def run_of(
    machine: Machine, part: Part, table: int, before: Table, after: Table, pages: Sequence[int], result: Any = None
) -> Run:
    """One part's share of one leaf table as a run of a small world.

    Parameters
    ----------
    machine : Machine
    part : Part
    table : int
        Address that entry 0 maps.
    before, after : tuple of int
        Words of the table.
    pages : sequence of int
        Metadata from `PFN0` on, before.
    result : Result, optional
        Traced, of a call that is this part and in this table alone.
    """
    size = machine.page_size
    low, high = (max(0, min(len(before), (addr - table) // size)) for addr in (part.start, part.end))
    world = SmallWorld(machine, before, tuple(pages), low, high, part.change())
    if result is None:
        return Run(world, after, 0, high, 0, {}, None)
    gathered = next(((first - table, last - table) for first, last in result.gathers), None)
    return Run(world, after, result.pages, high, 0, result.counters, gathered, _events(result, table))


def _share(parts: Sequence[Part], table: int, size: int) -> list[Part]:
    return [part for part in parts if part.start < table + size and table < part.end]


def runs_of(
    machine: Machine,
    parts: Sequence[Part],
    before: dict[int, Table],
    after: dict[int, Table],
    pages: Sequence[int],
    result: Any,
) -> Iterator[Run]:
    """Runs of every table that one part alone changed; with events if that is the whole call."""
    size = machine.ptrs_per_pte * machine.page_size
    tables = [table for table in after if _share(parts, table, size)]
    for table in tables:
        mine = _share(parts, table, size)
        if len(mine) == 1:
            whole = len(parts) == 1 and len(tables) == 1 and table in before
            empty = (0,) * machine.ptrs_per_pte
            yield run_of(machine, mine[0], table, before.get(table, empty), after[table], pages, result if whole else None)


def broken_law(runs: Iterator[Run], strategy: str) -> str | None:
    """Return the text of the first law that a run breaks, None: all hold.

    Parameters
    ----------
    runs : iterable of Run
    strategy : str
        What to call it.
    """
    for run in runs:
        for law in LAWS.values() if run.counters else _ENTRY_LAWS:
            breach = law.plain(run)
            if breach is None:
                continue
            text = Counterexample(run.world, strategy, law, run, breach).text()
            if run.world.change.name not in CHANGES or not run.counters:
                text = text.partition("\nreproduce")[0]
            return text
    return None


def unequal(run: Run | None, got: Table, want: Table) -> int:
    """First entry in which a table differs from another loop's in more than it may (spec 7.10); -1: none.

    Parameters
    ----------
    run : Run or None
        The part that changed the table; None: two did, and CONT, AF and dirtiness are
        compared with nothing.
    got, want : tuple of int
    """
    if run is not None:
        return equivalent(run, want)
    free = b.PTE_CONT | b.PTE_AF | b.PTE_DIRTY | b.PTE_RDONLY | b.PTE_WRITE
    for i, (one, two) in enumerate(zip(got, want, strict=True)):
        if one != two and (not (p.pte_present(one) and p.pte_present(two)) or (one ^ two) & ~free):
            return i
    return -1


# ---- an address space at rest ----


def at_rest(machine: Machine, vmas: Sequence[RefVma], tables: dict[int, Table], pages: Sequence[int]) -> str | None:
    """Return how an invariant of spec 9 is broken, None: all hold.

    Parameters
    ----------
    machine : Machine
    vmas : sequence of RefVma
    tables : dict of int to tuple of int
        Words of each leaf table by the address that its entry 0 maps.
    pages : sequence of int
        Metadata of the page frames from `PFN0` on.
    """
    for table, words in tables.items():
        run = Run(SmallWorld(machine, words, tuple(pages), 0, 1, CHANGES["ro"]), words, 0, 1, 0, {}, None)
        for law in (law_of("CONTPTE"), law_of("CONT_VALID")):
            breach = law.plain(run)
            if breach is not None:
                where = f"entry {breach.entry} of the table at {table:#x}"
                return f"{law.source}: {where}: expected {breach.expected}, got {breach.got}"
        for i, word in enumerate(words):
            addr = table + i * machine.page_size
            vma = next((vma for vma in vmas if vma.start <= addr < vma.end), None)
            why = _broken(machine, word, vma, pages) if word else ""
            if why:
                return f"{why}: {addr:#x} maps {shown(machine, word)}"
    return None


def _broken(machine: Machine, word: int, vma: RefVma | None, pages: Sequence[int]) -> str:
    """Which invariant one entry breaks."""
    if not p.pte_present(word):
        return "I-10: bits 0, 1 and 11 of an entry that is not present are clear" * bool(word & 3)
    if not word & 2 or not word & b.PTE_NG:
        return "I-1: a present user entry is a page, and not global"
    if p.pte_write(word) and p.pte_rdonly(word) and p.pte_sw_dirty(word):
        return "I-2: a writable dirty entry has RDONLY clear"
    if not p.pte_write(word) and not p.pte_rdonly(word):
        return "I-3: an entry without WRITE has RDONLY set"
    if vma is None:
        return "an entry is present where no VMA is"
    return _against_vma(machine, word, vma, pages)


def _against_vma(machine: Machine, word: int, vma: RefVma, pages: Sequence[int]) -> str:
    write = p.pte_write(word)
    at = p.pte_pfn(machine.page_shift, word) - PFN0
    page = pages[at] if 0 <= at < len(pages) and not p.pte_special(word) else 0
    own = page & b.PG_ANON and page & b.PG_ANON_EXCLUSIVE
    rules = {
        "I-6: in a private mapping only pages that are PageAnonExclusive are writable": write and not vma.flags & 8 and not own,
        "I-8: a writable entry lies in a writable VMA": write and not vma.flags & b.VM_WRITE,
        "I-8: a VALID entry lies in a VMA that may be accessed": p.pte_valid(word) and not vma.flags & 7,
        "I-8: an executable entry lies in an executable VMA": p.pte_user_exec(word) and not vma.flags & b.VM_EXEC,
        "I-9: an entry write-protected by userfaultfd is not writable": write and p.pte_uffd(word) and vma.flags & b.VM_UFFD_WP,
    }
    return next((rule for rule, broken in rules.items() if broken), "")


def shown(machine: Machine, *words: int) -> str:
    """Words as the notation draws them."""
    return draw(np.array(words, np.uint64), machine, fields="dirty,young,exec,special,uffd,pfn")
