"""Hardware dumps: leaf PTEs before and after mprotect(2), and what one call counted.

Each record is replayed as system calls on a copy of the recorded address space,
with the loop of the recorded kernel. PTEs are always compared exactly. Counts
of a call that was interrupted hold as "at least the model's", since an
interrupt only adds to them.
"""

from __future__ import annotations

import numpy as np

from ..bits import PG_ANON_EXCLUSIVE
from ..machine import Machine
from ..mm.mm import MM
from ..mm.result import Result
from .hardware import barriers, counts_of, entered, flags_of, machine_of, make_mm, pfns_of, prot_of, tlbi_of
from .load import Node, Words, run_words
from .report import Difference, FileReport, Paths, Report, ptes_difference, verify_files

__all__ = ["counts_of", "replay_record", "verify_dumps"]

#: entries of a mapping that a record may describe
_MAX_ENTRIES = 1 << 22


def _name(node: Node) -> str:
    return f"{node.key('scenario').text()} {node.key('op').text()}"


class Record:
    """One record that has a call to replay.

    Parameters
    ----------
    node : Node
        The record in the document.
    """

    def __init__(self, node: Node) -> None:
        self.name = _name(node)
        self.node = node = node.named(self.name)
        self.machine = machine_of(node)
        self.va = node.key("va").address()
        self.before = node.key("ptes_before").words()
        self.window = len(self.before)
        if not self.window:
            node.key("ptes_before").fail("holds no entry")
        self.after = node.key("ptes_after").words(self.window)
        self.exclusive = flags_of(node.key("excl"), self.window)
        self.shared = bool(node.key("shared").whole(0, 1))
        self.ops = node.key("ops").items()
        self.levels = node.key("leaf_level").wholes()
        if self.levels != [0]:
            node.key("leaf_level").wrong("[0]; only entries of leaf tables can be replayed")

    def mm(self) -> MM:
        """Address space before the first call."""
        shift = self.machine.page_shift
        words, flags = [self.before], [self.exclusive]
        total = self.window
        for run in self.node.key("beyond").items():
            words.append(run_words(run, _MAX_ENTRIES - total, shift))
            nr = len(words[-1])
            flags.append(np.repeat(flags_of(run.items(4)[3], 1), nr))
            total += nr
        vmas = []
        for vma in self.node.key("vmas").items():
            first, nr, _ = vma.wholes(3)
            vmas.append((vma, first, nr, prot_of(vma.at(2))))
            if not nr or first + nr > total:
                vma.fail(f"entries {first}..{first + nr} are empty or end behind the {total} entries of the mapping")
        return make_mm(self.node, self.machine, self.va, np.concatenate(words), np.concatenate(flags), vmas, self.shared)

    def call(self, mm: MM, op: Node) -> Result:
        """Do one mprotect() of the record."""
        start, nr = op.key("va").address(), op.key("ptes").whole(1, 1 << 40)
        first = op.maybe("first_pte")  # some files leave it out: the address says the same
        if first is not None and start != self.va + (first.whole() << self.machine.page_shift):
            op.key("va").wrong(f"{self.va + (first.whole() << self.machine.page_shift):#x}, the address of entry {first.whole()}")
        with op.guard():
            prot, strategy = prot_of(op.key("prot")), self.machine.strategy
            return mm.mprotect(start, nr << self.machine.page_shift, prot, strategy=strategy)

    def state(self, mm: MM) -> list[Difference]:
        """Compare the window with what the kernel left."""
        got = mm.ptes(self.va, self.window)
        idx = (self.va >> self.machine.page_shift) % self.machine.ptrs_per_pte
        out = [ptes_difference(self.name, "PTEs", self.after, got, self.machine, idx), self._pages(mm, got), self._pfns(got)]
        return [d for d in out if d is not None]

    def _pages(self, mm: MM, got: Words) -> Difference | None:
        node = self.node.maybe("excl_after") or self.node.key("excl")
        want = flags_of(node, self.window)
        known = np.array([c != "-" for c in node.text()], bool)
        at = pfns_of(got, self.machine) - np.uint64(mm.pfn_base)
        known &= at < mm.nr_pages
        have = np.zeros(self.window, bool)
        have[known] = (mm.pages[at[known]] & PG_ANON_EXCLUSIVE) != 0
        wrong = np.flatnonzero(known & (want != have))
        if not wrong.size:
            return None
        i = int(wrong[0])
        return Difference(f"{self.name}, entry {i}", "exclusive", bool(want[i]), bool(have[i]))

    def _pfns(self, got: Words) -> Difference | None:
        node = self.node.maybe("pfns_after") or self.node.key("pfns")
        want = np.array(node.wholes(self.window), np.uint64)
        have = pfns_of(got, self.machine)
        wrong = np.flatnonzero((got != 0) & (want != have))
        if not wrong.size:
            return None
        i = int(wrong[0])
        return Difference(f"{self.name}, entry {i}", "pfns", f"{int(want[i]):#x}", f"{int(have[i]):#x}")


def compare_call(place: str, op: Node, result: Result) -> tuple[list[Difference], bool]:
    """Counts of one call: the quantities that differ, and whether "at least" was asked."""
    loose = op.key("irq").whole() > 0
    tlbi, hits = (counts_of(op.key(key)) for key in ("tlbi", "hits"))
    pairs = [("dsb", op.key("dsb").whole(), barriers(result))]
    flushed = tlbi_of(result)
    pairs += [(name, tlbi.get(name, 0), flushed.get(name, 0)) for name in dict.fromkeys([*tlbi, *flushed])]
    pairs += entered(hits, result)
    wrong = [(what, want, got) for what, want, got in pairs if (want < got if loose else want != got)]
    return [Difference(place, what, f"at least {want}" if loose else want, got) for what, want, got in wrong], loose


def replay_record(node: Node) -> tuple[Machine, list[Difference], list[tuple[list[Difference], bool]], MM]:
    """Replay one record.

    Returns
    -------
    machine : Machine
    state : list of Difference
        Of the window after the calls.
    calls : list of (list of Difference, bool)
        Of each call, and whether it was compared loosely.
    mm : MM
        The address space after the calls.
    """
    record = Record(node)
    mm = record.mm()
    names = [record.name if len(record.ops) == 1 else f"{record.name}, call {op.key('op').text()}" for op in record.ops]
    calls = [compare_call(name, op, record.call(mm, op)) for name, op in zip(names, record.ops, strict=True)]
    return record.machine, record.state(mm), calls, mm


def check_dumps(path: str, doc: Node) -> FileReport:
    """Replay all records of one file."""
    records = doc.items()
    columns = ("PTEs", "exclusive", "pfns", "dsb")
    report = FileReport(path, f"{len(records)} records", "compared", "cases", columns, "TLBI and functions")
    for node in records:
        labels = {
            "kernel": node.key("kernel").text(),
            "cpu": node.key("cpu").text(),
            "machine": str(machine_of(node.named(_name(node)))),
        }
        state = report.line("records", labels, ("PTEs", "exclusive", "pfns"))
        calls = report.line("calls", labels, ("dsb",))
        if node.maybe("vmas") is None:
            if node.key("ops").items():
                node.key("vmas").fail("is null, but the record has calls to replay")
            # a fork, a write or madvise
            state.skipped += 1
            continue
        _, differences, counted, _ = replay_record(node)
        state.add(differences)
        for wrong, loose in counted:
            calls.add(wrong, loose=loose)
    if not any(line.total for line in report.lines):
        doc.fail("holds no record with a call to replay; nothing would be verified")
    return report


def verify_dumps(paths: Paths) -> Report:
    """Replay records of real kernels: PTEs after the calls, function entries, TLBI, DSB.

    What it takes, returns and raises is as for `report.verify_files`.
    """
    return verify_files("dumps", paths, check_dumps, "dumps")
