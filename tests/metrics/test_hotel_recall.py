"""Recall on Hotels-50K: by hand, against a ranking one query at a time, and its errors."""

import math
import re

import pytest
import torch

from hardmine import ops
from hardmine.metrics import _search, hotel_recall
from support.inputs import seeded


def on_a_circle(*angles_deg: float) -> torch.Tensor:
    """Unit vectors at these angles."""
    angles = torch.tensor(angles_deg, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], 1)


def test_hotel_recall_hand_worked_table_matches():
    """The gallery as each query sees it, nearest first, as hotel (chain; - unknown):

    query at 0, hotel 1 (7):    at 1: 2 (7), at 3: 3 (8), at 10: 1 (7)        hotel from K = 3 on, chain from K = 1 on
    query at 4, hotel 3 (8):    at 3: 3 (8), at 1: 2 (7), at 10: 1 (7)        both from K = 1 on
    query at 12, hotel 4 (-):   at 10: 1 (7), at 20: 4 (-), at 3: 3 (8)       hotel from K = 2 on; no chain to look for
    query at 40, hotel 9 (7):   at 20: 4 (-), at 10: 1 (7), at 3: 3 (8)       hotel not there; chain from K = 2 on
    """
    gallery = on_a_circle(1, 3, 10, 20), torch.tensor([2, 3, 1, 4]), torch.tensor([7, 8, 7, -1])
    queries = on_a_circle(0, 4, 12, 40), torch.tensor([1, 3, 4, 9]), torch.tensor([7, 8, -1, 7])
    recall = hotel_recall(*queries, *gallery, instance_k=(1, 2, 3, 50), chain_k=(2, 1))
    assert recall.instance == {1: 1 / 4, 2: 2 / 4, 3: 3 / 4, 50: 3 / 4}
    assert recall.chain == {2: 3 / 3, 1: 2 / 3}
    assert list(recall.chain) == [2, 1], "in the order given"


def test_hotel_recall_unknown_chain_never_matches():
    """The negative number that marks an unknown chain does not matter, in queries and in the gallery."""
    gallery = on_a_circle(0, 50), torch.tensor([1, 2]), torch.tensor([-1, 5])
    queries = on_a_circle(0, 1), torch.tensor([1, 1]), torch.tensor([-1, 5])
    assert hotel_recall(*queries, *gallery, chain_k=(1, 2)).chain == {1: 0.0, 2: 1.0}
    gallery = *gallery[:2], torch.tensor([-2, 5])
    queries = *queries[:2], torch.tensor([-2, 5])
    assert hotel_recall(*queries, *gallery, chain_k=(1, 2)).chain == {1: 0.0, 2: 1.0}


def naive_recall(x, labels, gallery, gallery_labels, size):
    """The share of the queries with a nonnegative label that are found, ranking the gallery per query."""
    counted = [query for query in range(len(x)) if labels[query] >= 0]
    hits = 0
    for query in counted:
        s = torch.nn.functional.cosine_similarity(gallery, x[query : query + 1]).tolist()
        ranking = sorted(range(len(gallery)), key=lambda r: (-s[r], r))[:size]
        hits += any(gallery_labels[r] == labels[query] for r in ranking)
    return hits / len(counted)


@pytest.mark.parametrize("rows", [None, 7])
def test_hotel_recall_matches_naive_ranking(rows, monkeypatch):
    if rows:
        monkeypatch.setattr(_search, "CHUNK_WORK", 1)
        monkeypatch.setattr(_search, "MIN_CHUNK_ROWS", rows)
    generator = seeded(0)
    hotels = torch.randn(60, 8, generator=generator, dtype=torch.float64)
    chain_of = torch.randint(-1, 6, (60,), generator=generator)

    def draw(count):
        instances = torch.randint(60, (count,), generator=generator)
        x = hotels[instances] + 1.5 * torch.randn(count, 8, generator=generator, dtype=torch.float64)
        return x, instances, chain_of[instances]

    queries, gallery = draw(40), draw(300)
    recall = hotel_recall(*queries, *gallery)
    assert list(recall.instance) == [1, 10, 100]
    assert list(recall.chain) == [1, 3, 5]
    for size, value in recall.instance.items():
        assert value == pytest.approx(naive_recall(queries[0], queries[1], gallery[0], gallery[1], size), abs=1e-12)
    for size, value in recall.chain.items():
        assert value == pytest.approx(naive_recall(queries[0], queries[2], gallery[0], gallery[2], size), abs=1e-12)
    assert 0 < recall.instance[1] < recall.instance[10] < recall.instance[100] < 1
    assert recall.instance[1] < recall.chain[1] < recall.chain[5] < 1


def test_hotel_recall_searches_gallery_once(monkeypatch):
    calls, search = [], ops.knn

    def record(queries, refs=None, k=10, **options):
        calls.append(k)
        return search(queries, refs, k, **options)

    monkeypatch.setattr(ops, "knn", record)
    given = torch.eye(4), torch.arange(4), torch.arange(4)
    hotel_recall(*given, *given, instance_k=3, chain_k=8)
    assert calls == [8]


def test_hotel_recall_nonfinite_embedding_gives_nan():
    x, labels = torch.eye(4), torch.arange(4)
    x[1, 2] = math.nan
    for queries, gallery in ((x, torch.eye(4)), (torch.eye(4), x)):
        recall = hotel_recall(queries, labels, labels, gallery, labels, labels)
        assert all(math.isnan(value) for part in recall for value in part.values())
        assert [list(part) for part in recall] == [[1, 10, 100], [1, 3, 5]]


X, Y = torch.eye(3), torch.arange(3)
WRONG = [
    ({"instance_k": 0}, ValueError, "instance_k must be one or more integers from 1 to 1024, got [0]"),
    ({"chain_k": (1, 2000)}, ValueError, "chain_k must be one or more integers from 1 to 1024, got [1, 2000]"),
    ({"chain_k": 1.5}, TypeError, "chain_k must be an integer or several integers, got 1.5"),
    ({"progress": 1}, TypeError, "progress must be None, True or False, got 1"),
    ({"embeddings": X.long()}, TypeError, "embeddings must be float32, float64, float16 or bfloat16, got torch.int64"),
    (
        {"ref_embeddings": torch.eye(4)},
        ValueError,
        "ref_embeddings must be [M, D] with the D = 3 of embeddings, got [4, 4]",
    ),
    ({"instances": Y[:2]}, ValueError, "instances must be [B] = [3], got [2]"),
    ({"chains": Y.float()}, TypeError, "chains must have an integer dtype, got torch.float32"),
    ({"ref_instances": Y[:2]}, ValueError, "ref_instances must be [M] = [3], got [2]"),
    ({"ref_chains": Y[:, None]}, ValueError, "ref_chains must be [M] = [3], got [3, 1]"),
    (
        {"instances": Y + 5},
        ValueError,
        "instances must give at least one query a positive in the gallery, got none for 3 queries",
    ),
    (
        {"chains": Y - 3},
        ValueError,
        "chains must give at least one query a positive in the gallery, got none for 3 queries",
    ),
    (
        {"ref_chains": Y - 3},
        ValueError,
        "chains must give at least one query a positive in the gallery, got none for 3 queries",
    ),
]


@pytest.mark.parametrize(("changes", "error", "message"), WRONG, ids=[wrong[2] for wrong in WRONG])
def test_hotel_recall_invalid_argument_raises(changes, error, message):
    given = {"embeddings": X, "instances": Y, "chains": Y, "ref_embeddings": X, "ref_instances": Y, "ref_chains": Y}
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        hotel_recall(**{**given, **changes})
