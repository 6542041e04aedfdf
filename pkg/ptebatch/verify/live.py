"""Living address spaces: what programs did to their memory, call by call, on real kernels.

Each script is replayed from nothing by the reference, whose frames are allocated and
given back. Compared after every step: the return value, VMAs, the level of tables, the
structure of folios, PageAnonExclusive and every PTE bit but the frame, and frames up to
a renaming; of measured calls TLBI, DSB and the conversions of contpte blocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from ..errors import LayoutError
from ..reference import pte as p
from ..reference.huge_memory import as_pte
from ..reference.live import LiveMM
from .hardware import counts_of, machine_of, tlbi_seen
from .load import Node
from .report import Difference, FileReport, Paths, Report, verify_files
from .script import CALLS, Call, Script

__all__ = ["verify_live"]

#: calls whose record covers the whole process: its stack and libraries are in TLBI, DSB and entries
WHOLE_PROCESS = ("fork", "child_exit")

#: function -> our counters that are its entries, where a kernel has it as a function
HITS: Mapping[str, tuple[str, ...]] = {
    "contpte_convert": ("folds", "unfolds"),
    "split_huge_page_to_list_to_order": ("folio_splits",),
    "wp_page_reuse": ("wp_page_reuse",),
}


def call_of(node: Node, page: int, va: int) -> Call:
    """The call of a step or a window."""
    name = node.key("call").text()
    if name not in CALLS:
        node.key("call").wrong(f"a call of the measurement; known: {', '.join(CALLS)}")
    first, arg = node.key("first").value, node.key("arg").value
    if not isinstance(first, int) or not isinstance(arg, int):
        node.fail("needs whole numbers first and arg")
    return Call(name, va + first * page, node.key("n").whole() * page, arg, va)


def _step(script: Script, i: int, node: Node) -> list[Difference]:
    """Make one step; what differs, at most one a quantity."""
    va = node.key("va").address()
    call = call_of(node, script.machine.page_size, va)
    proc = node.key("proc").text()
    who = script.process(proc, call.name)
    if who is None:
        node.key("proc").fail("is the child's before any fork")
    ret = script.make(who, call)
    name = f"{script.scenario}, step {i}, {proc} {call.name}"
    out = [] if ret == node.key("ret").value else [Difference(name, "ret", node.key("ret").value, ret)]
    out += _state(name, who.mm, node)
    other = node.maybe("other")
    if other is not None:
        out += _state(f"{name}, other", who.mm, other)
    if node.maybe("hits") is not None and call.name not in WHOLE_PROCESS:
        out += _measured(name, script, who.counters, node)
    return out


# ---- the state ----


def _state(name: str, mm: LiveMM, node: Node) -> list[Difference]:
    va = node.key("va").address()
    theirs = [item.at(1).word() for item in node.key("ptes").items() for _ in range(item.at(0).whole(1))]
    ours, levels, exclusive, folio = [], set(), "", ""
    for i in range(len(theirs)):
        addr = va + i * mm.page_size
        first = mm.table_start(addr)
        if first in mm.pmds:
            levels.add(1)
        elif not mm.has_table(addr):
            levels.add(11)
        word = mm.pmds[first] if first in mm.pmds else mm.ptes.get(addr, 0)
        ours.append(word)
        page = _page(mm, word, mm.pte_index(addr) if first in mm.pmds else 0)
        exclusive, folio = exclusive + page[0], folio + page[1]
    recorded = node.maybe("level")
    pairs = [
        ("level", sorted(recorded.wholes()) if recorded is not None else [], sorted(levels)),
        ("VMAs", node.key("vmas").value, _vmas(mm, va, va + len(theirs) * mm.page_size)),
        ("excl", node.key("excl").text(), exclusive),
        ("folio", node.key("folio").text(), folio),
    ]
    out = [Difference(name, what, want, got) for what, want, got in pairs if want != got]
    return out + _words(name, mm, theirs, ours)


def _page(mm: LiveMM, word: int, index: int) -> str:
    """PageAnonExclusive and place in its folio of the page of an entry, as the records have them."""
    if not p.pte_present(word):
        return "--"
    if p.pte_special(word):
        return "0s"
    pfn = p.pte_pfn(mm.page_shift, as_pte(word)) + index
    folio = mm.page_folio(pfn)
    place = "s" if not folio.large else "H" if pfn == folio.head else "t"
    return ("1" if pfn in mm.anon_exclusive else "0") + place


def _vmas(mm: LiveMM, start: int, end: int) -> list[list[int | str]]:
    out: list[list[int | str]] = []
    for vma in mm.vmas_in(start, end):
        low, high = max(vma.start, start), min(vma.end, end)
        out.append([(low - start) // mm.page_size, (high - low) // mm.page_size, vma.perms])
    return out


def _words(name: str, mm: LiveMM, theirs: Sequence[int], ours: Sequence[int]) -> list[Difference]:
    """Every bit but the frame, then frames: one for one, those of large folios aligned alike."""
    there: dict[int, int] = {}
    back: dict[int, int] = {}
    for i, (want, got) in enumerate(zip(theirs, ours, strict=True)):
        place = f"{name}, entry {i}"
        if not p.pte_present(want) or not p.pte_present(got):
            if want != got:
                return [Difference(place, "PTE", f"{want:016x}", f"{got:016x}")]
            continue
        if p.pte_pgprot(mm.page_shift, want) != p.pte_pgprot(mm.page_shift, got):
            return [Difference(place, "PTE", f"{want:016x}", f"{got:016x}")]
        a, z = p.pte_pfn(mm.page_shift, want), p.pte_pfn(mm.page_shift, got)
        if there.setdefault(a, z) != z or back.setdefault(z, a) != a:
            return [Difference(place, "frame", f"{a:#x}", f"{z:#x}")]
        folio = mm.folio_of(got)
        if folio is not None and (a - z) % folio.nr:
            return [Difference(place, "alignment", f"{a:#x}", f"{z:#x}")]
    return []


# ---- what was measured ----


def _measured(name: str, script: Script, counters: Mapping[str, int], node: Node) -> list[Difference]:
    """TLBI and DSB, exact but where a timer ticked, which adds barriers; function entries."""
    seen = Counter(kind for kind, *_ in script.events)
    theirs = counts_of(node.key("tlbi"))
    ours = tlbi_seen(seen)
    dsb = sum(nr for kind, nr in seen.items() if kind.startswith("DSB"))
    out = []
    if node.key("irq").whole() == 0:
        if theirs != ours:
            out.append(Difference(name, "TLBI", theirs, ours))
        if node.key("dsb").whole() != dsb:
            out.append(Difference(name, "DSB", node.key("dsb").whole(), dsb))
    else:
        if any(theirs.get(kind, 0) < nr for kind, nr in ours.items()):
            out.append(Difference(name, "TLBI", theirs, f"more: {ours}"))
        if node.key("dsb").whole() < dsb:
            out.append(Difference(name, "DSB", node.key("dsb").whole(), f"more: {dsb}"))
    for function, nr in node.key("hits").members().items():
        mine = sum(counters.get(counter, 0) for counter in HITS.get(function, ()))
        if function in HITS and nr.whole() != mine:
            out.append(Difference(name, function, nr.whole(), mine))
    return out


# ---- files ----


def replay(node: Node) -> Iterator[list[Difference]]:
    """Replay a script: for each step what differs. A step that the model refuses ends it."""
    script = Script(node.key("scenario").text(), machine_of(node))
    node = node.named(script.scenario)
    for i, step in enumerate(node.key("steps").items()):
        try:
            yield _step(script, i, step)
        except LayoutError as e:
            yield [Difference(f"{script.scenario}, step {i}", "refused", "a step", str(e))]
            return


def check_live(path: str, doc: Node) -> FileReport:
    """Replay all scripts of one file."""
    scripts = doc.some("script")
    kinds = ("ret", "level", "VMAs", "excl", "folio", "PTE", "TLBI", "DSB")
    report = FileReport(path, f"{len(scripts)} scripts", "kernel", "steps", kinds, "function entries, frames")
    for node in scripts:
        labels = {"cpu": node.key("cpu").text(), "machine": str(machine_of(node))}
        line = report.line(node.key("kernel").text(), labels)
        for differences in replay(node):
            line.add(differences)
    return report


def verify_live(paths: Paths) -> Report:
    """Replay scripts of calls that made and changed address spaces of real kernels.

    What it takes, returns and raises is as for `report.verify_files`.
    """
    return verify_files("live", paths, check_live, "live")
