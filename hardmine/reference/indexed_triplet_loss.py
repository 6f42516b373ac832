"""The obvious PyTorch of :func:`hardmine.ops.indexed_triplet_loss`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hardmine._options import resolve_options
from hardmine.reference.triplet_loss import poison


def rows_of_triplets(embeddings: Tensor, triplets: Tensor, similarity: str) -> tuple[Tensor, Tensor, Tensor]:
    """The rows of anchors, positives and negatives, each [T, D]: normalized for cosine, else as they are."""
    x = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
    if similarity == "cosine":
        x = F.normalize(x)
    return x[triplets.long()].unbind(1)


def indexed_triplet_loss(
    embeddings: Tensor,
    triplets: Tensor,
    *,
    term: str = "ratio",
    temperature: float | None = None,
    margin: float | None = None,
    lam: float | None = None,
    similarity: str = "cosine",
    reduction: str = "mean",
    labels: Tensor | None = None,
) -> Tensor:
    """As :func:`hardmine.ops.indexed_triplet_loss`, from the rows of every triplet."""
    options = {"term": term, "temperature": temperature, "margin": margin, "lam": lam}
    options = resolve_options("indexed_triplet_loss", options)
    temperature, margin, lam = options["temperature"], options["margin"], options["lam"]
    a, p, n = rows_of_triplets(embeddings, triplets, similarity)
    if term == "ratio":
        value = F.relu(1 - (a - n).norm(dim=1) / ((a - p).norm(dim=1) + margin))
    else:
        s_ap, s_an = (-(a - y).norm(dim=1) if similarity == "euclidean" else (a * y).sum(1) for y in (p, n))
        if term == "hinge":
            value = F.relu(s_an - s_ap + margin)
        else:
            value = -F.logsigmoid((s_ap - s_an) / (1.0 if term == "soft_margin" else temperature))
        if term == "sct":
            value = torch.where(s_an > s_ap, lam * s_an, value)
    if reduction != "none":
        value = value.sum() if reduction == "sum" or not len(value) else value.mean()
    return poison(value, embeddings)
