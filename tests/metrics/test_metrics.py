"""Recall@1 and the share of hard triplets, against cases worked by hand and against direct definitions."""

import math

import pytest
import torch

from hardmine.metrics import hard_triplet_share, recall_at_1
from support.inputs import random_inputs


def naive_recall(embeddings, labels, ref_embeddings=None, ref_labels=None):
    """The similarity matrix, its argmax per row, and the mean over all queries."""
    alone = ref_embeddings is None
    gallery, classes = (embeddings, labels) if alone else (ref_embeddings, ref_labels)
    normalize = torch.nn.functional.normalize
    similarity = normalize(embeddings.double()) @ normalize(gallery.double()).T
    same = labels[:, None] == classes
    if alone:
        similarity.fill_diagonal_(-math.inf)
        same.fill_diagonal_(False)
    found = classes[similarity.argmax(1)] == labels
    return (found & same.any(1)).double().mean().item()


def test_recall_at_1_hand_worked_angles_match():
    angles_deg = torch.tensor([0.0, 10.0, 25.0, 90.0, 100.0, 95.0])
    embeddings = torch.stack([angles_deg.deg2rad().cos(), angles_deg.deg2rad().sin()], 1)
    # Nearest by angle: 0->1, 1->0, 2->1, 3->5, 4->5, 5->3 or 4, both of class 1.
    # Queries 0, 1, 2 are right; 3, 4, 5 are not.
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    assert recall_at_1(embeddings, labels) == pytest.approx(3 / 6)  # query 5 has no positive, so it counts as a miss
    labels[5] = 1
    assert recall_at_1(embeddings, labels) == 1


def test_recall_at_1_unnormalized_rows_uses_cosine():
    embeddings = torch.tensor([[1.0, 0.0], [0.1, 0.01], [9.0, 10.0], [0.0, 1.0]])
    labels = torch.tensor([0, 0, 1, 1])
    assert recall_at_1(embeddings, labels) == 1  # by dot product the long third row would be nearest to all


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gallery", [False, True])
def test_recall_at_1_matches_naive_argmax(dtype, gallery):
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(301, 16, generator=generator, dtype=dtype)
    labels = torch.randint(0, 40, (301,), generator=generator)
    embeddings += torch.randn(40, 16, generator=generator, dtype=dtype)[labels]
    refs = ()
    if gallery:
        refs = embeddings[:100] + torch.randn(100, 16, generator=generator, dtype=dtype), labels[:100]
    expected = naive_recall(embeddings, labels, *refs)
    assert 0.05 < expected < 0.95
    assert recall_at_1(embeddings, labels, *refs) == pytest.approx(expected, abs=1e-12)


def test_recall_at_1_ties_go_to_lowest_index():
    query, label = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    gallery = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
    assert recall_at_1(query, label, gallery, torch.tensor([0, 1, 1])) == 1
    assert recall_at_1(query, label, gallery, torch.tensor([1, 0, 1])) == 0


def test_recall_at_1_gallery_with_queries_is_one():
    embeddings, labels = torch.randn(20, 4, generator=torch.Generator().manual_seed(1)), torch.arange(20)
    assert recall_at_1(embeddings, labels, embeddings, labels) == 1


def test_recall_at_1_without_negatives_is_one():
    assert recall_at_1(torch.eye(3), torch.zeros(3, dtype=torch.int64)) == 1


def test_recall_at_1_without_positives_raises():
    message = "labels must give at least one query a positive in the gallery, got none for 3 queries"
    with pytest.raises(ValueError, match=message):
        recall_at_1(torch.eye(3), torch.arange(3))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_recall_at_1_nonfinite_embedding_gives_nan(value):
    embeddings = torch.eye(4)
    embeddings[2, 1] = value
    labels = torch.tensor([0, 0, 1, 1])
    assert math.isnan(recall_at_1(embeddings, labels))
    assert math.isnan(recall_at_1(torch.eye(4), labels, embeddings, labels))


def test_recall_at_1_returns_float_without_gradient():
    embeddings = torch.eye(4, requires_grad=True)
    assert isinstance(recall_at_1(embeddings, torch.tensor([0, 0, 1, 1])), float)


# The share of hard triplets


def test_hard_triplet_share_hand_worked_angles_match():
    """At 0 a, 10 a, 15 b, 100 b degrees: 0 (10 < 15) is easy, 1 (10 > 5) hard, 2 (85 > 5) hard, 3 (85 < 90) easy."""
    angles = torch.tensor([0.0, 10.0, 15.0, 100.0]).deg2rad()
    embeddings = torch.stack([angles.cos(), angles.sin()], 1)
    labels = torch.tensor([0, 0, 1, 1])
    assert hard_triplet_share(embeddings, labels) == 0.5
    # A fifth point at 16 degrees is alone in its class. It has no triplet, but makes the triplet of 3 hard (85 > 84).
    embeddings = torch.cat([embeddings, torch.tensor([[0.96126, 0.27564]])])
    labels = torch.tensor([0, 0, 1, 1, 2])
    assert hard_triplet_share(embeddings, labels) == 0.75
    assert hard_triplet_share(embeddings, labels, negative="easiest") == 0.25, "that of 2 (85 > 15)"
    assert hard_triplet_share(embeddings[:1], labels[:1], embeddings[1:], labels[1:]) == 0
    assert hard_triplet_share(embeddings[1:2], labels[1:2], embeddings[:3], labels[:3], positive="hardest") == 1


def naive_hard_share(embeddings, labels):
    """One anchor at a time."""
    x = torch.nn.functional.normalize(embeddings.double())
    hard = []
    for a in range(len(x)):
        s = (x @ x[a]).tolist()
        positives = [s[i] for i in range(len(x)) if i != a and labels[i] == labels[a]]
        negatives = [s[i] for i in range(len(x)) if labels[i] != labels[a]]
        if positives and negatives:
            hard.append(max(negatives) > max(positives))
    return sum(hard) / len(hard)


def test_hard_triplet_share_matches_naive_loop():
    embeddings, labels = random_inputs(150, 8, 60, spread=1.0)[:2]
    expected = naive_hard_share(embeddings, labels)
    assert 0.1 < expected < 0.9
    assert hard_triplet_share(embeddings, labels) == pytest.approx(expected)


def test_hard_triplet_share_without_triplets_is_nan():
    assert math.isnan(hard_triplet_share(torch.eye(3), torch.arange(3)))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_hard_triplet_share_nonfinite_embedding_gives_nan(value):
    embeddings = torch.eye(5)
    embeddings[4, 1] = value
    labels = torch.tensor([0, 0, 1, 1, 1])
    assert math.isnan(hard_triplet_share(embeddings, labels))
    assert math.isnan(hard_triplet_share(torch.eye(5), labels, embeddings, labels))


def test_hard_triplet_share_invalid_rule_raises():
    with pytest.raises(ValueError, match="positive must be one of"):
        hard_triplet_share(torch.eye(3), torch.zeros(3, dtype=torch.int64), positive="best")
