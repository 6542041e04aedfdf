"""Loops with a fault each: a fault replaces a piece of `Folio`.

`FAULTS` names, for each fault, the laws that may tell of it.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from planting import IGNORED, SOUND, Folio, one_by_one, present, rest_of_folio, scan

from ptebatch import bits as b

__all__ = ["FAULTS", "SOUND", "one_by_one"]

# ---- entries left out, taken twice, taken too many ----


class SkipsLastRun(Folio):
    def pieces(self, w, nr, new):
        found = super().pieces(w, nr, new)
        return found[:-1] if len(found) > 1 else found


class CommitsOneTooFew(Folio):
    def commit(self, w, at, old, new, nr, write):
        w.commit(at, old, new, max(nr - (nr > 3), 1), write)


class ReportsMore(Folio):
    def done(self, w, nr):
        return min(nr + (nr > 1), w.max_nr)


class ReportsLess(Folio):
    def done(self, w, nr):
        return nr - (nr > 1)


class RangeEdge(Folio):
    def batch(self, w):
        nr = w.folio_pte_batch()
        return nr + (nr > 1 and nr == w.max_nr)


class LeavesWhatDoesNotChange(Folio):
    def __call__(self, w):
        return 1 if w.newpte(w.old) == w.old else super().__call__(w)


class FolioEdge(Folio):
    """No thought of folios: frames that follow each other are enough."""

    def batch(self, w):
        return scan(w, w.max_nr) if w.large else 1


class FolioEdgeByOne(Folio):
    def batch(self, w):
        return scan(w, rest_of_folio(w) + 1) if w.large else 1


class FolioEdgeMidFolio(Folio):
    """The folio's size, although the batch begins inside it."""

    def batch(self, w):
        return scan(w, w.folio_nr) if w.large else 1


class TrustsTheFolio(Folio):
    """The rest of the folio is taken as mapped alike."""

    def batch(self, w):
        return min(rest_of_folio(w), w.max_nr) if w.large else 1


class OverSoftleaves(Folio):
    def batch(self, w):
        nr = w.folio_pte_batch()
        while w.large and nr < min(rest_of_folio(w), w.max_nr) and not present(w.ptep_get(nr)):
            nr += 1
        return nr


class Descending(Folio):
    def __call__(self, w):
        nr = w.folio_pte_batch()
        for at in reversed(range(nr)):
            w.change_unit(at, 1, w.needs_anon_exclusive() and w.page_anon_exclusive(at))
        return nr


class WordNotAdvanced(Folio):
    def __call__(self, w):
        nr = self.batch(w)
        old = self.start(w, nr)
        new = w.newpte(old)
        for at, length, write in self.pieces(w, nr, new):
            w.commit(at, old, new, length, write)
        return nr


# ---- bits that a batch must not differ in ----


class IgnoresWrite(Folio):
    def batch(self, w):
        return w.folio_pte_batch(respect_write=False)


class IgnoresUffd(Folio):
    def batch(self, w):
        return scan(w, rest_of_folio(w), IGNORED | b.PTE_UFFD) if w.large else 1


class IgnoresExec(Folio):
    def batch(self, w):
        return scan(w, rest_of_folio(w), IGNORED | b.PTE_UXN) if w.large else 1


class IgnoresProtNone(Folio):
    def batch(self, w):
        return scan(w, rest_of_folio(w), IGNORED | b.PTE_VALID | b.PTE_USER) if w.large else 1


# ---- PageAnonExclusive ----


class FirstForAll(Folio):
    def runs(self, w, nr):
        yield 0, nr, w.page_anon_exclusive(0)


class Page0(Folio):
    def exclusive(self, w, at):
        return w.page_anon_exclusive(at - (w.pfn - w.folio_head))


class Page0Misaligned(Folio):
    """Right wherever the folio is mapped as it is aligned."""

    def exclusive(self, w, at):
        return w.page_anon_exclusive(at if (w.idx - w.pfn) % 4 == 0 else at - (w.pfn - w.folio_head))


class PreviousPage(Folio):
    def exclusive(self, w, at):
        return w.page_anon_exclusive(max(at - 1, 0))


class RunTooLong(Folio):
    """Off by one where a run ends inside a batch of three or more."""

    def runs(self, w, nr):
        for at, length, exclusive in super().runs(w, nr):
            if at == 0 and 2 <= length < nr:
                yield 0, length + 1, exclusive
                yield from ((i, 1, w.page_anon_exclusive(i)) for i in range(length + 1, nr))
                return
            yield at, length, exclusive


class BlockEdge(Folio):
    """The first page behind a contpte block is not asked; blocks of 4."""

    block = 4

    def runs(self, w, nr):
        edge = self.block - w.idx % self.block
        known = w.page_anon_exclusive(0)
        if edge < nr and w.anon_exclusive_batch(0, known, edge) == edge:
            yield 0, edge + 1, known
            yield from ((i, 1, w.page_anon_exclusive(i)) for i in range(edge + 1, nr))
        else:
            yield from super().runs(w, nr)


class BlockEdge16(BlockEdge):
    """The same with the blocks of the 4K granule, as a number."""

    block = 16


class TableEdge(Folio):
    """The last entry of a range takes what the one before has."""

    def runs(self, w, nr):
        if nr == w.max_nr and nr > 4:
            yield from super().runs(w, nr - 2)
            yield nr - 2, 2, w.page_anon_exclusive(nr - 2)
        else:
            yield from super().runs(w, nr)


class UnrolledByFour(Folio):
    """Batches of more than 4 entries: every fourth page is asked."""

    def runs(self, w, nr):
        if nr <= 4:
            yield from super().runs(w, nr)
            return
        yield from ((i, min(4, nr - i), w.page_anon_exclusive(i)) for i in range(0, nr, 4))


class LargeFolios(Folio):
    """Folios of 16 pages and more: the first page for all."""

    def runs(self, w, nr):
        return iter([(0, nr, w.page_anon_exclusive(0))]) if w.folio_nr >= 16 else super().runs(w, nr)


class MappedShared(Folio):
    def exclusive(self, w, at):
        return not w.mapped_shared if w.large else w.page_anon_exclusive(at)

    def runs(self, w, nr):
        yield 0, nr, self.exclusive(w, 0)


class ForgetsUpgrade(Folio):
    def runs(self, w, nr):
        return iter([(0, nr, False)]) if nr > 1 else super().runs(w, nr)


class ForgetsProtNone(Folio):
    """PROT_NONE to read and write: left without WRITE."""

    def runs(self, w, nr):
        return super().runs(w, nr) if w.old & b.PTE_VALID else iter([(0, nr, False)])


class StaleContext(Folio):
    """Remembers the answer for the next page, and believes it of the next folio too."""

    def __init__(self):
        super().__init__()
        self.addr, self.known = -1, False

    def exclusive(self, w, at):
        return self.known if at == 0 and w.addr == self.addr else w.page_anon_exclusive(at)

    def runs(self, w, nr):
        for at, length, self.known in super().runs(w, nr):
            yield at, length, self.known
        self.addr = w.addr + nr * 4096


class AsksFilePages(Folio):
    """A page of a file is asked: the flag means something else there."""

    def pieces(self, w, nr, new):
        if not w.asks_writable(new) or w.shared:
            return super().pieces(w, nr, new)
        return list(self.runs(w, nr)) if w.maybe_change_pte_writable(new) else [(0, nr, False)]


class AsksBeyondTheFolio(Folio):
    """The scan of pages runs to the end of the range; what it says there is not used."""

    def runs(self, w, nr):
        w.anon_exclusive_batch(0, w.page_anon_exclusive(0), w.max_nr)
        return super().runs(w, nr)


class ZeroPage(Folio):
    def pieces(self, w, nr, new):
        found = super().pieces(w, nr, new)
        return [(0, 1, True)] if w.folio_nr == 0 and w.asks_writable(new) and not w.shared else found


class UffdForgotten(Folio):
    """userfaultfd write-protection does not hold an entry back."""

    def pieces(self, w, nr, new):
        if not w.asks_writable(new):
            return [(0, nr, False)]
        if w.shared:
            return [(0, nr, w.pte_dirty(new))]
        return list(self.runs(w, nr)) if w.anon else [(0, nr, False)]


class UffdForgottenShared(Folio):
    def shared(self, w, nr, new, maybe):
        return [(0, nr, w.pte_dirty(new))]


class GrantsUnasked(Folio):
    """Exclusive pages become writable in calls that do not try, prot_numa among them."""

    def kept(self, w, nr):
        return [(0, nr, w.anon and nr > 1 and all(w.page_anon_exclusive(i) for i in range(nr)))]


# ---- shared mappings ----


class SharedClean(Folio):
    def shared(self, w, nr, new, maybe):
        return [(0, nr, maybe)]


class SharedFirstDirty(Folio):
    """Asks the first entry whether it is dirty, not all of them."""

    def shared(self, w, nr, new, maybe):
        return [(0, nr, maybe and w.pte_dirty(w.old))]


class SharedLong(Folio):
    """Of a batch of more than 4 entries only 4 become writable."""

    def shared(self, w, nr, new, maybe):
        write = maybe and w.pte_dirty(new)
        return [(0, 4, write), (4, nr - 4, False)] if nr > 4 else [(0, nr, write)]


# ---- accessed and dirty ----


class LosesDirty(Folio):
    def new(self, w, old, nr):
        return w.newpte(w.old)


class LosesDirtyOfOthers(Folio):
    """Of a batch, only the first entry's dirtiness is kept; it is read where hardware cannot come between."""

    def new(self, w, old, nr):
        first = b.PTE_DIRTY | b.PTE_RDONLY if w.pte_dirty(w.old) or nr == 1 else 0
        return w.newpte(old) if first else w.newpte((old | b.PTE_RDONLY) & ~b.PTE_DIRTY)


class LosesYoung(Folio):
    def new(self, w, old, nr):
        return w.newpte(old) & ~b.PTE_AF | w.old & b.PTE_AF


class LosesHardwareDirty(Folio):
    """pte_modify() without its first line."""

    def new(self, w, old, nr):
        return w.newpte(old | b.PTE_RDONLY)


class SpreadsDirty(Folio):
    """Looks at one entry more than the batch has."""

    def new(self, w, old, nr):
        more = nr < w.max_nr and w.pte_dirty(w.ptep_get(nr)) and present(w.ptep_get(nr))
        return w.newpte(old | (b.PTE_DIRTY if more else 0))


class AlwaysYoung(Folio):
    def new(self, w, old, nr):
        return w.newpte(old) | b.PTE_AF


class TwoUnits(Folio):
    """Deals with the two halves of a batch one after the other, and makes the second young if the first was."""

    def __call__(self, w):
        nr, young = self.batch(w), 0
        for first, n in [(0, nr // 2), (nr // 2, nr - nr // 2)] if nr > 1 else [(0, 1)]:
            old = w.start(first, n)
            young |= old & b.PTE_AF
            new = w.newpte(old) | young
            for at, length, write in self.pieces(w, nr, new):
                low, high = max(at, first), min(at + length, first + n)
                if low < high:
                    w.commit(low, w.pte_advance_pfn(old, low - first), w.pte_advance_pfn(new, low - first), high - low, write)
        return nr


class ReadsFirst(Folio):
    """Gathers accessed and dirty by reading, then clears: what hardware sets in between is lost."""

    def start(self, w, nr):
        seen = [w.ptep_get(i) for i in range(nr)]
        w.start(0, nr)
        dirty = b.PTE_DIRTY * any(map(w.pte_dirty, seen))
        return w.old | dirty | (b.PTE_AF if any(word & b.PTE_AF for word in seen) else 0)


class ReadsFirstSingle(Folio):
    """The same for single entries only."""

    def start(self, w, nr):
        old = w.start(0, nr)
        return w.old if nr == 1 else old


class ReadsFirstBatches(ReadsFirst):
    """The same for batches only."""

    def start(self, w, nr):
        return super().start(w, nr) if nr > 1 else w.start(0, 1)


class WriteByHand(Folio):
    """Sets WRITE without what a dirty entry needs beside it."""

    def commit(self, w, at, old, new, nr, write):
        w.commit(at, old, new | (b.PTE_WRITE if write else 0), nr)


# ---- flushes ----


class NoFlush(Folio):
    def commit(self, w, at, old, new, nr, write):
        w.commit(at, new, new, nr) if not write else w.commit(at, old, new, nr, write)


class NoFlushOfUpgrades(Folio):
    def commit(self, w, at, old, new, nr, write):
        w.commit(at, new | b.PTE_WRITE if write else old, new, nr, write)


class FlushOneShort(Folio):
    def commit(self, w, at, old, new, nr, write):
        if nr < 3:
            w.commit(at, old, new, nr, write)
            return
        w.commit(at, old, new, nr - 1, write)
        last = w.pte_advance_pfn(new, nr - 1)
        w.commit(at + nr - 1, last | (b.PTE_WRITE if write else 0), last, 1, write)


class NoFlushOfExec(Folio):
    def commit(self, w, at, old, new, nr, write):
        w.commit(at, old & ~b.PTE_UXN | new & b.PTE_UXN, new, nr, write)


class NoFlushOfBlocks(Folio):
    """Two whole blocks of the 4K granule at once are thought to need no flush."""

    def commit(self, w, at, old, new, nr, write):
        w.commit(at, new | b.PTE_WRITE * write if nr == 32 else old, new, nr, write)


# ---- protection ----


class KeepsExec(Folio):
    def new(self, w, old, nr):
        new = w.newpte(old)
        return new & ~b.PTE_UXN | old & b.PTE_UXN if new & b.PTE_VALID else new


class KeepsBti(Folio):
    def new(self, w, old, nr):
        return w.newpte(old) | old & b.PTE_GP


class LosesUffd(Folio):
    def new(self, w, old, nr):
        return w.newpte(old) & ~(b.PTE_UFFD if nr > 1 else 0)


class NoProtNone(Folio):
    """A batch becomes PROT_NONE in its first entry only."""

    def __call__(self, w):
        nr = self.batch(w)
        old = self.start(w, nr)
        new = w.newpte(old)
        if new & b.PTE_VALID or nr == 1:
            for at, length, write in self.pieces(w, nr, new):
                w.commit(at, w.pte_advance_pfn(old, at), w.pte_advance_pfn(new, at), length, write)
        else:
            w.commit(0, old, new, 1)
            rest = w.pte_advance_pfn(old & ~b.PTE_CONT, 1)
            w.commit(1, rest, rest, nr - 1)
        return nr


#: law names by fault
FAULTS: dict[type[Folio], str] = {
    SkipsLastRun: "CONTRACT", CommitsOneTooFew: "CONTRACT", ReportsMore: "CONTRACT", ReportsLess: "CONTRACT",
    RangeEdge: "CONTRACT", LeavesWhatDoesNotChange: "CONTRACT", OverSoftleaves: "CONTRACT", WordNotAdvanced: "CONTRACT",
    TrustsTheFolio: "CONTRACT FLUSH UNIT", FolioEdge: "UNIT", FolioEdgeByOne: "UNIT", FolioEdgeMidFolio: "UNIT",
    IgnoresWrite: "UNIT FLUSH AD_SPREAD", IgnoresUffd: "UNIT PRESERVED SHARED_WRITE", IgnoresExec: "UNIT FLUSH AD_SPREAD",
    IgnoresProtNone: "UNIT FLUSH AD_SPREAD",
    FirstForAll: "EXCLUSIVE", Page0: "EXCLUSIVE", Page0Misaligned: "EXCLUSIVE", PreviousPage: "EXCLUSIVE",
    RunTooLong: "EXCLUSIVE", BlockEdge: "EXCLUSIVE", BlockEdge16: "EXCLUSIVE", TableEdge: "EXCLUSIVE",
    UnrolledByFour: "EXCLUSIVE", LargeFolios: "EXCLUSIVE", MappedShared: "EXCLUSIVE", ForgetsUpgrade: "EXCLUSIVE",
    ForgetsProtNone: "EXCLUSIVE", StaleContext: "EXCLUSIVE", ZeroPage: "EXCLUSIVE", AsksFilePages: "ASKED",
    AsksBeyondTheFolio: "ASKED", UffdForgotten: "EXCLUSIVE SHARED_WRITE", UffdForgottenShared: "SHARED_WRITE",
    GrantsUnasked: "WRITE_KEPT",
    SharedClean: "SHARED_WRITE", SharedFirstDirty: "SHARED_WRITE", SharedLong: "SHARED_WRITE",
    LosesDirty: "AD_KEPT HARDWARE", LosesYoung: "AD_KEPT HARDWARE", LosesHardwareDirty: "AD_KEPT HARDWARE",
    LosesDirtyOfOthers: "AD_KEPT SHARED_WRITE", SpreadsDirty: "AD_SPREAD", AlwaysYoung: "AD_SPREAD", TwoUnits: "AD_SPREAD",
    ReadsFirst: "HARDWARE", ReadsFirstSingle: "HARDWARE", ReadsFirstBatches: "HARDWARE", WriteByHand: "DIRTY_STATE",
    NoFlush: "FLUSH", NoFlushOfUpgrades: "FLUSH", FlushOneShort: "FLUSH", NoFlushOfExec: "FLUSH", NoFlushOfBlocks: "FLUSH",
    KeepsExec: "PRESERVED", KeepsBti: "PRESERVED", LosesUffd: "PRESERVED", NoProtNone: "PRESERVED",
}  # fmt: skip
