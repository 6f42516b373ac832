"""The network and the optimizer of a recipe."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from papers.networks import EmbeddingHead, EmbeddingNetwork, Standardize, convnet4, parameter_groups
from papers.recipes.recipe import Recipe
from papers.recipes.sections import Optimizer
from papers.training.data import TrainingData, make_backbone


def make_network(recipe: Recipe, data: TrainingData) -> nn.Module:
    """Make the network, with new layers drawn from torch's global generator. For features, it is only the head."""
    section = recipe.network
    images = data.train.images
    sizes = {"hidden_dim": section.hidden_dim or None}
    if data.feature_dim is not None:
        standardize = Standardize.of(images) if section.standardize else None
        return EmbeddingHead(data.feature_dim, section.embedding_dim, standardize=standardize, **sizes)
    if isinstance(images, Tensor):
        mean, std = images.mean().item(), images.std().item()
        trunk = convnet4(images.shape[-1], channels=images.shape[1], mean=mean, std=std)
    else:
        # Convolutions are faster with channels last, both on CPUs and on a GPU's matrix units.
        trunk = make_backbone(recipe).to(memory_format=torch.channels_last)
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
