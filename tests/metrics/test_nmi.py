"""NMI of a k-means: the formula by hand, against counts of an independent clustering, and its errors."""

import math
import re
import sys
import warnings
from collections import Counter

import pytest
import torch

from support.inputs import random_inputs, seeded

pytest.importorskip("sklearn")

from hardmine.metrics import nmi


def entropy(*labelings) -> float:
    """The joint entropy of labelings, in nats."""
    counts = Counter(zip(*labelings, strict=True))
    total = sum(counts.values())
    return -sum(count / total * math.log(count / total) for count in counts.values())


def nmi_from_entropies(classes, clusters, average) -> float:
    """The mutual information from entropies, H(classes) + H(clusters) - H(both), divided by their mean."""
    of_classes, of_clusters = entropy(classes), entropy(clusters)
    mean = (of_classes + of_clusters) / 2 if average == "arithmetic" else math.sqrt(of_classes * of_clusters)
    return (of_classes + of_clusters - entropy(classes, clusters)) / mean


def at_corners(clusters: list[int]) -> torch.Tensor:
    """Points near the axes: any k-means with one cluster per axis finds the axes."""
    x = 20 * torch.nn.functional.one_hot(torch.tensor(clusters)).double()
    return x + torch.rand(x.shape, generator=seeded(0), dtype=torch.float64)


@pytest.mark.parametrize("average", ["arithmetic", "geometric"])
def test_nmi_hand_worked_clusters_match(average):
    """Two classes, 0 0 0 1 1 1, in clusters 0 0 1 1 1 1: entropies log 2 and that of (1/3, 2/3).

    Joint: pairs (0, 0) with 1/3, (0, 1) with 1/6, (1, 1) with 1/2.
    """
    h_class, h_cluster = math.log(2), math.log(3) - 2 / 3 * math.log(2)
    h_both = math.log(3) / 3 + math.log(6) / 6 + math.log(2) / 2
    information = h_class + h_cluster - h_both
    mean = (h_class + h_cluster) / 2 if average == "arithmetic" else math.sqrt(h_class * h_cluster)
    embeddings, labels = at_corners([0, 0, 1, 1, 1, 1]), torch.tensor([0, 0, 0, 1, 1, 1])
    assert nmi(embeddings, labels, average=average) == pytest.approx(information / mean)
    assert nmi_from_entropies(labels.tolist(), [0, 0, 1, 1, 1, 1], average) == pytest.approx(information / mean)


@pytest.mark.parametrize("average", ["arithmetic", "geometric"])
def test_nmi_matches_entropies(average):
    """Clusters that are easy to find, classes that cut across them, and labels that are not consecutive."""
    clusters = torch.randint(6, (200,), generator=seeded(1)).tolist()
    names = torch.tensor([90, -3, 7, 12, 5, 4])
    classes = names[(torch.tensor(clusters) + torch.randint(3, (200,), generator=seeded(2))) % 6]
    expected = nmi_from_entropies(classes.tolist(), clusters, average)
    assert 0.2 < expected < 0.8
    assert nmi(at_corners(clusters), classes, n_init=5, average=average) == pytest.approx(expected)


def test_nmi_averages_differ():
    embeddings, labels = at_corners([0, 0, 1, 1, 1, 1]), torch.tensor([0, 0, 0, 1, 1, 1])
    assert nmi(embeddings, labels) == nmi(embeddings, labels, average="arithmetic")
    assert nmi(embeddings, labels) < nmi(embeddings, labels, average="geometric")


def test_nmi_uses_one_cluster_per_class():
    clusters = [0, 0, 1, 1, 2, 2, 3, 3]
    assert nmi(at_corners(clusters), torch.tensor(clusters), n_init=5) == pytest.approx(1)
    # With two clusters, each covers two corners, so the two classes are found or cut in half.
    assert nmi(at_corners(clusters), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])) < 1.001


def test_nmi_unnormalized_rows_are_scaled():
    """By direction there are two clusters; by position the long row would form its own cluster."""
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [50.0, 1000.0]])
    assert nmi(embeddings, torch.tensor([0, 0, 1, 1])) == pytest.approx(1)


def test_nmi_one_class_is_one():
    assert nmi(torch.eye(3), torch.zeros(3, dtype=torch.int64)) == 1


def test_nmi_collapsed_embedding_is_zero_without_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert nmi(torch.ones(12, 4), torch.arange(12) % 3) == 0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nmi_nonfinite_embedding_gives_nan(value):
    embeddings = torch.eye(4)
    embeddings[2, 1] = value
    assert math.isnan(nmi(embeddings, torch.tensor([0, 0, 1, 1])))


def test_nmi_same_seed_repeats_other_seed_differs():
    inputs = random_inputs(200, 8, 20, spread=1.5)
    scores = {seed: nmi(*inputs[:2], seed=seed) for seed in range(4)}
    assert scores == {seed: nmi(*inputs[:2], seed=seed) for seed in range(4)}
    assert len(set(scores.values())) > 1


def test_nmi_n_init_and_max_iter_reach_k_means():
    """The settings reach the k-means: one iteration of one start is worse than a full run of many starts."""
    inputs = random_inputs(300, 8, 12, spread=0.6, seed=3)
    hasty = [nmi(*inputs[:2], max_iter=1, seed=seed) for seed in range(5)]
    patient = [nmi(*inputs[:2], n_init=5, seed=seed) for seed in range(5)]
    assert sum(hasty) < sum(patient)
    assert len(set(patient)) <= len(set(hasty))


def test_nmi_k_means_runs_on_one_thread(monkeypatch):
    """Three or more threads would add up the centers in an order that varies between runs."""
    threadpoolctl, cluster = pytest.importorskip("threadpoolctl"), pytest.importorskip("sklearn.cluster")
    fit, seen = cluster.KMeans.fit_predict, []

    def threads():
        return [library["num_threads"] for library in threadpoolctl.threadpool_info()]

    def watched(self, rows):
        seen.extend(threads())
        return fit(self, rows)

    monkeypatch.setattr(cluster.KMeans, "fit_predict", watched)
    with threadpoolctl.threadpool_limits(3):
        before = threads()
        nmi(*random_inputs()[:2])
        assert threads() == before
    assert set(seen) == {1}
    assert 3 in before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_nmi_any_dtype_matches(dtype):
    clusters = [0, 0, 1, 1, 1, 1]
    x = at_corners(clusters).to(dtype).requires_grad_()
    assert nmi(x, torch.tensor([0, 0, 0, 1, 1, 1], dtype=torch.uint8)) == pytest.approx(
        nmi_from_entropies([0, 0, 0, 1, 1, 1], clusters, "arithmetic")
    )


def test_nmi_without_scikit_learn_raises(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(ModuleNotFoundError, match="sklearn"):
        nmi(torch.eye(3), torch.arange(3))


WRONG = [
    ({"labels": torch.arange(2)}, ValueError, "labels must be [B] = [3], got [2]"),
    ({"seed": -1}, ValueError, "seed must be from 0 to 4294967295, got -1"),
    ({"seed": 2**32}, ValueError, "seed must be from 0 to 4294967295, got 4294967296"),
    ({"seed": 1.0}, TypeError, "seed must be an integer, got float"),
    ({"n_init": 0}, ValueError, "n_init must be at least 1, got 0"),
    ({"max_iter": 0}, ValueError, "max_iter must be at least 1, got 0"),
    ({"average": "max"}, ValueError, "average must be one of 'arithmetic', 'geometric', got 'max'"),
    (
        {"embeddings": torch.ones(0, 3), "labels": torch.arange(0)},
        ValueError,
        "embeddings must have at least one row, got none",
    ),
]


@pytest.mark.parametrize(("changes", "error", "message"), WRONG, ids=[wrong[2] for wrong in WRONG])
def test_nmi_invalid_argument_raises(changes, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        nmi(**{"embeddings": torch.eye(3), "labels": torch.arange(3), **changes})
