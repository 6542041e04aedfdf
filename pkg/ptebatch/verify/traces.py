"""Hardware traces: every access to a leaf table, every TLBI and DSB of one mprotect(2), in order.

Compared are kind and index, event by event, and the words the call left. Which
function did it is the compiler's business and is not compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..bits import PROT_READ, PROT_WRITE
from ..errors import PtebatchError
from ..events import KINDS
from ..machine import Machine
from ..mm.result import Result
from .hardware import flags_of, machine_of, make_mm, prot_of
from .load import Node
from .report import Difference, FileReport, Paths, Report, ptes_difference, verify_files

__all__ = ["events_of", "verify_traces"]

Event = tuple[str, int | None]

# our kind of event -> the names in a trace; an exchange is a load and a store
_NAMES: dict[str, tuple[str, ...]] = {
    "R": ("R",),
    "W": ("W",),
    "X": ("R", "W"),
    "C": ("R", "W"),
    "VALE1IS": ("TLBI VALE1IS",),
    "RVALE1IS": ("TLBI RVALE1IS",),
    "ASIDE1IS": ("TLBI ASIDE1IS",),
    "DSB ISHST": ("DSB #10",),
    "DSB ISH": ("DSB #11",),
}
#: a CPU without LSE exchanges by load-exclusive and store-exclusive; the emulator
#: shows the latter as one more load
_EXCLUSIVES = {**_NAMES, "X": ("R", "R", "W"), "C": ("R", "R", "W")}
_WITHOUT_LSE = ("a72",)


def events_of(result: Result, names: dict[str, tuple[str, ...]] = _NAMES) -> list[Event]:
    """Events of a traced result as a hardware trace shows them: name and index in the leaf table."""
    machine, trace = result.machine, result.trace
    if trace is None:
        raise PtebatchError("the result holds no trace; call mprotect() with trace=True")
    out: list[Event] = []
    for kind, addr in zip(trace["kind"].tolist(), trace["addr"].tolist(), strict=True):
        index = (addr >> machine.page_shift) % machine.ptrs_per_pte
        out += [(name, index if name in ("R", "W") else None) for name in names.get(KINDS[kind], ())]
    return out


def _recorded(node: Node, ptrs: int) -> list[Event]:
    """Events of a record without the function entries."""
    out: list[Event] = []
    for item in node.key("events").items():
        if not isinstance(item.value, list) or len(item.value) < 2:
            item.wrong("an event [kind, index, function]")
        kind = item.at(0).text()
        if kind in ("R", "W"):
            out.append((kind, item.at(1).whole(0, ptrs - 1)))
        elif kind.startswith(("TLBI ", "DSB ")):
            out.append((kind, None))
        elif kind != "E":
            item.at(0).wrong("a kind of event; known: R, W, E, TLBI ..., DSB ...")
    return out


def _call(node: Node, machine: Machine) -> tuple[Result, list[Difference]]:
    """Replay a window; the traced result, and the words that differ after it."""
    shift, name = machine.page_shift, node.key("label").text()
    before = node.key("ptes_before").words()
    if not len(before):
        node.key("ptes_before").fail("holds no entry")
    va, va_idx = node.key("va").address(), node.key("va_idx").whole(0, machine.ptrs_per_pte - 1)
    if (va >> shift) % machine.ptrs_per_pte != va_idx:
        node.key("va_idx").wrong(f"the index of {va:#x} in its leaf table, {(va >> shift) % machine.ptrs_per_pte}")
    first, nr = node.key("first_idx").whole() - va_idx, node.key("ptes").whole(1)
    if first < 0 or first + nr > len(before):
        node.key("first_idx").fail(f"the call on entries {first}..{first + nr} leaves the {len(before)} entries of the record")
    prot = prot_of(node.key("prot"))
    # the VMA has another protection than the new one, and no other part is looked at
    old = PROT_READ if prot != PROT_READ else PROT_READ | PROT_WRITE
    mm = make_mm(node, machine, va, before, flags_of(node.key("excl"), len(before)), [(node, 0, len(before), old)])
    with node.guard():
        result = mm.mprotect(va + (first << shift), nr << shift, prot, strategy=machine.strategy, trace=True)
    after = node.key("ptes_after").words(len(before))
    ptes = ptes_difference(name, "PTEs", after, mm.ptes(va, len(before)), machine, va_idx)
    return result, [ptes] if ptes else []


def _show(event: Event | None) -> str:
    if event is None:
        return "the end"
    return event[0] if event[1] is None else f"{event[0]} {event[1]}"


def _compare(name: str, want: Sequence[Event], got: Sequence[Event]) -> list[Difference]:
    """First event that differs."""
    for i in range(max(len(want), len(got))):
        a, b = (side[i] if i < len(side) else None for side in (want, got))
        if a != b:
            return [Difference(f"{name}, event {i} of {len(want)}", "events", _show(a), _show(b))]
    return []


def replay_window(node: Node) -> list[Difference]:
    """Replay one window; what differs, at most one a quantity."""
    name = node.key("label").text()
    node = node.named(name)
    machine = machine_of(node)
    want = _recorded(node, machine.ptrs_per_pte)
    result, out = _call(node, machine)
    forms = [events_of(result)]
    if node.key("cpu").text() in _WITHOUT_LSE:
        forms.append(events_of(result, _EXCLUSIVES))
    # which of the two forms the recorder wrote shows in the number of loads
    got = next((form for form in forms if _count(form)["R"] == _count(want)["R"]), forms[0])
    return [*out, *_compare(name, want, got), *_sums(node, name, forms, _count(got))]


def _count(events: Sequence[Event]) -> Counter[str]:
    return Counter(kind for kind, _ in events)


def _sums(node: Node, name: str, forms: Sequence[Sequence[Event]], counted: Counter[str]) -> list[Difference]:
    """Compare the totals that a record gives besides its events."""
    reads, others = node.key("pte_reads").whole(), node.key("other").members()
    pairs = [("writes", node.key("pte_writes").whole(), counted["W"])]
    if reads not in (_count(form)["R"] for form in forms):
        pairs.append(("reads", reads, counted["R"]))
    kinds = dict.fromkeys([*others, *(kind for kind in counted if kind not in ("R", "W"))])
    pairs += [(kind, others[kind].whole() if kind in others else 0, counted[kind]) for kind in kinds]
    return [Difference(name, what, want, got) for what, want, got in pairs if want != got]


def check_traces(path: str, doc: Node) -> FileReport:
    """Replay all windows of one file."""
    windows = doc.some("window")
    report = FileReport(
        path, f"{len(windows)} windows", "kernel", "windows", ("PTEs", "events", "reads", "writes"), "TLBI and DSB"
    )
    for node in windows:
        labels = {"cpu": node.key("cpu").text(), "machine": str(machine_of(node))}
        report.line(node.key("kernel").text(), labels).add(replay_window(node))
    return report


def verify_traces(paths: Paths) -> Report:
    """Replay traces of real kernels: order and index of reads, writes, TLBI and DSB.

    What it takes, returns and raises is as for `report.verify_files`.
    """
    return verify_files("traces", paths, check_traces, "traces")
