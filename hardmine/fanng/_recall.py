"""The recall of approximate neighbors: the share of the exact ones that were found."""

from __future__ import annotations

import torch
from torch import Tensor

from hardmine import ops
from hardmine.types import DistanceSimilarity


def measure_recall(
    vectors: Tensor, metric: DistanceSimilarity, queries: Tensor, found: Tensor, k: int, own: Tensor | None = None
) -> float:
    """Share of the exact `k` nearest rows that were found.

    Args:
        vectors: All rows [N, D], float32.
        metric: ``"cosine"`` or ``"euclidean"``.
        queries: [Q, D], float32, at least one.
        found: Their found neighbors, nearest first, int64 [Q, k], or [Q, k + 1] with `own`; -1 does not count.
        k: Neighbors per query, at least 1. If k > N, all rows count.
        own: The rows that are the queries, int64 [Q]; these are no neighbors. None if the queries are no rows.

    Returns:
        The recall, in [0, 1]. A found row counts if it is no farther than the k-th exact neighbor.
    """
    # Distances in float64. The index normalizes rows of any nonzero norm, so this does too.
    points, targets = (_points(rows, metric) for rows in (vectors, queries))
    extra = int(own is not None)
    exact = ops.knn(targets.float(), points.float(), k + extra, similarity=metric).index
    count = min(k, len(vectors) - extra)

    def distances(query: int, neighbors: Tensor) -> Tensor:
        neighbors = neighbors[neighbors >= 0]
        if own is not None:
            neighbors = neighbors[neighbors != own[query]]
        rows, target = points[neighbors], targets[query]
        return 1 - rows @ target if metric == "cosine" else (rows - target).norm(dim=1)

    correct = 0
    for i in range(len(targets)):
        farthest = distances(i, exact[i]).topk(count, largest=False).values[-1]
        correct += int((distances(i, found[i])[:count] <= farthest * (1 + 1e-6) + 1e-12).sum())
    return correct / (count * len(targets))


def _points(rows: Tensor, metric: DistanceSimilarity) -> Tensor:
    points = rows.double()
    if metric == "euclidean":
        return points
    norms = points.norm(dim=1, keepdim=True)
    return points / torch.where(norms > 0, norms, 1.0)
