"""Images in files, with the class of each: what the loaders give, and what a `DataLoader` takes."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hardmine.ops._arguments import INTEGER_DTYPES, check_integer, shape_of
from papers._extras import require
from papers.datasets.transforms import SeededTransform, Transforms

_NAMED = 5  # how many small classes a summary names


class ImageDataset(torch.utils.data.Dataset):
    """Image files and their classes; item i is `(image, label)`.

    The image is a PIL image, or what `transform` makes of it, the label a Python integer. The files are read when items
    are asked for, so that a set of any size opens at once.

    Args:
        paths: The files [N].
        labels: Integers [N], the class of each.
        name: What a table calls the data.
        class_names: Name of class 0, 1, ...; by default their numbers.
        coarse_labels: Integers [N], the classes one level up: the hotel chains of Hotels-50K, the super-classes of
            Stanford Online Products. -1 where unknown.
        transform: Called with each PIL image; a :class:`SeededTransform` also with the epoch and the item's number.
        mode: Pillow's mode that images are converted to: `"RGB"`, or `"L"` for gray.

    Attributes:
        paths: tuple of str [N].
        labels: int64 [N].
        coarse_labels: int64 [N], or None.
        epoch: The epoch that seeded transforms draw for; :meth:`set_epoch` sets it.

    Raises:
        TypeError: The labels are not integers.
        ValueError: There are no images, or the sizes differ. From an item: its file is not a readable image; the
            message names it.
    """

    def __init__(
        self,
        paths: Sequence[str],
        labels: Tensor | Sequence[int],
        *,
        name: str,
        class_names: Sequence[str] | None = None,
        coarse_labels: Tensor | Sequence[int] | None = None,
        transform: Callable[..., Any] | None = None,
        mode: str = "RGB",
    ) -> None:
        self.paths = tuple(map(str, paths))
        if not self.paths:
            raise ValueError("paths must name at least one image, got none")
        self.labels = _labels("labels", labels, len(self.paths))
        self.coarse_labels = None if coarse_labels is None else _labels("coarse_labels", coarse_labels, len(self.paths))
        highest = int(self.labels.max())
        self.class_names = tuple(map(str, range(highest + 1) if class_names is None else class_names))
        if int(self.labels.min()) < 0 or highest >= len(self.class_names):
            raise ValueError(
                f"labels must be from 0 to {len(self.class_names) - 1}, the number of class_names less one, "
                f"got {int(self.labels.min())} to {highest}"
            )
        self.name = name
        self.transform = transform
        self.mode = mode
        self._epoch = _shared(0)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """The image, transformed if there is a transform, and its label."""
        index = range(len(self))[operator.index(index)]
        image = read_image(self.paths[index], self.mode)
        if isinstance(self.transform, SeededTransform):
            image = self.transform(image, self.epoch, index)
        elif self.transform is not None:
            image = self.transform(image)
        return image, int(self.labels[index])

    def __repr__(self) -> str:
        """Name, sizes and transform."""
        classes = len(self.labels.unique())
        return f"ImageDataset({self.name!r}, {len(self)} images, {classes} classes, transform={self.transform})"

    @property
    def epoch(self) -> int:
        """The epoch that seeded transforms draw for."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, before its iteration starts. It reaches the workers of a `DataLoader`, persistent ones too.

        Args:
            epoch: Any integer from 0.
        """
        self._epoch.fill_(check_integer("epoch", epoch, 0))

    def with_transform(self, transform: Callable[..., Any] | None) -> ImageDataset:
        """The same images under another transform, and with an epoch of their own."""
        other = copy.copy(self)
        other.transform = transform
        other._epoch = _shared(self.epoch)
        return other

    def select(self, rows: Tensor, name: str | None = None) -> ImageDataset:
        """Some of the images, in the order given; the labels and the names of classes stay.

        Args:
            rows: Integers [n], or bool [N].
            name: What a table calls them; by default as before.

        Raises:
            ValueError: Nothing is selected.
        """
        numbers = torch.arange(len(self))[rows]
        if not len(numbers):
            raise ValueError(f"rows must select at least one image of {self.name}, got none")
        other = self.with_transform(self.transform)
        other.paths = tuple(self.paths[number] for number in numbers.tolist())
        other.labels = self.labels[numbers]
        other.coarse_labels = None if self.coarse_labels is None else self.coarse_labels[numbers]
        other.name = self.name if name is None else name
        return other

    def small_classes(self, images_per_class: int = 2) -> dict[int, int]:
        """The classes with too few images for a batch with so many of each, and the number of images that they have.

        Such a class cannot be sampled: with 2 images a class, one with a single image has no positive pair.

        Args:
            images_per_class: At least 1.
        """
        least = check_integer("images_per_class", images_per_class, 1)
        classes, counts = self.labels.unique(return_counts=True)
        few = counts < least
        return dict(zip(classes[few].tolist(), counts[few].tolist(), strict=True))


@dataclass(frozen=True)
class ImageSplit:
    """Images to train on, and images to retrieve.

    Attributes:
        name: What a table calls the data. That of a partial copy says so.
        train: Images to train on.
        query: Images whose class is looked for.
        gallery: Images among which it is looked for. Where that is the test set, it is `query` itself, the same
            object, and each query is to be left out of its own search.
    """

    name: str
    train: ImageDataset
    query: ImageDataset
    gallery: ImageDataset

    @property
    def test(self) -> ImageDataset:
        """The test images, where they are queries and gallery at once.

        Raises:
            AttributeError: Queries and gallery differ.
        """
        if self.query is not self.gallery:
            raise AttributeError(f"{self.name} has no one test set: use query and gallery")
        return self.query

    def with_transforms(self, transforms: Transforms) -> ImageSplit:
        """The same split: training images under `transforms.train`, queries and gallery under `transforms.test`."""
        query = self.query.with_transform(transforms.test)
        gallery = query if self.gallery is self.query else self.gallery.with_transform(transforms.test)
        return replace(self, train=self.train.with_transform(transforms.train), query=query, gallery=gallery)

    def summary(self, images_per_class: int = 2) -> str:
        """How many images and classes there are, and which classes training or retrieval can do nothing with.

        Args:
            images_per_class: Number of images of each class in a training batch.

        Returns:
            One line, and one more for each kind of trouble.
        """
        train, query, gallery = (_sizes(part) for part in (self.train, self.query, self.gallery))
        looked_for = f"{query} are retrieved" if self.query is self.gallery else f"{query} are looked for in {gallery}"
        lines = [f"{self.name}: {train} train, {looked_for}"]
        small = self.train.small_classes(images_per_class)
        if small:
            names = [f"{self.train.class_names[label]} ({count})" for label, count in list(small.items())[:_NAMED]]
            more = f" and {len(small) - _NAMED:,} more" if len(small) > _NAMED else ""
            lines.append(
                f"training classes with too few images for batches with {images_per_class} of each: {len(small):,} of "
                f"{len(self.train.labels.unique()):,}: {', '.join(names)}{more}"
            )
        if self.query is self.gallery:
            unmatched = len(self.query.small_classes(2))
        else:
            unmatched = int(torch.isin(self.query.labels, self.gallery.labels).logical_not().sum())
        if unmatched:
            lines.append(
                f"queries without another image of their class to find, which are misses: {unmatched:,} of "
                f"{len(self.query):,}"
            )
        return "\n".join(lines)


def read_image(path: str, mode: str) -> Any:
    """A whole image file as a PIL image.

    Args:
        path: The file.
        mode: Pillow's mode that the image is converted to.

    Raises:
        FileNotFoundError: The file is not there.
        ValueError: It is not a readable image: cut short, damaged or foreign. The message names it.
        ModuleNotFoundError: Pillow is not installed.
    """
    image_module = require("PIL.Image")
    try:
        with image_module.open(path) as image:
            return image.convert(mode)
    except FileNotFoundError:
        raise
    # What Pillow raises for files cut short, damaged or foreign, and for such as claim to be huge.
    except (OSError, SyntaxError, ValueError, image_module.DecompressionBombError) as error:
        raise ValueError(f"{path} is not a readable image: {error}") from error


def _labels(name: str, labels: Tensor | Sequence[int], count: int) -> Tensor:
    """Labels as int64 [count]."""
    labels = torch.as_tensor(labels)
    if labels.dtype not in INTEGER_DTYPES:
        raise TypeError(f"{name} must be integers, got {labels.dtype}")
    if labels.ndim != 1 or len(labels) != count:
        raise ValueError(f"{name} must be [N] = [{count}], one for each of paths, got {shape_of(labels)}")
    return labels.to("cpu", torch.int64)


def _shared(epoch: int) -> Tensor:
    """A number that all processes see: those of a `DataLoader` would otherwise keep the one they were started with."""
    return torch.tensor(epoch).share_memory_()


def _sizes(part: ImageDataset) -> str:
    return f"{len(part):,} images of {len(part.labels.unique()):,} classes"
