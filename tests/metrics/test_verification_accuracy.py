"""Face verification: folds by hand, against trying every threshold, and its errors."""

import itertools
import math
import re

import pytest
import torch

from hardmine.metrics import verification_accuracy
from hardmine.metrics.verification import _best_threshold
from support.inputs import seeded


def with_similarities(similarities: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings and pairs with these cosine similarities: each pair is (1, 0) and a row of its own."""
    s = torch.tensor(similarities, dtype=torch.float64)
    rows = torch.stack([s, (1 - s * s).sqrt()], 1)
    pairs = torch.stack([torch.zeros(len(s), dtype=torch.int64), torch.arange(1, len(s) + 1)], 1)
    return torch.cat([torch.tensor([[1.0, 0.0]], dtype=torch.float64), rows]), pairs


def test_verification_accuracy_hand_worked_folds_match():
    """Two folds of four pairs, + same and - not.

    Fold 0: + 0.9, + 0.6, - 0.4, - 0.1: between 0.6 and 0.4 all four are right: 0.5.
    Fold 1: + 0.8, - 0.7, + 0.45, - 0.2: above 0.7 3 are right, below 0.45 3 are right: the lower one, 0.325.
    Fold 0 by 0.325: 0.4 is wrong. Fold 1 by 0.5: 0.8 right, 0.7 wrong, 0.45 wrong, 0.2 right.
    """
    embeddings, pairs = with_similarities([0.9, 0.6, 0.4, 0.1, 0.8, 0.7, 0.45, 0.2])
    same = torch.tensor([True, True, False, False, True, False, True, False])
    result = verification_accuracy(embeddings, pairs, same, folds=2)
    assert result.accuracies == (0.75, 0.5)
    assert result.thresholds == pytest.approx((0.325, 0.5))
    assert result.accuracy == 0.625
    # The standard deviation is 0.25 / sqrt(2); divided by sqrt(2) it is 0.125.
    assert result.std_error == pytest.approx(0.125)


def test_verification_accuracy_interleaved_folds_match():
    embeddings, pairs = with_similarities([0.9, 0.8, 0.6, 0.7, 0.4, 0.45, 0.1, 0.2])
    same = torch.tensor([True, True, True, False, False, True, False, False])
    folds = torch.tensor([3, 9] * 4)
    result = verification_accuracy(embeddings, pairs, same, folds=folds.to(torch.int16))
    assert result.accuracies == (0.75, 0.5)
    assert result.thresholds == pytest.approx((0.325, 0.5))


def test_verification_accuracy_unequal_folds_have_equal_weight():
    """Every fold has equal weight, with 1, 1 and 4 pairs. The threshold is below 0.8 and above 0.2."""
    embeddings, pairs = with_similarities([0.9, 0.1, 0.8, 0.2, 0.85, 0.95])
    same = torch.tensor([True, False, True, False, True, False])
    result = verification_accuracy(embeddings, pairs, same, folds=torch.tensor([0, 1, 2, 2, 2, 2]))
    assert result.accuracies == (1.0, 1.0, 0.75)
    assert result.accuracy == pytest.approx(11 / 12)


def test_verification_accuracy_ties_are_judged_together():
    """In each fold, either all or none of the pairs at 0.6 are called the same."""
    far, near = [3.0, 4.0], [4.0, 3.0]  # cosines with (1, 0) of 0.6 and 0.8, regardless of rounding
    embeddings = torch.tensor([[1.0, 0.0], far, far, far, far, far, near])
    pairs = torch.stack([torch.zeros(6, dtype=torch.int64), torch.arange(1, 7)], 1)
    same = torch.tensor([True, False, False, True, False, False])
    result = verification_accuracy(embeddings, pairs, same, folds=2)
    assert result.thresholds == (math.inf, math.inf), "2 of 3 are not the same"
    assert result.accuracies == pytest.approx((2 / 3, 2 / 3))
    same = torch.tensor([True, True, False, True, True, False])
    result = verification_accuracy(embeddings, pairs, same, folds=2)
    assert result.thresholds == (-math.inf, -math.inf), "2 of 3 are the same"
    assert result.accuracies == pytest.approx((2 / 3, 2 / 3))


def test_best_threshold_between_adjacent_numbers_is_upper():
    """If no number lies in the middle, the threshold is the upper number."""
    low = torch.tensor(0.7, dtype=torch.float64)
    for _ in range(20):
        high = torch.nextafter(low, torch.ones_like(low))
        threshold = _best_threshold(torch.stack([low, high]), torch.tensor([False, True]))
        assert threshold == high
        low = high


def naive_accuracies(similarities, same, folds):
    """The accuracy per fold, trying every threshold between two similarities, from the lowest up."""
    accuracies = []
    for fold in sorted(set(folds)):
        train = [i for i in range(len(same)) if folds[i] != fold]
        test = [i for i in range(len(same)) if folds[i] == fold]
        best, chosen = -1, None
        known = [-math.inf, *sorted({similarities[i] for i in train}), math.inf]
        for threshold in [(low + high) / 2 for low, high in itertools.pairwise(known)]:
            right = sum((similarities[i] >= threshold) == same[i] for i in train)
            if right > best:
                best, chosen = right, threshold
        accuracies.append(sum((similarities[i] >= chosen) == same[i] for i in test) / len(test))
    return accuracies


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_verification_accuracy_matches_trying_every_threshold(dtype, seed):
    generator = seeded(seed)
    labels = torch.randint(10, (80,), generator=generator)
    centers = torch.randn(10, 6, generator=generator)
    embeddings = (3 * (centers[labels] + torch.randn(80, 6, generator=generator))).to(dtype)
    pairs = torch.randint(80, (200, 2), generator=generator)
    pairs[:100, 1] = torch.tensor([int((labels == labels[i]).nonzero()[0]) for i in pairs[:100, 0]])
    pairs = pairs[torch.randperm(200, generator=generator)]
    same = labels[pairs[:, 0]] == labels[pairs[:, 1]]
    first, second = (torch.nn.functional.normalize(embeddings[rows].double()) for rows in pairs.unbind(1))
    similarities = (first * second).sum(1).tolist()
    expected = naive_accuracies(similarities, same.tolist(), [i // 20 for i in range(200)])
    result = verification_accuracy(embeddings, pairs, same)
    assert len(result.accuracies) == len(result.thresholds) == 10, "ten folds by default"
    assert result.accuracies == pytest.approx(expected)
    assert result.accuracy == pytest.approx(sum(expected) / 10)
    assert 0.55 < result.accuracy < 0.95
    mean = sum(expected) / 10
    deviation = math.sqrt(sum((a - mean) ** 2 for a in expected) / 9)
    assert result.std_error == pytest.approx(deviation / math.sqrt(10))


def test_verification_accuracy_unnormalized_rows_uses_cosine():
    embeddings = torch.tensor([[1.0, 0.0], [100.0, 1.0], [0.01, 0.0], [0.0, 50.0]])
    pairs = torch.tensor([[0, 1], [1, 3], [0, 2], [2, 3]])
    same = torch.tensor([True, False, True, False])
    assert verification_accuracy(embeddings, pairs, same, folds=2).accuracy == 1


def test_verification_accuracy_chunks_of_pairs_are_equal(monkeypatch):
    """Similarities are computed in chunks of pairs."""
    from hardmine.metrics import verification

    generator = seeded(0)
    embeddings, pairs = torch.randn(30, 4, generator=generator), torch.randint(30, (100, 2), generator=generator)
    same = torch.rand(100, generator=generator) < 0.5
    expected = verification_accuracy(embeddings, pairs, same)
    monkeypatch.setattr(verification, "_CHUNK_PAIRS", 7)
    assert verification_accuracy(embeddings, pairs, same) == expected


def test_verification_accuracy_nonfinite_embedding_gives_nan():
    embeddings = torch.eye(4)
    embeddings[3, 0] = math.nan
    result = verification_accuracy(embeddings, torch.zeros(20, 2, dtype=torch.int64), torch.ones(20, dtype=torch.bool))
    assert math.isnan(result.accuracy)
    assert math.isnan(result.std_error)
    assert len(result.accuracies) == len(result.thresholds) == 10
    assert all(map(math.isnan, result.accuracies + result.thresholds))


PAIRS, SAME = torch.tensor([[0, 1]] * 6), torch.tensor([True, False] * 3)
WRONG = [
    ({"embeddings": torch.eye(3).int()}, TypeError, "embeddings must be float32, float64, float16 or bfloat16, got"),
    ({"pairs": PAIRS.float()}, TypeError, "pairs must be a tensor of integers, got torch.float32"),
    ({"pairs": [[0, 1]]}, TypeError, "pairs must be a tensor of integers, got list"),
    ({"pairs": PAIRS[:, :1]}, ValueError, "pairs must be [P, 2], got [6, 1]"),
    ({"pairs": PAIRS + 2}, ValueError, "pairs must be row numbers from 0 to 2, got 3"),
    ({"pairs": PAIRS - 1}, ValueError, "pairs must be row numbers from 0 to 2, got -1"),
    ({"same": SAME.int()}, TypeError, "same must be a bool tensor, got torch.int32"),
    ({"same": SAME[:5]}, ValueError, "same must be [P] = [6], got [5]"),
    ({"folds": 1}, ValueError, "folds must be at least 2, got 1"),
    ({"folds": 4}, ValueError, "folds must divide the number of pairs, 6, got 4"),
    ({"folds": "10"}, TypeError, "folds must be an integer or a tensor of integers, got str"),
    ({"folds": torch.zeros(5, dtype=torch.int64)}, ValueError, "folds must be [P] = [6], got [5]"),
    ({"folds": torch.zeros(6, dtype=torch.int64)}, ValueError, "folds must have at least 2 distinct values, got 1"),
    ({"pairs": PAIRS[:0], "same": SAME[:0]}, ValueError, "folds must divide the number of pairs, 0, got 2"),
]


@pytest.mark.parametrize(("changes", "error", "message"), WRONG, ids=[wrong[2] for wrong in WRONG])
def test_verification_accuracy_invalid_argument_raises(changes, error, message):
    given = {"embeddings": torch.eye(3), "pairs": PAIRS, "same": SAME, "folds": 2}
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        verification_accuracy(**{**given, **changes})
