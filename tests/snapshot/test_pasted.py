"""A process from the text of its maps or smaps, and the one that ships with the package."""

from __future__ import annotations

import numpy as np
import pytest
from messages import refused, said

from ptebatch import Machine, bits
from ptebatch.errors import InputError
from ptebatch.snapshot import assumed, build, read_pasted, summary_of

HEAD = "{:x}-{:x} {} 00000000 00:00 0                          {}\n"
START = 0x7F0000000000


def smaps(*rows) -> str:
    """Text of smaps: (pages, permissions, name, KiB resident, anonymous, huge, flags) of each mapping, one after the other."""
    text, at = "", START
    for pages, perms, name, rss, anon, huge, flags in rows:
        text += HEAD.format(at, at + pages * 4096, perms, name)
        text += f"Size:  {pages * 4} kB\nKernelPageSize:        4 kB\nRss:       {rss} kB\nAnonymous:  {anon} kB\n"
        text += f"AnonHugePages:   {huge} kB\nVmFlags: {flags}\n"
        at += pages * 4096
    return text


def pasted(tmp_path, text: str):
    path = tmp_path / "p"
    path.write_text(text)
    return read_pasted(path)


def test_what_smaps_says_is_what_is_there(tmp_path):
    one = (2048, "rw-p", "[heap]", 6144, 6144, 4096, "rd wr mr mw me ac")
    two = (64, "r--p", "/lib/x", 64, 0, 0, "rd mr mw me")
    s = pasted(tmp_path, smaps(one, two))
    found = summary_of(s)
    assert (found.mappings, found.present, found.anonymous, found.huge) == (2, 1536 + 16, 1536, 1024)
    assert found.exclusive == 1536 and not found.unknown and s.order[s.huge].tolist() == [9] * 1024
    said_ = assumed(s, Machine("7.3"))
    assert said_[0].startswith("pages are made up from the text of smaps") and said_[1].startswith(
        "every anonymous page is taken"
    )
    mm = build(s, Machine("7.3"))
    assert np.count_nonzero(mm.ptes(START, 1536)) == 1536


def test_maps_alone_says_how_much_is_made_up(tmp_path):
    text = HEAD.format(START, START + 64 * 4096, "rw-p", "[heap]") + HEAD.format(START + (1 << 40), START + (3 << 40), "rw-p", "")
    s = pasted(tmp_path, text)
    assert summary_of(s).present == 64, "nothing is made up of 2 TiB"
    assert "none of a larger one" in assumed(s, Machine("7.3"))[0] and s.meta["without_vmflags"] == 2


def test_flags_keep_mappings_apart_and_allow_tags(tmp_path):
    """Of cases from use: `dd` and `wf` were dropped, so that mappings merged, and `mt` was refused by every call."""
    row = (16, "rw-p", "", 64, 64, 0)
    s = pasted(tmp_path, smaps((*row, "rd wr mr mw me ac"), (*row, "rd wr mr mw me ac dd"), (*row, "rd wr mr mw me ac wf"),
                               (*row, "rd wr mr mw me ac mt")))  # fmt: skip
    mm = build(s, Machine("7.3"))
    mm.mprotect(START, 64 * 4096, "ro")
    assert len(mm.vmas()) == 4 and len({vma.flags for vma in mm.vmas()}) == 4
    assert s.vmas["flags"][3] & np.uint64(bits.VM_MTE)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("hello\n", "has no line of a mapping"),
        ("", "has no line of a mapping"),
        (HEAD.format(1 << 57, (1 << 57) + 4096, "rw-p", ""), "no mapping that"),
    ],
)
def test_what_is_no_maps(tmp_path, text, what):
    with pytest.raises(InputError, match=what):
        pasted(tmp_path, text)


def test_the_command_takes_both_and_the_demo_that_ships(capsys, tmp_path):
    path = tmp_path / "smaps"
    path.write_text(smaps((256, "rw-p", "[heap]", 1024, 1024, 0, "rd wr mr mw me ac")))
    out = said(capsys, "compare", "--maps", str(path), "--op", "ro")
    assert "256 pages (1M) in 1 mapping; 256 anonymous" in " ".join(out.split())
    assert "assumed: pages are made up" in said(capsys, "compare", "--maps", str(path), "--op", "ro", "--assumed")
    assert "cannot be read" in refused(capsys, "compare", "--maps", str(tmp_path / "none"))
    demo = said(capsys, "compare", "--file", "demo", "--op", "ro")
    assert demo.splitlines()[1].startswith("demo (1000): ") and "unknown)" in demo
