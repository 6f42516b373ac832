"""Mining's share of an epoch of Smart Mining, by the number of images and what the network costs per image.

    python bench/mining_share.py ROWS.npy [--rows 50000 100000 400000] [--methods exact fanng last] [--threads 2]

Rows stand for the embeddings of images; the network is the identity. Classes are the rows nearest to one of N / 20
random rows. The table is a model: an epoch's mining is measured, in seconds of all threads on the CPU, divided by their
number. A training step takes the given time per image of its batch, and embedding an image a third of it, for the
forward pass alone.

Methods: "exact" lists; "fanng", where every graph is built from lists; and "last", which is "fanng" with `init="last"`,
where every graph but the first starts from the last: the second epoch's counts, before which all rows have moved.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hardmine import ops
from hardmine.mining import SmartMiner

COSTS_MS = (0.2, 1.0, 5.0)  # per image of a training step
OPTIONS: dict[str, dict[str, Any]] = {
    "exact": {"method": "exact"},
    "fanng": {"method": "fanng"},
    "last": {"method": "fanng", "fanng": {"init": "last"}},
}


class Mined(NamedTuple):
    """What mining an epoch took, and how many images its batches show."""

    list_s: float
    triplet_s: float
    images_shown: int
    mined_share: float


def classes(rows: Tensor) -> Tensor:
    """A class per row: the nearest of some rows."""
    centers = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))[: len(rows) // 20]]
    return ops.knn(rows, centers, 1).index.flatten()


def mine(rows: Tensor, labels: Tensor, method: str, threads: int) -> Mined:
    """An epoch's mining."""
    miner = SmartMiner(lambda images: images, rows, labels, kappa=1.0, **OPTIONS[method])
    for number in range(2 if method == "last" else 1):
        noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(number))
        miner.images = rows + 0.1 * rows.std() * number * noise
        cpu, clock = time.process_time(), time.perf_counter()
        with miner.epoch() as epoch:
            # Other programs on the machine stretch the clock, so its parts are scaled to the time on the CPU.
            scale = (time.process_time() - cpu) / (time.perf_counter() - clock) / threads
            shown = sum(len(batch.rows) for batch in epoch)
            for batch in epoch:
                epoch.observe(batch, batch.mined)
    record = miner.history[-1]
    return Mined(record.list_seconds * scale, record.triplet_seconds * scale, shown, record.mined_share)


def main() -> None:
    """Measures, and prints a row of the table per number of images and method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 100_000, 400_000])
    parser.add_argument("--methods", nargs="+", choices=OPTIONS, default=list(OPTIONS))
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    everything = np.load(arguments.file, mmap_mode="r")
    costs = " | ".join(f"{cost:g} ms" for cost in COSTS_MS)
    print(f"| images | method | lists, s | triplets, s | mined | images shown | {costs} |")
    print("|---" * (6 + len(COSTS_MS)) + "|", flush=True)
    for count in arguments.rows:
        rows = torch.from_numpy(np.ascontiguousarray(everything[:count])).float()
        labels = classes(rows)
        for method in arguments.methods:
            mined = mine(rows, labels, method, arguments.threads)
            mining = mined.list_s + mined.triplet_s
            network = [cost / 1000 * (mined.images_shown + count / 3) for cost in COSTS_MS]
            shares = " | ".join(f"{100 * mining / (mining + seconds):.1f} %" for seconds in network)
            print(
                f"| {count:,} | {method} | {mined.list_s:.1f} | {mined.triplet_s:.1f} | {mined.mined_share:.2f} | "
                f"{mined.images_shown:,} | {shares} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
