"""The effect of a gradient step on the triplet diagram: SCT's figure 2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from hardmine.ops._numbers import check_integer, check_number
from papers._extras import require
from papers.dynamics import similarity_change
from papers.figures.drawing import checked_path, new_figure, rounded, save

# In grid cells: the length of the longest arrow, and the margin for arrows that leave the grid.
LONGEST_ARROW, MARGIN = 2.4, 1.7
# Changes the wrong way count from this share of the largest change on: a similarity of 1 always falls a little.
MIN_WRONG_SHARE = 0.01
ENTANGLEMENTS = (0.0, 0.5, 1.0)
ROWS = {"delta_s_ap": r"$\Delta s_{ap}$", "delta_s_an": r"$\Delta s_{an}$"}


def plot_vector_field(
    path: str | Path,
    *,
    entanglements: Sequence[float] = ENTANGLEMENTS,
    term: str = "nca",
    lr: float = 0.1,
    temperature: float | None = None,
    margin: float | None = None,
    low: float = 0.0,
    points: int = 21,
    title: str | None = None,
) -> Path:
    """Draw the moves of triplets in one gradient step, by the entanglement of their images.

    Arrows show moves on the triplet diagram, with proportional lengths. Colors in the upper row show the change of the
    anchor-positive similarity, which should grow. Colors in the lower row show the change of the anchor-negative
    similarity, which should fall. A line bounds the regions with the opposite change. With entanglement, hard triplets
    at the top move to (1, 1).

    Args:
        path: The file to write; it must end in `.png`. The data go into a CSV beside it: entanglement, s_ap, s_an,
            delta_s_ap, delta_s_an.
        entanglements: p of each column, 0 to 1.
        term: The loss, `"nca"` or `"hinge"`, as in :func:`papers.dynamics.similarity_change`.
        lr: Learning rate alpha.
        temperature: Temperature of the NCA loss; by default 1, as in SCT.
        margin: Margin of the hinge; by default 0.2.
        low: Lower limit of both axes, from -1 to below 1. Below 0 one similarity can be negative. The entanglement
            factor ``p * s_ap * s_an`` then reverses the sign of changes.
        points: Grid points per direction, 2 or more.
        title: Line above all panels.

    Returns:
        `path`.

    Raises:
        TypeError: A numeric argument is not a number.
        ValueError: A number is out of range, `entanglements` are empty, or `path` does not end in `.png`.
        OSError: A file cannot be written.
        ModuleNotFoundError: matplotlib is not installed.

    Note:
        The positive and the negative have the similarity ``s_ap * s_an``: see :mod:`papers.dynamics`.

    Reference:
        SCT section 4, figure 2, from eq. 4 to 12.
    """
    path = checked_path(path)
    if not entanglements:
        raise ValueError("entanglements must contain at least one, got none")
    if not -1 <= check_number("low", low) < 1:
        raise ValueError(f"low must be from -1 and below 1, got {low}")
    line = torch.linspace(low, 1, check_integer("points", points, 2), dtype=torch.float64)
    s_ap, s_an = torch.meshgrid(line, line, indexing="xy")
    fields = [
        similarity_change(
            s_ap, s_an, term=term, lr=lr, temperature=temperature, margin=margin, entanglement=entanglement
        )
        for entanglement in entanglements
    ]

    columns = len(entanglements)
    x, *grids = (values.numpy() for values in (line, s_ap, s_an))
    figure = new_figure(3.1 * columns + 1.3, 7, "compressed")
    grid = figure.subplots(2, columns, squeeze=False, sharex=True, sharey=True)
    largest = max(change.abs().max().item() for field in fields for change in field)
    longest = max(torch.hypot(*field).max().item() for field in fields)
    cell = (1 - low) / (points - 1)
    every = slice(None, None, 2 if points > 12 else 1)  # in dense grids, only every second point has room for an arrow
    for column, (entanglement, field) in enumerate(zip(entanglements, fields, strict=True)):
        changes = [change.numpy() for change in field]
        for row, change in enumerate(changes):
            axes = grid[row, column]
            image = axes.pcolormesh(x, x, change, shading="nearest", cmap="PuOr_r", vmin=-largest, vmax=largest)
            wrong = change * (-1, 1)[row] > MIN_WRONG_SHARE * largest
            if wrong.any():
                axes.contour(x, x, change, levels=[0], colors="black", linewidths=1.4)
            arrows = (values[every, every] for values in (*grids, *changes))
            axes.quiver(
                *arrows,
                angles="xy",
                scale_units="xy",
                scale=longest / (LONGEST_ARROW * cell),
                width=0.006,
                color="0.15",
            )
            axes.plot([low, 1], [low, 1], color="0.45", linewidth=1, linestyle="--")
            limits = low - MARGIN * cell, 1 + MARGIN * cell
            axes.set(aspect="equal", xlim=limits, ylim=limits)
            axes.locator_params(nbins=5)
        grid[0, column].set_title(f"entanglement p = {entanglement:g}")
        grid[1, column].set_xlabel(r"anchor-positive similarity  $s_{ap}$")
    for row, name in enumerate(ROWS.values()):
        grid[row, 0].set_ylabel(r"anchor-negative similarity  $s_{an}$")
        bar = figure.colorbar(image, ax=grid[row], shrink=0.85)
        bar.set_label(f"{name} per step")
    line_of = require("matplotlib.lines").Line2D
    legend = {
        r"$s_{ap}$ falls (upper row) or $s_{an}$ grows (lower row) beyond this line": line_of(
            [], [], color="black", linewidth=1.4
        ),
        "$s_{an} = s_{ap}$": line_of([], [], color="0.45", linewidth=1, linestyle="--"),
    }
    figure.legend(legend.values(), legend, loc="outside lower center", ncols=2, frameon=False)
    if title:
        figure.suptitle(title, parse_math=False)
    rows = [
        {"entanglement": float(entanglement), "s_ap": ap, "s_an": an, "delta_s_ap": delta_ap, "delta_s_an": delta_an}
        for entanglement, field in zip(entanglements, fields, strict=True)
        for ap, an, delta_ap, delta_an in zip(
            *(rounded(values.flatten()) for values in (s_ap, s_an, *field)), strict=True
        )
    ]
    return save(figure, path, rows)
