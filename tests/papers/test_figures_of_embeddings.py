"""Figures of embeddings: distributions against pairs counted one by one, and t-SNE."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from figure_cases import random_set, rows, texts
from papers import figures
from papers.figures import EmbeddingSet
from papers.figures.distributions import BINS, Collector
from papers.figures.within_class import within_class_similarities

for needed in ("matplotlib", "PIL"):
    pytest.importorskip(needed)


# Distributions: EP, figures 2 and 3


def brute_force_pairs(embeddings, labels):
    """Cosines of all pairs of one class, pair by pair."""
    return [
        torch.cosine_similarity(embeddings[i].double(), embeddings[j].double(), dim=0).item()
        for i in range(len(labels))
        for j in range(i)
        if labels[i] == labels[j]
    ]


def histogram(values):
    counts = [0] * BINS
    for value in values:
        counts[min(int((value + 1) / 2 * BINS), BINS - 1)] += 1
    return counts


def test_within_class_similarities_count_each_pair_once(monkeypatch):
    run = random_set()
    expected = brute_force_pairs(run.train_embeddings, run.train_labels)
    assert len(expected) == 5 * 12 * 11 / 2
    for chunk in (2048, 5, 1):
        monkeypatch.setattr("papers.figures.within_class._CHUNK", chunk)
        found = within_class_similarities(run.train_embeddings * 7, run.train_labels)
        assert found.counts.tolist() == histogram(expected)
        assert found.mean == pytest.approx(sum(expected) / len(expected), abs=1e-6)
    assert within_class_similarities(run.train_embeddings[:3], torch.tensor([4, 9, 7])) is None


def test_collector_counts_rounding_outside_range_in_end_bins():
    collector = Collector()
    collector.add(torch.tensor([[1 + 2**-20, -1 - 2**-20], [1.0, -1.0]]))
    collector.add(torch.tensor([0.0]))
    found = collector.distribution()
    assert (found.counts[0], found.counts[-1], found.counts[BINS // 2], found.counts.sum()) == (2, 2, 1, 5)
    assert found.density.sum().item() * 2 / BINS == pytest.approx(1)
    assert Collector().distribution() is None


@pytest.mark.slow
def test_plot_within_class_draws_mean_density(tmp_path, saved_figures):
    one, two = random_set(0), random_set(1)
    path = figures.plot_within_class({"EP": [one, two], "HP": [two]}, tmp_path / "within.png", title="digits")
    data = rows(path)
    assert [row["run"] for row in data] == ["EP"] * BINS + ["HP"] * BINS
    assert (data[0]["low"], data[BINS - 1]["high"]) == (-1, 1)
    pairs = [brute_force_pairs(run.train_embeddings, run.train_labels) for run in (one, two)]
    densities = torch.tensor([histogram(values) for values in pairs], dtype=torch.float64) / len(pairs[0]) * (BINS / 2)
    assert [row["density"] for row in data[:BINS]] == pytest.approx(densities.mean(0).tolist(), rel=1e-5)
    assert [row["standard_deviation"] for row in data[:BINS]] == pytest.approx(densities.std(0).tolist(), rel=1e-5)
    assert data[BINS]["standard_deviation"] is None
    means = [sum(values) / len(values) for values in pairs]
    assert data[0]["mean_similarity"] == pytest.approx(sum(means) / 2, abs=1e-5)
    first, second = saved_figures[0].axes
    spread = abs(means[0] - means[1]) / math.sqrt(2)
    assert texts(first) == [f"mean {sum(means) / 2:.2f} ± {spread:.2f}"]
    assert texts(second) == [f"mean {means[1]:.2f}"]
    assert [first.get_ylabel(), second.get_ylabel()] == ["EP", "HP"]
    assert first.get_xlim() == second.get_xlim()
    assert second.get_xlabel() == "similarity of two samples of the same class, training classes"
    line = next(line for line in first.lines)
    assert line.get_xdata()[0] == pytest.approx(sum(means) / 2, abs=1e-6)
    figures.plot_within_class({"EP": [one]}, path, split="test")
    expected = brute_force_pairs(one.test_embeddings, one.test_labels)
    assert rows(path)[0]["mean_similarity"] == pytest.approx(sum(expected) / len(expected), abs=1e-5)
    assert saved_figures[-1].axes[0].get_xlabel() == "similarity of two samples of the same class, other classes"


def test_plot_nearest_train_draws_nearest_similarities(tmp_path, saved_figures):
    run = random_set()
    path = figures.plot_nearest_train({"EP": [run]}, tmp_path / "nearest.png")
    similarities = normalize(run.test_embeddings.double()) @ normalize(run.train_embeddings.double()).T
    nearest = similarities.max(1).values
    data = rows(path)
    assert data[0]["mean_similarity"] == pytest.approx(nearest.mean().item(), abs=1e-5)
    counts = [round(row["density"] * 2 / BINS * len(nearest)) for row in data]
    assert counts == histogram(nearest.tolist())
    assert sum(counts) == 40
    assert "nearest training sample" in saved_figures[0].axes[0].get_xlabel()


@pytest.mark.slow
def test_plot_within_class_axis_cuts_only_thin_tail(tmp_path, saved_figures):
    ones = torch.ones(100, 4)
    path = tmp_path / "within.png"
    figures.plot_within_class({"HN": [EmbeddingSet(ones, torch.zeros(100))]}, path)
    assert 0.5 <= saved_figures[-1].axes[0].get_xlim()[0] < 0.9
    assert saved_figures[-1].axes[0].get_xlim()[1] == 1
    far = ones.clone()
    far[0] = -1  # 99 of 4,950 pairs are at -1
    figures.plot_within_class({"HN": [EmbeddingSet(far, torch.zeros(100))]}, path)
    assert saved_figures[-1].axes[0].get_xlim()[0] == -1


# t-SNE: EP, figure 6


@pytest.mark.slow
def test_plot_tsne_maps_train_alone_and_both_splits(tmp_path, saved_figures):
    pytest.importorskip("sklearn")
    run = random_set(train=30, test=20, classes=3, depth=64)
    path = figures.plot_tsne({"EP": run}, tmp_path / "tsne.png", perplexity=5, title="digits")
    alone, both = saved_figures[0].axes
    assert [alone.get_title(), both.get_title()] == ["EP, training classes", "EP, with other classes"]
    assert sorted(texts(alone)) == ["0", "1", "2"]
    data = rows(path)
    kinds = [(row["map"], row["split"]) for row in data]
    assert kinds == [("train", "train")] * 30 + [("both", "train")] * 30 + [("both", "test")] * 20
    assert [row["label"] for row in data[:30]] == run.train_labels.tolist()
    assert [row["label"] for row in data[60:]] == run.test_labels.tolist()
    drawn = [dots.get_offsets().tolist() for dots in both.collections]
    assert [len(values) for values in drawn] == [30, 20]
    assert drawn[1] == [pytest.approx([row["x"], row["y"]], rel=1e-4) for row in data[60:]]
    by_class = [dots.get_offsets().tolist() for dots in alone.collections]
    assert by_class[1] == [pytest.approx([row["x"], row["y"]], rel=1e-4) for row in data[:30] if row["label"] == 1]
    distinct = {(row["x"], row["y"]) for row in data}
    assert len(distinct) > 70
    before = path.with_suffix(".csv").read_bytes()
    figures.plot_tsne({"EP": run}, path, perplexity=5)
    assert path.with_suffix(".csv").read_bytes() == before
    scaled = EmbeddingSet(run.train_embeddings * 4, run.train_labels, run.test_embeddings * 4, run.test_labels)
    figures.plot_tsne({"EP": scaled}, path, perplexity=5)
    assert path.with_suffix(".csv").read_bytes() == before, "lengths don't matter"


@pytest.mark.slow
def test_plot_tsne_many_samples_draws_random_subset(tmp_path, capsys):
    pytest.importorskip("sklearn")
    run = random_set(train=300, test=30)
    path = tmp_path / "tsne.png"
    chosen = []
    for seed in (0, 0, 1):
        figures.plot_tsne({"EP": run}, path, perplexity=4, max_samples=25, seed=seed)
        data = rows(path)
        assert [row["split"] for row in data] == ["train"] * 50 + ["test"] * 25
        chosen.append([row["label"] for row in data])
    assert chosen[0] == chosen[1] != chosen[2]
    assert not capsys.readouterr().err
    pytest.importorskip("tqdm")
    figures.plot_tsne({"EP": run}, path, perplexity=4, max_samples=25, progress=True)
    assert "2/2" in capsys.readouterr().err


@pytest.mark.slow
def test_plot_tsne_passes_settings_to_scikit_learn(tmp_path, monkeypatch):
    manifold = pytest.importorskip("sklearn.manifold")
    settings = []

    class Recorded(manifold.TSNE):
        def __init__(self, perplexity=30.0, init="pca", random_state=None):
            settings.append((perplexity, init, random_state))
            super().__init__(perplexity=perplexity, init=init, random_state=random_state)

    monkeypatch.setattr(manifold, "TSNE", Recorded)
    figures.plot_tsne({"EP": random_set(train=12, test=10)}, tmp_path / "tsne.png", perplexity=3.5, seed=4)
    assert settings == [(3.5, "pca", 4)]
