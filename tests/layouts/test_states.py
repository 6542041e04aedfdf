"""Layouts as life leaves them: several folio sizes, after a fork, with holes, accessed and dirty patterns."""

from __future__ import annotations

import numpy as np
import pytest

from ptebatch import Machine, bits
from ptebatch.errors import LayoutError
from ptebatch.layouts.named import START, get_layout
from ptebatch.notation.patterns import exclusive_pattern

M = Machine("7.3")
U = np.uint64


def built(text: str, prot: int = 3):
    layout = get_layout(text)
    mm = layout.build(M, prot)
    nr = layout.length(M) >> 12
    words = mm.ptes(START, nr)
    frames = ((words & U((1 << 50) - 4096)) >> U(12)).astype(np.int64)
    return mm, words, mm.pages[np.maximum(frames - mm.pfn_base, 0)], frames


def has(words, bit: int):
    return (words & U(bit)) != 0


@pytest.mark.parametrize(
    "text",
    ["mixed", "T1:4M:fork=alive", "T1:4M:fork=gone:pae=1/15", "T2:present=7/1:dirty=none", "folio=16K", "T2:young=random:0.5:3",
     "T1:pae=random:0.5:7", "T2:folio=32K", "mixed:shuffled=3:fork=alive:pae=1/3"],
)  # fmt: skip
def test_a_text_reads_back(text):
    assert get_layout(str(get_layout(text))) == get_layout(text)


def test_a_mixed_layout_has_folios_of_every_size_whole_and_aligned():
    for text in ("mixed", "mixed:shuffled=5"):
        _, words, pages, frames = built(text)
        orders = pages & bits.PG_ORDER_MASK
        assert set(orders.tolist()) == {0, 4, 9}
        step = np.diff(frames)
        for order in (4, 9):
            at = np.flatnonzero(orders == order)
            inside = at[(frames[at] + 1) % (1 << order) != 0]
            assert (step[inside] == 1).all()
        assert len(set(frames.tolist())) == len(frames) and has(words[orders > 0], bits.PTE_CONT).all()
        assert not has(words[orders == 0], bits.PTE_CONT).any()


def test_a_fork_whose_child_lives_shares_all_but_copies():
    _, words, pages, frames = built("T1:2M:fork=alive:pae=1/15")
    copied = exclusive_pattern("1/15", 512)
    assert (has(words, bits.PTE_WRITE) == copied).all()
    assert ((pages & bits.PG_ANON_EXCLUSIVE != 0) == copied).all()
    assert (pages[copied] & bits.PG_ORDER_MASK == 0).all() and (pages[~copied] & bits.PG_ORDER_MASK == 9).all()
    assert (pages[~copied] & bits.PG_MAPPED_SHARED != 0).all() and len(set(frames.tolist())) == 512
    assert not has(words, bits.PTE_CONT).any(), "each block has a copy in it"
    assert not built("T1:2M:fork=alive")[2].max() & bits.PG_ANON_EXCLUSIVE


def test_a_fork_whose_child_has_gone_leaves_pages_where_they_were():
    _, words, pages, _ = built("T1:2M:fork=gone:pae=1/511")
    assert has(words, bits.PTE_WRITE).sum() == 511 and (pages & bits.PG_ORDER_MASK == 9).all()
    assert not (pages & bits.PG_MAPPED_SHARED).any()


def test_holes_and_accessed_and_dirty_patterns():
    _, words, _, _ = built("T2:1M:present=1/15:young=1/1:dirty=none")
    present = exclusive_pattern("1/15", 256)
    assert ((words != 0) == present).all() and not has(words, bits.PTE_CONT).any()
    young = exclusive_pattern("1/1", 256)
    assert (has(words, bits.PTE_AF) == (young & present)).all()
    # clean, though it may be written to: hardware clears RDONLY at the first write
    assert has(words[present], bits.PTE_WRITE).all() and has(words[present], bits.PTE_RDONLY).all()
    assert not has(words, bits.PTE_DIRTY).any()
    _, folded, _, _ = built("T2:1M:dirty=none:young=none")
    assert has(folded, bits.PTE_CONT).all() and not has(folded, bits.PTE_AF).any()


@pytest.mark.parametrize(
    ("text", "what"),
    [("folio=24K", "is no folio of"), ("folio=4M", "is no folio of"), ("folio=9", "is no folio of"),
     ("folio=16K+x", "is not a folio size"),
     ("T1:present=x", "exclusive pattern 'x'"), ("T1:fork=", "is no state after a fork"), ("T1:young=1/1:young=all", "twice")],
)  # fmt: skip
def test_what_is_no_layout(text, what):
    with pytest.raises(LayoutError, match=what):
        get_layout(text).build(M)
