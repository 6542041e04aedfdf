"""Arguments that are odd: objects that are another number each time they are asked, and anything else.

A window writes where its arguments say. Each is converted once, and checked as converted.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptebatch import MM
from ptebatch.errors import PtebatchError

BASE = 0x200000
PAGE = 4096
RW = 3


class Only:
    """An object with ``__index__`` and nothing else."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value

    def __repr__(self):
        return f"Only({self.value})"


class TwoFaced(Only):
    """Small to the check, large to what acts."""

    def __int__(self):
        return 1 << 40

    def __lt__(self, other):
        return True

    __le__ = __ge__ = __gt__ = __lt__

    def __add__(self, other):
        return self.value

    __radd__ = __rsub__ = __sub__ = __add__


class Fickle(Only):
    """Another number each time it is asked."""

    def __init__(self, *values):
        self.values = values
        self.asked = 0

    def __index__(self):
        self.asked += 1
        return self.values[min(self.asked, len(self.values)) - 1]

    def __repr__(self):
        return f"Fickle{self.values}"


class Broken(int):
    """An int that says another number where it is asked as an object."""

    def __index__(self):
        return 1 << 40

    __int__ = __index__


def space(nr: int = 64) -> MM:
    mm = MM("7.3", nr_pages=4096)
    mm.mmap(BASE, nr * PAGE, 1)
    mm.map_folios(BASE, nr, 4)
    return mm


def tried(use) -> tuple[MM, object]:
    """What a step that only does `use` leaves; its error, or None."""
    mm = space()

    def step(w):
        use(w)
        w.change_unit(0, w.max_nr, False)
        return w.max_nr

    try:
        mm.mprotect(BASE, 64 * PAGE, RW, strategy=step)
    except PtebatchError as error:
        return mm, error
    return mm, None


CALLS = {
    "ptep_get": lambda w, a, b: w.ptep_get(a),
    "folio_pte_batch": lambda w, a, b: w.folio_pte_batch(a),
    "page_anon_exclusive": lambda w, a, b: w.page_anon_exclusive(a),
    "anon_exclusive_batch": lambda w, a, b: w.anon_exclusive_batch(a, True, b),
    "start": lambda w, a, b: w.start(a, b),
    "newpte": lambda w, a, b: w.newpte(a),
    "asks_writable": lambda w, a, b: w.asks_writable(a),
    "maybe_change_pte_writable": lambda w, a, b: w.maybe_change_pte_writable(a),
    "pte_dirty": lambda w, a, b: w.pte_dirty(a),
    "pte_advance_pfn": lambda w, a, b: w.pte_advance_pfn(a, b),
    "commit": lambda w, a, b: w.commit(a, w.old, w.old, b),
    "commit words": lambda w, a, b: w.commit(0, a, b, 1),
    "change_unit": lambda w, a, b: w.change_unit(a, b, False),
    "note_batch": lambda w, a, b: w.note_batch(a),
}
NUMBERS = st.one_of(
    st.integers(-2, 70), st.integers(-(1 << 70), 1 << 70), st.integers(0, 70).map(Only), st.integers(0, 70).map(TwoFaced),
    st.integers(-(1 << 66), 1 << 66).map(TwoFaced), st.integers(0, 70).map(lambda n: Fickle(n, 1 << 40, -1)),
    st.integers(0, 70).map(np.int64), st.integers(0, 70).map(Broken), st.booleans(), st.none(), st.floats(), st.text(max_size=2),
)  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
@settings(max_examples=60, deadline=None)
@given(a=NUMBERS, b=NUMBERS)
def test_no_argument_reaches_beyond_the_window(name, a, b):
    """A word outside the range keeps what it was, and what is refused is refused by name."""
    mm, error = tried(lambda w: CALLS[name](w, a, b))
    untouched = space()
    if error is not None:
        assert mm.ptes(BASE, 64).tolist() == untouched.ptes(BASE, 64).tolist(), error
    assert not mm.leaf(BASE)[64:].any()
    assert mm.pages.tobytes() == untouched.pages.tobytes()


@pytest.mark.parametrize("call", ["start", "change_unit", "note_batch", "anon_exclusive_batch"])
def test_the_number_that_was_checked_is_the_one_that_acts(call):
    fickle = Fickle(2, 1 << 40)
    seen = []

    def step(w):
        if call == "start":
            w.start(0, fickle)
            w.commit(0, w.old, w.newpte(w.old), 2)
        elif call == "change_unit":
            w.change_unit(0, fickle, False)
        elif call == "note_batch":
            w.note_batch(fickle)
            w.change_unit(0, 2, False)
        else:
            seen.append(w.anon_exclusive_batch(0, True, fickle))
            w.change_unit(0, 2, False)
        return 2

    mm = space()
    result = mm.mprotect(BASE, 2 * PAGE, RW, strategy=step)
    assert result.pages == 2 and fickle.asked == 1 and seen in ([], [2])


def test_an_object_with_index_alone_is_a_number():
    mm = space()

    def step(w):
        nr = Only(w.max_nr)
        w.note_batch(nr)
        old = w.start(Only(0), nr)
        assert w.pte_advance_pfn(Only(old), Only(1)) == w.pte_advance_pfn(old, 1)
        w.commit(Only(0), Only(old), Only(w.newpte(Only(old))), nr)
        return nr

    assert mm.mprotect(Only(BASE), Only(16 * PAGE), Only(RW), strategy=step).pages == 16


VERBS = {
    "ptes": lambda mm, n: mm.ptes(BASE, n),
    "set_ptes": lambda mm, n: mm.set_ptes(BASE, int(mm.ptes(BASE, 1)[0]), n),
    "wrprotect_ptes": lambda mm, n: mm.wrprotect_ptes(BASE, n),
    "clear_full_ptes": lambda mm, n: mm.clear_full_ptes(BASE, n),
    "test_and_clear_young": lambda mm, n: mm.test_and_clear_young(BASE, n),
    "clear_young_dirty": lambda mm, n: mm.clear_young_dirty(BASE, n),
    "set_page_anon_exclusive": lambda mm, n: mm.set_page_anon_exclusive(1024, n, False),
    "change_protection": lambda mm, n: mm.change_protection(BASE, n, newprot=0, vm_flags=1),
    "map_folios": lambda mm, n: mm.map_folios(BASE + 32 * PAGE, n),
    "mmap": lambda mm, n: mm.mmap(BASE << 4, Only(n.__index__() * PAGE), 1),
    "populate": lambda mm, n: mm.populate(BASE << 5, n),
}


@pytest.mark.parametrize("name", VERBS)
def test_verbs_of_an_address_space_convert_once_too(name):
    mm = space(32)
    before = mm.leaf(BASE)[16:].tolist()
    number = Fickle(PAGE if name == "populate" else 2, 1 << 40)
    if name == "map_folios":
        mm.mmap(BASE + 32 * PAGE, 32 * PAGE, 1)
    VERBS[name](mm, number)
    assert number.asked == 1
    if name != "map_folios":
        assert mm.leaf(BASE)[16:].tolist() == before
