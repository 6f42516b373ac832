"""Share of hard triplets and Recall@1 during a training: SCT's figure 6."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hardmine.ops._arguments import check_choice
from papers._extras import require
from papers.figures.drawing import (
    checked_path,
    checked_runs,
    legend_below,
    line_style,
    mean_and_spread,
    new_figure,
    save,
    tidy,
)
from papers.figures.reading import History

QUANTITIES = {"hard_share": "share of hard triplets", "recall_at_1": "Recall@1, other classes"}
X_LABELS = {"step": "gradient step", "epoch": "epoch"}
MARKERS_PER_LINE = 12


class Point(NamedTuple):
    """One measurement."""

    step: int
    epoch: int
    value: float


class Shared(NamedTuple):
    """The x values where all runs of a name were measured, and the mean and spread there."""

    x_values: list[int]
    mean: Tensor
    spread: Tensor | None


Curve = dict[int, Point]  # by the place on the x axis


def plot_training(
    runs: Mapping[str, Sequence[History]], path: str | Path, *, x: str = "step", title: str | None = None
) -> Path:
    """Draw the share of hard triplets and Recall@1 during the training, side by side.

    If a name has several runs, each run is a thin line. A thick line is their mean, in a band of one standard deviation
    to either side, wherever all runs were measured. A quantity that no run measured has no panel.

    Args:
        runs: The runs per name, from :func:`papers.figures.read_histories`.
        path: The file to write; it must end in `.png`. The data go into a CSV beside it: quantity, run, repeat (the
            run's number, from 1), step, epoch, value, and mean and standard_deviation of the repeats.
        x: `"step"` or `"epoch"`. With `"epoch"`, a run may have one measurement per epoch.
        title: Line above both panels.

    Returns:
        `path`.

    Raises:
        ValueError: `runs` are empty or measured nothing, an epoch has several measurements, `x` is something else, or
            `path` does not end in `.png`.
        OSError: A file cannot be written.
        ModuleNotFoundError: matplotlib is not installed.

    Reference:
        SCT section 6.1, figure 6.
    """
    path, runs = checked_path(path), checked_runs(runs)
    check_choice("x", x, tuple(X_LABELS))
    panels = {}
    for quantity in QUANTITIES:
        curves = {name: [_curve(name, run, quantity, x) for run in repeats] for name, repeats in runs.items()}
        if any(any(repeats) for repeats in curves.values()):
            panels[quantity] = curves
    if not panels:
        raise ValueError(f"runs must have measured {' or '.join(QUANTITIES)}, got neither")

    figure = new_figure(4.6 * len(panels) + 0.4, 3.8)
    grid = figure.subplots(1, len(panels), squeeze=False, sharex=True)
    rows: list[dict[str, Any]] = []
    legend: dict[str, Any] = {}
    for axes, (quantity, curves) in zip(grid[0], panels.items(), strict=True):
        for position, (name, repeats) in enumerate(curves.items()):
            if any(repeats):
                shared = _shared(name, repeats, quantity, x)
                rows += _rows(quantity, name, repeats, shared)
                title_of_line = name if len(repeats) == 1 else f"{name}, mean ± sd of {len(repeats)} runs"
                legend[title_of_line] = _draw(axes, repeats, shared, position)
        axes.set_title(QUANTITIES[quantity])
        axes.set_xlabel(X_LABELS[x])
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.margins(x=0.02)
        tidy(axes)
        if quantity == "hard_share":
            axes.set_ylim(0, min(1.0, axes.get_ylim()[1]))
            axes.yaxis.set_major_formatter(require("matplotlib.ticker").PercentFormatter(1.0, decimals=0))
    legend_below(figure, legend)
    if title:
        figure.suptitle(title, parse_math=False)
    return save(figure, path, rows)


def _curve(name: str, run: History, quantity: str, x: str) -> Curve:
    values: Tensor = getattr(run, quantity)
    measured = ~values.isnan()
    curve: Curve = {}
    columns = (column[measured].tolist() for column in (run.step, run.epoch, values))
    for step, epoch, value in zip(*columns, strict=True):
        at = {"step": step, "epoch": epoch}[x]
        if at in curve:
            raise ValueError(f"x must be 'step' for run {name!r}: {quantity} was measured twice in epoch {epoch}")
        curve[at] = Point(step, epoch, value)
    return curve


def _shared(name: str, curves: list[Curve], quantity: str, x: str) -> Shared:
    """Mean and spread wherever all curves have a point."""
    x_values = sorted(set.intersection(*map(set, curves)))
    if not x_values:
        raise ValueError(f"runs[{name!r}] must share a {x} at which {quantity} was measured, got none")
    values = torch.tensor([[curve[at].value for at in x_values] for curve in curves], dtype=torch.float64)
    mean, spread = mean_and_spread(values)
    return Shared(x_values, mean, spread)


def _rows(quantity: str, name: str, curves: list[Curve], shared: Shared) -> list[dict[str, Any]]:
    spread = [None] * len(shared.x_values) if shared.spread is None else shared.spread.tolist()
    means = dict(zip(shared.x_values, zip(shared.mean.tolist(), spread, strict=True), strict=True))
    rows = []
    for repeat, curve in enumerate(curves, 1):
        for at, point in curve.items():
            mean, deviation = means.get(at, (None, None))
            row = {"quantity": quantity, "run": name, "repeat": repeat, **point._asdict()}
            rows.append(row | {"mean": mean, "standard_deviation": deviation})
    return rows


def _draw(axes: Any, curves: list[Curve], shared: Shared, position: int) -> Any:
    """Draw the curves of one name. Return the line for the legend."""
    style = line_style(position)
    if shared.spread is not None:
        for curve in curves:
            values = [point.value for point in curve.values()]
            axes.plot(list(curve), values, color=style["color"], linewidth=0.7, alpha=0.4)
        low, high = shared.mean - shared.spread, shared.mean + shared.spread
        axes.fill_between(shared.x_values, low, high, color=style["color"], alpha=0.18, linewidth=0)
    every = max(1, len(shared.x_values) // MARKERS_PER_LINE)
    offset = position * every // 4  # overlapping lines don't hide each other's markers
    (line,) = axes.plot(shared.x_values, shared.mean, **style, markersize=4.5, markevery=(offset, every))
    return line
