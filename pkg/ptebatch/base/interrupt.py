"""Ctrl-C while the command is still importing what it needs ends it as a signal does, without a traceback.

Importing this, the package's first module, is what does it, and only in the process of
the command: a library has no business with signals. `listen` is what the command calls
once it can answer an interrupt itself.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

__all__ = ["is_command", "listen"]


def is_command(argv: list[str]) -> bool:
    """Whether this process was started as ``ptebatch`` or ``python -m ptebatch``; `argv`: ``sys.orig_argv``."""
    for at, word in enumerate(argv[1:], 1):
        if word == "-m":
            return argv[at + 1 : at + 2] == ["ptebatch"]
        if not word.startswith("-"):
            return os.path.basename(word) == "ptebatch"
    return False


def listen() -> None:
    """Let an interrupt raise KeyboardInterrupt again."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if is_command(sys.orig_argv) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
