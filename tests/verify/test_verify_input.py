"""Files that are not what they should be: one error that names file and place, never a traceback."""

from __future__ import annotations

import copy
import gzip
import json

import pytest

from ptebatch.errors import InputError, PtebatchError
from ptebatch.verify import verify_dumps, verify_loops, verify_prim, verify_traces, verify_vectors

VECTORS = {
    "counters": ["pte_reads", "pte_writes"],
    "granule_kb": 4,
    "page_shift": 12,
    "cont_ptes": 16,
    "ptrs_per_pte": 512,
    "pfn_base": "80000",
    "scenarios": [
        {
            "name": "one",
            "base": "400000000000",
            "vmf": 1,
            "newprot": "60000000000fc3",
            "cp": 0,
            "anon": 1,
            "bbml": 0,
            "start": 0,
            "nr": 1,
            "folios": [[524288, 0, 1, 0]],
            "pae": [[524288, 1]],
            "init": [[1, "e8000080000f43", 0]],
            "ops": [["map", 0, 524288, 1, 3, 7], ["pae", 524288, 1, 1]],
            "res": {
                "l73": {
                    "pages": 1,
                    "c": [3, 1],
                    "b": [[1, 1]],
                    "s": [[1, 1]],
                    "fl": [],
                    "ga": [0, 1],
                    "fin": [[1, "e0000080000fc3", 0]],
                }
            },
        }
    ],
}
HITS = {
    "modify_prot_start_ptes": 1,
    "modify_prot_commit_ptes": 1,
    "vm_normal_page": 1,
    "change_protection": 1,
    "pte_offset_map_lock": 1,
    "flush_tlb_batched_pending": 1,
}
RECORD = {
    "kernel": "7.3.4",
    "cpu": "max",
    "page": 4096,
    "scenario": "one",
    "op": "RO",
    "ops": [
        {
            "op": "RO",
            "ptes": 1,
            "va": "0x200000",
            "first_pte": 0,
            "prot": 1,
            "hits": HITS,
            "tlbi": {"TLBI VALE1IS": 1},
            "dsb": 2,
            "irq": 0,
        }
    ],
    "va": "0x200000",
    "ptes_before": ["e8000040000f43"],
    "ptes_after": ["e0000040000fc3"],
    "pfns": [262144],
    "pfns_after": None,
    "excl": "1",
    "excl_after": None,
    "leaf_level": [0],
    "shared": 0,
    "vmas": [[0, 1, 3]],
    "beyond": [],
    "folios": [[262144, 0]],
}
WINDOW = {
    **{key: RECORD[key] for key in ("kernel", "cpu", "page", "va", "ptes_before", "ptes_after", "pfns", "excl", "folios")},
    "label": "one",
    "ptes": 1,
    "first_idx": 0,
    "prot": 1,
    "pte_reads": 4,
    "pte_writes": 2,
    "other": {"DSB #10": 1, "TLBI VALE1IS": 1, "DSB #11": 1},
    "events": [
        ["R", 0, "f"],
        ["E", None, "f"],
        ["R", 0, "f"],
        ["R", 0, "f"],
        ["W", 0, "f"],
        ["R", 0, "f"],
        ["W", 0, "f"],
        ["DSB #10", None, "f"],
        ["TLBI VALE1IS", None, "f"],
        ["DSB #11", None, "f"],
    ],
    "va_idx": 0,
}
LOOP = {
    "kernel": "7.3",
    "cpu": "max",
    "test": "T3.RW2RO",
    "ptes": 512,
    "instructions": 1,
    "loads": 1,
    "stores": 1,
    "tlbi": 1,
    "dsb": 2,
    "hits": {**HITS, "modify_prot_start_ptes": 512, "modify_prot_commit_ptes": 512, "vm_normal_page": 512},
}
PRIM = {
    "pred_bits": ["none", "present"],
    "gran": {
        "4": {
            "page_shift": 12,
            "cont_ptes": 16,
            "ptrs_per_pte": 512,
            "consts": {"PTE_VALID": "1"},
            "protection_map": {"0": "60000000000f82"},
            "ops": ["pte_mkold", "predicates"],
            "rows": [[0, "400", "0", "0"], [1, "0", "0", "1"]],
        }
    },
}
GOOD = {
    "vectors": (verify_vectors, VECTORS),
    "dumps": (verify_dumps, [RECORD]),
    "traces": (verify_traces, [WINDOW]),
    "loops": (verify_loops, [LOOP]),
    "prim": (verify_prim, PRIM),
}
MISSING = object()


@pytest.mark.parametrize("kind", GOOD)
def test_the_small_documents_are_good(kind, write):
    verify, document = GOOD[kind]
    report = verify(write(document))
    assert report.ok, report.text()
    assert report.total


def at(document, place):
    """Container and last key of a place such as ``scenarios.0.nr``."""
    *way, last = [int(part) if part.isdecimal() and part not in ("4",) else part for part in place.split("/")]
    for part in way:
        document = document[part]
    return document, last


# kind, place, new value, how the error names the place, a word of its message
CASES = [
    ("vectors", "scenarios", MISSING, "", "'scenarios' is missing"),
    ("vectors", "scenarios", [], "scenarios", "no scenario"),
    ("vectors", "scenarios", {}, "scenarios", "not an array"),
    ("vectors", "scenarios/0", 7, "scenarios[0]", "'name'"),
    ("vectors", "granule_kb", 8, "granule_kb", "granule"),
    ("vectors", "cont_ptes", 32, "cont_ptes", "16"),
    ("vectors", "page_shift", "12", "page_shift", "whole number"),
    ("vectors", "pfn_base", "0x80000", "pfn_base", "hexadecimal"),
    ("vectors", "counters/0", "reads", "counters[0]", "counter"),
    ("vectors", "scenarios/0/name", "a\nb", "scenarios[0].name", "printable"),
    ("vectors", "scenarios/0/base", "400000001000", "scenarios[0] (one).base", "leaf table"),
    ("vectors", "scenarios/0/base", "ffff000000000000", "scenarios[0] (one).base", "user address"),
    ("vectors", "scenarios/0/nr", 1025, "scenarios[0] (one).nr", "1024"),
    ("vectors", "scenarios/0/start", 1024, "scenarios[0] (one).nr", "end behind"),
    ("vectors", "scenarios/0/nr", 1.0, "scenarios[0] (one).nr", "whole number"),
    ("vectors", "scenarios/0/anon", True, "scenarios[0] (one).anon", "whole number"),
    ("vectors", "scenarios/0/cp", 16, "scenarios[0] (one).cp", "0 to 15"),
    ("vectors", "scenarios/0/newprot", "6000000000000000f", "scenarios[0] (one).newprot", "64-bit"),
    ("vectors", "scenarios/0/newprot", "-1", "scenarios[0] (one).newprot", "64-bit"),
    ("vectors", "scenarios/0/newprot", "1_0", "scenarios[0] (one).newprot", "64-bit"),
    ("vectors", "scenarios/0/init", [[1025, "1", 0]], "scenarios[0] (one).init[0]", "overflows"),
    ("vectors", "scenarios/0/init", [[1024, "0", 0], [1, "1", 0]], "scenarios[0] (one).init[1]", "0 entries"),
    ("vectors", "scenarios/0/init", [[2, "ffffffffffffffff", 1]], "scenarios[0] (one).init[0]", "overflow 64 bits"),
    ("vectors", "scenarios/0/init", [[0, "1", 0]], "scenarios[0] (one).init[0][0]", "from 1"),
    ("vectors", "scenarios/0/init", [[1, "1", 2]], "scenarios[0] (one).init[0][2]", "from 0 to 1"),
    ("vectors", "scenarios/0/init", [[1, "1"]], "scenarios[0] (one).init[0]", "run"),
    ("vectors", "scenarios/0/folios", [[524289, 1, 1, 0]], "scenarios[0] (one).folios[0]", "aligned"),
    ("vectors", "scenarios/0/folios", [[524288, 14, 1, 0]], "scenarios[0] (one).folios[0]", "order"),
    ("vectors", "scenarios/0/folios", [[1 << 60, 0, 1, 0]], "scenarios[0] (one).folios", "pfn"),
    ("vectors", "scenarios/0/folios", [[524288, 0, 1]], "scenarios[0] (one).folios[0]", "3 elements"),
    ("vectors", "scenarios/0/pae", [[524287, 1]], "scenarios[0] (one).pae[0]", "outside"),
    ("vectors", "scenarios/0/ops/0/0", "remap", "scenarios[0] (one).ops[0][0]", "verb"),
    ("vectors", "scenarios/0/ops/0", ["map", 0, 1, 1], "scenarios[0] (one).ops[0]", "4 elements"),
    ("vectors", "scenarios/0/ops/0", ["map", 1023, 524288, 2, 3, 7], "scenarios[0] (one).ops[0]", "end behind"),
    ("vectors", "scenarios/0/ops/0", ["map", 0, 1 << 60, 1, 3, 7], "scenarios[0] (one).ops[0]", "pfn"),
    ("vectors", "scenarios/0/ops/0", ["hw", 4096, 1], "scenarios[0] (one).ops[0]", "no page table"),
    ("vectors", "scenarios/0/ops/0", ["reuse", 5], "scenarios[0] (one).ops[0]", "nothing is mapped"),
    ("vectors", "scenarios/0/ops/0", [], "scenarios[0] (one).ops[0]", "operation"),
    ("vectors", "scenarios/0", {**VECTORS["scenarios"][0], "res": {}, "ops": None}, "scenarios", "neither results"),
    ("vectors", "scenarios/0/res/l73/c", [3], "scenarios[0] (one).res.l73.c", "expected 2"),
    ("vectors", "scenarios/0/res/l73/pages", -1, "scenarios[0] (one).res.l73.pages", "-1"),
    ("vectors", "scenarios/0/res/l73/fin", "=iter", "scenarios[0] (one).res.l73.fin", "=ENGINE"),
    ("vectors", "scenarios/0/res/l73/fin", "=l73", "scenarios[0] (one).res.l73.fin", "another engine"),
    ("vectors", "scenarios/0/res/l73/ga", [0], "scenarios[0] (one).res.l73.ga", "expected 2"),
    ("dumps", "0/kernel", "5.10.1", "[0] (one RO).kernel", "known: 6.12"),
    ("dumps", "0/kernel", "linux", "[0] (one RO).kernel", "known: 6.12"),
    ("dumps", "0/cpu", "m1", "[0] (one RO).cpu", "known: max"),
    ("dumps", "0/page", 8192, "[0] (one RO).page", "4096"),
    ("dumps", "0/va", "0x200800", "[0] (one RO)", "page size"),
    ("dumps", "0/va", "0x1000000000000", "[0] (one RO)", "48 bits"),
    ("dumps", "0/va", "200000h", "[0] (one RO).va", "address"),
    ("dumps", "0/ptes_before", [], "[0] (one RO).ptes_before", "no entry"),
    ("dumps", "0/ptes_before", ["e8zz"], "[0] (one RO).ptes_before[0]", "e8zz"),
    ("dumps", "0/ptes_after", [], "[0] (one RO).ptes_after", "expected 1"),
    ("dumps", "0/excl", "11", "[0] (one RO).excl", "1 characters"),
    ("dumps", "0/excl", "x", "[0] (one RO).excl", "1, 0 or -"),
    ("dumps", "0/pfns", [], "[0] (one RO).pfns", "expected 1"),
    ("dumps", "0/beyond", [[1 << 40, "1", 0, "1"]], "[0] (one RO).beyond[0]", "overflows"),
    ("dumps", "0/beyond", [[1, "1", 0]], "[0] (one RO).beyond[0]", "expected 4"),
    ("dumps", "0/vmas", [[0, 2, 3]], "[0] (one RO).vmas[0]", "end behind"),
    ("dumps", "0/vmas", [[0, 1, 3], [0, 1, 1]], "[0] (one RO).vmas[1]", "overlaps"),
    ("dumps", "0/vmas", [[0, 1, 8]], "[0] (one RO).vmas[0][2]", "0 to 7"),
    ("dumps", "0/vmas", [], "[0] (one RO).ops[0]", "refuses"),
    ("dumps", "0/vmas", None, "[0].vmas", "calls to replay"),
    ("dumps", "0", {**RECORD, "vmas": None, "ops": []}, "", "no record"),
    ("dumps", "0/ops/0/va", "0x201000", "[0] (one RO).ops[0].va", "0x200000"),
    ("dumps", "0/ops/0/prot", "RO", "[0] (one RO).ops[0].prot", "whole number"),
    ("dumps", "0/ops/0/ptes", 2, "[0] (one RO).ops[0]", "refuses"),
    ("dumps", "0/ops/0/hits", {"vm_normal_page": "1"}, "[0] (one RO).ops[0].hits.vm_normal_page", "whole number"),
    ("dumps", "0/ops/0/irq", MISSING, "[0] (one RO).ops[0]", "'irq' is missing"),
    ("dumps", "0/folios", [[0, 0], [1 << 40, 0]], "[0] (one RO).folios", "apart"),
    ("dumps", "0/leaf_level", [1], "[0] (one RO).leaf_level", "leaf tables"),
    ("traces", "0/events/0", ["Q", 0, "f"], "[0] (one).events[0][0]", "kind"),
    ("traces", "0/events/0", ["R", 512, "f"], "[0] (one).events[0][1]", "511"),
    ("traces", "0/events/0", ["R"], "[0] (one).events[0]", "event"),
    ("traces", "0/va_idx", 1, "[0] (one).va_idx", "0"),
    ("traces", "0/first_idx", 1, "[0] (one).first_idx", "leaves"),
    ("traces", "0/ptes", 0, "[0] (one).ptes", "from 1"),
    ("traces", "0/label", None, "[0].label", "text"),
    ("loops", "0/ptes", 1 << 40, "[0] (T3.RW2RO).ptes", "whole number"),
    ("loops", "0/test", "T9.RW2RO", "", "known test"),
    ("loops", "0/hits", [], "[0] (T3.RW2RO).hits", "object"),
    ("loops", "0/instructions", 1.5, "[0] (T3.RW2RO).instructions", "whole number"),
    ("prim", "pred_bits/0", "nope", "pred_bits[0]", "predicate"),
    ("prim", "gran", {}, "gran", "no granule"),
    ("prim", "gran/4/ops/0", "pte_mkblue", "gran.4.ops[0]", "helper"),
    ("prim", "gran/4/rows/0/0", 2, "gran.4.rows[0][0]", "0 to 1"),
    ("prim", "gran/4/rows/0/1", "g", "gran.4.rows[0][1]", "hexadecimal"),
    ("prim", "gran/4/consts", {"PTE_NEW": "1"}, "gran.4.consts.PTE_NEW", "not modelled"),
    ("prim", "gran/4/protection_map", {"16": "1"}, "gran.4.protection_map.16", "index"),
]


@pytest.mark.parametrize(("kind", "where", "value", "place", "word"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)])
def test_a_wrong_value_is_named_with_its_place(kind, where, value, place, word, write):
    verify, good = GOOD[kind]
    document = copy.deepcopy(good)
    container, key = at(document, where)
    if value is MISSING:
        del container[key]
    else:
        container[key] = value
    path = write(document)
    with pytest.raises(InputError) as caught:
        verify(path)
    assert caught.value.path == str(path)
    assert caught.value.place == place
    assert word in caught.value.message
    assert "\n" not in str(caught.value) and str(caught.value).isascii()


GZ = gzip.compress(json.dumps(VECTORS).encode())


@pytest.mark.parametrize("verify", [verify_vectors, verify_dumps, verify_traces, verify_loops, verify_prim])
@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"{", "not JSON"),
        (json.dumps(VECTORS).encode()[:-1], "cut off"),
        (b"[1, 2]", "not an object"),
        (b"null", "not an"),
        (b"3", "not an"),
        (b"\xff\xfe{}", "UTF-8"),
        (GZ[: len(GZ) // 2], "gzip"),
        (GZ[:2], "gzip"),
        (GZ[:-9] + bytes(9), "gzip"),
        (GZ + b"tail", "gzip"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" + b"9" * 10_000 + b"]", "too long"),
        (b"\x00\x01\x02", "not JSON"),
    ],
    ids=range(15),
)
def test_a_damaged_file_is_named(verify, data, word, write):
    path = write(data, "facts.json.gz")
    with pytest.raises(InputError) as caught:
        verify(path)
    assert caught.value.path == str(path)
    assert word in caught.value.message or caught.value.place.startswith("[0]")


@pytest.mark.parametrize("name", ["absent.json", ".", "nul\0.json"])
def test_a_file_that_cannot_be_read_is_named(name, tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        verify_vectors([f"{tmp_path}/{name}"])


def test_no_file_is_an_error():
    with pytest.raises(PtebatchError, match="no file"):
        verify_dumps([])


def test_the_first_wrong_file_is_named(write):
    good, bad = write(VECTORS), write(b"[", "bad.json")
    with pytest.raises(InputError, match=r"bad\.json"):
        verify_vectors([good, bad])


def test_gzip_is_recognised_without_its_suffix(write):
    assert verify_vectors(write(GZ, "plain.json")).ok


def places(value, way=()):
    """Every place in a document, as a way of keys."""
    yield way
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*way, key))


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize(
    "value",
    [MISSING, None, -1, 1 << 64, 0.5, "", "x", [], {}, [1]],
    ids=["missing", "null", "negative", "huge", "float", "empty", "text", "array", "object", "one"],
)
def test_nothing_but_an_input_error_comes_out(kind, value, write):
    verify, good = GOOD[kind]
    refused = 0
    for *way, last in filter(None, places(good)):
        document = copy.deepcopy(good)
        container = document
        for key in way:
            container = container[key]
        if value is MISSING:
            del container[last]
        else:
            container[last] = value
        try:
            verify(write(document)).text()
        except InputError:
            refused += 1
    assert refused > 10
