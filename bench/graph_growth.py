"""Draws the time of 50-lists against N: exact lists, the graph with its lists, and hnswlib, on GloVe words.

    python bench/graph_growth.py [--sizes 10000 25000 50000 100000 200000 400000] [--output FILE.md] [--again NAME ...]

Times are those of all threads on the CPU, which are comparable while other jobs run. A point is measured once and kept
in a JSON file beside the output, so an interrupted run goes on where it was. --again measures the points of these
contestants anew. Recall is that of 2,000 rows. "default" builds with default arguments, which are exact lists up to
some size; "leaves" always takes approximate lists.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import environment
from graphs.contestants import Contestant, Exact, Fanng, Hnswlib
from graphs.data import DataSet, load_words
from graphs.grids import DEFAULTS, K
from graphs.parts import exponent
from graphs.picture import draw_growth
from tables import table

SIZES = (10_000, 25_000, 50_000, 100_000, 200_000, 400_000)
SAMPLE = 2000  # rows whose recall is measured
TIE_TOLERANCE = 1e-6
MIN_LEAVES = 64_000  # with fewer rows, leaves give exact lists
# The setting that was the fastest of all rivals' to reach a recall of 0.98 in graph_report.py, for 100,000 words. More
# words need wider searches; a recall of 0.98 among 400,000 would take twice the time.
CONTESTANTS: dict[str, Callable[[int], Contestant]] = {
    "exact": lambda n: Exact(),
    "default": lambda n: Fanng(DEFAULTS, init="auto", success_rate=0.0),
    "leaves": lambda n: Fanng(DEFAULTS, init="leaves", success_rate=0.0),
    "hnswlib": lambda n: Hnswlib(12, 60, (200 if n <= 100_000 else 250,)),
}
Point = dict[str, Any]


def sampled_recall(data: DataSet, found: np.ndarray) -> float:
    """The share of the exact neighbors of SAMPLE rows that are found; equally far rows may replace each other."""
    sample = np.sort(np.random.default_rng(0).permutation(len(data.rows))[:SAMPLE])
    exact = Exact().lists_of(data, sample, K)
    queries = data.rows[sample].astype(np.float64)[:, None]

    def distances(lists: np.ndarray) -> np.ndarray:
        return 1 - (queries * data.rows[lists].astype(np.float64)).sum(2)

    limit = distances(exact).max(1, keepdims=True)
    return float((distances(found[sample]) <= limit + TIE_TOLERANCE * np.maximum(limit, 1e-3)).mean())


def measured(contestant: Contestant, data: DataSet) -> Point:
    effort = contestant.efforts[0]
    clock, cpu = time.perf_counter(), time.process_time()
    graph = contestant.build(data)
    build_cpu = time.process_time()
    lists = contestant.lists(graph, data, K, effort)
    end = time.process_time()
    return {
        "n": len(data.rows),
        "setting": contestant.setting,
        "effort": effort,
        "cpu_s": end - cpu,
        "build_cpu_s": build_cpu - cpu,
        "clock_s": time.perf_counter() - clock,
        "recall": sampled_recall(data, lists),
    }


def crossover(points: dict[str, list[Point]]) -> float | None:
    """The N from which leaves take less time than exact lists, on straight lines between the logarithms of times."""
    exact = {point["n"]: point["cpu_s"] for point in points["exact"]}
    gaps = [(p["n"], math.log(p["cpu_s"] / exact[p["n"]])) for p in points["leaves"] if p["n"] in exact]
    for (low, above), (high, below) in itertools.pairwise(gaps):
        if above > 0 >= below:
            return math.exp(math.log(low) + math.log(high / low) * above / (above - below))
    return None


def render(points: dict[str, list[Point]], about: dict[str, str], plot: str) -> str:
    """The table, and what follows from it."""
    ns = sorted({point["n"] for found in points.values() for point in found})
    rows = []
    for n in ns:
        row = [f"{n:,}"]
        for found in points.values():
            at = next((point for point in found if point["n"] == n), None)
            row.append("-" if at is None else f"{at['cpu_s']:.2f} s (recall {at['recall']:.3f})")
        rows.append(row)
    lines = [
        "# Time of 50-lists of GloVe words against N",
        ", ".join(f"{name} {value}" for name, value in about.items()),
        f"Processor time of build and {K}-lists of every row. ![Time against N]({plot})",
        table(["words", *points], rows),
    ]
    for name, found in points.items():
        for first in (ns[0], 50_000, 100_000):
            some = [point for point in found if point["n"] >= first]
            slope = exponent([point["n"] for point in some], [point["cpu_s"] for point in some])
            if slope is not None and some[0]["n"] == first:
                lines.append(f"{name}, from {first:,} to {some[-1]['n']:,} words: N^{slope:.2f}.")
    found_crossover = crossover(points)
    if found_crossover is not None:
        lines.append(f"From {found_crossover:,.0f} words on, leaves take less time than exact lists.")
    return "\n\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    parser.add_argument("--again", nargs="+", default=[], choices=list(CONTESTANTS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="Markdown file; JSON and plot are written beside it")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    about = environment.describe()
    if args.output is None:
        args.output = Path(__file__).parent / "results" / f"{about['date'][:10]}-graph-growth.md"
    raw = args.output.with_suffix(".json")
    before = json.loads(raw.read_text()) if raw.exists() else {}
    points: dict[str, list[Point]] = {name: [] if name in args.again else before.get(name, []) for name in CONTESTANTS}
    for n in sorted(args.sizes):
        data = load_words(n)
        for name in args.contestants:
            if any(point["n"] == n for point in points[name]) or (name == "leaves" and n < MIN_LEAVES):
                continue
            points[name].append(measured(CONTESTANTS[name](n), data))
            points[name].sort(key=lambda point: point["n"])
            print(name, points[name][-1], flush=True)
            raw.write_text(json.dumps(points, indent=1) + "\n")
    plot = args.output.with_suffix(".png")
    draw_growth(points, plot)
    args.output.write_text(render(points, about, plot.name))
    print(args.output.read_text())


if __name__ == "__main__":
    main()
