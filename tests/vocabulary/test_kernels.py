"""Kernels are rows: what differs, which releases a row stands for, and what is said of a machine."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from ptebatch import MACHINES, MM, STRATEGIES, Machine, MachineError
from ptebatch.bits import VM_MAYBE_GUARD, VM_SOFTDIRTY
from ptebatch.kernels import DEFAULT, ERAS, Era, row_of
from ptebatch.machine import ERA_SWITCHES
from ptebatch.reference import RefMM
from ptebatch.simulate import compare_kernels

TREE = Path(__file__).resolve().parents[2]


def test_nine_kernels_oldest_first():
    assert list(ERAS) == ["6.12", "6.16", "6.17", "6.18", "6.19", "7.0", "7.1", "7.2", "7.3"] == list(MACHINES)
    assert DEFAULT == "7.3" == Machine().kernel
    assert all(era.measured.startswith(f"{kernel}.") for kernel, era in ERAS.items())


def test_every_kernel_has_a_sound_loop():
    assert all(not STRATEGIES[era.strategy].flawed for era in ERAS.values())


def table(text: str) -> dict[str, list[str]]:
    """Rows of chapter 10.1 of the specification, by switch."""
    rows = re.findall(r"^\| `(\w+)`[^|]*\| (.*) \|$", text, re.M)
    return {name: [cell.strip().strip("*") for cell in cells.split("|")] for name, cells in rows}


def test_the_specification_has_the_same_table():
    text = (TREE / "docs/semantics-kernels.md").read_text()
    columns = [["6.12"], ["6.16"], ["6.17"], ["6.18"], ["6.19", "7.0"], ["7.1", "7.2"], ["7.3"]]
    rows = table(text[: text.index("### 10.2")])
    assert {"gather_early_exit", "needs_flush", "mkwrite_always", "asid_extra_dsb", "guard_markers", "bbml_elides"} <= set(rows)
    for name, cells in rows.items():
        for kernels, cell in zip(columns, cells, strict=True):
            for kernel in kernels:
                value = getattr(ERAS[kernel], name)
                told = {"yes": True, "no": False, "none": 0, "not reached": True}.get(cell, cell)
                told = int(told.removeprefix("level ")) if isinstance(told, str) else told
                assert value == told, (name, kernel)


# ---- releases ----


@pytest.mark.parametrize(
    ("release", "row"),
    [("6.18.20", "6.18"), ("6.12.107+deb13-cloud-arm64", "6.12"), ("7.3.4", "7.3"), ("7.0.13-rt", "7.0"), ("6.16.0", "6.16")],
)
def test_a_stable_release_is_taken_by_the_row_of_its_line_and_says_so(release, row):
    found, note = row_of(release)
    assert found == row and f"{release} is taken by the row of {row}, which was measured on {ERAS[row].measured}" in note
    assert ("vendor" in note) == (not re.fullmatch(r"[\d.]+", release))
    machine = Machine(release)
    assert (machine.kernel, machine.release) == (row, release) and machine == Machine(row)
    assert machine.notes()[0] == note and not Machine(row).notes()


@pytest.mark.parametrize(
    ("release", "why"),
    [
        ("6.13", "like 6.12 and 6.16"), ("6.14.3", "guard markers exist since 6.13"), ("6.15", "not known"),
        ("6.11", "nothing before 6.12"), ("5.4.0", "nothing before 6.12"), ("7.4", "newer than 7.3"), ("10.0", "newer than 7.3"),
        ("6.17-rc1", "another loop"), ("7.3-rc2", "candidate"), ("", "not the text of a release"), ("seven", "not the text"),
    ],
)  # fmt: skip
def test_a_release_without_a_row_is_refused_with_what_is_known(release, why):
    with pytest.raises(MachineError, match=why) as error:
        Machine(release)
    assert error.value.hint.startswith("known: 6.12, 6.16") and "did you mean" not in str(error.value)


def test_a_machine_without_a_kernel_is_of_the_default_one():
    assert Machine.parse("granule=16K,bbml=3") == Machine(granule="16K", bbml=3)


def test_a_machine_reads_back_from_its_text():
    for kernel in ERAS:
        for more in ("", ",bbml=2", ",granule=16K,kpti=on", ",sticky_flags=off", ",exclusive_write=on,device_private=on"):
            machine = Machine.parse(kernel + more)
            assert Machine.parse(str(machine)) == machine


# ---- switches without effect ----


@pytest.mark.parametrize("kernel", ERAS)
@pytest.mark.parametrize("bbml", range(4))
def test_a_level_elides_what_the_kernel_knows_and_says_so_if_not(kernel, bbml):
    machine = Machine(kernel, bbml=bbml)
    assert machine.elides_bbm == (bbml != 0 and bbml == ERAS[kernel].bbml_elides)
    assert (f"bbml={bbml} has no effect" in "".join(machine.notes())) == (bbml != 0 and not machine.elides_bbm)


def test_other_switches_without_effect_say_so():
    assert "soft_dirty=on has no effect" in Machine(soft_dirty=True).notes()[0]
    assert "hafdbs=off has no effect" in Machine(hafdbs=False).notes()[0]
    assert "without contpte" in Machine(contpte=False, bbml=3).notes()[0]
    assert "are not known: those of 7.3 are taken" in Machine("6.17", device_private=True).notes()[0]
    assert not Machine("6.12", device_private=True).notes() and not Machine(device_private=True).notes()


# ---- sticky flags, spec 6.4 ----


def merged_flags(mm, kernel: str, left: int, right: int) -> list[int]:
    """Sticky flags of what two neighbours become when the second is given the protection of the first."""
    page = 4096
    mm.mmap(0x200000, page, 1, vm_flags=left)
    mm.mmap(0x200000 + page, page, 3, vm_flags=right)
    mm.mprotect(0x200000 + page, page, 1)
    return [vma.flags & (VM_SOFTDIRTY | VM_MAYBE_GUARD) for vma in mm.vmas()]


@pytest.mark.parametrize("kernel", ERAS)
@pytest.mark.parametrize("left", [0, VM_SOFTDIRTY, VM_MAYBE_GUARD])
@pytest.mark.parametrize("right", [0, VM_SOFTDIRTY, VM_MAYBE_GUARD])
def test_sticky_flags_are_kept_since_6_19_in_core_and_reference_alike(kernel, left, right):
    # no memory is writable and charged, so nothing else keeps the two apart
    ours, theirs = (merged_flags(kind(Machine(kernel)), kernel, left, right) for kind in (_core, RefMM))
    assert ours == theirs
    if ERAS[kernel].sticky_flags:
        assert ours == [left | right]
    elif (left ^ right) & VM_MAYBE_GUARD:
        assert ours == [left, right]  # a flag that these kernels do not have keeps VMAs apart, as any other
    else:
        assert ours == [right]  # what the call asked for: flags of the VMA that it changed


def _core(machine: Machine) -> MM:
    return MM(machine, nr_pages=64)


def test_switches_of_a_kernel_can_be_set_one_by_one():
    assert set(ERA_SWITCHES) == {f.name for f in fields(Era)} - {"measured", "strategy", "repeat_tlbi_cpus"}
    for name in ERA_SWITCHES:
        if name != "bbml_elides":
            assert getattr(Machine("7.3", **{name: True}), name) is True
            assert getattr(Machine("7.3", **{name: False}), name) is False


# ---- kernels side by side ----


def test_going_from_6_12_to_6_18_is_one_call():
    (comparison,) = compare_kernels("alternating", "rw", "6.12,6.18")
    old, new = comparison.rows
    assert (old.kernel, old.strategy, new.kernel, new.strategy) == ("6.12", "per-pte", "6.18", "folio")
    assert (old.counters["prot_start"], new.counters["prot_start"]) == (512, 1)
    assert (new.same and comparison.reference is comparison.rows[0]) or comparison.reference == old


def test_kernels_of_one_loop_differ_where_their_switches_do():
    rows = {row.kernel: row for c in compare_kernels("T2:1M", "none", "all") for row in c.rows}
    assert rows["7.3"].difference.bits == {} or set(rows["7.3"].difference.bits) <= {"CONT"}
    painted = [kernel for kernel, row in rows.items() if "CONT" in row.difference.bits]
    assert painted == ["6.17", "6.18", "6.19", "7.0", "7.1", "7.2"]
