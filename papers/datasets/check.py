"""Read every image once before a long training."""

from __future__ import annotations

import os
from dataclasses import replace
from multiprocessing.pool import ThreadPool
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from hardmine.ops._arguments import check_choice
from hardmine.ops._numbers import check_integer
from papers._extras import require
from papers.datasets.images import ImageDataset, ImageSplit, read_image
from papers.datasets.lfw import VerificationPairs

_MAX_NAMED = 10  # corrupt images that an error names
Images = TypeVar("Images", ImageDataset, ImageSplit, VerificationPairs)


class CorruptImage(NamedTuple):
    """An image file that cannot be read.

    Attributes:
        path: The file.
        reason: The error message of the read.
    """

    path: str
    reason: str


def check_images(
    images: Images, on_corrupt: str = "refuse", *, workers: int | None = None, progress: bool = True
) -> tuple[Images, tuple[CorruptImage, ...]]:
    """Read every image once, as training will, to find unreadable images now and not after hours of training.

    Args:
        images: A data set, a split, or pairs. A file that occurs in several parts is read once.
        on_corrupt: `"refuse"`: raise an error that names the unreadable images. `"skip"`: leave them and their pairs
            out, and count them in the name.
        workers: Number of reader threads; by default the number of the machine's processors.
        progress: Show a progress bar on stderr.

    Returns:
        The readable images, in the type of `images`, and the unreadable ones in the order of their paths. If all images
        are readable, the first is `images` itself.

    Raises:
        TypeError: `images` has another type, or `workers` is not an integer.
        ValueError: Images are unreadable, and `on_corrupt` is `"refuse"` or nothing is left without them. The message
            counts them and names the first ones. Or an argument is out of range.
        ModuleNotFoundError: Pillow or, with `progress`, tqdm is not installed.
    """
    check_choice("on_corrupt", on_corrupt, ("refuse", "skip"))
    workers = (os.cpu_count() or 1) if workers is None else check_integer("workers", workers, 1)
    modes = {path: part.mode for part in _parts(images) for path in part.paths}
    with ThreadPool(workers) as pool:
        reasons = pool.imap(_why_corrupt, modes.items(), chunksize=16)
        if progress:
            reasons = require("tqdm").tqdm(reasons, desc="checking images", unit="image", total=len(modes))
        corrupt = [CorruptImage(path, reason) for path, reason in zip(modes, reasons, strict=True) if reason]
    if not corrupt:
        return images, ()
    if on_corrupt == "refuse":
        named = "\n".join(f"    {reason}" for _, reason in corrupt[:_MAX_NAMED])
        more = f"\n    and {len(corrupt) - _MAX_NAMED:,} more" if len(corrupt) > _MAX_NAMED else ""
        raise ValueError(
            f"{len(corrupt):,} of {len(modes):,} images of {images.name} cannot be read; on_corrupt='skip' omits "
            f"them:\n{named}{more}"
        )
    name = f"{images.name}, {len(corrupt):,} corrupt image{'s' if len(corrupt) > 1 else ''} skipped"
    return _without(images, {path for path, _ in corrupt}, name), tuple(corrupt)


def _parts(images: Images) -> list[ImageDataset]:
    if isinstance(images, ImageDataset):
        return [images]
    if isinstance(images, ImageSplit):
        return [images.train, images.query, images.gallery]
    if isinstance(images, VerificationPairs):
        return [images.images]
    raise TypeError(f"images must be an ImageDataset, an ImageSplit or VerificationPairs, got {type(images).__name__}")


def _why_corrupt(item: tuple[str, str]) -> str | None:
    """Why a file is not a readable image of the mode, or None if it is."""
    try:
        read_image(*item)
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _without(images: Images, corrupt: set[str], name: str) -> Images:
    """The images without some files, under another name."""

    def keep(part: ImageDataset) -> Tensor:
        return torch.tensor([path not in corrupt for path in part.paths])

    if isinstance(images, ImageDataset):
        return images.select(keep(images), name)
    if isinstance(images, VerificationPairs):
        return images.select(keep(images.images), name)
    # A data set that serves as two parts (query and gallery, or gallery and train) stays one object.
    kept = {id(part): part.select(keep(part), name) for part in _parts(images)}
    train, query, gallery = (kept[id(part)] for part in _parts(images))
    return replace(images, name=name, train=train, query=query, gallery=gallery)
