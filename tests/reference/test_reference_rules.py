"""The reference rule by rule: the specification's tables, closed forms and worked examples."""

from __future__ import annotations

import errno
import gzip
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ptebatch
from ptebatch import MprotectError
from ptebatch import bits as b
from ptebatch.errors import LayoutError, StrategyError
from ptebatch.machine import Machine
from ptebatch.reference import RefMM
from ptebatch.reference import pte as p
from ptebatch.reference.tlb import range_ops

BASE = 0x4000_0000_0000
PFN = 0x80000
RW = 0x00E8_0000_0000_0F43
RO = 0x00E0_0000_0000_0FC3
UPGRADE: dict[str, Any] = {"newprot": b.PAGE_READONLY, "cp_flags": b.MM_CP_TRY_CHANGE_WRITABLE, "vm_flags": 3}
READ_ONLY: dict[str, Any] = {"newprot": b.PAGE_READONLY, "vm_flags": 1}


def thp(flags: int, nr: int = 512, *, cont: bool = True, exclusive: Callable[[int], bool] = lambda i: True, **kw: Any) -> RefMM:
    """One folio of `nr` pages, all alike, and which of its pages are PageAnonExclusive."""
    mm = RefMM(Machine(**kw))
    mm.populate(BASE, mm.machine.ptrs_per_pte * mm.page_size)
    mm.set_folio(PFN, nr.bit_length() - 1)
    for i in range(nr):
        mm.ptes[BASE + i * mm.page_size] = p.pfn_pte(mm.page_shift, PFN + i, flags | (b.PTE_CONT if cont else 0))
        if exclusive(i):
            mm.set_page_anon_exclusive(PFN + i)
    return mm


# Words


PREDICATES: dict[str, Callable[[int], bool]] = {
    "none": p.pte_none,
    "present": p.pte_present,
    "valid": p.pte_valid,
    "present_invalid": lambda pte: not pte & b.PTE_VALID and bool(pte & b.PTE_NG),
    "protnone": p.pte_protnone,
    "young": p.pte_young,
    "dirty": p.pte_dirty,
    "hw_dirty": p.pte_hw_dirty,
    "sw_dirty": p.pte_sw_dirty,
    "write": p.pte_write,
    "rdonly": p.pte_rdonly,
    "cont": p.pte_cont,
    "valid_cont": p.pte_valid_cont,
    "special": p.pte_special,
    "uffd": p.pte_uffd,
    "user": lambda pte: bool(pte & b.PTE_USER),
    "user_exec": p.pte_user_exec,
}


def helpers(machine: Machine, names: list[str]) -> dict[str, Callable[[int, int], int]]:
    """The kernel's helpers by the names of prim.json, as functions of word and argument."""
    shift = machine.page_shift
    one = [p.pte_mkwrite, p.pte_mkdirty, p.pte_mkclean, p.pte_wrprotect, p.pte_mkold, p.pte_mkyoung, p.pte_mkcont]
    one += [p.pte_mknoncont, p.pte_mkuffd, p.pte_clear_uffd]
    table: dict[str, Callable[[int, int], int]] = {f.__name__: lambda pte, _, f=f: f(pte) for f in one}  # type: ignore[misc]
    return table | {
        "pte_modify": p.pte_modify,
        "pte_advance_pfn": lambda pte, nr: p.pte_advance_pfn(shift, pte, nr),
        "pte_pgprot": lambda pte, _: p.pte_pgprot(shift, pte),
        "pte_pfn": lambda pte, _: p.pte_pfn(shift, pte),
        "__pte_batch_clear_ignored": lambda pte, flags: p.pte_batch_clear_ignored(
            pte, respect_write=bool(flags & 4), respect_dirty=bool(flags & 1)
        ),
        "pte_needs_flush": lambda old, new: p.pte_needs_flush(machine, old, new),
        "predicates": lambda pte, _: sum(PREDICATES[name](pte) << i for i, name in enumerate(names)),
        "pte_swp_mkuffd": lambda pte, _: pte | b.PTE_SWP_UFFD,
        "pte_swp_clear_uffd": lambda pte, _: pte & ~b.PTE_SWP_UFFD,
    }


@pytest.mark.parametrize("granule", ["4", "16", "64"])
def test_accessors_equal_the_kernels(granule: str) -> None:
    with gzip.open(Path(__file__).parents[1] / "data" / "golden" / "prim.json.gz") as f:
        prim = json.load(f)
    rows, ops = prim["gran"][granule]["rows"], prim["gran"][granule]["ops"]
    table = helpers(Machine("7.3", granule + "K"), prim["pred_bits"])
    assert len(rows) > 4000
    for op, word, arg, out in rows:
        result = table[ops[op]](int(word, 16), int(arg, 16))
        assert f"{result:x}" == out, (ops[op], word, arg)


def test_words_of_the_specifications_appendix() -> None:
    mm = thp(RW, 1, cont=False)
    no_access: dict[str, Any] = {"newprot": b.PAGE_NONE, "vm_flags": 0}
    for call, flags in [(READ_ONLY, RO), (no_access, 0x00E0_0000_0000_0F82), (READ_ONLY, RO), (UPGRADE, RW)]:
        mm.change_protection(BASE, 1, **call)
        assert hex(mm.ptes[BASE]) == hex(p.pfn_pte(12, PFN, flags))


# Costs


def gather_cost(young: float, dirty: float, n: int) -> float:
    """Reads of one ptep_get() by first young and first dirty entry of the block (spec 3.6)."""
    if young == dirty == math.inf:
        return n + 1
    if dirty <= young:
        return young + 3 if young < math.inf else n + 2
    return dirty + 2 if dirty < math.inf else n + 1


@pytest.mark.parametrize("kernel", ["6.12", "6.16", "6.17", "7.3"])
def test_a_gather_reads_as_the_table_says(kernel: str) -> None:
    for young in [*range(16), math.inf]:
        for dirty in [*range(16), math.inf]:
            mm = thp(p.pte_mkold(p.pte_mkclean(RW)), 16, kernel=kernel)
            for first, change in ((young, p.pte_mkyoung), (dirty, p.pte_mkdirty)):
                for i in [15, int(first)] if first < math.inf else []:
                    mm.ptes[BASE + i * 4096] = change(mm.ptes[BASE + i * 4096])
            word = mm.ptep_get(BASE + 7 * 4096)
            early = mm.machine.gather_early_exit
            assert mm.counters["pte_reads"] == (gather_cost(young, dirty, 16) if early else 17), (young, dirty)
            assert (p.pte_young(word), p.pte_dirty(word)) == (young < math.inf, dirty < math.inf)


ALTERNATING = {
    "folio": lambda n: 2 * n + n // 16,
    "lookahead": lambda n: n * (n + 1) // 2 + 2 * n + n // 16,
    "iterator": lambda n: 3 * n + n // 16,
    "merged": lambda n: 4 * n + n // 16 - 1,
}


@pytest.mark.parametrize("n", [16, 64, 512])
@pytest.mark.parametrize("name", ALTERNATING)
def test_reads_grow_as_the_closed_form(name: str, n: int) -> None:
    result = thp(RO, n, cont=False, exclusive=lambda i: i % 2 == 0).change_protection(BASE, n, strategy=name, **UPGRADE)
    assert result.counters["pte_reads"] == ALTERNATING[name](n)


# strategy, exclusive pages, call -> reads, pae_reads, exchanges, conversions, final TLBIs, DSBs (spec B)
WORKED = [
    ("folio", "all", READ_ONLY, (96, 0, 512, 0, 1, 2)),
    ("folio", "all", UPGRADE, (96, 512, 512, 0, 1, 2)),
    ("folio", "not 0", UPGRADE, (97, 513, 512, 0, 3, 2)),
    ("folio", "only 0", UPGRADE, (97, 513, 512, 0, 1, 2)),
    ("lookahead", "not 0", UPGRADE, (210, 513, 528, 1, 3, 4)),
    ("folio", "even", UPGRADE, (640, 1023, 512, 0, 3, 2)),
    ("lookahead", "even", UPGRADE, (7875, 992, 1024, 32, 3, 66)),
    ("folio", "none", UPGRADE, (96, 512, 512, 0, 0, 0)),
]
PATTERNS: dict[str, Callable[[int], bool]] = {
    "all": lambda i: True,
    "none": lambda i: False,
    "not 0": bool,
    "only 0": lambda i: i == 0,
    "even": lambda i: i % 2 == 0,
}


@pytest.mark.parametrize(("name", "pattern", "call", "want"), WORKED)
def test_worked_costs(name: str, pattern: str, call: dict[str, Any], want: tuple[int, ...]) -> None:
    start = RW if call is READ_ONLY else RO
    c = thp(start, exclusive=PATTERNS[pattern]).change_protection(BASE, 512, strategy=name, **call).counters
    ops = c["flush_vale1is"] + c["flush_rvale1is"] + c["flush_aside1is"]
    got = (c["pte_reads"], c["pae_reads"], c["pte_xchg"], c["folds"] + c["unfolds"], ops, c["flush_dsb"] + c["convert_dsb"])
    assert got == want


def test_6_12_converts_each_block_twice() -> None:
    c = thp(RW, kernel="6.12").change_protection(BASE, 512, strategy="per-pte", **READ_ONLY).counters
    assert (c["pte_reads"], c["pte_xchg"], c["pte_writes"], c["convert_tlbi"]) == (1024 + 1536, 1536, 1536, 64)
    assert (c["convert_dsb"], c["flush_dsb"], c["unfold_single"]) == (128, 2, 32)


def test_range_instructions() -> None:
    pages = {1: 1, 2: 1, 3: 2, 15: 2, 16: 1, 17: 2, 63: 2, 64: 1, 65: 2, 511: 3, 512: 1, 513: 2, 4095: 4, 2**21 - 1: 5, 2**21: 1}
    for nr, ops in pages.items():
        sequence = range_ops(Machine(), BASE, nr, tlb_range=True)
        assert len(sequence) == ops
        assert sum(op[2] for op in sequence) == nr
    lpa2 = Machine(lpa2=True)
    assert [op[0] for op in range_ops(lpa2, BASE + 14 * 4096, 18, tlb_range=True)] == ["VALE1IS", "VALE1IS", "RVALE1IS"]


def test_every_event_of_a_cut_block_in_order() -> None:
    mm = thp(RW, 4, cont_ptes=4, ptrs_per_pte=8)
    seen: list[str] = []

    def observer(kind: str, addr: int, value: int) -> None:
        seen.append(kind if kind.startswith("DSB") else f"{kind}{(addr - BASE) // 4096}")

    mm.change_protection(BASE + 4096, 2, observer=observer, **READ_ONLY)
    unfold = "UNFOLD0 X0 X1 X2 X3 DSB ISHST RVALE1IS0 DSB ISH W0 W1 W2 W3"
    commit = "COMMIT1 W1 W2 GATHER1 UNLOCK1 DSB ISHST RVALE1IS1 DSB ISH"
    assert " ".join(seen) == f"LOCK1 R1 R0 R0 BATCH1 START1 R1 {unfold} R2 X1 X2 {commit}"


# Steps that break their contract


def commits_elsewhere(w: Any) -> int:
    old = w.start(0, 2)
    w.commit(2, old, old, 2)
    return 4


def forgets_to_advance(w: Any) -> int:
    old = w.start(0, 2)
    w.commit(0, old, old, 1)
    w.commit(1, old, old, 1)
    return 2


BROKEN: dict[str, Callable[[Any], Any]] = {
    "not started": commits_elsewhere,
    "mapped frame": forgets_to_advance,
    "return the number": lambda w: None,
    "returned 0": lambda w: 0,
    "returned 9": lambda w: w.change_unit(0, 8, False) or 9,
    "left 2 started": lambda w: w.start(0, 2) and 2,
    "was started already": lambda w: w.change_unit(0, 1, False) or w.change_unit(0, 1, False) or 1,
    "committed 2 entries": lambda w: w.change_unit(0, 2, False) or 1,
    "leave the window": lambda w: w.change_unit(7, 2, False) or 8,
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_step_that_breaks_its_contract_changes_nothing(message: str) -> None:
    mm = thp(RO, 8, cont=False, cont_ptes=4, ptrs_per_pte=8)
    before = dict(mm.ptes)
    with pytest.raises(StrategyError, match=message):
        mm.change_protection(BASE, 8, strategy=BROKEN[message], **UPGRADE)
    assert mm.ptes == before


def test_unknown_strategy_and_bad_ranges_are_refused() -> None:
    mm = thp(RO, 8)
    with pytest.raises(StrategyError, match="did you mean 'folio'"):
        mm.change_protection(BASE, 8, strategy="foliio", **UPGRADE)
    with pytest.raises(LayoutError, match="round it"):
        mm.change_protection(BASE + 1, 8, **UPGRADE)
    with pytest.raises(LayoutError, match="naturally aligned"):
        mm.set_folio(PFN + 1, 1)


# VMAs


def test_read_only_and_writable_again_is_one_vma() -> None:
    mm = RefMM(Machine())
    mm.mmap(BASE, 16 << 12, 3)
    whole = mm.vmas()
    split = mm.mprotect(BASE + (4 << 12), 4 << 12, 1).counters
    assert (len(mm.vmas()), split["vma_splits"]) == (3, 2)
    assert mm.mprotect(BASE + (4 << 12), 4 << 12, 3).counters["vma_merges"] == 1
    assert mm.vmas() == whole


# start page, pages, prot, errno; the mapping: [0,4) RW, [4,8) sealed, hole, [12,16) without MAYWRITE
ERRORS = [
    (0, 4, 0x0300_0001, errno.EINVAL),
    (0.5, 4, 1, errno.EINVAL),
    (0, 0, 0x40, 0),
    (0, 1 << 52, 1, errno.ENOMEM),
    (0, 4, 0x40, errno.EINVAL),
    (20, 4, 1, errno.ENOMEM),
    (9, 6, 1, errno.ENOMEM),
    (0, 8, 1, errno.EPERM),
    (4, 4, 3, errno.EPERM),
    (12, 2, 3, errno.EACCES),
    (12, 8, 1, errno.ENOMEM),
    (0, 2, 0x0100_0001, errno.EINVAL),
]


@pytest.mark.parametrize(("first", "pages", "prot", "number"), ERRORS)
def test_errors_come_in_the_kernels_order(first: float, pages: int, prot: int, number: int) -> None:
    mm = RefMM(Machine())
    mm.mmap(BASE, 4 << 12, 3)
    mm.mmap(BASE + (4 << 12), 4 << 12, 3, vm_flags=b.VM_SEALED)
    mm.mmap(BASE + (12 << 12), 4 << 12, 1, may=b.PROT_READ)
    call = (BASE + int(first * 4096), pages << 12, prot)
    if not number:
        assert mm.mprotect(*call).counters["vmas_walked"] == 0
        return
    with pytest.raises(MprotectError) as caught:
        mm.mprotect(*call)
    assert caught.value.errno == number


def test_what_came_before_an_error_stays() -> None:
    mm = thp(RW, 8)
    mm.mmap(BASE, 4 << 12, 3)
    mm.mmap(BASE + (4 << 12), 4 << 12, 3, vm_flags=b.VM_SEALED)
    with pytest.raises(MprotectError) as caught:
        mm.mprotect(BASE, 8 << 12, 1)
    assert (caught.value.addr, caught.value.result.pages) == (BASE + (4 << 12), 4)
    assert [vma.flags & 3 for vma in mm.vmas()] == [1, 3]


# Independence


def test_the_reference_runs_without_the_compiled_package() -> None:
    """Imported below a bare package: no module of the core, no NumPy."""
    code = """
import sys, types
package = types.ModuleType("ptebatch"); package.__path__ = [sys.argv[1]]; sys.modules["ptebatch"] = package
from ptebatch.reference import RefMM
from ptebatch.machine import Machine
mm = RefMM(Machine()); mm.populate(0, 4096); mm.set_folio(16, 0); mm.ptes[0] = 0x00e8000000010f43
assert mm.change_protection(0, 1, newprot=0x0060000000000fc3, vm_flags=1).pages == 1
assert mm.ptes[0] == 0x00e0000000010fc3
compiled = {name for name, m in sys.modules.items() if (getattr(m, "__file__", None) or "").endswith((".so", ".pyd"))}
bad = [name for name in sys.modules if name.startswith("numpy") or (name.startswith("ptebatch") and name in compiled)]
assert not bad, bad
"""
    folder = str(Path(ptebatch.__file__).parent)
    how: dict[str, Any] = {"env": {**os.environ, "PYTHONPATH": ""}, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", code, folder], check=False, **how)
    assert done.returncode == 0, done.stderr
    for twin in ("numpy", "ptebatch.base.held"):
        broken = code.replace("compiled = ", f"import {twin}\ncompiled = ")
        done = subprocess.run([sys.executable, "-c", broken, folder], check=False, **how)
        assert "AssertionError: [" in done.stderr and f"'{twin}'" in done.stderr
