"""Random small worlds, larger than those of the exhaustive search, by seed.

Tables of 16 or 32 entries, folios up to their size, every kind of entry next to every
other; blocks as large as those of the 4K granule for loops that know no other.
The same seed gives the same worlds, with the same version of NumPy and of this file.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ... import bits as b
from ...machine import Machine
from .products import Chunk
from .shapes import PAGES, codes
from .small import CHANGES, FAR, PFN0

__all__ = ["random_chunks"]

#: worlds drawn at a time
BATCH = 4096
#: entries of a table up to which hardware updates one of them during the call in all worlds; in larger ones in some more
UPDATED, MORE = 16, 128
Rows = NDArray[np.uint64]


def random_chunks(machine: Machine, seed: int) -> Iterator[Chunk]:
    """Yield random worlds without end, some at a time; the arrays are arguments of ``Checker.each``.

    Parameters
    ----------
    machine : Machine
        At most 32 entries a table.
    seed : int
    """
    rng = np.random.default_rng(seed)
    while True:
        for pfn_base in (PFN0, FAR):
            if machine.ptrs_per_pte <= UPDATED:
                yield _draw(machine, rng, BATCH, pfn_base, int(machine.hafdbs))
            else:
                yield _draw(machine, rng, BATCH, pfn_base, 0)
                yield _draw(machine, rng, MORE, pfn_base, int(machine.hafdbs))


def _draw(machine: Machine, rng: np.random.Generator, nr: int, pfn_base: int, updates: int) -> Chunk:
    calls, names = _calls(machine, rng, nr, pfn_base)
    shared = (calls[:, 2] & b.VM_SHARED) != 0
    pages = _pages(machine, rng, nr, shared, calls[:, 5] != 0)
    words = _words(machine, rng, pages, shared, pfn_base)
    entries = machine.ptrs_per_pte
    young, dirty = (rng.random((nr, entries)) < rng.choice((0.0, 0.3, 1.0), (nr, 1)) for _ in range(2))
    ad = young.astype(np.uint64) | np.where(dirty, rng.choice((2, 4), (nr, entries)), 0).astype(np.uint64)
    whole = (1 << entries // machine.cont_ptes) - 1
    folds = np.where(rng.random(nr) < 0.5, whole, rng.integers(0, whole + 1, nr)) * machine.contpte
    return Chunk("random", entries, words, pages, calls, ad, folds.astype(np.uint32), names, updates, nr, pfn_base)


def _calls(machine: Machine, rng: np.random.Generator, nr: int, pfn_base: int) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    changes = list(CHANGES.values())
    which = rng.integers(0, len(changes), nr)
    ends = np.sort(rng.integers(0, machine.ptrs_per_pte, (nr, 2)), axis=1)
    ends[rng.random(nr) < 0.25] = 0, machine.ptrs_per_pte - 1
    flags = np.array([(c.vm_flags, c.newprot, c.cp_flags, c.anon) for c in changes], np.int64)
    calls = np.column_stack([ends[:, 0], ends[:, 1] + 1, flags[which], np.full(nr, pfn_base)])
    return np.ascontiguousarray(calls), tuple(changes[i].name for i in which)


def _orders(machine: Machine, rng: np.random.Generator, nr: int) -> NDArray[np.int64]:
    """Order of the folio at each frame: whole, or cut in halves, again and again."""
    top = min(machine.pmd_order, PAGES.bit_length() - 1)
    orders = np.full((nr, PAGES), top)
    for order in range(top, 0, -1):
        cut = np.repeat(rng.random((nr, PAGES >> order)) < 0.4, 1 << order, axis=1)
        orders[cut & (orders == order)] = order - 1
    return orders


def _pages(
    machine: Machine, rng: np.random.Generator, nr: int, shared: NDArray[np.bool_], anonymous: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Metadata of all frames: a private mapping of a file has pages of both kinds, anonymous memory none of a file."""
    orders = _orders(machine, rng, nr)
    heads = np.arange(PAGES) >> orders << orders
    folio = np.take_along_axis(rng.random((nr, PAGES, 3)), heads[..., None], axis=1)
    anon = ((folio[..., 0] < 0.85) | anonymous[:, None]) & ~shared[:, None]
    exclusive = (rng.random((nr, PAGES)) < rng.choice((0.0, 0.3, 0.7, 1.0), (nr, 1))) & anon
    pages = orders | b.PG_ANON * anon | b.PG_ANON_EXCLUSIVE * exclusive
    pages |= b.PG_NUMA_SKIP * (folio[..., 1] < 0.2) | b.PG_MAPPED_SHARED * (folio[..., 2] < 0.5)
    return pages.astype(np.uint8)


def _words(
    machine: Machine, rng: np.random.Generator, pages: NDArray[np.uint8], shared: NDArray[np.bool_], pfn_base: int
) -> Rows:
    """Mostly runs of consecutive frames and of one kind; where a page is writable in a private mapping, it is exclusive."""
    nr, entries = len(pages), machine.ptrs_per_pte
    known = [code.word for code in codes(machine).values()]
    usual = [codes(machine)[name].word for name in ("RO", "RW", "RX", "--", "RO,uffd")]
    palette = np.where(
        rng.random((nr, 3)) < 0.75,
        rng.choice(np.array(usual, np.uint64), (nr, 3)),
        rng.choice(np.array(known, np.uint64), (nr, 3)),
    )
    kind = np.minimum(rng.geometric(rng.choice((0.8, 0.97, 1.0), (nr, 1)), (nr, entries)) - 1, 2)
    words = np.take_along_axis(palette, kind, axis=1)
    words[rng.random((nr, entries)) < rng.choice((0.0, 0.1, 0.4), (nr, 1))] = 0
    step = np.where(rng.random((nr, entries)) < rng.choice((0.93, 1.0), (nr, 1)), 1, rng.integers(-3, 20, (nr, entries)))
    start = rng.integers(0, PAGES, (nr, 1)) & ~np.where(rng.random((nr, 1)) < 0.5, machine.cont_ptes - 1, 0)
    frames = (start + np.cumsum(step, axis=1) - step[:, :1]) % PAGES
    present = (words & np.uint64(b.PTE_VALID | b.PTE_NG)) != 0
    leaf = words >> np.uint64(b.SWP_TYPE_SHIFT) & np.uint64(31)
    read = machine.swp_migration_read
    moving = ~present & (words != 0) & (leaf >= read) & (leaf <= read + 2)
    words[_again(pages, frames, present | moving, shared)] = 0
    present, moving = present & (words != 0), moving & (words != 0)
    pfn = (frames + pfn_base).astype(np.uint64)
    words |= np.where(
        present, pfn << np.uint64(machine.page_shift), np.where(moving, pfn << np.uint64(b.SWP_OFFSET_SHIFT), np.uint64(0))
    )
    _own(pages, words, frames, present, shared)
    return words


def _again(
    pages: NDArray[np.uint8], frames: NDArray[np.int64], mapped: NDArray[np.bool_], shared: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Entries of an anonymous page that an entry before maps: in one address space it has one place."""
    anon = mapped & ((pages[np.arange(len(pages))[:, None], frames] & b.PG_ANON) != 0) & ~shared[:, None]
    alike = (frames[:, :, None] == frames[:, None, :]) & anon[:, :, None] & anon[:, None, :]
    found: NDArray[np.bool_] = (alike & np.tri(frames.shape[1], k=-1, dtype=np.bool_)).any(axis=2)
    return found


def _own(
    pages: NDArray[np.uint8], words: Rows, frames: NDArray[np.int64], present: NDArray[np.bool_], shared: NDArray[np.bool_]
) -> None:
    """I-6: pages that are mapped with WRITE in a private mapping are exclusive."""
    row = np.arange(len(pages))[:, None]
    write = present & ((words & np.uint64(b.PTE_WRITE)) != 0) & ~shared[:, None] & ((words & np.uint64(b.PTE_SPECIAL)) == 0)
    anon = (pages[row, frames] & b.PG_ANON) != 0
    words[write & ~anon] &= np.uint64(~b.PTE_WRITE & (1 << 64) - 1)
    rows, entries = np.nonzero(write & anon)
    pages[rows, frames[rows, entries]] |= b.PG_ANON_EXCLUSIVE
