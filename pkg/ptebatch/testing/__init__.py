"""Test your own batching loop, or your own page-table code, with Hypothesis.

One call searches small worlds with the checker and fails with the smallest page
table that breaks a law::

    from . import assert_strategy

    def test_my_step():
        assert_strategy(my_step)

A state machine runs random operations on a whole address space (mmap, faults, fork,
mprotect, NUMA balancing, userfaultfd, hardware updates), core and reference in
lock-step, and judges every step by the laws::

    from . import machine_of

    TestMyStep = machine_of(my_step).TestCase

Page-table code of your own is driven through `PageTables`, four methods::

    TestMyTables = machine_of(page_tables=MyTables, exact=False).TestCase

Strategies for ``@given``: `machines`, `protections`, `exclusivity`, `folios`,
`layouts`, `changes`, `small_worlds`. Needs Hypothesis, which ptebatch itself does not.

``worlds`` strategies · ``lockstep`` core and reference as one · ``judging`` laws of
calls and address spaces · ``adapter`` code of your own · ``ground``, ``calls``, ``stateful``
the state machine · ``asserting`` one call.
"""

from __future__ import annotations

try:
    import hypothesis as _hypothesis  # noqa: F401
except ImportError as error:
    raise ImportError("ptebatch.testing needs Hypothesis, which is not installed; run: pip install hypothesis") from error

from .adapter import CoreTables, PageTables
from .asserting import assert_strategy
from .stateful import MprotectMachine, machine_of
from .worlds import changes, exclusivity, folios, layouts, machines, protections, small_worlds

__all__ = [
    "CoreTables",
    "MprotectMachine",
    "PageTables",
    "assert_strategy",
    "changes",
    "exclusivity",
    "folios",
    "layouts",
    "machine_of",
    "machines",
    "protections",
    "small_worlds",
]
