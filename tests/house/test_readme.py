"""Every code block of the README does what it says.

``python`` blocks are doctests that go on from one another; ``cython`` blocks are
compiled as the module they name; of ``sh`` blocks, lines with a prompt are run and
what stands below must be what they print, ``...`` for anything. Lines without a prompt set up a new
environment from the registry: continuous integration runs those.
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ptebatch.strategies import STRATEGIES

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S)


def blocks(kind: str) -> list[str]:
    return [text for name, text in BLOCKS if name == kind]


def prompts(text: str) -> list[tuple[str, str]]:
    """Commands of a block with what they print."""
    parts = re.split(r"^\$ (.*)\n", text, flags=re.M)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def shell(command: str, folder: Path, headers: str = "") -> str:
    """Run a line with this Python's `ptebatch`, `python` and `cythonize`."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    for name, call in {"ptebatch": "-m ptebatch", "python": "", "cythonize": "-m Cython.Build.Cythonize"}.items():
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {call} "$@"\n')
        (tools / name).chmod(0o755)
    path = os.pathsep.join(filter(None, [headers, os.environ.get("PYTHONPATH")]))
    env = {
        **os.environ,
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": path,
        "NO_COLOR": "1",
        "COLUMNS": "80",
    }
    done = subprocess.run(["sh", "-c", command], cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def test_every_block_is_of_a_kind_that_is_run():
    assert {name for name, _ in BLOCKS} <= {"sh", "python", "cython"}
    assert README.count("```") == 2 * len(BLOCKS)


def test_the_session_is_what_python_answers():
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    test = doctest.DocTestParser().get_doctest("\n".join(blocks("python")), {}, "README.md", "README.md", 0)
    assert len(test.examples) > 10
    said: list[str] = []
    assert not runner.run(test, out=said.append).failed, "".join(said)


def test_a_wrong_answer_would_be_seen():
    test = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "bad", None, 0)
    assert doctest.DocTestRunner().run(test, out=lambda text: None).failed == 1


PLAIN = [pair for text in blocks("sh") for pair in prompts(text) if "mine" not in pair[0]]


@pytest.mark.parametrize(("command", "printed"), PLAIN, ids=[" ".join(command.split()[:2]) for command, _ in PLAIN])
def test_a_command_prints_what_stands_below_it(command, printed, tmp_path):
    assert alike(shell(command, tmp_path), printed)


def alike(said: str, printed: str) -> bool:
    """Is it what stands below the command, a line of ``...`` standing for any lines?"""
    parts = [re.escape(part) for part in re.split(r"^\.\.\.\n", printed.rstrip() + "\n", flags=re.M)]
    return re.fullmatch("(?:.*\n)*".join(parts), said.rstrip() + "\n") is not None


def test_a_wrong_print_would_be_seen():
    assert alike("a\nb\nc\n", "a\n...\nc\n") and alike("a\nb\n", "...\nb\n") and alike("a\n", "a\n...\n")
    assert not alike("a\nb\nc\n", "a\n...\nd\n") and not alike("a\nb\n", "a\n") and not alike("a\nbc\n", "...\nc\n")


def test_the_compiled_strategy_is_built_and_registered(package, tmp_path):
    (source,) = blocks("cython")
    (tmp_path / "mine.pyx").write_text(source)
    (commands,) = [prompts(text) for text in blocks("sh") if "mine.pyx" in text]
    assert len(commands) == 2
    for command, printed in commands:
        said = shell(command, tmp_path, headers=f"{package.parent}{os.pathsep}{tmp_path}")
        assert alike(said, printed)


def test_the_python_and_the_cython_strategy_are_one(package, tmp_path):
    """The look-ahead of the README is the registered one, event for event."""
    (source,) = blocks("cython")
    (tmp_path / "mine.pyx").write_text(source)
    program = (
        "import mine, ptebatch, sys\n"
        "mm = ptebatch.MM('7.3'); mm.mmap(1 << 21, 1 << 21, 3)\n"
        "mm.map_folios(1 << 21, 512, 9, exclusive=[i % 5 < 2 for i in range(512)])\n"
        "mm.mprotect(1 << 21, 1 << 21, 1); row = ptebatch.register('mine', mine.STEP)\n"
        "a, b = (mm.copy().mprotect(1 << 21, 1 << 21, 3, strategy=s) for s in (row, 'lookahead'))\n"
        "assert a.counters == b.counters and a.batches == b.batches and a['n_subs'] > 200\n"
    )
    (tmp_path / "check.py").write_text(program)
    headers = f"{package.parent}{os.pathsep}{tmp_path}"
    shell("cythonize -i -q mine.pyx && python check.py", tmp_path, headers=headers)


def test_the_table_of_strategies_is_the_registry():
    rows = re.findall(r"^\| `([\w-]+)`( \(flawed\))? \| (.*?) \| (.*?) \|$", README, re.M)
    said = [(name, bool(flawed), summary, since) for name, flawed, summary, since in rows]
    assert said == [(row.name, row.flawed, row.summary, row.since) for row in STRATEGIES.values() if row.since != "user"]


def test_the_set_up_lines_stand_alone():
    """Continuous integration reads these lines from here; each sets up its own environment."""
    lines = [line for text in blocks("sh") for line in text.splitlines() if line.startswith("python3 -m venv")]
    assert len(lines) == 2
    assert lines[0].endswith("ptebatch compare") and lines[1].endswith("pytest")
