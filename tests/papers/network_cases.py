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


FEATURES = 2  # that only_eight makes


def no_backbone(weights: str | None) -> nn.Module:
    """A network that is no backbone."""
    return nn.Identity()


def tiny_from(weights: str | None) -> Backbone:
    """A network as a recipe names it."""
    return tiny_backbone(weights)


def only_eight(weights: str | None) -> Backbone:
    """A network that takes only images of 8 x 8, and says that it makes 3 features."""
    trunk = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, FEATURES))
    return Backbone("only eight", trunk, 3, (0.5,) * 3, (0.5,) * 3, weights)
