"""Placing a `Snapshot` in arm64 page tables.

The kernel shows which frame each page has and what folio that is in, not the
bits of its entry; those follow from the mapping and the kind of the page as a
fault would set them (spec 1.4, 4.1, 8.2, 8.3). `assumed` says so in sentences.
Which pages are PageAnonExclusive stands in `kinds`.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from .. import bits
from ..errors import LayoutError, MachineError
from ..machine import Machine
from ..mm.mm import MM
from . import kpage
from .kinds import (
    ENDS,
    ExclusiveSpec,
    Kinds,
    describe_exclusive,
    exclusive_pages,
    kinds_of,
    unusual_swap,
    written_pages,
)
from .kpage import U64
from .snapshot import (
    NOTIFY_UNKNOWN,
    NOTIFY_YES,
    PASTED,
    PM_GUARD,
    PM_MMAP_EXCLUSIVE,
    PM_UFFD_WP,
    SKIPPED,
    UNKNOWN_VMFLAGS,
    WITHOUT_VMFLAGS,
    Snapshot,
)

__all__ = ["ExclusiveSpec", "assumed", "build"]

#: metadata bytes (one a frame) above which frames are renumbered without gaps
_MAX_FRAMES = 1 << 25
_PA_BITS = 48

_MARKER = np.uint64(31 << bits.SWP_TYPE_SHIFT)
_SWP_EXCLUSIVE = np.uint64(bits.PTE_SWP_EXCLUSIVE)
_SWP_UFFD = np.uint64(bits.PTE_SWP_UFFD)
_WRITE, _RDONLY, _DIRTY = np.uint64(bits.PTE_WRITE), np.uint64(bits.PTE_RDONLY), np.uint64(bits.PTE_DIRTY)
_SPECIAL, _UFFD, _CONT = np.uint64(bits.PTE_SPECIAL), np.uint64(bits.PTE_UFFD), np.uint64(bits.PTE_CONT)
_VALID = np.uint64(bits.PTE_VALID)


def build(s: Snapshot, machine: Machine, exclusive: ExclusiveSpec = "kpageflags", end: str = "shared") -> MM:
    """Return the process as an arm64 address space, at one end of what is unknown of it.

    Parameters
    ----------
    s : Snapshot
    machine : Machine
        Its granule must have the snapshot's page size.
    exclusive : str or pattern
        Which pages are PageAnonExclusive; see `kinds.exclusive_pages`.
    end : str
        How that is taken which /proc does not show (`unknown` counts it): ``shared``,
        no such page is exclusive, no such entry of a shared file dirty, unknown owners
        hear of first writes, and no two mappings share an anon_vma; or ``exclusive``,
        the opposite of each.

    Returns
    -------
    MM
        Every mapping that is not left out, at its address, with its pages.

    Raises
    ------
    MachineError
        Another page size, or addresses that this machine does not have.
    LayoutError
        An exclusive pattern that is none, an end that is none.

    Notes
    -----
    A block is folded where set_ptes() would paint it: all its entries are
    there, of one folio, aligned, with equal bits (spec 3.7).
    """
    _check_machine(s, machine)
    if end not in ENDS:
        raise LayoutError(f"end {end!r} is none of what is unknown; give one of {', '.join(ENDS)}")
    kinds = kinds_of(s)
    owner = exclusive_pages(s, kinds, exclusive, end)
    pfn = _frames(s, kinds)
    order = np.minimum(s.order, np.uint8(machine.pmd_order))
    base, nr = _window(pfn[kinds.has_page], order[kinds.has_page])
    mm = MM(machine, nr_pages=nr, pfn_base=base)
    faulted = _faulted(s, kinds)
    prot = _add_vmas(mm, s, end, faulted)
    views = _populate(mm, s)
    _first_faults(mm, s, faulted, pfn)
    _add_folios(mm, s, kinds, pfn, order, owner)
    words = _words(s, kinds, pfn, owner, written_pages(s, kinds, end), prot)
    words |= _painted(s, machine, kinds, order, words)
    for first, view in views:
        low, high = np.searchsorted(s.vpn, (first, first + view.size))
        view[(s.vpn[low:high] - np.uint64(first)).astype(np.intp)] = words[low:high]
    return mm


def assumed(s: Snapshot, machine: Machine, exclusive: ExclusiveSpec = "kpageflags") -> list[str]:
    """Return, in sentences, what `build` takes for granted; what is open besides, `unknown` says.

    Parameters
    ----------
    s, machine, exclusive
        As for `build`.

    Returns
    -------
    list of str
    """
    kinds = kinds_of(s)
    host = s.meta.get("machine", "another machine")
    said = [
        f"mappings, frames and folios are those of the process on {host}, Linux {s.meta.get('kernel', 'unknown')}; "
        "/proc does not show the bits of entries: every page is taken to be young, and anonymous pages dirty",
        describe_exclusive(s, kinds, exclusive),
    ]
    if text := s.meta.get(PASTED):
        said[0] = (
            f"pages are made up from the text of {text}: the first ones of each mapping, as many as Rss says, in frames and in "
            "folios of one page, huge ones where AnonHugePages says so; all young, anonymous ones dirty"
        )
        if text == "maps":
            said[0] = (
                "pages are made up from the text of maps: all of each mapping of up to 1 GiB, none of a larger one, anonymous in "
                "a private writable one, in frames and folios of one page; all young, anonymous ones dirty"
            )
        if exclusive == "kpageflags":
            said[1] = "every anonymous page is taken to be PageAnonExclusive; --exclusive takes others"
    if machine.contpte:
        said.append(f"every aligned block of {machine.cont_ptes} entries of one folio with equal bits is folded")
    if s.vmas.size > 1:
        said.append("all mappings have one memory policy; another keeps neighbours apart that would merge")
    locked = (s.vmas["flags"] & np.uint64(bits.VM_LOCKED)) != 0
    counts = {
        "pages under huge entries of the host are mapped by PTEs": int(np.count_nonzero(s.huge)),
        "swap entries keep their slot and have swap type 0, and not the exclusive bit, which mprotect() does not look at":
            int(np.count_nonzero(kinds.swap)),
        "entries under migration, poisoned or of devices are placed as swap entries": unusual_swap(s, kinds),
        "mappings show no VmFlags; their flags are taken from their permissions": int(s.meta.get(WITHOUT_VMFLAGS, 0)),
        "mappings are locked; where they become writable, mprotect() populates them, which is not modelled":
            int(np.count_nonzero(locked)),
    }  # fmt: skip
    said += [f"{count} {what}" for what, count in counts.items() if count]
    skipped = Counter(SKIPPED[i] for i in s.vmas["skip"].tolist() if i)
    said += [f"{n} mapping{'s' * (n > 1)} left out: {why}" for why, n in skipped.items()]
    if letters := s.meta.get(UNKNOWN_VMFLAGS):
        said.append(f"VmFlags that the model does not know: {letters}")
    if _too_wide(s.pfn[kinds.has_page], s.page_shift):
        said.append("frames are renumbered without gaps, alignment kept; they lie too far apart for one table of metadata")
    return said


def _check_machine(s: Snapshot, machine: Machine) -> None:
    if machine.page_size != s.page_size:
        raise MachineError(
            f"granule={machine.granule} has pages of {machine.page_size >> 10}K, {s.source} has pages of {s.page_size >> 10}K; "
            f"give granule={s.page_size >> 10}K"
        )
    top = int(s.vmas["end"][s.vmas["skip"] == 0].max(initial=0))
    if top > 1 << machine.va_bits:
        raise MachineError(
            f"va_bits={machine.va_bits} ends at {1 << machine.va_bits:#x}, {s.source} has mappings up to {top:#x}; "
            f"give va_bits={(top - 1).bit_length()} or more"
        )


def _too_wide(pfn: U64, page_shift: int) -> bool:
    if not pfn.size:
        return False
    low, high = int(pfn.min()), int(pfn.max())
    return high - low >= _MAX_FRAMES or high >> (_PA_BITS - page_shift) != 0


def _frames(s: Snapshot, kinds: Kinds) -> U64:
    """Return the frame of every entry.

    The huge zero page is a table full of the first of its frames, as a split
    leaves it. Frames too far apart are renumbered by table-sized windows.
    """
    size = np.uint64(1) << s.order.astype(np.uint64)
    pfn = np.where(kinds.zero, s.pfn & ~(size - np.uint64(1)), s.pfn)
    mine = kinds.has_page
    if not _too_wide(pfn[mine], s.page_shift):
        return pfn
    shift = np.uint64(s.page_shift - 3)
    _, rank = np.unique(pfn[mine] >> shift, return_inverse=True)
    pfn[mine] = ((rank.astype(np.uint64) + np.uint64(1)) << shift) | (pfn[mine] & ((np.uint64(1) << shift) - np.uint64(1)))
    return pfn


def _window(pfn: U64, order: NDArray[np.uint8]) -> tuple[int, int]:
    """Return the first frame that needs metadata, and how many do."""
    if not pfn.size:
        return 0, 1
    size = np.uint64(1) << order.astype(np.uint64)
    head = pfn & ~(size - np.uint64(1))
    low = int(head.min())
    return low, int((head + size).max()) - low


def _faulted(s: Snapshot, kinds: Kinds) -> NDArray[np.intp]:
    """Return the first anonymous entry of each private mapping that has one: its index in `s.vpn`."""
    mine = np.flatnonzero((kinds.anon | kinds.ksm) & kinds.private)
    _, first = np.unique(s.vma_of[mine], return_index=True)
    found: NDArray[np.intp] = mine[first]
    return found


def _add_vmas(mm: MM, s: Snapshot, end: str, faulted: NDArray[np.intp]) -> U64:
    """Map every mapping that is not left out; return the page protection of each of `s.vmas`."""
    # one that no neighbour has; at the other end the first fault shares that of a neighbour alike
    own = np.zeros(s.vmas.size, np.int64)
    if end == "shared":
        own[s.vma_of[faulted]] = np.arange(1, faulted.size + 1)
    notify = (s.vmas["notify"] == NOTIFY_YES) | ((s.vmas["notify"] == NOTIFY_UNKNOWN) & (end == "shared"))
    mm.set_limits(map_count=max(65530, s.vmas.size + 64))
    access = bits.VM_READ | bits.VM_WRITE | bits.VM_EXEC
    other = access << 4 | access | bits.VM_SHARED
    called = s.called
    for i in np.flatnonzero(s.vmas["skip"] == 0).tolist():
        v = s.vmas[i]
        flags = int(v["flags"])
        mm.mmap(
            int(v["start"]), int(v["end"] - v["start"]), flags & access, shared=bool(flags & bits.VM_SHARED),
            file=int(v["file"]), pgoff=int(v["pgoff"]), vm_flags=flags & ~other, may=flags >> 4 & access,
            writenotify=bool(notify[i]), account=bool(flags & bits.VM_ACCOUNT), anon_vma=int(own[i]),
            name=int(called[i]),
        )  # fmt: skip
    prot = np.zeros(s.vmas.size, np.uint64)
    prot[s.vmas["skip"] == 0] = [v.page_prot for v in mm.vmas()]
    return prot


def _populate(mm: MM, s: Snapshot) -> list[tuple[int, U64]]:
    """Allocate the tables that have entries; return first page and view of each stretch of them."""
    shift = mm.machine.pmd_order
    tables = np.unique(s.vpn >> np.uint64(shift))
    if not tables.size:
        return []
    cuts = np.flatnonzero(np.diff(tables) != 1) + 1
    views = []
    for low, high in zip([0, *cuts.tolist()], [*cuts.tolist(), tables.size], strict=True):
        first, nr = int(tables[low]) << shift, (high - low) << shift
        start, length = first << s.page_shift, nr << s.page_shift
        mm.populate(start, length)
        views.append((first, mm.ptes(start, nr)))
    return views


def _first_faults(mm: MM, s: Snapshot, faulted: NDArray[np.intp], pfn: U64) -> None:
    """Give every private mapping with anonymous pages its anon_vma, which decides what may merge."""
    for i in faulted.tolist():
        mm.map_folios(int(s.vpn[i]) << s.page_shift, 1, 0, heads=[int(pfn[i])], anon=True)


def _add_folios(mm: MM, s: Snapshot, kinds: Kinds, pfn: U64, order: NDArray[np.uint8], owner: NDArray[np.bool_]) -> None:
    """Write the metadata byte of every page of every folio, mapped here or not."""
    mine = kinds.has_page
    if not mine.any():
        return
    shared = mine & ((s.pagemap & PM_MMAP_EXCLUSIVE) == 0)
    on_disk = (s.kflags & kpage.KPF_SWAPBACKED) == 0
    dirty = (s.kflags & kpage.KPF_DIRTY) != 0
    refused = kinds.ksm | (kinds.file & on_disk & dirty)  # what NUMA balancing passes over (spec 6.7)
    byte = order.copy()
    for where, bit in (
        (kinds.anon | kinds.ksm, bits.PG_ANON), (shared, bits.PG_MAPPED_SHARED), (refused, bits.PG_NUMA_SKIP)
    ):  # fmt: skip
        byte[where] |= bit
    size = np.int64(1) << order[mine].astype(np.int64)
    head = pfn[mine].astype(np.int64) & ~(size - 1)
    by = np.argsort(head, kind="stable")
    heads, first = np.unique(head[by], return_index=True)
    bytes_of = np.bitwise_or.reduceat(byte[mine][by], first)
    sizes = size[by][first]
    starts = np.cumsum(sizes) - sizes
    at = np.repeat(heads - mm.pfn_base - starts, sizes) + np.arange(int(sizes.sum()))
    mm.pages[at] = np.repeat(bytes_of, sizes)
    mm.pages[(pfn[owner & mine] - np.uint64(mm.pfn_base)).astype(np.intp)] |= np.uint8(bits.PG_ANON_EXCLUSIVE)


def _words(s: Snapshot, kinds: Kinds, pfn: U64, owner: NDArray[np.bool_], written: NDArray[np.bool_], prot: U64) -> U64:
    """Return the entry of every page, not folded."""
    flags = s.vmas["flags"][s.vma_of]
    write = (flags & np.uint64(bits.VM_WRITE)) != 0
    base = prot[s.vma_of]
    words = base | (pfn << np.uint64(s.page_shift))
    special = kinds.zero | kinds.special
    words[special] |= _SPECIAL
    dirty = kinds.private & kinds.anon
    may_write = dirty & owner & write
    # where first writes are announced, an entry became writable when it became dirty
    dirty |= written
    may_write |= written & write
    words[dirty] |= _DIRTY
    words[may_write] |= _WRITE
    words[dirty & ((words & _WRITE) != 0)] &= ~_RDONLY
    uffd = (s.pagemap & PM_UFFD_WP) != 0
    tracked = s.present & uffd
    words[tracked] = (words[tracked] & ~_WRITE) | _RDONLY | _UFFD
    return np.where(s.present, words, _softleaves(s, kinds, owner, uffd))


def _softleaves(s: Snapshot, kinds: Kinds, owner: NDArray[np.bool_], uffd: NDArray[np.bool_]) -> U64:
    """Return the words of entries that are not present (spec 1.6): swap type 0, or a marker."""
    offset = np.maximum(s.pfn >> np.uint64(5), np.uint64(1)) & np.uint64(bits.SWP_OFFSET_MASK)
    swap = offset << np.uint64(bits.SWP_OFFSET_SHIFT)
    swap[owner] |= _SWP_EXCLUSIVE
    swap[uffd] |= _SWP_UFFD
    kind = np.where((s.pagemap & PM_GUARD) != 0, np.uint64(bits.PTE_MARKER_GUARD), offset & np.uint64(7))
    marker = _MARKER | (kind << np.uint64(bits.SWP_OFFSET_SHIFT))
    return np.where(kinds.marker, marker, swap)


def _painted(s: Snapshot, machine: Machine, kinds: Kinds, order: NDArray[np.uint8], words: U64) -> U64:
    """Return CONT for every entry of a block that one set_ptes() would paint, 0 for the others."""
    n = machine.cont_ptes
    cont = np.zeros(words.size, np.uint64)
    if not machine.contpte or words.size < n:
        return cont
    fits = kinds.has_page & (order >= n.bit_length() - 1)
    # entries become PROT_NONE by mprotect(): only a batching one stores them with one set_ptes()
    if not machine.paint_invalid or machine.strategy == "per-pte":
        fits &= (words & _VALID) != 0
    # the next entry goes on as set_ptes() would: next page, next frame, same bits
    step = np.uint64(1 << s.page_shift)
    follows = (np.diff(s.vpn) == 1) & (np.diff(words) == step) & fits[1:] & fits[:-1] & (np.diff(s.vma_of) == 0)
    run = np.concatenate([[0], np.cumsum(~follows)])
    pfn = (words & np.uint64((1 << bits.PTE_ADDR_END) - 1)) >> np.uint64(s.page_shift)
    aligned = fits & (((s.vpn | pfn) & np.uint64(n - 1)) == 0)
    start = np.flatnonzero(aligned[: words.size - n + 1])
    start = start[run[start] == run[start + n - 1]]
    cont[(start[:, None] + np.arange(n)).ravel()] = _CONT
    return cont
