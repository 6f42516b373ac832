"""What every example trains on: handwritten digits, a random rotation for each image, and a small convnet."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F


class Digits(NamedTuple):
    """Images [N, 1, 8, 8] in [0, 1] and their labels [N]. Even digits train; odd digits are only retrieved."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def digits() -> Digits:
    """Scikit-learn's 1,797 handwritten digits, which need no download."""
    data = load_digits()
    images = torch.from_numpy(data.images).to(torch.float32).div(16).unsqueeze(1)
    labels = torch.from_numpy(data.target).to(torch.int64)
    even = labels % 2 == 0
    return Digits(images[even], labels[even], images[~even], labels[~even])


def rotated(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate every image [B, 1, H, W] about its center by a random angle."""
    angle = (torch.rand(len(images), generator=generator) * 2 - 1) * math.pi
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    matrices = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


class ConvNet(nn.Module):
    """Four convolutions and a linear layer: images [B, 1, 8, 8] become embeddings [B, D].

    Batch normalization would spread out every batch and so hide a collapse; there is none.
    """

    def __init__(self, images: Tensor, embedding_dim: int = 8) -> None:
        super().__init__()
        self.mean, self.std = images.mean().item(), images.std().item()
        layers: list[nn.Module] = []
        channels = 1
        for width, pools in ((32, False), (32, True), (64, False), (64, True)):
            convolution = nn.Conv2d(channels, width, kernel_size=3, padding=1)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            nn.init.zeros_(convolution.bias)
            layers += [convolution, nn.ReLU()] + ([nn.MaxPool2d(2)] if pools else [])
            channels = width
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * 2 * 2, embedding_dim))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers((images - self.mean) / self.std)
