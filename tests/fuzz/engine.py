"""How bytes are made, and what becomes of a finding.

With atheris, libFuzzer runs one target in this process until its time is over. Without it
Hypothesis draws edits of valid inputs, in batches until the time is over, and makes a
finding small.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from .corpus import corpus
from .targets import Target

#: examples between looks at the clock, and seconds that one input may take
BATCH, PATIENCE = 200, 20
TOKENS = tuple(
    token.encode()
    for token in (
        "",
        "0",
        "-1",
        "1",
        "255",
        "65535",
        "4294967296",
        "18446744073709551615",
        "18446744073709551616",
        "1e999",
        "-0.5",
        "null",
        "true",
        "[]",
        "{}",
        '""',
        '"',
        "\\",
        "\x00",
        "\n",
        "\r",
        " ",
        "\t",
        ",",
        ":",
        "=",
        "/",
        "..",
        "x9",
        "0x",
        "0xffffffffffffffff",
        "٣",
        "²",
        "\ud7ff",
        "é",
        "nan",
        "inf",
        "[" * 300,
        "9" * 5000,
        "%s",
        "--",
        "RO",
        "RW,c",
        "pfn=0x400",
        "e",
        "4K",
        "2M",
    )
)


class Finding(AssertionError):
    """An input on which a target does what it must not."""

    def __init__(self, name: str, data: bytes, error: BaseException) -> None:
        self.name, self.data, self.error = name, data, error
        super().__init__(f"{name}: {type(error).__name__}: {str(error)[:400]}\n  input {data[:300]!r}{'...' * (len(data) > 300)}")


@contextmanager
def patience() -> Iterator[None]:
    """Interrupt an input that takes too long."""

    def late(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"took more than {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def feed(name: str, target: Target, data: bytes) -> None:
    """One input; whatever escapes is a finding."""
    try:
        with patience():
            target(data)
    except Exception as error:
        raise Finding(name, data, error) from error


@st.composite
def edited(draw: st.DrawFn, valid: list[bytes]) -> bytes:
    """A valid input with a few places replaced, removed, doubled or taken from another."""
    data = draw(st.sampled_from(valid))
    for _ in range(draw(st.integers(0, 4))):
        first = draw(st.integers(0, len(data)))
        last = min(len(data), first + draw(st.sampled_from([0, 0, 1, 1, 2, 4, 8, 64])))
        kind = draw(st.sampled_from(["token", "token", "byte", "random", "cut", "twice", "other"]))
        if kind == "token":
            new = draw(st.sampled_from(TOKENS))
        elif kind == "byte":
            new = bytes([draw(st.integers(0, 255))])
        elif kind == "random":
            new = draw(st.binary(max_size=16))
        elif kind == "cut":
            new, last = b"", draw(st.sampled_from([last, len(data)]))
        elif kind == "twice":
            new = data[first : first + 16] * 2
        else:
            other = draw(st.sampled_from(valid))
            at = draw(st.integers(0, len(other)))
            new = other[at : at + 32]
        data = data[:first] + new + data[last:]
    return data


def by_hypothesis(name: str, target: Target, seconds: float, seed: int, batches: int | None = None) -> int:
    """Feed a target for some time, or for so many batches if they take less; returns how many inputs it had."""
    valid, fed = corpus(name), 0
    for data in valid:
        feed(name, target, data)
    end = time.monotonic() + seconds
    how = settings(
        max_examples=BATCH,
        database=None,
        deadline=None,
        derandomize=False,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )

    batch = 0
    while time.monotonic() < end and batch != batches:

        @seeded(seed * 1_000_003 + batch)
        @how
        @given(edited(valid) | st.binary(max_size=200))
        def each(data: bytes) -> None:
            nonlocal fed
            fed += 1
            if time.monotonic() < end + 30:  # a finding is made small for so long
                feed(name, target, data)

        each()
        batch += 1
    return fed


def by_atheris(name: str, target: Target, seconds: float, seed: int) -> None:
    """Feed a target under libFuzzer, which ends the process; ptebatch was imported instrumented."""
    import atheris

    folder = tempfile.mkdtemp(prefix="ptebatch-corpus-")
    for i, data in enumerate(corpus(name)):
        Path(folder, f"valid-{i}").write_bytes(data)
    options = [f"-max_total_time={max(1, round(seconds))}", f"-seed={seed + 1}", f"-timeout={PATIENCE}", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={os.getcwd()}/fuzz-{name}-", folder], target)
    atheris.Fuzz()
