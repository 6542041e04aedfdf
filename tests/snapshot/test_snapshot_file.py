"""The file of a snapshot: what is kept, and what is refused."""

from __future__ import annotations

import io
import json
import os
import zipfile

import numpy as np
import pytest
from small_snapshots import ANON, BASE, OWN, PRESENT, RW, SHARED, SWAP, VPN, R, folio, snap, vma

from ptebatch import Machine
from ptebatch.errors import InputError
from ptebatch.snapshot import build, load, save
from ptebatch.snapshot.snapshot import VMA_DTYPE, Range

# ---- the file ----


@pytest.fixture
def saved(tmp_path):
    pages = folio(VPN + 16, 0x10, 4) + [(VPN + 40, SWAP | 3 << 5)]
    s = snap(pages, [vma(), vma(BASE + 0x400000, 1, R, file=2)], names=("", "/a \udcff\\012"), lost={"torn": 3})
    path = tmp_path / "taken.npz"
    save(s, path)
    return s, path


def test_a_saved_snapshot_reads_back_the_same(saved):
    s, path = saved
    again = load(path)
    for name in ("vmas", "vpn", "pagemap", "kflags", "mapcount", "order", "huge"):
        assert np.array_equal(getattr(s, name), getattr(again, name)), name
        assert not getattr(again, name).flags.writeable
    assert (again.names, again.meta, again.lost, again.page_size) == (s.names, s.meta, s.lost, s.page_size)
    assert again.source == str(path)


def test_an_empty_snapshot_reads_back_and_builds(tmp_path):
    s = snap([], vmas=[np.zeros(0, VMA_DTYPE)])
    save(s, tmp_path / "empty.npz")
    mm = build(load(tmp_path / "empty.npz"), Machine())
    assert mm.vmas() == []


def test_nothing_in_the_file_is_pickled(saved):
    with np.load(saved[1], allow_pickle=False) as members:
        assert all(members[name].dtype.hasobject is False for name in members.files)


def rewrite(path, **members):
    """Replace members of an .npz; None removes one, bytes are put in as they are."""
    with zipfile.ZipFile(path) as archive:
        kept = {name: archive.read(name) for name in archive.namelist()}
    for name, value in members.items():
        if value is None:
            del kept[f"{name}.npy"]
        elif isinstance(value, bytes):
            kept[f"{name}.npy"] = value
        else:
            out = io.BytesIO()
            np.lib.format.write_array(out, value, allow_pickle=True)
            kept[f"{name}.npy"] = out.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in kept.items():
            archive.writestr(name, data)


def meta_of(path):
    with np.load(path) as members:
        return json.loads(members["meta"].tobytes())


def refused(path, place=""):
    with pytest.raises(InputError) as e:
        load(path)
    assert e.value.path == str(path)
    assert place in e.value.place, str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", ["vmas", "vpn", "pagemap", "kflags", "mapcount", "order", "huge", "meta"])
def test_a_missing_or_foreign_array_is_named(saved, name):
    _, path = saved
    whole = path.read_bytes()
    for value in (
        None,
        np.zeros(3, np.float64),
        np.zeros((3, 3), np.uint8),
        np.array([{"a": 1}], dtype=object),
        b"no npy at all",
        b"\x93NUMPY\x01\x00\xff\xff{",
        b"",
    ):
        path.write_bytes(whole)
        rewrite(path, **{name: value})
        refused(path, name)


def test_an_array_of_another_length_is_named(saved):
    s, path = saved
    rewrite(path, kflags=s.kflags[:-1].copy())
    refused(path, "kflags")


def test_an_array_that_promises_more_than_it_has_takes_no_memory(saved):
    _, path = saved
    out = io.BytesIO()
    np.lib.format.write_array(out, np.zeros(4, np.uint64))
    rewrite(path, vpn=out.getvalue().replace(b"(4,)", b"(%d,)" % (1 << 50), 1))
    refused(path, "vpn")


@pytest.mark.parametrize(("plain", "odd"), [(b"(17,), } ", b"(17L,), }"), (b"'<u8'", b"'\\e8'")])
def test_a_header_that_numpy_would_mend_is_refused(saved, recwarn, plain, odd):
    """The header of another Python, and escapes of none, came with numpy's own warning."""
    s, path = saved
    out = io.BytesIO()
    np.lib.format.write_array(out, s.vpn)
    whole = out.getvalue()
    assert whole.count(plain) == 1
    rewrite(path, vpn=whole.replace(plain, odd))
    refused(path, "vpn")
    assert not recwarn.list


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"}, {"version": 2}, {"page_size": 5000}, {"page_size": True}, {"page_size": "4096"},
        {"names": [""]}, {"names": ["", 5]}, {"names": None}, {"meta": {"pid": [1]}}, {"meta": []},
        {"lost": {"changed": -1}}, {"lost": {"other": 1}}, {"lost": {"changed": True}},
    ],
)  # fmt: skip
def test_what_meta_may_not_say(saved, change):
    _, path = saved
    head = meta_of(path) | change
    rewrite(path, meta=np.frombuffer(json.dumps(head).encode(), np.uint8))
    refused(path)


@pytest.mark.parametrize("text", [b"{", b"[]", b"[" * 100_000, b"\xff\xfe", b""])
def test_meta_that_is_no_json_object(saved, text):
    rewrite(saved[1], meta=np.frombuffer(text, np.uint8))
    refused(saved[1], "meta")


def test_a_file_cut_anywhere_is_refused(saved):
    _, path = saved
    whole = path.read_bytes()
    for size in [*range(0, len(whole), 37), len(whole) - 1]:
        path.write_bytes(whole[:size])
        refused(path)


def test_a_flipped_bit_is_refused_or_harmless(saved):
    s, path = saved
    whole = path.read_bytes()
    rng = np.random.default_rng(5)
    for at, bit in zip(rng.integers(0, len(whole), 400), rng.integers(0, 8, 400), strict=True):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            again = load(path)
        except InputError:
            continue
        assert np.array_equal(again.pagemap, s.pagemap) and np.array_equal(again.vmas, s.vmas)


def test_other_files_are_refused(tmp_path):
    for name, data in (("text", b"hello"), ("empty", b""), ("array.npy", b"\x93NUMPY")):
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name)
    np.savez(tmp_path / "foreign.npz", a=np.zeros(3))
    refused(tmp_path / "foreign.npz", "vmas")
    refused(tmp_path / "absent.npz")
    refused(tmp_path)


def test_a_place_that_cannot_be_written_is_an_input_error(saved, tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        save(saved[0], tmp_path / "no such folder" / "x.npz")


# ---- values that no kernel shows ----


@pytest.mark.parametrize(
    ("rows", "vmas", "place"),
    [
        ([(VPN + 1, PRESENT), (VPN, PRESENT | 1)], None, "vpn[1]"),
        ([(VPN, PRESENT), (VPN, PRESENT | 1)], None, "vpn[1]"),
        ([(VPN + 512, PRESENT)], None, "vpn[0]"),
        ([(VPN - 1, PRESENT)], None, "vpn[0]"),
        ([(VPN, 5)], None, "vpn[0]"),
        ([(VPN, PRESENT | 1 << 38)], None, "vpn[0]"),
        ([(VPN, PRESENT | 16, ANON, 16)], None, "vpn[0]"),
        ([(VPN, PRESENT | 16, ANON, 4), (VPN + 1, PRESENT | 17, ANON, 0)], None, "order"),
        ([(VPN, PRESENT)], [vma(skip=2)], "vpn[0]"),
        ([], [vma(), vma()], "vmas[1]"),
        ([], [vma(BASE + 0x1000), vma(BASE)], "vmas[1]"),
        ([], [vma(BASE + 1)], "vmas[0]"),
        ([], [vma(pages=0)], "vmas[0]"),
        ([], [vma(end=BASE - 4096)], "vmas[0]"),
        ([], [vma(flags=1 << 63)], "vmas[0]"),
        ([], [vma(skip=9)], "vmas[0]"),
        ([], [vma(notify=3)], "vmas[0]"),
        ([], [vma(end=1 << 63)], "vmas[0]"),
    ],
)
def test_a_value_that_no_kernel_shows_is_named(rows, vmas, place):
    with pytest.raises(InputError) as e:
        snap(rows, vmas)
    assert e.value.place == place


def test_writable_ranges_are_those_with_write_that_are_not_left_out():
    vmas = [vma(pages=4), vma(BASE + 0x10000, 4, R), vma(BASE + 0x20000, 4, RW, skip=1), vma(BASE + 0x30000, 4, SHARED)]
    s = snap([(VPN, OWN | 1, ANON), (VPN + 2, SWAP | 1 << 5)], vmas, names=("a", "b", "c", "d"))
    assert s.writable_ranges() == [Range(BASE, 0x4000, "a", 1), Range(BASE + 0x30000, 0x4000, "d", 0)]


def test_a_file_is_for_its_owner_alone(tmp_path):
    """It has frame numbers and addresses, which only root may read."""
    path = tmp_path / "saved.npz"
    for before in (None, 0o666):
        if before is not None:
            path.chmod(before)
        old = os.umask(0)
        try:
            save(snap([(VPN, PRESENT | 1)]), path)
        finally:
            os.umask(old)
        assert path.stat().st_mode & 0o777 == 0o600
