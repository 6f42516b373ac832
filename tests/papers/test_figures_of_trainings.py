"""Figures of trainings and of group sizes: the mean and the spread of runs."""

import math

import pytest

from figure_cases import NAN, history, rows
from papers import figures

for needed in ("matplotlib", "PIL"):
    pytest.importorskip(needed)


# Trainings: SCT, figure 6


def test_plot_training_single_runs_draw_curves(tmp_path, saved_figures):
    runs = {
        "SCT": [history([0, 10, 20], recall=[0.25, 0.5, 0.75], hard=[NAN, 0.5, 0.25])],
        "HN": [history([0, 20], recall=[0.25, 0.125])],
    }
    path = figures.plot_training(runs, tmp_path / "training.png", title="digits")
    hard, recall = saved_figures[0].axes
    assert [hard.get_title(), recall.get_title()] == ["share of hard triplets", "Recall@1, other classes"]
    assert [list(line.get_xdata()) for line in hard.lines] == [[10, 20]]
    assert hard.lines[0].get_ydata().tolist() == [0.5, 0.25]
    assert [line.get_ydata().tolist() for line in recall.lines] == [[0.25, 0.5, 0.75], [0.25, 0.125]]
    assert [text.get_text() for text in saved_figures[0].legends[0].get_texts()] == ["SCT", "HN"]
    styles = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in recall.lines}
    assert len({color for color, _, _ in styles}) == len({line for _, line, _ in styles}) == 2, (
        "told apart in gray, too"
    )
    assert hard.get_ylim()[0] == 0
    assert recall.get_xlim() == hard.get_xlim()
    found = rows(path)
    assert found[0] == {
        **{"quantity": "hard_share", "run": "SCT", "repeat": 1, "step": 10, "epoch": 1, "value": 0.5},
        **{"mean": 0.5, "standard_deviation": None},
    }
    assert [row["value"] for row in found if row["quantity"] == "recall_at_1"] == [0.25, 0.5, 0.75, 0.25, 0.125]


@pytest.mark.slow
def test_plot_training_repeats_draw_mean_and_band(tmp_path, saved_figures):
    runs = {"SCT": [history([0, 10, 20], [0.2, 0.4, 0.9]), history([0, 10, 30], [0.4, 0.6, 0.1])]}
    path = figures.plot_training(runs, tmp_path / "training.png")
    (axes,) = saved_figures[0].axes
    first, second, mean = axes.lines
    assert (list(first.get_xdata()), list(second.get_xdata())) == ([0, 10, 20], [0, 10, 30])
    assert list(mean.get_xdata()) == [0, 10], "where both were measured"
    assert mean.get_ydata().tolist() == pytest.approx([0.3, 0.5])
    (band,) = axes.collections
    low, high = band.get_paths()[0].vertices[:, 1].min(), band.get_paths()[0].vertices[:, 1].max()
    assert (low, high) == pytest.approx((0.3 - 0.1 * math.sqrt(2), 0.5 + 0.1 * math.sqrt(2)))
    assert first.get_linewidth() < mean.get_linewidth()
    assert saved_figures[0].legends[0].get_texts()[0].get_text() == "SCT, mean ± sd of 2 runs"
    found = rows(path)
    assert [(row["repeat"], row["step"]) for row in found] == [(1, 0), (1, 10), (1, 20), (2, 0), (2, 10), (2, 30)]
    assert [row["mean"] for row in found] == [pytest.approx(0.3), 0.5, None, pytest.approx(0.3), 0.5, None]
    assert found[0]["standard_deviation"] == pytest.approx(0.1 * math.sqrt(2), abs=1e-6)


@pytest.mark.slow
def test_plot_training_over_epochs(tmp_path, saved_figures):
    path = tmp_path / "training.png"
    figures.plot_training({"SCT": [history([0, 10, 25], [0.2, 0.4, 0.9])]}, path, x="epoch")
    assert list(saved_figures[0].axes[0].lines[0].get_xdata()) == [0, 1, 2]
    assert saved_figures[0].axes[0].get_xlabel() == "epoch"
    with pytest.raises(ValueError, match="x must be 'step' for run 'SCT': recall_at_1 was measured twice in epoch 1"):
        figures.plot_training({"SCT": [history([0, 10, 15], [0.2, 0.4, 0.9])]}, path, x="epoch")
    figures.plot_training({"SCT": [history([0, 10, 15], [0.2, 0.4, NAN])]}, path, x="epoch")


# Group sizes: EP, figure 4


@pytest.mark.slow
def test_plot_group_size_draws_mean_and_error_bars(tmp_path, saved_figures):
    groups = {"HP": {2: {0: 0.4, 1: 0.6}, 8: {0: 0.3, 1: 0.3}}, "EP": {8: {3: 0.7}, 2: {3: 0.5}}}
    path = figures.plot_group_size(groups, tmp_path / "groups.png", title="digits")
    (axes,) = saved_figures[0].axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["2", "8"]
    assert axes.get_xscale() == "log"
    (hard_line, _, bars), (easy_line, _, no_bars) = (container.lines for container in axes.containers)
    assert hard_line.get_ydata().tolist() == pytest.approx([0.5, 0.3])
    assert easy_line.get_ydata().tolist() == [0.5, 0.7]
    assert easy_line.get_xdata().tolist() == pytest.approx([2, 8], rel=0.05)
    ends = bars[0].get_segments()[0][:, 1].tolist()
    assert ends == pytest.approx([0.5 - 0.1 * math.sqrt(2), 0.5 + 0.1 * math.sqrt(2)])
    assert not no_bars
    assert hard_line.get_xdata()[0] < easy_line.get_xdata()[0], "bars stand beside each other"
    assert saved_figures[0].legends[0].get_title().get_text() == "mean ± sd of seeds"
    found = rows(path)
    assert [(row["method"], row["images_per_class"], row["seed"], row["recall_at_1"]) for row in found] == [
        *(("HP", 2, 0, 0.4), ("HP", 2, 1, 0.6), ("HP", 8, 0, 0.3), ("HP", 8, 1, 0.3), ("EP", 2, 3, 0.5)),
        ("EP", 8, 3, 0.7),
    ]
    assert [row["mean"] for row in found] == [0.5, 0.5, 0.3, 0.3, 0.5, 0.7]
    assert found[0]["standard_deviation"] == pytest.approx(0.1 * math.sqrt(2), abs=1e-6)
    assert found[4]["standard_deviation"] is None
    figures.plot_group_size({"EP": {2: {0: 0.5}}}, path)
    assert saved_figures[-1].legends[0].get_title().get_text() == ""
