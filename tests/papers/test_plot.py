"""`python -m papers plot`: every kind of figure, and every invalid argument or file is named."""

import csv
import json
import os
import subprocess
import sys

import pytest
import torch

from figure_cases import random_set
from papers.__main__ import main
from papers._commands.plot import KINDS
from papers.figures import DIAGRAMS, EPOCHS, GROUPS, Records, diagram_rows, save_embeddings

for needed in ("matplotlib", "safetensors", "sklearn", "tqdm"):
    pytest.importorskip(needed)

FILES = ("diagrams.csv", "epochs.csv", "embeddings.safetensors", "groups.csv")


def write_run(folder, name="SCT", seed=0):
    """Write the files that a training would leave."""
    folder.mkdir()
    s_ap, s_an = torch.rand(2, 6, generator=torch.Generator().manual_seed(seed))
    with Records(folder / "diagrams.csv", DIAGRAMS) as records:
        for step in (0, 4):
            records.write(diagram_rows(step, "before", s_ap, s_an) + diagram_rows(step, "after", s_ap, s_an / 2))
        records.write(diagram_rows(5, "after", s_ap, s_an, split="test"))
    with Records(folder / "epochs.csv", EPOCHS) as records:
        for epoch in range(3):
            measured = {"recall_at_1": (epoch + seed) / 4, "hard_share": 0.5, "loss": 1.0}
            records.write([{"epoch": epoch, "step": 10 * epoch, "run": name, **measured}])
    run = random_set(seed, train=40, test=40)
    train, test = (run.train_embeddings, run.train_labels), (run.test_embeddings, run.test_labels)
    save_embeddings(folder / "embeddings.safetensors", train=train, test=test)
    with Records(folder / "groups.csv", GROUPS) as records:
        for size in (2, 4):
            records.write([{"method": name, "images_per_class": size, "seed": seed, "recall_at_1": size / 8}])


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two seeds of one training, in folders `a` and `b` of the current folder."""
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", seed=1)
    return tmp_path


def plot(*words, capsys):
    status = main(["plot", *map(str, words)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def usage_error(*words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["plot", *map(str, words)])
    assert stop.value.code == 2
    return capsys.readouterr().err


def data(stem):
    """The rows, or panels, of a data file."""
    path = stem.with_suffix(".csv")
    if path.is_file():
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    return json.loads(stem.with_suffix(".json").read_text())["panels"]


@pytest.mark.thinned(7)
@pytest.mark.parametrize("kind", KINDS)
def test_plot_each_kind_writes_figure_and_data(runs, capsys, saved_figures, kind):
    words = {"vector-field": [], "tsne": ["a", "--perplexity", 5]}.get(kind, ["a"])
    status, out, err = plot(kind, *words, "--output", "new/here/it.png", "--title", "digits", capsys=capsys)
    assert status == 0
    assert (runs / "new/here/it.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((runs / "new/here").iterdir())) == 2
    assert saved_figures[0].get_suptitle() == "digits"
    saved = next(path.name for path in (runs / "new/here").iterdir() if path.suffix != ".png")
    assert out == f"saved new/here/it.png and {saved}\n"
    assert ("t-SNE" in err) == (kind == "tsne"), "a progress bar where it takes long"
    names = {row["run"] for row in data(runs / "new/here/it") if "run" in row}
    assert names <= ({"SCT"} if kind == "training" else {"a"})


@pytest.mark.thinned(4)
@pytest.mark.parametrize("name", ["$x$", r"$\no{formula$", "_hidden", "a$b"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "vector-field"])
def test_plot_names_and_titles_are_no_formulas(runs, capsys, saved_figures, kind, name):
    from matplotlib.text import Text

    write_run(runs / "named", name)  # group-size and training take names from files
    words = ["named" if kind == "group-size" else f"{name}=named"] + (["--perplexity", 5] if kind == "tsne" else [])
    assert plot(kind, *words, "--output", "it.png", "--title", name, capsys=capsys)[0] == 0
    shown = [text for text in saved_figures[0].findobj(Text) if name in text.get_text()]
    assert len(shown) >= 2, "title and name"
    assert not any(text.get_parse_math() for text in shown)


@pytest.mark.slow
@pytest.mark.subprocess
def test_plot_process_end_to_end(runs):
    command = [sys.executable, "-m", "papers", "plot", "training", "SCT=a", "SCT=b"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "saved runs/figures/training.png and training.csv\n"
    assert {row["repeat"] for row in data(runs / "runs/figures/training")} == {"1", "2"}


@pytest.mark.slow
def test_plot_names_group_runs(runs, capsys):
    def drawn(kind, *inputs):
        assert plot(kind, *inputs, "--output", "it.png", capsys=capsys)[0] == 0
        return data(runs / "it")

    panels = drawn("train-test", "HN=a", "SCT=a", "SCT=b/diagrams.csv")
    assert [(panel["run"], len(panel["hard_share"])) for panel in panels[:2]] == [("HN", 1), ("SCT", 2)]
    rows = drawn("training", "a", "b")
    assert {(row["run"], row["repeat"]) for row in rows} == {("SCT", "1"), ("SCT", "2")}, "the column run"
    rows = drawn("training", "x=a", "y=b/epochs.csv")
    assert {(row["run"], row["repeat"]) for row in rows} == {("x", "1"), ("y", "1")}
    rows = drawn("within-class", "a/embeddings.safetensors", "b")
    assert {row["run"] for row in rows} == {"a", "b"}, "a file has the name of its folder"
    (runs / "x=y").mkdir()
    (runs / "a" / "epochs.csv").rename(runs / "x=y" / "epochs.csv")
    rows = drawn("training", "x=y")
    assert {row["run"] for row in rows} == {"SCT"}, "a folder that is there is no NAME=RUN"
    rows = drawn("group-size", "a", "b/groups.csv")
    assert [(row["images_per_class"], row["seed"]) for row in rows] == [("2", "0"), ("2", "1"), ("4", "0"), ("4", "1")]


@pytest.mark.slow
def test_plot_options_reach_figures(runs, capsys):
    def drawn(*words):
        assert plot(*words, "--output", "it.png", capsys=capsys)[0] == 0
        found = data(runs / "it")
        for stale in runs.glob("it.*"):
            stale.unlink()
        return found

    assert [panel["iteration"] for panel in drawn("triplet-steps", "a")] == [0, 4]
    assert [panel["iteration"] for panel in drawn("triplet-steps", "a", "--iterations", "4")] == [4]
    assert [len(panel["before"]) for panel in drawn("triplet-steps", "a", "--max-arrows", 3)] == [3, 3]
    hard = drawn("triplet-steps", "a", "--hard-only")[0]["before"]
    assert 0 < len(hard) < 6
    assert all(s_an > s_ap for s_ap, s_an in hard)
    assert len(drawn("train-test", "a", "--max-dots", 2)[0]["triplets"]) == 2
    field = drawn("vector-field", "--entanglements", "1,0.25", "--lr", "0.2", "--low", "-1", "--temperature", "0.5")
    assert {row["entanglement"] for row in field} == {"1.0", "0.25"}
    assert min(float(row["s_ap"]) for row in field) == -1
    at_zero = next(row for row in field if abs(float(row["s_ap"])) + abs(float(row["s_an"])) < 1e-9)
    assert float(at_zero["delta_s_ap"]) == pytest.approx(0.4 / (1.08 * 1.04) ** 0.5, abs=1e-5)  # beta = 0.2
    train, test = (drawn("within-class", "a", "--split", split)[0]["mean_similarity"] for split in ("train", "test"))
    assert train != test
    assert {row["split"] for row in drawn("tsne", "a", "--max-samples", "12", "--perplexity", 3, "--seed", 1)} == {
        "train",
        "test",
    }
    assert drawn("training", "a", "--x", "epoch")


def test_plot_help_states_files_and_defaults(capsys):
    for words, parts in {
        ("triplet-steps", "--help"): (
            "[NAME=]RUN",
            "diagrams.csv",
            "name of its folder",
            "default: 150",
            "default: train",
        ),
        ("training", "--help"): ("epochs.csv", "its column run", "default: step"),
        ("vector-field", "--help"): ("default: 0,0.5,1", "default: 0.1", "default: runs/figures/vector-field.png"),
        ("--help",): (*KINDS, "SCT, figure 5", "EP, figure 4"),
    }.items():
        with pytest.raises(SystemExit) as stop:
            main(["plot", *words])
        assert stop.value.code == 0
        shown = " ".join(capsys.readouterr().out.split())
        for part in parts:
            assert part in shown, (words, part)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "arguments are required: KIND"),
        (["pie"], "argument KIND: invalid choice: 'pie'"),
        (["training"], "the following arguments are required: [NAME=]RUN"),
        (["training", "none"], "argument RUN: cannot read none: No such file or directory"),
        (["training", "empty"], "argument RUN: cannot read empty/epochs.csv: No such file or directory"),
        (["training", "=a"], "argument [NAME=]RUN: must be RUN or NAME=RUN, got '=a'"),
        (["training", "a="], "argument [NAME=]RUN: must be RUN or NAME=RUN, got 'a='"),
        (["training", "a", "--output", "it.pdf"], "argument --output: must end in .png, got 'it.pdf'"),
        (["training", "a", "--output", "a/epochs.csv/it.png"], "argument --output: cannot write into 'a/epochs.csv'"),
        (["training", "a", "--output", "folder.png"], "argument --output: cannot write 'folder.png': it is a folder"),
        (["vector-field", "--output", "taken.png"], "argument --output: cannot write 'taken.csv': it is a folder"),
        (["training", "a", "--x", "time"], "argument --x: invalid choice: 'time'"),
        (
            ["training", "bad"],
            "argument RUN: bad/epochs.csv, line 2, column epoch: must be an integer from 0, got 'x'",
        ),
        (["training", "HN=two"], "argument RUN: HN= is a name for one run, but two/epochs.csv contains SCT, SHN"),
        (["triplet-steps", "a", "--iterations", "0,x"], "argument --iterations: must be an integer from 0"),
        (["triplet-steps", "a", "--iterations", "0,3"], "iterations must be among 0, 4, which all runs have, got 3"),
        (["triplet-steps", "a", "--max-arrows", "0"], "argument --max-arrows: must be an integer from 1"),
        (["triplet-steps", "bad"], "argument RUN: bad/diagrams.csv, line 1: columns must be iteration,"),
        (["within-class", "a", "--split", "val"], "argument --split: invalid choice: 'val'"),
        (["within-class", "bad"], "argument RUN: bad/embeddings.safetensors is not a safetensors file"),
        (["nearest-train", "bad/../a", "two"], "argument RUN: cannot read two/embeddings.safetensors: No such file"),
        (["vector-field", "a"], "unrecognized arguments: a"),
        (["vector-field", "--entanglements", "0,x"], "argument --entanglements: must be a number, got 'x'"),
        (["vector-field", "--entanglements", "2"], "entanglement must be from 0 to 1, got 2.0"),
        (["vector-field", "--lr", "0"], "argument --lr: must be a positive number, got '0'"),
        (
            ["tsne", "x=a", "y=b", "x=b"],
            "argument RUN: t-SNE needs one run per name, because it has no mean, got 2 of 'x'",
        ),
        (["tsne", "a"], "perplexity must be below the 40 train samples of 'a', got 50"),
        (["group-size", "EP=a"], "argument RUN: EP= must be omitted: a/groups.csv names the methods"),
        (
            ["group-size", "a", "a/groups.csv"],
            "a/groups.csv: seed 0 of 'SCT' with 2 images per class is in another RUN",
        ),
        (["group-size", "bad"], "argument RUN: bad/groups.csv is empty"),
    ],
)
def test_plot_invalid_arguments_or_files_refused(runs, capsys, words, message):
    for folder in ("empty", "folder.png", "taken.csv", "bad", "two"):
        (runs / folder).mkdir()
    (runs / "bad/epochs.csv").write_text(EPOCHS.header + "\nx,1,,,,SCT\n")
    (runs / "bad/diagrams.csv").write_text(EPOCHS.header + "\n1,1,,,,SCT\n")
    (runs / "bad/embeddings.safetensors").write_text("{}")
    (runs / "bad/groups.csv").write_text("")
    (runs / "two/epochs.csv").write_text(EPOCHS.header + "\n1,1,,,,SCT\n1,1,,,,SHN\n")
    if words == ["tsne", "a"]:
        words = [*words, "--perplexity", "50"]
    before = sorted(runs.rglob("*.*"))
    assert message in usage_error(*words, capsys=capsys)
    assert sorted(runs.rglob("*.*")) == before, "nothing is written"


@pytest.mark.slow
def test_plot_truncated_file_warns_and_draws_rest(runs, capsys):
    path = runs / "a/epochs.csv"
    path.write_bytes(path.read_bytes()[:-3])
    status, _, err = plot("training", "a", capsys=capsys)
    assert status == 0
    assert err == "papers plot: a/epochs.csv, line 4: truncated: it has no line end and is ignored\n"
    assert {row["step"] for row in data(runs / "runs/figures/training")} == {"0", "10"}


def test_plot_full_disk_fails(runs, capsys, monkeypatch):
    from matplotlib.figure import Figure

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    status, out, err = plot("training", "a", capsys=capsys)
    assert (status, out) == (1, "")
    assert err == "papers plot: cannot write 'runs/figures/training.png': No space left on device\n"


def test_plot_interrupted_exits_130(runs, capsys, monkeypatch):
    from matplotlib.figure import Figure

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Figure, "savefig", interrupted)
    assert plot("training", "a", capsys=capsys) == (130, "", "interrupted\n")


def test_plot_missing_package_named_before_reading(runs, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    status, _, err = plot("tsne", "none", capsys=capsys)
    assert status == 1
    assert "papers plot: sklearn is not installed and is needed here: pip install scikit-learn" in err
