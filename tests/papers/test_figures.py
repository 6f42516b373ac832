"""All figures: a PNG and a data file each, and their errors."""

import sys

import pytest
import torch

from figure_cases import NAN, STEPPED, history, random_set, triplets
from papers import figures
from papers.figures import Diagrams, EmbeddingSet

for needed in ("matplotlib", "PIL"):
    pytest.importorskip(needed)


RUN = random_set(train=12, test=10)
SET = EmbeddingSet(RUN.train_embeddings, RUN.train_labels)
DRAW = {
    "triplet_steps": lambda path: figures.plot_triplet_steps({"SCT": [STEPPED]}, path),
    "train_test": lambda path: figures.plot_train_test({"SCT": [STEPPED]}, path),
    "vector_field": lambda path: figures.plot_vector_field(path, points=4),
    "training": lambda path: figures.plot_training({"SCT": [history([0, 10], [0.1, 0.2], [0.5, 0.4])]}, path),
    "within_class": lambda path: figures.plot_within_class({"SCT": [RUN]}, path),
    "nearest_train": lambda path: figures.plot_nearest_train({"SCT": [RUN]}, path),
    "tsne": lambda path: figures.plot_tsne({"SCT": RUN}, path, perplexity=3),
    "group_size": lambda path: figures.plot_group_size({"EP": {2: {0: 0.5}}}, path),
}


@pytest.fixture
def draw(request):
    if request.param == "tsne":
        pytest.importorskip("sklearn")
    return DRAW[request.param]


each_figure = pytest.mark.parametrize("draw", DRAW, indirect=True)


@pytest.mark.slow
@each_figure
def test_plot_writes_reproducible_png_and_data_file(tmp_path, draw, monkeypatch):
    from PIL import Image

    for name in [name for name in sys.modules if name.startswith("matplotlib.pyplot")]:
        monkeypatch.delitem(sys.modules, name)
    path = draw(str(tmp_path / "figure.png"))
    assert "matplotlib.pyplot" not in sys.modules
    assert path == tmp_path / "figure.png"
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        assert min(image.size) > 300
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names in (["figure.csv", "figure.png"], ["figure.json", "figure.png"])
    before = [(tmp_path / name).read_bytes() for name in names]
    draw(tmp_path / "figure.png")
    assert [(tmp_path / name).read_bytes() for name in names] == before


@each_figure
def test_plot_other_suffix_raises(tmp_path, draw):
    with pytest.raises(ValueError, match=r"path must end in \.png, got .*figure\.pdf"):
        draw(tmp_path / "figure.pdf")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@each_figure
def test_plot_missing_folder_raises_oserror(tmp_path, draw):
    with pytest.raises(FileNotFoundError):
        draw(tmp_path / "none" / "figure.png")


def test_plot_failed_write_keeps_old_file(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    path = DRAW["group_size"](tmp_path / "figure.png")
    before = path.read_bytes()

    def fail(figure, part, **options):
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="No space left"):
        DRAW["group_size"](path)
    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["figure.csv", "figure.png"]


P = "a.png"


@pytest.mark.parametrize(
    ("draw", "error", "message"),
    [
        (lambda: figures.plot_triplet_steps({}, P), ValueError, "runs must contain at least one name, got none"),
        (
            lambda: figures.plot_train_test({"a": []}, P),
            ValueError,
            r"runs\['a'\] must contain at least one run, got none",
        ),
        (lambda: figures.plot_training({}, P), ValueError, "runs must contain at least one name, got none"),
        (lambda: figures.plot_within_class({"a": []}, P), ValueError, r"runs\['a'\] must contain at least one run"),
        (lambda: figures.plot_nearest_train({}, P), ValueError, "runs must contain at least one name, got none"),
        (lambda: figures.plot_tsne({}, P), ValueError, "runs must contain at least one name, got none"),
        (lambda: figures.plot_group_size({}, P), ValueError, "groups must contain at least one method, got none"),
        (
            lambda: figures.plot_group_size({"a": {2: {}}}, P),
            ValueError,
            r"groups\['a'\] must contain a seed for every",
        ),
        (lambda: figures.plot_group_size({"a": {}}, P), ValueError, r"groups\['a'\] must contain a seed for every"),
        (
            lambda: figures.plot_triplet_steps({"a": [STEPPED]}, P, iterations=[0, 9]),
            ValueError,
            "iterations must be among 0, 8, which all runs have, got 9",
        ),
        (
            lambda: figures.plot_triplet_steps({"a": [STEPPED]}, P, iterations=[]),
            ValueError,
            "iterations must contain at least one, got none",
        ),
        (
            lambda: figures.plot_triplet_steps({"a": [Diagrams({(0, "train", "after"): triplets((0, 0))})]}, P),
            ValueError,
            "runs must share an iteration with train triplets before and after its step, got none",
        ),
        (
            lambda: figures.plot_triplet_steps(
                {"a": [Diagrams({(0, "train", moment): triplets((0.5, 0.1)) for moment in ("before", "after")})]},
                P,
                hard_only=True,
            ),
            ValueError,
            r"runs\['a'\] must have triplets to show at iteration 0, got none",
        ),
        (
            lambda: figures.plot_triplet_steps({"a": [STEPPED]}, P, split="val"),
            ValueError,
            "split must be one of 'train'",
        ),
        (
            lambda: figures.plot_triplet_steps({"a": [STEPPED]}, P, max_arrows=0),
            ValueError,
            "max_arrows must be at least 1, got 0",
        ),
        (
            lambda: figures.plot_train_test({"a": [STEPPED]}, P, max_dots=0.5),
            TypeError,
            "max_dots must be an integer, got float",
        ),
        (
            lambda: figures.plot_train_test({"a": [Diagrams({(0, "train", "after"): triplets((0, 0))})]}, P),
            ValueError,
            r"runs\['a'\] must have test triplets, got none",
        ),
        (
            lambda: figures.plot_train_test({"a": [Diagrams({(0, "train", "after"): triplets((NAN, 0))})]}, P),
            ValueError,
            r"runs\['a'\] must have train triplets, got none",
        ),
        (
            lambda: figures.plot_training({"a": [history([0])]}, P),
            ValueError,
            "runs must have measured hard_share or rec",
        ),
        (
            lambda: figures.plot_training({"a": [history([0], [0.5]), history([10], [0.5])]}, P),
            ValueError,
            r"runs\['a'\] must share a step at which recall_at_1 was measured, got none",
        ),
        (
            lambda: figures.plot_training({"a": [history([0])]}, P, x="time"),
            ValueError,
            "x must be one of 'step', 'epoch'",
        ),
        (lambda: figures.plot_within_class({"a": [SET]}, P, split="val"), ValueError, "split must be one of 'train'"),
        (
            lambda: figures.plot_within_class({"a": [SET]}, P, split="test"),
            ValueError,
            r"runs\['a'\] must have test_embeddings and test_labels, got none",
        ),
        (
            lambda: figures.plot_within_class({"a": [EmbeddingSet(torch.eye(3), torch.arange(3))]}, P),
            ValueError,
            r"runs\['a'\] must have a train class of two samples, got none",
        ),
        (lambda: figures.plot_nearest_train({"a": [SET]}, P), ValueError, r"runs\['a'\] must have test_embeddings and"),
        (
            lambda: figures.plot_tsne({"a": SET}, P),
            ValueError,
            r"runs\['a'\] must have test_embeddings and test_labels",
        ),
        (
            lambda: figures.plot_tsne({"a": RUN}, P),
            ValueError,
            "perplexity must be below the 12 train samples of 'a', got 30",
        ),
        (lambda: figures.plot_tsne({"a": RUN}, P, perplexity=0), ValueError, "perplexity must be a number > 0, got 0"),
        (lambda: figures.plot_tsne({"a": RUN}, P, max_samples=1), ValueError, "max_samples must be at least 2, got 1"),
        (lambda: figures.plot_tsne({"a": RUN}, P, seed=-1), ValueError, "seed must be from 0 to 4294967295, got -1"),
        (
            lambda: figures.plot_vector_field(P, entanglements=[]),
            ValueError,
            "entanglements must contain at least one, got",
        ),
        (
            lambda: figures.plot_vector_field(P, entanglements=[2.0]),
            ValueError,
            "entanglement must be from 0 to 1, got 2",
        ),
        (lambda: figures.plot_vector_field(P, low=1.0), ValueError, "low must be from -1 and below 1, got 1.0"),
        (lambda: figures.plot_vector_field(P, low=-1.5), ValueError, "low must be from -1 and below 1, got -1.5"),
        (lambda: figures.plot_vector_field(P, low="0"), TypeError, "low must be a number, got str"),
        (lambda: figures.plot_vector_field(P, lr=0), ValueError, "lr must be a number > 0, got 0"),
        (lambda: figures.plot_vector_field(P, points=1), ValueError, "points must be at least 2, got 1"),
    ],
)
def test_plot_invalid_input_raises(tmp_path, monkeypatch, draw, error, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        draw()
    assert not list(tmp_path.iterdir())
