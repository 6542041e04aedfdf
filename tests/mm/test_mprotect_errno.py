"""mprotect(2) refuses as the kernel does: which error, in which order, and what was changed before it.

E1 to E22 are the checks of do_mprotect_pkey() in their order (mm/mprotect.c, 7.3). Not modelled, and
so not here: a fatal signal (E6), security modules (E16), a driver's own hook (E17).
"""

from __future__ import annotations

import errno
from itertools import pairwise

import pytest

from ptebatch import MM, Machine
from ptebatch.bits import (
    PROT_BTI,
    PROT_EXEC,
    PROT_GROWSDOWN,
    PROT_GROWSUP,
    PROT_MTE,
    PROT_NONE,
    PROT_READ,
    PROT_SEM,
    PROT_WRITE,
    VM_ARM64_BTI,
    VM_GROWSDOWN,
    VM_MTE,
    VM_MTE_ALLOWED,
    VM_SEALED,
)
from ptebatch.errors import MprotectError

PAGE = 4096
AT = 0x10_0000
RW = PROT_READ | PROT_WRITE
RX = PROT_READ | PROT_EXEC


def space(*maps, machine="7.3", **limits) -> MM:
    """An address space of VMAs: (first page, pages, prot, keywords of mmap)."""
    mm = MM(machine, nr_pages=4096)
    for page, nr, prot, *kw in maps:
        mm.mmap(AT + page * PAGE, nr * PAGE, prot, **(kw[0] if kw else {}))
        mm.map_folios(AT + page * PAGE, nr)
    mm.set_limits(**limits)
    return mm


def prots(mm: MM) -> list[tuple[int, int, int]]:
    """VMAs as (first page, pages, access)."""
    return [((v.start - AT) // PAGE, (v.end - v.start) // PAGE, v.flags & 7) for v in mm.vmas()]


def call(mm: MM, page: float, nr: float, prot: int, **kw) -> tuple[int, MprotectError | None]:
    """errno of the call, 0 for success."""
    try:
        mm.mprotect(AT + int(page * PAGE), int(nr * PAGE), prot, **kw)
    except MprotectError as error:
        assert error.errno and str(error.errno) in str(error) and error.reason
        return error.errno, error
    return 0, None


BOTH = PROT_GROWSDOWN | PROT_GROWSUP
SEALED = {"vm_flags": VM_SEALED}
NO_WRITE = {"may": PROT_READ | PROT_EXEC}

ROWS = [
    # id, VMAs, machine, (page, pages, prot), expected
    ("E1", [(0, 4, RW)], "7.3", (0, 1, BOTH), errno.EINVAL),
    ("E1 even misaligned and empty", [(0, 4, RW)], "7.3", (0.5, 0, BOTH), errno.EINVAL),
    ("E2", [(0, 4, RW)], "7.3", (0.25, 1, PROT_READ), errno.EINVAL),
    ("E2 even for length 0", [(0, 4, RW)], "7.3", (0.25, 0, PROT_READ), errno.EINVAL),
    ("E3", [(0, 4, RW)], "7.3", (0, 0, PROT_NONE), 0),
    ("E3 with bad prot and no VMA", [], "7.3", (0, 0, 0x40), 0),
    ("E3 on a sealed VMA", [(0, 4, RW, SEALED)], "7.3", (0, 0, PROT_READ), 0),
    ("E5", [(0, 4, RW)], "7.3", (0, 1, 0x40), errno.EINVAL),
    ("E5 before a missing VMA", [], "7.3", (0, 1, 0x40), errno.EINVAL),
    ("E5 PROT_SEM is known", [(0, 4, RW)], "7.3", (0, 1, PROT_SEM | PROT_READ), 0),
    ("E5 BTI without BTI", [(0, 4, RX)], "7.3", (0, 1, PROT_BTI | RX), errno.EINVAL),
    ("E5 BTI with BTI", [(0, 4, RX)], "7.3,bti=on", (0, 1, PROT_BTI | RX), 0),
    ("E5 MTE without MTE", [(0, 4, RW)], "7.3", (0, 1, PROT_MTE | RW), errno.EINVAL),
    ("E8", [(9, 1, RW)], "7.3", (0, 4, PROT_READ), errno.ENOMEM),
    ("E8 nothing at all", [], "7.3", (0, 4, PROT_READ), errno.ENOMEM),
    ("E9", [(4, 1, RW, {"vm_flags": VM_GROWSDOWN})], "7.3", (0, 4, PROT_READ | PROT_GROWSDOWN), errno.ENOMEM),
    ("E10 down", [(0, 4, RW)], "7.3", (0, 1, PROT_READ | PROT_GROWSDOWN), errno.EINVAL),
    ("E10 up", [(0, 4, RW, {"vm_flags": VM_GROWSDOWN})], "7.3", (0, 1, PROT_READ | PROT_GROWSUP), errno.EINVAL),
    ("E11", [(2, 2, RW)], "7.3", (0, 4, PROT_READ), errno.ENOMEM),
    ("E12", [(0, 2, RW), (3, 1, RW)], "7.3", (0, 4, PROT_READ), errno.ENOMEM),
    ("E13", [(0, 4, PROT_READ, NO_WRITE)], "7.3", (0, 4, RW), errno.EACCES),
    ("E13 PROT_NONE is always allowed", [(0, 4, PROT_READ, {"may": PROT_READ})], "7.3", (0, 4, PROT_NONE), 0),
    ("E14 gains EXEC", [(0, 4, PROT_READ)], "7.3,mdwe=on", (0, 4, RX), errno.EACCES),
    ("E14 W and X", [(0, 4, PROT_WRITE)], "7.3,mdwe=on", (0, 4, PROT_WRITE | PROT_EXEC), errno.EACCES),
    ("E14 keeps EXEC", [(0, 4, RX)], "7.3,mdwe=on", (0, 4, RX), 0),
    ("E14 off", [(0, 4, PROT_READ)], "7.3", (0, 4, RX), 0),
    ("E15", [(0, 4, RW)], "7.3,mte=on", (0, 4, RW | PROT_MTE), errno.EINVAL),
    ("E15 allowed", [(0, 4, RW, {"vm_flags": VM_MTE_ALLOWED})], "7.3,mte=on", (0, 4, RW | PROT_MTE), 0),
    ("E18", [(0, 4, RW, SEALED)], "7.3", (0, 4, PROT_READ), errno.EPERM),
    ("E18 before same flags", [(0, 4, RW, SEALED)], "7.3", (0, 4, RW), errno.EPERM),
    ("E13 before E18", [(0, 4, PROT_READ, {"may": 1, "vm_flags": VM_SEALED})], "7.3", (0, 4, RW), errno.EACCES),
    ("E14 before E18", [(0, 4, PROT_READ, SEALED)], "7.3,mdwe=on", (0, 4, RX), errno.EACCES),
    ("E19", [(0, 4, RW)], "7.3", (0, 4, RW), 0),
    ("E22", [(0, 2, RW)], "7.3", (0, 4, PROT_READ), errno.ENOMEM),
]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_the_error_of_each_check(row):
    _, maps, machine, (page, nr, prot), expected = row
    assert call(space(*maps, machine=machine), page, nr, prot)[0] == expected


@pytest.mark.parametrize(("start", "length"), [(AT, (1 << 64) - 4096), (AT, (1 << 64) - 1), ((1 << 47), (1 << 64) - (1 << 47))])
def test_e4_a_range_that_wraps(start, length):
    with pytest.raises(MprotectError) as error:
        space((0, 4, RW)).mprotect(start, length, PROT_READ)
    assert error.value.errno == errno.ENOMEM and "wraps around" in str(error.value)


def test_e4_before_e5():
    with pytest.raises(MprotectError) as error:
        space((0, 4, RW)).mprotect(AT, (1 << 64) - 4096, 0x40)
    assert error.value.errno == errno.ENOMEM


def test_e7_a_key_that_nobody_allocated():
    mm = space((0, 4, RW))
    assert call(mm, 0, 1, PROT_READ, pkey=3)[0] == errno.EINVAL
    assert call(mm, 100, 1, PROT_READ, pkey=3)[0] == errno.EINVAL, "before the VMA is looked up"
    assert call(mm, 0, 1, PROT_READ, pkey=0)[0] == 0, "key 0 always is"
    key = mm.pkey_alloc()
    assert call(mm, 0, 1, PROT_READ, pkey=key)[0] == 0
    assert mm.vmas()[0].flags >> 32 & 7 == key
    assert call(mm, 0, 1, RW)[0] == 0 and mm.vmas()[0].flags >> 32 & 7 == key, "no key given: it keeps its own"


def test_e19_touches_nothing():
    mm = space((0, 4, RW))
    result = mm.mprotect(AT, 4 * PAGE, RW)
    assert result.pages == 0 and not any(result.counters.values())


def test_e20_data_limit_and_commit_limit():
    mm = space((0, 4, PROT_READ), data_pages=3)
    assert call(mm, 0, 4, RW)[0] == errno.ENOMEM and call(mm, 0, 3, RW)[0] == 0
    mm = space((0, 4, PROT_READ), commit_pages=3)
    code, error = call(mm, 0, 4, RW)
    assert code == errno.ENOMEM and "commit limit" in str(error)
    assert prots(mm) == [(0, 4, PROT_READ)]
    assert call(mm, 0, 3, RW)[0] == 0 and call(mm, 3, 1, RW)[0] == errno.ENOMEM, "what was charged counts"


def test_e20_shared_memory_is_not_data():
    mm = space((0, 4, PROT_READ, {"shared": True, "file": 1}), data_pages=0, commit_pages=0)
    assert call(mm, 0, 4, RW)[0] == 0


def test_e21_map_count():
    mm = space((0, 4, RW), map_count=1)
    assert call(mm, 0, 4, PROT_READ)[0] == 0, "no split is needed"
    code, error = call(mm, 1, 1, RW)
    assert code == errno.ENOMEM and "map count limit" in str(error)
    assert prots(mm) == [(0, 4, PROT_READ)]


def test_e21_a_first_split_stays():
    """The second split fails: what the first did is not undone (spec 6.2)."""
    mm = space((0, 4, RW), map_count=2)
    code, error = call(mm, 1, 1, PROT_READ)
    assert code == errno.ENOMEM
    assert [(first, nr) for first, nr, _ in prots(mm)] == [(0, 1), (1, 3)]
    assert {access for *_, access in prots(mm)} == {RW}
    assert error.result["vma_splits"] == 1 and error.result.pages == 0


# ---- partial effects: no rollback ----


def test_e12_changes_what_lies_before_the_hole():
    mm = space((0, 2, RW), (3, 1, RW))
    code, error = call(mm, 0, 4, PROT_READ)
    assert code == errno.ENOMEM and error.addr == AT + 2 * PAGE
    assert prots(mm) == [(0, 2, PROT_READ), (3, 1, RW)]
    assert error.result.pages == 2 and error.result["vmas_walked"] == 1
    assert [bool(w >> 51 & 1) for w in mm.ptes(AT, 4).tolist()] == [False, False, False, True]


def test_e22_changes_all_that_is_there():
    mm = space((0, 2, RW), (2, 2, RX))
    code, error = call(mm, 0, 8, PROT_READ)
    assert code == errno.ENOMEM and error.addr == AT + 4 * PAGE
    assert prots(mm) == [(0, 4, PROT_READ)] or prots(mm) == [(0, 2, PROT_READ), (2, 2, PROT_READ)]
    assert error.result.pages == 4


def test_e13_changes_earlier_vmas():
    mm = space((0, 2, PROT_READ), (2, 2, PROT_READ, {"file": 7, "shared": True, "may": PROT_READ}))
    code, error = call(mm, 0, 4, RW)
    assert code == errno.EACCES and error.addr == AT + 2 * PAGE
    assert prots(mm) == [(0, 2, RW), (2, 2, PROT_READ)]


def test_the_address_of_a_refusal_is_where_the_call_stopped():
    mm = space((0, 4, PROT_READ, {"file": 7, "shared": True, "may": PROT_READ}))
    code, error = call(mm, 1, 2, RW)
    assert code == errno.EACCES and error.addr == AT + PAGE


def test_e11_changes_nothing():
    mm = space((2, 2, RW))
    before = mm.ptes(AT, 4).copy()
    code, error = call(mm, 0, 4, PROT_READ)
    assert code == errno.ENOMEM and error.result.pages == 0
    assert prots(mm) == [(2, 2, RW)] and (mm.ptes(AT, 4) == before).all()


def test_growsdown_moves_the_start_to_the_vmas():
    mm = space((2, 4, RW, {"vm_flags": VM_GROWSDOWN}))
    assert call(mm, 4, 1, PROT_READ | PROT_GROWSDOWN)[0] == 0
    assert prots(mm) == [(2, 3, PROT_READ), (5, 1, RW)]
    mm = space((2, 4, RW, {"vm_flags": VM_GROWSDOWN}))
    assert call(mm, 0, 3, PROT_READ | PROT_GROWSDOWN)[0] == 0, "a leading hole does not matter then"
    assert prots(mm) == [(2, 1, PROT_READ), (3, 3, RW)]


def test_a_tag_in_the_top_byte_is_ignored():
    mm = space((0, 4, RW))
    assert mm.mprotect(AT | 0xAB << 56, PAGE, PROT_READ).pages == 1
    with pytest.raises(MprotectError) as error:
        mm.mprotect(0xFFFF_0000_0000_0000, PAGE, PROT_READ)
    assert error.value.errno == errno.ENOMEM


def test_length_is_rounded_up():
    mm = space((0, 4, RW))
    assert call(mm, 0, 1.5, PROT_READ)[0] == 0
    assert prots(mm) == [(0, 2, PROT_READ), (2, 2, RW)]


def test_bti_is_cleared_and_mte_is_sticky():
    mm = space((0, 2, RX, {"vm_flags": VM_MTE_ALLOWED}), machine="7.3,bti=on,mte=on")
    assert call(mm, 0, 2, RX | PROT_BTI | PROT_MTE)[0] == 0
    assert mm.vmas()[0].flags & (VM_ARM64_BTI | VM_MTE) == VM_ARM64_BTI | VM_MTE
    assert call(mm, 0, 2, PROT_READ)[0] == 0
    assert mm.vmas()[0].flags & (VM_ARM64_BTI | VM_MTE) == VM_MTE


def test_read_implies_exec_is_per_vma():
    mm = space((0, 2, PROT_NONE), (2, 2, PROT_NONE, {"may": RW}), read_implies_exec=True)
    assert call(mm, 0, 4, PROT_READ)[0] == 0
    assert [access for *_, access in prots(mm)] == [RX, PROT_READ]


# ---- split and merge: what is counted is what happened ----

SPLITS = [
    ("whole", (0, 8), 0, 1),
    ("left part", (0, 3), 1, 2),
    ("right part", (5, 3), 1, 2),
    ("middle", (2, 3), 2, 3),
]


@pytest.mark.parametrize(("part", "splits", "vmas"), [row[1:] for row in SPLITS], ids=[row[0] for row in SPLITS])
def test_a_part_of_a_vma_is_split_off(part, splits, vmas):
    mm = space((0, 8, RW))
    result = mm.mprotect(AT + part[0] * PAGE, part[1] * PAGE, PROT_READ)
    assert (result["vma_splits"], result["vma_merges"], len(mm.vmas())) == (splits, 0, vmas)
    back = mm.mprotect(AT + part[0] * PAGE, part[1] * PAGE, RW)
    assert back["vma_splits"] == 0 and back["vma_merges"] == (vmas > 1) and len(mm.vmas()) == 1


def test_a_boundary_moves_without_a_split():
    mm = space((0, 8, RW))
    mm.mprotect(AT, 2 * PAGE, PROT_READ)
    result = mm.mprotect(AT + 2 * PAGE, 2 * PAGE, PROT_READ)
    assert (result["vma_splits"], result["vma_merges"]) == (0, 1)
    assert prots(mm) == [(0, 4, PROT_READ), (4, 4, RW)]
    result = mm.mprotect(AT + 2 * PAGE, 2 * PAGE, RW)
    assert (result["vma_splits"], result["vma_merges"]) == (0, 1)
    assert prots(mm) == [(0, 2, PROT_READ), (2, 6, RW)]


@pytest.mark.parametrize(
    ("other", "merges"),
    [
        ({}, 1),
        ({"file": 3}, 0),
        ({"pgoff": 99}, 0),
        ({"shared": True}, 0),
        ({"vm_flags": VM_SEALED}, 0),
        ({"may": RW}, 0),
        ({"name": 1}, 0),
    ],
    ids=["alike", "file", "offset", "shared", "sealed", "may", "name"],
)
def test_only_alike_neighbours_merge(other, merges):
    mm = MM(nr_pages=64)
    mm.mmap(AT, 2 * PAGE, RW)
    mm.mmap(AT + 2 * PAGE, 2 * PAGE, PROT_READ, **other)
    assert mm.mprotect(AT, 2 * PAGE, PROT_READ)["vma_merges"] == merges


def test_two_faulted_vmas_of_different_ancestry_stay_apart():
    mm = MM(nr_pages=64)
    mm.mmap(AT, 2 * PAGE, RW)
    mm.map_folios(AT, 2)
    mm.mmap(AT + 4 * PAGE, 2 * PAGE, RW)
    mm.map_folios(AT + 4 * PAGE, 2)
    mm.mmap(AT + 2 * PAGE, 2 * PAGE, PROT_READ)
    assert len({v.anon_vma for v in mm.vmas()}) == 3
    assert mm.mprotect(AT + 2 * PAGE, 2 * PAGE, RW)["vma_merges"] == 1
    assert len(mm.vmas()) == 2, "the middle joins one side; the sides have different anon_vmas"


def test_vmas_are_sorted_apart_and_cover_what_was_mapped():
    mm = space((0, 64, RW))
    for page in range(0, 64, 3):
        mm.mprotect(AT + page * PAGE, PAGE, PROT_READ)
        got = mm.vmas()
        assert all(a.end == b.start for a, b in pairwise(got))
        assert got[0].start == AT and got[-1].end == AT + 64 * PAGE
        assert all(a.flags != b.flags for a, b in pairwise(got))
    assert mm.mprotect(AT, 64 * PAGE, RW)["vma_merges"] == len(range(0, 64, 3)) and len(mm.vmas()) == 1


# ---- LTP and the kernel's selftests, where they need no faults ----


def test_ltp_mprotect01():
    mm = space((0, 4, PROT_READ, {"shared": True, "file": 1, "may": PROT_READ | PROT_EXEC}), (16, 4, RW))
    with pytest.raises(MprotectError) as error:
        mm.mprotect(0, PAGE + 1, PROT_READ)
    assert error.value.errno == errno.ENOMEM
    assert call(mm, 16.25, 0.25, PROT_READ)[0] == errno.EINVAL
    assert call(mm, 0, 1, PROT_WRITE)[0] == errno.EACCES


def test_ltp_mprotect05():
    """Split and merge over five pages of a shared file mapping (kernel bug 217061)."""
    mm = space((0, 5, PROT_READ, {"shared": True, "file": 1}))
    assert call(mm, 1, 1, PROT_EXEC)[0] == 0
    assert call(mm, 3, 1, PROT_WRITE)[0] == 0
    assert call(mm, 1, 4, PROT_READ)[0] == 0
    assert prots(mm) == [(0, 5, PROT_READ)]


def test_ltp_mseal01():
    mm = space((0, 8, RW))
    mm = space((0, 2, RW), (2, 2, RW, SEALED), (4, 4, RW))
    assert call(mm, 0, 8, PROT_NONE)[0] == errno.EPERM
    assert [access for *_, access in prots(mm)] == [PROT_NONE, RW, RW]
    assert call(mm, 2, 2, PROT_NONE, pkey=mm.pkey_alloc())[0] == errno.EPERM


def test_selftest_mseal_second_of_two_pages():
    mm = space((0, 1, PROT_READ), (1, 1, PROT_READ, SEALED))
    assert call(mm, 0, 2, PROT_EXEC)[0] == errno.EPERM
    assert prots(mm)[1] == (1, 1, PROT_READ)


@pytest.mark.parametrize(("page", "nr"), [(0, 4), (0, 1), (3, 1), (1, 2), (0, 0.5), (0, 3.5)])
def test_selftest_mseal_any_part_of_a_sealed_vma(page, nr):
    mm = space((0, 4, RW, SEALED))
    assert call(mm, page, nr, PROT_READ)[0] == errno.EPERM
    assert prots(mm) == [(0, 4, RW)]


def test_selftest_mseal_gap():
    """Two pages are unmapped between two mapped ones: the first is changed all the same."""
    mm = space((0, 1, RW), (3, 1, RW))
    assert call(mm, 0, 4, PROT_READ)[0] == errno.ENOMEM
    assert prots(mm)[0] == (0, 1, PROT_READ)
    assert call(mm, 0, 1, PROT_READ)[0] == 0 and call(mm, 3, 1, PROT_READ)[0] == 0


@pytest.mark.parametrize(
    ("start", "asked", "mdwe", "expected"),
    [
        (RX, RX, True, 0), (RX, RX, False, 0),
        (PROT_READ, RX, True, errno.EACCES), (PROT_READ, RX, False, 0),
        (PROT_WRITE, PROT_WRITE | PROT_EXEC, True, errno.EACCES), (PROT_WRITE, PROT_WRITE | PROT_EXEC, False, 0),
        (PROT_EXEC, PROT_EXEC | PROT_BTI, True, 0), (PROT_EXEC, PROT_EXEC | PROT_BTI, False, 0),
    ],
)  # fmt: skip
def test_selftest_mdwe(start, asked, mdwe, expected):
    mm = space((0, 2, start), machine=str(Machine("7.3", mdwe=mdwe, bti=True)))
    assert call(mm, 0, 2, asked)[0] == expected


def test_every_reason_can_be_reached():
    """Each text of ptebatch.errors belongs to a check that a test above has met."""
    from ptebatch.errors import REASONS

    met = set()
    for _, maps, machine, (page, nr, prot), expected in ROWS:
        _, error = call(space(*maps, machine=machine), page, nr, prot)
        assert (error is None) == (expected == 0)
        met |= {error.reason.split()[0] + error.reason.split()[-1]} if error else set()
    others = 5  # wraps, key, data limit, commit limit, map count: tests of their own above
    assert len({text.split()[0] + text.split()[-1] for text in list(REASONS.values())[1:]}) <= len(met) + others
