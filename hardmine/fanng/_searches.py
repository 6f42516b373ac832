"""What a graph index answers: searches, lists of neighbors, their recall, and statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from hardmine import _fanng
from hardmine._extras import require
from hardmine.fanng._arguments import as_rows, check_filter, check_k, check_start, check_threads
from hardmine.fanng._recall import ExactNeighbors
from hardmine.ops._arguments import shape_of
from hardmine.ops._numbers import check_flag, check_integer
from hardmine.ops.knn import MAX_NEIGHBORS
from hardmine.types import Nearest, Similarity

if TYPE_CHECKING:
    import numpy as np

_CHUNK_ROWS = 8192  # the progress bar of neighbors() moves once per chunk


class Searches:
    """The questions that :class:`hardmine.fanng.Index` answers. Its other half builds, changes and saves it."""

    def __init__(self, core: _fanng.Index, vectors: Tensor, settings: dict[str, Any]) -> None:
        """Keeps the compiled index, the given rows and the settings of the build."""
        self._core, self._vectors, self._settings = core, vectors, settings

    def __len__(self) -> int:
        """Number of rows."""
        return self._core.rows

    def __repr__(self) -> str:
        """Size and metric."""
        return f"Index({len(self)} rows of depth {self.depth}, metric={self.metric!r})"

    @property
    def depth(self) -> int:
        """D, the number of columns of the rows."""
        return self._core.depth

    @property
    def metric(self) -> Similarity:
        """``"cosine"``, ``"dot"`` or ``"euclidean"``."""
        return cast(Similarity, self._core.metric.name)

    @property
    def vectors(self) -> Tensor:
        """The given rows [N, D], float32. Do not write to them."""
        return self._vectors

    def search(
        self,
        queries: Tensor | np.ndarray,
        k: int,
        *,
        width: int | None = None,
        max_distance_computations: int | None = None,
        start: int | Tensor | None = None,
        ids: Tensor | np.ndarray | None = None,
        row_ids: Tensor | np.ndarray | None = None,
        allowed: Tensor | np.ndarray | None = None,
        threads: int | None = None,
    ) -> Nearest:
        """The `k` nearest rows per query, by best-first search.

        A search measures its starts, then follows the edges of the nearest found row whose edges it has not followed.

        Approximately replaces ``torch.cdist(queries, vectors).topk(k, largest=False)``.

        `ids` and `allowed` leave rows out of the results. Searches still walk through these, and `width` counts only
        rows that may be results. Where comparing with all of these takes less time than such a walk, that is what
        happens, and the results are exact.

        Args:
            queries: [Q, D], floating, a tensor on the CPU or a NumPy array; converted to float32.
            k: Neighbors per query, at least 1. If there are fewer rows, the remaining entries have index -1 and
                distance NaN.
            width: A search ends when it has followed the edges of the `width` nearest rows that it has found. A larger
                number finds more of the true neighbors; a number below `k` is raised to `k`. By default
                :meth:`search_width`, with which searches find at least 0.95 of the true neighbors of queries like the
                rows.
            max_distance_computations: Instead of `width`: the search ends after so many distances, as in FANNG.
            start: The row where searches start: one for all queries, or an integer tensor [Q]. By default a search
                measures about sqrt(N) rows that are spread over the graph, at most half of
                `max_distance_computations`, and goes on from the nearest. A row near the query saves time.
            ids: The queries' ids, [Q] integers, given together with `row_ids`; a negative id stands for none. Rows of
                the id of a query are not its neighbors, as in :func:`hardmine.ops.knn`.
            row_ids: The rows' ids, [N] integers.
            allowed: Which rows may be neighbors of any query, bool [N]. By default all.
            threads: Number of threads; by default torch's.

        Returns:
            :class:`hardmine.types.Nearest` [Q, k]: distances float32, ascending, and row numbers int64. The distance is
            1 - cos(a, b), |a - b|, or for the metric "dot" -a.b.

        Raises:
            TypeError: An argument has the wrong type or dtype.
            ValueError: An argument has the wrong shape or value, or a query is not finite.

        Example:
            >>> import torch
            >>> from hardmine.fanng import Index
            >>> rows = torch.arange(6.0)[:, None]  # on a line
            >>> index = Index.build(rows, metric="euclidean")
            >>> found = index.search(torch.tensor([[2.2]]), k=2)
            >>> found.index, found.distance
            (tensor([[2, 3]]), tensor([[0.2000, 0.8000]]))
            >>> labels = torch.tensor([0, 0, 1, 1, 2, 2])
            >>> index.search(torch.tensor([[2.2]]), k=2, ids=torch.tensor([1]), row_ids=labels).index
            tensor([[1, 4]])
            >>> index.search(torch.tensor([[2.2]]), k=2, allowed=labels == 2).index
            tensor([[4, 5]])
        """
        rows, k = self._as_queries(queries), check_k(k)
        limit = self._limit(width, max_distance_computations, k)
        threads = check_threads(threads)
        starts = None if start is None else check_start(start, len(rows), len(self))
        filters = check_filter(allowed, ids, row_ids, len(rows), len(self))
        found = self._core.search(rows.numpy(), k, *limit, starts, *filters, threads)
        return Nearest(*map(torch.from_numpy, found))

    def neighbors(
        self,
        k: int,
        *,
        width: int | None = None,
        max_distance_computations: int | None = None,
        threads: int | None = None,
        progress: bool | None = None,
    ) -> Nearest:
        """The `k` nearest other rows per row.

        If the build made lists of at least `k` rows, as by default for k up to 2 `max_degree` = 60, these are returned.
        They are exact, or their recall is ``list_recall`` in :meth:`stats`. Else, or if `width` or
        `max_distance_computations` is given, each row is searched, starting at itself. Under the metric "dot" all rows
        are searched, started like new queries.

        Approximately replaces :func:`hardmine.ops.knn` of the rows among themselves, whose lists are exact.
        docs/graph-index.md shows when which is faster.

        Args:
            k: Neighbors per row, at least 1. If k > N - 1, the remaining entries have index -1 and distance NaN.
            width: As in :meth:`search`.
            max_distance_computations: As in :meth:`search`.
            threads: Number of threads; by default torch's.
            progress: True shows a bar on stderr, which needs tqdm.

        Returns:
            :class:`hardmine.types.Nearest` [N, k]. Duplicates of a row are among its neighbors, at distance 0.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: An argument is out of range.
            ModuleNotFoundError: ``progress`` is True and tqdm is not installed.

        Example:
            >>> import torch
            >>> from hardmine.fanng import Index
            >>> rows = torch.arange(6.0)[:, None]  # on a line
            >>> index = Index.build(rows, metric="euclidean")
            >>> index.neighbors(2).index[0]
            tensor([1, 2])
        """
        k = check_k(k)
        limit = self._limit(width, max_distance_computations, k)
        threads = check_threads(threads)
        by_search = width is not None or max_distance_computations is not None or not self._core.lists_hold(k)
        progress = progress is not None and check_flag("progress", progress)
        distance = torch.empty(len(self), k, dtype=torch.float32, device="cpu")
        index = torch.empty(len(self), k, dtype=torch.int64, device="cpu")
        step = _CHUNK_ROWS if progress else max(len(self), 1)
        starts = range(0, len(self), step)
        if progress:
            starts = require("tqdm").tqdm(starts, desc="neighbors", unit="chunk")
        for first in starts:
            rows = slice(first, min(first + step, len(self)))
            if by_search:
                found = self._core.neighbors(rows.start, rows.stop, k, *limit, threads)
            else:
                found = self._core.listed(rows.start, rows.stop, k, threads)
            distance[rows], index[rows] = map(torch.from_numpy, found)
        return Nearest(distance, index)

    def search_width(self, k: int) -> int:
        """The default of `width` in a search for `k` neighbors.

        The build measures it: searches for 256 of the rows, started as those for new queries, show how wide a search
        must be to find 0.97 of the k nearest other rows and of the rows themselves, for k of 1, 10 and 50. Other k are
        interpolated. The width is at least k and 16. Rows without structure, such as one-hot rows, can make it N.

        Args:
            k: Neighbors per query, at least 1.

        Returns:
            The width.

        Raises:
            TypeError: ``k`` is not an integer.
            ValueError: ``k`` is out of range.

        Example:
            >>> import torch
            >>> from hardmine.fanng import Index
            >>> rows = torch.arange(1000.0)[:, None]  # on a line
            >>> index = Index.build(rows, metric="euclidean", init="exact", success_rate=0.0)
            >>> index.search_width(10), index.search_width(100)
            (16, 100)
        """
        return self._core.search_width(check_k(k))

    def recall(
        self,
        k: int = 50,
        sample: int | None = 1000,
        *,
        queries: Tensor | np.ndarray | None = None,
        width: int | None = None,
        max_distance_computations: int | None = None,
        seed: int = 0,
        threads: int | None = None,
    ) -> float:
        """Share of the exact `k` nearest rows that :meth:`search` finds, started as it starts by default.

        A found row counts as right if it is no farther than the k-th exact neighbor, because the choice among equally
        near rows is arbitrary.

        Args:
            k: Neighbors per query, 1 to 1023.
            sample: Number of queries to measure, drawn at random; None for all.
            queries: Queries [Q, D] from outside, such as embeddings of held-out images: a tensor as in :meth:`search`.
                By default rows of the index, each held out: it is none of its neighbors, and its edges, which lead
                straight to them, are followed after those of nearer rows. That is close to the recall of new rows of
                the same distribution.
            width: As in :meth:`search`.
            max_distance_computations: As in :meth:`search`.
            seed: Seed of the draw.
            threads: Number of threads of the searches; exact neighbors use torch's number.

        Returns:
            The recall, in [0, 1]; NaN if there is no query, or no row besides it.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: An argument is out of range.

        Example:
            >>> import torch
            >>> from hardmine.fanng import Index
            >>> rows = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
            >>> index = Index.build(rows[:400])
            >>> index.recall(10) > 0.95, index.recall(10, queries=rows[400:]) > 0.95
            (True, True)
        """
        k = check_integer("k", k, 1, MAX_NEIGHBORS - 1)
        sample = None if sample is None else check_integer("sample", sample, 1, 2**31 - 1)
        threads = check_threads(threads)
        generator = torch.Generator("cpu").manual_seed(check_integer("seed", seed, 0, 2**64 - 1))
        outside = self._vectors if queries is None else self._as_queries(queries)
        limit = self._limit(width, max_distance_computations, k)
        others = len(self) - (queries is None)
        if len(outside) == 0 or others < 1:
            return float("nan")
        chosen = torch.arange(len(outside), device="cpu")
        if sample is not None:
            chosen = torch.randperm(len(outside), generator=generator, device="cpu")[:sample].sort().values
        if queries is not None:  # the search checks them
            found = self.search(
                outside[chosen], k, width=width, max_distance_computations=max_distance_computations, threads=threads
            ).index
            return ExactNeighbors(self._vectors, self.metric, outside[chosen], k).recall(found)
        exact = ExactNeighbors(self._vectors, self.metric, outside[chosen], k, own=chosen)
        distances = exact.farthest.float().numpy()
        _, held_out = self._core.search_held_out(chosen.numpy(), distances, k, *limit, threads)
        return exact.recall(torch.from_numpy(held_out))

    def _limit(self, width: Any, max_distance_computations: Any, k: int) -> tuple[int, int]:
        """Where searches end: the number of distance computations, 0 if there is none, and the width."""
        if max_distance_computations is None:
            return 0, self._core.search_width(k) if width is None else check_integer("width", width, 1, 2**31 - 1)
        if width is not None:
            raise ValueError(f"width must be None if max_distance_computations is given, got {width}")
        return check_integer("max_distance_computations", max_distance_computations, 1, 2**31 - 1), 0

    def _as_queries(self, queries: Any) -> Tensor:
        return self._as_rows("queries", queries, "Q")

    def _as_rows(self, name: str, given: Any, count: str = "M") -> Tensor:
        rows = as_rows(name, given)
        if rows.shape[1] != self.depth:
            raise ValueError(f"{name} must be [{count}, D] with the index's D = {self.depth}, got {shape_of(given)}")
        return rows

    def stats(self) -> dict[str, float]:
        """Statistics of the graph and of the build.

        Returns:
            ``rows``, ``vertices`` (distinct rows), ``edges``, ``degree_mean``, ``degree_max``, ``success_rate`` (share
            of random traversals of this graph that arrive, measured on N / 4 of them, 1,000 to 4,000). For the build:
            ``build_success_rate`` (share of its last traversals that arrived; reverse edges, refinements and
            `max_degree` changed the graph after them; 0 without traversals), ``list_recall`` (recall of the lists that
            the build made, for 256 rows and up to 50 neighbors; 0 without lists), ``traversals``, ``components``
            (strongly connected ones, before edges connected them), ``connecting_edges`` (how many did) and
            ``distance_computations`` (all of these, and the measurement of :meth:`search_width`).

        Example:
            >>> import torch
            >>> from hardmine.fanng import Index
            >>> rows = torch.arange(6.0)[:, None]  # on a line
            >>> index = Index.build(rows, metric="euclidean")
            >>> index.stats()["vertices"], index.stats()["edges"]
            (6, 10)
        """
        first_edge, target, _ = self._core.graph
        degree = torch.from_numpy(first_edge).diff()
        vertices = self._core.vertices
        return {
            "rows": len(self),
            "vertices": vertices,
            "edges": len(target),
            "degree_mean": len(target) / max(vertices, 1),
            "degree_max": int(degree.max()) if vertices else 0,
            "success_rate": self._core.success_rate,
            "build_success_rate": self._core.build_success_rate,
            "list_recall": self._core.list_recall,
            "traversals": self._core.traversals,
            "components": self._core.components,
            "connecting_edges": self._core.connecting_edges,
            "distance_computations": self._core.distance_computations,
        }
