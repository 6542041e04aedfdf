"""The laws of a protection change: each a named row with its source.

``checker/tablelaws.pxd`` and ``checker/eventlaws.pxd`` judge them in compiled code, a hundred
million worlds a minute; the function in each row states the same in plain Python,
and says how a law is broken. Tests hold the two together.

Invariants of spec 9, and who holds them:

==== ======================================= ==========================================================
I-1  bits of every present entry             PRESERVED: all bits but W, A/D and CONT are computed
I-2  five states of W, RDONLY, DIRTY         DIRTY_STATE
I-3  no accidental write by hardware         DIRTY_STATE
I-4  a folded block is whole                 CONTPTE
I-5  CONT only on VALID entries              CONT_VALID
I-6  WRITE needs PageAnonExclusive           EXCLUSIVE; file and zero pages have none
I-7  an exclusive page is mapped once        cannot arise: mprotect changes no PageAnonExclusive, and
                                             fork, reuse and reclaim are not steps of this checker
I-8  rights of the entry are in the VMA      EXCLUSIVE, SHARED_WRITE, WRITE_KEPT, PRESERVED
I-9  a userfaultfd entry is not writable     EXCLUSIVE, SHARED_WRITE, WRITE_KEPT; UFFD_RWP is not modelled
I-10 softleaf words                          SOFTLEAF_KEPT, CLASS
I-11 TLB grants no more than the table       TLB_RIGHTS, FLUSH
I-12 break-before-make                       BBM, CONVERT_FLUSH; the known gap is an event, see below
I-13 accessed and dirty are not lost         AD_KEPT, HARDWARE, AD_SPREAD
I-14 mapcounts and references                cannot arise: mprotect changes none, the model has none
I-15 return value, VMA flags                RETURN; VMAs belong to mprotect(2), not to this walk
I-16 the gather is reset                     GATHER_RESET
I-17 tables after a PMD split                cannot arise: no PMD is mapped, folios are mapped by PTEs
==== ======================================= ==========================================================

Rules 1 to 9 of spec 7.9 are the laws PARTITION and UNIT (1), UNIT (2, 3), EXCLUSIVE
(4), PRESERVED (5), AD_KEPT and HARDWARE (6), COMMITTED and UNIT (7), FLUSH (8) and
RETURN (9). ASKED is spec 4.1: a page of a file has no PageAnonExclusive, its flag means
something else there. The relation of designs to the per-PTE loop, spec 7.10, is the entry laws
together: each bit is either fixed by them or free; `equivalent` says which.

*The known gap.* A block whose entries are live may change its CONT bits with no TLBI
between: it is reported as event ``cont_change_without_bbm``, not judged (spec 7.8).

- It *becomes folded* when one commit covers a block that was mapped unfolded, aligned,
  and the new word is VALID: every design that commits several entries at once, which is
  all but ``per-pte``, on every kernel.
- It *becomes unfolded* when a folded block is started as a whole and committed in
  pieces: designs that start more than they commit, which are ``folio``, ``nested`` and
  the flawed ones that descend from them, when PageAnonExclusive changes inside the block.
- Never on machines whose CPU needs no break-before-make (``bbml`` at or above
  ``bbml_elides``), nor when the new protection is PROT_NONE.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ... import bits as b
from ...reference import pte as p
from . import order as e
from . import table as t
from .run import SOILED, Breach, Run

__all__ = ["JUDGED", "LAWS", "Law", "equivalent", "law_of"]


@dataclass(frozen=True, slots=True)
class Law:
    """One law.

    Parameters
    ----------
    number : int
        As the compiled checker has it.
    name : str
    source : str
        Section of the specification, invariant, and kernel file.
    plain : callable
        ``plain(run) -> Breach or None``; its docstring is the law.
    hint : str
        What to do about a loop that breaks it.
    strict : bool
        Of efficiency, not of safety: Linux may break it, at the price of a fault later. Judged where it is asked for.
    """

    number: int
    name: str
    source: str
    plain: Callable[[Run], Breach | None]
    hint: str
    strict: bool = False

    @property
    def claim(self) -> str:
        """What the law says, in one sentence."""
        return " ".join((self.plain.__doc__ or "").split()).rstrip(".")


_ROWS = (
    Law(1, "PARTITION", "spec 7.9 rule 1; change_pte_range(), mm/mprotect.c", t.partition,
        "return the number of entries dealt with, so that the walk goes on where the step ended"),
    Law(2, "COMMITTED", "spec 7.9 rule 7; modify_prot_start_ptes(), include/linux/pgtable.h", t.committed,
        "commit() every entry that was start()ed before the step returns"),
    Law(3, "OUTSIDE", "spec 7.10, last two rows; arch/arm64/mm/contpte.c", t.outside,
        "stay below max_nr, and leave to the verbs what they unfold at the edges of the range"),
    Law(4, "CLASS", "spec 7.10, row 1; I-10", t.kind_kept,
        "present entries stay present, all others keep their kind: skip what is not present"),
    Law(5, "PRESERVED", "spec 7.9 rule 5, 2.3; I-1, I-8; pte_modify(), asm/pgtable.h", t.preserved,
        "take the new word from newpte(): it changes the protection, and keeps the frame and every other bit"),
    Law(6, "EXCLUSIVE", "spec 7.9 rule 4, 6.6; I-6; commit_anon_folio_batch(), mm/mprotect.c, fixed by cf1b80dc31a1", t.exclusive,
        "ask PageAnonExclusive of each page and cut the batch where it changes, as 'nested' and 'lookahead' do"),
    Law(7, "SHARED_WRITE", "spec 6.6, 7.10; can_change_shared_pte_writable(), mm/mprotect.c", t.shared_write,
        "give WRITE only if pte_dirty() says so of the word that is committed"),
    Law(8, "WRITE_KEPT", "spec 7.10, 6.7; I-8, I-9", t.write_kept,
        "change WRITE only where asks_writable() and maybe_change_pte_writable() say so"),
    Law(9, "AD_KEPT", "spec 7.9 rule 6; I-13", t.ad_kept,
        "commit what start() returned: it has the accessed and dirty bits of all entries of the unit"),
    Law(10, "AD_SPREAD", "spec 7.10, rows AF and dirty; 3.4", t.ad_spread,
        "use each start()'s word for the entries that it started only"),
    Law(11, "DIRTY_STATE", "spec 2.1; I-2, I-3", t.dirty_state,
        "build words with the verbs: WRITE, RDONLY and DIRTY go together"),
    Law(12, "CONTPTE", "spec 3.1; I-4; arch/arm64/mm/contpte.c", t.contpte,
        "leave folding to commit(): a block is folded whole or not at all"),
    Law(13, "CONT_VALID", "spec 3.7; I-5; contpte_set_ptes(), 7.3", t.cont_valid,
        "an entry that is not VALID has no CONT since 7.3"),
    Law(14, "FLUSH", "spec 7.9 rule 8, 2.4; I-11; pte_needs_flush(), asm/tlbflush.h", t.flush,
        "give commit() the old word that start() returned: it decides what is flushed"),
    Law(15, "RETURN", "spec 7.9 rule 9; I-15", t.returned,
        "return the number of entries dealt with"),
    Law(16, "COUNTS", "spec 7.1, 3.4; conservation of counters", t.counts,
        "let each access go through the verbs once, and record each batch once"),
    Law(17, "CONVERT_FLUSH", "spec 3.4; I-12; contpte_convert(), arch/arm64/mm/contpte.c", t.convert_flush,
        "a contpte conversion flushes its block once"),
    Law(18, "TLB_RIGHTS", "I-11; spec 6.8, 8.9", e.tlb_rights,
        "flush what lost rights, after the store and before the lock is dropped"),
    Law(19, "BBM", "I-12; spec 3.4; Arm ARM, break-before-make", e.bbm,
        "go through an invalid entry and a TLBI before frame, shareability or attributes change"),
    Law(20, "HARDWARE", "spec 7.9 rule 6, 8.9; I-13", t.hardware,
        "use the word that start() returned, not one read before: hardware may have updated the entry since"),
    Law(21, "SOFTLEAF_KEPT", "spec 6.7; I-10; include/linux/swapops.h", t.softleaf_kept,
        "leave entries that are not present to the walk"),
    Law(22, "CONTRACT", "spec 7.9 rules 1, 2, 7; ptebatch.Window", t.contract,
        "return from 1 to max_nr, and start and commit each of these entries once"),
    Law(23, "UNIT", "spec 7.9 rules 1, 2, 3, 7; folio_pte_batch(), mm/internal.h", e.unit,
        "start together only present entries of one folio that are alike; folio_pte_batch() finds them"),
    Law(24, "GATHER_RESET", "I-16; spec 6.8; tlb_end_vma(), include/asm-generic/tlb.h", e.gather_reset,
        "empty the gather after its flush"),
    Law(25, "ASKED", "spec 4.1, 7.3; PageAnonExclusive(), include/linux/page-flags.h", e.asked,
        "ask PageAnonExclusive only where needs_anon_exclusive() says so, within the folio"),
    Law(26, "REPLAY", "spec 5.3, 7.9 rule 3: a batch stays in one folio; ptebatch, batch/memo.pxd", t.replay,
        "a step registered as pure must not depend on anything but its entries and pages"),
    Law(27, "UPGRADED", "spec 6.6, 7.10; can_change_pte_writable(), mm/mprotect.c", t.upgraded,
        "give WRITE where maybe_change_pte_writable() allows it and the page is exclusive, or the entry dirty", strict=True),
)  # fmt: skip

#: every law by number
LAWS: Mapping[int, Law] = MappingProxyType({row.number: row for row in _ROWS})

#: the laws in the order in which a run is judged: what explains the most first
JUDGED: tuple[Law, ...] = tuple(
    sorted(_ROWS, key=lambda row: (row.name not in ("PARTITION", "COMMITTED", "CONTRACT", "UNIT"), row.strict, row.number))
)


def law_of(name: str) -> Law:
    """Law by name; KeyError if there is none."""
    return {row.name: row for row in _ROWS}[name]


def equivalent(run: Run, other: tuple[int, ...]) -> int:
    """Compare a table with another loop's of the same world (spec 7.10).

    Parameters
    ----------
    run : Run
        That keeps every law.
    other : tuple of int
        The table that the per-PTE loop, or any other lawful one, left.

    Returns
    -------
    int
        First entry that differs in more than it may, -1: none. Free are CONT, AF and
        DIRTY; RDONLY as far as it follows from dirtiness; WRITE in a shared mapping
        with writenotify, of an entry whose unit may have a dirty one.
    """
    notify = run.vm_flags & b.VM_SHARED and run.cp_flags & b.MM_CP_TRY_CHANGE_WRITABLE
    for i, (one, two) in enumerate(zip(run.after, other, strict=True)):
        if one == two:
            continue
        free = b.PTE_CONT | b.PTE_AF | b.PTE_DIRTY | b.PTE_RDONLY
        if notify and run.handled(i) and run.may_be_writable(i) and run.reaches(i) & SOILED:
            free |= b.PTE_WRITE
        if not (p.pte_present(one) and p.pte_present(two)) or (one ^ two) & ~free:
            return i
    return -1
