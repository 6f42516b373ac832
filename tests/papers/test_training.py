"""Trainings from recipes: their files, their measurements, locks on their folder, and what ends them."""

import csv
import dataclasses
import json
import os
import re
import subprocess
import sys

import msgspec
import pytest
import torch

import hardmine
from hardmine import losses
from papers.figures import read_diagrams, read_embeddings, read_histories
from papers.recipes import RecipeError, load_recipe, make_loss, recipe_names
from papers.recipes.sections import Triplets
from papers.training import RunOptions, Trainer, load_data, read_result
from papers.training import trainer as trainer_module
from papers.training.data import Part, TrainingData
from papers.training.feeds import make_feed
from papers.training.folder import FolderLock
from papers.training.network import make_network, make_optimizer
from training_cases import DIGITS, KINDS, QUIET, equal_states, recipe_of, small_digits, stop_at, trained

for needed in ("matplotlib", "safetensors", "scipy", "sklearn", "tqdm"):
    pytest.importorskip(needed)


@pytest.fixture(scope="module")
def data():
    return small_digits()


@pytest.mark.parametrize("kind", ["SHN", "HTL", "mined triplets"])
def test_trainer_diagrams_beyond_last_step_raise(tmp_path, data, kind):
    values = KINDS[kind] | {"schedule": {"epochs": 3}}
    for diagrams in ([11], [12, 0]):  # 3 epochs of 4 batches
        Trainer(recipe_of(**values | {"evaluation": {"diagrams": diagrams}}), data, tmp_path, QUIET)
    with pytest.raises(RecipeError, match=r"evaluation\.diagrams must contain a step below 12, .*, got \[13, 12\]"):
        Trainer(recipe_of(**values | {"evaluation": {"diagrams": [13, 12]}}), data, tmp_path, QUIET)


def test_trainer_writes_all_files(tmp_path, data):
    reported = []
    folder = tmp_path / "run"
    folder.mkdir()
    content = Trainer(recipe_of(), data, folder, QUIET, report=reported.append).run()
    assert sorted(path.name for path in folder.iterdir()) == [
        ".lock",
        "checkpoint.pt",
        "diagrams.csv",
        "embeddings.safetensors",
        "epochs.csv",
        "log.jsonl",
        "result.json",
    ]
    assert json.loads((folder / "result.json").read_text()) == json.loads(json.dumps(content)) == read_result(folder)
    assert [row["epoch"] for row in reported] == [0, 1, 2, 3]
    assert [row["step"] for row in reported] == [0, 4, 8, 12]
    assert content["epochs"] == reported
    assert [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()] == reported
    assert content["last"] == reported[-1]
    assert content["best"]["recall_at_1"] == max(row["recall_at_1"] for row in reported)
    assert content["recipe"] == recipe_of().as_dict()
    assert (content["title"], content["seed"], content["data"]["name"]) == ("SHN", 3, "digits")
    assert content["data"]["train"] == {"images": 100, "classes": 5}
    assert content["versions"]["hardmine"] == hardmine.__version__

    # 12 losses and 12 selections for the logs, of which calls 1, 6 and 11 are checked.
    verified = content["verified"]
    loss = verified["ops"]["triplet_loss"]
    assert (loss["calls"], loss["checks"], verified["every"]) == (12, 3, 5)
    assert loss["deviation"].keys() == {"similarity", "loss", "gradient"}
    assert loss["choices"] == 3 * 20  # a positive and a negative per anchor, 10 anchors
    deviations = [value for op in verified["ops"].values() for value in op["deviation"].values()]
    assert verified["largest_deviation"] == max(deviations)
    assert 0 < verified["largest_deviation"] < 1e-5

    with (folder / "epochs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == ["SHN"] * 4
    assert [float(row["loss"] or -1) for row in rows] == pytest.approx([-1, *(row["loss"] for row in reported[1:])])
    history = read_histories(folder / "epochs.csv")["SHN"]
    assert len(history.epoch) == 4
    diagrams = read_diagrams(folder / "diagrams.csv")
    assert diagrams.steps().keys() == {0, 5}
    assert len(diagrams.steps()[5].before.anchor) == 10
    assert not torch.equal(diagrams.steps()[5].before.s_ap, diagrams.steps()[5].after.s_ap)
    assert (len(diagrams.last("train").anchor), len(diagrams.last("test").anchor)) == (100, 100)
    assert read_embeddings(folder / "embeddings.safetensors").test_embeddings.shape == (100, 8)


def test_trainer_epoch_measures_are_means_over_steps(tmp_path, data):
    """With a learning rate of almost 0, the second epoch can be measured afterwards."""
    recipe = recipe_of(optimizer={"lr": 1e-30}, schedule={"epochs": 2})
    found = trained(recipe, data, tmp_path)
    loss_of = losses.SHNLoss()
    values, s_ap, s_an = [], [], []
    with torch.no_grad():
        for batch in make_feed(recipe, data, found.network, loss_of, 0).begin(1):
            rows, labels = found.network(data.train.images[batch.rows]), data.train.labels[batch.rows]
            values.append(loss_of(rows, labels))
            similarity = torch.nn.functional.normalize(rows.double())
            similarity = similarity @ similarity.T
            alike = labels[:, None] == labels
            s_ap.append(similarity.masked_fill(~alike | torch.eye(10, dtype=torch.bool), -2).amax(1))
            s_an.append(similarity.masked_fill(alike, -2).amax(1))
    last = found.rows[-1]
    s_ap, s_an = torch.cat(s_ap), torch.cat(s_an)
    assert last["loss"] == pytest.approx(torch.stack(values).mean().item(), rel=1e-6)
    assert last["s_ap"] == pytest.approx(s_ap.mean().item(), rel=1e-6)
    assert last["s_an"] == pytest.approx(s_an.mean().item(), rel=1e-6)
    assert last["hard_share"] == pytest.approx((s_an > s_ap).double().mean().item())


def test_trainer_diagrams_follow_triplets_of_step(tmp_path, data):
    """The first step is computed by hand."""
    recipe = recipe_of(schedule={"epochs": 1}, evaluation={"diagrams": [0]})
    trained(recipe, data, tmp_path)
    shown = read_diagrams(tmp_path / "diagrams.csv").steps()[0]
    torch.manual_seed(recipe.seed)
    network, loss_of = make_network(recipe, data), losses.SHNLoss()
    rows = make_feed(recipe, data, network, loss_of, 0).begin(0)[0].rows
    images, labels = data.train.images[rows], data.train.labels[rows]
    before = torch.nn.functional.normalize(network(images))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    loss_of(before, labels).backward()
    optimizer.step()
    after = torch.nn.functional.normalize(network(images))
    alike = labels[:, None] == labels
    similarity = before @ before.T
    positive = similarity.masked_fill(~alike | torch.eye(10, dtype=torch.bool), -2).argmax(1)
    negative = similarity.masked_fill(alike, -2).argmax(1)
    for moment, embeddings in {"before": before, "after": after}.items():
        found = getattr(shown, moment)
        for other, values in ((positive, found.s_ap), (negative, found.s_an)):
            torch.testing.assert_close(
                values.float(), (embeddings * embeddings[other]).sum(1).detach(), atol=1e-5, rtol=1e-5
            )


@pytest.mark.slow
def test_trainer_learning_rate_follows_schedule(tmp_path, data, monkeypatch):
    seen = []
    take = Trainer._take_step
    monkeypatch.setattr(
        Trainer, "_take_step", lambda self, *a: (seen.append(self._optimizer.param_groups[0]["lr"]), take(self, *a))
    )
    trained(recipe_of(), data, tmp_path)
    assert seen == [0.1] * 4 + [0.05] * 8


def test_make_optimizer_last_layer_factor_scales_rate(data):
    network = make_network(recipe_of(), data)
    section = msgspec.structs.replace(recipe_of().optimizer, last_layer_factor=10.0, weight_decay=0.25)
    slow, fast = make_optimizer(network, section).param_groups
    assert (slow["initial_lr"], fast["initial_lr"], fast["lr"]) == pytest.approx((0.1, 1.0, 1.0))
    assert {id(parameter) for parameter in fast["params"]} == {id(p) for p in network.head.parameters()}
    assert (slow["momentum"], slow["weight_decay"]) == (0.5, 0.25)
    adam = make_optimizer(network, msgspec.structs.replace(section, name="adam"))
    assert isinstance(adam, torch.optim.Adam)
    assert [(group["lr"], group["weight_decay"]) for group in adam.param_groups] == [(0.1, 0.25), (1.0, 0.25)]


@pytest.mark.slow
def test_trainer_smart_mining_mines_and_adapts(tmp_path, data):
    """The training with the largest state must mine, so that the tests of resuming cover mining."""
    found = trained(recipe_of(**KINDS["mined triplets"]), data, tmp_path)
    assert "kappa" not in found.rows[2]
    assert all(row["kappa"] > 0 and row["mined_share"] == 0.75 for row in found.rows[3:])
    assert {"knn", "smart_triplets", "indexed_triplet_loss", "global_loss"} <= found.report.ops.keys()


@pytest.mark.slow
@pytest.mark.parametrize(("random_epochs", "expected"), [(0, [4.0, 1.5, 1.5]), (1, [None, 4.0, 1.5])])
def test_trainer_smart_mining_takes_given_kappas(tmp_path, data, random_epochs, expected):
    sampler = {"kind": "triplets", "batch_size": 12, "kappa": [4.0, 1.5], "random_epochs": random_epochs}
    settings = {**KINDS["mined triplets"], "sampler": sampler, "schedule": {"epochs": 3}}
    found = trained(recipe_of(**settings), data, tmp_path)
    assert [row.get("kappa") for row in found.rows if "training_error" in row] == expected


def test_trainer_htl_builds_tree_every_epoch(tmp_path, data, monkeypatch):
    trees, update = [], losses.HierarchicalTripletLoss.update
    monkeypatch.setattr(
        losses.HierarchicalTripletLoss, "update", lambda loss, tree: (trees.append(tree), update(loss, tree))
    )
    found = trained(recipe_of(**KINDS["HTL"]), data, tmp_path)
    assert len(trees) == 3
    assert torch.equal(found.loss.margin, trees[-1].margin_table())
    assert found.loss.margin.shape == (5, 5)
    assert found._feed._sampler._neighbors.shape == (5, 3)


@pytest.mark.slow
def test_load_data_fingerprint_depends_on_images_and_labels(monkeypatch):
    def fingerprint(**changes):
        digits = load_data(recipe_of(), None, None)
        split = load_digits()
        monkeypatch.setattr("papers.training.data.load_digits", lambda: dataclasses.replace(split, **changes))
        return load_data(recipe_of(), None, None).fingerprint, digits.fingerprint

    from papers.datasets import load_digits

    split = load_digits()
    new, old = fingerprint()
    assert new == old
    new, old = fingerprint(train_images=split.train_images.flip(0))
    assert new != old
    monkeypatch.undo()
    new, old = fingerprint(test_labels=split.test_labels.flip(0))
    assert new != old


@pytest.mark.parametrize("name", ["result.json", "failed.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"recipe": ', r" is damaged: Expecting value: .*; delete it to repeat the run"),
        (b"\xff\xfe", r" is damaged: 'utf-8' codec"),
        (b"", r" is damaged: Expecting value"),
        (2000 * b"[", r" is damaged: maximum recursion depth exceeded"),
        (b"[]", r" must be the result of a run, got other content"),
        (b"{}", r" must be the result of a run, got other content"),
    ],
)
def test_read_result_damaged_file_raises(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / name)) + message):
        read_result(tmp_path, name)


@pytest.mark.subprocess
def test_folder_lock_allows_one_training(tmp_path, data):
    pytest.importorskip("fcntl")
    first = Trainer(recipe_of(), data, tmp_path, QUIET)
    with pytest.raises(FileExistsError, match=f"another process is training in {re.escape(str(tmp_path))}: wait until"):
        Trainer(recipe_of(), data, tmp_path, QUIET)
    lock = "import sys; from pathlib import Path; from papers.training.folder import FolderLock as L; "
    other = [sys.executable, "-c", lock + "L(Path(sys.argv[1]))", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    refused = subprocess.run(other, env=environment, capture_output=True, text=True, check=False)
    assert "FileExistsError: another process is training in" in refused.stderr
    first.run()  # the training is then over, although `first` still exists
    Trainer(recipe_of(), data, tmp_path, QUIET, resume=True)  # collected at once, which releases the folder
    trained(recipe_of(), data, tmp_path, resume=True)
    subprocess.run(other, env=environment, check=True)


@pytest.mark.slow
def test_trainer_interrupted_releases_lock(tmp_path, data, monkeypatch):
    pytest.importorskip("fcntl")
    kept = Trainer(recipe_of(), data, tmp_path, QUIET)
    with monkeypatch.context() as patch:
        stop_at(1, patch)
        with pytest.raises(KeyboardInterrupt):
            kept.run()
    trained(recipe_of(), data, tmp_path, resume=True)


def test_folder_lock_release_ignores_copied_descriptors(tmp_path):
    """The reader processes hold copies of the open file until they end."""
    pytest.importorskip("fcntl")
    lock = FolderLock(tmp_path)
    copy = os.dup(lock._file.fileno())
    lock.release()
    FolderLock(tmp_path).release()
    lock.release()  # a second release has no effect
    os.close(copy)


@pytest.mark.parametrize("missing", ["module", "support of the disk"])
def test_folder_lock_unsupported_does_nothing(tmp_path, monkeypatch, missing):
    class Unsupported:
        LOCK_EX = LOCK_NB = LOCK_UN = 0

        def flock(self, *arguments):
            raise OSError(95, "Operation not supported")

    monkeypatch.setattr("papers.training.folder.fcntl", None if missing == "module" else Unsupported())
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.release()
    second.release()


def test_trainer_broken_op_raises(tmp_path, data, monkeypatch):
    """A loss that is off by a thousandth ends the training, and its inputs are kept."""
    undecorated = torch.ops.hardmine.triplet_loss

    class Broken:
        def triplet_loss(self, *arguments):
            loss, *rest = undecorated(*arguments)
            return (loss * 1.001, *rest)

        def __getattr__(self, name):
            return getattr(torch.ops.hardmine, name)

    class Torch:
        ops = type("ops", (), {"hardmine": Broken()})()

        def __getattr__(self, name):
            return getattr(torch, name)

    monkeypatch.setitem(vars(sys.modules["hardmine.ops._compiled_triplet_loss"]), "torch", Torch())
    with pytest.raises(hardmine.VerificationError, match="triplet_loss"):
        trained(recipe_of(), data, tmp_path)
    assert list((tmp_path / "verify").glob("triplet_loss-call1*.pt"))
    assert read_result(tmp_path) is None


@pytest.mark.slow
def test_trainer_verify_every_0_verifies_nothing(tmp_path, data):
    found = trained(recipe_of(), data, tmp_path, dataclasses.replace(QUIET, verify_every=0))
    assert found.report is None
    assert read_result(tmp_path)["verified"] == {"every": 0, "largest_deviation": None, "ops": {}}
    again = trained(recipe_of(), data, tmp_path / "verified")
    assert equal_states(found.network.state_dict(), again.network.state_dict())  # verification changes nothing


def test_trainer_divergence_raises(tmp_path, data):
    recipe = recipe_of(loss={"name": "SHN", "similarity": "dot"}, optimizer={"lr": 1e30}, evaluation={})
    with pytest.raises(FloatingPointError, match=r"in epoch 1, step \d; optimizer\.lr = 1e\+30 may be too large"):
        trained(recipe, data, tmp_path)


@pytest.mark.slow
def test_trainer_evaluates_every_n_epochs_and_last(tmp_path, data):
    evaluation = {"every": 2, "recall_at": [3], "nmi": True}
    found = trained(recipe_of(evaluation=evaluation), data, tmp_path)
    assert [sorted(key for key in row if "recall" in key or key == "nmi") for row in found.rows] == [
        ["recall_at_1", "recall_at_3"],
        [],
        ["recall_at_1", "recall_at_3"],
        ["nmi", "recall_at_1", "recall_at_3"],
    ]


def test_trainer_writes_tensorboard_events(tmp_path, data):
    pytest.importorskip("tensorboard")
    trained(recipe_of(), data, tmp_path, dataclasses.replace(QUIET, tensorboard=True))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("recall_at_1")] == [0, 1, 2, 3]
    written = [event.value for event in events.Scalars("recall_at_1")]
    assert written == pytest.approx([row["recall_at_1"] for row in read_result(tmp_path)["epochs"]])


def test_trainer_unsuitable_sampler_raises(tmp_path, data):
    with pytest.raises(RecipeError, match=r"tiny: \[sampler\] does not suit digits: batch_size must be at most 10"):
        Trainer(recipe_of(sampler__batch_size=12), data, tmp_path, QUIET)


@pytest.mark.thinned(5)
@pytest.mark.parametrize("name", recipe_names())
def test_included_recipes_build_loss_sampler_and_network(name):
    """Their losses, samplers and heads, on made features with enough classes."""
    recipe = load_recipe(name)
    classes = 300
    images = torch.randn(classes * 8, 5, generator=torch.Generator().manual_seed(0))
    part = Part(images, torch.arange(classes).repeat_interleave(8))
    generated = TrainingData("made", part, part, part, (), 5, "")
    network, loss_of = make_network(recipe, generated), make_loss(recipe.loss, generated.train.labels)
    make_optimizer(network, recipe.optimizer)
    feed = make_feed(recipe, generated, network, loss_of, 0)
    batch = feed.begin(0)[0]
    rows = network(images[batch.rows])
    assert rows.shape == (len(batch.rows), recipe.network.embedding_dim)
    if isinstance(recipe.sampler, Triplets):
        assert len(batch.triplets.triplets) == recipe.sampler.batch_size
        loss, _ = loss_of(rows, batch.triplets.triplets)
    else:
        sampler = recipe.sampler
        size = getattr(sampler, "batch_size", None)
        size = size or sampler.anchors_per_batch * sampler.classes_per_anchor * sampler.images_per_class
        assert len(batch.rows) == size
        loss = loss_of(rows, part.labels[batch.rows])
    loss.backward()
    assert any(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_run_options_defaults_are_as_documented():
    assert RunOptions() == RunOptions(100, 5.0, 0, False, True, 0, "cpu")
    assert trainer_module.VERIFIED_LISTS == 8192
    assert DIGITS["loss"]["name"] == "SHN"
