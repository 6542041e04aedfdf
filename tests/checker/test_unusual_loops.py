"""Loops that do it otherwise than the kernel's: sound ones pass, and each of the others is caught, by the law that it breaks.

The faulty ones show only where a world has what they get wrong: a bit, a call, a border.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ptebatch import bits as b
from ptebatch import verify_strategy
from ptebatch.checker import shrink
from ptebatch.checker.search import judge
from ptebatch.checker.worlds.small import SmallWorld

Step = Callable[..., int]


def pieces(w, nr: int, new: int, *, run: Callable[..., int] | None = None) -> list[tuple[int, int, bool]]:
    """Where a started batch is cut, how long each piece is, and whether it becomes writable."""
    if not w.asks_writable(new):
        return [(0, nr, False)]
    maybe = w.maybe_change_pte_writable(new)
    if w.shared:
        return [(0, nr, maybe and w.pte_dirty(new))]
    if not (maybe and w.anon):
        return [(0, nr, False)]
    found, at = [], 0
    while at < nr:
        own = w.page_anon_exclusive(at)
        length = (run or w.anon_exclusive_batch)(at, own, nr - at)
        found.append((at, length, own))
        at += length
    return found


def batched(
    *,
    word: Callable[..., int] = lambda w, old, new: new,
    of: Callable[[int], int] = lambda old: old,
    run: Callable[..., Callable[..., int]] | None = None,
) -> Step:
    """The kernel's loop, with one thing of it replaced: the new word, the old one that is committed, how runs are found."""

    def step(w) -> int:
        nr = w.folio_pte_batch()
        w.note_batch(nr)
        old = w.start(0, nr)
        new = word(w, old, w.newpte(old))
        for at, length, write in pieces(w, nr, new, run=run and run(w)):
            w.commit(at, of(w.pte_advance_pfn(old, at)), w.pte_advance_pfn(new, at), length, write)
        return nr

    return step


# ---- sound ----


def single_starts(w) -> int:
    """Entries are started one by one, and committed in pieces with the A/D of all."""
    nr = w.folio_pte_batch()
    w.note_batch(nr)
    olds = [w.start(i, 1) for i in range(nr)]
    old = olds[0]
    for other in olds[1:]:
        old |= other & b.PTE_AF
        if w.pte_dirty(other):
            old |= b.PTE_DIRTY
    new = w.newpte(old)
    for at, length, write in pieces(w, nr, new):
        w.commit(at, w.pte_advance_pfn(old, at), w.pte_advance_pfn(new, at), length, write)
    return nr


def descending(w) -> int:
    nr = w.folio_pte_batch()
    w.note_batch(nr)
    for i in reversed(range(nr)):
        old = w.start(i, 1)
        new = w.newpte(old)
        ((_, _, write),) = pieces(w, 1, new, run=None) if not w.asks_writable(new) else [(0, 1, _own(w, i, new))]
        w.commit(i, old, new, 1, write)
    return nr


def _own(w, i: int, new: int) -> bool:
    if not w.maybe_change_pte_writable(new):
        return False
    return w.pte_dirty(new) if w.shared else w.anon and w.page_anon_exclusive(i)


def notes_batches_only(w) -> int:
    """A single entry records a batch by itself, a batch is not recorded."""
    nr = w.folio_pte_batch()
    if nr == 1:
        w.change_unit(0, 1, w.needs_anon_exclusive() and w.page_anon_exclusive(0))
        return 1
    old = w.start(0, nr)
    new = w.newpte(old)
    for at, length, write in pieces(w, nr, new):
        w.commit(at, w.pte_advance_pfn(old, at), w.pte_advance_pfn(new, at), length, write)
    return nr


#: the kernel flushes it; but what was never accessed is in no TLB, so nothing is to be flushed
unflushed = batched(of=lambda old: old if old & b.PTE_AF else old & ~b.PTE_VALID)


@pytest.mark.parametrize(
    "step", [single_starts, descending, notes_batches_only, unflushed], ids=["single starts", "descending", "notes", "unflushed"]
)
def test_a_sound_loop_that_is_unusual_passes(step):
    report = verify_strategy(step, worlds=60_000)
    report = report if step is not notes_batches_only else verify_strategy(step, exhaustive=False)
    assert report.ok, report.text()
    assert report.missed == 0
    assert bool(report.unrecorded) == (step is notes_batches_only)
    assert ("note: no batch is recorded" in report.text()) == (step is notes_batches_only)


def never(w) -> int:
    """Every upgrade is left to the write fault: legal, and slow."""
    nr = w.folio_pte_batch()
    w.change_unit(0, nr, False)
    return nr


def test_upgrades_left_to_the_fault_are_a_warning_and_strictly_an_error():
    report = verify_strategy(never, worlds=30_000)
    assert report.ok and report.missed > 1000
    assert report.left_behind.law.name == "UPGRADED" and "warning[UPGRADED]" in report.text()
    # a state that Linux can have: no page of a file is made writable in anonymous memory
    assert "f" not in report.left_behind.world.folios().partition("=")[2]
    assert sum(word != 0 for word in report.left_behind.world.ptes) == 1
    strict = verify_strategy(never, worlds=30_000, strict=True)
    assert strict.counterexample.law.name == "UPGRADED"
    assert verify_strategy("folio", worlds=30_000, strict=True).ok


# ---- faulty ----


def spreads_shared(w) -> int:
    """Writable because a neighbour is dirty, and left clean: page_mkwrite() is never told of the first write."""
    nr = w.folio_pte_batch()
    w.note_batch(nr)
    olds = [w.start(i, 1) for i in range(nr)]
    news = [w.newpte(old) for old in olds]
    any_dirty = any(map(w.pte_dirty, news))
    for i, (old, new) in enumerate(zip(olds, news, strict=True)):
        write = False
        if w.asks_writable(new) and w.maybe_change_pte_writable(new):
            write = any_dirty if w.shared else w.anon and w.page_anon_exclusive(i)
        w.commit(i, old, new, 1, write)
    return nr


def keeps(mask: int) -> Step:
    """Some bits of the old word are kept."""
    return batched(word=lambda w, old, new: new & ~mask | old & mask)


def drops(mask: int, where: int = 0) -> Step:
    """Some bits are lost, of entries that have all of `where`."""
    return batched(word=lambda w, old, new: new & ~mask if old & where == where else new)


def short_runs(limit: int) -> Callable[..., Callable[..., int]]:
    """A run's length is kept in a number that saturates: what follows is taken for the same."""

    def of(w):
        def run(at: int, own: bool, most: int) -> int:
            length = w.anon_exclusive_batch(at, own, most)
            return most if length >= limit else length

        return run

    return of


def low_addresses(w, old: int, new: int) -> int:
    """The physical address is computed in 32 bits."""
    return new & ~((1 << 50) - (1 << 12)) | (w.pfn << 12 & 0xFFFFFFFF)


def by_index(w) -> int:
    """The first half of what an address can be is right only."""
    nr = w.folio_pte_batch()
    exclusive = w.needs_anon_exclusive()
    if not exclusive:
        w.change_unit(0, nr, False)
        return nr
    own = w.page_anon_exclusive(0)
    nr = w.anon_exclusive_batch(0, own, nr)
    w.change_unit(0, nr, own or w.addr >= 1 << 33)
    return nr


class Remembers:
    """What was found in one leaf table is taken for the first entry of the next one."""

    def __init__(self) -> None:
        self.last: tuple[int, bool] = (-1, False)

    def __call__(self, w) -> int:
        nr = w.folio_pte_batch()
        if not w.needs_anon_exclusive():
            w.change_unit(0, nr, False)
            return nr
        pfn, known = self.last
        own = known if w.idx == 0 and pfn + 1 == w.pfn else w.page_anon_exclusive(0)
        nr = w.anon_exclusive_batch(0, own, nr)
        w.change_unit(0, nr, own)
        self.last = (w.pfn + nr - 1, own)
        return nr


FAULTY: dict[str, tuple[Callable[[], Step], str, str]] = {
    "a shared entry is left clean": (lambda: spreads_shared, "SHARED_WRITE", "7.3"),
    "the userfaultfd bit of PROT_NONE": (lambda: drops(b.PTE_UFFD, b.PTE_NG | b.PTE_UFFD), "PRESERVED", "7.3"),
    "the protection key": (lambda: keeps(b.PTE_PO_IDX_MASK), "PRESERVED", "7.3"),
    "the memory type": (lambda: keeps(b.PTE_ATTRINDX_MASK), "PRESERVED", "7.3"),
    "branch targets": (lambda: keeps(b.PTE_GP), "PRESERVED", "7.3"),
    "bit 57": (lambda: drops(1 << 57), "PRESERVED", "6.12"),
    "bit 59": (lambda: drops(1 << 59), "PRESERVED", "7.3"),
    "bit 63": (lambda: drops(1 << 63), "PRESERVED", "7.3"),
    "frames above 4 GiB": (lambda: batched(word=low_addresses), "CONTRACT", "7.3"),
    "addresses above 4 GiB": (lambda: by_index, "EXCLUSIVE", "7.3"),
    "from one table to the next": (Remembers, "EXCLUSIVE", "7.3"),
    "runs above 255": (lambda: batched(run=short_runs(255)), "EXCLUSIVE", "7.3"),
    "runs above 600, 16K": (lambda: batched(run=short_runs(600)), "EXCLUSIVE", "7.3,granule=16K"),
}


#: those that only long batches show take their time
SLOW = ("from one table to the next", "runs above 600, 16K")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in FAULTY])
def test_a_faulty_loop_is_caught_by_its_law(name, monkeypatch):
    make, law, machine = FAULTY[name]
    monkeypatch.setattr(shrink, "PATIENCE", 300)
    report = verify_strategy(make(), machine=machine, exhaustive=False)
    assert not report.ok, f"{name}: not found"
    assert report.counterexample.law.name == law
    text = report.counterexample.text()
    assert text.startswith(f"error[{law}]: ") and "\nhint      " in text and "\nreproduce\n" in text


def test_the_true_reason_is_given_where_a_marker_forbids_writing():
    """It said that the page is PageAnonExclusive, as if that were wrong."""
    world = SmallWorld.parse("7.3,cont_ptes=4,ptrs_per_pte=8", "RO,n,uffd,pfn=0x400", folios="0x400:0=e", call="rw-uffd [0, 1)")

    def ignores(w) -> int:
        old = w.start(0, 1)
        w.commit(0, old, w.newpte(old), 1, True)
        return 1

    found = judge(world, ignores)
    assert found.breach.expected == "no WRITE: its userfaultfd marker keeps it write-protected"


def test_where_hardware_acts_is_told_among_numbered_steps():
    """Its place was told by an event that the steps did not show."""
    world = SmallWorld.parse("7.3,cont_ptes=4,ptrs_per_pte=8", "RW,n,clean,pfn=0x400", folios="0x400:0=e", call="ro [0, 1)")

    def reads_before(w) -> int:
        old = w.ptep_get(0)
        w.start(0, 1)
        w.commit(0, old, w.newpte(old), 1, False)
        return 1

    found = judge(world, reads_before)
    steps = found.steps()
    assert found.law.name == "HARDWARE"
    at = next(i for i, step in enumerate(steps) if "hardware writes to entry 0" in step)
    assert steps[at - 1].split()[1] in ("read", "exchange") and not steps[at].split()[0].isdigit()
    assert [int(step.split()[0]) for step in steps if step.split()[0].isdigit()] == list(range(1, len(steps)))
