"""Ids in the metrics: a gallery sample with the query's id is skipped, such as the query's own copy."""

import math

import pytest
import torch

from hardmine import metrics
from hardmine.metrics import _search
from support.inputs import random_ids, random_inputs, seeded

INPUTS = random_inputs(90, 6, 12, spread=1.0)
OWN = torch.arange(90)
X, LABELS = INPUTS.embeddings, INPUTS.labels


def similarities(x, refs):
    x, refs = (torch.nn.functional.normalize(rows.double()) for rows in (x, refs))
    return x @ refs.T


def brute_force_recall(x, labels, refs, ref_labels, excluded, k):
    """Recall@K from the whole matrix."""
    s = similarities(x, refs).masked_fill(excluded, -math.inf)
    values, index = s.topk(k, dim=1)
    return ((ref_labels[index] == labels[:, None]) & (values > -math.inf)).any(1).double().mean().item()


@pytest.mark.parametrize("recall", [metrics.recall_at_k, metrics.recall_at_1])
def test_recall_of_gallery_with_queries_equals_leave_one_out(recall):
    expected = recall(X, LABELS)
    assert recall(X, LABELS, X, LABELS, ids=OWN, ref_ids=OWN) == expected
    order = torch.randperm(90, generator=seeded(0))
    assert recall(X, LABELS, X[order], LABELS[order], ids=OWN, ref_ids=order) == expected
    assert recall(X, LABELS, X, LABELS) != expected, "without ids each query finds itself"


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("with_refs", [False, True])
@pytest.mark.parametrize("kind", ["few", "many"])
def test_recall_at_k_with_ids_matches_brute_force(chunked, with_refs, kind, monkeypatch):
    if chunked:
        monkeypatch.setattr(_search, "CHUNK_WORK", 1)
        monkeypatch.setattr(_search, "MIN_CHUNK_ROWS", 17)
    inputs = random_inputs(90, 6, 12, 70 if with_refs else None, spread=1.0)
    ids = random_ids(inputs, kind)
    refs, ref_labels = inputs[2:] if with_refs else inputs[:2]
    excluded = ids["ids"][:, None] == ids.get("ref_ids", ids["ids"])[None]
    excluded &= ids["ids"][:, None] >= 0
    if not with_refs:
        excluded |= torch.eye(90, dtype=torch.bool)
    found = metrics.recall_at_k(*inputs, **ids, k=(1, 3, 60))
    expected = {k: brute_force_recall(*inputs[:2], refs, ref_labels, excluded, k) for k in (1, 3, 60)}
    assert found == pytest.approx(expected, abs=1e-12)
    assert kind == "few" or found != metrics.recall_at_k(*inputs, k=(1, 3, 60))
    assert metrics.recall_at_1(*inputs, **ids) == found[1]


@pytest.mark.parametrize("recall", [metrics.recall_at_k, metrics.recall_at_1])
@pytest.mark.parametrize(
    ("labels", "ids", "has_positive"),
    [
        ([0, 0, 1, 2], [5, 5, 1, 2], False),
        ([0, 0, 1, 2], [5, 6, 1, 2], True),
        ([0, 0, 1, 2], [-1, -1, 1, 2], True),
        ([0, 0, 0, 1], [5, 5, 6, 6], True),
        ([0, 0, 0, 1], [5, 5, 5, 6], False),
        ([0, 1, 2, 3], [-1, -1, -1, -1], False),
    ],
    ids=str,
)
def test_recall_without_any_positive_but_copies_raises(recall, labels, ids, has_positive):
    for refs in (False, True):
        given = (X[:4], torch.tensor(labels))
        options = {"ids": torch.tensor(ids)}
        if refs:
            if min(ids) < 0:
                continue  # a query without an id is a positive of itself
            given, options["ref_ids"] = given * 2, options["ids"]
        if has_positive:
            recall(*given, **options)
        else:
            with pytest.raises(ValueError, match=r"^labels must give at least one query a positive in the gallery"):
                recall(*given, **options)


def test_hotel_recall_with_ids_skips_copies():
    chains = LABELS % 5
    sizes = {"instance_k": (1, 4), "chain_k": (1, 3)}
    found = metrics.hotel_recall(X, LABELS, chains, X, LABELS, chains, ids=OWN, ref_ids=OWN, **sizes)
    assert found.instance == metrics.recall_at_k(X, LABELS, k=(1, 4))
    assert found.chain == metrics.recall_at_k(X, chains, k=(1, 3))
    assert metrics.hotel_recall(X, LABELS, chains, X, LABELS, chains, **sizes).instance[1] == 1.0


def test_hard_triplet_share_of_memory_with_batch_equals_batch():
    expected = metrics.hard_triplet_share(X, LABELS)
    assert 0 < expected < 1
    assert metrics.hard_triplet_share(X, LABELS, X, LABELS, ids=OWN, ref_ids=OWN) == expected
    assert metrics.hard_triplet_share(X, LABELS, X, LABELS) == 0.0


@pytest.mark.parametrize("block_rows", [1024, 5])
def test_within_class_similarities_with_ids_leave_out_copies(block_rows, monkeypatch):
    monkeypatch.setattr(metrics.distributions, "_BLOCK_ROWS", block_rows)
    ids = random_ids(INPUTS, "many")["ids"]
    found = metrics.within_class_similarities(X, LABELS, ids=ids)
    pairs = (LABELS[:, None] == LABELS) & ((ids[:, None] != ids) | (ids < 0)) & torch.ones(90, 90).triu(1).bool()
    assert 0 < found.total == int(pairs.sum()) < metrics.within_class_similarities(X, LABELS).total
    assert found.mean == pytest.approx(similarities(X, X)[pairs].mean().item(), abs=1e-6)


def test_nearest_train_similarities_with_ids_skip_copies():
    found = metrics.nearest_train_similarities(X, X, test_ids=OWN, train_ids=OWN)
    expected = similarities(X, X).fill_diagonal_(-1).max(1).values
    assert (found.total, found.mean) == (90, pytest.approx(expected.mean().item(), abs=1e-6))
    alone = metrics.nearest_train_similarities(X[:3], X[:1], test_ids=OWN[:3], train_ids=OWN[:1])
    assert alone.total == 2


@pytest.mark.parametrize("name", ["ids", "ref_ids"])
def test_metric_incomplete_or_wrong_ids_raise_by_name(name):
    other = "ref_ids" if name == "ids" else "ids"
    recalls = (metrics.recall_at_1, metrics.recall_at_k, metrics.hard_triplet_share)
    hotel = (X, LABELS, LABELS, X, LABELS, LABELS)
    for metric, given in (*((f, (X, LABELS, X, LABELS)) for f in recalls), (metrics.hotel_recall, hotel)):
        with pytest.raises(ValueError, match=f"^{name} must be given together with {other}, got None$"):
            metric(*given, **{other: OWN})
        with pytest.raises(ValueError, match=rf"^{name} must be \[[BM]\] = \[90\], got \[89\]$"):
            metric(*given, **{other: OWN, name: OWN[1:]})
        with pytest.raises(TypeError, match=f"^{name} must have an integer dtype, got torch.float32$"):
            metric(*given, **{other: OWN, name: OWN.float()})


def test_nearest_train_similarities_incomplete_ids_raise_by_name():
    with pytest.raises(ValueError, match=r"^train_ids must be given together with test_ids, got None$"):
        metrics.nearest_train_similarities(X, X, test_ids=OWN)
    with pytest.raises(ValueError, match=r"^test_ids must be \[Q\] = \[90\], got \[89\]$"):
        metrics.nearest_train_similarities(X, X, test_ids=OWN[1:], train_ids=OWN)
    with pytest.raises(ValueError, match=r"^ids must be \[B\] = \[90\], got \[89\]$"):
        metrics.within_class_similarities(X, LABELS, ids=OWN[1:])
