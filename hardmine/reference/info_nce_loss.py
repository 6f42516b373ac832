"""Plain PyTorch of :func:`hardmine.ops.info_nce_loss`."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hardmine.reference.select_triplets import may_pair, similarity_matrix
from hardmine.reference.triplet_loss import all_count, poison, reduce_terms


def info_nce_loss(
    query: Tensor,
    positive_key: Tensor,
    negative_keys: Tensor | None = None,
    *,
    temperature: float | Tensor = 0.1,
    symmetric: bool = False,
    in_batch: bool = True,
    ids: Tensor | None = None,
    similarity: str = "cosine",
    reduction: str = "mean",
    weights: Tensor | None = None,
) -> Tensor:
    """As :func:`hardmine.ops.info_nce_loss`, from the whole matrix.

    Example:
        >>> import torch
        >>> from hardmine import ops, reference
        >>> image, text = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.8, 0.6], [0.6, 0.8]])
        >>> torch.allclose(reference.info_nce_loss(image, text), ops.info_nce_loss(image, text))
        True
    """
    count = len(query)
    s = similarity_matrix(query, positive_key, similarity)
    diagonal = torch.eye(count, dtype=torch.bool, device=s.device)
    logits = (s / temperature).masked_fill(~(may_pair(s, ids) & in_batch | diagonal), -math.inf)
    if negative_keys is not None and negative_keys.dim() == 2:
        logits = torch.cat([logits, similarity_matrix(query, negative_keys, similarity) / temperature], 1)
    elif negative_keys is not None and count:
        each = [similarity_matrix(q[None], keys, similarity) for q, keys in zip(query, negative_keys, strict=True)]
        logits = torch.cat([logits, torch.cat(each) / temperature], 1)
    target = torch.arange(count, device=s.device)
    losses = [F.cross_entropy(logits, target, reduction="none")]
    if symmetric:
        losses.append(F.cross_entropy(logits.T, target, reduction="none"))
    value = torch.stack(losses).mean(0)
    loss = reduce_terms(value, *all_count(value), reduction, weights=weights)
    keys = None if negative_keys is None else negative_keys.reshape(-1, query.shape[1])
    return poison(loss, query, positive_key, keys)
