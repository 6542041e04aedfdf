"""Imports follow the plan of rooms.py, in the package and in the core, and there is no circle."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from house.rooms import APART, CORE, CORE_IMPORTS, ROOMS, VOCABULARY

TREE = Path(__file__).resolve().parents[2]
PKG = TREE / "pkg" / "ptebatch"
PYX = TREE / "pyx" / "ptebatch"
PLAN = {**VOCABULARY, **ROOMS}
#: the doors of the package: they may import every room
DOORS = {"__init__", "__main__"}


def modules(folder: Path) -> dict[str, Path]:
    """Dotted name of every Python module below a package, the package itself as an empty one."""
    found = {}
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name: str, path: Path, known: dict[str, Path], *, typing: bool = True) -> set[str]:
    """Modules of the package that one imports, wherever in it; `typing`: also for type checkers only."""
    package = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
    found = set()
    tree = ast.parse(path.read_text())
    if not typing:
        tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = ".".join([*package[: len(package) - (node.level - 1)], *(node.module or "").split(".")]).strip(".")
            names = [f"{base}.{alias.name}".strip(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ptebatch":
            names = [f"{(node.module or '')[9:]}.{alias.name}".strip(".") for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name[9:] for alias in node.names if alias.name.startswith("ptebatch.")]
        else:
            continue
        for each in names:
            while each and each not in known:
                each = each.rpartition(".")[0]
            found.add(each)
    return found - {""}


def room(name: str) -> str:
    return name.split(".")[0]


def arrows(folder: Path = PKG) -> dict[str, set[str]]:
    """Every room, and the rooms that its modules import."""
    known = modules(folder)
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        if name and name not in DOORS:
            found.setdefault(room(name), set()).update(map(room, imported(name, path, known)))
    return {name: used - {name} for name, used in found.items()}


ARROWS = arrows()


def test_every_room_has_its_place_in_the_plan():
    assert set(ARROWS) == set(PLAN)


@pytest.mark.parametrize("name", sorted(PLAN))
def test_a_room_imports_what_the_plan_says_and_no_more_and_no_less(name):
    assert sorted(ARROWS[name]) == sorted(PLAN[name].split())


def circle(plan: dict[str, set[str]]) -> list[str]:
    """Rooms that import each other in a circle, empty: none do."""
    done: set[str] = set()

    def follow(name: str, path: tuple[str, ...]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name not in done:
            for other in sorted(plan.get(name, ())):
                if found := follow(other, (*path, name)):
                    return found
            done.add(name)
        return []

    return next((found for name in sorted(plan) if (found := follow(name, ()))), [])


def test_there_is_no_circle_among_rooms():
    both = {name: ARROWS.get(name, set()) | set(CORE_IMPORTS.get(name, "").split()) for name in PLAN}
    assert circle(both) == []


def test_a_circle_is_seen():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]


def test_a_lazy_import_is_seen(tmp_path):
    (tmp_path / "one.py").write_text("def f():\n    from .two import g\n    return g\n")
    (tmp_path / "two.py").write_text("from ptebatch import one\n")
    assert arrows(tmp_path) == {"one": {"two"}, "two": {"one"}}


def test_vocabulary_imports_only_vocabulary():
    assert all(ARROWS[name] <= set(VOCABULARY) for name in VOCABULARY)


def test_no_module_imports_itself_in_a_circle():
    """Inside a room too: what would need a lazy import has no place there. A type may be named both ways."""
    known = modules(PKG)
    inside = {name: imported(name, path, known, typing=False) - {name, *_parents(name)} for name, path in known.items() if name}
    assert circle(inside) == []


def _parents(name: str) -> set[str]:
    parts = name.split(".")
    return {".".join(parts[:i]) for i in range(1, len(parts))}


@pytest.mark.parametrize("name", sorted(APART))
def test_members_of_a_room_that_know_nothing_of_each_other(name):
    known = modules(PKG)
    members = {f"{name}.{member}" for member in APART[name]}
    assert members <= set(known)
    assert not {member: used for member in members if (used := imported(member, known[member], known) & members - {member})}


def test_only_the_house_is_open_to_rich_and_hypothesis():
    """The command line prints, the tests for others draw: nobody else needs what they need."""
    users = {"rich": "cli", "hypothesis": "testing"}
    for library, home in users.items():
        pattern = re.compile(rf"^\s*(from|import) {library}\b", re.M)
        guilty = [name for name, path in modules(PKG).items() if room(name) != home and pattern.search(path.read_text())]
        assert not guilty, library


# ---- the core ----

HEADERS = sorted(path for suffix in ("*.pyx", "*.pxd") for path in PYX.rglob(suffix) if path.stem != "__init__")


def cimported(text: str) -> set[str]:
    """Rooms of the core, other than its own, that a .pyx or .pxd cimports."""
    return set(re.findall(r"^from \.\.(\w+)(?:\.\w+)? cimport", text, re.M))


def python_of(text: str) -> set[str]:
    """Rooms and vocabulary that it imports of Python."""
    return set(re.findall(r"^\s*(?:from|import) ptebatch\.(\w+)", text, re.M))


def test_the_core_has_the_rooms_of_the_plan():
    assert {path.relative_to(PYX).parts[0] for path in HEADERS} == set(CORE) == set(CORE_IMPORTS)


@pytest.mark.parametrize("path", HEADERS, ids=lambda path: path.relative_to(PYX).as_posix())
def test_cimports_go_down(path):
    own = path.relative_to(PYX).parts[0]
    assert cimported(path.read_text()) <= set(CORE[: CORE.index(own)])


def test_an_upward_cimport_is_seen():
    assert cimported("from ..batch.seam cimport walk\nfrom .pte cimport pte_t\n") == {"batch"}


@pytest.mark.parametrize("name", CORE)
def test_the_core_imports_of_python_what_the_plan_says(name):
    used = set().union(*(python_of(path.read_text()) for path in HEADERS if path.relative_to(PYX).parts[0] == name))
    assert sorted(used - {name}) == sorted(CORE_IMPORTS[name].split())


def cimports_inside(folder: Path) -> dict[str, set[str]]:
    """Headers of one room, and those of the same room that each cimports; a .pyx counts as its header."""
    found: dict[str, set[str]] = {}
    for path in folder.iterdir():
        if path.suffix in (".pxd", ".pyx"):
            text = path.read_text()
            used = {*re.findall(r"^from \.(\w+) cimport", text, re.M), *re.findall(r"^from \. cimport (\w+)", text, re.M)}
            found.setdefault(path.stem, set()).update(used - {path.stem})
    return found


@pytest.mark.parametrize("name", CORE)
def test_there_is_no_circle_inside_a_room_of_the_core(name):
    assert circle(cimports_inside(PYX / name)) == []


# ---- the reference ----


def test_the_reference_imports_nothing_compiled():
    assert not ARROWS["reference"] & {*CORE, "batch"}


#: what makes an address space live stands in the reference alone so far
NOT_YET_IN_THE_CORE = "collapse fault filemap frames huge_memory live madvise memory mlock mmap mremap task_mmu userfaultfd"


def test_the_reference_has_the_file_names_of_the_core():
    """A reader who knows one finds the other; what only one of them needs is named here."""
    core = {path.stem for path in HEADERS}
    ours = {path.stem for path in (PKG / "reference").glob("*.py")} - {"__init__"}
    assert ours - core == set(NOT_YET_IN_THE_CORE.split())
    rules = "pte contpte tlb mmu folio_batch strategies window change_protection softleaf vma mprotect"
    assert set(rules.split()) <= ours
