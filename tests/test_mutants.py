"""Mutation testing itself: the catalogue fits the source, and a fault that nothing sees is told.

The run over all faults is ``python -m tests.mutants``; here only what is cheap.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

import ptebatch

TREE = Path(__file__).resolve().parents[1]
sys.path.append(str(TREE))

from tests.mutants import __main__ as command  # noqa: E402
from tests.mutants import catalogue, schemata  # noqa: E402
from tests.mutants.detect import DETECTORS, TESTS  # noqa: E402
from tests.mutants.run import LIMITS, DetectorError, Verdict, judge  # noqa: E402

MUTANTS = catalogue.load()
PACKAGE = Path(ptebatch.__file__).resolve().parents[1]
#: a change of text that changes nothing
OLD = "    return f.nr > 1\n"
SAME = "    return 1 < f.nr\n"


def entry(**keys: object) -> str:
    """A fault as a catalogue has it; strings and lists of JSON are TOML too."""
    return "\n".join(["[[mutant]]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), ""])


@pytest.fixture
def planted(tmp_path):
    """A catalogue file of one fault, and more."""

    def write(*more: str, **keys: object) -> Path:
        path = tmp_path / "planted.toml"
        usual = {"name": "planted", "what": "nothing", "file": "mm_struct.pxd", "detect": ["golden"], "old": OLD, "new": SAME}
        path.write_text(entry(**usual | keys) + "".join(more))
        return path

    return write


@pytest.fixture
def run(monkeypatch, capsys):
    """The command line, with the package under test in place of the build: no fault is in it."""
    monkeypatch.setattr(command.build, "configure", lambda tree: tree)
    monkeypatch.setattr(command.build, "compile_core", lambda tree, jobs: PACKAGE)

    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mutants", "--jobs", "1", *map(str, args)])
        status = command.main()
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


# ---- the catalogue ----


def test_every_fault_fits_the_source():
    assert catalogue.misfits(MUTANTS) == {}


def test_there_are_enough_in_every_part_of_the_core():
    assert len(MUTANTS) >= 200
    files = Counter(m.file for m in MUTANTS)
    for file in ("strategies.pyx", "strategy.pxd", "contpte.pxd", "pte.pxd", "ptep.pxd", "batch.pxd", "tlb.pxd", "change.pxd",
                 "memo.pxd", "replay.pyx", "simd.pxd", "mprotect.pxd", "vma.pxd", "mm_struct.pxd"):  # fmt: skip
        assert files[file] >= 3, file


def test_no_two_are_the_same():
    changes = Counter((m.file, m.apply((TREE / catalogue.CORE / m.file).read_text())) for m in MUTANTS)
    assert max(changes.values()) == 1


def test_their_detectors_exist_and_have_a_limit():
    assert {name for m in MUTANTS for name in m.detect} == set(DETECTORS) <= set(LIMITS)
    for files in TESTS.values():
        assert all((TREE / "tests" / name.partition("::")[0]).is_file() for name in files)


def test_what_is_out_of_reach_has_a_reason():
    assert all(len(m.survives.split()) >= 8 for m in MUTANTS if m.survives)
    assert sum(bool(m.survives) for m in MUTANTS) <= len(MUTANTS) // 20


def test_the_table_in_the_repository_lists_them_all():
    rows = re.findall(r"^\| ([\w-]+) \| ([\w.]+) \| (.*?) \| (\w+|-) \|", (TREE / "tests" / "mutants.md").read_text(), re.M)
    assert [(name, file, what) for name, file, what, _ in rows] == [(m.name, m.file, m.what.replace("|", "\\|")) for m in MUTANTS]
    assert [detector == "-" for *_, detector in rows] == [bool(m.survives) for m in MUTANTS]
    assert "SURVIVES" not in {detector for *_, detector in rows}


# ---- all of them in one build ----


def test_most_need_no_build_of_their_own():
    texts = {m.file: (TREE / catalogue.CORE / m.file).read_text() for m in MUTANTS}
    alone = [m.file for m in MUTANTS if not schemata.changed_function(m, texts[m.file])]
    # C in simd.pxd is outside the functions of Cython, and these two have methods
    assert set(alone) <= {"simd.pxd", "window.pyx", "mm.pyx"} and len(alone) <= 16


def test_each_becomes_a_copy_of_its_function():
    path = TREE / catalogue.CORE / "tlb.pxd"
    some = [m for m in MUTANTS if m.file == "tlb.pxd"]
    text = schemata.combine(path.read_text(), some)
    for m in some:
        name = schemata.changed_function(m, path.read_text())
        assert len(re.findall(rf"^cdef .*\b{name}__m{m.number}\(", text, re.M)) == 1
        assert text.count(f"if pb_mutant == {m.number}:") == 1
    for name in {schemata.changed_function(m, path.read_text()) for m in some}:
        assert len(re.findall(rf"^cdef .*\b{name}__m0\(", text, re.M)) == len(re.findall(rf"^cdef .*\b{name}\(", text, re.M)) == 1


# ---- the command ----


def test_a_fault_that_nothing_sees_is_told(run, planted):
    status, out, _ = run("--catalogue", planted())
    assert status == 1, out
    assert re.search(r"^planted +SURVIVES", out, re.M) and "1 faults: 0 caught" in out and "1 survive" in out


def test_a_fault_with_a_reason_may_survive(run, planted):
    status, out, _ = run("--catalogue", planted(survives="it changes nothing"))
    assert status == 0
    assert "1 out of reach, 0 survive" in out and "it changes nothing" in out


def test_what_has_a_reason_must_not_be_caught(planted):
    (fault,) = catalogue.load([planted(survives="it changes nothing")])
    assert Verdict(fault).ok and not Verdict(fault, "golden", "named").ok


def test_detectors_that_complain_of_the_core_itself_end_the_run(run, planted, monkeypatch):
    monkeypatch.setattr(command, "detect", lambda *args: "PTEs")
    status, out, err = run("--catalogue", planted())
    assert (status, out) == (2, "")
    assert "golden complains about the core without any fault: PTEs" in err


def test_a_package_of_elsewhere_ends_the_run(planted, tmp_path):
    (fault,) = catalogue.load([planted()])
    shadow = tmp_path / "pkg"
    shadow.mkdir()
    (shadow / "ptebatch").symlink_to(PACKAGE / "ptebatch")
    with pytest.raises(DetectorError, match="not the build in"):
        judge(fault, TREE, shadow, 0)


def test_a_fault_that_no_longer_fits_is_listed_as_such(run, planted):
    file = planted(old="    return f.nr > 100\n")
    status, out, _ = run("--catalogue", file, "--list")
    assert status == 2
    assert "DOES NOT FIT" in out and "its text stands 0 times in mm_struct.pxd" in out
    status, _, err = run("--catalogue", file)
    assert status == 2 and "planted: its text stands 0 times" in err


def test_the_list_says_that_all_fit(run):
    status, out, _ = run("--list")
    assert status == 0 and f"{len(MUTANTS)} faults, 0 do not fit the source" in out
    assert [line.split()[0] for line in out.splitlines()[: len(MUTANTS)]] == [m.name for m in MUTANTS]


def test_a_name_that_is_none_is_refused(run):
    status, _, err = run("--only", "nosuch", "--list")
    assert status == 2 and "nosuch: no such fault" in err


def test_a_sample_is_the_same_for_the_same_seed(run):
    one, two, other = (run("--sample", 20, "--seed", seed, "--list")[1] for seed in (1, 1, 2))
    assert one == two != other and "20 faults, 0 do not fit" in one


# ---- with a build ----


@pytest.mark.slow
def test_a_run_with_a_build(planted, tmp_path, monkeypatch, capsys):
    """One fault that changes nothing, one in a function, one in C: a build, and the detectors on each."""
    usual = {"what": "a fault", "detect": ["golden", "memo"]}
    old, new = "    mm.tlb.cleared_ptes = True", "    mm.tlb.cleared_ptes = False"
    function = entry(name="in-a-function", file="tlb.pxd", old=old, new=new, **usual)
    old, new = "PB_AT(p, k) = store;", "PB_AT(p, k) = ~store;"
    file = planted(function, entry(name="in-c", file="simd.pxd", old=old, new=new, **usual | {"detect": ["memo", "golden"]}))
    monkeypatch.setattr(sys, "argv", ["mutants", "--jobs", "1", "--catalogue", str(file), "--table", str(tmp_path / "table.md")])
    status = command.main()
    out = capsys.readouterr().out
    assert status == 1, out
    found = dict(re.findall(r"^([\w-]+) +(\w+)  ", out, re.M))
    assert found["planted"] == "SURVIVES" and found["in-a-function"] == "golden" and found["in-c"] == "memo"
    assert "| in-c | simd.pxd | a fault | memo |" in (tmp_path / "table.md").read_text()
