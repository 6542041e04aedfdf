"""The manners of the command: one line for an error, a quiet end of a pipe, help that runs."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest
from messages import hear_interrupts, joined, refused, said

from ptebatch import __version__, verify
from ptebatch.cli import main


def command(*argv, env=None, **how):
    return subprocess.run(
        [sys.executable, "-m", "ptebatch", *argv], env={**os.environ, **(env or {})}, timeout=120, check=False, **how
    )


def test_the_module_is_the_command(capsys):
    argv = ("compare", "--layout", "alternating", "--op", "rw", "--strategy", "lookahead,folio")
    done = command(*argv, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, said(capsys, *argv), "")
    done = command("compare", "--layout", "T9", capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "") and joined(done.stderr).startswith("layout 'T9'")


@pytest.mark.parametrize("argv", [["list", "counters"], ["compare", "--json"], ["--help"]])
def test_a_closed_pipe_is_quiet(argv):
    read, write = os.pipe()
    os.close(read)
    try:
        done = command(*argv, stdout=write, stderr=subprocess.PIPE)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_an_error():
    with open("/dev/full", "w") as full:
        done = command("list", "counters", stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert joined(done.stderr) == "No space left on device; check the path and its permissions"


def on_terminal(*argv, env, stream):
    """What the command writes to a terminal as stdout or stderr."""
    ours, theirs = pty.openpty()
    other = "stderr" if stream == "stdout" else "stdout"
    child = subprocess.Popen([sys.executable, "-m", "ptebatch", *argv], env={**os.environ, "TERM": "xterm", **env},
                             **{stream: theirs, other: subprocess.DEVNULL})  # fmt: skip
    os.close(theirs)
    text = b""
    try:
        while piece := os.read(ours, 4096):
            text += piece
    except OSError:  # how Linux says that the other side has closed
        pass
    finally:
        os.close(ours)
    assert child.wait(120) == 0
    return text.decode()


def test_no_color_is_honoured_on_a_terminal():
    argv = ("list", "strategies")
    assert "\x1b[" in on_terminal(*argv, env={"NO_COLOR": ""}, stream="stdout")
    assert "\x1b" not in on_terminal(*argv, env={"NO_COLOR": "1"}, stream="stdout")


def test_progress_is_for_terminals_only(capsys):
    argv = ("compare", "--layout", "T3:4K,T2:64K", "--op", "ro", "--strategy", "folio")
    seen = on_terminal(*argv, env={}, stream="stderr")
    assert "T3:4K: folio" in seen and "T2:64K: folio" in seen and seen.endswith("\r\x1b[K")
    said(capsys, *argv)


@pytest.mark.parametrize("argv", [["--help"], *([verb, "--help"] for verb in ("compare", "show", "list", "verify"))])
def test_help_has_examples_that_are_commands(capsys, argv):
    out = said(capsys, *argv)
    assert "examples:\n  ptebatch " in out
    for line in re.findall(r"^  ptebatch ((?:compare|list|show) .*)$", out, re.MULTILINE):
        if "--pid" not in line:
            assert main([*line.split(), "--json"] if "--json" not in line else line.split()) == ("--all" in line), line
            json.loads(capsys.readouterr().out)


def test_the_version_is_the_packages(capsys):
    assert said(capsys, "--version") == f"ptebatch {__version__}\n"


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        ("", "VERB"),
        ("compar", "compar"),
        ("--layout T1", "VERB"),
        ("compare T1", "'T1' is no option; a layout is given by --layout T1"),
        ("compare --layouts T1", "--layouts"),
        ("compare --lay T1", "--lay"),
        ("compare --layout", "expected one argument"),
        ("compare --layout T9", "'T9' is unknown"),
        ("compare --layout T1,", "'' is unknown"),
        ("compare --layout T1:64X", "'64X'"),
        ("compare --layout T1:unfold", "did you mean 'unfolded'"),
        ("compare --layout T1:1K", "not a multiple of the page size"),
        ("compare --layout T1:1T", "above 256G"),
        ("compare --layout 1/0", "a run of 0 pages"),
        ("compare --layout T1:pae=x", "'x'"),
        ("compare --size 0", "size '0'"),
        ("compare --size 12Q", "size '12Q'"),
        ("compare --size -4K", "expected one argument"),
        ("compare --op writes", "'writes' is unknown"),
        ("compare --op ro,", "operation '' is unknown"),
        ("compare --from x", "protection 'x' is unknown"),
        ("compare --pae often", "'often'"),
        ("compare --pae random:7", "random:P"),
        ("compare --strategy foli", "did you mean 'folio'"),
        ("compare --strategy folio,,merged", "strategy '' is unknown"),
        ("compare --strategy folio --all", "do not go together"),
        ("compare --machine 8.1", "'8.1' is not modelled"),
        ("compare --machine 6.14", "like 6.12 and 6.16 it changes one PTE at a time"),
        ("compare --kernels 6.12,6.17-rc1", "it is a release candidate"),
        ("compare --kernels 6.12,6.18 --machine 7.3", "names a kernel beside the kernels to compare"),
        ("compare --kernels all --all", "gives every kernel one loop"),
        ("compare --kernels all --strategy folio,merged", "gives every kernel one loop"),
        ("compare --kernels 6.12,", "kernel '' is not modelled"),
        ("compare --machine 7.3,bbm=3", "did you mean 'bbml'"),
        ("compare --machine 7.3,bbml", "no value"),
        ("compare --machine 7.3,bbml=9", "from 0 to 3"),
        ("compare --machine 7.3,bbml=x", "not a whole number"),
        ("compare --machine 7.3,kpti=maybe", "not a switch value"),
        ("compare --machine 7.3,granule=8K", "'8K'"),
        ("compare --machine 7.3,cont_ptes=3", "power of two"),
        ("compare --machine 7.3,granule=64K,lpa2=on", "lpa2"),
        ("compare --machine 7.3,mdwe=on --op rx --layout T3:4K", "MDWE"),
        ("compare --layout T1:64G --machine 7.3,va_bits=36", "address space"),
        ("compare --pid me", "'me' is not a process"),
        ("compare --pid 0", "'0' is not a process"),
        ("compare --pid 99999999999", "is not a process"),
        ("compare --pid 2147483646", "2147483646"),
        ("compare --pid demo --layout T1", "not allowed with"),
        ("compare --pid demo --size 4M", "--size is for layouts"),
        ("compare --pid demo --from ro", "--from is for layouts"),
        ("compare --pid demo --pae all --exclusive none", "give one of them"),
        ("compare --exclusive all", "--exclusive is for a process"),
        ("compare --save x.npz", "--save x.npz has no process"),
        ("compare --force", "--force has nothing"),
        ("compare --file no-such.npz", "no-such.npz: cannot be read"),
        ("compare --file .", "cannot be read"),
        ("compare --json=yes", "--json"),
        ("show --layout T9", "'T9' is unknown"),
        ("show --fields colour", "colour"),
        ("show --strategy best", "'best' is unknown"),
        ("show --whole", "--whole"),
        ("list", "WHAT"),
        ("list kernels", "kernels"),
        ("list strategies layouts", "layouts"),
        ("verify", "nothing to verify"),
        ("verify --vectors", "expected at least one argument"),
        ("verify --vectors no-such.json", "no-such.json"),
        ("verify --dumps no-such.json.gz", "no-such.json.gz"),
        ("verify --traces .", ".: "),
        ("verify --loops no-such.json", "no-such.json"),
        ("verify --nothing", "--nothing"),
    ],
)
def test_a_wrong_command_is_a_sentence_a_hint_and_status_2(capsys, argv, what):
    message = refused(capsys, *argv.split())
    assert what.lower() in message.lower(), message


@pytest.mark.parametrize("error", [MemoryError(), MemoryError("the trace did not fit")])
def test_memory_that_runs_out_is_an_error(capsys, monkeypatch, error):
    def fail(paths):
        raise error

    monkeypatch.setattr(verify, "verify_vectors", fail)
    assert refused(capsys, "verify", "--vectors", "x").startswith("out of memory")


def test_an_interrupt_is_quiet(capsys, monkeypatch):
    def fail(paths):
        raise KeyboardInterrupt

    monkeypatch.setattr(verify, "verify_vectors", fail)
    assert main(["verify", "--vectors", "x"]) == 130
    assert capsys.readouterr() == ("", "")


# ---- interrupts and closed streams ----


@pytest.mark.parametrize("delay", [0.08, 0.15, 0.3, 0.6])
def test_an_interrupt_while_it_imports_leaves_no_traceback(delay):
    """It left one of whatever module was being imported."""
    call = [sys.executable, "-m", "ptebatch", "compare", "--layout", "T3:256M"]
    with subprocess.Popen(
        call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=hear_interrupts
    ) as command:
        time.sleep(delay)
        command.send_signal(signal.SIGINT)
        _, err = command.communicate(timeout=60)
    # before the package's first line the interpreter is by itself
    assert command.returncode in (-signal.SIGINT, 130, 0, 1) and ("ptebatch" not in err or "Traceback" not in err), err


def test_who_is_the_command():
    from ptebatch.base.interrupt import is_command

    assert is_command(["python3", "-m", "ptebatch", "compare"]) and is_command(["python3", "/usr/bin/ptebatch", "list"])
    assert is_command(["python3", "-X", "-m", "ptebatch"]) and not is_command(["python3", "-c", "import ptebatch"])
    assert not is_command(["python3", "ptebatch.py"]) and not is_command(["python3", "-m", "pytest", "ptebatch"])
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_DFL, "a program that imports the package keeps its handler"


@pytest.mark.parametrize("how", [">&-", "2>&-", ">&- 2>&-", "<&-"])
def test_closed_streams_are_no_traceback(how):
    """A closed standard output was a traceback and status 1."""
    call = f'"{sys.executable}" -m ptebatch list strategies {how}'
    done = subprocess.run(["sh", "-c", call], capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr and done.returncode == (2 if ">&-" in how and not how.startswith("2") else 0)
    if how == ">&-":
        assert "standard output is closed" in done.stderr


def test_the_living_model_is_loaded_only_for_those_who_ask_for_it():
    ask = "import sys, ptebatch.cli; print([n for n in sys.modules if n in ('ptebatch.workloads', 'ptebatch.reference.live')])"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
