"""The command on a process: what it says of it, what it saves, what it refuses."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
from messages import document, refused, said
from small_snapshots import PAE

from ptebatch import bits
from ptebatch.errors import InputError
from ptebatch.snapshot import load, read_process, save
from ptebatch.snapshot.snapshot import VMA_DTYPE, Snapshot
from ptebatch.strategies import register, unregister


def process(path, names=("[heap]",), flags=bits.VM_READ | bits.VM_WRITE | 7 << 4):
    rows = np.zeros(len(names), VMA_DTYPE)
    vpn, pages = [], 32
    for i in range(len(names)):
        start = 0x7F00_0000_0000 + (i << 21)
        rows[i]["start"], rows[i]["end"], rows[i]["flags"], rows[i]["pgoff"] = start, start + pages * 4096, flags, start >> 12
        vpn += range(start >> 12, (start >> 12) + pages - i)
    nr = len(vpn)
    pagemap = np.arange(0x100, 0x100 + nr, dtype=np.uint64) | np.uint64(1 << 63 | 1 << 56)
    save(Snapshot(
        rows, tuple(names), np.array(vpn, np.uint64), pagemap, np.full(nr, 1 << 12 | 1 << 14, np.uint64), np.ones(nr, np.uint32),
        np.zeros(nr, np.uint8), np.zeros(nr, np.bool_), 4096,
        {"pid": 7, "comm": "made", "kernel": "6.9.0", "machine": "x86_64"}, {"changed": 3}, "made",
    ), path)  # fmt: skip
    return str(path)


def half_known(path):
    """One folio of 16 pages mapped by PTEs, of which a newer kernel shows the first alone, and single pages, known."""
    saved = process(path)
    s = load(saved)
    order, kflags = s.order.copy(), s.kflags.copy()
    order[:16] = 4
    kflags |= np.uint64(PAE)
    save(replace(s, order=order, kflags=kflags, meta=s.meta | {"kernel": "6.18.0"}), path)
    return saved


def test_what_is_unknown_is_counted_and_runs_at_both_ends(capsys, tmp_path):
    path = half_known(tmp_path / "p.npz")
    (start,) = document(capsys, "compare", "--file", path, "--op", "ro,rw", "--strategy", "folio,lookahead,per-pte")["starts"]
    to_rw = start["comparisons"][1]
    assert to_rw["unknown"] == "both" and to_rw["unknown_pages"] == {"exclusive": 15, "dirty": 0}
    assert "unknown: whether 15 pages inside large folios are PageAnonExclusive" in start["unknown"]
    ends = {}
    for end in ("shared", "exclusive"):
        args = ("compare", "--file", path, "--op", "ro,rw", "--strategy", "folio,lookahead,per-pte", "--unknown", end)
        (one,) = document(capsys, *args)["starts"]
        assert one["comparisons"][1]["unknown"] == end and one["comparisons"][1]["rows_if_exclusive"] is None
        ends[end] = one["comparisons"][1]["rows"]
    assert (to_rw["rows"], to_rw["rows_if_exclusive"]) == (ends["shared"], ends["exclusive"]) and ends["shared"] != ends[
        "exclusive"
    ]
    out = said(capsys, "compare", "--file", path, "--op", "ro,rw", "--strategy", "folio,lookahead,per-pte", "--table")
    low, high = sorted(ends[end][1]["detection_reads"] for end in ends)
    assert low != high and f" {low}..{high} " in out and "15 pages inside large folios" in out


def one_by_one_where(exclusive: bool):
    """A step that takes runs of pages, but single ones where they are exclusive, or are not."""

    def step(w):
        nr = w.folio_pte_batch()
        if not w.needs_anon_exclusive():
            w.change_unit(0, nr, False)
            return nr
        mine = w.page_anon_exclusive(0)
        nr = 1 if mine == exclusive else w.anon_exclusive_batch(0, mine, nr)
        w.change_unit(0, nr, mine)
        return nr

    return step


def test_a_ranking_that_depends_on_what_is_unknown_is_told(capsys, tmp_path):
    path = half_known(tmp_path / "p.npz")
    for name, exclusive in (("singly-if-shared", False), ("singly-if-exclusive", True)):
        register(name, one_by_one_where(exclusive))
    try:
        args = ("compare", "--file", path, "--op", "ro,rw", "--strategy", "singly-if-shared,singly-if-exclusive")
        to_ro, to_rw = document(capsys, *args)["starts"][0]["comparisons"]
        assert to_ro["ranking_flips"] == {}
        assert to_rw["ranking_flips"]["prot_commit"] == [["singly-if-exclusive", "singly-if-shared"]]
        assert "prot_commit: singly-if-exclusive less than singly-if-shared, or more" in said(capsys, *args, "--table")
        assert "The ranking flips with what is unknown: singly-if-exclusive and singly-if-shared (" in " ".join(
            said(capsys, *args).split()
        )
    finally:
        unregister("singly-if-shared")
        unregister("singly-if-exclusive")


def test_a_verb_with_one_picture_says_how_it_takes_what_is_unknown(capsys, tmp_path):
    path = half_known(tmp_path / "p.npz")
    out = said(capsys, "show", "--file", path, "--op", "rw")
    assert "unknown: whether 15 pages" in out and "--unknown exclusive takes the other end" in out
    assert "--unknown shared takes the other end" in said(capsys, "show", "--file", path, "--op", "rw", "--unknown", "exclusive")
    notes = document(capsys, "events", "--file", path, "--op", "rw")["notes"]
    assert any(note.startswith("unknown: whether 15 pages") for note in notes)


def test_a_layout_has_nothing_unknown(capsys):
    assert "--unknown is for a process" in refused(capsys, "compare", "--layout", "T1", "--unknown", "shared")


def test_a_process_from_a_file_says_what_was_assumed_and_lost(capsys, tmp_path):
    path = process(tmp_path / "p.npz")
    out = said(capsys, "compare", "--file", path, "--op", "ro", "--strategy", "folio,per-pte", "--exclusive", "1/1", "--table")
    lines = out.splitlines()
    assert lines[2] == f"made (7), read from {path}"
    assert [line for line in lines if line.startswith("assumed: ")][1].startswith("assumed: PageAnonExclusive follows '1/1'")
    assert "lost: 3 pages whose entry changed between two readings" in lines
    assert "[heap] 128K, current protection to ro: 32 pages from 0x7f0000000000 on" in lines
    assert not any(line.startswith("all writable mappings") for line in lines)


def test_the_largest_mappings_are_shown_and_the_others_summed(capsys, tmp_path):
    path = process(tmp_path / "p.npz", [f"[{i}]" for i in range(8)])
    out = said(capsys, "compare", "--file", path, "--op", "ro", "--strategy", "folio", "--table")
    titles = [line for line in out.splitlines() if " to ro: " in line]
    assert [t.split(",")[0] for t in titles] == [
        *(f"[{i}] 128K" for i in range(5)), "the other writable mappings (3) 384K", "all writable mappings (8) 1M",
    ]  # fmt: skip
    reads = [int(line.split()[1]) for line in out.splitlines() if line.startswith("folio ")]
    assert sum(reads[:6]) == reads[6]
    whole = said(capsys, "compare", "--file", path, "--op", "ro", "--strategy", "folio", "--whole", "--table")
    assert whole.count(" to ro: ") == 1 and "all writable mappings (8) 1M" in whole
    found = document(capsys, "compare", "--file", path, "--op", "ro", "--strategy", "folio")
    assert len(found["starts"][0]["comparisons"]) == 8 and found["starts"][0]["lost"] and found["starts"][0]["assumed"]
    found = document(capsys, "compare", "--file", path, "--op", "ro", "--strategy", "folio", "--whole")
    assert [c["rows"][0]["counters"]["pte_reads"] for c in found["starts"][0]["comparisons"]] == [reads[6]]


def test_names_of_mappings_do_not_steer_the_terminal(capsys, tmp_path):
    path = process(tmp_path / "p.npz", ["/a \x1b[31m\udcff b"])
    for verb in (("compare", "--table"), ("show",)):
        out = said(capsys, *verb, "--file", path, "--op", "ro", "--strategy", "folio")
        assert "\x1b" not in out and r"/a \x1b[31m\udcff b 128K" in out
    path = process(tmp_path / "q.npz", ["/a \x1b[31m\udcff b", "[b]"])
    out = said(capsys, "compare", "--file", path, "--op", "ro", "--strategy", "folio")
    assert "\x1b" not in out and r"/a \x1b[31m\udcff b" in out


def test_a_refused_mapping_is_named(capsys, tmp_path):
    path = process(tmp_path / "p.npz", ["[a]", "[b]"], bits.VM_READ | bits.VM_WRITE | 3 << 4)
    out = said(capsys, "compare", "--file", path, "--op", "rx", "--strategy", "folio", "--table")
    assert out.count("refused: [a]: Permission denied") == 2
    brief = " ".join(said(capsys, "compare", "--file", path, "--op", "rx").split())
    assert brief.count("refused: [a]: Permission denied") == 1 and ", and 1 more largest mappings" in brief
    assert said(capsys, "show", "--file", path, "--op", "rx").count("refused: Permission denied") == 2


@pytest.fixture
def live():
    """The running kernel shows page frames to us."""
    try:
        read_process(os.getpid())
    except InputError as e:
        pytest.skip(f"frame numbers cannot be read: {e}")


@pytest.mark.usefixtures("live")
def test_the_demo_process_runs_and_is_saved_and_never_overwritten(capsys, tmp_path):
    path = str(tmp_path / "demo.npz")
    found = document(capsys, "compare", "--pid", "demo", "--op", "ro", "--strategy", "folio", "--save", path)
    names = {c["name"] for c in found["starts"][0]["comparisons"]}
    assert {"[demo: small]", "[demo: thp]", "[demo: forked]"} <= names and found["saved"] == path
    again = document(capsys, "compare", "--file", path, "--op", "ro", "--strategy", "folio")
    mine, theirs = (f["starts"][0]["comparisons"] for f in (again, found))
    assert [c["rows"] for c in mine] == [c["rows"] for c in theirs]
    before = os.stat(path).st_mtime_ns
    assert "exists already" in refused(capsys, "compare", "--pid", "demo", "--save", path)
    assert os.stat(path).st_mtime_ns == before
    out = said(capsys, "show", "--pid", "demo", "--op", "ro", "--save", path, "--force")
    assert out.endswith(f"\n\nsaved to {path}\n") and os.stat(path).st_mtime_ns > before


@pytest.mark.parametrize("what", ["cut", "text", "zip", "empty"])
def test_a_file_that_is_no_snapshot_is_named(capsys, tmp_path, what):
    path = tmp_path / "p.npz"
    process(path)
    data = {"cut": path.read_bytes()[:-30], "text": b"hello\n", "zip": b"PK\x05\x06" + bytes(18), "empty": b""}[what]
    path.write_bytes(data)
    assert refused(capsys, "compare", "--file", str(path)).startswith(f"{path}: ")


@pytest.mark.parametrize("what", ["granule", "exclusive", "writable", "place"])
def test_a_process_that_cannot_be_compared_is_refused(capsys, tmp_path, what):
    flags = bits.VM_READ | 7 << 4 | (0 if what == "writable" else bits.VM_WRITE)
    path = process(tmp_path / "p.npz", flags=flags)
    argv = {
        "granule": ["--file", path, "--machine", "7.3,granule=16K"],
        "exclusive": ["--file", path, "--exclusive", "often"],
        "writable": ["--file", path],
        "place": ["--pid", "demo", "--save", str(tmp_path / "no" / "such.npz")],
    }[what]
    said = {"granule": "pages of", "exclusive": "'often'", "writable": "no writable", "place": "such.npz: cannot be written"}
    assert said[what] in refused(capsys, "compare", *argv)
