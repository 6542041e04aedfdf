"""Records of running kernels: where they are, and one file of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ptebatch.verify.load import read_json

HARDWARE = Path(__file__).parent / "data" / "hardware"


def load(name: str) -> Any:
    """Return the document of a file."""
    return read_json(str(HARDWARE / name)).value
