"""Runs a function in several processes, the ranks of a gloo process group."""

from __future__ import annotations

import datetime
import multiprocessing
import multiprocessing.connection
import os
import pickle
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
import torch.distributed as dist

COUNTS = pytest.mark.parametrize("count", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 5))])
"""Numbers of ranks. Forked processes need no second import of torch, so that tests with two ranks are fast."""

COUNTS_FROM_ONE = pytest.mark.parametrize("count", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3, 5))])
"""Numbers of ranks, 1 included, for tests in which no rank differs from the others."""

COMPILING_SECONDS = 300  # inductor runs a C++ compiler, on cores that other tests share


def run_ranks(
    count: int, function: Callable[[int], Any], *, exits: tuple[int, ...] = (), seconds: float = 60
) -> list[Any]:
    """The results of ``function(rank)``, which runs in ``count`` forked processes of one group.

    A process that raises, or has no result after ``seconds``, fails the test. Those in ``exits`` may exit without a
    result, which is then None.
    """
    context = multiprocessing.get_context("fork")
    deadline = time.monotonic() + seconds
    with TemporaryDirectory() as folder:
        pipes = [context.Pipe(duplex=False) for _ in range(count)]
        processes = [
            context.Process(
                target=_run_rank, args=(rank, count, Path(folder) / "store", function, pipes[rank][1], seconds)
            )
            for rank in range(count)
        ]
        for process in processes:
            process.start()
        for _, sender in pipes:
            sender.close()  # then a process that exits closes the last copy but those of later processes
        try:
            results = [_receive(pipes[rank][0], deadline, rank in exits) for rank in range(count)]
        finally:
            for process in processes:
                process.join(5)
                if process.is_alive():
                    process.kill()
                    process.join()
    for rank, (_, error) in enumerate(results):
        assert error is None, f"rank {rank} of {count}:\n{error}"
    return [result for result, _ in results]


def _receive(receiver: Any, deadline: float, may_exit: bool) -> tuple[Any, str | None]:
    if not receiver.poll(max(0, deadline - time.monotonic())):
        return None, "no result in time"
    try:
        return pickle.loads(receiver.recv_bytes())
    except EOFError:
        return None, None if may_exit else "exited without a result"


def _run_rank(rank: int, count: int, store: Path, function: Callable[[int], Any], sender: Any, seconds: float) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)  # the parent's threads do not exist in a forked process
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=count,
        timeout=datetime.timedelta(seconds=seconds / 2),
    )
    try:
        result = function(rank), None
    except BaseException:
        result = None, traceback.format_exc()
    sender.send_bytes(pickle.dumps(result))
    sender.close()
    if result[1] is None and dist.is_initialized():
        dist.destroy_process_group()
