"""List what can be named: strategies, layouts, machines, counters, workloads, calls."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from ..counters import COUNTERS
from ..kernels import ERAS
from ..layouts.named import LAYOUTS
from ..machine import ERA_SWITCHES, GRANULES, MACHINES, Machine
from ..notation.patterns import PATTERN_NAMES
from ..report import size_text
from ..strategies import STRATEGIES
from ._print import Column, put, put_json, table

if TYPE_CHECKING:
    from ..workloads import Parameter

EXAMPLES = """\
examples:
  ptebatch list strategies
  ptebatch list machines --json
"""

_OPTIONS = """\
folio=16K is a layout, too: 64M in folios of that size. Options, separated by colons: a size (64M),
folded, unfolded, sequential, shuffled[=SEED], folio=SIZE, fork=alive, fork=gone, and with a pattern of
pages pae= (PageAnonExclusive), present=, young=, dirty=
patterns: {patterns}, A/B/... runs of pages, the last one exclusive, random:P[:SEED]"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the argument of this verb."""
    parser.add_argument("what", choices=list(_TEXTS), help="what to list")


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    if args.json:
        put_json({"verb": "list", args.what: _rows(args.what)})
    else:
        put(_TEXTS[args.what]())
    return 0


def _rows(what: str) -> list[dict[str, Any]]:
    """The same as JSON."""
    if what == "strategies":
        return [{"name": s.name, "since": s.since, "flawed": s.flawed, "summary": s.summary} for s in STRATEGIES.values()]
    if what == "layouts":
        return [{"name": row.name, "size": row.layout.length(Machine()), "summary": row.summary} for row in LAYOUTS.values()]
    if what == "counters":
        return [{"name": c.name, "group": c.group, "meaning": c.meaning} for c in COUNTERS.values()]
    if what == "calls":
        from ..workloads import CALLS

        return [{"name": row.name, "summary": row.summary} for row in CALLS.values()]
    if what == "workloads":
        from ..workloads import WORKLOADS

        return [
            {"name": row.name, "summary": row.summary, "parameters": {key: one.default for key, one in row.parameters.items()}}
            for row in WORKLOADS.values()
        ]
    switches = [f.name for f in fields(Machine) if f.name not in ("kernel", "release")]
    return [
        {"kernel": k, **{name: getattr(ERAS[k], name) for name in ("measured", "strategy", "repeat_tlbi_cpus")}}
        | {name: getattr(machine, name) for name in switches}
        for k, machine in MACHINES.items()
    ]


def _strategies() -> str:
    rows = [[s.name, s.since, "flawed" if s.flawed else "", s.summary] for s in STRATEGIES.values()]
    columns = [Column("name"), Column("since"), Column(""), Column("what it does", wraps=True)]
    return table(columns, rows, dim=[i for i, s in enumerate(STRATEGIES.values()) if s.flawed])


def _layouts() -> str:
    rows = [[row.name, size_text(row.layout.length(Machine())), row.summary] for row in LAYOUTS.values()]
    listed = table([Column("name"), Column("size", number=True), Column("what it is", wraps=True)], rows)
    return f"{listed}\n\n{_OPTIONS.format(patterns=', '.join(PATTERN_NAMES))}"


def _counters() -> str:
    rows = [[c.name, c.group, c.meaning] for c in COUNTERS.values()]
    return table([Column("name"), Column("group"), Column("what it counts", wraps=True)], rows)


def _workloads() -> str:
    from ..workloads import WORKLOADS

    rows = []
    for row in WORKLOADS.values():
        rows.append([row.name, row.summary, "\n".join(_parameter(key, one) for key, one in row.parameters.items())])
    return table([Column("name"), Column("what it does", wraps=True), Column("parameters")], rows)


def _calls() -> str:
    from ..workloads import CALLS

    rows = [[row.name, row.summary] for row in CALLS.values()]
    return table([Column("name"), Column("what compare --op NAME does", wraps=True)], rows)


def _parameter(key: str, one: Parameter) -> str:
    return f"{key}={size_text(one.default) if one.size else one.default}"


def _machines() -> str:
    rows = [[k, era.measured, era.strategy, ", ".join(era.repeat_tlbi_cpus)] for k, era in ERAS.items()]
    kernels = table([Column("kernel"), Column("measured"), Column("loop"), Column("REPEAT_TLBI on")], rows)
    words = [[name, *(_word(getattr(era, name)) for era in ERAS.values())] for name in ERA_SWITCHES]
    differ = table([Column("switch"), *(Column(k) for k in ERAS)], words)
    shapes = [
        [granule, size_text(1 << shift), str(cont), str(ptrs), size_text(ptrs << shift)]
        for granule, (shift, cont, ptrs) in GRANULES.items()
    ]
    heads = ("granule", "page", "cont_ptes", "ptrs_per_pte", "a table maps")
    granules = table([Column(heads[0]), *(Column(head, number=True) for head in heads[1:])], shapes)
    plain, known = Machine(), (*ERA_SWITCHES, "kernel", "release", "granule", "cont_ptes", "ptrs_per_pte")
    others = [f.name for f in fields(Machine) if f.name not in known]
    switches = table([Column("switch"), Column("default")], [[name, _word(getattr(plain, name))] for name in others])
    return "\n\n".join([kernels, differ, granules, switches, "every switch can be set: 7.3,granule=16K,bbml=3,needs_flush=off"])


def _word(value: object) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


_TEXTS = {
    "strategies": _strategies,
    "layouts": _layouts,
    "machines": _machines,
    "counters": _counters,
    "workloads": _workloads,
    "calls": _calls,
}
