"""Kernels: each is one row of switches, and the releases that a row stands for.

The rows are those of spec 10.1, measured on running kernels; where the table says how a
release was looked at, the row names it. To add a kernel, add a row: everything else reads
them. A release without a row is taken by the row that holds for it, if the sources say
which one does, and is refused otherwise (`row_of`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
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
    exclusive_write : bool
        There is a writable device-exclusive entry, which moves the softleaf types below it (6.12 only).
    repeat_tlbi_cpus : tuple of str
        CPUs of the measurement (spec 10.3) in the list of the REPEAT_TLBI workaround.
    """

    measured: str
    strategy: str
    gather_early_exit: bool
    needs_flush: bool
    paint_invalid: bool
    mkwrite_always: bool
    bbml_elides: int
    guard_markers: bool
    asid_extra_dsb: bool
    sticky_flags: bool
    wp_reuse_large: bool
    move_batched: bool
    wp_flush_local: bool
    map_dirty: bool
    wp_flush_by_size: bool
    cold_invalidates: bool
    pt_reclaim: bool
    exclusive_write: bool = False
    repeat_tlbi_cpus: tuple[str, ...] = ()


_REPEAT = ("n1", "x4", "bbml2")
_rows = {
    "6.12": Era(
        "6.12.107",
        "per-pte",
        False,
        False,
        True,
        False,
        0,
        False,
        True,
        False,
        False,
        False,
        False,
        False,
        False,
        True,
        False,
        exclusive_write=True,
    ),
    "6.16": Era(
        "6.16.12", "per-pte", False, False, True, True, 0, True, True, False, True, False, False, True, False, True, False
    ),
    "6.17": Era("6.17.13", "folio", True, False, True, False, 2, True, True, False, True, True, False, True, False, True, False),
    "6.18": Era("6.18.15", "folio", True, False, True, False, 2, True, True, False, True, True, False, True, False, True, False),
    "6.19": Era("6.19.14", "folio", True, True, True, False, 2, True, True, True, True, True, True, True, False, True, False),
    "7.0": Era(
        "7.0.13",
        "folio",
        True,
        True,
        True,
        False,
        2,
        True,
        True,
        True,
        True,
        True,
        True,
        True,
        False,
        True,
        True,
        repeat_tlbi_cpus=_REPEAT,
    ),
    "7.1": Era(
        "7.1.13",
        "folio",
        True,
        True,
        True,
        False,
        2,
        True,
        False,
        True,
        True,
        True,
        True,
        True,
        True,
        True,
        True,
        repeat_tlbi_cpus=_REPEAT,
    ),
    "7.2": Era(
        "7.2.12",
        "folio",
        True,
        True,
        True,
        False,
        2,
        True,
        False,
        True,
        True,
        True,
        True,
        True,
        True,
        True,
        True,
        repeat_tlbi_cpus=_REPEAT,
    ),
    "7.3": Era(
        "7.3.4",
        "folio",
        True,
        True,
        False,
        False,
        3,
        True,
        False,
        True,
        True,
        True,
        True,
        True,
        True,
        False,
        True,
        repeat_tlbi_cpus=_REPEAT,
    ),
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
