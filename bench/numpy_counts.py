"""The counting half of numpy_mprotect.py: what finding and starting batches counts."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from ptebatch import bits

U64 = np.uint64
ORDER = np.uint8(bits.PG_ORDER_MASK)
EXCLUSIVE = np.uint8(bits.PG_ANON_EXCLUSIVE)
DIRTY = U64(bits.PTE_DIRTY)
AD = U64(bits.PTE_AF | bits.PTE_DIRTY)
VALID = U64(bits.PTE_VALID)
CONT = U64(bits.PTE_CONT)
VALID_CONT = VALID | CONT
RDONLY = U64(bits.PTE_RDONLY)
#: what entries of one batch may differ in
IGNORED = AD | RDONLY

#: counters that a call fills; the names are those of ``ptebatch.counters``
COUNTERS = (
    "pte_reads", "pte_writes", "pte_xchg", "ptep_get", "contpte_ptep_get", "pae_reads", "batch_scans", "fold_tries", "folds",
    "convert_tlbi", "convert_tlbi_pages", "prot_start", "prot_commit", "set_ptes", "sync_tags", "icache_sync", "n_batches",
    "n_subs", "gather_calls", "normal_page", "flush_calls", "flush_pages", "pte_locks", "vmas_walked", "writable_checks",
    "start_multi", "set_ptes_multi", "cont_without_bbm",
)  # fmt: skip


def nonzero(values: Any) -> int:
    return int(np.count_nonzero(values))


def young_dirty(word: Any, some: Any = None, out: Any = None) -> Any:
    """AF of each word, and DIRTY where it is dirty: DIRTY, or WRITE (moved to that bit) without RDONLY (moved there)."""
    some = np.left_shift(word, U64(48), out=some)
    np.bitwise_xor(some, DIRTY, out=some)
    out = np.left_shift(word, U64(4), out=out)
    np.bitwise_and(out, some, out=out)
    np.bitwise_or(out, word, out=out)
    return np.bitwise_and(out, AD, out=out)


class Counts:
    """Counters of a call, and what is counted before anything is stored."""

    c: Counter[str]
    cont: int
    cont_shift: int
    ptrs: int
    flag: list[Any]

    def _count_reads(self, p: Any, at: Any, order: Any, cut: Any, begins: Any, folded: Any, table: int) -> None:
        """What finding and starting the batches counts."""
        n, k, c, mask = len(p), len(begins), self.c, self.cont - 1
        large = np.not_equal(order, 0, out=self.flag[2][:n])
        c["batch_scans"] += nonzero(np.logical_and(cut, large, out=self.flag[3][:n]))
        # entries that end a batch by being read: behind a page that is not its folio's last
        ends = np.logical_and(cut[1:], large[:-1], out=self.flag[3][: n - 1])
        ends[(table - 1) % self.ptrs :: self.ptrs] = False
        stops = np.flatnonzero(ends)
        if stops.size:
            size = U64(1) << order[stops].astype(U64)
            stops = stops[((at[stops] + U64(1)) & (size - U64(1))) != 0] + 1
        is_folded = folded == VALID_CONT
        blocks = nonzero(is_folded)
        gets = n - mask * blocks + stops.size
        c["pte_reads"] += gets
        c["ptep_get"] += gets
        if blocks:
            self._count_gathers(p, is_folded, stops >> self.cont_shift)
        singles = k
        if k < n:
            lengths = np.diff(begins, append=n)
            multi = lengths > 1
            singles = k - nonzero(multi)
            inside = ((begins & mask) != 0) | (lengths < self.cont)
            c["pte_reads"] += nonzero(multi & inside) + nonzero(multi & (((begins + lengths) & mask) != 0))
        c["pte_reads"] += singles
        c["start_multi"] += k - singles
        c["pte_xchg"] += n
        c["n_batches"] += k
        c["prot_start"] += k
        c["normal_page"] += k
        c["pte_locks"] += (n - table + self.ptrs - 1) // self.ptrs + (table > 0)

    def _count_gathers(self, p: Any, folded: Any, stops: Any) -> None:
        """Reads of contpte_ptep_get(): it stops at the first entry that is young and the first that is dirty."""
        n = self.cont
        reads = np.where(folded, 2, 0)
        slow = np.flatnonzero(folded & (young_dirty(p[::n]) != AD))
        if slow.size:
            rows = young_dirty(p.reshape(-1, n)[slow])
            young = (rows & U64(bits.PTE_AF)) != 0
            dirty = (rows & DIRTY) != 0
            y = np.where(young.any(axis=1), young.argmax(axis=1), n)
            d = np.where(dirty.any(axis=1), dirty.argmax(axis=1), n)
            after_dirty = np.minimum(y, n - 1) + 2
            reads[slow] = np.where((d < n) & (d <= y), after_dirty, np.minimum(d + 1, n))
        self.c["contpte_ptep_get"] += nonzero(folded) + nonzero(folded[stops])
        self.c["pte_reads"] += int(reads.sum()) + int(reads[stops].sum())
