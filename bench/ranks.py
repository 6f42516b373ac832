"""A training step of several ranks on one machine: losses with `group=` against what else computes the same loss.

    python bench/ranks.py [--sizes 1024 4096] [--ranks 2 4] [--seconds 5] [--output FILE.md]

All ranks are processes of one gloo group with one thread each. The variants take turns in the same rounds:

- `group`: `loss(embeddings, labels, group=...)`
- `every rank`: `all_gather_rows`, and the whole loss on every rank, which is what people write
- `one process`: the whole batch on rank 0 with `--threads` threads, while the other ranks wait

Losses and gradients are compared first. A round's time is that of the slowest rank, forward + backward. Ratios are of
the medians and, in parentheses, of the fastest rounds. The last table has gloo's part: all-reduces of 40 bytes, each
after 6 ms of work on every rank.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads of waiting ranks would take the cores of the others

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

import environment
import memory
from hardmine import ops
from hardmine.distributed import all_gather_rows

LOSSES: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "sct_loss": (ops.sct_loss, {}),
    "triplet_loss, semi-hard": (ops.triplet_loss, {"negative": "semihard"}),
    "tuplet_loss": (ops.tuplet_loss, {}),
}
VARIANTS = ("group", "every rank", "one process")
DEPTH = 128


def inputs_of(rows: int) -> tuple[Tensor, Tensor]:
    """A batch of classes of 4, in random order."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(rows) // 4)[torch.randperm(rows, generator=generator)]
    centers = torch.randn(rows // 4 + 1, DEPTH, generator=generator)
    return centers[labels] + torch.randn(rows, DEPTH, generator=generator), labels


def step_of(loss_name: str, variant: str, rows: Tensor, labels: Tensor) -> Callable[[], tuple[Tensor, Tensor]]:
    """A step of this rank; returns the loss, and the gradient of its rows as in one process."""
    loss_function, options = LOSSES[loss_name]
    per_rank = len(rows) // dist.get_world_size()
    own = slice(dist.get_rank() * per_rank, (dist.get_rank() + 1) * per_rank)
    leaf = rows[slice(None) if variant == "one process" else own].clone().requires_grad_()

    def step() -> tuple[Tensor, Tensor]:
        leaf.grad = None
        if variant == "group":
            loss = loss_function(leaf, labels[own], **options, group=dist.group.WORLD)
        elif variant == "every rank":
            gathered = all_gather_rows(leaf, labels[own])
            loss = loss_function(gathered.embeddings, gathered.labels, **options)
        else:
            loss = loss_function(leaf, labels, **options)
        loss.backward()
        return loss.detach(), leaf.grad  # type: ignore[return-value]  # set by backward

    return step


def check(found: dict[str, tuple[Tensor, Tensor]]) -> None:
    """The variants agree: gradients with several ranks are those of one process, times the number of ranks."""
    ranks = dist.get_world_size()
    loss, grad = found["one process"]
    own = grad.chunk(ranks)[dist.get_rank()]
    for variant in ("group", "every rank"):
        torch.testing.assert_close(found[variant][0], loss, rtol=1e-5, atol=0)
        torch.testing.assert_close(found[variant][1] / ranks, own, rtol=0, atol=1e-5 * float(own.abs().max()))


def timed(step: Callable[[], Any], alone: bool) -> float:
    """Seconds of the slowest rank; of rank 0 if it works alone."""
    dist.barrier()
    start = time.perf_counter()
    if not alone or dist.get_rank() == 0:
        step()
    seconds = torch.tensor(time.perf_counter() - start if not alone or dist.get_rank() == 0 else 0.0)
    dist.all_reduce(seconds, dist.ReduceOp.MAX)
    return float(seconds)


def time_variants(loss_name: str, rows: Tensor, labels: Tensor, threads: int, seconds: float) -> dict[str, list[float]]:
    """The median and the smallest milliseconds of every variant."""
    steps = {variant: step_of(loss_name, variant, rows, labels) for variant in VARIANTS}
    check({variant: step() for variant, step in steps.items()})
    times: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    spent = 0.0
    while spent < seconds or len(times["group"]) < 3:
        for variant in VARIANTS:
            torch.set_num_threads(threads if variant == "one process" else 1)
            times[variant].append(timed(steps[variant], variant == "one process"))
            spent += times[variant][-1]
    torch.set_num_threads(1)
    return {variant: [1000 * statistics.median(samples), 1000 * min(samples)] for variant, samples in times.items()}


def time_collective(rounds: int = 100) -> list[float]:
    """Milliseconds of an all-reduce of 40 bytes after 6 ms of work: the smallest, the median, the 9th decile."""
    value, samples = torch.zeros(5, dtype=torch.int64), []
    for _ in range(rounds):
        dist.barrier()
        end = time.perf_counter() + 0.006
        while time.perf_counter() < end:
            pass
        start = time.perf_counter()
        dist.all_reduce(value)
        samples.append(1000 * (time.perf_counter() - start))
    return [min(samples), statistics.median(samples), statistics.quantiles(samples, n=10)[-1]]


def peak_of(loss_name: str, variant: str, rows: Tensor, labels: Tensor) -> float:
    """The peak MiB of this rank beyond its inputs, the largest of all ranks."""
    step_of(loss_name, variant, *inputs_of(256))()
    step = step_of(loss_name, variant, rows, labels)
    memory.return_free_memory()
    before = memory.status_bytes("VmRSS")
    if not memory.reset_high_water_mark():
        raise SystemExit("the kernel cannot reset VmHWM")
    if variant != "one process" or dist.get_rank() == 0:
        step()
    peak = torch.tensor(float(memory.status_bytes("VmHWM") - before))
    dist.all_reduce(peak, dist.ReduceOp.MAX)
    return float(peak) / memory.MIB


def work(rank: int, ranks: int, store: str, task: tuple[Any, ...], output: str) -> None:
    """One rank. `task`: ("time", loss, size, threads, seconds), ("peak", loss, size, variant) or ("collective",)."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    kind, *arguments = task
    result: Any
    if kind == "collective":
        result = time_collective()
    else:
        loss_name, size, *rest = arguments
        rows, labels = inputs_of(size)
        timing = kind == "time"
        result = time_variants(loss_name, rows, labels, *rest) if timing else peak_of(loss_name, *rest, rows, labels)
    if rank == 0:
        Path(output).write_text(json.dumps(result))
    dist.destroy_process_group()


def run(ranks: int, *task: Any) -> Any:
    """The result of a task on new processes: a peak of memory needs processes of its own."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, (ranks, f"{folder}/store", task, f"{folder}/result"), nprocs=ranks)
        return json.loads(Path(folder, "result").read_text())


def table(results: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        "| loss | N | ranks | time / every rank | time / one process | peak MiB: group | every rank | one process |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        ms, peak = result["ms"], result["peak"]
        ratios = [[ms["group"][k] / ms[variant][k] for k in range(2)] for variant in VARIANTS[1:]]
        cells = [result["loss"], f"{result['size']:,}", str(result["ranks"])]
        cells += [f"{median:.2f} ({fastest:.2f})" for median, fastest in ratios]
        lines.append("| " + " | ".join(cells + [f"{peak[variant]:.1f}" for variant in VARIANTS]) + " |")
    return "\n".join(lines)


def collective_table(results: dict[int, list[float]]) -> str:
    """The times of collectives as Markdown."""
    lines = ["| ranks | fastest, ms | median, ms | 9th decile, ms |", "|---|---|---|---|"]
    lines += [f"| {ranks} | " + " | ".join(f"{ms:.2f}" for ms in found) + " |" for ranks, found in results.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="*", type=int, default=[1024, 4096, 16384], help="rows of all ranks together")
    parser.add_argument("--ranks", nargs="*", type=int, default=[2, 4], help="numbers of processes")
    parser.add_argument("--losses", nargs="*", default=list(LOSSES), choices=list(LOSSES))
    parser.add_argument("--threads", type=int, default=2, help="threads of the one process")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds per table row")
    parser.add_argument("--output", type=Path, help="also write the table and the environment to this file")
    args = parser.parse_args()
    results = []
    for ranks in args.ranks:
        for size in args.sizes:
            for loss_name in args.losses:
                ms = run(ranks, "time", loss_name, size, args.threads, args.seconds)
                peak = {variant: run(ranks, "peak", loss_name, size, variant) for variant in VARIANTS}
                results.append({"loss": loss_name, "size": size, "ranks": ranks, "ms": ms, "peak": peak})
                print(table(results[-1:]).splitlines()[-1], flush=True)
    tables = table(results) + "\n\n" + collective_table({ranks: run(ranks, "collective") for ranks in args.ranks})
    print(tables)
    if args.output:
        head = "\n".join(f"- {key}: {value}" for key, value in environment.describe().items())
        args.output.write_text(f"# Steps of several ranks\n\n{head}\n\n{tables}\n")


if __name__ == "__main__":
    main()
