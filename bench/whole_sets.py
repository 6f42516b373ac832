"""`mining.all_knn` from a file on disk against one `ops.knn` of the rows in memory, and 2 ranks against 1.

    python bench/whole_sets.py ROWS.npy [--rows N] [-k 50] [--rounds 3] [--threads 2] [--only knn|ranks|memory]

The variants take turns in the same rounds; results are compared first. Each time is that of a whole call, which
includes reading, checking and writing. Ratios are of medians and, in parentheses, of the fastest rounds; of ranks, the
slowest counts. Peak memory is
that of a process that runs `all_knn` alone, with Python and torch. Ranks are processes with one thread each.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads of waiting ranks would take the cores of the others

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from hardmine import ops
from hardmine.mining import NeighborShards, all_knn, plan_all_knn


class Times(NamedTuple):
    """Seconds of a call: on the clock, and of the process's threads on the CPU, which other processes disturb less."""

    wall: float
    cpu: float


def timed(work: Callable[[], Any]) -> Times:
    """The seconds that ``work`` takes."""
    start = Times(time.perf_counter(), time.process_time())
    work()
    return Times(time.perf_counter() - start.wall, time.process_time() - start.cpu)


def show(name: str, times: list[Times], other: list[Times]) -> None:
    """Prints a line per clock: both medians, their ratio, and that of the fastest rounds."""
    for clock in Times._fields:
        mine, theirs = ([getattr(t, clock) for t in values] for values in (times, other))
        ratio, fastest = statistics.median(mine) / statistics.median(theirs), min(mine) / min(theirs)
        print(
            f"{name}, {clock} seconds: {statistics.median(mine):.2f} and {statistics.median(theirs):.2f}, "
            f"ratio {ratio:.3f} ({fastest:.3f})",
            flush=True,
        )


def against_knn(rows: Path, k: int, rounds: int, threads: int, folder: Path) -> None:
    """One process against one call of ``ops.knn``."""
    torch.set_num_threads(threads)
    in_memory = torch.from_numpy(np.ascontiguousarray(np.load(rows)))
    expected = ops.knn(in_memory, k=k)
    found = all_knn(rows, folder / "compared", k)[:]
    assert torch.equal(found.index, expected.index)
    assert torch.equal(found.similarity, expected.similarity)
    del found, expected
    own, other = [], []
    for number in range(rounds):
        other.append(timed(lambda: ops.knn(in_memory, k=k)))
        own.append(timed(lambda number=number: all_knn(rows, folder / f"knn-{number}", k)))
    show(f"all_knn against ops.knn, {threads} threads", own, other)


def on_rank(rank: int, count: int, rows: Path, k: int, folder: Path, number: int, results: Any) -> None:
    """Lists by one of some ranks, which sends its times and peak memory."""
    torch.set_num_threads(1)
    group = None
    if count > 1:
        store = f"file://{folder}/store-{number}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=count)
        group = dist.group.WORLD
        dist.barrier()
    seconds = timed(lambda: all_knn(rows, folder / f"ranks-{count}-{number}", k, group=group))
    results.put((tuple(seconds), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
    if count > 1:
        dist.destroy_process_group()


def spawn(count: int, rows: Path, k: int, folder: Path, number: int) -> tuple[Times, float]:
    """The times of the slowest rank, and the largest peak memory in MiB."""
    results = mp.get_context("spawn").SimpleQueue()
    mp.spawn(on_rank, (count, rows, k, folder, number, results), nprocs=count)
    times, peaks = zip(*(results.get() for _ in range(count)), strict=True)
    return Times(*(max(values) for values in zip(*times, strict=True))), max(peaks)


def against_one_rank(rows: Path, k: int, rounds: int, folder: Path) -> None:
    """2 ranks with one thread each against one."""
    one, two = [], []
    for number in range(rounds):
        one.append(spawn(1, rows, k, folder, number)[0])
        two.append(spawn(2, rows, k, folder, number)[0])
    first, second = (NeighborShards(folder / f"ranks-{count}-0")[:] for count in (1, 2))
    assert torch.equal(first.index, second.index)
    assert torch.equal(first.similarity, second.similarity)
    show("2 ranks against 1, one thread each", two, one)


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--rows", type=int)
    parser.add_argument("-k", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=["knn", "ranks", "memory"])
    parser.add_argument("--folder", type=Path, help="where files are written; by default the system's temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        rows = folder / "rows.npy"
        np.save(rows, np.ascontiguousarray(np.load(arguments.file, mmap_mode="r")[: arguments.rows]))
        plan = plan_all_knn(rows, arguments.k)
        print(f"{plan}, {os.cpu_count()} cores, torch {torch.__version__}", flush=True)
        if arguments.only in (None, "memory"):
            seconds, peak = spawn(1, rows, arguments.k, folder, 99)
            print(
                f"peak memory of a process that lists alone: {peak:.0f} MiB, in {seconds.wall:.1f} s, one thread",
                flush=True,
            )
        if arguments.only in (None, "knn"):
            against_knn(rows, arguments.k, arguments.rounds, arguments.threads, folder)
        if arguments.only in (None, "ranks"):
            against_one_rank(rows, arguments.k, arguments.rounds, folder)


if __name__ == "__main__":
    main()
