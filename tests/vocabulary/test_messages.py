"""Every error says what is wrong and what to do: the form of docs/messages.md."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from ptebatch.errors import REASONS, MprotectError, PtebatchError, split_hint

TREE = Path(__file__).resolve().parents[2]
ERRORS = "PtebatchError LayoutError MachineError StrategyError NotationError InputError CasemateError"
#: methods that add the hint themselves, so that their callers give the sentence
ADDED = {"fail": "verify/load.py", "error": "traces/jsonl.py notation/parsing.py", "_fail": "snapshot/snapshot.py"}


def text(node: ast.AST) -> str:
    """What of a message can be read without running it."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(v.value if isinstance(v, ast.Constant) else "{" + ast.unparse(v.value) + "}" for v in node.values)
    if isinstance(node, ast.BinOp):
        return text(node.left) + text(node.right)
    return "{" + ast.unparse(node) + "}"


def without_hint(source: str, name: str = "x.py") -> list[str]:
    """Messages of errors that a Python file raises without saying what to do."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS.split() and node.args:
            said = text(node.args[-1])
            # a message that was made elsewhere is held to the form there
            if "; " not in said and not re.fullmatch(r"\{[^{}]*\}", said):
                found.append(f"{name}:{node.lineno}: {said}")
    return found


def test_every_error_of_the_package_says_what_to_do():
    guilty = []
    for path in sorted((TREE / "pkg").rglob("*.py")):
        guilty += without_hint(path.read_text(), path.name)
    # the reason of a refused call has its own
    assert [g for g in guilty if "mprotect() refuses" not in g] == []


def test_every_error_of_the_core_says_what_to_do():
    guilty = []
    string = r'f?"(?:[^"\\\n]|\\.)*"'
    nested = rf"((?:{string}|[^()\"]|\((?:{string}|[^()\"]|\((?:{string}|[^()\"])*\))*\))*)"
    raised = re.compile(rf"raise (?:{'|'.join(ERRORS.split())})\({nested}\)")
    met = 0
    for path in sorted((TREE / "pyx").rglob("*.p[xy]*")):
        for m in raised.finditer(path.read_text()):
            met += 1
            if "; " not in m[1] and '"' in m[1]:
                guilty.append(f"{path.name}: {m[1][:80]}")
    assert guilty == [] and met > 50


def test_an_error_without_a_hint_is_seen():
    assert without_hint('raise LayoutError(f"size {n} is wrong")') == ["x.py:1: size {n} is wrong"]
    assert not without_hint('raise LayoutError(f"size {n} is wrong; give another")')


@pytest.mark.parametrize("name", sorted(ADDED))
def test_methods_that_add_the_hint_do(name):
    for file in ADDED[name].split():
        source = (TREE / "pkg/ptebatch" / file).read_text()
        body = next(n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef) and n.name == name)
        assert "; {" in ast.unparse(body) or "; give" in ast.unparse(body), file


def test_every_refusal_says_what_to_do():
    assert [why for why, said in REASONS.items() if not split_hint(said)[1]] == ["OK"]


def test_an_error_is_told_in_two_halves():
    error = PtebatchError("strategy 'a; b' is unknown; known: folio; did you mean 'folio'?")
    assert error.sentence == "strategy 'a; b' is unknown"
    assert error.hint == "known: folio; did you mean 'folio'?"
    assert split_hint("the folio's head is there; move it") == ("the folio's head is there", "move it")
    assert split_hint("no hint") == ("no hint", "")
    assert split_hint("'\\'\"' is unknown; see --help") == ("'\\'\"' is unknown", "see --help")
    assert split_hint("a quote ' that never ends; see --help")[1] == "see --help"


def test_the_error_of_a_system_call_is_no_error_of_an_argument():
    assert issubclass(MprotectError, OSError) and not issubclass(MprotectError, PtebatchError)


def test_sentences_are_plain():
    """No full stop at the end of a message, no capital at its begin but names, no exclamation mark."""
    wrong = re.compile(r"[.!]$")
    for path in sorted((TREE / "pkg").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS.split() and node.args:
                said = text(node.args[-1])
                assert not wrong.search(said.removesuffix("...")), f"{path.name}: {said}"
