"""Rows added to an index and removed from it: searches find what they would after a fresh build."""

import re

import numpy
import pytest
import torch

from fanng_cases import assert_same_index, each_distance, each_metric, sample_rows
from hardmine.fanng import Index
from support.comparisons import assert_bitwise_equal
from support.inputs import seeded

K = 10


def clusters(rows: int, seed: int) -> torch.Tensor:
    centers = torch.randn(40, 16, generator=seeded(1))
    draws = seeded(seed)
    return centers[torch.randint(0, 40, (rows,), generator=draws)] + 0.6 * torch.randn(rows, 16, generator=draws)


@each_metric
def test_add_recall_equals_that_of_fresh_build(metric):
    x, queries = clusters(4000, 2), clusters(300, 3)
    fresh = Index.build(x, metric=metric)
    width = {"width": fresh.search_width(K)}
    for first in (0, 400, 2200, 3900):
        index = Index.build(x[:first], metric=metric).add(x[first:])
        assert_bitwise_equal(index.vectors, x)
        assert (index.stats()["list_recall"] == 0) == (first > 2000), "most rows are new: built anew"
        assert index.recall(K, queries=queries) > 0.95
        found, wanted = (i.recall(K, None, queries=queries, **width) for i in (index, fresh))
        assert found > wanted - 0.01


@each_metric
def test_add_in_many_steps_keeps_recall(metric):
    x, queries = clusters(2000, 2), clusters(300, 3)
    fresh, index = Index.build(x, metric=metric), Index.build(x[:1000], metric=metric)
    for first in range(1000, 2000, 100):
        index = index.add(x[first : first + 100])
    width = {"width": fresh.search_width(K)}
    assert index.recall(K, None, queries=queries, **width) > fresh.recall(K, None, queries=queries, **width) - 0.01


@each_distance
def test_add_far_cluster_is_found(metric):
    """New rows that resemble no old one are reached from the starts."""
    x, far = torch.randn(800, 16, generator=seeded(1)), torch.full((16,), -9.0)
    far = far + 0.01 * torch.randn(300, 16, generator=seeded(2))
    index = Index.build(x.abs(), metric=metric).add(far)
    found = index.search(far, 1)
    assert found.index.flatten().equal(torch.arange(800, 1100))


@each_metric
def test_remove_rows_are_never_found(metric):
    x, queries = clusters(3000, 2), clusters(300, 3)
    before = Index.build(x, metric=metric)
    for share in (0.05, 0.3, 0.95):
        keep = torch.rand(len(x), generator=seeded(5)) >= share
        index, fresh = before.remove((~keep).nonzero().flatten()), Index.build(x[keep], metric=metric)
        assert_bitwise_equal(index.vectors, x[keep])
        assert len(index) == int(keep.sum())
        everything = index.search(queries[:5], len(index), width=len(index)).index
        assert (everything.sort(dim=1).values == torch.arange(len(index))).all(), "each remaining row is reached"
        assert index.recall(K, queries=queries) > 0.95
        width = {"width": fresh.search_width(K)}
        found, wanted = (i.recall(K, None, queries=queries, **width) for i in (index, fresh))
        assert found > wanted - 0.01


def test_remove_whole_cluster_leaves_graph_connected():
    x = torch.cat([torch.randn(200, 4, generator=seeded(s)) + 50 * s for s in range(5)])
    index = Index.build(x, metric="euclidean").remove(range(400, 600))  # the one in the middle
    everything = index.search(x[:1], 800, width=800).index
    assert everything.sort().values.equal(torch.arange(800)[None])


@each_metric
def test_changed_index_equals_for_any_threads_and_leaves_old_one(metric):
    x, more = sample_rows(900), sample_rows(300, 12) * 2
    index = Index.build(x, metric=metric)
    before = index.neighbors(5)
    added, removed = (
        [work(threads) for threads in (1, 2, 5)]
        for work in (lambda n: index.add(more, threads=n), lambda n: index.remove([3, 5, 7, 20], threads=n))
    )
    for first, *others in (added, removed):
        for other in others:
            assert_same_index(other, first)
    assert_bitwise_equal(index.neighbors(5).index, before.index)
    assert len(index) == 900


@each_distance
def test_changed_index_takes_copies_zero_rows_and_none(metric):
    x = torch.randn(60, 4, generator=seeded(1))
    index = Index.build(x, metric=metric)
    copies = index.add(torch.cat([x[:3], torch.zeros(2, 4), x[:1]]))
    assert copies.stats()["vertices"] == 61
    assert copies.search(x[:1], 3).index.tolist() == [[0, 60, 65]]
    assert len(copies.remove(range(60, 66))) == 60
    assert copies.remove([0]).search(x[:1], 2).index.tolist() == [[59, 64]]
    assert len(index.add(x[:0])) == len(index.remove([])) == 60
    empty = index.remove(range(60))
    assert len(empty) == 0
    assert empty.add(x).search(x[:5], 1).index.flatten().tolist() == list(range(5))


def test_changed_index_saves_and_starts_builds(tmp_path):
    pytest.importorskip("safetensors")
    x = clusters(800, 2)
    index = Index.build(x[:700]).add(x[700:]).remove([1, 2, 3])
    index.save(tmp_path / "a")
    loaded = Index.load(tmp_path / "a")
    assert_same_index(loaded, index)
    assert_same_index(loaded.add(x[:5]), index.add(x[:5]))
    assert Index.build(loaded.vectors, init=loaded).recall(5) > 0.95


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([0, 20], ValueError, "rows must be from 0 to 19, got 20"),
        ([-1], ValueError, "rows must be from 0 to 19, got -1"),
        (torch.tensor([3, 20]), ValueError, "rows must be rows of the index, 0 to 19, got 20"),
        (torch.tensor([-1]), ValueError, "rows must be rows of the index, 0 to 19, got -1"),
        (torch.tensor([[3]]), ValueError, "rows must be [R], got [1, 1]"),
        (torch.tensor([1.0]), TypeError, "rows must have an integer dtype, got torch.float32"),
        (torch.tensor([True]), TypeError, "rows must have an integer dtype, got torch.bool"),
        ([1.0], TypeError, "rows must be an integer, got float"),
        (3, TypeError, "rows must be a tensor or a sequence of integers, got int"),
        ("3", TypeError, "rows must be a tensor or a sequence of integers, got str"),
    ],
)
def test_remove_invalid_rows_raise(rows, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        Index.build(sample_rows(20)).remove(rows)


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (torch.ones(2, 3), ValueError, "rows must be [M, D] with the index's D = 12, got [2, 3]"),
        (torch.ones(12), ValueError, "rows must be [rows, D], got [12]"),
        ([[1.0] * 12], TypeError, "rows must be a torch.Tensor or a NumPy array, got list"),
        (torch.full((2, 12), float("nan")), ValueError, "rows must be finite, got nan in row 0, column 0"),
    ],
)
def test_add_invalid_rows_raise(rows, error, message):
    with pytest.raises(error, match=re.escape(message)):
        Index.build(sample_rows(20)).add(rows)


def test_add_takes_arrays():
    x = sample_rows(50)
    index = Index.build(x[:30])
    assert_same_index(index.add(x[30:].numpy().astype(numpy.float64)), index.add(x[30:]))
