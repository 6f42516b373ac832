"""ignore_index in the metrics: rows with this label are neither queries nor gallery."""

import math

import pytest
import torch

from hardmine import metrics
from support.inputs import random_ids, random_inputs

IGNORED = 5
METRICS = {
    "recall_at_1": metrics.recall_at_1,
    "recall_at_k": metrics.recall_at_k,
    "hard_triplet_share": metrics.hard_triplet_share,
    "within_class_similarities": lambda *rows, **options: tuple(
        metrics.within_class_similarities(*rows, **options).counts.tolist()
    ),
    "nmi": metrics.nmi,
}
WITH_REFS = ("recall_at_1", "recall_at_k", "hard_triplet_share")
CASES = [
    (name, refs, with_ids)
    for name in METRICS
    for refs in ((None, 70) if name in WITH_REFS else (None,))
    for with_ids in ((False,) if name == "nmi" else (False, True))
]


@pytest.mark.parametrize(("name", "refs", "with_ids"), CASES, ids=str)
def test_metric_with_ignored_rows_equals_that_without_them(name, refs, with_ids):
    inputs = [t for t in random_inputs(90, 6, 12, refs, spread=1.0) if t is not None]
    ids = random_ids(random_inputs(90, 6, 12, refs), "few") if with_ids else {}
    masks = [labels != IGNORED for labels in inputs[1::2]]
    rest = [t[masks[number // 2]] for number, t in enumerate(inputs)]
    rest_ids = {key: value[masks[key == "ref_ids"]] for key, value in ids.items()}
    poisoned = [t.clone() for t in inputs]
    for rows, mask in zip(poisoned[::2], masks, strict=True):
        assert 0 < mask.sum() < len(mask)
        rows[~mask] = math.nan
    found = METRICS[name](*poisoned, ignore_index=IGNORED, **ids)
    assert found == METRICS[name](*rest, **rest_ids)
    assert found != METRICS[name](*inputs, **ids)


def test_within_class_similarities_names_nonfinite_row_among_all():
    x, labels = random_inputs(20)[:2]
    ignored = int((labels == IGNORED).nonzero()[0])
    row = ignored + 1
    assert labels[row] != IGNORED
    x[[ignored, row]] = math.inf
    with pytest.raises(FloatingPointError, match=f"non-finite row {row}:"):
        metrics.within_class_similarities(x, labels, ignore_index=IGNORED)


@pytest.mark.parametrize("name", METRICS)
def test_metric_invalid_ignore_index_raises(name):
    with pytest.raises(TypeError, match=r"^ignore_index must be an integer, got str$"):
        METRICS[name](*random_inputs(20)[:2], ignore_index="none")


@pytest.mark.parametrize("name", ["recall_at_1", "recall_at_k"])
def test_recall_of_ignored_rows_alone_raises(name):
    with pytest.raises(
        ValueError, match="labels must give at least one query a positive in the gallery, got none for 0"
    ):
        METRICS[name](torch.randn(4, 3), torch.full((4,), IGNORED), ignore_index=IGNORED)
