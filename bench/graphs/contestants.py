"""All libraries that make neighbor lists, behind one interface: build a graph, then make lists at a given effort.

All contestants get the same rows and as many threads as torch has, and must exclude each row from its own list. faiss
and hnswlib have no option for that, so they search for one more neighbor and drop the row. This takes about one percent
of their time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from graphs.data import DataSet
from hardmine import ops
from hardmine.fanng import Index
from rivals.common import SkippedRivalError


class Contestant(Protocol):
    """One library at one setting of its build."""

    library: str  # its name in tables
    family: str  # contestants of one family share a line of the plot
    setting: str
    efforts: tuple[int, ...]  # to make lists at, ascending; the unit depends on the library
    repeatable: bool  # whether equal builds give the same graph

    def build(self, data: DataSet) -> Any:
        """Builds the graph; None for a search without a graph."""

    def lists(self, graph: Any, data: DataSet, k: int, effort: int) -> np.ndarray:
        """The nearest other rows of each row, as row numbers [N, k]; -1 fills a list that has fewer."""

    def facts(self, graph: Any) -> dict[str, float]:
        """Properties of the graph to report beside its times."""


@dataclass(frozen=True)
class Exact:
    """Exact search: `hardmine.ops.knn` over all pairs, without a graph."""

    library: str = "exact knn"
    family: str = "exact knn"
    setting: str = "all pairs"
    efforts: tuple[int, ...] = (0,)
    repeatable: bool = True

    def build(self, data: DataSet) -> None:
        pass

    def lists(self, graph: None, data: DataSet, k: int, effort: int) -> np.ndarray:
        return ops.knn(torch.from_numpy(data.rows), k=k, similarity=data.metric).index.numpy()

    def lists_of(self, data: DataSet, rows: np.ndarray, k: int) -> np.ndarray:
        """The nearest other rows of some rows, [R, k]."""
        all_rows = torch.from_numpy(data.rows)
        found = ops.knn(all_rows[rows], all_rows, k + 1, similarity=data.metric).index.numpy()
        return drop_self(found, rows)

    def facts(self, graph: None) -> dict[str, float]:
        return {}


DEFAULT = "hardmine, default"
TRAVERSE_ADD = "hardmine, traverse-add alone"
REFINED = "hardmine, traverse-add and refinement"
SEEDED = "hardmine, seeded with exact lists"
WARM = "hardmine, from the graph before"


@dataclass(frozen=True)
class Fanng:
    """`hardmine.fanng.Index`. Efforts are distance computations per search; 0 is the default."""

    efforts: tuple[int, ...]
    init: str | Index | None = None
    success_rate: float = 0.98
    traversals_per_row: int | None = None  # maximum per row; None: the library's default
    refinements: int = 0
    max_degree: int = 30
    library: str = field(default="hardmine", init=False)
    repeatable: bool = field(default=True, init=False)

    @property
    def family(self) -> str:
        if isinstance(self.init, Index):
            return WARM
        if self.init == "auto":
            return DEFAULT
        if self.init is not None:
            return SEEDED
        return REFINED if self.refinements else TRAVERSE_ADD

    @property
    def setting(self) -> str:
        seed = "the graph before" if isinstance(self.init, Index) else self.init
        parts = [f"init = {seed}", f"success_rate = {self.success_rate:g}"]
        if self.traversals_per_row is not None:
            parts.append(f"max_traversals = {self.traversals_per_row} N")
        if self.refinements:
            parts.append(f"refinements = {self.refinements}")
        if self.max_degree != 30:
            parts.append(f"max_degree = {self.max_degree}")
        return ", ".join(parts)

    def build(self, data: DataSet) -> Index:
        return Index.build(
            torch.from_numpy(data.rows),
            metric=data.metric,
            init=self.init,
            success_rate=self.success_rate,
            max_degree=self.max_degree,
            max_traversals=None if self.traversals_per_row is None else self.traversals_per_row * len(data.rows),
            refinements=self.refinements,
        )

    def lists(self, graph: Index, data: DataSet, k: int, effort: int) -> np.ndarray:
        return graph.neighbors(k, max_distance_computations=effort or None).index.numpy()

    def facts(self, graph: Index) -> dict[str, float]:
        stats = graph.stats()
        rows = max(stats["rows"], 1)
        return {
            "degree_mean": stats["degree_mean"],
            "degree_max": stats["degree_max"],
            "success_rate": stats["success_rate"],
            "traversals_per_row": stats["traversals"] / rows,
            "distances_per_row": stats["distance_computations"] / rows,
        }


def drop_self(index: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """Drops each row from its list [R, k + 1]; if the row is not in its list, drops the last entry.

    The lists are those of `rows`, by default of all.
    """
    keep = index != (np.arange(len(index)) if rows is None else rows)[:, None]
    keep[keep.all(1), -1] = False
    return index[keep].reshape(len(index), index.shape[1] - 1)


@dataclass(frozen=True)
class Hnswlib:
    """hnswlib's Index. Efforts are values of ef."""

    m: int
    ef_construction: int
    efforts: tuple[int, ...]
    library: str = field(default="hnswlib", init=False)
    family: str = field(default="hnswlib", init=False)
    repeatable: bool = field(default=False, init=False)  # the graph depends on which thread comes first

    @property
    def setting(self) -> str:
        return f"M = {self.m}, ef_construction = {self.ef_construction}"

    def build(self, data: DataSet) -> Any:
        import hnswlib

        graph = hnswlib.Index("ip" if data.metric == "cosine" else "l2", data.rows.shape[1])
        graph.init_index(len(data.rows), M=self.m, ef_construction=self.ef_construction, random_seed=0)
        graph.set_num_threads(torch.get_num_threads())
        graph.add_items(data.rows)
        return graph

    def lists(self, graph: Any, data: DataSet, k: int, effort: int) -> np.ndarray:
        graph.set_ef(max(effort, k + 1))
        return drop_self(graph.knn_query(data.rows, k + 1)[0].astype(np.int64))

    def facts(self, graph: Any) -> dict[str, float]:
        return {}


@dataclass(frozen=True)
class FaissHnsw:
    """IndexHNSWFlat of faiss. Efforts are values of efSearch."""

    m: int
    ef_construction: int
    efforts: tuple[int, ...]
    library: str = field(default="faiss HNSW", init=False)
    family: str = field(default="faiss HNSW", init=False)
    repeatable: bool = field(default=False, init=False)

    @property
    def setting(self) -> str:
        return f"M = {self.m}, efConstruction = {self.ef_construction}"

    def build(self, data: DataSet) -> Any:
        import faiss

        faiss.omp_set_num_threads(torch.get_num_threads())
        metric = faiss.METRIC_INNER_PRODUCT if data.metric == "cosine" else faiss.METRIC_L2
        graph = faiss.IndexHNSWFlat(data.rows.shape[1], self.m, metric)
        graph.hnsw.efConstruction = self.ef_construction
        graph.add(data.rows)
        return graph

    def lists(self, graph: Any, data: DataSet, k: int, effort: int) -> np.ndarray:
        graph.hnsw.efSearch = max(effort, k + 1)
        return drop_self(graph.search(data.rows, k + 1)[1])

    def facts(self, graph: Any) -> dict[str, float]:
        return {}


@dataclass(frozen=True)
class FaissNNDescent:
    """IndexNNDescentFlat of faiss. Its build makes lists, which are the result; the effort is the number of rounds."""

    sampled: int  # S and R of NN-descent: neighbors and reverse neighbors per row and round
    efforts: tuple[int, ...]
    list_length: int = 64
    library: str = field(default="faiss NNDescent", init=False)
    family: str = field(default="faiss NNDescent", init=False)
    repeatable: bool = field(default=False, init=False)

    @property
    def setting(self) -> str:
        return f"K = {self.list_length}, S = {self.sampled}, R = {4 * self.sampled}, iter = {self.efforts[0]}"

    def build(self, data: DataSet) -> Any:
        import faiss

        faiss.omp_set_num_threads(torch.get_num_threads())
        metric = faiss.METRIC_INNER_PRODUCT if data.metric == "cosine" else faiss.METRIC_L2
        graph = faiss.IndexNNDescentFlat(data.rows.shape[1], self.list_length, metric)
        parameters = graph.nndescent
        parameters.S, parameters.R, parameters.L = self.sampled, 4 * self.sampled, 100
        parameters.iter = self.efforts[0]
        graph.add(data.rows)
        return graph

    def lists(self, graph: Any, data: DataSet, k: int, effort: int) -> np.ndarray:
        import faiss

        found = faiss.vector_to_array(graph.nndescent.final_graph).reshape(len(data.rows), -1)
        return found[:, :k].astype(np.int64)

    def facts(self, graph: Any) -> dict[str, float]:
        return {}


MODULES = {"hnswlib": "hnswlib", "faiss HNSW": "faiss", "faiss NNDescent": "faiss"}


def require(contestant: Contestant) -> None:
    """Raises SkippedRivalError if the contestant's library is not installed."""
    module = MODULES.get(contestant.library)
    if module is None:
        return
    try:
        __import__(module)
    except ImportError as error:
        raise SkippedRivalError(f"{module} is not installed") from error
