"""Sound loops as a user would write them against ``ptebatch.Window``; `Folio` is the merged one, in pieces."""

from __future__ import annotations

from collections.abc import Iterator

from ptebatch import Window
from ptebatch import bits as b

Piece = tuple[int, int, bool]
#: what a batch does not look at
IGNORED = b.PTE_AF | b.PTE_DIRTY | b.PTE_RDONLY


class Folio:
    """Batch, start it whole, commit it in runs of equal PageAnonExclusive."""

    def __init__(self) -> None:
        self.__name__ = type(self).__name__

    def __call__(self, w: Window) -> int:
        nr = self.batch(w)
        old = self.start(w, nr)
        new = self.new(w, old, nr)
        for at, length, write in self.pieces(w, nr, new):
            self.commit(w, at, w.pte_advance_pfn(old, at), w.pte_advance_pfn(new, at), length, write)
        return self.done(w, nr)

    def batch(self, w: Window) -> int:
        return w.folio_pte_batch()

    def start(self, w: Window, nr: int) -> int:
        w.note_batch(nr)
        return w.start(0, nr)

    def new(self, w: Window, old: int, nr: int) -> int:
        return w.newpte(old)

    def pieces(self, w: Window, nr: int, new: int) -> list[Piece]:
        if not w.asks_writable(new):
            return self.kept(w, nr)
        maybe = w.maybe_change_pte_writable(new)
        if w.shared:
            return self.shared(w, nr, new, maybe)
        return list(self.runs(w, nr)) if maybe and w.anon else [(0, nr, False)]

    def kept(self, w: Window, nr: int) -> list[Piece]:
        return [(0, nr, False)]

    def shared(self, w: Window, nr: int, new: int, maybe: bool) -> list[Piece]:
        return [(0, nr, maybe and w.pte_dirty(new))]

    def runs(self, w: Window, nr: int) -> Iterator[Piece]:
        done = 0
        while done < nr:
            exclusive = self.exclusive(w, done)
            length = w.anon_exclusive_batch(done, exclusive, nr - done)
            yield done, length, exclusive
            done += length

    def exclusive(self, w: Window, at: int) -> bool:
        return w.page_anon_exclusive(at)

    def commit(self, w: Window, at: int, old: int, new: int, nr: int, write: bool) -> None:
        w.commit(at, old, new, nr, write)

    def done(self, w: Window, nr: int) -> int:
        return nr


def scan(w: Window, limit: int, ignored: int = IGNORED) -> int:
    """Entries that continue the window's own, found without folio_pte_batch()."""
    nr = 1
    while nr < min(limit, w.max_nr) and not (w.ptep_get(nr) ^ w.pte_advance_pfn(w.old, nr)) & ~ignored:
        nr += 1
    return nr


def rest_of_folio(w: Window) -> int:
    return max(w.folio_head + w.folio_nr - w.pfn, 1)


def present(word: int) -> bool:
    return bool(word & (b.PTE_VALID | b.PTE_NG))


# ---- sound ----


def one_by_one(w: Window) -> int:
    """The loop of 6.12."""
    w.change_unit(0, 1, w.needs_anon_exclusive() and w.page_anon_exclusive(0))
    return 1


def look_ahead(w: Window) -> int:
    """A scan of its own over entries and pages together; a unit is started when its length is known."""
    limit = scan(w, rest_of_folio(w)) if w.large else 1
    need = w.needs_anon_exclusive()
    exclusive = need and w.page_anon_exclusive(0)
    nr = 1
    while nr < limit and (not need or w.page_anon_exclusive(nr) == exclusive):
        nr += 1
    w.change_unit(0, nr, exclusive)
    return nr


class Backwards(Folio):
    """Pieces of a started batch may be committed in any order."""

    def pieces(self, w, nr, new):
        return super().pieces(w, nr, new)[::-1]


class Context(Folio):
    """Remembers how far a batch goes, and that only."""

    def __init__(self):
        super().__init__()
        self.left, self.at = 0, 0

    def batch(self, w):
        if self.at != w.addr or not 0 < self.left <= w.max_nr:
            self.left = w.folio_pte_batch()
        nr = 1 + (self.left > 2)
        self.left -= nr
        self.at = w.addr + nr * 4096
        return nr


SOUND = (Folio(), one_by_one, look_ahead, Backwards(), Context())
