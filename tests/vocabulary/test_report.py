"""How results and numbers are written."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from ptebatch import MM, Machine, bits
from ptebatch.errors import LayoutError
from ptebatch.operations import protection_text
from ptebatch.report import count_text, parse_size, result_html, result_text, runs_text, size_text
from ptebatch.simulate.runs import run

SMALL = Machine(cont_ptes=4, ptrs_per_pte=16)

TEXT = """\
lookahead on 7.3,cont_ptes=4,ptrs_per_pte=16: [0x400000000, 0x400010000), 64K, to rw: 16 pages
counted (exact); counters that are 0 are left out
access
  pte_reads               30
  pte_writes              20
  pte_xchg                20
  ptep_get                11
  contpte_ptep_get         8
  ptep_get_reads          27
batch
  pae_reads               17
  batch_scans              3
  n_batches                3
  n_subs                   3
  normal_page              3
contpte
  unfold_calls             1
  unfolds                  1
  convert_tlbi             1
  convert_tlbi_pages       4
  convert_tlbi_ops         4
  convert_tlbi_ops_range   1
  unfold_single            1
commit
  prot_start               3
  prot_commit              3
  set_ptes                 3
  sync_tags                6
  writable_checks          3
  start_multi              2
  set_ptes_multi           2
flush
  gather_calls             2
  flush_calls              1
  flush_pages             15
tlbi
  convert_rvale1is         1
  convert_dsb              2
  flush_vale1is            1
  flush_rvale1is           1
  flush_dsb                2
walk
  pte_locks                1
  vmas_walked              1
batches                 1, 3, 12
commits                 1, 3, 12
flushes of conversions  0x400000000 16K
final flushes           0x400001000 60K"""


def small(strategy: str = "lookahead"):
    return run("1/15", "rw", strategy, SMALL)[0]


# reads by hand: 4 gathers of 3, start and commit of one entry 1 each; 3 entries, a gather that ends the
# scan, 1 check of a cut block; 3 gathers of 3
def test_a_result_as_text():
    assert result_text(small()) == TEXT == str(small())


@pytest.mark.parametrize("strategy", ["folio", "per-pte", "merged"])
def test_the_text_has_every_counter_that_is_not_zero_and_no_other(strategy):
    result = small(strategy)
    lines = [line for line in result_text(result).splitlines() if line.startswith("  ")]
    assert dict(line.split() for line in lines) == {name: count_text(n) for name, n in result.counters.items() if n}
    assert len({len(line) for line in lines}) == 1


def test_a_batch_and_its_commits_are_told_apart():
    assert result_text(small("folio")).splitlines()[-4:-1] == [
        "batches                 16",
        "commits                 1, 15",
        "flushes of conversions  none",
    ]


def test_many_flushes_are_counted_not_listed():
    result = run("T1:64K", "ro", "per-pte", Machine(cont_ptes=2, ptrs_per_pte=16))[0]
    line = next(line for line in result_text(result).splitlines() if line.startswith("flushes of"))
    assert len(result.flushes) == 16
    assert line.endswith(", and 8 more") and line.count("0x") == 8


def test_a_result_of_the_layer_below_has_no_protection_to_name():
    mm = MM(SMALL)
    mm.mmap(1 << 34, 4096, 1)
    mm.map_folios(1 << 34, 1)
    result = mm.change_protection(1 << 34, 1, newprot=mm.vmas()[0].page_prot, vm_flags=bits.VM_READ)
    assert result.prot is None
    assert ", 4K, to as given: 1 page\n" in result_text(result)


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen, self.data = [], [], []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.data.append(data)


def test_html_is_closed_self_contained_and_holds_every_counter_that_is_not_zero():
    result = small()
    page = Tags()
    page.feed(result_html(result))
    assert not page.open
    assert {tag for tag, _ in page.seen} == {"table", "caption", "tr", "th", "td", "details", "summary", "ul", "li"}
    assert not any(name in attrs for _, attrs in page.seen for name in ("src", "href", "onclick"))
    for name, n in result.counters.items():
        assert (name in page.data) == bool(n)
    assert result._repr_html_() == result_html(result)
    assert len(result_html(result)) < 8000


def test_html_escapes_a_name_from_a_user():
    def odd(window):
        window.change_unit(0, 1, False)
        return 1

    odd.__name__ = "<b>&"
    html = result_html(run("T3:4K", "ro", odd)[0])
    assert "&lt;b&gt;&amp; on" in html and "<b>" not in html


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0"), (1, "1"), (1023, "1023"), (1024, "1K"), (4096, "4K"), (65536, "64K"), (2 << 20, "2M"), (3 << 19, "1536K"),
     (1 << 30, "1G"), (1 << 40, "1T"), (5 << 50, "5120T"), ((1 << 30) + 1, "1073741825")],
)  # fmt: skip
def test_a_size_is_exact_and_reads_back(size, text):
    assert size_text(size) == text
    if size:
        assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "0K", "-1", "1.5M", "M", "64KB", "64 K", "0x10", "1e3", "9" * 16, "\u0664K"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(LayoutError, match="is not a number of bytes") as e:
        parse_size(text)
    assert repr(text) in str(e.value)


def test_numbers_protections_and_runs():
    assert [count_text(n) for n in (0, 999, 1000, 132384)] == ["0", "999", "1,000", "132,384"]
    asked = [protection_text(p) for p in (0, 1, 3, 5, 7, 2, 0x13, None)]
    assert asked == ["none", "ro", "rw", "rx", "rwx", "0x2", "0x13", "as given"]
    assert runs_text([]) == "none"
    assert runs_text([[1, 1], [31, 16], [1, 15]]) == "1, 31 x 16, 15"
    assert runs_text([[1, i] for i in range(1, 12)]) == "1, 2, 3, 4, 5, 6, 7, 8, and 3 more"
    assert runs_text([[2000, 512]], shown=0) == ", and 2,000 more"
