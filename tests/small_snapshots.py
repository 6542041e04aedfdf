"""Snapshots of a few pages, made by hand: what the tests of snapshots share."""

from __future__ import annotations

import numpy as np

from ptebatch import bits
from ptebatch.snapshot.kpage import KPF_ANON_EXCLUSIVE
from ptebatch.snapshot.snapshot import VMA_DTYPE, Snapshot

PRESENT, SWAP, FILE, GUARD, UFFD, EXCLUSIVE = 1 << 63, 1 << 62, 1 << 61, 1 << 58, 1 << 57, 1 << 56
DIRTY, ANON, SWAPBACKED, NOPAGE, KSM, ZERO = 1 << 4, 1 << 12, 1 << 14, 1 << 20, 1 << 21, 1 << 24
PAE = int(KPF_ANON_EXCLUSIVE)
MAY = bits.VM_MAYREAD | bits.VM_MAYWRITE | bits.VM_MAYEXEC
R, RW, NONE = bits.VM_READ | MAY, bits.VM_READ | bits.VM_WRITE | MAY, MAY
SHARED = RW | bits.VM_SHARED | bits.VM_MAYSHARE
BASE = 0x7F00_0000_0000  # of the first VMA; its table begins here
VPN = BASE >> 12
OWN = PRESENT | EXCLUSIVE


def vma(start=BASE, pages=512, flags=RW, **more):
    row = np.zeros(1, VMA_DTYPE)
    row["start"], row["end"], row["flags"], row["pgoff"] = start, start + pages * 4096, flags, start >> 12
    for name, value in more.items():
        row[name] = value
    return row


def snap(pages, vmas=None, **more):
    """A snapshot of (vpn, pagemap, kflags, order) rows, any length of them."""
    vmas = np.concatenate(vmas) if vmas else vma()
    rows = [(*row, 0, 0)[:4] for row in pages]
    column = [np.array([row[i] for row in rows], np.uint64) for i in range(4)]
    given = {
        "names": ("",) * vmas.size,
        "mapcount": np.ones(len(rows), np.uint32),
        "huge": np.zeros(len(rows), np.bool_),
        "page_size": 4096,
        "meta": {"pid": 1, "kernel": "6.18.0", "machine": "x86_64"},
        "lost": {"changed": 0},
    } | more
    return Snapshot(vmas=vmas, vpn=column[0], pagemap=column[1], kflags=column[2], order=column[3].astype(np.uint8), **given)


def folio(vpn, pfn, order, *, nr=None, kflags=ANON | SWAPBACKED, pagemap=OWN):
    return [(vpn + i, pagemap | (pfn + i), kflags, order) for i in range(nr or 1 << order)]


def word(mm, at=0):
    return int(mm.ptes(BASE + at * 4096, 1)[0])
