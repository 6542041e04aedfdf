"""What is written twice, once for C and once for Python, is the same; and no pointer is forgotten in a copy."""

from __future__ import annotations

import re
from pathlib import Path

from ptebatch import bits
from ptebatch.errors import REASONS
from ptebatch.events import EVENT, KINDS
from ptebatch.machine import Machine

PYX = Path(__file__).resolve().parents[2] / "pyx" / "ptebatch"


def struct(text: str, name: str) -> list[tuple[str, str]]:
    """Type and name of each field of a ``cdef struct``; a pointer's star belongs to its name."""
    body = re.search(rf"^cdef (?:packed )?struct {name}:\n((?:    .*\n|\n)+)", text, re.M)
    assert body, name
    lines = (line.split("#")[0].strip() for line in body[1].splitlines())
    return [tuple(line.rsplit(None, 1)) for line in lines if line and "(" not in line]


def enum(text: str, prefix: str) -> list[str]:
    """Names with a prefix that an enum defines, in order."""
    return re.findall(rf"^    {prefix}(\w+)(?: = \d+)?$", text, re.M)


def test_a_copy_of_an_address_space_keeps_every_pointer_of_its_own():
    text = (PYX / "mm/mm_struct.pxd").read_text()
    mmu = struct((PYX / "arm64/mmu.pxd").read_text(), "mmu_t")
    own = [f"to.{name.lstrip('*')} = own.{name.lstrip('*')}" for _, name in struct(text, "mm_struct") if name.startswith("*")]
    own += [f"to.mmu.{name[1:]} = own.mmu.{name[1:]}" for _, name in mmu if name.startswith("*")]
    # structs that hold pointers themselves
    own += ["to.vs = own.vs", "to.pt = own.pt"]
    copy = text[text.index("cdef inline int mm_copy") :]
    assert len(own) >= 9
    assert not [line for line in own if line not in copy]


def test_no_other_struct_of_an_address_space_holds_a_pointer():
    """`vmas` and `pgtable` do, and are kept whole; a new one must be thought of in mm_copy()."""
    holders = {
        "vmas": "mm/vma.pxd",
        "pgtable": "arm64/pgtable.pxd",
        "machine": "arm64/machine.pxd",
        "counters": "base/counters.pxd",
        "mmu_gather": "arm64/mmu.pxd",
        "not_modelled": "mm/mm_struct.pxd",
    }
    with_pointer = {n for n, file in holders.items() if any(f.startswith("*") for _, f in struct((PYX / file).read_text(), n))}
    assert with_pointer == {"vmas", "pgtable"}
    fields = struct((PYX / "mm/mm_struct.pxd").read_text(), "mm_struct") + struct((PYX / "arm64/mmu.pxd").read_text(), "mmu_t")
    plain = {"uint64_t", "bint", "uint8_t", "trace", "pairs", "memo", "mmu_t"}
    assert {kind for kind, _ in fields} - plain <= set(holders)


def test_a_forgotten_pointer_would_be_seen():
    assert ("pairs", "*batches") in struct((PYX / "arm64/mmu.pxd").read_text(), "mmu_t")


def test_every_refusal_of_the_core_has_its_sentence_in_order():
    assert enum((PYX / "mm/operation.pxd").read_text(), "WHY_") == list(REASONS)


def test_every_event_of_the_core_has_its_name():
    text = (PYX / "base/log.pxd").read_text()
    numbers = dict(re.findall(r"^    EV_(\w+) = (\d+)$", text, re.M))
    names = {"READ": "R", "WRITE": "W", "XCHG": "X", "CMPXCHG": "C"}
    assert {int(n): names.get(name, name.replace("_", " ")) for name, n in numbers.items()} == dict(KINDS)


def test_an_event_lies_in_memory_as_numpy_reads_it():
    fields = struct((PYX / "base/log.pxd").read_text(), "event")
    assert [name for _, name in fields] == list(EVENT.names)
    sizes = {"uint8_t": 1, "uint64_t": 8}
    assert [sizes[kind] for kind, _ in fields] == [EVENT[name].itemsize for name in EVENT.names]


def test_the_machine_gives_the_core_every_number_it_asks_for():
    wanted = [name for _, name in struct((PYX / "arm64/machine.pxd").read_text(), "machine")]
    assert set(wanted) <= set(Machine().numbers())


def test_flags_of_vmas_and_pages_are_those_of_python():
    text = (PYX / "base/vm_flags.pxd").read_text()
    plain = dict(re.findall(r"#define (VM_\w+) (0x[0-9a-f]+|\d+)ULL$", text, re.M))
    renamed = {"VM_BTI": "VM_ARM64_BTI"}
    assert len(plain) > 15
    for name, value in plain.items():
        if name != "VM_ACCESS":
            assert getattr(bits, renamed.get(name, name)) == int(value, 0), name
    for name, value in re.findall(r"^    (MM_CP_\w+) = (\d+)$", text, re.M):
        assert getattr(bits, name) == int(value)
    pages = re.findall(r"^    (PG_\w+) = (0x[0-9a-f]+)$", (PYX / "base/page_flags.pxd").read_text(), re.M)
    assert len(pages) == 5
    assert all(getattr(bits, name) == int(value, 0) for name, value in pages)


def test_numbers_that_cross_the_seam_have_names():
    """No literal event or law number in the core but where it is defined."""
    for path in PYX.rglob("*.p[xy]*"):
        assert not re.search(r"\b(trace_emit|emit)\([^\n]*, \d{1,2}, ", path.read_text()), path.name
