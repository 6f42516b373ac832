"""The chart: time and peak memory of a step against the batch size, log-log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rivals
from measuring import Row

# Colors of Okabe and Ito, which color-blind readers can distinguish.
STYLES = {
    rivals.OURS: ("#0072B2", 2.6, "-", "o"),
    rivals.BY_HAND: ("#D55E00", 1.6, "-", "s"),
    rivals.COMPILED: ("#E69F00", 1.6, "-", "^"),
    rivals.MATMUL: ("#888888", 1.1, (0, (4, 3)), ""),
}
LABELS = {rivals.OURS: "hardmine", rivals.BY_HAND: "PyTorch\nby hand", rivals.COMPILED: "torch.\ncompile"}
INK, GRID = "#222222", "#e4e4e4"
SMALLEST_MIB = 0.1  # about the resolution of a resident size
Curve = dict[int, float]  # N: milliseconds, or MiB


def curves(results: dict[str, Any], case: str) -> tuple[dict[str, Curve], dict[str, Curve]]:
    """The times and the peaks of each rival. Batches without a row of times have the time of the step with the peak."""
    times: dict[str, Curve] = {name: {} for name in STYLES}
    peaks: dict[str, Curve] = {name: {} for name in STYLES}
    speed = next(iter(results["speed"].values()))
    for key, found in results["peaks"].items():
        row = Row.parse(key)
        if row.case != case:
            continue
        single = {name: 1e3 * entry["seconds"] for name, entry in found.items() if "seconds" in entry}
        for name, value in speed.get(key, {}).get("ms", single).items():
            if name in times:
                times[name][row.n] = value
        for name, entry in found.items():
            if "mib" in entry:
                peaks[name][row.n] = max(entry["mib"], SMALLEST_MIB)
        peaks[rivals.MATMUL][row.n] = 4 * row.n**2 / 2**20
    return times, peaks


def advantage(lines: dict[str, Curve], word: str) -> str:
    """How much less ours takes at the largest batch that the code by hand reaches."""
    shared = sorted(lines[rivals.OURS].keys() & lines[rivals.BY_HAND].keys())
    if not shared:
        return ""
    n = shared[-1]
    return f"{lines[rivals.BY_HAND][n] / lines[rivals.OURS][n]:,.0f}x {word} by hand at N = {n:,}"


def time_label(ms: float, _: object = None) -> str:
    return f"{ms / 1000:g} s" if ms >= 1000 else f"{ms:g} ms"


def memory_label(mib: float, _: object = None) -> str:
    return f"{mib / 1024:g} GiB" if mib >= 1024 else f"{mib:g} MiB"


MEMORY_TICKS = (0.25, 1, 4, 16, 64, 256, 1024, 4096, 16384)


def draw(results: dict[str, Any], cases: tuple[str, ...], output: Path) -> None:
    """Writes OUTPUT.png and OUTPUT.svg: a row of panels per case, time on the left and memory on the right."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    style = {"svg.hashsalt": "hardmine", "svg.fonttype": "none", "font.size": 10, "axes.edgecolor": "#999999"}
    style |= {"text.color": INK, "xtick.color": INK, "ytick.color": INK, "axes.labelcolor": INK}
    with mpl.rc_context(style):
        figure = Figure(figsize=(10.4, 3.75 * len(cases) + 0.5), layout="constrained", facecolor="white")
        panels = figure.subplots(len(cases), 2, squeeze=False, sharex=True)
        for (left, right), case in zip(panels, cases, strict=True):
            times, peaks = curves(results, case)
            draw_panel(left, times, "bare\nmatmul")
            draw_panel(right, peaks, "the matrix\nalone")
            title = rivals.CASES[case].title
            for axes, what, text in (
                (left, "time", advantage(times, "faster than")),
                (right, "peak memory", advantage(peaks, "less than")),
            ):
                axes.set_title(f"{title}, {what} of a step", loc="left", fontsize=11, fontweight="bold")
                axes.text(0.03, 0.93, text, transform=axes.transAxes, va="top", color=STYLES[rivals.OURS][0])
            left.yaxis.set_major_locator(LogLocator(10))
            left.yaxis.set_major_formatter(FuncFormatter(time_label))
            right.yaxis.set_major_locator(FixedLocator(MEMORY_TICKS))
            right.yaxis.set_major_formatter(FuncFormatter(memory_label))
            for axes in (left, right):
                axes.yaxis.set_minor_locator(NullLocator())
        for axes in panels[-1]:
            axes.set_xlabel("rows of the batch, N")
            axes.xaxis.set_major_locator(FixedLocator([512, 1024, 2048, 4096, 8192, 16384, 32768]))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:,.0f}"))
            axes.xaxis.set_minor_locator(NullLocator())
        about = results["about"]
        row = Row.parse(next(iter(results["peaks"])))
        caption = f"forward + backward, float32, D = {row.d}, {about['CPU']}, torch {about['torch']}; lower is better"
        figure.supxlabel(caption, fontsize=9, color="#666666")
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output.with_suffix(".png"), dpi=110, metadata={"Software": None})
        figure.savefig(output.with_suffix(".svg"), metadata={"Date": None})


def draw_panel(axes: Any, lines: dict[str, Curve], floor: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0)
    ends = []
    for name, (color, width, dashes, marker) in STYLES.items():
        sizes = sorted(lines[name])
        if not sizes:
            continue
        values = [lines[name][n] for n in sizes]
        look = {"color": color, "linewidth": width, "linestyle": dashes, "marker": marker, "markersize": 5}
        axes.plot(sizes, values, **look, zorder=5 if name == rivals.OURS else 3)
        ends.append((sizes[-1], values[-1], LABELS.get(name, floor), color))
    all_sizes = [n for curve in lines.values() for n in curve]
    axes.set_xlim(min(all_sizes) * 0.85, max(all_sizes) * 2.1)  # room for the names of the lines
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.12)
    label_ends(axes, ends, max(lines[rivals.OURS]))


def label_ends(axes: Any, ends: list[tuple[int, float, str, str]], last_n: int) -> None:
    """Names the lines at their right ends, moved apart where two names would overlap.

    A line of a rival that ends before ours does not fit into memory beyond; its name stands above it.
    """
    low, high = axes.get_ylim()
    step = (high / low) ** 0.095  # the height of a name of two lines
    below = 0.0
    for n, value, label, color in sorted(ends, key=lambda end: end[1]):
        look = {"textcoords": "offset points", "fontsize": 9, "color": color, "linespacing": 0.95}
        look["annotation_clip"] = False
        if color == STYLES[rivals.OURS][0]:
            look["fontweight"] = "bold"
        if n < last_n and color == STYLES[rivals.MATMUL][0]:
            axes.annotate(label, (n, value), xytext=(2, -3), va="top", **look)
            continue
        if n < last_n:
            text = label.replace("\n", " ").replace(". ", ".") + ",\nthen out of memory"
            axes.annotate(text, (n, value), xytext=(-6, 5), ha="right", va="bottom", **look)
            continue
        y = max(value, below * step)
        axes.annotate(label, (n, y), xytext=(7, 0), va="center", **look)
        below = y
