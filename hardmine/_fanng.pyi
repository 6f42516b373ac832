"""The compiled graph index, as csrc/fanng binds it."""

from collections.abc import Callable
from enum import Enum
from typing import Any

class Metric(Enum):
    euclidean = ...
    cosine = ...
    dot = ...

class Seeding(Enum):
    nothing = ...
    naive = ...
    exact = ...
    leaves = ...
    auto = ...

class Index:
    rows: int
    vertices: int
    depth: int
    metric: Metric
    traversals: int
    success_rate: float
    build_success_rate: float
    distance_computations: int
    components: int
    connecting_edges: int
    widths: list[int]
    list_recall: float
    lists: Any
    graph: tuple[Any, Any, Any]
    @staticmethod
    def build(
        vectors: Any,
        metric: Metric,
        success_rate: float,
        max_degree: int,
        seed: int,
        max_traversals: int,
        refinements: int,
        threads: int,
        seeding: Seeding,
        warm: Index | None,
        progress: Callable[[float, int], object] | None,
    ) -> Index: ...
    @staticmethod
    def assemble(
        vectors: Any, metric: Metric, first_edge: Any, target: Any, starts: Any, lists: Any, *stats: Any
    ) -> Index: ...
    def changed(self, vectors: Any, source: Any, max_degree: int, seed: int, threads: int) -> Index: ...
    def search_width(self, k: int) -> int: ...
    def lists_hold(self, k: int) -> bool: ...
    def search(
        self,
        queries: Any,
        k: int,
        max_computations: int,
        width: int,
        start: Any,
        allowed: Any,
        query_ids: Any,
        row_ids: Any,
        threads: int,
    ) -> tuple[Any, Any]: ...
    def search_held_out(
        self, rows: Any, distances: Any, k: int, max_computations: int, width: int, threads: int
    ) -> tuple[Any, Any]: ...
    def listed(self, first: int, last: int, k: int, threads: int) -> tuple[Any, Any]: ...
    def neighbors(
        self, first: int, last: int, k: int, max_computations: int, width: int, threads: int
    ) -> tuple[Any, Any]: ...

def smart_triplets(
    neighbor_lists: Any, distances: Any, labels: Any, kappa: float, per_anchor: int, seed: int, threads: int
) -> tuple[Any, Any, Any]: ...
