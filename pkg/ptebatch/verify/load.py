"""Reading a file of facts: JSON, plain or gzip, in which every value knows where it stands.

A file that verification reads may come from anywhere. Whatever is wrong with it
ends in one `InputError` that names the file and the place, as in
``named.json: scenarios[3].res.l73.c[2]: ...``, never in a traceback.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, MprotectError, PtebatchError, split_hint

__all__ = ["Node", "file_list", "read_json", "run_words"]

#: what to do about a file that is not as it should be
_DO = "copy the file again, or give one of the kind that the option asks for"

Words = NDArray[np.uint64]

#: bytes of JSON text that a file may hold once it is unpacked
LIMIT = 1 << 29
_GZIP = b"\x1f\x8b"
_HEX = re.compile(r"[0-9a-fA-F]{1,16}")
_DIGITS = re.compile(r"[0-9a-fA-F]*")


def file_list(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[str]:
    """Paths as text; one path alone is a list of one.

    Raises
    ------
    PtebatchError
        The list is empty.
    """
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not given:
        raise PtebatchError("no file is given to verify; name at least one")
    return [os.fsdecode(path) for path in given]


#: files of each option, by a key that their object, or the first of their list, has and no other kind
_KINDS = {
    "engines": "vectors",
    "ops": "dumps",
    "run": "traces",
    "test": "loops",
    "steps": "live",
    "idx": "live-traces",
    "runs": "oploops",
}


def read_json(path: str, kind: str = "") -> Node:
    """Read a JSON file; gzip is recognised by its first bytes, not by its name.

    Parameters
    ----------
    path : str
    kind : str
        What it should be: ``vectors``, ``dumps``, ``traces``, ``loops``, ``live``, ``live-traces`` or ``oploops``.

    Raises
    ------
    InputError
        Unreadable, truncated, damaged, not UTF-8, not JSON, larger than `LIMIT`, or of another kind.
    """
    data = _unpack(path)
    try:
        node = Node(path, "", json.loads(data.decode("utf-8")))
    except UnicodeDecodeError as e:
        raise InputError(path, f"byte {e.start}", "is not UTF-8 text; expected JSON, plain or gzip") from e
    except json.JSONDecodeError as e:
        raise InputError(path, f"line {e.lineno} column {e.colno}", f"is not JSON ({e.msg}); the file may be cut off") from e
    except (RecursionError, ValueError) as e:
        raise InputError(path, "", "is nested too deeply or holds a number that is too long; expected JSON as documented") from e
    first = node.value[0] if isinstance(node.value, list) and node.value else node.value
    other = next((name for key, name in _KINDS.items() if isinstance(first, dict) and key in first), kind)
    if kind and other != kind:
        raise InputError(path, "", f"holds {other}, not {kind}; give it to --{other}")
    return node


def _unpack(path: str) -> bytes:
    try:
        # read once: a pipe cannot be opened again
        with open(path, "rb") as file:
            data = file.read(LIMIT + 1)
        if data.startswith(_GZIP):
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as source:
                data = source.read(LIMIT + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise InputError(path, "", f"is a damaged or cut off gzip file ({e}); copy it again") from e
    except (OSError, ValueError) as e:
        why = getattr(e, "strerror", None) or e
        raise InputError(path, "", f"cannot be read: {why}; check the path and its permissions") from e
    if len(data) > LIMIT:
        raise InputError(path, "", f"holds more than {LIMIT >> 20} MiB of text; expected a file of vectors or records")
    if not data.strip():
        raise InputError(path, "", "is empty; expected JSON, plain or gzip")
    return data


class Node:
    """A value of a JSON document, with the file and the place it stands at.

    Parameters
    ----------
    path : str
        The file.
    place : str
        For example ``scenarios[3].folios``; empty for the whole document.
    value : object
        What ``json`` made of it.
    """

    __slots__ = ("path", "place", "value")

    def __init__(self, path: str, place: str, value: Any) -> None:
        """See the class."""
        self.path = path
        self.place = place
        self.value = value

    def fail(self, message: str) -> NoReturn:
        """Raise the `InputError` of this place."""
        raise InputError(self.path, self.place, message if split_hint(message)[1] else f"{message}; {_DO}")

    def wrong(self, expected: str) -> NoReturn:
        """Raise the `InputError` that names the value and what was expected."""
        if isinstance(self.value, (list, dict)):
            shown = f"an {'array' if isinstance(self.value, list) else 'object'} of {len(self.value)} elements"
        else:
            shown = json.dumps(self.value)
        self.fail(f"{shown if len(shown) <= 60 else shown[:57] + '...'} is not {expected}")

    def named(self, name: str) -> Node:
        """Return the same value with a name behind its place."""
        return Node(self.path, f"{self.place} ({name[:60]})", self.value)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Turn what the model refuses inside the block into an `InputError` of this place."""
        try:
            yield
        except InputError:
            raise
        except PtebatchError as e:
            raise InputError(self.path, self.place, str(e)) from e
        except MprotectError as e:
            raise InputError(self.path, self.place, f"mprotect() refuses this call: {e.reason}") from e

    # ---- members ----

    def key(self, name: str) -> Node:
        """Return a member that must be there."""
        if not isinstance(self.value, dict):
            self.wrong(f"an object with the key {name!r}")
        if name not in self.value:
            self.fail(f"the key {name!r} is missing")
        return Node(self.path, f"{self.place}.{name}" if self.place else name, self.value[name])

    def maybe(self, name: str) -> Node | None:
        """Return a member, or None where it is absent or null."""
        if isinstance(self.value, dict) and self.value.get(name) is None:
            return None
        return self.key(name)

    def members(self) -> dict[str, Node]:
        """All members of an object."""
        if not isinstance(self.value, dict):
            self.wrong("an object")
        for name in self.value:
            _plain(self, name)
        return {name: self.key(name) for name in self.value}

    def at(self, i: int) -> Node:
        """Return an element that is known to exist."""
        return Node(self.path, f"{self.place}[{i}]", self.value[i])

    def items(self, nr: int | None = None) -> list[Node]:
        """Return the elements of an array, `nr` of them if that is given."""
        if not isinstance(self.value, list):
            self.wrong("an array")
        if nr is not None and len(self.value) != nr:
            self.fail(f"has {len(self.value)} elements, expected {nr}")
        return [self.at(i) for i in range(len(self.value))]

    def some(self, what: str) -> list[Node]:
        """Return the elements of an array that must have at least one, which is called `what`."""
        items = self.items()
        if not items:
            self.fail(f"holds no {what}; nothing would be verified")
        return items

    # ---- values ----

    def whole(self, low: int = 0, high: int = (1 << 64) - 1) -> int:
        """Return a whole number from low to high."""
        if type(self.value) is not int or not low <= self.value <= high:
            self.wrong(f"a whole number from {low} to {high}")
        return int(self.value)

    def text(self) -> str:
        """Return a text of printable ASCII characters."""
        if not isinstance(self.value, str):
            self.wrong("a text")
        return _plain(self, self.value)

    def word(self) -> int:
        """Return a 64-bit number written in hexadecimal, without 0x."""
        if not isinstance(self.value, str) or not _HEX.fullmatch(self.value):
            self.wrong("a 64-bit hexadecimal number without 0x")
        return int(self.value, 16)

    def address(self) -> int:
        """Return an address, hexadecimal with 0x or without."""
        if not isinstance(self.value, str) or not _HEX.fullmatch(self.value.removeprefix("0x")):
            self.wrong("an address in hexadecimal")
        return int(self.value, 16)

    def wholes(self, nr: int | None = None, high: int = (1 << 64) - 1) -> list[int]:
        """Return an array of whole numbers, `nr` of them if that is given."""
        return [item.whole(0, high) for item in self.items(nr)]

    def words(self, nr: int | None = None) -> Words:
        """Return an array of 64-bit words written in hexadecimal, as uint64."""
        value = self.value
        # the usual case in one look; what fails it is looked at one by one, to name it
        sized = isinstance(value, list) and nr in (None, len(value))
        if sized and all(type(v) is str and 0 < len(v) <= 16 for v in value) and _DIGITS.fullmatch("".join(value)):
            return np.array([int(v, 16) for v in value], np.uint64)
        return np.array([item.word() for item in self.items(nr)], np.uint64)

    def runs(self, nr: int, page_shift: int) -> Words:
        """Expand a PTE run list to `nr` words; what follows the last run is none.

        Parameters
        ----------
        nr : int
            Entries there are.
        page_shift : int
            A run ``[n, hex, step]`` advances by ``step`` pages an entry.
        """
        out = np.zeros(nr, np.uint64)
        at = 0
        for run in self.items():
            words = run_words(run, nr - at, page_shift)
            out[at : at + len(words)] = words
            at += len(words)
        return out


def _plain(node: Node, text: str) -> str:
    """Check a name that will be printed."""
    if not (text.isascii() and text.isprintable()):
        node.fail(f"{ascii(text)[:60]} holds characters that are not printable ASCII")
    return text


def run_words(run: Node, room: int, page_shift: int) -> Words:
    """Words of one run ``[n, hex, step, ...]``, where `room` entries are left."""
    if not isinstance(run.value, list) or len(run.value) < 3:
        run.wrong("a run [n, hex, step]")
    n, first, step = run.at(0).whole(1), run.at(1).word(), run.at(2).whole(0, 1)
    if n > room:
        run.fail(f"a run of {n} entries overflows the {room} entries that are left")
    if first + ((n - 1) * step << page_shift) >> 64:
        run.fail(f"the words of a run of {n} entries overflow 64 bits")
    return np.uint64(first) + np.arange(n, dtype=np.uint64) * np.uint64(step << page_shift)
