"""What each page of a `Snapshot` is, and which are PageAnonExclusive.

Pagemap bit 56 is not PageAnonExclusive: it says that no other process maps the
page now, and is also 1 after a fork whose other process has ended, while the
page stays shared until a write fault takes it over (spec 4.3). But the kernel
keeps PageAnonExclusive in the page flag that kpageflags copies to bit 34, so it
can be read: for a folio's first page always, for the others before 6.10.
"""

from __future__ import annotations

import re
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import bits, kpage
from .errors import LayoutError
from .patterns import PATTERN_NAMES, PatternSpec, exclusive_pattern
from .snapshot import PM_FILE, PM_GUARD, PM_MMAP_EXCLUSIVE, PM_SWAP, Snapshot

__all__ = ["EXCLUSIVE_NAMES", "ExclusiveSpec", "Kinds", "describe_exclusive", "exclusive_pages", "kinds_of"]

BoolArray: TypeAlias = NDArray[np.bool_]
ExclusiveSpec: TypeAlias = PatternSpec

#: what can be asked for by name; any other pattern of `patterns` too
EXCLUSIVE_NAMES = ("kpageflags", "bit56", *PATTERN_NAMES)

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


def exclusive_pages(s: Snapshot, kinds: Kinds, spec: ExclusiveSpec) -> BoolArray:
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
    mode = spec.strip().lower() if isinstance(spec, str) else ""
    if mode in ("bit56", "kpageflags"):
        shown = _has(s.pagemap, PM_MMAP_EXCLUSIVE)
        if mode == "kpageflags" and _shows_flag(s):
            known = _flag_known(s)
            shown = np.where(known, _own_flag(s), shown)
        answer: BoolArray = legal & kinds.anon & shown
        return answer
    return legal & _laid_out(s, spec)


def describe_exclusive(s: Snapshot, kinds: Kinds, spec: ExclusiveSpec) -> str:
    """Return what `exclusive_pages` assumes, as one sentence."""
    mode = spec.strip().lower() if isinstance(spec, str) else ""
    legal = kinds.anon & kinds.private
    if mode == "kpageflags" and _shows_flag(s):
        guessed = int(np.count_nonzero(legal & ~_flag_known(s)))
        text = "PageAnonExclusive is read from bit 34 of kpageflags"
        if not guessed:
            return text
        return (
            f"{text}; it does not show {guessed} pages inside large folios mapped by PTEs, for which pagemap bit 56 "
            "(exclusively mapped, 1 also after a fork whose other process has ended) stands in"
        )
    if mode in ("bit56", "kpageflags"):
        why = "" if mode == "bit56" else f"kernel {s.meta.get('kernel')} does not show PageAnonExclusive, so "
        return (
            f"{why}PageAnonExclusive is taken to be pagemap bit 56, which it is not: bit 56 says exclusively mapped, "
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


def _has(words: NDArray[np.uint64], mask: np.uint64) -> BoolArray:
    answer: BoolArray = (words & mask) != 0
    return answer


def _release(s: Snapshot) -> tuple[int, int]:
    m = re.match(r"(\d{1,4})\.(\d{1,4})", str(s.meta.get("kernel", "")))
    return (int(m[1]), int(m[2])) if m else (1 << 30, 0)


def _shows_flag(s: Snapshot) -> bool:
    """PageAnonExclusive exists, and shares its bit, since 5.19."""
    return _release(s) >= (5, 19)


def _flag_known(s: Snapshot) -> BoolArray:
    """Entries whose page's flag kpageflags shows: since 6.10 tails repeat their head's."""
    if _release(s) < (6, 10):
        return np.ones(s.vpn.size, np.bool_)
    at_head = (s.pfn & ((np.uint64(1) << s.order.astype(np.uint64)) - np.uint64(1))) == 0
    answer: BoolArray = at_head | s.huge
    return answer


def _own_flag(s: Snapshot) -> BoolArray:
    """The flag of each page; under a huge entry only the head's means anything (spec 4.1)."""
    flag = _has(s.kflags, kpage.KPF_ANON_EXCLUSIVE)
    inside = s.pfn & ((np.uint64(1) << s.order.astype(np.uint64)) - np.uint64(1))
    back = np.minimum(inside, np.arange(s.vpn.size, dtype=np.uint64))
    head = np.arange(s.vpn.size) - back.astype(np.intp)
    found = s.huge & (s.vpn - s.vpn[head] == inside) & (s.pfn - s.pfn[head] == inside)
    answer: BoolArray = np.where(found, flag[head], flag)
    return answer


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
