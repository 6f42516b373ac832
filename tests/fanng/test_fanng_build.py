"""The build of the graph index: its inputs, its options, and its graph against the plain definition."""

import pytest
import torch

from fanng_cases import (
    FULL_EFFORT,
    MAX_EXTRA,
    assert_same_index,
    each_distance,
    each_metric,
    edges_of,
    exact_rows,
    naive_index,
    plain_edges,
    sample_rows,
)
from hardmine.fanng import Index
from support.comparisons import assert_bitwise_equal
from support.inputs import seeded
from support.ops import FLOAT_DTYPES


def test_index_properties_and_stats_match_build():
    index = Index.build(sample_rows(), metric="euclidean", init=None, max_traversals=10**6)
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


@pytest.mark.thinned(3)
@each_metric
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_build_any_dtype_equals_float32(dtype, metric):
    x = sample_rows().to(dtype)
    index = Index.build(x, metric=metric)
    assert index.vectors.dtype == torch.float32
    assert_same_index(index, Index.build(x.float(), metric=metric))
    found, again = index.search(x[:20], 4), index.search(x[:20].float(), 4)
    assert_bitwise_equal(found.distance, again.distance)
    assert_bitwise_equal(found.index, again.index)


@pytest.mark.thinned(3)
@each_metric
def test_build_noncontiguous_or_grad_inputs_equals_plain(metric):
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


def test_index_inputs_stay_unchanged_and_may_be_overwritten():
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


@each_distance
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_build_naive_graph_matches_plain_rule(metric, depth):
    x = exact_rows(metric, 60, 4 if metric == "cosine" else depth)
    x = x[: 60 if metric == "euclidean" else 20 * depth]
    index = naive_index(x, metric)
    graph = edges_of(index)
    assert graph == plain_edges(x, metric)
    for max_degree in (1, 3):
        cut = edges_of(Index.build(x, metric=metric, init="naive", max_degree=max_degree))
        for kept, edges in zip(cut, graph, strict=True):
            assert set(edges[:max_degree]) <= set(kept), "others connect the graph"
            assert len(kept) <= max_degree + MAX_EXTRA


@each_metric
def test_build_same_seed_repeats_other_seed_differs(metric):
    x = sample_rows()
    first, again, other = (Index.build(x, metric=metric, init=None, seed=seed) for seed in (1, 1, 2**64 - 1))
    assert_same_index(first, again)
    assert first._core.graph[1].tolist() != other._core.graph[1].tolist()


@pytest.mark.slow
@each_metric
def test_build_warm_start_after_small_move_needs_fewer_traversals(metric):
    x = torch.randn(1500, 5, generator=seeded(1))
    before = Index.build(x, metric=metric, init=None)
    moved = x + 0.02 * torch.randn(x.shape, generator=seeded(2))
    fresh, warm = (Index.build(moved, metric=metric, init=init) for init in (None, before))
    assert warm.stats()["traversals"] < 0.5 * fresh.stats()["traversals"]
    assert warm.recall(10, None) > fresh.recall(10, None) - 0.01
    assert before.recall(10, None) > 0.9, "the one it began with is as it was"
    # The rows may have another depth, metric and copies.
    other = Index.build(moved[:, :3].round(), metric="euclidean", init=before)
    assert other.stats()["vertices"] < 1500
    assert other.recall(10, **FULL_EFFORT) > 0.99


@each_metric
def test_build_warm_start_from_lists_measures_less_and_finds_as_much(metric):
    x = torch.randn(3000, 12, generator=seeded(1))
    before = Index.build(x, metric=metric)
    moved = x + 0.1 * torch.randn(x.shape, generator=seeded(2))
    queries = torch.randn(300, 12, generator=seeded(3))
    fresh, warm = (Index.build(moved, metric=metric, init=init) for init in ("auto", before))
    kept = (before.neighbors(10).index[:, :, None] == fresh.neighbors(10).index[:, None]).any(1).double().mean()
    assert 0.5 < kept < 0.95, "or this test says nothing"
    assert warm.stats()["distance_computations"] < 0.5 * fresh.stats()["distance_computations"]
    assert warm.stats()["traversals"] == 0
    assert warm.recall(10, None, queries=queries) > 0.95
    width = {"width": fresh.search_width(10)}
    found, wanted = (index.recall(10, None, queries=queries, **width) for index in (warm, fresh))
    assert found > wanted - 0.003


@each_metric
def test_build_success_rate_zero_adds_only_connecting_edges(metric):
    x = sample_rows()
    stats = Index.build(x, metric=metric, init=None, success_rate=0).stats()
    assert stats["components"] == stats["vertices"]
    assert stats["edges"] == stats["connecting_edges"] == 2 * (stats["vertices"] - 1)
    before = Index.build(x, metric=metric, init=None)
    stats = Index.build(x, metric=metric, init=before, success_rate=0).stats()
    assert stats["edges"] - stats["connecting_edges"] <= before.stats()["edges"]
    assert stats["traversals"] == 0


@pytest.mark.slow
@each_metric
def test_build_refinements_raise_recall(metric):
    x = torch.randn(1500, 16, generator=seeded(1))
    effort = {"max_distance_computations": 150}
    plain, refined = (Index.build(x, metric=metric, init=None, max_traversals=10_000, refinements=n) for n in (0, 1))
    assert refined.recall(10, None, **effort) > plain.recall(10, None, **effort) + 0.05
    assert refined.stats()["traversals"] == plain.stats()["traversals"]
    assert refined.stats()["distance_computations"] > plain.stats()["distance_computations"]


@pytest.mark.thinned(3)
@each_metric
def test_build_degree_and_traversal_limits_hold(metric):
    x = torch.randn(500, 20, generator=seeded(1))

    def stats_of(**options):
        return Index.build(x, metric=metric, init=None, **options).stats()

    assert stats_of(max_degree=4)["degree_max"] <= 4 + MAX_EXTRA
    assert Index.build(x, metric=metric, max_degree=4).stats()["degree_max"] <= 4 + MAX_EXTRA
    assert stats_of(success_rate=1, max_traversals=123)["traversals"] == 123
    few, many = (stats_of(success_rate=r, max_traversals=10**6) for r in (0.5, 0.99))
    by_default = stats_of(success_rate=1)
    assert by_default["traversals"] == 50 * 500
    assert by_default["build_success_rate"] < 1
    assert few["build_success_rate"] >= 0.5
    assert many["build_success_rate"] >= 0.99
    assert few["traversals"] < many["traversals"]


def test_build_warm_start_from_unfinished_index_reaches_target():
    x = sample_rows()
    wanted = Index.build(x, init=None).stats()["build_success_rate"]
    for idle in (Index.build(x, init="exact"), Index.build(x, init=None, max_traversals=100)):
        warm = Index.build(x, init=idle, success_rate=0.98)
        assert warm.stats()["build_success_rate"] >= min(wanted, 0.98) - 0.02


def measured_success_rate(index: Index, traversals: int) -> float:
    """The share of random traversals of an index's graph that arrive.

    The traversals are computed here, for Euclidean distances and without copies.
    """
    x, (first, target) = index.vectors.double(), map(torch.from_numpy, index._core.graph[:2])
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
    [{"max_degree": 5}, {"init": None, "max_traversals": 3000}, {"init": "leaves"}, {"init": None, "refinements": 1}],
    ids=str,
)
def test_stats_success_rate_matches_returned_graph(options):
    index = Index.build(torch.randn(600, 8, generator=seeded(3)), metric="euclidean", **options)
    assert abs(index.stats()["success_rate"] - measured_success_rate(index, 1000)) < 0.06, (
        "four standard errors of the difference"
    )


def test_build_warm_start_from_duplicates_reaches_recall():
    x = sample_rows()
    collapsed = Index.build(torch.ones(len(x), 2), metric="euclidean", init=None)
    index = Index.build(x, metric="euclidean", init=collapsed)
    assert index.recall(5, None) > 0.95
    fresh = Index.build(x, metric="euclidean", init=None)
    assert index.stats()["distance_computations"] < 2 * fresh.stats()["distance_computations"]
