"""The story is true: its files are written, its commands run in order, and they print what stands below them.

Times and rates are left out of the comparison. ``python -m tests.test_story`` writes what the commands print into the page.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().with_name("story.md")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def shell(command: str, folder: Path) -> str:
    """Run a line with this Python's `ptebatch` and `python`."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    for name, call in {"ptebatch": "-m ptebatch", "python": ""}.items():
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {call} "$@"\n')
        (tools / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "NO_COLOR": "1", "COLUMNS": "80"}
    done = subprocess.run(["sh", "-c", command], cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0 and not done.stderr, f"{command}: {done.stderr}"
    return done.stdout


def plain(text: str) -> str:
    """Without times and rates, and without the columns that they widen."""
    lines = []
    for line in text.rstrip().splitlines():
        cells = line.split()
        if re.fullmatch(r"(\d+|all)( +[\d,]+){2} +[\d.]+ +[\d.]+", line.strip()) or cells[-1:] == ["million/min"]:
            line = " ".join(cells[:-2])
        lines.append(re.sub(r"\b\d+\.\d s\b", "S", line))
    return "\n".join(lines)


def prompts(text: str) -> list[tuple[str, str]]:
    """Commands of a block with what stands below them."""
    parts = re.split(r"^\$ (.*)\n", text, flags=re.M)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def played(folder: Path, text: str) -> list[tuple[str, str, str]]:
    """Every command of the page in order: itself, what it prints, what is said of it."""
    done = []
    for kind, body in BLOCK.findall(text):
        if kind == "python":
            (folder / re.match(r"# (\w+\.py)\n", body)[1]).write_text(body)
        else:
            done += [(command, shell(command, folder), said) for command, said in prompts(body)]
    return done


def test_every_block_is_of_a_kind_that_is_run():
    text = PAGE.read_text()
    assert {kind for kind, _ in BLOCK.findall(text)} == {"sh", "python"}
    assert text.count("```") == 2 * len(BLOCK.findall(text))
    assert all(re.match(r"# \w+\.py\n", body) for kind, body in BLOCK.findall(text) if kind == "python")


def test_the_loop_of_the_story_is_ten_lines():
    (loop,) = [body for kind, body in BLOCK.findall(PAGE.read_text()) if body.startswith("# page0.py")]
    assert len(loop.splitlines()) - 2 == 10


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    return played(tmp_path_factory.mktemp("story"), PAGE.read_text())


def test_the_commands_print_what_stands_below_them(story):
    assert len(story) == 6
    for command, printed, said in story:
        assert plain(printed) == plain(said), command


def test_the_bug_is_found_in_seconds_and_the_correction_passes(story):
    found, again, *passes = (printed for _, printed, _ in story[:4])
    assert "page0.py:step breaks law EXCLUSIVE" in found and "page 0x401 is not PageAnonExclusive" in found
    assert found.rstrip().endswith("exit status 1")
    seconds = float(re.search(r"([\d.]+) s, [\d,]+ runs", found)[1])
    assert seconds < 30
    assert again.splitlines()[-1] == "folio keeps every law" and again.count("EXCLUSIVE") == 3
    assert all(text.rstrip().endswith("exit status 0") for text in passes)


def test_a_wrong_page_would_be_seen():
    assert plain("a  1,000  2,000  1.5  9.9") != plain("a  1,001  2,000  1.5  9.9")
    assert plain("  1  1,000  2,000  1.5  9.9") == plain("  1  1,000  2,000  12.5  0.1") != plain("  1  1,000  2,001  1.5  9.9")
    assert plain("12.0 s, 5 runs") == plain("1.4 s, 5 runs") != plain("1.4 s, 6 runs")


def write() -> None:
    """Put what the commands print into the page."""
    text = PAGE.read_text()
    with tempfile.TemporaryDirectory() as folder:
        done = iter(played(Path(folder), text))

    def block(found: re.Match[str]) -> str:
        if found[1] != "sh":
            return found[0]
        rows = [f"$ {command}\n{printed.rstrip()}\n" for command, printed, _ in (next(done) for _ in prompts(found[2]))]
        return f"```sh\n{''.join(rows)}```"

    PAGE.write_text(BLOCK.sub(block, text))


if __name__ == "__main__":
    write()
