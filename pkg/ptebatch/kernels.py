"""Kernels: each is one row of switches, and the releases that a row stands for.

The rows are those of spec 10.1, measured on running kernels; where the table says how a
release was looked at, the row names it. To add a kernel, add a row: everything else reads
them. A release without a row is taken by the row that holds for it, if the sources say
which one does, and is refused otherwise (`row_of`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from .errors import MachineError

__all__ = ["DEFAULT", "ERAS", "Era", "row_of"]


@dataclass(frozen=True, slots=True)
class Era:
    """What differs between kernels, one field a row of the table in spec 10.1.

    Parameters
    ----------
    measured : str
        The release that was run.
    strategy : str
        The mprotect loop that this kernel has.
    gather_early_exit : bool
        contpte_ptep_get() stops when it knows AF and dirty (since 6.17).
    needs_flush : bool
        arm64 has its own pte_needs_flush() (since 6.19).
    paint_invalid : bool
        A multi-entry set_ptes() paints CONT on entries that are not VALID.
    mkwrite_always : bool
        pte_mkwrite() clears RDONLY of clean entries too (6.16 only).
    bbml_elides : int
        BBM level of the CPUs on which a contpte conversion omits its TLBI; 0: none.
    guard_markers : bool
        Guard markers are known and left alone.
    asid_extra_dsb : bool
        A range flush that became an ASID flush ends with one more DSB ISH.
    sticky_flags : bool
        VM_SOFTDIRTY and VM_MAYBE_GUARD survive a merge of VMAs (since 6.19).
    wp_reuse_large : bool
        A write fault reuses a page of a large folio that nobody else maps any more (since 6.16).
    move_batched : bool
        mremap() moves entries, and a collapse clears them, in batches (since 6.17).
    wp_flush_local : bool
        A write fault that reuses a page flushes it on its own CPU only (since 6.19).
    map_dirty : bool
        A writable entry of a file's page that is dirty is dirty from the start (since 6.16).
    wp_flush_by_size : bool
        That flush is a range flush of what the entry maps (measured on 7.3, read in 7.2, taken for 7.1).
    cold_invalidates : bool
        MADV_COLD takes a PMD entry away and flushes it before it makes it old (up to 7.2; later releases
        of stable series may differ from the one that was measured).
    pt_reclaim : bool
        MADV_DONTNEED frees the leaf tables that it empties (measured on 7.0, not looked at in 6.19).
    mremap_many : bool
        mremap() moves several VMAs at once where the length stays (since 6.17).
    huge_zero_wp : bool
        A write to the huge zero page gets a folio of its size; else it is split first (since 6.13).
    huge_zero_special : bool
        A PMD entry that maps it is SPECIAL (since 6.18).
    split_to_zero : bool
        Pages of a folio that is split are replaced by the zero page where they hold nothing but zeros (since 6.13).
    exclusive_write : bool
        There is a writable device-exclusive entry, which moves the softleaf types below it (6.12 only).
    repeat_tlbi_cpus : tuple of str
        CPUs of the measurement (spec 10.3) in the list of the REPEAT_TLBI workaround.
    """

    measured: str
    strategy: str
    gather_early_exit: bool = False
    needs_flush: bool = False
    paint_invalid: bool = False
    mkwrite_always: bool = False
    bbml_elides: int = 0
    guard_markers: bool = False
    asid_extra_dsb: bool = False
    sticky_flags: bool = False
    wp_reuse_large: bool = False
    move_batched: bool = False
    wp_flush_local: bool = False
    map_dirty: bool = False
    wp_flush_by_size: bool = False
    cold_invalidates: bool = False
    pt_reclaim: bool = False
    mremap_many: bool = False
    huge_zero_wp: bool = False
    huge_zero_special: bool = False
    split_to_zero: bool = False
    exclusive_write: bool = False
    repeat_tlbi_cpus: tuple[str, ...] = ()


_REPEAT = ("n1", "x4", "bbml2")
_6_12 = Era(
    "6.12.107",
    "per-pte",
    paint_invalid=True,
    asid_extra_dsb=True,
    exclusive_write=True,
    cold_invalidates=True,
)
# what each changed; a switch that is not named is as before
_6_16 = replace(
    _6_12,
    measured="6.16.12",
    mkwrite_always=True,
    guard_markers=True,
    exclusive_write=False,
    wp_reuse_large=True,
    map_dirty=True,
    huge_zero_wp=True,
    split_to_zero=True,
)
_6_17 = replace(
    _6_16,
    measured="6.17.13",
    strategy="folio",
    gather_early_exit=True,
    mkwrite_always=False,
    bbml_elides=2,
    move_batched=True,
    mremap_many=True,
)
_6_18 = replace(_6_17, measured="6.18.15", huge_zero_special=True)
_6_19 = replace(_6_18, measured="6.19.14", needs_flush=True, sticky_flags=True, wp_flush_local=True)
_7_0 = replace(_6_19, measured="7.0.13", pt_reclaim=True, repeat_tlbi_cpus=_REPEAT)
_7_1 = replace(_7_0, measured="7.1.13", asid_extra_dsb=False, wp_flush_by_size=True)
_7_2 = replace(_7_1, measured="7.2.12")
_7_3 = replace(_7_2, measured="7.3.4", paint_invalid=False, bbml_elides=3, cold_invalidates=False)

_rows = {
    "6.12": _6_12,
    "6.16": _6_16,
    "6.17": _6_17,
    "6.18": _6_18,
    "6.19": _6_19,
    "7.0": _7_0,
    "7.1": _7_1,
    "7.2": _7_2,
    "7.3": _7_3,
}

#: every kernel that is modelled, oldest first
ERAS: Mapping[str, Era] = MappingProxyType(_rows)

#: the kernel of a machine that names none
DEFAULT = "7.3"

#: what is known of releases between rows, and what is not: (after, before, sentence)
_BETWEEN = (
    ("6.12", "6.16", "like 6.12 and 6.16 it changes one PTE at a time, and guard markers exist since 6.13, but which release "
                     "brought the pte_mkwrite() of 6.16 is not known"),
)  # fmt: skip

_RELEASE = re.compile(r"(\d{1,3})\.(\d{1,3})(?:\.(\d{1,4}))?(-rc\d{1,3})?([-+~_][\w.+~-]*)?")


def row_of(release: str) -> tuple[str, str]:
    """Return the row that holds for a kernel release, and what to say of that.

    Parameters
    ----------
    release : str
        A row's name (``6.18``), a stable release (``6.18.20``), or what ``uname -r`` prints.

    Returns
    -------
    row : str
        Key of `ERAS`.
    note : str
        One clause where the release is not the row itself; else empty.

    Raises
    ------
    MachineError
        A release for which no row is known to hold; says what is known and why.
    """
    if isinstance(release, str) and release in ERAS:
        return release, ""
    known = f"known: {', '.join(ERAS)}"
    m = _RELEASE.fullmatch(release) if isinstance(release, str) else None
    if m is None:
        raise MachineError(f"kernel {release!r} is not modelled: it is not the text of a release such as {DEFAULT}; {known}")
    line, candidate, vendor = f"{m[1]}.{m[2]}", m[4], m[5]
    if candidate:
        raise MachineError(
            f"kernel {release!r} is not modelled: it is a release candidate, none was measured, and 6.17-rc1 had another loop "
            f"than 6.17; {known}"
        )
    if line in ERAS:
        note = f"{release} is taken by the row of {line}, which was measured on {ERAS[line].measured}"
        if line == "6.12" and (m[3] or "0") == "0":
            note += "; 6.12.0 differs in ptep_set_access_flags() of contpte blocks"
        return line, note + ("; what a vendor changed is not known" if vendor else "")
    raise MachineError(f"kernel {release!r} is not modelled: {_unknown(line)}; {known}")


def _unknown(line: str) -> str:
    at = _order(line)
    for after, before, said in _BETWEEN:
        if _order(after) < at < _order(before):
            return said
    first, last = next(iter(ERAS)), list(ERAS)[-1]
    if at < _order(first):
        return f"nothing before {first} was looked at"
    return f"it is newer than {last}, the last that was looked at"


def _order(line: str) -> tuple[int, ...]:
    return tuple(map(int, line.split(".")))
