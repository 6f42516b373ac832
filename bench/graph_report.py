"""Measures the graph index against hnswlib, faiss and exact search, and writes Markdown, JSON and a plot.

    python bench/graph_report.py [--quick] [--data sift cars words] [--parts curve warm growth] [--only-defaults]

The report has three parts. `curve`: the time of build and all lists against recall, per library. `warm`: the time that
a graph of the previous epoch saves. `growth`: how degree, time and recall change from 10,000 to 100,000 rows.
HARDMINE_DATA names the folder of sift_10k.npy and the features of cars. Without it the rows are synthetic, and targets
are not judged.

Like report.py this compares within a run: every round times all contestants, in shuffled order. Ctrl-C ends the run and
keeps the results so far: the files are written after every step.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import environment
from graphs import grids, pages, parts, picture, verdicts
from graphs.data import LOADERS

PARTS = ("curve", "warm", "growth")
LIBRARIES = ("hnswlib", "faiss-cpu")


def plan_of(args: argparse.Namespace) -> grids.Plan:
    """The plan, changed by the command-line options."""
    plan = grids.QUICK if args.quick else grids.FULL
    if args.rows:
        sizes = tuple(n for n in plan.growth_sizes if n <= args.rows) or (args.rows // 2, args.rows)
        plan = replace(plan, rows=args.rows, growth_sizes=sizes)
    if args.seconds is not None:
        plan = replace(plan, seconds=args.seconds)
    if args.rounds is not None:
        plan = replace(plan, passes=args.rounds, rounds=args.rounds)
    return replace(plan, only_defaults=args.only_defaults)


def measure_all(results: dict[str, Any], args: argparse.Namespace) -> None:
    """Fills `results` and saves them after every step."""
    plan, started = plan_of(args), time.perf_counter()

    def keep(part: str, found: Any) -> None:
        results[part] = found
        results["minutes"] = (time.perf_counter() - started) / 60
        save(results, args.output)

    steps = [(part, name) for part in ("curve", "warm") if part in args.parts for name in args.data]
    steps += [("growth", "words")] if "growth" in args.parts else []
    for part, name in tqdm(steps, unit="part"):
        before = results[part]
        if part == "curve":
            for curve in parts.curve(name, plan):
                keep(part, [*before, curve])
            picture.draw(results, plot_file(args.output))
        elif part == "warm":
            for move in parts.warm(name, plan):
                keep(part, [*results[part], move])
        else:
            for growth in parts.growth(plan):
                keep(part, growth)


def plot_file(output: Path) -> Path:
    return output.with_suffix(".png")


def render(results: dict[str, Any], plot: str | None) -> str:
    return pages.render(results, [verdict.line() for verdict in verdicts.judge(results)], plot)


def save(results: dict[str, Any], output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    plot = plot_file(output)
    output.write_text(render(results, plot.name if results["curve"] and plot.exists() else None))
    output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rows: a smoke test of about a minute")
    parser.add_argument(
        "--data",
        nargs="+",
        default=list(LOADERS),
        choices=list(LOADERS),
        help="data sets of curve and warm; growth always uses words",
    )
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, help="parts of the report")
    parser.add_argument("--output", type=Path, help="Markdown file to write; JSON and plot are written beside it")
    parser.add_argument("--rows", type=int, help="maximum rows per data set; targets are then not judged")
    parser.add_argument("--seconds", type=float, help="time limit of the repeated passes over one data set")
    parser.add_argument("--rounds", type=int, help="maximum number of passes and of rounds; default: the plan's")
    parser.add_argument("--only-defaults", action="store_true", help="of hardmine, only the default build and lists")
    parser.add_argument("--threads", type=int, default=2, help="threads per library; default: 2")
    args = parser.parse_args(arguments)
    for name, minimum in (("rows", 2 * (grids.K + 1)), ("rounds", 1), ("threads", 1)):
        value = getattr(args, name)
        if value is not None and value < minimum:
            parser.error(f"--{name} must be at least {minimum}, got {value}")
    return args


def about() -> dict[str, str]:
    found = environment.describe()
    found.pop("pytorch-metric-learning")  # not used in this report
    return found


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    described = about()
    if args.output is None:
        name = f"{described['date'][:10]}-{described['SIMD level of hardmine'].split()[0]}-graph"
        args.output = Path(__file__).parent / "results" / f"{name}{'-quick' if args.quick else ''}.md"
    results: dict[str, Any] = {
        "about": described,
        "command": shlex.join(["python", "bench/graph_report.py", *sys.argv[1:]]),
        "data": args.data,
        "parts": args.parts,
        "complete": False,
        "minutes": 0.0,
        "curve": [],
        "warm": [],
        "growth": None,
    }
    try:
        measure_all(results, args)
        results["complete"] = True
    except KeyboardInterrupt:
        print("\nInterrupted. The results so far are kept.")
    picture.draw(results, plot_file(args.output))
    save(results, args.output)
    print(render(results, None))
    print(f"Wrote {args.output}, and the .json and .png files beside it")


if __name__ == "__main__":
    main()
