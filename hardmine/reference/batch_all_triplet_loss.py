"""Plain PyTorch of :func:`hardmine.ops.batch_all_triplet_loss`."""

from __future__ import annotations

from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from hardmine._options import check_choice, check_distance_similarity
from hardmine.reference._ignored import drops_ignored
from hardmine.reference.select_triplets import may_pair, normalize, similarity_matrix
from hardmine.reference.triplet_loss import poison
from hardmine.types import Similarity, TripletCounts


def distance_matrix(a: Tensor, b: Tensor, squared: bool, similarity: str) -> Tensor:
    """Distances or squared distances of all rows of ``a`` and ``b``, which are normalized first for cosine."""
    a, b = (rows if rows.dtype == torch.float64 else rows.float() for rows in (a, b))
    a, b = (normalize(rows) if similarity == "cosine" else rows for rows in (a, b))
    if not squared:
        return -similarity_matrix(a, b, "euclidean")
    return a.square().sum(1)[:, None] + b.square().sum(1)[None, :] - 2 * a @ b.T


def margin_matrix(
    labels: Tensor, other_labels: Tensor, margin: float | Tensor, margin_labels: Tensor | None, like: Tensor
) -> Tensor:
    """alpha(y_a, y_n) per anchor and negative, with the shape of ``like``."""
    if not isinstance(margin, Tensor):
        return torch.full_like(like, margin)
    row, column = labels, other_labels
    if margin_labels is not None:
        row, column = ((y[:, None] == margin_labels.long()[None, :]).long().argmax(1) for y in (row, column))
    return margin.detach().to(like.dtype)[row[:, None], column[None, :]]


@drops_ignored
def batch_all_triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    ids: Tensor | None = None,
    ref_ids: Tensor | None = None,
    ignore_index: int | None = None,
    margin: float | Tensor = 0.2,
    margin_labels: Tensor | None = None,
    squared: bool = True,
    similarity: str = "cosine",
    reduction: str = "mean",
    return_counts: bool = False,
) -> Tensor | tuple[Tensor, TripletCounts]:
    """As :func:`hardmine.ops.batch_all_triplet_loss`, from a matrix [pairs, M] of all positive pairs and all negatives.

    Example:
        >>> import torch
        >>> from hardmine import ops, reference
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> loss = reference.batch_all_triplet_loss(embeddings, labels)
        >>> torch.allclose(loss, ops.batch_all_triplet_loss(embeddings, labels))
        True
    """
    check_choice("similarity", similarity, get_args(Similarity))
    check_distance_similarity(similarity, "batch_all_triplet_loss")
    d = distance_matrix(embeddings, embeddings if ref_embeddings is None else ref_embeddings, squared, similarity)
    labels = labels.long()
    other_labels = labels if ref_labels is None else ref_labels.long()
    same = labels[:, None] == other_labels[None, :]
    alpha = margin_matrix(labels, other_labels, margin, margin_labels, d.detach())
    allowed = may_pair(d, ids, ref_ids)
    positives = same & allowed
    if ref_embeddings is None:
        positives = positives & ~torch.eye(len(d), dtype=torch.bool, device=d.device)
    a, p = positives.nonzero(as_tuple=True)
    negatives = (~same & allowed)[a]
    value = 0.5 * F.relu(d[a, p][:, None] - d[a] + alpha[a]).masked_fill(~negatives, 0.0)
    counts = TripletCounts((value > 0).sum(), negatives.sum())
    loss = value.sum()
    if reduction != "sum":
        loss = loss / (counts.active if reduction == "mean_active" else counts.total).clamp(min=1)
    loss = poison(loss, embeddings, ref_embeddings)
    return (loss, counts) if return_counts else loss
