"""The network and the optimizer of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from papers.networks import (
    Backbone,
    EmbeddingHead,
    EmbeddingNetwork,
    Standardize,
    backbone,
    convnet4,
    parameter_groups,
)
from papers.recipes.recipe import Recipe
from papers.recipes.sections import Optimizer
from papers.training.data import TrainingData, make_backbone


def make_network(recipe: Recipe, data: TrainingData) -> nn.Module:
    """Make the network, with new layers drawn from torch's global generator. For features, it is only the head."""
    inputs = inputs_of(data)
    network = build_network(recipe, inputs, None if inputs else make_backbone(recipe))
    if data.feature_dim is not None and recipe.network.standardize:
        network.layers[0] = Standardize.of(data.train.images)
    return network


def inputs_of(data: TrainingData) -> dict[str, Any]:
    """What a network must know of its inputs: features and their backbone, or size and scale of tensors of images."""
    images = data.train.images
    if data.feature_dim is not None:
        return {"feature_dim": data.feature_dim, "weights": data.weights}
    if isinstance(images, Tensor):
        scale = {"mean": images.mean().item(), "std": images.std().item()}
        return {"image_size": images.shape[-1], "channels": images.shape[1], **scale}
    return {}


def build_network(recipe: Recipe, inputs: Mapping[str, Any], trunk: Backbone | None = None) -> nn.Module:
    """Build the network for inputs as described by :func:`inputs_of`.

    New layers are drawn from torch's global generator, and a standardization of features does nothing yet.

    Args:
        recipe: The recipe.
        inputs: The description.
        trunk: The backbone, for image files; by default with random weights.
    """
    section = recipe.network
    sizes = {"hidden_dim": section.hidden_dim or None}
    if "feature_dim" in inputs:
        features = inputs["feature_dim"]
        standardize = Standardize(torch.zeros(features), torch.ones(features)) if section.standardize else None
        return EmbeddingHead(features, section.embedding_dim, standardize=standardize, **sizes)
    if inputs:
        trunk = convnet4(**inputs)
    else:
        # Convolutions are faster with channels last, both on CPUs and on a GPU's matrix units.
        trunk = (trunk or backbone(section.backbone, None)).to(memory_format=torch.channels_last)
    head = EmbeddingHead(trunk.feature_dim, section.embedding_dim, **sizes)
    return EmbeddingNetwork(trunk, head, frozen_statistics=section.frozen_statistics)


def make_optimizer(network: nn.Module, section: Optimizer) -> torch.optim.Optimizer:
    """Make the optimizer. Each group has its initial learning rate in `initial_lr`."""
    groups = parameter_groups(network, section.lr, section.last_layer_factor)
    for group in groups:
        group["initial_lr"] = group["lr"]
    if section.name == "adam":
        return torch.optim.Adam(groups, lr=section.lr, weight_decay=section.weight_decay)
    return torch.optim.SGD(groups, lr=section.lr, momentum=section.momentum, weight_decay=section.weight_decay)
