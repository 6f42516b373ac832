"""The command that trains from a recipe: what it prints and writes, and every refusal."""

import re
import sys

import pytest

from papers.__main__ import main
from papers.training import read_result
from papers.training.folder import FolderLock
from papers.training.trainer import Trainer
from training_cases import (
    usage_error,
)

for needed in ("matplotlib", "safetensors", "scipy", "sklearn", "tqdm"):
    pytest.importorskip(needed)
if sys.version_info < (3, 11):
    pytest.importorskip("tomli")


def test_train_prints_and_writes_results(folder, capsys):
    words = ["train", "tiny.toml", "loss.name=SCT", "--output", "out/run", "--verify-every", "4", "loss.lam=0.5"]
    assert main([*words, "--threads", "2"]) == 0
    out = capsys.readouterr().out
    assert "tiny: SHN on digits" not in out
    assert "tiny: SCT on digits" in out
    assert re.search(r"^epoch   3  step     12 .* R@1 0\.\d{3}  R@2 .* loss \d\.\d{3} ", out, re.MULTILINE)
    assert re.search(r"SCT on digits: final Recall@1 0\.\d{3}, best 0\.\d{3} \(epoch \d\)", out)
    assert "sct_loss: 3 of 12 calls checked; largest deviation: similarity" in out
    assert "saved result.json and epochs.csv in out/run" in out
    result = read_result(folder / "out/run")
    assert result["recipe"]["loss"] == {"name": "SCT", "lam": 0.5}
    assert (result["threads"], result["verified"]["every"]) == (2, 4)


def test_train_default_folder_is_recipe_name(folder):
    assert main(["train", "tiny.toml", "schedule.epochs=1"]) == 0
    assert (folder / "runs/tiny/result.json").exists()


@pytest.mark.slow
def test_train_existing_run_refused(folder, capsys):
    words = ["train", "tiny.toml", "schedule.epochs=1", "--output", "run"]
    assert main(words) == 0
    assert main(words) == 1
    assert "run/checkpoint.pt already exists: resume that run, or choose another folder" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0
    assert main([*words, "--resume", "optimizer.lr=0.2"]) == 1
    assert "optimizer.lr was 0.1, is 0.2" in capsys.readouterr().err
    (folder / "run/checkpoint.pt").unlink()
    kept = {path.name: path.read_bytes() for path in (folder / "run").iterdir()}
    assert main(words) == 1
    assert "run/result.json already exists, from a finished run: choose another" in capsys.readouterr().err
    assert kept == {path.name: path.read_bytes() for path in (folder / "run").iterdir()}


@pytest.mark.slow
def test_train_unusable_folder_refused_before_reading_data(folder, capsys, monkeypatch):
    words = ["train", "tiny.toml", "schedule.epochs=1", "--output", "run"]
    assert main(words) == 0
    monkeypatch.setattr("papers.training.load_data", lambda *a, **k: pytest.fail("data were loaded"))
    assert main(words) == 1
    assert "run/checkpoint.pt already exists" in capsys.readouterr().err
    assert main([*words, "--resume", "seed=4"]) == 1
    assert "seed was 3, is 4" in capsys.readouterr().err
    lock = FolderLock(folder / "run")
    assert main([*words, "--resume"]) == 1
    assert "papers train: another process is training in run: wait" in capsys.readouterr().err
    lock.release()
    (folder / "run/checkpoint.pt").write_bytes(b"")
    assert main([*words, "--resume"]) == 1
    assert "checkpoint.pt is not a readable checkpoint" in capsys.readouterr().err
    (folder / "run/checkpoint.pt").unlink()
    assert main(words) == 1
    assert "run/result.json already exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tiny.toml", "optimizer.lr=0"], "tiny: optimizer.lr must be a number above 0, got 0"),
        (["no-such"], "recipe must be a TOML file or one of epshn-cars"),
        (["tiny.toml", "--output", "tiny.toml/x"], "argument --output: cannot write into 'tiny.toml/x'"),
        (["tiny.toml", "--verify-every", "-1"], "argument --verify-every: must be an integer from 0"),
        (["tiny.toml", "--threads", "0"], "argument --threads: must be an integer from 1"),
        (["tiny.toml", "--device", "tpu"], "argument --device: must be cpu, cuda or cuda:N, got 'tpu'"),
        (["tiny.toml", "--device", "cuda:99"], "argument --device: cuda:99 does not exist: torch finds"),
        (["tiny.toml", "--checkpoint-minutes", "0"], "argument --checkpoint-minutes: must be a positive number"),
    ],
)
def test_train_invalid_arguments_refused(folder, capsys, monkeypatch, words, message):
    monkeypatch.setattr("papers.training.load_data", lambda *a, **k: pytest.fail("data were loaded"))
    assert message in usage_error(capsys, "train", *words)


def test_train_missing_data_fails(folder, capsys, monkeypatch):
    monkeypatch.delenv("HARDMINE_DATA", raising=False)
    assert main(["train", "sct-cub", "--output", "run"]) == 1
    message = "papers train: root must be the folder with the data of 'cub', got None: pass --data or set HARDMINE_DATA"
    assert message in capsys.readouterr().err
    assert main(["train", "sct-cub", "--output", "run", "--data", "nowhere"]) == 1
    assert "root must contain CUB-200-2011 in its official layout: nowhere does not exist" in capsys.readouterr().err


def test_train_divergence_prints_one_line(folder, capsys):
    words = ["optimizer.lr=1e30", "loss.similarity=dot", "--output", "run"]
    assert main(["train", "tiny.toml", *words]) == 1
    assert "papers train: the loss is nan in epoch 1, step" in capsys.readouterr().err


@pytest.mark.thinned(3)
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("3.png is not a readable image")])
@pytest.mark.parametrize("words", [["train", "tiny.toml"], ["experiment", "many.toml", "--seeds", "0"]])
def test_commands_failure_during_training_prints_one_line(folder, capsys, monkeypatch, words, error):
    def fail(self, *arguments):
        raise error

    monkeypatch.setattr(Trainer, "_take_step", fail)
    assert main([*words, "--output", "run"]) == 1
    assert f"papers {words[0]}: {error}\n" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["train", "tiny.toml"], ["experiment", "many.toml"]])
def test_commands_nonfinite_features_print_one_line(folder, capsys, monkeypatch, words):
    def fail(*arguments, **options):
        raise FloatingPointError("feature of image 7")

    monkeypatch.setattr("papers.training.load_data", fail)
    monkeypatch.setattr("papers.training.experiment.load_data", fail)
    assert main([*words, "--output", "run"]) == 1
    assert capsys.readouterr().err == f"papers {words[0]}: feature of image 7\n"


def test_help_lists_included_recipes(capsys):
    with pytest.raises(SystemExit):
        main(["train", "sct-cub", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "sct-cub, sct-hotels" in text
    with pytest.raises(SystemExit):
        main(["experiment", "--help"])
    assert "collapse, group-size, htl, smart-mining" in " ".join(capsys.readouterr().out.split())
