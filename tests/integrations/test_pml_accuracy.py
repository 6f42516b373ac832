"""Accuracy and neighbors are those of pytorch-metric-learning with a sort of all distances."""

import itertools

import numpy as np
import pytest
import torch
from pytorch_metric_learning import distances
from pytorch_metric_learning.utils import accuracy_calculator as pml
from pytorch_metric_learning.utils.inference import CustomKNN, InferenceModel

from hardmine.integrations.pytorch_metric_learning import KNN, AccuracyCalculator, _accuracy
from integrations.pml_cases import LABELS, batch_of

METRICS = (
    "precision_at_1",
    "mean_average_precision_at_r",
    "r_precision",
    "mean_average_precision",
    "mean_reciprocal_rank",
)
SORTED = {
    "euclidean": distances.LpDistance(normalize_embeddings=False, power=2),
    "cosine": distances.CosineSimilarity(),
    "dot": distances.DotProductSimilarity(normalize_embeddings=False),
}


@pytest.fixture
def ranks_only(monkeypatch):
    """A call of a KNN is an error: all metrics come from ranks."""
    monkeypatch.setattr(KNN, "__call__", None)


@pytest.mark.parametrize("similarity", SORTED)
@pytest.mark.parametrize("averages", [{}, {"avg_of_avgs": True}, {"return_per_class": True}])
@pytest.mark.parametrize("k", [None, "max_bin_count"])
def test_accuracy_of_ranks_is_that_of_pml(ranks_only, k, averages, similarity):
    names = METRICS if k is None else METRICS[:3]
    own = AccuracyCalculator(include=names, k=k, knn_func=KNN(similarity), **averages)
    expected = pml.AccuracyCalculator(include=names, k=k, knn_func=CustomKNN(SORTED[similarity]), **averages)
    for labels in LABELS:
        query, query_labels, reference, reference_labels = batch_of(labels, "others")
        with_query = torch.cat([query, reference]), torch.cat([query_labels, reference_labels])
        for arguments in (
            (query, query_labels),
            (query, query_labels, reference, reference_labels),
            (query, query_labels, reference[:3], reference_labels[:3]),
            (query, query_labels, *with_query, True),
        ):
            found = own.get_accuracy(*arguments)
            wanted = expected.get_accuracy(*arguments)
            assert list(found) == list(wanted)
            for name in wanted:
                assert found[name] == pytest.approx(wanted[name], nan_ok=True), name


def test_accuracy_takes_arrays_and_metrics_per_call(ranks_only):
    query, labels, *_ = batch_of("some alone")
    own, expected = AccuracyCalculator(), pml.AccuracyCalculator(knn_func=CustomKNN(SORTED["euclidean"]))
    for options in ({"include": ["r_precision"]}, {"exclude": ["NMI", "AMI"]}):
        found = own.get_accuracy(query.numpy(), labels.numpy(), **options)
        assert found == pytest.approx(expected.get_accuracy(query.numpy(), labels.numpy(), **options))


def test_accuracy_of_clusters_comes_with_ranks(ranks_only):
    query, labels, *_ = batch_of("some alone")
    options = {"include": ("NMI", "AMI", "r_precision"), "kmeans_func": lambda rows, count: labels % count % 5}
    found = AccuracyCalculator(**options).get_accuracy(query, labels)
    wanted = pml.AccuracyCalculator(knn_func=CustomKNN(SORTED["euclidean"]), **options).get_accuracy(query, labels)
    assert found == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (METRICS, {"k": 5}),
        (METRICS, {"k": "max_bin_count"}),
        (METRICS[:4], {"label_comparison_fn": lambda a, b: torch.eq(a, b)}),
    ],
)
def test_accuracy_of_neighbors_is_that_of_pml(names, options):
    own = AccuracyCalculator(include=names, **options)
    expected = pml.AccuracyCalculator(include=names, knn_func=CustomKNN(SORTED["euclidean"]), **options)
    query, labels, *references = batch_of("balanced", "others")
    for arguments in ((query, labels), (query, labels, *references)):
        assert own.get_accuracy(*arguments) == pytest.approx(expected.get_accuracy(*arguments))


def test_accuracy_of_labels_with_levels_is_that_of_pml():
    def same_first(a, b):
        return a[..., 0] == b[..., 0]

    query, labels, *_ = batch_of("balanced")
    levels = torch.stack([labels, labels % 2], dim=1)
    options = {"include": METRICS[:4], "label_comparison_fn": same_first}
    own = AccuracyCalculator(**options)
    expected = pml.AccuracyCalculator(knn_func=CustomKNN(SORTED["euclidean"]), **options)
    assert own.get_accuracy(query, levels) == pytest.approx(expected.get_accuracy(query, levels))


def test_accuracy_of_given_neighbors_is_that_of_pml():
    labels = torch.tensor([0, 0, 1, 1])
    arguments = {
        "knn_labels": torch.tensor([[0, 1], [1, 0], [1, 0], [0, 1]]),
        "query_labels": labels,
        "not_lone_query_mask": torch.ones(4, dtype=torch.bool),
        "ref_includes_query": True,
        "label_counts": (torch.tensor([0, 1]), torch.tensor([2, 2])),
    }
    own = AccuracyCalculator(include=METRICS)
    expected = pml.AccuracyCalculator(include=METRICS, knn_func=CustomKNN(SORTED["euclidean"]))
    for _ in range(2):  # before and after a call that takes ranks
        found, wanted = (each._get_accuracy(each.curr_function_dict, **arguments) for each in (own, expected))
        assert found == pytest.approx(wanted)
        own.get_accuracy(torch.randn(4, 2), labels)


def test_accuracy_of_subclass_uses_its_own_metrics():
    class Counted(AccuracyCalculator):
        def calculate_neighbors(self, knn_labels, **_):
            return knn_labels.shape[1]

        def requires_knn(self):
            return [*super().requires_knn(), "neighbors"]

    query, labels, *_ = batch_of("balanced")
    assert Counted(include=("neighbors", "r_precision"), k=4).get_accuracy(query, labels)["neighbors"] == 4
    assert Counted(include=("neighbors",)).get_accuracy(query, labels) == {"neighbors": 19}


@pytest.mark.parametrize("similarity", SORTED)
@pytest.mark.parametrize("limit", [1024, 2])
def test_knn_finds_neighbors_of_pml(similarity, limit, monkeypatch):
    monkeypatch.setattr(_accuracy, "MAX_NEIGHBORS", limit)  # beyond it, a sort
    expected = CustomKNN(SORTED[similarity])
    query, _, reference, _ = batch_of("balanced", "others", torch.float64)
    for k, includes in itertools.product((1, 7, 26), (False, True)):
        refs = torch.cat([query, reference]) if includes else reference
        for found, wanted in zip(
            KNN(similarity)(query, k, refs, includes), expected(query, k, refs, includes), strict=True
        ):
            torch.testing.assert_close(found, wanted)


def test_knn_of_inference_model_saves_and_loads_its_rows(tmp_path):
    query, _, reference, _ = batch_of("balanced", "others")
    model = InferenceModel(torch.nn.Identity(), knn_func=KNN(), data_device=torch.device("cpu"))
    model.train_knn(reference[:9])
    model.add_to_knn(reference[9:])
    distance, index = model.get_nearest_neighbors(query, 3)
    query, reference = (torch.nn.functional.normalize(rows) for rows in (query, reference))
    wanted_distance, wanted = CustomKNN(SORTED["euclidean"])(query, 3, reference)
    assert torch.equal(index, wanted)
    torch.testing.assert_close(distance, wanted_distance)
    model.save_knn_func(tmp_path / "rows.pt")
    other = KNN()
    other.load(tmp_path / "rows.pt")
    assert torch.equal(other.rows, model.knn_func.rows)
    other.train(np.zeros((4, 6), dtype=np.float32))
    assert other.rows.shape == (4, 6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rows: KNN("manhattan"), "similarity must be"),
        (lambda rows: KNN()(rows, 1), "reference must be given before train"),
        (lambda rows: KNN()(rows, 20, rows, True), "k must be from 1 to the number of candidates, 19, got 20"),
        (lambda rows: KNN()(rows, 0, rows), "k must be from 1 to the number of candidates, 20, got 0"),
    ],
)
def test_knn_refuses_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(batch_of("balanced").embeddings)


def test_knn_of_many_neighbors_far_from_the_origin_is_that_of_few():
    rows = torch.randn(1200, 3, generator=torch.Generator().manual_seed(0)) + 1000
    search = KNN("euclidean")
    many, few = (search(rows, k, rows) for k in (1100, 1000))
    torch.testing.assert_close(many[0][:, :1000], few[0], rtol=1e-5, atol=0)
    assert search(rows.half(), 1100, rows.half())[0].dtype == torch.float32


def test_knn_of_an_array_raises():
    rows = torch.ones(4, 2)
    with pytest.raises(TypeError, match=r"^query must be a torch.Tensor, got ndarray"):
        KNN()(rows.numpy(), 2, rows)
    with pytest.raises(TypeError, match=r"^reference must be a torch.Tensor, got ndarray"):
        KNN()(rows, 2, rows.numpy())
