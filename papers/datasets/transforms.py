"""The papers' image transforms for training and testing."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hardmine.ops._numbers import check_integer, check_number
from papers._extras import require


class SeededTransform(ABC):
    """A transform whose random draws depend only on a seed, the epoch and the image's index.

    Earlier draws, the reading order and the number of workers do not matter, so an interrupted training resumes bit for
    bit.
    """

    @abstractmethod
    def __call__(self, image: Any, epoch: int, index: int) -> Any:
        """The transformed image."""


@dataclass(frozen=True)
class Transforms:
    """The transforms of the papers, for training and for testing.

    Training: resize, a crop at a random place of the image padded with black, and a flip of every other image.
    Testing: the same resize, and a crop from the middle. Both then turn the image into a tensor.
    Defaults are those of SCT and EP; HTL's are `Transforms(size=256, crop=224, padding=0)`.

    Args:
        size: Pixels that images are resized to (bilinear, antialiased).
        crop: Height and width of the crop; by default `size`.
        padding: Black pixels added on every side of the image before a training crop.
        flip: Whether training mirrors an image left to right, with probability 1/2.
        keep_aspect: Resize the shorter side to `size` and keep the shape; otherwise the image becomes square.
        normalization: None leaves values in [0, 1]; :class:`papers.networks.Backbone` scales these itself. Other
            networks need the means and standard deviations of the values: a pair of tuples, each with one number per
            channel or one number for all.
        seed: Seed of the draws; the same seed, epoch and image number give the same crop and flip everywhere.

    Attributes:
        train: A :class:`SeededTransform`, called with a PIL image, the epoch and the image's index.
        test: Called with a PIL image.

    Both return float32 [C, crop, crop].

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A number is out of range, or `crop` is larger than `size`. From the transforms: `normalization` has
            another number of channels than the image.
        ModuleNotFoundError: From the transforms: torchvision is not installed.

    Note:
        The defaults follow the papers' "re-sized to 256 by 256 pixels" and "random crops padded by 10 pixels on each
        side". The published code of SCT's authors resizes the shorter side to 1.1 times the crop and does not pad. In
        training, that is `Transforms(size=281, crop=256, padding=0, keep_aspect=True)`; test images are resized to 256.
        That code also normalizes by each data set's mean and standard deviation.

    Reference:
        SCT section 6, EP section 5.1, HTL section 5.
    """

    size: int = 256
    crop: int | None = None
    padding: int = 10
    flip: bool = True
    keep_aspect: bool = False
    normalization: tuple[Sequence[float], Sequence[float]] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the arguments, before the first image."""
        check_integer("size", self.size, 1)
        if self.crop is not None:
            check_integer("crop", self.crop, 1)
        if self.crop_size > self.size:
            raise ValueError(f"crop must be at most size = {self.size}, got {self.crop}")
        check_integer("padding", self.padding, 0)
        check_integer("seed", self.seed, 0)
        for name in ("flip", "keep_aspect"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        _channel_statistics(self.normalization)

    @property
    def crop_size(self) -> int:
        """Height and width of the output, in pixels."""
        return self.size if self.crop is None else self.crop

    @property
    def train(self) -> TrainTransform:
        """The transform for training images."""
        return TrainTransform(self)

    @property
    def test(self) -> TestTransform:
        """The transform for queries and galleries."""
        return TestTransform(self)


@dataclass(frozen=True)
class TrainTransform(SeededTransform):
    """The training half of :class:`Transforms`."""

    options: Transforms

    def __call__(self, image: Any, epoch: int, index: int) -> Tensor:
        """Transform a PIL image with the draws of this image in this epoch: float32 [C, crop, crop]."""
        options, functional = self.options, _functional()
        image = _resized(functional, image, options)
        generator = torch.Generator().manual_seed(_seed_of(options.seed, epoch, index))
        # Always three draws, so that the crop does not depend on whether images are flipped.
        top, left = (
            int(torch.randint(length + 2 * options.padding - options.crop_size + 1, (), generator=generator))
            for length in (image.height, image.width)
        )
        flipped = bool(torch.randint(2, (), generator=generator))
        # A crop is black where it exceeds the image.
        image = functional.crop(
            image, top - options.padding, left - options.padding, options.crop_size, options.crop_size
        )
        if options.flip and flipped:
            image = functional.horizontal_flip(image)
        return _normalized(functional, image, options)


@dataclass(frozen=True)
class TestTransform:
    """The testing half of :class:`Transforms`."""

    __test__ = False  # the name would make pytest collect it

    options: Transforms

    def __call__(self, image: Any) -> Tensor:
        """Transform a PIL image: float32 [C, crop, crop]."""
        functional = _functional()
        image = functional.center_crop(_resized(functional, image, self.options), [self.options.crop_size] * 2)
        return _normalized(functional, image, self.options)


def _functional() -> Any:
    # Not an attribute of the transforms: modules cannot be pickled.
    return require("torchvision.transforms.v2.functional")


def _seed_of(seed: int, epoch: int, index: int) -> int:
    """A seed for one image in one epoch. A hash of the three numbers, because their sums would repeat."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{epoch}/{index}".encode(), digest_size=8).digest(), "little")


def _resized(functional: Any, image: Any, options: Transforms) -> Any:
    return functional.resize(image, [options.size] if options.keep_aspect else [options.size] * 2)


def _normalized(functional: Any, image: Any, options: Transforms) -> Tensor:
    """The image as float32 [C, H, W], normalized."""
    values = functional.pil_to_tensor(image)
    statistics = _channel_statistics(options.normalization)
    if statistics is None:
        return functional.to_dtype(values, torch.float32, scale=True)
    mean, std = statistics
    if len(mean) not in (1, len(values)):
        raise ValueError(
            f"normalization must have as many channels as the image, {len(values)}, or 1, got {len(mean)} means"
        )
    # In units of 0 to 255, so that EfficientNet-lite's (x - 127) / 128 is exact.
    values = functional.to_dtype(values, torch.float32, scale=False)
    return functional.normalize(values, [255 * value for value in mean], [255 * value for value in std])


def _channel_statistics(normalization: Any) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """The means and standard deviations given by `normalization`, or None."""
    if normalization is None:
        return None
    try:
        mean, std = (tuple(map(float, values)) for values in normalization)
    except (TypeError, ValueError):
        raise TypeError(
            f"normalization must be None, or a pair of means and standard deviations, got {normalization!r}"
        ) from None
    if not mean or len(mean) != len(std):
        raise ValueError(f"normalization must have as many standard deviations as means, got {normalization!r}")
    for value in mean:
        check_number("the means of normalization", value)
    for value in std:
        check_number("the standard deviations of normalization", value, above=0.0)
    return mean, std
