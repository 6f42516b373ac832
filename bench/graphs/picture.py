"""The plot: time against recall, one panel per data set."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from graphs.contestants import DEFAULT, REFINED, SEEDED, TRAVERSE_ADD
from graphs.grids import TARGET_RECALL, K
from graphs.measuring import Point

# Okabe and Ito's colors, which color-blind readers can distinguish. The markers distinguish the lines in gray too.
STYLES = {
    DEFAULT: ("#000000", "*", "hardmine,\ndefault"),
    TRAVERSE_ADD: ("#0072B2", "o", "hardmine,\ntraverse-add\nalone"),
    REFINED: ("#56B4E9", "v", "hardmine,\ntraverse-add,\nrefined"),
    SEEDED: ("#D55E00", "s", "hardmine,\nseeded with\nexact lists"),
    "hnswlib": ("#009E73", "^", "hnswlib"),
    "faiss HNSW": ("#CC79A7", "D", "faiss HNSW"),
    "faiss NNDescent": ("#E69F00", "P", "faiss\nNNDescent"),
}
GRAY = "#555555"
MIN_RECALL, MAX_RECALL = 0.8, 0.998
LINE_HEIGHT = 0.045  # as a fraction of the axes' height
TICKS = (0.8, 0.9, 0.95, 0.98, 0.99, 0.995)


def recall_coordinate(recall: float) -> float:
    """The x coordinate of a recall: each step of 1 divides the misses by ten."""
    return -math.log10(max(1 - recall, 1e-6))


def frontier(points: list[Point]) -> list[Point]:
    """The points that no other point beats in both recall and time, by ascending recall."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (-point["recall"], point["total_s"])):
        if not best or point["total_s"] < best[-1]["total_s"]:
            best.append(point)
    return best[::-1]


def draw(results: dict[str, Any], output: Path) -> bool:
    """Writes the plot; returns False if there is nothing to draw or matplotlib is not installed."""
    curves = [curve for curve in results["curve"] if len({point["family"] for point in curve["points"]}) > 1]
    if not curves:
        return False
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
    except ImportError:
        return False
    figure = Figure(figsize=(4.9 * len(curves) + 0.4, 4.7), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, curve in zip(panels, curves, strict=True):
        draw_panel(axes, curve)
        axes.xaxis.set_major_locator(FixedLocator([recall_coordinate(tick) for tick in TICKS]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{1 - 10**-x:.3f}".rstrip("0")))
        axes.yaxis.set_major_locator(FixedLocator([0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    panels[0].set_ylabel("build + all lists, relative to exact knn (log)")
    figure.suptitle(
        f"Time against recall of the {K} nearest neighbors of every row, build included; lower right is better"
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output)
    return True


GROWTH_STYLES = {
    "exact": ("#000000", "o", "exact lists"),
    "default": ("#D55E00", "*", "graph + lists, default"),
    "leaves": ("#0072B2", "s", "graph + lists, leaves"),
    "hnswlib": ("#009E73", "^", "hnswlib"),
}


def draw_growth(points: dict[str, list[Point]], output: Path) -> bool:
    """Writes the plot of processor time against N; returns False if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
    except ImportError:
        return False
    figure = Figure(figsize=(7, 4.7), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set_yscale("log")
    sizes = sorted({point["n"] for found in points.values() for point in found})
    for name, found in points.items():
        color, marker, label = GROWTH_STYLES[name]
        if found:
            n, seconds = [point["n"] for point in found], [point["cpu_s"] for point in found]
            axes.plot(n, seconds, color=color, marker=marker, linewidth=1.8, label=label)
            recall = f"recall {found[-1]['recall']:.3f}"
            axes.annotate(recall, (n[-1], seconds[-1]), (6, -3), textcoords="offset points", color=color, fontsize=8)
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g} s"))
    axes.set_xlim(sizes[0] / 1.2, sizes[-1] * 1.6)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("rows N (log)")
    axes.set_ylabel("processor time (log)")
    axes.set_title(f"Build and {K} nearest neighbors of every row, GloVe words, 50-d", fontsize=10, loc="left")
    axes.legend(frameon=False, fontsize=8.5)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output)
    return True


def draw_panel(axes: Any, curve: dict[str, Any]) -> None:
    unit = next(point["total_s"] for point in curve["points"] if point["family"] == "exact knn")
    axes.set_title(f"{curve['title']}, N = {curve['n']:,}", fontsize=10, loc="left")
    axes.set_yscale("log")
    axes.set_xlim(recall_coordinate(MIN_RECALL), recall_coordinate(MAX_RECALL))
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.axhline(1, color="black", linewidth=1.2)
    axes.axvline(recall_coordinate(TARGET_RECALL), color=GRAY, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_xlabel("recall (log scale of 1 - recall)")
    heights, ends = [1.0], [(recall_coordinate(MAX_RECALL), 1.0, "black", "exact knn")]
    for family, (color, marker, label) in STYLES.items():
        shown = [
            (recall_coordinate(point["recall"]), point["total_s"] / unit, point)
            for point in curve["points"]
            if point["family"] == family and MIN_RECALL <= point["recall"] <= MAX_RECALL
        ]
        if not shown:
            continue
        x, y, points = zip(*shown, strict=True)
        axes.plot(x, y, marker, color=color, markersize=3, alpha=0.3, markeredgewidth=0)
        best = frontier(list(points))
        x, y = [recall_coordinate(point["recall"]) for point in best], [point["total_s"] / unit for point in best]
        axes.plot(x, y, color=color, linewidth=1.8, marker=marker, markersize=4.5)
        heights += y
        ends.append((x[-1], y[-1], color, label))
    axes.set_ylim(min(heights) / 1.3, max(heights) * 1.3)
    label_lines(axes, ends)


def spread_out(preferred: list[float], sizes: list[float], low: float, high: float) -> list[float]:
    """Label centers near the ascending `preferred` ones: labels of these sizes fit in [low, high] and are disjoint."""
    found, floor = [], low
    for middle, size in zip(preferred, sizes, strict=True):
        found.append(max(middle, floor + size / 2))
        floor = found[-1] + size / 2
    ceiling = high
    for i in reversed(range(len(found))):  # labels above the top move down and push those below
        found[i] = min(found[i], ceiling - sizes[i] / 2)
        ceiling = found[i] - sizes[i] / 2
    return found


def label_lines(axes: Any, ends: list[tuple[float, float, str, str]]) -> None:
    """Labels every line (x, y, color, label) at its right end, in the margin."""
    ends = sorted(ends, key=lambda end: end[1])
    low, high = (math.log(limit) for limit in axes.get_ylim())
    line = (high - low) * LINE_HEIGHT
    sizes = [line * (1.3 + label.count("\n")) for *_, label in ends]
    middles = spread_out([math.log(y) for _, y, _, _ in ends], sizes, low, high)
    edge = recall_coordinate(MAX_RECALL)
    for (x, y, color, label), middle in zip(ends, middles, strict=True):
        text_position = (edge + 0.09, math.exp(middle))
        axes.annotate(
            label, text_position, color=color, fontsize=8.5, va="center", linespacing=1.0, annotation_clip=False
        )
        axes.plot(
            [x, edge, edge + 0.07], [y, y, text_position[1]], color=color, linewidth=0.6, linestyle=":", clip_on=False
        )
