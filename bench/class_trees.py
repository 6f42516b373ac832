"""The cost of HTL's class trees at the sizes of the papers' training sets, and the trees of real images.

    python bench/class_trees.py [--sizes 98x41 3997x6]

Prints both tables and writes no file. For the second table, HARDMINE_DATA must name a folder with the features and the
archive of the cars. docs/hierarchical.md shows a run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import environment
from graphs.data import car_features, car_labels
from hardmine.mining import AnchorNeighborSampler, ClassTree, class_distances

SIZES = ["98x41", "3997x6", "11318x5"]  # classes x images per class: about as in CAR (half), In-shop and SOP
DEPTH = 128
ROUNDS = 3
CHUNK_ROWS = 1024
LATENT_DEPTH = 16  # rows of a trained embedding span fewer dimensions than D
IMAGES_PER_CLASS = 20


def synthetic_embedding(rows: int, depth: int, seed: int = 0) -> Tensor:
    """Overlapping classes of 20 rows in a 16-dimensional subspace, plus a little noise in all dimensions."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randn(-(-rows // IMAGES_PER_CLASS), LATENT_DEPTH, generator=generator)
    latent = classes.repeat_interleave(IMAGES_PER_CLASS, 0)[:rows]
    latent = latent + 0.5 * torch.randn(rows, LATENT_DEPTH, generator=generator)
    spread = torch.randn(LATENT_DEPTH, depth, generator=generator) / LATENT_DEPTH**0.5
    return latent @ spread + 0.05 * torch.randn(rows, depth, generator=generator)


def best_seconds(step: Callable[[], object], rounds: int) -> float:
    """The shortest time of several rounds: the cost without interference by other processes."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return min(times)


def distances_of_all_pairs(rows: Tensor, labels: Tensor) -> Tensor:
    """The paper's mean over all pairs of samples, [C, C], in blocks of rows; the diagonal includes the pairs i = j."""
    rows, classes = F.normalize(rows), int(labels.max()) + 1
    total = torch.zeros(classes, classes)
    for row_chunk, label_chunk in zip(rows.split(CHUNK_ROWS), labels.split(CHUNK_ROWS), strict=True):
        class_sums = torch.zeros(len(row_chunk), classes).index_add_(1, labels, 2 - 2 * row_chunk @ rows.T)
        total.index_add_(0, label_chunk, class_sums)
    sizes = labels.bincount().float()
    return total / (sizes[:, None] * sizes[None, :])


def print_costs(sizes: list[str]) -> None:
    header = [
        "C",
        "N",
        "all pairs of samples",
        "class_distances",
        "tree, single",
        "tree, average",
        "margin table",
        "sampler.update",
    ]
    print(f"\n| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for size in sizes:
        classes, images = map(int, size.split("x"))
        rows = synthetic_embedding(classes * images, DEPTH)
        labels = torch.arange(classes).repeat_interleave(images)
        distances = class_distances(rows, labels)
        off_diagonal = ~torch.eye(classes, dtype=torch.bool)
        assert (distances_of_all_pairs(rows, labels) - distances.sq_dist)[off_diagonal].abs().max() < 1e-4
        tree = ClassTree(distances)
        sampler = AnchorNeighborSampler(labels, 8, 6, 5)
        steps = [
            lambda rows=rows, labels=labels: distances_of_all_pairs(rows, labels),
            lambda rows=rows, labels=labels: class_distances(rows, labels),
            lambda distances=distances: ClassTree(distances),
            lambda distances=distances: ClassTree(distances, linkage="average"),
            tree.margin_table,
            lambda sampler=sampler, tree=tree: sampler.update(tree),
        ]
        seconds = [f"{best_seconds(step, ROUNDS):.3f} s" for step in steps]
        print(f"| {classes:,} | {len(rows):,} | {' | '.join(seconds)} |", flush=True)


def print_trees() -> None:
    features, labels = car_features(), car_labels()
    if features is None or labels is None:
        print("\nNo trees of the cars: HARDMINE_DATA names no folder with their features and archive")
        return
    is_train = torch.from_numpy(labels) <= 98
    rows, labels = torch.from_numpy(features).float()[is_train], torch.from_numpy(labels)[is_train]
    print(f"\n{len(rows):,} cars of 98 classes (CAR, training half), standardized ImageNet features\n")
    print("| linkage | d_0 | nodes after level 0, 1, 2, ... | margins |\n|---|---|---|---|")
    for linkage in ("single", "average"):
        tree = ClassTree.from_embeddings(rows, labels, linkage=linkage)
        nodes = tree.node_counts.tolist()
        margins = tree.margin_table()[~torch.eye(98, dtype=torch.bool)]
        print(
            f"| {linkage} | {tree.thresholds[0]:.2f} | {', '.join(map(str, nodes[: nodes.index(1) + 1]))} | "
            f"{margins.min():.2f} to {margins.max():.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="classes x images per class of each row")
    args = parser.parse_args()
    for name, value in environment.describe().items():
        print(f"{name}: {value}")
    print_costs(args.sizes)
    print_trees()


if __name__ == "__main__":
    main()
