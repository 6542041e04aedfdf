"""Many VMAs that come and go in any order."""

from itertools import groupby

import numpy as np
import pytest

from ptebatch import MM

PAGE = 4096
BASE = 1 << 30


def shape(mm: MM) -> list[tuple[int, int, int]]:
    return [((v.start - BASE) // PAGE, (v.end - BASE) // PAGE, v.flags & 7) for v in mm.vmas()]


def expected(prot: list[int]) -> list[tuple[int, int, int]]:
    """Runs of equal pages; 8 where nothing is mapped."""
    out, at = [], 0
    for value, run in groupby(prot):
        nr = len(list(run))
        if value != 8:
            out.append((at, at + nr, value))
        at += nr
    return out


@pytest.mark.parametrize("seed", range(8))
def test_pages_change_in_any_order(seed: int) -> None:
    """Ranges of a mapping are made read-only, writable and nothing, here and there; what is alike is one VMA."""
    rng = np.random.default_rng(seed)
    nr = 400
    mm, prot = MM("7.3"), [3] * nr
    mm.mmap(BASE, nr * PAGE, 3)
    for k in range(600):
        at = int(rng.integers(nr))
        length = min(nr - at, int(rng.integers(1, 40 if k % 7 == 0 else 4)))
        value = int(rng.choice([0, 1, 3]))
        mm.mprotect(BASE + at * PAGE, length * PAGE, value)
        prot[at : at + length] = [value] * length
        if k % 20 == 0:
            assert shape(mm) == shape(mm.copy()) == expected(prot)
            if k % 3 == 0:
                mm = mm.copy()
    assert shape(mm) == expected(prot)


@pytest.mark.parametrize("order", ["ascending", "descending", "any"])
def test_mappings_come_in_any_order(order: str) -> None:
    rng = np.random.default_rng(3)
    nr = 300
    at = {"ascending": np.arange(nr), "descending": np.arange(nr)[::-1], "any": rng.permutation(nr)}[order]
    mm = MM("7.3")
    for k, i in enumerate(at.tolist()):
        # each a file of its own, so that no two are alike; every other page only
        mm.mmap(BASE + 2 * i * PAGE, PAGE, 1, shared=True, file=i + 1)
        if k % 3 == 0:
            mm.mprotect(BASE + 2 * i * PAGE, PAGE, 3)
    starts = [v.start for v in mm.vmas()]
    assert starts == [BASE + 2 * i * PAGE for i in range(nr)]
    assert {v.file: v.flags & 3 for v in mm.vmas()} == {i + 1: 3 if k % 3 == 0 else 1 for k, i in enumerate(at.tolist())}


def test_one_call_merges_all() -> None:
    nr = 20_000
    mm = MM("7.3")
    mm.mmap(BASE, nr * PAGE, 3)
    for i in range(0, nr, 2):
        mm.mprotect(BASE + i * PAGE, PAGE, 1)
    assert len(mm.vmas()) == nr
    result = mm.mprotect(BASE, nr * PAGE, 0)
    assert len(mm.vmas()) == 1 and result["vma_merges"] == nr - 1
