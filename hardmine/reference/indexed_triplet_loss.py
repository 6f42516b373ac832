"""Plain PyTorch of :func:`hardmine.ops.indexed_triplet_loss`."""

from __future__ import annotations

from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from hardmine._options import check_choice, check_distance_similarity, resolve_options
from hardmine.reference.select_triplets import clamp_cosine, normalize
from hardmine.reference.triplet_loss import poison
from hardmine.types import Similarity


def rows_of_triplets(embeddings: Tensor, triplets: Tensor, similarity: str) -> tuple[Tensor, Tensor, Tensor]:
    """The rows of anchors, positives and negatives, each [T, D]: normalized for cosine, else as given."""
    check_choice("similarity", similarity, get_args(Similarity))
    x = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
    if similarity == "cosine":
        x = normalize(x)
    anchors, positives, negatives = x[triplets.long()].unbind(1)
    return anchors, positives, negatives


def indexed_triplet_loss(
    embeddings: Tensor,
    triplets: Tensor,
    *,
    term: str = "ratio",
    temperature: float | Tensor | None = None,
    margin: float | None = None,
    lam: float | None = None,
    similarity: str = "cosine",
    reduction: str = "mean",
    labels: Tensor | None = None,
) -> Tensor:
    """As :func:`hardmine.ops.indexed_triplet_loss`, from the rows of every triplet.

    Example:
        >>> import torch
        >>> from hardmine import ops, reference
        >>> embeddings, triplets = torch.randn(4, 3), torch.tensor([[0, 1, 2], [3, 2, 0]])
        >>> loss = reference.indexed_triplet_loss(embeddings, triplets)
        >>> torch.allclose(loss, ops.indexed_triplet_loss(embeddings, triplets))
        True
    """
    given = {"term": term, "temperature": temperature, "margin": margin, "lam": lam}
    options = resolve_options("indexed_triplet_loss", given)
    a, p, n = rows_of_triplets(embeddings, triplets, similarity)
    if term == "ratio":
        check_distance_similarity(similarity, "term 'ratio'")
        value = F.relu(1 - (a - n).norm(dim=1) / ((a - p).norm(dim=1) + options["margin"]))
    else:
        s_ap, s_an = (-(a - y).norm(dim=1) if similarity == "euclidean" else (a * y).sum(1) for y in (p, n))
        if similarity == "cosine":
            s_ap, s_an = clamp_cosine(s_ap), clamp_cosine(s_an)
        if term == "hinge":
            value = F.relu(s_an - s_ap + options["margin"])
        else:
            value = -F.logsigmoid((s_ap - s_an) / (1.0 if term == "soft_margin" else options["temperature"]))
        if term == "sct":
            value = torch.where(s_an > s_ap, options["lam"] * s_an, value)
    if reduction != "none":
        value = value.sum() if reduction == "sum" or not len(value) else value.mean()
    return poison(value, embeddings)
