"""What is fuzzed: functions of bytes that may only fail as documented.

Errors about input are `PtebatchError` (so are all that name a file and place), refusals
of the system call `MprotectError`, files that cannot be read `OSError`. Anything else that
escapes a target is a finding.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from small_snapshots import VPN, folio, snap

from ptebatch import MM, Machine, MprotectError, PtebatchError, verify
from ptebatch.checker.search import judge
from ptebatch.checker.worlds.small import SmallWorld
from ptebatch.cli import main
from ptebatch.errors import InputError
from ptebatch.layouts.named import get_layout, parse_layouts
from ptebatch.notation.patterns import exclusive_pattern
from ptebatch.notation.strip import draw, parse
from ptebatch.operations import parse_operations
from ptebatch.report import parse_size
from ptebatch.snapshot import build, load, save
from ptebatch.snapshot.procfs import parse_maps, parse_smaps, read_process
from ptebatch.strategies import find_strategy, get_strategy
from ptebatch.traces import jsonl as events

Target = Callable[[bytes], None]
SMALL = Machine("7.3", cont_ptes=4, ptrs_per_pte=8)
DOCUMENTED = (PtebatchError, MprotectError)
#: between the files of one input
CUT = b"\n====\n"


def text_of(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards; in memory where the system has such."""
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="ptebatch-fuzz-", dir=memory) as name:
        yield Path(name)


# ---- texts ----


def notation(data: bytes) -> None:
    """A strip; what is read is drawn and read back the same."""
    try:
        row = parse(text_of(data), SMALL)
    except PtebatchError:
        return
    text = draw(row.ptes, SMALL, first_idx=row.first_idx, exclusive=row.exclusive, fields="all")
    again = parse(text, SMALL)
    assert again.first_idx == row.first_idx and again.ptes.tolist() == row.ptes.tolist(), f"{text} reads back as {again.ptes}"


def machine(data: bytes) -> None:
    try:
        found = Machine.parse(text_of(data))
    except PtebatchError:
        return
    assert Machine.parse(str(found)) == found


def layout(data: bytes) -> None:
    with contextlib.suppress(PtebatchError):
        for each in parse_layouts(text_of(data)):
            if each.length(Machine()) <= 4 << 20:
                each.build(Machine())
    with contextlib.suppress(PtebatchError):
        get_layout(text_of(data)).describe(Machine())


def patterns(data: bytes) -> None:
    with contextlib.suppress(PtebatchError):
        found = exclusive_pattern(text_of(data), 64)
        assert found.shape == (64,) and found.dtype == np.bool_


def size(data: bytes) -> None:
    with contextlib.suppress(PtebatchError):
        assert parse_size(text_of(data)) >= 0
    with contextlib.suppress(PtebatchError):
        assert parse_operations(text_of(data))


def strategy(data: bytes) -> None:
    text = text_of(data)
    with contextlib.suppress(PtebatchError):
        get_strategy(text)
    # a module of any name would be imported, whatever it does
    if ":" not in text:
        with contextlib.suppress(PtebatchError):
            find_strategy(text)


def world(data: bytes) -> None:
    """machine, strip, folios and call of a small world."""
    parts = [text_of(part) for part in data.split(CUT)][:4]
    parts += [""] * (4 - len(parts))
    try:
        found = SmallWorld.parse(parts[0], parts[1], folios=parts[2], call=parts[3])
    except PtebatchError:
        return
    made: dict[str, SmallWorld] = {}
    exec(f"world = {found.source()}", {"SmallWorld": SmallWorld}, made)  # what a counterexample prints must read back
    again = made["world"]
    assert (again.start, again.end, again.change, again.machine) == (found.start, found.end, found.change, found.machine)
    with contextlib.suppress(PtebatchError):
        judge(found, "folio")


# ---- files ----


def valid_snapshot() -> bytes:
    """The file of a snapshot with one folio."""
    with scratch() as folder:
        save(snap(folio(VPN + 16, 0x10, 4)), folder / "s.npz")
        return (folder / "s.npz").read_bytes()


VALID_SNAPSHOT = valid_snapshot()


def trace(data: bytes) -> None:
    """A file of events; what is read is written and read back the same."""
    with contextlib.suppress(PtebatchError):
        for found in events.read_all(io.StringIO(text_of(data))):
            out = io.StringIO()
            events.write(found, out)
            again = events.read(io.StringIO(out.getvalue()))
            assert (again.events == found.events).all() and again.header() == found.header()
    with scratch() as folder, contextlib.suppress(PtebatchError):
        (folder / "trace").write_bytes(data)
        events.read(folder / "trace")


def maps(data: bytes) -> None:
    with contextlib.suppress(PtebatchError):
        parse_maps(text_of(data))
    with contextlib.suppress(PtebatchError):
        parse_smaps(text_of(data))


def process(data: bytes) -> None:
    """A /proc with one process: maps, smaps, pagemap and kpageflags."""
    files = dict(zip(("7/maps", "7/smaps", "7/pagemap", "kpageflags", "kpagecount"), data.split(CUT), strict=False))
    with scratch() as folder:
        (folder / "7").mkdir()
        (folder / "7/comm").write_text("fuzz\n")
        (folder / "sys/kernel").mkdir(parents=True)
        (folder / "sys/kernel/osrelease").write_text("6.18.0\n")
        for name, content in files.items():
            (folder / name).write_bytes(content)
        with contextlib.suppress(PtebatchError):
            found = read_process(7, proc=str(folder), page_size=4096)
            if sum(int(vma["end"] - vma["start"]) for vma in found.vmas) <= 1 << 30:
                build(found, Machine())


def snapshot(data: bytes) -> None:
    """A snapshot's file; or, to get behind its checksums, member and content that are put into a valid one."""
    with scratch() as folder:
        (folder / "s.npz").write_bytes(data if data.startswith(b"PK") else patched(data))
        with contextlib.suppress(PtebatchError):
            found = load(folder / "s.npz")
            if sum(int(vma["end"] - vma["start"]) for vma in found.vmas) <= 1 << 30:
                build(found, Machine())


def patched(data: bytes) -> bytes:
    """A valid snapshot with one member replaced."""
    name, _, content = data.partition(CUT)
    made = io.BytesIO(VALID_SNAPSHOT)
    with zipfile.ZipFile(made) as archive:
        members = {each: archive.read(each) for each in archive.namelist()}
    members[re.sub(r"[^\w.-]", "", text_of(name), flags=re.ASCII)[:64] or "none"] = content
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for each, kept in members.items():
            archive.writestr(each, kept)
    return out.getvalue()


def verified(check: Callable[[str], object]) -> Target:
    def target(data: bytes) -> None:
        with scratch() as folder:
            (folder / "f.json").write_bytes(data)
            try:
                check(str(folder / "f.json"))
            except InputError as error:
                assert str(folder) in str(error), "an error names its file"
            except PtebatchError:
                pass

    target.__doc__ = f"A file of {check.__name__}()."
    return target


# ---- the command ----

#: large sizes, other processes, files that are written, modules that are imported
_KEEP_OFF = re.compile(r"\d{5}|\d[gtpe]|--pid|--save|--host|--vectors|--dumps|/|\.\.|:\w+$|=.*\d{3}", re.I)


def command(data: bytes) -> None:
    """Arguments of the command, one a line: an exit status, a sentence and a hint on stderr where it is 2, never a traceback."""
    argv = text_of(data).split("\n")
    verb = argv[0] if argv else ""
    if any(_KEEP_OFF.search(arg) for arg in argv) or (verb in ("compare", "show", "events") and "--layout" not in argv):
        return
    if verb == "verify" and any(arg.startswith("--s") for arg in argv) and "--exhaustive" in argv:
        return
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(argv)
    said = err.getvalue()
    assert status in (0, 1, 2), f"{argv}: status {status}"
    assert status == 2 or said == "", f"{argv}: {said}"
    formed = re.fullmatch(r"ptebatch: [^\n]+\n\nhint: [^\n]+\n", said)
    assert status != 2 or formed, f"{argv}: {said!r}"


# ---- the API ----

_ODD = (None, True, -1, 1.5, "x", b"x", 1 << 64, -(1 << 70), [], float("nan"), (1, 2), np.uint64(4096), np.float64(3), object())
_PLAIN = (
    0,
    1,
    2,
    3,
    7,
    8,
    16,
    4096,
    8192,
    1 << 20,
    (1 << 20) + 4096,
    1 << 21,
    1024,
    1031,
    0xE8000000400F43,
    (1 << 48) - 4096,
    (1 << 64) - 4096,
)
_CALLS: dict[str, tuple[str, ...]] = {
    "mmap": ("shared", "file", "pgoff", "vm_flags", "may", "writenotify"),
    "populate": (),
    "ptes": (),
    "leaf": (),
    "walk": (),
    "set_folio": ("anon", "numa_skip", "mapped_shared"),
    "set_page_anon_exclusive": ("on",),
    "map_folios": ("orders", "heads", "skip", "exclusive", "anon", "young", "dirty", "fold"),
    "set_ptes": (),
    "set_pte_at": (),
    "ptep_get": (),
    "wrprotect_ptes": (),
    "clear_full_ptes": (),
    "test_and_clear_young": (),
    "clear_young_dirty": ("young", "dirty"),
    "set_access_flags": (),
    "hw_update": ("write",),
    "reuse": (),
    "mprotect": ("strategy", "pkey", "trace", "record"),
    "copy": (),
    "vmas": (),
    "set_limits": ("map_count", "data_pages", "commit_pages"),
    "pkey_alloc": (),
    "change_protection": ("newprot", "cp_flags", "vm_flags", "anon", "strategy", "trace", "record"),
}
_ARITY = {
    "mmap": 3,
    "populate": 2,
    "ptes": 2,
    "leaf": 1,
    "walk": 1,
    "set_folio": 2,
    "set_page_anon_exclusive": 2,
    "map_folios": 3,
    "set_ptes": 3,
    "set_pte_at": 2,
    "ptep_get": 1,
    "wrprotect_ptes": 2,
    "clear_full_ptes": 2,
    "test_and_clear_young": 2,
    "clear_young_dirty": 2,
    "set_access_flags": 2,
    "hw_update": 1,
    "reuse": 1,
    "mprotect": 3,
    "change_protection": 2,
}
_NAMES = ("folio", "per-pte", "nested", "lookahead", "merged", "iterator", "folio-page0")


class _Choices:
    """Bytes as a sequence of choices; zeros when they are used up."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1] if self.at <= len(self.data) else 0

    def value(self) -> object:
        kind = self.byte()
        if kind < 16:
            return _ODD[self.byte() % len(_ODD)]
        if kind < 32:
            return sum(self.byte() << 8 * i for i in range(8))
        if kind < 64:
            return self.byte()
        if kind < 128:
            return (1 << 20) + 4096 * (self.byte() % 24)
        return _PLAIN[self.byte() % len(_PLAIN)]


def api(data: bytes) -> None:
    """Methods of MM with any arguments, in any order, on one small address space."""
    choices = _Choices(data)
    machine = (SMALL, Machine("6.12", cont_ptes=2, ptrs_per_pte=8), Machine())[choices.byte() % 3]
    mm = MM(machine, nr_pages=64)
    mm.mmap(1 << 20, 16 * 4096, 3)
    mm.map_folios(1 << 20, 16, 3)
    while choices.at < min(len(data), 400):
        name = list(_CALLS)[choices.byte() % len(_CALLS)]
        args = [choices.value() for _ in range(_ARITY.get(name, 0))]
        how = {key: choices.value() for key in _CALLS[name] if name == "change_protection" and key in ("newprot", "vm_flags")}
        for key in _CALLS[name]:
            if choices.byte() % 4 == 0:
                how[key] = _NAMES[choices.byte() % len(_NAMES)] if key == "strategy" and choices.byte() % 8 else choices.value()
        with contextlib.suppress(PtebatchError, MprotectError, MemoryError):
            found = getattr(mm, name)(*args, **how)
            if name == "copy":
                mm = found
    with contextlib.suppress(MprotectError):  # it may have been given limits
        mm.mprotect(1 << 20, 4096, 1)
    assert mm.vmas() == mm.copy().vmas()


TARGETS: dict[str, Target] = {
    "notation": notation,
    "machine": machine,
    "layout": layout,
    "patterns": patterns,
    "size": size,
    "strategy": strategy,
    "world": world,
    "events": trace,
    "maps": maps,
    "process": process,
    "snapshot": snapshot,
    "vectors": verified(verify.verify_vectors),
    "dumps": verified(verify.verify_dumps),
    "traces": verified(verify.verify_traces),
    "loops": verified(verify.verify_loops),
    "prim": verified(verify.verify_prim),
    "command": command,
    "api": api,
}
