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

TREE = Path(__file__).resolve().parents[2]

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
        usual = {"name": "planted", "what": "nothing", "file": "arm64/mmu.pxd", "detect": ["golden"], "old": OLD, "new": SAME}
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
    for file in ("batch/strategies.pyx", "batch/seam.pxd", "arm64/contpte.pxd", "arm64/pte.pxd", "arm64/ptep.pxd",
                 "batch/folio_batch.pxd", "arm64/tlb.pxd", "mm/change_protection.pxd", "mm/softleaf.pxd", "batch/memo.pxd",
                 "batch/replay.pyx", "batch/simd.pxd", "batch/maps.pxd", "batch/formula.pxd", "batch/commits.pxd",
                 "batch/segments.pxd", "batch/regular.pyx", "batch/words.pxd", "mm/mprotect.pxd",
                 "mm/vma.pxd", "arm64/mmu.pxd"):  # fmt: skip
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
    rows = re.findall(r"^\| ([\w-]+) \| ([\w./]+) \| (.*?) \| (\w+|-) \|", (TREE / "tests" / "mutants.md").read_text(), re.M)
    assert [(name, file, what) for name, file, what, _ in rows] == [(m.name, m.file, m.what.replace("|", "\\|")) for m in MUTANTS]
    assert [detector == "-" for *_, detector in rows] == [bool(m.survives) for m in MUTANTS]
    assert "SURVIVES" not in {detector for *_, detector in rows}


# ---- all of them in one build ----


def test_most_need_no_build_of_their_own():
    texts = {m.file: (TREE / catalogue.CORE / m.file).read_text() for m in MUTANTS}
    alone = [m.file for m in MUTANTS if not schemata.changed_function(m, texts[m.file])]
    # C is outside the functions of Cython, and these three have methods
    assert set(alone) <= {"batch/simd.pxd", "batch/words.pxd", "batch/window.pyx", "mm/mm.pyx", "mm/undo.pyx"}
    assert len(alone) <= 26


def test_each_becomes_a_copy_of_its_function():
    path = TREE / catalogue.CORE / "arm64/tlb.pxd"
    some = [m for m in MUTANTS if m.file == "arm64/tlb.pxd"]
    text = schemata.combine(path.read_text(), some)
    for m in some:
        name = schemata.changed_function(m, path.read_text())
        assert len(re.findall(rf"^cdef .*\b{name}__m{m.number}\(", text, re.M)) == 1
        assert text.count(f"if pb_mutant == {m.number}:") == 1
    for name in {schemata.changed_function(m, path.read_text()) for m in some}:
        assert len(re.findall(rf"^cdef .*\b{name}__m0\(", text, re.M)) == len(re.findall(rf"^cdef .*\b{name}\(", text, re.M)) == 1


# ---- the command ----


@pytest.mark.slow
def test_a_fault_that_nothing_sees_is_told(run, planted):
    status, out, _ = run("--catalogue", planted())
    assert status == 1, out
    assert re.search(r"^planted +SURVIVES", out, re.M) and "1 faults: 0 caught" in out and "1 survive" in out


@pytest.mark.slow
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
    assert "DOES NOT FIT" in out and "its text stands 0 times in arm64/mmu.pxd" in out
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


@pytest.fixture
def three(planted) -> Path:
    """A catalogue of one fault that changes nothing, one in a function, one in C."""
    usual = {"what": "a fault", "detect": ["golden", "memo"]}
    old, new = "    mmu.tlb.cleared_ptes = True", "    mmu.tlb.cleared_ptes = False"
    function = entry(name="in-a-function", file="arm64/tlb.pxd", old=old, new=new, **usual)
    old, new = "PB_AT(p, k) = store;", "PB_AT(p, k) = ~store;"
    return planted(
        function, entry(name="in-c", file="batch/simd.pxd", old=old, new=new, **usual | {"detect": ["memo", "golden"]})
    )


def test_the_three_of_the_build_fit_the_source(run, three):
    """So that a rename is seen here, not by the long test alone."""
    status, out, _ = run("--catalogue", three, "--list")
    assert status == 0 and "3 faults, 0 do not fit" in out


@pytest.mark.exhaustive  # minutes; .ci/run runs the command itself, on a sample
def test_a_run_with_a_build(three, tmp_path, monkeypatch, capsys):
    """A build of the three, and the detectors on each."""
    monkeypatch.setattr(sys, "argv", ["mutants", "--jobs", "1", "--catalogue", str(three), "--table", str(tmp_path / "table.md")])
    status = command.main()
    out, err = capsys.readouterr()
    assert status == 1, out + err
    found = dict(re.findall(r"^([\w-]+) +(\w+)  ", out, re.M))
    assert found["planted"] == "SURVIVES" and found["in-a-function"] == "golden" and found["in-c"] == "memo"
    assert "| in-c | batch/simd.pxd | a fault | memo |" in (tmp_path / "table.md").read_text()
