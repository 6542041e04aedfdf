"""``ptebatch verify --strategy``: exit status, what is printed, and what is refused in one sentence."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import messages
import pytest

from ptebatch.checker import search as checker
from ptebatch.strategies import STRATEGIES, register, unregister

HERE = Path(__file__).resolve().parent
PAIRS = "7.3,cont_ptes=2,ptrs_per_pte=2"
FLAWED = {"folio-shared": "EXCLUSIVE", "nested-page0": "EXCLUSIVE", "folio-page0": "EXCLUSIVE", "nested-nowrite": "UNIT"}


@pytest.fixture(autouse=True)
def fixed(monkeypatch):
    monkeypatch.setenv("COLUMNS", "132")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(checker, "RANDOM", 4096)
    monkeypatch.setattr(checker, "FULL", 20)
    monkeypatch.setattr(checker, "FULL_ROUND", 5)


def command(*argv: str, **how) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "ptebatch", "verify", *argv]
    return subprocess.run(call, capture_output=True, text=True, timeout=300, check=False, **how)


def said(capsys, *argv: str, status: int = 0) -> str:
    return messages.said(capsys, "verify", *argv, status=status)


def refused(capsys, *argv: str) -> str:
    return messages.refused(capsys, "verify", *argv)


def reproduce(text: str) -> str:
    """The lines below `reproduce`, as a user would copy them."""
    lines = text.split("\nreproduce\n")[1].splitlines()
    return "\n".join(line[2:] for line in lines)


# ---- flawed loops ----


def test_every_flawed_loop_is_here():
    assert set(FLAWED) == {name for name, row in STRATEGIES.items() if row.flawed}


@pytest.mark.parametrize("name", FLAWED)
def test_a_flawed_loop_is_caught(name):
    done = command("--strategy", name, "--exhaustive")
    assert done.returncode == 1 and done.stderr == ""
    text = done.stdout
    assert f"error[{FLAWED[name]}]: {name} breaks law {FLAWED[name]} on machine" in text
    for head in ("law       ", "source    ", "folios    ", "call      ", "before    ", "after     ", "expected  ", "got       "):
        assert f"\n{head}" in text
    again = subprocess.run([sys.executable, "-c", reproduce(text)], capture_output=True, text=True, timeout=60, check=True)
    head = f"error[{FLAWED[name]}]: {name} breaks law {FLAWED[name]} on machine"
    assert again.stdout.startswith(head)
    assert again.stdout.split() == text[text.index(head) :].split()


@pytest.mark.parametrize("name", FLAWED)
def test_the_document_has_it_too(name, capsys):
    told = json.loads(said(capsys, "--strategy", name, "--exhaustive", "--json", status=1))
    found = told["reports"]["strategy"]["counterexample"]
    assert (told["ok"], found["law"], found["repeats"]) == (False, FLAWED[name], True)
    assert 1 <= found["entries"] <= 8 and len(found["before_words"]) == len(found["after_words"]) == 8
    assert told["reports"]["strategy"]["seconds"] < 60
    exec(compile(found["reproduce"], "reproduce", "exec"), {})
    assert f"{name} breaks law {FLAWED[name]}" in capsys.readouterr().out


# ---- sound loops ----


def test_a_sound_loop_passes(capsys):
    text = said(capsys, "--strategy", "folio", "--exhaustive", "--machine", PAIRS)
    assert text.startswith(f"folio on {PAIRS} (tables of 2 entries, blocks of 2): every law holds in every world")
    heads, *rows = (line.split() for line in text.splitlines()[1:5])
    assert heads == ["entries", "worlds", "judged", "seconds", "million/min"]
    assert [row[0] for row in rows] == ["1", "2", "all"]
    numbers = [[int(cell.replace(",", "")) for cell in row[1:3]] for row in rows]
    assert [sum(column) for column in zip(*numbers[:2], strict=True)] == numbers[2]
    assert "4,096 random worlds, tables of 2 entries" in text and "cont_change_without_bbm" in text


def test_the_document_of_a_sound_loop(capsys):
    told = json.loads(said(capsys, "--strategy", "per-pte", "--exhaustive", "--machine", PAIRS, "--json"))
    report = told["reports"]["strategy"]
    assert told["ok"] and report["complete"] and report["counterexample"] is None and report["events"] == []
    assert report["distinct"] == sum(row["judged"] for row in report["sizes"]) and report["larger"][0]["judged"] == 4096
    assert report["worlds"] > report["distinct"]


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["6.12", "6.17", "7.3,bbml=3"])
def test_rows_of_four_on_other_machines(machine):
    done = command("--strategy", "folio", "--exhaustive", "--machine", f"{machine},cont_ptes=2,ptrs_per_pte=4")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("machine", ["6.12", "6.16", "6.17", "7.3,bbml=3", "7.3,hafdbs=off", "7.3,granule=16K", "7.3,lpa2=on"])
def test_machines(capsys, machine):
    text = said(capsys, "--strategy", "folio", "--exhaustive", "--machine", f"{machine},cont_ptes=2,ptrs_per_pte=2")
    assert "every law holds" in text and ("unfolded" in text) == (machine != "7.3,bbml=3")


# ---- random worlds, seeds, budgets ----


def plain(text: str) -> str:
    return re.sub(r"[\d.]+ s\b", "S", text)


def test_random_worlds_are_the_default(capsys):
    text = said(capsys, "--strategy", "folio")
    assert "no law is broken in random worlds of seed 0; not exhaustive" in text
    assert "random worlds, tables of 16 entries, blocks of 4" in text and "tables of 32 entries, blocks of 16" in text


def test_a_seed_gives_the_same_again(capsys):
    texts = [plain(said(capsys, "--strategy", "folio", "--seed", seed)) for seed in ("7", "7", "8")]
    assert texts[0] == texts[1] != texts[2]
    found = [plain(said(capsys, "--strategy", "folio-page0", "--seed", seed, status=1)) for seed in ("7", "7")]
    assert found[0] == found[1]


@pytest.mark.parametrize("seed", ["0", "999999999999999999"])
def test_any_seed_orders_a_sample(capsys, seed):
    text = said(capsys, "--strategy", "folio", "--exhaustive", "--worlds", "20000", "--seed", seed)
    assert "no law is broken in what was tried; not exhaustive" in text


# ---- strategies of a user ----

MINE = """
def page0(window):
    nr = window.folio_pte_batch()
    old = window.start(0, nr)
    exclusive = window.needs_anon_exclusive() and window.page_anon_exclusive(window.folio_head - window.pfn)
    window.commit(0, old, window.newpte(old), nr, exclusive)
    return nr


def single(window):
    window.change_unit(0, 1, window.needs_anon_exclusive() and window.page_anon_exclusive(0))
    return 1


nothing = 5
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine_steps.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine_steps", raising=False)
    return tmp_path


@pytest.mark.parametrize("where", ["mine_steps.py", "mine_steps"])
def test_a_function_of_a_file_or_of_a_module(capsys, mine, where):
    text = said(capsys, "--strategy", f"{where}:page0", status=1)
    assert f"{where}:page0 breaks law " in text
    exec(compile(reproduce(text), "reproduce", "exec"), {})
    assert f"{where}:page0 breaks law " in capsys.readouterr().out
    assert "no law is broken" in said(capsys, "--strategy", f"{where}:single", "--exhaustive", "--worlds", "200000")


def test_a_function_from_another_folder(mine):
    done = command("--strategy", f"{mine / 'mine_steps.py'}:page0", "--exhaustive", cwd="/")
    assert done.returncode == 1 and "breaks law EXCLUSIVE" in done.stdout


def test_a_registered_strategy(capsys):
    def step(window):
        window.change_unit(0, 1, False)
        return 1

    register("never", step)
    try:
        text = said(capsys, "--strategy", "never", "--exhaustive", "--worlds", "30000")
        strict = said(capsys, "--strategy", "never", "--exhaustive", "--strict", status=1)
    finally:
        unregister("never")
    assert "warning[UPGRADED]: " in text and "entries could have become writable and did not" in " ".join(text.split())
    assert "expected  WRITE: page 0x400 is PageAnonExclusive" in text
    assert "error[UPGRADED]: never breaks law UPGRADED" in strict and "hint      give WRITE" in strict


COMPILED = """
# cython: language_level=3, freethreading_compatible=True
from libc.stdint cimport int64_t
from ptebatch.batch.folio_batch cimport anon_exclusive_batch
from ptebatch.arm64.mmu cimport page_anon_exclusive
from ptebatch.batch.seam cimport (
    FPB_MPROTECT,
    change_unit,
    mprotect_folio_pte_batch,
    needs_anon_exclusive,
    strategy_capsule,
    walk,
    walk_pfn,
)

cdef int64_t good(walk *w) noexcept nogil:
    cdef size_t nr = mprotect_folio_pte_batch(w, FPB_MPROTECT)
    cdef bint exclusive = False
    if needs_anon_exclusive(w):
        exclusive = page_anon_exclusive(w.t.mmu, walk_pfn(w))
        nr = anon_exclusive_batch(w.t.mmu, walk_pfn(w), exclusive, nr)
    change_unit(w, w.idx, nr, exclusive)
    return nr

cdef int64_t stops(walk *w) noexcept nogil:
    good(w)
    return 0

cdef int64_t bad(walk *w) noexcept nogil:
    cdef size_t nr = mprotect_folio_pte_batch(w, FPB_MPROTECT)
    change_unit(w, w.idx, nr, needs_anon_exclusive(w) and page_anon_exclusive(w.t.mmu, walk_pfn(w)))
    return nr

GOOD, BAD, STOPS = strategy_capsule(good), strategy_capsule(bad), strategy_capsule(stops)
"""


def test_a_compiled_strategy(package, tmp_path):
    """Its capsule by module and name, in every world of rows of two, and registered."""
    (tmp_path / "capsules.pyx").write_text(COMPILED.lstrip())
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package.parent), str(tmp_path)])}
    call = [sys.executable, "-m", "Cython.Build.Cythonize", "-i", "-q", "capsules.pyx"]
    subprocess.run(call, cwd=tmp_path, env=env, check=True, capture_output=True, timeout=300)
    done = command("--strategy", "capsules:GOOD", "--exhaustive", "--machine", PAIRS, env=env, cwd=tmp_path)
    assert done.returncode == 0 and "every law holds" in done.stdout, done.stdout + done.stderr
    done = command("--strategy", "capsules:BAD", "--exhaustive", env=env, cwd=tmp_path)
    assert done.returncode == 1 and "capsules:BAD breaks law EXCLUSIVE" in done.stdout, done.stderr
    again = subprocess.run([sys.executable, "-c", reproduce(done.stdout)], env=env, cwd=tmp_path, capture_output=True, text=True,
                           timeout=60, check=True)  # fmt: skip
    assert "capsules:BAD breaks law EXCLUSIVE" in again.stdout
    done = command("--strategy", "capsules:STOPS", "--exhaustive", env=env, cwd=tmp_path)
    assert done.returncode == 1 and "breaks law CONTRACT" in done.stdout, done.stdout + done.stderr
    program = "import capsules, ptebatch; ptebatch.register('mine', capsules.BAD)\nfrom ptebatch.cli import main\n"
    program += "raise SystemExit(main(['verify', '--strategy', 'mine', '--exhaustive']))"
    done = subprocess.run([sys.executable, "-c", program], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60,
                          check=False)  # fmt: skip
    assert done.returncode == 1 and "mine breaks law EXCLUSIVE" in done.stdout


# ---- errors of input ----


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--strategy", "folios"], "strategy 'folios' is unknown; known: folio, per-pte"),
        (["--strategy", "missing.py:step"], "cannot be imported: FileNotFoundError: no Python file missing.py"),
        (["--strategy", "missing_module:step"], "cannot be imported: ModuleNotFoundError: No module named 'missing_module'"),
        (["--strategy", "mine_steps.py:twice"], "mine_steps.py has no function 'twice'; give a step(window) -> int"),
        (["--strategy", "mine_steps:nothing"], "mine_steps has no function 'nothing'"),
        (["--strategy", "broken.py:step"], "strategy 'broken.py:step' cannot be imported: SyntaxError"),
        (["--strategy", "raises.py:step"], "cannot be imported: ZeroDivisionError: division by zero"),
        (["--strategy", ":step"], "strategy ':step'"),
        (["--strategy", ""], "strategy '' is unknown"),
        (["--strategy", "folio", "--worlds", "0"], "'0' is not a whole number"),
        (["--strategy", "folio", "--worlds", "many"], "'many' is not a whole number"),
        (["--worlds", "3"], "--worlds is for the checker"),
        (["--strategy", "folio", "--budget", "0"], "'0' is not a number of seconds above 0"),
        (["--strategy", "folio", "--budget", "nan"], "'nan' is not a number of seconds above 0"),
        (["--strategy", "folio", "--budget", "soon"], "'soon' is not a number of seconds above 0"),
        (["--strategy", "folio", "--seed", "-1"], "--seed"),
        (["--strategy", "folio", "--seed", "1.5"], "'1.5' is not a whole number from 0 on"),
        (["--strategy", "folio", "--machine", "5.4"], "kernel '5.4' is not modelled"),
        (["--strategy", "folio", "--machine", "7.3,cont_ptes=3"], "cont_ptes=3 is not possible; give a power of two"),
        (["--seed", "3"], "--seed is for the checker; use it with --strategy NAME"),
        (["--exhaustive"], "--exhaustive is for the checker; use it with --strategy NAME"),
        (["--budget", "3"], "--budget is for the checker"),
        (["--machine", "7.3"], "--machine is for the checker"),
        (["--strategy", "folio", "--vectors", "a.json"], "--strategy folio and --vectors are two runs; give one of them"),
        ([], "there is nothing to verify"),
        (["--strategy"], "--strategy"),
    ],
)  # fmt: skip
def test_errors_of_input(capsys, mine, argv, message):
    (mine / "broken.py").write_text("def step(:\n")
    (mine / "raises.py").write_text("1 / 0\n")
    assert message in refused(capsys, *argv)


def test_a_terminal_is_told_what_is_done(capsys, monkeypatch):
    from ptebatch.cli import verify_strategy

    told: list[str] = []

    class Say:
        def __enter__(self):
            return told.append

        def __exit__(self, *what):
            return None

    monkeypatch.setattr(verify_strategy, "progress", Say)
    said(capsys, "--strategy", "folio-page0", "--exhaustive", status=1)
    assert any("shrinking it to a minimal case" in text for text in told)
