"""Triplet losses have the values and gradients of those of sentence-transformers."""

import functools
import inspect
import itertools
import warnings

import pytest
import torch
from sentence_transformers.sentence_transformer import losses as theirs

from hardmine.integrations.sentence_transformers import losses
from integrations.st_cases import fused
from support.inputs import seeded

LABELS = {
    "balanced": [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3],
    "some alone": [5, 0, 1, 5, 2, 3, 1, 4, 5, 6, 7, 2],
    "large classes": [0, 1] * 6,
    "no positives": list(range(12)),
    "one class": [3] * 12,
    "two": [0, 1],
}
DISTANCES = {
    "euclidean": theirs.BatchHardTripletLossDistanceFunction.euclidean_distance,
    "cosine": theirs.BatchHardTripletLossDistanceFunction.cosine_distance,
}
NAMES = ["BatchHardTripletLoss", "BatchHardSoftMarginTripletLoss", "BatchSemiHardTripletLoss", "BatchAllTripletLoss"]


def embeddings_of(count, dtype=torch.float64, seed=0):
    rows = torch.randn(count, 6, generator=seeded(seed), dtype=torch.float64)
    return rows.to(dtype).requires_grad_()


def margins_of(name):
    return [{}] if "SoftMargin" in name else [{}, {"margin": 0.3}, {"margin": 0}]


def value_and_gradient(side, name, embeddings, labels, **options):
    value = getattr(side, name)(None, **options).compute_loss_from_embeddings([embeddings], labels)
    return value.detach(), *torch.autograd.grad(value, embeddings)


def assert_same_loss(name, embeddings, labels, tolerances=None, **options):
    """Value and gradient agree; returns the value."""
    with fused():
        found = value_and_gradient(losses, name, embeddings, labels, **options)
    expected = value_and_gradient(theirs, name, embeddings, labels, **options)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **(tolerances or {}))
    return found[0]


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("name", NAMES)
def test_triplet_losses_are_those_of_sentence_transformers(name, distance, labels):
    labels = torch.tensor(LABELS[labels])
    for margin, shape, seed in itertools.product(margins_of(name), [(-1,), (-1, 1)], range(3)):
        embeddings = embeddings_of(len(labels), seed=seed)
        options = {"distance_metric": DISTANCES[distance], **margin}
        loss = assert_same_loss(name, embeddings, labels.view(shape), **options)
        assert loss > 0 or margin or len(labels.unique()) in (1, len(labels))
        single = {"rtol": 1e-3, "atol": 1e-4}
        assert_same_loss(name, embeddings_of(len(labels), torch.float32, seed), labels, single, **options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("name", NAMES)
def test_triplet_losses_of_half_precision_are_those_of_sentence_transformers(name, distance, dtype):
    embeddings, labels = embeddings_of(12, dtype), torch.tensor(LABELS["balanced"])
    tolerances = {"rtol": 2e-2, "atol": 2e-2}
    loss = assert_same_loss(name, embeddings, labels, tolerances, distance_metric=DISTANCES[distance])
    assert loss.dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:.* runs the code of sentence-transformers itself. an embedding has norm 0")
def test_triplet_losses_of_zero_rows_are_those_of_sentence_transformers(name):
    labels, embeddings = torch.tensor(LABELS["some alone"]), embeddings_of(12).detach()
    embeddings[1] = 0
    own, expected = (
        getattr(side, name)(None, distance_metric=DISTANCES["cosine"]).compute_loss_from_embeddings(
            [embeddings], labels
        )
        for side in (losses, theirs)
    )
    torch.testing.assert_close(own, expected)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("name", NAMES)
def test_triplet_losses_of_embeddings_that_are_not_finite_are_nan(name, distance, value):
    embeddings = embeddings_of(12).detach()
    embeddings[0, 0] = value
    loss = getattr(losses, name)(None, distance_metric=DISTANCES[distance])
    assert loss.compute_loss_from_embeddings([embeddings], torch.tensor(LABELS["balanced"])).isnan()


def manhattan(embeddings):
    return torch.cdist(embeddings, embeddings, p=1)


REASONS = [
    ({"distance_metric": manhattan}, "its distance_metric is manhattan"),
    (
        {"distance_metric": functools.partial(DISTANCES["euclidean"], squared=True)},
        "its distance_metric is functools.partial",
    ),
    ({"margin": torch.tensor(3.0)}, "its margin is tensor"),
]


@pytest.mark.parametrize(("options", "reason"), REASONS)
@pytest.mark.parametrize("name", NAMES)
def test_triplet_losses_without_op_are_theirs_with_one_warning(name, options, reason):
    if "SoftMargin" in name and "margin" in options:
        pytest.skip("it has no margin")
    embeddings, labels = embeddings_of(12), torch.tensor(LABELS["balanced"])
    with pytest.warns(UserWarning, match=f"^{name} runs the code of sentence-transformers itself: {reason}") as caught:
        found = value_and_gradient(losses, name, embeddings, labels, **options)
    assert caught[0].filename == __file__
    for one, other in zip(found, value_and_gradient(theirs, name, embeddings, labels, **options), strict=True):
        assert torch.equal(one, other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value_and_gradient(losses, name, embeddings, labels, **options)


@pytest.mark.parametrize("name", NAMES)
def test_labels_of_another_batch_are_the_error_of_sentence_transformers(name):
    loss = getattr(losses, name)(None)
    with pytest.raises(ValueError, match=f"{name} expects 12 labels .* but got 11"):
        loss.compute_loss_from_embeddings([embeddings_of(12)], torch.arange(11))


@pytest.mark.parametrize("name", NAMES)
def test_classes_have_signature_and_config_of_sentence_transformers(name):
    own, parent = getattr(losses, name), getattr(theirs, name)
    assert own.__mro__[1] is parent
    assert inspect.signature(own.__init__) == inspect.signature(parent.__init__)
    assert own(None).get_config_dict() == parent(None).get_config_dict()
    assert ">>> " in own.__doc__
