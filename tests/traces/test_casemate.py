"""Logs for casemate: the records of its grammar, the same steps as the trace, refusal of what it cannot say."""

from __future__ import annotations

import doctest
import io
import re

import numpy as np
import pytest

from ptebatch import MM, Machine, PtebatchError, bits
from ptebatch.events import KINDS
from ptebatch.traces import casemate
from ptebatch.traces import jsonl as events
from ptebatch.traces.casemate import LOCKS, TABLES, CasemateError

BASE = 0x7F12_3456_7000 & -(1 << 21)
NUMBER = {name: kind for kind, name in KINDS.items()}


def call(prot=1, machine="7.3", strategy="per-pte", nr=40, order=5, exclusive=None, before=None, first=3):
    mm = MM(machine, nr_pages=4096)
    page = mm.machine.page_size
    if before is None:
        before = 1 if prot & 2 else 3
    mm.mmap(BASE + 496 * page, nr * page, before)
    mm.map_folios(BASE + 496 * page, nr, order, exclusive=exclusive)
    return mm.mprotect(BASE + (496 + first) * page, (nr - 2 * first) * page, prot, strategy=strategy, trace=True)


def log_of(result, **how) -> str:
    out = io.StringIO()
    casemate.write(result, out, **{"as_el2": True, **how})
    return out.getvalue()


# ---- grammar: one pattern a record, as casemate's parser takes it ----

HEX = "([0-9a-f]{1,16})"
FIELDS = {
    "mem-write": rf"\(mem-order plain\) \(address {HEX}\) \(value {HEX}\)",
    "mem-read": rf"\(address {HEX}\) \(value {HEX}\)",
    "mem-init": rf"\(address {HEX}\) \(size {HEX}\)",
    "sysreg-write": rf"\(sysreg (tcr_el2|mair_el2|ttbr0_el2)\) \(value {HEX}\)",
    "hint": rf"\(kind (set_root_lock|set_owner_root)\) \(location {HEX}\) \(value {HEX}\)",
    "lock": rf"\(address {HEX}\)",
    "unlock": rf"\(address {HEX}\)",
    "barrier": r"dsb \(kind (ish|ishst)\)",
    "tlbi": rf"(?:vale2is \(value {HEX}\)|alle2is)",
}
RECORD = re.compile(r'\(([a-z-]+) \(id (\d+)\) \(tid 0\) (.*) \(src "mprotect:(\d+)"\)\)')


def records(text: str) -> list[tuple[str, tuple[str | None, ...]]]:
    """Every record with its fields; ids count from 0, and each line is of the grammar."""
    found = []
    for i, line in enumerate(text.splitlines()):
        match = RECORD.fullmatch(line)
        assert match and int(match[2]) == i, line
        fields = re.fullmatch(FIELDS[match[1]], match[3])
        assert fields, line
        found.append((match[1], fields.groups()))
    return found


# ---- what its model makes of them: the automaton of one descriptor, as its manual tells it ----


class Violation(Exception):
    pass


class Automaton:
    """States of leaf descriptors: valid, invalid but unclean (by how much), or clean.

    Before the root register is written, tables are memory.
    """

    def __init__(self, text: str) -> None:
        self.memory: dict[int, int] = {}
        self.unclean: dict[int, str] = {}
        self.reach: dict[int, int] = {}
        self.live, self.locked, self.tlbis, self.reads = False, set(), [], 0
        for event, fields in records(text):
            getattr(self, event.replace("-", "_"))(*fields)
        assert not self.locked

    def mem_init(self, at: str, size: str) -> None:
        self.memory |= dict.fromkeys(range(int(at, 16), int(at, 16) + int(size, 16), 8), 0)

    def sysreg_write(self, name: str, value: str) -> None:
        if name == "ttbr0_el2":
            self.live = True
            self.walk(int(value, 16), 0, 0)

    def walk(self, table: int, level: int, ia: int) -> None:
        for i in range(512):
            at, size = table + 8 * i, 1 << 39 - 9 * level
            if level == 3:
                self.reach[ia + i * size] = at
            elif self.memory[at] & 1:
                assert self.memory[at] & 3 == 3
                self.walk(self.memory[at] & 0xFFFF_FFFF_F000, level + 1, ia + i * size)

    def mem_write(self, at: str, value: str) -> None:
        where, new = int(at, 16), int(value, 16)
        old = self.memory[where]
        if self.live:
            assert self.locked, "a tree is written under its lock"
            if where in self.unclean and new & 1:
                raise Violation("BBM invalid unclean->valid")
            if where not in self.unclean and old & 1:
                if new & 1 and (old ^ new) & ~(0xF << 55):
                    raise Violation("BBM valid->valid")
                if not new & 1:
                    self.unclean[where] = "unguarded"
        self.memory[where] = new

    def mem_read(self, at: str, value: str) -> None:
        self.reads += 1
        assert self.memory[int(at, 16)] == int(value, 16)

    def barrier(self, kind: str) -> None:
        for where, state in list(self.unclean.items()):
            if state == "unguarded":
                self.unclean[where] = "dsbed"
            elif state == "tlbied" and kind == "ish":
                del self.unclean[where]

    def tlbi(self, page: str | None) -> None:
        self.tlbis.append(page)
        for where, state in self.unclean.items():
            hit = page is None or self.reach.get(int(page, 16) << 12) == where
            if hit and state == "dsbed" and LOCKS in self.locked:
                self.unclean[where] = "tlbied"

    def hint(self, kind: str, location: str, value: str) -> None:
        assert int(location, 16) in self.memory

    def lock(self, at: str) -> None:
        assert int(at, 16) not in self.locked
        self.locked.add(int(at, 16))

    def unlock(self, at: str) -> None:
        self.locked.remove(int(at, 16))


@pytest.mark.parametrize("prot", [0, 1, 3, 5])
@pytest.mark.parametrize("strategy", ["per-pte", "folio", "lookahead"])
@pytest.mark.parametrize("machine", ["6.12", "6.17,tlb_range=off", "7.3,bbml=3", "7.3,repeat_tlbi=on", "7.3,contpte=off"])
def test_records_are_those_of_the_grammar(machine, strategy, prot):
    result = call(prot, machine, strategy, exclusive=[i % 7 < 4 for i in range(40)])
    found = records(log_of(result))
    assert found[0] == ("sysreg-write", ("tcr_el2", "10")) and found[-1] == ("unlock", (f"{LOCKS:x}",))


def replayed(text: str, base: int) -> list[tuple[str, int, int]]:
    """Loads, stores, TLBIs and barriers after the start, with the virtual addresses that descriptors map."""
    automaton = Automaton.__new__(Automaton)
    automaton.memory, automaton.unclean, automaton.reach, automaton.live = {}, {}, {}, False
    found, started = [], False
    for event, fields in records(text):
        if not started:
            if event in ("mem-init", "mem-write"):
                automaton.mem_init(*fields) if event == "mem-init" else automaton.mem_write(*fields)
            elif fields[0] == "ttbr0_el2":
                automaton.walk(int(fields[1], 16), 0, 0)
                started, where = True, {at: ia for ia, at in automaton.reach.items()}
        elif event in ("mem-read", "mem-write"):
            found.append((event, where[int(fields[0], 16)], int(fields[1], 16)))
        elif event == "tlbi":
            found.append((event, int(fields[0], 16) << 12 if fields[0] else -1, 0))
        elif event == "barrier":
            found.append((event, 0, len(fields[0])))
    return found


@pytest.mark.parametrize("machine", ["7.3", "6.12,tlb_range=off", "6.17,repeat_tlbi=on"])
@pytest.mark.parametrize("prot", [0, 1, 3])
def test_the_log_tells_the_steps_of_the_trace(machine, prot):
    result = call(prot, machine, "folio", exclusive=[i % 7 < 4 for i in range(40)])
    wanted = []
    for kind, addr, value in result.trace.tolist():
        name = KINDS[kind]
        if name in ("R", "X"):
            wanted.append(("mem-read", addr, value))
        if name in ("W", "X", "C"):
            wanted.append(("mem-write", addr, 0 if name == "X" else value))
        if name in ("VALE1IS", "RVALE1IS"):
            wanted += [("tlbi", page, 0) for page in range(addr, addr + (value or 1) * 4096, 4096)]
        if name.startswith("DSB"):
            wanted.append(("barrier", 0, len(name) - 4))
    assert replayed(log_of(result), BASE) == wanted


def test_an_asid_tlbi_is_one_for_everything():
    result = call(0, "7.3,tlb_range=off,contpte=off", nr=1040, order=0)
    assert "ASIDE1IS" in {KINDS[kind] for kind in result.trace["kind"].tolist()}
    assert Automaton(log_of(result)).tlbis == [None]


def test_prot_none_passes_and_ends_clean():
    found = Automaton(log_of(call(0, "7.3,contpte=off")))
    assert found.unclean == {} and found.tlbis and found.reads


def test_a_conversion_passes():
    """Unfolding a live block is break-before-make as it should be; the call itself then makes it invalid."""
    result = call(0, "7.3", first=19, order=6, nr=64)
    assert result["unfolds"]
    found = Automaton(log_of(result))
    assert len(found.tlbis) > 16


def test_a_conversion_without_its_tlbi_does_not():
    result = call(0, "7.3", first=19, order=6, nr=64)
    kept = result.trace[~np.isin(result.trace["kind"], [NUMBER["RVALE1IS"], NUMBER["VALE1IS"]])]
    trace = events.Trace.of(result)
    with pytest.raises(Violation, match="unclean->valid"):
        Automaton(log_of(events.Trace(trace.machine, trace.strategy, trace.start, trace.length, trace.prot, kept)))


@pytest.mark.parametrize("prot", [1, 3])
def test_a_change_of_permission_is_judged_more_strictly_than_by_the_architecture(prot):
    with pytest.raises(Violation, match="unclean->valid"):
        Automaton(log_of(call(prot, "7.3,contpte=off")))


def test_the_last_flush_comes_under_the_lock_of_the_tree():
    text = log_of(call(0))
    names = [event for event, _ in records(text)]
    last = len(names) - 1 - names[::-1].index("tlbi")
    assert names.index("lock") < last < len(names) - 1 and names[last:].count("unlock") == 1


def test_tables_stand_where_they_are_said_to():
    inits = [int(fields[0], 16) for event, fields in records(log_of(call(0))) if event == "mem-init"]
    assert inits == [TABLES + i * 4096 for i in range(len(inits))] and len(inits) == 5  # two leaf tables


# ---- refusals ----

REFUSED = {
    "EL1": (lambda: call(), {"as_el2": False}, "no stage 1 tables of EL1"),
    "64K": (lambda: call(machine="7.3,granule=64K"), {}, "64K"),
    "small tables": (lambda: call(machine="7.3,cont_ptes=4,ptrs_per_pte=8", order=2), {}, "8 entries"),
    "LPA2": (lambda: call(machine="7.3,lpa2=on"), {}, "LPA2"),
    "KPTI": (lambda: call(machine="7.3,kpti=on"), {}, "second ASID"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_cannot_say_is_refused(name, tmp_path):
    make, how, words = REFUSED[name]
    with pytest.raises(CasemateError, match=words):
        casemate.write(make(), tmp_path / "log", **{"as_el2": True, **how})
    assert not (tmp_path / "log").exists() and issubclass(CasemateError, PtebatchError)


def test_a_bare_change_protection_is_refused():
    mm = MM(nr_pages=64)
    mm.populate(BASE, 1 << 21)
    result = mm.change_protection(BASE, 4, newprot=bits.PAGE_READONLY, vm_flags=1, trace=True)
    with pytest.raises(CasemateError, match="mutex"):
        log_of(result)


def test_a_high_address_is_refused():
    with pytest.raises(CasemateError, match="48 bits"):
        log_of(events.Trace(Machine(), "folio", 1 << 48, 4096, 1, np.zeros(0, events.EVENT)))


def test_a_trace_that_does_not_say_how_it_began_is_refused():
    trace = events.Trace(Machine(), "folio", 0, 4096, 1, np.array([(NUMBER["W"], 0, 1)], events.EVENT))
    with pytest.raises(CasemateError, match="before it reads it"):
        log_of(trace)


def test_a_file_may_be_named(tmp_path):
    result = call()
    casemate.write(result, tmp_path / "log", as_el2=True)
    assert (tmp_path / "log").read_text() == log_of(result)


def test_examples_of_the_docstrings():
    result = doctest.testmod(casemate)
    assert result.failed == 0 and result.attempted > 5
