"""The running kernel beside the model: the same random calls, and what user space sees of each.

Compared after every call: what it returns; of an access the signal, the faults and the byte;
the VMAs with their splits and merges; and what each page is. The machine is a generic one: no
contpte, the host's page size, the sizes of folios that the system has enabled.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..errors import LayoutError, MachineError, PtebatchError
from ..kernels import DEFAULT
from ..machine import GRANULES, Machine
from ..reference.live import Thp
from .hostkernel import Kernel, kernel_release, missing_calls, page_size, shows_maybe_guard, zero_frames
from .hostmodel import Model
from .hostops import LARGE, SMALL, Arena, Op, Outcome, sequence
from .hostprogram import program

__all__ = ["HostReport", "verify_host"]

_SYS = Path("/sys/kernel/mm/transparent_hugepage")
#: how often a sequence is run again that differed while khugepaged was at work
_AGAIN = 3


@dataclass(frozen=True, slots=True)
class Difference:
    """The first call of a sequence after which the two are not alike.

    Attributes
    ----------
    ops : list of Op
        The sequence up to that call, shrunk.
    what : str
        What differs.
    kernel, model : object
        Its value on either side.
    """

    ops: list[Op]
    what: str
    kernel: object
    model: object

    def text(self) -> str:
        """Text of a few lines."""
        calls = "\n".join(f"  {i:2}  {op}" for i, op in enumerate(self.ops))
        return f"{self.what} after these calls: the kernel has {self.kernel}, the model {self.model}\n{calls}"

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        ops = [{f.name: getattr(op, f.name) for f in fields(op)} for op in self.ops]
        return {"what": self.what, "kernel": self.kernel, "model": self.model, "ops": ops, "program": self.program()}

    def program(self) -> str:
        """The calls as a C program."""
        return program(self.ops, page_size())


@dataclass(slots=True)
class HostReport:
    """What a run found.

    Attributes
    ----------
    kernel : str
        Release of the running kernel.
    machine : Machine
    seed : int
    sequences, ops : int
        Sequences that were run, and the calls in each.
    calls, refused : int
        Calls compared; sequences that the model refused by name, which count as not run.
    differences : list of Difference
    notes : list of str
    """

    kernel: str
    machine: Machine
    seed: int
    ops: int
    sequences: int = 0
    calls: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is no difference, and anything was compared."""
        return not self.differences and self.calls > 0

    def text(self) -> str:
        """Text: what was run, and each difference with a program that shows it."""
        found = f"{len(self.differences)} differences" if self.differences else "no difference"
        lines = [
            f"kernel {self.kernel}, machine {self.machine}, seed {self.seed}",
            f"{found} in {self.sequences} sequences of {self.ops} calls, {self.calls} calls compared",
            *(f"note: {note}" for note in self.notes),
            *(f"not run, {nr} sequences: {why}" for why, nr in self.refused.items()),
        ]
        for each in self.differences:
            lines += ["", each.text(), "", *("  " + line for line in each.program().splitlines())]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("machine", "differences")}
        found = [each.to_dict() for each in self.differences]
        return plain | {"machine": str(self.machine), "ok": self.ok, "differences": found}


def host_machine() -> tuple[Machine, list[str]]:
    """The machine that the host is taken for, and what to say of that."""
    release = kernel_release()
    granule = next((name for name, (shift, _, _) in GRANULES.items() if 1 << shift == page_size()), None)
    if granule is None:
        raise PtebatchError(f"pages of {page_size()} bytes are not modelled; run it where they are 4K, 16K or 64K")
    try:
        m = re.match(r"\d+\.\d+(\.\d+)?", release)
        machine = Machine(m[0] if m else release, granule=granule, contpte=False)
        notes = machine.notes()
        if not machine.sticky_flags and shows_maybe_guard():
            machine = replace(machine, sticky_flags=True)
            notes.append(f"{release} shows VM_MAYBE_GUARD, which 6.19 brought: sticky_flags=on")
        if platform.machine() == "x86_64" and not machine.pt_reclaim and [*map(int, machine.kernel.split("."))] >= [6, 14]:
            machine = replace(machine, pt_reclaim=True)
            notes.append("x86 gives emptied tables back since 6.14: pt_reclaim=on")
        return machine, notes
    except MachineError:
        return Machine(granule=granule, contpte=False), [f"{release} is not modelled: that of {DEFAULT} is taken"]


def host_thp() -> Thp:
    """Sizes of folios that the system has enabled for anonymous memory."""
    always, madvise = set(), set()
    whole = _enabled(_SYS / "enabled")
    for path in _SYS.glob("hugepages-*kB/enabled"):
        size = int(re.sub(r"\D", "", path.parent.name)) * 1024
        order = (size // page_size()).bit_length() - 1
        mode = _enabled(path)
        mode = whole if mode == "inherit" else mode
        if mode == "always":
            always.add(order)
        elif mode == "madvise":
            madvise.add(order)
    if not any(_SYS.glob("hugepages-*kB/enabled")) and whole in ("always", "madvise"):
        # before there were other sizes
        (always if whole == "always" else madvise).add(Machine().pmd_order)
    zero = _SYS / "use_zero_page"
    return Thp(frozenset(always), frozenset(madvise), use_zero_page=zero.exists() and zero.read_text().strip() == "1")


def _enabled(path: Path) -> str:
    try:
        m = re.search(r"\[(\w+)\]", path.read_text())
    except OSError:
        return "never"
    return m[1] if m else "never"


# ---- a sequence ----


def differs(kernel: Outcome, model: Outcome) -> str:
    """What of two outcomes is not alike; empty: nothing."""
    for f in fields(Outcome):
        if getattr(kernel, f.name) != getattr(model, f.name):
            return f.name
    return ""


@dataclass(frozen=True, slots=True)
class Host:
    """What is known of the host.

    Attributes
    ----------
    machine : Machine
    thp : Thp
    zeros : list of range
        Frames of zero pages; empty: not shown.
    """

    machine: Machine
    thp: Thp
    zeros: list[range]

    @classmethod
    def find(cls) -> tuple[Host, list[str]]:
        """This one, and what to say of it."""
        machine, notes = host_machine()
        thp = host_thp()
        huge = 1 << machine.pmd_order if machine.pmd_order in thp.always | thp.madvise and thp.use_zero_page else 0
        zeros = zero_frames(huge)
        if not zeros:
            notes.append("frames are not shown to this user: zero pages are compared as any anonymous page")
        return cls(machine, thp, zeros), notes

    def arena(self, number: int) -> Arena:
        """Arena of a sequence: every second one is large where folios of a PMD's size are enabled and 4K pages make them 2M."""
        has = self.machine.pmd_order in self.thp.always | self.thp.madvise
        return LARGE if number % 2 and has and self.machine.page_size == 4096 else SMALL


def run(ops: Sequence[Op], host: Host, arena: Arena = SMALL) -> tuple[int, Difference | None]:
    """Make the calls on both sides until they differ; how many were made."""
    kernel, model = Kernel(host.zeros, arena), Model(host.machine, host.thp, arena)
    try:
        for i, op in enumerate(ops):
            theirs, ours = kernel.step(op), model.step(op)
            ours = replace(ours, pages=seen_by(host, theirs.pages, ours.pages))
            what = differs(theirs, ours)
            if what:
                return i + 1, Difference(list(ops[: i + 1]), what, getattr(theirs, what), getattr(ours, what))
    finally:
        kernel.close()
    return len(ops), None


def collapsed() -> int:
    """Huge pages that khugepaged has made on this host: it does so behind a program's back, which the model does not."""
    shown = _SYS / "khugepaged" / "pages_collapsed"
    return int(shown.read_text()) if shown.exists() else 0


def _settled(ops: Sequence[Op], host: Host, arena: Arena) -> tuple[int, Difference | None, int]:
    """What `run` returns, and how often it was run again, as khugepaged was at work while it differed."""
    again = 0
    while True:
        before = collapsed()
        made, found = run(ops, host, arena)
        if found is None or collapsed() == before or again == _AGAIN:
            return made, found, again
        again += 1


def seen_by(host: Host, theirs: str, ours: str) -> str:
    """The model's pages as this user sees them: without frames zero pages are not told from others.

    A small one looks anonymous then, the huge one like one of a file or anonymous, as the kernel likes.
    """
    if host.zeros:
        return ours.replace("z", "0")
    shown = (seen if mine == "z" and seen in "fa" else mine for mine, seen in zip(ours, theirs.ljust(len(ours)), strict=False))
    return "".join(shown).replace("0", "a")


def shrink(found: Difference, host: Host, arena: Arena) -> Difference:
    """Leave calls out as long as the two still differ in the same thing."""
    size = len(found.ops) // 2
    while size:
        at = 0
        while at + size < len(found.ops):
            fewer = [*found.ops[:at], *found.ops[at + size :]]
            again = _try(fewer, host, arena)
            if again is not None and again.what == found.what:
                found = again
            else:
                at += size
        size //= 2
    return found


def _try(ops: Sequence[Op], host: Host, arena: Arena) -> Difference | None:
    alive = 1
    for op in ops:
        # a process that was not made any more
        if op.who >= alive:
            return None
        alive += (op.name == "fork") - (op.name == "exit")
    try:
        return run(ops, host, arena)[1]
    except LayoutError:
        return None


def sequences(nr: int, ops: int, seed: int, host: Host) -> Iterator[tuple[list[Op], Arena]]:
    """The sequences of a run; each has a seed of its own."""
    without = missing_calls()
    for i in range(nr):
        arena = host.arena(i)
        yield sequence(f"{seed}.{i}", ops, without, arena), arena


def verify_host(
    nr: int = 100, ops: int = 50, seed: int = 1, *, most: int = 5, say: Callable[[str], object] = lambda what: None
) -> HostReport:
    """Run random sequences on the running kernel and on the model.

    Parameters
    ----------
    nr : int
        Sequences.
    ops : int
        Calls in each, besides those that look at every page at its end.
    seed : int
        The same seed gives the same sequences.
    most : int
        Differences after which it stops.
    say : callable
        Told how far it is.

    Returns
    -------
    HostReport

    Raises
    ------
    PtebatchError
        A host whose pages are of no size that is modelled.
    """
    host, notes = Host.find()
    report = HostReport(kernel_release(), host.machine, seed, ops, notes=notes)
    disturbed = 0
    for i, (each, arena) in enumerate(sequences(nr, ops, seed, host)):
        if not i % 10:
            say(f"host: sequence {i} of {nr}")
        try:
            made, found, again = _settled(each, host, arena)
        except KeyboardInterrupt:
            report.notes.append(f"interrupted after {i} of {nr} sequences")
            break
        except LayoutError as e:
            report.refused[str(e)] = report.refused.get(str(e), 0) + 1
            continue
        report.sequences += 1
        report.calls += made
        disturbed += again
        if found is not None:
            report.differences.append(shrink(found, host, arena))
            if len(report.differences) == most:
                break
    if disturbed:
        report.notes.append(f"khugepaged collapsed memory in {disturbed} runs that differed; they were run again")
    return report
