"""Strips: how rows of PTEs look, what the defaults are and what is refused."""

import doctest

import numpy as np
import pytest

from ptebatch import bits as b
from ptebatch.errors import NotationError
from ptebatch.machine import Machine
from ptebatch.notation import strip as notation
from ptebatch.notation.strip import describe, diff, draw, parse

ARM64 = Machine()
SMALL = Machine(cont_ptes=4, ptrs_per_pte=16)
PFN0 = 0x1000


def words(text, machine=SMALL, pfn0=PFN0):
    return parse(text, machine, pfn0=pfn0).ptes


# ---- what a strip looks like ----

#: strips as they are drawn: (fields, text)
STRIPS = {
    "folded": ("", "RW,c RW,c RW,c RW,c"),
    "unfolded for one entry": ("", "RW,n RW,n RW,n RO,n"),
    "blocks": ("", "RW,c RW,c RW,c RW,c | RW,n RO,n none --,n"),
    "equal blocks": ("", "3*(RW,c RW,c RW,c RW,c) | none none none none"),
    "starts inside a block": ("", "@6 RO,n RW,n | 2*(RO,c RO,c RO,c RO,c) | RO,n"),
    "exec": ("exec", "RX,c RX,c RX,c RX,c | RWX,n XO,n RW,n RO,n"),
    "dirty": ("dirty", "RW,n,clean RW,n,hw RW,n,sw RW,n,hw+sw | RO,n,clean RO,n,sw --,n,sw none"),
    "young": ("young", "RW,n,young RW,n,old RO,n,old --,n,young"),
    "pfn": ("pfn", "RW,c,pfn=0x100.. x4 | RW,n,pfn=0x7 RO,n,pfn=0x8.. x2 none"),
    "pfn over equal blocks": ("pfn", "2*(RW,c,pfn=0x100.. x4) | 2*(RW,n,pfn=0x9.. RO,n,pfn=0xa.. RW,n,pfn=0xb.. x2)"),
    "holes in equal blocks": ("pfn", "3*(RW,n,pfn=0x100.. x2 none marker:guard)"),
    "zero page": ("special,pfn", "RO,n,special,pfn=0x5 x4 | 2*(RO,n,special,pfn=0x6 x4)"),
    "exclusive": ("", "RW,n,pae RW,n,pae RO,n,nopae none"),
    "uffd": ("uffd", "RO,n,uffd RW,n marker:uffd-wp swap,uffd"),
    "attr": ("attr", "RW,n,mte RO,n,bti RO,n,pkey=3 --,n,mte,bti,pkey=7,^0x8000000000000200"),
    "softleaves": ("", "swap swap3 mig-r mig-rx | mig-w hwpoison marker:guard marker:uffd-wp+poisoned"),
    "swap": ("exclusive,pfn", "swap,off=0x10.. x4 | swap26,excl,off=0x1 swap,off=0x7 x3 | RO,n,nopae,pfn=0x1 none,pae"),
    "migration": ("dirty,young,pfn", "mig-w,dirty,young,pfn=0x77 mig-r,clean,old,pfn=0x5 RW,n,hw,old,pfn=0x1 none"),
    "no user entry": ("", "0x0060000000000f43 0x0000000000000001 0x8000000000000000 0x0000000000000004"),
}


@pytest.mark.parametrize("name", STRIPS)
def test_strip_is_drawn_as_written(name):
    fields, text = STRIPS[name]
    row = parse(text, SMALL, pfn0=PFN0)
    assert draw(row.ptes, SMALL, first_idx=row.first_idx, exclusive=row.exclusive, fields=fields) == text


def test_long_uniform_rows_are_counted():
    assert draw(words("RW,c x512"), ARM64) == "32*(RW,c x16)"
    assert draw(words("RW,c x512", pfn0=0x200), ARM64, fields="pfn") == "32*(RW,c,pfn=0x200.. x16)"
    assert draw(words("RW,n x30"), ARM64, first_idx=500) == "@500 RW,n x12 | RW,n x16 | RW,n RW,n"


def test_a_million_uniform_entries_are_one_group():
    row = np.uint64(b.PAGE_SHARED) | np.arange(1 << 20, dtype=np.uint64) << np.uint64(12)
    assert draw(row, ARM64) == "65536*(RW,n x16)"
    text = draw(row, ARM64, fields="all")
    assert text == "65536*(RW,n,clean,young,pfn=0x0.. x16)"
    assert np.array_equal(parse(text, ARM64).ptes, row)


@pytest.mark.parametrize("index", range(16))
def test_protection_map_reads_as_its_permissions(index):
    names = ("--", "RO", "RO", "RO", "RX", "RX", "RX", "RX", "--", "RO", "RW", "RW", "RX", "RX", "RWX", "RWX")
    assert draw([b.PROTECTION_MAP[index]], ARM64, fields="exec,dirty") == f"{names[index]},n,clean"


def test_execute_only_is_seen_without_asking():
    assert draw([b.PAGE_EXECONLY, b.PAGE_READONLY_EXEC], ARM64) == "XO,n RO,n"


def test_defaults_are_those_of_a_fresh_mapping():
    young_dirty = b.PAGE_SHARED & ~b.PTE_RDONLY
    assert words("RW,n RO,n --,n").tolist() == [
        young_dirty | PFN0 << 12,
        b.PAGE_READONLY | (PFN0 + 1) << 12,
        b.PAGE_NONE | (PFN0 + 2) << 12,
    ]
    assert words("none swap mig-r").tolist() == [0, 2 << 12, 28 << 6 | (PFN0 + 2) << 12]
    assert words("RO,n,pfn=9 RO,n").tolist() == [b.PAGE_READONLY | pfn << 12 for pfn in (9, PFN0 + 1)]
    assert words("RO,n", pfn0=None).tolist() == [b.PAGE_READONLY]


def test_exclusive_is_none_unless_an_entry_says():
    assert parse("RW,n RO,n", SMALL).exclusive is None
    assert parse("RW,n RO,n,pae none", SMALL).exclusive.tolist() == [False, True, False]


def test_blanks_and_missing_bars_do_not_matter():
    text = """
        RW,c x4 |
        2*( RO,n x3 none )  none x4
    """
    assert np.array_equal(words(text), words("RW,c RW,c RW,c RW,c RO,n x3 none RO,n x3 none none none none none"))


def test_softleaf_types_follow_the_machine():
    kinds = {
        "7.3": "hwpoison mig-r mig-rx mig-w dev-w dev-r dev-x",
        "6.12": "hwpoison mig-r mig-rx mig-w dev-w dev-r dev-xw dev-xr",
    }
    for (kernel, names), first in zip(kinds.items(), (24, 23), strict=True):
        machine = Machine(kernel=kernel, device_private=True)
        row = np.array([kind << 6 | 1 << 12 for kind in range(first, 31)], np.uint64)
        assert draw(row, machine) == names
    assert draw([31 << 6 | 4 << 12], Machine(kernel="6.12")) == "0x00000000000047c0"  # guard markers came later


# ---- one entry in long form ----


def test_describe_says_all_of_an_entry():
    bits = "; bits VALID USER AF NG WRITE CONT PXN UXN"
    assert describe(int(words("RW,c,pfn=0x100")[0]), ARM64) == (
        f"0x0078000000100f43: read and write, contiguous, dirty in hardware, young, pfn 0x100{bits}"
    )
    assert describe(0, ARM64) == "0x0000000000000000: none, nothing is mapped"
    assert describe(5 << 6 | 0x10 << 12 | 4, ARM64) == "0x0000000000010144: swap5, exclusive, swap offset 0x10"
    assert describe(0x0060_0000_0000_0F43, ARM64) == (
        "0x0060000000000f43: valid, no permission or softleaf that a user entry of this machine has; "
        "bits VALID USER AF NG PXN UXN"
    )


# ---- two rows ----


def test_diff_marks_the_entries_that_differ():
    before, after = words("6*(RW,c x4)"), words("3*(RW,c x4) | RW,n x3 RO,n,sw | 2*(RW,c x4)")
    assert diff(before, after, SMALL) == (
        "before  (3 blocks same) | RW,c RW,c RW,c RW,c | (2 blocks same)\n"
        "after   (3 blocks same) | RW,n RW,n RW,n RO,n | (2 blocks same)\n"
        "                          ^^^^ ^^^^ ^^^^ ^^^^"
    )


def test_diff_counts_blocks_that_change_alike():
    assert diff(words("RW,c x512"), words("RO,c,sw x512"), ARM64, labels=("got", "expected")) == (
        "got       32*(RW,c x16)\nexpected  32*(RO,c x16)\n              ^^^^^^^^"
    )


def test_diff_shows_the_field_that_differs():
    before, after = words("@6 RW,n x2 | RW,n x4"), words("@6 RW,n x2 | RW,n RW,n,old RW,n x2")
    assert diff(before, after, SMALL, first_idx=6) == (
        "before  @6 (2 entries same) | RW,n,young RW,n,young RW,n,young RW,n,young\n"
        "after   @6 (2 entries same) | RW,n,young RW,n,old   RW,n,young RW,n,young\n"
        "                                         ^^^^^^^^^^"
    )
    assert diff(words("RW,n,pfn=1"), words("RW,n,pfn=2"), SMALL).splitlines()[:2] == [
        "before  RW,n,pfn=0x1",
        "after   RW,n,pfn=0x2",
    ]


def test_diff_of_equal_rows_is_one_line():
    assert diff(words("RW,n x4"), words("RW,n x4"), SMALL) == "no difference in 4 entries"


# ---- what it refuses ----

REFUSED = {
    "RW,c RQ,n": "column 6: found 'RQ', expected a permission (RO, RX, RW, RWX, XO, --), none, a softleaf (swap to swap26, "
    "hwpoison, mig-r, mig-rx, mig-w, marker:...) or a word 0x...",
    "RW": "column 1: found 'RW', expected c (contiguous) or n behind the permission, as in RW,c",
    "RW,c,hw,clean": "column 9: found 'clean', expected only one of dirty, given already as 'hw'",
    "RO,c,hw": "column 6: found 'hw', expected clean or sw: only RW and RWX are dirty in hardware",
    "RW,c x3 | RW,c": "column 9: found '|' behind entry 3 of a block, expected it behind entry 4 (cont_ptes)",
    "RW,c x4 | | RO,n": "column 11: found '|', expected an entry after '|'",
    "RW,c x4 |": "column 10: found the end, expected an entry after '|'",
    "RW,c x0": "column 6: found 'x0', expected a count from x1 up behind one entry",
    "3*(RW,c x4) x2": "column 13: found 'x2', expected a count from x1 up behind one entry",
    "3*(RW,c": "column 8: found the end, expected ')'",
    "RW,c)": "column 5: found ')', expected a '3*(' before it",
    "2*(2*(RW,c))": "column 4: found '2*(', expected an entry: a group has no group in it",
    "2*(RW,c x4 | RW,c)": "column 18: found a group of 5 entries with '|' in it, expected a multiple of 4",
    "RO,n,pfn=zz": "column 6: found 'pfn=zz', expected a number, such as pfn=0x100",
    "RO,n RO,n,pfn=0x3fffffffff.. x2": "column 6: found pfn 0x3fffffffff to 0x4000000000, expected 0 to 0x3fffffffff",
    "swap,pfn=3": "column 6: found 'pfn=3', expected excl or uffd or pae or nopae or off=N",
    "swap,off=0": "column 1: found 'swap,off=0', expected an offset from 1 up: swap type 0 at offset 0 is the empty entry",
    "marker:hot": "column 1: found 'marker:hot', expected a marker of uffd-wp, poisoned, guard, several joined by '+'",
    "none,young": "column 6: found 'young', expected pae or nopae",
    "0x10000000000000000": "column 1: found '0x10000000000000000', expected a word of at most 64 bits",
    "@16 RW,c": "column 1: found '@16', expected an index below 16 (ptrs_per_pte), such as @5",
    "RW,c @3": "column 6: found '@3', expected an index only in front of the row",
    "RW,n,pkey=8": "column 6: found 'pkey=8', expected pkey=1 to pkey=7",
    "RW,n,^0x1": "column 6: found '^0x1', expected bits of 0xfa0400000000033c: the others have a notation of their own",
    "RW,c x99999999": "column 6: found a row of 99999999 entries, expected at most 67108864",
    "RW,c x4\n  RX": "line 2, column 3: found 'RX', expected c (contiguous) or n behind the permission, as in RW,c",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_wrong_strip_is_refused_at_its_place(text):
    with pytest.raises(NotationError) as error:
        parse(text, SMALL)
    assert error.value.sentence == f"strip, {REFUSED[text]}" or str(error.value).startswith(f"strip, {REFUSED[text]}; ")
    assert error.value.hint


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draw([-1], SMALL), "PTE -1 is not a word of 64 bits; give whole numbers from 0 to 2^64 - 1"),
        (lambda: draw([0.5], SMALL), "PTE 0.5 is not a word of 64 bits; give whole numbers from 0 to 2^64 - 1"),
        (lambda: describe(1 << 64, SMALL), f"PTE {1 << 64} is not a word of 64 bits; give whole numbers from 0 to 2^64 - 1"),
        (lambda: draw([[1]], SMALL), "a row of PTEs has one dimension, not 2; draw row by row"),
        (
            lambda: draw([1], SMALL, exclusive=[True, False]),
            "exclusive has shape (2,) and dtype bool; give 1 truth values, one an entry",
        ),
        (lambda: draw([1], SMALL, first_idx=16), "first_idx=16 is not an index; give 0 to 15 (ptrs_per_pte)"),
        (lambda: diff([1], [1, 2], SMALL), "the rows to compare have 1 and 2 entries; give two of one length"),
    ],
)
def test_a_wrong_argument_is_refused(call, message):
    with pytest.raises(NotationError) as error:
        call()
    assert str(error.value) == message


def test_an_unknown_field_names_the_closest():
    with pytest.raises(NotationError, match=r"field 'yuong' cannot be drawn; known: exec, .*; did you mean 'young'\?"):
        draw([1], SMALL, fields="yuong")
    with pytest.raises(NotationError, match="give exclusive="):
        draw([1], SMALL, fields="dirty,exclusive")


def test_the_examples_in_the_documentation_hold():
    result = doctest.testmod(notation)
    assert result.attempted > 0
    assert result.failed == 0
