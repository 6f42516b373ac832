"""Lists of near neighbors over a whole embedded set, exact or by a FANNG index."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from torch import Tensor

from hardmine import ops
from hardmine.fanng import Index

METHODS = ("exact", "fanng")


class NeighborLists(NamedTuple):
    """The neighbors of every row, nearest first.

    Attributes:
        index: int64 [N, k], row numbers, -1 where a list ends.
        sq_dist: float32 [N, k], squared Euclidean distances of the normalized rows, 0 to 4, NaN where a list ends.
        method: ``"exact"`` or ``"fanng"``, which made them.
        graph: The index that did, or None.
    """

    index: Tensor  # type: ignore[assignment]  # the name is that of a method of tuple
    sq_dist: Tensor
    method: str
    graph: Index | None


def neighbor_lists(
    embeddings: Tensor,
    k: int,
    *,
    method: Literal["exact", "fanng"] = "exact",
    previous: Index | None = None,
    fanng: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> NeighborLists:
    """The ``k`` nearest other rows of every row, by cosine similarity.

    Args:
        embeddings: float32 [N, D], finite, on the CPU. They need not have unit length.
        k: Neighbors per row, 1 to 1024.
        method: ``"exact"``: :func:`hardmine.ops.knn`; ``"fanng"``: :class:`hardmine.fanng.Index`.
        previous: The index of the last epoch, over as many rows, from which a new one is warm-started.
        fanng: Options of :meth:`hardmine.fanng.Index.build`, and ``max_distance_computations`` of the searches.
        progress: Show progress bars on stderr where the method has some, which needs tqdm.

    Returns:
        :class:`NeighborLists`.

    Note:
        On the sphere ``|a - b|^2 = 2 - 2 cos(a, b)``. The exact lists take that of a float32 cosine, so that a squared
        distance below 1e-6 is mostly rounding; a FANNG computes 1 - cos from differences.
    """
    if method == "exact":
        found = ops.knn(embeddings, k=k)
        return NeighborLists(found.index, 2 - 2 * found.similarity, method, None)
    options = dict(fanng or {})
    effort = options.pop("max_distance_computations", None)
    options = {"init": previous, "progress": progress} | options
    graph = Index.build(embeddings, metric="cosine", **options)
    near = graph.neighbors(k, max_distance_computations=effort, progress=progress)
    return NeighborLists(near.index, 2 * near.distance, method, graph)
