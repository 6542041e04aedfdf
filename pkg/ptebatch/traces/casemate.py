"""A trace as a log for casemate, the checker of Arm page-table discipline (rems-project/casemate).

What its log grammar can and cannot say was read from its own parser and model, on its
main branch of 2026; paths below are casemate's. A record is one s-expression::

    (EVENT (id N) (tid N) FIELDS (src "FILE:LINE"))

with ids in decimal and all other numbers in hex; the fields of each event stand in
``doc/asciidoc/sections/trace-format.adoc`` (which calls ``tid`` thread), what is accepted
in ``src/casemate-check-c/src/parser.c``.

*Not possible: the trace as it is.* A process is translated by stage 1 of the EL1&0 regime,
rooted in TTBR0_EL1, and invalidated by VALE1IS, RVALE1IS and ASIDE1IS. casemate knows two
trees, stage 1 of EL2 under ``ttbr0_el2`` and stage 2 under ``vttbr_el2`` (``sysreg_map`` of
the parser; ``stage_from_ttbr()`` in ``src/lib/src/model.c``). Its TLBIs are the twelve of
``tlbi_map``, of which none is by address in stage 1 of EL1; and ``vmalle1is``, which it
has, visits stage 2 entries only (``step_tlbi()``). So `write` raises `CasemateError`.

*Possible: the same steps on tables of EL2.* With ``as_el2=True`` the log says what EL2
would do to its own stage 1 tables, which have the same format at level 3 as far as casemate
looks (VALID, type, AP[2], XN, AttrIndx, address: ``src/lib/include/casemate-impl/pgtable.h``):

========== =======================================================================
trace      log
========== =======================================================================
R          ``mem-read``
W, C       ``mem-write``, plain
X          ``mem-read`` of the old word, ``mem-write`` of 0: there is no atomic step
VALE1IS    ``tlbi vale2is``, value = address / 4096; ASID 0, no level hint
RVALE1IS   one ``tlbi vale2is`` for each page: there is no TLBI by range
ASIDE1IS   ``tlbi alle2is``: EL2 has one address space
DSB        ``barrier dsb``, ``ishst`` or ``ish``
LOCK       ``lock`` and ``unlock`` of the table's lock, inside those of the mmap lock, which
           mprotect() holds for writing and which is the lock of the tree (``set_root_lock``):
           the last flush comes after the table's lock is dropped, and casemate ignores a
           TLBI to a tree that is not locked (``should_perform_tlbi()``)
others     nothing: PAE, BATCH, START, COMMIT, FOLD, UNFOLD and GATHER are no steps of a
           machine
========== =======================================================================

The log begins with the tables as they were: the words that the trace reads before it
writes them. An entry that the call does not look at is left invalid. Addresses of tables
and locks are made up, `TABLES` and `LOCKS`; the model has none.

*Said, but judged otherwise.* casemate treats each descriptor by itself, so its verdict on
such a log is not that of ``ptebatch.checker.laws.rows``:

- No bit 52: a block of contiguous entries is sixteen pages to it. A TLBI of one page of a
  block, which removes the whole entry, cleans one descriptor; and a live change of the bit
  breaks a rule because a bit changed, not because a block did.
- A descriptor that was valid must be cleaned (DSB, TLBI, DSB) before it is valid again,
  whatever it becomes (``step_write_on_invalid_unclean()``); changes of permission are exempt
  in the architecture, and mprotect() flushes after them. So making live pages read-only is
  reported, ``BBM invalid unclean->valid``, while PROT_NONE and contpte conversions pass.
- With ``check_synchronisation`` a second plain write between two DSBs is reported
  (``check_write_is_authorized()``); Linux writes entries plainly.
- At most ``MAX_UNCLEAN_LOCATIONS`` descriptors may wait for their TLBI, 10 as it is compiled
  by default (``casemate-state.in.h``); for larger calls it has to be set.

*Refused* with `CasemateError`: granules other than 4K and tables of other than 512 entries
(``discover_page_size()`` is asserted to be 4K, tables are walked by 512, in
``src/lib/src/pgtable.c``); LPA2 (``PTE_FIELD_OA_MASK``: DS is taken as 0); KPTI, whose
second ASID EL2 does not have (``step_msr()``); addresses above 48 bits; and the trace of a
bare change_protection(), whose callers hold the mmap lock shared, which casemate's locks
cannot say (``GHOST_ABS_LOCK`` is a mutex). Hardware that sets AF or dirty does not occur
in a trace, and the log could not say it: a ``mem-read`` must find what was last written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

import numpy as np

from ..errors import PtebatchError
from ..events import KINDS
from .jsonl import Trace

if TYPE_CHECKING:
    from ..mm.result import Result

__all__ = ["LOCKS", "TABLES", "CasemateError", "write"]

#: where the log places the page tables, root first, and the locks: the mmap lock, then one a leaf table
TABLES, LOCKS = 0x4000_0000, 0x8000_0000

#: TCR_EL2 with T0SZ 16 and 4K granule; MAIR_EL2 whose index 0 is normal memory
_TCR, _MAIR = 0x10, 0xFF
_PAGE, _ENTRIES, _TABLE = 4096, 512, 0b11
_NUMBER = {name: kind for kind, name in KINDS.items()}
_CHUNK = 1 << 16


class CasemateError(PtebatchError):
    """Something that casemate's log grammar or model cannot say."""


def write(result: Result | Trace, file: str | os.PathLike[str] | IO[str], *, as_el2: bool = False) -> None:
    """Write the trace of an mprotect() as a log for casemate.

    Parameters
    ----------
    result : Result or Trace
        Made with ``trace=True``.
    file : path or text file
    as_el2 : bool
        Tell the steps as EL2 would do them to its own stage 1 tables. False: as they
        are, which casemate cannot express.

    Raises
    ------
    CasemateError
        What cannot be said; see the top of this module. Nothing is written then.
    OSError
        The file cannot be written.

    Examples
    --------
    >>> import io
    >>> import ptebatch
    >>> mm = ptebatch.MM(nr_pages=1024)
    >>> mm.mmap(0x200000, 4096, 3)
    >>> mm.map_folios(0x200000, 1)
    1024
    >>> out = io.StringIO()
    >>> write(mm.mprotect(0x200000, 4096, 0, trace=True), out, as_el2=True)
    >>> print(next(line for line in out.getvalue().splitlines() if line.startswith("(tlbi")))
    (tlbi (id 25) (tid 0) vale2is (value 200) (src "mprotect:13"))
    """
    trace = Trace.of(result)
    log = _Log(trace, as_el2)
    if isinstance(file, (str, os.PathLike)):
        with open(file, "w", encoding="ascii", newline="\n") as out:
            out.writelines(log.lines())
    else:
        file.writelines(log.lines())


def _refuse(trace: Trace, as_el2: bool) -> None:
    """Raise for what cannot be said of this call at all."""
    m = trace.machine
    if not as_el2:
        raise CasemateError(
            "casemate has no stage 1 tables of EL1 and no TLBI VALE1IS, RVALE1IS or ASIDE1IS (its parser.c: sysreg_map, "
            "tlbi_map); ask for as_el2, --as-el2, to tell the same steps of EL2's own tables"
        )
    why = ""
    if m.granule != "4K" or m.ptrs_per_pte != _ENTRIES:
        why = f"tables of {m.ptrs_per_pte} entries of {m.granule}; it walks tables of 512 entries of 4K only (its pgtable.c)"
    elif m.lpa2:
        why = "LPA2; it takes bits 47:12 as the address (its pgtable.c)"
    elif m.kpti:
        why = "KPTI, whose second ASID EL2 does not have (its model.c: step_msr)"
    elif trace.prot is None:
        why = "a bare change_protection(), which may run under a shared mmap lock; its locks are mutexes"
    elif trace.start >> 48 or (trace.start + trace.length) > 1 << 48:
        why = f"the address range [{trace.start:#x}, {trace.start + trace.length:#x}); it is read with 48 bits"
    if why:
        raise CasemateError(f"casemate cannot express {why}; take another machine or call")


class _Log:
    """One log: which tables there are, where they stand, and the records."""

    def __init__(self, trace: Trace, as_el2: bool) -> None:
        _refuse(trace, as_el2)
        self.trace, self.records = trace, 0
        self.first = self._start()
        #: physical address by (level, index of the table at this level)
        self.at: dict[tuple[int, int], int] = {(0, 0): TABLES}
        for addr in self.first:
            for level in (1, 2, 3):
                self.at.setdefault((level, addr >> 48 - 9 * level), TABLES + len(self.at) * _PAGE)

    def _start(self) -> dict[int, int]:
        """Words before the call, by address: what is read or exchanged first."""
        events = self.trace.events
        access = [_NUMBER[name] for name in ("R", "W", "X", "C")]
        seen = np.flatnonzero(np.isin(events["kind"], access))
        addrs, where = np.unique(events["addr"][seen], return_index=True)
        firsts = events[seen[where]]
        told = np.isin(firsts["kind"], [_NUMBER["R"], _NUMBER["X"]])
        if not told.all():
            addr = int(firsts["addr"][~told][0])
            raise CasemateError(f"the trace stores to the entry of {addr:#x} before it reads it; what stood there is not known")
        return dict(zip(addrs.tolist(), firsts["value"].tolist(), strict=True))

    def pte(self, addr: int, level: int = 3) -> int:
        """Physical address of the descriptor of an address at a level."""
        index = addr >> 39 - 9 * level
        return self.at[level, index >> 9] + index % _ENTRIES * 8

    def lock(self, addr: int) -> int:
        """Address of the lock of a leaf table."""
        return LOCKS + (addr >> 21 - 3 & ~7) + 8

    # ---- records ----

    def record(self, event: str, fields: str, line: int = 0) -> str:
        text = f'({event} (id {self.records}) (tid 0) {fields} (src "mprotect:{line}"))\n'
        self.records += 1
        return text

    def store(self, at: int, word: int, line: int = 0) -> str:
        return self.record("mem-write", f"(mem-order plain) (address {at:x}) (value {word:x})", line)

    def load(self, at: int, word: int, line: int) -> str:
        return self.record("mem-read", f"(address {at:x}) (value {word:x})", line)

    def lines(self) -> Iterator[str]:
        """The whole log; src lines count events of the trace from 1, 0 is what comes before and after."""
        yield from self.begin()
        events, line, held = self.trace.events, 0, 0
        for first in range(0, len(events), _CHUNK):
            for kind, addr, value in events[first : first + _CHUNK].tolist():
                line += 1
                name = KINDS[kind]
                if name == "LOCK":
                    held = self.lock(addr)
                    yield self.record("lock", f"(address {held:x})", line)
                elif name == "UNLOCK":
                    yield self.record("unlock", f"(address {held:x})", line)
                else:
                    yield from self.step(name, addr, value, line)
        yield self.record("unlock", f"(address {LOCKS:x})")

    def begin(self) -> Iterator[str]:
        """Tables, roots and locks, as they are before the call."""
        for register, value in (("tcr_el2", _TCR), ("mair_el2", _MAIR)):
            yield self.sysreg(register, value)
        for at in self.at.values():
            yield self.record("mem-init", f"(address {at:x}) (size {_PAGE:x})")
        yield self.hint("set_root_lock", TABLES, LOCKS)
        for (level, index), at in self.at.items():
            if level:
                yield self.hint("set_owner_root", at, TABLES)
                yield self.store(self.pte(index << 48 - 9 * level, level - 1), at | _TABLE)
        for addr, word in self.first.items():
            if word:
                yield self.store(self.pte(addr), word)
        yield self.sysreg("ttbr0_el2", TABLES)
        yield self.record("lock", f"(address {LOCKS:x})")

    def sysreg(self, name: str, value: int) -> str:
        return self.record("sysreg-write", f"(sysreg {name}) (value {value:x})")

    def hint(self, kind: str, location: int, value: int) -> str:
        return self.record("hint", f"(kind {kind}) (location {location:x}) (value {value:x})")

    def step(self, name: str, addr: int, value: int, line: int) -> Iterator[str]:
        """The records of one event of the machine."""
        if name == "R":
            yield self.load(self.pte(addr), value, line)
        elif name in ("W", "C"):
            yield self.store(self.pte(addr), value, line)
        elif name == "X":
            yield self.load(self.pte(addr), value, line)
            yield self.store(self.pte(addr), 0, line)
        elif name in ("VALE1IS", "RVALE1IS"):
            for page in range(addr // _PAGE, addr // _PAGE + max(value, 1)):
                yield self.record("tlbi", f"vale2is (value {page:x})", line)
        elif name == "ASIDE1IS":
            yield self.record("tlbi", "alle2is", line)
        elif name.startswith("DSB"):
            yield self.record("barrier", f"dsb (kind {name.partition(' ')[2].lower()})", line)
