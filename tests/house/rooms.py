"""The plan of the house: which room may import which. Lazy imports count, and those for type checkers.

A line is a room and all that it may import; an arrow that nobody uses fails as one that is
not here. Vocabulary are the plain modules at the top of the package: they import only each
other. Rooms of the core cimport along the same plan.
"""

from __future__ import annotations

#: modules that stand at the top, and what each imports of the others
VOCABULARY = {
    "bits": "",
    "counters": "",
    "errors": "",
    "events": "",
    "kernels": "errors",
    "machine": "errors kernels",
    "operations": "bits errors",
    "report": "counters errors machine operations",
    "strategies": "errors",
}

#: a room, and the vocabulary and rooms that its Python imports
ROOMS = {
    "notation": "bits errors machine",
    "reference": "bits counters errors machine",
    "traces": "errors events machine mm notation operations",  # of mm only the type of a result
    "layouts": "bits errors machine mm notation report",
    "snapshot": "bits errors machine mm notation",  # notation has the patterns of exclusivity
    "simulate": "bits counters errors kernels layouts machine mm operations report snapshot strategies",
    "checker": "bits errors events machine mm notation reference report strategies",
    "verify": "arm64 base bits counters errors events kernels machine mm notation reference strategies",
    "testing": "bits checker errors events kernels layouts machine mm notation reference strategies",
    "cli": "base bits checker counters errors kernels layouts machine mm notation operations report simulate snapshot strategies "
    "traces verify workloads",
    "workloads": "bits counters errors layouts machine mm reference report",
    "base": "",
    "arm64": "",
    "batch": "",
    "mm": "",
}

#: the rooms of the core, lowest first: each cimports those before it
CORE = ("base", "arm64", "batch", "mm", "checker")

#: a room of the core, and what its compiled modules import of Python
CORE_IMPORTS = {
    "base": "errors",
    "arm64": "errors",
    "batch": "errors strategies",
    # batch has the loops for this CPU, notation the patterns, operations the protections, report the text of a result
    "mm": "base batch counters errors events machine notation operations report",
    "checker": "batch counters errors",
}

#: rooms whose members know nothing of each other
APART = {
    "cli": ("compare", "events", "list", "replay", "show", "verify_strategy"),
    "traces": ("jsonl",),
    "checker.laws": ("order", "table"),
    "verify": ("dumps", "traces", "vectors"),
}
