"""Labeled image files: the data sets that loaders return and that a `DataLoader` takes."""

from __future__ import annotations

import copy
import operator
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hardmine.ops._arguments import INTEGER_DTYPES, shape_of
from hardmine.ops._numbers import check_integer
from papers._extras import require
from papers.datasets.transforms import SeededTransform, Transforms

_MAX_NAMED = 5  # small classes that a summary names
# The formats that are read. Pillow has others, some of which start programs: Ghostscript, for PostScript.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


class ImageDataset(torch.utils.data.Dataset):
    """Image files and their classes; item i is `(image, label)`.

    The image is a PIL image, or the output of `transform`; the label is a Python integer. Files are read lazily, so a
    data set of any size opens at once.

    Args:
        paths: The files [N].
        labels: Integers [N], the class of each.
        name: Name of the data in tables.
        class_names: Names of classes 0, 1, ...; by default their numbers.
        coarse_labels: Integers [N], the classes one level up: the hotel chains of Hotels-50K, the super-classes of
            Stanford Online Products. -1 where unknown.
        transform: Called with each PIL image. A :class:`SeededTransform` also gets the epoch and the item's index.
        mode: Pillow's mode that images are converted to: `"RGB"`, or `"L"` for gray.

    Attributes:
        paths: tuple of str [N].
        labels: int64 [N].
        coarse_labels: int64 [N], or None.
        epoch: The epoch that seeded transforms draw for; :meth:`set_epoch` sets it.

    Raises:
        TypeError: Labels are not integers.
        ValueError: There are no images, or the sizes differ. From an item: the file is not a readable image; the
            message names the file.
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
        self.class_names = _NumberNames(highest + 1) if class_names is None else tuple(map(str, class_names))
        if int(self.labels.min()) < 0 or highest >= len(self.class_names):
            raise ValueError(
                f"labels must be from 0 to {len(self.class_names) - 1}, the number of class_names minus 1, "
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
        """Set the epoch before iterating over it. All workers of a `DataLoader` see the value, persistent ones too.

        Args:
            epoch: Any integer from 0.
        """
        self._epoch.fill_(check_integer("epoch", epoch, 0))

    def with_transform(self, transform: Callable[..., Any] | None) -> ImageDataset:
        """The same images with another transform and a separate epoch."""
        other = copy.copy(self)
        other.transform = transform
        other._epoch = _shared(self.epoch)
        return other

    def select(self, rows: Tensor, name: str | None = None) -> ImageDataset:
        """Select images, in the given order. Labels and class names stay the same.

        Args:
            rows: Integers [n], or bool [N].
            name: Name of the selection in tables; by default the same as before.

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
        """The classes with fewer than `images_per_class` images, and their numbers of images.

        Such a class cannot be sampled: with 2 images per class, a class of one image has no positive pair.

        Args:
            images_per_class: At least 1.
        """
        minimum = check_integer("images_per_class", images_per_class, 1)
        classes, counts = self.labels.unique(return_counts=True)
        small = counts < minimum
        return dict(zip(classes[small].tolist(), counts[small].tolist(), strict=True))


@dataclass(frozen=True)
class ImageSplit:
    """Images to train on, and images to retrieve.

    Attributes:
        name: Name of the data in tables. The name of a partial copy says so.
        train: Images to train on.
        query: Images to retrieve the class of.
        gallery: Images to search. If queries and gallery are the same test set, `gallery` is the same object as
            `query`. Each query must then be left out of its own search.
    """

    name: str
    train: ImageDataset
    query: ImageDataset
    gallery: ImageDataset

    @property
    def test(self) -> ImageDataset:
        """The test images, if they are both queries and gallery.

        Raises:
            AttributeError: Queries and gallery differ.
        """
        if self.query is not self.gallery:
            raise AttributeError(f"{self.name} has no single test set: use query and gallery")
        return self.query

    def with_transforms(self, transforms: Transforms) -> ImageSplit:
        """The same split with `transforms.train` for training images and `transforms.test` for queries and gallery."""
        query = self.query.with_transform(transforms.test)
        gallery = query if self.gallery is self.query else self.gallery.with_transform(transforms.test)
        return replace(self, train=self.train.with_transform(transforms.train), query=query, gallery=gallery)

    def summary(self, images_per_class: int = 2) -> str:
        """The numbers of images and classes, and the classes that training or retrieval cannot use.

        Args:
            images_per_class: Number of images per class in a training batch.

        Returns:
            One line, plus one line per kind of problem.
        """
        train, query, gallery = (_sizes(part) for part in (self.train, self.query, self.gallery))
        searched = "" if self.query is self.gallery else f" in a gallery of {gallery}"
        lines = [f"{self.name}: training: {train}; retrieval: {query}{searched}"]
        small = self.train.small_classes(images_per_class)
        if small:
            names = [f"{self.train.class_names[label]} ({count})" for label, count in list(small.items())[:_MAX_NAMED]]
            more = f" and {len(small) - _MAX_NAMED:,} more" if len(small) > _MAX_NAMED else ""
            lines.append(
                f"training classes with fewer than {images_per_class} images, too few for a batch: {len(small):,} of "
                f"{len(self.train.labels.unique()):,}: {', '.join(names)}{more}"
            )
        if self.query is self.gallery:
            unmatched = len(self.query.small_classes(2))
        else:
            unmatched = int(torch.isin(self.query.labels, self.gallery.labels).logical_not().sum())
        if unmatched:
            lines.append(
                f"queries without another image of their class, counted as misses: {unmatched:,} of {len(self.query):,}"
            )
        return "\n".join(lines)


def read_image(path: str, mode: str) -> Any:
    """Read a complete image file as a PIL image.

    Args:
        path: The file.
        mode: Pillow's mode that the image is converted to.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not a readable image: truncated, damaged, or of another format than BMP, GIF, JPEG, PNG,
            PPM, TIFF and WebP; or it is a pipe or a device. The message names it.
        ModuleNotFoundError: Pillow is not installed.
    """
    image_module = require("PIL.Image")
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
            raise ValueError("it is not a regular file")
        with image_module.open(path, formats=_FORMATS) as image:
            return image.convert(mode)
    except FileNotFoundError:
        raise
    # Pillow raises these for files that are truncated, damaged, of another format, or claim to be huge.
    except (OSError, SyntaxError, ValueError, image_module.DecompressionBombError) as error:
        raise ValueError(f"{path} is not a readable image: {error}") from error


class _NumberNames(Sequence[str]):
    """The names "0", "1", ... of classes without names, made when they are read: labels may be large."""

    def __init__(self, count: int) -> None:
        self._numbers = range(count)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        numbers = self._numbers[index]
        return str(numbers) if isinstance(numbers, int) else tuple(map(str, numbers))


def _labels(name: str, labels: Tensor | Sequence[int], count: int) -> Tensor:
    """Labels as int64 [count]."""
    labels = torch.as_tensor(labels)
    if labels.dtype not in INTEGER_DTYPES:
        raise TypeError(f"{name} must be integers, got {labels.dtype}")
    if labels.ndim != 1 or len(labels) != count:
        raise ValueError(f"{name} must be [N] = [{count}], one per path, got {shape_of(labels)}")
    return labels.to("cpu", torch.int64)


def _shared(epoch: int) -> Tensor:
    """A number in shared memory. Without it, a `DataLoader`'s workers would keep the value from their start."""
    return torch.tensor(epoch).share_memory_()


def _sizes(part: ImageDataset) -> str:
    return f"{len(part):,} images of {len(part.labels.unique()):,} classes"
