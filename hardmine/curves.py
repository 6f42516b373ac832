"""Curves over the epochs of a training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hardmine._extras import require
from hardmine.train_smart import EpochResult

# Of the Okabe-Ito palette: told apart with any color vision, and in gray by their lines.
STYLES = {
    "smart": {"color": "#D55E00", "linestyle": "-", "marker": "o"},
    "random": {"color": "#0072B2", "linestyle": "--", "marker": "s"},
}
NAMES = {"smart": "mined triplets", "random": "random triplets"}


def plot_smart_mining(
    results: Sequence[EpochResult], target_error: float, path: str | Path, *, title: str | None = None
) -> Path:
    """Draw training error, kappa and Recall@1 over the epochs, side by side, and save them as a PNG.

    Args:
        results: What :meth:`hardmine.train_smart.SmartComparison.epochs` gave, of either run, in order.
        target_error: The error that the controller of kappa aims at, a dotted line.
        path: The file to write; it must end in `.png`.
        title: Line above all panels.

    Returns:
        `path`.

    Raises:
        ValueError: `results` are empty, or `path` does not end in `.png`.
        ModuleNotFoundError: matplotlib is not installed.

    Reference:
        Smart Mining, figures 3, 4 and 8.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"path must end in .png, got {str(path)!r}")
    if not results:
        raise ValueError("results must hold at least one epoch, got none")
    # The object API: no pyplot, so no display, no global state, and safe in threads and notebooks.
    figure = require("matplotlib.figure").Figure(figsize=(11, 3.6), layout="constrained")
    error_axes, kappa_axes, recall_axes = figure.subplots(1, 3)
    for name, style in STYLES.items():
        own = [result for result in results if result.run == name]
        epochs = [result.record.epoch for result in own]
        style = style | {"markersize": 4, "label": NAMES[name]}
        error_axes.plot(epochs, [result.record.error for result in own], **style)
        recall_axes.plot(epochs, [result.recall for result in own], **style)
    error_axes.axhline(target_error, color="0.4", linestyle=":", label="target")
    mined = [result.record for result in results if result.record.kappa is not None]
    kappa_axes.plot(
        [record.epoch for record in mined], [record.kappa for record in mined], **STYLES["smart"], markersize=4
    )
    kappa_axes.set_ylim(bottom=0)
    error_axes.set_ylim(0, 1)
    error_axes.yaxis.set_major_formatter(require("matplotlib.ticker").PercentFormatter(1.0, decimals=0))
    titles = {
        error_axes: "training error: triplets with a loss",
        kappa_axes: "kappa",
        recall_axes: "Recall@1, other classes",
    }
    last = max(result.record.epoch for result in results)
    for axes, text in titles.items():
        axes.set_title(text)
        axes.set_xlabel("epoch")
        axes.set_xlim(0.5, last + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.5)
    figure.legend(*error_axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    if title:
        figure.suptitle(title)
    figure.savefig(path, dpi=160)
    return path
