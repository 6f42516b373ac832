"""The triplet diagram: the share it names, what it draws and where, and its errors."""

import math
import sys

import pytest
import torch

from hardmine.metrics import hard_share
from papers.diagram import EASY_COLOR, HARD_COLOR, plot_triplet_diagram

pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")

S_AP = torch.tensor([0.9, 0.2, 0.5, 0.6, math.nan, 0.1])
S_AN = torch.tensor([0.1, 0.8, 0.5, 0.72, 0.7, math.nan])


def dots(axes):
    """The offsets of the easy and the hard dots, by color."""
    from matplotlib.collections import PathCollection
    from matplotlib.colors import to_hex

    scatters = [collection for collection in axes.collections if isinstance(collection, PathCollection)]
    return {to_hex(scatter.get_facecolor()[0]).upper(): scatter.get_offsets().tolist() for scatter in scatters}


def test_hard_share_ignores_nan_and_counts_ties_easy():
    assert hard_share(S_AP, S_AN) == pytest.approx(2 / 4)
    assert math.isnan(hard_share(S_AP[4:], S_AN[4:]))


@pytest.mark.slow
def test_plot_triplet_diagram_one_colored_dot_per_triplet(tmp_path, saved_figures):
    plot_triplet_diagram({"SCT": (S_AP, S_AN)}, tmp_path / "one.png")
    drawn = dots(saved_figures[0].axes[0])
    assert drawn[EASY_COLOR] == [pytest.approx([0.9, 0.1]), pytest.approx([0.5, 0.5])]
    assert drawn[HARD_COLOR] == [pytest.approx([0.2, 0.8]), pytest.approx([0.6, 0.72])]


@pytest.mark.slow
def test_plot_triplet_diagram_panels_share_axes(tmp_path, saved_figures):
    panels = {"before": (S_AP, S_AN), "after": (S_AP.clamp(min=0.4), S_AN - 0.5)}
    plot_triplet_diagram(panels, tmp_path / "two.png", title="digits")
    figure = saved_figures[0]
    first, second = figure.axes
    assert [axes.get_title() for axes in (first, second)] == ["before", "after"]
    assert "50% hard, mean (0.55, 0.53)" in [text.get_text() for text in first.texts]
    assert "0% hard, mean (0.60, 0.03)" in [text.get_text() for text in second.texts]
    assert first.get_xlim() == second.get_xlim() == first.get_ylim() == second.get_ylim()
    low, high = first.get_xlim()
    assert low <= -0.4
    assert high > 1
    assert figure.get_suptitle() == "digits"


@pytest.mark.slow
@pytest.mark.parametrize(("panels", "visible"), [(1, 1), (4, 4), (6, 6)])
def test_plot_triplet_diagram_many_panels_wrap(tmp_path, saved_figures, panels, visible):
    path = plot_triplet_diagram({f"step {k}": (S_AP, S_AN) for k in range(panels)}, tmp_path / "many.png")
    shown = [axes for axes in saved_figures[0].axes if axes.get_visible()]
    assert len(shown) == visible
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        assert (image.width > image.height) == (panels > 1)


@pytest.mark.slow
def test_plot_triplet_diagram_collapse_stays_inside_panel(tmp_path, saved_figures):
    ones = torch.ones(50)
    plot_triplet_diagram({"HN": (ones, ones)}, tmp_path / "collapse.png")
    axes = saved_figures[0].axes[0]
    assert axes.get_xlim()[0] < 0.9
    assert axes.get_xlim()[1] > 1


@pytest.mark.thinned(3)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_plot_triplet_diagram_accepts_any_floating_dtype(tmp_path, dtype):
    assert plot_triplet_diagram({"SCT": (S_AP.to(dtype), S_AN.to(dtype))}, str(tmp_path / "half.png")).is_file()


def test_plot_triplet_diagram_does_not_import_pyplot(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("matplotlib.pyplot")]:
        monkeypatch.delitem(sys.modules, name)
    plot_triplet_diagram({"SCT": (S_AP, S_AN)}, tmp_path / "one.png")
    assert "matplotlib.pyplot" not in sys.modules


@pytest.mark.parametrize(
    ("panels", "name", "message"),
    [
        ({}, "a.png", "panels must contain at least one panel, got none"),
        ({"SCT": (S_AP, S_AN[:3])}, "a.png", r"panels\['SCT'\] must be two tensors \[B\], got \[6\] and \[3\]"),
        ({"SCT": (S_AP[:, None], S_AN[:, None])}, "a.png", r"panels\['SCT'\] must be two tensors \[B\]"),
        ({"SCT": (S_AP[4:], S_AN[4:])}, "a.png", r"panels\['SCT'\] has no anchor with both"),
        ({"SCT": (S_AP, S_AN)}, "a.pdf", r"path must end in \.png, got .*a\.pdf"),
    ],
)
def test_plot_triplet_diagram_invalid_input_raises(tmp_path, panels, name, message):
    with pytest.raises(ValueError, match=message):
        plot_triplet_diagram(panels, tmp_path / name)
    assert not list(tmp_path.iterdir())
