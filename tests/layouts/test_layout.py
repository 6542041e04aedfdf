"""Named layouts: what each lays down, in every granule, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from ptebatch import MM, Machine, bits
from ptebatch.errors import LayoutError
from ptebatch.layouts import named as rooms
from ptebatch.layouts.named import LAYOUTS, START, Layout, get_layout, layout, parse_layouts
from ptebatch.notation.patterns import exclusive_pattern
from ptebatch.notation.strip import draw

SMALL = Machine(cont_ptes=8, ptrs_per_pte=32)


def words(text: str, machine: Machine, prot: int = bits.PROT_READ) -> tuple[MM, np.ndarray]:
    given = get_layout(text)
    mm = given.build(machine, prot)
    return mm, mm.ptes(START, given.length(machine) // machine.page_size)


def frames(ptes: np.ndarray, machine: Machine) -> np.ndarray:
    return (ptes & np.uint64((1 << bits.PTE_ADDR_END) - 1)) >> np.uint64(machine.page_shift)


@pytest.mark.parametrize(
    ("granule", "name", "folio"),
    [
        ("4K", "T1", 2 << 20), ("4K", "T2", 64 << 10), ("4K", "T3", 4 << 10),
        ("16K", "T1", 32 << 20), ("16K", "T2", 2 << 20), ("16K", "T3", 16 << 10),
        ("64K", "T1", 512 << 20), ("64K", "T2", 2 << 20), ("64K", "T3", 64 << 10),
    ],
)  # fmt: skip
def test_a_folio_is_a_table_a_block_or_a_page_of_its_granule(granule, name, folio):
    machine = Machine(granule=granule)
    mm, ptes = words(f"{name}:1G", machine)
    pages = folio // machine.page_size
    assert len(ptes) == (1 << 30) // machine.page_size
    assert set(np.unique(mm.pages & bits.PG_ORDER_MASK)) == {pages.bit_length() - 1}
    assert (mm.pages & bits.PG_ANON_EXCLUSIVE != 0).all()
    folded = bool(ptes[0] & np.uint64(bits.PTE_CONT))
    assert folded == (name != "T3")


@pytest.mark.parametrize("granule", ["4K", "16K", "64K"])
@pytest.mark.parametrize("name", list(LAYOUTS))
def test_every_entry_is_young_dirty_and_read_only(name, granule):
    machine = Machine(granule=granule)
    size = 1 << 30 if granule == "64K" else 64 << 20
    _, ptes = words(f"{name}:{size}", machine)
    want = {"AF": bits.PTE_AF, "DIRTY": bits.PTE_DIRTY, "RDONLY": bits.PTE_RDONLY, "VALID": bits.PTE_VALID}
    for bit in want.values():
        assert (ptes & np.uint64(bit) != 0).all()
    assert (ptes & np.uint64(bits.PTE_WRITE) == 0).all()
    assert (np.diff(frames(ptes, machine).astype(np.int64)) == 1).all()


@pytest.mark.parametrize(
    ("text", "strip"),
    [
        ("uniform", "4*(RO,c,pae x8)"),
        ("uniform:unfolded", "4*(RO,n,pae x8)"),
        ("alternating:32K", "RO,c,nopae RO,c,pae" + 3 * " RO,c,nopae RO,c,pae"),
        ("1/31", "RO,c,nopae RO,c,pae x7 | 3*(RO,c,pae x8)"),
        ("8/8/16", "RO,c,pae x8 | RO,c,nopae x8 | 2*(RO,c,pae x8)"),
        ("T3:128K", "4*(RO,n,pae x8)"),
        ("T2:64K", "2*(RO,c,pae x8)"),
        ("T2:40K", "RO,c,pae x8 | RO,n,pae RO,n,pae"),
    ],
)
def test_a_small_layout_as_a_strip(text, strip):
    mm, ptes = words(text, SMALL)
    pae = mm.pages[frames(ptes, SMALL).astype(int) - mm.pfn_base] & bits.PG_ANON_EXCLUSIVE != 0
    assert draw(ptes, SMALL, exclusive=pae) == strip


def test_a_writable_layout_gives_write_to_exclusive_pages_only():
    mm, ptes = words("1/511", Machine(), bits.PROT_READ | bits.PROT_WRITE)
    writable = ptes & np.uint64(bits.PTE_WRITE) != 0
    assert np.array_equal(writable, exclusive_pattern("1/511", 512))
    assert np.array_equal(ptes & np.uint64(bits.PTE_CONT) != 0, np.arange(512) >= 16)
    assert mm.vmas()[0].flags & bits.VM_WRITE


def test_a_pattern_goes_on_over_all_folios():
    mm, _ = words("alternating:8M", Machine())
    assert np.array_equal(mm.pages & bits.PG_ANON_EXCLUSIVE != 0, np.arange(2048) % 2 == 1)
    mm, _ = words("T2:4M:pae=1/511", Machine())
    assert np.flatnonzero(mm.pages & bits.PG_ANON_EXCLUSIVE == 0).tolist() == [0, 512]


def test_shuffled_folios_stay_whole_and_aligned_and_follow_their_seed():
    _, plain = words("T2:4M", Machine())
    _, first = words("T2:4M:shuffled=3", Machine())
    _, again = words("T2:4M:shuffled=3", Machine())
    _, other = words("T2:4M:shuffled=4", Machine())
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other) and not np.array_equal(first, plain)
    heads = frames(first, Machine()).reshape(-1, 16)
    assert (heads[:, 0] % 16 == 0).all() and (np.diff(heads.astype(np.int64), axis=1) == 1).all()
    assert np.array_equal(np.sort(first), np.sort(plain))


def test_only_unfolded_layouts_have_no_folded_block():
    for text, folded in (("T1:2M", True), ("T1:2M:unfolded", False), ("T1:2M:folded", True)):
        _, ptes = words(text, Machine())
        assert (ptes & np.uint64(bits.PTE_CONT) != 0).all() == folded


@pytest.mark.parametrize(
    "text",
    [*LAYOUTS, "T1:64M", "3/5", "2e/1s", "alternating:unfolded", "T2:1536K:unfolded:shuffled=7:pae=random:0.5:1", "T3:pae=none"],
)
def test_a_layout_prints_as_the_text_that_names_it(text):
    assert str(get_layout(text)) == text
    assert get_layout(str(get_layout(text))) == get_layout(text)


def test_names_and_units_are_read_in_either_case():
    assert get_layout(" t1:64m ") == get_layout("T1:64M")
    assert get_layout("ALTERNATING:Unfolded") == get_layout("alternating:unfolded")


def test_a_default_size_yields_to_the_texts_own():
    sizes = [one.size for one in parse_layouts("T1,T2:4M,1/511", 8 << 20)]
    assert sizes == [8 << 20, 4 << 20, 8 << 20]


def test_a_description_says_all_that_is_not_usual():
    assert get_layout("T1").describe(Machine()) == "512 folios of 2M, mapped by PTEs; PageAnonExclusive all"
    assert get_layout("T3:4K").describe(Machine()) == "1 folio of 4K; PageAnonExclusive all"
    said = get_layout("alternating:4M:unfolded:shuffled=2").describe(Machine(granule="16K"))
    assert said == "1 folio of 32M, mapped by PTEs; PageAnonExclusive alternating; unfolded; frames shuffled by seed 2"


def test_a_registered_layout_is_known_by_name():
    @layout("order-3", "folios of eight pages")
    def _order_3() -> Layout:
        return Layout("", 3, 1 << 20)

    try:
        mm, _ = words("order-3:64K", Machine())
        assert set(np.unique(mm.pages & bits.PG_ORDER_MASK)) == {3}
        with pytest.raises(LayoutError, match="'ORDER-3' exists already"):
            layout("ORDER-3", "")
    finally:
        rooms._rows.pop("order-3")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' is unknown"),
        ("T4", "known: T1, T2, T3"),
        ("alternatng", "did you mean 'alternating'"),
        ("T1:", "option ''"),
        ("T1:0", "size '0'"),
        ("T1:64Q", "option '64Q'"),
        ("T1:-1", "option '-1'"),
        ("T1:unfoldet", "did you mean 'unfolded'"),
        ("T1:shuffled=x", "option 'shuffled=x'"),
        ("T1:folded=1", "option 'folded=1'"),
        ("T1:pae=", "''"),
        ("T1:pae=sometimes", "'sometimes'"),
        ("T1:pae=random:2", "random:P"),
        ("1/0", "a run of 0 pages"),
        ("1e/2", "letter after some lengths"),
        ("1//2", "'1//2' is unknown"),
        (None, "None is neither"),
        (3, "3 is neither"),
    ],
)
def test_what_names_no_layout_is_refused_in_one_line(text, said):
    with pytest.raises(LayoutError) as e:
        get_layout(text)
    assert said in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Layout("x", "huge"), "folio='huge'"),
        (lambda: Layout("x", -1), "folio=-1"),
        (lambda: Layout("x", True), "folio=True"),
        (lambda: Layout("x", size=0), "size=0"),
        (lambda: Layout("x", size=1.5), "size=1.5"),
        (lambda: Layout("x", seed=-1), "seed=-1"),
        (lambda: Layout("x", 10).build(Machine()), "larger than a table"),
        (lambda: get_layout("T1:2K").build(Machine()), "not a multiple of the page size 4K"),
        (lambda: get_layout("T1:4K").build(Machine(granule="16K")), "not a multiple of the page size 16K"),
        (lambda: get_layout("T1:512G").build(Machine()), "above 256G"),
        (lambda: get_layout("T1:64G").build(Machine(va_bits=36)), "ends above"),
        (lambda: Layout("x", exclusive=np.ones(3, bool)).build(Machine()), "shape"),
        (lambda: layout("a:b", ""), "colon"),
        (lambda: layout("", ""), "empty"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(make, said):
    with pytest.raises(LayoutError) as e:
        make()
    assert said in str(e.value) and "\n" not in str(e.value)
