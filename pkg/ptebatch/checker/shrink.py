"""A world that breaks a law, made as small as it goes.

Every step takes something away, and none gives back what another took; so it ends.
What must hold of a start still holds: folded blocks are whole (I-4), and a page that
is mapped with WRITE stays exclusive (I-6).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import count

from .. import bits as b
from .check import Checker
from .counterexample import judged
from .fulltables import FullTables
from .worlds.small import CHANGES, FAR, PFN0, Change, SmallWorld

__all__ = ["foldable", "shrink"]

_Step = Callable[[SmallWorld], Iterator[SmallWorld]]
#: smaller worlds that are tried for a full table, of which a run takes thousands of times longer
PATIENCE = 1500


def shrink(checker: Checker | FullTables, world: SmallWorld, law: int) -> SmallWorld:
    """Return the smallest world near this one that breaks the same law.

    Parameters
    ----------
    checker : Checker or FullTables
        Of the strategy.
    world : SmallWorld
    law : int
        Number of the law.

    Returns
    -------
    SmallWorld
        No single step of `_steps` leads from it to another that breaks the law; of a full
        table, the smallest found among `PATIENCE` that are tried.
    """
    if isinstance(checker, FullTables):
        return _shrink(world, lambda candidate: checker.breaks(candidate, law), (*_FULL_STEPS, *_STEPS), PATIENCE)
    error = type(judged(checker, world)[1].error)

    def breaks(candidate: SmallWorld) -> bool:
        found, run = judged(checker, candidate)
        return found == law and type(run.error) is error

    return _shrink(world, breaks, _STEPS, None)


def _shrink(
    world: SmallWorld, breaks: Callable[[SmallWorld], bool], steps: tuple[_Step, ...], patience: int | None
) -> SmallWorld:
    """Try smaller worlds, so many in all, until none of them breaks the law."""
    left = count() if patience is None else iter(range(patience))
    while True:
        tried = (w for step in steps for w in step(world) if w != world)
        smaller = next((w for _, w in zip(left, tried, strict=False) if breaks(w)), None)
        if smaller is None:
            return world
        world = smaller


def _put(world: SmallWorld, words: dict[int, int]) -> SmallWorld:
    """Replace words; blocks that can no longer be folded are unfolded."""
    ptes = list(world.ptes)
    for i, word in words.items():
        ptes[i] = word
    n = world.machine.cont_ptes
    world = replace(world, ptes=tuple(ptes))
    for first in range(0, len(ptes), n):
        if any(w & b.PTE_CONT for w in ptes[first : first + n]) and not foldable(world, first):
            ptes[first : first + n] = [w & ~b.PTE_CONT if w & (b.PTE_VALID | b.PTE_NG) else w for w in ptes[first : first + n]]
    return replace(world, ptes=tuple(ptes))


def foldable(world: SmallWorld, first: int) -> bool:
    """Whether the contpte block that begins at this entry may have CONT (I-4).

    Parameters
    ----------
    world : SmallWorld
    first : int
    """
    n, shift = world.machine.cont_ptes, world.machine.page_shift
    block = world.ptes[first : first + n]
    loose = b.PTE_AF | b.PTE_DIRTY | b.PTE_RDONLY
    if not all(w & b.PTE_VALID and not w & b.PTE_SPECIAL for w in block):
        return False
    at = (block[0] & ((1 << b.PTE_ADDR_END) - 1)) >> shift
    whole = all(not (w ^ (block[0] + (k << shift))) & ~loose for k, w in enumerate(block))
    page = at - world.pfn_base
    return whole and at % n == 0 and 0 <= page < len(world.pages) and 1 << (world.pages[page] & b.PG_ORDER_MASK) >= n


def _fewer_entries(world: SmallWorld) -> Iterator[SmallWorld]:
    n = world.machine.cont_ptes
    for first in range(0, len(world.ptes), n):
        if any(world.ptes[first : first + n]):
            yield _put(world, dict.fromkeys(range(first, first + n), 0))
    for i, word in enumerate(world.ptes):
        if word:
            yield _put(world, {i: 0})


def _fewer_exclusive(world: SmallWorld) -> Iterator[SmallWorld]:
    """Exclusivity taken from all pages that may lose it, from a half of them, and so on."""
    kept = _writable(world)
    nr = len(world.pages)
    while nr > 1:
        for first in range(0, len(world.pages), nr):
            which = [at for at in range(first, first + nr) if world.pages[at] & b.PG_ANON_EXCLUSIVE and at not in kept]
            if which:
                yield _flags(world, which, b.PG_ANON_EXCLUSIVE)
        nr //= 2


def _fewer_halves(world: SmallWorld) -> Iterator[SmallWorld]:
    """Without a half of the table, a quarter, and so on to the size of a block."""
    nr = len(world.ptes) // 2
    while nr > world.machine.cont_ptes:
        for first in range(0, len(world.ptes), nr):
            if any(world.ptes[first : first + nr]):
                yield _put(world, dict.fromkeys(range(first, first + nr), 0))
        nr //= 2


def _shorter_halves(world: SmallWorld) -> Iterator[SmallWorld]:
    nr = (world.end - world.start) // 2
    while nr > 1:
        yield replace(world, start=world.start + nr)
        yield replace(world, end=world.end - nr)
        nr //= 2


def _shorter_range(world: SmallWorld) -> Iterator[SmallWorld]:
    if world.end - world.start > 1:
        yield replace(world, start=world.start + 1)
        yield replace(world, end=world.end - 1)


def _unfolded(world: SmallWorld) -> Iterator[SmallWorld]:
    n = world.machine.cont_ptes
    for first in range(0, len(world.ptes), n):
        block = range(first, first + n)
        if any(world.ptes[i] & b.PTE_CONT for i in block):
            yield _put(world, {i: world.ptes[i] & ~b.PTE_CONT for i in block})


def _at_the_start(world: SmallWorld) -> Iterator[SmallWorld]:
    used = [i for i, word in enumerate(world.ptes) if word]
    for by in range(min([world.start, *used]), 0, -1):
        moved = replace(world, ptes=world.ptes[by:] + (0,) * by, start=world.start - by, end=world.end - by)
        yield _put(moved, {})


def _lower_frames(world: SmallWorld) -> Iterator[SmallWorld]:
    """All frames lower by whole folios of the largest order, so that every alignment stays."""
    heads = _heads(world)
    if not heads:
        return
    size = max(world.machine.ptrs_per_pte, *(1 << (world.pages[head] & b.PG_ORDER_MASK) for head in heads))
    by = heads[0] // size * size
    if by:
        yield replace(world, ptes=_rebased(world, by), pages=world.pages[by:] + (0,) * by)


def _rebased(world: SmallWorld, by: int) -> tuple[int, ...]:
    """Words of the tables with all frames lower by so many."""
    shift, read = world.machine.page_shift, world.machine.swp_migration_read
    words = list(world.ptes)
    for i, word in enumerate(words):
        if word & (b.PTE_VALID | b.PTE_NG):
            words[i] -= by << shift
        elif read <= word >> b.SWP_TYPE_SHIFT & b.SWP_TYPE_MASK <= read + 2:
            words[i] -= by << b.SWP_OFFSET_SHIFT
    return tuple(words)


def _nearer(world: SmallWorld) -> Iterator[SmallWorld]:
    """At address 0, with low frames, of one table."""
    if world.address:
        yield replace(world, address=0)
    orders = [world.pages[head] & b.PG_ORDER_MASK for head in _heads(world)]
    if world.pfn_base == FAR and all(1 << order <= PFN0 for order in orders):
        yield replace(world, ptes=_rebased(world, FAR - PFN0), pfn_base=PFN0)
    nr = world.machine.ptrs_per_pte
    if len(world.ptes) > nr:
        if world.start < nr:
            yield replace(world, ptes=world.ptes[:nr], end=min(world.end, nr))
        if world.end > nr:
            yield replace(world, ptes=world.ptes[nr:], start=max(world.start - nr, 0), end=world.end - nr)


def _kind(change: Change) -> tuple[int, int, bool]:
    """What kind of call it is: whose mapping, and mprotect, NUMA balancing or userfaultfd."""
    return change.vm_flags & (b.VM_SHARED | b.VM_UFFD_WP), change.cp_flags & ~b.MM_CP_TRY_CHANGE_WRITABLE, change.anon


def _simpler_change(world: SmallWorld) -> Iterator[SmallWorld]:
    """A simpler call of the same kind."""
    for change in CHANGES.values():
        if change == world.change:
            return
        if _kind(change) == _kind(world.change):
            yield replace(world, change=change)


def _closed_gaps(world: SmallWorld) -> Iterator[SmallWorld]:
    """Without one entry: those behind it move up, and keep their pages, or take the pages one before."""
    for i in range(world.start, world.end if world.end - world.start > 1 else world.start):
        ptes = world.ptes[:i] + world.ptes[i + 1 :] + (0,)
        shorter = replace(world, ptes=ptes, end=world.end - 1)
        follows = _followed(world, i)
        if follows is not None:
            yield _put(follows, {})
        if not any(w & b.PTE_CONT for w in ptes if w & b.PTE_VALID):
            yield shorter


def _followed(world: SmallWorld, i: int) -> SmallWorld | None:
    """Without entry i and its page: entries behind it of the same folio map the page one before, as exclusive as theirs was."""
    shift, mask = world.machine.page_shift, (1 << b.PTE_ADDR_END) - 1
    frames = [(w & mask) >> shift if w & (b.PTE_VALID | b.PTE_NG) else -1 for w in world.ptes]
    at = frames[i] - world.pfn_base
    if frames[i] < 0 or not 0 <= at < len(world.pages):
        return None
    order = world.pages[at] & b.PG_ORDER_MASK
    last = (at >> order << order) + (1 << order) - 1
    pages, ptes = list(world.pages), [w & ~b.PTE_CONT if w & b.PTE_VALID else w for w in world.ptes]
    for page in range(at, last):
        pages[page] = pages[page + 1]
    for k in range(i + 1, len(ptes)):
        if at < frames[k] - world.pfn_base <= last:
            ptes[k] -= 1 << shift
    del ptes[i]
    return replace(world, ptes=(*ptes, 0), pages=tuple(pages), end=world.end - 1)


def _smaller_folios(world: SmallWorld) -> Iterator[SmallWorld]:
    for head in _heads(world):
        order = world.pages[head] & b.PG_ORDER_MASK
        if order:
            pages = list(world.pages)
            for at in range(head, head + (1 << order)):
                pages[at] -= 1  # the order is the low bits
            yield _put(replace(world, pages=tuple(pages)), {})


def _simpler_pages(world: SmallWorld) -> Iterator[SmallWorld]:
    mapped, kept = {pfn - world.pfn_base for pfn in world.frames()}, _writable(world)
    for head in _heads(world):
        order = world.pages[head] & b.PG_ORDER_MASK
        folio = range(head, head + (1 << order))
        for flag in (b.PG_MAPPED_SHARED, b.PG_NUMA_SKIP):
            if world.pages[head] & flag:
                yield _flags(world, folio, flag)
        others = [at for at in folio if at not in mapped and world.pages[at] & b.PG_ANON_EXCLUSIVE]
        if others:
            yield _flags(world, others, b.PG_ANON_EXCLUSIVE)
        for at in folio:
            if world.pages[at] & b.PG_ANON_EXCLUSIVE and at not in kept:
                yield _flags(world, [at], b.PG_ANON_EXCLUSIVE)


def _flags(world: SmallWorld, which: Iterable[int], flag: int) -> SmallWorld:
    pages = list(world.pages)
    for at in which:
        pages[at] &= ~flag
    return replace(world, pages=tuple(pages))


def _heads(world: SmallWorld) -> list[int]:
    """First frames of the folios that are mapped, counted from the world's first."""
    found = []
    for pfn in world.frames():
        at = pfn - world.pfn_base
        if 0 <= at < len(world.pages):
            order = world.pages[at] & b.PG_ORDER_MASK
            found.append(at >> order << order)
    return sorted(set(found))


def _writable(world: SmallWorld) -> set[int]:
    """Pages, from the world's first on, that an entry maps with WRITE: in a private mapping they must stay exclusive (I-6)."""
    shift = world.machine.page_shift
    words = (w for w in world.ptes if w & (b.PTE_VALID | b.PTE_NG) and w & b.PTE_WRITE)
    return {((w & ((1 << b.PTE_ADDR_END) - 1)) >> shift) - world.pfn_base for w in words}


def _default_dirty(word: int) -> int:
    """Clean, or dirty in hardware if writable: what the notation takes for granted."""
    return word & ~(b.PTE_DIRTY | b.PTE_RDONLY) | b.PTE_RDONLY * (not word & b.PTE_WRITE)


def _no_exec(word: int) -> int:
    return word | b.PTE_UXN * bool(word & b.PTE_USER)


def _read_only(word: int) -> int:
    return word if word & b.PTE_DIRTY else word & ~b.PTE_CHG_MASK | b.PAGE_READONLY & b.PTE_CHG_MASK


#: the same present entry with one thing less to tell
_PLAINER: tuple[Callable[[int], int], ...] = (
    lambda word: word & ~(b.PTE_UFFD | b.PTE_GP | b.PTE_PO_IDX_MASK | 1 << 57 | 1 << 59 | 1 << 63),
    lambda word: word & ~b.PTE_ATTRINDX_MASK,
    lambda word: word | b.PTE_AF,
    lambda word: word & ~b.PTE_DIRTY,
    _default_dirty,
    _no_exec,
    _read_only,
)


def _plainer_everywhere(world: SmallWorld) -> Iterator[SmallWorld]:
    here = {i: word for i, word in enumerate(world.ptes) if word & (b.PTE_VALID | b.PTE_NG)}
    for plainer in _PLAINER:
        yield _put(world, {i: plainer(word) for i, word in here.items()})


def _simpler_entries(world: SmallWorld) -> Iterator[SmallWorld]:
    n = world.machine.cont_ptes
    yield from _plainer_everywhere(world)
    for i, word in enumerate(world.ptes):
        if not word & (b.PTE_VALID | b.PTE_NG):
            yield _put(world, {i: word & ~(b.PTE_SWP_UFFD | b.PTE_SWP_EXCLUSIVE)})
            continue
        for plainer in _PLAINER:
            yield _put(world, {i: plainer(word)})
            if word & b.PTE_CONT and word & b.PTE_VALID:
                yield _put(world, {j: plainer(world.ptes[j]) for j in range(i // n * n, i // n * n + n)})


#: what makes a world smaller, the most first; each takes something away that no other gives back
_STEPS: tuple[_Step, ...] = (
    _nearer, _fewer_entries, _shorter_range, _unfolded, _at_the_start, _lower_frames, _simpler_change, _smaller_folios,
    _simpler_pages, _simpler_entries, _closed_gaps,
)  # fmt: skip
#: those that take much at a time, for full tables first
_FULL_STEPS: tuple[_Step, ...] = (_nearer, _fewer_halves, _shorter_halves, _simpler_change, _fewer_exclusive, _plainer_everywhere)
