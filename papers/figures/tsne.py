"""t-SNE of the training classes alone, and together with other classes: EP's figure 6."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hardmine.ops._numbers import check_integer, check_number
from papers._extras import require
from papers.figures.drawing import COLORS, MARKERS, checked_path, new_figure, save
from papers.figures.embeddings import EmbeddingSet, rows_of
from papers.figures.formats import SPLITS

PANEL_INCHES = 4.2
TITLE_LETTERS = 40  # per line above a panel
MAX_LABELED_CLASSES = 20  # more labels would overlap
SPLIT_COLORS = {"train": COLORS[1], "test": COLORS[0]}  # red and blue in the paper
SPLIT_NAMES = {"train": "training classes", "test": "other classes"}


def plot_tsne(
    runs: Mapping[str, EmbeddingSet],
    path: str | Path,
    *,
    perplexity: float = 30.0,
    max_samples: int = 1500,
    seed: int = 0,
    title: str | None = None,
    progress: bool = False,
) -> Path:
    """Draw t-SNE maps of embeddings, one row per name: training samples on the left, both splits on the right.

    On the left, each class has a color and marker, repeated if there are more classes than combinations. Up to 20
    classes are labeled. On the right, colors distinguish the two splits.

    Args:
        runs: The embeddings per name, with both splits, from :func:`papers.figures.read_embeddings`.
        path: The file to write; it must end in `.png`. The data go into a CSV beside it: run, map (`train` or `both`),
            split, label, x, y.
        perplexity: t-SNE's perplexity, above 0 and below the number of samples in a map.
        max_samples: Maximum number of samples per split. From more samples, a random subset is drawn with the seed.
        seed: Seed of the random subset and of t-SNE.
        title: Line above all panels.
        progress: Show a progress bar on stderr, which needs tqdm.

    Returns:
        `path`.

    Raises:
        TypeError: A numeric argument is not a number.
        ValueError: `runs` are empty, a run lacks a split, a number is out of range, or `path` does not end in `.png`.
        OSError: A file cannot be written.
        ModuleNotFoundError: matplotlib, scikit-learn or, for `progress`, tqdm is not installed.

    Note:
        Rows are normalized, so t-SNE's Euclidean distances have the same order as cosine similarities. t-SNE is
        initialized with the principal components. The same seed gives the same map on the same machine.

    Reference:
        EP section 6.1, figure 6. van der Maaten and Hinton, JMLR 2008.
    """
    path = checked_path(path)
    if not runs:
        raise ValueError("runs must contain at least one name, got none")
    perplexity = check_number("perplexity", perplexity, above=0.0)
    max_samples = check_integer("max_samples", max_samples, 2)
    seed = check_integer("seed", seed, 0, 2**32 - 1)
    chosen = {name: _Sample(name, run, max_samples, seed) for name, run in runs.items()}
    for name, sample in chosen.items():
        count = len(sample.labels["train"])
        if perplexity >= count:
            raise ValueError(f"perplexity must be below the {count} train samples of {name!r}, got {perplexity:g}")

    maps = _maps(chosen, perplexity, seed, progress)
    figure = new_figure(2 * PANEL_INCHES + 0.3, (PANEL_INCHES + 0.3) * len(runs) + 0.7)
    grid = figure.subplots(len(runs), 2, squeeze=False)
    rows: list[dict[str, Any]] = []
    for (train_axes, both_axes), (name, sample) in zip(grid, chosen.items(), strict=True):
        positions = maps[name]["train"]
        _draw_classes(train_axes, positions, sample.labels["train"])
        rows += _data(name, "train", {"train": positions}, sample)
        by_split = dict(
            zip(SPLITS, maps[name]["both"].split([len(sample.labels[split]) for split in SPLITS]), strict=True)
        )
        _draw_splits(both_axes, by_split)
        rows += _data(name, "both", by_split, sample)
        titles = {train_axes: f"{name}, {SPLIT_NAMES['train']}", both_axes: f"{name}, with {SPLIT_NAMES['test']}"}
        for axes, text in titles.items():
            axes.set_title(textwrap.fill(text, TITLE_LETTERS), fontweight="bold", parse_math=False)
            axes.set(xticks=[], yticks=[], aspect="equal")  # the directions and the unit of a map mean nothing
            axes.set_adjustable("datalim")
    legend = figure.legend(*grid[0, 1].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    for handle in legend.legend_handles:
        handle.set(alpha=1, sizes=[30])
    if title:
        figure.suptitle(title, parse_math=False)
    return save(figure, path, rows)


class _Sample:
    """The mapped rows of one run, by split: float32 [n, D] of unit length, and labels int64 [n]."""

    def __init__(self, name: str, run: EmbeddingSet, max_samples: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.rows: dict[str, Tensor] = {}
        self.labels: dict[str, Tensor] = {}
        for split in SPLITS:
            rows, labels = rows_of(name, run, split)
            kept = torch.randperm(len(rows), generator=generator)[:max_samples].sort().values
            self.rows[split], self.labels[split] = torch.nn.functional.normalize(rows[kept]), labels[kept]


def _maps(samples: Mapping[str, _Sample], perplexity: float, seed: int, progress: bool) -> dict[str, dict[str, Tensor]]:
    """The positions [n, 2] in the map of the training rows and in the map of both splits, by map name."""
    tsne = require("sklearn.manifold").TSNE(perplexity=perplexity, init="pca", random_state=seed)
    pairs = [(name, kind) for name in samples for kind in ("train", "both")]
    maps: dict[str, dict[str, Tensor]] = {name: {} for name in samples}
    for name, kind in require("tqdm").tqdm(pairs, desc="t-SNE", unit="map") if progress else pairs:
        rows = samples[name].rows
        mapped = rows["train"] if kind == "train" else torch.cat([rows[split] for split in SPLITS])
        maps[name][kind] = torch.from_numpy(tsne.fit_transform(mapped.numpy()))
    return maps


def _draw_classes(axes: Any, positions: Tensor, labels: Tensor) -> None:
    classes = labels.unique().tolist()
    for position, label in enumerate(classes):
        points = positions[labels == label]
        color, marker = COLORS[position % len(COLORS)], MARKERS[position % len(MARKERS)]
        axes.scatter(*points.numpy().T, s=9, color=color, marker=marker, alpha=0.6, linewidths=0)
    if len(classes) <= MAX_LABELED_CLASSES:
        box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
        for label in classes:
            middle = positions[labels == label].median(0).values.tolist()
            axes.annotate(str(label), middle, ha="center", va="center", fontweight="bold", bbox=box)


def _draw_splits(axes: Any, positions: Mapping[str, Tensor]) -> None:
    markers = {"train": "o", "test": "^"}
    for split, points in positions.items():
        style = {"color": SPLIT_COLORS[split], "marker": markers[split], "label": SPLIT_NAMES[split]}
        axes.scatter(*points.numpy().T, s=9, alpha=0.5, linewidths=0, **style)


def _data(name: str, kind: str, positions: Mapping[str, Tensor], sample: _Sample) -> list[dict[str, Any]]:
    return [
        {"run": name, "map": kind, "split": split, "label": label, "x": x, "y": y}
        for split, points in positions.items()
        for label, (x, y) in zip(sample.labels[split].tolist(), points.tolist(), strict=True)
    ]
