"""Neighbor lists over a whole embedded set, exact or by a FANNG index."""

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
        index: int64 [N, k], row numbers, -1 after the end of a list.
        sq_dist: float32 [N, k], squared Euclidean distances of the normalized rows, 0 to 4, NaN after the end of a
            list.
        method: ``"exact"`` or ``"fanng"``, which made the lists.
        graph: The index that made the lists, or None.
    """

    index: Tensor  # type: ignore[assignment]  # a method of tuple has this name
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
        embeddings: float32 [N, D], finite, on the CPU. Rows need not have unit length.
        k: Neighbors per row, 1 to 1024.
        method: ``"exact"``: :func:`hardmine.ops.knn`; ``"fanng"``: :class:`hardmine.fanng.Index`.
        previous: The index of the last epoch, over as many rows, or None.
        fanng: Options of :meth:`hardmine.fanng.Index.build`, and ``max_distance_computations`` of the searches. With
            ``init="last"`` the new index starts from `previous`, if there is one.
        progress: Show the method's progress bars, if any, on stderr; needs tqdm.

    Returns:
        :class:`NeighborLists`.

    Note:
        On the sphere ``|a - b|^2 = 2 - 2 cos(a, b)``. The exact lists apply this to a float32 cosine, so a squared
        distance below 1e-6 is mostly rounding error. A FANNG index computes 1 - cos from differences.
    """
    if method == "exact":
        found = ops.knn(embeddings, k=k)
        return NeighborLists(found.index, 2 - 2 * found.similarity, method, None)
    options: dict[str, Any] = {"init": "auto", "progress": progress, **(fanng or {})}
    effort = options.pop("max_distance_computations", None)
    if isinstance(options["init"], str) and options["init"] == "last":
        options["init"] = "auto" if previous is None else previous
    graph = Index.build(embeddings, metric="cosine", **options)
    nearest = graph.neighbors(k, max_distance_computations=effort, progress=progress)
    return NeighborLists(nearest.index, 2 * nearest.distance, method, graph)
