"""Distributions of similarities, one per row: the common code of EP's figures 2 and 3."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from papers.diagram import axis_lower_limit
from papers.figures.drawing import COLORS, mean_and_spread, new_figure, save, tidy, with_spread

BINS = 200  # over [-1, 1]
ROW_INCHES = 0.85
NAME_LETTERS = 18  # per line of a row's name
TAIL = 0.002  # share of a distribution that the axis may cut off on the left


class Distribution(NamedTuple):
    """A distribution of similarities: the counts of the bins over [-1, 1], int64 [BINS], and the mean."""

    counts: Tensor
    mean: float

    @property
    def density(self) -> Tensor:
        """The density per bin, float64 [BINS]; its integral over [-1, 1] is 1."""
        return self.counts / self.counts.sum() * (BINS / 2)


class Collector:
    """Count similarities chunk by chunk."""

    def __init__(self) -> None:
        self._counts, self._sum = torch.zeros(BINS, dtype=torch.int64), 0.0

    def add(self, similarities: Tensor) -> None:
        """Count similarities of any shape. Rounding may put them slightly outside [-1, 1]."""
        bins = ((similarities.flatten().double() + 1) * (BINS / 2)).long().clamp(0, BINS - 1)
        self._counts += bins.bincount(minlength=BINS)
        self._sum += similarities.double().sum().item()

    def distribution(self) -> Distribution | None:
        """The distribution of the counted similarities, or None if there are none."""
        count = int(self._counts.sum())
        return Distribution(self._counts, self._sum / count) if count else None


def draw_distributions(runs: Mapping[str, Sequence[Distribution]], path: Path, xlabel: str, title: str | None) -> Path:
    """Draw one row per name: the runs' mean density, a band of one standard deviation, and a tick at their mean.

    Each row is scaled to its peak: a collapsed embedding, all in one bin, would flatten the other rows. The axis begins
    where the leftmost distribution begins, except for a tail of 0.2 % that only the data file contains.
    """
    edges = torch.linspace(-1, 1, BINS + 1, dtype=torch.float64).tolist()
    densities = {name: torch.stack([run.density for run in repeats]) for name, repeats in runs.items()}
    cumulative = [density.mean(0).cumsum(0) * (2 / BINS) for density in densities.values()]
    low = axis_lower_limit([torch.tensor(edges[int((share > TAIL).nonzero()[0])]) for share in cumulative])
    figure = new_figure(6.4, ROW_INCHES * len(runs) + 1.1)
    figure.get_layout_engine().set(hspace=0, h_pad=0.02)
    rows: list[dict[str, Any]] = []
    grid = figure.subplots(len(runs), 1, squeeze=False, sharex=True)[:, 0]
    for axes, (name, repeats), color in zip(grid, runs.items(), _colors(len(runs)), strict=True):
        mean, spread = mean_and_spread(densities[name])
        _draw_row(axes, edges, mean, spread, color)
        means = [run.mean for run in repeats]
        mean_similarity = sum(means) / len(means)
        axes.axvline(mean_similarity, color="black", linewidth=1.2)
        beside = {"rotation": "horizontal", "ha": "right", "va": "center", "fontweight": "bold", "parse_math": False}
        axes.set_ylabel(textwrap.fill(name, NAME_LETTERS), **beside)
        axes.annotate(f"mean {with_spread(means)}", (1.01, 0.35), xycoords="axes fraction", fontsize="medium")
        axes.set(xlim=(low, 1.0), yticks=[])
        axes.set_ylim(0, 1.08 * (mean if spread is None else mean + spread).max().item())
        tidy(axes)
        deviations = [None] * BINS if spread is None else spread.tolist()
        rows += [
            {"run": name, "low": left, "high": right, "density": density, "standard_deviation": deviation}
            | {"mean_similarity": mean_similarity}
            for left, right, density, deviation in zip(edges, edges[1:], mean.tolist(), deviations, strict=False)
        ]
    grid[-1].set_xlabel(xlabel)
    if title:
        figure.suptitle(title, parse_math=False)
    return save(figure, path, rows)


def _colors(count: int) -> list[str]:
    return [COLORS[position % len(COLORS)] for position in range(count)]


def _draw_row(axes: Any, edges: list[float], mean: Tensor, spread: Tensor | None, color: str) -> None:
    axes.stairs(mean.numpy(), edges, fill=True, color=color, alpha=0.35)
    axes.stairs(mean.numpy(), edges, color=color, linewidth=1.3)
    if spread is not None:
        low, high = (mean - spread).clamp(min=0), mean + spread
        axes.stairs(high.numpy(), edges, baseline=low.numpy(), fill=True, color=color, alpha=0.35)
