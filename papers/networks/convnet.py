"""The small convnet for drawings and digits."""

from __future__ import annotations

import torch
from torch import nn

WIDTHS = (32, 32, 64, 64)  # output channels of the convolutions


def convnet_layers(image_size: int, channels: int = 1) -> tuple[list[nn.Module], int]:
    """Four 3 x 3 convolutions with ReLU and max pooling, flattened, and the number of their output features."""
    pooled_layers = (1, 3) if image_size < 16 else (0, 1, 2)  # 8 -> 4 -> 2, or 28 -> 14 -> 7 -> 3
    layers: list[nn.Module] = []
    size = image_size
    for layer, width in enumerate(WIDTHS):
        convolution = nn.Conv2d(channels, width, kernel_size=3, padding=1)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        nn.init.zeros_(convolution.bias)
        layers += [convolution, nn.ReLU()]
        channels = width
        if layer in pooled_layers:
            layers.append(nn.MaxPool2d(2))
            size //= 2
    return [*layers, nn.Flatten()], channels * size * size


class EmbeddingNet(nn.Module):
    """Four 3 x 3 convolutions with ReLU and max pooling, then a linear layer to the embedding.

    The small convnet customary for Omniglot (Vinyals et al., Matching Networks, NeurIPS 2016), but without batch
    normalization. Batch normalization spreads a batch out regardless of the loss, and would hide a collapse.

    Args:
        image_size: Height and width of the images, in pixels, at least 8.
        embedding_dim: Dimensions of the embedding.
        mean: Mean gray value of the training images.
        std: Standard deviation of the training images' gray values.
    """

    def __init__(self, image_size: int, embedding_dim: int, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std
        layers, feature_dim = convnet_layers(image_size)
        self.layers = nn.Sequential(*layers, nn.Linear(feature_dim, embedding_dim))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embed float32 [B, 1, H, W] as [B, D]; the losses normalize."""
        return self.layers((images - self.mean) / self.std)
