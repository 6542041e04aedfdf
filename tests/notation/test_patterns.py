"""Patterns of PageAnonExclusive: what each text and form lays down."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from ptebatch.errors import LayoutError
from ptebatch.notation.patterns import exclusive_pattern


def runs(values: np.ndarray) -> list[tuple[int, bool]]:
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), values.size]
    return [(b - a, bool(values[a])) for a, b in pairwise(edges)]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("all", [(512, True)]),
        ("none", [(512, False)]),
        ("1/511", [(1, False), (511, True)]),
        ("511e/1s", [(511, True), (1, False)]),
        ("511/1", [(511, False), (1, True)]),
        ("16/16/480", [(16, True), (16, False), (480, True)]),
        ("16s/16e/480s", [(16, False), (16, True), (480, False)]),
        ("256/256", [(256, False), (256, True)]),
        ("512", [(512, True)]),
        ([(3, True), (509, False)], [(3, True), (509, False)]),
    ],
)
def test_a_pattern_lays_its_runs_over_one_table(spec, expected):
    assert runs(exclusive_pattern(spec, 512)) == expected


def test_alternating_begins_with_a_shared_page():
    assert exclusive_pattern("alternating", 5).tolist() == [False, True, False, True, False]


def test_runs_repeat_and_the_last_one_is_cut():
    assert runs(exclusive_pattern("1/511", 1000)) == [(1, False), (511, True), (1, False), (487, True)]


def test_a_run_longer_than_the_range_takes_no_memory():
    assert exclusive_pattern(f"{10**17}/1", 4).tolist() == [False] * 4


def test_random_is_a_function_of_its_seed_and_near_its_probability():
    first = exclusive_pattern("random:0.25:7", 100_000)
    assert np.array_equal(first, exclusive_pattern("random:0.25:7", 100_000))
    assert not np.array_equal(first, exclusive_pattern("random:0.25:8", 100_000))
    assert np.array_equal(exclusive_pattern("random:0.25", 64), exclusive_pattern("random:0.25:0", 64))
    assert 0.24 < first.mean() < 0.26
    assert exclusive_pattern("random:1", 64).all() and not exclusive_pattern("random:0", 64).any()


def test_an_array_is_copied_and_a_callable_is_asked_once_with_indices():
    given = np.array([True, False, True])
    taken = exclusive_pattern(given, 3)
    taken[0] = False
    assert given[0]
    assert exclusive_pattern(lambda i: i % 3 == 0, 6).tolist() == [True, False, False] * 2


@pytest.mark.parametrize("spec", ["all", "alternating", "1/511", "random:0.5", [(1, True)], lambda i: i > 0])
def test_no_pages_is_an_empty_pattern(spec):
    empty = exclusive_pattern(spec, 0)
    assert empty.shape == (0,) and empty.dtype == np.bool_


@pytest.mark.parametrize(
    "spec",
    ["", "al", "1//2", "0/511", "-1/2", "1/x", "1e/511", "random", "random:", "random:2", "random:nan", "random:0.5:-1",
     "random:0.5:1:2", "randomly:0.5", [], [(0, True)], [(1, 2)], [(True, True)], [(1.0, True)], [1, 2], 5, None,
     np.zeros(4, np.uint8), np.zeros(3, np.bool_), lambda i: i, lambda i: True, {1: 2}],
)  # fmt: skip
def test_what_is_no_pattern_is_refused(spec):
    with pytest.raises(LayoutError):
        exclusive_pattern(spec, 4)


@pytest.mark.parametrize("nr", [-1, 1.0, True, "4"])
def test_a_number_of_pages_that_is_none_is_refused(nr):
    with pytest.raises(LayoutError, match="pages"):
        exclusive_pattern("all", nr)


def test_the_error_names_the_likeliest_pattern():
    with pytest.raises(LayoutError, match="did you mean 'alternating'"):
        exclusive_pattern("alternatng", 4)
