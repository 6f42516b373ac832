"""Plain PyTorch of :func:`hardmine.ops.batch_all_triplet_loss`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hardmine.reference._ignored import drops_ignored
from hardmine.reference.select_triplets import may_pair, normalize, similarity_matrix
from hardmine.reference.triplet_loss import poison
from hardmine.types import TripletCounts


def distance_matrix(rows: Tensor, squared: bool, similarity: str) -> Tensor:
    """Distances or squared distances of all pairs of rows, which are normalized first for cosine."""
    rows = rows if rows.dtype == torch.float64 else rows.float()
    rows = normalize(rows) if similarity == "cosine" else rows
    if not squared:
        return -similarity_matrix(rows, rows, "euclidean")
    sq_norms = rows.square().sum(1)
    return sq_norms[:, None] + sq_norms[None, :] - 2 * rows @ rows.T


def margin_matrix(labels: Tensor, margin: float | Tensor, margin_labels: Tensor | None, like: Tensor) -> Tensor:
    """alpha(y_a, y_n) per anchor and negative, [B, B]."""
    if not isinstance(margin, Tensor):
        return torch.full_like(like, margin)
    row = labels
    if margin_labels is not None:
        row = (row[:, None] == margin_labels.long()[None, :]).long().argmax(1)
    return margin.detach().to(like.dtype)[row[:, None], row[None, :]]


@drops_ignored
def batch_all_triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    ids: Tensor | None = None,
    ignore_index: int | None = None,
    margin: float | Tensor = 0.2,
    margin_labels: Tensor | None = None,
    squared: bool = True,
    similarity: str = "cosine",
    reduction: str = "mean",
    return_counts: bool = False,
) -> Tensor | tuple[Tensor, TripletCounts]:
    """As :func:`hardmine.ops.batch_all_triplet_loss`, from a matrix [pairs, B] of all positive pairs and all negatives.

    Example:
        >>> import torch
        >>> from hardmine import ops, reference
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> loss = reference.batch_all_triplet_loss(embeddings, labels)
        >>> torch.allclose(loss, ops.batch_all_triplet_loss(embeddings, labels))
        True
    """
    d = distance_matrix(embeddings, squared, similarity)
    labels = labels.long()
    same = labels[:, None] == labels[None, :]
    alpha = margin_matrix(labels, margin, margin_labels, d.detach())
    allowed = may_pair(d, ids)
    a, p = (same & allowed & ~torch.eye(len(d), dtype=torch.bool, device=d.device)).nonzero(as_tuple=True)
    negatives = (~same & allowed)[a]
    value = 0.5 * F.relu(d[a, p][:, None] - d[a] + alpha[a]).masked_fill(~negatives, 0.0)
    counts = TripletCounts((value > 0).sum(), negatives.sum())
    loss = value.sum()
    if reduction != "sum":
        loss = loss / (counts.active if reduction == "mean_active" else counts.total).clamp(min=1)
    loss = poison(loss, embeddings)
    return (loss, counts) if return_counts else loss
