"""A small world as plain values: one leaf table, its folios, and one protection change.

The checker's search works on arrays; what it finds becomes a `SmallWorld`, which
reads back from its own text and can be built as an ``ptebatch.MM``. Kernel
counterpart of `CHANGES`: the callers of change_protection() in mm/mprotect.c,
mm/mempolicy.c and mm/userfaultfd.c (spec 6.6, 6.7).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ... import bits as b
from ...errors import LayoutError, closest
from ...machine import Machine
from ...notation.strip import FIELDS, draw, parse

if TYPE_CHECKING:
    from ...mm.mm import MM

__all__ = ["CHANGES", "COMPILED", "FAR", "LARGEST", "PFN0", "Change", "SmallWorld", "small_machine"]

#: entries of a table: the compiled checker takes up to the first, `SmallWorld` up to the second
COMPILED, LARGEST = 32, 8192

#: First page frame of a small world: as the compiled checker has it, and one whose addresses, from 8 TiB on, do not fit
#: 32 bits; a multiple of the pages of every folio.
PFN0, FAR = 1024, 0x80100000
_R, _RW, _RX, _RWX = b.VM_READ, b.VM_READ | b.VM_WRITE, b.VM_READ | b.VM_EXEC, b.VM_READ | b.VM_WRITE | b.VM_EXEC
_TRY, _NUMA, _WP, _RESOLVE = (
    b.MM_CP_TRY_CHANGE_WRITABLE, b.MM_CP_PROT_NUMA, b.MM_CP_UFFD_WP, b.MM_CP_UFFD_WP_RESOLVE,
)  # fmt: skip
_SH, _ARMED = b.VM_SHARED, b.VM_UFFD_WP
#: where the protection key is in a PTE; AttrIndx of tagged memory (MT_NORMAL_TAGGED is 1)
_KEY, _TAGGED = 60, 1 << 2


@dataclass(frozen=True, slots=True)
class Change:
    """One protection change, as change_protection() is called for it.

    Parameters
    ----------
    name, summary : str
    vm_flags, newprot, cp_flags : int
        VM_* flags at the time of the call, new page protection, MM_CP_* flags.
    anon : bool
        vma_is_anonymous().
    """

    name: str
    summary: str
    vm_flags: int
    newprot: int
    cp_flags: int = 0
    anon: bool = True


_NOTIFIED = "mprotect(PROT_READ | PROT_WRITE), shared with writenotify"
_ENDS = "userfaultfd write-protection ends"
_ROWS = (
    Change("ro", "mprotect(PROT_READ), private anonymous", _R, b.PAGE_READONLY),
    Change("rw", "mprotect(PROT_READ | PROT_WRITE), private anonymous", _RW, b.PAGE_READONLY, _TRY),
    Change("none", "mprotect(PROT_NONE), private anonymous", 0, b.PAGE_NONE),
    Change("rx", "mprotect(PROT_READ | PROT_EXEC), private anonymous", _RX, b.PAGE_READONLY_EXEC),
    Change("rwx", "mprotect(PROT_READ | PROT_WRITE | PROT_EXEC), private anonymous", _RWX, b.PAGE_READONLY_EXEC, _TRY),
    Change("rw-file", "mprotect(PROT_READ | PROT_WRITE), private file mapping", _RW, b.PAGE_READONLY, _TRY, False),
    Change("numa", "change_prot_numa(), private anonymous", _RW, b.PAGE_NONE, _NUMA),
    Change("rw-uffd", "mprotect(PROT_READ | PROT_WRITE), private, with userfaultfd", _RW | _ARMED, b.PAGE_READONLY, _TRY),
    Change("uffd-wp", "userfaultfd write-protection, private anonymous", _RW | _ARMED, b.PAGE_READONLY, _WP),
    Change("uffd-resolve", f"{_ENDS}, private anonymous", _RW | _ARMED, b.PAGE_READONLY, _RESOLVE | _TRY),
    Change("ro-pkey", "pkey_mprotect(PROT_READ) with key 5, private anonymous", _R, b.PAGE_READONLY | 5 << _KEY),
    Change("rw-tagged", "mprotect(PROT_READ | PROT_WRITE | PROT_MTE), private anonymous", _RW, b.PAGE_READONLY | _TAGGED, _TRY),
    Change("rx-bti", "mprotect(PROT_READ | PROT_EXEC | PROT_BTI), private anonymous", _RX, b.PAGE_READONLY_EXEC | b.PTE_GP),
    Change("ro-shared", "mprotect(PROT_READ), shared", _R | _SH, b.PAGE_READONLY, 0, False),
    Change("rw-shared", "mprotect(PROT_READ | PROT_WRITE), shared without writenotify", _RW | _SH, b.PAGE_SHARED, 0, False),
    Change("none-shared", "mprotect(PROT_NONE), shared", _SH, b.PAGE_NONE, 0, False),
    Change("rw-notify", _NOTIFIED, _RW | _SH, b.PAGE_READONLY, _TRY, False),
    Change("rwx-notify", "mprotect() to rwx, shared with writenotify", _RWX | _SH, b.PAGE_READONLY_EXEC, _TRY, False),
    Change("rw-notify-uffd", f"{_NOTIFIED} and userfaultfd", _RW | _SH | _ARMED, b.PAGE_READONLY, _TRY, False),
    Change("uffd-wp-shared", "userfaultfd write-protection, shared", _RW | _SH | _ARMED, b.PAGE_READONLY, _WP, False),
    Change("uffd-resolve-shared", f"{_ENDS}, shared", _RW | _SH | _ARMED, b.PAGE_READONLY, _RESOLVE | _TRY, False),
)

#: every protection change of a small world, by name
CHANGES: Mapping[str, Change] = MappingProxyType({row.name: row for row in _ROWS})


def small_machine(machine: Machine, cont_ptes: int = 4, ptrs_per_pte: int = 8) -> Machine:
    """Return a machine with a small geometry: itself if its tables are that small already."""
    if machine.ptrs_per_pte <= ptrs_per_pte and machine.cont_ptes <= cont_ptes:
        return machine
    return replace(machine, cont_ptes=cont_ptes, ptrs_per_pte=ptrs_per_pte)


_FOLIO = re.compile(r"(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20}):([0-9]{1,3})=((?:[0-9]{0,4}[esf])+)((?:,numa-skip|,mapped-shared)*)")
_CALL = re.compile(r"([\w-]+) \[([0-9]{1,9}), ([0-9]{1,9})\)")


@dataclass(frozen=True, slots=True)
class SmallWorld:
    """One leaf table or two, the metadata of their frames, and one call.

    Parameters
    ----------
    machine : Machine
        At most `LARGEST` entries a table.
    ptes : tuple of int
        Words, one an entry; of two tables, one after the other.
    pages : tuple of int
        Metadata bytes (``ptebatch.bits.PG_*``) of the frames from `pfn_base` on.
    start, end : int
        Entries of the call, end excluded.
    change : Change
        What the call does.
    pfn_base : int
        `PFN0` or `FAR`.
    address : int
        What the first entry maps.
    """

    machine: Machine
    ptes: tuple[int, ...]
    pages: tuple[int, ...]
    start: int
    end: int
    change: Change
    pfn_base: int = PFN0
    address: int = 0

    @property
    def compiled(self) -> bool:
        """Whether the compiled checker can judge it: one table at address 0, and small."""
        return len(self.ptes) == self.machine.ptrs_per_pte <= COMPILED and not self.address

    @property
    def call(self) -> tuple[int, ...]:
        """The call as ``ptebatch.checker.check.Checker`` takes it."""
        how = self.change
        return self.start, self.end, how.vm_flags, how.newprot, how.cp_flags, how.anon, self.pfn_base

    # ---- text ----

    @classmethod
    def parse(cls, machine: Machine | str, strip: str, *, folios: str = "", call: str, address: int = 0) -> SmallWorld:
        """Read a world from its text.

        Parameters
        ----------
        machine : Machine or str
            A string is read by ``Machine.parse``.
        strip : str
            The table, or two, see ``ptebatch.notation.strip``; entries before its first
            index and after its last entry are none.
        folios : str
            ``HEAD:ORDER=PAGES[,numa-skip][,mapped-shared]`` for each, separated by
            blanks; a letter for each page, or for as many as the number before it says:
            ``e`` PageAnonExclusive, ``s`` not, ``f`` a page of a file. Frames of no folio
            are single pages of a file.
        call : str
            Name of `CHANGES` and entries: ``rw [1, 3)``.
        address : int
            What the first entry maps: a multiple of what a table maps.

        Raises
        ------
        PtebatchError
            Text that is none of this.

        Examples
        --------
        >>> text = "RO,n,pfn=0x401.. x2"
        >>> SmallWorld.parse("7.3,cont_ptes=4,ptrs_per_pte=8", text, folios="0x400:2=sese", call="rw [0, 2)").folios()
        '0x400:2=sese'
        """
        if isinstance(machine, str):
            machine = Machine.parse(machine)
        row = parse(strip, machine)
        start, end, change = _read_call(call, machine)
        last = max(row.first_idx + len(row.ptes), end)
        nr = machine.ptrs_per_pte * (1 + (last > machine.ptrs_per_pte))
        if last > nr or nr > LARGEST:
            raise LayoutError(
                f"the strip's {len(row.ptes)} entries do not fit two tables of {machine.ptrs_per_pte} entries; "
                "draw fewer, or give a machine with larger tables"
            )
        if address < 0 or address % (machine.page_size * machine.ptrs_per_pte):
            raise LayoutError(f"address {address:#x} is not where a table begins; give a multiple of what one maps")
        ptes = (0,) * row.first_idx + tuple(map(int, row.ptes)) + (0,) * (nr - row.first_idx - len(row.ptes))
        pages, pfn_base = _read_folios(folios, machine)
        return cls(machine, ptes, pages, start, end, change, pfn_base, address)

    def folios(self) -> str:
        """The folios that entries map, as `parse` reads them."""
        told: dict[int, str] = {}
        for pfn in self.frames():
            at = pfn - self.pfn_base
            if not 0 <= at < len(self.pages):
                continue
            order = self.pages[at] & b.PG_ORDER_MASK
            head = at >> order << order
            letters = _letters(self.pages[head : head + (1 << order)])
            flags = ",numa-skip" * bool(self.pages[head] & b.PG_NUMA_SKIP) + ",mapped-shared" * bool(
                self.pages[head] & b.PG_MAPPED_SHARED
            )
            told[head] = f"{head + self.pfn_base:#x}:{order}={letters}{flags}"
        return " ".join(told[head] for head in sorted(told))

    def frames(self) -> list[int]:
        """Frames that present and migration entries name."""
        shift, read = self.machine.page_shift, self.machine.swp_migration_read
        found = []
        for word in self.ptes:
            if word & (b.PTE_VALID | b.PTE_NG):
                if not word & b.PTE_SPECIAL:
                    found.append((word & ((1 << b.PTE_ADDR_END) - 1)) >> shift)
            elif read <= word >> b.SWP_TYPE_SHIFT & b.SWP_TYPE_MASK <= read + 2:
                found.append(word >> b.SWP_OFFSET_SHIFT & ((1 << 48 - shift) - 1))
        return found

    def exclusive(self, low: int, high: int) -> NDArray[np.bool_]:
        """PageAnonExclusive of the page of each entry in [low, high)."""
        shift = self.machine.page_shift
        found = np.zeros(high - low, np.bool_)
        for i, word in enumerate(self.ptes[low:high]):
            at = ((word & ((1 << b.PTE_ADDR_END) - 1)) >> shift) - self.pfn_base
            if word & (b.PTE_VALID | b.PTE_NG) and 0 <= at < len(self.pages):
                found[i] = bool(self.pages[at] & b.PG_ANON_EXCLUSIVE)
        return found

    def shown(self) -> tuple[int, int]:
        """Entries worth drawing: the blocks with anything in them, or in the called range."""
        n = self.machine.cont_ptes
        used = [i for i, word in enumerate(self.ptes) if word] + [self.start, self.end - 1]
        return min(used) // n * n, max(used) // n * n + n

    def strip(self) -> str:
        """The table as text, which `parse` reads."""
        low, high = self.shown()
        return self.draw(self.ptes[low:high], self.needed())

    def draw(self, words: Sequence[int], fields: str) -> str:
        """Words of the shown entries as a strip."""
        low, high = self.shown()
        flags = self.exclusive(low, high) if "exclusive" in fields else None
        return draw(np.array(words, np.uint64), self.machine, first_idx=low, exclusive=flags, fields=fields)

    def needed(self) -> str:
        """Fields of the notation without which the table would read back otherwise."""
        low, high = self.shown()
        words = np.array(self.ptes[low:high], np.uint64)

        def lost(names: list[str]) -> int:
            back = parse(self.draw(self.ptes[low:high], ",".join(names)), self.machine).ptes
            return sum(int(bits).bit_count() for bits in words ^ back)

        names = ["pfn"]
        for name in FIELDS:
            if lost([*names, name]) < lost(names):
                names.append(name)
        return ",".join(names)

    def source(self) -> str:
        """Python that makes this world."""
        call = f"{self.change.name} [{self.start}, {self.end})"
        place = f", address={self.address:#x}" if self.address else ""
        text = f'"{self.machine}", "{self.strip()}",\n    folios="{self.folios()}", call="{call}"{place}'
        return f"SmallWorld.parse(\n    {text},\n)"

    # ---- an address space ----

    def build(self) -> MM:
        """Return an address space with these tables and folios."""
        from ...mm.mm import MM

        mm = MM(self.machine, pfn_base=self.pfn_base, nr_pages=len(self.pages))
        mm.pages[:] = self.pages
        mm.populate(self.address, self.machine.page_size * len(self.ptes))
        nr = self.machine.ptrs_per_pte
        for first in range(0, len(self.ptes), nr):
            table = mm.leaf(self.address + first * self.machine.page_size)
            table[:] = np.array(self.ptes[first : first + nr], np.uint64)
        return mm


def _first_frame(strip_frames: Sequence[int]) -> int:
    """`FAR` if any of these frames is there, else `PFN0`."""
    return FAR if any(frame >= FAR for frame in strip_frames) else PFN0


def _letters(pages: Sequence[int]) -> str:
    """A letter for each page; of a large folio, one for each run, with its length."""
    letters = ["e" if page & b.PG_ANON_EXCLUSIVE else "s" if page & b.PG_ANON else "f" for page in pages]
    if len(letters) <= 16:
        return "".join(letters)
    runs = ((letter, len(list(run))) for letter, run in groupby(letters))
    return "".join(f"{nr}{letter}" if nr > 1 else letter for letter, nr in runs)


def _read_call(text: str, machine: Machine) -> tuple[int, int, Change]:
    found = _CALL.fullmatch(text)
    if not found:
        raise LayoutError(f"call {text!r} is not CHANGE [START, END); write for example 'rw [0, 2)'")
    name, start, end = found[1], int(found[2]), int(found[3])
    if name not in CHANGES:
        raise LayoutError(f"change {name!r} is unknown; {closest(name, list(CHANGES))}")
    nr = machine.ptrs_per_pte
    if not start < end <= 2 * nr:
        raise LayoutError(f"entries [{start}, {end}) are no range of one or two tables of {nr} entries; give START below END")
    return start, end, CHANGES[name]


def _read_folios(text: str, machine: Machine) -> tuple[tuple[int, ...], int]:
    """Metadata of the pages, and the frame of the first."""
    pages = [0] * max(128, 2 * machine.ptrs_per_pte)
    base = _first_frame([int(head, 0) for head in re.findall(r"(?:^|\s)(0[xX][0-9a-fA-F]{1,16}):", text)])
    for part in text.split():
        found = _FOLIO.fullmatch(part)
        if not found:
            raise LayoutError(f"folio {part!r} is not HEAD:ORDER=PAGES[,numa-skip][,mapped-shared]; write for example 0x400:1=es")
        head = int(found[1], 16 if "x" in found[1].lower() else 10) - base
        runs = [(int(nr or 1), letter) for nr, letter in re.findall("([0-9]*)([esf])", found[3])]
        order, size = int(found[2]), sum(nr for nr, _ in runs)
        if order > max(6, machine.pmd_order) or size != 1 << order or head % size or not 0 <= head <= len(pages) - size:
            raise LayoutError(
                f"folio {part!r} cannot be; give 2^order letters and a naturally aligned frame "
                f"from {base:#x} to {base + len(pages) - 1:#x}"
            )
        letters = "".join(letter * nr for nr, letter in runs)
        if "f" in letters and set(letters) != {"f"}:
            raise LayoutError(f"folio {part!r} mixes pages of a file with anonymous ones; give f for all or for none")
        flags = order | b.PG_NUMA_SKIP * ("numa-skip" in found[4]) | b.PG_MAPPED_SHARED * ("mapped-shared" in found[4])
        for i, letter in enumerate(letters):
            pages[head + i] = flags | {"e": b.PG_ANON | b.PG_ANON_EXCLUSIVE, "s": b.PG_ANON, "f": 0}[letter]
    return tuple(pages), base
