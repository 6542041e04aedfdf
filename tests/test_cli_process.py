"""The command on a process: what it says of it, what it saves, what it refuses."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from ptebatch import bits
from ptebatch.cli import main
from ptebatch.errors import InputError
from ptebatch.snapshot import VMA_DTYPE, Snapshot


@pytest.fixture(autouse=True)
def fixed_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("FORCE_COLOR", raising=False)


def said(capsys, *argv: str, status: int = 0) -> str:
    assert main(argv) == status
    out, err = capsys.readouterr()
    assert err == ""
    return out


def document(capsys, *argv: str, status: int = 0):
    return json.loads(said(capsys, *argv, "--json", status=status))


def refused(capsys, *argv: str) -> str:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ptebatch: ") and err.endswith("\n") and err.count("\n") == 1, err
    return err[len("ptebatch: ") : -1]


def process(path, names=("[heap]",), flags=bits.VM_READ | bits.VM_WRITE | 7 << 4):
    rows = np.zeros(len(names), VMA_DTYPE)
    vpn, pages = [], 32
    for i in range(len(names)):
        start = 0x7F00_0000_0000 + (i << 21)
        rows[i]["start"], rows[i]["end"], rows[i]["flags"], rows[i]["pgoff"] = start, start + pages * 4096, flags, start >> 12
        vpn += range(start >> 12, (start >> 12) + pages - i)
    nr = len(vpn)
    pagemap = np.arange(0x100, 0x100 + nr, dtype=np.uint64) | np.uint64(1 << 63 | 1 << 56)
    Snapshot(
        rows, tuple(names), np.array(vpn, np.uint64), pagemap, np.full(nr, 1 << 12 | 1 << 14, np.uint64), np.ones(nr, np.uint32),
        np.zeros(nr, np.uint8), np.zeros(nr, np.bool_), 4096,
        {"pid": 7, "comm": "made", "kernel": "6.9.0", "machine": "x86_64"}, {"changed": 3}, "made",
    ).save(path)  # fmt: skip
    return str(path)


def test_a_process_from_a_file_says_what_was_assumed_and_lost(capsys, tmp_path):
    path = process(tmp_path / "p.npz")
    out = said(capsys, "compare", "--file", path, "--op", "ro", "--strategy", "folio,per-pte", "--exclusive", "1/1")
    lines = out.splitlines()
    assert lines[2] == f"made (7), read from {path}"
    assert [line for line in lines if line.startswith("assumed: ")][1].startswith("assumed: PageAnonExclusive follows '1/1'")
    assert "lost: 3 pages whose entry changed between two readings" in lines
    assert "[heap] 128K, as mapped to ro: 32 pages from 0x7f0000000000 on" in lines
    assert not any(line.startswith("all writable mappings") for line in lines)


def test_the_largest_mappings_are_shown_and_the_others_summed(capsys, tmp_path):
    path = process(tmp_path / "p.npz", [f"[{i}]" for i in range(8)])
    out = said(capsys, "compare", "--file", path, "--op", "ro", "--strategy", "folio")
    titles = [line for line in out.splitlines() if " to ro: " in line]
    assert [t.split(",")[0] for t in titles] == [
        *(f"[{i}] 128K" for i in range(5)), "the other writable mappings (3) 384K", "all writable mappings (8) 1M",
    ]  # fmt: skip
    reads = [int(line.split()[1]) for line in out.splitlines() if line.startswith("folio ")]
    assert sum(reads[:6]) == reads[6]
    whole = said(capsys, "compare", "--file", path, "--op", "ro", "--strategy", "folio", "--whole")
    assert whole.count(" to ro: ") == 1 and "all writable mappings (8) 1M" in whole
    found = document(capsys, "compare", "--file", path, "--op", "ro", "--strategy", "folio")
    assert len(found["starts"][0]["comparisons"]) == 8 and found["starts"][0]["lost"] and found["starts"][0]["assumed"]
    found = document(capsys, "compare", "--file", path, "--op", "ro", "--strategy", "folio", "--whole")
    assert [c["rows"][0]["counters"]["pte_reads"] for c in found["starts"][0]["comparisons"]] == [reads[6]]


def test_names_of_mappings_do_not_steer_the_terminal(capsys, tmp_path):
    path = process(tmp_path / "p.npz", ["/a \x1b[31m\udcff b"])
    for verb in ("compare", "show"):
        out = said(capsys, verb, "--file", path, "--op", "ro", "--strategy", "folio")
        assert "\x1b" not in out and r"/a \x1b[31m\udcff b 128K" in out


def test_a_refused_mapping_is_named(capsys, tmp_path):
    path = process(tmp_path / "p.npz", ["[a]", "[b]"], bits.VM_READ | bits.VM_WRITE | 3 << 4)
    out = said(capsys, "compare", "--file", path, "--op", "rx", "--strategy", "folio")
    assert out.count("refused: [a]: Permission denied") == 2
    assert said(capsys, "show", "--file", path, "--op", "rx").count("refused: Permission denied") == 2


@pytest.fixture
def live():
    """The running kernel shows page frames to us."""
    try:
        Snapshot.of_process(os.getpid())
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
