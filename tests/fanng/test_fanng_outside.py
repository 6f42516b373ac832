"""Searches for new queries, on rows of every awkward shape: what they find, and what the index says that they find."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fanng_cases import FULL_EFFORT, plain_distances
from hardmine.fanng import Index
from support.inputs import seeded

NEW = 100  # queries, held out from the rows


def clusters(count: int, size: int, spread: float) -> Tensor:
    """Rows on the sphere in clusters, as embeddings are after a training."""
    centers = torch.nn.functional.normalize(torch.randn(count, 32, generator=seeded(1)), dim=1)
    rows = centers.repeat_interleave(size, 0) + spread * torch.randn(count * size, 32, generator=seeded(2)) / 32**0.5
    return torch.nn.functional.normalize(rows, dim=1)


def tied_clusters(count: int, size: int) -> Tensor:
    """Clusters whose members are all equally far from each other."""
    places = torch.eye(count).repeat_interleave(size, 0) * 10
    return torch.cat([places, torch.eye(size).repeat(count, 1)], 1)


def curve(rows: int) -> Tensor:
    angle = torch.rand(rows, generator=seeded(3), dtype=torch.float64) * 40
    return torch.stack([angle.cos() * angle, angle.sin() * angle, 3 * angle], 1).float()


def tags(rows: int) -> Tensor:
    return torch.zeros(rows, 60).scatter_(1, torch.randint(0, 60, (rows, 3), generator=seeded(4)), 1.0)


def isolated(rows: int) -> Tensor:
    x = torch.randn(rows, 8, generator=seeded(5))
    x[::20] *= torch.logspace(1, 4, len(x[::20]))[:, None]
    return x


SHAPES = {
    "clusters": lambda: clusters(80, 20, 0.1),
    "tight clusters": lambda: clusters(16, 100, 0.01),
    "clusters of copies": lambda: clusters(40, 10, 0.01).repeat(4, 1),
    "near copies": lambda: (
        torch.randn(40, 8, generator=seeded(6)).repeat(40, 1) + 1e-3 * torch.randn(1600, 8, generator=seeded(7))
    ),
    "tied clusters": lambda: tied_clusters(8, 200),
    "small integers": lambda: torch.randint(0, 2, (1600, 12), generator=seeded(8)).float(),
    "tags": lambda: tags(1600),
    "one-hot rows": lambda: torch.eye(400),
    "curve": lambda: curve(3000),
    "line": lambda: torch.arange(3000.0)[:, None],
    "isolated rows": lambda: isolated(1600),
    "no structure": lambda: torch.randn(2100, 24, generator=seeded(9)),
}
BUILDS = {"exact": {}, "leaves": {"init": "leaves"}, "traversals": {"init": None}}


def split(shape: str) -> tuple[Tensor, Tensor]:
    """Rows of the index, and new queries of the same distribution."""
    x = SHAPES[shape]()
    order = torch.randperm(len(x), generator=seeded(10))
    return x[order[NEW:]], x[order[:NEW]]


def share_found(index: Index, queries: Tensor, k: int, **options) -> float:
    """The share of the true neighbors that a search finds; computed here, in float64."""
    distance = plain_distances(queries, index.vectors, index.metric)
    farthest = distance.sort(dim=1).values[:, k - 1 : k]
    found = index.search(queries, k, **options).index
    right = (found >= 0) & (distance.gather(1, found.clamp(min=0)) <= farthest * (1 + 1e-6) + 1e-9)
    return right.double().mean().item()


@pytest.fixture(scope="module")
def built():
    """Indices by shape and build, each built once."""
    known: dict[tuple[str, str], Index] = {}

    def index(shape: str, build: str) -> Index:
        if (shape, build) not in known:
            known[shape, build] = Index.build(split(shape)[0], metric="euclidean", **BUILDS[build])
        return known[shape, build]

    return index


each_shape = pytest.mark.parametrize("shape", SHAPES)
each_build = pytest.mark.parametrize("build", BUILDS)


@each_shape
@each_build
def test_search_new_queries_default_width_reaches_documented_recall(shape, build, built):
    index, queries = built(shape, build), split(shape)[1]
    for k in (1, 10, 50):
        assert share_found(index, queries, k) >= 0.95


@each_shape
@each_build
def test_recall_equals_that_of_new_queries(shape, build, built):
    index, queries = built(shape, build), split(shape)[1]
    for options, tolerance in ({}, 0.06), ({"width": 11}, 0.1), ({"max_distance_computations": 150}, 0.1):
        true = share_found(index, queries, 10, **options)
        assert index.recall(10, 300, **options) == pytest.approx(true, abs=tolerance)
        assert index.recall(10, queries=queries, **options) == pytest.approx(true, abs=1e-9)


@each_shape
@each_build
def test_search_any_start_reaches_every_row(shape, build, built):
    index = built(shape, build)
    start = torch.randint(0, len(index), (3,), generator=seeded(11))
    for options in ({}, {"start": start}, FULL_EFFORT, {"start": start, **FULL_EFFORT}):
        found = index.search(index.vectors[:3], len(index), **options).index
        assert (found.sort(dim=1).values == torch.arange(len(index))).all()


def test_search_rows_find_themselves(built):
    for shape in SHAPES:
        index = built(shape, "exact")
        assert share_found(index, index.vectors[:200], 1) >= 0.95, shape


def test_stats_components_count_torn_clusters(built):
    stats = built("tight clusters", "exact").stats()
    assert 16 <= stats["components"] < 200
    assert stats["connecting_edges"] >= 2 * 15
    assert Index.build(torch.randn(300, 4), init="naive", max_degree=300, success_rate=0).stats()["components"] == 1


def test_search_width_grows_where_search_is_hard(built):
    """One-hot rows tell a search nothing of where to go."""
    assert built("clusters", "exact").search_width(10) <= 30
    assert built("one-hot rows", "exact").search_width(1) >= 200
    index = built("no structure", "exact")
    assert 20 < index.search_width(1) <= index.search_width(10) < index.search_width(50) < index.search_width(200)
