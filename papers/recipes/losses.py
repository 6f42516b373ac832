"""[loss]: the losses that a recipe can name, and their options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from hardmine import losses
from hardmine.ops._numbers import check_finite, check_number
from papers.recipes.fields import RecipeError, check_keys, msgspec

_BATCH: dict[str, type[nn.Module]] = {
    "SCT": losses.SCTLoss,
    "HN": losses.HNLoss,
    "SHN": losses.SHNLoss,
    "EPHN": losses.EPHNLoss,
    "EPSHN": losses.EPSHNLoss,
    "HPHN": losses.HPHNLoss,
    "Triplet": losses.TripletLoss,
    "EP": losses.EPLoss,
    "HP": losses.HPLoss,
    "N-pair": losses.NPairLoss,
    "BatchAll": losses.BatchAllLoss,
    "BatchAllTriplet": losses.BatchAllTripletLoss,
    "HTL": losses.HierarchicalTripletLoss,
}
SMART = "SmartTriplet"
LOSSES = (*_BATCH, SMART)
# Options that TOML cannot express, and what only they give a use.
_NOT_IN_TOML = {"generator", "margin_labels", "classes", "group", "gradient_reduction"}
_WEIGHTS = ("lam", "global_lam")  # a negative weight would reward what the loss must avoid
_SMART_OPTIONS = {
    "margin": 0.2,
    "global_weight": 1.0,
    "global_threshold": 0.01,
    "global_lam": 0.8,
    "positive": None,
    "negative": None,
}


class Loss(msgspec.Struct, frozen=True):
    """[loss].

    Attributes:
        name: One of `LOSSES`.
        options: The given options of the loss's module. For SmartTriplet: `margin` of the ratio loss, and
            `global_weight`, `global_threshold` (t) and `global_lam` of the global loss. If batches are not triplets,
            `positive` and `negative` name the selection.
    """

    name: str
    options: Mapping[str, Any]


class SmartTripletLoss(nn.Module):
    """Smart Mining's loss on given triplets: the ratio loss plus the weighted global loss (eq. 2 and 3)."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        chosen = _SMART_OPTIONS | options
        self.ratio = losses.RatioTripletLoss(reduction="none", margin=chosen["margin"])
        self.global_weight = check_number("global_weight", chosen["global_weight"], at_least=0.0)
        self.spread = losses.GlobalLoss(threshold=chosen["global_threshold"], lam=chosen["global_lam"])
        self.selection = {name: chosen[name] for name in ("positive", "negative") if chosen[name] is not None}

    def forward(self, embeddings: Any, triplets: Any) -> tuple[Any, Any]:
        """The loss of embeddings [B, D] on triplets [T, 3], and the ratio loss per triplet, [T]."""
        per_triplet = self.ratio(embeddings, triplets)
        loss = per_triplet.mean()
        if self.global_weight:
            loss = loss + self.global_weight * self.spread(embeddings, triplets)
        return loss, per_triplet


def parse_loss(recipe: str, table: Any) -> Loss:
    """Parse [loss] of a recipe, and construct the module once to validate it.

    Raises:
        RecipeError: The loss is unknown, has no such option, or refuses a value.
    """
    if not isinstance(table, Mapping) or table.get("name") not in LOSSES:
        got = repr(table.get("name")) if isinstance(table, Mapping) and "name" in table else "none"
        raise RecipeError(f"{recipe}: loss.name must be one of {', '.join(LOSSES)}, got {got}")
    options = {key: value for key, value in table.items() if key != "name"}
    loss = Loss(table["name"], options)
    check_keys(recipe, "loss", options, option_names(loss.name))
    try:
        for weight in _WEIGHTS:
            if weight in options:
                check_finite(weight, options[weight], at_least=0.0)
        if options.get("reduction") == "none":
            raise ValueError("reduction must be one that gives a scalar to train on, got 'none'")
        make_loss(loss, classes=1)
    except (TypeError, ValueError) as error:
        key = str(error).partition(" ")[0]
        given = f" (loss.{key} = {options[key]!r})" if key in options else ""
        raise RecipeError(f"{recipe}: [loss] {loss.name}: {error}{given}") from error
    return loss


def make_loss(loss: Loss, classes: int | Tensor) -> nn.Module:
    """The loss module, for a number of classes or for the labels of the training images."""
    if loss.name == SMART:
        return SmartTripletLoss(**loss.options)
    extra = {"classes": classes} if loss.name == "HTL" else {}
    return _BATCH[loss.name](**loss.options, **extra)


def option_names(name: str) -> list[str]:
    """The options that a recipe can give a loss."""
    if name == SMART:
        return list(_SMART_OPTIONS)
    return [option for option in inspect.signature(_BATCH[name]).parameters if option not in _NOT_IN_TOML]
