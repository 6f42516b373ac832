"""The losses on labeled rows that the CPU computes together with their gradients.

Each function takes the arguments of its compiled op in a tuple, without the flags, and returns the reduced loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from hardmine.ops._arguments import check_ids, check_labeled_rows
from hardmine.ops._known_options import remember
from hardmine.ops._losses_with_gradients import has_cpu_op, register_labeled_loss

_HAS_CPU_OPS = has_cpu_op("triplet_loss_with_gradients")


def has_labeled_losses(embeddings: Tensor) -> bool:
    """Whether the device of ``embeddings`` has the ops."""
    return embeddings.is_cpu and _HAS_CPU_OPS


triplet_loss_with_gradients = register_labeled_loss("triplet_loss_with_gradients", "TripletLoss")
tuplet_loss_with_gradients = register_labeled_loss("tuplet_loss_with_gradients", "TupletLoss")
supcon_loss_with_gradients = register_labeled_loss("supcon_loss", "SupConLoss")
multi_similarity_loss_with_gradients = register_labeled_loss("multi_similarity_loss", "MultiSimilarityLoss")
circle_loss_with_gradients = register_labeled_loss("circle_loss", "CircleLoss")


def loss_with_gradients(
    compute: Callable[[tuple[Any, ...]], Tensor], inputs: tuple[Any, ...], check: Callable[[], list[Any]]
) -> Tensor | None:
    """The reduced loss of unchecked inputs; None on a device without the ops.

    ``check`` checks the options and returns them as the compiled op takes them.
    """
    embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids = inputs
    labels, ref_labels = check_labeled_rows(embeddings, labels, ref_embeddings, ref_labels)
    ids, ref_ids = check_ids(ids, embeddings, ref_ids, ref_embeddings)
    if not has_labeled_losses(embeddings):
        return None
    compiled_options = check()
    remember(compiled_options)
    return compute((embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids, *compiled_options))
