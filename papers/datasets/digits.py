"""Handwritten digits, as tensors: the data set that needs no files."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch

from papers._extras import require


@dataclass(frozen=True)
class RetrievalSplit:
    """Images of the training classes and of the classes that are only retrieved.

    Attributes:
        train_images: float32 [N, 1, H, W] in [0, 1], 0 for paper and 1 for ink.
        train_labels: int64 [N].
        test_images: float32 [M, 1, H, W], of the retrieved-only classes.
        test_labels: int64 [M], disjoint from `train_labels`.
        name: Name of the data in tables.
    """

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    name: str


def load_digits(train_classes: Collection[int] = (0, 2, 4, 6, 8)) -> RetrievalSplit:
    """Load scikit-learn's handwritten digits, 1,797 images of 8 x 8, and split them by class.

    By default the even digits train and the odd ones are only retrieved. The split separates the digits that a rotation
    or reflection confuses (6 and 9, 2 and 5). Training on rotated images therefore teaches nothing false about the
    retrieved ones.

    Args:
        train_classes: Digits to train on. All other digits are only retrieved.

    Returns:
        The split, images [N, 1, 8, 8], labels 0 to 9.

    Raises:
        ValueError: `train_classes` is not at least two digits of 0 to 9 that leave at least two others.
        ModuleNotFoundError: scikit-learn is not installed.
    """
    chosen = set(train_classes)
    if not chosen <= set(range(10)) or not 2 <= len(chosen) <= 8:
        raise ValueError(f"train_classes must be 2 to 8 of the digits 0 to 9, got {train_classes!r}")
    digits = require("sklearn.datasets").load_digits()
    images = torch.from_numpy(digits.images).to(torch.float32).div_(16).unsqueeze(1)  # scikit-learn's ink is 0 to 16
    labels = torch.from_numpy(digits.target).to(torch.int64)
    is_train = torch.isin(labels, torch.tensor(sorted(chosen)))
    return RetrievalSplit(images[is_train], labels[is_train], images[~is_train], labels[~is_train], "digits")
