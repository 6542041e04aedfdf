"""The laws themselves: each breaks when one thing is broken, in the compiled judge and in plain Python alike."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptebatch import bits as b
from ptebatch.checker.check import Checker
from ptebatch.checker.counterexample import judged
from ptebatch.checker.laws import rows as laws
from ptebatch.checker.laws.rows import LAWS, equivalent, law_of
from ptebatch.checker.laws.run import Replayed, Run
from ptebatch.checker.worlds.random import random_chunks
from ptebatch.checker.worlds.small import CHANGES, SmallWorld
from ptebatch.events import KINDS
from ptebatch.machine import Machine

SMALL = "7.3,cont_ptes=4,ptrs_per_pte=8"
KIND = {name: number for number, name in KINDS.items()}


def ran(strip: str, folios: str, call: str, machine: str = SMALL, strategy: str = "folio") -> Run:
    """What a sound loop leaves of a world."""
    world = SmallWorld.parse(machine, strip, folios=folios, call=call)
    law, run = judged(Checker(world.machine, strategy), world, updates=0)
    assert law == 0
    return run


def verdict(run: Run) -> int:
    """Number of the law that the compiled judge says is broken."""
    world, again = run.world, run.replayed
    flushed = {name: n for name, n in run.counters.items() if name.startswith("flush_")}  # the final one: of a traced run only
    law, _ = Checker(world.machine, "folio", strict=True).judge_outcome(
        world.ptes, world.pages, world.call, after=run.after, counters=run.counters, returned=run.pages,
        walked=(run.stopped, run.started), gathered=run.gathered, events=run.events, updates=run.updates, reset=run.reset,
        replayed=None if again is None else (again.after, again.pages, {**again.counters, **flushed}, again.gathered),
    )  # fmt: skip
    return law


# ---- what is broken, one thing at a time ----

Tamper = Callable[[Run], Run]


def word(i: int, flip: int = 0, **changes: int) -> Tamper:
    """Flip bits of the word that entry i holds afterwards, or put another one there."""

    def tamper(run: Run) -> Run:
        after = list(run.after)
        after[i] = changes.get("to", after[i] ^ flip)
        return replace(run, after=tuple(after))

    return tamper


def count(**by: int) -> Tamper:
    return lambda run: replace(run, counters={**run.counters, **{name: run.counters[name] + n for name, n in by.items()}})


def left(**fields: object) -> Tamper:
    return lambda run: replace(run, **fields)


def again(tamper: Tamper) -> Tamper:
    """Break what the second run left, in which what repeats is replayed, and not the first."""

    def tampered(run: Run) -> Run:
        assert run.replayed is not None
        twin = tamper(run)
        kept = {name: n + twin.counters[name] - run.counters[name] for name, n in run.replayed.counters.items()}
        return replace(run, replayed=Replayed(twin.after, twin.pages, kept, twin.gathered))

    return tampered


def without(name: str, nth: int = 0) -> Tamper:
    """Take one event out."""

    def tamper(run: Run) -> Run:
        at = [k for k, event in enumerate(run.events) if KINDS[event[0]] == name][nth]
        return replace(run, events=run.events[:at] + run.events[at + 1 :])

    return tamper


def event(name: str, nth: int, addr: int = 0, value: int = 0) -> Tamper:
    """Flip address and value of one event."""

    def tamper(run: Run) -> Run:
        events = list(run.events)
        at = [k for k, found in enumerate(events) if KINDS[found[0]] == name][nth]
        kind, was, had = events[at]
        events[at] = kind, was ^ addr, had ^ value
        return replace(run, events=events)

    return tamper


def apart(run: Run) -> list[tuple[int, int, int]]:
    """The same, as if each entry were started and committed by itself, one after the other."""
    found = []
    for kind, addr, nr in run.events:
        if KINDS[kind] == "START":
            found += [(KIND[what], addr + (k << 12), 1) for k in range(nr) for what in ("START", "COMMIT")]
        elif KINDS[kind] != "COMMIT":
            found.append((kind, addr, nr))
    return found


PAIR = ran("RO,n,clean,pfn=0x400.. x2", "0x400:1=se", "rw [0, 2)")
DIRTY = ran("RO,n,sw,pfn=0x400 RO,n,clean,old,pfn=0x402", "0x400:0=s 0x402:0=s", "rx [0, 2)")
YOUNG = ran("RO,n,sw,pfn=0x400 RO,n,clean,pfn=0x402", "0x400:0=s 0x402:0=s", "rx [0, 2)")
FOLDED = ran("RW,c,pfn=0x400.. x4 RW,c,pfn=0x404.. x4", "0x400:3=eeeeeeee", "ro [2, 4)")
WHOLE = ran("RW,c,pfn=0x400.. x4 none none none none", "0x400:2=eeee", "ro [0, 4)")
CUT = ran("RO,n,clean,pfn=0x400.. x4 none RO,n,pfn=0x410 none none", "0x400:2=ssss 0x410:0=s", "rx [1, 3)")
NOTIFY = ran("RO,n,clean,pfn=0x400 RO,n,sw,pfn=0x402", "0x400:0=f 0x402:0=f", "rw-notify [0, 2)")
NEIGHBOUR = ran("RO,n,clean,pfn=0x400 RO,n,sw,pfn=0x401", "0x400:1=ff", "rw-notify [0, 2)")
HALF = ran("RO,n,old,pfn=0x400 RO,n,pfn=0x401", "0x400:1=ss", "rx [0, 2)")
SHARED = ran("RO,n,pfn=0x400", "0x400:0=f", "rw-shared [0, 1)")
NONE = ran("RO,n,pfn=0x400.. x4 none none none none", "0x400:2=ssss", "none [0, 4)")
SWAP = ran("swap2,off=5 none RO,n,pfn=0x400", "0x400:0=s", "ro [0, 3)")
NUMA = ran("RO,n,pfn=0x400 RO,n,pfn=0x402", "0x400:0=s,numa-skip 0x402:0=s", "numa [0, 2)")
MISALIGNED = ran("RO,n,pfn=0x401.. x4", "0x400:3=ssssssss", "rx [0, 4)")
WRITABLE = ran("RO,n,sw,pfn=0x400", "0x400:0=e", "rw [0, 1)")
CONT = b.PTE_CONT

#: law, what it is about, a sound run, and what is broken
TWINS: tuple[tuple[str, str, Run, Tamper], ...] = (
    ("PARTITION", "ends early", PAIR, left(stopped=1)),
    ("COMMITTED", "left cleared", PAIR, left(started=1)),
    ("OUTSIDE", "far from the range", CUT, word(5, b.PTE_UXN)),
    ("OUTSIDE", "an empty entry", CUT, word(7, to=b.PAGE_READONLY)),
    ("OUTSIDE", "in the block that the range cuts", CUT, word(0, b.PTE_UXN)),
    ("OUTSIDE", "accessed, in another block", CUT, word(5, b.PTE_AF)),
    ("OUTSIDE", "hardware may write, in another block", CUT, word(5, b.PTE_RDONLY)),
    ("PRESERVED", "accessed, where prot_numa leaves it alone", NUMA, word(0, b.PTE_AF)),
    ("CLASS", "an empty entry is filled", SWAP, word(1, to=b.PAGE_READONLY)),
    ("CLASS", "a present entry is lost", PAIR, word(1, to=0)),
    ("CLASS", "a swap entry becomes present", SWAP, word(0, b.PTE_NG)),
    ("PRESERVED", "executable", PAIR, word(0, b.PTE_UXN)),
    ("PRESERVED", "another frame", PAIR, word(0, 1 << 12)),
    ("PRESERVED", "shareability", PAIR, word(0, 1 << 8)),
    ("PRESERVED", "special", PAIR, word(1, b.PTE_SPECIAL)),
    ("PRESERVED", "userfaultfd", PAIR, word(1, b.PTE_UFFD)),
    ("PRESERVED", "bit 63", PAIR, word(1, 1 << 63)),
    ("PRESERVED", "what prot_numa leaves alone", NUMA, word(0, b.PTE_UXN)),
    ("EXCLUSIVE", "given to a shared page", PAIR, word(0, b.PTE_WRITE)),
    ("UPGRADED", "withheld from an exclusive page", PAIR, word(1, b.PTE_WRITE)),
    ("SHARED_WRITE", "given to a clean entry", NOTIFY, word(0, b.PTE_WRITE)),
    ("SHARED_WRITE", "given to an entry that is left clean", NEIGHBOUR, word(0, b.PTE_DIRTY | b.PTE_RDONLY)),
    ("UPGRADED", "withheld from a dirty entry", NOTIFY, word(1, b.PTE_WRITE | b.PTE_RDONLY)),
    ("WRITE_KEPT", "given where none is asked", DIRTY, word(0, b.PTE_WRITE | b.PTE_RDONLY)),
    ("WRITE_KEPT", "lost from the protection", SHARED, word(0, b.PTE_WRITE | b.PTE_RDONLY * bool(SHARED.after[0] & b.PTE_WRITE))),
    ("AD_KEPT", "accessed is lost", DIRTY, word(0, b.PTE_AF)),
    ("AD_KEPT", "dirty is lost", DIRTY, word(0, b.PTE_DIRTY)),
    ("AD_KEPT", "dirty is lost beside the range", FOLDED, word(1, b.PTE_AF)),
    ("AD_SPREAD", "accessed from nowhere", DIRTY, word(1, b.PTE_AF)),
    ("AD_SPREAD", "dirty from another folio", DIRTY, word(1, b.PTE_DIRTY)),
    ("AD_SPREAD", "accessed from an entry started and committed apart", HALF, lambda run: replace(run, events=apart(run))),
    ("SHARED_WRITE", "a dirty entry started and committed apart", NEIGHBOUR, lambda run: replace(run, events=apart(run))),
    ("DIRTY_STATE", "hardware may write", PAIR, word(0, b.PTE_RDONLY)),
    ("DIRTY_STATE", "dirty and read-only", WRITABLE, word(0, b.PTE_RDONLY)),
    ("CONTPTE", "part of a block", CUT, word(1, CONT)),
    ("CONTPTE", "frames that are not aligned", MISALIGNED, lambda run: replace(run, after=tuple(
        w | CONT if i < 4 else w for i, w in enumerate(run.after)))),
    ("CONTPTE", "one entry of a block unfolded", WHOLE, word(2, CONT)),
    ("CONT_VALID", "CONT under PROT_NONE", NONE, word(3, CONT)),
    ("FLUSH", "nothing is gathered", YOUNG, left(gathered=None)),
    ("FLUSH", "one page short", YOUNG, left(gathered=(0, 4096))),
    ("FLUSH", "one page late", YOUNG, left(gathered=(4096, 8192))),
    ("RETURN", "one too many", PAIR, left(pages=3)),
    ("RETURN", "nothing", PAIR, left(pages=0)),
    ("COUNTS", "exchanges", PAIR, count(pte_xchg=1)),
    ("COUNTS", "stores", PAIR, count(pte_writes=-1)),
    ("COUNTS", "compare and exchange", PAIR, count(pte_cmpxchg=1)),
    ("COUNTS", "sets", PAIR, count(set_ptes=1)),
    ("COUNTS", "commits", PAIR, count(prot_commit=9, set_ptes=9)),
    ("COUNTS", "starts", PAIR, count(prot_start=2)),
    ("COUNTS", "gathers", PAIR, count(gather_calls=2)),
    ("COUNTS", "sub-batches", PAIR, count(n_subs=-1)),
    ("COUNTS", "fold tries", WHOLE, count(folds=1, pte_xchg=4, pte_writes=4, convert_tlbi=1, convert_tlbi_pages=4)),
    ("COUNTS", "unfolds", FOLDED, count(unfold_calls=1)),
    ("COUNTS", "a batch is recorded twice", PAIR, lambda run: replace(run, events=[*run.events, (KIND["BATCH"], 0, 1)])),
    ("COUNTS", "more is flushed than was asked for", PAIR, left(gathered=(0, 3 * 4096))),
    ("CONVERT_FLUSH", "one is missing", FOLDED, count(convert_tlbi=-1, convert_tlbi_pages=-4)),
    ("CONVERT_FLUSH", "one page short", FOLDED, count(convert_tlbi_pages=-1)),
    ("TLB_RIGHTS", "no TLBI", WHOLE, without("RVALE1IS")),
    ("TLB_RIGHTS", "no barrier behind the TLBI", WHOLE, without("DSB ISH", -1)),
    ("TLB_RIGHTS", "no barrier before the TLBI", WHOLE, without("DSB ISHST", -1)),
    ("TLB_RIGHTS", "another address", NONE, event("RVALE1IS", -1, addr=4 << 12)),
    ("BBM", "no TLBI inside a conversion", FOLDED, without("RVALE1IS", 0)),
    ("BBM", "another frame", WHOLE, event("W", 0, value=1 << 12)),
    ("BBM", "shareability", WHOLE, event("W", 1, value=1 << 8)),
    ("HARDWARE", "written to, not kept", SHARED, left(updates=[(1, 0, True)])),
    ("HARDWARE", "accessed, not kept", DIRTY, left(updates=[(1, 1, False)])),
    ("SOFTLEAF_KEPT", "its offset", SWAP, word(0, 1 << 12)),
    ("SOFTLEAF_KEPT", "its userfaultfd bit", SWAP, word(0, b.PTE_SWP_UFFD)),
    ("SOFTLEAF_KEPT", "gone", SWAP, word(0, to=0x40)),
    ("UNIT", "a start is missing", PAIR, without("START")),
    ("UNIT", "a commit is missing", PAIR, without("COMMIT")),
    ("UNIT", "one entry too many", CUT, event("START", 0, value=2 ^ 3)),
    ("UNIT", "two folios in one", DIRTY, event("START", 0, value=1 ^ 2)),
    ("UNIT", "started twice", DIRTY, lambda run: replace(run, events=_twice(run.events))),
    ("GATHER_RESET", "what was flushed stays", PAIR, left(reset=False)),
    ("REPLAY", "another word", WRITABLE, again(word(0, b.PTE_WRITE))),
    ("REPLAY", "another word, beyond the range", CUT, again(word(7, to=b.PAGE_READONLY))),
    ("REPLAY", "the return value", PAIR, again(left(pages=1))),
    ("REPLAY", "a counter", PAIR, again(count(pte_reads=1))),
    ("REPLAY", "a gather that is longer", DIRTY, again(left(gathered=(0, 3 * 4096)))),
    ("REPLAY", "no gather", DIRTY, again(left(gathered=None))),
    ("ASKED", "a page that is not mapped", PAIR, event("PAE", 0, addr=0x410)),
    ("ASKED", "a page of a file", NOTIFY, lambda run: replace(run, events=[(KIND["PAE"], 0x400, 0), *run.events])),
)  # fmt: skip


def _twice(events: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """The first start once more."""
    at = next(k for k, found in enumerate(events) if KINDS[found[0]] == "START")
    return [*events[: at + 1], events[at], *events[at + 1 :]]


IDS = [f"{law}: {what}" for law, what, _, _ in TWINS]


@pytest.mark.parametrize(("name", "run", "tamper"), [(law, run, tamper) for law, _, run, tamper in TWINS], ids=IDS)
def test_a_law_breaks_when_its_one_thing_is_broken(name, run, tamper):
    law = law_of(name)
    assert verdict(run) == 0 and law.plain(run) is None
    twin = tamper(run)
    assert LAWS.get(verdict(twin)) == law
    breach = law.plain(twin)
    assert breach is not None and breach.expected and breach.got and breach.expected != breach.got


def test_a_step_that_breaks_its_contract():
    """CONTRACT: nothing of the run tells, so the compiled judge cannot be told of it; a step can."""
    world = SmallWorld.parse(SMALL, "RO,n,pfn=0x400", folios="0x400:0=s", call="ro [0, 1)")
    for step in (lambda w: 0, lambda w: None, lambda w: 1, lambda w: 1 / 0):
        law, run = judged(Checker(world.machine, step), world)
        assert LAWS[law].name == "CONTRACT" and type(run.error).__name__ in LAWS[law].plain(run).got
    law, run = judged(Checker(world.machine, lambda w: w.change_unit(0, 1, False) or 1), world)
    assert law == 0 and law_of("CONTRACT").plain(run) is None


def test_a_fold_passes_on_what_mkwrite_made_dirty():
    """The plain law called it dirt from nowhere, of 6.12 and 6.16, beside the range; the compiled one did not."""
    run = ran("RW,n,clean,pfn=0x402 RO,n,clean,pfn=0x403", "0x402:1=ee", "rw [1, 2)", "6.16,cont_ptes=2,ptrs_per_pte=4")
    assert run.after[0] & b.PTE_CONT and not run.after[0] & b.PTE_RDONLY
    assert law_of("AD_SPREAD").plain(run) is None


def test_the_lists_of_a_replayed_run_are_those_of_a_plain_one():
    """Batches, sub-batches and flushes: full tables tell them, the compiled judge has none."""
    twin = replace(PAIR, replayed=replace(PAIR.replayed, differ="batches"))
    assert "batches" in law_of("REPLAY").plain(twin).got


def test_no_law_is_without_a_twin():
    assert {law.name for law in LAWS.values()} == {name for name, *_ in TWINS} | {"CONTRACT"}


def test_the_numbers_are_those_of_the_compiled_checker(tree):
    text = (tree / "pyx" / "ptebatch" / "checker" / "tablelaws.pxd").read_text()
    numbers = {name: int(number) for name, number in re.findall(r"^    ([A-Z_]+) = (\d+)$", text, re.M)}
    start = list(numbers).index("OK") + 1
    assert dict(itertools.islice(numbers.items(), start, None)) == {law.name: law.number for law in LAWS.values()}


def test_each_law_says_what_it_claims_and_where_it_comes_from():
    assert all(law.claim and law.hint and re.search(r"spec \d|I-\d", law.source) for law in LAWS.values())
    with pytest.raises(KeyError):
        law_of("MURPHY")


# ---- compiled and plain, on anything ----

STRATEGIES = ("folio", "per-pte", "lookahead", "iterator", "nested-page0", "nested-nowrite", "folio-shared")
MACHINES = ("7.3", "6.12", "6.16", "6.17", "7.3,bbml=3", "7.3,contpte=off", "7.3,lpa2=on")
POOLS = {text: next(random_chunks(Machine.parse(f"{text},cont_ptes=4,ptrs_per_pte=16"), 5)) for text in MACHINES}
FLIPS = (b.PTE_VALID, b.PTE_RDONLY, b.PTE_AF, b.PTE_NG, b.PTE_WRITE, CONT, b.PTE_UXN, b.PTE_DIRTY, b.PTE_SPECIAL, b.PTE_UFFD,
         b.PTE_USER, 1 << 2, 1 << 4, 1 << 8, 1 << 12, 1 << 14, 1 << 6, 8, 1 << 63)  # fmt: skip


@st.composite
def runs(draw: st.DrawFn) -> Run:
    """A run of a random world, tampered with in up to two things."""
    text = draw(st.sampled_from(MACHINES))
    machine, pool = Machine.parse(f"{text},cont_ptes=4,ptrs_per_pte=16"), POOLS[text]
    row = draw(st.integers(0, len(pool.words) - 1))
    checker = Checker(machine, draw(st.sampled_from(STRATEGIES)))
    checker.each(*(np.ascontiguousarray(a[row : row + 1]) for a in (pool.words, pool.pages, pool.calls, pool.ad, pool.folds)))
    ptes = checker.folded(pool.words[row:], pool.pages[row:], pool.ad[row:], 0)
    world = pool.world(machine, row, row, ptes)
    _, run = judged(checker, world, updates=draw(st.integers(0, 1)))
    for _ in range(draw(st.integers(0, 2))):
        run = draw(tampered(run))
    return run


@st.composite
def tampered(draw: st.DrawFn, run: Run) -> Run:
    what = draw(st.sampled_from(("word", "word", "word", "count", "event", "drop", "move", "gather", "pages", "update", "reset")))
    if what == "word":
        return word(draw(st.integers(0, len(run.after) - 1)), draw(st.sampled_from(FLIPS)))(run)
    if what == "count":
        return count(**{draw(st.sampled_from(sorted(run.counters))): draw(st.integers(0, 4))})(run)
    if what == "gather":
        ends = sorted(draw(st.tuples(st.integers(0, 16), st.integers(0, 16))))
        size = run.machine.page_size
        return replace(run, gathered=draw(st.sampled_from((None, (ends[0] * size, ends[1] * size)))))
    if what == "update":
        valid = [i for i, w in enumerate(run.before) if w & b.PTE_VALID]
        return replace(run, updates=[*run.updates, (1, draw(st.sampled_from(valid or [0])), draw(st.booleans()))])
    if what in ("pages", "reset"):
        return replace(run, pages=run.pages + 1) if what == "pages" else replace(run, reset=False)
    if not run.events:
        return run
    events = list(run.events)
    at = draw(st.integers(0, len(events) - 1))
    kind, addr, value = events.pop(at)
    if what == "event":
        events.insert(at, (kind, addr ^ draw(st.sampled_from((0, 1 << run.machine.page_shift, 4 << run.machine.page_shift))),
                           value ^ draw(st.sampled_from((1, 2, 4, *FLIPS)))))  # fmt: skip
    elif what == "move":
        events.insert(draw(st.integers(0, len(events))), (kind, addr, value))
    return replace(run, events=events)


@settings(max_examples=300)
@given(runs())
def test_compiled_and_plain_verdicts_agree(run):
    number = verdict(run)
    if number:
        assert LAWS[number].plain(run) is not None, LAWS[number].name
    else:
        broken = {law.name: law.plain(run) for law in LAWS.values() if law.name != "CONTRACT"}
        assert not {name: breach for name, breach in broken.items() if breach}


# ---- the table of the module ----


def coverage() -> dict[str, str]:
    table = (laws.__doc__ or "").split("====\n")[1].split("\n==== ")[0]
    rows: dict[str, str] = {}
    for line in table.splitlines():
        if found := re.match(r"(I-\d+) .*?  +(.*)", line):
            name = found[1]
            rows[name] = found[2]
        else:
            rows[name] += f" {line.strip()}"
    return rows


def test_every_invariant_is_held_by_a_law_or_cannot_arise():
    rows = coverage()
    assert list(rows) == [f"I-{n}" for n in range(1, 18)]
    names = {law.name for law in LAWS.values()}
    for name, text in rows.items():
        said = re.findall(r"\b[A-Z][A-Z_]{3,}\b", text)
        assert text.startswith("cannot arise") or set(said) & names, name
        assert set(said) <= names | {"CONT", "UFFD_RWP"}, name


def test_every_rule_of_a_strategy_is_held_by_a_law():
    text = (laws.__doc__ or "").split("Rules 1 to 9", 1)[1].split("ASKED", 1)[0]
    numbers = [int(n) for group in re.findall(r"\(([\d, ]+)\)", text) for n in group.split(",")]
    assert set(numbers) == set(range(1, 10))
    said = set(re.findall(r"\b[A-Z][A-Z_]{3,}\b", text))
    assert said and said <= {law.name for law in LAWS.values()}


# ---- the relation of designs (spec 7.10) ----

FREE = {"CONT": CONT, "AF": b.PTE_AF, "DIRTY": b.PTE_DIRTY, "RDONLY": b.PTE_RDONLY}
FIXED = {"VALID": b.PTE_VALID, "USER": b.PTE_USER, "NG": b.PTE_NG, "UXN": b.PTE_UXN, "PXN": b.PTE_PXN, "GP": b.PTE_GP,
         "SPECIAL": b.PTE_SPECIAL, "UFFD": b.PTE_UFFD, "SH": 1 << 8, "AttrIndx": 1 << 2, "frame": 1 << 12, "WRITE": b.PTE_WRITE,
         "POIndex": 1 << 60, "bit 63": 1 << 63}  # fmt: skip


@pytest.mark.parametrize("name", [*FREE, *FIXED])
def test_which_bits_may_differ_between_designs(name):
    flip = (FREE | FIXED)[name]
    other = word(1, flip)(DIRTY).after
    assert equivalent(DIRTY, DIRTY.after) == -1
    assert equivalent(DIRTY, other) == (-1 if name in FREE else 1)


def test_write_may_differ_where_a_dirty_entry_of_the_unit_is_asked_for_all():
    run = ran("RO,n,clean,pfn=0x400 RO,n,sw,pfn=0x401 none RO,n,clean,pfn=0x402", "0x400:1=ff 0x402:0=f", "rw-notify [0, 4)")
    each = ran("RO,n,clean,pfn=0x400 RO,n,sw,pfn=0x401 none RO,n,clean,pfn=0x402", "0x400:1=ff 0x402:0=f", "rw-notify [0, 4)",
               strategy="per-pte")  # fmt: skip
    assert run.after[0] & b.PTE_WRITE and not each.after[0] & b.PTE_WRITE
    assert equivalent(run, each.after) == -1
    assert equivalent(run, word(3, b.PTE_WRITE)(each).after) == 3, "another folio is no part of the unit"
    private = ran("RO,n,clean,pfn=0x400 RO,n,sw,pfn=0x401", "0x400:1=ee", "rw [0, 2)")
    assert equivalent(private, word(0, b.PTE_WRITE)(private).after) == 0


def test_entries_that_are_not_present_are_equal():
    assert equivalent(SWAP, word(0, b.PTE_SWP_UFFD)(SWAP).after) == 0
    assert equivalent(SWAP, word(1, to=b.PAGE_READONLY)(SWAP).after) == 1


@pytest.mark.parametrize("change", CHANGES)
def test_sound_designs_leave_equivalent_tables(change):
    """Every pair of sound designs, on random worlds of one change."""
    machine = Machine.parse("7.3,cont_ptes=4,ptrs_per_pte=16")
    pool, names = POOLS["7.3"], ("folio", "per-pte", "lookahead", "lookahead-pae", "iterator", "merged", "nested")
    rows = [row for row, name in enumerate(pool.changes) if name == change][:60]
    assert len(rows) == 60
    checkers = {name: Checker(machine, name) for name in names}
    for row in rows:
        ptes = checkers["folio"].folded(pool.words[row:], pool.pages[row:], pool.ad[row:], int(pool.folds[row]))
        world = pool.world(machine, row, row, ptes)
        found = [judged(checker, world, updates=0)[1] for checker in checkers.values()]
        assert {equivalent(run, other.after) for run, other in itertools.permutations(found, 2)} == {-1}
