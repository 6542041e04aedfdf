"""docs/living.md: its commands print what it shows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ptebatch.cli import main

TREE = Path(__file__).parents[2]
BLOCKS = re.findall(r"```console\n\$ ptebatch (.*?)\n(.*?)```", (TREE / "docs" / "living.md").read_text(), re.S)


def test_the_blocks_are_found():
    assert len(BLOCKS) == 5


@pytest.mark.parametrize(("command", "shown"), BLOCKS, ids=[command[:30] for command, _ in BLOCKS])
def test_a_command_prints_what_the_page_shows(command, shown, capsys, monkeypatch):
    monkeypatch.chdir(TREE)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(shlex.split(command)) == 0
    assert capsys.readouterr().out == shown


def test_the_python_of_the_page_runs_and_prints_what_it_says(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (TREE / "docs" / "living.md").read_text(), re.S)
    exec(compile(code, "living.md", "exec"), {})
    assert capsys.readouterr().out.strip() == re.search(r"print\(.*\)  # (.*)", code)[1]
