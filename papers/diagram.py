"""The triplet diagram: one dot per triplet, at the similarities of its two pairs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from hardmine.metrics import hard_share
from papers._extras import require

# Blue and vermilion of the Okabe-Ito palette: distinguishable with any color vision, and in gray.
EASY_COLOR, HARD_COLOR = "#0072B2", "#D55E00"
PANELS_PER_ROW = 4
PANEL_INCHES = 3.1
TITLE_LETTERS = 26  # per line above a panel


def plot_triplet_diagram(
    panels: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    path: str | Path,
    *,
    title: str | None = None,
) -> Path:
    """Draw triplet diagrams side by side and save them as a PNG.

    Each triplet is a dot at (s_ap, s_an). Above the diagonal the negative is more similar to the anchor than the
    positive is: a hard triplet. Training should move the dots toward the lower right corner. If they meet at (1, 1),
    the embedding has collapsed. A ring marks the mean. All panels share their axes, so they can be compared.

    Args:
        panels: Per panel, its name and the similarities `(s_ap, s_an)`, each [B] and of any floating dtype. Anchors
            with a NaN similarity have no triplet and are left out.
        path: The file to write; it must end in `.png`.
        title: Line above all panels.

    Returns:
        `path`.

    Raises:
        ValueError: `panels` is empty, a panel has no triplet or its two tensors differ in shape, or `path` does not
            end in `.png`.
        ModuleNotFoundError: matplotlib is not installed.

    Reference:
        SCT section 3, figures 1, 5 and 7.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"path must end in .png, got {str(path)!r}")
    if not panels:
        raise ValueError("panels must contain at least one panel, got none")
    dots = {name: _triplets(name, *similarities) for name, similarities in panels.items()}

    # Not pyplot: the object API needs no display, has no global state, and is safe in threads and notebooks.
    figure_module = require("matplotlib.figure")
    columns = min(len(dots), PANELS_PER_ROW)
    rows = math.ceil(len(dots) / PANELS_PER_ROW)
    size = (PANEL_INCHES * columns + 0.8, (PANEL_INCHES + 0.6) * rows + 0.9)
    figure = figure_module.Figure(figsize=size, layout="compressed")
    figure.get_layout_engine().set(wspace=0.06)  # keeps the last tick of a panel apart from the next panel's first
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    low = axis_lower_limit(similarity for pair in dots.values() for similarity in pair)
    for axes, (name, (s_ap, s_an)) in zip(grid.flat, dots.items(), strict=False):
        mean = f"mean ({s_ap.mean().item():.2f}, {s_an.mean().item():.2f})"
        draw_frame(axes, name, f"{hard_share(s_ap, s_an):.0%} hard, {mean}", low)
        draw_triplets(axes, s_ap, s_an)
    for axes in list(grid.flat)[len(dots) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel(r"anchor-negative similarity  $s_{an}$")
    draw_legend(figure, grid[0, 0])
    if title:
        figure.suptitle(title, parse_math=False)
    figure.savefig(path, dpi=160, bbox_inches="tight")
    return path


def _triplets(name: str, s_ap: torch.Tensor, s_an: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The similarities of the anchors that have both a positive and a negative, as float32 on the CPU."""
    if s_ap.shape != s_an.shape or s_ap.ndim != 1:
        raise ValueError(f"panels[{name!r}] must be two tensors [B], got {list(s_ap.shape)} and {list(s_an.shape)}")
    s_ap, s_an = s_ap.detach().float().cpu(), s_an.detach().float().cpu()
    valid = ~(s_ap.isnan() | s_an.isnan())
    if not valid.any():
        raise ValueError(f"panels[{name!r}] has no anchor with both a positive and a negative")
    return s_ap[valid], s_an[valid]


def axis_lower_limit(similarities: Iterable[torch.Tensor]) -> float:
    """The lower limit of the axes for these similarities: a multiple of 1/4, so that the ticks are round."""
    lowest = min(similarity.min().item() for similarity in similarities)
    return max(-1.0, math.floor(lowest * 4 - 0.2) / 4)


def draw_frame(axes: Any, name: str, subtitle: str, low: float) -> None:
    """Draw an empty diagram, from `low` to 1 on both axes: title, axes, diagonal, and a tint on the hard side."""
    high = 1 + 0.03 * (1 - low)  # room for complete dots at (1, 1), where a collapsed embedding lies
    axes.fill_between([low, high], [low, high], high, color=HARD_COLOR, alpha=0.06, linewidth=0)
    axes.plot([low, high], [low, high], color="0.45", linewidth=1, zorder=1)
    title = textwrap.fill(name, TITLE_LETTERS)
    axes.set_title(title, fontweight="bold", pad=20 + 12 * subtitle.count("\n"), parse_math=False)
    axes.annotate(subtitle, (0.5, 1), (0, 6), "axes fraction", "offset points", ha="center", fontsize="medium")
    axes.set_xlabel(r"anchor-positive similarity  $s_{ap}$")
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.locator_params(nbins=5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.set_axisbelow(True)


def draw_triplets(axes: Any, s_ap: torch.Tensor, s_an: torch.Tensor, mean: tuple[float, float] | None = None) -> None:
    """Draw one dot per triplet, and a ring at their mean or at a given mean of more triplets."""
    hard = s_an > s_ap
    kinds = {
        r"easy: $s_{an} \leq s_{ap}$": (~hard, EASY_COLOR),
        r"hard: $s_{an} > s_{ap}$": (hard, HARD_COLOR),
    }
    for label, (mask, color) in kinds.items():
        axes.scatter(s_ap[mask], s_an[mask], s=9, color=color, alpha=0.45, linewidths=0, label=label)
    mean_ap, mean_an = mean or (s_ap.mean().item(), s_an.mean().item())
    # A ring keeps the dots of a collapsed embedding visible, since they all lie in one place.
    ring = {"linestyle": "none", "marker": "o", "markersize": 6, "fillstyle": "none", "clip_on": False}
    axes.plot(mean_ap, mean_an, **ring, color="white", markeredgewidth=3.5, zorder=3)
    axes.plot(mean_ap, mean_an, **ring, color="black", markeredgewidth=1.5, zorder=3, label="mean")


def draw_legend(figure: Any, axes: Any) -> None:
    """Add a legend for the dots of `axes` below all panels, in full color although the dots are faint."""
    handles, names = axes.get_legend_handles_labels()
    legend = figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, markerscale=2)
    for handle in legend.legend_handles:
        handle.set_alpha(1)
