"""Recordings of real programs: read line by line, replayed, and what cannot be is named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from ptebatch.cli import main
from ptebatch.errors import LayoutError
from ptebatch.machine import Machine
from ptebatch.workloads.replay import Replayed, replay
from ptebatch.workloads.strace import Traced, Unread, calls_of

DATA = Path(__file__).parents[1] / "data" / "strace"
PROGRAMS = ("python", "node", "jvm", "redis", "postgres")


def recorded(name: str) -> list[Traced | Unread]:
    with gzip.open(DATA / f"{name}.strace.gz", "rt") as lines:
        return list(calls_of(lines))


def made(text: str, machine: Machine | None = None, folio: int = 0, touch: str = "first") -> Replayed:
    return replay(list(calls_of(text.splitlines())), machine or Machine(), folio, touch)


# ---- lines ----


def test_every_line_of_the_recordings_is_read():
    for name in PROGRAMS:
        assert [each for each in recorded(name) if isinstance(each, Unread)] == []


@pytest.mark.parametrize(
    ("line", "pid", "name", "args", "ret"),
    [
        ("munmap(0x7f00, 4096) = 0", 0, "munmap", ("0x7f00", "4096"), 0),
        ("[pid  12] munmap(0x7f00, 4096) = 0", 12, "munmap", ("0x7f00", "4096"), 0),
        ("12 10:11:12.5 munmap(0x7f00, 4096) = 0", 12, "munmap", ("0x7f00", "4096"), 0),
        ("12    0.000123 munmap(0x7f00, 4096) = 0 <0.000010>", 12, "munmap", ("0x7f00", "4096"), 0),
        ("mprotect(0x0, 5, PROT_READ) = -1 ENOMEM (Cannot allocate memory)", 0, "mprotect", ("0x0", "5", "PROT_READ"), -12),
        ("brk(NULL)                 = 0x5635e5251000", 0, "brk", ("NULL",), 0x5635E5251000),
        ('execve("/a, b", ["x", "y,)"], 0x1 /* 2 vars */) = 0', 0, "execve", ('"/a, b"', '["x", "y,)"]', "0x1 /* 2 vars */"), 0),
        ("exit_group(0) = ?", 0, "exit_group", ("0",), None),
    ],
)
def test_a_line_is_a_call(line, pid, name, args, ret):
    assert list(calls_of([line])) == [Traced(1, pid, name, args, ret)]


def test_unfinished_and_resumed_lines_are_one_call():
    lines = [
        "1 mmap(NULL, 4096, PROT_READ,  <unfinished ...>",
        "2 munmap(0x1000, 4096) = 0",
        "1 <... mmap resumed>MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x9000",
    ]
    calls = list(calls_of(lines))
    assert [(call.line, call.pid, call.name) for call in calls] == [(2, 2, "munmap"), (1, 1, "mmap")]
    assert calls[1].ret == 0x9000 and calls[1].args[2:4] == ("PROT_READ", "MAP_PRIVATE|MAP_ANONYMOUS")


@pytest.mark.parametrize("line", ["hello", "1 <... mmap resumed>) = 0", "mmap(NULL, 1"])
def test_what_is_no_call_is_named(line):
    assert [type(each) for each in calls_of([line])] == [Unread]


def test_signals_and_exits_are_passed_over():
    assert list(calls_of(["--- SIGCHLD {si_signo=SIGCHLD} ---", "1 +++ exited with 0 +++", ""])) == []


def test_a_call_that_did_not_end_is_named():
    assert list(calls_of(["1 munmap(0x1000, <unfinished ...>"])) == [Unread(1, "munmap did not end")]


# ---- replays ----


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("folio", [0, 64 << 10, 2 << 20])
def test_a_program_is_replayed_but_for_what_it_was_loaded_with(name, folio):
    one = replay(recorded(name), Machine(), folio)
    # the program's own segments and its loader's are mapped by execve(), of which nothing is in the file
    loaded = [each for each in one.unread if "was loaded with" in each.why]
    # of System V memory the length is not in the file either
    others = [each.why for each in one.unread if each not in loaded]
    assert len(loaded) == 2 and others == (["shmat() is not replayed", "shmdt() is not replayed"] if name == "postgres" else [])
    forks = name in ("python", "redis", "postgres")
    assert any("before a fork" in each for each in one.assumed) == forks and ("clone" in one.costs) >= forks
    assert one.costs["mmap"].calls > 30 and one.total().tlbi > 0 and one.mapped > 0


def test_larger_folios_take_fewer_faults():
    small, large = (replay(recorded("jvm"), Machine(), folio, "all").total() for folio in (0, 64 << 10))
    assert small.faults > 2 * large.faults


def test_what_is_a_stack_gets_none_and_what_cannot_be_modelled_is_named():
    def one(flags):
        text = f"10 mmap(NULL, 65536, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS{flags}, -1, 0) = 0x7f0000000000\n"
        return made(text, folio=64 << 10, touch="all")

    assert one("").total().faults == 1 and one("|MAP_STACK").total().faults == 16
    assert "MAP_LOCKED is not modelled" in one("|MAP_LOCKED").unread[0].why


def test_entries_are_those_that_compare_counts():
    begin = "1 mmap(0x10000000, 65536, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_FIXED, -1, 0) = 0x10000000\n"
    one = made(begin + "1 fork() = 2\n", touch="all")
    # 16 entries of the child are stored, and 16 of the parent's write-protected, each by an exchange
    assert one.costs["fork"].ptes == 32


@pytest.mark.parametrize("folio", [3 << 12, 2 << 12, 4 << 20, 1000])
def test_a_size_that_folios_cannot_have_is_refused_not_rounded(folio):
    with pytest.raises(LayoutError, match=f"folios of {folio} bytes cannot be"):
        made("munmap(0x1000, 4096) = 0\n", folio=folio)


@pytest.mark.parametrize("call", ["process_madvise(3, [], 1, MADV_COLD, 0)", "mbind(0x1000, 4096, MPOL_BIND, [0x1], 2, 0)"])
def test_what_moves_or_ages_memory_is_not_passed_over(call):
    assert [each.why for each in made(f"{call} = 0\n").unread] == [f"{call.partition('(')[0]}() is not replayed"]


def test_what_is_touched_is_what_is_asked_for():
    text = "mmap(NULL, 40960, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x10000000\n"
    assert [made(text, touch=touch).mapped for touch in ("none", "first", "all")] == [0, 1, 10]
    with pytest.raises(LayoutError, match="touch='some' is unknown"):
        made(text, touch="some")


def test_a_fork_is_another_process_and_a_thread_is_not():
    begin = "1 mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x10000000\n"
    child = "2 mprotect(0x10000000, 8192, PROT_NONE) = 0\n1 mprotect(0x10000000, 8192, PROT_READ) = 0\n"
    forked = made(begin + "1 clone(child_stack=NULL, flags=CLONE_CHILD_SETTID|SIGCHLD) = 2\n" + child)
    thread = made(begin + "1 clone3({flags=CLONE_VM|CLONE_THREAD}, 88) = 2\n" + child)
    assert forked.mapped == 2 and thread.mapped == 1
    assert not forked.unread and not thread.unread


def test_the_heap_grows_and_shrinks():
    text = "brk(NULL) = 0x20000000\nbrk(0x20021000) = 0x20021000\nbrk(0x20001000) = 0x20001000\n"
    one = made(text, touch="all")
    assert one.mapped == 1 and one.costs["(touch)"].faults == 33


def test_a_call_that_failed_then_fails_nothing_now():
    one = made("mprotect(0x10000000, 4096, PROT_READ) = -1 ENOMEM (Cannot allocate memory)\n")
    assert not one.unread and not one.costs


def test_what_is_not_modelled_is_named_and_the_rest_goes_on():
    text = (
        "mmap(NULL, 2097152, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS|MAP_HUGETLB, -1, 0) = 0x10000000\n"
        "remap_file_pages(0x10000000, 4096, 0, 0, 0) = 0\n"
        "madvise(0x10000000, 4096, MADV_SOFT_OFFLINE) = 0\n"
        "mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x20000000\n"
    )
    one = made(text)
    assert [each.line for each in one.unread] == [1, 2, 3] and one.mapped == 1


# ---- the command ----


def test_the_command_says_what_it_cost(capsys):
    assert main(["replay", str(DATA / "python.strace.gz"), "--kernels", "7.3", "--folio", "4K,64K"]) == 0
    said = capsys.readouterr().out
    assert "On 7.3, against 4K: folios of 64K:" in said and "not replayed:" in said and "by call" in said
    assert max(map(len, said.splitlines())) < 160


def test_the_command_as_json(capsys):
    assert main(["replay", str(DATA / "python.strace.gz"), "--kernels", "7.3", "--folio", "4K", "--json"]) == 0
    doc = json.loads(capsys.readouterr().out)
    assert doc["runs"][0]["calls"]["mmap"]["calls"] == 39 and len(doc["runs"][0]["unread"]) == 2


@pytest.mark.parametrize("text", ["", "hello\n"])
def test_a_file_without_calls_is_refused(text, tmp_path, capsys):
    path = tmp_path / "none.strace"
    path.write_text(text)
    assert main(["replay", str(path)]) == 2
    assert "holds no call of strace" in capsys.readouterr().err


def test_a_workload_is_compared(capsys):
    assert main(["compare", "--workload", "gc-barrier,size=1M,rounds=1", "--kernels", "6.16,7.3", "--folio", "64K"]) == 0
    said = capsys.readouterr().out
    assert "Folios of 64K: 6.16 issues" in said and "left folded" in said
    assert main(["compare", "--workload", "gc-barrier", "--layout", "T1"]) == 2
    assert "--layout is for one call" in capsys.readouterr().err
