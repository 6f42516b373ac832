"""Checks of given triplets and of the labels beside them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hardmine.ops._arguments import INTEGER_DTYPES, check_labels, check_rows, check_tensor, has_values, shape_of


def check_triplets(embeddings: Any, triplets: Any, labels: Any) -> tuple[Tensor, Tensor | None]:
    """Checks the tensors of the losses on given triplets; returns ``triplets`` and ``labels`` as int64.

    The compiled ops check the indices, because they read them anyway. On the CPU an invalid index is an error. On a
    GPU, which the host does not wait for, an invalid index makes the loss NaN.
    """
    check_rows("embeddings", embeddings, None)
    check_tensor("triplets", triplets, embeddings)
    if triplets.dtype not in INTEGER_DTYPES:
        raise TypeError(f"triplets must have an integer dtype, got {triplets.dtype}")
    if triplets.dim() != 2 or triplets.shape[1] != 3:
        raise ValueError(f"triplets must be [T, 3], got {shape_of(triplets)}")
    if triplets.device != embeddings.device:
        raise ValueError(f"triplets must be on the device of embeddings, {embeddings.device}, got {triplets.device}")
    labels = None if labels is None else check_labels("labels", labels, embeddings, "B")
    return triplets.to(torch.int64), labels


def check_triplet_classes(triplets: Tensor, labels: Tensor) -> None:
    """Every triplet has an anchor, a positive of the anchor's class and a negative of another class."""
    anchor, positive, negative = labels[triplets].unbind(1)
    wrong = (anchor != positive) | (anchor == negative)
    if wrong.any():
        t = int(wrong.int().argmax())
        raise ValueError(
            "triplets must hold an anchor, a positive of the same class and a negative of another class, "
            f"got {triplets[t].tolist()} of classes {labels[triplets[t]].tolist()} at [{t}]"
        )


def loss_of_triplets(
    op: torch._ops.OpOverloadPacket,
    embeddings: Tensor,
    triplets: Tensor,
    labels: Tensor | None,
    options: list[int | float],
) -> Tensor:
    """The loss that ``op`` computes; on the CPU, the triplets must also fit ``labels``.

    The op runs first because it checks the indices: only then is it safe to look up labels. On other devices the
    indices are not checked by then, and labels are not looked up.
    """
    loss, _, _ = op(embeddings, triplets, *options)
    check_classes_where_readable(triplets, labels)
    return loss


def check_classes_where_readable(triplets: Tensor, labels: Tensor | None) -> None:
    """Triplets of valid indices must fit the labels, if there are any and the host can read them."""
    if labels is not None and has_values(triplets) and has_values(labels):
        check_triplet_classes(triplets, labels)
