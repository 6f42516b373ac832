"""The recall of approximate neighbors: the share of the exact ones that were found."""

from __future__ import annotations

import torch
from torch import Tensor

from hardmine import ops
from hardmine.types import DistanceSimilarity


def measure_recall(vectors: Tensor, metric: DistanceSimilarity, rows: Tensor, found: Tensor, k: int) -> float:
    """Share of the exact `k` nearest other rows that were found.

    Args:
        vectors: All rows [N, D], float32.
        metric: ``"cosine"`` or ``"euclidean"``.
        rows: The measured rows, int64 [R], at least one.
        found: Their found neighbors, nearest first, int64 [R, k + 1]; the row itself and -1 do not count.
        k: Neighbors per row, at least 1. If k > N - 1, all other rows count.

    Returns:
        The recall, in [0, 1]. A found row counts if it is no farther than the k-th exact neighbor.
    """
    # Distances in float64. The index normalizes rows of any nonzero norm, so this does too.
    points = vectors.double()
    if metric == "cosine":
        norms = points.norm(dim=1, keepdim=True)
        points = points / torch.where(norms > 0, norms, 1.0)
    exact = ops.knn(points[rows].float(), points.float(), k + 1, similarity=metric).index
    count = min(k, len(vectors) - 1)

    def distances(row: int, neighbors: Tensor) -> Tensor:
        neighbors = points[neighbors[(neighbors >= 0) & (neighbors != row)]]
        return 1 - neighbors @ points[row] if metric == "cosine" else (neighbors - points[row]).norm(dim=1)

    correct = 0
    for i, row in enumerate(rows.tolist()):
        farthest = distances(row, exact[i]).topk(count, largest=False).values[-1]
        correct += int((distances(row, found[i])[:count] <= farthest * (1 + 1e-6) + 1e-12).sum())
    return correct / (count * len(rows))
