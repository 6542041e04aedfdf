"""How a snapshot is placed in arm64 tables."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_snapshots import (
    ANON,
    BASE,
    DIRTY,
    EXCLUSIVE,
    FILE,
    GUARD,
    KSM,
    NONE,
    NOPAGE,
    OWN,
    PAE,
    PRESENT,
    RW,
    SHARED,
    SWAP,
    SWAPBACKED,
    UFFD,
    VPN,
    ZERO,
    R,
    folio,
    snap,
    vma,
    word,
)

from ptebatch import MM, Machine, bits
from ptebatch.errors import InputError, LayoutError, MachineError
from ptebatch.snapshot import assumed, build, demo, load, save, unknown_of
from ptebatch.snapshot.kinds import ENDS, exclusive_pages, exclusive_unknown, kinds_of
from ptebatch.snapshot.maps import Details, parse_maps, vmas_of

# ---- words ----

PFN = 0x12340


@pytest.mark.parametrize(
    ("row", "given", "expected"),
    [
        ((OWN | PFN, ANON), {}, 0x00E8000012340F43),
        ((PRESENT | PFN, ANON), {}, 0x00E0000012340FC3),
        ((OWN | PFN, ANON), {"flags": R}, 0x00E0000012340FC3),
        ((OWN | PFN, ANON), {"flags": NONE}, 0x00E0000012340F82),
        ((OWN | PFN, ANON), {"flags": RW | bits.VM_EXEC}, 0x00A8000012340F43),
        ((OWN | PFN, ANON | KSM), {}, 0x0060000012340FC3),
        ((PRESENT | FILE | PFN, 0), {"file": 1}, 0x0060000012340FC3),
        ((PRESENT | 0x40, ZERO), {}, 0x0160000000040FC3),
        ((PRESENT | PFN, NOPAGE), {}, 0x0160000012340FC3),
        ((PRESENT | FILE | PFN, 0), {"flags": SHARED, "file": 1, "notify": 1}, 0x0060000012340FC3),
        ((PRESENT | FILE | PFN, DIRTY), {"flags": SHARED & ~0x22, "file": 1}, 0x0060000012340FC3),
        ((OWN | UFFD | PFN, ANON), {"flags": RW | bits.VM_UFFD_WP}, 0x04E0000012340FC3),
        ((SWAP | 2 | 0x1000 << 5, 0), {}, 0x0000000001000000),
        ((SWAP | UFFD | 2 | 0x1000 << 5, 0), {}, 0x0000000001000008),
        ((SWAP, 0), {}, 0x0000000000001000),  # no swap entry is 0, which would be an empty one
        ((SWAP | GUARD | 31 | 4 << 5, 0), {}, 0x47C0),
        ((GUARD, 0), {}, 0x47C0),
        ((SWAP | 31 | 2 << 5, 0), {}, 0x27C0),
    ],
)
def test_the_word_of_an_entry_follows_from_mapping_and_page(row, given, expected):
    mm = build(snap([(VPN, *row)], [vma(**given)]), Machine(), "bit56")
    assert f"{word(mm):#018x}" == f"{expected:#018x}"
    assert word(mm, 1) == 0


CLEAN, WRITABLE, DIRTIED = 0x0060000012340FC3, 0x0068000012340FC3, 0x00E8000012340F43


@pytest.mark.parametrize(
    ("kflags", "given", "ends"),
    [
        (SWAPBACKED | DIRTY, {}, (WRITABLE, DIRTIED)),  # shared memory: by a write through it, or by write(2)
        (SWAPBACKED, {}, (WRITABLE, DIRTIED)),
        (DIRTY, {"notify": 1}, (CLEAN, DIRTIED)),
        (DIRTY, {"notify": 2}, (CLEAN, DIRTIED)),  # an io_uring ring, a driver
        (0, {"notify": 2}, (CLEAN, DIRTIED)),
        (DIRTY, {"flags": SHARED & ~2, "notify": 1}, (CLEAN, 0x00E0000012340FC3)),  # read-only now, written before
    ],
)
def test_whether_an_entry_of_a_shared_file_is_dirty_is_unknown(kflags, given, ends):
    s = snap([(VPN, PRESENT | FILE | PFN, kflags)], [vma(**{"flags": SHARED, "file": 1} | given)])
    found = [word(build(s, Machine(), "kpageflags", end)) for end in ENDS]
    assert [f"{w:#x}" for w in found] == [f"{w:#x}" for w in ends]
    assert unknown_of(s).dirty.tolist() == [1]


def test_what_is_clean_where_first_writes_are_announced_is_known():
    s = snap([(VPN, PRESENT | FILE | PFN, 0)], [vma(flags=SHARED, file=1, notify=1)])
    assert not unknown_of(s)


def test_neighbours_that_may_share_an_anon_vma_merge_at_one_end_only():
    """Both outcomes of vma_merges: /proc does not show whose anon_vma a page has."""
    s = snap([(VPN, OWN | 1, ANON | PAE), (VPN + 4, OWN | 2, ANON | PAE)],
             [vma(pages=4, flags=R | bits.VM_ACCOUNT), vma(BASE + 4 * 4096, pages=4, flags=RW | bits.VM_ACCOUNT)])  # fmt: skip
    assert unknown_of(s).neighbours == 1
    merges = [build(s, Machine(), "kpageflags", end).mprotect(BASE, 4 * 4096, 3)["vma_merges"] for end in ENDS]
    assert merges == [0, 1]
    unalike = snap([(VPN, OWN | 1, ANON | PAE), (VPN + 4, OWN | 2, ANON | PAE)],
                   [vma(pages=4, flags=R | bits.VM_DONTDUMP), vma(BASE + 4 * 4096, pages=4)])  # fmt: skip
    assert not unknown_of(unalike)


@pytest.mark.parametrize(
    ("names", "merges"),
    [(("[anon:Go: heap]", "[anon:Go: heap]"), [0, 1]), (("[anon:Go: heap]", ""), [0, 0]), (("[anon:a]", "[anon:b]"), [0, 0]),
     (("[heap]", ""), [0, 1]), (("", ""), [0, 1])],
)  # fmt: skip
def test_names_of_anonymous_memory_keep_mappings_apart(names, merges):
    """A Go runtime names its heap: what a neighbour with another name is, it does not merge with."""
    s = snap([(VPN, OWN | 1, ANON | PAE), (VPN + 4, OWN | 2, ANON | PAE)],
             [vma(pages=4, flags=R | bits.VM_ACCOUNT), vma(BASE + 4 * 4096, pages=4, flags=RW | bits.VM_ACCOUNT)],
             names=names)  # fmt: skip
    assert unknown_of(s).neighbours == merges[1]
    assert [build(s, Machine(), "kpageflags", end).mprotect(BASE, 4 * 4096, 3)["vma_merges"] for end in ENDS] == merges


def test_mte_was_allowed_where_it_is_on():
    """Every call on such memory was EINVAL: the flag that allows it has no letters in smaps."""
    maps = parse_maps("ffff80000000-ffff80010000 rw-p 00000000 00:00 0 \n")
    details = {(0xFFFF80000000, 0xFFFF80010000): Details("rd wr mr mw me ac mt", 0, 0)}
    s = snap([], [vmas_of(maps, details, 4096)])
    for machine in ("7.3", "7.3,mte=on"):
        mm = build(s, Machine.parse(machine))
        mm.mprotect(0xFFFF80000000, 0x10000, 1)
        assert mm.vmas()[0].flags & bits.VM_MTE and not mm.vmas()[0].flags & bits.VM_WRITE


def test_swap_keeps_the_exclusive_bit_that_a_pattern_gives():
    s = snap([(VPN, SWAP | 0x1000 << 5)])
    assert word(build(s, Machine(), "all")) == 0x0000000001000004


def test_the_huge_zero_page_is_a_table_full_of_one_frame():
    s = snap(folio(VPN, 0x600, 9, kflags=ZERO, pagemap=PRESENT))
    mm = build(s, Machine())
    assert np.unique(mm.leaf(BASE)).tolist() == [0x0160000000600FC3]


def test_lpa2_words_have_no_shareability():
    assert word(build(snap([(VPN, OWN | PFN, ANON)]), Machine(lpa2=True), "all")) == 0x00E8000012340C43


# ---- folios and blocks ----


def test_a_folio_is_described_whole_where_only_a_part_is_mapped():
    s = snap(folio(VPN + 4, 0x1004, 4, nr=3))
    mm = build(s, Machine(), "bit56")
    assert mm.pfn_base == 0x1000 and mm.nr_pages == 16
    plain, owned = bits.PG_ANON | 4, bits.PG_ANON | bits.PG_ANON_EXCLUSIVE | 4
    assert mm.pages.tolist() == [plain] * 4 + [owned] * 3 + [plain] * 9


def test_what_other_processes_map_and_what_numa_balancing_passes_over_is_marked():
    rows = [(VPN, PRESENT | 8, ANON), (VPN + 1, OWN | 9, ANON | KSM), (VPN + 2, OWN | FILE | 10, DIRTY),
            (VPN + 3, OWN | FILE | 11, DIRTY | SWAPBACKED), (VPN + 4, PRESENT | 12, ZERO), (VPN + 5, OWN | 13, ANON)]  # fmt: skip
    mm = build(snap(rows), Machine(), "bit56")
    assert mm.pages.tolist() == [
        bits.PG_ANON | bits.PG_MAPPED_SHARED, bits.PG_ANON | bits.PG_NUMA_SKIP, bits.PG_NUMA_SKIP, 0, 0,
        bits.PG_ANON | bits.PG_ANON_EXCLUSIVE,
    ]  # fmt: skip


def cont(mm, nr=512):
    """Blocks of the first VMA that are folded; no block may be folded in part."""
    n = mm.machine.cont_ptes
    folded = (mm.ptes(BASE, nr) & np.uint64(bits.PTE_CONT) != 0).reshape(-1, n)
    assert np.array_equal(folded.any(axis=1), folded.all(axis=1))
    return np.flatnonzero(folded.all(axis=1)).tolist()


@pytest.mark.parametrize(
    ("pages", "blocks"),
    [
        (folio(VPN, 0x1000, 9), list(range(32))),
        (folio(VPN + 16, 0x1010, 4), [1]),
        (folio(VPN + 16, 0x1010, 4, nr=15), []),  # not whole
        (folio(VPN + 17, 0x1010, 4), []),  # not aligned in virtual memory
        (folio(VPN + 16, 0x1100, 3) + folio(VPN + 24, 0x1108, 3), []),  # two folios
        (folio(VPN + 16, 0x1010, 5, nr=16) + folio(VPN + 32, 0x1020, 4), [1, 2]),  # half a folio, then another
        (folio(VPN + 3, 0x1003, 9, nr=40), [1]),
        (folio(VPN, 0x1000, 4, kflags=KSM | ANON), [0]),
        (folio(VPN, 0x1000, 4, kflags=ZERO, pagemap=PRESENT), []),
    ],
)
def test_a_block_is_folded_where_one_folio_covers_it_aligned(pages, blocks):
    assert cont(build(snap(pages), Machine(), "all")) == blocks


def test_a_block_of_two_permissions_is_not_folded():
    s = snap(folio(VPN, 0x1000, 5))
    assert cont(build(s, Machine(), "all")) == [0, 1]
    assert cont(build(s, Machine(), "1/511")) == [1]
    assert cont(build(s, Machine(), "none")) == [0, 1]


def test_two_mappings_never_share_a_block():
    vmas = [vma(pages=8), vma(BASE + 0x8000, 504, file=1)]
    assert cont(build(snap(folio(VPN, 0x1000, 5), vmas), Machine(), "all")) == [1]


def test_without_contpte_nothing_is_folded():
    assert cont(build(snap(folio(VPN, 0x1000, 9)), Machine(contpte=False), "all")) == []


@pytest.mark.parametrize(("kernel", "blocks"), [("7.3", []), ("6.17", [0, 1]), ("6.12", [])])
def test_entries_that_are_not_valid_are_painted_only_by_kernels_that_do(kernel, blocks):
    assert cont(build(snap(folio(VPN, 0x1000, 5), [vma(flags=NONE)]), Machine(kernel), "all")) == blocks


def random_snapshot(rng, tables=3, ptrs=512):
    """Folios of every order, cut, shifted, shared, in three kinds of mappings."""
    rows, vpn, frame = [], VPN, 1 << 14
    while vpn < VPN + tables * ptrs:
        order = int(rng.choice([0, 1, 2, 3, 4, 5, 6, 9]))
        frame = -(-frame >> order) << order
        skip = int(rng.integers(0, 1 << order)) if rng.random() < 0.3 else 0
        if rng.random() < 0.6:
            vpn = vpn - vpn % (1 << order) + (1 << order)
        kflags = ANON | SWAPBACKED if rng.random() < 0.8 else DIRTY * int(rng.integers(0, 2))
        pagemap = PRESENT | (0 if kflags & ANON else FILE)
        for i in range(skip, 1 << order):
            if vpn >= VPN + tables * ptrs:
                break
            if rng.random() < 0.97:
                rows.append((vpn, pagemap | (EXCLUSIVE if rng.random() < 0.98 else 0) | (frame + i), kflags, order))
            vpn += 1
        frame += 1 << order
    span = tables * ptrs * 4096
    third = span // 3 & ~0xFFFF | 0x3000
    vmas = [vma(pages=third >> 12), vma(BASE + third, third >> 12, R)]
    vmas.append(vma(BASE + 2 * third, (span - 2 * third) >> 12, SHARED, file=1))
    return snap(rows, vmas)


def repainted(s, mm):
    """The same process, each stretch of alike entries set by one set_ptes()."""
    copy = mm.copy()
    flat = {int(v): int(w) & ~bits.PTE_CONT for v, w in zip(s.vpn, words_of(s, mm), strict=True)}
    order = dict(zip(s.vpn.tolist(), s.order.tolist(), strict=True))
    owner = dict(zip(s.vpn.tolist(), s.vma_of.tolist(), strict=True))
    for v in flat:
        copy.ptes(v << 12, 1)[0] = 0
    todo = sorted(flat)
    while todo:
        first, nr = todo[0], 1
        head = (flat[first] >> 12 & (1 << 38) - 1) >> order[first]
        while nr < len(todo):
            v = todo[nr]
            same = v == first + nr and v % mm.machine.ptrs_per_pte and owner[v] == owner[first]
            if not same or flat[v] != flat[first] + (nr << 12) or (flat[v] >> 12 & (1 << 38) - 1) >> order[first] != head:
                break
            nr += 1
        if nr == 1:
            copy.ptes(first << 12, 1)[0] = flat[first]
        else:
            copy.set_ptes(first << 12, flat[first], nr)
        todo = todo[nr:]
    return words_of(s, copy)


def words_of(s, mm):
    return np.array([int(mm.ptes(int(v) << 12, 1)[0]) for v in s.vpn], np.uint64)


@pytest.mark.parametrize("machine", ["7.3", "6.17", "6.12", "7.3,cont_ptes=4,ptrs_per_pte=16", "7.3,lpa2=on"])
def test_folding_equals_what_set_ptes_paints(machine):
    for seed in range(4):
        s = random_snapshot(np.random.default_rng(seed), tables=1)
        mm = build(s, Machine.parse(machine), "bit56")
        words = words_of(s, mm)
        assert np.array_equal(words, repainted(s, mm))
        assert (words & np.uint64(bits.PTE_CONT)).any()


@pytest.mark.parametrize("strategy", ["nested", "lookahead", "iterator", "merged", "folio"])
def test_a_rebuilt_process_gives_the_same_rights_under_every_strategy(strategy):
    s = random_snapshot(np.random.default_rng(9), tables=1)
    built = build(s, Machine(), "bit56")
    ends = []
    for name in ("per-pte", strategy):
        mm = built.copy()
        pages = [mm.mprotect(r.start, r.length, prot, strategy=name).pages for prot in (1, 3) for r in s.writable_ranges()]
        ends.append((pages, (words_of(s, mm) & np.uint64(bits.PTE_WRITE)).tolist()))
    assert ends[0] == ends[1]


# ---- the address space ----


def test_every_mapping_that_is_not_left_out_is_there_with_its_flags():
    vmas = [
        vma(pages=1),
        vma(BASE + 0x1000, 1, RW | bits.VM_ACCOUNT | bits.VM_HUGEPAGE),
        vma(BASE + 0x2000, 1, skip=1),
        vma(BASE + 0x3000, 1, R & ~bits.VM_MAYWRITE, file=3, pgoff=7),
        vma(BASE + 0x5000, 1, SHARED, file=4, notify=1),
    ]
    got = build(snap([(VPN, OWN | 1, ANON)], vmas), Machine()).vmas()
    wanted = np.concatenate([v for v in vmas if not v["skip"][0]])
    assert [(v.start, v.end, v.flags) for v in got] == wanted[["start", "end", "flags"]].tolist()
    assert (got[2].file, got[2].pgoff, got[3].writenotify) == (3, 7, True)
    assert got[0].anon_vma and not got[1].anon_vma


def test_another_page_size_is_refused():
    with pytest.raises(MachineError, match="granule=4K"):
        build(snap([]), Machine(granule="16K"))


def test_addresses_that_the_machine_does_not_have_are_refused():
    with pytest.raises(MachineError, match="va_bits=47"):
        build(snap([]), Machine(va_bits=39))


def test_frames_far_apart_are_renumbered_and_fold_alike():
    far = 1 << 34
    pages = folio(VPN, 0x200, 9) + folio(VPN + 512, far + 0x10, 4) + [(VPN + 600, PRESENT | 5 << 30, NOPAGE)]
    s = snap(pages, [vma(pages=1024)])
    mm = build(s, Machine(), "all")
    assert mm.nr_pages <= 1024
    assert cont(mm, 1024) == [*range(32), 32]
    assert any("renumbered" in line for line in assumed(s, Machine()))
    assert word(mm, 600) >> 12 & ((1 << 38) - 1) == 5 << 30
    near = snap(folio(VPN, 0x200, 9), [vma(pages=1024)])
    assert not any("renumbered" in line for line in assumed(near, Machine()))


def test_a_frame_mapped_twice_is_one_page():
    s = snap([(VPN, PRESENT | FILE | 7, SWAPBACKED), (VPN + 9, PRESENT | FILE | 7, SWAPBACKED)], [vma(flags=SHARED, file=1)])
    mm = build(s, Machine())
    assert mm.nr_pages == 1 and word(mm) == word(mm, 9)


# ---- which pages are exclusive ----


def owners(s, spec):
    return exclusive_pages(s, kinds_of(s), spec).tolist()


def test_bit56_and_the_page_flag_differ_where_a_fork_shared():
    s = snap([(VPN, OWN | 1, ANON | PAE), (VPN + 1, OWN | 2, ANON), (VPN + 2, PRESENT | 3, ANON)])
    assert owners(s, "bit56") == [True, True, False]
    assert owners(s, "kpageflags") == [True, False, False]
    assert owners(s, "all") == [True, True, True]
    assert owners(s, "none") == [False, False, False]


def test_the_flag_of_a_files_page_is_something_else():
    s = snap([(VPN, OWN | FILE | 1, PAE), (VPN + 1, OWN | 2, ANON | KSM | PAE), (VPN + 2, PRESENT | 3, ZERO | PAE)])
    for spec in ("kpageflags", "bit56", "all"):
        assert not any(owners(s, spec))
    shared = snap([(VPN, OWN | 1, ANON | PAE)], [vma(flags=SHARED)])
    assert owners(shared, "all") == [False]


def test_of_a_large_folio_newer_kernels_show_the_first_page_only():
    pages = folio(VPN, 0x10, 2, pagemap=OWN)
    s = snap(pages)
    assert owners(s, "kpageflags") == [False] * 4
    assert exclusive_pages(s, kinds_of(s), "kpageflags", "exclusive").tolist() == [False, True, True, True]
    assert "3 pages inside large folios" in assumed(s, Machine())[1] and unknown_of(s).exclusive.tolist() == [3]
    mapped_elsewhere = snap(folio(VPN, 0x10, 2, pagemap=PRESENT))
    assert not unknown_of(mapped_elsewhere).exclusive.any(), "bit 56 clear is proof"
    old = replace(s, meta={"kernel": "6.8.0-generic"})
    assert owners(old, "kpageflags") == [False] * 4
    assert "inside large folios" not in assumed(old, Machine())[1]
    assert not unknown_of(old).exclusive.any()
    older = replace(s, meta={"kernel": "5.15.0"})
    assert owners(older, "kpageflags") == [False] * 4 and unknown_of(older).exclusive.tolist() == [4]
    assert "does not show" in assumed(older, Machine())[1]


@pytest.mark.parametrize("kernel", ["6.8.0", "6.18.0"])
def test_under_a_huge_entry_the_head_speaks_for_all(kernel):
    rows = folio(VPN, 0x200, 9)
    rows[0] = (*rows[0][:2], ANON | PAE, 9)
    if kernel == "6.18.0":  # tails repeat their head's flags
        rows = [(v, p, ANON | PAE, o) for v, p, _, o in rows]
    s = snap(rows, huge=np.ones(512, np.bool_), meta={"kernel": kernel})
    assert all(owners(s, "kpageflags"))


def test_a_pattern_begins_anew_in_every_table():
    s = snap([(VPN + 511, OWN | 1, ANON), (VPN + 512, OWN | 2, ANON), (VPN + 513, OWN | 3, ANON), (VPN + 9 * 512, OWN | 4, ANON)],
             [vma(pages=10 * 512)])  # fmt: skip
    assert owners(s, "1/511") == [True, False, True, False]


def test_an_array_gives_every_entry():
    s = snap([(VPN, OWN | 1, ANON), (VPN + 1, OWN | 2, ANON)])
    assert owners(s, np.array([True, False])) == [True, False]
    with pytest.raises(LayoutError, match="shape"):
        owners(s, np.array([True]))


def test_a_pattern_that_is_none_names_the_ways():
    with pytest.raises(LayoutError, match="kpageflags and bit56"):
        build(snap([(VPN, OWN | 1, ANON)]), Machine(), "sometimes")


def test_what_was_assumed_says_what_is_against_it():
    s = snap([(VPN, PRESENT | 1, ANON)])
    assert "1 of these pages" in assumed(s, Machine(), "all")[1]
    assert "which it is not" in assumed(s, Machine(), "bit56")[1]
    assert "none" not in assumed(s, Machine(), "none")[1] and "no anonymous page" in assumed(s, Machine(), "none")[1]
    assert "'1/511'" in assumed(s, Machine(), "1/511")[1]


# ---- the running kernel ----


@pytest.fixture(scope="module")
def taken():
    try:
        return demo.snapshot()
    except InputError as e:
        pytest.skip(f"frame numbers cannot be read: {e}")


def test_a_live_process_survives_its_file_and_builds_the_same(taken, tmp_path):
    save(taken, tmp_path / "demo.npz")
    again = load(tmp_path / "demo.npz")
    one, two = build(taken, Machine()), build(again, Machine())
    assert isinstance(one, MM) and one.vmas() == two.vmas()
    assert np.array_equal(words_of(taken, one), words_of(again, two))
    assert np.array_equal(one.pages, two.pages)


def test_a_live_process_is_changed_alike_by_every_strategy(taken):
    built = build(taken, Machine())
    assert len(built.vmas()) == np.count_nonzero(taken.vmas["skip"] == 0)
    for r in taken.writable_ranges():
        if not r.name.startswith("[demo: "):
            continue
        results = {}
        for name in ("per-pte", "folio"):
            mm = built.copy()
            done = [mm.mprotect(r.start, r.length, prot, strategy=name) for prot in (1, 3)]
            results[name] = [d.pages for d in done], int(np.count_nonzero(mm.pages & bits.PG_ANON_EXCLUSIVE))
            assert done[0].pages == r.pages
        assert results["per-pte"] == results["folio"]


def test_what_a_fork_shared_is_not_taken_for_exclusive(taken):
    """Known truth: only pages written since the fork are exclusive, which /proc shows of few. It lies between the ends."""
    at = taken.names.index("[demo: forked]")
    start, end = (int(taken.vmas[name][at]) for name in ("start", "end"))
    mine = taken.vma_of == at
    if not (taken.order[mine] >= 4).any():
        pytest.skip("the kernel had no huge page to give")
    nr = (end - start) // taken.page_size
    written = np.arange(nr) % 5 == 0
    at_end = {}
    for name in ENDS:
        mm = build(taken, Machine(), "kpageflags", name)
        mm.mprotect(start, end - start, 1)
        mm.mprotect(start, end - start, 3)
        at_end[name] = np.concatenate([mm.ptes(a, 512) for a in range(start, end, 1 << 21)]) & np.uint64(bits.PTE_WRITE) != 0
    assert not (at_end["shared"] & ~written).any() and not (written & ~at_end["exclusive"]).any()
    is_open = exclusive_unknown(taken, kinds_of(taken), "kpageflags")[mine]
    assert np.array_equal(at_end["exclusive"] & ~at_end["shared"], is_open)
    assert unknown_of(taken).exclusive[at] == np.count_nonzero(is_open) > nr // 2
