"""Measures sct_loss on a GPU against its rivals and writes one Markdown file, and the numbers behind it as JSON.

    PYTHONPATH=.:bench python -m gpu.report [--seconds 140] [--output build/gpu-results/report]
    PYTHONPATH=.:bench python -m gpu.report --dry-run    runs everything on the CPU, with placeholder times

The files are written after every case. If the time limit ends the run, the remaining cases are reported as missing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

import environment
from gpu import figures
from hardmine import ops
from rivals import by_hand
from rivals.checks import assert_both_branches, assert_same_loss
from rivals.common import GIB, Inputs, Rival, SkippedRivalError, gradient_of
from rivals.inputs import class_samples

# In order of priority, because time may run out: sizes with a target come first, and among them those that build fast.
SIZES, DIMS, DTYPES = (128, 4096, 16384, 65536, 1024), (128, 512), ("bfloat16", "float32")
BY_HAND_BYTES = 24  # per entry of the matrix, rounded up, at the peak of a step of the code by hand
NAMES = ("hardmine", *figures.RIVALS, "matmul")
ROW_TOLERANCE = {"bfloat16": 2e-2, "float32": 1e-3}  # for gradients: a few roundings of the dtype
Step = Callable[[], Any]


class Gpu:
    """The GPU, and how to measure on it."""

    device, dry_run = "cuda", False

    def time_ms(self, step: Step) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        kept = step()
        end.record()
        torch.cuda.synchronize()
        del kept  # freed outside the timed part
        return start.elapsed_time(end)

    def peak_bytes(self, step: Step) -> int:
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def launches(self, step: Step) -> int:
        activities = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities):  # the first profile of a process may miss events
            step()
            torch.cuda.synchronize()
        with torch.profiler.profile(activities=activities) as profile:
            step()
            torch.cuda.synchronize()
        found = sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events())
        assert found > 0, "the profiler recorded no kernel of the step"
        return found

    def free_bytes(self) -> int:
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[0]

    def cache_bytes(self) -> int:
        return torch.cuda.get_device_properties(0).L2_cache_size

    def about(self) -> dict[str, str]:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        found = torch.cuda.get_device_properties(0)
        return {
            "GPU": f"{found.name}, {found.multi_processor_count} SMs, L2 {found.L2_cache_size / 2**20:.0f} MiB, "
            f"{found.total_memory / GIB:.0f} GiB",
            "driver": first_line_of(query),
            "nvcc": first_line_of(["bash", "-c", "nvcc --version | grep release"]),
            "torch's CUDA": str(torch.version.cuda),
            "float32 matmul precision": torch.get_float32_matmul_precision(),
        }


class DryRun(Gpu):
    """The CPU in place of a GPU: every step runs, to check that it works; all numbers are placeholders."""

    device, dry_run = "cpu", True

    def time_ms(self, step: Step) -> float:
        step()
        return 1.0

    def peak_bytes(self, step: Step) -> int:
        step()
        return 1

    def launches(self, step: Step) -> int:
        step()
        return 1

    def free_bytes(self) -> int:
        return GIB

    def cache_bytes(self) -> int:
        return 2**16

    def about(self) -> dict[str, str]:
        return {"GPU": "none (dry run)"}


def first_line_of(command: list[str]) -> str:
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return lines[0].strip() if lines else "unknown"


def median_rate(gpu: Gpu, work: float, step: Step) -> float:
    """The work per second, at the median time after three warm-up steps."""
    times = [gpu.time_ms(step) for _ in range(8)]
    return work / (1e-3 * statistics.median(times[3:]))


def measure_rates(gpu: Gpu) -> dict[str, float]:
    """Rates that this GPU reaches: flops per second of a large matmul by dtype, bytes per second of a large copy."""
    n, count = (64, 2**10) if gpu.dry_run else (8192, 2**28)
    rates = {}
    for dtype in DTYPES:
        a = torch.randn(n, n, device=gpu.device).to(getattr(torch, dtype))
        rates[dtype] = median_rate(gpu, 2 * n**3, partial(torch.mm, a, a.T))
    source = torch.zeros(count, device=gpu.device)
    rates["bytes"] = median_rate(gpu, 2 * 4 * count, partial(torch.empty_like(source).copy_, source))
    return rates


class Copies:
    """Copies of a batch, so that consecutive steps read different memory."""

    def __init__(self, n: int, d: int, dtype: str, gpu: Gpu) -> None:
        batch = class_samples(n, d)
        rows = batch.embeddings.detach().to(gpu.device, getattr(torch, dtype))
        self.labels = batch.labels.to(gpu.device)
        self.count = figures.copies_past_cache(rows.nbytes, gpu.cache_bytes())
        self.rows = rows.expand(self.count, n, d).clone()

    def __getitem__(self, number: int) -> Inputs:
        return Inputs(self.rows[number % self.count].requires_grad_(), self.labels)


def require_gpu_memory(gpu: Gpu, need: float) -> None:
    free = gpu.free_bytes()
    if need > 0.8 * free:
        raise SkippedRivalError(f"needs about {need / GIB:,.0f} GiB, {free / GIB:.1f} GiB are free")


def by_hand_sct(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """In float32 for every dtype, as one computes losses under autocast."""
    return by_hand.sct(x.float(), labels)


def builder(name: str, n: int, dtype: str, gpu: Gpu) -> Callable[[Inputs], Rival]:
    """Returns a function that builds the rival on one copy of the inputs.

    Raises:
        SkippedRivalError: The rival cannot run here.
    """
    if name == "matmul":
        require_gpu_memory(gpu, figures.ITEM_BYTES[dtype] * n**2)
        return lambda inputs: Rival(name, partial(_multiply, inputs.embeddings.detach()), None, inputs)
    if name == "hardmine":
        loss = ops.sct_loss
    else:
        require_gpu_memory(gpu, BY_HAND_BYTES * n**2)
        loss = by_hand_sct
    if name == "torch.compile":
        torch.compiler.reset()
        loss = torch.compile(by_hand_sct, dynamic=False, backend="eager" if gpu.dry_run else "inductor")
    return lambda inputs: Rival(name, partial(loss, inputs.embeddings, inputs.labels), gradient_of(inputs), inputs)


def _multiply(x: torch.Tensor) -> torch.Tensor:
    return torch.mm(x, x.T)


def full_step(rival: Rival) -> Any:
    output = rival.forward()
    return output if rival.backward is None else rival.backward(output)


def check(n: int, d: int, dtype: str, gpu: Gpu) -> str:
    """Asserts the loss and gradient of the code by hand; returns a remark for the report, or "".

    If that does not fit into memory, the check uses fewer samples.
    """
    checked_n = n
    while checked_n > 512 and BY_HAND_BYTES * checked_n**2 > 0.5 * gpu.free_bytes():
        checked_n //= 2
    inputs = Copies(checked_n, d, dtype, gpu)[0]
    assert_both_branches(inputs)
    expected, actual = (builder(name, checked_n, dtype, gpu)(inputs) for name in ("pytorch", "hardmine"))
    output = expected.forward()
    expected_result = (output.detach(), expected.backward(output))
    output = actual.forward()
    assert_same_loss(output, actual.backward(output), expected_result, ROW_TOLERANCE[dtype])
    return "" if checked_n == n else f"checked at N = {checked_n:,}: by hand, larger N need too much memory"


def warm_up_compiler(gpu: Gpu) -> None:
    """Compiles a small step first: the first build in a process takes several times as long as later builds."""
    inputs = Copies(16, 8, "float32", gpu)[0]
    try:
        full_step(builder("torch.compile", 16, "float32", gpu)(inputs))
    except Exception as error:  # for example, no compiler; each case reports it too
        print(f"torch.compile failed: {type(error).__name__}: {str(error).strip().splitlines()[0]}", flush=True)


def measure_case(n: int, d: int, dtype: str, gpu: Gpu, deadline: float, last_build: dict[str, float]) -> dict:
    """Measures all rivals at one size: median times, peaks, launches, and why a rival is missing.

    `last_build` has the seconds of each rival's last build and warm-up. A rival is skipped if less time than that is
    left.
    """
    case = {"n": n, "d": d, "dtype": dtype, "median_ms": {}, "peak_bytes": {}, "launches": {}}
    case |= {"skipped": {}, "remarks": []}
    try:
        case["remarks"] += [remark] if (remark := check(n, d, dtype, gpu)) else []
    except Exception as error:  # a wrong or failed size must not stop the others; main's exit status reports it
        case["error"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        case["skipped"] = {name: f"hardmine failed, {case['error']}" for name in NAMES}
        return case
    copies, built, number = Copies(n, d, dtype, gpu), {}, 0
    for name in NAMES:
        start = time.monotonic()
        left = deadline - start
        try:
            if name != "hardmine" and last_build.get(name, 0.0) > left:
                raise SkippedRivalError(f"not enough time was left: {max(left, 0):.0f} s")
            build = builder(name, n, dtype, gpu)
            for _ in range(3):  # compiles and warms up
                full_step(build(copies[number]))
                number += 1
            built[name] = cache(lambda turn, build=build: build(copies[turn]))
            case["peak_bytes"][name] = gpu.peak_bytes(partial(full_step, built[name](number % copies.count)))
        except SkippedRivalError as reason:
            case["skipped"][name] = str(reason)
        except Exception as error:  # out of memory, no compiler for torch.compile: many types
            case["skipped"][name] = f"failed: {type(error).__name__}: {str(error).strip().splitlines()[0]}"
            built.pop(name, None)
        else:
            last_build[name] = time.monotonic() - start
    times = {name: [] for name in built}

    def time_round() -> float:
        nonlocal number
        start = time.monotonic()
        for name in built:
            number += 1
            rival = built[name](number % copies.count)
            times[name].append(gpu.time_ms(partial(full_step, rival)))
        return 1e3 * (time.monotonic() - start)

    round_ms = time_round()
    for _ in range(figures.rounds_for(deadline - time.monotonic(), round_ms)):
        time_round()
    case["median_ms"] = {name: statistics.median(found[1:]) for name, found in times.items()}
    case["rounds"] = len(times["hardmine"]) - 1 if times.get("hardmine") else 0
    if "hardmine" in built:
        case["launches"]["hardmine"] = gpu.launches(partial(full_step, built["hardmine"](0)))
    return case


def plan(dry_run: bool) -> list[tuple[int, int, str]]:
    """N, D and dtype of every case, in the order of measurement."""
    sizes, dims = ((16, 64), (8,)) if dry_run else (SIZES, DIMS)
    return [(n, d, dtype) for n in sizes for d in dims for dtype in DTYPES]


def unmeasured(n: int, d: int, dtype: str, why: str) -> dict:
    empty = {"median_ms": {}, "peak_bytes": {}, "launches": {}, "remarks": []}
    return {"n": n, "d": d, "dtype": dtype, **empty, "skipped": dict.fromkeys(NAMES, why)}


def save(results: dict[str, Any], output: Path) -> None:
    """Writes the cases in table order; cases still to come are listed as unmeasured."""
    done = {(case["n"], case["d"], case["dtype"]): case for case in results["cases"]}
    cases = [done.get(key) or unmeasured(*key, "stopped before") for key in sorted(plan(results["dry_run"]))]
    output.parent.mkdir(parents=True, exist_ok=True)
    output.with_suffix(".json").write_text(json.dumps({**results, "cases": cases}, indent=1) + "\n")
    output.with_suffix(".md").write_text(figures.render({**results, "cases": cases}))


def main(arguments: list[str] | None = None) -> int:
    """Measures, writes the files and returns the exit status: 1 if hardmine failed or was wrong in any case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=140.0, help="time for all of it")
    parser.add_argument("--output", type=Path, default=Path("build/gpu-results/report"))
    parser.add_argument("--dry-run", action="store_true", help="without a GPU, with placeholder times")
    args = parser.parse_args(arguments)
    end = time.monotonic() + args.seconds
    gpu = DryRun() if args.dry_run else Gpu()
    about = {**environment.describe(), **gpu.about()}
    results: dict[str, Any] = {"dry_run": gpu.dry_run, "about": about, "rates": measure_rates(gpu), "cases": []}
    cases, last_build = plan(gpu.dry_run), {}
    if time.monotonic() < end:
        warm_up_compiler(gpu)
    for done, (n, d, dtype) in enumerate(cases):
        now = time.monotonic()
        if now >= end:
            results["cases"].append(unmeasured(n, d, dtype, f"the time limit of {args.seconds:g} s was reached"))
        else:
            deadline = now + (end - now) / (len(cases) - done)
            results["cases"].append(measure_case(n, d, dtype, gpu, deadline, last_build))
        save(results, args.output)
        print(figures.speed_table(results["cases"][-1:], results["rates"]).splitlines()[-1], flush=True)
    failed = [case for case in results["cases"] if "error" in case or "failed" in case["skipped"].get("hardmine", "")]
    for case in failed:
        print(f"FAILED at {figures.where(case)}: {case['skipped']['hardmine']}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
