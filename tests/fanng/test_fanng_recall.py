"""The recall of the graph index."""

import math

import pytest
import torch

from fanng_cases import (
    FULL_EFFORT,
    each_distance,
    each_metric,
    plain_distances,
    sample_rows,
)
from hardmine.fanng import Index
from support.inputs import seeded


@each_metric
def test_recall_full_effort_is_one_without_neighbors_nan(metric):
    assert Index.build(sample_rows(), metric=metric).recall(20, None, **FULL_EFFORT) == 1
    assert math.isnan(Index.build(sample_rows(1), metric=metric).recall())
    assert math.isnan(Index.build(sample_rows(0), metric=metric).recall())
    assert Index.build(sample_rows(2), metric=metric).recall() == 1
    assert Index.build(torch.ones(30, 3), metric=metric).recall(5) == 1


@pytest.mark.slow
@each_distance
def test_recall_equals_share_of_exact_neighbors_found(metric):
    x = torch.randn(1500, 16, generator=seeded(1))
    index = Index.build(x, metric=metric)
    effort = {"max_distance_computations": 100}
    distance = plain_distances(x, x, metric).fill_diagonal_(math.inf)
    furthest = distance.sort(dim=1).values[:, 9:10]
    held_out = index._core.search_held_out(
        torch.arange(len(x)).numpy(), furthest.flatten().float().numpy(), 10, 100, 0, 1
    )
    found = torch.from_numpy(held_out[1])
    assert (found != torch.arange(len(x))[:, None]).all()
    right = (found >= 0) & (distance.gather(1, found.clamp(min=0)) <= furthest * (1 + 1e-6))
    share = right.double().mean().item()
    assert 0.2 < share < 0.95, "or this test says nothing"
    assert index.recall(10, None, **effort) == pytest.approx(share, abs=1e-4)
    assert index.recall(10, 10**6, **effort) == pytest.approx(share, abs=1e-4)
    assert index.recall(10, 700, **effort) == pytest.approx(share, abs=0.05)
    assert index.recall(10, 50, seed=1, **effort) != index.recall(10, 50, seed=2, **effort)
    assert index.recall(10) > share


@each_distance
def test_recall_of_queries_equals_share_of_exact_neighbors_found(metric):
    x, queries = torch.randn(600, 16, generator=seeded(1)), torch.randn(300, 16, generator=seeded(2))
    index = Index.build(x, metric=metric)
    effort = {"max_distance_computations": 60}
    distance = plain_distances(queries, x, metric)
    furthest = distance.sort(dim=1).values[:, 9:10]
    right = distance.gather(1, index.search(queries, 10, **effort).index) <= furthest * (1 + 1e-6)
    share = right.double().mean().item()
    assert 0.2 < share < 0.95, "or this test says nothing"
    assert index.recall(10, None, queries=queries, **effort) == pytest.approx(share, abs=1e-4)
    assert index.recall(10, 100, queries=queries, **effort) == pytest.approx(share, abs=0.08)
    assert math.isnan(index.recall(10, queries=queries[:0]))
    assert index.recall(1, queries=x) == 1, "each query finds the row that it equals"


@pytest.mark.slow
def test_recall_default_build_and_search_exceeds_95_percent():
    """The recall of a build and a search with all defaults, on clusters like those of image features."""
    centers = torch.randn(60, 24, generator=seeded(5))
    x = centers.repeat_interleave(50, 0) + 0.4 * torch.randn(3000, 24, generator=seeded(6))
    assert Index.build(x).recall(20) > 0.95


@pytest.mark.slow
def test_recall_short_rows_equals_long_rows():
    x = torch.randn(800, 30, generator=seeded(4))
    recalls = [Index.build(x * scale).recall(10, None, max_distance_computations=40) for scale in (1, 1e-15)]
    assert recalls[0] < 0.9
    assert recalls[1] == pytest.approx(recalls[0], abs=0.02)
