"""What lists of neighbours cost, exact or by a FANNG index: the constants of hardmine/mining/cost.py, and their table.

`python bench/mining_cost.py` times both on rows like those of an embedding, fits the constants and prints them with the
crossover that follows; it writes nothing. docs/mining.md has a run of it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

import environment
from hardmine import ops
from hardmine.fanng import Index
from hardmine.mining import cost

NEIGHBOURS = 50
EXACT_SIZES = [(5_000, 64), (20_000, 64), (20_000, 256), (40_000, 64), (10_000, 512)]
FANNG_SIZES = [(5_000, 64), (20_000, 64), (20_000, 256), (40_000, 64), (10_000, 512)]
LATENT_DEPTH = 16  # an embedding's rows fill fewer dimensions than it has
IMAGES_A_CLASS = 20


def embedding_like(rows: int, depth: int, seed: int = 0) -> Tensor:
    """Classes of 20 rows, overlapping, in a 16-dimensional part of the space, and a little noise in all of it."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randn(-(-rows // IMAGES_A_CLASS), LATENT_DEPTH, generator=generator)
    latent = classes.repeat_interleave(IMAGES_A_CLASS, 0)[:rows]
    latent = latent + 0.5 * torch.randn(rows, LATENT_DEPTH, generator=generator)
    spread = torch.randn(LATENT_DEPTH, depth, generator=generator) / LATENT_DEPTH**0.5
    return latent @ spread + 0.05 * torch.randn(rows, depth, generator=generator)


def best_seconds(work: Callable[[], object], rounds: int) -> float:
    """The shortest of some times: what the work costs when nothing else is in its way."""
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def linear_in_depth(measured: list[tuple[int, float]]) -> tuple[float, float]:
    """Least squares of relative deviations: nanoseconds = fixed + a_column * depth, both at least 0."""
    depth, ns = np.array(measured).T
    design = np.stack([1 / ns, depth / ns], axis=1)
    fixed, a_column = np.linalg.lstsq(design, np.ones(len(ns)), rcond=None)[0]
    if fixed < 0:
        return 0.0, float(np.mean(ns / depth))
    return float(fixed), float(a_column)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="times of each size, of which the best counts")
    rounds = parser.parse_args().rounds
    for name, value in environment.describe().items():
        print(f"{name}: {value}")

    print(f"\n| N | D | exact, k = {NEIGHBOURS} | ns a pair |\n|---|---|---|---|")
    pairs = []
    for rows, depth in EXACT_SIZES:
        x = embedding_like(rows, depth)
        seconds = best_seconds(lambda x=x: ops.knn(x, k=NEIGHBOURS), rounds)
        pairs.append((depth, seconds / (rows * (rows - 1) / 2) * 1e9))
        print(f"| {rows:,} | {depth} | {seconds:.2f} s | {pairs[-1][1]:.2f} |", flush=True)

    print("\n| N | D | FANNG build | warm build | lists | recall | degree | distances a row | ns a distance |")
    print("|---|---|---|---|---|---|---|---|---|")
    distances, build_distances = [], []
    for rows, depth in FANNG_SIZES:
        x = embedding_like(rows, depth)
        moved = x + 0.02 * x.std() * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        build = best_seconds(lambda x=x: Index.build(x), 1)
        index = Index.build(x)
        warm = best_seconds(lambda index=index, moved=moved: Index.build(moved, init=index), 1)
        lists = best_seconds(lambda index=index: index.neighbours(NEIGHBOURS), 1)
        stats = index.stats()
        build_distances.append(stats["distance_computations"] / rows)
        a_row = build_distances[-1] + max(400, 20 * NEIGHBOURS)
        distances.append((depth, (build + lists) / (rows * a_row) * 1e9))
        print(
            f"| {rows:,} | {depth} | {build:.2f} s | {warm:.2f} s | {lists:.2f} s | {index.recall(NEIGHBOURS):.3f} | "
            f"{stats['degree_mean']:.1f} | {a_row:,.0f} | {distances[-1][1]:.0f} |",
            flush=True,
        )

    exact, walk = linear_in_depth(pairs), linear_in_depth(distances)
    constants = {
        "EXACT_NS_A_PAIR": exact[0],
        "EXACT_NS_A_PAIR_AND_COLUMN": exact[1],
        "FANNG_NS_A_DISTANCE": walk[0],
        "FANNG_NS_A_DISTANCE_AND_COLUMN": walk[1],
        "FANNG_BUILD_DISTANCES": float(np.median(build_distances)),
    }
    print("\nThe constants of hardmine/mining/cost.py:\n")
    for name, value in constants.items():
        setattr(cost, name, float(f"{value:.3g}"))
        print(f"{name} = {getattr(cost, name)}")
    print(f"\n| D | exact is quicker below N (k = {NEIGHBOURS}) | at that N | k = 200 |\n|---|---|---|---|")
    for depth in (32, 64, 128, 256, 512):
        crossing = crossover(depth, NEIGHBOURS)
        seconds = cost.seconds_of_exact_lists(crossing, depth)
        print(f"| {depth} | {crossing:,} | {seconds:.0f} s | {crossover(depth, 200):,} |")


def crossover(depth: int, k: int) -> int:
    """The number of rows from which on a FANNG should be quicker; the exact time grows with its square, by halving."""
    low, high = 2, 2**31
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if cost.quicker_method(middle, depth, k) == "exact" else (low, middle)
    return high


if __name__ == "__main__":
    main()
