"""What one would write without the core: mprotect() in NumPy, and written well.

The whole job of one call on present PTEs of a private anonymous mapping, as the
`folio` strategy of 7.3 does it: batches, sub-batches by PageAnonExclusive, A/D
gathered over a batch, CONT painted and folded, the range to flush, the counts.
Any folio orders, exclusive patterns and legal A/D states; tests/bench/test_bench_numpy.py
holds it equal to the core, words and counters.

Written well means: blocks of leaf tables that stay in the cache, every array of
a block's length allocated once, per-page work in the narrowest type, and per-batch
work on runs: a uniform folio costs one element there, not 512. It does not guess
that a whole block is alike, which is what the core's replay would be.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from typing import Any

import numpy as np

from ptebatch import bits
from ptebatch.errors import LayoutError

from .numpy_counts import (
    AD,
    CONT,
    COUNTERS,
    DIRTY,
    EXCLUSIVE,
    IGNORED,
    ORDER,
    RDONLY,
    U64,
    VALID,
    VALID_CONT,
    Counts,
    nonzero,
    young_dirty,
)

__all__ = ["BLOCK", "COUNTERS", "Job", "measure"]

#: PTEs of a block: long enough to spread NumPy's cost per call, short enough for the cache
BLOCK = 1 << 17


class Job(Counts):
    """mprotect() calls on one range of an MM, on its arrays alone.

    Parameters
    ----------
    mm : MM
        Its tables and metadata are used in place, its VMAs are not.
    start, length : int
        Bytes; whole contpte blocks, all present and mapping anonymous pages.

    Attributes
    ----------
    pages : int
        Entries dealt with by the last call.
    gather : tuple of (int, int) or None
        Address range that the last call flushed.

    Raises
    ------
    LayoutError
        A range or a machine that this program does not know.
    """

    def __init__(self, mm: Any, start: int, length: int) -> None:
        m = mm.machine
        self.shift = U64(m.page_shift)
        self.start, self.pages = start, 0
        self.gather: tuple[int, int] | None = None
        self.p = mm.ptes(start, length >> m.page_shift)
        self.meta = mm.pages
        self.cont, self.ptrs = m.cont_ptes, m.ptrs_per_pte
        self.cont_shift = m.cont_ptes.bit_length() - 1
        self.step = U64(m.page_size)
        self.addr = U64((1 << bits.PTE_ADDR_END) - m.page_size)
        self.base = U64(mm.pfn_base)
        self.kept = ~U64(bits.PTE_CHG_MASK | bits.PTE_CONT) & ~self.addr
        self.flushed = ~U64(bits.PTE_SWBITS_MASK | bits.PTE_CONT) & ~self.addr
        self.block = max(BLOCK, m.ptrs_per_pte)
        self._check(mm, m, start, length)
        n = min(self.block, len(self.p))
        # a block's arrays; each is used for several things, one after the other
        self.at = np.empty(n, U64)
        self.u = [np.empty(n, U64) for _ in range(4)]
        self.h = [np.empty(n, np.uint16) for _ in range(3)]
        self.b = [np.empty(n, np.uint8) for _ in range(2)]
        self.flag = [np.empty(n, np.bool_) for _ in range(4)]

    def _check(self, mm: Any, m: Any, start: int, length: int) -> None:
        known = m.contpte and m.gather_early_exit and m.needs_flush and not (m.paint_invalid or m.mkwrite_always or m.elides_bbm)
        if not known:
            raise LayoutError(f"machine {m} is not what this program models; use 7.3 without BBM level 3")
        if start % (m.cont_ptes * m.page_size) or length % (m.cont_ptes * m.page_size) or mm.pfn_base % m.ptrs_per_pte:
            raise LayoutError(f"[{start:#x}, {start + length:#x}) or pfn_base={mm.pfn_base:#x} cuts a contpte block; round it")
        special = U64(bits.PTE_SPECIAL | bits.PTE_UFFD)
        if ((self.p & U64(bits.PTE_VALID | bits.PTE_NG)) == 0).any() or (self.p & special).any():
            raise LayoutError(f"not every PTE of [{start:#x}, {start + length:#x}) is present and plain; map all of it")
        frames = ((self.p & self.addr) >> self.shift) - self.base
        if frames.max() >= mm.nr_pages or not (self.meta[frames] & bits.PG_ANON).all():
            raise LayoutError(f"not every page of [{start:#x}, {start + length:#x}) is anonymous; map anonymous folios")

    def mprotect(self, prot: int) -> Counter[str]:
        """Change the whole range to `prot`; returns the counters that are not 0."""
        self.c: Counter[str] = Counter(vmas_walked=1)
        self.newprot = U64(bits.PROTECTION_MAP[prot & 7] & bits.PTE_CHG_MASK)
        self.writable = bool(prot & bits.PROT_WRITE)
        self.lo, self.hi = len(self.p), 0
        first = (self.start >> int(self.shift)) % self.block
        low = 0
        while low < len(self.p):
            high = min(len(self.p), low + self.block - (first + low) % self.block)
            self._block(low, self.p[low:high], -(first + low) % self.ptrs)
            low = high
        self.gather = None
        self.pages = len(self.p)
        if self.hi:
            size = 1 << int(self.shift)
            self.gather = (self.start + self.lo * size, self.start + self.hi * size)
            self.c["flush_calls"] = 1
            self.c["flush_pages"] = self.hi - self.lo
        return self.c

    def _block(self, low: int, p: Any, table: int) -> None:
        """Some leaf tables, the first of which begins at p[table] (a part of one may stand before it)."""
        n = len(p)
        at, flag = self.at[:n], self.flag
        np.bitwise_and(p, self.addr, out=at)
        np.right_shift(at, self.shift, out=at)
        np.subtract(at, self.base, out=at)
        meta = np.take(self.meta, at.view(np.int64), out=self.b[0][:n], mode="clip")
        order = np.bitwise_and(meta, ORDER, out=self.b[1][:n])
        hard, cut = flag[0][:n], flag[1][:n]
        self._heads(at, order, hard)
        hard[table :: self.ptrs] = True
        hard[0] = True
        # a piece: words that go on exactly
        step = np.subtract(p[1:], p[:-1], out=self.u[0][: n - 1])
        np.not_equal(step, self.step, out=cut[1:])
        np.logical_or(cut, hard, out=cut)
        begins, word, dirty = self._batches(p, cut, hard)
        folded = p[:: self.cont] & VALID_CONT
        self._count_reads(p, at, order, cut, begins, folded, table)
        self._commit(low, p, at, meta, order, cut, begins, word, dirty, folded)

    def _heads(self, at: Any, order: Any, out: Any) -> None:
        """Which pages are the first of their folio."""
        n = len(at)
        page, shift, head = (h[:n] for h in self.h)
        np.copyto(page, at, casting="unsafe")
        np.copyto(shift, order)
        np.right_shift(page, shift, out=head)
        np.left_shift(head, shift, out=head)
        np.equal(page, head, out=out)

    def _batches(self, p: Any, cut: Any, hard: Any) -> tuple[Any, Any, Any]:
        """Join pieces that differ in ignored bits only; first index, first word, and gathered A/D of each batch."""
        loose = np.flatnonzero(np.greater(cut, hard, out=self.flag[2][: len(p)]))
        if loose.size:
            same = (p[loose] & ~IGNORED) - (p[loose - 1] & ~IGNORED) == self.step
            loose = loose[same]
        pieces = np.flatnonzero(cut)
        k = len(pieces)
        word, dirty, some = (u[:k] for u in self.u[:3])
        np.take(p, pieces, out=word, mode="clip")
        young_dirty(word, some, dirty)
        if not loose.size:
            return pieces, word, dirty
        cut[loose] = False
        first = np.flatnonzero(cut[pieces])
        dirty = np.bitwise_or.reduceat(dirty, first)
        word = word[first] | (dirty & U64(bits.PTE_AF))
        # mkdirty() of a writable word clears RDONLY
        word &= ~(((dirty & (word << U64(4))) & DIRTY) >> U64(48))
        return pieces[first], word, dirty

    def _commit(
        self, low: int, p: Any, at: Any, meta: Any, order: Any, cut: Any, begins: Any, word: Any, dirty: Any, folded: Any
    ) -> None:
        """The new words, and what storing them counts."""
        n, c = len(p), self.c
        flags = np.bitwise_and(word, self.kept, out=self.u[2][: len(word)])
        np.bitwise_or(flags, dirty, out=flags)
        np.bitwise_or(flags, self.newprot, out=flags)
        if self.writable:
            cut, begins, word, flags = self._exclusive_runs(meta, cut, begins, word, flags)
        k = len(begins)
        c["n_subs"] += k
        c["prot_commit"] += k
        c["set_ptes"] += k
        self._gather(low, n, begins, word, flags)
        valid = bool(self.newprot & VALID)
        long = k < n and valid
        np.bitwise_and(p, self.addr, out=p)
        if k == n:
            np.bitwise_or(p, flags, out=p)
            singles = n
        else:
            lengths = np.diff(begins, append=n)
            singles = k - nonzero(lengths > 1)
            np.bitwise_or(p, np.repeat(flags, lengths), out=p)
            if long and lengths.max() >= self.cont:
                self._paint(p, at, begins, folded)
        c["set_ptes_multi"] += k - singles
        c["pte_reads"] += singles
        c["pte_writes"] += n
        stores = n // self.cont + k - nonzero(cut[:: self.cont]) if valid else k
        c["sync_tags"] += stores
        if not self.newprot & U64(bits.PTE_UXN):
            c["icache_sync"] += stores
        if valid and singles:
            self._try_folds(p, at, order, cut)

    def _exclusive_runs(self, meta: Any, cut: Any, begins: Any, word: Any, flags: Any) -> tuple[Any, Any, Any, Any]:
        """Split batches where PageAnonExclusive changes; exclusive runs become writable."""
        n, c = len(meta), self.c
        exclusive = np.bitwise_and(meta, EXCLUSIVE, out=meta)
        run = self.flag[2][:n]
        np.not_equal(exclusive[1:], exclusive[:-1], out=run[1:])
        run[0] = True
        np.logical_or(run, cut, out=run)
        runs = np.flatnonzero(run)
        c["writable_checks"] += len(begins)
        c["pae_reads"] += n + len(runs) - len(begins)
        if len(runs) != len(begins):
            of = np.diff(np.flatnonzero(cut[runs]), append=len(runs))
            word, flags = np.repeat(word, of), np.repeat(flags, of)
        ask = self.u[3][: len(runs)]
        ask[:] = exclusive[runs] if len(runs) < n else exclusive
        # RDONLY is bit 7 like the metadata's exclusive, and is set in every newprot here
        flags ^= (flags >> U64(48)) & ask
        ask <<= U64(44)
        flags |= ask
        return run, runs, word, flags

    def _gather(self, low: int, n: int, begins: Any, word: Any, flags: Any) -> None:
        """pte_needs_flush() of each commit: valid before, and changed in more than software bits."""
        differ = self.u[1][: len(begins)]
        np.bitwise_xor(word, flags, out=differ)
        np.bitwise_and(differ, self.flushed, out=differ)
        flush = np.not_equal(differ, U64(0), out=self.flag[3][: len(begins)])
        np.bitwise_and(word, VALID, out=differ)
        np.logical_and(flush, differ, out=flush)
        calls = nonzero(flush)
        self.c["gather_calls"] += calls
        if calls:
            last = len(flush) - 1 - int(flush[::-1].argmax())
            self.lo = min(self.lo, low + int(begins[flush.argmax()]))
            self.hi = low + (int(begins[last + 1]) if last + 1 < len(begins) else n)

    def _paint(self, p: Any, at: Any, begins: Any, folded: Any) -> None:
        """CONT on whole blocks inside one commit whose frames are aligned like them."""
        mask = self.cont - 1
        whole = (at[:: self.cont] & U64(mask)) == 0
        whole[begins[(begins & mask) != 0] >> self.cont_shift] = False
        self.c["cont_without_bbm"] += nonzero(whole & (folded == VALID))
        if whole.all():
            np.bitwise_or(p, CONT, out=p)
        elif whole.any():
            rows = p.reshape(-1, self.cont)
            np.bitwise_or(rows, np.where(whole, CONT, U64(0))[:, None], out=rows)

    def _try_folds(self, p: Any, at: Any, order: Any, run: Any) -> None:
        """contpte_try_fold() after a store of one entry that ends its block."""
        n, mask, c = self.cont, U64(self.cont - 1), self.c
        alone = run[n - 1 :: n].copy()
        alone[:-1] &= run[n::n]
        alone &= (at[n - 1 :: n] & mask) == mask
        c["fold_tries"] += nonzero(alone)
        blocks = np.flatnonzero(alone & (order[n - 1 :: n] >= self.cont_shift))
        if not blocks.size:
            return
        rows = p.reshape(-1, n)
        old = rows[blocks]
        plain = old & ~AD | RDONLY
        differ = plain[:, -1:] - plain != np.arange(n - 1, -1, -1, dtype=U64) * self.step
        c["pte_reads"] += int(np.where(differ.any(axis=1), differ.argmax(axis=1) + 1, n).sum())
        fold = np.flatnonzero(~differ.any(axis=1))
        if not fold.size:
            return
        old = old[fold]
        dirty = np.bitwise_or.reduce(young_dirty(old), axis=1)
        word = old[:, -1] | dirty | CONT
        word &= ~(((dirty & (word << U64(4))) & DIRTY) >> U64(48))
        rows[blocks[fold]] = word[:, None] - np.arange(n - 1, -1, -1, dtype=U64) * self.step
        k = fold.size
        for name, amount in (("folds", k), ("pte_xchg", k * n), ("pte_writes", k * n), ("sync_tags", k),
                             ("convert_tlbi", k), ("convert_tlbi_pages", k * n)):  # fmt: skip
            c[name] += amount
        if not self.newprot & U64(bits.PTE_UXN):
            c["icache_sync"] += k


def measure(world: Any, rounds: int = 5) -> float:
    """Nanoseconds per PTE of one call, the median over RO and back."""
    job = Job(world.mm, world.start, world.length)
    seconds = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        for prot in (bits.PROT_READ, bits.PROT_READ | bits.PROT_WRITE):
            job.mprotect(prot)
        seconds.append((time.perf_counter() - begin) / 2)
    return statistics.median(seconds[1:]) / len(job.p) * 1e9
