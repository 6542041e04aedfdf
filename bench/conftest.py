"""A line for each case of test_walk.py, in nanoseconds per PTE."""

from __future__ import annotations

from typing import Any

import pytest


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    session = getattr(config, "_benchmarksession", None)
    cases = [b for b in session.benchmarks if "ptes" in b.extra_info] if session else []
    if not cases:
        return
    terminalreporter.section("ns per PTE: median and smallest of RO and back")
    for case in cases:
        info = case.extra_info
        name = f"{info['layout']:12} {info['exclusive']:12} {info['strategy']:16}"
        median, smallest = (seconds / info["ptes"] * 1e9 for seconds in (case.stats.median, case.stats.min))
        info["ns_per_pte"] = median
        terminalreporter.write_line(f"{name} {median:8.2f} {smallest:8.2f}")
