"""Floors, rotation of inputs, verdicts and tables of the GPU report, computed from its numbers. Needs no GPU."""

from __future__ import annotations

import math
from typing import Any

from tables import table
from verdicts import Verdict

ITEM_BYTES = {"bfloat16": 2, "float32": 4}
RIVALS = {
    "pytorch": "eager",
    "torch.compile": "torch.compile",
    "pytorch-metric-learning": "PML",
}
LARGE_N = 4096  # the aims apply from this N on
MOST_INPUT_SIZES = 16  # O(N D): a fixed multiple of the input's size, for every N
MOST_LAUNCHES = 4
Case = dict[str, Any]  # the return value of report.measure_case

HOW = """\
Forward + backward of `sct_loss`. Times are medians of CUDA events around a step, over rounds in which every rival ran
once; each step reads another copy of the inputs, of which there are more than twice the L2 cache holds. "of matmul" is
hardmine's time divided by that of cuBLAS `X @ X.T` in the same dtype: smaller is better. "faster than" is the rival's
time divided by hardmine's. The floor is the least that any implementation must do: each unordered pair's product once,
N (N + 1) D flops, and N D elements read for forward, read for backward and written as gradient, and the labels. Its
time takes the larger of both at the rates that this GPU reached in this run, with a large matmul and a large copy; the
share is that time divided by hardmine's. Launches are kernels, copies and fills of one step, as torch.profiler sees
them. Peak memory is beyond the inputs, the gradient included. Before it is timed, hardmine is asserted to give the
reference's loss and gradient. float32 is exact float32 (no TF32), for all. PML has no SCT: NCA on the same triplets
stands in."""


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


def rounds_for(seconds: float, round_ms: float, least: int = 5, most: int = 50) -> int:
    """How many rounds fit into the time, clamped to [least, most]."""
    return max(least, min(most, int(1e3 * seconds / max(round_ms, 1e-6))))


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
    said = f"{text.format(value)} at worst ({where(case)})"
    if meets(value) and len(found) < len(values):
        missing = "; ".join(where(case) for value, case in values if value is None)
        return Verdict(target, None, f"{said}; not measured: {missing}")
    return Verdict(target, meets(value), said)


def faster(rival: str, title: str, wanted: float, large: list[Case]) -> Verdict:
    target = f"at least {wanted:g}x faster than {title} for N >= {LARGE_N:,}, where it fits"
    fits = [case for case in large if not case["skipped"].get(rival, "").startswith("needs about")]
    return worst_of(target, fits, lambda c: ratio(c, rival), lambda v: v >= wanted, min, "{:.2f}x")


def judge(cases: list[Case]) -> list[Verdict]:
    """The verdicts on the aims, over all cases of the plan, measured or not."""
    large = [case for case in cases if case["n"] >= LARGE_N]
    small = [case for case in cases if case["n"] == 128]

    def input_sizes(case: Case) -> float | None:
        peak = case["peak_bytes"].get("hardmine")
        return None if peak is None else peak / (case["n"] * case["d"] * ITEM_BYTES[case["dtype"]])

    at_most = "at most {:g} of cuBLAS X @ X.T for N >= {:,}"
    return [
        *(
            worst_of(
                at_most.format(most, LARGE_N), large, share_of_matmul, lambda v, most=most: v <= most, max, "{:.2f}"
            )
            for most in (1.0, 0.7)
        ),
        faster("pytorch", "the eager reference", 8, large),
        faster("torch.compile", "torch.compile of it", 3, large),
        worst_of(
            f"peak memory O(N D): at most {MOST_INPUT_SIZES} sizes of the embeddings for N >= {LARGE_N:,}",
            large,
            input_sizes,
            lambda v: v <= MOST_INPUT_SIZES,
            max,
            "{:.1f} sizes",
        ),
        worst_of(
            f"at most {MOST_LAUNCHES} launches a step at N = 128",
            small,
            lambda c: c["launches"].get("hardmine"),
            lambda v: v <= MOST_LAUNCHES,
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
        parts.append("**A dry run without a GPU: every time, peak and count below is made up.**")
    parts.append(table(["", ""], [[name, value] for name, value in results["about"].items()]))
    if rates:
        measured = [f"{name} {rate / 1e12:,.1f} Tflop/s" for name, rate in rates.items() if name != "bytes"]
        parts.append(f"Rates of this run: {', '.join(measured)}, memory {rates['bytes'] / 1e9:,.0f} GB/s.")
    parts += ["## Aims", "\n".join(verdict.line() for verdict in judge(cases))]
    parts += ["## How to read the tables", HOW, "## Forward + backward", speed_table(cases, rates)]
    parts += ["## Peak memory beyond the inputs", memory_table(cases), remarks(cases)]
    return "\n\n".join(part for part in parts if part) + "\n"
