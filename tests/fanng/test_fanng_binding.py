"""Direct calls of the compiled index refuse what would read beyond an array, and name argument and value."""

import re

import numpy as np
import pytest
import torch

from hardmine import _fanng
from hardmine.fanng import Index
from support.inputs import seeded

ROWS, DEPTH = 30, 4
X = torch.randn(ROWS, DEPTH, generator=seeded(0))


@pytest.fixture(scope="module")
def core():
    return Index.build(X, max_degree=5)._core  # with lists of 10


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


def refuses(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, ROWS + 1, 3, 1), "last must be from 0 to 30, got 31"),
        ((-1, 5, 3, 1), "first must be from 0 to 5, got -1"),
        ((6, 5, 3, 1), "first must be from 0 to 5, got 6"),
        ((0, ROWS, 11, 1), "k must be held by the lists of the build, got 11"),
        ((0, ROWS, 0, 1), "k must be from 1 to 2147483647, got 0"),
        ((0, ROWS, 3, 0), "threads must be from 1 to 2147483647, got 0"),
    ],
)
def test_listed_out_of_range_raises(core, arguments, message):
    assert core.listed(0, ROWS, 10, 1)[0].shape == (ROWS, 10)
    refuses(lambda: core.listed(*arguments), message)


def test_listed_without_lists_raises():
    core = Index.build(X, init=None)._core
    refuses(lambda: core.listed(0, ROWS, 1, 1), "k must be held by the lists of the build, got 1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, ROWS + 1, 3, 0, 20, 1), "last must be from 0 to 30, got 31"),
        ((-1, 5, 3, 0, 20, 1), "first must be from 0 to 5, got -1"),
        ((0, 5, -1, 0, 20, 1), "k must be from 1 to 2147483647, got -1"),
        ((0, 5, 3, 0, 0, 1), "width must be from 1 to 2147483647, got 0"),
        ((0, 5, 3, -2, 0, 1), "max_computations must be from 0 to 2147483647, got -2"),
    ],
)
def test_neighbors_out_of_range_raises(core, arguments, message):
    refuses(lambda: core.neighbors(*arguments), message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": zeros(2, 3)}, "queries must be [any, 4], got [2, 3]"),
        ({"queries": zeros(4)}, "queries must be [any, 4], got [4]"),
        ({"k": 0}, "k must be from 1 to 2147483647, got 0"),
        ({"start": zeros(1, dtype=np.int64)}, "start must be [2], got [1]"),
        ({"allowed": zeros(29, dtype=np.uint8)}, "allowed must be [30], got [29]"),
        ({"query_ids": zeros(1, dtype=np.int64)}, "query_ids must be [2], got [1]"),
        ({"row_ids": zeros(2, dtype=np.int64)}, "row_ids must be [30], got [2]"),
        ({"query_ids": zeros(2, dtype=np.int64)}, "query_ids must be given with row_ids, got one of them"),
        ({"row_ids": zeros(30, dtype=np.int64)}, "query_ids must be given with row_ids, got one of them"),
    ],
)
def test_search_wrong_sizes_raise(core, change, message):
    names = ("queries", "k", "max_computations", "width", "start", "allowed", "query_ids", "row_ids", "threads")
    valid = dict(zip(names, (zeros(2, DEPTH) + 1, 3, 0, 20, None, None, None, None, 1), strict=True))
    assert core.search(**valid)[0].shape == (2, 3)
    refuses(lambda: core.search(**(valid | change)), message)


@pytest.mark.parametrize(
    ("rows", "distances", "message"),
    [
        ([0, ROWS], 2, "rows must be from 0 to 29, got 30"),
        ([-1], 1, "rows must be from 0 to 29, got -1"),
        ([[1, 2]], 2, "rows must be [2], got [1, 2]"),
        ([1, 2], 1, "distances must be [2], got [1]"),
    ],
)
def test_search_held_out_wrong_rows_raise(core, rows, distances, message):
    refuses(lambda: core.search_held_out(np.array(rows), zeros(distances), 3, 0, 20, 1), message)


@pytest.mark.parametrize(
    ("vectors", "source", "message"),
    [
        (zeros(2, 3), [0, 1], "vectors must be [any, 4], got [2, 3]"),
        (zeros(2, DEPTH), [0], "source must be [2], got [1]"),
        (zeros(2, DEPTH), [0, ROWS], "source must be from -1 to 29, got 30"),
        (zeros(2, DEPTH), [0, -2], "source must be from -1 to 29, got -2"),
    ],
)
def test_changed_wrong_rows_raise(core, vectors, source, message):
    refuses(lambda: core.changed(vectors, np.array(source), 5, 0, 1), message)


def test_build_of_vector_raises():
    options = (0.0, 5, 0, 0, 0, 1, _fanng.Seeding.exact, None, None)
    refuses(lambda: _fanng.Index.build(zeros(4), _fanng.Metric.cosine, *options), "vectors must be [any, any], got [4]")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("lists", "distances", "labels", "message"),
    [
        (zeros(3, 2), (3, 1), 3, "distances must be [3, 2], got [3, 1]"),
        (zeros(3, 2), (3, 2), 2, "labels must be [3], got [2]"),
        (zeros(3, 2) + 3, (3, 2), 3, "neighbor_lists must be from 0 to N - 1 = 2, or -1 as padding, got 3 at [0, 0]"),
        (zeros(3), (3,), 3, "neighbor_lists must be [any, any], got [3]"),
    ],
)
def test_smart_triplets_wrong_lists_raise(dtype, lists, distances, labels, message):
    arguments = (lists.astype(np.int64), zeros(*distances, dtype=dtype), zeros(labels, dtype=np.int64))
    refuses(lambda: _fanng.smart_triplets(*arguments, 1.0, 1, 0, 1), message)
