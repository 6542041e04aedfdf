"""What the kernel does besides in a call and the model does not is named in the result, in text and JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from messages import document, said
from small_snapshots import ANON, OWN, PAE, RW, VPN, R, snap, vma

from ptebatch import MM, bits
from ptebatch.mm.result import NOT_MODELLED
from ptebatch.snapshot import save

BASE, PAGE = 1 << 40, 4096
RO_PROT, RW_PROT = 1, 3


def called(prot: int, **how):
    """Make four of eight pages read-only or writable."""
    mm = MM("7.3", nr_pages=256)
    mm.mmap(BASE, 8 * PAGE, RO_PROT, **how)
    return mm.mprotect(BASE, 4 * PAGE, prot)


@pytest.mark.parametrize(
    ("how", "prot", "populated"),
    [
        ({"vm_flags": bits.VM_LOCKED}, RW_PROT, True),
        ({"vm_flags": bits.VM_LOCKED, "file": 3}, RW_PROT, True),
        ({"vm_flags": bits.VM_LOCKED}, 5, False),
        ({"vm_flags": bits.VM_LOCKED | bits.VM_LOCKONFAULT}, RW_PROT, False),
        ({"vm_flags": bits.VM_LOCKED, "shared": True}, RW_PROT, False),
        ({}, RW_PROT, False),
    ],
)
def test_locked_memory_that_becomes_writable_would_be_populated(how, prot, populated):
    result = called(prot, **how)
    assert [text.split(" ")[0] for text in result.not_modelled] == ["4"] * populated
    if populated:
        assert "faults them in for write now" in result.not_modelled[0]
        assert "not modelled: 4 pages of locked" in str(result) and "not modelled: 4 pages" in result._repr_html_()
        assert json.loads(result.to_json())["not_modelled"] == list(result.not_modelled)
    else:
        assert "not modelled" not in str(result) and result.to_dict()["not_modelled"] == []


def test_locked_memory_that_is_writable_already_is_not():
    mm = MM("7.3", nr_pages=256)
    mm.mmap(BASE, 8 * PAGE, RW_PROT, vm_flags=bits.VM_LOCKED)
    assert mm.mprotect(BASE, 8 * PAGE, 7).not_modelled == ()
    assert mm.mprotect(BASE, 8 * PAGE, RO_PROT).not_modelled == ()
    assert len(mm.mprotect(BASE, 8 * PAGE, RW_PROT).not_modelled) == 1
    assert mm.mprotect(BASE, 8 * PAGE, RO_PROT).not_modelled == (), "of this call alone"


def test_hugetlb_memory_is_walked_otherwise():
    (text,) = called(RW_PROT, vm_flags=bits.VM_HUGETLB).not_modelled
    assert text.startswith("4 pages of hugetlb memory")


def test_each_kind_has_its_sentence():
    root = Path(__file__).resolve().parents[2] / "pyx/ptebatch/mm/mm_struct.pxd"
    body = re.search(r"cdef struct not_modelled:\n((?:    .*\n)+)", root.read_text())[1]
    assert len(body.splitlines()) == len(NOT_MODELLED) == 2


def test_a_process_with_locked_memory_says_so(capsys, tmp_path):
    path = str(tmp_path / "locked.npz")
    save(snap([(VPN, OWN | 16, ANON | PAE)], [vma(flags=RW | bits.VM_LOCKED)]), path)
    text = said(capsys, "compare", "--file", path, "--op", "ro,rw", "--strategy", "folio", "--assumed")
    assert text.count("not modelled: 512 pages of locked private memory") == 1
    to_ro, to_rw = document(capsys, "compare", "--file", path, "--op", "ro,rw", "--strategy", "folio")["starts"][0]["comparisons"]
    assert to_ro["rows"][0]["not_modelled"] == [] and len(to_rw["rows"][0]["not_modelled"]) == 1
    assert "mappings are locked" in text
    save(snap([(VPN, OWN | 16, ANON | PAE)], [vma(flags=R), vma(start=(VPN + 512) << 12)]), path)
    assert "mappings are locked" not in said(capsys, "compare", "--file", path, "--op", "ro", "--strategy", "folio", "--assumed")
