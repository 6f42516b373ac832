"""The graph index: its results against the exact neighbors, and its graph against the plain definition."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fanng_cases import METRICS, assert_same_index, exact_rows, plain_distances, plain_edges, sample_rows
from hardmine import ops
from hardmine.fanng import Index
from support.comparisons import assert_bitwise_equal
from support.inputs import seeded
from support.ops import FLOAT_DTYPES

ALL = {"max_distance_computations": 10**6}  # enough effort to measure every row that can be reached
each_metric = pytest.mark.parametrize("metric", METRICS)


def naive(x: Tensor, metric: str, **options) -> Index:
    """An index whose searches reach every row."""
    return Index.build(x, metric=metric, init="naive", max_degree=65535, **options)


def edges_of(index: Index) -> list[list[int]]:
    """Per distinct row, the rows that its edges lead to."""
    first, target = index._core.graph
    return [target[a:b].tolist() for a, b in pairwise(first)]


def assert_exact(found, distance: Tensor, own: Tensor | None = None, tolerance: float = 0.0) -> None:
    """``found`` holds the nearest rows by ``distance`` [Q, N]; row ``own[q]`` is excluded, and the end is padded."""
    distance, k = distance.clone(), found.index.shape[1]
    if own is not None:
        distance[torch.arange(len(own)), own] = math.inf
    queries, rows = distance.shape
    count = min(k, rows - (own is not None)) if rows else 0
    want = distance.sort(dim=1).values[:, :count]
    assert found.distance.dtype == torch.float32
    assert found.index.dtype == torch.int64
    assert found.distance.shape == found.index.shape == (queries, k)
    torch.testing.assert_close(found.distance[:, :count], want.float(), rtol=tolerance, atol=tolerance)
    assert (found.index[:, count:] == -1).all()
    assert found.distance[:, count:].isnan().all()
    # Each row is at the reported distance, and occurs once.
    index = found.index[:, :count]
    if not tolerance:
        assert index.equal(distance.sort(dim=1, stable=True).indices[:, :count]), "ties go to the lowest index"
    torch.testing.assert_close(distance.gather(1, index), want, rtol=tolerance, atol=tolerance)
    assert (index.sort(dim=1).values.diff(dim=1) > 0).all()


# By hand

POINTS = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0], [6.0, 8.0], [0.0, -2.0]])


def test_a_table_worked_by_hand():
    index = Index.build(POINTS, metric="euclidean")
    found = index.neighbors(2)
    assert found.index.tolist() == [[2, 4], [2, 0], [0, 4], [1, 2], [0, 2]]
    squares = torch.tensor([[1.0, 4.0], [18.0, 25.0], [1.0, 9.0], [25.0, 85.0], [4.0, 9.0]])
    assert_bitwise_equal(found.distance, squares.sqrt())
    found = index.search(torch.tensor([[0.0, -1.0], [60.0, 80.0]]), 3)
    assert found.index.tolist() == [[0, 4, 2], [3, 1, 2]]
    assert found.distance[0].tolist() == [1.0, 1.0, 2.0]


def test_a_table_of_cosines_worked_by_hand():
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


def test_size_and_metric():
    index = Index.build(sample_rows(), metric="euclidean", max_traversals=10**6)
    assert (len(index), index.depth, index.metric) == (300, 12, "euclidean")
    assert repr(index) == "Index(300 rows of depth 12, metric='euclidean')"
    assert_bitwise_equal(index.vectors, sample_rows())
    stats = index.stats()
    assert (stats["rows"], stats["vertices"]) == (300, 296)
    assert stats["degree_mean"] == stats["edges"] / 296
    assert 0 < stats["degree_mean"] < stats["degree_max"] <= 30
    assert 0.98 <= stats["build_success_rate"] <= 1
    assert 0.95 <= stats["success_rate"] <= 1
    assert 0 < stats["traversals"] <= 10**6
    assert stats["distance_computations"] > stats["traversals"]


# Exact neighbors


@each_metric
@pytest.mark.parametrize("init", [None, "exact", "naive"])
def test_full_effort_finds_the_exact_neighbors(metric, init):
    x = torch.randn(400, 10, generator=seeded(1))
    queries = torch.randn(50, 10, generator=seeded(2))
    index = Index.build(x, metric=metric, init=init)
    assert_exact(index.neighbors(20, **ALL), plain_distances(x, x, metric), torch.arange(400), 1e-5)
    assert_exact(index.search(queries, 20, **ALL), plain_distances(queries, x, metric), None, 1e-5)
    exact = ops.knn(x, k=20, similarity=metric)
    assert (index.neighbors(20, **ALL).index == exact.index).double().mean() > 0.999, "but for rounding"
    exact = ops.knn(queries, x, 20, similarity=metric)
    assert (index.search(queries, 20, **ALL).index == exact.index).double().mean() > 0.999


@each_metric
def test_ties_and_copies_are_exact(metric):
    x = exact_rows(metric, 200, 4)
    index = naive(x, metric)
    assert index.stats()["vertices"] < 200
    for k in (1, 5, 60, 250):
        assert_exact(index.neighbors(k, **ALL), plain_distances(x, x, metric), torch.arange(200))
    queries = exact_rows(metric, 30, 4, seed=5)
    assert_exact(index.search(queries, 70, **ALL), plain_distances(queries, x, metric))


@each_metric
def test_close_rows_have_exact_distances(metric):
    """1 - cos of nearly equal directions suffers no cancellation."""
    x = torch.nn.functional.normalize(torch.randn(1, 64, generator=seeded(1)), dim=1)
    x = x + 1e-4 * torch.randn(100, 64, generator=seeded(2))
    found = naive(x, metric).neighbors(5, **ALL)
    want = plain_distances(x, x, metric).gather(1, found.index)
    assert want.max() < 1e-2
    torch.testing.assert_close(found.distance.double(), want, rtol=1e-3, atol=0)


@each_metric
@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("rows", [0, 1, 2, 3])
def test_few_rows(metric, rows, k):
    x = torch.randn(rows, 5, generator=seeded(3))
    queries = torch.randn(4, 5, generator=seeded(4))
    for init in (None, "exact", "naive"):
        index = Index.build(x, metric=metric, init=init)
        assert len(index) == rows
        assert_exact(index.neighbors(k), plain_distances(x, x, metric), torch.arange(rows), 1e-5)
        assert_exact(index.search(queries, k), plain_distances(queries, x, metric), None, 1e-5)
        assert index.search(queries[:0], k).index.shape == (0, k)
        assert index.stats()["success_rate"] == 1
        assert Index.build(x, metric=metric, init=index).stats()["edges"] == index.stats()["edges"]


@each_metric
def test_recall_is_1_with_full_effort_and_nan_without_neighbors(metric):
    assert Index.build(sample_rows(), metric=metric).recall(20, None, **ALL) == 1
    assert math.isnan(Index.build(sample_rows(1), metric=metric).recall())
    assert math.isnan(Index.build(sample_rows(0), metric=metric).recall())
    assert Index.build(sample_rows(2), metric=metric).recall() == 1
    assert Index.build(torch.ones(30, 3), metric=metric).recall(5) == 1


@pytest.mark.slow
@each_metric
def test_recall_is_the_share_of_exact_neighbors_that_are_found(metric):
    x = torch.randn(1500, 16, generator=seeded(1))
    index = Index.build(x, metric=metric)
    effort = {"max_distance_computations": 60}
    distance = plain_distances(x, x, metric).fill_diagonal_(math.inf)
    furthest = distance.sort(dim=1).values[:, 9:10]
    found = index.neighbors(10, **effort).index
    right = (found >= 0) & (distance.gather(1, found.clamp(min=0)) <= furthest * (1 + 1e-6))
    share = right.double().mean().item()
    assert 0.2 < share < 0.95, "or this test says nothing"
    assert index.recall(10, None, **effort) == pytest.approx(share, abs=1e-4)
    assert index.recall(10, 10**6, **effort) == pytest.approx(share, abs=1e-4)
    assert index.recall(10, 700, **effort) == pytest.approx(share, abs=0.05)
    assert index.recall(10, 50, seed=1, **effort) != index.recall(10, 50, seed=2, **effort)
    assert index.recall(10) > share


@pytest.mark.slow
def test_recall_of_the_defaults():
    """The recall of a build and a search with all defaults, on clusters like those of image features."""
    centers = torch.randn(60, 24, generator=seeded(5))
    x = centers.repeat_interleave(50, 0) + 0.4 * torch.randn(3000, 24, generator=seeded(6))
    assert Index.build(x).recall(20) > 0.95


# Effort and start


@each_metric
def test_effort_bounds_what_is_found(metric):
    x = torch.randn(300, 6, generator=seeded(1))
    index = naive(x, metric)
    for most in (1, 7, 100, 300, 301):
        found = index.search(x[:9], 400, max_distance_computations=most)
        assert ((found.index >= 0).sum(1) == min(most, 300)).all()
        assert ((index.neighbors(400, max_distance_computations=most).index >= 0).sum(1) == min(most, 300) - 1).all()


@pytest.mark.slow
def test_the_default_effort_is_20_k_and_at_least_400():
    # On a line, a search comes one row nearer with every distance computation.
    index = naive(torch.arange(2000.0)[:, None], "euclidean")
    for k, most in ((1, 400), (20, 400), (21, 420), (40, 800)):
        assert index.search(torch.tensor([[5000.0]]), k, start=0).index[0, 0] == most - 1
    for k, most in ((5, 400), (30, 600)):
        assert index.neighbors(k).index.equal(index.neighbors(k, max_distance_computations=most).index)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_searches_begin_at_their_start(dtype):
    index = Index.build(torch.randn(100, 6, generator=seeded(1)))
    start = torch.tensor([5, 99, 0], dtype=dtype)
    queries = torch.randn(3, 6, generator=seeded(2))
    assert index.search(queries, 1, max_distance_computations=1, start=start).index.tolist() == [[5], [99], [0]]
    assert index.search(queries, 1, max_distance_computations=1, start=7).index.tolist() == [[7], [7], [7]]
    # A non-contiguous tensor: every second element of another one.
    spread = torch.stack([start, start + 1], 1)[:, 0]
    assert index.search(queries, 1, max_distance_computations=1, start=spread).index.tolist() == [[5], [99], [0]]


# Inputs of every kind


@pytest.mark.thinned(3)
@each_metric
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_dtypes(dtype, metric):
    x = sample_rows().to(dtype)
    index = Index.build(x, metric=metric)
    assert index.vectors.dtype == torch.float32
    assert_same_index(index, Index.build(x.float(), metric=metric))
    found, again = index.search(x[:20], 4), index.search(x[:20].float(), 4)
    assert_bitwise_equal(found.distance, again.distance)
    assert_bitwise_equal(found.index, again.index)


@pytest.mark.thinned(3)
@each_metric
def test_inputs_that_are_not_contiguous_or_require_gradients(metric):
    x = sample_rows()
    expected = Index.build(x, metric=metric)
    for other in (
        x.t().contiguous().t(),
        torch.cat([x, x + 1], 1)[:, :12],
        x.repeat_interleave(2, 0)[::2],
        x.clone().requires_grad_(),
        torch.nn.Parameter(x.t().contiguous()).t(),
        x.flip(0).flip(0),
    ):
        index = Index.build(other, metric=metric)
        assert_same_index(index, expected)
        assert not index.vectors.requires_grad
        assert index.vectors.is_contiguous()
        assert_bitwise_equal(expected.search(other, 3).index, expected.search(x, 3).index)


def test_inputs_are_left_alone_and_may_change_later():
    x = sample_rows()
    before = x.clone()
    index = Index.build(x)
    index.search(x, 3)
    index.neighbors(3)
    index.recall(3)
    assert_bitwise_equal(x, before)
    x.zero_()
    assert_same_index(index, Index.build(before))
    assert index.recall(3) == Index.build(before).recall(3)


@each_metric
def test_many_copies_hide_nothing(metric):
    """There are more copies of a row than a vertex has edges, next to other rows."""
    x = torch.randn(200, 4, generator=seeded(1))
    x[::2] = x[0]
    index = Index.build(x, metric=metric, max_degree=5)
    assert index.stats()["vertices"] == 101
    found = index.neighbors(120, **ALL)
    assert (found.distance[0, :99] == 0).all()
    assert found.index[0, :99].tolist() == list(range(2, 200, 2))
    assert (found.distance[0, 99:] > 0).all()
    assert_exact(found, plain_distances(x, x, metric), torch.arange(200), 2e-5)


@each_metric
def test_only_copies(metric):
    index = Index.build(torch.full((7, 3), 0.25), metric=metric)
    assert index.neighbors(8).index[2].tolist() == [0, 1, 3, 4, 5, 6, -1, -1]
    assert index.stats()["edges"] == 0


def test_zero_rows():
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


# The graph


@each_metric
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_the_naive_graph_is_the_rule_applied_to_all_pairs(metric, depth):
    x = exact_rows(metric, 60, 4 if metric == "cosine" else depth)
    x = x[: 60 if metric == "euclidean" else 20 * depth]
    index = naive(x, metric)
    graph = edges_of(index)
    assert graph == plain_edges(x, metric)
    for most in (1, 3):
        cut = edges_of(Index.build(x, metric=metric, init="naive", max_degree=most))
        assert cut == [edges[:most] for edges in graph]


@each_metric
def test_seeds_differ_and_repeat(metric):
    x = sample_rows()
    first, again, other = (Index.build(x, metric=metric, seed=seed) for seed in (1, 1, 2**64 - 1))
    assert_same_index(first, again)
    assert first._core.graph[1].tolist() != other._core.graph[1].tolist()


@pytest.mark.slow
@each_metric
def test_a_warm_start_after_a_small_move(metric):
    x = torch.randn(1500, 5, generator=seeded(1))
    before = Index.build(x, metric=metric)
    moved = x + 0.02 * torch.randn(x.shape, generator=seeded(2))
    fresh, warm = Index.build(moved, metric=metric), Index.build(moved, metric=metric, init=before)
    assert warm.stats()["traversals"] < 0.5 * fresh.stats()["traversals"]
    assert warm.recall(10, None) > fresh.recall(10, None) - 0.01
    assert before.recall(10, None) > 0.9, "the one it began with is as it was"
    # The rows may have another depth, metric and copies.
    other = Index.build(moved[:, :3].round(), metric="euclidean", init=before)
    assert other.stats()["vertices"] < 1500
    assert other.recall(10, **ALL) > 0.99


@each_metric
def test_a_success_rate_of_0_adds_nothing(metric):
    x = sample_rows()
    assert Index.build(x, metric=metric, success_rate=0).stats()["edges"] == 0
    before = Index.build(x, metric=metric)
    stats = Index.build(x, metric=metric, init=before, success_rate=0).stats()
    assert (stats["edges"], stats["traversals"]) == (before.stats()["edges"], 0)


@pytest.mark.slow
@each_metric
def test_refinements_find_more(metric):
    x = torch.randn(1500, 16, generator=seeded(1))
    effort = {"max_distance_computations": 150}
    plain, refined = (Index.build(x, metric=metric, max_traversals=10_000, refinements=n) for n in (0, 1))
    assert refined.recall(10, None, **effort) > plain.recall(10, None, **effort) + 0.05
    assert refined.stats()["traversals"] == plain.stats()["traversals"]
    assert refined.stats()["distance_computations"] > plain.stats()["distance_computations"]


@pytest.mark.thinned(3)
@each_metric
def test_degrees_and_traversals_are_limited(metric):
    x = torch.randn(500, 20, generator=seeded(1))
    assert Index.build(x, metric=metric, max_degree=4).stats()["degree_max"] == 4
    assert Index.build(x, metric=metric, success_rate=1, max_traversals=123).stats()["traversals"] == 123
    few, many = (Index.build(x, metric=metric, success_rate=r, max_traversals=10**6).stats() for r in (0.5, 0.99))
    by_default = Index.build(x, metric=metric, success_rate=1).stats()
    assert by_default["traversals"] == 50 * 500
    assert by_default["build_success_rate"] < 1
    assert few["build_success_rate"] >= 0.5
    assert many["build_success_rate"] >= 0.99
    assert few["traversals"] < many["traversals"]


@pytest.mark.slow
@given(
    rows=st.integers(0, 40),
    depth=st.integers(1, 20),
    k=st.integers(1, 50),
    metric=st.sampled_from(METRICS),
    max_degree=st.integers(1, 40),
    init=st.sampled_from([None, "exact", "naive"]),
    seed=st.integers(0, 2**64 - 1),
)
@settings(max_examples=150, deadline=None)
def test_any_shape(rows, depth, k, metric, max_degree, init, seed):
    x = torch.randint(-2, 3, (rows, depth), generator=seeded(seed % 1000)).float()
    index = Index.build(x, metric=metric, max_degree=max_degree, init=init, seed=seed)
    assert index.stats()["degree_max"] <= max_degree
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


def test_a_warm_start_aims_as_asked_where_the_last_build_shows_nothing():
    x = sample_rows()
    wanted = Index.build(x).stats()["build_success_rate"]
    for idle in (Index.build(x, init="exact", success_rate=0), Index.build(x, max_traversals=100)):
        assert Index.build(x, init=idle).stats()["build_success_rate"] >= min(wanted, 0.98) - 0.02


def arriving(index: Index, traversals: int) -> float:
    """The share of random traversals of an index's graph that arrive.

    The traversals are computed here, for Euclidean distances and without copies.
    """
    x, (first, target) = index.vectors.double(), map(torch.from_numpy, index._core.graph)
    first, target = first.tolist(), target.long()
    draws, arrived = seeded(99), 0
    for _ in range(traversals):
        here, end = torch.randperm(len(x), generator=draws)[:2].tolist()
        while here != end:
            near = target[first[here] : first[here + 1]]
            distance = (x[near] - x[end]).square().sum(1)
            if len(near) == 0 or distance.min() >= (x[here] - x[end]).square().sum():
                break
            here = near[distance.argmin()].item()
        arrived += here == end
    return arrived / traversals


@pytest.mark.thinned(5)
@pytest.mark.parametrize(
    "options",
    [{"max_degree": 5}, {"max_traversals": 3000}, {"init": "exact", "success_rate": 0}, {"refinements": 1}],
    ids=str,
)
def test_the_success_rate_is_that_of_the_returned_graph(options):
    index = Index.build(torch.randn(600, 8, generator=seeded(3)), metric="euclidean", **options)
    assert abs(index.stats()["success_rate"] - arriving(index, 1000)) < 0.06, "four standard errors of the difference"


def test_a_warm_start_from_copies_alone():
    x = sample_rows()
    collapsed = Index.build(torch.ones(len(x), 2), metric="euclidean")
    index = Index.build(x, metric="euclidean", init=collapsed)
    assert index.recall(5, None) > 0.95
    assert (
        index.stats()["distance_computations"] < 2 * Index.build(x, metric="euclidean").stats()["distance_computations"]
    )


@pytest.mark.slow
def test_recall_of_short_rows_is_that_of_long_ones():
    x = torch.randn(800, 30, generator=seeded(4))
    recalls = [Index.build(x * scale).recall(10, None, max_distance_computations=40) for scale in (1, 1e-15)]
    assert recalls[0] < 0.9
    assert recalls[1] == pytest.approx(recalls[0], abs=0.02)
