"""The samplers of recipes."""

from __future__ import annotations

from torch import Tensor

from hardmine.mining import AnchorNeighborSampler, ClassBalancedSampler
from papers.recipes import Recipe, RecipeError
from papers.recipes.sections import ClassBalanced


def make_sampler(recipe: Recipe, labels: Tensor, name: str) -> ClassBalancedSampler | AnchorNeighborSampler:
    """Make the sampler of a recipe without mined triplets.

    Args:
        recipe: The recipe.
        labels: int64 [N], the classes of the training images.
        name: Name of the data.

    Raises:
        RecipeError: The sampler does not suit the classes, for example because a batch needs more classes than there
            are.
    """
    section = recipe.sampler
    shared = {
        "small_classes": section.small_classes,
        "batches_per_epoch": section.batches_per_epoch,
        "seed": recipe.seed,
    }
    try:
        if isinstance(section, ClassBalanced):
            sizes = {"images_per_class": section.images_per_class, "batch_size": section.batch_size}
            return ClassBalancedSampler(labels, **sizes, **shared)
        numbers = (section.anchors_per_batch, section.classes_per_anchor, section.images_per_class)
        return AnchorNeighborSampler(labels, *numbers, **shared)
    except ValueError as error:
        raise RecipeError(f"{recipe.name}: [sampler] does not suit {name}: {error}") from error
