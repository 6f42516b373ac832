"""FANNG: a graph of near neighbors over a whole training set, built by traversals and searched with backtracking."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor

from hardmine import _fanng
from hardmine._extras import require
from hardmine.fanng import _file
from hardmine.fanng._arguments import (
    as_rows,
    build_progress,
    check_k,
    check_row_numbers,
    check_start,
    check_threads,
)
from hardmine.fanng._recall import ExactNeighbors
from hardmine.ops._arguments import check_choice, shape_of
from hardmine.ops._numbers import check_flag, check_integer, check_number
from hardmine.ops.knn import MAX_NEIGHBORS
from hardmine.types import DistanceSimilarity, Nearest

if TYPE_CHECKING:
    import numpy as np

_CHUNK_ROWS = 8192  # the progress bar of neighbors() moves once per chunk


class Index:
    """A graph over the rows of a matrix, in which near neighbors are found without comparing all pairs.

    Use :meth:`build` or :meth:`load` to make one. An index is immutable, so any number of Python threads may search it
    at the same time.

    Note:
        Duplicate rows share one vertex of the graph, and are all reported, at distance 0. Under the cosine metric, rows
        are compared after normalization. A zero row then has similarity 0 to every other row, as in the ops, which is
        distance 1; zero rows are duplicates of each other. A zero query is at distance 1 from all rows. Ties go to the
        lowest index. Results are bitwise equal on every repeat, for any number of threads and at every SIMD level.

        Distances are float32 and computed from differences, so 1 - cos keeps its relative precision for close rows.

    Reference:
        Harwood and Drummond, "FANNG: Fast Approximate Nearest Neighbour Graphs", CVPR 2016; for mining: Harwood et al.,
        "Smart Mining for Deep Metric Learning", ICCV 2017, section 3.2. docs/graph-index.md lists what is reconstructed
        rather than read in the CVPR paper.

    Example:
        >>> import torch
        >>> from hardmine.fanng import Index
        >>> rows = torch.arange(6.0)[:, None]  # on a line
        >>> index = Index.build(rows, metric="euclidean")
        >>> index
        Index(6 rows of depth 1, metric='euclidean')
        >>> index.neighbors(1).distance.flatten()
        tensor([1., 1., 1., 1., 1., 1.])
    """

    def __init__(self, core: _fanng.Index, vectors: Tensor, settings: dict[str, Any]) -> None:
        """Called by :meth:`build` and :meth:`load` only."""
        self._core, self._vectors, self._settings = core, vectors, settings

    def __reduce__(self) -> tuple[Callable[..., Index], tuple[Any, ...]]:
        """Pickle and copy rows, edges and settings: the graph is assembled from them, not built again."""
        return _unpickle, tuple(_file.disassemble(self._core, self._vectors, self._settings))

    @classmethod
    def build(
        cls,
        vectors: Tensor | np.ndarray,
        *,
        metric: DistanceSimilarity = "cosine",
        success_rate: float | None = None,
        max_degree: int = 30,
        seed: int = 0,
        threads: int | None = None,
        progress: bool | Callable[[float, int], object] | None = None,
        init: Literal["auto", "exact", "leaves", "naive"] | Index | None = "auto",
        max_traversals: int | None = None,
        refinements: int = 0,
    ) -> Index:
        """Build the graph.

        By default every row gets edges to its nearest rows, those whose reverses it is, and none that a shorter edge
        occludes. The lists of nearest rows are exact up to some 200,000 rows, and approximate beyond. The index keeps
        them for :meth:`neighbors`.

        ``init=None`` is FANNG as published. Traversals between random vertices walk downhill, always to the neighbor
        nearest to the target. If a traversal ends before the target, an edge to the target is added, and longer edges
        that the new edge occludes are removed. This repeats until a share of `success_rate` of the recent traversals
        arrives.

        Finally edges are added until there is a path from every row to every other, and the default width of
        :meth:`search` is measured.

        Args:
            vectors: Rows [N, D] to index, float32, float64, float16 or bfloat16: a tensor on the CPU, or a NumPy array,
                which may be memory-mapped. A copy is kept in memory as float32.
            metric: ``"cosine"``: distance 1 - cos(a, b), of rows that need not have unit length; or ``"euclidean"``:
                |a - b|.
            success_rate: Share of the last traversals that must arrive, 0 to 1. 0 makes no traversals. By default 0.98
                if `init` is None or ``"naive"``, 0 if it names lists, and that of the index if it is one.
            max_degree: Maximal number of edges per vertex, 1 to 65535. The shortest are kept at the end of the build.
                Up to three more per vertex connect the graph.
            seed: Seed of the traversals.
            threads: Number of threads, by default torch's. If the system starts fewer, fewer are used, with the same
                result.
            progress: True shows a bar on stderr, which needs tqdm; a function is called after every N / 8 traversals.
                Its arguments are the share of recent traversals that arrived, and the number of traversals so far.
            init: The initial edges. ``"exact"``: edges to each row's exact 2 `max_degree` nearest, at most 1,024 (by
                the engine of :func:`hardmine.ops.knn`), and their reverses, without occluded ones. ``"leaves"``: the
                same for approximate lists, whose time grows about linearly with N: all pairs of rows within the leaves
                of random splits, and neighbors of neighbors. ``"auto"``: ``"exact"`` while N^2 D is at most 2.5e12,
                where D is rounded up to a multiple of 16; then ``"leaves"``. None: no edges. ``"naive"``: all N^2
                pairs, without occluded ones (the paper's Algorithm 1; for tests and small sets). Or an index over as
                many rows, such as the last epoch's: its edges and the 15 nearest of its lists, remeasured and pruned
                again, and their reverses; the new index has no lists. If that index used all 50 N traversals without
                reaching `success_rate`, this build targets the rate that it did reach.
            max_traversals: Maximal number of traversals; by default 50 N, as in the paper, and at least 4,000.
            refinements: Number of final passes that search the neighbors of every row and add edges to them. FANNG has
                such passes; Smart Mining omits them. They give better lists for the same effort, most of all if few
                traversals arrive.

        Returns:
            The index.

        Raises:
            TypeError: An argument has the wrong type or dtype.
            ValueError: An argument has the wrong shape or value. The message names a row that is not finite, or whose
                squared distances overflow float32.
            RuntimeError: No thread can be started.
            KeyboardInterrupt: Ctrl-C.
            ModuleNotFoundError: NumPy is not installed, or ``progress`` is True and tqdm is not.

        Example:
            >>> import torch
            >>> index = Index.build(torch.eye(3), metric="euclidean")
            >>> index.search(torch.tensor([[0.0, 2.0, 0.0]]), k=1).index
            tensor([[1]])
        """
        require("numpy")  # the compiled library takes and gives arrays
        rows = as_rows("vectors", vectors)
        if isinstance(vectors, Tensor) and rows.data_ptr() == vectors.data_ptr():
            rows = rows.clone()  # a caller that reuses its buffer must not change the index
        check_choice("metric", metric, _file.METRICS)
        if success_rate is None:
            success_rate = default_success_rate(init)
        settings: dict[str, Any] = {
            "success_rate": check_number("success_rate", success_rate, at_least=0.0),
            "max_degree": check_integer("max_degree", max_degree, 1, 65535),
            "seed": check_integer("seed", seed, 0, 2**64 - 1),
        }
        if success_rate > 1:
            raise ValueError(f"success_rate must be from 0 to 1, got {success_rate}")
        traversals = 0 if max_traversals is None else check_integer("max_traversals", max_traversals, 1, 2**62)
        refinements, threads = check_integer("refinements", refinements, 0, 1000), check_threads(threads)
        warm, seeding = None, _fanng.Seeding.nothing
        if isinstance(init, Index):
            warm = init._core
            if len(init) != len(rows):
                raise ValueError(f"init must be an index over N = {len(rows)} rows, as vectors, got {len(init)} rows")
        elif init is not None:
            check_choice("init", init, ("auto", "exact", "leaves", "naive"))
            seeding = getattr(_fanng.Seeding, init)
        with build_progress(progress, settings["success_rate"]) as report:
            core = _fanng.Index.build(
                rows.numpy(),
                metric=getattr(_fanng.Metric, metric),
                **settings,
                max_traversals=traversals,
                refinements=refinements,
                threads=threads,
                seeding=seeding,
                warm=warm,
                progress=report,
            )
        return cls(core, rows, settings)

    def add(self, rows: Tensor | np.ndarray, *, threads: int | None = None) -> Index:
        """An index over these rows and others, from this one's graph.

        New rows get edges to the nearest that a search finds, and to the nearest of each other; their reverses are
        added. A few rows take a small part of the time of a build. The new index has no lists, so :meth:`neighbors`
        searches. If there are more new rows than old ones, all are built anew.

        Args:
            rows: Rows [M, D] to add, as in :meth:`build`. They become rows N to N + M - 1.
            threads: Number of threads; by default torch's.

        Returns:
            The new index. This one stays as it is.

        Raises:
            TypeError: An argument has the wrong type or dtype.
            ValueError: An argument has the wrong shape or value, or a row is not finite.

        Example:
            >>> import torch
            >>> from hardmine.fanng import Index
            >>> index = Index.build(torch.arange(6.0)[:, None], metric="euclidean")  # on a line
            >>> index.add(torch.tensor([[2.25]])).search(torch.tensor([[2.2]]), k=2).index
            tensor([[6, 2]])
        """
        added = self._as_rows("rows", rows)
        if not added.isfinite().all():
            row, column = (~added.isfinite()).nonzero()[0].tolist()
            raise ValueError(f"rows must be finite, got {added[row, column]:g} in row {row}, column {column}")
        source = torch.cat([torch.arange(len(self), device="cpu"), torch.full((len(added),), -1, device="cpu")])
        return self._changed(torch.cat([self._vectors, added]), source, threads)

    def remove(self, rows: Tensor | Sequence[int], *, threads: int | None = None) -> Index:
        """An index without these rows, from this one's graph.

        An edge to a removed row is replaced by those that the row had. The new index has no lists, so :meth:`neighbors`
        searches. If less than half of the rows remain, they are built anew.

        Args:
            rows: Numbers of the rows to remove, a tensor of integers or a sequence. Repeated numbers count once.
            threads: Number of threads; by default torch's.

        Returns:
            The new index. The rows that remain keep their order, and are numbered anew from 0. This index stays as it
            is.

        Raises:
            TypeError: An argument has the wrong type or dtype.
            ValueError: A number is out of range.

        Example:
            >>> import torch
            >>> from hardmine.fanng import Index
            >>> index = Index.build(torch.arange(6.0)[:, None], metric="euclidean")  # on a line
            >>> index.remove([2, 3]).vectors.flatten()
            tensor([0., 1., 4., 5.])
        """
        keep = torch.ones(len(self), dtype=torch.bool, device="cpu")
        keep[check_row_numbers("rows", rows, len(self))] = False
        return self._changed(self._vectors[keep], keep.nonzero().flatten(), threads)

    def _changed(self, vectors: Tensor, source: Tensor, threads: int | None) -> Index:
        """An index over rows of which row i is row source[i] of this one, or new if that is -1."""
        threads = check_threads(threads)
        degree, seed = self._settings.get("max_degree", 30), self._settings.get("seed", 0)
        degree, seed = check_integer("max_degree", degree, 1, 65535), check_integer("seed", seed, 0, 2**64 - 1)
        if 2 * int((source >= 0).sum()) < max(len(self), len(source)):
            return Index.build(vectors, metric=self.metric, max_degree=degree, seed=seed, threads=threads)
        core = self._core.changed(vectors.numpy(), source.numpy(), degree, seed, threads)
        return Index(core, vectors, self._settings)

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
    def metric(self) -> DistanceSimilarity:
        """``"cosine"`` or ``"euclidean"``."""
        return cast(DistanceSimilarity, self._core.metric.name)

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
        threads: int | None = None,
    ) -> Nearest:
        """The `k` nearest rows per query, by best-first search.

        A search measures its starts, then follows the edges of the nearest found row whose edges it has not followed.

        Approximately replaces ``torch.cdist(queries, vectors).topk(k, largest=False)``.

        Args:
            queries: [Q, D], floating, a tensor on the CPU or a NumPy array; converted to float32.
            k: Neighbors per query, at least 1. If k > N, the remaining entries have index -1 and distance NaN.
            width: A search ends when it has followed the edges of the `width` nearest rows that it has found. A larger
                number finds more of the true neighbors; at least k. By default :meth:`search_width`, with which
                searches find at least 0.95 of the true neighbors of queries like the rows.
            max_distance_computations: Instead of `width`: the search ends after so many distances, as in FANNG.
            start: The row where searches start: one for all queries, or an integer tensor [Q]. By default a search
                measures about sqrt(N) rows that are spread over the graph, at most half of
                `max_distance_computations`, and goes on from the nearest. A row near the query saves time.
            threads: Number of threads; by default torch's.

        Returns:
            :class:`hardmine.types.Nearest` [Q, k]: distances float32, ascending, and row numbers int64.

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
        """
        rows, k = self._as_queries(queries), check_k(k)
        limit = self._limit(width, max_distance_computations, k)
        threads = check_threads(threads)
        starts = None if start is None else check_start(start, len(rows), len(self))
        found = self._core.search(rows.numpy(), k, *limit, starts, threads)
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
        `max_distance_computations` is given, each row is searched, starting at itself.

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
            options = {"width": width, "max_distance_computations": max_distance_computations}
            found = self.search(outside[chosen], k, **options, threads=threads).index
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

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to a file, for :meth:`load`.

        The file holds vectors, graph, settings and a checksum, as safetensors; docs/graph-index.md describes the
        format. The write is atomic: an existing file is replaced once the new one is on the disk.

        Args:
            path: Name of the file.

        Raises:
            TypeError: ``path`` is not a path.
            OSError: The file cannot be written, or ``path`` exists and is not a file; FileNotFoundError if the folder
                does not exist.
            ModuleNotFoundError: safetensors is not installed.

        Example:
            >>> import torch
            >>> from hardmine.fanng import Index
            >>> rows = torch.arange(6.0)[:, None]  # on a line
            >>> index = Index.build(rows, metric="euclidean")
            >>> index.save("rows.safetensors")
            >>> torch.equal(Index.load("rows.safetensors").vectors, rows)
            True
        """
        _file.write(path, _file.disassemble(self._core, self._vectors, self._settings))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Index:
        """Read an index from a file that :meth:`save` wrote.

        Args:
            path: Name of the file.

        Returns:
            An index whose results are bitwise those of the saved one.

        Raises:
            OSError: The file cannot be read; FileNotFoundError if it does not exist.
            ValueError: The file is not an index, has a later format, or is truncated or altered. The message names the
                file and the problem.
            ModuleNotFoundError: safetensors is not installed.

        Example:
            >>> import torch
            >>> from hardmine.fanng import Index
            >>> rows = torch.arange(6.0)[:, None]  # on a line
            >>> index = Index.build(rows, metric="euclidean")
            >>> index.save("rows.safetensors")
            >>> Index.load("rows.safetensors")
            Index(6 rows of depth 1, metric='euclidean')
        """
        return cls(*_file.read(path, _file.assemble))

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


def default_success_rate(init: Any) -> float:
    """The default of ``success_rate`` in a build from `init`."""
    if isinstance(init, Index):
        return init._settings.get("success_rate", 0.98)
    return 0.98 if init in (None, "naive") else 0.0


def _unpickle(*contents: Any) -> Index:
    """The index with these pickled contents."""
    return Index(*_file.assemble(_file.Contents(*contents)))
