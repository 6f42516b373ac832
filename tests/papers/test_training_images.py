"""Trainings on image files: crops and flips, frozen backbones, given features, damaged files, small classes."""

import dataclasses
import json
import os
import re
import sys

import pytest
import torch
from torch import nn

import papers
from hardmine.metrics import recall_at_1
from hardmine.mining.embedding import embed_all
from image_trees import require_torchvision
from papers.__main__ import main
from papers.networks import Backbone
from papers.recipes import RecipeError, load_experiment
from papers.recipes.experiment import Run
from papers.training import Trainer, experiment, load_data
from papers.training import data as data_module
from papers.training.data import Part, TrainingData
from papers.training.evaluate import evaluate
from papers.training.feeds import images_of, make_feed
from training_cases import QUIET, equal_states, final_state, recipe_of, stop_at, trained

pytestmark = pytest.mark.slow

require_torchvision()
numpy = pytest.importorskip("numpy")
for needed in ("matplotlib", "safetensors", "scipy", "sklearn", "tqdm"):
    pytest.importorskip(needed)

TABLE = {
    "seed": 1,
    "data": {"name": "folder", "size": 16, "padding": 2},
    "network": {"backbone": "resnet18", "weights": "random", "embedding_dim": 4},
    "sampler": {"kind": "class_balanced", "batch_size": 6, "images_per_class": 2, "batches_per_epoch": 4},
    "loss": {"name": "SCT"},
    "optimizer": {"lr": 0.1},
    "schedule": {"epochs": 2},
}
FROZEN = {"network": {"backbone": "resnet18", "frozen": True, "embedding_dim": 4}}


def recipe(**values):
    return recipe_of(TABLE, **values)


@pytest.fixture(autouse=True)
def small_backbone(monkeypatch):
    """A backbone that is built at once.

    The state of its batch normalization must be kept, and its dropout draws random numbers.
    """

    def make(name, weights):
        with torch.random.fork_rng():
            torch.manual_seed(5)
            layers = [nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
            trunk = nn.Sequential(*layers, nn.Dropout(0.2))
        return Backbone(name, trunk, 24, (0.5,) * 3, (0.5,) * 3, weights)

    for module in ("data", "network"):
        monkeypatch.setattr(f"papers.training.{module}.backbone", make)


@pytest.fixture
def root(tmp_path):
    """4 classes for training and 3 for retrieval, with 5 noisy images each."""
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    for part, classes in {"train": "abcd", "test": "xyz"}.items():
        for name in classes:
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            color = torch.rand(3, generator=generator) * 200
            for number in range(5):
                values = color + 55 * torch.rand(12, 12, 3, generator=generator)
                Image.fromarray(values.to(torch.uint8).numpy()).save(folder / f"{number}.png")
    return tmp_path / "images"


def loaded(recipe, root):
    return load_data(recipe, root, root.parent / "cache", progress=False)


def test_trainer_fine_tuning_resumes_bit_for_bit_within_epoch(tmp_path, root, monkeypatch):
    data = loaded(recipe(), root)
    whole = trained(recipe(), data, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_at(5, patch)
        with pytest.raises(KeyboardInterrupt):
            trained(recipe(), loaded(recipe(), root), tmp_path / "cut")
    options = dataclasses.replace(QUIET, workers=2)  # the number of reader processes does not matter either
    trained(recipe(), loaded(recipe(), root), tmp_path / "cut", options, resume=True)
    assert equal_states(final_state(tmp_path / "whole"), final_state(tmp_path / "cut"))
    assert data.train.images.epoch == 1  # crops are those of the second epoch
    assert whole.network.backbone.trunk[1].num_batches_tracked == 8
    assert whole.network.backbone.training


@pytest.mark.parametrize("values", [{}, FROZEN, {**FROZEN, "network__hidden_dim": 5, "network__standardize": False}])
def test_load_embeds_files_as_training_did(tmp_path, root, values):
    """From image files, for a network that was trained as a whole and for a head on features."""
    from PIL import Image

    chosen = recipe(**values)
    data = loaded(chosen, root)
    trainer = trained(chosen, data, tmp_path / "run")
    network, transform, found, epoch = papers.load(tmp_path / "run")
    assert (found.as_dict(), epoch, network.training) == (chosen.as_dict(), 2, False)
    images = torch.stack([transform(Image.open(path).convert("RGB")) for path in data.split.query.paths])
    with torch.no_grad():
        torch.testing.assert_close(network(images), embed_all(trainer.network, data.query.images))
    assert network(images).std() > 1e-3


def test_load_frozen_backbone_of_other_weights_raises(tmp_path, root, monkeypatch, capsys):
    """The checkpoint holds only the head, whose embeddings on features of other weights would be wrong."""
    chosen = recipe(**FROZEN)
    trained(chosen, loaded(chosen, root), tmp_path / "run")
    options = ["--data", str(root), "--cache", str(tmp_path / "empty")]
    assert main(["evaluate", str(tmp_path / "run"), *options]) == 0
    same = data_module.backbone

    def other(name, weights):
        made = same(name, weights)
        made.trunk[0].bias.data[0] += 1
        return made

    monkeypatch.setattr(data_module, "backbone", other)
    message = r"run: network\.weights must be those of the training, with SHA-256 \w{64}, got 'imagenet' with \w{64}$"
    with pytest.raises(RecipeError, match=message):
        papers.load(tmp_path / "run")
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), *options[:3], str(tmp_path / "other")]) == 1
    assert re.search(message, capsys.readouterr().err.rstrip())


def test_evaluate_trained_backbone_needs_no_initial_weights(tmp_path, root):
    weights = tmp_path / "initial.pth"
    weights.touch()
    chosen = recipe(network__weights=str(weights))
    trained(chosen, loaded(chosen, root), tmp_path / "run")
    weights.unlink()
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(root)]) == 0
    content = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert content["recipe"]["network"]["weights"] == str(weights)


def test_trainer_own_backbone(tmp_path, root, monkeypatch):
    monkeypatch.undo()
    network = {"backbone": "network_cases.tiny_from", "weights": "random", "embedding_dim": 4}
    chosen = recipe(network=network)
    trainer = trained(chosen, loaded(chosen, root), tmp_path / "run")
    again = papers.load(tmp_path / "run").network
    assert torch.equal(again.state_dict()["head.layers.0.weight"], trainer.network.head.layers[0].weight)
    assert type(again.backbone.trunk) is type(trainer.network.backbone.trunk)
    for size, got in ((16, r"RuntimeError: mat1 and mat2"), (8, r"\[1, 2\]$")):
        wrong = recipe(network={**network, "backbone": "network_cases.only_eight"}, data__size=size)
        with pytest.raises(RecipeError, match=rf"backbone = .* must make features \[1, \d\] of images .*, got {got}"):
            trained(wrong, loaded(wrong, root), tmp_path / f"wrong{size}")


def test_trainer_frozen_statistics_stay(tmp_path, root):
    network = {"backbone": "resnet18", "embedding_dim": 4, "frozen_statistics": True}
    kept = trained(recipe(network=network), loaded(recipe(), root), tmp_path / "kept").network.backbone.trunk
    assert kept[1].num_batches_tracked == 0
    assert kept[1].weight.ne(1).any()
    assert not kept[1].training
    assert kept[5].training  # dropout stays active


def test_trainer_fine_tuned_backbone_is_channels_last(tmp_path, root):
    trainer = Trainer(recipe(), loaded(recipe(), root), tmp_path, QUIET)
    weight = trainer.network.backbone.trunk[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        ({"backbone": "resnet18", "frozen": True}, "network.frozen = True: a frozen backbone always keeps them"),
        (
            {"backbone": "resnet18", "weights": "random"},
            "network.weights = 'random': only trained weights have statistics to keep",
        ),
    ],
)
def test_recipe_frozen_statistics_without_effect_raises(network, reason):
    with pytest.raises(RecipeError, match=rf"network.frozen_statistics must be false with {reason}$"):
        recipe(network={**network, "frozen_statistics": True})


def test_load_data_crops_depend_on_epoch_and_seed(root):
    def first_batch(epoch, **values):
        chosen = recipe(**values)
        data = loaded(chosen, root)
        data.train.images.set_epoch(epoch)
        feed = make_feed(recipe(), data, nn.Identity(), nn.Identity(), 0)
        return next(images_of(data.train.images, feed.begin(0), 0))

    assert first_batch(0).shape == (6, 3, 16, 16)
    assert torch.equal(first_batch(0), first_batch(0))
    assert not torch.equal(first_batch(0), first_batch(1))
    assert not torch.equal(first_batch(0), first_batch(0, seed=2))


def test_load_data_frozen_backbone_computes_features_once(tmp_path, root, monkeypatch):
    chosen = recipe(**FROZEN)
    data = loaded(chosen, root)
    files = list((tmp_path / "cache").iterdir())
    assert len(files) == 2  # the training and the test images
    assert (data.train.images.shape, data.query.images.shape, data.feature_dim) == ((20, 24), (15, 24), 24)
    assert data.gallery is data.query
    monkeypatch.setattr("papers.networks.cache.embed_chunks", lambda *a, **k: pytest.fail("computed again"))
    again = loaded(recipe(**FROZEN, loss={"name": "HN"}, seed=4), root)
    assert torch.equal(again.train.images, data.train.images)
    found = trained(chosen, data, tmp_path / "run")
    assert sum(parameter.numel() for parameter in found.network.parameters()) == 24 * 4 + 4
    standardized = found.network.layers[0](data.train.images)
    assert standardized.mean(0).abs().max() < 1e-5
    assert data.fingerprint == again.fingerprint != loaded(recipe(), root).fingerprint


def test_load_data_given_features_in_path_order(root):
    paths = sorted(str(path.relative_to(root)) for path in root.rglob("*.png"))
    numpy.save(root / "features.npy", numpy.arange(35 * 3, dtype=numpy.float16).reshape(35, 3))
    data = loaded(recipe(**FROZEN, data__features="features.npy"), root)
    split = loaded(recipe(), root)
    for part, images in ((data.train, split.train), (data.query, split.query)):
        rows = [paths.index(os.path.relpath(path, root)) for path in images.images.paths]
        assert part.images[:, 0].tolist() == [3.0 * row for row in rows]
        assert part.images.dtype == torch.float32


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"tiny: data\.features must be a file, got .*features\.npy: no such file"),
        (b"text", r"tiny: data\.features must be an \.npy file, got .*features\.npy: "),
        (b"", r"tiny: data\.features must be an \.npy file, got .*features\.npy: No data left"),
        ("npz", r"tiny: data\.features must be an \.npy file, got .*features\.npy: .*NpzFile"),
        (
            torch.zeros(34, 3),
            r"must be floating \[N, F\] with N = 35, the images of images, got .* torch.float32 \[34, 3",
        ),
        (torch.zeros(35, 3, dtype=torch.int64), r"must be floating \[N, F\] with N = 35, .* torch.int64 \[35, 3\]"),
        (torch.full((35, 3), torch.inf), r"data\.features must be finite, got NaN or infinity in "),
    ],
)
def test_load_data_invalid_feature_file_raises(root, content, message):
    if isinstance(content, bytes):
        (root / "features.npy").write_bytes(content)
    elif isinstance(content, str):
        with (root / "features.npy").open("wb") as file:
            numpy.savez(file, rows=numpy.zeros((35, 3)))
    elif content is not None:
        numpy.save(root / "features.npy", content.numpy())
    with pytest.raises((RecipeError, FileNotFoundError), match=message):
        loaded(recipe(**FROZEN, data__features="features.npy"), root)


def test_load_data_on_corrupt_refuses_or_skips(tmp_path, root):
    (root / "train/a/3.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"(?s)1 of 35 images of images cannot be read; .*train/a/3\.png"):
        loaded(recipe(), root)
    data = loaded(recipe(data__on_corrupt="skip"), root)
    assert data.name == "images, 1 corrupt image skipped"
    assert len(data.train.labels) == 19
    assert [note for note in data.notes if re.match(r"skipped: .*train/a/3\.png: ", note)]
    assert len(loaded(recipe(data__on_corrupt="unchecked"), root).train.labels) == 20
    skipped = recipe(data__on_corrupt="skip")
    content = Trainer(skipped, data, tmp_path, QUIET).run()
    assert content["data"]["name"] == data.name
    assert content["data"]["notes"] == list(data.notes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sampler__batch_size": 10}, r"tiny: \[sampler\] does not suit images: batch_size must be at most 8"),
        (
            {"network__weights": "no.pt"},
            r"tiny: network\.weights must be imagenet, random or a file, got 'no\.pt': no such file",
        ),
        ({**FROZEN, "network__weights": "no.pt"}, r"network\.weights must be imagenet, random or a file, got 'no\.pt'"),
        ({**FROZEN, "data__features": "no.npy"}, r"tiny: data\.features must be a file, got .*no\.npy: no such file"),
    ],
)
def test_load_data_invalid_recipe_fails_before_reading_images(root, monkeypatch, values, message):
    monkeypatch.setattr("papers.training.data.check_images", lambda *a, **k: pytest.fail("images were read"))
    with pytest.raises((RecipeError, FileNotFoundError), match=message):
        loaded(recipe(**values), root)


def test_load_data_given_features_need_no_weights(root):
    numpy.save(root / "features.npy", numpy.zeros((35, 3), dtype=numpy.float32))
    chosen = recipe(**FROZEN, data__features="features.npy", network__weights="no.pt")
    assert loaded(chosen, root).feature_dim == 3


def test_load_data_notes_classes_with_one_image(root):
    for number in range(1, 5):
        (root / f"train/a/{number}.png").unlink()
    data = loaded(recipe(), root)
    assert "training classes with fewer than 2 images, too few for a batch: 1 of 4: a (1)" in data.notes
    with pytest.raises(RecipeError, match="does not suit images: batch_size must be at most 6"):
        make_feed(recipe(sampler__batch_size=8), data, nn.Identity(), nn.Identity(), 0)


def test_evaluate_searches_gallery_for_queries(tmp_path):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(30, 4, generator=generator)
    labels, chains = torch.arange(30) % 5, torch.arange(30) % 5 % 2
    gallery = Part(rows[:20], labels[:20])
    query = Part(rows[20:], labels[20:])
    data = TrainingData("made", gallery, query, gallery, (), 4, "")
    section = recipe().evaluation
    scores = evaluate(nn.Identity(), data, section)
    assert scores["recall_at_1"] == recall_at_1(query.images, query.labels, gallery.images, gallery.labels)
    assert scores["recall_at_1"] != recall_at_1(query.images, query.labels)
    assert list(scores) == ["recall_at_1", "recall_at_2", "recall_at_4", "recall_at_8"]

    hotels = TrainingData(
        "hotels",
        gallery,
        dataclasses.replace(query, coarse_labels=chains[20:]),
        dataclasses.replace(gallery, coarse_labels=chains[:20]),
        (),
        4,
        "",
    )
    scores = evaluate(nn.Identity(), hotels, section)
    expected = recall_at_1(query.images, chains[20:], gallery.images, chains[:20])
    assert scores["chain_recall_at_1"] == pytest.approx(expected)
    assert scores["recall_at_1"] == recall_at_1(query.images, query.labels, gallery.images, gallery.labels)


def test_run_experiment_notes_fit_batches_of_each_run(tmp_path, root, monkeypatch):
    """The images are read once for all runs."""
    pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    for number in (0, 1, 2):
        (root / "train/a" / f"{number}.png").unlink()
    (root / "test/x/0.png").write_bytes(b"no image")
    (tmp_path / "sizes.toml").write_text("""
seed = 1
data = { name = "folder", size = 16, on_corrupt = "skip" }
network = { backbone = "resnet18", weights = "random", embedding_dim = 4 }
sampler = { kind = "class_balanced", batch_size = 6, batches_per_epoch = 1 }
loss.name = "SCT"
optimizer.lr = 0.1
schedule.epochs = 1
[experiment]
claim = "More images are better."
seeds = [1]
axis = "sampler.images_per_class"
values = [2, 3]
[experiment.variants.SCT]
[experiment.datasets.folder]
""")
    calls, said = [], []
    monkeypatch.setattr(experiment, "load_data", lambda *a, **k: calls.append(a) or load_data(*a, **k))
    many = load_experiment(tmp_path / "sizes.toml")
    two, three = (
        ended.result["data"]["notes"]
        for ended in experiment.run_experiment(many, root, tmp_path / "out", tmp_path, QUIET, log=said.append)
    )
    few = "training classes with fewer than 3 images, too few for a batch: 1 of 4: a (2)"
    assert len(calls) == 1
    assert (few in three, [note for note in two if "too few" in note]) == (True, [])
    assert [note for note in three if note != few] == two
    assert [note for note in two if re.match(r"skipped: .*test/x/0\.png: ", note)]
    assert said[::2] == ["\n".join(two), "\n".join(three)]


def test_same_data_ignores_other_frozen_backbone(tmp_path):
    runs = [
        Run("folder", name, None, 1, recipe(data__name="folder", network={"backbone": name, "frozen": True}))
        for name in ("resnet18", "resnet50", "resnet18")
    ]
    same_data = experiment._SameData()
    for run, fingerprint in zip(runs[:2], "ab", strict=True):
        same_data.check(run, tmp_path, {"name": "images", "fingerprint": fingerprint})
    with pytest.raises(ValueError, match=r"got images \(a\) in .* and images \(x\) in "):
        same_data.check(runs[2], tmp_path, {"name": "images", "fingerprint": "x"})
