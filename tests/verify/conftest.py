"""What the tests of records share."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def write(tmp_path):
    """Puts a document, or bytes, into a file and gives its path."""

    def to_file(data, name="facts.json"):
        path = tmp_path / name
        path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
        return path

    return to_file
