"""Single PTE helpers of the kernel: constants, the protection map, and input/output rows.

Facts of 7.3 for the three granules. Rows run through the compiled accessors
(``ptebatch.arm64.accessors``); constants are compared with ``ptebatch.bits`` and
with the core's own copy.
"""

from __future__ import annotations

from collections.abc import Callable

from .. import bits
from ..arm64 import accessors as pte
from ..errors import PtebatchError
from ..machine import GRANULES
from .load import Node
from .report import Difference, FileReport, Line, Paths, Report, verify_files

__all__ = ["HELPERS", "verify_prim"]

Helper = Callable[[int, int, int], int]  # word, argument, page shift -> result


def _clear_ignored(word: int, flags: int) -> int:
    if flags > 7:
        raise PtebatchError(f"{flags:#x} are not flags of a batch; expected 0 to 7")
    return int(pte.pte_batch_clear_ignored(word, flags))


#: helper of the kernel -> the accessor, on word, argument and page shift
HELPERS: dict[str, Helper] = {
    "pte_modify": lambda word, arg, shift: pte.pte_modify(word, arg),
    "pte_mkwrite": lambda word, arg, shift: pte.pte_mkwrite(word),
    "pte_mkdirty": lambda word, arg, shift: pte.pte_mkdirty(word),
    "pte_mkclean": lambda word, arg, shift: pte.pte_mkclean(word),
    "pte_wrprotect": lambda word, arg, shift: pte.pte_wrprotect(word),
    "pte_mkold": lambda word, arg, shift: pte.pte_mkold(word),
    "pte_mkyoung": lambda word, arg, shift: pte.pte_mkyoung(word),
    "pte_mkcont": lambda word, arg, shift: pte.pte_mkcont(word),
    "pte_mknoncont": lambda word, arg, shift: pte.pte_mknoncont(word),
    "pte_mkuffd": lambda word, arg, shift: pte.pte_mkuffd(word),
    "pte_clear_uffd": lambda word, arg, shift: pte.pte_clear_uffd(word),
    "pte_advance_pfn": lambda word, arg, shift: pte.pte_advance_pfn(word, arg, shift),
    "pte_pgprot": lambda word, arg, shift: pte.pte_pgprot(word, shift),
    "pte_pfn": lambda word, arg, shift: pte.pte_pfn(word, shift),
    "__pte_batch_clear_ignored": lambda word, arg, shift: _clear_ignored(word, arg),
    "pte_needs_flush": lambda word, arg, shift: int(pte.pte_needs_flush(word, arg)),
    "pte_swp_mkuffd": lambda word, arg, shift: pte.pte_swp_mkuffd(word),
    "pte_swp_clear_uffd": lambda word, arg, shift: pte.pte_swp_clear_uffd(word),
}


def _constants(page_shift: int) -> dict[str, list[int]]:
    """Every constant by name, as each part of the package has it."""
    found = {name: [getattr(bits, name)] for name in dir(bits) if name.startswith(("PTE_", "PAGE_"))}
    found["PTE_ADDR_LOW"] = [(1 << bits.PTE_ADDR_END) - (1 << page_shift)]
    for name, value in pte.constants().items():
        found.setdefault(name, []).append(value)
    return found


def _check_constants(line: Line, gran: Node, page_shift: int) -> None:
    known = _constants(page_shift)
    for name, node in gran.key("consts").members().items():
        if name not in known:
            node.fail(f"constant {name[:60]!r} is not modelled; expected a PTE_ or PAGE_ name of ptebatch.bits")
        wrong = [value for value in known[name] if value != node.word()]
        line.add([Difference(name, "constants", f"{node.word():#x}", f"{wrong[0]:#x}")] if wrong else [])
    indices = {str(i): word for i, word in enumerate(bits.PROTECTION_MAP)}
    for index, node in gran.key("protection_map").members().items():
        if index not in indices:
            node.fail(f"{index!r} is not an index of protection_map; expected 0 to {len(indices) - 1}")
        got, want = indices[index], node.word()
        line.add([Difference(f"protection_map[{index}]", "protection_map", f"{want:#x}", f"{got:#x}")] if want != got else [])


def _predicates(names: list[str]) -> Helper:
    def ask(word: int, arg: int, shift: int) -> int:
        answers = pte.predicates(word)
        return sum(answers[name] << i for i, name in enumerate(names))

    return ask


def _check_rows(line: Line, gran: Node, helpers: dict[str, Helper], page_shift: int) -> None:
    ops = gran.key("ops").items()
    for op in ops:
        if op.text() not in helpers:
            op.wrong(f"a helper; known: {', '.join(helpers)}")
    names = [op.text() for op in ops]
    for row in gran.key("rows").items():
        index, word, arg, want = row.items(4)
        name = names[index.whole(0, len(names) - 1)]
        with row.guard():
            got = helpers[name](word.word(), arg.word(), page_shift)
        if got == want.word():
            line.add([])
        else:
            place = f"{row.place} {name}({word.word():#x}, {arg.word():#x})"
            line.add([Difference(place, name, f"{want.word():#x}", f"{got:#x}")])


def check_prim(path: str, doc: Node) -> FileReport:
    """Check all granules of one file."""
    names = doc.key("pred_bits").items()
    for name in names:
        if name.text() not in pte.PREDICATES:
            name.wrong(f"a predicate; known: {', '.join(pte.PREDICATES)}")
    helpers = {**HELPERS, "predicates": _predicates([name.text() for name in names])}
    report = FileReport(path, "single PTE helpers of 7.3", "granule", "rows", (), "helpers")
    for kib, gran in doc.key("gran").members().items():
        if f"{kib}K" not in GRANULES:
            gran.fail(f"{kib!r} is not a granule in KiB; known: {', '.join(GRANULES)}")
        shift, cont, ptrs = GRANULES[f"{kib}K"]
        line = report.line(f"{kib}K")
        for size, value in (("page_shift", shift), ("cont_ptes", cont), ("ptrs_per_pte", ptrs)):
            given = gran.key(size).whole()
            line.add([Difference(f"{kib}K", size, given, value)] if given != value else [])
        _check_constants(line, gran, shift)
        _check_rows(line, gran, helpers, shift)
    if not report.lines:
        doc.key("gran").fail("holds no granule; nothing would be verified")
    return report


def verify_prim(paths: Paths) -> Report:
    """Compare single PTE helpers with the kernel's: constants, protection map, rows.

    What it takes, returns and raises is as for `report.verify_files`.
    """
    return verify_files("prim", paths, check_prim)
