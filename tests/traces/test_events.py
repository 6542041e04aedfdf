"""Event traces as JSON lines: exact both ways, and every bad line is named with its place."""

from __future__ import annotations

import doctest
import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from messages import joined

from ptebatch import MM, STRATEGIES, Machine, MprotectError, PtebatchError
from ptebatch.cli import main
from ptebatch.errors import InputError
from ptebatch.events import KINDS
from ptebatch.traces import jsonl as events

SMALL = "7.3,cont_ptes=4,ptrs_per_pte=8"
BASE = 0x40000000


def traced(strategy="folio", machine=SMALL, prot=3, **how):
    """A call with unfolding, exclusivity and a final flush in it."""
    mm = MM(machine, nr_pages=64)
    page = mm.machine.page_size
    mm.mmap(BASE, 8 * page, 1 if prot & 2 else 3)
    mm.map_folios(BASE, 8, 3, exclusive=[1, 1, 0, 1, 0, 0, 1, 1])
    return mm.mprotect(BASE + page, 6 * page, prot, strategy=strategy, trace=True, **how)


def text_of(result) -> str:
    out = io.StringIO()
    events.write(result, out)
    return out.getvalue()


def same(one: events.Trace, other: events.Trace) -> bool:
    return one.header() == other.header() and one.events.dtype == other.events.dtype and (one.events == other.events).all()


# ---- there and back ----


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("prot", [0, 1, 3])
def test_what_is_written_is_read_back(name, prot, tmp_path):
    result = traced(name, prot=prot)
    path = tmp_path / "one.jsonl"
    events.write(result, path)
    assert same(events.read(path), events.Trace.of(result))
    assert text_of(events.read(path)) == path.read_text(), "what was read is written as it stood"


@settings(max_examples=100)
@given(
    rows=hnp.arrays(events.EVENT, st.integers(0, 40)),
    kinds=st.lists(st.sampled_from(sorted(KINDS)), min_size=40, max_size=40),
    strategy=st.text(max_size=20),
    prot=st.none() | st.integers(0, 2**64 - 1),
)
def test_any_trace_survives(rows, kinds, strategy, prot):
    rows["kind"] = kinds[: len(rows)]
    trace = events.Trace(Machine(), strategy, 2**48 - 4096, 2**64 - 1, prot, rows)
    text = text_of(trace)
    assert same(events.read(io.StringIO(text)), trace) and text.isascii()


def test_every_kind_is_in_the_grammar():
    grammar = (events.__doc__ or "").partition("event   =")[2]
    assert set(re.findall(r"'\"([A-Z0-9 ]+)\"'", grammar)) == set(KINDS.values())


GRAMMAR = re.compile(
    r'\{"event": "[RWXC]", "addr": "0x[0-9a-f]{1,16}", "value": "0x[0-9a-f]{1,16}"\}'
    r'|\{"event": "(?:R?VALE1IS|ASIDE1IS|DSB ISH(?:ST)?|[A-Z]+)", "addr": "0x[0-9a-f]{1,16}", "value": \d{1,20}\}'
)


def test_lines_are_those_of_the_grammar():
    head, *lines, foot = text_of(traced()).splitlines()
    assert list(json.loads(head)) == ["ptebatch", "version", "machine", "strategy", "start", "length", "prot"]
    assert all(map(GRAMMAR.fullmatch, lines)) and len(lines) > 30
    assert foot == f'{{"events": {len(lines)}}}'


def test_long_traces_pass_through_several_chunks(monkeypatch):
    monkeypatch.setattr(events, "_CHUNK", 7)
    trace = events.Trace.of(traced())
    assert len(list(trace.lines())) == 2 + -(-len(trace.events) // 7)
    assert same(events.read(io.StringIO(text_of(trace))), trace)


def test_one_document_holds_the_same():
    result = traced()
    document = events.to_dict(result)
    lines = [json.loads(line) for line in text_of(result).splitlines()]
    assert document["events"] == lines[1:-1] and document["strategy"] == "folio"


def test_a_call_that_failed_has_the_trace_of_its_part(tmp_path):
    mm = MM(SMALL, nr_pages=64)
    mm.mmap(BASE, 4096, 3)
    mm.map_folios(BASE, 1)
    with pytest.raises(MprotectError) as caught:
        mm.mprotect(BASE, 8192, 1, trace=True)
    events.write(caught.value.result, tmp_path / "part")
    assert "W" in {KINDS[kind] for kind in events.read(tmp_path / "part").events["kind"].tolist()}


def test_a_result_without_trace_says_so():
    mm = MM(SMALL, nr_pages=64)
    mm.mmap(BASE, 4096, 3)
    with pytest.raises(PtebatchError, match="trace=True"):
        events.write(mm.mprotect(BASE, 4096, 1), io.StringIO())


def test_several_traces_follow_each_other():
    texts = [text_of(traced(name)) for name in ("folio", "per-pte")]
    assert [t.strategy for t in events.read_all(io.StringIO("".join(texts)))] == ["folio", "per-pte"]
    assert list(events.read_all(io.StringIO(""))) == []
    with pytest.raises(InputError, match="read_all"):
        events.read(io.StringIO("".join(texts)))


# ---- bad input ----

LINES = text_of(traced()).splitlines(keepends=True)
HEAD, LAST = LINES[0], LINES[-1]


def edited(number: int, old: str, new: str) -> str:
    """The file with one line changed; lines count from 1."""
    line = LINES[number - 1]
    assert old in line
    return "".join([*LINES[: number - 1], line.replace(old, new, 1), *LINES[number:]])


BAD = {
    "no file at all": ("", 1, "header"),
    "not JSON": ("hello\n", 1, "not one JSON object"),
    "a list": ("[]\n", 1, "expected a header"),
    "another format": ('{"version": 1}\n', 1, "expected a header"),
    "a later version": (edited(1, '"version": 1', '"version": 2'), 1, "reads version 1"),
    "a version that is true": (edited(1, '"version": 1', '"version": true'), 1, "reads version 1"),
    "no such machine": (edited(1, '"7.3', '"7.4'), 1, "7.4"),
    "a strategy that is no text": (edited(1, '"folio"', "7"), 1, "expected a string"),
    "a key too many": (edited(1, '"prot"', '"more": 1, "prot"'), 1, "has the keys"),
    "a key twice": (edited(1, '"prot"', '"version": 1, "prot"'), 1, "twice"),
    "a length below 0": (edited(1, '"length": ', '"length": -'), 1, "whole number"),
    "an unknown event": (edited(2, '"LOCK"', '"LOOK"'), 2, "LOOK"),
    "an event that is no text": (edited(2, '"LOCK"', "[]"), 2, "expected one of"),
    "an address in decimal": (edited(3, '"addr": "0x', '"addr": "'), 3, "hex digits"),
    "an address in capitals": (edited(3, '"addr": "0x', '"addr": "0xF'), 3, "hex digits"),
    "an address with a sign": (edited(3, '"addr": "0x', '"addr": "0x-'), 3, "hex digits"),
    "an address above 2^64": (edited(3, '"addr": "0x', '"addr": "0x1000000000000'), 3, "2^64"),
    "a word as a number": ("".join([HEAD, '{"event": "R", "addr": "0x0", "value": 1}\n']), 2, "hex digits"),
    "a count as a word": ("".join([HEAD, '{"event": "PAE", "addr": "0x0", "value": "0x1"}\n']), 2, "whole number"),
    "a count with a fraction": ("".join([HEAD, '{"event": "PAE", "addr": "0x0", "value": 1.0}\n']), 2, "whole number"),
    "a number of 9000 digits": ("".join([HEAD, '{"events": ', "9" * 9000, "}\n"]), 2, "not one JSON object"),
    "brackets without end": ("".join([HEAD, "[" * 60000, "\n"]), 2, "not one JSON object"),
    "a line without end": ("".join([HEAD, " " * 70000, "\n"]), 2, "more than"),
    "a missing value": ("".join([HEAD, '{"event": "R", "addr": "0x0"}\n']), 2, "value"),
    "cut off": ("".join(LINES[:-1]), len(LINES), "the file ends here"),
    "a line is missing": ("".join([*LINES[:5], *LINES[6:]]), len(LINES) - 1, "lines are missing"),
    "something behind": ("".join([*LINES, "{}\n"]), len(LINES) + 1, "after the footer"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_with_its_place(name, tmp_path):
    text, number, words = BAD[name]
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        events.read(path)
    assert (caught.value.path, caught.value.place) == (str(path), f"line {number}")
    assert words in caught.value.message and len(str(caught.value)) < 700


def test_bytes_that_are_no_text_are_bad_input(tmp_path):
    (tmp_path / "bad").write_bytes(HEAD.encode() + b"\xff\xfe\n")
    with pytest.raises(InputError, match="UTF-8"):
        events.read(tmp_path / "bad")


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        events.read(tmp_path / "none")


# ---- the command ----

ARGV = ("events", "--machine", SMALL, "--layout", "1/511")


def said(capsys, *argv: str) -> str:
    assert main([*ARGV, *argv]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def refused(capsys, *argv: str) -> str:
    assert main([*ARGV, *argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and joined(err)
    return err


def test_the_command_prints_what_the_call_did(capsys):
    found = list(events.read_all(io.StringIO(said(capsys, "--op", "ro,rw", "--strategy", "folio,per-pte"))))
    assert [(t.strategy, t.prot) for t in found] == [("folio", 1), ("folio", 3), ("per-pte", 1), ("per-pte", 3)]
    from ptebatch.simulate.runs import run

    again = run("1/511", "ro,rw", machine=SMALL, trace=True)
    assert all(same(ours, events.Trace.of(theirs)) for ours, theirs in zip(found[:2], again, strict=True))


def test_json_is_one_document(capsys):
    document = json.loads(said(capsys, "--op", "rw", "--json"))
    assert document["verb"] == "events" and [len(t["events"]) > 10 for t in document["traces"]] == [True]


def test_a_casemate_log_needs_to_be_told_as_el2(capsys):
    assert "--as-el2" in refused(capsys, "--op", "rw", "--format", "casemate")
    assert "512" in refused(capsys, "--op", "rw", "--format", "casemate", "--as-el2")
    assert "--format casemate" in refused(capsys, "--op", "rw", "--as-el2")
    assert "one trace" in refused(capsys, "--format", "casemate", "--as-el2")
    assert "do not go together" in refused(capsys, "--format", "casemate", "--json")
    assert main(["events", "--op", "none", "--format", "casemate", "--as-el2"]) == 0
    assert capsys.readouterr().out.startswith("(sysreg-write (id 0)")


@pytest.mark.parametrize("argv", [["--op", "rw"], ["--op", "none", "--format", "casemate", "--as-el2"]])
def test_a_closed_pipe_is_quiet(argv):
    read, write = os.pipe()
    os.close(read)
    try:
        command = [sys.executable, "-m", "ptebatch", "events", *argv]
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, timeout=120, check=False)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_events_of_the_kernel_kinds_are_numbers_of_the_trace():
    assert traced().trace.dtype == events.EVENT
    assert np.array([(18, 2**64 - 1, 2**64 - 1)], events.EVENT)["addr"][0] == 2**64 - 1


def test_examples_of_the_docstrings():
    result = doctest.testmod(events)
    assert result.failed == 0 and result.attempted > 5
