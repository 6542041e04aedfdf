"""Each fuzz target for about a second, and the inputs that fuzzing found, kept."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from ptebatch.errors import InputError, PtebatchError
from ptebatch.snapshot import load
from tests.fuzz.corpus import corpus
from tests.fuzz.engine import Finding, by_hypothesis, feed
from tests.fuzz.targets import CUT, TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_breaks_a_target(name: str) -> None:
    assert by_hypothesis(name, TARGETS[name], 1.0, seed=0, batches=5) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_no_input_breaks_a_target_at_length(name: str) -> None:
    """The same inputs on every machine, as far as its time goes: a fast one must not find what a slow one does not."""
    assert by_hypothesis(name, TARGETS[name], 30.0, seed=1, batches=40) > 0


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_is_valid_input(name: str) -> None:
    """A corpus that every target refuses at its door would reach nothing behind it."""
    valid = corpus(name)
    assert valid and all(isinstance(data, bytes) and len(data) < 1 << 20 for data in valid)


def test_valid_strips_machines_and_worlds_are_accepted() -> None:
    from ptebatch import Machine
    from ptebatch.checker.worlds.small import SmallWorld
    from ptebatch.notation.strip import parse
    from tests.fuzz.targets import SMALL

    assert all(len(parse(data.decode(), SMALL).ptes) for data in corpus("notation"))
    assert all(Machine.parse(data.decode()) for data in corpus("machine"))
    for data in corpus("world"):
        parts = [part.decode() for part in data.split(CUT)]
        assert SmallWorld.parse(parts[0], parts[1], folios=parts[2], call=parts[3]).ptes


@pytest.mark.parametrize("name", ["process", "snapshot"])
def test_valid_processes_are_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fuzz import targets

    built = []
    monkeypatch.setattr(targets, "build", lambda found, machine: built.append(int(found.vpn.size)))
    for data in corpus(name):
        TARGETS[name](data)
    assert built and max(built) > 0


# ---- what fuzzing found ----


@pytest.mark.parametrize("folios", ["08410:0=f", f"{'9' * 5000}:0=f", f"0x400:{'9' * 5000}=f"])
def test_a_number_that_python_does_not_read_is_no_folio(folios: str) -> None:
    """Decimal with a leading zero, and thousands of digits, were a bare ValueError."""
    from ptebatch.checker.worlds.small import SmallWorld

    with pytest.raises(PtebatchError, match="folio"):
        SmallWorld.parse("7.3,cont_ptes=4,ptrs_per_pte=8", "RO,n", folios=folios, call="rw [0, 1)")
    with pytest.raises(PtebatchError, match="call"):
        SmallWorld.parse("7.3,cont_ptes=4,ptrs_per_pte=8", "RO,n", call=f"rw [0, {'9' * 5000})")


@pytest.mark.parametrize("place", ["major", "inode", "Rss", "Swap"])
def test_a_number_of_a_process_that_python_does_not_read(place: str) -> None:
    """Thousands of digits in /proc/PID/maps and smaps were a bare ValueError."""
    from ptebatch.snapshot.maps import Details, parse_maps, parse_smaps

    value = {"major": "0", "inode": "0", "Rss": "8", "Swap": "8"} | {place: "9" * 5000}
    mapping = f"7f0000000000-7f0000200000 rw-p 00000000 {value['major']}:00 {value['inode']}"
    smaps = f"{mapping}\nRss: {value['Rss']} kB\nSwap: {value['Swap']} kB\nVmFlags: rd wr\n"
    resident = 8 if place in ("Rss", "Swap") else 16
    assert parse_smaps(smaps) == {(0x7F0000000000, 0x7F0000200000): Details("rd wr", resident, 0)}
    if place in ("major", "inode"):
        with pytest.raises(InputError, match="is no mapping"):
            parse_maps(mapping)


def test_an_archive_whose_names_are_no_text_is_no_snapshot(tmp_path: Path) -> None:
    """It was a UnicodeDecodeError out of zipfile."""
    from tests.fuzz.targets import VALID_SNAPSHOT

    at = VALID_SNAPSHOT.rindex(b"PK\x01\x02")
    broken = bytearray(VALID_SNAPSHOT)
    broken[at + 8 : at + 10] = (1 << 11).to_bytes(2, "little")  # names in UTF-8
    broken[at + 46] = 0xC8
    (tmp_path / "s.npz").write_bytes(broken)
    with pytest.raises(InputError, match=r"not a whole \.npz file"):
        load(tmp_path / "s.npz")


# ---- bad twins: what a finding is ----


def test_a_fault_behind_an_edit_is_found() -> None:
    def careless(data: bytes) -> None:
        if b"1e999" in data:
            raise KeyError("planted")

    with pytest.raises(Finding, match="KeyError") as caught:
        by_hypothesis("machine", careless, 30.0, seed=0)
    assert b"1e999" in caught.value.data and len(caught.value.data) < 60


def test_documented_errors_are_no_findings_and_others_are() -> None:
    feed("machine", TARGETS["machine"], b"8.1,granule=5K")
    with pytest.raises(Finding, match="TypeError"):
        feed("machine", lambda data: TARGETS["machine"](data + 1), b"")  # type: ignore[operator]


def test_an_input_that_takes_too_long_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    from tests.fuzz import engine

    monkeypatch.setattr(engine, "PATIENCE", 1)
    with pytest.raises(Finding, match="took more than"):
        feed("size", lambda data: time.sleep(5), b"")


# ---- the command ----


def command(*argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    import os

    path = os.pathsep.join([str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *argv],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_command_says_what_made_the_bytes(tmp_path: Path) -> None:
    done = command("--engine", "hypothesis", "--target", "size", "--seconds", "0.3", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("bytes are made by Hypothesis") and "inputs" in done.stdout
    if importlib.util.find_spec("atheris") is None:
        done = command("--target", "size", "--seconds", "0.3", cwd=tmp_path)
        assert done.stdout.startswith("bytes are made by Hypothesis")


def test_one_input_can_be_fed_again(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"7.3")
    assert command("--target", "machine", "--input", "one", cwd=tmp_path).returncode == 0
    assert command("--input", "one", cwd=tmp_path).returncode == 2
    assert command("--target", "nothing", cwd=tmp_path).returncode == 2
