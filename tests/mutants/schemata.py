"""All faults in one build: each function that has faults asks for the number of the one to have.

A fault inside one function becomes a copy of that function, ``name__m17``; the
function itself calls the copy whose number stands in PTEBATCH_MUTANT. So the core
is compiled once for all of them, and a fault costs no more than running the
detectors. Faults outside functions (C blocks, enums) are built one by one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from .catalogue import CORE, SIGNATURE, Mutant, blocks

VARIABLE = "PTEBATCH_MUTANT"

HEADER = f'''# Which fault is on; 0: none.
cdef extern from *:
    """
    #include <stdlib.h>
    static int pb_mutant;
    __attribute__((constructor)) static void pb_mutant_read(void) {{
        const char *text = getenv("{VARIABLE}");
        pb_mutant = text ? atoi(text) : 0;
    }}
    """
    int pb_mutant
'''


def changed_function(mutant: Mutant, text: str) -> str:
    """Name of the one function that the fault changes, empty if it is more than that."""
    before, after = blocks(text), blocks(mutant.apply(text))
    if [b.name for b in before] != [b.name for b in after]:
        return ""
    names = [old.name for old, new in zip(before, after, strict=True) if old.text.strip() != new.text.strip()]
    return names[0] if len(names) == 1 else ""


def variant(function: str, number: int) -> str:
    """The function under the name of one of its copies."""
    found = SIGNATURE.match(function.split("\n", 1)[0])
    assert found is not None
    return function[: found.start("name")] + f"{found['name']}__m{number}" + function[found.end("name") :].rstrip() + "\n"


def dispatcher(function: str, numbers: list[int]) -> str:
    """The function that calls its copies."""
    line = function.split("\n", 1)[0]
    found = SIGNATURE.match(line)
    assert found is not None
    names = ", ".join(re.findall(r"(\w+)\s*(?:,|$)", found["args"]))
    void = found["type"].split()[-1:] == ["void"]
    out = [line, "    if pb_mutant:"]
    for number in numbers:
        call = f"{found['name']}__m{number}({names})"
        out += [f"        if pb_mutant == {number}:", f"            {'' if void else 'return '}{call}"]
        out += ["            return"] if void else []
    out.append(f"    {'' if void else 'return '}{found['name']}__m0({names})")
    return "\n".join(out) + "\n"


def combine(text: str, mutants: list[Mutant]) -> str:
    """The file with all these faults, each inside one function."""
    of: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for mutant in mutants:
        name = changed_function(mutant, text)
        body = next(b.text for b in blocks(mutant.apply(text)) if b.name == name)
        of[name].append((mutant.number, body))
    out = []
    for block in blocks(text):
        if block.name not in of or not block.name:
            out.append(block.text)
            continue
        copies = of[block.name]
        out += [variant(body, number) + "\n" for number, body in copies]
        out += [variant(block.text, 0) + "\n", dispatcher(block.text, [number for number, _ in copies])]
    whole = "".join(out)
    return re.sub(r"^(?=from |cimport )", "from ptebatch.mutant cimport pb_mutant\n", whole, count=1, flags=re.M)


def write(tree: Path, mutants: list[Mutant]) -> list[Mutant]:
    """Put all faults that stand inside functions into a copy of the tree; returns the others."""
    alone: list[Mutant] = []
    by_file: dict[str, list[Mutant]] = defaultdict(list)
    for mutant in mutants:
        if changed_function(mutant, (tree / CORE / mutant.file).read_text()):
            by_file[mutant.file].append(mutant)
        else:
            alone.append(mutant)
    (tree / CORE / "mutant.pxd").write_text(HEADER)
    for name, some in by_file.items():
        path = tree / CORE / name
        path.write_text(combine(path.read_text(), some))
    return alone
