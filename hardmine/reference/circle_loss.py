"""Plain PyTorch of :func:`hardmine.ops.circle_loss`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hardmine.reference._ignored import drops_ignored
from hardmine.reference.select_triplets import candidate_pairs
from hardmine.reference.triplet_loss import poison, reduce_terms


@drops_ignored
def circle_loss(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    ids: Tensor | None = None,
    ref_ids: Tensor | None = None,
    ignore_index: int | None = None,
    m: float = 0.4,
    gamma: float = 80.0,
    reduction: str = "mean",
    weights: Tensor | None = None,
    return_count: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """As :func:`hardmine.ops.circle_loss`, from the whole matrix.

    Example:
        >>> import torch
        >>> from hardmine import ops, reference
        >>> embeddings, labels = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]), torch.tensor([0, 0, 1])
        >>> torch.allclose(reference.circle_loss(embeddings, labels), ops.circle_loss(embeddings, labels))
        True
    """
    matrices = candidate_pairs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids)
    loss = poison(
        of_matrix(*matrices, m=m, gamma=gamma, reduction=reduction, weights=weights), embeddings, ref_embeddings
    )
    return (loss, _has_both(*matrices[1:]).sum()) if return_count else loss


def _has_both(positives: Tensor, negatives: Tensor) -> Tensor:
    return positives.any(1) & negatives.any(1)


def of_matrix(
    s: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    m: float = 0.4,
    gamma: float = 80.0,
    reduction: str = "mean",
    weights: Tensor | None = None,
) -> Tensor:
    """The loss from similarities and masks of candidates, each [B, M]."""
    logits = (
        torch.where(positives, -gamma * (1 + m - s).relu().detach() * (s - (1 - m)), -math.inf),
        torch.where(negatives, gamma * (s + m).relu().detach() * (s - m), -math.inf),
    )
    valid = _has_both(positives, negatives)
    # 0 in rows that do not count, whose log-sum-exp of nothing has no gradient
    of_positives, of_negatives = (torch.where(valid[:, None], logit, 0.0).logsumexp(1) for logit in logits)
    value = torch.where(valid, torch.logaddexp(of_positives + of_negatives, s.new_zeros(())), 0.0)
    return reduce_terms(value, valid, torch.zeros_like(valid), reduction, weights=weights)
