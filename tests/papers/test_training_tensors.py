"""Trainings on tensors: Omniglot, which is checked like other image files, and digits, which are used as they are."""

import hashlib

import pytest
import torch

from image_trees import write_image
from papers.datasets import load_omniglot
from papers.datasets import omniglot as omniglot_module
from papers.recipes import RecipeError
from papers.training import load_data
from training_cases import recipe_of

for needed in ("PIL", "sklearn", "tqdm"):
    pytest.importorskip(needed)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """3 characters with 3, 2 and 2 drawings for training, and 2 with 2 drawings each for retrieval."""
    for half, characters in {"background": (3, 2, 2), "evaluation": (2, 2)}.items():
        for character, drawings in enumerate(characters):
            for k in range(drawings):
                path = tmp_path / f"images_{half}/Latin/character{character:02d}/{k}.png"
                write_image(path, (80 * k + 40,) * 3, (105 + character, 105))
    monkeypatch.setattr(omniglot_module, "PUBLISHED", {"training": 7, "test": 4})
    return tmp_path


def loaded(root, **values):
    recipe = recipe_of(data={"name": "omniglot", **values}, sampler__batch_size=4)
    return load_data(recipe, root, root / "cache", progress=False)


@pytest.mark.parametrize("on_corrupt", ["refuse", "skip", "unchecked"])
def test_load_data_omniglot_equals_loader(root, on_corrupt):
    data, split = loaded(root, on_corrupt=on_corrupt), load_omniglot(root, progress=False)
    assert torch.equal(data.train.images, split.train_images)
    assert torch.equal(data.train.labels, split.train_labels)
    assert torch.equal(data.query.images, split.test_images)
    assert torch.equal(data.query.labels, split.test_labels)
    assert data.gallery is data.query
    assert data.name == "Omniglot"
    assert data.notes == ("Omniglot: training: 7 images of 3 classes; retrieval: 4 images of 2 classes",)
    read = (split.train_labels, split.train_images, *(split.test_labels, split.test_images) * 2)
    digest = hashlib.sha256(b"".join([b"Omniglot", *(tensor.numpy().tobytes() for tensor in read)]))
    assert data.fingerprint == digest.hexdigest()[:16]  # older checkpoints can be resumed


def test_load_data_partial_omniglot_needs_option_and_is_named(root):
    (root / "images_background/Latin/character01/1.png").unlink()
    with pytest.raises(ValueError, match=r"has 6 training images \(7 published\)"):
        loaded(root)
    data = loaded(root, partial=True)
    assert data.name == "Omniglot, partial"
    assert data.train.labels.tolist() == [0, 0, 0, 1, 2, 2]
    assert data.notes[1].startswith("training classes with fewer than 2 images, too few for a batch: 1 of 3: ")


def test_load_data_omniglot_on_corrupt_refuses_or_skips(root):
    (root / "images_background/Latin/character00/1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"(?s)1 of 11 images of Omniglot cannot be read; .*character00/1\.png"):
        loaded(root)
    with pytest.raises(ValueError, match=r"^\S*character00/1\.png is not a readable image"):
        loaded(root, on_corrupt="unchecked")
    data = loaded(root, on_corrupt="skip")
    assert data.name == "Omniglot, 1 corrupt image skipped"
    assert data.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(data.train.images[:, 0, 14, 14], 1 - torch.tensor([40, 200, 40, 120, 40, 120]) / 255)
    assert data.notes[-1].startswith("skipped: ")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("partial", True),
        ("on_corrupt", "unchecked"),
        ("size", 64),
        ("crop", 32),
        ("padding", 0),
        ("flip", False),
        ("keep_aspect", True),
        ("train_classes", 5),
    ],
)
def test_load_data_digits_unused_option_raises(key, value):
    recipe = recipe_of(data={"name": "digits", key: value})
    with pytest.raises(RecipeError, match=f"tiny: data.{key} must be omitted for digits, .*, got {value!r}"):
        load_data(recipe, None, None)
