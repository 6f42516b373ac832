"""Times build and 50-lists with default arguments against exact lists and hnswlib, in interleaved rounds.

    python bench/graph_lists.py [--data sift cars words] [--rounds 5]

hnswlib has the setting that was the fastest of all rivals' to reach a recall of 0.98 in graph_report.py. Times are
relative to exact lists in the same round; medians, and quartiles in parentheses. HARDMINE_DATA names the folder of
sift_10k.npy and the features of cars.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from graphs.contestants import Contestant, Exact, Fanng, Hnswlib
from graphs.data import LOADERS, DataSet
from graphs.grids import DEFAULTS, K
from graphs.measuring import Truth, timed
from tables import table

RIVALS = {"sift": Hnswlib(16, 40, (70,)), "cars": Hnswlib(12, 40, (70,)), "words": Hnswlib(12, 60, (200,))}


def build_and_list(contestant: Contestant, data: DataSet) -> np.ndarray:
    return contestant.lists(contestant.build(data), data, K, contestant.efforts[0])


def measure(name: str, rounds: int) -> str:
    data = LOADERS[name]()
    truth = Truth(data, K)
    contestants: list[Contestant] = [Exact(), Fanng(DEFAULTS, init="auto", success_rate=0.0), RIVALS[name]]
    seconds: list[list[float]] = [[] for _ in contestants]
    recalls = [0.0] * len(contestants)
    for _ in range(rounds):
        for which, contestant in enumerate(contestants):
            found, took = timed(build_and_list, contestant, data)
            seconds[which].append(took)
            recalls[which] = truth.recall(found)
    rows = []
    for which, contestant in enumerate(contestants):
        relative = np.divide(seconds[which], seconds[0])
        low, middle, high = np.quantile(relative, [0.25, 0.5, 0.75])
        of_rival = np.median(np.divide(seconds[which], seconds[-1]))
        times = [f"{middle:.2f} ({low:.2f}-{high:.2f})", f"{of_rival:.2f}"]
        rows.append([contestant.family, contestant.setting, f"{recalls[which]:.4f}", *times])
    header = ["", "setting", "recall", "time relative to exact", "relative to hnswlib"]
    about = f"{data.title}: {len(data.rows):,} rows, exact lists take {np.median(seconds[0]):.2f} s"
    return f"{about}\n\n{table(header, rows)}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=list(RIVALS), choices=list(RIVALS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in args.data:
        print(measure(name, args.rounds), flush=True)


if __name__ == "__main__":
    main()
