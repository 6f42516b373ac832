"""Searches of the graph index: their results against the exact neighbors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fanng_cases import (
    FULL_EFFORT,
    MAX_EXTRA,
    METRICS,
    assert_exact,
    each_distance,
    each_metric,
    exact_rows,
    naive_index,
    plain_distances,
    sample_rows,
)
from hardmine import ops
from hardmine.fanng import Index
from support.comparisons import assert_bitwise_equal
from support.inputs import seeded

POINTS = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0], [6.0, 8.0], [0.0, -2.0]])


def test_search_hand_worked_euclidean_table_matches():
    index = Index.build(POINTS, metric="euclidean")
    found = index.neighbors(2)
    assert found.index.tolist() == [[2, 4], [2, 0], [0, 4], [1, 2], [0, 2]]
    squares = torch.tensor([[1.0, 4.0], [18.0, 25.0], [1.0, 9.0], [25.0, 85.0], [4.0, 9.0]])
    assert_bitwise_equal(found.distance, squares.sqrt())
    found = index.search(torch.tensor([[0.0, -1.0], [60.0, 80.0]]), 3)
    assert found.index.tolist() == [[0, 4, 2], [3, 1, 2]]
    assert found.distance[0].tolist() == [1.0, 1.0, 2.0]


def test_search_hand_worked_cosine_table_matches():
    index = Index.build(POINTS, metric="cosine")
    found = index.neighbors(4)
    # Rows 1 and 3 share a direction; row 0 has none.
    assert found.index[1].tolist() == [3, 2, 0, 4]
    torch.testing.assert_close(found.distance[1], torch.tensor([0.0, 0.2, 1.0, 1.8]))
    assert found.index[4].tolist() == [0, 1, 3, 2]
    torch.testing.assert_close(found.distance[4], torch.tensor([1.0, 1.8, 1.8, 2.0]))
    assert found.distance[0].tolist() == pytest.approx([1.0] * 4)
    assert found.index[0].tolist() == [1, 2, 3, 4]
    assert index.search(torch.tensor([[0.0, 5.0]]), 1).index.tolist() == [[2]]


@each_metric
@pytest.mark.parametrize("init", [None, "exact", "leaves", "naive"])
def test_search_full_effort_finds_exact_neighbors(metric, init):
    x = torch.randn(400, 10, generator=seeded(1))
    queries = torch.randn(50, 10, generator=seeded(2))
    index = Index.build(x, metric=metric, init=init)
    assert_exact(index.neighbors(20, **FULL_EFFORT), plain_distances(x, x, metric), torch.arange(400), 1e-5)
    assert_exact(index.search(queries, 20, **FULL_EFFORT), plain_distances(queries, x, metric), None, 1e-5)
    exact = ops.knn(x, k=20, similarity=metric)
    assert (index.neighbors(20, **FULL_EFFORT).index == exact.index).double().mean() > 0.999, "but for rounding"
    exact = ops.knn(queries, x, 20, similarity=metric)
    assert (index.search(queries, 20, **FULL_EFFORT).index == exact.index).double().mean() > 0.999


@each_metric
def test_search_ties_and_duplicates_are_exact(metric):
    x = exact_rows(metric, 200, 4)
    index = naive_index(x, metric)
    assert index.stats()["vertices"] < 200
    for k in (1, 5, 60, 250):
        assert_exact(index.neighbors(k, **FULL_EFFORT), plain_distances(x, x, metric), torch.arange(200))
    queries = exact_rows(metric, 30, 4, seed=5)
    assert_exact(index.search(queries, 70, **FULL_EFFORT), plain_distances(queries, x, metric))


@each_metric
def test_search_close_rows_have_precise_distances(metric):
    """1 - cos of nearly equal directions suffers no cancellation."""
    x = torch.nn.functional.normalize(torch.randn(1, 64, generator=seeded(1)), dim=1)
    x = x + 1e-4 * torch.randn(100, 64, generator=seeded(2))
    found = naive_index(x, metric).neighbors(5, **FULL_EFFORT)
    want = plain_distances(x, x, metric).gather(1, found.index)
    assert want.max() < 1e-2
    torch.testing.assert_close(found.distance.double(), want, rtol=1e-3, atol=0)


@each_metric
@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("rows", [0, 1, 2, 3])
def test_search_few_rows_is_exact(metric, rows, k):
    x = torch.randn(rows, 5, generator=seeded(3))
    queries = torch.randn(4, 5, generator=seeded(4))
    for init in (None, "auto", "exact", "leaves", "naive"):
        index = Index.build(x, metric=metric, init=init)
        assert len(index) == rows
        assert_exact(index.neighbors(k), plain_distances(x, x, metric), torch.arange(rows), 1e-5)
        assert_exact(index.search(queries, k), plain_distances(queries, x, metric), None, 1e-5)
        assert index.search(queries[:0], k).index.shape == (0, k)
        assert index.stats()["success_rate"] == 1
        assert Index.build(x, metric=metric, init=index).stats()["edges"] == index.stats()["edges"]


@each_distance
def test_search_effort_bounds_number_found(metric):
    x = torch.randn(300, 6, generator=seeded(1))
    index = naive_index(x, metric)
    for effort in (1, 7, 100, 300, 301):
        found = index.search(x[:9], 400, max_distance_computations=effort)
        assert ((found.index >= 0).sum(1) == min(effort, 300)).all()
        assert (
            (index.neighbors(400, max_distance_computations=effort).index >= 0).sum(1) == min(effort, 300) - 1
        ).all()


@each_metric
def test_search_default_width_is_search_width(metric):
    x = torch.randn(500, 16, generator=seeded(1))
    index = Index.build(x[100:], metric=metric, init=None)
    for k in (1, 10, 30, 60):
        width = index.search_width(k)
        assert index.search(x[:100], k).index.equal(index.search(x[:100], k, width=width).index)
        assert index.neighbors(k).index.equal(index.neighbors(k, width=width).index)
    narrow = index.search(x[:100], 10, width=10)
    assert not narrow.index.equal(index.search(x[:100], 10).index)
    assert index.search(x[:100], 10, width=3).index.equal(narrow.index), "k at least"
    exact = index.search(x[:100], 10, width=400)
    assert_exact(exact, plain_distances(x[:100], index.vectors, metric), None, 1e-5)


def test_search_width_and_distance_limit_together_raise():
    index = Index.build(torch.eye(3))
    message = "width must be None if max_distance_computations is given, got 5"
    for work in (lambda **o: index.search(torch.eye(3), 1, **o), lambda **o: index.neighbors(1, **o), index.recall):
        with pytest.raises(ValueError, match=message):
            work(width=5, max_distance_computations=9)


@each_distance
def test_neighbors_default_is_lists_of_build(metric):
    x = sample_rows(700)
    distance, own = plain_distances(x, x, metric), torch.arange(len(x))
    exact = Index.build(x, metric=metric)
    for k in (1, 10, 60):
        assert_exact(exact.neighbors(k), distance, own, 1e-5)
    searched = exact.neighbors(61)  # longer than the lists
    assert searched.index.equal(exact.neighbors(61, width=exact.search_width(61)).index)
    assert exact.stats()["list_recall"] == 1
    assert Index.build(x, metric=metric, init=None).stats()["list_recall"] == 0
    short = Index.build(x, metric=metric, max_degree=3)
    assert_exact(short.neighbors(6), distance, own, 1e-5)
    assert short.neighbors(7).index.equal(short.neighbors(7, width=short.search_width(7)).index)


@pytest.mark.slow
def test_neighbors_of_leaves_have_the_recall_that_stats_say():
    x = torch.randn(66_000, 24, generator=seeded(1))  # fewer have exact lists
    index = Index.build(x, metric="euclidean", init="leaves")
    rows = torch.arange(0, len(x), 33)
    exact = ops.knn(x[rows], x, k=51, similarity="euclidean").index
    found = index.neighbors(50).index[rows]
    assert not (found == rows[:, None]).any()
    assert (found.sort(dim=1).values.diff(dim=1) > 0).all()
    hits = (found[:, :, None] == exact[:, None]).any(1).sum(1)  # each row is in its exact list, not among the found
    share = hits.double().mean().item() / 50
    assert share == pytest.approx(index.stats()["list_recall"], abs=0.02)
    assert 0.95 < share < 1


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_search_starts_at_given_rows(dtype):
    index = Index.build(torch.randn(100, 6, generator=seeded(1)))
    start = torch.tensor([5, 99, 0], dtype=dtype)
    queries = torch.randn(3, 6, generator=seeded(2))
    assert index.search(queries, 1, max_distance_computations=1, start=start).index.tolist() == [[5], [99], [0]]
    assert index.search(queries, 1, max_distance_computations=1, start=7).index.tolist() == [[7], [7], [7]]
    # A non-contiguous tensor: every second element of another one.
    spread = torch.stack([start, start + 1], 1)[:, 0]
    assert index.search(queries, 1, max_distance_computations=1, start=spread).index.tolist() == [[5], [99], [0]]


@each_distance
def test_search_more_duplicates_than_degree_finds_all(metric):
    """There are more copies of a row than a vertex has edges, next to other rows."""
    x = torch.randn(200, 4, generator=seeded(1))
    x[::2] = x[0]
    index = Index.build(x, metric=metric, max_degree=5)
    assert index.stats()["vertices"] == 101
    found = index.neighbors(120, **FULL_EFFORT)
    assert (found.distance[0, :99] == 0).all()
    assert found.index[0, :99].tolist() == list(range(2, 200, 2))
    assert (found.distance[0, 99:] > 0).all()
    assert_exact(found, plain_distances(x, x, metric), torch.arange(200), 2e-5)


@each_metric
def test_search_only_duplicates_finds_all(metric):
    index = Index.build(torch.full((7, 3), 0.25), metric=metric)
    assert index.neighbors(8).index[2].tolist() == [0, 1, 3, 4, 5, 6, -1, -1]
    assert index.stats()["edges"] == 0


def test_search_zero_rows_have_distance_one():
    x = torch.randn(20, 3, generator=seeded(1))
    x[4] = x[9] = 0
    found = Index.build(x).neighbors(19)
    assert found.index[4, 0] == 9
    assert found.distance[4, 0] == 0
    torch.testing.assert_close(found.distance[4, 1:], torch.ones(18))
    # As in the ops: a zero row has similarity 0 to every row with a direction.
    distance = 1 - ops.knn(x, k=19).similarity
    others = [i for i in range(20) if i not in (4, 9)]
    torch.testing.assert_close(found.distance[others], distance[others])


@pytest.mark.slow
@given(
    rows=st.integers(0, 40),
    depth=st.integers(1, 20),
    k=st.integers(1, 50),
    metric=st.sampled_from(METRICS),
    max_degree=st.integers(1, 40),
    init=st.sampled_from([None, "exact", "leaves", "naive"]),
    seed=st.integers(0, 2**64 - 1),
)
@settings(max_examples=150, deadline=None)
def test_search_random_shapes_are_valid(rows, depth, k, metric, max_degree, init, seed):
    x = torch.randint(-2, 3, (rows, depth), generator=seeded(seed % 1000)).float()
    index = Index.build(x, metric=metric, max_degree=max_degree, init=init, seed=seed)
    assert index.stats()["degree_max"] <= max_degree + MAX_EXTRA
    distance = plain_distances(x, x, metric)
    found = index.neighbors(k)
    assert ((found.index >= -1) & (found.index < rows)).all()
    assert (found.index != torch.arange(rows)[:, None]).all()
    for i in range(rows):
        row = found.index[i][found.index[i] >= 0]
        assert len(row) == len(row.unique()) <= max(rows - 1, 0)
        assert (found.index[i, len(row) :] == -1).all()
        torch.testing.assert_close(found.distance[i, : len(row)].double(), distance[i, row], rtol=1e-5, atol=1e-5)
        assert (found.distance[i, : len(row)].diff() >= 0).all()
    if init == "naive" and max_degree >= 40:
        assert_exact(found, distance, torch.arange(rows), 1e-5)
