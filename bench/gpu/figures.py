"""Floors, rotation of inputs, verdicts and tables of the GPU report, computed from its numbers. Needs no GPU."""

from __future__ import annotations

import math
from typing import Any

from tables import table
from verdicts import Verdict

ITEM_BYTES = {"bfloat16": 2, "float32": 4}
RIVALS = {
    "pytorch": "plain PyTorch",
    "torch.compile": "torch.compile",
}
LARGE_N = 4096  # the targets apply from this N on
MAX_RELATIVE_PEAK = 16  # O(N D): a fixed multiple of the input's size, for every N
MAX_LAUNCHES = 4
Case = dict[str, Any]  # the return value of report.measure_case

HOW = """\
Forward + backward of `sct_loss`. Times are medians of the CUDA event times of a step. Every round times every rival
once. Each step reads a different copy of the inputs; the copies exceed the L2 cache more than twice. "of matmul" is
hardmine's time divided by the time of cuBLAS `X @ X.T` in the same dtype. Smaller is better. "faster than" is the
rival's time divided by hardmine's. The floor is the minimum work of any implementation. Its flops are N (N + 1) D: the
product of each unordered pair once. Its bytes are N D elements read in forward, read in backward and written as
gradient, and the labels. The floor's time is the larger of both at the rates that this GPU reached in this run, with a
large matmul and a large copy. The share is that time divided by hardmine's. Launches are the kernels, copies and fills
of one step, counted by torch.profiler. Peak memory excludes the inputs and includes the gradient. Before the timing,
hardmine's loss and gradient are compared with those of the code by hand, which is plain PyTorch for this loss alone, in
float32 for every dtype. float32 is exact float32 (no TF32) for all rivals."""


def floor_flops(n: int, d: int) -> int:
    """D multiplications and D additions per unordered pair; pairs of a row with itself count too."""
    return n * (n + 1) * d


def floor_bytes(n: int, d: int, dtype: str) -> int:
    """Forward and backward each read the embeddings, backward writes the gradient; the 8-byte labels are read once."""
    return 3 * n * d * ITEM_BYTES[dtype] + 8 * n


def floor_ms(n: int, d: int, dtype: str, rates: dict[str, float]) -> float:
    """The floor's time; `rates` has flops per second by dtype, and bytes per second under "bytes"."""
    return 1e3 * max(floor_flops(n, d) / rates[dtype], floor_bytes(n, d, dtype) / rates["bytes"])


def copies_past_cache(input_bytes: int, cache_bytes: int) -> int:
    """How many copies of the inputs to rotate, so that a copy has left the cache before its next use."""
    return max(2, math.ceil(2 * cache_bytes / max(1, input_bytes)) + 1)


def rounds_for(seconds: float, round_ms: float, min_rounds: int = 5, max_rounds: int = 50) -> int:
    """How many rounds fit into the time, clamped to [min_rounds, max_rounds]."""
    return max(min_rounds, min(max_rounds, int(1e3 * seconds / max(round_ms, 1e-6))))


def ratio(case: Case, rival: str) -> float | None:
    """The rival's time divided by hardmine's; None if either was not measured."""
    ours, theirs = (case["median_ms"].get(name) for name in ("hardmine", rival))
    return None if ours is None or theirs is None else theirs / ours


def share_of_matmul(case: Case) -> float | None:
    found = ratio(case, "matmul")
    return None if found is None else 1 / found


def share_of_floor(case: Case, rates: dict[str, float]) -> float | None:
    ours = case["median_ms"].get("hardmine")
    return None if ours is None else floor_ms(case["n"], case["d"], case["dtype"], rates) / ours


def where(case: Case) -> str:
    return f"N = {case['n']:,}, D = {case['d']}, {case['dtype']}"


def worst_of(target: str, cases: list[Case], value_of, meets, worst, text: str) -> Verdict:
    """The verdict on the worst value of the cases; open if a case has no value, unless another case already misses."""
    values = [(value_of(case), case) for case in cases]
    found = [(value, case) for value, case in values if value is not None]
    if not found:
        return Verdict(target, None)
    value, case = worst(found, key=lambda pair: pair[0])
    found_text = f"{text.format(value)} at worst ({where(case)})"
    if meets(value) and len(found) < len(values):
        missing = "; ".join(where(case) for value, case in values if value is None)
        return Verdict(target, None, f"{found_text}; not measured: {missing}")
    return Verdict(target, meets(value), found_text)


def faster(rival: str, title: str, min_speed_up: float, large: list[Case]) -> Verdict:
    target = f"at least {min_speed_up:g}x faster than {title} for N >= {LARGE_N:,}, where it fits into memory"
    fits = [case for case in large if not case["skipped"].get(rival, "").startswith("needs about")]
    return worst_of(target, fits, lambda c: ratio(c, rival), lambda v: v >= min_speed_up, min, "{:.2f}x")


def judge(cases: list[Case]) -> list[Verdict]:
    """The verdicts on the targets, over all cases of the plan, measured or not."""
    large = [case for case in cases if case["n"] >= LARGE_N]
    small = [case for case in cases if case["n"] == 128]

    def relative_peak(case: Case) -> float | None:
        peak = case["peak_bytes"].get("hardmine")
        return None if peak is None else peak / (case["n"] * case["d"] * ITEM_BYTES[case["dtype"]])

    at_most = "at most {:g} of the time of cuBLAS X @ X.T for N >= {:,}"
    return [
        *(
            worst_of(at_most.format(limit, LARGE_N), large, share_of_matmul, lambda v, m=limit: v <= m, max, "{:.2f}")
            for limit in (1.0, 0.7)
        ),
        faster("pytorch", "plain PyTorch by hand", 8, large),
        faster("torch.compile", "torch.compile of it", 3, large),
        worst_of(
            f"peak memory O(N D): at most {MAX_RELATIVE_PEAK} times the embeddings for N >= {LARGE_N:,}",
            large,
            relative_peak,
            lambda v: v <= MAX_RELATIVE_PEAK,
            max,
            "{:.1f} times the embeddings",
        ),
        worst_of(
            f"at most {MAX_LAUNCHES} launches per step at N = 128",
            small,
            lambda c: c["launches"].get("hardmine"),
            lambda v: v <= MAX_LAUNCHES,
            max,
            "{}",
        ),
    ]


def cell(value: float | None, text: str) -> str:
    return "-" if value is None else text.format(value)


def speed_table(cases: list[Case], rates: dict[str, float]) -> str:
    header = ["N", "D", "dtype", "hardmine", "of matmul", *(f"faster than {title}" for title in RIVALS.values())]
    header += ["floor", "floor's flops", "floor's bytes", "share of the floor", "launches"]
    rows = []
    for case in cases:
        n, d, dtype = case["n"], case["d"], case["dtype"]
        rows.append(
            [
                *(str(n), str(d), dtype),
                cell(case["median_ms"].get("hardmine"), "{:.3f} ms"),
                cell(share_of_matmul(case), "{:.2f}"),
                *(cell(ratio(case, rival), "{:.1f}x") for rival in RIVALS),
                f"{floor_ms(n, d, dtype, rates):.4f} ms" if rates else "-",
                f"{floor_flops(n, d):.2e}",
                f"{floor_bytes(n, d, dtype):.2e}",
                cell(share_of_floor(case, rates) if rates else None, "{:.0%}"),
                cell(case["launches"].get("hardmine"), "{}"),
            ]
        )
    return table(header, rows)


def memory_table(cases: list[Case]) -> str:
    names = {"hardmine": "hardmine", **RIVALS, "matmul": "matmul"}
    rows = [
        [
            *(str(case["n"]), str(case["d"]), case["dtype"]),
            *(
                cell(None if (p := case["peak_bytes"].get(name)) is None else p / 2**20, "{:,.1f} MiB")
                for name in names
            ),
        ]
        for case in cases
    ]
    return table(["N", "D", "dtype", *names.values()], rows)


def remarks(cases: list[Case]) -> str:
    lines = [f"- {where(case)}: {text}" for case in cases for text in case["remarks"]]
    lines += [f"- not measured: {name} at {where(c)}: {why}" for c in cases for name, why in c["skipped"].items()]
    return "\n".join(lines)


def render(results: dict[str, Any]) -> str:
    cases, rates = results["cases"], results["rates"]
    parts = ["# sct_loss on a GPU, against its rivals"]
    if results["dry_run"]:
        parts.append("**Dry run without a GPU: all times, peaks and counts below are placeholders.**")
    parts.append(table(["", ""], [[name, value] for name, value in results["about"].items()]))
    if rates:
        measured = [f"{name} {rate / 1e12:,.1f} Tflop/s" for name, rate in rates.items() if name != "bytes"]
        parts.append(f"Rates of this run: {', '.join(measured)}, memory {rates['bytes'] / 1e9:,.0f} GB/s.")
    parts += ["## Targets", "\n".join(verdict.line() for verdict in judge(cases))]
    parts += ["## How to read the tables", HOW, "## Forward + backward", speed_table(cases, rates)]
    parts += ["## Peak memory beyond the inputs", memory_table(cases), remarks(cases)]
    return "\n\n".join(part for part in parts if part) + "\n"
