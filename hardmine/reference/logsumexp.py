"""Plain PyTorch of :func:`hardmine.ops.logsumexp`."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from hardmine.reference._ignored import drops_ignored
from hardmine.reference.select_triplets import candidate_pairs
from hardmine.reference.triplet_loss import poison


@functools.partial(drops_ignored, fill=-math.inf)
def logsumexp(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    ids: Tensor | None = None,
    ref_ids: Tensor | None = None,
    ignore_index: int | None = None,
    pairs: str = "all",
    temperature: float | Tensor = 0.1,
    similarity: str = "cosine",
) -> Tensor:
    """As :func:`hardmine.ops.logsumexp`, from the whole matrix.

    Example:
        >>> import torch
        >>> from hardmine import ops, reference
        >>> embeddings, labels = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]), torch.tensor([0, 0, 1])
        >>> torch.allclose(reference.logsumexp(embeddings, labels), ops.logsumexp(embeddings, labels))
        True
    """
    matrices = candidate_pairs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids, similarity)
    return poison(of_matrix(*matrices, pairs=pairs, temperature=temperature), embeddings, ref_embeddings)


def of_matrix(
    s: Tensor, positives: Tensor, negatives: Tensor, *, pairs: str = "all", temperature: float | Tensor = 0.1
) -> Tensor:
    """The log-sum-exps from similarities and masks of candidates, each [B, M]; without a pair the gradient is 0."""
    chosen = {"positive": positives, "negative": negatives, "all": positives | negatives}[pairs]
    if not s.shape[1]:
        return s.sum(1) - math.inf
    found = chosen.any(1, keepdim=True)
    logits = torch.where(chosen, s / temperature, torch.where(found, -math.inf, 0.0).to(s.dtype))
    return torch.where(found.squeeze(1), logits.logsumexp(1), -math.inf)
