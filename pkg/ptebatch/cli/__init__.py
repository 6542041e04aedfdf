"""The command ``ptebatch``: a list of verbs, and how each ends.

Exit status: 0 holds, 1 a difference was found, 2 the command or its input is
wrong (what is wrong, and a hint, on stderr), 141 the reader of the output has
closed it.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from ..base.interrupt import listen
from ..errors import PtebatchError, split_hint
from . import compare, events, list, replay, show, verify

__all__ = ["main"]

_VERBS = (compare, show, events, list, replay, verify)

_EPILOG = """\
examples:
  ptebatch compare
  ptebatch compare --layout alternating --op rw --strategy lookahead,folio
  ptebatch show --layout 1/511 --op rw --machine 7.3,cont_ptes=4,ptrs_per_pte=8
  ptebatch events --layout 1/511 --op rw
  ptebatch list strategies
  ptebatch replay node.strace
  ptebatch verify --vectors named.json.gz

exit status:
  0 holds; 1 a difference was found; 2 the command or its input is wrong
"""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are said as all others are, and whose help may not vanish."""

    def error(self, message: str) -> NoReturn:
        word = message.removeprefix("unrecognized arguments: ").split(" ")[0]
        if word != message.split(" ")[0] and not word.startswith("-"):
            raise _UsageError(f"{word!r} is no option; a layout is given by --layout {word}, a process by --pid")
        raise _UsageError(f"{message}; see {self.prog} --help")

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse would swallow the error of a closed pipe
        (file or sys.stdout).write(message)


class _UsageError(Exception):
    """Arguments that are no command."""


def _parser() -> argparse.ArgumentParser:
    from .. import __version__

    parser = _Parser(
        prog="ptebatch",
        description="An exact, executable model of arm64 mprotect(2) over contiguous PTEs, and of\nevery way to batch it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("-V", "--version", action="version", version=f"ptebatch {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True, dest="verb")
    for verb in _VERBS:
        summary, _, rest = (verb.__doc__ or "").partition("\n")
        sub = verbs.add_parser(
            verb.__name__.rpartition(".")[2],
            help=summary[0].lower() + summary[1:].rstrip("."),
            description=summary + "\n" + rest.rstrip(),
            epilog=verb.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        verb.add_arguments(sub)
        sub.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
        sub.set_defaults(run=verb.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process if not given.

    Returns
    -------
    int
        The exit status.
    """
    if sys.stderr is None:  # closed: what is said there would go to stdout
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        return _failed("standard output is closed; give the command one, such as /dev/null")
    listen()
    argv = sys.argv[1:] if argv is None else [*argv]
    if argv[:1] == ["help"]:
        argv = [*argv[1:2], "--help"]
    try:
        try:
            args = _parser().parse_args(argv)
            status: int = args.run(args)
        except SystemExit as e:  # --help and --version
            status = e.code if isinstance(e.code, int) else 0
        sys.stdout.flush()
    except BrokenPipeError:
        _give_up_stdout()
        return 141
    except (PtebatchError, _UsageError) as e:
        return _failed(str(e))
    except OSError as e:
        _give_up_stdout()
        what = ": ".join(str(part) for part in (e.filename, e.strerror or e) if part)
        return _failed(what if split_hint(what)[1] else f"{what}; check the path and its permissions")
    except MemoryError as e:
        return _failed(f"out of memory ({e}); choose a smaller size" if str(e) else "out of memory; choose a smaller size")
    except KeyboardInterrupt:
        return 130
    return status


def _failed(message: str) -> int:
    """Say what is wrong in a line, and behind an empty one what to do."""
    sentence, hint = split_hint(" ".join(message.split()))
    print(f"ptebatch: {sentence}", *(["", f"hint: {hint}"] if hint else []), sep="\n", file=sys.stderr)
    return 2


def _give_up_stdout() -> None:
    """Keep the interpreter from complaining when it flushes once more at exit."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, io.UnsupportedOperation, ValueError):
        pass
