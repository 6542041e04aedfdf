"""What each page of a `Snapshot` is, which are PageAnonExclusive, and of which that is unknown.

Pagemap bit 56 is not PageAnonExclusive: it says that no other process maps the
page now, and is also 1 after a fork whose other process has ended, while the
page stays shared until a write fault takes it over (spec 4.3). But clear it
proves that a page is not exclusive, and the kernel keeps PageAnonExclusive in
the page flag that kpageflags copies to bit 34. Since 6.10 that shows a folio's
head and single pages; tails repeat their head's. What remains is unknown.
"""

from __future__ import annotations

import re
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .. import bits
from ..errors import LayoutError
from ..notation.patterns import PATTERN_NAMES, PatternSpec, exclusive_pattern
from . import kpage
from .snapshot import NOTIFY_YES, PM_FILE, PM_GUARD, PM_MMAP_EXCLUSIVE, PM_SWAP, Snapshot

__all__ = [
    "ENDS",
    "EXCLUSIVE_NAMES",
    "ExclusiveSpec",
    "Kinds",
    "describe_exclusive",
    "exclusive_pages",
    "exclusive_unknown",
    "kinds_of",
    "written_pages",
    "written_unknown",
]

BoolArray: TypeAlias = NDArray[np.bool_]
ExclusiveSpec: TypeAlias = PatternSpec

#: what can be asked for by name; any other pattern of `patterns` too
EXCLUSIVE_NAMES = ("kpageflags", "bit56", *PATTERN_NAMES)

#: the two ends between which what is unknown lies: no such page is exclusive, nor such an entry
#: dirty; or each of them is
ENDS = ("shared", "exclusive")

_SWAP_TYPE = np.uint64(31)  # bits 4:0 of a swap word of pagemap
_MARKER_TYPE = 31
_FIRST_SPECIAL_TYPE = 23  # migration, poison and device entries are above the swap files


class Kinds(NamedTuple):
    """What each entry of a snapshot is; arrays of bool, shape (n,).

    Attributes
    ----------
    anon : ndarray
        Anonymous page, KSM's not among them.
    ksm : ndarray
        Page of KSM.
    file : ndarray
        Page of a file or of shared memory.
    zero : ndarray
        A zero page.
    special : ndarray
        Present without a page that the kernel would look at.
    swap : ndarray
        Swap entry, or an entry that is as little present.
    marker : ndarray
        PTE marker, such as a guard.
    private : ndarray
        In a private mapping.
    """

    anon: BoolArray
    ksm: BoolArray
    file: BoolArray
    zero: BoolArray
    special: BoolArray
    swap: BoolArray
    marker: BoolArray
    private: BoolArray

    @property
    def has_page(self) -> BoolArray:
        """Entries whose frame belongs to a folio that counts."""
        answer: BoolArray = self.anon | self.ksm | self.file
        return answer


def kinds_of(s: Snapshot) -> Kinds:
    """Tell the entries of a snapshot apart."""
    present = s.present
    ksm = present & _has(s.kflags, kpage.KPF_KSM)
    anon = present & _has(s.kflags, kpage.KPF_ANON) & ~ksm
    zero = present & _has(s.kflags, kpage.KPF_ZERO_PAGE)
    nothing = _has(s.kflags, kpage.KPF_NOPAGE)
    file = present & _has(s.pagemap, PM_FILE) & ~(anon | ksm | zero | nothing)
    swap_type = s.pagemap & _SWAP_TYPE
    marker = ~present & ((swap_type == _MARKER_TYPE) | _has(s.pagemap, PM_GUARD))
    return Kinds(
        anon=anon,
        ksm=ksm,
        file=file,
        zero=zero,
        special=present & ~(anon | ksm | zero | file),
        swap=~present & ~marker,
        marker=marker,
        private=(s.vmas["flags"][s.vma_of] & np.uint64(bits.VM_SHARED)) == 0,
    )


def unusual_swap(s: Snapshot, kinds: Kinds) -> int:
    """Count entries that are not present for another reason than swap: migration, poison, devices."""
    kind = s.pagemap & _SWAP_TYPE
    return int(np.count_nonzero(kinds.swap & _has(s.pagemap, PM_SWAP) & (kind >= _FIRST_SPECIAL_TYPE)))


def exclusive_pages(s: Snapshot, kinds: Kinds, spec: ExclusiveSpec, end: str = "shared") -> BoolArray:
    """Return which entries' pages are PageAnonExclusive.

    Parameters
    ----------
    s : Snapshot
    kinds : Kinds
        Of the same snapshot.
    spec : str or pattern
        ``kpageflags``: as the kernel shows it, see above. ``bit56``: pagemap's
        "exclusively mapped". Otherwise a pattern of `patterns`, laid over the
        tables that have entries, in address order, each from its first entry on;
        an array of bool gives every entry of the snapshot instead.
    end : str
        How pages are taken of which it is unknown, one of `ENDS`.

    Returns
    -------
    ndarray of bool, shape (n,)
        False where the page is not anonymous, of KSM, or in a shared mapping.
        Swap entries follow a pattern too (the bit they keep for swap-in).

    Raises
    ------
    LayoutError
        No such pattern.
    """
    legal = (kinds.anon | kinds.swap) & kinds.private
    mode = _mode(spec)
    if mode == "bit56":
        shown: BoolArray = legal & kinds.anon & _has(s.pagemap, PM_MMAP_EXCLUSIVE)
        return shown
    if mode == "kpageflags":
        unknown = exclusive_unknown(s, kinds, spec)
        own = _own_flag(s)[0] if _shows_flag(s) else np.zeros(s.vpn.size, np.bool_)
        answer: BoolArray = legal & kinds.anon & _has(s.pagemap, PM_MMAP_EXCLUSIVE) & np.where(unknown, end == "exclusive", own)
        return answer
    return legal & _laid_out(s, spec)


def exclusive_unknown(s: Snapshot, kinds: Kinds, spec: ExclusiveSpec) -> BoolArray:
    """Return for which entries nothing shows whether the page is PageAnonExclusive: ndarray of bool, shape (n,).

    Only where the kernel is asked (``kpageflags``): a pattern leaves nothing open.
    """
    if _mode(spec) != "kpageflags":
        return np.zeros(s.vpn.size, np.bool_)
    open_: BoolArray = kinds.anon & kinds.private & _has(s.pagemap, PM_MMAP_EXCLUSIVE)
    return open_ & ~_own_flag(s)[1] if _shows_flag(s) else open_


def written_pages(s: Snapshot, kinds: Kinds, end: str = "shared") -> BoolArray:
    """Return which entries of shared files are dirty: those of which it is unknown, at one of the `ENDS`."""
    return written_unknown(s, kinds) & (end == "exclusive")


def written_unknown(s: Snapshot, kinds: Kinds) -> BoolArray:
    """Return of which entries of shared files nothing shows whether they are dirty: ndarray of bool, shape (n,).

    A folio is dirty by write(2) too, or through another mapping. Where its owner hears of
    first writes and it is clean, so is the entry: writeback has write-protected it (spec 6.6).
    """
    flags = s.vmas["flags"][s.vma_of]
    may_write = (flags & np.uint64(bits.VM_MAYWRITE | bits.VM_WRITE)) != 0
    cleaned = (s.vmas["notify"][s.vma_of] == NOTIFY_YES) & ~_has(s.kflags, kpage.KPF_DIRTY)
    answer: BoolArray = ~kinds.private & kinds.file & may_write & ~cleaned
    return answer


def describe_exclusive(s: Snapshot, kinds: Kinds, spec: ExclusiveSpec) -> str:
    """Return what `exclusive_pages` knows or assumes, as one sentence."""
    mode = _mode(spec)
    if mode == "kpageflags":
        unknown = int(np.count_nonzero(exclusive_unknown(s, kinds, spec)))
        if not _shows_flag(s):
            what = f"kernel {s.meta.get('kernel')} does not show PageAnonExclusive"
            return f"{what}: it is unknown of {unknown} pages that no other process maps now; the others are not"
        text = "PageAnonExclusive is read from bit 34 of kpageflags"
        if not unknown:
            return text
        return (
            f"{text}, which shows the first page of a folio only: it is unknown of {unknown} pages inside large folios mapped by "
            "PTEs (pagemap bit 56 proves nothing where it is set: it is after a fork whose other process has ended)"
        )
    if mode == "bit56":
        return (
            "PageAnonExclusive is taken to be pagemap bit 56, which it is not: bit 56 says exclusively mapped, "
            "and is 1 also after a fork whose other process has ended"
        )
    if mode == "none":
        return "no anonymous page is taken to be PageAnonExclusive"
    shared = exclusive_pages(s, kinds, spec) & kinds.anon & ~_has(s.pagemap, PM_MMAP_EXCLUSIVE)
    text = "every anonymous page is taken to be PageAnonExclusive" if mode == "all" else (
        f"PageAnonExclusive follows {spec!r}, laid over the tables in address order"
        if isinstance(spec, str) else "PageAnonExclusive follows the given pattern"
    )  # fmt: skip
    count = int(np.count_nonzero(shared))
    return text + (f"; {count} of these pages are mapped by other processes too, which no kernel would have" if count else "")


def _mode(spec: ExclusiveSpec) -> str:
    return spec.strip().lower() if isinstance(spec, str) else ""


def _has(words: NDArray[np.uint64], mask: np.uint64) -> BoolArray:
    answer: BoolArray = (words & mask) != 0
    return answer


def _release(s: Snapshot) -> tuple[int, int]:
    m = re.match(r"(\d{1,4})\.(\d{1,4})", str(s.meta.get("kernel", "")))
    return (int(m[1]), int(m[2])) if m else (1 << 30, 0)


def _shows_flag(s: Snapshot) -> bool:
    """PageAnonExclusive exists, and shares its bit, since 5.19."""
    return _release(s) >= (5, 19)


def _own_flag(s: Snapshot) -> tuple[BoolArray, BoolArray]:
    """The flag of each page, and of which it is known.

    Since 6.10 tails repeat their head's flags. Under a huge entry only the head's means
    anything (spec 4.1); it is looked up there, and known if it was read.
    """
    flag = _has(s.kflags, kpage.KPF_ANON_EXCLUSIVE)
    inside = s.pfn & ((np.uint64(1) << s.order.astype(np.uint64)) - np.uint64(1))
    tail = (inside != 0) | _has(s.kflags, kpage.KPF_COMPOUND_TAIL)
    back = np.minimum(inside, np.arange(s.vpn.size, dtype=np.uint64))
    head = np.arange(s.vpn.size) - back.astype(np.intp)
    found = s.huge & (s.vpn - s.vpn[head] == inside) & (s.pfn - s.pfn[head] == inside) & ~(tail & (inside == 0))
    known = found | ~tail if _release(s) >= (6, 10) else found | ~s.huge
    return np.where(found, flag[head], flag), known


def _laid_out(s: Snapshot, spec: ExclusiveSpec) -> BoolArray:
    if isinstance(spec, np.ndarray):
        return exclusive_pattern(spec, s.vpn.size)
    shift = np.uint64(s.page_shift - 3)
    try:
        tables, rank = np.unique(s.vpn >> shift, return_inverse=True)
        index = (rank << int(shift)) + (s.vpn & np.uint64((1 << int(shift)) - 1)).astype(np.intp)
        laid: BoolArray = exclusive_pattern(spec, tables.size << int(shift))[index]
    except LayoutError as e:
        if not isinstance(spec, str):
            raise
        raise LayoutError(f"{e}; of a live process also kpageflags and bit56") from None
    return laid
