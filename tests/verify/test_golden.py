"""Golden vectors: every engine replays every scenario; a changed fact is found."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from ptebatch.verify import verify_vectors
from ptebatch.verify.load import read_json
from ptebatch.verify.scenario import ENGINES, Engine
from ptebatch.verify.vectors import QUANTITIES

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
FILES = {"named.json.gz": 93, "named_16k.json.gz": 81, "random_a.json.gz": 1500}

# a call that cuts blocks at both ends: it unfolds, flushes, and changes words outside its range
PARTIAL = "part_both_ends"

# a block of a 64K machine is 32 entries: one folio of it, read and write, turned read-only
MAP = ["map", 0, 524288, 32, 3, 7]
COUNTERS_64K = {
    "pte_reads": 3,
    "pte_writes": 32,
    "pte_xchg": 32,
    "ptep_get": 1,
    "contpte_ptep_get": 1,
    "batch_scans": 1,
    "prot_start": 1,
    "prot_commit": 1,
    "set_ptes": 1,
    "sync_tags": 1,
    "n_batches": 1,
    "n_subs": 1,
    "gather_calls": 1,
    "normal_page": 1,
}


@pytest.fixture(scope="module")
def named():
    return read_json(str(GOLDEN / "named.json.gz")).value


@pytest.fixture
def verify(tmp_path):
    def check(document):
        path = tmp_path / "vectors.json"
        path.write_text(json.dumps(document))
        return verify_vectors(path)

    return check


def only(document, name):
    """A copy of a file of vectors that holds one scenario."""
    scenario = next(s for s in document["scenarios"] if s["name"] == name)
    return {**document, "scenarios": [copy.deepcopy(scenario)]}


@pytest.mark.parametrize(("name", "scenarios"), FILES.items())
def test_every_engine_equals_the_kernel_in_every_scenario(name, scenarios):
    report = verify_vectors([GOLDEN / name])
    assert report.ok, report.text()
    lines = {line.name: line for line in report.files[0].lines}
    engines = set(ENGINES) - ({"l73_bbml3"} if name == "random_a.json.gz" else set())
    assert set(lines) == engines | {"ops"}
    assert {(line.total, line.equal, line.skipped) for line in lines.values()} == {(scenarios, scenarios, 0)}


def test_a_64k_file_has_the_closed_form_of_a_folded_block(verify, named):
    scenario = {
        "name": "block_64k",
        "base": "400000000000",
        "vmf": 1,
        "newprot": "60000000000fc3",
        "cp": 0,
        "anon": 1,
        "bbml": 0,
        "start": 0,
        "nr": 32,
        "folios": [[524288, 5, 1, 0]],
        "pae": [[524288, 32]],
        "init": [[32, "f8000800000f43", 1]],
        "ops": [MAP, ["pae", 524288, 32, 1]],
        "res": {
            "l73": {
                "pages": 32,
                "c": [COUNTERS_64K.get(name, 0) for name in named["counters"]],
                "b": [[1, 32]],
                "s": [[1, 32]],
                "fl": [],
                "ga": [0, 32],
                "fin": [[32, "f0000800000fc3", 1]],
            }
        },
    }
    head = {"granule_kb": 64, "page_shift": 16, "cont_ptes": 32, "ptrs_per_pte": 8192}
    assert verify({**named, **head, "scenarios": [scenario]}).ok
    scenario["ops"][0] = ["map", 0, 524288, 31, 3, 7]
    assert not verify({**named, **head, "scenarios": [scenario]}).ok


# ---- bad twins ----


def change_pages(res, counters):
    res["pages"] += 1


def change_batches(res, counters):
    res["b"][0][1] -= 1


def change_subs(res, counters):
    res["s"].append([1, 1])


def change_flushes(res, counters):
    res["fl"][0][0] += 16


def change_gather(res, counters):
    res["ga"][1] -= 1


def change_ptes(res, counters):
    count, word, step = res["fin"][0]
    res["fin"][0] = [count, f"{int(word, 16) ^ 1 << 55:x}", step]


@pytest.mark.parametrize(
    ("change", "quantity"),
    [
        (change_ptes, "PTEs"),
        (change_pages, "pages"),
        (change_batches, "batches"),
        (change_subs, "subs"),
        (change_flushes, "flushes"),
        (change_gather, "gather"),
    ],
)
def test_a_changed_result_is_found_and_named(verify, named, change, quantity):
    document = only(named, PARTIAL)
    res = document["scenarios"][0]["res"]["l73"]
    assert verify(document).ok
    change(res, document["counters"])
    report = verify(document)
    line = next(line for line in report.files[0].lines if line.name == "l73")
    assert not report.ok
    assert line.differ == {quantity: 1}
    assert line.first.what == quantity
    assert PARTIAL in report.text()


@pytest.mark.parametrize("i", range(27))
def test_a_changed_counter_is_found_and_named(verify, named, i):
    document = only(named, "pae_alternating")
    document["scenarios"][0]["res"]["merged"]["c"][i] += 1
    report = verify(document)
    wrong = [line for line in report.files[0].lines if not line.ok]
    assert [(line.name, line.differ) for line in wrong] == [("merged", {document["counters"][i]: 1})]
    assert f"{document['counters'][i]} 1" in report.text()


def test_a_changed_word_is_shown_as_a_strip(verify, named):
    document = only(named, PARTIAL)
    change_ptes(document["scenarios"][0]["res"]["l73"], None)
    first = next(line.first for line in verify(document).files[0].lines if line.first)
    expected, got, marks = first.strip.splitlines()
    assert expected.startswith("expected") and got.startswith("got") and "^" in marks
    assert int(first.expected, 16) ^ int(first.got, 16) == 1 << 55


@pytest.mark.parametrize("wrong", ["folio-page0", "folio-shared", "nested-nowrite", "lookahead-pae", "per-pte"])
def test_a_wrong_strategy_in_the_place_of_an_engine_is_found(monkeypatch, wrong):
    monkeypatch.setitem(ENGINES, "l73", Engine(wrong, "7.3"))
    report = verify_vectors(GOLDEN / "named.json.gz")
    assert {line.name for line in report.files[0].lines if not line.ok} == {"l73"}


def test_a_changed_operation_changes_the_start_state(verify, named):
    document = only(named, "pae_1_rest")
    ops = document["scenarios"][0]["ops"]
    pae = next(op for op in ops if op[0] == "pae")
    pae[2] -= 1
    report = verify(document)
    assert [(line.name, line.differ) for line in report.files[0].lines if not line.ok] == [("ops", {"exclusive": 1})]


def test_an_engine_without_a_strategy_is_shown_as_skipped(verify, named):
    document = only(named, "pae_1_rest")
    document["scenarios"][0]["res"]["novel"] = {}
    report = verify(document)
    line = next(line for line in report.files[0].lines if line.name == "novel")
    assert report.ok and (line.total, line.skipped) == (0, 1)
    assert "none here" in report.text()


def test_the_report_names_every_quantity_and_fits_json(named, verify):
    report = verify(only(named, "pae_1_rest"))
    found = json.loads(json.dumps(report.to_dict()))
    assert found["ok"] and found["total"] == len(ENGINES) + 1
    line = found["files"][0]["lines"][0]
    assert set(QUANTITIES) | set(named["counters"]) <= set(line["differ"])
    assert all(column in report.text() for column in ("scenarios", "equal", *QUANTITIES))
