"""Times the graph index: every kind of build, the neighbor lists, one query. `graph_report.py` times its rivals.

pytest bench/bench_fanng.py --bench-sizes 2048 8192 --bench-dims 64
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphs.data import clusters
from graphs.grids import DEFAULT_EFFORT, K
from hardmine.fanng import Index

MIN_RECALL = 0.95  # at the default effort; a graph with less is not worth timing
MOVE = 0.05  # how far rows move before the warm build, as a fraction of the row's length


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    option = metafunc.config.getoption
    sizes = [(n, d) for n in option("--bench-sizes") for d in option("--bench-dims")]
    metafunc.parametrize(("n", "d"), sizes, ids=[f"N={n}-D={d}" for n, d in sizes])


def rows_of(n: int, d: int) -> torch.Tensor:
    return torch.from_numpy(clusters(n, d).astype(np.float32))


def check(graph: Index, k: int, effort: int) -> float:
    recall = graph.recall(k, 500, max_distance_computations=effort)
    assert recall >= MIN_RECALL, f"recall is {recall:.4f}"
    return recall


@pytest.mark.parametrize("init", [None, "auto", "warm"])
def test_build(benchmark, n, d, init):
    rows = rows_of(n, d)
    before = None
    if init == "warm":
        before = Index.build(rows, init=None)
        noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0)) / d**0.5
        rows = rows + MOVE * rows.norm(dim=1, keepdim=True) * noise
    graph = Index.build(rows, init=before or init)
    benchmark.group = f"build N={n} D={d}"
    recall = check(graph, min(K, n - 1), DEFAULT_EFFORT)
    benchmark.extra_info.update(n=n, d=d, init=str(init), recall=recall, **graph.stats())
    benchmark(lambda: Index.build(rows, init=before or init))


@pytest.mark.parametrize("effort", [400, DEFAULT_EFFORT, 2000])
def test_neighbors(benchmark, n, d, effort):
    graph = Index.build(rows_of(n, d), init=None)
    k = min(K, n - 1)
    benchmark.group = f"neighbors({k}) N={n} D={d}"
    recall = graph.recall(k, 500, max_distance_computations=effort)
    if effort >= DEFAULT_EFFORT:
        check(graph, k, effort)
    benchmark.extra_info.update(n=n, d=d, effort=effort, recall=recall)
    benchmark(lambda: graph.neighbors(k, max_distance_computations=effort))


@pytest.mark.parametrize("k", [1, 10])
def test_search_of_one_query(benchmark, n, d, k):
    rows = rows_of(n, d)
    graph = Index.build(rows)
    benchmark.group = f"search for one query N={n} D={d}"
    benchmark.extra_info.update(n=n, d=d, k=k)
    found = graph.search(rows[:1], k)
    assert found.index[0, 0] == 0, "the nearest neighbor of a row must be the row itself"
    benchmark(lambda: graph.search(rows[:1], k))
