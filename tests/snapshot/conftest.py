"""A /proc of a few files, made by hand: what the tests of the readers share."""

from __future__ import annotations

import pytest
from crafted import Tree


@pytest.fixture
def tree(tmp_path):
    made = Tree(tmp_path / "proc")
    made.maps = "00400000-00600000 rw-p 00000000 00:00 0 \n"
    return made
