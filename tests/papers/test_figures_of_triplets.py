"""Figures of triplets and of their moves: what they draw, and what their data files contain."""

from types import SimpleNamespace

import pytest
import torch

from figure_cases import NAN, STEPPED, panels, rows, texts, triplets
from papers import figures
from papers.figures import Diagrams
from papers.figures.drawing import diagram_grid

for needed in ("matplotlib", "PIL"):
    pytest.importorskip(needed)


# Steps of triplets: SCT, figure 5


@pytest.mark.slow
def test_plot_triplet_steps_one_arrow_per_triplet(tmp_path, saved_figures):
    from matplotlib.quiver import Quiver

    path = figures.plot_triplet_steps({"SCT": [STEPPED]}, tmp_path / "steps.png", title="digits")
    first, second = saved_figures[0].axes
    assert [first.get_title(), second.get_title()] == ["SCT, iteration 0", "SCT, iteration 8"]
    (arrows,) = (artist for artist in first.get_children() if isinstance(artist, Quiver))
    assert arrows.XY.tolist() == [[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]], "those with both similarities"
    assert arrows.U.tolist() == pytest.approx([0.1, 0, 0])
    assert arrows.V.tolist() == pytest.approx([-0.2, 0.2, -0.1])
    assert arrows.scale == 1
    assert arrows.angles == arrows.scale_units == "xy"
    assert texts(first) == ["33% → 67% hard"]
    assert texts(second) == ["100% → 0% hard"]
    assert saved_figures[0].get_suptitle() == "digits"
    data = panels(path)
    assert [(panel["run"], panel["iteration"]) for panel in data] == [("SCT", 0), ("SCT", 8)]
    assert data[0]["before"] == [[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]]
    assert data[0]["after"] == [[0.3, 0.6], [0.5, 0.7], [0.9, 0.0]]
    assert (data[0]["hard_share_before"], data[0]["hard_share_after"]) == (
        [pytest.approx(1 / 3)],
        [pytest.approx(2 / 3)],
    )


def test_plot_triplet_steps_colors_before_and_after(tmp_path, saved_figures):
    from matplotlib.colors import to_hex

    figures.plot_triplet_steps({"SCT": [STEPPED]}, tmp_path / "steps.png", iterations=[8])
    before, after = [dots for dots in saved_figures[0].axes[0].collections if type(dots).__name__ == "PathCollection"]
    assert before.get_offsets().tolist() == [[0.1, 0.2], [0.6, 0.9]]
    assert after.get_offsets().tolist() == [[0.3, 0.2], [0.6, 0.5]]
    legend = dict(
        zip(
            (text.get_text() for text in saved_figures[0].legends[0].get_texts()),
            saved_figures[0].legends[0].legend_handles,
            strict=True,
        )
    )
    assert to_hex(legend["before the step"].get_color()) == to_hex(before.get_facecolor()[0])
    assert to_hex(legend["after the step"].get_color()) == to_hex(after.get_facecolor()[0])
    assert to_hex(before.get_facecolor()[0]) != to_hex(after.get_facecolor()[0])


@pytest.mark.slow
def test_plot_triplet_steps_repeats_share_panel_with_spread(tmp_path, saved_figures):
    second_run = Diagrams(
        {
            (0, "train", "before"): triplets((0.1, 0.0), (0.1, 0.1)),
            (0, "train", "after"): triplets((0.1, 0.2), (0.1, 0.3)),
        }
    )
    path = figures.plot_triplet_steps({"HN": [second_run], "SCT": [STEPPED, second_run]}, tmp_path / "steps.png")
    assert [axes.get_title() for axes in saved_figures[0].axes] == ["HN, iteration 0", "SCT, iteration 0"], (
        "what all runs have"
    )
    # before: 1/3 and 0; after: 2/3 and 1; the standard deviation of two samples is their difference / sqrt(2)
    assert texts(saved_figures[0].axes[1]) == ["17% ± 24% → 83% ± 24% hard"]
    assert texts(saved_figures[0].axes[0]) == ["0% → 100% hard"]
    assert panels(path)[1]["hard_share_before"] == [pytest.approx(1 / 3), 0]
    assert len(panels(path)[1]["before"]) == 5


@pytest.mark.slow
def test_plot_triplet_steps_options_select_triplets(tmp_path, saved_figures):
    path = tmp_path / "steps.png"
    figures.plot_triplet_steps({"SCT": [STEPPED]}, path, hard_only=True)
    assert panels(path)[0]["before"] == [[0.2, 0.8]]
    assert texts(saved_figures[-1].axes[0]) == ["100% → 100% hard"]
    figures.plot_triplet_steps({"SCT": [STEPPED]}, path, split="test")
    assert [(panel["iteration"], panel["before"]) for panel in panels(path)] == [(8, [[0.0, 0.2]])]
    figures.plot_triplet_steps({"SCT": [STEPPED]}, path, iterations=[8, 0], max_arrows=2)
    assert [panel["iteration"] for panel in panels(path)] == [8, 0]
    assert panels(path)[1]["before"] == [[0.2, 0.8], [0.9, 0.1]], "evenly spaced"
    assert texts(saved_figures[-1].axes[1]) == ["33% → 67% hard"], "the shares are of all"


@pytest.mark.slow
def test_plot_triplet_steps_default_is_four_iterations(tmp_path):
    moment = triplets((0.2, 0.8))
    many = Diagrams({(i, "train", m): moment for i in range(0, 91, 10) for m in ("before", "after")})
    path = figures.plot_triplet_steps({"SCT": [many]}, tmp_path / "steps.png")
    assert [panel["iteration"] for panel in panels(path)] == [0, 30, 60, 90]


# Training and other classes: SCT, figure 7


@pytest.mark.slow
def test_plot_train_test_draws_last_triplets_of_both_splits(tmp_path, saved_figures):
    first_run = Diagrams(
        {
            (0, "train", "after"): triplets((0.0, 0.0)),
            (5, "train", "before"): triplets((0.5, 0.5)),
            (5, "train", "after"): triplets((0.8, 0.2), (0.6, 0.7), (NAN, 0.1)),
            (5, "test", "after"): triplets((0.4, 0.6)),
        }
    )
    second_run = Diagrams({(3, "train", "after"): triplets((0.9, 0.05)), (3, "test", "before"): triplets((0.2, 0.1))})
    path = figures.plot_train_test(
        {"SHN": [second_run], "SCT": [first_run, second_run]}, tmp_path / "tt.png", title="digits"
    )
    titles = [axes.get_title() for axes in saved_figures[0].axes]
    assert titles == ["SHN, training classes", "SCT, training classes", "SHN, other classes", "SCT, other classes"]
    assert texts(saved_figures[0].axes[0]) == ["0% hard, mean (0.90, 0.05)"]
    # shares 1/2 and 0; means (0.7, 0.45) and (0.9, 0.05)
    assert texts(saved_figures[0].axes[1]) == ["25% ± 35% hard,\nmean (0.80 ± 0.14, 0.25 ± 0.28)"]
    assert [panel["triplets"] for panel in panels(path)] == [
        [[0.9, 0.05]],
        [[0.8, 0.2], [0.6, 0.7], [0.9, 0.05]],
        [[0.2, 0.1]],
        [[0.4, 0.6], [0.2, 0.1]],
    ]
    assert panels(path)[1]["hard_share"] == [0.5, 0.0]
    assert panels(path)[1]["mean"] == [pytest.approx([0.7, 0.45]), pytest.approx([0.9, 0.05])]
    ring = saved_figures[0].axes[1].lines[-1]
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == pytest.approx((0.8, 0.25)), "runs count alike"
    limits = {(*axes.get_xlim(), *axes.get_ylim()) for axes in saved_figures[0].axes}
    assert len(limits) == 1


@pytest.mark.slow
def test_plot_train_test_max_dots_draws_subset(tmp_path, saved_figures):
    moment = triplets(*((i / 100, 0.5) for i in range(100)))
    run = Diagrams({(0, "train", "after"): moment, (0, "test", "after"): moment})
    path = figures.plot_train_test({"SCT": [run]}, tmp_path / "tt.png", max_dots=4)
    assert [dot[0] for dot in panels(path)[0]["triplets"]] == [0.0, 0.33, 0.66, 0.99]
    assert texts(saved_figures[0].axes[0]) == ["50% hard, mean (0.49, 0.50)"], "of all"


# The vector field: SCT, figure 2


@pytest.mark.slow
def test_plot_vector_field_of_hinge_moves_triplets_with_a_loss(tmp_path, saved_figures):
    path = figures.plot_vector_field(tmp_path / "field.png", points=5, entanglements=[0.0], term="hinge", margin=0.3)
    for row in rows(path):
        assert (row["delta_s_ap"] != 0) <= (row["s_an"] - row["s_ap"] + 0.3 > 0)


@pytest.mark.slow
def test_plot_vector_field_data_equal_similarity_change(tmp_path, saved_figures):
    from papers.dynamics import similarity_change

    path = figures.plot_vector_field(tmp_path / "field.png", points=5, lr=0.2)
    data = rows(path)
    assert len(data) == 3 * 5 * 5
    assert sorted({row["entanglement"] for row in data}) == [0, 0.5, 1]
    assert sorted({row["s_ap"] for row in data}) == sorted({row["s_an"] for row in data}) == [0, 0.25, 0.5, 0.75, 1]
    for row in data:
        at = torch.tensor([row["s_ap"]]), torch.tensor([row["s_an"]])
        expected = [change.item() for change in similarity_change(*at, lr=0.2, entanglement=row["entanglement"])]
        assert [row["delta_s_ap"], row["delta_s_an"]] == pytest.approx(expected, abs=1e-6)
    named = {(row["entanglement"], row["s_ap"], row["s_an"]): row for row in data}
    assert named[1, 0.5, 1]["delta_s_an"] > 0 > named[1, 1, 0.5]["delta_s_ap"]


@pytest.mark.slow
def test_plot_vector_field_draws_mesh_arrows_and_boundary(tmp_path, saved_figures):
    from matplotlib.collections import QuadMesh
    from matplotlib.contour import ContourSet
    from matplotlib.quiver import Quiver

    path = figures.plot_vector_field(tmp_path / "field.png", points=5, entanglements=[1.0, 0.0], low=-1, title="steps")
    data = {(row["entanglement"], row["s_ap"], row["s_an"]): row for row in rows(path)}
    panels = [axes for axes in saved_figures[0].axes if axes.get_xlabel() or axes.get_title() or axes.collections]
    top, top_free, bottom, bottom_free = panels[:4]
    assert [top.get_title(), top_free.get_title()] == ["entanglement p = 1", "entanglement p = 0"]
    for axes, entanglement, name in [(top, 1, "delta_s_ap"), (bottom, 1, "delta_s_an"), (bottom_free, 0, "delta_s_an")]:
        (mesh,) = (artist for artist in axes.collections if isinstance(artist, QuadMesh))
        values = mesh.get_array().reshape(5, 5)
        assert values[4, 3] == pytest.approx(data[entanglement, 0.5, 1.0][name], abs=1e-6), (
            "rows are s_an, columns s_ap"
        )
        assert mesh.norm.vmax == -mesh.norm.vmin
        (arrows,) = (artist for artist in axes.collections if isinstance(artist, Quiver))
        at = arrows.XY.tolist().index([0.5, 1.0])
        assert arrows.U[at] == pytest.approx(data[entanglement, 0.5, 1.0]["delta_s_ap"], abs=1e-6)
        assert arrows.V[at] == pytest.approx(data[entanglement, 0.5, 1.0]["delta_s_an"], abs=1e-6)
    bounded = [any(isinstance(artist, ContourSet) for artist in axes.collections) for axes in panels[:4]]
    assert bounded == [True, False, True, False], "without entanglement no change is of the wrong sign"


def test_diagram_grid_shares_scale_and_labels_edges():
    lowest = iter((0.1, 0.3, -0.4, 0.6))
    rows_of_panels = [
        [
            SimpleNamespace(title=f"{row}{column}", subtitle="below", drawn=torch.tensor([[next(lowest), 0.9]]))
            for column in "xy"
        ]
        for row in "ab"
    ]
    drawn = []
    figure, first = diagram_grid(rows_of_panels, lambda axes, panel: drawn.append((axes, panel)), 2.0, 0.4)
    assert first is figure.axes[0]
    assert drawn == list(zip(figure.axes, rows_of_panels[0] + rows_of_panels[1], strict=True))
    assert [(axes.get_title(), *texts(axes)) for axes in figure.axes] == [
        (name, "below") for name in ("ax", "ay", "bx", "by")
    ]
    assert {axes.get_xlim()[0] for axes in figure.axes} == {axes.get_ylim()[0] for axes in figure.axes} == {-0.5}
    assert [bool(axes.get_xlabel()) for axes in figure.axes] == [False, False, True, True]
    assert [bool(axes.get_ylabel()) for axes in figure.axes] == [True, False, True, False]
