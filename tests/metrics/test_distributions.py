"""Distributions of similarities: by hand, against all pairs one by one, and their errors."""

import itertools
import math
import re

import numpy
import pytest
import torch

from hardmine import ops
from hardmine.metrics import _search, distributions, nearest_train_similarities, within_class_similarities
from support.inputs import labels_of_sizes, random_inputs, seeded
from support.processes import threads


def on_a_circle(*angles_deg: float) -> torch.Tensor:
    """Unit vectors at these angles."""
    angles = torch.tensor(angles_deg, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], 1)


def assert_distribution_of(result, values: list[float], bins: int) -> None:
    """The distribution equals that of these values, computed by numpy."""
    counts, edges = numpy.histogram(numpy.clip(values, -1, 1), bins, range=(-1, 1))
    assert result.counts.dtype == torch.int64
    assert result.counts.tolist() == counts.tolist()
    assert result.edges.tolist() == pytest.approx(edges.tolist())
    assert result.total == len(values)
    assert result.mean == pytest.approx(numpy.mean(values))
    assert result.std == pytest.approx(numpy.std(values), abs=1e-7)
    assert (result.min, result.max) == pytest.approx((min(values), max(values)))
    assert (result.density * result.edges.diff()).sum().item() == pytest.approx(1)
    assert result.density.tolist() == pytest.approx(numpy.histogram(values, bins, (-1, 1), density=True)[0].tolist())


# Pairs of one class


def test_within_class_hand_worked_histogram_matches():
    """Class 5: 0, 60 and 90 degrees, cosines 1/2, 0 and sqrt(3)/2; class 2: 10 and 130 degrees, cosine -1/2.

    The 4 bins are [-1, -1/2), [-1/2, 0), [0, 1/2), [1/2, 1]. The angles are turned slightly, so none is on a bound.
    """
    embeddings = on_a_circle(0, 59, 89, 10, 129) * torch.tensor([[1.0], [7.0], [0.1], [3.0], [2.0]])
    result = within_class_similarities(embeddings, torch.tensor([5, 5, 5, 2, 2]), bins=4)
    assert result.counts.tolist() == [0, 1, 1, 2]
    assert result.edges.tolist() == [-1, -0.5, 0, 0.5, 1]
    cosines = [math.cos(math.radians(angle)) for angle in (59, 89, 30, 119)]
    assert_distribution_of(result, cosines, 4)


def test_within_class_bin_bounds_go_to_next_bin():
    """The cosines are exact: 0, 1 and -1."""
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]])
    labels = torch.zeros(4, dtype=torch.int64)
    # 01: 0, 02: 1, 03: -1, 12: 0, 13: 0, 23: -1
    assert within_class_similarities(embeddings, labels, bins=2).counts.tolist() == [2, 4]
    assert within_class_similarities(embeddings, labels, bins=4).counts.tolist() == [2, 0, 3, 1]
    assert within_class_similarities(embeddings, labels, bins=1).counts.tolist() == [6]


def test_within_class_rounding_above_one_counts_as_one():
    """The inner product of a unit row with its copy is often slightly above 1."""
    x = torch.randn(200, 3, generator=seeded(0)).repeat_interleave(2, 0)
    labels = torch.arange(200).repeat_interleave(2)
    assert torch.nn.functional.normalize(x).square().sum(1).max() > 1
    result = within_class_similarities(x, labels)
    assert result.counts[-1] == 200
    assert result.max == 1


@pytest.mark.parametrize("block", [None, 2, 3, 8])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_within_class_blocks_match_all_pairs(block, dtype, monkeypatch):
    """Classes of one row, of one block, and of several."""
    if block:
        monkeypatch.setattr(distributions, "_BLOCK_ROWS", block)
    labels = labels_of_sizes([1, 2, 3, 4, 7, 16, 17, 1]) * 5 - 7
    embeddings = torch.randn(len(labels), 4, generator=seeded(1), dtype=torch.float64)
    unit = torch.nn.functional.normalize(embeddings)
    pairs = [(i, j) for i, j in itertools.combinations(range(len(labels)), 2) if labels[i] == labels[j]]
    values = [float(unit[i] @ unit[j]) for i, j in pairs]
    result = within_class_similarities(embeddings.to(dtype), labels, bins=37)
    assert_distribution_of(result, values, 37)
    assert result.total == sum(n * (n - 1) // 2 for n in (1, 2, 3, 4, 7, 16, 17, 1))


@pytest.mark.slow
def test_within_class_class_larger_than_block_matches_all_pairs():
    """The class has more rows than knn returns neighbors."""
    x = torch.randn(1100, 3, generator=seeded(2), dtype=torch.float64)
    unit = torch.nn.functional.normalize(x)
    values = (unit @ unit.T)[torch.ones(1100, 1100).triu(1).bool()].tolist()
    assert_distribution_of(within_class_similarities(x, torch.zeros(1100, dtype=torch.int8), bins=50), values, 50)


def test_within_class_knn_call_holds_at_most_one_block(monkeypatch):
    monkeypatch.setattr(distributions, "_BLOCK_ROWS", 16)
    search, largest = ops.knn, 0

    def watched(*given, **options):
        nonlocal largest
        found = search(*given, **options)
        largest = max(largest, found.similarity.numel())
        return found

    monkeypatch.setattr(ops, "knn", watched)
    within_class_similarities(torch.randn(200, 3, generator=seeded(0)), torch.zeros(200, dtype=torch.int64))
    assert largest == 16 * 16
    assert distributions._BLOCK_ROWS == 16
    monkeypatch.undo()
    assert distributions._BLOCK_ROWS <= 1024, "what knn gives"


def test_within_class_single_sample_classes_have_no_pairs():
    result = within_class_similarities(torch.eye(3), torch.arange(3), bins=5)
    assert result.total == 0
    assert result.counts.tolist() == [0] * 5
    assert all(map(math.isnan, (result.mean, result.std, result.min, result.max)))
    assert within_class_similarities(torch.ones(0, 3), torch.arange(0)).total == 0


def test_distributions_default_bins_are_200():
    x, labels = random_inputs()[:2]
    assert len(within_class_similarities(x, labels).counts) == 200
    assert len(nearest_train_similarities(x, x).counts) == 200


def test_within_class_collapsed_embedding_fills_last_bin():
    result = within_class_similarities(torch.ones(9, 4), torch.arange(9) % 3, bins=10)
    assert result.counts.tolist() == [0] * 9 + [9]
    assert result.std == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_within_class_thread_counts_are_equal():
    x, labels = random_inputs(2000, 24, 5, spread=2.0)[:2]
    counts = []
    for count in (1, 2, 3):
        with threads(count):
            counts.append(within_class_similarities(x, labels, bins=10_000).counts)
    assert torch.equal(counts[0], counts[1])
    assert torch.equal(counts[0], counts[2])


# The nearest training sample


def test_nearest_train_hand_worked_histogram_matches():
    """Test points at 0, 50 and 100 degrees, training ones at 10, 35 and 190: nearest by 10, 15 and 65 degrees."""
    result = nearest_train_similarities(on_a_circle(0, 50, 100) * 3, on_a_circle(10, 35, 190), bins=8)
    assert_distribution_of(result, [math.cos(math.radians(angle)) for angle in (10, 15, 65)], 8)
    assert result.counts.tolist() == [0, 0, 0, 0, 0, 1, 0, 2]


@pytest.mark.parametrize("rows", [None, 1, 7])
def test_nearest_train_chunks_match_full_matrix(rows, monkeypatch):
    if rows:
        monkeypatch.setattr(_search, "CHUNK_WORK", 1)
        monkeypatch.setattr(_search, "MIN_CHUNK_ROWS", rows)
    test = torch.randn(60, 5, generator=seeded(0), dtype=torch.float64)
    train = torch.randn(90, 5, generator=seeded(1), dtype=torch.float64)
    normalize = torch.nn.functional.normalize
    values = (normalize(test) @ normalize(train).T).amax(1).tolist()
    assert_distribution_of(nearest_train_similarities(test, train, bins=30), values, 30)
    assert_distribution_of(nearest_train_similarities(test.float(), train.float(), bins=30), values, 30)


def test_nearest_train_no_test_sample_is_empty():
    assert nearest_train_similarities(torch.ones(0, 3), torch.eye(3)).total == 0


# Both functions


def test_distributions_keep_no_gradient():
    x, labels = random_inputs()[:2]
    x.requires_grad_()
    assert not within_class_similarities(x, labels).counts.requires_grad
    assert type(nearest_train_similarities(x, x).mean) is float


def test_distributions_progress_shows_bar_only_when_true(capsys):
    pytest.importorskip("tqdm")
    x, labels = random_inputs(100)[:2]
    for progress in (None, False, numpy.False_):
        within_class_similarities(x, labels, progress=progress)
        nearest_train_similarities(x, x, progress=progress)
    assert capsys.readouterr().err == ""
    within_class_similarities(x, labels, progress=True)
    assert "100/100" in capsys.readouterr().err
    nearest_train_similarities(x[:50], x, progress=True)
    assert "50/50" in capsys.readouterr().err


def test_within_class_long_work_shows_bar(capsys, monkeypatch):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(distributions, "CHUNK_WORK", 1)
    x, labels = random_inputs(100)[:2]
    within_class_similarities(x, labels)
    assert "100/100" in capsys.readouterr().err


X, Y = random_inputs(6)[:2]
BAD = X.clone()
BAD[4, 1] = math.nan
WRONG = [
    (within_class_similarities, (X, Y[:3]), {}, ValueError, "labels must be [B] = [6], got [3]"),
    (within_class_similarities, (X, Y), {"bins": 0}, ValueError, "bins must be at least 1, got 0"),
    (within_class_similarities, (X, Y), {"bins": 2.0}, TypeError, "bins must be an integer, got float"),
    (within_class_similarities, (X, Y), {"progress": 1}, TypeError, "progress must be None, True or False, got 1"),
    (
        within_class_similarities,
        (BAD, Y),
        {},
        FloatingPointError,
        "embeddings must be finite, got a non-finite row 4: has training diverged?",
    ),
    (nearest_train_similarities, (X[0], X), {}, ValueError, "test_embeddings must be [rows, D], got [8]"),
    (
        nearest_train_similarities,
        (X, X[:, :3]),
        {},
        ValueError,
        "train_embeddings must be [M, D] with the D = 8 of test_embeddings, got [6, 3]",
    ),
    (nearest_train_similarities, (X, X[:0]), {}, ValueError, "train_embeddings must have at least one row, got none"),
    (nearest_train_similarities, (X, X), {"bins": 0}, ValueError, "bins must be at least 1, got 0"),
    (nearest_train_similarities, (X, X), {"progress": 0}, TypeError, "progress must be None, True or False, got 0"),
    (
        nearest_train_similarities,
        (BAD, X),
        {},
        FloatingPointError,
        "test_embeddings must be finite, got a non-finite row 4: has training diverged?",
    ),
    (
        nearest_train_similarities,
        (X, BAD),
        {},
        FloatingPointError,
        "train_embeddings must be finite, got a non-finite row 4: has training diverged?",
    ),
]


@pytest.mark.parametrize(("function", "given", "options", "error", "message"), WRONG, ids=[w[4] for w in WRONG])
def test_distributions_invalid_argument_raises(function, given, options, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        function(*given, **options)
