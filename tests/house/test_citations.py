"""Citations lead somewhere: every section, invariant and rule that the tree cites stands in docs/semantics*.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]
SPEC = TREE / "docs" / "semantics.md"
#: the specification: its first file, and those that it was too long for
SPECS = sorted((TREE / "docs").glob("semantics*.md"), key=lambda path: (path != SPEC, path.name))
FOLDERS = ("pkg", "pyx", "tests", "bench", "docs")
SUFFIXES = {".py", ".pyi", ".pyx", ".pxd", ".md", ".toml", ".build", ".c"}
SKIP = {"data", "build", "builddir", "__pycache__"}
#: written apart, here and below, so that this file does not hold what it forbids
UNSHIPPED = tuple(name + ".md" for name in ("eras", "field", "field-2026"))
#: releases that are spelled as sections are
KERNELS = {"6.12", "6.13", "6.15", "6.16", "6.17", "6.18", "6.19", "7.0", "7.1", "7.2", "7.3"}

_REF = r"(?:\d{1,2}(?:\.\d{1,2})?|[A-C])(?![\w-]|\.\d)"
_JOIN = r"\s*(?:,|;|\band\b|\bto\b)\s*"
#: what may stand behind a section and narrows it down: rules 1, 2, 7; row 1; rows AF and dirty; S2b
_WITHIN = r"(?:,?\s+(?:(?:rules?|points?|steps?|rows?)\s+\d+(?:(?:,\s*|\s+and\s+|\s+to\s+)\d+\b(?!\.\d))*"
_WITHIN += r"|rows?\s+[A-Za-z]+(?:\s+and\s+[A-Za-z]+)?|S\d\w?\b|last two rows))"
_CITATION = re.compile(rf"\bspec\s+({_REF}{_WITHIN}?(?:{_JOIN}{_REF}{_WITHIN}?)*)")
_PART = re.compile(rf"(?P<join>{_JOIN})?(?P<ref>{_REF})(?P<within>{_WITHIN}?)")
_RULES = re.compile(r"\b(?:rules?|points?)\s+(\d+(?:(?:,\s*|\s+and\s+|\s+to\s+)\d+\b(?!\.\d))*)")
_HEADING = re.compile(r"^(#{1,4}) (.+)$", re.M)


@dataclass(frozen=True)
class Citation:
    """What is cited, "7.9", "I-6" or "rule 4", and on which line."""

    what: str
    line: int


def numbers(text: str) -> list[int]:
    """Numbers of a list such as "1, 2 and 7" or "1 to 3, 7"."""
    found: list[int] = []
    for join, number in re.findall(r"(to\s+)?(\d+)", text):
        found += range(found[-1] + 1, int(number) + 1) if join and found else [int(number)]
    return found


def between(first: str, last: str) -> list[str]:
    """Sections after `first`, up to `last`; across chapters only the end is known."""
    low, high = first.split("."), last.split(".")
    if len(low) == len(high) == 2 and low[0] == high[0]:
        return [f"{low[0]}.{n}" for n in range(int(low[1]) + 1, int(high[1]) + 1)]
    return [last]


def citations(text: str) -> list[Citation]:
    """Every citation of a text, lists and ranges taken apart."""
    # a citation may run over the end of a line of comment; blanks keep the offsets
    flat = re.sub(r"\n[ \t]*(?:#:?|\*|//|>)?[ \t]*", lambda m: " " * len(m[0]), text)
    out: list[Citation] = []

    def add(what: str, at: int) -> None:
        out.append(Citation(what, text.count("\n", 0, at) + 1))

    for found in _CITATION.finditer(flat):
        before = ""
        for part in _PART.finditer(found[1]):
            ref, ranged = part["ref"], "to" in (part["join"] or "")
            for section in between(before, ref) if ranged and before else [ref]:
                add(section, found.start())
            before = ref
    for found in _RULES.finditer(flat):
        for n in numbers(found[1]):
            add(f"rule {n}", found.start())
    for found in re.finditer(r"\bI-\d+\b", flat):
        add(found[0], found.start())
    return out


def headings(text: str) -> list[str]:
    """Headings of a Markdown text, without what looks like one in its examples."""
    return [title for _, title in _HEADING.findall(re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))]


def places(text: str) -> list[str]:
    """What can be cited of the specification: its sections, its invariants, the rules of 7.9."""
    sections = [m[1] for title in headings(text) if (m := re.match(r"(\d+(?:\.\d+)?|[A-C]) ", title))]
    contract = re.search(r"^### 7\.9 .*?(?=^##)", text, re.M | re.S)
    rules = re.findall(r"^\| (\d+) \|", contract[0] if contract else "", re.M)
    return [*sections, *re.findall(r"^\| (I-\d+) \|", text, re.M), *(f"rule {n}" for n in rules)]


def dangling(text: str, known: set[str]) -> list[Citation]:
    return [each for each in citations(text) if each.what not in known]


def files() -> Iterator[Path]:
    """The text files of the tree that may cite."""
    roots = [path for path in TREE.iterdir() if path.is_file()]
    below = [path for folder in FOLDERS for path in (TREE / folder).rglob("*") if path.is_file()]
    for path in sorted(roots + below):
        if path.suffix in SUFFIXES and not SKIP & set(path.relative_to(TREE).parts):
            yield path


TEXTS = {str(path.relative_to(TREE)): path.read_text() for path in files()}
WHOLE = "\n".join(path.read_text() for path in SPECS)
PLACES = places(WHOLE)


#: the word apart from its numbers: what the examples below cite need not exist
S = "spec "
RULE = "rule"


# ---- what is cited exists ----


def test_every_citation_of_the_tree_leads_somewhere():
    wrong = [f"{name}:{each.line}: {each.what}" for name, text in TEXTS.items() for each in dangling(text, set(PLACES))]
    assert not wrong, "\n".join(wrong)


def test_the_tree_was_read():
    """A pattern that finds nothing would let everything pass."""
    found = {each.what for name, text in TEXTS.items() if not name.startswith("docs") for each in citations(text)}
    assert len(TEXTS) > 100 and {"7.9", "7.10", "1.1", "6.5", "9", "B", "I-1", "I-17", "rule 4", "rule 9"} <= found
    assert any(name.endswith(".pxd") for name in TEXTS) and "README.md" in TEXTS


def test_a_false_citation_is_caught():
    false = f"# Rules: {S}7.9, 99.9 and 6.6; see I{-99}, and {RULE} 12 of it"
    assert [each.what for each in dangling(false, set(PLACES))] == ["99.9", f"{RULE} 12", f"I{-99}"]


def test_a_false_citation_is_told_with_its_line():
    assert dangling(f"a\nb\n# {S}42.1\n", set(PLACES)) == [Citation("42.1", 3)]


@pytest.mark.parametrize(
    ("text", "cited"),
    [
        (S + "7.9", "7.9"),
        (S + "1.6 and 6.7", "1.6 6.7"),
        (S + "2.2, 2.3", "2.2 2.3"),
        (S + "6.1 to 6.4", "6.1 6.2 6.3 6.4"),
        (S + "1.2 to 1.4 and 2.1.", "1.2 1.3 1.4 2.1"),
        (S + "1.2, 1.6, 2. A pure function of words", "1.2 1.6 2"),
        (S + "0 and 1.1", "0 1.1"),
        ("(" + S + "1.3, 48-bit PA)", "1.3"),
        ("(" + S + "B)", "B"),
        (S + "7.3 S2b, 7.4", "7.3 7.4"),
        (S + "6.3, step 4; 6.4", "6.3 6.4"),
        (S + "7.10, rows AF and dirty; 3.4", "7.10 3.4"),
        ("I-11; " + S + "6.8, 8.9", "6.8 8.9 I-11"),
        (S + "2.5, 3.3\n    # to 3.5", "2.5 3.3 3.4 3.5"),
        (f"{S}7.9 {RULE}s 1, 2, 7; x", f"7.9 {RULE} 1 {RULE} 2 {RULE} 7"),
        (f"{S}7.9 {RULE} 8, 2.4", f"7.9 2.4 {RULE} 8"),
        (f"{RULE}s 1 to 3, 7 of {S}7.9", f"7.9 {RULE} 1 {RULE} 2 {RULE} 3 {RULE} 7"),
        ("the " + "specification, a spec: str, spec.strip()", ""),
    ],
)
def test_lists_and_ranges_are_taken_apart(text, cited):
    assert " ".join(each.what for each in citations(text)) == cited


# ---- the specification itself ----


def test_no_number_is_given_twice():
    assert sorted(PLACES) == sorted(set(PLACES))


def test_invariants_and_rules_are_complete():
    assert [place for place in PLACES if place.startswith("I-")] == [f"I-{n}" for n in range(1, 18)]
    assert [place for place in PLACES if place.startswith("rule ")] == [f"rule {n}" for n in range(1, 10)]


def test_sections_follow_each_other():
    chapters: dict[int, list[int]] = {}
    for chapter, _, section in (place.partition(".") for place in PLACES if place[0].isdigit()):
        chapters.setdefault(int(chapter), []).extend([int(section)] if section else [])
    assert sorted(chapters) == list(range(13))
    for chapter, found in chapters.items():
        first = 0 if chapter == 7 else 1
        assert found == list(range(first, first + len(found))), f"chapter {chapter}"


def test_its_own_references_lead_somewhere():
    """Sections in brackets, (6.8), are citations too; a release in brackets is none."""
    bare = re.findall(r"\((?:see )?(\d{1,2}\.\d{1,2})(?=[,;)\s])", WHOLE)
    assert len(bare) > 50
    assert not [each for each in bare if each not in KERNELS and each not in PLACES]


def test_each_chapter_has_its_sources():
    chapters = re.split(r"^## ", WHOLE, flags=re.M)[1:]
    assert not [c.split("\n")[0] for c in chapters if "*Sources" not in c and not c.startswith(("Contents", "12 ", "C "))]


# ---- what does not ship ----


def unshipped(text: str) -> list[int]:
    """Lines that name a file which is not part of the project."""
    word = re.compile(rf"(?<![\w/-])(?:{'|'.join(map(re.escape, UNSHIPPED))})")
    return [n for n, line in enumerate(text.splitlines(), 1) if word.search(line)]


def test_no_file_cites_what_does_not_ship():
    wrong = [f"{name}:{line}" for name, text in TEXTS.items() for line in unshipped(text)]
    assert not wrong, "\n".join(wrong)


def test_a_citation_of_what_does_not_ship_is_caught():
    assert unshipped("a\n# Rules: spec 6.1, " + UNSHIPPED[1] + " 5.1.\n``" + UNSHIPPED[0] + "``") == [2, 3]


# ---- links ----


def anchor(title: str) -> str:
    """Anchor that a heading gets where Markdown is shown."""
    return re.sub(r"[^\w\- ]", "", title.replace("`", "").lower()).replace(" ", "-")


def broken_links(path: Path, text: str) -> list[str]:
    """Targets of links that are neither a file, an anchor, nor an address of the web."""
    wrong = []
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.S | re.M)
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, part = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        inside = text if not name else file.read_text() if file.suffix == ".md" and file.is_file() else ""
        if not file.exists() or (part and part not in map(anchor, headings(inside))):
            wrong.append(target)
    return wrong


@pytest.mark.parametrize("path", sorted((TREE / "docs").glob("*.md")), ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    assert broken_links(path, path.read_text()) == []


def test_a_broken_link_is_caught():
    text = "# One\n\n## 7.9 A step (x)\n\n[a](#79-a-step-x) [b](#79-a-step) [c](nowhere.md) [d](https://example.org/#x)\n"
    assert broken_links(SPEC, text) == ["#79-a-step", "nowhere.md"]


def test_the_contents_name_every_chapter():
    contents = SPEC.read_text().partition("\n## Contents\n")[2].partition("\n## ")[0]
    chapters = [title for title in headings(WHOLE) if re.match(r"(\d+|[A-C]) ", title)]
    assert len(chapters) == 16
    assert not [title for title in chapters if f"#{anchor(title)})" not in contents]
