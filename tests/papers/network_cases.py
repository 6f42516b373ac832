"""Images and a backbone for the tests of networks."""

import torch
from torch import nn

from papers.networks import Backbone
from support.inputs import seeded


def noise_images(count: int = 3, height: int = 64, width: int = 64, channels: int = 3) -> torch.Tensor:
    """Images of noise, uint8 [count, channels, height, width]."""
    return torch.randint(256, (count, channels, height, width), generator=seeded(0), dtype=torch.uint8)


def tiny_backbone(weights: str | None = None) -> Backbone:
    """A backbone of one linear layer on the mean of three channels."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(3), nn.Linear(3, 4))
    return Backbone("tiny", trunk, 4, (0.1, 0.2, 0.3), (1.0, 2.0, 4.0), weights)
