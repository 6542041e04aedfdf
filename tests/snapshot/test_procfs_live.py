"""Reading the running kernel: the demo process, this one, and some that do not keep still."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ptebatch.errors import InputError
from ptebatch.snapshot import demo, kpage
from ptebatch.snapshot.procfs import read_process
from ptebatch.snapshot.snapshot import PM_MMAP_EXCLUSIVE

# ---- the running kernel ----


def readable() -> str:
    """Why the live tests cannot run, or nothing."""
    if not sys.platform.startswith("linux"):
        return "not Linux"
    try:
        read_process(os.getpid())
    except InputError as e:
        if "CAP_SYS_ADMIN" not in str(e):
            raise
        return str(e)
    return ""


WHY_NOT = readable()
live = pytest.mark.skipif(bool(WHY_NOT), reason=f"frame numbers cannot be read: {WHY_NOT}")


@pytest.fixture(scope="module")
def taken():
    return demo.snapshot()


def region(s, name):
    at = s.names.index(f"[demo: {name}]")
    return s.vmas[at], s.vma_of == at


@live
def test_the_demo_has_every_region_and_lost_next_to_nothing(taken):
    names = [name[7:-1] for name in taken.names if name.startswith("[demo: ")]
    assert set(names) == {"thp", "pte-mapped", "forked", "mthp", "small", "shared by fork", "shmem", "zero", "holes"}
    assert sum(taken.lost.values()) <= taken.vpn.size // 100  # the kernel may move pages, to compact memory
    assert taken.page_size == mmap.PAGESIZE


@live
def test_the_demos_holes_and_zero_pages_are_where_they_were_made(taken):
    vma, mine = region(taken, "holes")
    assert np.array_equal(taken.vpn[mine] - vma["start"] // np.uint64(taken.page_size), np.arange(0, mine.sum() * 3, 3))
    _, mine = region(taken, "zero")
    assert mine.any() and (taken.kflags[mine] & kpage.KPF_ZERO_PAGE).all()


@live
def test_the_demos_shared_pages_alternate(taken):
    vma, mine = region(taken, "shared by fork")
    exclusive = (taken.pagemap[mine] & PM_MMAP_EXCLUSIVE) != 0
    assert mine.sum() == (vma["end"] - vma["start"]) // np.uint64(taken.page_size)
    assert np.array_equal(exclusive, np.arange(mine.sum()) % 2 == 0)
    assert np.array_equal(taken.mapcount[mine] > 1, ~exclusive)


@live
def test_the_demos_huge_pages_are_whole_folios(taken):
    if "[never]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text():
        pytest.skip("transparent huge pages are switched off")
    table = taken.page_size // 8
    for name in ("thp", "pte-mapped", "forked"):
        _, mine = region(taken, name)
        whole = taken.order[mine] == table.bit_length() - 1
        if not whole.any():
            pytest.skip("the kernel had no huge page to give")
        assert np.array_equal(taken.pfn[mine][whole] % np.uint64(table), taken.vpn[mine][whole] % np.uint64(table))
    assert not taken.huge[region(taken, "pte-mapped")[1]].any()


@live
def test_a_terabyte_of_reserved_addresses_costs_nothing():
    code = (
        "import mmap,sys\n"
        "m = mmap.mmap(-1, 1 << 40, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)\n"
        "m[1 << 39] = 1\nprint('ready', flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"ready\n"
        s = read_process(child.pid)
        child.stdin.close()
    at = int(np.argmax(s.vmas["end"] - s.vmas["start"]))
    assert s.vmas["end"][at] - s.vmas["start"][at] >= 1 << 40
    assert 1 <= np.count_nonzero(s.vma_of == at) <= 1 << 13


@live
def test_pages_touched_here_and_there_are_all_read():
    """More regions than one PAGEMAP_SCAN returns: JVMs, postgres, any large reservation."""
    step, nr = 700, 5000
    code = (
        f"import mmap,sys\nm = mmap.mmap(-1, {step * nr} << 12, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)\n"
        f"m.madvise(15)\nfor i in range({nr}): m[i * {step} << 12] = 1\n"
        "print('ready', flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"ready\n"
        s = read_process(child.pid)
        child.stdin.close()
    at = int(np.argmax(s.vmas["end"] - s.vmas["start"]))
    mine = s.vpn[s.vma_of == at]
    assert mine.size == nr and set(np.diff(mine).tolist()) == {step}


@live
def test_a_process_that_executes_programs_is_read_whole_or_refused():
    """Never as nothing: exec() takes the address space away under the reader."""
    code = "import os, sys\nos.execv(sys.executable, [sys.executable, '-S', '-c', sys.argv[1], sys.argv[1]])"
    with subprocess.Popen([sys.executable, "-c", code, code]) as child:
        try:
            said = []
            for _ in range(40):
                try:
                    said.append(read_process(child.pid).vpn.size)
                except InputError as e:
                    assert "executed another program" in str(e) or "has ended" in str(e), e
        finally:
            child.kill()
    assert min(said) > 0


@live
def test_this_process_can_be_read_while_it_runs():
    s = read_process(os.getpid())
    assert s.vpn.size > 1000 and s.meta["pid"] == os.getpid()


RESTLESS = """
import mmap, os, sys
print("ready", flush=True)
while True:
    m = mmap.mmap(-1, 6 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    m.madvise(14)
    for at in range(0, len(m), 4096):
        m[at] = 1
    if os.fork() == 0:
        for at in range(0, len(m), 65536):
            m[at] = 2
        os._exit(0)
    m.madvise(4, 1 << 20, 1 << 20)
    os.wait()
    m.close()
"""


@live
def test_a_process_that_never_rests_is_read_without_an_error():
    with subprocess.Popen([sys.executable, "-c", RESTLESS], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout.readline() == b"ready\n"
            taken = []
            while len(taken) < 200 and (len(taken) < 10 or not any(any(s.lost.values()) for s in taken)):
                taken.append(read_process(child.pid))
        finally:
            child.kill()
    assert all(s.vpn.size > 500 for s in taken)
    assert any(any(s.lost.values()) for s in taken)


@live
def test_without_the_right_the_error_says_so():
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        text = "nothing raised"
        try:
            os.setuid(65534)
            ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE: own /proc files stay readable
            read_process(os.getpid())
        except InputError as e:
            text = str(e)
        finally:
            os.write(write, text.encode())
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    assert "CAP_SYS_ADMIN" in text and "root" in text


@live
def test_a_child_that_has_ended_is_an_error():
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(InputError, match="no user memory"):
        read_process(child.pid)  # a zombie
    child.wait()
    with pytest.raises(InputError, match="no process"):
        read_process(child.pid)


@live
def test_the_demo_ends_with_its_block():
    with demo.running() as process:
        assert os.path.isdir(f"/proc/{process.pid}")
    assert not os.path.isdir(f"/proc/{process.pid}")
