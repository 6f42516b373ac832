"""Recall@1 against the number of images per class in a batch: EP's figure 4."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from papers._extras import require
from papers.figures.drawing import checked_path, legend_below, line_style, mean_and_spread, new_figure, save, tidy

DODGE = 0.035  # share of a doubling; keeps the error bars of methods side by side


def plot_group_size(
    groups: Mapping[str, Mapping[int, Mapping[int, float]]], path: str | Path, *, title: str | None = None
) -> Path:
    """Draw Recall@1 over the images per class in a batch, one line per method.

    A line connects the means over seeds. Bars are one standard deviation to either side; dots are single seeds.

    Args:
        groups: Recall@1 by method, images per class and seed, from :func:`papers.figures.read_groups`.
        path: The file to write; it must end in `.png`. The data go into a CSV beside it: method, images_per_class,
            seed, recall_at_1, and mean and standard_deviation of the seeds.
        title: Line above the figure.

    Returns:
        `path`.

    Raises:
        ValueError: `groups` or a part of it is empty, or `path` does not end in `.png`.
        OSError: A file cannot be written.
        ModuleNotFoundError: matplotlib is not installed.

    Reference:
        EP section 6.1, figure 4.
    """
    path = checked_path(path)
    if not groups:
        raise ValueError("groups must contain at least one method, got none")
    figure = new_figure(5.2, 4)
    axes = figure.subplots()
    rows: list[dict[str, Any]] = []
    legend: dict[str, Any] = {}
    for position, (method, sizes) in enumerate(groups.items()):
        if not sizes or not all(sizes.values()):
            raise ValueError(f"groups[{method!r}] must contain a seed for every group size, got none")
        shift = 2 ** (DODGE * (position - (len(groups) - 1) / 2))
        drawn, legend[method] = _draw_method(axes, method, dict(sorted(sizes.items())), shift, line_style(position))
        rows += drawn
    axes.set_xscale("log", base=2)
    ticks = sorted({size for sizes in groups.values() for size in sizes})
    axes.set_xticks(ticks, [str(size) for size in ticks])
    axes.xaxis.set_minor_locator(require("matplotlib.ticker").NullLocator())
    axes.set_xlim(ticks[0] / 1.25, ticks[-1] * 1.25)
    axes.set_xlabel("images per class in a batch")
    axes.set_ylabel("Recall@1, other classes")
    tidy(axes)
    bars = (
        "mean ± sd of seeds" if any(len(seeds) > 1 for sizes in groups.values() for seeds in sizes.values()) else None
    )
    legend_below(figure, legend, bars)
    if title:
        figure.suptitle(title, parse_math=False)
    return save(figure, path, rows)


def _draw_method(
    axes: Any, method: str, sizes: Mapping[int, Mapping[int, float]], shift: float, style: dict[str, Any]
) -> tuple[list[dict[str, Any]], Any]:
    """Draw one method's line with a small horizontal offset. Return the rows of the data file, and the line."""
    rows, means, bars = [], [], []
    for size, seeds in sizes.items():
        mean, spread = mean_and_spread(torch.tensor(list(seeds.values()), dtype=torch.float64))
        means.append(mean.item())
        bars.append(0.0 if spread is None else spread.item())
        fixed = {"mean": means[-1], "standard_deviation": None if spread is None else bars[-1]}
        for seed, recall in seeds.items():
            rows.append({"method": method, "images_per_class": size, "seed": seed, "recall_at_1": recall} | fixed)
        if spread is not None:
            axes.plot([size * shift] * len(seeds), list(seeds.values()), ".", color=style["color"], alpha=0.35)
    x_values = [size * shift for size in sizes]
    line = axes.errorbar(x_values, means, bars if any(bars) else None, **style, markersize=5, capsize=2.5)
    return rows, line
