"""The moves of triplets on the triplet diagram in gradient steps: SCT's figure 5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hardmine.metrics import hard_share
from hardmine.ops._arguments import check_choice
from hardmine.ops._numbers import check_integer
from papers._extras import require
from papers.diagram import EASY_COLOR, HARD_COLOR
from papers.figures.drawing import checked_path, checked_runs, diagram_grid, evenly_spaced, rounded, save, with_spread
from papers.figures.formats import SPLITS
from papers.figures.reading import Diagrams, Step

COLUMNS = 4  # default number of iterations; SCT shows 0, 4, 8 and 12
PANEL_INCHES = 2.9
BEFORE_COLOR, AFTER_COLOR = HARD_COLOR, EASY_COLOR  # red and blue in the paper, on both sides of the diagonal


def plot_triplet_steps(
    runs: Mapping[str, Sequence[Diagrams]],
    path: str | Path,
    *,
    iterations: Sequence[int] | None = None,
    split: str = "train",
    hard_only: bool = False,
    max_arrows: int = 150,
    title: str | None = None,
) -> Path:
    """Draw the moves of triplets in gradient steps, one arrow per triplet from before the step to after it.

    There is one row per name and one column per iteration. The text above a panel gives the share of hard triplets
    before and after the step, with its standard deviation over the name's runs. Arrows are from all these runs.

    Args:
        runs: The runs per name, from :func:`papers.figures.read_diagrams`.
        path: The file to write; it must end in `.png`. The data go into a JSON beside it: per panel, the shares of hard
            triplets of each run, and the drawn arrows, [s_ap, s_an] before and after.
        iterations: Iterations to draw, in this order. By default up to 4 of those that all runs have, evenly spaced.
        split: `"train"` or `"test"`.
        hard_only: Draw only triplets that are hard before the step. The shares count only these, too.
        max_arrows: Maximum number of arrows per panel. If there are more triplets, an evenly spaced subset is drawn.
        title: Line above all panels.

    Returns:
        `path`.

    Raises:
        TypeError: `max_arrows` is not an integer.
        ValueError: `runs` are empty, they share no such iteration with both moments, a panel has no triplet, an
            argument is out of range, or `path` does not end in `.png`.
        OSError: A file cannot be written.
        ModuleNotFoundError: matplotlib is not installed.

    Reference:
        SCT section 6.1, figure 5.
    """
    path, runs = checked_path(path), checked_runs(runs)
    check_choice("split", split, SPLITS)
    max_arrows = check_integer("max_arrows", max_arrows, 1)
    steps = {name: [run.steps(split) for run in repeats] for name, repeats in runs.items()}
    chosen = _chosen([run for repeats in steps.values() for run in repeats], iterations, split)
    panels = [
        [
            _Panel(name, iteration, [_moves(run[iteration], hard_only) for run in repeats], max_arrows)
            for iteration in chosen
        ]
        for name, repeats in steps.items()
    ]

    figure, _ = diagram_grid(panels, lambda axes, panel: _draw_arrows(axes, panel.drawn), PANEL_INCHES, 0.4)
    dot = {"linestyle": "none", "marker": "o", "markersize": 6}
    line_of = require("matplotlib.lines").Line2D
    legend = {
        "before the step": line_of([], [], color=BEFORE_COLOR, **dot),
        "after the step": line_of([], [], color=AFTER_COLOR, **dot),
    }
    figure.legend(legend.values(), legend, loc="outside lower center", ncols=2, frameon=False)
    if title:
        figure.suptitle(title, parse_math=False)
    return save(figure, path, {"panels": [panel.data() for row in panels for panel in row]})


class _Panel:
    """The moves of one name at one iteration: those of all runs, and those drawn."""

    def __init__(self, name: str, iteration: int, moves: list[Tensor], max_arrows: int) -> None:
        self.name, self.iteration = name, iteration
        if not all(map(len, moves)):
            raise ValueError(f"runs[{name!r}] must have triplets to show at iteration {iteration}, got none")
        # [R][2]: the share of hard triplets before and after
        self.hard_shares = [[hard_share(*run[:, moment].unbind(1)) for moment in range(2)] for run in moves]
        self.drawn = evenly_spaced(torch.cat(moves), max_arrows)  # [T, 2, 2]: before and after, s_ap and s_an

    @property
    def title(self) -> str:
        return f"{self.name}, iteration {self.iteration}"

    @property
    def subtitle(self) -> str:
        before, after = (with_spread(shares, ".0%") for shares in zip(*self.hard_shares, strict=True))
        return f"{before} → {after} hard"

    def data(self) -> dict[str, Any]:
        before, after = self.drawn.unbind(1)
        return {
            "run": self.name,
            "iteration": self.iteration,
            "hard_share_before": [shares[0] for shares in self.hard_shares],
            "hard_share_after": [shares[1] for shares in self.hard_shares],
            "before": [rounded(dot) for dot in before],
            "after": [rounded(dot) for dot in after],
        }


def _chosen(steps: list[dict[int, Step]], iterations: Sequence[int] | None, split: str) -> list[int]:
    """The iterations to draw."""
    shared = sorted(set.intersection(*map(set, steps)))
    if not shared:
        raise ValueError(f"runs must share an iteration with {split} triplets before and after its step, got none")
    if iterations is None:
        return evenly_spaced(torch.tensor(shared), COLUMNS).tolist()
    if not iterations:
        raise ValueError("iterations must contain at least one, got none")
    for iteration in iterations:
        if iteration not in shared:
            known = ", ".join(map(str, shared[:20])) + (", ..." if len(shared) > 20 else "")
            raise ValueError(f"iterations must be among {known}, which all runs have, got {iteration}")
    return list(iterations)


def _moves(step: Step, hard_only: bool) -> Tensor:
    """The triplets that exist both before and after, [T, 2, 2]: before and after, s_ap and s_an."""
    moments = [torch.stack([triplets.s_ap, triplets.s_an], dim=1) for triplets in step]
    moves = torch.stack(moments, dim=1)
    kept = ~moves.isnan().any(2).any(1)
    if hard_only:
        kept &= moves[:, 0, 1] > moves[:, 0, 0]
    return moves[kept]


def _draw_arrows(axes: Any, moves: Tensor) -> None:
    """Draw one arrow per triplet, between its two dots."""
    (before_ap, before_an), (after_ap, after_an) = (moment.numpy().T for moment in moves.unbind(1))
    axes.quiver(
        *(before_ap, before_an, after_ap - before_ap, after_an - before_an),
        **{"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.0035, "headwidth": 4, "minlength": 0},
        **{"color": "0.35", "alpha": 0.6, "zorder": 2},
    )
    axes.scatter(before_ap, before_an, s=11, color=BEFORE_COLOR, alpha=0.75, linewidths=0, zorder=2.5)
    axes.scatter(after_ap, after_an, s=11, color=AFTER_COLOR, alpha=0.75, linewidths=0, zorder=3)
