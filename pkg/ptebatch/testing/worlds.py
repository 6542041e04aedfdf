"""Hypothesis strategies: machines, protections, exclusivity, folios, layouts, small worlds."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from .. import bits as b
from ..checker.worlds.shapes import codes
from ..checker.worlds.small import CHANGES, PFN0, Change, SmallWorld
from ..kernels import ERAS
from ..layouts.named import LAYOUTS, Layout, get_layout
from ..machine import Machine
from ..notation.patterns import PATTERN_NAMES
from ..reference import Folio

__all__ = ["changes", "exclusivity", "folios", "layouts", "machines", "protections", "small_worlds", "softleaf_words"]

#: entries a block and a table
GEOMETRIES = ((4, 8), (4, 16), (2, 8), (8, 16), (8, 8))
#: frames that `small_worlds` has folios for
_FRAMES = 64
#: WRITE, RDONLY, DIRTY of a present entry (spec 2.1)
_STATES = ((0, 1, 0), (1, 1, 0), (0, 1, 1), (1, 0, 0), (1, 0, 1))


@st.composite
def machines(draw: st.DrawFn, kernels: tuple[str, ...] = tuple(ERAS), *, contpte: bool | None = None) -> Machine:
    """Machines with small geometries: every era, granule and switch that a protection change looks at.

    Parameters
    ----------
    kernels : tuple of str
        Names of ``ptebatch.machine.ERAS``.
    contpte : bool, optional
        Default: mostly on.
    """
    granule = draw(st.sampled_from(["4K", "16K", "64K"]))
    cont, ptrs = draw(st.sampled_from(GEOMETRIES))
    return Machine(
        draw(st.sampled_from(kernels)),
        granule,
        cont,
        ptrs,
        contpte=draw(st.sampled_from([True, True, True, False])) if contpte is None else contpte,
        tlb_range=draw(st.booleans()),
        bbml=draw(st.integers(0, 3)),
        lpa2=granule != "64K" and draw(st.booleans()),
        kpti=draw(st.booleans()),
        repeat_tlbi=draw(st.booleans()),
        device_private=draw(st.booleans()),
    )


def protections() -> st.SearchStrategy[int]:
    """PROT_* bits that mprotect() is asked for; most often one that gives WRITE."""
    return st.sampled_from([b.PROT_READ, 3, 3, 3, b.PROT_NONE, 5, 7])


@st.composite
def exclusivity(draw: st.DrawFn, nr: int) -> list[bool]:
    """PageAnonExclusive of `nr` pages: a few runs, of any lengths.

    Parameters
    ----------
    nr : int
    """
    flips = draw(st.sets(st.integers(0, max(nr - 1, 0)), max_size=4))
    on, found = draw(st.booleans()), []
    for i in range(nr):
        on ^= i in flips
        found.append(on)
    return found


@st.composite
def folios(draw: st.DrawFn, machine: Machine, *, anon: bool | None = None, first: int = PFN0) -> Folio:
    """One folio, naturally aligned, in the first frames from `first` on.

    Parameters
    ----------
    machine : Machine
    anon : bool, optional
        Default: mostly.
    first : int
        Lowest frame; a multiple of the largest folio.
    """
    order = draw(st.integers(0, machine.pmd_order))
    head = first + (draw(st.integers(0, (_FRAMES >> order) - 1)) << order)
    kind = draw(st.sampled_from([True, True, True, False])) if anon is None else anon
    return Folio(head, order, kind, draw(st.booleans()), draw(st.booleans()))


@st.composite
def layouts(draw: st.DrawFn, *, largest: int = 4 << 20) -> Layout:
    """Layouts of the command line, for `ptebatch.compare` and the like.

    Parameters
    ----------
    largest : int
        Bytes.
    """
    name = draw(st.sampled_from(sorted(LAYOUTS)))
    size = draw(st.integers(1, largest >> 21)) << 21
    how = draw(st.sampled_from(["", ":folded", ":unfolded"])) + draw(st.sampled_from(["", ":sequential", ":shuffled=1"]))
    pattern = draw(st.sampled_from(["", *(f":pae={each}" for each in PATTERN_NAMES)]))
    return get_layout(f"{name}:{size >> 20}M{how}{pattern}")


def changes() -> st.SearchStrategy[Change]:
    """Every kind of protection change of ``ptebatch.checker.worlds.small.CHANGES``."""
    return st.sampled_from(list(CHANGES.values()))


def softleaf_words(machine: Machine, frame: int | None = None) -> st.SearchStrategy[int]:
    """Words of entries that are not present and not empty: swap, markers, migration.

    Parameters
    ----------
    machine : Machine
    frame : int, optional
        Frame that migration entries name; without one there are none.
    """
    found = []
    for code in codes(machine).values():
        word = code.word
        if not word or word & (b.PTE_VALID | b.PTE_NG):
            continue
        moving = 0 <= (word >> b.SWP_TYPE_SHIFT & b.SWP_TYPE_MASK) - machine.swp_migration_read <= 2
        if not moving:
            found.append(word)
        elif frame is not None:
            found.append(word | frame << b.SWP_OFFSET_SHIFT)
    return st.sampled_from(found)


def _word(machine: Machine, pfn: int, prot: int, state: tuple[int, int, int], young: bool) -> int:
    write, rdonly, dirty = state
    word = (prot & ~(b.PTE_WRITE | b.PTE_RDONLY | b.PTE_AF)) | pfn << machine.page_shift
    word |= write * b.PTE_WRITE | rdonly * b.PTE_RDONLY | dirty * b.PTE_DIRTY | young * b.PTE_AF
    return word & ~b.PTE_SHARED if machine.lpa2 else word


@st.composite
def _run(draw: st.DrawFn, machine: Machine, pages: list[int], taken: int, room: int, shared: bool) -> tuple[list[int], int]:
    """Words of consecutive pages of a new folio, alike but for a few; and the first frame after it."""
    order = draw(st.integers(0, machine.pmd_order))
    head = -(-taken >> order) << order
    if head + (1 << order) > len(pages):
        return [0], taken
    anon = not shared and draw(st.sampled_from([True, True, True, False]))
    byte = order | b.PG_ANON * anon | b.PG_NUMA_SKIP * draw(st.booleans()) | b.PG_MAPPED_SHARED * draw(st.booleans())
    own = draw(exclusivity(1 << order)) if anon else [False] * (1 << order)
    skip = draw(st.integers(0, (1 << order) - 1)) if draw(st.booleans()) else 0
    nr = min(draw(st.integers(1, 1 << order)), (1 << order) - skip, room)
    prot = draw(st.sampled_from([b.PAGE_READONLY, b.PAGE_READONLY, b.PAGE_READONLY_EXEC, b.PAGE_NONE]))
    prot |= draw(st.sampled_from([0, 0, 0, b.PTE_UFFD]))
    state, young = draw(st.sampled_from(_STATES)), draw(st.booleans())
    odd = draw(st.sets(st.integers(0, nr - 1), max_size=3))
    words = []
    for i in range(nr):
        this = draw(st.sampled_from(_STATES)) if i in odd else state
        if this[0] and (prot & (b.PTE_VALID | b.PTE_UFFD) != b.PTE_VALID or not (shared or own[skip + i])):
            this = (0, 1, this[2])  # I-6, I-9: nothing gave this entry WRITE
        words.append(_word(machine, PFN0 + head + skip + i, prot, this, young ^ (i in odd and draw(st.booleans()))))
    for i, exclusive in enumerate(own):
        pages[head + i] = byte | b.PG_ANON_EXCLUSIVE * exclusive
    return words, head + (1 << order)


def _fold(machine: Machine, words: list[int], pages: list[int], first: int) -> None:
    """Give CONT to a block, if it may have it (I-4)."""
    block = words[first : first + machine.cont_ptes]
    ad = b.PTE_AF | b.PTE_DIRTY | b.PTE_RDONLY
    pfn = (block[0] & (1 << b.PTE_ADDR_END) - 1) >> machine.page_shift
    alike = all(not (word - (i << machine.page_shift) ^ block[0]) & ~ad for i, word in enumerate(block))
    if not (machine.contpte and alike and block[0] & b.PTE_VALID and pfn % machine.cont_ptes == 0):
        return
    if not block[0] & b.PTE_SPECIAL and 1 << (pages[pfn - PFN0] & b.PG_ORDER_MASK) >= machine.cont_ptes:
        words[first : first + len(block)] = [word | b.PTE_CONT for word in block]


@st.composite
def small_worlds(draw: st.DrawFn, machine: Machine | str | None = None) -> SmallWorld:
    """One leaf table, its folios and one protection change, as ``ptebatch.checker.search.judge`` takes them.

    Parameters
    ----------
    machine : Machine or str, optional
        At most 32 entries a table. Default: any of `machines`.

    Examples
    --------
    ::

        @given(small_worlds())
        def test_my_step(world):
            assert judge(world, my_step) is None
    """
    m: Any = draw(machines()) if machine is None else machine
    if isinstance(m, str):
        m = Machine.parse(m)
    change = draw(changes())
    pages, words, taken = [0] * _FRAMES, list[int](), 0
    while len(words) < m.ptrs_per_pte:
        kind = draw(st.sampled_from(["folio"] * 6 + ["none", "softleaf", "zero"]))
        if kind == "folio":
            more, taken = draw(_run(m, pages, taken, m.ptrs_per_pte - len(words), bool(change.vm_flags & b.VM_SHARED)))
        elif kind == "softleaf":
            more = [draw(softleaf_words(m, PFN0 + taken - 1 if taken else None))]
        elif kind == "zero" and not change.vm_flags & b.VM_SHARED:
            more = [codes(m)["zero"].word | b.PTE_AF]
        else:
            more = [0] * draw(st.integers(1, 4))
        words += more
    del words[m.ptrs_per_pte :]
    for first in range(0, len(words), m.cont_ptes):
        if draw(st.booleans()):
            _fold(m, words, pages, first)
    start = draw(st.integers(0, m.ptrs_per_pte - 1))
    end = draw(st.sampled_from([m.ptrs_per_pte, draw(st.integers(start + 1, m.ptrs_per_pte))]))
    return SmallWorld(m, tuple(words), tuple(pages), start, end, change)
