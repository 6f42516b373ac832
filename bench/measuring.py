"""Measures one row: the time of all rivals at one size, or the peak memory of one. Each runs in a forked process.

A forked process has torch imported already, but neither threads nor memory of earlier rows.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

import memory
import paired
import rivals
from rivals import checks

TIMEOUT_S = 400
LARGE_N = 8192  # from here on few rounds are required
MEMORY_SHARE = 0.85  # of the free memory; a process that takes all of it is killed, and others too


@dataclass(frozen=True)
class Row:
    """A case at one size, as `sct:128x512:1`."""

    case: str
    n: int
    d: int
    threads: int

    def __str__(self) -> str:
        return f"{self.case}:{self.n}x{self.d}:{self.threads}"

    @staticmethod
    def parse(text: str) -> Row:
        """Reads `CASE:NxD` or `CASE:NxD:THREADS`.

        Raises:
            ValueError: The text has another form, or there is no such case.
        """
        found = re.fullmatch(r"(\w+):(\d+)x(\d+)(?::(\d+))?", text)
        if found is None or found[1] not in rivals.CASES:
            cases = ", ".join(rivals.CASES)
            raise ValueError(f"a row must be CASE:NxD or CASE:NxD:THREADS with a CASE of {cases}, got {text!r}")
        return Row(found[1], int(found[2]), int(found[3]), int(found[4] or torch.get_num_threads()))


def speed(row: Row, names: Sequence[str], seconds: float) -> dict[str, Any]:
    """Median times of forward + backward of the named rivals, checked first, and the ratios to ours."""
    torch.set_num_threads(row.threads)
    try:
        steps, skipped = rivals.build_all(row.case, row.n, row.d, names)
    except rivals.SkippedRivalError as reason:  # the row has no data
        return {"ratios": {}, "skipped": {"every rival": str(reason)}}
    if row.case == "sct":
        checks.assert_both_branches(steps[rivals.OURS].inputs)
    try:
        checks.check(steps)
    except checks.CompileError as error:
        skipped[rivals.COMPILED] = str(error)
        del steps[rivals.COMPILED]
    samples = paired.measure(steps, seconds, min_rounds=3 if row.n >= LARGE_N else 5, description=str(row))
    times = {name: found.both if steps[name].backward else found.forward for name, found in samples.items()}
    ours = times[rivals.OURS]
    return {
        "ms": {name: float(np.nanmedian(found)) * 1e3 for name, found in times.items()},
        "ratios": {name: asdict(paired.ratio(found, ours)) for name, found in times.items() if name != rivals.OURS},
        "skipped": skipped,
        "source": steps[rivals.OURS].inputs.source,
    }


def peak(row: Row, name: str) -> dict[str, Any]:
    """Peak memory of a step beyond its inputs, with its gradient, and the time of this one step."""
    torch.set_num_threads(row.threads)

    def step_of(n: int) -> Callable[[], Any]:
        rival = rivals.build(row.case, name, rivals.CASES[row.case].make_inputs(n, row.d))
        return lambda: checks.result_of(rival)

    # A first step loads libraries, starts threads and allocates scratch memory of BLAS. Compiled code needs its size.
    warm_n = row.n if name == rivals.COMPILED else min(row.n, 256)
    warm = step_of(warm_n)
    warm()
    step = warm if warm_n == row.n else step_of(row.n)
    found, seconds = memory.peak_of(step)
    return {"mib": found / memory.MIB, "seconds": seconds}


def _send(sender: Connection, function: Callable[..., dict[str, Any]], arguments: Sequence[Any]) -> None:
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # its other processes would outlive this one
    try:
        found = function(*arguments)
    except rivals.SkippedRivalError as reason:
        found = {"skipped": str(reason)}
    except Exception as error:
        traceback.print_exc()
        found = {"error": f"{type(error).__name__}: {error}"}
    sender.send(found)


def in_child(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """The function's result in a forked process, or {"error": ...} if it raises, is killed or takes too long."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        if receiver.poll(TIMEOUT_S):
            return receiver.recv()
        return {"error": f"took more than {TIMEOUT_S} s"}
    except EOFError:
        process.join()
        return {"error": f"the process ended with status {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def _compute_forever() -> None:
    torch.set_num_threads(1)
    x = torch.randn(300, 300)
    while True:
        x = torch.mm(x, x).clamp(-1, 1)


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Other processes compute while the block runs, as the workers of a DataLoader do."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_compute_forever, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def too_large(smaller: dict[str, Any] | None) -> str:
    """Why a step of twice the rows, whose matrices are four times as large, would not fit; else an empty string."""
    if smaller is None or "mib" not in smaller:
        return "" if smaller is None else "less did not fit"
    need, free = 4 * smaller["mib"], memory.available_bytes() / memory.MIB
    if need <= MEMORY_SHARE * free:
        return ""
    return f"needs about {need / 1024:.0f} GiB, more than {MEMORY_SHARE} of the {free / 1024:.0f} GiB that are free"
