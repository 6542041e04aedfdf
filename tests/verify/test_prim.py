"""Single PTE helpers of the kernel, row by row; constants and the protection map."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from ptebatch.verify import verify_prim, verify_vectors
from ptebatch.verify.load import read_json
from ptebatch.verify.prim import HELPERS

FILE = Path(__file__).parents[1] / "data" / "golden" / "prim.json.gz"


@pytest.fixture(scope="module")
def prim():
    return read_json(str(FILE)).value


@pytest.fixture
def one(prim):
    """A copy with the 4K granule and one row of each helper."""
    gran = {**prim["gran"]["4"]}
    gran["rows"] = [copy.deepcopy(next(r for r in gran["rows"] if r[0] == i)) for i in range(len(gran["ops"]))]
    gran["consts"], gran["protection_map"] = dict(gran["consts"]), dict(gran["protection_map"])
    return {**prim, "gran": {"4": gran}}


@pytest.fixture
def verify(tmp_path):
    def check(document):
        path = tmp_path / "prim.json"
        path.write_text(json.dumps(document))
        return verify_prim([path])

    return check


def test_every_row_of_every_granule_equals_the_kernel(prim):
    report = verify_prim(FILE)
    assert report.ok, report.text()
    lines = {line.name: line.total for line in report.files[0].lines}
    sizes = 3
    for kib, gran in prim["gran"].items():
        assert lines[f"{kib}K"] == sizes + len(gran["rows"]) + len(gran["consts"]) + len(gran["protection_map"])


def test_the_file_is_recognised_among_vectors():
    report = verify_vectors(FILE)
    assert report.ok and [line.name for line in report.files[0].lines] == ["4K", "16K", "64K"]


def test_every_helper_has_rows_and_is_checked(prim, one, verify):
    assert {*HELPERS, "predicates"} == set(prim["gran"]["4"]["ops"])
    assert verify(one).ok


@pytest.mark.parametrize("i", range(len(HELPERS) + 1))
def test_a_changed_row_is_found_and_names_its_helper(one, verify, i):
    row = one["gran"]["4"]["rows"][i]
    row[3] = f"{int(row[3], 16) ^ 1:x}"
    line = verify(one).files[0].lines[0]
    assert line.differ == {one["gran"]["4"]["ops"][i]: 1}
    assert row[1] in line.first.text()


@pytest.mark.parametrize("name", ["PTE_CONT", "PTE_SWBITS_MASK", "PAGE_NONE", "PTE_ADDR_LOW", "PTE_SWP_UFFD"])
def test_a_changed_constant_is_found(one, verify, name):
    one["gran"]["4"]["consts"][name] = "1234"
    assert verify(one).files[0].lines[0].differ == {"constants": 1}


@pytest.mark.parametrize("index", ["0", "7", "11"])
def test_a_changed_protection_is_found(one, verify, index):
    one["gran"]["4"]["protection_map"][index] = "1"
    assert verify(one).files[0].lines[0].differ == {"protection_map": 1}


def test_a_changed_geometry_is_found(one, verify):
    one["gran"]["4"]["cont_ptes"] = 32
    assert verify(one).files[0].lines[0].differ == {"cont_ptes": 1}
