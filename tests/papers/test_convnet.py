"""The small convnet: by its definition, against the network that contains it, and its errors."""

import re

import pytest
import torch
from torch import nn

from papers.networks import EmbeddingNet, convnet4
from support.inputs import seeded


@pytest.mark.parametrize(
    ("size", "channels", "feature_dim"), [(28, 1, 576), (8, 1, 256), (16, 3, 256), (105, 1, 10816)]
)
def test_convnet4_matches_definition(size, channels, feature_dim):
    """Four padded convolutions with pooling after 1, 2, 3; for images below 16 pixels after 2 and 4."""
    built = convnet4(size, channels=channels, mean=0.3, std=0.2)
    images = torch.rand(2, channels, size, size, generator=seeded(0))
    weights = list(built.parameters())
    assert [tuple(w.shape) for w in weights[::2]] == [
        (32, channels, 3, 3),
        (32, 32, 3, 3),
        (64, 32, 3, 3),
        (64, 64, 3, 3),
    ]
    x = (images - 0.3) / 0.2
    for layer in range(4):
        x = nn.functional.conv2d(x, weights[2 * layer], weights[2 * layer + 1], padding=1).relu()
        if layer in ((1, 3) if size < 16 else (0, 1, 2)):
            x = nn.functional.max_pool2d(x, 2)
    assert built.feature_dim == feature_dim
    torch.testing.assert_close(built(images), x.flatten(1))
    assert built(images).shape == (2, feature_dim)
    assert built.name == "convnet4"


def test_convnet4_is_embedding_net_without_last_layer():
    images = torch.rand(3, 1, 28, 28, generator=seeded(0))
    torch.manual_seed(0)
    full_network = EmbeddingNet(28, 5, mean=0.1, std=0.3)
    torch.manual_seed(0)
    built = convnet4(28, mean=0.1, std=0.3)
    head = full_network.layers[-1]
    torch.testing.assert_close(head(built(images)), full_network(images))
    assert full_network(images).shape == (3, 5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"image_size": 7}, ValueError, "image_size must be at least 8, got 7"),
        ({"image_size": 28.0}, TypeError, "image_size must be an integer, got float"),
        ({"channels": 0}, ValueError, "channels must be at least 1, got 0"),
        ({"mean": "0"}, TypeError, "mean must be a number, got str"),
        ({"std": 0}, ValueError, "std must be a number > 0, got 0"),
    ],
)
def test_convnet4_invalid_arguments_raise(options, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        convnet4(**options)
