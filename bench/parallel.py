"""Two address spaces on two threads, with two processes as control.

If the core held the GIL, or a lock, threads would lose to processes. Whether a
second CPU is free at all is what the processes show.
"""

from __future__ import annotations

import multiprocessing
import statistics
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

from . import builds

#: large enough that a call is long against handing the GIL over
LENGTH = 4 << 30
CALLS = 60


def _work(world: Any) -> None:
    for _ in range(CALLS // 2):
        world.mm.mprotect(world.start, world.length, 1)
        world.mm.mprotect(world.start, world.length, 3)


def _process(pipe: Connection, layout: str) -> None:
    """Another process: a round for each message, until an empty one."""
    world = builds.load("bench.worlds").build(layout, LENGTH)
    _work(world)
    pipe.send(True)
    while pipe.recv():
        _work(world)
        pipe.send(True)


def _threads(worlds: list[Any]) -> float:
    """Seconds until all have done their round."""
    gate = threading.Barrier(len(worlds) + 1)

    def run(world: Any) -> None:
        gate.wait()
        _work(world)

    workers = [threading.Thread(target=run, args=(world,)) for world in worlds]
    for worker in workers:
        worker.start()
    gate.wait()
    begin = time.perf_counter()
    for worker in workers:
        worker.join()
    return time.perf_counter() - begin


def _processes(pipes: list[Any]) -> float:
    begin = time.perf_counter()
    for pipe in pipes:
        pipe.send(True)
    for pipe in pipes:
        pipe.recv()
    return time.perf_counter() - begin


def measure(layout: str, rounds: int) -> dict[str, Any]:
    """Throughput of two against one, interleaved round by round.

    Returns
    -------
    dict
        ``threads`` and ``processes``: median of the rounds' own ratios, 2.0 for
        two free CPUs; ``*_rounds``: all of them.
    """
    build = builds.load("bench.worlds").build
    worlds = [build(layout, LENGTH) for _ in range(2)]
    context = multiprocessing.get_context("spawn")
    pipes, children = [], []
    for _ in range(2):
        ours, theirs = context.Pipe()
        child = context.Process(target=_process, args=(theirs, layout), daemon=True)
        child.start()
        pipes.append(ours)
        children.append(child)
    for pipe in pipes:
        pipe.recv()
    threads, processes = [], []
    _threads(worlds)
    for _ in range(rounds):
        threads.append(2 * _threads(worlds[:1]) / _threads(worlds))
        processes.append(2 * _processes(pipes[:1]) / _processes(pipes))
    for pipe, child in zip(pipes, children, strict=True):
        pipe.send(False)
        child.join()
    return {
        "what": "threads",
        "layout": layout,
        "threads": statistics.median(threads),
        "processes": statistics.median(processes),
        "threads_rounds": threads,
        "processes_rounds": processes,
    }
