"""Laws of strips over every word: a full strip loses nothing, a partial one only what it does not show."""

import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ptebatch import bits as b
from ptebatch.machine import Machine
from ptebatch.notation.strip import FIELDS, diff, draw, parse

MACHINES = {
    "4K": Machine(),
    "4 of 16": Machine(cont_ptes=4, ptrs_per_pte=16),
    "16K": Machine(granule="16K", device_private=True),
    "64K": Machine(granule="64K", bti=True, mte=True),
    "6.12": Machine(kernel="6.12", device_private=True),
    "LPA2": Machine(lpa2=True, cont_ptes=2, ptrs_per_pte=4),
}
BITS = (0, 1, 4, 6, 7, 10, 11, 50, 51, 52, 53, 54, 55, 56, 58)  # every named bit of a present entry, VALID included
WORDS_FIELDS = sorted(set(FIELDS) - {"exclusive"})


@st.composite
def any_word(pick):
    """Words of every kind, and words one bit away from them."""
    prots = st.sampled_from(sorted({*b.PROTECTION_MAP, b.PAGE_EXECONLY, b.PAGE_SHARED & ~b.PTE_RDONLY}))
    more = [b.PTE_CONT, b.PTE_DIRTY, b.PTE_RDONLY, b.PTE_AF, b.PTE_SPECIAL, b.PTE_UFFD, b.PTE_GP, 4, 3 << 60, 0x300]
    flags = st.sets(st.sampled_from(more)).map(sum)
    page = st.builds(lambda prot, bits, pfn: prot ^ bits | pfn << 16, prots, flags, st.integers(0, 2**34 - 1))
    offset = st.integers(0, 9) | st.integers(0, 2**50 - 1)
    leaf = st.builds(
        lambda kind, off, bits: kind << 6 | off << 12 | bits, st.integers(0, 31), offset, st.sampled_from([0, 4, 8, 12])
    )
    word = pick(page | leaf | st.just(0) | st.integers(0, 2**64 - 1))
    return word ^ 1 << pick(st.integers(0, 63)) if pick(st.booleans()) else word


@st.composite
def any_row(pick):
    """Runs of a word whose number stands or counts on, the whole once or several times over."""
    machine = MACHINES[pick(st.sampled_from(list(MACHINES)))]
    nr = st.sampled_from([1, 2, 3, machine.cont_ptes // 2, machine.cont_ptes]) | st.integers(1, 2 * machine.cont_ptes + 1)
    step = st.sampled_from([0, 1, 1, 2]).map(lambda pages: pages << machine.page_shift) | st.just(1 << b.SWP_OFFSET_SHIFT)
    once = []
    for word, count, by in pick(st.lists(st.tuples(any_word(), nr, step), max_size=5)):
        once += [word + i * by for i in range(count)]
    shift = pick(step) * len(once)
    row = [(word + copy * shift) % 2**64 for copy in range(pick(st.integers(1, 4))) for word in once]
    return machine, np.array(row, np.uint64), pick(st.integers(0, machine.ptrs_per_pte - 1))


def every_combination(machine):
    """Every setting of the named bits, with a pfn."""
    row = np.full(1 << len(BITS), 3 << machine.page_shift, np.uint64)
    setting = np.arange(len(row), dtype=np.uint64)
    for i, bit in enumerate(BITS):
        row |= (setting >> np.uint64(i) & np.uint64(1)) << np.uint64(bit)
    return row


@settings(deadline=None)
@given(any_row(), st.data())
def test_a_full_strip_reads_back_to_the_same_row(row, data):
    machine, ptes, first_idx = row
    seed = data.draw(st.sampled_from([0, 2 ** len(ptes) - 1]) | st.integers(0, 2 ** len(ptes) - 1))
    exclusive = np.array([seed >> i & 1 for i in range(len(ptes))], np.bool_)
    back = parse(draw(ptes, machine, first_idx=first_idx, exclusive=exclusive, fields="all"), machine)
    assert np.array_equal(back.ptes, ptes)
    assert back.first_idx == first_idx
    assert np.array_equal(exclusive, np.zeros_like(exclusive) if back.exclusive is None else back.exclusive)


@pytest.mark.parametrize("name", MACHINES)
def test_every_combination_of_the_named_bits_reads_back(name):
    row = every_combination(MACHINES[name])
    assert np.array_equal(parse(draw(row, MACHINES[name], fields="all"), MACHINES[name]).ptes, row)


@pytest.mark.parametrize("name", MACHINES)
def test_every_softleaf_type_reads_back(name):
    row = np.array(
        [k << 6 | o << 12 | f for k in range(32) for o in (0, 1, 4, 7, 8, 1 << 40, 3 << 36) for f in (0, 4, 12)], np.uint64
    )
    assert np.array_equal(parse(draw(row, MACHINES[name], fields="all"), MACHINES[name]).ptes, row)


@pytest.mark.parametrize("missing", WORDS_FIELDS)
def test_a_strip_without_a_field_loses_it(missing):
    """The bad twin of the laws above: they would fail if a field were not drawn."""
    machine = MACHINES["4K"]
    row = np.append(every_combination(machine), np.uint64(b.PAGE_READONLY | 1 << 60 | 5 << 12))
    fields = ",".join(field for field in WORDS_FIELDS if field != missing)
    assert not np.array_equal(parse(draw(row, machine, fields=fields), machine).ptes, row)


@settings(deadline=None)
@given(any_row(), st.sets(st.sampled_from(WORDS_FIELDS)))
def test_a_partial_strip_draws_again_as_it_was(row, fields):
    machine, ptes, first_idx = row
    fields = ",".join(fields)
    text = draw(ptes, machine, first_idx=first_idx, fields=fields)
    back = parse(text, machine)
    assert draw(back.ptes, machine, first_idx=back.first_idx, fields=fields) == text


@settings(deadline=None)
@given(any_row())
def test_bars_stand_between_blocks_and_nowhere_else(row):
    machine, ptes, first_idx = row
    parts = draw(ptes, machine, first_idx=first_idx).removeprefix(f"@{first_idx}").split("|") if len(ptes) else []
    sizes = []
    for part in parts:
        copies, text = re.fullmatch(r"(?:(\d+)\*)?\(?([^()]*)\)?", part.strip()).groups()
        assert text
        sizes += [len(parse(text, machine).ptes)] * int(copies or 1)
    head = -first_idx % machine.cont_ptes
    assert sum(sizes) == len(ptes)
    assert all(size == machine.cont_ptes for size in sizes[bool(head) : -1])
    assert not (head and sizes) or sizes[0] == min(head, len(ptes))


@settings(deadline=None)
@given(any_row(), st.data())
def test_a_diff_marks_exactly_the_words_that_differ(row, data):
    machine, before, first_idx = row
    if not len(before):
        return
    after = before.copy()
    at = sorted(data.draw(st.sets(st.integers(0, len(before) - 1), min_size=1, max_size=3)))
    for i in at:
        after[i] ^= np.uint64(1 << data.draw(st.integers(0, 63)))
    old, new, marks = diff(before, after, machine, first_idx=first_idx).splitlines()
    spans = [(mark.start(), mark.end()) for mark in re.finditer(r"\^+", marks)]
    assert spans
    assert all(old[start:stop].strip() != new[start:stop].strip() for start, stop in spans)
    for start, stop in spans:  # outside the marks the rows are alike
        old, new = (text[:start].ljust(start) + " " * (stop - start) + text[stop:] for text in (old, new))
    assert old.removeprefix("before").split() == new.removeprefix("after").split()


@settings(deadline=None)
@given(st.text(alphabet="RWXO-cn, x|*()@.0123456789abcdefpswmigk:=^\n", max_size=40))
def test_any_text_is_read_or_refused(text):
    assume(not re.search(r"[0-9]{5}", text))  # rows too long to draw in a test
    machine = MACHINES["4 of 16"]
    try:
        row = parse(text, machine)
    except ValueError as error:
        assert str(error).startswith("strip, ")
    else:
        assert np.array_equal(parse(draw(row.ptes, machine, first_idx=row.first_idx, fields="all"), machine).ptes, row.ptes)
