"""CUB-200-2011: 11,788 images of 200 species of birds."""

from __future__ import annotations

from pathlib import Path

import torch

from papers.datasets._layout import Layout, check_complete, existing, read_rows, split_by_class
from papers.datasets.images import ImageDataset, ImageSplit

CUB_TREE = """\
    ROOT/CUB_200_2011/images.txt
    ROOT/CUB_200_2011/image_class_labels.txt
    ROOT/CUB_200_2011/classes.txt
    ROOT/CUB_200_2011/images/<NNN.Species>/<image>.jpg
(the folder CUB_200_2011 may be omitted)"""
PUBLISHED = {"training": 5_864, "test": 5_924}
CLASSES = 200
TRAINING_CLASSES = 100

_LAYOUT = Layout(
    "CUB-200-2011",
    CUB_TREE,
    ("images.txt", "image_class_labels.txt", "classes.txt", "images"),
    ("", "CUB_200_2011"),
    ("CUB_200_2011",),
)


def load_cub(root: str | Path, *, partial: bool = False) -> ImageSplit:
    """List CUB-200-2011: classes 1 to 100 train, 101 to 200 are only retrieved. The official split is not used.

    Args:
        root: Folder that holds `CUB_200_2011`, or `CUB_200_2011` itself.
        partial: Accept a copy that lacks images, and name it accordingly. The name is "CUB, first 50 classes" if
            complete classes are missing at the end, otherwise "CUB, partial". If one side of the split has fewer than 2
            classes, the first half of the classes trains.

    Returns:
        The split "CUB": 5,864 images to train on, 5,924 to retrieve. Labels are 0 for class 1 to 199 for class 200.

    Raises:
        FileNotFoundError: A part of the tree is missing. The message shows the expected tree.
        ValueError: A list is malformed, or the copy is incomplete and `partial` is False.

    Reference:
        Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, CNS-TR-2011-001. The split: Oh Song et al., CVPR 2016.
    """
    home = _LAYOUT.home(root)
    files = dict(read_rows(home / "images.txt", (int, str)))
    classes = dict(read_rows(home / "image_class_labels.txt", (int, int)))
    names = dict(read_rows(home / "classes.txt", (int, str)))
    wrong = next((label for label in names if not 1 <= label <= CLASSES), None)
    if wrong is not None:
        raise ValueError(f"root: {home}/classes.txt must number classes from 1 to {CLASSES}, got {wrong}")
    for image, file in files.items():
        if classes.get(image) not in names:
            raise ValueError(
                f"root: {home}/image_class_labels.txt and classes.txt must give a class with a name for image {image}, "
                f"{file}, got class {classes.get(image)}"
            )
    labels = torch.tensor([classes[image] - 1 for image in files], dtype=torch.int64)
    paths, existing_mask, missing = existing([str(home / "images" / file) for file in files.values()])
    labels = labels[existing_mask]
    training = int((labels < TRAINING_CLASSES).sum())
    found = {"training": training, "test": len(labels) - training}
    complete = check_complete(_LAYOUT, home, found, PUBLISHED, missing, partial)
    class_names = [names.get(label, str(label)) for label in range(1, max(names) + 1)]
    name = "CUB" if complete else f"CUB, {_subset_name(labels, classes)}"
    return split_by_class(ImageDataset(paths, labels, name=name, class_names=class_names), TRAINING_CLASSES)


def _subset_name(labels: torch.Tensor, classes: dict[int, int]) -> str:
    """The name of a partial copy: the first N complete classes, or any other part."""
    present = len(labels.unique())
    # The size of each class is known only if the list of classes is complete, which it can be although images are
    # missing.
    known = len(classes) == sum(PUBLISHED.values())
    classes_complete = len(labels) == sum(label <= present for label in classes.values())
    return f"first {present} classes" if known and classes_complete and present == int(labels.max()) + 1 else "partial"
