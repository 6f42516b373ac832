"""Cars196, also called Stanford Cars: 16,185 images of 196 models of cars."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from papers._extras import require
from papers.datasets._layout import Layout, check_complete, existing, split_by_class
from papers.datasets.images import ImageDataset, ImageSplit

CARS_TREE = """\
    ROOT/stanford_cars/devkit/cars_train_annos.mat
    ROOT/stanford_cars/devkit/cars_meta.mat
    ROOT/stanford_cars/cars_train/<NNNNN>.jpg
    ROOT/stanford_cars/cars_test_annos_withlabels.mat
    ROOT/stanford_cars/cars_test/<NNNNN>.jpg
(torchvision's layout) or, older,
    ROOT/cars_annos.mat
    ROOT/car_ims/<NNNNNN>.jpg"""
PUBLISHED = {"training": 8_054, "test": 8_131}
TRAINING_CLASSES = 98
OFFICIAL_TRAINING_IMAGES = 8_144  # of the official split, which halves every class

_TITLE = "Cars196"
_ONE_LIST = Layout(_TITLE, CARS_TREE, ("cars_annos.mat", "car_ims"), ("", "cars196", "Cars196", "CARS196"))
_DEVKIT = Layout(
    _TITLE,
    CARS_TREE,
    ("devkit/cars_train_annos.mat", "devkit/cars_meta.mat", "cars_train"),
    ("stanford_cars", ""),
    ("stanford_cars", "cars_", "car_"),
)


class _Listed(NamedTuple):
    """The annotated images. `official_test` [N] marks those in the test half of the official split."""

    paths: list[str]
    labels: list[int]
    official_test: list[bool]
    class_names: list[str]


def load_cars(root: str | Path, *, partial: bool = False) -> ImageSplit:
    """List Cars196: classes 1 to 98 train, 99 to 196 are only retrieved. The official split is not used.

    Args:
        root: Folder that holds `stanford_cars` in torchvision's layout, or `cars_annos.mat` and `car_ims`.
        partial: Accept a copy that lacks images, and name it accordingly. The name is "CAR, training half" for the
            training half of the official split, with 24 to 68 images per class in all 196 classes. Otherwise it is
            "CAR, partial".

    Returns:
        The split "CAR": 8,054 images to train on, 8,131 to retrieve. Labels are 0 for class 1 to 195 for class 196.

    Raises:
        FileNotFoundError: A part of the tree is missing. The message shows the expected tree.
        ValueError: A list cannot be read, or the copy is incomplete and `partial` is False.
        ModuleNotFoundError: SciPy is not installed, or torchvision for torchvision's layout.

    Reference:
        Krause et al., 3D Object Representations for Fine-Grained Categorization, 3DRR 2013. The split: Oh Song et al.,
        CVPR 2016.
    """
    require("scipy.io")  # torchvision needs SciPy too, but fails later
    layout, home = _ONE_LIST, _ONE_LIST.find(root)
    if home is None:
        layout, home = _DEVKIT, _DEVKIT.home(root)
    listed = _from_one_list(home) if layout is _ONE_LIST else _from_devkit(home)
    paths, existing_mask, missing = existing(listed.paths)
    labels = torch.tensor(listed.labels, dtype=torch.int64)[existing_mask]
    official_test = torch.tensor(listed.official_test, dtype=torch.bool)[existing_mask]
    training = int((labels < TRAINING_CLASSES).sum())
    found = {"training": training, "test": len(labels) - training}
    complete = check_complete(layout, home, found, PUBLISHED, missing, partial)
    name = "CAR" if complete else f"CAR, {_subset_name(official_test)}"
    return split_by_class(ImageDataset(paths, labels, name=name, class_names=listed.class_names), TRAINING_CLASSES)


def _subset_name(official_test: Tensor) -> str:
    """The name of a partial copy: the complete training half of the official split, or any other part."""
    return "training half" if len(official_test) == OFFICIAL_TRAINING_IMAGES and not official_test.any() else "partial"


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the list in errors of reading it. SciPy raises many types for damaged files and documents none."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"root: {path} cannot be read: {type(error).__name__}: {error}") from error


def _from_devkit(home: Path) -> _Listed:
    """The images that the devkit's annotations list, as torchvision reads them."""
    home = home.absolute()
    if home.name != "stanford_cars":
        _DEVKIT.fail(f"torchvision requires {home} to have the name stanford_cars")
    halves = {False: "devkit/cars_train_annos.mat"}
    # Without the annotations or the folder, missing test images cannot be listed, but the counts show that they are
    # missing.
    if (home / "cars_test_annos_withlabels.mat").is_file() and (home / "cars_test").is_dir():
        halves[True] = "cars_test_annos_withlabels.mat"
    paths, labels, official_test, class_names = [], [], [], []
    stanford_cars = require("torchvision.datasets").StanfordCars
    for is_test, file in halves.items():
        with _naming(home / file):
            # The loader returns the path, so only the lists are read.
            half = stanford_cars(home.parent, "test" if is_test else "train", loader=str)
            class_names = half.classes
            for row in range(len(half)):
                path, label = half[row]
                paths.append(path)
                labels.append(int(label))
                official_test.append(is_test)
    return _Listed(paths, labels, official_test, class_names)


def _from_one_list(home: Path) -> _Listed:
    """The images that `cars_annos.mat` lists, in the layout with both halves in one folder."""
    path = home / "cars_annos.mat"
    loadmat = require("scipy.io").loadmat
    with _naming(path):
        content = loadmat(path, squeeze_me=True)
        annotations = content["annotations"]
        return _Listed(
            [str(home / file) for file in annotations["relative_im_path"].tolist()],
            [int(label) - 1 for label in annotations["class"].tolist()],
            [bool(test) for test in annotations["test"].tolist()],
            [str(name) for name in content["class_names"].tolist()],
        )
