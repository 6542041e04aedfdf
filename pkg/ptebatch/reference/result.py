"""What a call of the reference did."""

from __future__ import annotations

from dataclasses import dataclass, field


def runs(values: list[int]) -> list[list[int]]:
    """Run-length list ``[count, value]`` of a list."""
    out: list[list[int]] = []
    for value in values:
        if out and out[-1][1] == value:
            out[-1][0] += 1
        else:
            out.append([1, value])
    return out


@dataclass(slots=True)
class RefResult:
    """Result of one call; the attributes are those of ``ptebatch.Result``.

    Attributes
    ----------
    pages : int
        Return value of change_protection(): entries dealt with.
    counters : dict of str to int
        In the order of ``ptebatch.counters.COUNTERS``.
    batches, subs : list of [int, int]
        Batches and commits in order, as runs ``[count, nr_ptes]``.
    flushes : list of (int, int)
        TLBIs of contpte conversions: address, pages.
    gathers : list of (int, int)
        Final flushes, one a VMA with something to flush: start, end.
    """

    pages: int = 0
    counters: dict[str, int] = field(default_factory=dict)
    batches: list[list[int]] = field(default_factory=list)
    subs: list[list[int]] = field(default_factory=list)
    flushes: list[tuple[int, int]] = field(default_factory=list)
    gathers: list[tuple[int, int]] = field(default_factory=list)
