"""Every option of the metrics refuses invalid values, and invalid tensors are named, before any work."""

import re
import sys

import numpy as np
import pytest
import torch

from bad_values import OPTIONAL_FLAG, each_refused, integer
from hardmine import metrics, ops
from library_calls import given

OPTIONS = {
    "nmi": {"seed": integer(0, 2**32 - 1), "n_init": integer(1), "max_iter": integer(1)},
    "within_class_similarities": {"bins": integer(1), "progress": OPTIONAL_FLAG},
    "nearest_train_similarities": {"bins": integer(1), "progress": OPTIONAL_FLAG},
    "recall_at_k": {"progress": OPTIONAL_FLAG},
    "retrieval": {"progress": OPTIONAL_FLAG},
    "hotel_recall": {"progress": OPTIONAL_FLAG},
    "verification_accuracy": {"folds": integer(2)},
}
GIVEN = given()
# The tensors of every metric, by the names of its arguments.
TENSORS = {
    "hard_share": {"positive_similarity": GIVEN.rows[0], "negative_similarity": GIVEN.rows[1]},
    "hard_triplet_share": {"embeddings": GIVEN.rows, "labels": GIVEN.labels},
    "hotel_recall": {
        **{"embeddings": GIVEN.rows, "instances": GIVEN.labels, "chains": GIVEN.labels},
        **{"ref_embeddings": GIVEN.refs, "ref_instances": GIVEN.labels, "ref_chains": GIVEN.labels},
    },
    "nearest_train_similarities": {"test_embeddings": GIVEN.rows, "train_embeddings": GIVEN.refs},
    "nmi": {"embeddings": GIVEN.rows, "labels": GIVEN.labels},
    **{
        name: {
            **{"embeddings": GIVEN.rows, "labels": GIVEN.labels},
            **{"ref_embeddings": GIVEN.refs, "ref_labels": GIVEN.ref_labels},
        }
        for name in ("recall_at_1", "recall_at_k", "retrieval")
    },
    "verification_accuracy": {"embeddings": GIVEN.rows, "pairs": GIVEN.pairs, "same": GIVEN.same},
    "within_class_similarities": {"embeddings": GIVEN.rows, "labels": GIVEN.labels},
}


@pytest.fixture(autouse=True)
def no_work(monkeypatch):
    def work(*args, **options):
        raise AssertionError("work has begun")

    monkeypatch.setattr(ops, "knn", work)
    monkeypatch.setattr(metrics.verification, "_similarities", work)
    monkeypatch.setattr(sys.modules["hardmine.metrics.retrieval"], "_ranks", work)


def test_metrics_every_function_is_declared():
    functions = {name for name in metrics.__all__ if not isinstance(getattr(metrics, name), type)}
    assert functions == TENSORS.keys()


@each_refused(OPTIONS)
def test_metrics_invalid_option_raises_by_name(function, argument, value, error):
    with pytest.raises(error, match=f"^{argument} must be "):
        getattr(metrics, function)(**TENSORS[function], **{argument: value})


@pytest.mark.thinned(5)
@pytest.mark.parametrize(
    ("function", "argument"), [(function, name) for function, tensors in TENSORS.items() for name in tensors]
)
@pytest.mark.parametrize(
    "convert", [np.asarray, torch.Tensor.tolist, lambda tensor: "text", lambda tensor: {"a": tensor}]
)
def test_metrics_non_tensor_raises_by_name(function, argument, convert):
    with pytest.raises(TypeError, match=f"^{argument} must be "):
        getattr(metrics, function)(**TENSORS[function] | {argument: convert(TENSORS[function][argument])})


@pytest.mark.parametrize("folds", ["3", 2.0, [0, 1], np.arange(40) % 2])
def test_verification_accuracy_folds_of_other_type_raises(folds):
    message = f"folds must be an integer or a tensor of integers, got {type(folds).__name__}"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        metrics.verification_accuracy(**TENSORS["verification_accuracy"], folds=folds)


@pytest.mark.parametrize("k", ["3", 2.0, [1, "2"], [True], torch.tensor(3), torch.tensor([1, 2]), None])
def test_recall_at_k_k_of_other_type_raises(k):
    with pytest.raises(TypeError, match=r"^k must be an integer or several integers, got "):
        metrics.recall_at_k(GIVEN.rows, GIVEN.labels, k=k)


def test_hard_share_differing_shapes_raise():
    message = "negative_similarity must be [8], as positive_similarity, got [7]"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        metrics.hard_share(GIVEN.rows[0], GIVEN.rows[0, :7])
