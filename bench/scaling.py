"""How the cost of a step grows: the exponents a and b of time ~ N^a D^b, with all sizes timed in the same rounds.

`python bench/scaling.py` prints the exponents. The similarities take N^2 D arithmetic. An exponent above 2 in N, or
above 1 in D, would mean that something else grows faster. Work independent of D (masks, comparisons) pulls b below 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

import paired
import plans
import rivals


def fit_exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """The least-squares slope of log time over log size."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def measure_scaling(
    case: str,
    axis: str,
    rival_name: str = "hardmine",
    sizes: Sequence[int] | None = None,
    fixed: int | None = None,
    seconds_per_size: float = 5.0,
) -> dict:
    """Fits the exponent in `axis`, "N" or "D", of forward + backward.

    The steps are not checked here: the reference lacks the memory for the largest size. The report checks the same case
    at smaller sizes.
    """
    sizes = sizes or (plans.SCALING_SIZES if axis == "N" else plans.SCALING_DIMS)
    fixed = fixed or (128 if axis == "N" else 4096)
    steps = {
        size: rivals.build(
            case, rival_name, rivals.make_inputs(case, *((size, fixed) if axis == "N" else (fixed, size)))
        )
        for size in sizes
    }
    samples = paired.measure(steps, seconds_per_size, description=f"{case} scaling in {axis}")
    medians = [float(np.nanmedian(samples[size].both)) for size in sizes]
    return {
        "case": case,
        "rival": rival_name,
        "axis": axis,
        "sizes": list(sizes),
        "fixed": fixed,
        "relative_time": [median / medians[0] for median in medians],
        "exponent": fit_exponent(sizes, medians),
        "last_exponent": fit_exponent(sizes[-2:], medians[-2:]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--case", nargs="*", default=["sct_loss", "EPSHN"], choices=list(rivals.CASES), help="cases to fit"
    )
    parser.add_argument("--sizes", nargs="*", type=int, default=plans.SCALING_SIZES, help="batch sizes N")
    parser.add_argument("--dims", nargs="*", type=int, default=plans.SCALING_DIMS, help="embedding sizes D")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds per size")
    args = parser.parse_args()
    for case in args.case:
        for axis, sizes in (("N", args.sizes), ("D", args.dims)):
            for rival in ("hardmine", "matmul_out"):
                fit = measure_scaling(case, axis, rival, sizes, seconds_per_size=args.seconds)
                growth = ", ".join(
                    f"{size}: {time:.2f}" for size, time in zip(sizes, fit["relative_time"], strict=True)
                )
                print(
                    f"{case:10s} {rival:10s} {axis}^{fit['exponent']:.2f}  time relative to the smallest size: {growth}"
                )


if __name__ == "__main__":
    main()
