"""Plain PyTorch of :func:`hardmine.ops.multi_similarity_loss`."""

from __future__ import annotations

import math
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from hardmine._options import check_choice
from hardmine.reference._ignored import drops_ignored
from hardmine.reference.select_triplets import candidate_pairs
from hardmine.reference.triplet_loss import all_count, poison, reduce_terms
from hardmine.types import ProductSimilarity


@drops_ignored
def multi_similarity_loss(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    ids: Tensor | None = None,
    ref_ids: Tensor | None = None,
    ignore_index: int | None = None,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    epsilon: float | None = None,
    similarity: str = "cosine",
    reduction: str = "mean",
    weights: Tensor | None = None,
) -> Tensor:
    """As :func:`hardmine.ops.multi_similarity_loss`, from the whole matrix.

    Example:
        >>> import torch
        >>> from hardmine import ops, reference
        >>> embeddings, labels = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]), torch.tensor([0, 0, 1])
        >>> loss = reference.multi_similarity_loss(embeddings, labels)
        >>> torch.allclose(loss, ops.multi_similarity_loss(embeddings, labels))
        True
    """
    check_choice("similarity", similarity, get_args(ProductSimilarity))
    matrices = candidate_pairs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids, similarity)
    numbers: dict[str, Any] = {"alpha": alpha, "beta": beta, "base": base, "epsilon": epsilon}
    loss = of_matrix(*matrices, **numbers, reduction=reduction, weights=weights)
    return poison(loss, embeddings, ref_embeddings)


def mined(s: Tensor, positives: Tensor, negatives: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """The masks of the pairs that the paper's mining keeps."""
    if s.shape[1] == 0:
        return positives, negatives
    hardest_positive = s.masked_fill(~positives, math.inf).amin(1, keepdim=True)
    hardest_negative = s.masked_fill(~negatives, -math.inf).amax(1, keepdim=True)
    return positives & (s < hardest_negative + epsilon), negatives & (s > hardest_positive - epsilon)


def of_matrix(
    s: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    epsilon: float | None = None,
    reduction: str = "mean",
    weights: Tensor | None = None,
) -> Tensor:
    """The loss from similarities and masks of candidates, each [B, M]."""
    if epsilon is not None:
        positives, negatives = mined(s, positives, negatives, epsilon)

    def of_pairs(factor: float, chosen: Tensor) -> Tensor:
        # softplus of a log-sum-exp: that of the logits and 0
        logits = torch.where(chosen, factor * (s - base), -math.inf)
        return F.pad(logits, (1, 0)).logsumexp(1) / abs(factor)

    value = of_pairs(-alpha, positives) + of_pairs(beta, negatives)
    return reduce_terms(value, *all_count(value), reduction, weights=weights)
