"""Times build and 50-lists with default arguments against exact lists and hnswlib, in interleaved rounds.

    python bench/graph_lists.py [--data sift cars words] [--rounds 5] [--rows 400000 --ef 250]

hnswlib has the setting that was the fastest of all rivals' to reach a recall of 0.98 in graph_report.py, for 100,000
words. --rows takes another number of words, --ef another effort of hnswlib's searches. Times are relative to exact
lists in the same round; medians, and quartiles in parentheses. Processor times are comparable while other jobs run.
HARDMINE_DATA names the folder of sift_10k.npy and the features of cars.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
import torch

from graphs.contestants import Contestant, Exact, Fanng, Hnswlib
from graphs.data import LOADERS, DataSet, load_words
from graphs.grids import DEFAULTS, K
from graphs.measuring import Truth
from tables import table

RIVALS = {"sift": Hnswlib(16, 40, (70,)), "cars": Hnswlib(12, 40, (70,)), "words": Hnswlib(12, 60, (200,))}


def build_and_list(contestant: Contestant, data: DataSet) -> np.ndarray:
    return contestant.lists(contestant.build(data), data, K, contestant.efforts[0])


def clocks() -> np.ndarray:
    """Seconds of wall clock and of processors."""
    return np.array([time.perf_counter(), time.process_time()])


def measure(data: DataSet, rival: Contestant, rounds: int) -> str:
    truth = Truth(data, K)
    contestants: list[Contestant] = [Exact(), Fanng(DEFAULTS, init="auto", success_rate=0.0), rival]
    seconds: list[list[np.ndarray]] = [[] for _ in contestants]
    recalls = [0.0] * len(contestants)
    for _ in range(rounds):
        for which, contestant in enumerate(contestants):
            start = clocks()
            found = build_and_list(contestant, data)
            seconds[which].append(clocks() - start)
            recalls[which] = truth.recall(found)
    rows = []
    for which, contestant in enumerate(contestants):
        row = [contestant.family, contestant.setting, f"{recalls[which]:.4f}"]
        for others in (seconds[0], seconds[-1]):
            relative = np.divide(seconds[which], others)
            for low, middle, high in np.quantile(relative, [0.25, 0.5, 0.75], axis=0).T:
                row.append(f"{middle:.2f} ({low:.2f}-{high:.2f})")
        rows.append(row)
    header = ["", "setting", "recall"]
    header += [f"{what} relative to {whom}" for whom in ("exact", "hnswlib") for what in ("time", "processor time")]
    about = f"{data.title}: {len(data.rows):,} rows"
    return f"{about}\n\n{table(header, rows)}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=list(RIVALS), choices=list(RIVALS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--ef", type=int)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in args.data:
        data = load_words(args.rows) if name == "words" else LOADERS[name]()
        rival = RIVALS[name] if args.ef is None else replace(RIVALS[name], efforts=(args.ef,))
        print(measure(data, rival, args.rounds), flush=True)


if __name__ == "__main__":
    main()
