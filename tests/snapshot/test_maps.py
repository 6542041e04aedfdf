"""The text of maps and smaps: lines, names, and every flag of a mapping."""

from __future__ import annotations

import pytest
from crafted import MAPS

from ptebatch import bits
from ptebatch.errors import InputError
from ptebatch.snapshot.maps import Details, parse_maps, parse_smaps
from ptebatch.snapshot.snapshot import SKIPPED

# ---- the text of maps ----


def test_maps_are_read_with_their_special_names():
    maps = parse_maps(MAPS)
    assert [m.name for m in maps] == [
        "/usr/bin/with space (deleted)", "[heap]", "", "[vvar]", "[vvar_vclock]", "[vdso]", "/dev/zero (deleted)",
        "[stack]", "[vsyscall]",
    ]  # fmt: skip
    assert maps[0][:6] == (0x55EAFA3D9000, 0x55EAFA3DB000, "r-xp", 0x2000, (0xFE, 0), 260131)
    assert maps[-1].end == 0xFFFF_FFFF_FF60_1000
    assert parse_maps("") == []


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("garbage\n", "line 1"),
        (MAPS + "7f00-\n", "line 10"),
        (MAPS[: MAPS.index("[heap]") - 40], "line 2"),  # cut in the middle of a line
        (MAPS.replace("rw-s", "rw-x"), "line 7"),
        ("00400000-00400000 rw-p 00000000 00:00 0\n", "line 1"),
        ("00401000-00400000 rw-p 00000000 00:00 0\n", "line 1"),
        ("00400010-00401000 rw-p 00000000 00:00 0\n", "line 1"),
        ("00400000-00402000 rw-p 00000000 00:00 0\n00401000-00403000 rw-p 00000000 00:00 0\n", "line 2"),
        ("00400000-00402000 rw-p 00000000 00:00 0\n\n00403000-00404000 rw-p 00000000 00:00 0\n", "line 2"),
        ("11111111100400000-11111111100402000 rw-p 00000000 00:00 0\n", "line 1"),
    ],
)
def test_a_damaged_maps_line_is_named(text, place):
    with pytest.raises(InputError) as e:
        parse_maps(text, "/proc/1/maps")
    assert e.value.path == "/proc/1/maps" and e.value.place == place


def test_smaps_gives_flags_and_what_is_resident():
    text = (
        "00400000-00600000 rw-p 00000000 00:00 0 \nSize: 2048 kB\nRss:  12 kB\nSwap: 4 kB\nVmFlags: rd wr mr mw me ac hg \n"
        "00700000-00800000 rw-p 00000000 00:00 0 \nRss: x kB\n"
    )
    assert parse_smaps(text) == {
        (0x400000, 0x600000): Details("rd wr mr mw me ac hg", 16, 0),
        (0x700000, 0x800000): Details("", 0, 0),
    }


# ---- VmFlags ----

LETTERS = {
    "rd": bits.VM_READ, "wr": bits.VM_WRITE, "ex": bits.VM_EXEC, "sh": bits.VM_SHARED, "mr": bits.VM_MAYREAD,
    "mw": bits.VM_MAYWRITE, "me": bits.VM_MAYEXEC, "ms": bits.VM_MAYSHARE, "gd": bits.VM_GROWSDOWN, "lo": bits.VM_LOCKED,
    "sr": bits.VM_SEQ_READ, "rr": bits.VM_RAND_READ, "dc": bits.VM_DONTCOPY, "de": bits.VM_DONTEXPAND,
    "lf": bits.VM_LOCKONFAULT, "ac": bits.VM_ACCOUNT, "nr": bits.VM_NORESERVE, "sf": bits.VM_SYNC, "wf": bits.VM_WIPEONFORK,
    "dd": bits.VM_DONTDUMP, "bt": bits.VM_ARM64_BTI, "sd": bits.VM_SOFTDIRTY, "mm": bits.VM_MIXEDMAP, "hg": bits.VM_HUGEPAGE,
    "nh": bits.VM_NOHUGEPAGE, "mg": bits.VM_MERGEABLE, "um": bits.VM_UFFD_MISSING, "uw": bits.VM_UFFD_WP,
    "ui": bits.VM_UFFD_MINOR, "mt": bits.VM_MTE | bits.VM_MTE_ALLOWED, "sl": bits.VM_SEALED, "dp": bits.VM_DROPPABLE,
    "gu": bits.VM_MAYBE_GUARD,
}  # fmt: skip
LEFT_OUT = {"pf": "PFNMAP", "io": "PFNMAP", "ht": "hugetlb", "ss": "shadow stack", "??": "does not know", "zz": "does not know"}


def flagged(tree, *letters):
    """A mapping of 64K for each, side by side."""
    starts = [0x400000 + 0x10000 * i for i in range(len(letters))]
    tree.maps = "".join(f"{at:08x}-{at + 0x10000:08x} rw-p 00000000 00:00 0 \n" for at in starts)
    tree.smaps = "".join(f"{line}\n{more}\n" for line, more in zip(tree.maps.splitlines(), letters, strict=True))
    return tree.read()


@pytest.mark.parametrize("letter", LETTERS)
def test_each_flag_of_smaps_is_carried(tree, letter):
    s = flagged(tree, f"VmFlags: {letter} ", "VmFlags: rd wr mr mw me ac")
    assert int(s.vmas["flags"][0]) == LETTERS[letter] and not s.vmas["skip"].any() and len(set(LETTERS.values())) == len(LETTERS)
    assert s.meta.keys().isdisjoint({"unknown_vmflags", "without_vmflags"})


@pytest.mark.parametrize("letter", LEFT_OUT)
def test_each_flag_that_the_model_lacks_leaves_a_mapping_out(tree, letter):
    s = flagged(tree, f"VmFlags: rd wr mr mw me {letter}", "VmFlags: rd wr mr mw me ac")
    assert LEFT_OUT[letter] in SKIPPED[s.vmas["skip"][0]] and s.vmas["skip"][1] == 0
    assert s.meta.get("unknown_vmflags") == (letter if letter in ("??", "zz") else None)


def test_protection_keys_are_flags(tree):
    s = flagged(tree, "ProtectionKey: 5\nVmFlags: rd wr mr mw me", "ProtectionKey: 0\nVmFlags: rd wr mr mw me")
    assert [int(flags) >> bits.VM_PKEY_SHIFT & 7 for flags in s.vmas["flags"]] == [5, 0]


def test_mappings_without_vmflags_are_counted(tree):
    s = flagged(tree, "VmFlags: rd wr mr mw me", "VmFlags: ", "Rss: 0 kB")
    assert s.vmas["flags"].tolist() == [0x73] * 3 and s.meta["without_vmflags"] == 2
