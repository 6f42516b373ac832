"""Plain PyTorch of :func:`hardmine.ops.sigmoid_loss`."""

from __future__ import annotations

from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from hardmine._options import check_choice
from hardmine.reference.select_triplets import similarity_matrix
from hardmine.reference.triplet_loss import all_count, poison, reduce_terms
from hardmine.types import Similarity


def sigmoid_loss(
    query: Tensor,
    key: Tensor,
    *,
    logit_scale: float | Tensor = 10.0,
    logit_bias: float | Tensor = -10.0,
    similarity: str = "cosine",
    reduction: str = "mean",
    weights: Tensor | None = None,
) -> Tensor:
    """As :func:`hardmine.ops.sigmoid_loss`, from the whole matrix.

    Example:
        >>> import torch
        >>> from hardmine import ops, reference
        >>> image, text = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.8, 0.6], [0.6, 0.8]])
        >>> torch.allclose(reference.sigmoid_loss(image, text), ops.sigmoid_loss(image, text))
        True
    """
    check_choice("similarity", similarity, get_args(Similarity))
    logits = logit_scale * similarity_matrix(query, key, similarity) + logit_bias
    signs = 2 * torch.eye(len(query), dtype=logits.dtype, device=logits.device) - 1
    value = -F.logsigmoid(logits * signs).sum(1)
    loss = reduce_terms(value, *all_count(value), reduction, weights=weights)
    return poison(loss, query, key)
