"""Plain PyTorch of :func:`hardmine.ops.knn`."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hardmine.reference.select_triplets import may_pair, similarity_matrix
from hardmine.types import Neighbors


def knn(
    queries: Tensor,
    refs: Tensor | None = None,
    k: int = 10,
    *,
    ids: Tensor | None = None,
    ref_ids: Tensor | None = None,
    exclude_self: bool | None = None,
    similarity: str = "cosine",
) -> Neighbors:
    """As :func:`hardmine.ops.knn`, from the whole matrix, by sorting.

    Example:
        >>> import torch
        >>> from hardmine import reference
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> reference.knn(embeddings, k=1).index.flatten()
        tensor([1, 2, 1, 2])
    """
    s = similarity_matrix(queries, queries if refs is None else refs, similarity)
    key = s.detach().masked_fill(s.isnan() | ~may_pair(s, ids, ref_ids), -math.inf)
    if refs is None and (exclude_self is None or exclude_self):
        key = key.masked_fill(torch.eye(len(s), dtype=torch.bool, device=s.device), -math.inf)
    key, index = key.sort(dim=1, descending=True, stable=True)
    key, index = key[:, :k], index[:, :k]
    value = torch.where(key > -math.inf, s.gather(1, index), math.nan)
    index = torch.where(key > -math.inf, index, -1)
    missing = (0, k - index.shape[1])
    return Neighbors(F.pad(value, missing, value=math.nan), F.pad(index, missing, value=-1))
