"""The recall of approximate neighbors: the share of the exact ones that were found."""

from __future__ import annotations

import torch
from torch import Tensor

from hardmine import ops
from hardmine.types import Similarity


class ExactNeighbors:
    """How far the exact `k` nearest rows of queries are.

    Args:
        vectors: All rows [N, D], float32.
        metric: ``"cosine"``, ``"dot"`` or ``"euclidean"``.
        queries: [Q, D], float32, at least one.
        k: Neighbors per query, at least 1. If there are fewer, all count.
        own: The rows that are the queries, int64 [Q]; these are no neighbors. None if the queries are no rows.

    Attributes:
        farthest: float64 [Q], the distance of the last of the `k` nearest.
    """

    def __init__(self, vectors: Tensor, metric: Similarity, queries: Tensor, k: int, own: Tensor | None = None) -> None:
        # Distances in float64. The index normalizes rows of any nonzero norm, so this does too.
        self._metric, self._own = metric, own
        self._points, self._queries = (_points(rows, metric) for rows in (vectors, queries))
        self._rounding: float | Tensor = 1e-12
        if metric == "dot":
            self._rounding = 1e-12 * self._queries.norm(dim=1) * self._points.norm(dim=1).max()
        extra = int(own is not None)
        self._count = min(k, len(vectors) - extra)
        exact = ops.knn(self._queries.float(), self._points.float(), k + extra, similarity=metric).index
        self.farthest = torch.stack(
            [
                self._distances(query, rows).topk(self._count, largest=False).values[-1]
                for query, rows in enumerate(exact)
            ]
        )

    def recall(self, found: Tensor) -> float:
        """Share of the exact neighbors that were found.

        Args:
            found: Rows per query, nearest first, int64 [Q, k]; -1 does not count. No query's own row.

        Returns:
            The recall, in [0, 1]. A found row counts if it is no farther than the k-th exact neighbor.
        """
        reach = self.farthest + 1e-6 * self.farthest.abs() + self._rounding
        right = [int((self._distances(query, rows) <= reach[query]).sum()) for query, rows in enumerate(found)]
        return sum(min(count, self._count) for count in right) / (self._count * len(right))

    def _distances(self, query: int, rows: Tensor) -> Tensor:
        rows = rows[rows >= 0]
        if self._own is not None:
            rows = rows[rows != self._own[query]]
        points, target = self._points[rows], self._queries[query]
        if self._metric == "euclidean":
            return (points - target).norm(dim=1)
        return (1 if self._metric == "cosine" else 0) - points @ target


def _points(rows: Tensor, metric: Similarity) -> Tensor:
    points = rows.double()
    if metric != "cosine":
        return points
    norms = points.norm(dim=1, keepdim=True)
    return points / torch.where(norms > 0, norms, 1.0)
