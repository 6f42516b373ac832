"""Plain PyTorch of :func:`hardmine.ops.global_loss`."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from hardmine._options import check_distance_similarity
from hardmine.reference.indexed_triplet_loss import rows_of_triplets
from hardmine.reference.triplet_loss import poison


def global_loss(
    embeddings: Tensor,
    triplets: Tensor,
    *,
    lam: float = 0.8,
    threshold: float = 0.01,
    similarity: str = "cosine",
    labels: Tensor | None = None,
) -> Tensor:
    """As :func:`hardmine.ops.global_loss`, from the rows of every triplet.

    Example:
        >>> import torch
        >>> from hardmine import ops, reference
        >>> embeddings, triplets = torch.randn(4, 3), torch.tensor([[0, 1, 2], [3, 2, 0]])
        >>> loss = reference.global_loss(embeddings, triplets)
        >>> torch.allclose(loss, ops.global_loss(embeddings, triplets))
        True
    """
    check_distance_similarity(similarity, "global_loss")
    a, p, n = rows_of_triplets(embeddings, triplets, similarity)
    d_ap, d_an = (a - p).square().sum(1) / 4, (a - n).square().sum(1) / 4
    if not len(triplets):
        return poison(d_ap.sum(), embeddings)
    variances = d_ap.var(correction=0) + d_an.var(correction=0)
    return poison(variances + lam * F.relu(d_ap.mean() - d_an.mean() + threshold), embeddings)
