"""Measures hardmine against its rivals and writes one Markdown file, and the numbers behind it as JSON.

    python bench/report.py [--quick] [--output bench/results/NAME.md]

Why not pytest-benchmark for this table? It times one callable after another, and on a noisy machine a ratio of two such
numbers carries the drift of the minutes between them. Every ratio here is paired: all rivals of a size are timed in the
same rounds (see paired.py). The pytest-benchmark suites beside this file use the same setup (rivals.py); they are for
exploring one op and for comparing a commit with an earlier one.

Ctrl-C stops the measuring and keeps what is done: the files are written after every size.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import environment
import memory
import paired
import rivals
import scaling
import tables

FULL = {
    "sizes": [128, 512, 2048, 4096, 8192],
    "dims": [128, 512],
    "seconds": 5.0,
    "memory_n": 16384,
    "large_n": 65536,
    "scaling_sizes": scaling.SIZES,
    "scaling_dims": scaling.DIMS,
}
QUICK = {
    "sizes": [128, 512, 2048],
    "dims": [128],
    "seconds": 0.5,
    "memory_n": 4096,
    "large_n": None,
    "scaling_sizes": (512, 1024, 2048),
    "scaling_dims": (64, 128, 256),
}


def measure_size(case: str, n: int, d: int, args: argparse.Namespace) -> dict[str, Any]:
    """All rivals at one size: their median seconds, their ratios, and why one is missing."""
    steps, skipped = {}, {}
    for name in args.rivals:
        try:
            steps[name] = rivals.setup(case, n, d, name, args.images_per_class)
        except rivals.SkippedRivalError as reason:
            skipped[name] = str(reason)
    samples = paired.measure(steps, args.seconds, description=f"{case} N={n} D={d}")
    phases = paired.PHASES if steps["hardmine"].backward is not None else ("forward",)
    ours = samples["hardmine"]
    ratios: dict[str, dict[str, Any]] = {}
    for name, theirs in samples.items():
        if name == "hardmine":
            continue
        if name in tables.FLOORS:  # hardmine's share of it
            compared = {phase: paired.ratio(getattr(ours, phase), theirs.forward) for phase in phases}
        else:  # hardmine's speed-up over it
            compared = {phase: paired.ratio(getattr(theirs, phase), getattr(ours, phase)) for phase in phases}
        ratios[name] = {phase: asdict(result) for phase, result in compared.items()}
    median_ms = {
        name: {phase: float(np.nanmedian(getattr(times, phase))) * 1e3 for phase in phases}
        for name, times in samples.items()
    }
    return {"case": case, "n": n, "d": d, "ratios": ratios, "skipped": skipped, "median_ms": median_ms}


def measure_all(results: dict[str, Any], args: argparse.Namespace) -> None:
    """Fills `results`, saving after every step."""
    sizes = [(case, n, d) for case in args.cases for n in args.sizes for d in args.dims]
    with_steps = [name for name in args.rivals if name not in tables.FLOORS]
    peaks = [(case, name, args.memory_n) for case in args.cases for name in with_steps]
    if args.large_n:
        peaks += [(case, "hardmine", args.large_n) for case in args.cases]
    axes = (("N", args.scaling_sizes), ("D", args.scaling_dims))
    fits = [(case, "hardmine", *axis) for case in args.cases for axis in axes]
    fits += [(args.cases[0], "matmul_out", *axis) for axis in axes]  # no op in it: what growth this machine has anyway
    with tqdm(total=len(sizes) + len(peaks) + len(fits), unit="step") as progress:

        def keep(kind: str, result: dict[str, Any]) -> None:
            results[kind].append(result)
            save(results, args.output)
            progress.update()

        for case, n, d in sizes:
            progress.set_description(f"{case} N={n} D={d}")
            keep("speed", measure_size(case, n, d, args))
        for case, name, n in peaks:
            progress.set_description(f"memory of {case} by {name} at N={n}")
            keep("memory", memory.measure_peak(case, name, n, 128, args.images_per_class))
        for case, rival, axis, values in fits:
            progress.set_description(f"{case} scaling in {axis}")
            keep("scaling", scaling.measure_scaling(case, axis, rival, values, seconds_per_size=args.seconds))


def save(results: dict[str, Any], output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(tables.render(results))
    output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, about two minutes: to see that it works")
    parser.add_argument("--output", type=Path, help="the Markdown file; the JSON goes beside it")
    parser.add_argument("--cases", nargs="+", default=["sct_loss", "EPSHN"], choices=list(rivals.CASES))
    parser.add_argument("--rivals", nargs="+", default=list(rivals.RIVALS), choices=rivals.RIVALS)
    parser.add_argument("--sizes", nargs="*", type=int, help="batch sizes N")
    parser.add_argument("--dims", nargs="*", type=int, help="embedding sizes D")
    parser.add_argument("--images-per-class", type=int, default=4)
    parser.add_argument("--seconds", type=float, help="time for each rival at each size; 5 rounds at least")
    parser.add_argument("--threads", type=int, help="torch.set_num_threads; the machine's default otherwise")
    args = parser.parse_args()
    for name, value in (QUICK if args.quick else FULL).items():
        if getattr(args, name, None) is None:
            setattr(args, name, value)
    if "hardmine" not in args.rivals:
        parser.error("--rivals must name hardmine, which the others are compared with")
    args.rivals.sort(key=rivals.RIVALS.index)  # hardmine first: it takes part in every round
    return args


def main() -> None:
    args = parse_arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
        os.environ["OMP_NUM_THREADS"] = str(args.threads)  # for the processes that measure memory
    about = environment.describe()
    if args.output is None:
        name = f"{about['date'][:10]}-{about['SIMD level of hardmine'].split()[0]}{'-quick' if args.quick else ''}.md"
        args.output = Path(__file__).parent / "results" / name
    results: dict[str, Any] = {
        "about": about,
        "command": shlex.join(["python", "bench/report.py", *sys.argv[1:]]),
        "images_per_class": args.images_per_class,
        "complete": False,
        "speed": [],
        "memory": [],
        "scaling": [],
    }
    try:
        measure_all(results, args)
        results["complete"] = True
    except KeyboardInterrupt:
        print("\nStopped; what was measured so far is kept.")
    save(results, args.output)
    print(tables.render(results))
    print(f"Written to {args.output} and {args.output.with_suffix('.json').name}")


if __name__ == "__main__":
    main()
