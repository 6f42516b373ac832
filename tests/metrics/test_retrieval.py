"""Ranking metrics: by hand, against sorted candidates, scikit-learn and PML, in chunks, and their errors."""

import math
import sys

import pytest
import torch

from hardmine import metrics
from support.inputs import random_ids, random_inputs, seeded

ALL = ("map", "map_at_r", "r_precision", "mrr", "precision@3", "recall@2", "cmc@5", "recall@1000")
MODULE = sys.modules["hardmine.metrics.retrieval"]  # the function hides it in the package


def similarities(x, refs, similarity):
    x, refs = x.double(), refs.double()
    if similarity == "euclidean":
        return -torch.cdist(x, refs, compute_mode="donot_use_mm_for_euclid_dist")
    if similarity == "cosine":
        x, refs = (torch.nn.functional.normalize(rows) for rows in (x, refs))
    return x @ refs.T


def metrics_of_ranks(ranks):
    """The metrics of a query, from their definitions."""
    found = {"map": 0.0, "map_at_r": 0.0, "r_precision": 0.0, "mrr": 0.0}
    for position, rank in enumerate(ranks, 1):
        found["map"] += position / rank / len(ranks)
        if rank <= len(ranks):
            found["map_at_r"] += position / rank / len(ranks)
            found["r_precision"] += 1 / len(ranks)
    if ranks:
        found["mrr"] = 1 / ranks[0]
    found["precision@3"] = sum(rank <= 3 for rank in ranks) / 3
    return found | {f"{name}@{k}": float(ranks[:1] <= [k] and bool(ranks)) for name, k in HITS}


HITS = (("recall", 2), ("cmc", 5), ("recall", 1000))


def naive(inputs, ids=None, ref_ids=None, similarity="cosine"):
    """The metrics of every query, from the sorted candidates."""
    x, labels, refs, ref_labels = inputs
    alone = refs is None
    if alone:
        refs, ref_labels, ref_ids = x, labels, ids
    s = similarities(x, refs, similarity).tolist()
    rows = []
    for query in range(len(x)):
        candidates = [
            r
            for r in range(len(refs))
            if not (alone and r == query) and not (ids is not None and ids[query] >= 0 and ids[query] == ref_ids[r])
        ]
        candidates.sort(key=lambda r, row=s[query]: (-row[r], r))
        rows.append(metrics_of_ranks([n for n, r in enumerate(candidates, 1) if ref_labels[r] == labels[query]]))
    return {name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in ALL}


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=0, atol=1e-12, msg=lambda text, name=name: name + text)


def test_retrieval_hand_worked_angles_match():
    """Queries at 0, 10, 22, 40 and 70 degrees, of classes a, b, a, a, b. The ranks of their positives:

    0: 1 b, 2 a, 3 a, 4 b -> 2, 3     1: 0 a, 2 a, 3 a, 4 b -> 4     2: 1 b, 3 a, 0 a, 4 b -> 2, 3
    3: 2 a, 4 b, 1 b, 0 a -> 1, 4     4: 3 a, 2 a, 1 b, 0 a -> 3
    """
    angles = torch.tensor([0, 10, 22, 40, 70], dtype=torch.float64).deg2rad()
    rows, labels = torch.stack([angles.cos(), angles.sin()], 1), torch.tensor([0, 1, 0, 0, 1])
    found = metrics.retrieval(rows, labels, metrics=("mrr", "map", "r_precision", "map_at_r", "precision@3", "cmc@1"))
    assert found == pytest.approx(
        {
            "mrr": (1 / 2 + 1 / 4 + 1 / 2 + 1 + 1 / 3) / 5,
            "map": ((1 / 2 + 2 / 3) / 2 * 2 + 1 / 4 + (1 + 2 / 4) / 2 + 1 / 3) / 5,
            "r_precision": (1 / 2 + 0 + 1 / 2 + 1 / 2 + 0) / 5,
            "map_at_r": (1 / 4 + 0 + 1 / 4 + 1 / 2 + 0) / 5,
            "precision@3": (2 + 0 + 2 + 1 + 1) / 15,
            "cmc@1": 1 / 5,
        }
    )
    assert list(found) == ["mrr", "map", "r_precision", "map_at_r", "precision@3", "cmc@1"], "in the order given"
    assert metrics.retrieval(rows, labels, metrics="mrr") == {"mrr": found["mrr"]}


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("refs", [None, 0, 1, 70])
@pytest.mark.parametrize("ids", [None, "few", "many"])
@pytest.mark.parametrize("device", ["kernel", "sorted"])
def test_retrieval_matches_sorted_candidates(similarity, refs, ids, device, monkeypatch):
    inputs = random_inputs(90, 6, 12, refs, spread=1.0)
    given = {} if ids is None else random_ids(inputs, ids)
    if device == "sorted":
        monkeypatch.setattr(MODULE, "_finder", lambda _: MODULE._sorted_ranks)
        monkeypatch.setattr(MODULE, "MAX_SORTED_PAIRS", 200)
    expected = naive(inputs, **given, similarity=similarity)
    if not expected["mrr"].any():
        with pytest.raises(ValueError, match="labels must give at least one query a positive in the gallery, got none"):
            metrics.retrieval(*inputs, **given, similarity=similarity)
        return
    found = metrics.retrieval(*inputs, **given, metrics=ALL, similarity=similarity, per_query=True)
    assert_same(found, expected)
    means = metrics.retrieval(*inputs, **given, metrics=ALL, similarity=similarity)
    assert means == pytest.approx({name: values.mean().item() for name, values in expected.items()}, abs=1e-12)


@pytest.mark.parametrize("refs", [None, 60])
def test_retrieval_ties_go_to_lowest_index(refs):
    generator = seeded(3)
    rows = torch.randint(-1, 2, (80, 3), generator=generator).float()
    others = None if refs is None else torch.randint(-1, 2, (refs, 3), generator=generator).float()
    labels = torch.randint(4, (80,), generator=generator)
    ref_labels = None if refs is None else torch.randint(4, (refs,), generator=generator)
    inputs = (rows, labels, others, ref_labels)
    assert_same(
        metrics.retrieval(*inputs, metrics=ALL, similarity="dot", per_query=True), naive(inputs, similarity="dot")
    )


@pytest.mark.parametrize("refs", [None, 70])
@pytest.mark.parametrize("ids", [None, "many"])
@pytest.mark.parametrize("limit", ["MIN_CHUNK_ROWS", "MAX_CHUNK_POSITIVES"])
def test_retrieval_in_chunks_equals_one_call(refs, ids, limit, monkeypatch):
    inputs = random_inputs(90, 6, 12, refs, spread=1.0)
    given = {} if ids is None else random_ids(inputs, ids)
    expected = metrics.retrieval(*inputs, **given, metrics=ALL, per_query=True)
    calls = []
    right = MODULE._finder(inputs[0])
    monkeypatch.setattr(MODULE, "_finder", lambda _: lambda *arguments: calls.append(1) or right(*arguments))
    monkeypatch.setattr(MODULE, limit, 17)
    if limit == "MIN_CHUNK_ROWS":
        monkeypatch.setattr(MODULE, "CHUNK_WORK", 1)
    assert_same(metrics.retrieval(*inputs, **given, metrics=ALL, per_query=True), expected)
    assert len(calls) > 3


@pytest.mark.parametrize("ids", [None, "many"])
@pytest.mark.parametrize("rows", [50, 130])
@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_retrieval_in_parts_of_the_pairs_equals_one_call(similarity, rows, ids, monkeypatch):
    inputs = random_inputs(500, 6, 200, spread=1.0)
    given = {"similarity": similarity} | ({} if ids is None else random_ids(inputs, ids))
    expected = metrics.retrieval(*inputs[:2], **given, metrics=ALL, per_query=True)
    parts = []
    right = MODULE._ranks_in_parts
    monkeypatch.setattr(MODULE, "_ranks_in_parts", lambda *inputs: parts.append(inputs[4]) or right(*inputs))
    monkeypatch.setattr(MODULE, "CHUNK_WORK", 1)
    monkeypatch.setattr(MODULE, "MIN_CHUNK_ROWS", rows)
    assert_same(metrics.retrieval(*inputs[:2], **given, metrics=ALL, per_query=True), expected)
    assert parts == [{50: 5, 130: 2}[rows]]


def test_retrieval_equals_recall_at_k_and_scikit_learn():
    average_precision_score = pytest.importorskip("sklearn.metrics").average_precision_score
    inputs = random_inputs(200, 8, 20, 150, spread=1.0)
    sizes = (1, 2, 7, 150)
    found = metrics.retrieval(*inputs, metrics=[f"recall@{k}" for k in sizes])
    assert list(found.values()) == pytest.approx(list(metrics.recall_at_k(*inputs, k=sizes).values()))
    s = similarities(inputs[0], inputs[2], "cosine")
    expected = [
        average_precision_score((inputs[3] == label).numpy(), row.numpy())
        for label, row in zip(inputs[1], s, strict=True)
    ]
    assert metrics.retrieval(*inputs, metrics="map", per_query=True)["map"].tolist() == pytest.approx(expected)


def test_retrieval_equals_accuracy_calculator_of_pml():
    calculator = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator")
    knn = pytest.importorskip("pytorch_metric_learning.utils.inference").CustomKNN
    distance = pytest.importorskip("pytorch_metric_learning.distances").CosineSimilarity
    rows, labels = random_inputs(200, 8, 20, spread=1.0)[:2]
    names = {
        "map": "mean_average_precision",
        "map_at_r": "mean_average_precision_at_r",
        "r_precision": "r_precision",
        "mrr": "mean_reciprocal_rank",
        "recall@1": "precision_at_1",
    }
    theirs = calculator.AccuracyCalculator(include=tuple(names.values()), k=199, knn_func=knn(distance()))
    expected = theirs.get_accuracy(rows, labels)
    found = metrics.retrieval(rows, labels, metrics=names)
    assert found == pytest.approx({name: expected[other] for name, other in names.items()}, abs=1e-6)


def test_retrieval_query_without_positive_counts_as_zero():
    rows, labels = torch.eye(4) + 0.1, torch.tensor([0, 0, 1, 2])
    found = metrics.retrieval(rows, labels, metrics=ALL, per_query=True)
    for values in found.values():
        assert values[2:].tolist() == [0, 0]
    assert found["recall@1000"].tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("refs", [None, 50])
def test_retrieval_ignored_rows_are_left_out(refs):
    inputs = random_inputs(60, 8, 6, refs, spread=1.0)
    kept = inputs.labels != 2
    ref_kept = None if refs is None else inputs.ref_labels != 2
    others = () if refs is None else (inputs.ref_embeddings[ref_kept], inputs.ref_labels[ref_kept])
    assert not kept.all()
    inputs.embeddings[~kept] = math.nan
    found = metrics.retrieval(*inputs, metrics=ALL, ignore_index=2, per_query=True)
    assert_same(
        found, metrics.retrieval(inputs.embeddings[kept], inputs.labels[kept], *others, metrics=ALL, per_query=True)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_retrieval_any_dtype_equals_float32_of_same_values(dtype):
    rows, labels = random_inputs(60, 8, 8, spread=1.0)[:2]
    rows = rows.to(torch.bfloat16)
    assert metrics.retrieval(rows.to(dtype), labels) == pytest.approx(metrics.retrieval(rows.float(), labels), abs=2e-2)


def test_retrieval_k_above_int64_counts_all():
    rows, labels = random_inputs(20, 4, 4)[:2]
    found = metrics.retrieval(rows, labels, metrics=(f"recall@{2**64}", f"precision@{2**64}"))
    assert found[f"recall@{2**64}"] == metrics.retrieval(rows, labels, metrics="recall@19")["recall@19"]
    assert 0 < found[f"precision@{2**64}"] < 1e-17


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_retrieval_of_divergence_is_nan(value):
    rows, labels = random_inputs(20, 4, 4)[:2]
    rows[3, 1] = value
    assert all(map(math.isnan, metrics.retrieval(rows, labels).values()))
    assert metrics.retrieval(rows, labels, metrics="mrr", per_query=True)["mrr"].isnan().all()


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"metrics": ()}, ValueError, "metrics must have at least one name, got none"),
        ({"metrics": "recall"}, ValueError, "with an integer K >= 1, got 'recall'"),
        ({"metrics": ["map", "recall@0"]}, ValueError, "got 'recall@0'"),
        ({"metrics": "map@3"}, ValueError, "got 'map@3'"),
        ({"metrics": "recall@K"}, ValueError, "got 'recall@K'"),
        ({"metrics": 3}, TypeError, "metrics must be a name or several names, got 3"),
        ({"metrics": (1, "map")}, TypeError, "metrics must be a name or several names"),
        ({"similarity": "l2"}, ValueError, "similarity must be one of 'cosine', 'dot', 'euclidean', got 'l2'"),
        ({"per_query": 1}, TypeError, "per_query must be True or False, got 1"),
        ({"progress": 1}, TypeError, "progress must be None, True or False, got 1"),
        ({"ids": torch.arange(3)}, ValueError, r"ids must be \[B\] = \[20\], got \[3\]"),
    ],
    ids=str,
)
def test_retrieval_invalid_argument_raises(given, kind, message):
    rows, labels = random_inputs(20, 4, 4)[:2]
    with pytest.raises(kind, match=message):
        metrics.retrieval(rows, labels, **given)


def test_retrieval_shows_progress(capsys):
    rows, labels = random_inputs(20, 4, 4)[:2]
    metrics.retrieval(rows, labels, progress=True)
    assert "retrieval" in capsys.readouterr().err
    metrics.retrieval(rows, labels)
    assert capsys.readouterr().err == ""
