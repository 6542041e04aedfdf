"""Run the command in this process: what it says, and how it says that something is wrong (docs/messages.md)."""

from __future__ import annotations

import json
import signal
from typing import Any

from ptebatch.cli import main


def hear_interrupts() -> None:
    """For `preexec_fn`: a shell lets what it starts in the background ignore Ctrl-C, and what that starts, too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def joined(err: str) -> str:
    """The message of an error on stderr, which must have the form: a sentence, an empty line, a hint."""
    lines = err.splitlines()
    assert err.endswith("\n") and len(lines) == 3, err
    assert lines[0].startswith("ptebatch: ") and lines[1] == "" and lines[2].startswith("hint: "), err
    return f"{lines[0].removeprefix('ptebatch: ')}; {lines[2].removeprefix('hint: ')}"


def said(capsys: Any, *argv: str, status: int = 0) -> str:
    """What the command prints; nothing may stand on stderr."""
    assert main(argv) == status
    out, err = capsys.readouterr()
    assert err == ""
    return out


def document(capsys: Any, *argv: str, status: int = 0) -> Any:
    """The JSON document that it prints."""
    return json.loads(said(capsys, *argv, "--json", status=status))


def refused(capsys: Any, *argv: str) -> str:
    """The message of a command that is refused, which prints nothing on stdout."""
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    return joined(err)
