"""Trained networks from the folders of their runs; see :func:`papers.load`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from papers.networks import EmbeddingNetwork
from papers.networks.cache import weights_digest
from papers.recipes import Recipe
from papers.recipes.recipe import parse_recipe
from papers.recipes.sections import TENSOR_SETS
from papers.training import checkpoint
from papers.training.data import check_weights, make_backbone, transforms_of
from papers.training.network import build_network


class Trained(NamedTuple):
    """A trained network; see :func:`papers.load`."""

    network: nn.Module
    transform: Callable[[Any], Tensor] | None
    recipe: Recipe
    epoch: int


def load_run(run: str | os.PathLike[str]) -> Trained:
    """See :func:`papers.load`."""
    recipe, network, epoch, weights = read_run(run)
    if recipe.network.frozen:
        trunk = make_backbone(recipe)
        check_weights(recipe, weights, weights_digest(trunk))
        network = EmbeddingNetwork(trunk, network, frozen=True)
    transform = None if recipe.data.name in TENSOR_SETS else transforms_of(recipe).test
    return Trained(network.eval(), transform, recipe, epoch)


def read_run(run: str | os.PathLike[str]) -> tuple[Recipe, nn.Module, int, str | None]:
    """The recipe, the network and the number of epochs of a run, and the SHA-256 of the weights of a frozen backbone.

    The network of a frozen backbone is only the head. Older checkpoints, and those of given features, have no SHA-256.
    """
    folder = Path(run)
    path = folder / checkpoint.FILE
    if not path.is_file():
        raise FileNotFoundError(f"run must be the folder of a run, with {checkpoint.FILE}, got {os.fspath(run)!r}")
    state = checkpoint.load_checkpoint(path)
    recipe = parse_recipe(folder.name, state["recipe"])
    network = build_network(recipe, state["inputs"])
    network.load_state_dict(state["network"])
    return recipe, network, state["epoch"], state["inputs"].get("weights")
