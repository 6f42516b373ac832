"""Small trainings for the tests."""

import dataclasses
import os
import signal
from pathlib import Path

import pytest
import torch

from papers.__main__ import main
from papers.recipes.recipe import parse_recipe, set_values
from papers.training import RunOptions, Trainer, load_data
from papers.training.checkpoint import FILE, load_checkpoint

QUIET = RunOptions(verify_every=5, progress=False)

# A convnet on digits, which trains in a second.
DIGITS = {
    "seed": 3,
    "data": {"name": "digits"},
    "network": {"backbone": "convnet4", "embedding_dim": 8},
    "sampler": {"kind": "class_balanced", "batch_size": 10, "images_per_class": 2, "batches_per_epoch": 4},
    "loss": {"name": "SHN"},
    "optimizer": {"lr": 0.1, "momentum": 0.5},
    "schedule": {"epochs": 3, "milestones": [1], "factor": 0.5},
    "evaluation": {"diagrams": [0, 5], "embeddings": True},
}

SMART = {"global_weight": 0.5}
# With 2 images per class there is only one positive to draw.
FIVE_PER_CLASS = {"kind": "class_balanced", "batch_size": 10, "images_per_class": 5, "batches_per_epoch": 4}
# Every kind of training: its differences from DIGITS.
KINDS = {
    "SHN": {},
    "random positives": {
        "loss": {"name": "Triplet", "positive": "random", "negative": "semihard"},
        "sampler": FIVE_PER_CLASS,
    },
    "adam": {"optimizer": {"name": "adam", "lr": 0.01}},
    "HTL": {
        "loss": {"name": "HTL"},
        "sampler": {
            "kind": "anchor_neighbor",
            "anchors_per_batch": 2,
            "classes_per_anchor": 2,
            "images_per_class": 3,
            "batches_per_epoch": 4,
        },
    },
    "mined triplets": {
        "loss": {"name": "SmartTriplet", **SMART},
        "sampler": {"kind": "triplets", "batch_size": 12, "batches_per_epoch": 4, "mined_share": 0.75},
        "schedule": {"epochs": 5},
        "evaluation": {},
    },
    "given kappas": {
        "loss": {"name": "SmartTriplet", **SMART},
        "sampler": {
            "kind": "triplets",
            "batch_size": 12,
            "batches_per_epoch": 4,
            "kappa": [4.0, 1.5],
            "random_epochs": 1,
        },
        "evaluation": {},
    },
    "selected triplets": {
        "loss": {"name": "SmartTriplet", "positive": "random", "negative": "semihard", **SMART},
        "sampler": FIVE_PER_CLASS,
    },
}

TOML = """\
seed = 3
data.name = "digits"
network = { backbone = "convnet4", embedding_dim = 8 }
sampler = { kind = "class_balanced", batch_size = 10, images_per_class = 2, batches_per_epoch = 4 }
loss.name = "SHN"
optimizer = { lr = 0.1, momentum = 0.5 }
schedule = { epochs = 3, milestones = [1], factor = 0.5 }
"""

EXPERIMENT = (
    TOML
    + """
evaluation = { diagrams = [0, 5], embeddings = true }
[experiment]
claim = "SHN beats HN."
seeds = [0, 1]
reach = "HN"
figures = ["training", "triplet-steps", "train-test", "within-class", "nearest-train"]
[experiment.variants]
HN = { loss.name = "HN" }
SHN = { loss.name = "SHN", optimizer.lr = 0.05 }
[experiment.datasets.digits]
[experiment.datasets.more]
schedule.epochs = 2
"""
)


def recipe_of(table=DIGITS, **values):
    """The recipe of a table with changed values; `loss__name` stands for `loss.name`."""
    return parse_recipe("tiny", set_values("tiny", table, {key.replace("__", "."): v for key, v in values.items()}))


def small_digits(recipe=None):
    """The first images of each digit: enough to learn from, and quick."""
    data = load_data(recipe or recipe_of(), None, Path("nowhere"), progress=False)

    def first(part, count=20):
        rows = torch.cat([(part.labels == label).nonzero()[:count, 0] for label in part.labels.unique()])
        return dataclasses.replace(part, images=part.images[rows], labels=part.labels[rows])

    train, query = first(data.train), first(data.query)
    return dataclasses.replace(data, train=train, query=query, gallery=query)


def trained(recipe, data, folder, options=QUIET, **arguments):
    """The trainer after a run in a folder, which is created."""
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(recipe, data, folder, options, **arguments)
    trainer.run()
    return trainer


def final_state(folder):
    """The contents of a folder's last checkpoint, without times."""
    state = load_checkpoint(folder / FILE)
    state.pop("seconds")
    for row in state["rows"]:
        for name in [name for name in row if name.endswith("seconds")]:
            row.pop(name)
    for record in state["feed"].get("miner", {}).get("history", []):
        for name in [name for name in record if name.endswith("seconds")]:
            record.pop(name)
    return state


def equal_states(first, second):
    """Whether two nested states are equal bit for bit."""
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal_states(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(equal_states, first, second))
    return first == second or (first != first and second != second)  # NaN equals NaN


def interrupt():
    """Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)


def stop_at(step, monkeypatch, how=interrupt):
    """Make the step with this number end in `how()`."""
    take = Trainer._take_step

    def take_step(self, *arguments):
        take(self, *arguments)
        if self.step == step:
            how()

    monkeypatch.setattr(Trainer, "_take_step", take_step)


def usage_error(capsys, *words):
    """The output of a command whose arguments are refused."""
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    assert stop.value.code == 2
    return capsys.readouterr().err
