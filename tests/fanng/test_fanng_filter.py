"""Searches among some of the rows: ids that are no candidates, and allowed rows."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import Tensor

from fanng_cases import each_metric, exact_rows, naive_index, plain_distances
from hardmine import ops
from hardmine.fanng import Index
from support.comparisons import assert_bitwise_equal
from support.inputs import seeded
from support.processes import threads

QUERIES = torch.randn(60, 12, generator=seeded(2))
IDS = torch.randint(-1, 6, (60,), generator=seeded(3))
ROWS = torch.randn(1500, 12, generator=seeded(1))
ROW_IDS = torch.randint(-1, 6, (1500,), generator=seeded(4))


@pytest.fixture(scope="module")
def built():
    """An index per metric over the rows."""
    known: dict[str, Index] = {}

    def index(metric: str) -> Index:
        if metric not in known:
            known[metric] = Index.build(ROWS, metric=metric)
        return known[metric]

    return index


def filtered_distances(metric: str, ids=None, row_ids=None, allowed=None) -> Tensor:
    distance = plain_distances(QUERIES, ROWS, metric)
    if ids is not None:
        distance[(ids[:, None] == row_ids) & (ids[:, None] >= 0)] = float("inf")
    if allowed is not None:
        distance[:, ~allowed] = float("inf")
    return distance


def share_found(found: Tensor, distance: Tensor) -> float:
    last = distance.sort(dim=1).values[:, found.shape[1] - 1, None]
    return (distance.gather(1, found) <= last + 1e-6 * last.abs() + 1e-9).double().mean().item()


FILTERS = {
    "ids": {"ids": IDS, "row_ids": ROW_IDS},
    "half": {"allowed": torch.rand(1500, generator=seeded(5)) < 0.5},
    "few": {"allowed": torch.rand(1500, generator=seeded(5)) < 0.03},
    "both": {"ids": IDS, "row_ids": ROW_IDS, "allowed": torch.rand(1500, generator=seeded(5)) < 0.5},
    "one id": {"ids": torch.zeros(60).long(), "row_ids": (torch.arange(1500) % 30 == 0).long() - 1},
}
each_filter = pytest.mark.parametrize("name", FILTERS)


@each_metric
@each_filter
def test_search_filtered_finds_nearest_of_remaining_rows(metric, name, built):
    options, distance = FILTERS[name], filtered_distances(metric, **FILTERS[name])
    index = built(metric)
    for more in ({}, {"start": 7}, {"width": 60}, {"max_distance_computations": 1500}):
        found = index.search(QUERIES, 10, **options, **more)
        assert distance.gather(1, found.index).isfinite().all()
        assert share_found(found.index, distance) >= 0.95
        want = plain_distances(QUERIES, ROWS, metric).gather(1, found.index)
        torch.testing.assert_close(found.distance, want.float(), rtol=1e-4, atol=1e-5)


@each_metric
def test_search_filtered_equals_exact_where_few_rows_remain(metric, built):
    """As ops.knn, which is exact; a walk through all rows of which 0.03 remain would miss some."""
    found = built(metric).search(QUERIES, 10, **FILTERS["few"])
    allowed = FILTERS["few"]["allowed"].nonzero().flatten()
    exact = ops.knn(QUERIES, ROWS[allowed], 10, similarity=metric)
    assert found.index.equal(allowed[exact.index])


@each_metric
def test_search_walk_around_own_cluster_finds_others(metric):
    """All near rows of a query are excluded by its id, and the walk has to leave them."""
    centers = torch.randn(30, 12, generator=seeded(6))
    label = torch.arange(30).repeat_interleave(60)
    rows = centers[label] + 0.02 * torch.randn(1800, 12, generator=seeded(7))
    index = Index.build(rows, metric=metric)
    found = index.search(rows[::20], 5, ids=label[::20], row_ids=label)
    distance = plain_distances(rows[::20], rows, metric)
    distance[label[::20, None] == label] = float("inf")
    assert share_found(found.index, distance) >= 0.95
    assert (label[found.index] != label[::20, None]).all()


@each_metric
def test_search_filtered_fewer_rows_than_k_pads(metric, built):
    allowed = torch.zeros(1500, dtype=torch.bool)
    allowed[[3, 500, 900]] = True
    for more in ({}, {"max_distance_computations": 1500}):
        found = built(metric).search(QUERIES, 5, allowed=allowed, **more)
        assert (found.index[:, :3].sort(dim=1).values == torch.tensor([3, 500, 900])).all()
        assert (found.index[:, 3:] == -1).all()
        assert found.distance[:, 3:].isnan().all()
        assert found.distance[:, :3].isfinite().all()
        none = built(metric).search(QUERIES, 2, allowed=allowed & ~allowed, **more)
        assert (none.index == -1).all()
        assert none.distance.isnan().all()
    everything = torch.zeros(1500).long()
    assert (built(metric).search(QUERIES, 2, ids=everything[:60], row_ids=everything).index == -1).all()


@each_metric
def test_search_filter_that_leaves_all_rows_changes_nothing(metric, built):
    index, without = built(metric), {"allowed": torch.ones(1500, dtype=torch.bool)}
    plain = index.search(QUERIES, 7, width=200)
    for options in (
        without,
        {"ids": torch.full((60,), -1), "row_ids": ROW_IDS},
        {"ids": IDS + 100, "row_ids": ROW_IDS},
    ):
        for a, b in zip(index.search(QUERIES, 7, width=200, **options), plain, strict=True):
            assert_bitwise_equal(a, b)


@each_metric
def test_search_filtered_copies_of_rows_are_told_apart(metric):
    x = exact_rows(metric, 200, 4)
    index = naive_index(x, metric)
    assert index.stats()["vertices"] < 200
    allowed = torch.arange(200) % 3 > 0
    row_ids = torch.arange(200) % 4
    queries = exact_rows(metric, 30, 4, seed=5)
    ids = torch.arange(30) % 5
    distance = plain_distances(queries, x, metric)
    distance[:, ~allowed] = float("nan")
    distance[ids[:, None] == row_ids] = float("nan")
    for more in ({}, {"width": 200}, {"max_distance_computations": 10**6}):
        found = index.search(queries, 9, ids=ids, row_ids=row_ids, allowed=allowed, **more)
        for query in range(30):
            rows = found.index[query].tolist()
            assert all(allowed[row] and row_ids[row] != ids[query] for row in rows)
            assert len(set(rows)) == 9
        want = distance.nan_to_num(nan=float("inf")).sort(dim=1).values[:, :9]
        torch.testing.assert_close(found.distance, want.float(), rtol=0, atol=0)


@each_metric
@pytest.mark.parametrize("share", [0.1, 0.7])
def test_search_filtered_ties_go_to_lowest_remaining_row(metric, share):
    """Duplicates and equally far rows, some excluded. Few remaining rows are scanned, many are walked to."""
    x = exact_rows(metric, 240, 4)
    index = naive_index(x, metric)
    assert index.stats()["vertices"] < 200
    allowed = torch.rand(240, generator=seeded(1)) < share
    row_ids, ids = torch.arange(240) % 5, torch.arange(400) % 6
    queries = exact_rows(metric, 400, 4, seed=5)
    distance = plain_distances(queries, x, metric)
    distance[:, ~allowed] = float("inf")
    distance[ids[:, None] == row_ids] = float("inf")
    want = distance.sort(dim=1, stable=True)
    ties = (want.values[:, 1:9] == want.values[:, :8]).sum()
    assert ties > 400
    for more in ({"width": 240}, {"max_distance_computations": 10**6}):
        found = index.search(queries, 9, ids=ids, row_ids=row_ids, allowed=allowed, **more)
        assert found.index.equal(want.indices[:, :9])


def test_search_filtered_equals_for_any_threads_arrays_and_dtypes(built):
    index = built("cosine")
    options = {"ids": IDS, "row_ids": ROW_IDS, "allowed": FILTERS["half"]["allowed"]}
    expected = index.search(QUERIES, 6, **options, threads=1)
    others = [
        {name: value.numpy() for name, value in options.items()},
        {**options, "ids": IDS.to(torch.int8), "row_ids": ROW_IDS.int()},
        {**options, "ids": torch.stack([IDS, IDS], 1)[:, 0], "row_ids": ROW_IDS.numpy().astype(">i4")},
        {**options, "allowed": options["allowed"].numpy()[::-1].copy()[::-1]},
    ]
    for given in (options, *others):
        for count in (1, 2, 5):
            with threads(count):
                found = index.search(QUERIES, 6, **given)
            for a, b in zip(found, expected, strict=True):
                assert_bitwise_equal(a, b)


LARGE = torch.full((1500,), 2**63 + 5, dtype=torch.uint64)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ids": IDS}, ValueError, "row_ids must be given together with ids, got None"),
        ({"row_ids": ROW_IDS}, ValueError, "ids must be given together with row_ids, got None"),
        ({"ids": IDS[:9], "row_ids": ROW_IDS}, ValueError, "ids must be [Q] = [60], got [9]"),
        ({"ids": IDS[:, None], "row_ids": ROW_IDS}, ValueError, "ids must be [Q] = [60], got [60, 1]"),
        ({"ids": IDS, "row_ids": ROW_IDS[1:]}, ValueError, "row_ids must be [N] = [1500], got [1499]"),
        ({"ids": IDS.float(), "row_ids": ROW_IDS}, TypeError, "ids must have an integer dtype, got torch.float32"),
        ({"ids": IDS, "row_ids": ROW_IDS > 0}, TypeError, "row_ids must have an integer dtype, got torch.bool"),
        ({"ids": IDS.tolist(), "row_ids": ROW_IDS}, TypeError, "ids must be a torch.Tensor or a NumPy array, got list"),
        ({"ids": IDS, "row_ids": 3}, TypeError, "row_ids must be a torch.Tensor or a NumPy array, got int"),
        ({"ids": LARGE[:60], "row_ids": LARGE}, ValueError, f"ids must be below 2^63, got {2**63 + 5}"),
        ({"ids": IDS, "row_ids": LARGE}, ValueError, f"row_ids must be below 2^63, got {2**63 + 5}"),
        ({"allowed": ROW_IDS}, TypeError, "allowed must be bool, got torch.int64"),
        ({"allowed": np.ones(1500)}, TypeError, "allowed must be bool, got torch.float64"),
        ({"allowed": np.full(1500, "x")}, TypeError, "allowed must have an integer dtype or bool, got <U1"),
        ({"allowed": torch.ones(60, dtype=torch.bool)}, ValueError, "allowed must be [N] = [1500], got [60]"),
        ({"allowed": [True] * 1500}, TypeError, "allowed must be a torch.Tensor or a NumPy array, got list"),
    ],
)
def test_search_invalid_filter_raises(options, error, message, built):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        built("cosine").search(QUERIES, 3, **options)
