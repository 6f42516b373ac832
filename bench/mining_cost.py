"""What lists of neighbors cost, exact or by a FANNG index: the constants of hardmine/mining/cost.py, and their table.

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
from hardmine.fanng import Index, default_effort
from hardmine.mining import cost

NEIGHBORS = 50
SIZES = [  # N, D, k: both methods are timed at all of them
    (10_000, 64, 50),
    (20_000, 64, 50),
    (20_000, 64, 300),
    (20_000, 512, 50),
    (40_000, 128, 50),
    (40_000, 64, 300),
    (100_000, 64, 50),
]
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


def nonnegative_fit(parts: list[tuple[float, ...]], seconds: list[float]) -> list[float]:
    """Least squares of relative deviations: seconds = the sum of parts times constants, none of them below 0."""
    design = np.array(parts) / np.array(seconds)[:, None]
    kept = list(range(design.shape[1]))
    while True:
        found = np.linalg.lstsq(design[:, kept], np.ones(len(seconds)), rcond=None)[0]
        if found.min() >= 0:
            return [float(found[kept.index(part)]) if part in kept else 0.0 for part in range(design.shape[1])]
        del kept[int(found.argmin())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="times of each exact list, of which the best counts")
    rounds = parser.parse_args().rounds
    for name, value in environment.describe().items():
        print(f"{name}: {value}")

    header = [
        "N",
        "D",
        "k",
        "exact",
        "FANNG",
        "its build",
        "its lists",
        "recall",
        "degree",
        "distances a row",
        "warm build",
    ]
    print(f"\n| {' | '.join(header)} |\n|{'---|' * len(header)}")
    exact_parts, exact_seconds, fanng_parts, fanng_seconds, build_distances = [], [], [], [], []
    for rows, depth, k in SIZES:
        x = embedding_like(rows, depth)
        moved = x + 0.02 * x.std() * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        ops.knn(x[:1000], k=k)  # threads are awake
        exact = best_seconds(lambda x=x, k=k: ops.knn(x, k=k), rounds)
        start = time.perf_counter()
        index = Index.build(x)
        build = time.perf_counter() - start
        lists = best_seconds(lambda index=index, k=k: index.neighbors(k), 1)
        warm = best_seconds(lambda index=index, moved=moved: Index.build(moved, init=index), 1)
        stats = index.stats()
        build_distances.append(stats["distance_computations"] / rows)
        a_row = build_distances[-1] + default_effort(k)
        pairs = rows * (rows - 1) / 2
        exact_parts.append((1e-9 * pairs, 1e-9 * pairs * depth, 1e-9 * rows * k))
        exact_seconds.append(exact)
        fanng_parts.append((1e-9 * rows * a_row, 1e-9 * rows * a_row * depth))
        fanng_seconds.append(build + lists)
        print(
            f"| {rows:,} | {depth} | {k} | {exact:.2f} s | {build + lists:.2f} s | {build:.2f} s | {lists:.2f} s | "
            f"{index.recall(k):.3f} | {stats['degree_mean']:.1f} | {a_row:,.0f} | {warm:.2f} s |",
            flush=True,
        )

    exact, fanng = nonnegative_fit(exact_parts, exact_seconds), nonnegative_fit(fanng_parts, fanng_seconds)
    constants = {
        "EXACT_NS_A_PAIR": exact[0],
        "EXACT_NS_A_PAIR_AND_COLUMN": exact[1],
        "EXACT_NS_A_LISTED_NEIGHBOR": exact[2],
        "FANNG_NS_A_DISTANCE": fanng[0],
        "FANNG_NS_A_DISTANCE_AND_COLUMN": fanng[1],
        "FANNG_BUILD_DISTANCES": float(np.median(build_distances)),
    }
    print("\nThe constants of hardmine/mining/cost.py:\n")
    for name, value in constants.items():
        setattr(cost, name, float(f"{value:.3g}"))
        print(f"{name} = {getattr(cost, name)}")
    print(f"\n| D | exact is quicker below N (k = {NEIGHBORS}) | where both take | k = 300 |\n|---|---|---|---|")
    for depth in (32, 64, 128, 256, 512):
        crossing = crossover(depth, NEIGHBORS)
        seconds = cost.seconds_of_exact_lists(crossing, depth, NEIGHBORS)
        print(f"| {depth} | {crossing:,} | {seconds:.0f} s | {crossover(depth, 300):,} |")


def crossover(depth: int, k: int) -> int:
    """The number of rows from which on a FANNG should be quicker; the exact time grows with its square, by halving."""
    low, high = 2, 2**31
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if cost.quicker_method(middle, depth, k) == "exact" else (low, middle)
    return high


if __name__ == "__main__":
    main()
