"""The command ``ptebatch``: a list of verbs, and how each ends.

Exit status: 0 holds, 1 a difference was found, 2 the command or its input is
wrong (one line on stderr), 141 the reader of the output has closed it.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from ..errors import PtebatchError
from . import compare, events, list, show, verify

__all__ = ["main"]

_VERBS = (compare, show, events, list, verify)

_EPILOG = """\
examples:
  ptebatch compare
  ptebatch compare --layout alternating:unfolded --op rw --strategy lookahead,folio
  ptebatch show --layout 1/511 --op rw --machine 7.3,cont_ptes=4,ptrs_per_pte=8
  ptebatch events --layout 1/511 --op rw
  ptebatch list strategies
  ptebatch verify --vectors named.json.gz

exit status:
  0 holds; 1 a difference was found; 2 the command or its input is wrong
"""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and whose help may not vanish."""

    def error(self, message: str) -> NoReturn:
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
        description="An exact, executable model of arm64 mprotect(2) over contiguous PTEs, and of every way to batch it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"ptebatch {__version__}")
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
        return _failed(": ".join(str(part) for part in (e.filename, e.strerror or e) if part))
    except MemoryError as e:
        return _failed(f"out of memory ({e}); choose a smaller size" if str(e) else "out of memory; choose a smaller size")
    except KeyboardInterrupt:
        return 130
    return status


def _failed(message: str) -> int:
    print("ptebatch: " + " ".join(message.split()), file=sys.stderr)
    return 2


def _give_up_stdout() -> None:
    """Keep the interpreter from complaining when it flushes once more at exit."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, io.UnsupportedOperation, ValueError):
        pass
