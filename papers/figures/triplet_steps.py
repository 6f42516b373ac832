"""How gradient steps move triplets on the triplet diagram: SCT's figure 5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hardmine.metrics import hard_share
from hardmine.ops._arguments import check_choice, check_integer
from papers._extras import require
from papers.diagram import EASY_COLOR, HARD_COLOR
from papers.figures.drawing import checked_path, checked_runs, diagram_grid, evenly, rounded, save, with_spread
from papers.figures.formats import SPLITS
from papers.figures.reading import Diagrams, Step

COLUMNS = 4  # as many iterations are shown where none are named; SCT shows 0, 4, 8 and 12
PANEL_INCHES = 2.9
BEFORE_COLOR, AFTER_COLOR = HARD_COLOR, EASY_COLOR  # red and blue in the paper, whichever side of the diagonal


def plot_triplet_steps(
    runs: Mapping[str, Sequence[Diagrams]],
    path: str | Path,
    *,
    iterations: Sequence[int] | None = None,
    split: str = "train",
    hard_only: bool = False,
    most: int = 150,
    title: str | None = None,
) -> Path:
    """Draw where gradient steps move triplets: an arrow each, from before the step to after it.

    A row a name, a column an iteration. Above each panel stands the share of hard triplets before and after the step,
    with its standard deviation over the runs of that name; the arrows are of all its runs.

    Args:
        runs: For each name its runs, as :func:`papers.figures.read_diagrams` gives them.
        path: The file to write; it must end in `.png`. The data go into a JSON beside it: for each panel its shares of
            hard triplets, a run each, and the arrows that are drawn, [s_ap, s_an] before and after.
        iterations: Which ones, in this order. By default up to 4 of those that all runs have, evenly chosen.
        split: `"train"` or `"test"`.
        hard_only: Only triplets that are hard before the step; the shares count them alone, too.
        most: Arrows in a panel; of more triplets every so many-th is drawn.
        title: Line above all panels.

    Returns:
        `path`.

    Raises:
        TypeError: `most` is no integer.
        ValueError: `runs` are empty, they share no such iteration of which both moments are there, a panel has no
            triplet, an argument is out of range, or `path` does not end in `.png`.
        OSError: A file cannot be written.
        ModuleNotFoundError: matplotlib is not installed.

    Reference:
        SCT section 6.1, figure 5.
    """
    path, runs = checked_path(path), checked_runs(runs)
    check_choice("split", split, SPLITS)
    most = check_integer("most", most, 1)
    steps = {name: [run.steps(split) for run in own] for name, own in runs.items()}
    chosen = _chosen([each for own in steps.values() for each in own], iterations, split)
    panels = [
        [_Panel(name, iteration, [_moves(run[iteration], hard_only) for run in own], most) for iteration in chosen]
        for name, own in steps.items()
    ]

    figure, _ = diagram_grid(panels, lambda axes, panel: _draw_arrows(axes, panel.drawn), PANEL_INCHES, 0.4)
    dot = {"linestyle": "none", "marker": "o", "markersize": 6}
    line_of = require("matplotlib.lines").Line2D
    legend = {
        "before the step": line_of([], [], color=BEFORE_COLOR, **dot),
        "after it": line_of([], [], color=AFTER_COLOR, **dot),
    }
    figure.legend(legend.values(), legend, loc="outside lower center", ncols=2, frameon=False)
    if title:
        figure.suptitle(title)
    return save(figure, path, {"panels": [panel.data() for row in panels for panel in row]})


class _Panel:
    """The moves of one name at one iteration: of all its runs, and those that are drawn."""

    def __init__(self, name: str, iteration: int, moves: list[Tensor], most: int) -> None:
        self.name, self.iteration = name, iteration
        if not all(map(len, moves)):
            raise ValueError(f"runs[{name!r}] must have triplets to show at iteration {iteration}, got none")
        # [R][2]: the share of hard triplets before and after
        self.hard_shares = [[hard_share(*run[:, moment].unbind(1)) for moment in range(2)] for run in moves]
        self.drawn = evenly(torch.cat(moves), most)  # [T, 2, 2]: before and after, s_ap and s_an

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
    """The iterations to show."""
    shared = sorted(set.intersection(*map(set, steps)))
    if not shared:
        raise ValueError(f"runs must share an iteration with {split} triplets before and after its step, got none")
    if iterations is None:
        return evenly(torch.tensor(shared), COLUMNS).tolist()
    if not iterations:
        raise ValueError("iterations must hold at least one, got none")
    for iteration in iterations:
        if iteration not in shared:
            known = ", ".join(map(str, shared[:20])) + (", ..." if len(shared) > 20 else "")
            raise ValueError(f"iterations must be some of {known}, which all runs have, got {iteration}")
    return list(iterations)


def _moves(step: Step, hard_only: bool) -> Tensor:
    """The triplets that are there before and after, [T, 2, 2]: before and after, s_ap and s_an."""
    moments = [torch.stack([triplets.s_ap, triplets.s_an], dim=1) for triplets in step]
    moves = torch.stack(moments, dim=1)
    kept = ~moves.isnan().any(2).any(1)
    if hard_only:
        kept &= moves[:, 0, 1] > moves[:, 0, 0]
    return moves[kept]


def _draw_arrows(axes: Any, moves: Tensor) -> None:
    """An arrow for each triplet, between its two dots."""
    (before_ap, before_an), (after_ap, after_an) = (moment.numpy().T for moment in moves.unbind(1))
    axes.quiver(
        *(before_ap, before_an, after_ap - before_ap, after_an - before_an),
        **{"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.0035, "headwidth": 4, "minlength": 0},
        **{"color": "0.35", "alpha": 0.6, "zorder": 2},
    )
    axes.scatter(before_ap, before_an, s=11, color=BEFORE_COLOR, alpha=0.75, linewidths=0, zorder=2.5)
    axes.scatter(after_ap, after_an, s=11, color=AFTER_COLOR, alpha=0.75, linewidths=0, zorder=3)
