"""A small backbone, images, and interrupted runs, for the tests of the cache of features."""

from pathlib import Path

import pytest
import torch
from torch import nn

from papers.networks import Backbone, cache_features

CHUNK = 4
COUNT = 18  # four and a half chunks of images


def small_backbone(activation: type[nn.Module] = nn.ReLU) -> Backbone:
    """A backbone with weights, batch normalization statistics and dropout.

    Dropout distinguishes training from evaluation.
    """
    torch.manual_seed(0)
    trunk = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), activation(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5)
    )
    return Backbone("small", trunk, 6, (0.5,) * 3, (0.25,) * 3)


class Images(torch.utils.data.Dataset):
    """Files of raw pixels."""

    def __init__(self, root: Path, names: list[str], transform=None) -> None:
        self.paths, self.transform = [root / name for name in names], transform
        self.read = []

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        self.read.append(index)
        pixels = torch.frombuffer(bytearray(self.paths[index].read_bytes()), dtype=torch.uint8).view(3, 8, 8)
        return (pixels if self.transform is None else self.transform(pixels)), 7


def compute(images, path, backbone=None, **options):
    return cache_features(backbone or small_backbone(), images, path, **{"chunk": CHUNK, "progress": False, **options})


def expected_features(images, backbone=None, chunk: int = CHUNK) -> torch.Tensor:
    """The features computed without a file."""
    backbone = (backbone or small_backbone()).eval()
    pixels = torch.stack([images[number][0] for number in range(len(images))])
    with torch.no_grad():
        return torch.cat([backbone(some) for some in pixels.split(chunk)])


def parts_of(path: Path) -> list[str]:
    folder = path.with_name(f"{path.name}.parts")
    return sorted(part.name for part in folder.iterdir()) if folder.exists() else []


class FailingImages(Images):
    """Images that cannot be read from a given index on."""

    def __init__(self, images: Images, at: int, error: type[BaseException]) -> None:
        self.__dict__.update(images.__dict__)
        self.at, self.error = at, error

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index >= self.at:
            raise self.error
        return super().__getitem__(index)


def interrupt_run(images: Images, path: Path, at: int = 10, error: type[BaseException] = KeyboardInterrupt) -> None:
    with pytest.raises(error):
        compute(FailingImages(images, at, error), path)
