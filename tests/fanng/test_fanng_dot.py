"""The graph index under the metric "dot": rows of very different norms, against exact inner products."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fanng_cases import assert_exact, assert_same_index, naive_index, plain_distances
from hardmine import ops
from hardmine.fanng import Index
from support.inputs import seeded

NEW = 100  # queries, held out from the rows


def clusters(rows: int) -> Tensor:
    centers = torch.randn(40, 24, generator=seeded(1))
    return centers[torch.randint(0, 40, (rows,), generator=seeded(2))] + 0.4 * torch.randn(
        rows, 24, generator=seeded(3)
    )


def norms(rows: int, spread: float) -> Tensor:
    return (spread * torch.randn(rows, 1, generator=seeded(4))).exp()


def with_outlier(rows: Tensor, factor: float) -> Tensor:
    return torch.cat([rows[:-NEW], rows[:1] * factor, rows[-NEW:]])


SHAPES = {
    "no structure": lambda: torch.randn(2100, 24, generator=seeded(5)),
    "clusters": lambda: clusters(2100),
    "clusters, norms of a factor 10": lambda: clusters(2100) * norms(2100, 1.0),
    "norms of a factor 1000": lambda: torch.randn(2100, 24, generator=seeded(5)) * norms(2100, 3.0),
    "one long row": lambda: with_outlier(clusters(2100), 1e4),
    "short rows": lambda: clusters(2100) * 1e-15,
    "positive": lambda: torch.rand(2100, 24, generator=seeded(6)) * norms(2100, 0.5),
    "copies": lambda: (clusters(2100) * norms(2100, 1.0))[torch.randint(0, 300, (2100,), generator=seeded(7))],
    "unit rows": lambda: torch.nn.functional.normalize(clusters(2100), dim=1),
}


@pytest.fixture(scope="module")
def built():
    """Indices and held-out queries by shape, each built once."""
    known: dict[str, tuple[Index, Tensor]] = {}

    def index(shape: str) -> tuple[Index, Tensor]:
        if shape not in known:
            rows = SHAPES[shape]()
            known[shape] = Index.build(rows[:-NEW], metric="dot"), rows[-NEW:]
        return known[shape]

    return index


def share_found(index: Index, queries: Tensor, found: Tensor) -> float:
    """The share of found rows whose inner product is as large as the k-th largest; computed here, in float64."""
    distance = plain_distances(queries, index.vectors, "dot")
    last = distance.sort(dim=1).values[:, found.shape[1] - 1, None]
    return (distance.gather(1, found) <= last + 1e-6 * last.abs()).double().mean().item()


each_shape = pytest.mark.parametrize("shape", SHAPES)


@each_shape
def test_search_dot_default_width_reaches_documented_recall(shape, built):
    index, queries = built(shape)
    assert index.search_width(10) < 200, "or searches compare with most rows"
    for k in (1, 10, 50):
        found = index.search(queries, k)
        assert share_found(index, queries, found.index) >= 0.95
        want = plain_distances(queries, index.vectors, "dot").gather(1, found.index)
        torch.testing.assert_close(found.distance, want.float(), rtol=1e-6, atol=0)
        assert (found.distance.diff(dim=1) >= 0).all()


@each_shape
def test_recall_dot_equals_that_of_new_queries(shape, built):
    index, queries = built(shape)
    true = share_found(index, queries, index.search(queries, 10).index)
    assert index.recall(10, queries=queries) == pytest.approx(true, abs=1e-9)
    assert index.recall(10, 300) == pytest.approx(true, abs=0.06)


@each_shape
def test_search_dot_full_width_is_exact(shape, built):
    index, queries = built(shape)
    for options in ({"width": len(index)}, {"max_distance_computations": len(index)}):
        found = index.search(queries, 60, **options)
        assert share_found(index, queries, found.index) == 1
        assert (index.search(queries[:2], len(index), **options).index.sort(dim=1).values.diff(dim=1) == 1).all()


@each_shape
def test_neighbors_dot_are_largest_inner_products_of_other_rows(shape, built):
    index, _ = built(shape)
    found = index.neighbors(10).index
    assert not (found == torch.arange(len(index))[:, None]).any()
    distance = plain_distances(index.vectors, index.vectors, "dot").fill_diagonal_(float("inf"))
    last = distance.sort(dim=1).values[:, 9:10]
    share = (distance.gather(1, found) <= last + 1e-6 * last.abs()).double().mean().item()
    assert share >= 0.95


def test_search_dot_hand_worked_table_matches():
    rows = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 0.0], [-6.0, 8.0], [0.0, -2.0], [3.0, 4.0]])
    index = Index.build(rows, metric="dot")
    assert index.metric == "dot"
    assert index.stats()["vertices"] == 5
    found = index.search(torch.tensor([[1.0, 1.0], [0.0, -1.0], [2.0, 0.0]]), 4)
    assert found.index.tolist() == [[1, 5, 3, 0], [4, 0, 2, 1], [1, 5, 0, 2]]
    assert found.distance.tolist() == [[-7, -7, -2, -1], [-2, 0, 0, 4], [-6, -6, -2, 0]]
    assert index.neighbors(2).index.tolist() == [[1, 5], [5, 3], [0, 1], [1, 5], [0, 2], [1, 3]]


def test_search_dot_small_integers_ties_go_to_lowest_row():
    rows = torch.randint(-2, 3, (150, 3), generator=seeded(8)).float()
    queries = torch.randint(-2, 3, (40, 3), generator=seeded(9)).float()
    queries = queries[queries.any(1)]
    index = naive_index(rows, "dot")
    assert index.stats()["vertices"] < 100
    found = index.search(queries, 150, width=150)
    assert_exact(found, plain_distances(queries, rows, "dot"))


@pytest.mark.parametrize("rows", [0, 1, 2, 3])
def test_search_dot_few_or_zero_rows_is_exact(rows):
    queries = torch.randn(4, 5, generator=seeded(4))
    for x in (torch.randn(rows, 5, generator=seeded(3)), torch.zeros(rows, 5)):
        index = Index.build(x, metric="dot")
        assert_exact(index.search(queries, 3), plain_distances(queries, x, "dot"), None, 1e-6)
        assert_exact(index.neighbors(3), plain_distances(x, x, "dot"), torch.arange(rows), 1e-6)
        assert (index.search(torch.zeros(2, 5), 3).distance[:, :rows] == 0).all()


@pytest.mark.parametrize("factor", [0.01, 3.0, 100.0])
def test_add_dot_rows_of_any_norm_are_found(factor):
    rows, more = clusters(2000)[:1500] * norms(1500, 1.0), clusters(2000)[1500:] * factor
    index = Index.build(rows, metric="dot").add(more)
    assert share_found(index, more[:100], index.search(more[:100], 10).index) >= 0.95
    assert share_found(index, rows[:100], index.search(rows[:100], 10).index) >= 0.95
    shorter = index.remove(range(1500, 2000))
    assert share_found(shorter, rows[:100], shorter.search(rows[:100], 10).index) >= 0.95


def test_index_dot_saves_pickles_and_starts_builds(tmp_path, built):
    import copy

    pytest.importorskip("safetensors")
    index, queries = built("clusters, norms of a factor 10")
    index.save(tmp_path / "a")
    loaded = Index.load(tmp_path / "a")
    assert_same_index(loaded, index)
    assert_same_index(copy.deepcopy(index), index)
    moved = Index.build(
        index.vectors * 1.5 + 0.02 * torch.randn(len(index), 24, generator=seeded(10)), metric="dot", init=loaded
    )
    assert share_found(moved, queries, moved.search(queries, 10).index) >= 0.95


def test_search_dot_published_builds_reach_documented_recall():
    rows = clusters(1500) * norms(1500, 1.0)
    for options in ({"init": None}, {"init": "leaves"}, {"init": "naive"}):
        index = Index.build(rows[NEW:], metric="dot", **options)
        assert share_found(index, rows[:NEW], index.search(rows[:NEW], 10).index) >= 0.95


def test_search_dot_finds_more_than_a_graph_of_distances(built):
    """Why the graph is built over inverted rows: edges between near rows do not lead to large inner products."""
    index, queries = built("norms of a factor 1000")
    exact = ops.knn(queries, index.vectors, 10, similarity="dot").index
    assert len(exact.unique()) < 300, "or norms do not matter"
    near = Index.build(index.vectors, metric="euclidean")
    far_queries = torch.nn.functional.normalize(queries, dim=1) * 1e3 * index.vectors.norm(dim=1).max()
    width = index.search_width(10)
    assert (near.search(far_queries, 10, width=width).index[:, :, None] == exact[:, None]).any(1).double().mean() < 0.8


def test_search_dot_overflowing_norms_raise():
    rows = torch.randn(20, 4, generator=seeded(0))
    rows[6, 1] = 1e20
    with pytest.raises(ValueError, match=r"vectors must have norms up to 9.2e18, .* in row 6"):
        Index.build(rows, metric="dot")
    with pytest.raises(ValueError, match=r"queries must have norms up to 9.2e18, .* in row 6"):
        Index.build(rows[:5], metric="dot").search(rows, 1)
