"""One row of PTEs as text, in the manner of the kernel's comic strips.

The pictures above ``contpte_convert()`` (arch/arm64/mm/contpte.c) made
executable: ``RW,c RW,c RW,c RO,n`` is three writable entries of a contpte
block and a read-only one outside. The same form serves the command line, the
tests and the counterexamples, and reads back to the same words.

Grammar::

    row    = ["@" IDX] {part}           @5: the first entry is the 5th of its table (counted from 0)
    part   = run | N "*(" {run} ")"     a group: its runs N times over
    run    = entry ["x" N]              an entry N times over
    entry  = head {"," token}           no blanks inside

Parts and runs are separated by blanks. Between blocks of CONT_PTES entries
stands ``|``; it may be missing, but it cannot stand inside a block. Numbers
are decimal or 0x hex.

Heads::

    none                        nothing is mapped: the word 0
    RO RX RW RWX XO --          permission; XO: execute-only, --: PROT_NONE (present, not VALID)
    swap swap1 ...              swap entry by type (swap is type 0)
    mig-r mig-rx mig-w          migration entry: read, read-exclusive, write
    hwpoison dev-w dev-r dev-x  poisoned page; device memory (dev-xw, dev-xr on 6.12), if the machine has it
    marker:uffd-wp              marker; also poisoned and guard, joined by "+"
    0x0040000000000f43          any word as it is; drawn for words that are none of the above

A permission is followed by ``c`` (the CONT bit) or ``n``. Further tokens come
in any order, one of a kind; where one is missing, `parse` takes the default:

======================== =========================================== =======================
field                    tokens                                      default
======================== =========================================== =======================
dirty                    clean, hw (WRITE, not RDONLY), sw (DIRTY),  hw for RW and RWX,
                         hw+sw; of migration entries clean, dirty    else clean
young                    young, old (AF)                             young; migration: old
exec                     none: the head is RX or RWX                 not executable
special, uffd            special; uffd                               clear
attr                     mte, bti, pkey=N, ^0xBITS (bits that        none
                         differ from those of page_prot)
exclusive                pae, nopae (PageAnonExclusive of the page), no entry has one: None;
                         excl (a softleaf's own bit)                 else nopae; clear
pfn                      pfn=N or off=N (swap): this number;         pfn0 (swap: 1) plus
                         pfn=N.. counts on                           position in the row
======================== =========================================== =======================

``pfn=N..`` counts on with the position in the row, through the entries of
its run and through the copies of its group: ``2*(RW,c,pfn=0x100.. x16)`` maps
0x100 to 0x11f, ``RO,n,special,pfn=0x5 x16`` maps one page sixteen times.

A strip that shows fewer fields says less: RX is drawn as RO unless ``exec`` is
asked for. A strip with ``fields="all"`` says everything:
``parse(draw(ptes, machine, fields="all"), machine).ptes`` equals ``ptes``.
Source: spec 1.2 to 1.6 and 2.1.
"""

from __future__ import annotations

from operator import index

import numpy.typing as npt

from ..errors import NotationError
from ..machine import Machine
from .diffs import diff
from .fields import FIELDS, Fields, field_names
from .parsing import Row, read
from .rows import Group, Line, check_flags, check_index, check_words, cut

__all__ = ["FIELDS", "Row", "describe", "diff", "draw", "parse"]


def draw(
    ptes: npt.ArrayLike,
    machine: Machine,
    *,
    first_idx: int = 0,
    exclusive: npt.ArrayLike | None = None,
    fields: str = "",
) -> str:
    """Return a row of PTEs as a strip.

    Parameters
    ----------
    ptes : array of uint64, shape (n,)
        The words.
    machine : Machine
        Geometry, and numbering of softleaf types.
    first_idx : int
        Index in its table of the first entry; blocks are aligned by it.
    exclusive : array of bool, shape (n,), optional
        PageAnonExclusive of each entry's page; drawn when given.
    fields : str
        Names of `FIELDS` separated by commas, or ``all``; the permission and
        the CONT bit are always drawn.

    Returns
    -------
    str
        One line, which `parse` reads.

    Raises
    ------
    NotationError
        Words that are not 64-bit, an unknown field, ``exclusive`` of another length.

    Examples
    --------
    >>> from ptebatch.machine import Machine
    >>> row = parse("RW,c x16 | RW,n x3 RO,n x13", Machine(), pfn0=0x100)
    >>> draw(row.ptes, Machine(), fields="pfn")
    'RW,c,pfn=0x100.. x16 | RW,n,pfn=0x110.. x3 RO,n,pfn=0x113.. x13'
    """
    words, shown = check_words(ptes), field_names(fields)
    flags = check_flags(exclusive, len(words))
    if flags is None and "exclusive" in fields.replace(",", " ").split():
        raise NotationError("field 'exclusive' is asked for but PageAnonExclusive is not known; give exclusive=")
    line = Line(words, flags, Fields(machine, shown if flags is None else shown | {"exclusive"}))
    groups = cut(line.like, len(words), check_index(first_idx, machine), machine.cont_ptes)
    return (f"@{first_idx} " * bool(first_idx) + " | ".join(_group(line, group) for group in groups)).rstrip()


def _group(line: Line, group: Group) -> str:
    parts = []
    for run in group.runs:
        text = line.text(run, group.copies)
        parts += [text] * run.nr if line.spelled(run) else [f"{text} x{run.nr}"]
    return f"{group.copies}*({' '.join(parts)})" if group.copies > 1 else " ".join(parts)


def parse(text: str, machine: Machine, *, pfn0: int | None = None) -> Row:
    """Read a strip; the grammar and the defaults are in the module's text.

    Parameters
    ----------
    text : str
        The strip; blanks may be line ends.
    machine : Machine
        Geometry, and numbering of softleaf types.
    pfn0 : int, optional
        Page frame of the row's first entry, for entries that give none
        (entry i gets ``pfn0 + i``); 0 by default.

    Returns
    -------
    Row
        ``(ptes, exclusive, first_idx)``.

    Raises
    ------
    NotationError
        Names the column, what was found there and what was expected.

    Examples
    --------
    >>> from ptebatch.machine import Machine
    >>> [hex(pte) for pte in parse("RO,n none", Machine(), pfn0=0x10).ptes]
    ['0x60000000010fc3', '0x0']
    """
    return read(text, machine, 0 if pfn0 is None else index(pfn0))


def describe(word: int, machine: Machine) -> str:
    """Return one entry in long form.

    Parameters
    ----------
    word : int
        The 64-bit word.
    machine : Machine
        Page size, and numbering of softleaf types.

    Raises
    ------
    NotationError
        A word that does not fit in 64 bits.

    Examples
    --------
    >>> from ptebatch.machine import Machine
    >>> print(describe(0x78000000100f43, Machine()))
    0x0078000000100f43: read and write, contiguous, dirty in hardware, young, pfn 0x100; bits VALID USER AF NG WRITE CONT PXN UXN
    """
    return Fields(machine).describe(int(check_words([word])[0]))
