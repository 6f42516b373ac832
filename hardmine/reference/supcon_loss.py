"""Plain PyTorch of :func:`hardmine.ops.supcon_loss`."""

from __future__ import annotations

import torch
from torch import Tensor

from hardmine.reference._ignored import drops_ignored
from hardmine.reference.logsumexp import of_matrix as logsumexp_of_matrix
from hardmine.reference.select_triplets import candidate_pairs
from hardmine.reference.triplet_loss import poison, reduce_terms


@drops_ignored
def supcon_loss(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    ids: Tensor | None = None,
    ref_ids: Tensor | None = None,
    ignore_index: int | None = None,
    temperature: float | Tensor = 0.1,
    similarity: str = "cosine",
    reduction: str = "mean",
    weights: Tensor | None = None,
    return_count: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """As :func:`hardmine.ops.supcon_loss`, from the whole matrix.

    Example:
        >>> import torch
        >>> from hardmine import ops, reference
        >>> embeddings, labels = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]), torch.tensor([0, 0, 1])
        >>> torch.allclose(reference.supcon_loss(embeddings, labels), ops.supcon_loss(embeddings, labels))
        True
    """
    matrices = candidate_pairs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids, similarity)
    loss = of_matrix(*matrices, temperature=temperature, reduction=reduction, weights=weights)
    loss = poison(loss, embeddings, ref_embeddings)
    return (loss, matrices[1].any(1).sum()) if return_count else loss


def of_matrix(
    s: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    reduction: str = "mean",
    weights: Tensor | None = None,
) -> Tensor:
    """The loss from similarities and masks of candidates, each [B, M]."""
    valid = positives.any(1)
    level = logsumexp_of_matrix(s, positives, negatives, temperature=temperature)
    mean_positive = torch.where(positives, s, 0.0).sum(1) / positives.sum(1).clamp(min=1)
    value = torch.where(valid, level, 0.0) - torch.where(valid, mean_positive, 0.0) / temperature
    return reduce_terms(value, valid, torch.zeros_like(valid), reduction, weights=weights)
