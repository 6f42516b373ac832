"""Hierarchical clustering of classes, in steps of O(C) between which Ctrl-C interrupts it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Merge = tuple[int, int, float]  # two points, and the height at which their clusters become one


def single_merges(sq_dist: Tensor) -> list[Merge]:
    """The C - 1 edges of a minimum spanning tree of distances [C, C], by Prim's algorithm: single linkage."""
    near, parent = sq_dist[0].clone(), sq_dist.new_zeros(len(sq_dist)).long()
    near[0] = math.inf
    outside = near.isfinite()
    merges = []
    for _ in range(len(sq_dist) - 1):
        node = int(near.argmin())
        merges.append((int(parent[node]), node, near[node].item()))
        outside[node], near[node] = False, math.inf
        row = sq_dist[node]
        closer = (row < near) & outside
        near, parent = row.where(closer, near), parent.masked_fill_(closer, node)
    return merges


def average_merges(sq_dist: Tensor) -> list[Merge]:
    """The C - 1 merges of average linkage of distances [C, C], by the nearest-neighbor chain; not sorted.

    Clusters are kept at the higher of the two positions, equal distances go to the lower position, and the averages
    are rounded as in ``scipy.cluster.hierarchy.linkage``, so that the heights are the same to the bit.
    """
    distance = sq_dist.clone()
    distance.fill_diagonal_(math.inf)
    size = [1] * len(distance)
    merges: list[Merge] = []
    chain: list[int] = []
    while len(merges) < len(distance) - 1:
        if not chain:
            chain = [next(i for i, members in enumerate(size) if members)]
        while True:
            row = distance[chain[-1]]
            nearest = int(row.argmin())
            if len(chain) > 1 and row[nearest] >= row[chain[-2]]:
                break
            chain.append(nearest)
        height = row[chain[-2]].item()
        dropped, kept = sorted((chain.pop(), chain.pop()))
        merges.append((dropped, kept, height))
        average = (size[dropped] * distance[dropped] + size[kept] * distance[kept]) / (size[dropped] + size[kept])
        size[kept] += size[dropped]
        size[dropped] = 0
        distance[kept] = distance[:, kept] = average
        distance[dropped] = distance[:, dropped] = math.inf
    return merges


def joined_at(merges: list[Merge], levels: list[int]) -> Tensor:
    """The level of the merge that joins every two points, int16 [C, C], 0 on the diagonal; merges are ascending."""
    count = len(merges) + 1
    members = [[point] for point in range(count)]  # the cluster of every point
    blocks = []
    for (first, second, _), level in zip(merges, levels, strict=True):
        small, large = sorted((members[first], members[second]), key=len)
        blocks.append((large[0], len(large), small[0], len(small), level))
        large += small
        for point in small:
            members[point] = large
    # In the order of the last cluster every cluster is a range, and what a merge joins a block.
    position = torch.empty(count, dtype=torch.int64, device="cpu")
    position[members[0]] = torch.arange(count, device="cpu")
    start = position.tolist()
    ordered = torch.zeros(count, count, dtype=torch.int16, device="cpu")
    for one, size, other, other_size, level in blocks:
        rows, columns = slice(start[one], start[one] + size), slice(start[other], start[other] + other_size)
        ordered[rows, columns] = level
        ordered[columns, rows] = level
    return ordered[position][:, position]
