"""Rebuilt tables against those that real arm64 kernels had.

A dump has what /proc shows of a mapping (protections, frames, folios, which
pages are exclusive) and the raw entries. Rebuilding from the first must give the
second, up to what /proc does not show: old and clean pages, and blocks that an
earlier fork or partial mprotect() left unfolded.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from ptebatch import Machine, bits
from ptebatch.snapshot import build
from ptebatch.snapshot.snapshot import VMA_DTYPE, Snapshot

FILES = sorted(Path(__file__).parents[1].glob("data/**/*.dumps.json.gz"))
PRESENT, SWAP, FILE, EXCLUSIVE = 1 << 63, 1 << 62, 1 << 61, 1 << 56
DIRTY, ANON, SWAPBACKED, ZERO = 1 << 4, 1 << 12, 1 << 14, 1 << 24
MAY = bits.VM_MAYREAD | bits.VM_MAYWRITE | bits.VM_MAYEXEC
ACCESS = np.uint64(bits.PTE_AF | bits.PTE_DIRTY | bits.PTE_RDONLY)  # RDONLY follows dirty (spec 7.10)

#: set-ups that make pages old or clean
AGED = ("clear_refs", "madvfree", "clean_young", "shmem")


def mapped(word: int) -> bool:
    return bool(word & bits.PTE_VALID or word & bits.PTE_PRESENT_INVALID)


def entry(record, orders, i, word):
    """One row of (vpn, pagemap, kflags, order, exclusive)."""
    shift = record["page"].bit_length() - 1
    vpn = (int(record["va"], 16) >> shift) + i
    if not mapped(word):
        return vpn, SWAP | 1 << 5, 0, 0, False
    pfn = (word & ((1 << bits.PTE_ADDR_END) - 1)) >> shift
    if word & bits.PTE_SPECIAL:
        return vpn, PRESENT | pfn, ZERO, 0, False
    exclusive = record["excl"][i] == "1"
    kind, flags = (FILE, SWAPBACKED | DIRTY) if record.get("shared") else (0, ANON)
    return vpn, PRESENT | kind | pfn | EXCLUSIVE * exclusive, flags, orders.get(pfn, 0), exclusive


def snapshot(record):
    """What /proc would show of the dumped window."""
    va, page, shared = int(record["va"], 16), record["page"], bool(record.get("shared"))
    orders = {head + i: order for head, order in record["folios"] for i in range(1 << order)}
    vmas = np.zeros(len(record["vmas"]), VMA_DTYPE)
    for row, (first, nr, prot) in zip(vmas, record["vmas"], strict=True):
        row["start"], row["end"] = va + first * page, va + (first + nr) * page
        row["flags"] = prot | MAY | (bits.VM_SHARED | bits.VM_MAYSHARE) * shared
        row["pgoff"], row["file"] = row["start"] // page, shared
    words = [int(word, 16) for word in record["ptes_before"]]
    rows = [entry(record, orders, i, word) for i, word in enumerate(words) if word]
    columns = [np.array([row[k] for row in rows], np.uint64) for k in range(5)]
    s = Snapshot(
        vmas, ("",) * vmas.size, *columns[:3], np.ones(len(rows), np.uint32), columns[3].astype(np.uint8),
        np.zeros(len(rows), np.bool_), page, {}, {},
    )  # fmt: skip
    return s, columns[4].astype(np.bool_), np.array([word for word in words if word], np.uint64)


def records(path):
    with gzip.open(path) as file:
        return [r for r in json.load(file) if r["vmas"] is not None]


def rebuilt(record):
    s, exclusive, words = snapshot(record)
    kernel = ".".join(record["kernel"].split(".")[:2])
    machine = Machine(kernel, granule=f"{record['page'] >> 10}K", lpa2="lpa2" in record["cpu"])
    mm = build(s, machine, exclusive)
    shift = np.uint64(machine.pmd_order)
    got = np.zeros(words.size, np.uint64)
    for table in np.unique(s.vpn >> shift).tolist():
        mine = s.vpn >> shift == table
        got[mine] = mm.leaf((table << int(shift)) * s.page_size)[(s.vpn[mine] & np.uint64(machine.ptrs_per_pte - 1)).astype(int)]
    return s, got, words


@pytest.mark.skipif(not FILES, reason="no dumps under tests/data")
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name.removesuffix(".dumps.json.gz"))
def test_real_tables_are_rebuilt_up_to_what_proc_does_not_show(path):
    same = total = 0
    for record in records(path):
        s, got, words = rebuilt(record)
        where = f"{record['scenario']} {record['op']}"
        anything_else = (got ^ words) & ~(ACCESS | np.uint64(bits.PTE_CONT))
        assert not anything_else[s.present].any(), where
        if not any(name in record["scenario"] for name in AGED):
            assert not ((got ^ words) & ACCESS)[s.present].any(), where
        if record["step_before"] == "before" and "fork" not in record["scenario"]:
            assert not ((got ^ words) & np.uint64(bits.PTE_CONT))[s.present].any(), where
        same += int(np.count_nonzero(got[s.present] == words[s.present]))
        total += int(np.count_nonzero(s.present))
    assert same > 0.75 * total
