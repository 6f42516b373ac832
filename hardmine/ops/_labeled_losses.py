"""The losses on labeled rows that the CPU computes together with their gradients.

Each function takes the arguments of its compiled op in a tuple, without the flags, and returns the reduced loss.
"""

from __future__ import annotations

from torch import Tensor

from hardmine.ops._losses_with_gradients import has_cpu_op, register_labeled_loss

_HAS_CPU_OPS = has_cpu_op("triplet_loss_with_gradients")


def has_labeled_losses(embeddings: Tensor) -> bool:
    """Whether the device of ``embeddings`` has the ops."""
    return embeddings.is_cpu and _HAS_CPU_OPS


triplet_loss_with_gradients = register_labeled_loss("triplet_loss_with_gradients", "TripletLoss")
tuplet_loss_with_gradients = register_labeled_loss("tuplet_loss_with_gradients", "TupletLoss")
supcon_loss_with_gradients = register_labeled_loss("supcon_loss", "SupConLoss")
