"""Code that the figures share: colors, axes, mean and spread of repeated runs, and saving."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from papers._extras import require
from papers._files import save_atomically, save_csv, save_json
from papers.diagram import axis_lower_limit, draw_frame

# Okabe and Ito's palette, distinguishable with any color vision; without its yellow, which is faint on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)))

DPI = 160
LETTERS_PER_INCH, HANDLE_LETTERS, LINE_INCHES = 11, 7, 0.22  # of a legend
_DIGITS = 6  # of the numbers in the data files; a figure shows fewer

Run = TypeVar("Run")


def checked_runs(runs: Mapping[str, Sequence[Run]]) -> dict[str, list[Run]]:
    """``runs`` as lists, checked to hold at least one name and one run per name."""
    if not runs:
        raise ValueError("runs must contain at least one name, got none")
    for name, repeats in runs.items():
        if not repeats:
            raise ValueError(f"runs[{name!r}] must contain at least one run, got none")
    return {name: list(repeats) for name, repeats in runs.items()}


def checked_path(path: str | Path) -> Path:
    """``path`` as a Path, checked to end in .png."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"path must end in .png, got {str(path)!r}")
    return path


def new_figure(width: float, height: float, layout: str = "constrained") -> Any:
    """A figure of this size in inches. Not pyplot: the object API needs no display and is thread-safe."""
    return require("matplotlib.figure").Figure(figsize=(width, height), layout=layout)


def diagram_grid(
    panels: Sequence[Sequence[Any]], draw: Callable[[Any, Any], object], panel_inches: float, title_inches: float
) -> tuple[Any, Any]:
    """A figure of triplet diagrams with a common scale, and the axes of its first panel.

    Args:
        panels: Rows of equally many panels. A panel has a `title`, a `subtitle`, and the points `drawn`, [..., 2].
        draw: Called with the axes and the panel, after the frame is drawn.
        panel_inches: Width and height of a panel.
        title_inches: Height of the text above a panel.
    """
    rows, columns = len(panels), len(panels[0])
    figure = new_figure(panel_inches * columns + 0.8, (panel_inches + title_inches) * rows + 0.8, "compressed")
    figure.get_layout_engine().set(wspace=0.06, h_pad=0.1)  # keeps ticks and titles of neighboring panels apart
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    flat = [panel for row in panels for panel in row]
    low = axis_lower_limit(panel.drawn for panel in flat)
    for axes, panel in zip(grid.flat, flat, strict=True):
        draw_frame(axes, panel.title, panel.subtitle, low)
        draw(axes, panel)
    for axes in grid[:, 0]:
        axes.set_ylabel(r"anchor-negative similarity  $s_{an}$")
    for axes in grid[:-1].flat:
        axes.set_xlabel("")
    return figure, grid[0, 0]


def line_style(position: int) -> dict[str, Any]:
    """Color, line style and marker by position: distinguishable in gray too."""
    return {
        "color": COLORS[position % len(COLORS)],
        "linestyle": LINES[position % len(LINES)],
        "marker": MARKERS[position % len(MARKERS)],
    }


def tidy(axes: Any) -> None:
    """Give the axes a faint grid, and remove the frame above and on the right."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.set_axisbelow(True)


def legend_below(figure: Any, entries: Mapping[str, Any], title: str | None = None) -> None:
    """Add a legend of these names and lines below all panels, in as many columns as fit, and make room for it.

    A name is shown as it is: `$x$` is no formula.
    """
    letters = max(map(len, entries)) + HANDLE_LETTERS
    columns = min(len(entries), max(1, int(figure.get_figwidth() * LETTERS_PER_INCH / letters)))
    lines = math.ceil(len(entries) / columns) + (title is not None)
    figure.set_figheight(figure.get_figheight() + LINE_INCHES * lines)
    legend = figure.legend(
        entries.values(), entries, loc="outside lower center", ncols=columns, frameon=False, title=title
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def mean_and_spread(values: Tensor) -> tuple[Tensor, Tensor | None]:
    """Mean [...] and sample standard deviation [...] of [R, ...] over R runs; the latter is None for one run."""
    return values.mean(0), values.std(0) if len(values) > 1 else None


def with_spread(values: Sequence[float], form: str = ".2f") -> str:
    """The mean of numbers as text, with their standard deviation if there are several."""
    mean, spread = mean_and_spread(torch.tensor(values, dtype=torch.float64))
    return f"{mean:{form}}" if spread is None else f"{mean:{form}} ± {spread:{form}}"


def evenly_spaced(values: Tensor, max_count: int) -> Tensor:
    """At most `max_count` of the rows [N, ...], evenly spaced; two or more include the first and the last row."""
    if len(values) <= max_count:
        return values
    return values[torch.linspace(0, len(values) - 1, max_count, dtype=torch.float64).round().long()]


def save(figure: Any, path: Path, data: Sequence[Mapping[str, Any]] | Mapping[str, Any]) -> Path:
    """Save the figure, and its data under the same stem: rows as CSV, anything else as JSON.

    Writes are atomic. The data file is written first, so a figure never exists without its data.
    """
    if isinstance(data, Mapping):
        save_json(path.with_suffix(".json"), data)
    else:
        rows = [{name: _shortened(value) for name, value in row.items()} for row in data]
        save_csv(path.with_suffix(".csv"), list(rows[0]), rows)
    save_atomically(path, lambda temp_path: figure.savefig(temp_path, dpi=DPI, format="png", bbox_inches="tight"))
    return path


def rounded(values: Tensor) -> list[float]:
    """Numbers rounded for the data files."""
    return [_shortened(value) for value in values.tolist()]


def _shortened(value: Any) -> Any:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
