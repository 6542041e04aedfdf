"""Fixtures of the tests that run calls on the running kernel."""

from __future__ import annotations

import sys

import pytest

from ptebatch.machine import Machine
from ptebatch.verify.host import host_machine

PAGE = 4096


@pytest.fixture(scope="module")
def host() -> Machine:
    """The machine of this host, if its kernel is one that is modelled."""
    if not sys.platform.startswith("linux"):
        pytest.skip("not Linux")
    machine, notes = host_machine()
    if any("is not modelled" in note for note in notes) or machine.page_size != PAGE:
        pytest.skip(f"the running kernel is not modelled: {notes}")
    return machine
