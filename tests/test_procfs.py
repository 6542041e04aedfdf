"""Reading a process: crafted /proc trees, then the running kernel."""

from __future__ import annotations

import os

import pytest

from ptebatch import kpage, procfs
from ptebatch.errors import InputError
from ptebatch.procfs import parse_maps, parse_smaps, read_process
from ptebatch.snapshot import SKIPPED

PID = 77
PAGE = 4096
PRESENT, SWAP, FILE, GUARD, EXCLUSIVE = 1 << 63, 1 << 62, 1 << 61, 1 << 58, 1 << 56
ANON, LRU, SWAPBACKED, MMAP, HEAD, TAIL = 1 << 12, 1 << 5, 1 << 14, 1 << 11, 1 << 15, 1 << 16
ANON_PAGE = ANON | LRU | SWAPBACKED | MMAP
HUGETLB, NOPAGE, KSM, ZERO, BUDDY, THP = 1 << 17, 1 << 20, 1 << 21, 1 << 24, 1 << 10, 1 << 22


class Tree:
    """A /proc with one process; pages and frames are set before it is written."""

    def __init__(self, root):
        self.root = root
        self.maps = ""
        self.smaps: str | None = None
        self.pages: dict[int, int] = {}
        self.frames: dict[int, int] = {}
        self.counts: dict[int, int] | None = {}

    def folio(self, head: int, order: int, flags: int = ANON_PAGE | THP) -> None:
        """Compound pages from `head` on."""
        for i in range(1 << order):
            self.frames[head + i] = flags | (TAIL if i else HEAD)

    def write(self) -> str:
        base = self.root / str(PID)
        base.mkdir(parents=True, exist_ok=True)
        (base / "maps").write_text(self.maps)
        (base / "comm").write_text("worker\n")
        if self.smaps is not None:
            (base / "smaps").write_text(self.smaps)
        (self.root / "sys/kernel").mkdir(parents=True, exist_ok=True)
        (self.root / "sys/kernel/osrelease").write_text("6.18.0-test\n")
        self.write_words(base / "pagemap", self.pages)
        self.write_words(self.root / "kpageflags", self.frames)
        if self.counts is not None:
            self.write_words(self.root / "kpagecount", {pfn: self.counts.get(pfn, 1) for pfn in self.frames})
        return str(self.root)

    @staticmethod
    def write_words(path, words: dict[int, int]) -> None:
        with open(path, "wb") as file:
            for at, word in words.items():
                file.seek(at * 8)
                file.write(word.to_bytes(8, "little"))

    def read(self):
        return read_process(PID, proc=self.write(), page_size=PAGE)


@pytest.fixture
def tree(tmp_path):
    made = Tree(tmp_path / "proc")
    made.maps = "00400000-00600000 rw-p 00000000 00:00 0 \n"
    return made


# ---- the text of maps ----

MAPS = """\
55eafa3d9000-55eafa3db000 r-xp 00002000 fe:00 260131                     /usr/bin/with space (deleted)
55eb209dc000-55eb209fd000 rw-p 00000000 00:00 0                          [heap]
7f859dafd000-7f859db1f000 ---p 00000000 00:00 0 
7f859dd6f000-7f859dd73000 r--p 00000000 00:00 0                          [vvar]
7f859dd73000-7f859dd75000 r--p 00000000 00:00 0                          [vvar_vclock]
7f859dd75000-7f859dd77000 r-xp 00000000 00:00 0                          [vdso]
7fa601600000-7fa601a00000 rw-s 00001000 00:01 25                         /dev/zero (deleted)
7ffda0125000-7ffda0146000 rw-p 00000000 00:00 0                          [stack]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""  # noqa: W291


def test_maps_are_read_with_their_special_names():
    maps = parse_maps(MAPS)
    assert [m.name for m in maps] == [
        "/usr/bin/with space (deleted)", "[heap]", "", "[vvar]", "[vvar_vclock]", "[vdso]", "/dev/zero (deleted)",
        "[stack]", "[vsyscall]",
    ]  # fmt: skip
    assert maps[0][:6] == (0x55EAFA3D9000, 0x55EAFA3DB000, "r-xp", 0x2000, (0xFE, 0), 260131)
    assert maps[-1].end == 0xFFFF_FFFF_FF60_1000
    assert parse_maps("") == []


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("garbage\n", "line 1"),
        (MAPS + "7f00-\n", "line 10"),
        (MAPS[: MAPS.index("[heap]") - 40], "line 2"),  # cut in the middle of a line
        (MAPS.replace("rw-s", "rw-x"), "line 7"),
        ("00400000-00400000 rw-p 00000000 00:00 0\n", "line 1"),
        ("00401000-00400000 rw-p 00000000 00:00 0\n", "line 1"),
        ("00400010-00401000 rw-p 00000000 00:00 0\n", "line 1"),
        ("00400000-00402000 rw-p 00000000 00:00 0\n00401000-00403000 rw-p 00000000 00:00 0\n", "line 2"),
        ("00400000-00402000 rw-p 00000000 00:00 0\n\n00403000-00404000 rw-p 00000000 00:00 0\n", "line 2"),
        ("11111111100400000-11111111100402000 rw-p 00000000 00:00 0\n", "line 1"),
    ],
)
def test_a_damaged_maps_line_is_named(text, place):
    with pytest.raises(InputError) as e:
        parse_maps(text, "/proc/1/maps")
    assert e.value.path == "/proc/1/maps" and e.value.place == place


def test_smaps_gives_flags_and_what_is_resident():
    text = (
        "00400000-00600000 rw-p 00000000 00:00 0 \nSize: 2048 kB\nRss:  12 kB\nSwap: 4 kB\nVmFlags: rd wr mr mw me ac hg \n"
        "00700000-00800000 rw-p 00000000 00:00 0 \nRss: x kB\n"
    )
    assert parse_smaps(text) == {(0x400000, 0x600000): (frozenset(["rd", "wr", "mr", "mw", "me", "ac", "hg"]), 16)}


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
    assert detailed.vmas["flags"].tolist() == [0x73 | 1 << 20 | 1 << 29, 0xD1, 0xB | 1 << 14]
    assert detailed.vmas["skip"].tolist() == [0, 0, 2]


def test_shared_memory_is_told_from_a_file_by_its_pages(tree):
    tree.maps = "00400000-00600000 rw-s 00000000 fe:00 6 /x\n00600000-00800000 rw-s 00000000 00:01 7 /y\n"
    tree.frames = {1: MMAP | SWAPBACKED, 2: MMAP}
    tree.pages = {0x400: PRESENT | FILE | 1, 0x600: PRESENT | FILE | 2}
    assert tree.read().vmas["notify"].tolist() == [0, 1]


def test_a_mapping_known_to_be_empty_is_not_read(tree, monkeypatch):
    tree.maps = "00400000-00600000 rw-p 00000000 00:00 0 \n10000000000-20000000000 rw-p 00000000 00:00 0 \n"
    lines = tree.maps.splitlines()
    tree.smaps = f"{lines[0]}\nRss: 4 kB\nVmFlags: rd wr mr mw me\n{lines[1]}\nRss: 0 kB\nVmFlags: rd wr mr mw me nr\n"
    tree.frames = {1: ANON_PAGE}
    tree.pages = {0x400: PRESENT | 1}
    asked = []
    real = kpage.read_words
    monkeypatch.setattr("ptebatch.pagemap.read_words", lambda fd, path, at, nr: asked.append(nr) or real(fd, path, at, nr))
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
