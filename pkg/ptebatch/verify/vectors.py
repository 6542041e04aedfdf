"""Golden vectors: one change_protection() each, replayed by every engine that has a strategy.

A file is what the kernel's own functions did with one start state: final PTEs,
return value, batches, flushes and 27 counters for each *engine*, which is a
strategy on a machine. ``ops`` say how the start state came about; replaying
them is a second set of facts.
"""

from __future__ import annotations

from typing import Any

from ..machine import GRANULES
from .load import Node
from .ops import replay
from .prim import check_prim
from .report import Difference, FileReport, Paths, Report, ptes_difference, verify_files
from .scenario import ENGINES, Scenario, Vectors

__all__ = ["verify_vectors"]


#: quantities with a column of their own; the counters are named when they differ
QUANTITIES = ("PTEs", "pages", "batches", "subs", "flushes", "gather")


def compare(s: Scenario, name: str) -> list[Difference]:
    """Run one engine on one scenario; the quantities that differ."""
    mm, r = s.run(ENGINES[name])
    res = s.node.key("res").key(name)
    ptes = ptes_difference(s.name, "PTEs", s.final(name), mm.ptes(s.base, s.size), r.machine)
    counted = res.key("c").wholes(len(s.head.counters))
    gathers = [[s.index(g[0]), s.index(g[1])] for g in r.gathers] or [[-1, -1]]
    facts: list[tuple[str, Any, Any]] = [
        ("pages", res.key("pages").whole(), r.pages),
        ("batches", _pairs(res.key("b")), r.batches),
        ("subs", _pairs(res.key("s")), r.subs),
        ("flushes", _pairs(res.key("fl")), [[s.index(addr), nr] for addr, nr in r.flushes]),
        ("gather", [item.whole(-1) for item in res.key("ga").items(2)], gathers[0]),
        *((counter, value, r[counter]) for counter, value in zip(s.head.counters, counted, strict=True)),
    ]
    return ([ptes] if ptes else []) + [Difference(s.name, what, want, got) for what, want, got in facts if want != got]


def _pairs(node: Node) -> list[list[int]]:
    return [item.wholes(2) for item in node.items()]


def check_vectors(path: str, doc: Node) -> FileReport:
    """Replay all scenarios of one file."""
    head = Vectors.read(doc)
    _, cont, ptrs = GRANULES[head.granule]
    title = f"{len(head.scenarios)} scenarios, {head.granule} pages, {cont} entries a block, {ptrs} a table"
    report = FileReport(path, title, "engine", "scenarios", QUANTITIES, "counters")
    for node in head.scenarios:
        s = Scenario(head, node)
        for name in s.node.key("res").members():
            if name not in ENGINES:
                report.line(name, {"strategy": "none here", "machine": ""}, ()).skipped += 1
                continue
            engine = ENGINES[name]
            machine = engine.kernel + (f",bbml={engine.bbml}" if engine.bbml else "")
            labels = {"strategy": engine.strategy, "machine": machine}
            report.line(name, labels, (*QUANTITIES, *head.counters)).add(compare(s, name))
        if s.node.maybe("ops") is not None:
            report.line("ops", {"strategy": "(start state)", "machine": "7.3"}, ("PTEs",)).add(replay(s))
    if not report.lines:
        doc.key("scenarios").fail("holds neither results nor operations; nothing would be verified")
    return report


def verify_vectors(paths: Paths) -> Report:
    """Replay golden vectors with every engine that has a strategy here.

    Compared are final PTEs, return value, batches, sub-batches, conversion
    flushes, the gather and every counter; and the start states that ``ops`` make.
    A file of rows for single helpers is recognised and goes through `verify_prim`'s check.

    What it takes, returns and raises is as for `report.verify_files`.
    """
    return verify_files("vectors", paths, _check, "vectors")


def _check(path: str, doc: Node) -> FileReport:
    check = check_prim if isinstance(doc.value, dict) and "gran" in doc.value else check_vectors
    return check(path, doc)
