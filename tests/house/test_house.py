"""The rules of the house, held by reading the tree: build files, stubs, versions, words, sizes."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import tomllib
from pathlib import Path

import pytest

import ptebatch

TREE = Path(__file__).resolve().parents[2]
PYX = TREE / "pyx" / "ptebatch"
PKG = TREE / "pkg" / "ptebatch"

#: compiled twice, under names of their own
TWICE = ("regular", "replay")
ROOMS = sorted(path for suffix in ("*.pyx", "*.pxd") for path in PYX.rglob(suffix) if path.stem != "__init__")


def test_the_core_prints_nothing():
    assert not [path.name for path in ROOMS if re.search(r"^\s*print\(", path.read_text(), re.M)]


# ---- build files ----


def listed(folder: Path) -> set[str]:
    """File names that the build of the package names."""
    texts = [path.read_text() for path in (PKG / "meson.build", *PKG.rglob("*/meson.build"))]
    return {name.rpartition("/")[2] for text in texts for name in re.findall(r"'([\w./]+)'", text)}


def test_the_build_knows_every_file():
    names = listed(PKG)
    files = [path for pattern in ("*.py", "*.pyi", "py.typed") for path in PKG.rglob(pattern)]
    missing = [str(path.relative_to(PKG)) for path in files if path.name not in names]
    rooms = [path.name for path in ROOMS if path.stem not in names and path.name not in names and path.stem not in TWICE]
    assert not missing and not rooms


# ---- versions ----


def test_versions_agree():
    project = tomllib.loads((TREE / "pyproject.toml").read_text())["project"]
    found = {
        "pyproject.toml": project["version"],
        "meson.build": re.search(r"^  version: '([^']+)'", (TREE / "meson.build").read_text(), re.M)[1],
        "CITATION.cff": re.search(r"^version: (\S+)$", (TREE / "CITATION.cff").read_text(), re.M)[1],
        "CHANGELOG.md": re.search(r"^## (\S+)", (TREE / "CHANGELOG.md").read_text(), re.M)[1],
        "__init__.py": ptebatch.__version__,
    }
    assert set(found.values()) == {project["version"]}, found


def test_requirements_of_the_build_agree():
    build = tomllib.loads((TREE / "pyproject.toml").read_text())["build-system"]["requires"]
    needs = tomllib.loads((TREE / "pyproject.toml").read_text())["project"]["optional-dependencies"]["test"]
    assert set(build) <= set(needs), "the test extra must be able to build the package without the network"


# ---- stubs ----

STUBBED = sorted(path.relative_to(PKG).with_suffix("").as_posix() for path in PKG.rglob("*.pyi") if not path.stem.startswith("_"))


def test_every_compiled_module_has_a_stub():
    assert {path.relative_to(PYX).with_suffix("").as_posix() for path in PYX.rglob("*.pyx")} - {
        f"batch/{name}" for name in TWICE
    } == set(STUBBED)


def test_stubs_leave_the_prose_to_the_source():
    """A sentence stands once: the .pyx has it, where the rule is."""
    for path in PKG.rglob("*.pyi"):
        nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ClassDef | ast.FunctionDef)]
        assert not [n.name for n in nodes if ast.get_docstring(n)], path.name


def test_everything_public_that_is_compiled_has_a_docstring():
    for name in STUBBED:
        module = importlib.import_module("ptebatch." + name.replace("/", "."))
        for key in public(vars(module)):
            value = vars(module)[key]
            if compiled_here(module, value):
                assert inspect.getdoc(value), f"{name}.{key}"
                members = vars(value) if inspect.isclass(value) and not issubclass(value, tuple) else {}
                bare = [m for m, v in members.items() if not m.startswith("_") and callable(v) and not inspect.getdoc(v)]
                assert not bare, f"{name}.{key}: {bare}"


def public(names):
    return {name for name in names if not name.startswith("_")}


def compiled_here(module, value) -> bool:
    return getattr(value, "__module__", None) == module.__name__ and (inspect.isclass(value) or callable(value))


def stub_of(name: str) -> ast.Module:
    return ast.parse((PKG / f"{name}.pyi").read_text())


def parameters(node: ast.FunctionDef) -> list[tuple[str, str, str]]:
    """Name, kind and default of each parameter of a stub, as `inspect` would tell."""
    args = node.args
    out = []
    plain = [(a, "POSITIONAL_ONLY") for a in args.posonlyargs] + [(a, "POSITIONAL_OR_KEYWORD") for a in args.args]
    missing = len(plain) - len(args.defaults)
    for i, (arg, kind) in enumerate(plain):
        out.append((arg.arg, kind, repr(ast.literal_eval(args.defaults[i - missing])) if i >= missing else ""))
    if args.vararg:
        out.append((args.vararg.arg, "VAR_POSITIONAL", ""))
    for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        out.append((arg.arg, "KEYWORD_ONLY", repr(ast.literal_eval(default)) if default is not None else ""))
    if args.kwarg:
        out.append((args.kwarg.arg, "VAR_KEYWORD", ""))
    return out


def signature(value) -> list[tuple[str, str, str]]:
    found = inspect.signature(value).parameters.values()
    return [(p.name, p.kind.name, "" if p.default is p.empty else repr(p.default)) for p in found]


def compare_functions(where: str, node: ast.FunctionDef, value) -> list[str]:
    wrong = []
    if parameters(node) != signature(value):
        wrong.append(f"{where}: stub has {parameters(node)}, compiled {signature(value)}")
    if node.returns is None:
        wrong.append(f"{where}: no return type")
    return wrong


def compare_classes(name: str, node: ast.ClassDef, value: type) -> list[str]:
    wrong = []
    stubs = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
    stubs |= {item.target.id: item for item in node.body if isinstance(item, ast.AnnAssign)}
    have = public(vars(value)) - ({"count", "index"} if issubclass(value, tuple) else set())
    if public(stubs) != have:
        wrong.append(f"{name}: only one of stub and module has {sorted(public(stubs) ^ have)}")
    for member in sorted(public(stubs) & have):
        item, found = stubs[member], vars(value)[member]
        if isinstance(item, ast.FunctionDef) and item.decorator_list:
            if not inspect.isdatadescriptor(found):
                wrong.append(f"{name}.{member}: the stub has a property")
        elif isinstance(item, ast.FunctionDef):
            wrong += compare_functions(f"{name}.{member}", item, found)
    return wrong


@pytest.mark.parametrize("name", STUBBED)
def test_a_stub_is_what_was_compiled(name):
    module = importlib.import_module("ptebatch." + name.replace("/", "."))
    body = {node.name: node for node in stub_of(name).body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    have = {key for key in public(vars(module)) if compiled_here(module, vars(module)[key])}
    wrong = [f"not in the module: {key}" for key in body if key not in have]
    for key, node in body.items():
        if key in have:
            compare = compare_classes if isinstance(node, ast.ClassDef) else compare_functions
            wrong += compare(key, node, vars(module)[key])
    assert not wrong


def test_a_stub_that_lies_is_seen():
    node = ast.parse("def pte_pfn(pte: int, page_shift: int = 13): ...").body[0]
    from ptebatch.arm64.accessors import pte_pfn

    assert len(compare_functions("pte_pfn", node, pte_pfn)) == 2


# ---- words and sizes ----

TEXT = (".py", ".pyi", ".pyx", ".pxd", ".md", ".toml", ".build", ".cff", ".yml", "")
#: written apart, so that this file does not hold what it forbids
HALVES = "/wo|rk/ /ro|ot/ /far|m/ ../sha|red .libr|ary /tmp/bu|ild /tmp/ve|nv"
FORBIDDEN = tuple(word.replace("|", "") for word in HALVES.split())


def texts() -> list[Path]:
    """Every text file of the tree that is ours: no builds, caches or data."""
    skip = {".git", "build", "builddir", "dist", "data", "__pycache__"}
    found = [
        path
        for path in TREE.rglob("*")
        if path.is_file()
        and path.suffix in TEXT
        and not skip & set(path.relative_to(TREE).parts)
        and not any(part.startswith(".") and part != ".ci" for part in path.relative_to(TREE).parts[:-1])
    ]
    assert len(found) > 50
    return found


def test_no_file_names_the_machine_it_was_written_on():
    guilty = {str(path.relative_to(TREE)): word for path in texts() for word in FORBIDDEN if word in path.read_text()}
    assert not guilty


#: files that a test makes
MADE = {"pkg/ptebatch/cli/count.py", "pyx/ptebatch/mm/mprobe.pxd"}


def lost(text: str) -> set[str]:
    """Files of the tree that a text names and that are not there."""
    named = re.findall(r"\b((?:tests|docs|bench|pyx|pkg)/[\w./-]+\.(?:py|pyx|pxd|md|sh|toml|json))\b", text)
    return {name for name in named if not (TREE / name).exists()} - MADE


def test_files_that_are_named_are_there():
    guilty = {str(path.relative_to(TREE)): names for path in texts() if (names := lost(path.read_text()))}
    assert not guilty


def test_a_file_that_has_moved_is_seen():
    gone = "pkg/ptebatch/" + "nowhere.py"
    assert lost(f"see {gone} and tests/conftest.py") == {gone}


def test_every_file_can_be_read_at_one_sitting():
    code = [path for path in texts() if path.suffix in (".py", ".pyi", ".pyx", ".pxd")]
    assert not {path.name: n for path in code if (n := len(path.read_text().splitlines())) > 500}


def test_texts_are_plain():
    for path in texts():
        if path.suffix == ".md":
            prose = re.sub(r"```.*?```|`[^`]*`|!\[", "", path.read_text(), flags=re.S)
            assert "!" not in prose, f"{path.name} has an exclamation mark"
            assert not re.search("[\U0001f000-\U0001ffff\u2600-\u27bf]", prose), f"{path.name} has an emoji"


def test_every_room_says_what_it_knows():
    """A room begins with its docstring or with comments; a directive of Cython alone is not enough."""
    for path in ROOMS:
        head = path.read_text().removeprefix("# cython: language_level=3\n")
        bare = path.suffix == ".pxd" and len(head.splitlines()) < 6
        assert bare or head.startswith(("#", '"""')), path.name
