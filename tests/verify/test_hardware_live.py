"""Living address spaces of real kernels replay step by step; a changed record is found."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from records import HARDWARE, load

from ptebatch.reference import huge_memory, memory
from ptebatch.reference.frames import Frames
from ptebatch.verify import livetraces, oploops, verify_live, verify_live_traces, verify_oploops
from ptebatch.verify.live import check_live, replay
from ptebatch.verify.load import Node, read_json

LIVE = sorted(path.name for path in HARDWARE.glob("*.live.json.gz"))
TRACES = sorted(path.name for path in HARDWARE.glob("*.livetrace.json.gz"))


def test_the_files_are_there():
    assert (len(LIVE), len(TRACES)) == (4, 2)


@pytest.mark.parametrize("name", LIVE)
def test_every_step_ends_in_the_recorded_state(name):
    report = verify_live(HARDWARE / name)
    assert report.ok, report.text()
    assert report.total == 903


@pytest.mark.parametrize("name", TRACES)
def test_every_window_is_equal_store_by_store(name):
    report = verify_live_traces(HARDWARE / name)
    assert report.ok, report.text()
    assert report.total == 94


@pytest.mark.parametrize(("kernel", "kind"), [("7.3", "mthp"), ("6.12", "pmd")])
def test_calls_over_a_region_are_equal(kernel, kind):
    path = str(HARDWARE / "oploops.json.gz")
    nodes = {
        node.key("op").text(): node
        for node in read_json(path, "oploops").items()
        if node.key("kernel").text().startswith(kernel + ".") and node.key("kind").text() == kind
    }
    assert len(nodes) in (43, 45)
    assert [each for found in oploops._replay(kind, nodes) for each in found] == []


@pytest.mark.slow
def test_calls_over_all_regions_are_equal():
    report = verify_oploops(HARDWARE / "oploops.json.gz")
    assert report.ok, report.text()
    assert report.total == 688


@pytest.mark.parametrize(("kernel", "folded"), [("6.12", True), ("6.17", False), ("7.3", False)])
def test_a_block_that_is_uniform_again_is_refolded_or_not(kernel, folded):
    """What docs/living.md says of decay, in the records themselves."""
    doc = next(each for each in load(f"{kernel}.max.live.json.gz") if each["scenario"] == "mthp_ro_fork")
    step = doc["steps"][4]
    assert (step["call"], step["first"], step["n"], step["arg"]) == ("mprotect", 1, 48, 3)
    words = [int(word, 16) for nr, word in step["ptes"] for _ in range(nr)]
    assert {bool(word >> 52 & 1) for word in words[:16]} == {folded}


# ---- a changed record is found ----


def script(name: str) -> dict[str, Any]:
    return copy.deepcopy(next(each for each in load("7.3.max.live.json.gz") if each["scenario"] == name))


def found(doc: dict[str, Any]) -> set[str]:
    return {each.what for differences in replay(Node("doc", "", doc)) for each in differences}


def _flip(step: dict[str, Any], at: int, bit: int) -> None:
    words = [word for nr, word in step["ptes"] for _ in range(nr)]
    words[at] = f"{int(words[at], 16) ^ 1 << bit:x}"
    step["ptes"] = [[1, word] for word in words]


CHANGES: dict[str, tuple[int, Callable[[dict[str, Any]], None]]] = {
    "ret": (3, lambda step: step.update(ret=-22)),
    "level": (3, lambda step: step.update(level=[1])),
    "VMAs": (3, lambda step: step.update(vmas=[[0, 96, "r--p"]])),
    "excl": (3, lambda step: step.update(excl="1" + step["excl"][1:])),
    "folio": (3, lambda step: step.update(folio="s" + step["folio"][1:])),
    "PTE": (3, lambda step: _flip(step, 2, 55)),
    "alignment": (3, lambda step: _flip(step, 2, 12)),
    "TLBI": (3, lambda step: step["tlbi"].update(VALE1IS=7)),
    "DSB": (3, lambda step: step.update(dsb=step["dsb"] + 1)),
    "contpte_convert": (3, lambda step: step["hits"].update(contpte_convert=9)),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_value_is_found(what):
    doc = script("mthp_fork")
    at, change = CHANGES[what]
    change(doc["steps"][at])
    assert what in found(doc)


def test_one_frame_for_two_is_found():
    doc = script("base_munmap")
    step = doc["steps"][0]
    words = [word for nr, word in step["ptes"] for _ in range(nr)]
    step["ptes"] = [[1, word] for word in [words[0], words[0], *words[2:]]]
    assert found(doc) == {"frame"}


def test_a_tick_makes_barriers_more_and_never_fewer():
    doc = script("mthp_fork")
    doc["steps"][3].update(irq=3, dsb=doc["steps"][3]["dsb"] + 3)
    assert not found(doc)
    doc["steps"][3]["dsb"] -= 4
    assert found(doc) == {"DSB"}


@pytest.mark.parametrize("kind", ["W", "TLBI VALE1IS", "DSB #11"])
def test_a_missing_event_is_found(kind, tmp_path):
    windows = copy.deepcopy(load("7.3.max.livetrace.json.gz"))[:3]
    events = windows[1]["events"]
    at = next(i for i, event in enumerate(events) if event[0] == kind)
    del events[at]
    path = tmp_path / "7.3.max.livetrace.json"
    report = livetraces.check_live_traces(str(path), Node(str(path), "", windows))
    assert [line.differ for line in report.lines] == [{"events": 1}]


# ---- a model that forgets is found ----


def test_a_flush_that_is_forgotten_is_found(monkeypatch):
    monkeypatch.setattr(memory.Unmap, "vma", lambda self, start, end: None)
    assert {"PTE", "TLBI"} <= found(script("mthp_munmap"))


def test_a_reuse_of_what_others_map_is_found(monkeypatch):
    monkeypatch.setattr("ptebatch.reference.fault.can_reuse", lambda mm, folio: True)
    assert {"folio", "PTE"} & found(script("mthp_fork"))


def test_a_split_that_forgets_exclusivity_is_found(monkeypatch):
    real = huge_memory.split_huge_pmd

    def forgets(mm, first):
        real(mm, first)
        mm.anon_exclusive.discard(min(mm.anon_exclusive) + 3)

    monkeypatch.setattr("ptebatch.reference.live.split_huge_pmd", forgets)
    assert "excl" in found(script("pmd_fork_part"))


def test_memory_that_is_not_given_back_is_found(monkeypatch):
    monkeypatch.setattr(Frames, "put", lambda self, folio, nr=1: None)
    doc = script("mthp_munmap_all")
    assert not found(doc)  # the window does not show it: the law does, see tests/reference/test_live.py


# ---- bad input ----


def test_kinds_of_regions_are_those_of_the_measurement():
    doc = [copy.deepcopy(next(each for each in load("oploops.json.gz") if each["op"] == "munmap"))]
    assert [line.equal for line in oploops.check_oploops("o", Node("o", "", doc)).lines] == [1]
    doc[0]["kind"] = "giant"
    with pytest.raises(ValueError, match=r"giant.* is not a kind of the measurement"):
        oploops.check_oploops("o", Node("o", "", doc))


@pytest.mark.parametrize("kind", ["half", "double"])
def test_other_sizes_are_regions_too(kind):
    """No record of them is here: a region of folios of half a block is never folded, one of two blocks is."""
    records = [each for each in load("oploops.json.gz") if each["kernel"].startswith("7.3") and each["kind"] == "mthp"]
    region = oploops._Region(kind, Node("o", "", records[0]))
    region.fresh()
    assert region.mm.page_folio(region.mm.mapped_pfn(region.at)).order == {"half": 3, "double": 5}[kind]
    assert bool(region.mm.ptes[region.at] >> 52 & 1) == (kind == "double")


def test_a_call_that_nobody_knows_is_refused():
    doc = script("mthp_seal")
    doc["steps"][1]["call"] = "mprotec"
    with pytest.raises(ValueError, match=r"mprotec.* is not a call of the measurement"):
        list(replay(Node("doc", "", doc)))


def test_an_empty_file_is_refused():
    with pytest.raises(ValueError, match="nothing would be verified"):
        check_live("empty", Node("empty", "", []))


def test_traces_need_a_name_that_tells_kernel_and_cpu(tmp_path):
    path = tmp_path / "mine.json"
    windows = load("7.3.max.livetrace.json.gz")[:1]
    with pytest.raises(ValueError, match="begin with KERNEL"):
        livetraces.check_live_traces(str(path), Node(str(path), "", windows))
