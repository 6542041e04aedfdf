"""The reference against golden vectors and hardware traces: everything recorded, nothing left out."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from ptebatch import bits as b
from ptebatch.counters import GOLDEN
from ptebatch.machine import Machine
from ptebatch.reference import RefMM, contpte
from ptebatch.reference import folio_batch as folio
from ptebatch.reference import pte as p

DATA = Path(__file__).parents[1] / "data"
STRATEGY = {
    "l612": "per-pte",
    "l73": "folio",
    "l73_bbml3": "folio",
    "nested": "nested",
    "stateless": "lookahead",
    "iter": "iterator",
    "merged": "merged",
}


@cache
def load(path: str) -> Any:
    with gzip.open(DATA / path) as f:
        return json.load(f)


def expand(runs: list[Any], vectors: Any) -> list[int]:
    words = [int(word, 16) + (j * step << vectors["page_shift"]) for nr, word, step in runs for j in range(nr)]
    return words + [0] * (2 * vectors["ptrs_per_pte"] - len(words))


def machine_of(scenario: Any, engine: str) -> Machine:
    bbml = 3 if engine == "l73_bbml3" or (scenario["bbml"] and engine != "l612") else 0
    return Machine("6.12" if engine == "l612" else "7.3", f"{scenario['g']}K", bbml=bbml)


def address_space(scenario: Any, machine: Machine) -> RefMM:
    mm = RefMM(machine)
    mm.populate(int(scenario["base"], 16), 2 * machine.ptrs_per_pte * machine.page_size)
    for head, order, anon, numa_skip in scenario["folios"]:
        mm.set_folio(head, order, anon=bool(anon), numa_skip=bool(numa_skip))
    return mm


def words_of(mm: RefMM, base: int) -> list[int]:
    return [mm.ptes[base + i * mm.page_size] for i in range(2 * mm.machine.ptrs_per_pte)]


def differences(scenario: Any, engine: str, vectors: Any) -> list[str]:
    """What the reference does otherwise than the kernel's functions did."""
    want = scenario["res"][engine]
    base = int(scenario["base"], 16)
    mm = address_space(scenario, machine_of(scenario, engine))
    page = mm.page_size
    mm.ptes.update({base + i * page: word for i, word in enumerate(expand(scenario["init"], vectors))})
    for pfn, nr in scenario["pae"]:
        mm.set_page_anon_exclusive(pfn, nr)
    got = mm.change_protection(
        base + scenario["start"] * page,
        scenario["nr"],
        newprot=int(scenario["newprot"], 16),
        cp_flags=scenario["cp"],
        vm_flags=scenario["vmf"],
        anon=bool(scenario["anon"]),
        strategy=STRATEGY[engine],
    )
    final = want["fin"]
    while isinstance(final, str):
        final = scenario["res"][final[1:]]["fin"]
    gathered = [[(low - base) // page, (high - base) // page] for low, high in got.gathers] or [[-1, -1]]
    facts = {
        "ptes": (words_of(mm, base), expand(final, vectors)),
        "pages": (got.pages, want["pages"]),
        "b": (got.batches, want["b"]),
        "s": (got.subs, want["s"]),
        "fl": ([[(addr - base) // page, nr] for addr, nr in got.flushes], want["fl"]),
        "ga": (gathered, [want["ga"]]),
        **{name: (got.counters[name], value) for name, value in zip(GOLDEN, want["c"], strict=True)},
    }
    return [f"{scenario['name']} {engine} {name}" for name, (ours, theirs) in facts.items() if ours != theirs]


def all_differences(path: str, every: int = 1) -> Iterator[str]:
    vectors = load(path)
    assert tuple(vectors["counters"]) == GOLDEN
    for scenario in vectors["scenarios"][::every]:
        for engine in scenario["res"]:
            yield from differences(scenario, engine, vectors)


EVERY = [
    ("golden/named.json.gz", 1),
    ("golden/named_16k.json.gz", 5),
    pytest.param("golden/named_16k.json.gz", 1, marks=pytest.mark.slow),
    ("golden/random_a.json.gz", 10),
]


@pytest.mark.parametrize(("path", "every"), EVERY)
def test_golden_vectors(path: str, every: int) -> None:
    assert list(all_differences(path, every)) == []


@pytest.mark.slow
def test_all_random_golden_vectors() -> None:
    assert list(all_differences("golden/random_a.json.gz")) == []


# Bad twins: one rule broken, and the vectors tell


def broken_gather(mm: contpte.Contpte, addr: int, word: int) -> int:
    return word


def broken_batch(self: folio.Pages, *args: Any, **kw: Any) -> int:
    kw["respect_write"] = False
    return intact_batch(self, *args, **kw)


intact_batch = folio.Pages.folio_pte_batch
TWINS = {
    "ptep_get() does not gather": (contpte.Contpte, "_gather_early_exit", broken_gather),
    "a batch ignores WRITE": (folio.Pages, "folio_pte_batch", broken_batch),
    "nothing is ever folded": (contpte.Contpte, "_try_fold", lambda self, addr, word: None),
    "edge blocks stay folded": (contpte.Contpte, "_unfold_partial", lambda self, addr, nr: None),
    "every change needs a flush": (p, "pte_needs_flush", lambda machine, old, new: True),
    "mkwrite makes clean entries dirty": (p, "pte_mkwrite", lambda pte, always=False: (pte | b.PTE_WRITE) & ~b.PTE_RDONLY),
    "conversions lose dirty": (p, "pte_mkdirty", lambda pte: pte),
}


@pytest.mark.parametrize("twin", TWINS)
def test_a_broken_rule_shows_in_the_vectors(twin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, wrong = TWINS[twin]
    monkeypatch.setattr(owner, name, wrong)
    vectors = chain(all_differences("golden/named.json.gz", 3), all_differences("golden/random_a.json.gz", 10))
    assert next(vectors, None) is not None


# How the start states were made: replaying the recorded steps gives them


def replay(mm: RefMM, base: int, op: list[Any]) -> None:
    name, *args = op
    addr = base + args[0] * mm.page_size if name not in ("pae", "mprotect73") else 0
    if name == "map":
        _, pfn, nr, flags, state = args
        word = p.pfn_pte(mm.page_shift, pfn, b.PROTECTION_MAP[flags & 15])
        word = p.pte_mkyoung(word) if state & 4 else p.pte_mkold(word)
        for bit, change in ((2, p.pte_mkdirty), (1, p.pte_mkwrite), (8, p.pte_mkspecial), (16, p.pte_mkuffd)):
            word = change(word) if state & bit else word
        while nr:
            part = min(nr, mm.machine.ptrs_per_pte - mm.pte_index(addr))
            mm.set_ptes(addr, word, part)
            addr, nr = addr + part * mm.page_size, nr - part
            word = p.pte_advance_pfn(mm.page_shift, word, part)
    elif name == "pae":
        pfn, nr, on = args
        if mm.page_folio(pfn).anon or on:  # a file's pages cannot be exclusive: clearing that is recorded too
            mm.set_page_anon_exclusive(pfn, nr, bool(on))
    elif name in ("wrprotect", "clear"):
        (mm.wrprotect_ptes if name == "wrprotect" else mm.clear_full_ptes)(addr, args[1])
    elif name == "hw":
        mm.hw_update(addr, bool(args[1]))
    elif name == "reuse":
        mm.reuse(addr)
    elif name == "swp":
        _, kind, offset, exclusive, uffd = args
        mm.set_pte_at(addr, p.swp_entry(kind, offset) | exclusive * b.PTE_SWP_EXCLUSIVE | uffd * b.PTE_SWP_UFFD)
    else:
        flags, prot_flags, cp_flags, anon, first, nr = args
        newprot = b.PAGE_NONE if cp_flags & b.MM_CP_PROT_NUMA else b.PROTECTION_MAP[prot_flags & 15]
        start = base + first * mm.page_size
        mm.change_protection(start, nr, newprot=newprot, cp_flags=cp_flags, vm_flags=flags, anon=bool(anon))


@pytest.mark.parametrize(("path", "every"), [("golden/named.json.gz", 1), ("golden/random_a.json.gz", 10)])
def test_replaying_the_steps_gives_the_start_state(path: str, every: int) -> None:
    vectors = load(path)
    for scenario in vectors["scenarios"][::every]:
        base = int(scenario["base"], 16)
        mm = address_space(scenario, Machine("7.3", f"{scenario['g']}K"))
        for op in scenario["ops"]:
            replay(mm, base, op)
        assert words_of(mm, base) == expand(scenario["init"], vectors), scenario["name"]
        assert mm.anon_exclusive == {pfn + i for pfn, nr in scenario["pae"] for i in range(nr)}, scenario["name"]


# Hardware: order and place of every access


def traced(record: Any) -> tuple[list[Any], list[Any], list[str], list[str]]:
    """Events and words of one recorded window: ours, theirs."""
    machine = Machine(".".join(record["kernel"].split(".")[:2]), f"{record['page'] // 1024}K")
    mm = RefMM(machine)
    table = record["va"] if isinstance(record["va"], int) else int(record["va"], 16)
    table -= record["va_idx"] * record["page"]
    mm.populate(table, machine.ptrs_per_pte * record["page"])
    for head, order in record["folios"]:
        mm.set_folio(head, order)
    for i, (word, exclusive) in enumerate(zip(record["ptes_before"], record["excl"], strict=True)):
        mm.ptes[table + (record["va_idx"] + i) * record["page"]] = int(word, 16)
        if exclusive == "1":
            mm.set_page_anon_exclusive(p.pte_pfn(mm.page_shift, int(word, 16)))
    prot, ours = record["prot"], []

    def observer(kind: str, addr: int, value: int) -> None:
        index = (addr - table) // record["page"]
        if kind in ("R", "W"):
            ours.append((kind, index))
        elif kind == "X":
            ours.extend([("R", index), ("W", index)])
        elif kind.endswith("1IS"):
            ours.append(("TLBI " + kind, None))
        elif kind.startswith("DSB"):
            ours.append(({"DSB ISHST": "DSB #10", "DSB ISH": "DSB #11"}[kind], None))

    mm.change_protection(
        table + record["first_idx"] * record["page"],
        record["ptes"],
        newprot=b.PAGE_READONLY if prot else b.PAGE_NONE,
        cp_flags=b.MM_CP_TRY_CHANGE_WRITABLE if prot & 2 else 0,
        vm_flags=prot,
        strategy=machine.strategy,
        observer=observer,
    )
    theirs = [(kind, index) for kind, index, _ in record["events"] if kind != "E"]
    after = [f"{mm.ptes[table + (record['va_idx'] + i) * record['page']]:x}" for i in range(len(record["ptes_after"]))]
    return ours, theirs, after, record["ptes_after"]


TRACES = sorted(path.name for path in (DATA / "hardware").glob("*.trace.json.gz"))


@pytest.mark.parametrize("name", TRACES)
def test_hardware_traces(name: str) -> None:
    for record in load(f"hardware/{name}"):
        ours, theirs, after, recorded = traced(record)
        assert after == recorded, record["label"]
        assert ours == theirs, record["label"]


def test_there_are_traces() -> None:
    assert len(TRACES) >= 3


def test_an_access_out_of_order_shows_in_the_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    def backwards(mm: RefMM, addr: int, nr: int) -> int:
        words = [mm.raw_get_and_clear(addr + i * mm.page_size) for i in reversed(range(nr))]
        return words[-1]

    monkeypatch.setattr(RefMM, "raw_get_and_clear_full", backwards)
    results = [traced(record) for name in TRACES for record in load(f"hardware/{name}")]
    assert any(ours != theirs for ours, theirs, _, _ in results)
