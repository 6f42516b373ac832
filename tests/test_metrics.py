"""Recall@1 against cases worked by hand and against the obvious argmax."""

import math

import pytest
import torch

from hardmine.metrics import recall_at_1


def obvious_recall(embeddings, labels, ref_embeddings=None, ref_labels=None):
    """The matrix, its row argmax, and the mean over all queries."""
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


def test_by_hand():
    angles_deg = torch.tensor([0.0, 10.0, 25.0, 90.0, 100.0, 95.0])
    embeddings = torch.stack([angles_deg.deg2rad().cos(), angles_deg.deg2rad().sin()], 1)
    # Nearest by angle: 0->1, 1->0, 2->1, 3->5, 4->5, 5->3 or 4, both of class 1. Right: 0, 1, 2 and none of 3, 4, 5.
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    assert recall_at_1(embeddings, labels) == pytest.approx(3 / 6)  # 5 has no positive: a miss
    labels[5] = 1
    assert recall_at_1(embeddings, labels) == 1


def test_similarity_is_cosine():
    embeddings = torch.tensor([[1.0, 0.0], [0.1, 0.01], [9.0, 10.0], [0.0, 1.0]])
    labels = torch.tensor([0, 0, 1, 1])
    assert recall_at_1(embeddings, labels) == 1  # by dot product the long third one would be nearest to all


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gallery", [False, True])
def test_agrees_with_the_obvious(dtype, gallery):
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(301, 16, generator=generator, dtype=dtype)
    labels = torch.randint(0, 40, (301,), generator=generator)
    embeddings += torch.randn(40, 16, generator=generator, dtype=dtype)[labels]
    refs = ()
    if gallery:
        refs = embeddings[:100] + torch.randn(100, 16, generator=generator, dtype=dtype), labels[:100]
    expected = obvious_recall(embeddings, labels, *refs)
    assert 0.05 < expected < 0.95
    assert recall_at_1(embeddings, labels, *refs) == pytest.approx(expected, abs=1e-12)


def test_equal_similarities_go_to_the_lowest_index():
    query, label = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    gallery = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
    assert recall_at_1(query, label, gallery, torch.tensor([0, 1, 1])) == 1
    assert recall_at_1(query, label, gallery, torch.tensor([1, 0, 1])) == 0


def test_a_gallery_that_holds_the_queries_finds_them():
    embeddings, labels = torch.randn(20, 4, generator=torch.Generator().manual_seed(1)), torch.arange(20)
    assert recall_at_1(embeddings, labels, embeddings, labels) == 1


def test_without_any_negative_all_are_found():
    assert recall_at_1(torch.eye(3), torch.zeros(3, dtype=torch.int64)) == 1


def test_without_any_positive_there_is_nothing_to_score():
    with pytest.raises(ValueError, match="labels: none of the 3 queries has a gallery sample of its class"):
        recall_at_1(torch.eye(3), torch.arange(3))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_divergence_is_not_hidden(value):
    embeddings = torch.eye(4)
    embeddings[2, 1] = value
    labels = torch.tensor([0, 0, 1, 1])
    assert math.isnan(recall_at_1(embeddings, labels))
    assert math.isnan(recall_at_1(torch.eye(4), labels, embeddings, labels))


def test_no_gradient_is_kept():
    embeddings = torch.eye(4, requires_grad=True)
    assert isinstance(recall_at_1(embeddings, torch.tensor([0, 0, 1, 1])), float)
