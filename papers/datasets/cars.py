"""Cars196, also called Stanford Cars: 16,185 images of 196 models of cars."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from papers._extras import require
from papers._torchvision import torchvision_module
from papers.datasets._layout import Layout, check_whole, existing, split_by_class
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
OWN_TRAINING_IMAGES = 8_144  # of the set's own split, which halves every class

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
    """The images that the annotations name; `own_test` [N] has which are of the test half of the set's own split."""

    paths: list[str]
    labels: list[int]
    own_test: list[bool]
    class_names: list[str]


def load_cars(root: str | Path, *, partial: bool = False) -> ImageSplit:
    """List Cars196: classes 1 to 98 train, 99 to 196 are only retrieved. The set's own split is not used.

    Args:
        root: Folder that holds `stanford_cars` in torchvision's layout, or `cars_annos.mat` and `car_ims`.
        partial: Take also a copy that lacks images, under a name that says so: "CAR, training half" where it is the
            training half of the set's own split, which has 24 to 68 images of each of the 196 classes, else "CAR,
            partial".

    Returns:
        The split "CAR": 8,054 images to train on, 8,131 to retrieve. Labels are 0 for class 1 to 195 for class 196.

    Raises:
        FileNotFoundError: A part of the tree is missing. The message shows the tree that is expected.
        ValueError: A list cannot be read, or the copy is not whole and `partial` is False.
        ModuleNotFoundError: SciPy is not installed or, for its layout, torchvision.

    Reference:
        Krause et al., 3D Object Representations for Fine-Grained Categorization, 3DRR 2013. The split: Oh Song et al.,
        CVPR 2016.
    """
    require("scipy.io")  # torchvision needs it, too, and says so late
    layout, home = _ONE_LIST, _ONE_LIST.find(root)
    if home is None:
        layout, home = _DEVKIT, _DEVKIT.home(root)
    listed = _from_one_list(home) if layout is _ONE_LIST else _from_devkit(home)
    paths, there, missing = existing(listed.paths)
    labels = torch.tensor(listed.labels, dtype=torch.int64)[there]
    own_test = torch.tensor(listed.own_test, dtype=torch.bool)[there]
    training = int((labels < TRAINING_CLASSES).sum())
    found = {"training": training, "test": len(labels) - training}
    whole = check_whole(layout, home, found, PUBLISHED, missing, partial)
    name = "CAR" if whole else f"CAR, {_part(own_test)}"
    return split_by_class(ImageDataset(paths, labels, name=name, class_names=listed.class_names), TRAINING_CLASSES)


def _part(own_test: Tensor) -> str:
    """What a partial copy has: the training half of the set's own split, whole, or something else."""
    return "training half" if len(own_test) == OWN_TRAINING_IMAGES and not own_test.any() else "partial"


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of reading a list name it. SciPy does not say which kinds it raises for damaged files: they are many."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"root: {path} cannot be read: {type(error).__name__}: {error}") from error


def _from_devkit(home: Path) -> _Listed:
    """What the annotations of the devkit name, as torchvision reads them."""
    home = home.absolute()
    if home.name != "stanford_cars":
        _DEVKIT.fail(f"torchvision wants {home} to be called stanford_cars")
    halves = {False: "devkit/cars_train_annos.mat"}
    # Without them the images of the other half are not known to be missing: the counts tell.
    if (home / "cars_test_annos_withlabels.mat").is_file() and (home / "cars_test").is_dir():
        halves[True] = "cars_test_annos_withlabels.mat"
    paths, labels, own_test, class_names = [], [], [], []
    stanford_cars = torchvision_module("datasets").StanfordCars
    for is_test, file in halves.items():
        with _naming(home / file):
            # The loader hands on the path, so that nothing is read but the lists.
            half = stanford_cars(home.parent, "test" if is_test else "train", loader=str)
            class_names = half.classes
            for row in range(len(half)):
                path, label = half[row]
                paths.append(path)
                labels.append(int(label))
                own_test.append(is_test)
    return _Listed(paths, labels, own_test, class_names)


def _from_one_list(home: Path) -> _Listed:
    """What `cars_annos.mat` names, the layout in which both halves lie in one folder."""
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
