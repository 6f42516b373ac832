"""Measures hardmine against its rivals and writes one Markdown file, and the numbers behind it as JSON.

    python bench/report.py [--quick] [--cases EP knn_words] [--output bench/results/NAME.md]

Why not pytest-benchmark for this table? It times one callable after another, and on a noisy machine a ratio of two such
numbers contains the drift of the minutes between them. Every ratio here is paired: all rivals at one size are timed in
the same rounds (see paired.py). The pytest-benchmark suites in this folder use the same setup (rivals.py). They are for
exploring one op and for comparing a commit with an earlier one.

Ctrl-C ends the run and keeps the results so far: the files are written after every size.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import environment
import memory
import paired
import plans
import rivals
import scaling
import tables
import verdicts

PARTS = ("speed", "memory", "scaling")


def measure_size(case: str, n: int, d: int, min_rounds: int, args: argparse.Namespace) -> dict[str, Any]:
    """Measures all rivals at one size: median times, ratios, and why a rival is missing."""
    steps, skipped = {}, {}
    for name in rivals.CASES[case].rivals:
        if name not in args.rivals:
            continue
        try:
            steps[name] = rivals.setup(case, n, d, name, args.images_per_class)
        except rivals.SkippedRivalError as reason:
            skipped[name] = str(reason)
    size = {"case": case, "n": n, "d": d, "ratios": {}, "skipped": skipped, "median_ms": {}}
    if "hardmine" not in steps:  # the data is not available
        return size
    size["inputs"] = steps["hardmine"].inputs.source
    size["details"] = {name: rival.details for name, rival in steps.items() if rival.details}
    samples = paired.measure(steps, args.seconds, min_rounds, description=f"{case} N={n} D={d}")
    phases = paired.PHASES if steps["hardmine"].backward is not None else ("forward",)
    ours = samples["hardmine"]
    for name, theirs in samples.items():
        if name == "hardmine":
            continue
        if name in tables.FLOORS:  # hardmine's time divided by the floor's
            compared = {phase: paired.ratio(getattr(ours, phase), theirs.forward) for phase in phases}
        else:  # hardmine's speed-up over the rival
            compared = {phase: paired.ratio(getattr(theirs, phase), getattr(ours, phase)) for phase in phases}
        size["ratios"][name] = {phase: asdict(result) for phase, result in compared.items()}
    size["median_ms"] = {
        name: {phase: float(np.nanmedian(getattr(times, phase))) * 1e3 for phase in phases}
        for name, times in samples.items()
    }
    return size


def plan_of(case: str, args: argparse.Namespace) -> plans.Plan:
    """The case's plan, changed by the command-line options."""
    plan = plans.PLANS.get(case, plans.DEFAULT)
    plan = plan.quick() if args.quick else plan
    if args.sizes:
        plan = replace(plan, sizes=tuple(args.sizes))
    if rivals.CASES[case].fixed_d:
        return replace(plan, dims=(rivals.CASES[case].fixed_d,))
    return replace(plan, dims=tuple(args.dims)) if args.dims else plan


def memory_steps(case: str, plan: plans.Plan, args: argparse.Namespace) -> list[tuple[str, str, int, int]]:
    """(case, rival, N, D) of every peak to measure."""
    measured = [
        name
        for name in rivals.CASES[case].rivals
        if name in args.rivals and name not in tables.FLOORS and name not in rivals.SEARCHES_SETTINGS
    ]
    steps = [(case, name, n, plan.dims[0]) for n in plan.memory_sizes for name in measured]
    return steps + [(case, "hardmine", n, plan.dims[0]) for n in plan.large_sizes]


def measure_all(results: dict[str, Any], args: argparse.Namespace) -> None:
    """Fills `results` and saves them after every step."""
    case_plans = {case: plan_of(case, args) for case in args.cases}
    sizes, peaks, fits = [], [], []
    for case, plan in case_plans.items():
        sizes += [(case, n, d, plan.min_rounds) for n in plan.sizes for d in plan.dims]
        peaks += memory_steps(case, plan, args)
        axes = (("N", plan.scaling_sizes), ("D", plan.scaling_dims))
        fits += [(case, "hardmine", axis, values) for axis, values in axes if values]
    # The bare matmul contains no op: it shows the growth that the machine itself causes.
    fits += [(case, "matmul_out", axis, values) for case, _, axis, values in fits if case == fits[0][0]]
    sizes, peaks, fits = (
        steps if part in args.parts else [] for part, steps in zip(PARTS, (sizes, peaks, fits), strict=True)
    )
    with tqdm(total=len(sizes) + len(peaks) + len(fits), unit="step") as progress:

        def keep(kind: str, result: dict[str, Any]) -> None:
            results[kind].append(result)
            save(results, args.output)
            progress.update()

        for case, n, d, min_rounds in sizes:
            progress.set_description(f"{case} N={n} D={d}")
            keep("speed", measure_size(case, n, d, min_rounds, args))
        for case, name, n, d in peaks:
            progress.set_description(f"{case} memory, {name} N={n}")
            keep("memory", memory.measure_peak(case, name, n, d, args.images_per_class))
        for case, rival, axis, values in fits:
            progress.set_description(f"{case} scaling in {axis}")
            keep("scaling", scaling.measure_scaling(case, axis, rival, values, seconds_per_size=args.seconds))


def render(results: dict[str, Any]) -> str:
    return tables.render(results, [verdict.line() for verdict in verdicts.judge(results)])


def save(results: dict[str, Any], output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(render(results))
    kept = {
        name: value for name, value in results.items() if name != "baseline"
    }  # the baseline is already a separate file
    output.with_suffix(".json").write_text(json.dumps(kept, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes: a smoke test of a few minutes")
    parser.add_argument("--output", type=Path, help="Markdown file to write; the JSON file is written beside it")
    parser.add_argument(
        "--cases", nargs="+", default=list(plans.PLANS), choices=list(rivals.CASES), help="cases to measure"
    )
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="what to measure for each case")
    parser.add_argument(
        "--rivals", nargs="+", default=list(rivals.RIVALS), choices=rivals.RIVALS, help="rivals to measure"
    )
    parser.add_argument("--sizes", nargs="+", type=int, help="batch sizes N; default: those in plans.py")
    parser.add_argument("--dims", nargs="+", type=int, help="embedding sizes D, for cases whose data does not fix D")
    parser.add_argument("--images-per-class", type=int, default=4, help="default: 4")
    parser.add_argument("--seconds", type=float, help="seconds per rival and size, beyond a minimum number of rounds")
    parser.add_argument("--baseline", type=Path, help="JSON file of an earlier run on this machine, to compare with")
    parser.add_argument("--threads", type=int, help="number of threads; default: torch's")
    args = parser.parse_args()
    if args.seconds is None:
        args.seconds = 0.5 if args.quick else 5.0
    if "hardmine" not in args.rivals:
        parser.error("--rivals must include hardmine, because all rivals are compared with it")
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
        "notes": {case: rivals.CASES[case].note for case in args.cases},
        "baseline": json.loads(args.baseline.read_text()) if args.baseline else None,
        "complete": False,
        "speed": [],
        "memory": [],
        "scaling": [],
    }
    try:
        measure_all(results, args)
        results["complete"] = True
    except KeyboardInterrupt:
        print("\nInterrupted. The results so far are kept.")
    save(results, args.output)
    print(render(results))
    print(f"Wrote {args.output} and {args.output.with_suffix('.json').name}")


if __name__ == "__main__":
    main()
