"""Errors of the graph index: each names the argument, its requirement, and the value received."""

import re

import pytest
import torch

from hardmine.fanng import Index
from support.inputs import seeded

X = torch.randn(20, 4, generator=seeded(0))
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def index() -> Index:
    return Index.build(X)


def with_value(value: float, row: int, column: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The sample rows with one number replaced."""
    x = X.clone().to(dtype)
    x[row, column] = value
    return x


@pytest.mark.parametrize(
    ("vectors", "error", "message"),
    [
        (X.tolist(), TypeError, "vectors must be a torch.Tensor or a NumPy array, got list"),
        (X.long().numpy(), TypeError, "vectors must be float32, float64, float16 or bfloat16, got int64"),
        (X[0].numpy(), ValueError, "vectors must be [rows, D], got [4]"),
        (with_value(NAN, 7, 2).numpy(), ValueError, "vectors must be finite, got nan in row 7, column 2"),
        (
            with_value(1e300, 3, 1, torch.float64).numpy(),
            ValueError,
            "vectors must be finite, got inf in row 3, column 1",
        ),
        (None, TypeError, "vectors must be a torch.Tensor or a NumPy array, got NoneType"),
        (X.long(), TypeError, "vectors must be float32, float64, float16 or bfloat16, got torch.int64"),
        (X.bool(), TypeError, "vectors must be float32, float64, float16 or bfloat16, got torch.bool"),
        (
            X.to(torch.complex64),
            TypeError,
            "vectors must be float32, float64, float16 or bfloat16, got torch.complex64",
        ),
        (X.to_sparse(), TypeError, "vectors must be a dense tensor, got layout torch.sparse_coo"),
        (X[0], ValueError, "vectors must be [rows, D], got [4]"),
        (X[None], ValueError, "vectors must be [rows, D], got [1, 20, 4]"),
        (X[:, :0], ValueError, "vectors must be [rows, D] with D >= 1, got [20, 0]"),
        (with_value(NAN, 7, 2), ValueError, "vectors must be finite, got nan in row 7, column 2"),
        (with_value(INF, 19, 0), ValueError, "vectors must be finite, got inf in row 19, column 0"),
        (with_value(-INF, 0, 3), ValueError, "vectors must be finite, got -inf in row 0, column 3"),
        (with_value(NAN, 3, 1, torch.bfloat16), ValueError, "vectors must be finite, got nan in row 3, column 1"),
        # Finite in float64, but not in float32.
        (with_value(1e300, 3, 1, torch.float64), ValueError, "vectors must be finite, got inf in row 3, column 1"),
    ],
)
def test_build_invalid_vectors_raises(vectors, error, message):
    for options in ({}, {"metric": "euclidean"}, {"init": "exact"}):
        with pytest.raises(error, match=re.escape(message)):
            Index.build(vectors, **options)


def test_build_several_bad_rows_names_first():
    x = with_value(NAN, 7, 2)
    x[5, 3] = x[5, 1] = INF
    with pytest.raises(ValueError, match="got inf in row 5, column 1"):
        Index.build(x)


def test_build_overflowing_distances_raises():
    x = with_value(1e20, 6, 1)
    with pytest.raises(ValueError, match=r"vectors must have norms up to 9.2e18, .* got 1\d+.* in row 6"):
        Index.build(x, metric="euclidean")
    assert Index.build(x, metric="cosine").neighbors(3).distance.isfinite().all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"metric": "l2"}, ValueError, "metric must be one of 'cosine', 'dot', 'euclidean', got 'l2'"),
        ({"metric": None}, ValueError, "metric must be one of 'cosine', 'dot', 'euclidean', got None"),
        ({"success_rate": 1.01}, ValueError, "success_rate must be from 0 to 1, got 1.01"),
        ({"success_rate": -0.1}, ValueError, "success_rate must be a number >= 0, got -0.1"),
        ({"success_rate": NAN}, ValueError, "success_rate must be a number >= 0, got nan"),
        ({"success_rate": "0.9"}, TypeError, "success_rate must be a number, got str"),
        ({"success_rate": True}, TypeError, "success_rate must be a number, got bool"),
        ({"max_degree": 0}, ValueError, "max_degree must be from 1 to 65535, got 0"),
        ({"max_degree": 65536}, ValueError, "max_degree must be from 1 to 65535, got 65536"),
        ({"max_degree": 3.0}, TypeError, "max_degree must be an integer, got float"),
        ({"seed": -1}, ValueError, "seed must be from 0 to 18446744073709551615, got -1"),
        ({"seed": 2**64}, ValueError, "seed must be from 0 to 18446744073709551615, got 18446744073709551616"),
        ({"seed": True}, TypeError, "seed must be an integer, got bool"),
        ({"threads": 0}, ValueError, "threads must be from 1 to 1024, got 0"),
        ({"threads": 1025}, ValueError, "threads must be from 1 to 1024, got 1025"),
        ({"threads": "2"}, TypeError, "threads must be an integer, got str"),
        ({"max_traversals": 0}, ValueError, "max_traversals must be from 1 to 4611686018427387904, got 0"),
        ({"max_traversals": 1e6}, TypeError, "max_traversals must be an integer, got float"),
        ({"refinements": -1}, ValueError, "refinements must be from 0 to 1000, got -1"),
        ({"refinements": 1.0}, TypeError, "refinements must be an integer, got float"),
        ({"init": "random"}, ValueError, "init must be one of 'auto', 'exact', 'leaves', 'naive', got 'random'"),
        ({"init": 3}, ValueError, "init must be one of 'auto', 'exact', 'leaves', 'naive', got 3"),
        ({"progress": "bar"}, TypeError, "progress must be True, False, None or a function, got 'bar'"),
        ({"progress": 1}, TypeError, "progress must be True, False, None or a function, got 1"),
    ],
)
def test_build_invalid_option_raises(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        Index.build(X, **options)


def test_build_init_of_other_size_raises(index):
    with pytest.raises(ValueError, match="init must be an index over N = 19 rows, as vectors, got 20 rows"):
        Index.build(X[:19], init=index)


@pytest.mark.parametrize(
    ("queries", "error", "message"),
    [
        (X.tolist(), TypeError, "queries must be a torch.Tensor or a NumPy array, got list"),
        (X.int().numpy(), TypeError, "queries must be float32, float64, float16 or bfloat16, got int32"),
        (X[:, :3].numpy(), ValueError, "queries must be [Q, D] with the index's D = 4, got [20, 3]"),
        (X.int(), TypeError, "queries must be float32, float64, float16 or bfloat16, got torch.int32"),
        (X[0], ValueError, "queries must be [rows, D], got [4]"),
        (X[:, :3], ValueError, "queries must be [Q, D] with the index's D = 4, got [20, 3]"),
        (X.repeat(1, 2), ValueError, "queries must be [Q, D] with the index's D = 4, got [20, 8]"),
        (
            with_value(NAN, 7, 2),
            ValueError,
            "queries must be finite, got nan in row 7, column 2",
        ),
        (with_value(-INF, 0, 0), ValueError, "queries must be finite, got -inf in row 0, column 0"),
        (with_value(1e300, 9, 0, torch.float64), ValueError, "queries must be finite, got inf in row 9, column 0"),
    ],
)
def test_search_invalid_queries_raises(index, queries, error, message):
    for use in (lambda: index.search(queries, 3), lambda: index.recall(3, queries=queries)):
        with pytest.raises(error, match=re.escape(message)):
            use()


def test_search_overflowing_queries_raises():
    x = with_value(1e20, 6, 1)
    with pytest.raises(ValueError, match=r"queries must have norms up to 9.2e18, .* got 1\d+.* in row 6"):
        Index.build(X, metric="euclidean").search(x, 3)
    assert Index.build(X).search(x, 3).distance.isfinite().all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": 0}, ValueError, "k must be from 1 to 2147483647, got 0"),
        ({"k": -3}, ValueError, "k must be from 1 to 2147483647, got -3"),
        ({"k": 2**31}, ValueError, "k must be from 1 to 2147483647, got 2147483648"),
        ({"k": 2.0}, TypeError, "k must be an integer, got float"),
        ({"k": None}, TypeError, "k must be an integer, got NoneType"),
        ({"max_distance_computations": 0}, ValueError, "max_distance_computations must be from 1 to 2147483647, got 0"),
        ({"max_distance_computations": 1.5}, TypeError, "max_distance_computations must be an integer, got float"),
        ({"threads": 0}, ValueError, "threads must be from 1 to 1024, got 0"),
    ],
)
def test_search_invalid_option_raises(index, options, error, message):
    for search in (lambda **given: index.search(X, **given), index.neighbors):
        with pytest.raises(error, match=re.escape(message)):
            search(**{"k": 2, **options})


@pytest.mark.parametrize(
    ("start", "error", "message"),
    [
        (-1, ValueError, "start must be from 0 to 19, got -1"),
        (20, ValueError, "start must be from 0 to 19, got 20"),
        (1.0, TypeError, "start must be an integer, a tensor of integers or None, got float"),
        ([1] * 20, TypeError, "start must be an integer, a tensor of integers or None, got list"),
        (torch.zeros(20), TypeError, "start must have an integer dtype, got torch.float32"),
        (torch.zeros(20, dtype=torch.bool), TypeError, "start must have an integer dtype, got torch.bool"),
        (torch.zeros(19, dtype=torch.int64), ValueError, "start must be [Q] = [20], got [19]"),
        (torch.zeros(20, 1, dtype=torch.int64), ValueError, "start must be [Q] = [20], got [20, 1]"),
        (torch.full((20,), 20), ValueError, "start must be rows of the index, 0 to 19, got 20"),
        (torch.full((20,), -1), ValueError, "start must be rows of the index, 0 to 19, got -1"),
        (torch.full((20,), 2**62), ValueError, "start must be rows of the index, 0 to 19, got 4611686018427387904"),
    ],
)
def test_search_invalid_start_raises(index, start, error, message):
    with pytest.raises(error, match=re.escape(message)):
        index.search(X, 3, start=start)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": 0}, ValueError, "k must be from 1 to 1023, got 0"),
        ({"k": 1024}, ValueError, "k must be from 1 to 1023, got 1024"),
        ({"k": 2.5}, TypeError, "k must be an integer, got float"),
        ({"sample": 0}, ValueError, "sample must be from 1 to 2147483647, got 0"),
        ({"sample": 0.5}, TypeError, "sample must be an integer, got float"),
        ({"max_distance_computations": 0}, ValueError, "max_distance_computations must be from 1 to 2147483647, got 0"),
    ],
)
def test_recall_invalid_option_raises(index, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        index.recall(**options)


def test_index_positional_options_raise(index):
    for call in (lambda: Index.build(X, "cosine"), lambda: index.search(X, 3, 100), lambda: index.neighbors(3, 100)):
        with pytest.raises(TypeError, match="positional argument"):
            call()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_build_cuda_vectors_raises():
    with pytest.raises(NotImplementedError, match="vectors must be on the CPU"):
        Index.build(X.cuda())


def test_search_start_in_empty_index_raises():
    empty = Index.build(X[:0])
    assert empty.search(X, 3).index.eq(-1).all()
    with pytest.raises(ValueError, match="start must be None for an index without rows, got 0"):
        empty.search(X, 3, start=0)


def test_build_meta_vectors_raises():
    with pytest.raises(ValueError, match="vectors must be on the CPU, got meta"):
        Index.build(torch.empty(5, 3, device="meta"))
