"""Plain PyTorch of :func:`hardmine.ops.tuplet_loss`."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hardmine.reference._ignored import drops_ignored
from hardmine.reference.select_triplets import candidate_pairs, extreme_candidate
from hardmine.reference.triplet_loss import poison, reduce_terms, results
from hardmine.types import LossResult, TupletTerms


@drops_ignored
def tuplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    ids: Tensor | None = None,
    ref_ids: Tensor | None = None,
    ignore_index: int | None = None,
    positive: str = "easiest",
    temperature: float | Tensor = 0.1,
    similarity: str = "cosine",
    duplicate_threshold: float | None = None,
    reduction: str = "mean",
    weights: Tensor | None = None,
    return_terms: bool = False,
    return_count: bool = False,
) -> LossResult[TupletTerms]:
    """As :func:`hardmine.ops.tuplet_loss`, from the whole matrix.

    Example:
        >>> import torch
        >>> from hardmine import ops, reference
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> loss = reference.tuplet_loss(embeddings, labels)
        >>> torch.allclose(loss, ops.tuplet_loss(embeddings, labels))
        True
    """
    s, positives, negatives = candidate_pairs(
        embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids, similarity, duplicate_threshold
    )
    logsumexp = (s / temperature).masked_fill(~negatives | s.isnan(), -math.inf).logsumexp(1)
    if positive == "all":
        positives = positives & ~s.isnan()
        each = torch.where(positives, -F.logsigmoid(s / temperature - logsumexp[:, None]), 0.0)
        value = each.sum(1) / positives.sum(1).clamp(min=1)
        index, s_ap = extreme_candidate(s[:, :0], positives[:, :0])  # -1 and NaN
        valid = positives.any(1)
    else:
        index, s_ap = extreme_candidate(s, positives, smallest=positive == "hardest")
        valid = index >= 0
        value = -F.logsigmoid(torch.where(valid, s_ap, 0.0) / temperature - logsumexp)
    valid = valid & (logsumexp > -math.inf)
    sizes = torch.ones_like(valid, dtype=torch.int64)
    if reduction == "mean_pairs":
        sizes = torch.where(valid, positives.sum(1), 0)
        weights, reduction = sizes.to(value.dtype) * (1 if weights is None else weights), "mean"
    loss = reduce_terms(value, valid, torch.zeros_like(valid), reduction, weights=weights)
    loss = poison(loss, embeddings, ref_embeddings)
    terms = TupletTerms(index, s_ap.detach(), logsumexp.detach())
    return results(loss, terms, (valid * sizes).sum(), return_terms, return_count)
