"""The file of a `Snapshot`: an .npz of plain arrays, never pickled.

One member an array and ``meta``, which is JSON in bytes (names, counts, the
format and its version). Reading trusts nothing: a member's header must agree
with its size before memory is taken, and every value is checked after it.
"""

from __future__ import annotations

import json
import os
import struct
import tokenize
import warnings
import zipfile
import zlib
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .snapshot import PAGE_ARRAYS, VMA_DTYPE, Snapshot

__all__ = ["SHIPPED", "load", "save"]

#: a process that was saved once, and ships with the package: what ``--pid demo`` starts
SHIPPED = os.path.join(os.path.dirname(__file__), "demo.npz")

_FORMAT = "ptebatch-snapshot"
_VERSION = 1
_MODE = 0o600
_ARRAYS = {"vmas": VMA_DTYPE, **PAGE_ARRAYS}
_META = np.dtype("|u1")
#: what zipfile and numpy raise of bytes that are no archive, or no array
_DAMAGE = (
    ValueError, TypeError, LookupError, SyntaxError, tokenize.TokenError, EOFError, OverflowError, RuntimeError,
    struct.error, zlib.error, zipfile.BadZipFile,
)  # fmt: skip


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, _MODE)


def save(snapshot: Snapshot, path: str | os.PathLike[str]) -> None:
    """Write a compressed .npz of plain arrays, nothing pickled.

    Parameters
    ----------
    snapshot : Snapshot
    path : str or path
        Written as named, for its owner only (mode 0600); an existing file is replaced.

    Notes
    -----
    The file has what only root may read of a process: its addresses (which undo address
    space randomisation), the numbers and flags of its page frames, how often each is
    mapped; and its command's name and the paths that it maps. No contents of memory.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    path = os.fspath(path)
    head = {
        "format": _FORMAT,
        "version": _VERSION,
        "page_size": snapshot.page_size,
        "names": list(snapshot.names),
        "meta": snapshot.meta,
        "lost": snapshot.lost,
    }
    meta = np.frombuffer(json.dumps(head).encode("ascii"), dtype=_META)
    arrays = {name: getattr(snapshot, name) for name in _ARRAYS}
    try:
        with open(path, "wb", opener=_private) as file:
            os.fchmod(file.fileno(), _MODE)  # a file that is replaced keeps the mode that it had
            np.savez_compressed(file, meta=meta, **arrays)
    except OSError as e:
        raise InputError(path, "", f"cannot be written: {e.strerror or e}; check the path and its permissions") from e


def load(path: str | os.PathLike[str]) -> Snapshot:
    """Read what `save` wrote.

    Parameters
    ----------
    path : str or path
        The .npz file.

    Returns
    -------
    Snapshot

    Raises
    ------
    InputError
        Not such a file, cut short, damaged, with an array missing, of another
        type or shape, pickled, or with values that no kernel shows.
    """
    path = os.fspath(path)
    arrays = _load_arrays(path)
    head = _load_head(path, arrays.pop("meta"))
    return Snapshot(
        **arrays,
        names=tuple(head["names"]),
        page_size=head["page_size"],
        meta=head["meta"],
        lost=head["lost"],
        source=path,
    )


def _load_arrays(path: str) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = set(archive.namelist())
            for name, dtype in {**_ARRAYS, "meta": _META}.items():
                if f"{name}.npy" not in members:
                    raise InputError(path, name, "the array is missing; save the snapshot again")
                arrays[name] = _load_array(path, name, dtype, archive)
    except InputError:
        raise
    except _DAMAGE as e:
        raise InputError(path, "", f"is not a whole .npz file ({e}); save the snapshot again") from e
    except OSError as e:
        raise InputError(path, "", f"cannot be read: {e.strerror or e}; check the path and its permissions") from e
    return arrays


def _load_array(path: str, name: str, dtype: np.dtype[Any], archive: zipfile.ZipFile) -> NDArray[Any]:
    """Read one member; its header must agree with its size before anything is allocated."""
    try:
        info = archive.getinfo(f"{name}.npy")
        with archive.open(info) as member:
            version = np.lib.format.read_magic(member)
            if version != (1, 0):
                raise ValueError(f"npy version {version}, expected (1, 0)")
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # numpy mends odd headers with a warning; ours are not odd
                shape, fortran, found = np.lib.format.read_array_header_1_0(member)
            if found != dtype and found.newbyteorder("<") != dtype:
                raise InputError(path, name, f"has type {found}, expected {dtype}; save the snapshot again")
            if len(shape) != 1 or fortran:
                raise InputError(path, name, f"has shape {shape}, expected one dimension; save the snapshot again")
            if shape[0] * found.itemsize != info.file_size - member.tell():
                raise ValueError(f"{shape[0]} items announced, but the member holds {info.file_size} bytes")
            data = np.frombuffer(member.read(), dtype=found)
    except InputError:
        raise
    except (*_DAMAGE, MemoryError, Warning) as e:
        raise InputError(path, name, f"is damaged or cut short ({e}); save the snapshot again") from e
    return data.astype(dtype)


def _load_head(path: str, raw: NDArray[np.uint8]) -> dict[str, Any]:
    def fail(message: str) -> NoReturn:
        raise InputError(path, "meta", message if "; " in message else f"{message}; save the snapshot again")

    try:
        head = json.loads(raw.tobytes())
    except (ValueError, RecursionError) as e:
        fail(f"is not JSON ({e})")
    if not isinstance(head, dict) or head.get("format") != _FORMAT:
        fail(f"does not say format {_FORMAT!r}; this .npz is not a snapshot")
    if head.get("version") != _VERSION:
        fail(f"has version {head.get('version')!r}, expected {_VERSION}; save it again with this release")
    for key, kind in (("names", list), ("meta", dict), ("lost", dict), ("page_size", int)):
        if not isinstance(head.get(key), kind):
            fail(f"{key} is {head.get(key)!r}, expected {kind.__name__}")
    return head
