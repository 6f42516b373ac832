"""The obvious PyTorch of :func:`hardmine.ops.batch_all_triplet_loss`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hardmine.reference.select_triplets import similarity_matrix
from hardmine.reference.triplet_loss import poison
from hardmine.types import TripletCounts


def distance_matrix(rows: Tensor, squared: bool, similarity: str) -> Tensor:
    """Distances, or squared ones, of all pairs of rows, normalized first if ``similarity`` is cosine."""
    rows = rows if rows.dtype == torch.float64 else rows.float()
    rows = F.normalize(rows) if similarity == "cosine" else rows
    if not squared:
        return -similarity_matrix(rows, rows, "euclidean")
    sq_norms = rows.square().sum(1)
    return sq_norms[:, None] + sq_norms[None, :] - 2 * rows @ rows.T


def margin_matrix(labels: Tensor, margin: float | Tensor, margin_labels: Tensor | None, like: Tensor) -> Tensor:
    """alpha(y_a, y_n) of every anchor and negative, [B, B]."""
    if not isinstance(margin, Tensor):
        return torch.full_like(like, margin)
    row = labels
    if margin_labels is not None:
        row = (row[:, None] == margin_labels.long()[None, :]).long().argmax(1)
    return margin.detach().to(like.dtype)[row[:, None], row[None, :]]


def batch_all_triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float | Tensor = 0.2,
    margin_labels: Tensor | None = None,
    squared: bool = True,
    similarity: str = "cosine",
    reduction: str = "mean",
    return_counts: bool = False,
) -> Tensor | tuple[Tensor, TripletCounts]:
    """As :func:`hardmine.ops.batch_all_triplet_loss`, from all negatives of every pair of a class: [pairs, B]."""
    d = distance_matrix(embeddings, squared, similarity)
    labels = labels.long()
    same = labels[:, None] == labels[None, :]
    alpha = margin_matrix(labels, margin, margin_labels, d.detach())
    a, p = (same & ~torch.eye(len(d), dtype=torch.bool, device=d.device)).nonzero(as_tuple=True)
    value = 0.5 * F.relu(d[a, p][:, None] - d[a] + alpha[a]).masked_fill(same[a], 0.0)
    counts = TripletCounts((value > 0).sum(), (~same[a]).sum())
    loss = value.sum()
    if reduction != "sum":
        loss = loss / (counts.active if reduction == "mean_active" else counts.total).clamp(min=1)
    loss = poison(loss, embeddings)
    return (loss, counts) if return_counts else loss
