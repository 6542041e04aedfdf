"""The answers of `compare` and `events` on a terminal of 80 x 24: what a person sees first."""

from __future__ import annotations

import csv
import io
import re

import pytest
from messages import document, refused, said
from small_snapshots import ANON, OWN, PAE, VPN, snap, vma

from ptebatch import STRATEGIES, compare
from ptebatch.checker.search import verify_strategy
from ptebatch.errors import LayoutError, StrategyError
from ptebatch.snapshot import save
from ptebatch.strategies import find_strategy

MINE = """
def step(window):
    nr = window.folio_pte_batch()
    window.change_unit(0, nr, False)
    return nr
"""


@pytest.fixture(autouse=True)
def small_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


# ---- the first screen ----


def test_the_first_screen_fits_and_answers(capsys):
    out = said(capsys, "compare")
    lines = out.splitlines()
    assert len(lines) <= 23 and max(map(len, lines)) <= 80
    # what batching saves by folio size, the old loop beside the new one
    rows = {line.split()[0]: line.split() for line in lines if re.match(r"\d+[KM] ", line)}
    assert list(rows) == ["4K", "16K", "64K", "2M"] and rows["4K"][3] == "1.0x"
    assert int(rows["64K"][1].replace(",", "")) > 20 * int(rows["64K"][2].replace(",", "")) and rows["64K"][4:6] == [
        "32,768",
        "0",
    ]
    # where the designs part, a verdict, and what to ask next
    assert all(re.search(rf"(^|, ){name}\b", out, re.M) for name, row in STRATEGIES.items() if not row.flawed)
    words = " ".join(out.split())
    assert "All designs end in the same PTEs" in words and "lookahead reads up to" in words
    assert "compare --pid PID" in words and "verify --strategy mine.py:step" in words and "--explain" in words


def test_the_numbers_of_the_first_screen_are_those_of_the_tables(capsys):
    first = said(capsys, "compare")
    found = document(capsys, "compare", "--folio", "64K", "--size", "1G", "--op", "ro,rw", "--kernels", "6.16,7.3")
    reads = [sum(c["rows"][i]["counters"]["pte_reads"] for c in found["starts"][0]["comparisons"]) for i in (0, 1)]
    assert f"{reads[0]:,}" in first and f"{reads[1]:,}" in first


def test_the_legend_explains_the_words(capsys):
    out = said(capsys, "compare", "--explain")
    assert len(out.splitlines()) <= 23 and max(map(len, out.splitlines())) <= 80
    for word in ("PTE", "Folio", "contpte", "Fold", "Batch", "PAE", "TLBI", "DSB", "BBML", "T1, T2, T3"):
        assert word in out


# ---- layouts ----


def test_rows_that_count_the_same_share_a_line(capsys):
    out = said(capsys, "compare", "--layout", "T2:1M", "--op", "ro")
    assert max(map(len, out.splitlines())) <= 80
    assert out.count("same") <= 4 and "folio, nested" in out and "All end in the same PTEs." in out


def test_a_sweep_of_folio_sizes_is_one_table(capsys):
    out = said(capsys, "compare", "--folio", "16K,64K,2M", "--op", "rw", "--size", "8M")
    heads = [line for line in out.splitlines() if line.startswith("folio  ")]
    assert len(heads) == 1 and re.findall(r"^(16K|64K|2M) ", out, re.M) == ["16K", "64K", "2M"]
    assert "folio=24K is no folio" in refused(capsys, "compare", "--folio", "24K")


def test_one_page_shows_the_flaw_that_the_whole_hides(capsys):
    """Page 0 is shared: alone it comes out right by luck, any other page does not."""
    argv = ("compare", "--layout", "1/511", "--op", "rw", "--strategy", "folio,folio-page0", "--range")
    assert "same here; see verify" in said(capsys, *argv, "0")
    out = said(capsys, *argv, "::16", status=1)
    assert "32 calls, 32 pages in all" in " ".join(out.split()) and "WRITE in" in out
    assert "Not the same result: folio-page0" in out
    found = document(capsys, *argv, "5,7", status=1)
    assert found["equivalent"] is False and found["starts"][0]["comparisons"][0]["length"] == 2 * 4096


@pytest.mark.parametrize(
    ("text", "what"),
    [("x", "is not A:B"), ("5:5", "the first below the last"), ("600", "leaves the layout's 512 pages"),
     ("0x400000001", "give whole pages"), ("::0x", "is not A:B"), ("1:2:3:4", "is not A:B")],
)  # fmt: skip
def test_a_range_that_is_none(capsys, text, what):
    assert what in refused(capsys, "compare", "--layout", "1/511", "--range", text)


def test_ranges_of_events_and_pictures(capsys):
    assert "to rw by folio: 2 of 2 entries" in said(capsys, "show", "--layout", "1/511", "--op", "rw", "--range", "5:7")
    out = said(capsys, "events", "--layout", "1/511", "--op", "rw", "--range", "0x400005000:0x400007000", "--format", "jsonl")
    assert '"start": "0x400005000", "length": 8192' in out


def test_csv_has_a_line_for_each_row(capsys):
    out = said(capsys, "compare", "--layout", "T2:1M", "--op", "ro,rw", "--strategy", "folio,per-pte", "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(row["op"], row["strategy"]) for row in rows] == [(op, s) for op in ("ro", "rw") for s in ("folio", "per-pte")]
    assert int(rows[0]["pte_reads"]) > 0 and rows[0]["same"] == "True"


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        ("compare --layout T1:64M:32M", "gives its size twice, 64M and 32M"),
        ("compare --layout T1:folded:unfolded", "gives its folding twice"),
        ("compare --layout T1:pae=all:pae=none", "gives its pae twice"),
        ("compare --layout T1:pae=1/511 --pae all", "say the same thing"),
        ("compare --layout T1:PAE=1/511 --pae all", "say the same thing"),
        ("compare --layout T1:64M --size 1G", "say two things of one layout"),
        ("compare --layout T1 --whole", "--whole sums up the mappings of a process"),
        ("compare --layout T1 --assumed", "--assumed lists what is assumed of a process"),
        ("compare --layout T1 --table --json", "three forms of the same"),
        ("compare --layout T1:fork=alive --fork gone", "say the same thing"),
        ("compare --layout T1:fork=dead", "is no state after a fork"),
        ("compare --size 64MiB", "write '64M': K is 1024"),
        ("verify --strategy mine.py", "add the function of it, as in mine.py:step"),
    ],
)
def test_contradictions_and_slips_are_named(capsys, argv, what):
    assert what in refused(capsys, *argv.split())


def test_a_file_of_another_kind_is_told_by_its_name(capsys, tree):
    data = tree / "tests" / "data"
    vectors = next(data.rglob("named.json.gz"))
    assert "holds vectors, not dumps; give it to --vectors" in refused(capsys, "verify", "--dumps", str(vectors))


@pytest.mark.parametrize("argv", [["help"], ["-V"], ["help", "compare"]])
def test_help_in_other_words(capsys, argv):
    assert "ptebatch" in said(capsys, *argv)


# ---- a process ----


def test_a_process_is_summed_up_on_a_screen(capsys, tmp_path):
    path = str(tmp_path / "p.npz")
    save(snap([(VPN + i, OWN | 16 + i, ANON | PAE) for i in range(32)], [vma()]), path)
    out = said(capsys, "compare", "--file", path)
    lines, words = out.splitlines(), " ".join(out.split())
    assert len(lines) <= 23 and max(map(len, lines)) <= 80
    assert "32 pages (128K) in 1 mapping; 32 anonymous, 0 under huge entries, 0 swapped; PageAnonExclusive 32" in words
    assert "--assumed lists them" in words and "\nassumed: " not in out
    assert "assumed: mappings, frames and folios" in said(capsys, "compare", "--file", path, "--assumed")
    assert "give addresses, which begin with 0x" in refused(capsys, "compare", "--file", path, "--range", "5")
    part = said(capsys, "compare", "--file", path, "--range", f"{VPN << 12:#x}:{(VPN + 4) << 12:#x}")
    assert "16K, current protection to ro: 4 pages present" in " ".join(part.split())


def test_a_process_with_much_that_is_unknown_fits_too(capsys):
    """Two tables of ranges took 40 lines of 97 columns."""
    lines = said(capsys, "compare", "--file", "demo").splitlines()
    assert len(lines) <= 23 and max(map(len, lines)) <= 80
    assert any("unknown)" in line for line in lines) and any(".." in line for line in lines)


# ---- events ----


def test_events_for_people(capsys):
    out = said(capsys, "events", "--layout", "1/511", "--op", "rw", "--range", "5:7", "--format", "text")
    steps = [line.split()[1] for line in out.splitlines()[1:]]
    order = ["lock", "read", "scan", "start", "unfold", "ask", "commit", "gather", "unlock", "barrier", "flush", "end"]
    assert [steps.index(step) for step in order[:9]] == sorted(steps.index(step) for step in order[:9])
    assert set(order) <= set(steps) and max(map(len, out.splitlines())) <= 80
    assert "exchange   0..15" in out and "x16" in out and "RW,n" in out


@pytest.mark.parametrize("columns", [40, 60, 79, 80, 81, 200])
def test_a_table_loses_no_character(monkeypatch, columns):
    """A number lost its last digit: a column was squeezed below its least, and the last one cut."""
    from ptebatch.cli._print import Column, table

    monkeypatch.setenv("COLUMNS", str(columns))
    heads = [Column("design", wraps=True), *(Column(head, number=True) for head in ("PTE reads", "PAE reads", "unfolds", "TLBI")),
             Column("vs folio", wraps=True, least=8)]  # fmt: skip
    row = ["per-pte and one more", "74,759..74,793", "10,035..10,038", "381..383", "838..840", "CONT in 16..48"]
    text = table(heads, [row, ["lookahead-pae", *row[1:]]])
    for cell in row:
        assert all(word in text.split() for word in cell.split()), cell
    assert "\u2026" not in text and max(map(len, text.splitlines())) <= max(columns, 82)


# ---- one name for a strategy everywhere ----


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "my_steps.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return "my_steps.py:step"


def test_a_strategy_is_named_alike_everywhere(capsys, mine):
    rows = document(capsys, "compare", "--layout", "T2:1M", "--op", "ro", "--strategy", f"folio,{mine}")["starts"][0]
    assert [row["strategy"] for row in rows["comparisons"][0]["rows"]] == ["folio", mine]
    assert f"by {mine}" in said(capsys, "show", "--layout", "1/511", "--op", "ro", "--strategy", mine)
    assert f'"strategy": "{mine}"' in said(capsys, "events", "--op", "ro", "--strategy", mine, "--format", "jsonl")
    assert compare("T2:1M", "ro", ["my_steps:step"])[0].rows[0].label == "my_steps:step"
    assert verify_strategy(mine, worlds=2000).strategy == mine


def test_a_row_in_a_module_is_called_as_it_was_named(capsys, tmp_path, monkeypatch):
    """By its own name nothing found it again: compare refused it, and what reproduces a finding did not run."""
    row = "\nfrom ptebatch.strategies import Strategy\nROW = Strategy('mine', 'user', 'all at once', step=step)\n"
    (tmp_path / "my_rows.py").write_text(MINE + row)
    monkeypatch.chdir(tmp_path)
    rows = document(capsys, "compare", "--layout", "T2:1M", "--op", "ro", "--strategy", "my_rows.py:ROW")["starts"][0]
    assert rows["comparisons"][0]["rows"][0]["strategy"] == "my_rows.py:ROW"
    found = verify_strategy("my_rows.py:ROW", worlds=30_000, strict=True).counterexample
    assert "print(judge(world, 'my_rows.py:ROW', strict=True))" in found.source()


def test_a_file_that_was_changed_is_read_again(tmp_path, monkeypatch):
    (tmp_path / "my_steps.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    one = find_strategy("my_steps.py:step")
    assert find_strategy("my_steps.py:step") == one
    (tmp_path / "my_steps.py").write_text(MINE.replace("step", "other"))
    with pytest.raises(StrategyError, match="has no function 'step'"):
        find_strategy("my_steps.py:step")


# ---- in Python ----


def test_a_comparison_prints_and_turns_into_records():
    (c,) = compare("T2:1M", "ro", ["folio", "per-pte"])
    text = str(c)
    assert text.splitlines()[0].startswith("T2:1M, rw to ro") and re.search(r"^per-pte +1,056 ", text, re.M)
    assert c._repr_html_().startswith("<table>") and "per-pte" in c._repr_html_()
    records = c.records()
    assert [r["strategy"] for r in records] == ["folio", "per-pte"] and records[1]["pte_reads"] == 1056
    assert all(not isinstance(value, (dict, list)) for record in records for value in record.values())


def test_a_frame_of_a_comparison():
    pytest.importorskip("pandas")
    (c,) = compare("T2:1M", "ro", ["folio", "per-pte"])
    assert c.to_frame().set_index("strategy").loc["per-pte", "pte_reads"] == 1056


def test_texts_are_taken_where_numbers_are():
    from ptebatch import MM

    mm, other = MM("7.3"), MM("7.3")
    mm.mmap(0, 1 << 21, "rw")
    other.mmap(0, 1 << 21, 3)
    mm.map_folios(0, 512, 9, exclusive="1/511")
    other.map_folios(0, 512, 9, exclusive=[i % 512 != 0 for i in range(512)])
    assert mm.mprotect(0, 1 << 21, "ro").counters == other.mprotect(0, 1 << 21, 1).counters
    assert (mm.ptes(0, 512) == other.ptes(0, 512)).all()
    with pytest.raises(LayoutError, match="protection 'wx' is unknown"):
        mm.mprotect(0, 4096, "wx")
    assert MM.machine.__doc__
