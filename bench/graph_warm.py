"""Times warm starts of the default build after a move, relative to fresh default builds, in interleaved rounds.

    python bench/graph_warm.py [--data sift cars words trained] [--words 100000] [--rounds 3]

A move adds noise that keeps 0.95 or 0.8 of the lists of the 10 nearest. That of "trained" is an epoch of training a
linear head on the features of cars. Times are the least of the rounds, of warm starts relative to fresh builds. Recall
is that of rows held out, at the width that the fresh index takes by default. HARDMINE_DATA names the folder of
sift_10k.npy, of the features of cars and of their labels.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from graphs.data import LOADERS, Move, load_words, noisy_move, trained_move
from graphs.grids import KEPT_SHARES
from hardmine.fanng import Index
from tables import table


def timed_build(rows: torch.Tensor, **options: object) -> tuple[Index, np.ndarray]:
    """The index, and seconds of wall clock and of processors."""
    start = np.array([time.perf_counter(), time.process_time()])
    index = Index.build(rows, **options)
    return index, np.array([time.perf_counter(), time.process_time()]) - start


def moves(name: str, words: int) -> list[Move]:
    """The moves of a data set; of "trained", the cars, that of an epoch of training."""
    if name == "trained":
        move = trained_move(LOADERS["cars"]())
        if move is None:
            raise SystemExit("--data trained needs the features and labels of cars in HARDMINE_DATA")
        return [move]
    data = load_words(words) if name == "words" else LOADERS[name]()
    return [noisy_move(data, kept) for kept in KEPT_SHARES]


def measure(name: str, move: Move, rounds: int) -> list[str]:
    metric, moved = move.before.metric, torch.from_numpy(move.after.rows)
    before = Index.build(move.before.rows, metric=metric)
    fresh_times, warm_times = [], []
    for _ in range(rounds):
        fresh, fresh_time = timed_build(moved, metric=metric)
        warm, warm_time = timed_build(moved, metric=metric, init=before)
        fresh_times.append(fresh_time)
        warm_times.append(warm_time)
    wall, processor = np.min(warm_times, axis=0) / np.min(fresh_times, axis=0)
    width = fresh.search_width(10)
    recalls = [f"{index.recall(10, 2000, width=width):.4f}" for index in (fresh, warm)]
    widths = [str(width), str(warm.search_width(10))]
    return [name, f"{move.kept:.2f}", f"{wall:.2f}", f"{processor:.2f}", *recalls, *widths]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choices = [*LOADERS, "trained"]
    parser.add_argument("--data", nargs="+", default=choices, choices=choices)
    parser.add_argument("--words", type=int, default=100_000, help="rows of the words")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    header = ["data", "kept", "time", "processor time", "recall, fresh", "warm", "default width, fresh", "warm"]
    print(table(header, [measure(name, move, args.rounds) for name in args.data for move in moves(name, args.words)]))


if __name__ == "__main__":
    main()
