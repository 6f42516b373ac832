"""The command that runs an experiment: what it prints and writes, how it resumes, and every refusal."""

import dataclasses
import json
import re
import sys

import pytest

from papers.__main__ import main
from papers.recipes import RecipeError, load_experiment
from papers.training import experiment, read_result
from papers.training.trainer import Trainer
from training_cases import (
    EXPERIMENT,
    stop_at,
    usage_error,
)

pytestmark = pytest.mark.slow

for needed in ("matplotlib", "safetensors", "scipy", "sklearn", "tqdm"):
    pytest.importorskip(needed)
if sys.version_info < (3, 11):
    pytest.importorskip("tomli")


def test_experiment_runs_each_training_once(folder, capsys, monkeypatch):
    words = ["experiment", "many.toml", "--output", "out", "--verify-every", "6"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert re.search(r"^\[1/4\] digits/HN/seed-0: final Recall@1 0\.\d{3}, best", out, re.MULTILINE)
    assert re.search(r"^\[2/4\] digits/SHN/seed-0: ", out, re.MULTILINE)
    assert re.search(r"^\[3/4\] digits/HN/seed-1: ", out, re.MULTILINE)
    table = (folder / "out/README.md").read_text()
    assert table in out
    assert table.startswith("# many\n\nSHN beats HN.\n\n    python -m papers experiment many.toml --verify-every 6")
    heading = (
        "## digits\n\nTraining: 891 images of 5 classes. Retrieval: 906 images of 5 other classes. "
        "3 epochs, seeds 0, 1.\n"
    )
    assert heading in table
    results = {
        (loss, seed): read_result(folder / f"out/digits/{loss}/seed-{seed}")
        for loss in ("HN", "SHN")
        for seed in (0, 1)
    }
    ends = [results["HN", seed]["last"]["recall_at_1"] for seed in (0, 1)]
    mean, spread = sum(ends) / 2, abs(ends[0] - ends[1]) / 2**0.5
    largest = max(results["HN", seed]["verified"]["largest_deviation"] for seed in (0, 1))
    row = next(line for line in table.splitlines() if line.startswith("| HN |"))
    assert row.startswith(f"| HN | {mean:.3f} ± {spread:.3f} | ")
    assert row.endswith(f" | {largest:.1e} |")
    assert f"epochs to {mean:.3f}" in table
    assert results["SHN", 1]["recipe"]["optimizer"]["lr"] == 0.05
    assert (results["SHN", 1]["seed"], results["SHN", 1]["title"]) == (1, "SHN")
    figures = {path.name for path in (folder / "out/digits/figures").glob("*.png")}
    names = ("training", "triplet-steps", "train-test", "within-class", "nearest-train")
    assert figures == {f"{name}.png" for name in names}

    path = folder / "out/digits/HN/seed-0/result.json"  # written before the key existed
    older = json.loads(path.read_text())
    del older["recipe"]["network"]["frozen_statistics"]
    path.write_text(json.dumps(older))
    monkeypatch.setattr(Trainer, "run", lambda self: pytest.fail("trained again"))
    assert main(words) == 0
    assert capsys.readouterr().out.count("(already finished)") == 4
    assert (folder / "out/README.md").read_text() == table


def test_experiment_interrupted_resumes(folder, capsys, monkeypatch):
    words = ["experiment", "many.toml", "--output", "out", "--variants", "SHN", "--seeds", "5"]
    with monkeypatch.context() as patch:
        stop_at(6, patch)
        assert main(words) == 130
    assert "the same command resumes" in capsys.readouterr().err
    first, take = [], Trainer._take_step
    monkeypatch.setattr(Trainer, "_take_step", lambda self, *a: (first.append(self.step), take(self, *a)))
    assert main(words) == 0
    assert first[0] == 7
    assert main([*words, "optimizer.lr=0.3"]) == 1
    assert "optimizer.lr was 0.05, is 0.3" in capsys.readouterr().err


ONE = ["experiment", "many.toml", "--output", "out", "--variants", "HN", "--verify-every"]


def test_experiment_different_data_fails(folder, capsys, monkeypatch):
    load = experiment.load_data
    changed = lambda *a, **k: dataclasses.replace(load(*a, **k), fingerprint="other")  # noqa: E731
    assert main([*ONE, "6", "--seeds", "0"]) == 0
    monkeypatch.setattr(Trainer, "run", lambda self: pytest.fail("trained"))
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "load_data", changed)
        assert main([*ONE, "6"]) == 1
    found = read_result(folder / "out/digits/HN/seed-0")
    print_of = found["data"]["fingerprint"]
    message = (
        f"runs of digits must use the same data, got digits ({print_of}) in out/digits/HN/seed-0 and digits (other) "
        "in out/digits/HN/seed-1"
    )
    assert message in capsys.readouterr().err
    other = folder / "out/digits/HN/seed-1"
    other.mkdir()
    found["data"]["name"], found["recipe"]["seed"] = "digits, half", 1
    (other / "result.json").write_text(json.dumps(found))
    assert main([*ONE, "6"]) == 1
    assert f"and digits, half ({print_of}) in out/digits/HN/seed-1" in capsys.readouterr().err


def test_experiment_diverged_run_records_data(folder, capsys):
    words = [*ONE, "6", "optimizer.lr=1e30", "loss.similarity=dot", "evaluation.diagrams=[5]"]
    assert main([*words, "--seeds", "0,1"]) == 0
    path = folder / "out/digits/HN/seed-1/failed.json"
    failed = json.loads(path.read_text())
    assert set(failed["data"]) == {"name", "fingerprint"}
    failed["data"]["fingerprint"] = "other"
    path.write_text(json.dumps(failed))
    assert main([*words, "--seeds", "0,1"]) == 1
    assert "and digits (other) in out/digits/HN/seed-1" in capsys.readouterr().err


def test_markdown_states_verification_interval(folder):
    table = folder / "out/README.md"
    assert main([*ONE, "0", "--seeds", "0"]) == 0
    assert "; no call was verified.\n" in table.read_text()
    assert main([*ONE, "6", "--seeds", "0,1"]) == 0
    assert "; every 6th call of each op was verified, except in some runs.\n" in table.read_text()
    assert main([*ONE, "4", "--seeds", "2,1"]) == 0
    assert "; every 4th or 6th call of each op was verified.\n" in table.read_text()


def test_markdown_states_thread_counts(folder):
    assert main([*ONE, "6", "--seeds", "0", "--threads", "2"]) == 0
    assert ", 2 threads; every 6th " in (folder / "out/README.md").read_text()
    assert main([*ONE, "6", "--seeds", "0,1", "--threads", "1"]) == 0
    assert ", 2 threads or 1 thread; every 6th " in (folder / "out/README.md").read_text()


def test_experiment_checks_all_folders_before_training(folder, capsys, monkeypatch):
    assert main([*ONE, "6", "--seeds", "1"]) == 0
    run = folder / "out/digits/HN/seed-1"
    monkeypatch.setattr(Trainer, "run", lambda self: pytest.fail("trained"))
    assert main([*ONE, "6", "optimizer.lr=0.2"]) == 1
    assert "optimizer.lr was 0.1, is 0.2" in capsys.readouterr().err
    (run / "result.json").unlink()
    assert main([*ONE, "6", "optimizer.lr=0.2"]) == 1
    assert "optimizer.lr was 0.1, is 0.2" in capsys.readouterr().err
    (run / "checkpoint.pt").write_bytes(b"PK")
    assert main([*ONE, "6"]) == 1
    assert "out/digits/HN/seed-1/checkpoint.pt is not a readable checkpoint" in capsys.readouterr().err


def test_experiment_more_epochs_prolong_finished_runs(folder):
    first = [*ONE, "6", "--seeds", "0"]
    assert main(first) == 0
    path = folder / "out/digits/HN/seed-0/result.json"
    rows = json.loads(path.read_text())["epochs"]
    assert main([*first, "schedule.epochs=5"]) == 0
    prolonged = json.loads(path.read_text())
    assert prolonged["epochs"][: len(rows)] == rows
    assert prolonged["last"]["epoch"] == prolonged["recipe"]["schedule"]["epochs"] == 5


def test_experiment_diverged_runs_are_reported(folder, capsys):
    words = ["--seeds", "0", "optimizer.lr=1e30", "loss.similarity=dot", "evaluation.diagrams=[5]"]
    assert main(["experiment", "many.toml", "--output", "out", *words]) == 0
    out = capsys.readouterr().out
    assert "digits/HN/seed-0: diverged: the loss is nan" in out
    assert "All runs diverged." in out
    assert "| HN (1 of 1 diverged) | - |" in out
    assert main(["experiment", "many.toml", "--output", "out", *words]) == 0
    assert (
        "diverged: the loss is nan in epoch 1, step 1; optimizer.lr = 1e+30 may be too large (already"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("override", "figure", "message"),
    [
        (
            "evaluation.diagrams=[]",
            "triplet-steps",
            "evaluation.diagrams must contain a step for the figure triplet-steps",
        ),
        ("evaluation.diagrams=[]", "train-test", "evaluation.diagrams must contain a step for the figure train-test"),
        ("evaluation.embeddings=false", "within-class", "evaluation.embeddings must be true for the figure within-"),
        ("evaluation.embeddings=false", "nearest-train", "evaluation.embeddings must be true for the figure nearest-"),
    ],
)
def test_load_experiment_figure_without_data_raises(folder, override, figure, message):
    every = '"training", "triplet-steps", "train-test", "within-class", "nearest-train"'
    (folder / "many.toml").write_text(EXPERIMENT.replace(every, f'"training", "{figure}"'))
    assert load_experiment("many.toml").figures == ("training", figure)
    with pytest.raises(RecipeError, match=re.escape(f"many (more, HN): {message}")):
        load_experiment("many.toml", [f"more:{override}"], datasets=["digits", "more"])
    (folder / "many.toml").write_text(EXPERIMENT.replace(every, '"training"'))
    assert load_experiment("many.toml", [override]).runs


def test_load_experiment_group_size_without_its_axis_raises(folder):
    text = EXPERIMENT.replace('"training",', '"group-size",')
    (folder / "many.toml").write_text(text)
    with pytest.raises(RecipeError, match=r"many: experiment\.axis must be sampler\.images_per_class for .* got None"):
        load_experiment("many.toml")
    (folder / "many.toml").write_text(text.replace('reach = "HN"', 'axis = "schedule.epochs"\nvalues = [2, 3]'))
    with pytest.raises(RecipeError, match=r"sampler\.images_per_class for the figure group-size, got 'schedule\.epoch"):
        load_experiment("many.toml")


def test_experiment_figure_failure_prints_one_line(folder, capsys):
    words = ["experiment", "many.toml", "--output", "out", "--variants", "HN", "--seeds", "0"]
    assert main(words) == 0
    (folder / "out/digits/HN/seed-0/epochs.csv").write_text("epoch\n1\n")
    assert main(words) == 1
    assert "papers experiment: out/digits/HN/seed-0/epochs.csv" in capsys.readouterr().err


def test_load_experiment_combines_variants_axis_and_data(folder):
    text = EXPERIMENT.replace('reach = "HN"', 'axis = "sampler.images_per_class"\nvalues = [2, 5]')
    text = text.replace('HN = { loss.name = "HN" }', 'HN = { loss.name = "HN", only = [5] }', 1)
    (folder / "many.toml").write_text(text)
    runs = load_experiment("many.toml", ["more:optimizer.lr=7"], datasets=["digits", "more"], seeds=[3]).runs
    assert [(run.dataset, run.variant, run.value, run.seed) for run in runs] == [
        (dataset, *run) for dataset in ("digits", "more") for run in (("HN", 5, 3), ("SHN", 2, 3), ("SHN", 5, 3))
    ]
    assert [run.recipe.sampler.images_per_class for run in runs] == [5, 2, 5] * 2
    assert [run.recipe.optimizer.lr for run in runs] == [0.1, 0.05, 0.05, 7, 7, 7]
    assert [run.recipe.schedule.epochs for run in runs] == [3, 3, 3, 2, 2, 2]
    assert (runs[0].folder, runs[0].recipe.title) == ("digits/HN-5/seed-3", "HN, 5")
    (folder / "many.toml").write_text(text.replace("only = [5]", "only = [5, 5]"))
    with pytest.raises(RecipeError, match=r"many: experiment\.variants\.HN\.only must be distinct, got 5 more than"):
        load_experiment("many.toml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "[experiment.variants]\n",
            "[experiment.variant]\n",
            "experiment.variants must be tables, [experiment.variants.NAME], got {}",
        ),
        ('HN = { loss.name = "HN" }\n', "HN = 3\n", "experiment.variants.HN must be a table, got 3"),
        ("seeds = [0, 1]", "seeds = [-1]", "experiment.seeds must be a list, each item an integer from 0"),
        ("seeds = [0, 1]", "seeds = [0, 1, 0]", "many: experiment.seeds must be distinct, got 0 more than once"),
        (
            'reach = "HN"',
            'axis = "sampler.images_per_class"\nvalues = [5, 2, 2]',
            "many: experiment.values must be distinct, got 2 more than once",
        ),
        ('reach = "HN"', 'reach = "EP"', "experiment.reach must be one of HN, SHN, got 'EP'"),
        ('reach = "HN"', "values = [2]", "experiment.axis and experiment.values must be given together, got only one"),
        ('"training",', '"tea",', "experiment.figures must be a list, each item one of group-size,"),
        ('claim = "SHN beats HN."', "", "experiment.claim is missing: it must be a string"),
        ('loss.name = "HN"', "seed = 3", "experiment.variants.HN must have values as section.key, got seed = 3"),
        ('loss.name = "HN"', "loss.nam = 3", "many (digits, HN): unknown key loss.nam = 3"),
        ("schedule.epochs = 2", "only = [2]", "experiment.datasets.more must have values as section.key, got only"),
    ],
)
def test_load_experiment_invalid_section_names_key(folder, capsys, old, new, message):
    assert old in EXPERIMENT
    (folder / "many.toml").write_text(EXPERIMENT.replace(old, new, 1))
    assert message in usage_error(capsys, "experiment", "many.toml")


def test_experiment_duplicate_choice_refused(folder, capsys):
    for flag, words, message in (
        ("--on", "digits,more,digits", "many: datasets must be distinct, got 'digits' more than once"),
        ("--variants", "SHN,SHN", "many: variants must be distinct, got 'SHN' more than once"),
        ("--seeds", "0,3,00", "many: seeds must be distinct, got 0 more than once"),
    ):
        assert message in usage_error(capsys, "experiment", "many.toml", flag, words)


def test_experiment_unknown_choice_refused(folder, capsys):
    for flag, message in {
        "--on": "datasets must be among digits, more, got 'cub'",
        "--variants": "variants must be among HN, SHN, got 'cub'",
    }.items():
        assert message in usage_error(capsys, "experiment", "many.toml", flag, "cub")
    assert "must be integers separated by commas, got 'cub'" in usage_error(
        capsys, "experiment", "many.toml", "--seeds", "cub"
    )
    assert "the section [experiment] is missing" in usage_error(capsys, "experiment", "tiny.toml")
    with pytest.raises(RecipeError, match="data sets of overrides must be among digits, more, got 'cub'"):
        load_experiment("many.toml", ["cub:optimizer.lr=1"])
    with pytest.raises(FileNotFoundError, match="got 'no-such'"):
        load_experiment("no-such")
