"""Bad input is refused by the right error, which names the value, and nothing is changed."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest

from ptebatch import MM, Machine, Result, Window, bits
from ptebatch.arm64 import accessors
from ptebatch.errors import LayoutError, MachineError, MprotectError, PtebatchError, StrategyError
from ptebatch.strategies import Strategy, get_strategy, register, unregister

BASE = 0x200000
PAGE = 4096
SIZE = 0x400000
RW = 3


def world() -> MM:
    """Two VMAs: 512 pages of one folio, folded, and 16 of single pages behind a hole."""
    mm = MM("7.3", nr_pages=4096)
    mm.mmap(BASE, 0x200000, RW)
    mm.map_folios(BASE, 512, 9)
    mm.mmap(BASE + 0x300000, 0x10000, 1, may=5)
    mm.map_folios(BASE + 0x300000, 16, 0)
    return mm


def state(mm: MM) -> tuple:
    """All that a caller can see: VMAs, entries, metadata, and the next free frame."""
    try:
        spare = mm.copy().alloc_folio(0)
    except LayoutError:
        spare = None
    return mm.vmas(), mm.ptes(BASE, 512).tobytes(), mm.leaf(BASE + 0x300000).tobytes(), mm.pages.tobytes(), spare


ROOM = BASE + 0x210000  # inside no VMA
HOLE = BASE + 0x30F000 + PAGE


def big(value: int) -> np.ndarray:
    return np.array([value], np.uint64)


CALLS = [
    # ranges
    ("mmap misaligned start", lambda m: m.mmap(ROOM + 1, PAGE, RW), LayoutError, "0x410001"),
    ("mmap misaligned length", lambda m: m.mmap(ROOM, 100, RW), LayoutError, "length=0x64"),
    ("mmap empty", lambda m: m.mmap(ROOM, 0, RW), LayoutError, "length=0x0 is empty"),
    ("mmap beyond the end", lambda m: m.mmap((1 << 48) - PAGE, 2 * PAGE, RW), LayoutError, "0xfffffffff000"),
    ("mmap negative", lambda m: m.mmap(-PAGE, PAGE, RW), LayoutError, "start=-0x1000"),
    ("mmap huge", lambda m: m.mmap(1 << 70, PAGE, RW), LayoutError, f"start={1 << 70:#x}"),
    ("mmap taken", lambda m: m.mmap(BASE, PAGE, RW), LayoutError, "overlaps the VMA at 0x200000"),
    ("mmap across one", lambda m: m.mmap(BASE - PAGE, 1 << 30, RW), LayoutError, "overlaps the VMA at 0x200000"),
    ("mmap over the limit", lambda m: m.mmap(ROOM, PAGE, RW), LayoutError, "2 VMAs already", lambda m: m.set_limits(map_count=2)),
    # numbers
    ("mmap prot text", lambda m: m.mmap(ROOM, PAGE, "write"), LayoutError, "protection 'write' is unknown"),
    ("mmap prot unknown bits", lambda m: m.mmap(ROOM, PAGE, 8), LayoutError, "prot=0x8"),
    ("mmap prot a truth value", lambda m: m.mmap(ROOM, PAGE, True), LayoutError, "prot=True is a truth value"),
    ("mmap prot None", lambda m: m.mmap(ROOM, PAGE, None), LayoutError, "prot=None"),
    ("mmap may below prot", lambda m: m.mmap(ROOM, PAGE, 3, may=1), LayoutError, "prot=0x3 has accesses that may=0x1"),
    ("mmap may unknown", lambda m: m.mmap(ROOM, PAGE, 1, may=9), LayoutError, "may=0x9"),
    ("mmap flags that have a keyword", lambda m: m.mmap(ROOM, PAGE, 1, vm_flags=2), LayoutError, "vm_flags=0x2"),
    ("mmap flags negative", lambda m: m.mmap(ROOM, PAGE, 1, vm_flags=-1), LayoutError, "vm_flags=-0x1"),
    ("mmap pgoff float", lambda m: m.mmap(ROOM, PAGE, 1, pgoff=1.0), LayoutError, "pgoff=1.0"),
    ("mmap file too large", lambda m: m.mmap(ROOM, PAGE, 1, file=1 << 32), LayoutError, "file=0x100000000"),
    ("mmap shared as text", lambda m: m.mmap(ROOM, PAGE, 1, shared="no"), LayoutError, "shared='no' is not a truth value"),
    ("mmap writenotify a count", lambda m: m.mmap(ROOM, PAGE, 1, writenotify=2), LayoutError, "writenotify=2"),
    # folios
    ("folio misaligned", lambda m: m.set_folio(2049, 4), LayoutError, "head_pfn=0x801 is not aligned"),
    ("folio order too large", lambda m: m.set_folio(2048, 10), LayoutError, "order=0xa"),
    ("folio order negative", lambda m: m.set_folio(2048, -1), LayoutError, "order=-0x1"),
    ("folio order NaN", lambda m: m.set_folio(2048, math.nan), LayoutError, "order=nan"),
    ("folio order infinite", lambda m: m.set_folio(2048, math.inf), LayoutError, "order=inf"),
    ("folio below the window", lambda m: m.set_folio(1023, 0), LayoutError, "pages 0x3ff..0x400"),
    ("folio above the window", lambda m: m.set_folio(1024 + 4096, 0), LayoutError, "pages 0x1400..0x1401"),
    ("folio at the end of all", lambda m: m.set_folio((1 << 64) - 1, 0), LayoutError, f"{(1 << 64) - 1:#x}"),
    ("folio anon as text", lambda m: m.set_folio(2048, 0, anon="file"), LayoutError, "anon='file'"),
    ("folio a list", lambda m: m.set_folio([2048], 0), LayoutError, r"pfn=\[2048\]"),
    (
        "exclusive of file pages",
        lambda m: m.set_page_anon_exclusive(2048),
        LayoutError,
        r"0x800\.\.0x801",
        lambda m: m.set_folio(2048, 0, anon=False),
    ),
    ("exclusive negative", lambda m: m.set_page_anon_exclusive(1024, -1), LayoutError, "nr=-0x1"),
    ("exclusive too many", lambda m: m.set_page_anon_exclusive(1024, 1 << 63), LayoutError, "0x8000000000000400"),
    ("exclusive on as text", lambda m: m.set_page_anon_exclusive(1024, 1, on="off"), LayoutError, "on='off'"),
    ("alloc order too large", lambda m: m.alloc_folio(10), LayoutError, "order=0xa"),
    ("alloc out of frames", lambda m: m.alloc_folio(9), LayoutError, r"0x1400\.\.0x1600", lambda m: m.set_folio(0x1200, 9)),
    # mapping
    ("map outside a VMA", lambda m: m.map_folios(ROOM, 1), LayoutError, "0x410000, 0x411000"),
    ("map across VMAs", lambda m: m.map_folios(BASE, 1024), LayoutError, "is not inside one VMA"),
    ("map no page", lambda m: m.map_folios(BASE, 0), LayoutError, "length=0x0"),
    ("map half a page", lambda m: m.map_folios(BASE, 0.5), LayoutError, "nr=0.5"),
    ("map twice", lambda m: m.map_folios(BASE + 17 * PAGE, 4), LayoutError, "0x211000 is in use"),
    ("map order text", lambda m: m.map_folios(BASE, 1, "9"), LayoutError, "order='9'"),
    ("map orders float", lambda m: m.map_folios(BASE, 1, orders=[1.5]), LayoutError, "orders has dtype float64"),
    ("map orders of bools", lambda m: m.map_folios(BASE, 1, orders=[True]), LayoutError, "orders has dtype bool"),
    ("map orders ragged", lambda m: m.map_folios(BASE, 1, orders=[[1], [1, 2]]), LayoutError, "not a regular array"),
    ("map orders too large", lambda m: m.map_folios(BASE, 1, orders=[10]), LayoutError, "orders holds 10"),
    ("map orders that wrap", lambda m: m.map_folios(BASE, 1, orders=big((1 << 64) - 1)), LayoutError, str((1 << 64) - 1)),
    ("map orders negative", lambda m: m.map_folios(BASE, 1, orders=[-1]), LayoutError, "orders holds -1"),
    ("map orders none", lambda m: m.map_folios(BASE, 1, orders=[]), LayoutError, "orders"),
    ("map orders too few", lambda m: m.map_folios(BASE, 512, orders=[4]), LayoutError, "covers 16 pages, expected at least 512"),
    ("map heads that wrap", lambda m: m.map_folios(BASE, 512, 9, heads=big((1 << 64) - 512)), LayoutError, "0xfffffffffffffe00"),
    ("map heads misaligned", lambda m: m.map_folios(BASE, 16, 4, heads=[2049]), LayoutError, "not aligned"),
    ("map heads of another number", lambda m: m.map_folios(BASE, 16, 4, heads=[2048, 2064]), LayoutError, "heads has 2 entries"),
    ("map heads below", lambda m: m.map_folios(BASE, 16, 4, heads=[0]), LayoutError, r"0x0\.\.0x10 have no metadata"),
    ("map heads as text", lambda m: m.map_folios(BASE, 1, heads="2048"), LayoutError, "heads has dtype <U4"),
    (
        "map heads side by half",
        lambda m: m.map_folios(BASE, 32, orders=[4, 4], heads=[2048, 2048 + 8]),
        LayoutError,
        "not aligned",
    ),
    (
        "map one frame in two folios",
        lambda m: m.map_folios(BASE, 24, orders=[4, 3], heads=[2048, 2056]),
        LayoutError,
        "frame 0x808",
    ),
    ("map skip all", lambda m: m.map_folios(BASE, 4, 2, skip=4), LayoutError, "skip=4 leaves no page"),
    ("map skip negative", lambda m: m.map_folios(BASE, 4, 2, skip=-1), LayoutError, "skip=-0x1"),
    ("map exclusive too short", lambda m: m.map_folios(BASE, 4, exclusive=[True]), LayoutError, r"shape \(1,\)"),
    ("map exclusive of floats", lambda m: m.map_folios(BASE, 1, exclusive=[math.nan]), LayoutError, "float64"),
    ("map exclusive as text", lambda m: m.map_folios(BASE, 4, exclusive="1x3"), LayoutError, "exclusive pattern '1x3'"),
    ("map exclusive file pages", lambda m: m.map_folios(BASE, 1, anon=False, exclusive=[True]), LayoutError, "not anonymous"),
    (
        "map more than there are frames",
        lambda m: m.map_folios(1 << 40, 1 << 32),
        LayoutError,
        "no metadata",
        lambda m: m.mmap(1 << 40, 1 << 44, RW),
    ),
    ("map young as text", lambda m: m.map_folios(BASE, 1, young="old"), LayoutError, "young='old'"),
    # entries
    ("ptes misaligned", lambda m: m.ptes(BASE + 8, 1), LayoutError, "0x200008"),
    ("ptes none", lambda m: m.ptes(BASE, 0), LayoutError, "length=0x0"),
    ("ptes beyond the tables", lambda m: m.ptes(BASE, 1025), LayoutError, "0x200000"),
    ("ptes without a table", lambda m: m.ptes(1 << 40, 1), LayoutError, "no page table at 0x10000000000"),
    ("leaf without a table", lambda m: m.leaf(1 << 40), LayoutError, "no page table"),
    ("leaf outside", lambda m: m.leaf(1 << 48), LayoutError, "addr=0x1000000000000"),
    ("walk negative", lambda m: m.walk(-1), LayoutError, "addr=-0x1"),
    ("set_ptes word negative", lambda m: m.set_ptes(BASE, -1, 1), LayoutError, "word=-0x1"),
    ("set_ptes word too large", lambda m: m.set_ptes(BASE, 1 << 64, 1), LayoutError, "word=0x10000000000000000"),
    ("set_ptes over a table's end", lambda m: m.set_ptes(BASE + 511 * PAGE, 1, 2), LayoutError, "2 entries from 0x3ff000"),
    ("set_ptes none", lambda m: m.set_ptes(BASE, 1, 0), LayoutError, "length=0x0"),
    ("set_pte_at misaligned", lambda m: m.set_pte_at(BASE + 1, 1), LayoutError, "0x200001"),
    ("ptep_get without a table", lambda m: m.ptep_get(1 << 40), LayoutError, "no page table"),
    ("wrprotect a hole", lambda m: m.wrprotect_ptes(HOLE), LayoutError, "nothing is mapped at 0x510000"),
    ("wrprotect over a table's end", lambda m: m.wrprotect_ptes(BASE, 513), LayoutError, "513 entries"),
    ("clear too many", lambda m: m.clear_full_ptes(BASE, 1 << 41), LayoutError, "nr=0x20000000000"),
    ("access flags of a hole", lambda m: m.set_access_flags(HOLE, 1), LayoutError, "nothing is mapped at 0x510000"),
    ("clean a hole", lambda m: m.clear_young_dirty(HOLE), LayoutError, "nothing is mapped at 0x510000"),
    ("reuse a hole", lambda m: m.reuse(HOLE), LayoutError, "nothing is mapped at 0x510000"),
    ("hw_update write as text", lambda m: m.hw_update(BASE, write="w"), LayoutError, "write='w'"),
    ("populate misaligned", lambda m: m.populate(BASE, 1), LayoutError, "length=0x1"),
    # calls
    ("mprotect start negative", lambda m: m.mprotect(-PAGE, PAGE, 1), LayoutError, "start=-0x1000"),
    ("mprotect start text", lambda m: m.mprotect("0x200000", PAGE, 1), LayoutError, "start='0x200000'"),
    ("mprotect length too large", lambda m: m.mprotect(BASE, 1 << 64, 1), LayoutError, "length=0x10000000000000000"),
    ("mprotect length float", lambda m: m.mprotect(BASE, 4096.0, 1), LayoutError, "length=4096.0"),
    ("mprotect prot None", lambda m: m.mprotect(BASE, PAGE, None), LayoutError, "prot=None"),
    ("mprotect pkey a truth value", lambda m: m.mprotect(BASE, PAGE, 1, pkey=True), LayoutError, "pkey=True"),
    ("mprotect pkey too small", lambda m: m.mprotect(BASE, PAGE, 1, pkey=-2), LayoutError, "pkey=-2"),
    ("mprotect trace as text", lambda m: m.mprotect(BASE, PAGE, 1, trace="yes"), LayoutError, "trace='yes'"),
    ("mprotect misaligned", lambda m: m.mprotect(BASE + 1, PAGE, 1), MprotectError, "0x200001"),
    ("mprotect unknown strategy", lambda m: m.mprotect(BASE, PAGE, 1, strategy="folo"), StrategyError, "did you mean 'folio'"),
    ("mprotect empty strategy", lambda m: m.mprotect(BASE, PAGE, 1, strategy=""), StrategyError, "strategy '' is unknown"),
    ("mprotect strategy None", lambda m: m.mprotect(BASE, PAGE, 1, strategy=None), StrategyError, "strategy None"),
    ("mprotect strategy bytes", lambda m: m.mprotect(BASE, PAGE, 1, strategy=b"folio"), StrategyError, "b'folio'"),
    (
        "mprotect strategy not a step",
        lambda m: m.mprotect(BASE, PAGE, 1, strategy=Strategy("x", "", "", step=42)),
        StrategyError,
        "'x' is not a step capsule",
    ),
    (
        "mprotect strategy of no row",
        lambda m: m.mprotect(BASE, PAGE, 1, strategy=Strategy("x", "", "")),
        StrategyError,
        "'x' has no compiled step",
    ),
    ("change misaligned", lambda m: m.change_protection(BASE + 1, 1, newprot=0, vm_flags=1), LayoutError, "0x200001"),
    (
        "change unknown cp flags",
        lambda m: m.change_protection(BASE, 1, newprot=0, vm_flags=1, cp_flags=16),
        LayoutError,
        "cp_flags=0x10",
    ),
    ("change newprot too large", lambda m: m.change_protection(BASE, 1, newprot=1 << 64, vm_flags=1), LayoutError, "newprot="),
    (
        "change of more than one VMA",
        lambda m: m.change_protection(BASE, 768, newprot=0, vm_flags=0x100B, cp_flags=4, anon=False),
        LayoutError,
        r"0x500000\) is not inside one VMA: one is \[0x200000, 0x400000\)",
        lambda m: m.mmap(BASE + 0x200000, 0x100000, RW, shared=True),
    ),
    ("change of a VMA's end and a hole", lambda m: m.change_protection(BASE, 513, newprot=0, vm_flags=3), LayoutError, "one VMA"),
    (
        "change with a flag of no kernel",
        lambda m: m.change_protection(BASE, 1, newprot=0, vm_flags=1 << 50),
        LayoutError,
        "flags of",
    ),
    ("change anon as text", lambda m: m.change_protection(BASE, 1, newprot=0, vm_flags=1, anon="yes"), LayoutError, "anon='yes'"),
    ("limits negative", lambda m: m.set_limits(data_pages=-1), LayoutError, "data_pages=-0x1"),
    ("limits too large", lambda m: m.set_limits(map_count=1 << 25), LayoutError, "map_count=0x2000000"),
    ("limits personality as text", lambda m: m.set_limits(read_implies_exec="x"), LayoutError, "read_implies_exec='x'"),
    (
        "too many keys",
        lambda m: m.pkey_alloc(),
        LayoutError,
        "all 7 protection keys",
        lambda m: [m.pkey_alloc() for _ in range(7)],
    ),
]


def test_there_are_enough_of_them():
    assert len(CALLS) >= 100
    assert len({row[0] for row in CALLS}) == len(CALLS)


@pytest.mark.parametrize("row", CALLS, ids=[row[0] for row in CALLS])
def test_a_bad_call_is_refused_and_changes_nothing(row):
    _, call, error, text, *prepare = row
    mm = world()
    for step in prepare:
        step(mm)
    before = state(mm)
    with pytest.raises(error, match=text):
        call(mm)
    assert state(mm) == before


KNOWN = {v for name, v in vars(bits).items() if name.startswith("VM_") and not name.endswith(("_SHIFT", "_MASK"))}
GIVEN = bits.VM_SHARED | bits.VM_MAYREAD | bits.VM_MAYWRITE | bits.VM_MAYEXEC | bits.VM_READ | bits.VM_WRITE | bits.VM_EXEC


@pytest.mark.parametrize("bit", range(64))
def test_a_flag_is_known_or_refused(bit):
    """A shadow stack and userfaultfd RWP are refused too, by name."""
    mm, flag = world(), 1 << bit
    taken = (flag in KNOWN or flag & bits.VM_PKEY_MASK) and not flag & (GIVEN | bits.VM_SHADOW_STACK)
    if taken:
        mm.mmap(ROOM, PAGE, RW, vm_flags=flag)
        assert mm.vmas()[1].flags & flag
        return
    with pytest.raises(LayoutError, match="give those with prot" if flag & GIVEN else "model does not know"):
        mm.mmap(ROOM, PAGE, RW, vm_flags=flag)


# ---- machines, address spaces, registry, accessors, results ----

MAKING = [
    ("machine kernel", lambda: Machine("6.13"), MachineError, "kernel '6.13' is not modelled"),
    ("machine kernel a number", lambda: Machine(kernel=7.3), MachineError, "kernel 7.3 is not modelled: it is not the text"),
    ("machine kernel a list", lambda: Machine(kernel=[]), MachineError, r"kernel \[\]"),
    ("machine granule", lambda: Machine(granule="8K"), MachineError, "granule '8K'"),
    ("machine granule a dict", lambda: Machine(granule={}), MachineError, "granule {}"),
    ("machine cont_ptes odd", lambda: Machine(cont_ptes=3), MachineError, "cont_ptes=3 "),
    ("machine cont_ptes one", lambda: Machine(cont_ptes=1), MachineError, "cont_ptes=1 "),
    ("machine cont_ptes negative", lambda: Machine(cont_ptes=-16), MachineError, "cont_ptes=-16"),
    (
        "machine cont_ptes beyond the table",
        lambda: Machine(cont_ptes=16, ptrs_per_pte=8),
        MachineError,
        "cont_ptes=16 does not fit",
    ),
    ("machine ptrs_per_pte huge", lambda: Machine(ptrs_per_pte=1 << 40), MachineError, "ptrs_per_pte=1099511627776"),
    ("machine ptrs_per_pte text", lambda: Machine(ptrs_per_pte="512"), MachineError, "ptrs_per_pte='512'"),
    ("machine cont_ptes a truth value", lambda: Machine(cont_ptes=True), MachineError, "cont_ptes=True"),
    ("machine bbml", lambda: Machine(bbml=4), MachineError, "bbml=4"),
    ("machine bbml NaN", lambda: Machine(bbml=math.nan), MachineError, "bbml=nan"),
    ("machine switch a number", lambda: Machine(contpte=1), MachineError, "contpte=1 is not a switch"),
    ("machine era switch text", lambda: Machine(needs_flush="on"), MachineError, "needs_flush='on'"),
    ("machine va_bits", lambda: Machine(va_bits=64), MachineError, "va_bits=64"),
    ("machine lpa2 of 64K", lambda: Machine(granule="64K", lpa2=True), MachineError, "lpa2=True"),
    ("parse nothing", lambda: Machine.parse(""), MachineError, "kernel '' is not modelled"),
    ("parse None", lambda: Machine.parse(None), MachineError, "None"),
    ("parse unknown switch", lambda: Machine.parse("7.3,bmml=3"), MachineError, "'bmml' is unknown; .* did you mean 'bbml'"),
    ("parse without a value", lambda: Machine.parse("7.3,kpti"), MachineError, "'kpti' has no value"),
    ("parse bad value", lambda: Machine.parse("7.3,kpti=maybe"), MachineError, "kpti='maybe'"),
    ("parse bad number", lambda: Machine.parse("7.3,bbml=three"), MachineError, "bbml='three'"),
    ("parse twice", lambda: Machine.parse("7.3,bbml=1,bbml=2"), MachineError, "'bbml' is given twice"),
    ("MM of a number", lambda: MM(7), LayoutError, "machine=7 is not a Machine"),
    ("MM of bytes", lambda: MM(b"7.3"), LayoutError, "b'7.3'"),
    ("MM of an unknown kernel", lambda: MM("5.15"), MachineError, "kernel '5.15'"),
    ("MM without pages", lambda: MM(nr_pages=0), LayoutError, "nr_pages=0x0"),
    ("MM of negative size", lambda: MM(nr_pages=-1), LayoutError, "nr_pages=-0x1"),
    ("MM of all memory", lambda: MM(nr_pages=1 << 36), LayoutError, "nr_pages=0x1000000000"),
    ("MM above memory", lambda: MM(pfn_base=1 << 36, nr_pages=1), LayoutError, "pfn_base=0x1000000000"),
    ("MM pages as float", lambda: MM(nr_pages=1e6), LayoutError, "nr_pages=1000000.0"),
    ("MM memo as text", lambda: MM(memo="no"), LayoutError, "memo='no'"),
    ("strategy by number", lambda: get_strategy(3), StrategyError, "strategy 3 is unknown"),
    ("register a taken name", lambda: register("folio", len), StrategyError, "'folio' exists already"),
    ("register no name", lambda: register("", len), StrategyError, "name '' "),
    ("register a name of two", lambda: register("a,b", len), StrategyError, "name 'a,b' "),
    ("register no step", lambda: register("x", 3), StrategyError, "step 3 is neither"),
    ("unregister the core's", lambda: unregister("folio"), StrategyError, "'folio' was not registered"),
    ("unregister unknown", lambda: unregister("x"), StrategyError, "'x' was not registered"),
    ("accessor negative", lambda: accessors.pte_modify(-1, 0), LayoutError, "pte=-0x1"),
    ("accessor too large", lambda: accessors.pte_modify(0, 1 << 64), LayoutError, "newprot=0x1"),
    ("accessor float", lambda: accessors.pte_mkold(1.5), LayoutError, "pte=1.5"),
    ("accessor text", lambda: accessors.predicates("1"), LayoutError, "pte='1'"),
    ("accessor granule", lambda: accessors.pte_pfn(1, 13), LayoutError, "page_shift=13"),
    ("accessor flags", lambda: accessors.pte_batch_clear_ignored(1, 8), LayoutError, "flags=0x8"),
    ("result by hand", lambda: Result(), TypeError, "made by a call"),
    ("window by hand", lambda: Window(len).addr, StrategyError, "only valid while"),
    ("counter unknown", lambda: world().mprotect(BASE, PAGE, 1)["pte_read"], KeyError, "'pte_read' is not a counter"),
    ("MM pickled", lambda: pickle.dumps(world()), TypeError, "__reduce__|pickle"),
    ("MM copied by copy", lambda: copy.deepcopy(world()), TypeError, "__reduce__|pickle"),
]


@pytest.mark.parametrize(("make", "error", "text"), [row[1:] for row in MAKING], ids=[row[0] for row in MAKING])
def test_what_cannot_be_is_refused(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_errors_of_arguments_are_value_errors():
    assert issubclass(LayoutError, PtebatchError) and issubclass(PtebatchError, ValueError) and issubclass(MprotectError, OSError)


def test_numbers_of_numpy_are_numbers():
    mm = MM(nr_pages=np.int64(4096))
    mm.mmap(np.uint64(BASE), np.int32(0x200000), np.int8(3), shared=np.False_)
    mm.map_folios(np.int64(BASE), np.uint16(512), np.uint8(9), exclusive=np.arange(512) % 2)
    result = mm.mprotect(np.uint64(BASE), np.int64(0x200000), np.uint8(1), trace=np.True_)
    assert result.pages == 512 and len(result.trace) and result.to_json()
