"""FANNG: a graph of near neighbors over a whole training set, built by traversals and searched with backtracking."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from hardmine import _fanng
from hardmine._extras import require
from hardmine.fanng import _file
from hardmine.fanng._arguments import as_rows, build_progress, check_row_numbers, check_threads
from hardmine.fanng._searches import Searches
from hardmine.ops._arguments import check_choice
from hardmine.ops._numbers import check_integer, check_number
from hardmine.types import Similarity

if TYPE_CHECKING:
    import numpy as np


class Index(Searches):
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
        super().__init__(core, vectors, settings)

    def __reduce__(self) -> tuple[Callable[..., Index], tuple[Any, ...]]:
        """Pickle and copy rows, edges and settings: the graph is assembled from them, not built again."""
        return _unpickle, tuple(_file.disassemble(self._core, self._vectors, self._settings))

    @classmethod
    def build(
        cls,
        vectors: Tensor | np.ndarray,
        *,
        metric: Similarity = "cosine",
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
        occludes. The lists of nearest rows are exact up to 110,000 rows, and approximate beyond. The index keeps
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
            metric: ``"cosine"``: distance 1 - cos(a, b), of rows that need not have unit length; ``"euclidean"``:
                |a - b|; or ``"dot"``: -a.b, so that the nearest rows are those of the largest inner product.
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
                same for approximate lists, whose time grows about linearly with N: all pairs of rows within overlapping
                leaves around k-means centers; exact ones of fewer than 64,000 rows. ``"auto"``: ``"exact"`` up to
                110,000 distinct rows, then ``"leaves"``. None: no edges.
                ``"naive"``: all N^2 pairs, without occluded ones (the paper's Algorithm 1; for tests and small sets).
                Or an index over as many rows, such as the last epoch's: its edges and those to its lists, remeasured
                and pruned again, and their reverses; the new index has no lists. If that index used all 50 N traversals
                without reaching `success_rate`, this build targets the rate that it did reach.
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
        searches. If there are more new rows than old ones, all are built anew. Under the metric "dot", too, new rows
        may be longer than all old ones.

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


def default_success_rate(init: Any) -> float:
    """The default of ``success_rate`` in a build from `init`."""
    if isinstance(init, Index):
        return init._settings.get("success_rate", 0.98)
    return 0.98 if init in (None, "naive") else 0.0


def _unpickle(*contents: Any) -> Index:
    """The index with these pickled contents."""
    return Index(*_file.assemble(_file.Contents(*contents)))
