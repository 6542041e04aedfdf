"""Whatever stands in the tables and in the metadata, no strategy crashes, hangs or leaves its range."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ptebatch import MM, STRATEGIES, Machine, bits
from ptebatch.errors import PtebatchError

BASE = 1 << 21
WORD = st.integers(0, (1 << 64) - 1)
MACHINES = [
    Machine("7.3"),
    Machine("6.12", cont_ptes=4, ptrs_per_pte=8),
    Machine("6.16", cont_ptes=8, ptrs_per_pte=8, device_private=True),
    Machine("6.17", granule="64K", cont_ptes=2, ptrs_per_pte=16),
    Machine("7.3", bbml=3, kpti=True, tlb_range=False, granule="16K", cont_ptes=16, ptrs_per_pte=64),
    Machine("7.3", contpte=False, lpa2=True, repeat_tlbi=True),
]
#: words with the bits that steer the code, and frames near, at and outside the metadata
LIKELY = st.builds(
    lambda flags, pfn, shift: flags | pfn << shift,
    st.sampled_from(
        [bits.PAGE_NONE, bits.PAGE_READONLY, bits.PAGE_SHARED, bits.PAGE_READONLY_EXEC, 0, 31 << 6, 30 << 6, 1 << 11]
    ).flatmap(
        lambda word: st.builds(
            lambda *more: word | sum(more),
            *(st.sampled_from([0, bit]) for bit in (bits.PTE_CONT, bits.PTE_DIRTY, bits.PTE_SPECIAL, bits.PTE_UFFD)),
        )
    ),
    st.integers(1000, 1064) | st.sampled_from([0, 1, (1 << 34) - 1]),
    st.sampled_from([12, 14, 16]),
)


def filled(machine: Machine, words: np.ndarray, pages: np.ndarray, shared: bool) -> tuple[MM, int]:
    """A VMA over two tables full of `words`, with `pages` as metadata; its pages."""
    nr = 2 * machine.ptrs_per_pte
    mm = MM(machine, nr_pages=48, pfn_base=1008)
    size = nr * machine.page_size
    start = size  # aligned to its tables
    mm.mmap(start, size, 3, shared=shared, vm_flags=bits.VM_UFFD_WP, file=int(shared))
    mm.populate(start, size)
    mm.ptes(start, nr)[:] = np.resize(words, nr)
    mm.pages[:] = np.resize(pages, 48)
    return mm, start


def judge(mm: MM, start: int, first: int, nr: int, call) -> None:
    """Run; entries whose block lies outside the range keep their words, and the metadata never changes."""
    m = mm.machine
    before, pages = mm.ptes(start, 2 * m.ptrs_per_pte).copy(), mm.pages.copy()
    try:
        result = call()
    except PtebatchError:
        assert (mm.ptes(start, 2 * m.ptrs_per_pte) == before).all()
        return
    low = first // m.cont_ptes * m.cont_ptes
    high = -(-(first + nr) // m.cont_ptes) * m.cont_ptes
    after = mm.ptes(start, 2 * m.ptrs_per_pte)
    assert (after[:low] == before[:low]).all() and (after[high:] == before[high:]).all()
    assert (mm.pages == pages).all()
    assert result.pages <= nr and result["warns"] == 0
    assert result["unfold_calls"] == result["unfolds"]


@pytest.mark.parametrize("name", STRATEGIES)
@settings(max_examples=60)
@given(
    machine=st.sampled_from(MACHINES),
    words=hnp.arrays(np.uint64, st.integers(1, 40), elements=WORD | LIKELY),
    pages=hnp.arrays(np.uint8, st.integers(1, 48)),
    shared=st.booleans(),
    part=st.tuples(st.integers(0, 1023), st.integers(1, 1024)),
    newprot=st.sampled_from(bits.PROTECTION_MAP) | WORD,
    cp_flags=st.integers(0, 15),
    trace=st.booleans(),
)
def test_no_strategy_minds_garbage(name, machine, words, pages, shared, part, newprot, cp_flags, trace):
    mm, start = filled(machine, words, pages, shared)
    total = 2 * machine.ptrs_per_pte
    first = part[0] % total
    nr = min(part[1], total - first)
    flags = 3 | (bits.VM_SHARED if shared else 0) | bits.VM_UFFD_WP
    judge(
        mm,
        start,
        first,
        nr,
        lambda: mm.change_protection(
            start + first * machine.page_size,
            nr,
            newprot=newprot,
            cp_flags=cp_flags,
            vm_flags=flags,
            anon=not shared,
            strategy=name,
            trace=trace,
        ),
    )


@pytest.mark.parametrize("prot", range(8))
@given(
    machine=st.sampled_from(MACHINES),
    words=hnp.arrays(np.uint64, st.integers(1, 40), elements=WORD | LIKELY),
    pages=hnp.arrays(np.uint8, st.integers(1, 48)),
    name=st.sampled_from(list(STRATEGIES)),
)
@settings(max_examples=40)
def test_mprotect_does_not_mind_it_either(prot, machine, words, pages, name):
    mm, start = filled(machine, words, pages, False)
    total = 2 * machine.ptrs_per_pte
    size = total * machine.page_size
    judge(mm, start, 0, total, lambda: mm.mprotect(start, size, prot, strategy=name))


VERBS = {
    "set_ptes": lambda mm, a, n, w: mm.set_ptes(a, w, n),
    "ptep_get": lambda mm, a, n, w: mm.ptep_get(a),
    "wrprotect_ptes": lambda mm, a, n, w: mm.wrprotect_ptes(a, n),
    "clear_full_ptes": lambda mm, a, n, w: mm.clear_full_ptes(a, n),
    "test_and_clear_young": lambda mm, a, n, w: mm.test_and_clear_young(a, n),
    "clear_young_dirty": lambda mm, a, n, w: mm.clear_young_dirty(a, n),
    "set_access_flags": lambda mm, a, n, w: mm.set_access_flags(a, w),
    "hw_update": lambda mm, a, n, w: mm.hw_update(a, write=True),
    "reuse": lambda mm, a, n, w: mm.reuse(a),
}


@pytest.mark.parametrize("verb", VERBS)
@settings(max_examples=60)
@given(
    machine=st.sampled_from(MACHINES),
    words=hnp.arrays(np.uint64, st.integers(1, 40), elements=WORD | LIKELY),
    pages=hnp.arrays(np.uint8, st.integers(1, 48)),
    part=st.tuples(st.integers(0, 511), st.integers(1, 512)),
    word=WORD | LIKELY,
)
def test_no_verb_minds_garbage(verb, machine, words, pages, part, word):
    mm, start = filled(machine, words, pages, False)
    n = machine.cont_ptes
    first = part[0] % machine.ptrs_per_pte
    nr = min(part[1], machine.ptrs_per_pte - first)
    before = mm.ptes(start, 2 * machine.ptrs_per_pte).copy()
    try:
        VERBS[verb](mm, start + first * machine.page_size, nr, word)
    except PtebatchError:
        assert (mm.ptes(start, 2 * machine.ptrs_per_pte) == before).all()
        return
    low, high = first // n * n, -(-(first + nr) // n) * n
    after = mm.ptes(start, 2 * machine.ptrs_per_pte)
    assert (after[:low] == before[:low]).all() and (after[high:] == before[high:]).all()


@settings(max_examples=60)
@given(byte=st.integers(0, 255), pfn=st.integers(1008, 1055), name=st.sampled_from(list(STRATEGIES)))
def test_a_folio_said_to_be_larger_than_memory_ends_with_it(byte, pfn, name):
    """An order of up to 15, wherever the page lies: the batch stays inside the metadata."""
    mm, start = filled(MACHINES[0], np.zeros(1, np.uint64), np.array([byte], np.uint8), False)
    words = mm.ptes(start, 1024)
    words[:512] = np.uint64(bits.PAGE_READONLY) + (np.uint64(pfn) + np.arange(512, dtype=np.uint64) << np.uint64(12))
    result = mm.mprotect(start, 512 * 4096, 1 if byte & 1 else 3, strategy=name)
    assert result.pages in (0, 512)


def test_the_judge_sees_a_word_outside_the_range():
    mm, start = filled(MACHINES[0], np.array([0], np.uint64), np.array([0], np.uint8), False)

    def reach_out():
        mm.ptes(start, 64)[40] = 1
        return mm.mprotect(start, 4096, 1)

    with pytest.raises(AssertionError):
        judge(mm, start, 0, 1, reach_out)
