"""Times warm starts of the default build after a move, relative to fresh default builds, in interleaved rounds.

    python bench/graph_warm.py [--data sift cars words] [--rounds 3]

A move adds noise that keeps 0.95 or 0.8 of the lists of the 10 nearest. Recall is that of rows held out, at the width
that the fresh index takes by default. HARDMINE_DATA names the folder of sift_10k.npy and the features of cars.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from graphs.data import LOADERS, noisy_move
from graphs.grids import KEPT_SHARES
from hardmine.fanng import Index
from tables import table


def timed_build(rows: torch.Tensor, **options: object) -> tuple[Index, np.ndarray]:
    """The index, and seconds of wall clock and of processors."""
    start = np.array([time.perf_counter(), time.process_time()])
    index = Index.build(rows, **options)
    return index, np.array([time.perf_counter(), time.process_time()]) - start


def measure(name: str, rounds: int) -> list[list[str]]:
    data = LOADERS[name]()
    before = Index.build(data.rows, metric=data.metric)
    rows = []
    for kept in KEPT_SHARES:
        move = noisy_move(data, kept)
        moved, shares = torch.from_numpy(move.after.rows), []
        for _ in range(rounds):
            fresh, fresh_s = timed_build(moved, metric=data.metric)
            warm, warm_s = timed_build(moved, metric=data.metric, init=before)
            shares.append(warm_s / fresh_s)
        wall, processor = np.median(shares, axis=0)
        width = fresh.search_width(10)
        recalls = [f"{index.recall(10, 2000, width=width):.4f}" for index in (fresh, warm)]
        rows.append([name, f"{move.kept:.2f}", f"{wall:.2f}", f"{processor:.2f}", *recalls])
        rows[-1] += [str(width), str(warm.search_width(10))]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=list(LOADERS), choices=list(LOADERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    header = ["data", "kept", "time", "processor time", "recall, fresh", "warm", "default width, fresh", "warm"]
    print(table(header, [row for name in args.data for row in measure(name, args.rounds)]))


if __name__ == "__main__":
    main()
