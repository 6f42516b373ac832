"""Similarity of other classes' samples to their nearest training samples: EP's figure 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hardmine import ops
from papers.figures.distributions import Collector, Distribution, draw_distributions
from papers.figures.drawing import checked_path, checked_runs
from papers.figures.embeddings import EmbeddingSet, rows_of


def plot_nearest_train(
    runs: Mapping[str, Sequence[EmbeddingSet]], path: str | Path, *, title: str | None = None
) -> Path:
    """Draw the distribution of the test samples' similarities to their nearest training samples, one row per name.

    For several runs of a name, it is the mean density in a band of one standard deviation to either side. Each row is
    scaled to its peak. A line marks the mean similarity.

    Args:
        runs: The runs per name, from :func:`papers.figures.read_embeddings`, with both splits.
        path: The file to write; it must end in `.png`. The data go into a CSV beside it: run, low and high of each bin,
            density, standard_deviation, and mean_similarity of the run.
        title: Line above the figure.

    Returns:
        `path`.

    Raises:
        ValueError: `runs` are empty, a run lacks a split, or `path` does not end in `.png`.
        OSError: A file cannot be written.
        ModuleNotFoundError: matplotlib is not installed.

    Note:
        :func:`hardmine.ops.knn` computes the similarities: memory O((N + M) D).

    Reference:
        EP section 6.1, figure 3.
    """
    path, runs = checked_path(path), checked_runs(runs)
    found: dict[str, list[Distribution]] = {}
    for name, repeats in runs.items():
        for run in repeats:
            (train, _), (test, _) = (rows_of(name, run, split) for split in ("train", "test"))
            collector = Collector()
            collector.add(ops.knn(test, train, k=1).similarity)
            found.setdefault(name, []).append(collector.distribution())
    return draw_distributions(found, path, "similarity of a test sample to its nearest training sample", title)
