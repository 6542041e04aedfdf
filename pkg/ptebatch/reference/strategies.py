"""Every batching design as a step function over a window, slow and obvious.

A step is called for a present entry, starts and commits entries from there on
and returns how many it dealt with. Source: spec 6.7 and 7; the exact order of
what is counted: golden vectors; spec 7.0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .window import Window

Step = Callable[[Window], int]


@dataclass(frozen=True, slots=True)
class Design:
    """A step and what the loop around it does.

    Parameters
    ----------
    step : callable
    lookup : bool
        The page of every present entry is looked up before the step; the per-PTE loop does not.
    batched : bool
        False: batches and commits are not recorded (the per-PTE loop has no such thing).
    """

    step: Step
    lookup: bool = True
    batched: bool = True


def per_pte(w: Window) -> int:
    """6.12, 6.16: one entry at a time (spec 7.1)."""
    old = w.start(0, 1)
    new = w.newpte(old)
    write = False
    if w.asks_writable(new) and w.maybe_change_pte_writable(new):
        if w.shared:
            write = w.pte_dirty(new)
        else:
            w.normal_page()
            write = w.anon and w.page_anon_exclusive(0)
    w.commit(0, old, new, 1, write)
    return 1


def _begin(w: Window, *, respect_write: bool = True) -> tuple[int, int, int]:
    """Batch, start, new word: what the merged design and its ancestors share."""
    nr = w.folio_pte_batch(respect_write=respect_write)
    w.note_batch(nr)
    old = w.start(0, nr)
    return nr, old, w.newpte(old)


def _commit_runs(w: Window, nr: int, old: int, new: int, page0: int = 0, *, lookup: bool = False) -> None:
    """Commit one piece for each run of equal PageAnonExclusive (spec 7.2, 7.6).

    `page0` is the offset of the page that is asked for the first entry: 0, but for the
    designs that took the folio's first page for it. `lookup` counts vm_normal_page() for each.
    """
    done = 0
    while done < nr:
        if lookup:
            w.normal_page()
        exclusive = w.page_anon_exclusive(page0 + done)
        run = 1
        while done + run < nr and w.page_anon_exclusive(page0 + done + run) == exclusive:
            run += 1
        w.commit(done, w.pte_advance_pfn(old, done), w.pte_advance_pfn(new, done), run, exclusive)
        done += run


def _commit_merged(w: Window, nr: int, old: int, new: int, page0: int = 0) -> None:
    if not w.asks_writable(new) or not w.maybe_change_pte_writable(new):
        w.commit(0, old, new, nr)
    elif w.shared:
        w.commit(0, old, new, nr, w.pte_dirty(new))
    elif not w.anon:
        w.commit(0, old, new, nr)
    else:
        _commit_runs(w, nr, old, new, page0)


def folio(w: Window) -> int:
    """6.17, 7.3: batch, then commit per PAE run (spec 6.7)."""
    nr, old, new = _begin(w)
    _commit_merged(w, nr, old, new)
    return nr


def folio_page0(w: Window) -> int:
    """6.17-rc1: asks the folio's pages from its head on, wherever the batch begins. Flawed."""
    nr, old, new = _begin(w)
    _commit_merged(w, nr, old, new, w.folio_head - w.pfn)
    return nr


def folio_shared(w: Window) -> int:
    """v1, v2: upgrades a batch when the folio is not mapped by others. Flawed.

    A single entry asks its page, as before the series.
    """
    exclusive = False
    need = w.needs_anon_exclusive()
    nr = w.folio_pte_batch()
    if need:
        exclusive = not w.mapped_shared if nr > 1 else w.page_anon_exclusive(0)
    w.change_unit(0, nr, exclusive)
    return nr


def _nested(w: Window, *, respect_write: bool, page0: bool) -> int:
    nr, old, new = _begin(w, respect_write=respect_write)
    if not w.asks_writable(new) or not w.maybe_change_pte_writable(new):
        w.commit(0, old, new, nr)
    elif w.shared:
        w.commit(0, old, new, nr, w.pte_dirty(new))
    elif not w.anon:
        w.normal_page()
        w.commit(0, old, new, nr)
    else:
        _commit_runs(w, nr, old, new, w.folio_head - w.pfn if page0 else 0, lookup=True)
    return nr


def nested(w: Window) -> int:
    """v4 with its two errors corrected: first page and write bit (spec 7.2)."""
    return _nested(w, respect_write=True, page0=False)


def nested_page0(w: Window) -> int:
    """v4 as posted: the folio's page 0, and a batch that ignores WRITE. Flawed."""
    return _nested(w, respect_write=False, page0=True)


def nested_nowrite(w: Window) -> int:
    """v4 with the right page but a batch that ignores WRITE. Flawed."""
    return _nested(w, respect_write=False, page0=False)


def lookahead(w: Window) -> int:
    """Stateless: scan the entries, then the pages, change that many, forget (spec 7.3 S2a)."""
    need = w.needs_anon_exclusive()
    nr = w.folio_pte_batch()
    exclusive = False
    if need:
        exclusive = w.page_anon_exclusive(0)
        nr = w.anon_exclusive_batch(0, exclusive, nr)
    w.change_unit(0, nr, exclusive)
    return nr


def lookahead_pae(w: Window) -> int:
    """Stateless: pages first, clipped to folio and range, then no more entries than that (spec 7.3 S2b)."""
    limit, exclusive = w.max_nr, False
    if w.needs_anon_exclusive():
        limit = min(limit, w.folio_head + w.folio_nr - w.pfn)
        exclusive = w.page_anon_exclusive(0)
        limit = w.anon_exclusive_batch(0, exclusive, limit)
    nr = w.folio_pte_batch(limit)
    w.change_unit(0, nr, exclusive)
    return nr


def iterator(w: Window) -> int:
    """A context remembers the rest of the batch and the page that ended a run (spec 7.4)."""
    need = w.needs_anon_exclusive()
    nr = w.folio_pte_batch()
    if not need:
        w.change_unit(0, nr, False)
        return nr
    exclusive, done = w.page_anon_exclusive(0), 0
    while done < nr:
        run = w.anon_exclusive_batch(done, exclusive, nr - done)
        w.change_unit(done, run, exclusive)
        # The page that ended the run was read: it is the other kind.
        exclusive = not exclusive
        done += run
    return nr


def merged(w: Window) -> int:
    """One scan over entries and pages together (spec 7.5)."""
    if not w.needs_anon_exclusive():
        nr = w.folio_pte_batch()
        w.change_unit(0, nr, False)
        return nr
    exclusive = w.page_anon_exclusive(0)
    nr = w.merged_batch(exclusive)
    w.change_unit(0, nr, exclusive)
    return nr


#: every design by the name that ``ptebatch.STRATEGIES`` has for it
DESIGNS: dict[str, Design] = {
    "folio": Design(folio),
    "per-pte": Design(per_pte, lookup=False, batched=False),
    "nested": Design(nested),
    "lookahead": Design(lookahead),
    "lookahead-pae": Design(lookahead_pae),
    "iterator": Design(iterator),
    "merged": Design(merged),
    "folio-shared": Design(folio_shared),
    "nested-page0": Design(nested_page0),
    "folio-page0": Design(folio_page0),
    "nested-nowrite": Design(nested_nowrite),
}
