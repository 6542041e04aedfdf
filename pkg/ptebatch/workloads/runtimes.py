"""The workloads: each a program, with what real ones it is taken from."""

from __future__ import annotations

from .. import bits as b
from ..reference import madvise as m
from ..reference.mmap import VM_OF_MAP_STACK
from ..reference.userfaultfd import UFFDIO_WRITEPROTECT_MODE_WP
from .life import Life

_R, _RW = b.PROT_READ, b.PROT_READ | b.PROT_WRITE
_RX = b.PROT_READ | b.PROT_EXEC
assert UFFDIO_WRITEPROTECT_MODE_WP == 1


def _pages(life: Life, size: int, share: int) -> list[int]:
    """Offsets of so many per cent of the pages, in random order; one at least."""
    all_of_them = range(0, size, life.page)
    return life.chance.sample(all_of_them, max(1, len(all_of_them) * share // 100))


def jit_page(life: Life, size: int, rounds: int, patched: int) -> None:
    """A JIT with W^X: each page that is patched becomes writable, is written, and executable again."""
    code = life.map(size, _RX)
    life.end_round()
    for _ in range(rounds):
        for at in _pages(life, size, patched):
            life.mprotect(code + at, life.page, _RW)
            life.touch(code + at, write=True)
            life.mprotect(code + at, life.page, _RX)
        life.end_round()


def jit_region(life: Life, size: int, rounds: int, patched: int) -> None:
    """A JIT with W^X: all of its code becomes writable, some pages are patched, and all is executable again."""
    code = life.map(size, _RX)
    life.end_round()
    for _ in range(rounds):
        life.mprotect(code, size, _RW)
        for at in _pages(life, size, patched):
            life.touch(code + at, write=True)
        life.mprotect(code, size, _RX)
        life.end_round()


def gc_barrier(life: Life, size: int, rounds: int, written: int) -> None:
    """A collector that marks behind a barrier: the heap is read-only, a signal handler gives back each page that is written."""
    heap = life.map(size)
    life.end_round()
    for _ in range(rounds):
        life.mprotect(heap, size, _R)
        for at in _pages(life, size, written):
            if not life.touch(heap + at, write=True):
                life.mprotect(heap + at, life.page, _RW)
                life.touch(heap + at, write=True)
        life.mprotect(heap, size, _RW)
        life.end_round()


def thread_stacks(life: Life, size: int, rounds: int, threads: int, late: int, plain: int) -> None:
    """Stacks of threads with a guard page: mapped with MAP_STACK (plain=1: without), touched from the top, given back."""
    life.end_round()
    for _ in range(rounds):
        stacks = []
        for _ in range(threads):
            start = life.map(size, written=False, vm_flags=0 if plain else VM_OF_MAP_STACK)
            life.calls["mmap"] += 1
            if not late:
                life.mprotect(start, life.page, b.PROT_NONE)
            # a quarter of each is used, 64K at most
            for i in range(min(16, max(1, size // life.page // 4))):
                life.touch(start + size - (i + 1) * life.page, write=True)
            if late:
                life.mprotect(start, life.page, b.PROT_NONE)
            stacks.append(start)
        life.end_round()
        for start in stacks:
            life.munmap(start, size)


def dismiss(life: Life, size: int, rounds: int, dismissed: int) -> None:
    """A fork that saves, whose child gives back what it has saved (MADV_DONTNEED) before the parent writes all."""
    heap = life.map(size)
    life.end_round()
    for _ in range(rounds):
        child = life.fork()
        part = size * dismissed // 100 // life.page * life.page
        if part:
            child.madvise(heap, part, m.MADV_DONTNEED)
        life.write_all(heap, size)
        child.exit()
        life.end_round()


def checkpoint(life: Life, size: int, rounds: int, written: int) -> None:
    """A database that forks to save: its parent writes while the child lives, and again when it is gone."""
    heap = life.map(size)
    life.end_round()
    for _ in range(rounds):
        child = life.fork()
        for at in _pages(life, size, written):
            life.touch(heap + at, write=True)
        child.exit()
        for at in _pages(life, size, written):
            life.touch(heap + at, write=True)
        life.end_round()


def buffer_pool(life: Life, size: int, rounds: int, pinned: int) -> None:
    """A buffer pool that protects what nobody may write: each buffer of 4 pages is opened, written and closed."""
    pool = life.map(size, _R)
    life.end_round()
    buffer = 4 * life.page
    for _ in range(rounds):
        for at in life.chance.sample(range(0, size, buffer), max(1, size // buffer * pinned // 100)):
            life.mprotect(pool + at, buffer, _RW)
            life.touch(pool + at, write=True)
            life.mprotect(pool + at, buffer, _R)
        life.end_round()


def decommit(life: Life, size: int, rounds: int, span: int) -> None:
    """An allocator that gives every other span back (MADV_DONTNEED), and needs it again."""
    heap = life.map(size)
    life.end_round()
    for _ in range(rounds):
        for at in range(0, size, 2 * span):
            life.madvise(heap + at, span, m.MADV_DONTNEED)
        life.end_round()
        life.write_all(heap, size)
        life.end_round()


def lazy_free(life: Life, size: int, rounds: int, span: int) -> None:
    """An allocator that frees every other span lazily (MADV_FREE), and writes it again before it is taken."""
    heap = life.map(size)
    life.end_round()
    for _ in range(rounds):
        for at in range(0, size, 2 * span):
            life.madvise(heap + at, span, m.MADV_FREE)
        life.write_all(heap, size)
        life.end_round()


def wasm_pool(life: Life, size: int, rounds: int, used: int) -> None:
    """A pool of instances: a slot's memory becomes accessible, is used, is emptied and closed again."""
    slot = life.map(size, b.PROT_NONE, written=False)
    life.end_round()
    part = -(-size * used // 100 // life.page) * life.page
    for _ in range(rounds):
        life.mprotect(slot, part, _RW)
        life.write_all(slot, part)
        life.end_round()
        life.madvise(slot, part, m.MADV_DONTNEED)
        life.mprotect(slot, part, b.PROT_NONE)


def uffd_rounds(life: Life, size: int, rounds: int, written: int) -> None:
    """A snapshot by userfaultfd (CRIU, postcopy): all is write-protected, each page is resolved when it is written."""
    heap = life.map(size)
    life.mm.uffd_register(heap, size)
    life.end_round()
    for _ in range(rounds):
        life.uffd_writeprotect(heap, size, on=True)
        for at in _pages(life, size, written):
            life.uffd_writeprotect(heap + at, life.page, on=False)
            life.touch(heap + at, write=True)
        life.uffd_writeprotect(heap, size, on=False)
        life.end_round()


def relro(life: Life, size: int, rounds: int, libraries: int) -> None:
    """A linker at start-up: each library's data is written where it is relocated, and a part becomes read-only."""
    life.end_round()
    for _ in range(rounds):
        for _ in range(libraries):
            data = life.map(size, written=False)
            life.calls["mmap"] += 1
            for at in range(0, size, 2 * life.page):
                life.touch(data + at, write=True)
            life.mprotect(data, -(-size // 2 // life.page) * life.page, _R)
        life.end_round()
