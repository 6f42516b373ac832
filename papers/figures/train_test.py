"""Triplet diagrams of the training classes and of other classes: SCT's figure 7."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hardmine.metrics import hard_share
from hardmine.ops._numbers import check_integer
from papers.diagram import draw_legend, draw_triplets
from papers.figures.drawing import checked_path, checked_runs, diagram_grid, evenly_spaced, rounded, save, with_spread
from papers.figures.formats import SPLITS
from papers.figures.reading import Diagrams

PANEL_INCHES = 3.1
NAMES = {"train": "training classes", "test": "other classes"}


def plot_train_test(
    runs: Mapping[str, Sequence[Diagrams]], path: str | Path, *, max_dots: int = 2000, title: str | None = None
) -> Path:
    """Draw the triplet diagrams of the training classes above those of classes that are only retrieved.

    There is one column per name. Each panel shows the latest triplets of a split: those of its last iteration, after
    the step if that moment exists. Dots are from all runs of the name, and the ring is their mean. The line above a
    panel gives the share of hard triplets and the mean similarities, with standard deviations over the runs.

    Args:
        runs: The runs per name, from :func:`papers.figures.read_diagrams`.
        path: The file to write; it must end in `.png`. The data go into a JSON beside it: per panel, the share of hard
            triplets and the mean similarities of each run, and the drawn dots, [s_ap, s_an].
        max_dots: Maximum number of dots per panel. If there are more triplets, an evenly spaced subset is drawn.
        title: Line above all panels.

    Returns:
        `path`.

    Raises:
        TypeError: `max_dots` is not an integer.
        ValueError: `runs` are empty, a run lacks a split or has no triplet in it, `max_dots` is below 1, or `path` does
            not end in `.png`.
        OSError: A file cannot be written.
        ModuleNotFoundError: matplotlib is not installed.

    Reference:
        SCT section 6.2, figure 7.
    """
    path, runs = checked_path(path), checked_runs(runs)
    max_dots = check_integer("max_dots", max_dots, 1)
    panels = [[_Panel(name, repeats, split, max_dots) for name, repeats in runs.items()] for split in SPLITS]
    figure, first = diagram_grid(
        panels, lambda axes, panel: draw_triplets(axes, *panel.drawn.unbind(1), panel.mean), PANEL_INCHES, 0.5
    )
    draw_legend(figure, first)
    if title:
        figure.suptitle(title, parse_math=False)
    return save(figure, path, {"panels": [panel.data() for row in panels for panel in row]})


class _Panel:
    """The triplets of one name and split."""

    def __init__(self, name: str, runs: list[Diagrams], split: str, max_dots: int) -> None:
        self.name, self.split = name, split
        triplets = [_last(name, run, split) for run in runs]
        self.hard_shares = [hard_share(*of_run.unbind(1)) for of_run in triplets]
        self.means = [of_run.mean(0).tolist() for of_run in triplets]
        self.drawn = evenly_spaced(torch.cat(triplets), max_dots)  # [T, 2]: s_ap and s_an

    @property
    def title(self) -> str:
        return f"{self.name}, {NAMES[self.split]}"

    @property
    def mean(self) -> tuple[float, float]:
        """The mean over the runs, with equal weights."""
        s_ap, s_an = torch.tensor(self.means).mean(0).tolist()
        return s_ap, s_an

    @property
    def subtitle(self) -> str:
        s_ap, s_an = (with_spread(means) for means in zip(*self.means, strict=True))
        gap = ", " if len(self.means) == 1 else ",\n"  # with deviations, the text is too long for one line
        return f"{with_spread(self.hard_shares, '.0%')} hard{gap}mean ({s_ap}, {s_an})"

    def data(self) -> dict[str, Any]:
        return {
            "run": self.name,
            "split": self.split,
            "hard_share": self.hard_shares,
            "mean": self.means,
            "triplets": [rounded(dot) for dot in self.drawn],
        }


def _last(name: str, run: Diagrams, split: str) -> Tensor:
    """The last triplets of a split, [T, 2]: s_ap and s_an."""
    found = run.last(split)
    triplets = torch.empty(0, 2) if found is None else torch.stack([found.s_ap, found.s_an], dim=1)
    triplets = triplets[~triplets.isnan().any(1)]
    if not len(triplets):
        raise ValueError(f"runs[{name!r}] must have {split} triplets, got none")
    return triplets
