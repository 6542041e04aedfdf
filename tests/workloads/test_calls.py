"""Single calls on a layout: an address space that was drawn comes alive, and each kernel's own loop is counted."""

from __future__ import annotations

import json

import pytest

from ptebatch.cli import main
from ptebatch.errors import LayoutError
from ptebatch.layouts import get_layout
from ptebatch.layouts.named import START
from ptebatch.machine import Machine
from ptebatch.workloads import CALLS, call_layout, parse_calls
from ptebatch.workloads.calls import live_of

LAYOUTS = (
    "T1:2M",
    "T2:1M",
    "T3:256K",
    "mixed:2M",
    "T2:1M:unfolded",
    "T2:1M:pae=random:0.5",
    "T1:2M:present=random:0.7",
    "T3:256K:shuffled",
)


def made(layout: str, calls: str, kernel: str = "7.3", **switches: bool) -> list[dict[str, int]]:
    return [one.counters for one in call_layout(get_layout(layout), Machine(kernel, **switches), parse_calls(calls))]


@pytest.mark.parametrize("text", LAYOUTS)
def test_what_comes_alive_is_what_was_drawn(text):
    layout, machine = get_layout(text), Machine()
    mm = layout.build(machine, 3)
    live = live_of(mm)
    live.frames.check()
    nr = layout.length(machine) // machine.page_size
    drawn = mm.ptes(START, nr).tolist()
    assert [live.ptes[START + i * machine.page_size] for i in range(nr)] == drawn
    # mprotect by the compiled core and by the living model: the same words, the same counters
    result = mm.mprotect(START, nr * machine.page_size, 1)
    lived = live.mprotect(START, nr * machine.page_size, 1)
    assert [live.ptes[START + i * machine.page_size] for i in range(nr)] == mm.ptes(START, nr).tolist()
    assert {name: value for name, value in lived.counters.items() if name in result.counters} == dict(result.counters)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kernel", ["6.12", "6.17", "7.3"])
def test_every_call_on_every_layout(name, kernel):
    if name == "guard" and kernel == "6.12":
        return
    for text in LAYOUTS:
        if name == "collapse" and get_layout(text).orders(Machine()) == [0]:
            # pages whose VMA may have no folios of a PMD's size are collapsed all the same when asked for
            continue
        calls = "fork,exit" if name == "exit" else name
        counted = made(text, calls, kernel)
        assert len(counted) == len(calls.split(","))


def test_a_child_makes_writes_copies_and_its_end_makes_them_reuse():
    copies = made("T2:256K", "fork,write")[1]
    reuses = made("T2:256K", "fork,exit,write")[2]
    assert (copies["wp_page_copy"], copies["wp_page_reuse"]) == (64, 0)
    assert (reuses["wp_page_copy"], reuses["wp_page_reuse"]) == (0, 64)
    assert made("T2:256K", "fork,exit,write", "6.12")[2]["wp_page_copy"] == 64


def test_a_move_by_a_page_leaves_nothing_folded():
    layout, machine = get_layout("T2:1M"), Machine()
    moved = {
        name: call_layout(layout, machine, parse_calls(name))[0].after.share for name in ("mremap", "mremap-block", "mremap-page")
    }
    assert moved == {"mremap": 1.0, "mremap-block": 1.0, "mremap-page": 0.0}


def test_what_is_given_back_is_gone_and_comes_back_in_its_size():
    counted = made("T2:1M", "dontneed,write")
    assert counted[0]["flush_rvae1is"] + counted[0]["flush_rvale1is"] == 1
    assert counted[1]["faults"] == 16


def test_names_and_layouts_that_cannot_be_are_refused():
    with pytest.raises(LayoutError, match="operation 'munmapp' is unknown"):
        parse_calls("munmapp")
    with pytest.raises(LayoutError, match="no child that could exit"):
        made("T3:64K", "exit")
    with pytest.raises(LayoutError, match="is forked already"):
        made("T3:64K:fork=alive", "munmap")


def test_the_command_puts_kernels_side_by_side(capsys):
    assert main(["compare", "--op", "munmap", "--layout", "T2,T3", "--size", "1M", "--kernels", "6.12,7.3"]) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 84 and said.count("munmap") == 4
    assert main(["compare", "--op", "fork,rw", "--layout", "T3", "--size", "64K", "--kernels", "7.3", "--json"]) == 0
    doc = json.loads(capsys.readouterr().out)
    assert [run["call"] for run in doc["runs"]] == ["fork", "rw"] and doc["runs"][0]["entries"] == 32
    assert main(["compare", "--op", "fork", "--strategy", "folio"]) == 2
    assert "--strategy goes with ro, rw and none" in capsys.readouterr().err
