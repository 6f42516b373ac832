"""Similarities between samples of the same class: EP's figure 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from hardmine.ops._arguments import check_choice
from papers.figures.distributions import Collector, Distribution, draw_distributions
from papers.figures.drawing import checked_path, checked_runs
from papers.figures.embeddings import EmbeddingSet, rows_of
from papers.figures.formats import SPLITS

_CHUNK = 2048  # rows compared with their class at once; bounds the memory


def within_class_similarities(embeddings: Tensor, labels: Tensor) -> Distribution | None:
    """The distribution of the cosine similarities of all pairs of samples within a class.

    Args:
        embeddings: [N, D], float32.
        labels: [N], int64.

    Returns:
        The distribution, with every unordered pair counted once; None if no class has two samples.
    """
    rows = torch.nn.functional.normalize(embeddings)
    order = labels.argsort(stable=True)
    collector = Collector()
    for indices in order.split(labels.unique(return_counts=True)[1].tolist()):
        members = rows[indices]
        for start in range(0, len(members) - 1, _CHUNK):
            pairs = members[start : start + _CHUNK] @ members[start:].T  # [n, m]; the diagonal is each row with itself
            collector.add(pairs[torch.ones_like(pairs, dtype=torch.bool).triu(1)])
    return collector.distribution()


def plot_within_class(
    runs: Mapping[str, Sequence[EmbeddingSet]],
    path: str | Path,
    *,
    split: str = "train",
    title: str | None = None,
) -> Path:
    """Draw the distribution of the similarities of all pairs of samples within a class, one row per name.

    For several runs of a name, it is the mean density in a band of one standard deviation to either side. Each row is
    scaled to its peak. A line marks the mean similarity.

    Args:
        runs: The runs per name, from :func:`papers.figures.read_embeddings`.
        path: The file to write; it must end in `.png`. The data go into a CSV beside it: run, low and high of each bin,
            density, standard_deviation, and mean_similarity of the run.
        split: `"train"`, or `"test"` for the classes that are only retrieved.
        title: Line above the figure.

    Returns:
        `path`.

    Raises:
        ValueError: `runs` are empty, a run lacks the split or has no class of two samples in it, `split` is something
            else, or `path` does not end in `.png`.
        OSError: A file cannot be written.
        ModuleNotFoundError: matplotlib is not installed.

    Note:
        Each class costs one matrix product of the class with itself. Memory is O(N D).

    Reference:
        EP section 6.1, figure 2.
    """
    path, runs = checked_path(path), checked_runs(runs)
    check_choice("split", split, SPLITS)
    found: dict[str, list[Distribution]] = {}
    for name, repeats in runs.items():
        for run in repeats:
            similarities = within_class_similarities(*rows_of(name, run, split))
            if similarities is None:
                raise ValueError(f"runs[{name!r}] must have a {split} class of two samples, got none")
            found.setdefault(name, []).append(similarities)
    classes = {"train": "training", "test": "other"}[split]
    return draw_distributions(found, path, f"similarity of two samples of the same class, {classes} classes", title)
