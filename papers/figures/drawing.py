"""What the figures share: colors, axes, mean and spread of repeated runs, and saving."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from papers._extras import require
from papers._files import save_csv, save_json, save_whole
from papers.diagram import draw_frame, lowest_shown

# Okabe and Ito's palette, but for its yellow, which white paper swallows: told apart with any color vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)))

DPI = 160
LETTERS_AN_INCH, HANDLE_LETTERS, LINE_INCHES = 11, 7, 0.22  # of a legend
_DIGITS = 6  # of the numbers in the data files: more than a picture shows

Run = TypeVar("Run")


def checked_runs(runs: Mapping[str, Sequence[Run]]) -> dict[str, list[Run]]:
    """``runs`` as lists; there is a name, and a run of every name."""
    if not runs:
        raise ValueError("runs must hold at least one name, got none")
    for name, own in runs.items():
        if not own:
            raise ValueError(f"runs[{name!r}] must hold at least one run, got none")
    return {name: list(own) for name, own in runs.items()}


def checked_path(path: str | Path) -> Path:
    """``path`` as one that ends in .png."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"path must end in .png, got {str(path)!r}")
    return path


def new_figure(width: float, height: float, layout: str = "constrained") -> Any:
    """A figure of this size in inches. The object API: no pyplot, so no display, no global state, safe in threads."""
    return require("matplotlib.figure").Figure(figsize=(width, height), layout=layout)


def diagram_grid(
    panels: Sequence[Sequence[Any]], draw: Callable[[Any, Any], object], panel_inches: float, title_inches: float
) -> tuple[Any, Any]:
    """A figure of triplet diagrams to one scale, and the axes of its first panel.

    Args:
        panels: Rows of as many panels each; a panel has a `title`, a `subtitle`, and what is `drawn`, [..., 2].
        draw: Called with the axes and the panel, once its frame is there.
        panel_inches: Width and height of a panel.
        title_inches: Height of what stands above each.
    """
    rows, columns = len(panels), len(panels[0])
    figure = new_figure(panel_inches * columns + 0.8, (panel_inches + title_inches) * rows + 0.8, "compressed")
    figure.get_layout_engine().set(wspace=0.06, h_pad=0.1)  # ticks and titles of two panels stay apart
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    flat = [panel for row in panels for panel in row]
    low = lowest_shown(panel.drawn for panel in flat)
    for axes, panel in zip(grid.flat, flat, strict=True):
        draw_frame(axes, panel.title, panel.subtitle, low)
        draw(axes, panel)
    for axes in grid[:, 0]:
        axes.set_ylabel(r"anchor-negative similarity  $s_{an}$")
    for axes in grid[:-1].flat:
        axes.set_xlabel("")
    return figure, grid[0, 0]


def line_style(position: int) -> dict[str, Any]:
    """Color, line and marker of the line at a position: told apart in gray, too."""
    return {
        "color": COLORS[position % len(COLORS)],
        "linestyle": LINES[position % len(LINES)],
        "marker": MARKERS[position % len(MARKERS)],
    }


def tidy(axes: Any) -> None:
    """Axes with a faint grid behind, and no frame above and on the right."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.set_axisbelow(True)


def legend_below(figure: Any, entries: Mapping[str, Any], title: str | None = None) -> None:
    """A legend of these names and lines below all panels, in as many columns as fit; it makes the figure higher."""
    letters = max(map(len, entries)) + HANDLE_LETTERS
    columns = min(len(entries), max(1, int(figure.get_figwidth() * LETTERS_AN_INCH / letters)))
    lines = math.ceil(len(entries) / columns) + (title is not None)
    figure.set_figheight(figure.get_figheight() + LINE_INCHES * lines)
    figure.legend(entries.values(), entries, loc="outside lower center", ncols=columns, frameon=False, title=title)


def mean_and_spread(values: Tensor) -> tuple[Tensor, Tensor | None]:
    """Mean [...] and standard deviation [...] of [R, ...] over R runs, that of a sample; None for one run."""
    return values.mean(0), values.std(0) if len(values) > 1 else None


def with_spread(values: Sequence[float], form: str = ".2f") -> str:
    """The mean of some numbers as text, with their standard deviation if they are several."""
    mean, spread = mean_and_spread(torch.tensor(values, dtype=torch.float64))
    return f"{mean:{form}}" if spread is None else f"{mean:{form}} ± {spread:{form}}"


def evenly(values: Tensor, most: int) -> Tensor:
    """At most so many of the rows [N, ...], evenly spaced; of two or more, the first and the last are among them."""
    if len(values) <= most:
        return values
    return values[torch.linspace(0, len(values) - 1, most, dtype=torch.float64).round().long()]


def save(figure: Any, path: Path, data: Sequence[Mapping[str, Any]] | Mapping[str, Any]) -> Path:
    """Save the picture, and beside it what it shows: rows as CSV, anything else as JSON, under the same stem.

    Each file is whole or not there. The data come first: a picture never stands without them.
    """
    if isinstance(data, Mapping):
        save_json(path.with_suffix(".json"), data)
    else:
        rows = [{name: _shortened(value) for name, value in row.items()} for row in data]
        save_csv(path.with_suffix(".csv"), list(rows[0]), rows)
    save_whole(path, lambda part: figure.savefig(part, dpi=DPI, format="png", bbox_inches="tight"))
    return path


def rounded(values: Tensor) -> list[float]:
    """Numbers as the data files have them."""
    return [_shortened(value) for value in values.tolist()]


def _shortened(value: Any) -> Any:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
