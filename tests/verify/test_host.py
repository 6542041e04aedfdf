"""The running kernel beside the model: no difference, and one that is planted is found, shrunk and written as C."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from ptebatch.reference import madvise as m
from ptebatch.reference.live import LiveMM
from ptebatch.verify import host, verify_host
from ptebatch.verify.hostops import LARGE, NAMES, PROCESSES, Op, sequence
from ptebatch.verify.hostprogram import program


@pytest.fixture(scope="module", autouse=True)
def modelled():
    found, notes = host.Host.find()
    if any("is not modelled" in note for note in notes):
        pytest.skip(f"the running kernel is not modelled: {notes}")
    return found


def test_no_difference_in_a_few_sequences():
    report = verify_host(25, 50, seed=11)
    assert report.ok, report.text()
    assert report.sequences == 25 and report.calls > 25 * 90


@pytest.mark.slow
def test_no_difference_in_many_sequences():
    report = verify_host(250, 50, seed=12)
    assert report.ok, report.text()


def test_a_seed_gives_the_same_sequences():
    assert sequence("7.1", 40) == sequence("7.1", 40) != sequence("7.2", 40)


def test_sequences_hold_every_call_and_never_a_process_that_is_gone():
    met = set()
    for i in range(300):
        alive = 1
        for op in sequence(f"5.{i}", 50):
            assert op.who < alive
            alive += (op.name == "fork") - (op.name == "exit")
            assert 1 <= alive <= PROCESSES
            met.add(op.name)
    assert met == set(NAMES)


def _ops(*calls: tuple[object, ...]) -> list[Op]:
    return [Op(*call) for call in calls]  # type: ignore[arg-type]


#: what differed once, shrunk: name, process, first page, pages, argument, shared
MET = {
    "a shrink reaches over VMAs": _ops(("mmap", 0, 0, 48, 3), ("mprotect", 0, 2, 2, 1), ("resize", 0, 0, 4, 1)),
    "the VMA of a fork's child merges with none that has no anon_vma": _ops(
        ("mmap", 0, 0, 48, 3), ("mprotect", 0, 23, 13, 1), ("write", 0, 38, 1, 38), ("fork", 0), ("mprotect", 1, 25, 13, 3)
    ),
    "but with what it grows up to": _ops(
        ("mmap", 0, 0, 48, 3),
        ("write", 0, 17, 1, 125),
        ("fork", 0),
        ("mmap", 1, 3, 5, 3),
        ("munmap", 1, 3, 1),
        ("resize", 1, 1, 2, 3),
    ),
    "a sealed VMA stops munmap behind its first cut": _ops(("mmap", 0, 0, 48, 3), ("mseal", 0, 21, 13), ("munmap", 0, 19, 8)),
    "a guard makes an anon_vma": _ops(
        ("mmap", 0, 0, 48, 3), ("mprotect", 0, 28, 5, 1), ("madvise", 0, 24, 24, m.MADV_GUARD_INSTALL), ("mprotect", 0, 32, 3, 3)
    ),
    "but none of shared memory": _ops(
        ("mmap", 0, 11, 37, 0, True),
        ("mprotect", 0, 33, 1, 1),
        ("madvise", 0, 36, 1, m.MADV_GUARD_INSTALL),
        ("madvise", 0, 20, 13, m.MADV_GUARD_INSTALL),
        ("mprotect", 0, 12, 36, 3),
    ),
    "shared memory is one of parent and child before it is touched": _ops(
        ("mmap", 0, 0, 8, 3, True), ("fork", 0), ("write", 1, 0, 1, 67), ("read", 0, 0, 1)
    ),
    "shared memory that grew has nothing behind its end": _ops(
        ("mmap", 0, 9, 1, 3, True), ("resize", 0, 9, 1, 6), ("read", 0, 10, 1), ("write", 0, 9, 1, 4), ("write", 0, 12, 1, 4)
    ),
}


MET_LARGE = {
    "a folio that is split gives up what holds nothing": _ops(
        ("mmap", 0, 0, 1536, 3),
        ("madvise", 0, 0, 1536, m.MADV_HUGEPAGE),
        ("write", 0, 1236, 1, 128),
        ("madvise", 0, 768, 700, m.MADV_COLD),
    ),
    "a table that was emptied is given back": _ops(
        ("mmap", 0, 0, 1536, 3),
        ("madvise", 0, 0, 1536, m.MADV_HUGEPAGE),
        ("write", 0, 571, 1, 51),
        ("mprotect", 0, 900, 10, 1),
        ("mprotect", 0, 900, 10, 3),
        ("madvise", 0, 512, 512, m.MADV_DONTNEED),
        ("read", 0, 935, 1),
        ("write", 0, 1000, 1, 3),
        ("read", 0, 600, 1),
    ),
    "a fork shares a folio and the huge zero page": _ops(
        ("mmap", 0, 0, 1536, 3),
        ("madvise", 0, 0, 1536, m.MADV_HUGEPAGE),
        ("write", 0, 5, 1, 51),
        ("read", 0, 700, 1),
        ("fork", 0),
        ("write", 0, 6, 1, 9),
        ("write", 1, 701, 1, 8),
        ("read", 1, 5, 1),
        ("exit", 1),
        ("write", 0, 7, 1, 7),
    ),
}


@pytest.mark.parametrize("name", MET_LARGE)
def test_folios_of_a_pmds_size_are_as_the_kernel_has_them(modelled, name):
    if modelled.arena(1) is not LARGE:
        pytest.skip("the host has no folios of 2M")
    made, found = host.run(MET_LARGE[name], modelled, LARGE)
    assert found is None and made == len(MET_LARGE[name])


@pytest.mark.parametrize("name", MET)
def test_what_differed_once_differs_no_more(modelled, name):
    if any(op.name in host.missing_calls() for op in MET[name]):
        pytest.skip("the running kernel has not all of these calls")
    made, found = host.run(MET[name], modelled)
    assert found is None and made == len(MET[name])


TWINS = {
    "forgets to give back": (m, "_ACTIONS", {**m._ACTIONS, m.MADV_DONTNEED: lambda mm, vma, start, end: None}, "pages ret"),
    "forgets what was written": (LiveMM, "load", lambda mm, addr: 0, "access"),
    "never merges": ("ptebatch.reference.vma.VmaList", "_mergeable", lambda vmas, left, right: False, "vmas"),
    "lets a child write": ("ptebatch.reference.contpte.Contpte", "wrprotect_ptes", lambda mm, addr, nr: None, "access"),
}


@pytest.mark.parametrize("twin", TWINS)
def test_a_model_that_is_wrong_is_found(monkeypatch, twin):
    where, name, value, what = TWINS[twin]
    if isinstance(where, str):
        monkeypatch.setattr(f"{where}.{name}", value)
    else:
        monkeypatch.setattr(where, name, value)
    report = verify_host(60, 50, seed=3, most=1)
    assert len(report.differences) == 1 and report.differences[0].what in what.split()
    # shrunk to what is needed
    assert len(report.differences[0].ops) <= 8
    json.dumps(report.to_dict())
    assert "after these calls" in report.text()


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_the_program_makes_the_calls(tmp_path):
    ops = [
        Op("mmap", 0, 0, 4, 3),
        Op("write", 0, 1, 1, 9),
        Op("fork", 0),
        Op("mprotect", 1, 0, 2, 1),
        Op("madvise", 0, 1, 1, m.MADV_DONTNEED),
        Op("exit", 1),
        Op("resize", 0, 0, 4, 2),
    ]
    source = tmp_path / "calls.c"
    source.write_text(program(ops, 4096))
    subprocess.run(["cc", "-Wall", "-Werror", "-o", str(tmp_path / "calls"), str(source)], check=True)
    done = subprocess.run([str(tmp_path / "calls")], capture_output=True, text=True, timeout=60, check=True)
    assert "3 process 1: mprotect" in done.stderr and "No such" not in done.stderr
    assert "10000000000-10000002000 rw-p" in done.stderr


def test_without_frames_zero_pages_look_like_others(modelled):
    shown = host.Host(modelled.machine, modelled.thp, [range(5, 6)])
    hidden = host.Host(modelled.machine, modelled.thp, [])
    assert host.seen_by(shown, "a0f.", "a0z.") == "a00."
    assert host.seen_by(hidden, "aaf.", "a0z.") == "aaf."
    # but nothing else is taken for a zero page
    assert host.seen_by(hidden, "aa..", "a0z.") == "aaz."


@pytest.mark.parametrize(("at_work", "differences"), [(True, 0), (False, 1)])
def test_what_khugepaged_did_meanwhile_is_looked_at_again(monkeypatch, modelled, at_work, differences):
    times = iter(range(100))
    ran = []

    def run(ops, host_, arena):
        ran.append(ops)
        return 1, host.Difference(list(ops), "pages", "a", "0") if len(ran) == 1 else None

    monkeypatch.setattr(host, "run", run)
    monkeypatch.setattr(host, "shrink", lambda found, *_: found)
    monkeypatch.setattr(host, "collapsed", lambda: next(times) if at_work else 0)
    report = host.verify_host(2, 5, 1)
    assert (len(report.differences), report.ok) == (differences, not differences)
    assert any("khugepaged collapsed memory in 1 runs" in note for note in report.notes) == at_work


def test_what_differs_every_time_is_told_though_khugepaged_is_at_work(monkeypatch, modelled):
    times = iter(range(100))
    monkeypatch.setattr(host, "run", lambda ops, *_: (1, host.Difference(list(ops), "pages", "a", "0")))
    monkeypatch.setattr(host, "shrink", lambda found, *_: found)
    monkeypatch.setattr(host, "collapsed", lambda: next(times))
    assert len(host.verify_host(1, 5, 1).differences) == 1
