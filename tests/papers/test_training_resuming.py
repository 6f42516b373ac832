"""Interrupted trainings from recipes: their checkpoints, and that they resume bit for bit from any step."""

import dataclasses
import hashlib
import json
import os
import re
import signal
import zipfile
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

import papers
from hardmine.mining.embedding import embed_all
from papers.figures import read_histories
from papers.training import Trainer, read_result
from papers.training.checkpoint import FILE, load_checkpoint, save_checkpoint
from papers.training.measures import EpochMeasures
from support.inputs import seeded
from training_cases import KINDS, QUIET, equal_states, final_state, recipe_of, small_digits, stop_at, trained

pytestmark = pytest.mark.slow

for needed in ("matplotlib", "safetensors", "scipy", "sklearn", "tqdm"):
    pytest.importorskip(needed)


@pytest.fixture(scope="module")
def data():
    return small_digits()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [1, 3, 9])
def test_trainer_interrupted_resumes_bit_for_bit(tmp_path, data, monkeypatch, kind, step):
    recipe = recipe_of(**KINDS[kind])
    undisturbed = trained(recipe, data, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_at(step, patch)
        with pytest.raises(KeyboardInterrupt, match=r"a checkpoint of epoch \d, step \d+ is in "):
            trained(recipe, data, tmp_path / "cut")
    torch.rand(3)  # draws in the meantime do not matter
    resumed = trained(recipe, data, tmp_path / "cut", resume=True)
    assert equal_states(final_state(tmp_path / "whole"), final_state(tmp_path / "cut"))
    assert resumed.report == undisturbed.report
    for name in ("epochs.csv", "diagrams.csv", "embeddings.safetensors"):
        if (tmp_path / "whole" / name).exists():
            assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_trainer_resumes_on_each_device(tmp_path, data, monkeypatch, kind, device):
    recipe, options = recipe_of(**KINDS[kind]), dataclasses.replace(QUIET, device=device)
    with monkeypatch.context() as patch:
        stop_at(3, patch)
        with pytest.raises(KeyboardInterrupt):
            trained(recipe, data, tmp_path, options)
    found = trained(recipe, data, tmp_path, options, resume=True)
    assert {parameter.device.type for parameter in found.network.parameters()} == {device}
    assert found.epoch == recipe.schedule.epochs
    assert found.report.ops


def test_trainer_crash_loses_only_steps_since_checkpoint(tmp_path, data, monkeypatch):
    recipe = recipe_of()
    trained(recipe, data, tmp_path / "whole")
    options = dataclasses.replace(QUIET, checkpoint_steps=3)

    def crash():
        raise RuntimeError("the machine is on fire")

    with monkeypatch.context() as patch:
        stop_at(10, patch, crash)
        with pytest.raises(RuntimeError, match="on fire"):
            trained(recipe, data, tmp_path / "cut", options)
    saved = load_checkpoint(tmp_path / "cut/checkpoint.pt")
    assert (saved["epoch"], saved["batch"], saved["step"]) == (2, 1, 9)
    with (tmp_path / "cut/epochs.csv").open("a") as file:
        file.write("3,12,0.5,0.5,0.5,SHN\n2,")  # a row of a step after the checkpoint, and a truncated row
    (tmp_path / "cut/log.jsonl").write_text("rows of a later step")
    trained(recipe, data, tmp_path / "cut", resume=True)
    rows = [json.loads(line) for line in (tmp_path / "cut/log.jsonl").read_text().splitlines()]
    assert rows == read_result(tmp_path / "cut")["epochs"]
    assert equal_states(final_state(tmp_path / "whole"), final_state(tmp_path / "cut"))
    for name in ("epochs.csv", "diagrams.csv"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


def test_trainer_checkpoint_minutes_sets_interval(tmp_path, data, monkeypatch):
    saves = []
    save = Trainer._save
    monkeypatch.setattr(Trainer, "_save", lambda self: (saves.append(self.step), save(self)))
    trained(recipe_of(), data, tmp_path / "often", dataclasses.replace(QUIET, checkpoint_minutes=1e-9))
    assert saves == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    saves.clear()
    trained(recipe_of(), data, tmp_path / "seldom", dataclasses.replace(QUIET, checkpoint_minutes=60))
    assert saves == [0, 4, 8, 12]


def test_trainer_second_ctrl_c_ends_at_once(tmp_path, data, monkeypatch):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("unreachable")

    before = signal.getsignal(signal.SIGINT)
    stop_at(5, monkeypatch, twice)
    with pytest.raises(KeyboardInterrupt):
        trained(recipe_of(), data, tmp_path)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == 4
    assert signal.getsignal(signal.SIGINT) is before


def test_trainer_sigterm_writes_checkpoint(tmp_path, data, monkeypatch):
    stop_at(5, monkeypatch, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt, match=re.escape("a checkpoint of epoch 2, step 6 is in")):
        trained(recipe_of(), data, tmp_path)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == 6


def test_trainer_finished_run_not_repeated(tmp_path, data, monkeypatch):
    first = trained(recipe_of(), data, tmp_path)
    stop_at(0, monkeypatch, pytest.fail)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    again = trained(recipe_of(), data, tmp_path, resume=True)
    assert equal_states(first.network.state_dict(), again.network.state_dict())
    assert files == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [None, 6])
def test_trainer_resume_with_more_epochs_prolongs_bit_for_bit(tmp_path, data, monkeypatch, kind, step):
    """After the end, or in mid-epoch."""
    evaluation = {"diagrams": [0, 5], "embeddings": True, "every": 2}
    long, short = (recipe_of(**KINDS[kind] | {"schedule__epochs": n, "evaluation": evaluation}) for n in (6, 4))
    trained(long, data, tmp_path / "whole")
    with monkeypatch.context() as patch, nullcontext() if step is None else pytest.raises(KeyboardInterrupt):
        stop_at(step, patch)
        trained(short, data, tmp_path / "run")
    trained(long, data, tmp_path / "run", resume=True)
    assert equal_states(final_state(tmp_path / "whole"), final_state(tmp_path / "run"))
    for name in ("epochs.csv", "diagrams.csv", "embeddings.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    assert len(read_result(tmp_path / "run")["epochs"]) == 7
    with pytest.raises(ValueError, match=r"resumed: schedule\.epochs was 6, is 4$"):
        Trainer(short, data, tmp_path / "run", QUIET, resume=True)


def test_trainer_resume_without_checkpoint_starts(tmp_path, data):
    (tmp_path / "epochs.csv").write_text("epoch,step,recall_at_1,hard_share,loss,run\n0,0,0.5,,,old\n")
    trained(recipe_of(), data, tmp_path, resume=True)
    assert read_histories(tmp_path / "epochs.csv").keys() == {"SHN"}


def test_trainer_resume_other_recipe_or_data_raises(tmp_path, data):
    trained(recipe_of(schedule={"epochs": 1}), data, tmp_path)
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match=r"checkpoint\.pt already exists: resume that run, or choose another"):
        Trainer(recipe_of(schedule={"epochs": 1}), data, tmp_path, QUIET)
    other = recipe_of(schedule={"epochs": 2}, loss={"name": "SCT", "lam": 0.5}, seed=4)
    message = "resumed: loss.lam was not given, is 0.5; loss.name was 'SHN', is 'SCT'; seed was 3, is 4"
    with pytest.raises(ValueError, match=re.escape(message)):
        Trainer(other, data, tmp_path, QUIET, resume=True)
    fewer = dataclasses.replace(data, fingerprint="another")
    with pytest.raises(ValueError, match=r"resumed: data\.fingerprint was '\w+', is 'another'$"):
        Trainer(recipe_of(schedule={"epochs": 1}), fewer, tmp_path, QUIET, resume=True)
    assert kept == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_trainer_resume_older_recipe_uses_new_defaults(tmp_path, data):
    trained(recipe_of(schedule={"epochs": 1}), data, tmp_path)
    state = load_checkpoint(tmp_path / FILE)
    for section, key in (("network", "frozen_statistics"), ("sampler", "small_classes"), ("tree", "levels")):
        del state["recipe"][section][key]
    save_checkpoint(tmp_path / FILE, state)
    Trainer(recipe_of(schedule={"epochs": 1}), data, tmp_path, QUIET, resume=True)
    other = recipe_of(schedule={"epochs": 1}, tree={"levels": 5})
    with pytest.raises(ValueError, match=r"resumed: tree\.levels was 16, is 5$"):
        Trainer(other, data, tmp_path, QUIET, resume=True)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", "half"])
def test_trainer_damaged_checkpoint_raises(tmp_path, data, content):
    trained(recipe_of(schedule={"epochs": 1}), data, tmp_path)
    path = tmp_path / "checkpoint.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(ValueError, match=r"checkpoint\.pt is not a readable checkpoint: it is damaged, or another kin"):
        Trainer(recipe_of(schedule={"epochs": 1}), data, tmp_path, QUIET, resume=True)


def test_load_checkpoint_any_flipped_bit_raises(tmp_path):
    state = {"network": {"weight": torch.randn(8, generator=seeded(0))}, "epoch": 3}
    path = tmp_path / FILE
    save_checkpoint(path, state)
    whole = path.read_bytes()
    assert load_checkpoint(path)["epoch"] == 3
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="is not a readable checkpoint: it is damaged, or another kind of file"):
            load_checkpoint(path)


def test_load_checkpoint_read_by_torch(tmp_path):
    save_checkpoint(tmp_path / FILE, {"epoch": 3, "network": {"weight": torch.ones(2)}})
    state = torch.load(tmp_path / FILE, weights_only=True)
    assert state["epoch"] == 3
    assert torch.equal(state["network"]["weight"], torch.ones(2))
    with zipfile.ZipFile(tmp_path / FILE) as archive:
        content = (tmp_path / FILE).read_bytes().removesuffix(archive.comment)
        assert archive.comment.decode() == hashlib.sha256(content).hexdigest()
        assert archive.testzip() is None


def test_load_checkpoint_other_content_raises(tmp_path, monkeypatch):
    path = tmp_path / FILE
    save_checkpoint(path, {"epoch": Path("not a plain value")})
    with pytest.raises(ValueError, match="is not a readable checkpoint: it contains more than plain values") as refusal:
        load_checkpoint(path)
    assert "weights" not in str(refusal.value)  # torch's advice to execute the file's contents is not repeated
    for name, value, message in (
        ("FORMAT", "other", "must be a checkpoint of hardmine, got another kind of file"),
        ("FORMAT_VERSION", 99, "has the format version 99, hardmine .* reads 2"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"papers.training.checkpoint.{name}", value)
            save_checkpoint(path, {})
        with pytest.raises(ValueError, match=message):
            load_checkpoint(path)


@pytest.mark.parametrize("kind", KINDS)
def test_load_gives_trained_network(tmp_path, data, kind):
    trainer = trained(recipe_of(**KINDS[kind] | {"evaluation": {}}), data, tmp_path / "run")
    network, transform, recipe, epoch = papers.load(tmp_path / "run")
    assert (transform, epoch) == (None, trainer.epoch)
    assert recipe.as_dict() == trainer.recipe.as_dict()
    assert torch.equal(embed_all(network, data.query.images), embed_all(trainer.network, data.query.images))


def test_load_other_folder_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"run must be the folder of a run, with checkpoint\.pt, got '.*'"):
        papers.load(tmp_path)
    (tmp_path / FILE).write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match=r"checkpoint\.pt is not a readable checkpoint"):
        papers.load(tmp_path)


def test_trainer_removes_drafts_of_killed_run(tmp_path, data):
    draft = tmp_path / f".{'0' * 16}.tmp"
    draft.touch()
    trained(recipe_of(schedule={"epochs": 1}), data, tmp_path)
    assert not draft.exists()


def test_trainer_failed_write_keeps_old_checkpoint(tmp_path, data, monkeypatch):
    resource = pytest.importorskip("resource")
    options = dataclasses.replace(QUIET, checkpoint_steps=1)
    recipe = recipe_of(network__embedding_dim=512)  # larger than a single write to a file
    save = Trainer._save

    def full_disk(self):
        """Limit file sizes so that the checkpoint of step 3 does not fit, and the system raises its own error."""
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        if self.step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self._path.stat().st_size * 7 // 10, limits[1]))
        try:
            save(self)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(Trainer, "_save", full_disk)
    with pytest.raises(OSError, match="File too large"):
        trained(recipe, data, tmp_path, options)
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == 2
    assert not list(tmp_path.glob(".*.tmp"))
    trained(recipe, data, tmp_path / "whole")
    trained(recipe, data, tmp_path, resume=True)
    assert equal_states(final_state(tmp_path), final_state(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"more": 1.0}, ValueError, "state must have the entries steps, loss, triplets, s_ap, s_an, hard, got steps, "),
        ({"loss": "1"}, TypeError, "state['loss'] must be a number, got '1'"),
        ({"s_ap": float("nan")}, ValueError, "state['s_ap'] must be a finite number, got nan"),
        ({"steps": -1.0}, ValueError, "state['steps'] must be a finite number >= 0, got -1.0"),
    ],
)
def test_epoch_measures_invalid_state_raises(changes, error, message):
    measures = EpochMeasures()
    measures.add(0.5, torch.tensor([0.5, 0.1]), torch.tensor([-0.25, 0.25]))
    state, means = measures.state_dict(), measures.means()
    with pytest.raises(error, match=re.escape(message)):
        measures.load_state_dict(state | changes)
    assert measures.means() == means == {"loss": 0.5, "s_ap": pytest.approx(0.3), "s_an": 0.0, "hard_share": 0.5}
    resumed = EpochMeasures()
    resumed.load_state_dict(state)
    assert resumed.means() == means
