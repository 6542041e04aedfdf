"""Reading a process from crafted /proc trees; the running kernel is in test_procfs_live.py."""

from __future__ import annotations

import ctypes
import os
import struct

import pytest
from crafted import (
    ANON_PAGE,
    BUDDY,
    EXCLUSIVE,
    FILE,
    GUARD,
    HEAD,
    HUGETLB,
    LRU,
    MAPS,
    MMAP,
    NOPAGE,
    PAGE,
    PID,
    PRESENT,
    SWAP,
    SWAPBACKED,
    TAIL,
)  # fmt: skip

from ptebatch.errors import InputError
from ptebatch.snapshot import kpage, procfs
from ptebatch.snapshot.pagemap import Pagemap
from ptebatch.snapshot.procfs import read_process
from ptebatch.snapshot.snapshot import SKIPPED

# ---- crafted trees ----


def test_a_folio_gets_the_order_of_its_head_and_tails_even_where_it_is_not_mapped(tree):
    tree.folio(0x1000, 4)
    tree.folio(0x1010, 2)
    tree.frames[0x1014] = ANON_PAGE
    tree.pages = {0x403: PRESENT | EXCLUSIVE | 0x1007, 0x404: PRESENT | 0x1013, 0x405: PRESENT | 0x1014}
    s = tree.read()
    assert s.vpn.tolist() == [0x403, 0x404, 0x405]
    assert s.pfn.tolist() == [0x1007, 0x1013, 0x1014]
    assert s.order.tolist() == [4, 2, 0]
    assert not any(s.lost.values())
    assert s.meta["comm"] == "worker" and s.meta["kernel"] == "6.18.0-test"


def test_a_whole_table_is_one_folio_and_a_larger_one_is_cut_to_a_table(tree):
    tree.folio(0x2000, 9)
    tree.folio(0x4000, 10)
    tree.pages = {0x400 + i: PRESENT | 0x2000 + i for i in range(256)}
    tree.pages |= {0x500 + i: PRESENT | 0x4200 + i for i in range(128)}
    s = tree.read()
    assert set(s.order.tolist()) == {9}
    assert s.lost["torn"] == 0


@pytest.mark.parametrize(
    ("flags", "orders", "torn"),
    [
        ({0: TAIL, 1: TAIL}, [0, 0], 2),  # tails without a head
        ({0: HEAD, 1: TAIL, 2: TAIL, 3: 0}, [1, 1, 0, 0], 1),  # three pages: rounded down
        ({0: 0, 1: HEAD, 2: TAIL, 3: 0}, [0, 0, 0, 0], 1),  # a head that is not aligned
        ({0: HEAD, 1: TAIL, 2: HEAD, 3: TAIL}, [1, 1, 1, 1], 0),
    ],
)
def test_compound_pages_that_do_not_agree_are_rounded_down_and_counted(tree, flags, orders, torn):
    tree.frames = {0x3000 + i: ANON_PAGE | flag for i, flag in flags.items()}
    tree.pages = {0x400 + i: PRESENT | 0x3000 + i for i in flags}
    s = tree.read()
    assert s.order.tolist() == orders
    assert s.lost["torn"] == torn


def test_a_frame_that_became_something_else_is_dropped_and_counted(tree):
    tree.frames = {1: ANON_PAGE, 2: BUDDY, 3: ANON_PAGE, 4: LRU | MMAP, 5: 1 << 26, 6: 1 << 7}
    tree.pages = {0x400 + i: PRESENT | i for i in (1, 2, 5, 6)} | {0x403: PRESENT | FILE | 3, 0x404: PRESENT | FILE | 4}
    s = tree.read()
    assert s.vpn.tolist() == [0x401, 0x404]
    assert s.lost["reused"] == 4


def test_swap_guard_and_memory_without_pages_are_kept(tree):
    tree.frames = {9: ANON_PAGE}
    tree.pages = {
        0x400: SWAP | 3 | 0x55 << 5, 0x401: SWAP | GUARD | 31 | 4 << 5, 0x402: GUARD, 0x403: PRESENT | 0x99999,
        0x404: PRESENT | 9, 0x405: 1 << 55,
    }  # fmt: skip
    s = tree.read()
    assert s.vpn.tolist() == [0x400, 0x401, 0x402, 0x403, 0x404]
    assert s.present.tolist() == [False, False, False, True, True]
    assert s.kflags.tolist() == [0, 0, 0, NOPAGE, ANON_PAGE]


def test_mappings_without_pages_of_their_own_are_left_out(tree):
    tree.maps = MAPS + ""
    tree.frames = {9: ANON_PAGE}
    tree.pages = {0x55EB209DC: PRESENT | 9, 0x7F859DD6F: PRESENT | 9, 0x7F859DD75: PRESENT | FILE | 8}
    tree.frames[8] = MMAP | 1 << 32
    s = tree.read()
    assert s.vpn.tolist() == [0x55EB209DC, 0x7F859DD75]
    out = {name: SKIPPED[v["skip"]] for name, v in zip(s.names, s.vmas, strict=True) if v["skip"]}
    assert set(out) == {"[vvar]", "[vvar_vclock]", "[vsyscall]"}
    assert "user address space" in out["[vsyscall]"] and "PFNMAP" in out["[vvar]"]


def test_hugetlb_is_left_out_by_flag_by_page_and_by_name(tree):
    tree.maps = "".join(f"{a:08x}-{a + 0x200000:08x} rw-p 00000000 00:10 {a} {name}\n" for a, name in
                        ((0x400000, "/a"), (0x800000, "/b"), (0xC00000, "/anon_hugepage (deleted)")))  # fmt: skip
    tree.smaps = tree.maps.splitlines()[0] + "\nVmFlags: rd wr mr mw me ht\n"
    tree.folio(0x2000, 9, HUGETLB)
    tree.pages = {0x800: PRESENT | FILE | 0x2000}
    s = tree.read()
    assert [SKIPPED[i] for i in s.vmas["skip"]] == ["hugetlb"] * 3
    assert s.vpn.size == 0


def test_vmflags_decide_where_smaps_is_there_and_permissions_where_not(tree):
    tree.maps = (
        "00400000-00600000 rw-p 00000000 00:00 0 \n00600000-00800000 r--s 00000000 fe:00 5 /gconv\n"
        "00800000-00a00000 rw-s 00000000 fe:00 6 /data\n"
    )
    plain = tree.read()
    assert plain.vmas["flags"].tolist() == [0x73, 0xF9, 0xFB]
    assert plain.vmas["notify"].tolist() == [0, 1, 1]
    first, second, third = tree.maps.splitlines()
    tree.smaps = f"{first}\nVmFlags: rd wr mr mw me ac hg sd ??\n{second}\nVmFlags: rd mr me ms\n{third}\nVmFlags: rd wr sh io\n"
    detailed = tree.read()
    assert detailed.vmas["flags"].tolist() == [0x73 | 1 << 20 | 1 << 27 | 1 << 29, 0xD1, 0xB | 1 << 14]
    assert detailed.vmas["skip"].tolist() == [5, 0, 2]
    assert detailed.meta["unknown_vmflags"] == "??"


def enumerate_at(names):
    return [(0x400000 + i * PAGE, name) for i, name in enumerate(names)]


def test_shared_memory_is_told_from_a_file_by_its_pages(tree):
    names = (
        "fe:00 6 /x", "00:01 7 /y", "00:0f 8 anon_inode:[io_uring]", "fe:00 9 /dev/own", "00:1c 10 /ramfs/z",
        "00:01 11 /untouched", "fe:00 12 /untouched", "00:01 13 /memfd:untouched (deleted)", "fe:00 14 /locked",
    )  # fmt: skip
    tree.maps = "".join(f"{at:08x}-{at + 0x1000:08x} rw-s 00000000 {name}\n" for at, name in enumerate_at(names))
    cache, kernels, ramfs, locked = MMAP | LRU, MMAP, MMAP | LRU | 1 << 18, MMAP | LRU | 1 << 18 | 1 << 33
    tree.frames = {1: cache | SWAPBACKED, 2: cache, 3: kernels, 4: kernels, 5: ramfs, 9: locked}
    tree.pages = {0x400 + i - 1: PRESENT | FILE | i for i in tree.frames}
    yes, no, unknown = 1, 0, 2
    assert tree.read().vmas["notify"].tolist() == [no, yes, unknown, unknown, unknown, unknown, yes, no, yes]


def test_a_mapping_known_to_be_empty_is_not_read(tree, monkeypatch):
    tree.maps = "00400000-00600000 rw-p 00000000 00:00 0 \n10000000000-20000000000 rw-p 00000000 00:00 0 \n"
    lines = tree.maps.splitlines()
    tree.smaps = f"{lines[0]}\nRss: 4 kB\nVmFlags: rd wr mr mw me\n{lines[1]}\nRss: 0 kB\nVmFlags: rd wr mr mw me nr\n"
    tree.frames = {1: ANON_PAGE}
    tree.pages = {0x400: PRESENT | 1}
    asked = []
    real = kpage.read_words
    counted = lambda fd, path, at, nr: asked.append(nr) or real(fd, path, at, nr)  # noqa: E731
    monkeypatch.setattr("ptebatch.snapshot.pagemap.read_words", counted)
    assert tree.read().vpn.tolist() == [0x400]
    assert sum(asked) == 2 * 512


def test_without_kpagecount_the_counts_are_unknown(tree):
    tree.frames, tree.pages = {1: ANON_PAGE}, {0x400: PRESENT | 1}
    tree.counts = {1: 5_000_000_000}
    assert tree.read().mapcount.tolist() == [0xFFFF_FFFF]
    tree.counts = None
    (tree.root / "kpagecount").unlink()
    assert tree.read().mapcount.tolist() == [0]


# ---- a process that changes while it is read ----


def between(monkeypatch, act):
    """Do something after the first reading of pagemap."""
    real = kpage.read_frames

    def read(*args):
        frames = real(*args)
        act()
        return frames

    monkeypatch.setattr(procfs.kpage, "read_frames", read)


def test_pages_that_changed_or_appeared_are_counted(tree, monkeypatch):
    tree.frames = dict.fromkeys(range(1, 9), ANON_PAGE)
    tree.pages = {0x400: PRESENT | 1, 0x401: PRESENT | 2, 0x402: PRESENT | EXCLUSIVE | 3, 0x403: PRESENT | 4}

    def act():
        tree.pages |= {0x401: PRESENT | 7, 0x402: PRESENT | 3, 0x403: SWAP | 1 << 5, 0x404: PRESENT | 8}
        tree.write()

    between(monkeypatch, act)
    s = tree.read()
    assert s.vpn.tolist() == [0x400, 0x402]
    assert (s.lost["changed"], s.lost["appeared"], s.lost["vmas"]) == (2, 1, 0)


def test_mappings_that_changed_are_counted(tree, monkeypatch):
    def act():
        tree.maps = "00400000-00500000 rw-p 00000000 00:00 0 \n00500000-00600000 r--p 00000000 00:00 0 \n"
        tree.write()

    between(monkeypatch, act)
    assert tree.read().lost["vmas"] == 2


def test_every_page_gone_is_a_loss_and_not_an_error(tree, monkeypatch):
    tree.frames, tree.pages = {1: ANON_PAGE}, {0x400: PRESENT | 1}
    between(monkeypatch, lambda: (tree.pages.clear(), tree.write()))
    s = tree.read()
    assert s.vpn.size == 0 and s.lost["changed"] == 1


def test_a_process_that_ends_meanwhile_is_an_error(tree, monkeypatch):
    def act():
        tree.maps = ""
        tree.write()

    between(monkeypatch, act)
    with pytest.raises(InputError, match="ended"):
        tree.read()


# ---- what cannot be read ----


@pytest.mark.parametrize("pid", [0, -1, True, "77", 1.5])
def test_a_pid_that_is_none_is_refused(pid):
    with pytest.raises(InputError, match="process id"):
        read_process(pid)


def test_no_such_process(tree):
    with pytest.raises(InputError, match="no process 78"):
        read_process(78, proc=tree.write())


def test_a_kernel_thread_has_no_memory(tree):
    tree.maps = ""
    with pytest.raises(InputError, match="no user memory"):
        tree.read()


def test_frame_numbers_that_read_as_zero_say_what_right_is_missing(tree):
    tree.pages = {0x400: PRESENT, 0x401: PRESENT | FILE}
    with pytest.raises(InputError, match="CAP_SYS_ADMIN") as e:
        tree.read()
    assert "pagemap" in e.value.path


@pytest.mark.parametrize("name", ["77/maps", "77/pagemap", "kpageflags"])
def test_a_missing_file_is_named(tree, name):
    tree.frames, tree.pages = {1: ANON_PAGE}, {0x400: PRESENT | 1}
    root = tree.write()
    os.unlink(f"{root}/{name}")
    with pytest.raises(InputError) as e:
        read_process(PID, proc=root)
    assert e.value.path == f"{root}/{name}"


@pytest.mark.parametrize("name", ["77/pagemap", "kpageflags", "kpagecount"])
def test_a_file_cut_inside_a_word_is_named_with_the_byte(tree, name):
    tree.frames, tree.pages = {1: ANON_PAGE, 2: ANON_PAGE}, {0x400: PRESENT | 1, 0x401: PRESENT | 2}
    path = f"{tree.write()}/{name}"
    size = os.path.getsize(path) - 3
    os.truncate(path, size)
    with pytest.raises(InputError, match="cut short") as e:
        read_process(PID, proc=str(tree.root), page_size=PAGE)
    assert e.value.path == path and e.value.place == f"byte {size}"


def test_a_directory_in_place_of_a_file_is_an_input_error(tree):
    root = tree.write()
    os.unlink(f"{root}/77/pagemap")
    os.mkdir(f"{root}/77/pagemap")
    with pytest.raises(InputError, match="cannot be read"):
        read_process(PID, proc=root)


@pytest.mark.parametrize("zeros", [0, NOPAGE])
def test_masked_page_flags_are_refused(tree, zeros):
    """/dev/null over /proc/kpageflags, or a file of zeros: no frame shows anything."""
    tree.frames, tree.pages = {1: zeros, 2: zeros}, {0x400: PRESENT | 1, 0x401: PRESENT | 2}
    with pytest.raises(InputError, match=r"nothing of 2 frames.*masked") as e:
        tree.read()
    assert e.value.path.endswith("kpageflags")
    tree.frames[2] = ANON_PAGE
    assert tree.read().vpn.size == 2


def test_a_pagemap_without_the_pages_that_smaps_counts_is_refused(tree):
    tree.smaps = tree.maps + "Rss: 8 kB\nVmFlags: rd wr mr mw me\n"
    with pytest.raises(InputError, match="shows no page of a process that has some") as e:
        tree.read()
    assert e.value.path.endswith("77/pagemap")
    tree.smaps = tree.maps + "Rss: 0 kB\nVmFlags: rd wr mr mw me\n"
    assert tree.read().vpn.size == 0


# ---- a process that becomes another program ----

STAT = "77 (a) b) S 1 " + " ".join(str(i) for i in range(5, 53))


def test_a_process_that_executes_a_program_is_read_again(tree, monkeypatch):
    tree.frames, tree.pages = {1: ANON_PAGE, 2: ANON_PAGE}, {0x400: PRESENT | 1}
    root = tree.write()
    stat = tree.root / str(PID) / "stat"
    stat.write_text(STAT)
    runs = []

    def act():
        runs.append(1)
        if len(runs) == 1:
            stat.write_text(STAT.replace(" 28 ", " 1028 "))
            tree.pages = {0x401: PRESENT | 2}
            tree.write()

    between(monkeypatch, act)
    assert read_process(PID, proc=root, page_size=PAGE).vpn.tolist() == [0x401] and len(runs) == 2


def test_a_process_that_never_settles_is_refused(tree, monkeypatch):
    tree.frames, tree.pages = {1: ANON_PAGE}, {0x400: PRESENT | 1}
    root = tree.write()
    stat = tree.root / str(PID) / "stat"
    stat.write_text(STAT)
    times = iter(range(100))
    between(monkeypatch, lambda: stat.write_text(STAT.replace(" 22 ", f" {9000 + next(times)} ")))
    with pytest.raises(InputError, match="executed another program each of the 3 times"):
        read_process(PID, proc=root, page_size=PAGE)
    assert next(times) == 3


# ---- PAGEMAP_SCAN ----


class Scans:
    """The ioctl of a kernel that has pages at some places, and tells `walk_end` as 6.18 can."""

    def __init__(self, pages, flush=512):
        self.pages, self.flush, self.calls = pages, flush, 0

    def __call__(self, fd, number, arg):
        self.calls += 1
        fields = list(struct.unpack("=12Q", arg))
        start, end, vec, room = fields[2], fields[3], fields[5], fields[6]
        found = [at for at in self.pages if start <= at < end][:room]
        out = (ctypes.c_uint64 * (3 * room)).from_address(vec)
        for i, at in enumerate(found):
            out[3 * i : 3 * i + 3] = [at, at + PAGE, 8]
        # a full buffer: the end of what the flush before it had walked
        before = len(found) // self.flush * self.flush - self.flush if len(found) == room else None
        fields[4] = end if before is None else found[max(before, 1) - 1] + PAGE
        arg[:] = struct.pack("=12Q", *fields)
        return len(found)


@pytest.mark.parametrize("nr", [0, 1, 4095, 4096, 4097, 8192, 10_000])
def test_a_scan_goes_on_where_the_last_region_ended(tmp_path, monkeypatch, nr):
    pages = [0x100000 + i * 700 * PAGE for i in range(nr)]
    scans = Scans(pages)
    monkeypatch.setattr("ptebatch.snapshot.pagemap.fcntl.ioctl", scans)
    (tmp_path / "pagemap").write_bytes(b"")
    end = 0x100000 + 11_000 * 700 * PAGE
    with Pagemap(str(tmp_path / "pagemap"), [[(0x100000, end, None)]], PAGE) as pagemap:
        regions = pagemap._scan(0x100000, end)
    assert (regions[:, 0] * PAGE).tolist() == pages
    assert scans.calls == nr // 4096 + 1
