"""A sequence of calls as a C program, for whoever wants to see a difference without the model."""

from __future__ import annotations

from collections.abc import Sequence

from .hostops import ADVICE, BASE, LARGE, MOVES, Op

__all__ = ["program"]

_HEAD = """\
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define P(n) ((char *){arena:#x} + (n) * {page}L)
#define N(n) ((n) * {page}L)
/* every process comes by every step; the one whose turn it is makes the call */
#define STEP(i, p, call) \\
    while (*turn < i) \\
        usleep(100); \\
    if (me == p) {{ \\
        errno = 0; \\
        call; \\
        fprintf(stderr, "%2d process %d: %s: %s\\n", i, p, #call, strerror(errno)); \\
        *turn = i + 1; \\
    }}

static volatile int *turn;
static int me;
static volatile char byte;

static void look(void) {{
    char line[256];
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof(line), maps)) {{
        unsigned long start;
        if (sscanf(line, "%lx", &start) == 1 && start >= (unsigned long)P(0) && start < (unsigned long)P({end}))
            fprintf(stderr, "   %s", line);
    }}
    fclose(maps);
}}

int main(void) {{
    int file = memfd_create("pages", 0);
    turn = mmap(NULL, N(1), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < {pages}; i++)
        pwrite(file, "M", 1, N(i));
"""
_TAIL = """\
    return 0;
}
"""
_PROT = {0: "PROT_NONE", 1: "PROT_READ", 3: "PROT_READ | PROT_WRITE"}


def _call(op: Op, children: int) -> str:
    start, size = f"P({op.first})", f"N({op.nr})"
    if op.name in ("mmap", "mapfile"):
        kind = "MAP_SHARED" if op.shared else "MAP_PRIVATE"
        what = " | MAP_ANONYMOUS, -1, 0" if op.name == "mmap" else f", file, N({op.first})"
        return f"mmap({start}, {size}, {_PROT[op.arg]}, {kind} | MAP_FIXED{what})"
    if op.name == "mprotect":
        return f"mprotect({start}, {size}, {_PROT[op.arg]})"
    if op.name == "madvise":
        # guards are newer than most headers
        advice = next(name for name, value in ADVICE.items() if value == op.arg)
        return f"madvise({start}, {size}, {op.arg} /* {advice} */)"
    if op.name in MOVES:
        stays = " | 4 /* MREMAP_DONTUNMAP */" if op.name == "dontunmap" else ""
        return f"mremap({start}, {size}, N({op.new_nr}), MREMAP_MAYMOVE | MREMAP_FIXED{stays}, P({op.arg}))"
    if op.name == "resize":
        return f"mremap({start}, {size}, N({op.arg}), 0)"
    if op.name == "mseal":
        return f"syscall(462 /* mseal */, {start}, {size}, 0)"
    if op.name == "read":
        return f"byte = *{start}"
    if op.name == "write":
        return f"*{start} = {op.arg}"
    if op.name == "fork":
        # the child goes on where the parent says that the step is done
        return f"if (!fork()) {{ me = {children}; }}"
    return f"{op.name}({start}, {size})"


def program(ops: Sequence[Op], page: int) -> str:
    """Return a C program that makes the calls and shows the VMAs after the last one.

    Parameters
    ----------
    ops : sequence of Op
    page : int
        Bytes of a page.
    """
    lines = []
    alive, made = [0], 1
    last = 0
    for i, op in enumerate(ops):
        last = alive[op.who]
        if op.name == "exit":
            alive.pop(op.who)
            lines.append(f"    STEP({i}, {last}, {{ *turn = {i + 1}; _exit(0); }})")
            lines.append("    usleep(100000);")
            continue
        lines.append(f"    STEP({i}, {last}, {_call(op, made)})")
        if op.name == "fork":
            alive.append(made)
            made += 1
    lines.append(f"    STEP({len(ops)}, {last}, look())")
    head = _HEAD.format(arena=BASE, page=page, end=LARGE.all, pages=LARGE.pages)
    return head + "\n".join(lines) + "\n" + _TAIL
