"""The guards of the benchmark: what they let pass, and what they catch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

from bench import instructions, kernel, patterns, scale  # noqa: E402

SETTING = Path("/sys/kernel/mm/transparent_hugepage/hugepages-64kB/enabled")


def counted(compiler="gcc 12.2.0", **rows):
    return {"compiler": compiler, "rows": {"v3": {name.replace("_", " "): n for name, n in rows.items()}}}


def test_equal_counts_pass():
    assert instructions.compare(counted(T1_folio=1000), counted(T1_folio=1000)) == ([], [])


def test_a_slow_down_beyond_the_tolerance_is_named():
    failures, _ = instructions.compare(counted(T1_folio=1031, T2_folio=1029), counted(T1_folio=1000, T2_folio=1000))
    assert len(failures) == 1
    assert "T1 folio" in failures[0]


def test_an_improvement_is_a_remark():
    failures, remarks = instructions.compare(counted(T1_folio=900), counted(T1_folio=1000))
    assert not failures
    assert "better" in remarks[0]


def test_another_compiler_widens_the_tolerance_and_says_so():
    then = counted(compiler="gcc 12.2.0", T1_folio=1000)
    failures, remarks = instructions.compare(counted(compiler="clang 18.1.8", T1_folio=1100), then)
    assert not failures
    assert "clang 18.1.8" in remarks[0]
    failures, _ = instructions.compare(counted(compiler="clang 18.1.8", T1_folio=1300), then)
    assert failures


def test_rows_that_appear_or_vanish_are_failures():
    failures, _ = instructions.compare(counted(T1_folio=10, T3_folio=10), counted(T1_folio=10, T2_folio=10))
    assert sorted(line.split(":")[0] for line in failures) == ["v3 T2 folio", "v3 T3 folio"]


def test_an_instruction_set_that_cannot_be_counted_is_not_a_failure():
    then = counted(T1_folio=10)
    then["rows"]["base"] = {"T1 folio": 20}
    assert instructions.compare(counted(T1_folio=10), then) == ([], [])


def test_the_record_has_every_case():
    record = json.loads(instructions.RECORD.read_text())
    names = {" ".join(case) for case in instructions.CASES}
    assert set(record["rows"]) == set(instructions.ISAS)
    assert all(set(rows) == names for rows in record["rows"].values())


GOOD = [
    {"what": "growth", "layout": "T1", "size": "1T", "ratio": 1.1, "bytes_per_page": 9.0, "peak": 2 << 30},
    {"what": "setup", "layout": "T1", "ptes_per_s": 2e8},
    {"what": "import", "ms": 100.0, "numpy_ms": 80.0},
    {"what": "call", "extra_us": 1.5},
    {"what": "threads", "layout": "T1", "threads": 1.9, "processes": 1.95},
    {"what": "exponent", "case": "one call merges n VMAs", "exponent": 1.02, "most": 1.2},
]
BAD = [
    ("ratio", 1.6, "growth"),
    ("bytes_per_page", 10.5, "memory"),
    ("peak", 4 << 30, "memory"),
    ("ptes_per_s", 9e7, "setup"),
    ("extra_us", 2.5, "call"),
    ("threads", 1.2, "threads"),
    ("exponent", 1.9, "growth"),
]


def test_targets_that_are_met_pass():
    assert scale.missed(GOOD) == []


@pytest.mark.parametrize(("key", "value", "name"), BAD)
def test_a_missed_target_is_named(key, value, name):
    rows = [dict(row, **{key: value}) if key in row else row for row in GOOD]
    assert [line.partition(":")[0] for line in scale.missed(rows)] == [name]


def test_what_never_repeats_has_a_target_of_its_own():
    row = {"what": "core / warm OR", "ptes": "2M", "world": "mixed", "ratio": 7.5, "most": 8}
    assert patterns.missed([row]) == []
    assert patterns.missed([dict(row, ratio=8.5)]) == ["core / warm OR on mixed: 8.5, target at most 8"]


def test_threads_are_judged_only_where_two_processes_have_two_cpus():
    row = {"what": "threads", "layout": "T1", "threads": 1.0, "processes": 1.05}
    assert scale.missed([row]) == []
    assert "not judged" in scale.text(row)
    assert scale.missed([dict(row, processes=1.9)])


@pytest.mark.skipif(not sys.platform.startswith("linux") or not shutil.which("cc"), reason="needs Linux and cc")
def test_the_kernel_program_measures_or_says_why_and_leaves_the_setting():
    before = SETTING.read_text() if SETTING.exists() else None
    rows = kernel.measure(mib=4, rounds=3)
    assert [row["layout"] for row in rows] == list(kernel.LAYOUTS)
    for row in rows:
        assert row.get("error") or (row["pages"] == 1024 and all(row[name] > 0 for name in kernel.CALLS))
    assert not rows[2].get("error") or "4K pages" in rows[2]["error"]
    assert (SETTING.read_text() if SETTING.exists() else None) == before


@pytest.mark.parametrize("module", ["instructions", "kernel", "scale"])
def test_commands_explain_themselves(module):
    done = subprocess.run([sys.executable, "-m", f"bench.{module}", "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    assert f"python -m bench.{module}" in done.stdout
    wrong = [sys.executable, "-m", f"bench.{module}", "--size=-3", "--only=x"]
    done = subprocess.run(wrong, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
