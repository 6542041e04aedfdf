"""The verbs of the command: printed text compared whole, JSON, exit status."""

from __future__ import annotations

import re

import numpy as np
import pytest
from messages import document, said
from small_snapshots import ANON, BASE, OWN, SWAPBACKED, snap, vma

from ptebatch import COUNTERS, STRATEGIES, Machine, __version__, bits, verify
from ptebatch.cli._tables import LEGEND
from ptebatch.kernels import ERAS
from ptebatch.layouts.named import LAYOUTS
from ptebatch.notation.strip import parse
from ptebatch.snapshot import save
from ptebatch.verify import Difference, FileReport, Report

SMALL = "7.3,cont_ptes=4,ptrs_per_pte=8"


# ---- compare ----

DISCUSSION = f"""\
counted events on machine 7.3; no time is measured or modelled

alternating:unfolded 2M, ro to rw: 1 folio of 2M, mapped by PTEs; PageAnonExclusive alternating; unfolded
               PTE    of them    PAE  batch                                     final PTEs
strategy     reads  detection  reads  scans  starts  unfolds  folds  TLBI  DSB  vs folio
lookahead  132,384    131,328  1,023    512     512        0      0     3    2  same
folio        1,056        512  1,023      1       1        0      0     3    2  reference

1/511:unfolded 2M, ro to rw: 1 folio of 2M, mapped by PTEs; PageAnonExclusive 1/511; unfolded
             PTE    of them    PAE  batch                                     final PTEs
strategy   reads  detection  reads  scans  starts  unfolds  folds  TLBI  DSB  vs folio
lookahead  1,026      1,023    513      2       2        0      0     3    2  same
folio        513        512    513      1       1        0      0     3    2  reference

16/16/480:unfolded 2M, ro to rw: 1 folio of 2M, mapped by PTEs; PageAnonExclusive 16/16/480; unfolded
             PTE    of them    PAE  batch                                     final PTEs
strategy   reads  detection  reads  scans  starts  unfolds  folds  TLBI  DSB  vs folio
lookahead  1,488      1,488    514      3       3        0      0     1    2  same
folio        512        512    514      1       1        0      0     1    2  reference

alternating 2M, ro to rw: 1 folio of 2M, mapped by PTEs; PageAnonExclusive alternating
             PTE    of them    PAE  batch                                     final PTEs
strategy   reads  detection  reads  scans  starts  unfolds  folds  TLBI  DSB  vs folio
lookahead  7,875      6,819    992    512     512       32      0    35   66  same
folio        640         96  1,023      1       1        0      0     3    2  reference

{LEGEND}
"""

LAYOUTS_OF_THE_DISCUSSION = "alternating:unfolded,1/511:unfolded,16/16/480:unfolded,alternating"


@pytest.mark.parametrize("columns", ["100", "40", "300"])
def test_the_discussions_numbers_come_from_one_command(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    out = said(capsys, "compare", "--layout", LAYOUTS_OF_THE_DISCUSSION, "--op", "rw", "--strategy", "lookahead,folio", "--table")
    assert out == DISCUSSION


def test_the_tables_without_a_layout_are_the_cover_letters_loop(capsys):
    out = said(capsys, "compare", "--table")
    titles = re.findall(r"^(T\d) 1G, (\w+) to (\w+): ", out, re.MULTILINE)
    assert titles == [(name, *ops) for name in ("T1", "T2", "T3") for ops in (("rw", "ro"), ("ro", "rw"))]
    for name, s in STRATEGIES.items():
        assert len(re.findall(rf"^{name} ", out, re.MULTILINE)) == (0 if s.flawed else 6)
    assert re.findall(r"^per-pte .*", out, re.MULTILINE)[0].split() == [
        "per-pte", "1,081,344", "294,912", "0", "0", "262,144", "16,384", "16,384", "32,769", "65,538", "same",
    ]  # fmt: skip


FLAWED = """
511e/1s 2M, rw to rwx: 1 folio of 2M, mapped by PTEs; PageAnonExclusive 511e/1s
                        PTE    of them    PAE  batch                                     final PTEs
strategy              reads  detection  reads  scans  starts  unfolds  folds  TLBI  DSB  vs folio
folio-page0 (flawed)    131        111    512      3       3        0      1     2    4  16 differ: RDONLY 1, WRITE 1, CONT 16
folio                   116        111    512      3       3        0      0     1    2  reference
"""


def test_a_difference_is_named_by_its_bits_and_makes_the_status_1(capsys):
    argv = ["compare", "--layout", "511e/1s", "--op", "rwx", "--from", "rw", "--strategy", "folio-page0,folio"]
    assert FLAWED in said(capsys, *argv, "--table", status=1)
    found = document(capsys, *argv, status=1)
    wrong, right = found["starts"][0]["comparisons"][0]["rows"]
    assert not found["same"] and not wrong["same"] and right["same"]
    assert wrong["flawed"] and (wrong["differing_ptes"], wrong["differing_bits"]) == (16, {"RDONLY": 1, "WRITE": 1, "CONT": 16})


def test_all_brings_in_the_flawed_strategies_marked(capsys):
    out = said(capsys, "compare", "--layout", "T3:4K", "--op", "ro", "--all", "--table")
    for name, s in STRATEGIES.items():
        assert (f"\n{name} (flawed) " in out) == s.flawed


def test_compare_as_json(capsys):
    found = document(capsys, "compare", "--layout", "T1:4M,alternating", "--op", "rw,ro", "--strategy", "lookahead,per-pte")
    assert list(found) == ["ptebatch", "verb", "numbers", "machine", "notes", "ops", "same", "equivalent", "saved", "starts"]
    assert (found["ptebatch"], found["verb"], found["numbers"], found["ops"]) == (__version__, "compare", "counted", ["rw", "ro"])
    assert [(s["name"], s["process"]) for s in found["starts"]] == [("T1:4M", False), ("alternating", False)]
    comparison = found["starts"][1]["comparisons"][0]
    assert [comparison[key] for key in ("name", "op", "before", "length")] == ["alternating", "rw", "ro", 2 << 20]
    assert comparison["reference"] == "folio" and "unfolds" in comparison["differing_counters"]
    ahead, one_by_one = comparison["rows"]
    assert [ahead["strategy"], one_by_one["strategy"]] == ["lookahead", "per-pte"]
    assert list(ahead["counters"]) == list(COUNTERS)
    assert (ahead["detection_reads"], ahead["counters"]["pte_reads"], ahead["tlbi"], ahead["dsb"]) == (6819, 7875, 35, 66)
    assert (ahead["same"], ahead["differing_ptes"], ahead["differing_bits"], ahead["errors"]) == (True, 0, {}, [])


def test_options_reach_the_model(capsys):
    def row(*argv):
        return document(capsys, "compare", "--strategy", "folio", "--op", "rw", *argv)["starts"][0]["comparisons"][0]

    assert row("--layout", "T1", "--size", "8M")["length"] == 8 << 20
    assert row("--layout", "T1:4M")["length"] == 4 << 20
    assert row("--layout", "T1:2M", "--pae", "alternating")["rows"][0]["counters"]["pae_reads"] == 1023
    assert row("--layout", "T1:2M", "--from", "none")["before"] == "none"
    assert row("--layout", "uniform", "--machine", "7.3,granule=16K")["length"] == 32 << 20
    assert row("--layout", "alternating", "--machine", "6.12")["rows"][0]["counters"]["pte_reads"] > 640


# ---- show ----

SHOWN = """\
alternating 32K, ro to rw by lookahead: 8 of 8 entries from 0x400000000 on
before  2*(RO,c,nopae RO,c,pae RO,c,nopae RO,c,pae)
after   2*(RO,n,nopae RW,n,pae RO,n,nopae RW,n,pae)
           ^^^^^^^^^^ ^^^^^^^^ ^^^^^^^^^^ ^^^^^^^^

alternating 32K, rw to ro by lookahead: 8 of 8 entries from 0x400000000 on
before  2*(RO,n,nopae RW,n,pae RO,n,nopae RW,n,pae)
after   2*(RO,c,nopae RO,c,pae RO,c,nopae RO,c,pae)
           ^^^^^^^^^^ ^^^^^^^^ ^^^^^^^^^^ ^^^^^^^^
"""


def test_show_draws_before_and_after(capsys):
    argv = ["show", "--layout", "alternating", "--machine", SMALL, "--strategy", "lookahead"]
    first, second = said(capsys, *argv, "--op", "rw,ro").split("\n\n")
    assert first == SHOWN.split("\n\n")[0]
    assert second.splitlines()[:2] == SHOWN.split("\n\n")[1].splitlines()[:2]
    assert said(capsys, "show", "--layout", "T3:16K", "--machine", SMALL, "--op", "ro", "--from", "ro").splitlines() == [
        "T3:16K 16K, ro to ro by folio: 4 of 4 entries from 0x400000000 on", "no difference in 4 entries",
    ]  # fmt: skip


def test_show_draws_the_first_table_only_and_says_so(capsys):
    out = said(capsys, "show", "--layout", "T1", "--op", "ro", "--fields", "dirty,pfn")
    assert out == (
        "T1 1G, rw to ro by folio: 512 of 262144 entries from 0x400000000 on\n"
        "before  32*(RW,c,hw+sw,pae,pfn=0x80000.. x16)\n"
        "after   32*(RO,c,sw,pae,pfn=0x80000.. x16   )\n"
        "            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^\n"
    )


def test_show_as_json_has_strips_that_read_back(capsys):
    argv = ["show", "--layout", "1/511", "--op", "rw", "--strategy", "folio,lookahead", "--fields", "all"]
    found = document(capsys, *argv)
    assert list(found) == ["ptebatch", "verb", "machine", "notes", "saved", "starts", "strips"]
    assert [s["strategy"] for s in found["strips"]] == ["folio", "lookahead"]
    before, after = (parse(found["strips"][0][name], Machine()) for name in ("before", "after"))
    assert (before.ptes & np.uint64(bits.PTE_WRITE) == 0).all()
    assert np.flatnonzero(after.ptes & np.uint64(bits.PTE_WRITE) == 0).tolist() == [0]
    assert found["strips"][0]["after"] == found["strips"][1]["after"]


# ---- list ----


@pytest.mark.parametrize(
    ("what", "names"), [("strategies", STRATEGIES), ("layouts", LAYOUTS), ("machines", ERAS), ("counters", COUNTERS)]
)
def test_list_names_everything_once(capsys, what, names):
    rows = document(capsys, "list", what)[what]
    assert [row.get("name", row.get("kernel")) for row in rows] == list(names)
    out = said(capsys, "list", what)
    for name in names:
        assert re.search(rf"(^| ){re.escape(name)}( |$)", out, re.MULTILINE), name
    assert not any(line != line.rstrip() for line in out.splitlines())


def test_list_layouts_as_text(capsys):
    assert said(capsys, "list", "layouts") == (
        "name         size  what it is\n"
        "T1             1G  folios of one table (2M with 4K pages), mapped by PTEs\n"
        "T2             1G  folios of one contpte block (64K with 4K pages)\n"
        "T3             1G  folios of one page\n"
        "mixed         64M  folios of a page, a block or a table, one kind in what a table maps\n"
        "uniform        2M  one table-sized folio, every page exclusive\n"
        "alternating    2M  one table-sized folio, every other page exclusive: the worst case of every scan\n"
        "1/511          2M  one table-sized folio, one page shared and 511 exclusive\n"
        "16/16/480      2M  one table-sized folio, runs of 16, 16 and 480 pages; any A/B/... is a layout\n"
        "\n"
        "folio=16K is a layout, too: 64M in folios of that size. Options, separated by colons: a size (64M),\n"
        "folded, unfolded, sequential, shuffled[=SEED], folio=SIZE, fork=alive, fork=gone, and with a pattern of\n"
        "pages pae= (PageAnonExclusive), present=, young=, dirty=\n"
        "patterns: all, none, alternating, A/B/... runs of pages, the last one exclusive, random:P[:SEED]\n"
    )


def test_a_narrow_terminal_wraps_texts_and_cuts_nothing(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    words = said(capsys, "list", "counters").split()
    for c in COUNTERS.values():
        assert c.name in words
    meanings = " ".join(words)
    assert "\u2026" not in meanings and "repaint" in meanings


# ---- verify ----


def report(kind, ok):
    file = FileReport("made.json", "made", "engine", "scenarios", ["PTEs"], "counters")
    file.line("l73").add([] if ok else [Difference("scenario x", "PTEs", "1", "2")])
    return Report(kind, [file])


@pytest.mark.parametrize("kind", ["vectors", "dumps", "traces", "loops"])
@pytest.mark.parametrize("ok", [True, False])
def test_verify_hands_files_to_the_library_and_its_verdict_to_the_caller(capsys, monkeypatch, kind, ok):
    given = []
    monkeypatch.setattr(verify, f"verify_{kind}", lambda paths: given.append(paths) or report(kind, ok))
    out = said(capsys, "verify", f"--{kind}", "a.json", "b.json.gz", f"--{kind}", "c.json", status=0 if ok else 1)
    assert given == [["a.json", "b.json.gz", "c.json"]]
    assert out == report(kind, ok).text() + "\n"
    found = document(capsys, "verify", f"--{kind}", "a.json", status=0 if ok else 1)
    assert found["ok"] is ok and found["reports"] == {kind: report(kind, ok).to_dict()}


def test_verify_of_several_kinds_fails_if_one_does(capsys, monkeypatch):
    monkeypatch.setattr(verify, "verify_dumps", lambda paths: report("dumps", True))
    monkeypatch.setattr(verify, "verify_vectors", lambda paths: report("vectors", False))
    found = document(capsys, "verify", "--vectors", "a", "--dumps", "b", status=1)
    assert list(found["reports"]) == ["vectors", "dumps"]


# ---- kernels side by side ----


def test_kernels_side_by_side(capsys):
    out = said(capsys, "compare", "--kernels", "all", "--layout", "alternating", "--op", "rw", "--table")
    assert out.startswith("counted events by kernel; no time")
    rows = [line.split() for line in out.splitlines() if re.match(r"\d\.\d", line)]
    assert [row[0] for row in rows] == list(ERAS)
    assert [row[1] for row in rows] == [era.strategy for era in ERAS.values()]
    assert rows[0][-1] == "reference" and {row[-1] for row in rows[1:]} == {"same"}


def test_kernels_as_json_say_which_row_held(capsys):
    argv = ("compare", "--kernels", "6.12,6.18.20", "--machine", "granule=16K,bbml=2", "--layout", "T2:2M", "--op", "ro")
    found = document(capsys, *argv)
    assert [k["kernel"] for k in found["kernels"]] == ["6.12", "6.18.20"]
    assert [k["machine"] for k in found["kernels"]] == ["6.12,granule=16K,bbml=2", "6.18,granule=16K,bbml=2"]
    assert "bbml=2 has no effect" in found["kernels"][0]["notes"][0]
    assert found["kernels"][1]["notes"] == ["6.18.20 is taken by the row of 6.18, which was measured on 6.18.15"]
    (comparison,) = found["starts"][0]["comparisons"]
    assert [(row["kernel"], row["strategy"]) for row in comparison["rows"]] == [("6.12", "per-pte"), ("6.18.20", "folio")]
    assert comparison["reference"] == "6.12"


def test_kernels_of_a_process_have_its_page_size(capsys, tmp_path):
    """What the document names is the machine that ran, not the one of the kernel's default granule."""
    page = 1 << 14
    rows = vma(BASE, 32, pgoff=BASE // page)
    rows["end"] = BASE + 32 * page
    pages = [(BASE // page + i, OWN | 0x100 + i, ANON | SWAPBACKED, 0) for i in range(32)]
    save(snap(pages, [rows], page_size=page), tmp_path / "p.npz")
    found = document(capsys, "compare", "--kernels", "6.12,6.18", "--file", str(tmp_path / "p.npz"), "--op", "ro")
    assert [k["machine"] for k in found["kernels"]] == ["6.12,granule=16K", "6.18,granule=16K"]
    assert found["starts"][0]["comparisons"][0]["rows"][1]["pages"] == 32


def test_kernels_may_all_be_given_one_loop(capsys):
    argv = ("compare", "--kernels", "6.12,7.3", "--strategy", "lookahead", "--layout", "alternating", "--op", "rw")
    rows = document(capsys, *argv)["starts"][0]["comparisons"][0]["rows"]
    assert [row["strategy"] for row in rows] == ["lookahead", "lookahead"]
    assert rows[0]["counters"]["pte_reads"] > rows[1]["counters"]["pte_reads"]  # 6.12 gathers whole blocks


def test_a_machine_says_which_row_holds_and_what_has_no_effect(capsys):
    out = said(capsys, "compare", "--machine", "6.18.20,bbml=3", "--layout", "T2:1M", "--op", "ro", "--strategy", "folio")
    assert "note: 6.18.20 is taken by the row of 6.18" in out
    assert "note: bbml=3 has no effect: 6.18 omits the TLBI of a conversion on CPUs of BBM level 2" in out
    assert "note:" not in said(capsys, "compare", "--machine", "6.18,bbml=2", "--layout", "T2:1M", "--op", "ro")
