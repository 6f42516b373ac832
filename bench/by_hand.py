"""The losses as a competent user writes each by hand in plain PyTorch, for the rows of a batch with classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hardmine import ops

Loss = Callable[[Tensor, Tensor], Tensor]


def _similarities(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    f = F.normalize(embeddings)
    return f @ f.T, labels[:, None] == labels


def sct(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Easiest positive, hardest negative, temperature 0.1, lam 1."""
    s, same = _similarities(embeddings, labels)
    s_ap = s.masked_fill(~same, -2.0).fill_diagonal_(-2.0).amax(1)
    s_an = s.masked_fill(same, -2.0).amax(1)
    return torch.where(s_an > s_ap, s_an, F.softplus((s_an - s_ap) / 0.1)).mean()


def epshn(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Easiest positive, semi-hard negative, temperature 0.1. Every anchor has a positive."""
    s, same = _similarities(embeddings, labels)
    s_ap = s.masked_fill(~same, -2.0).fill_diagonal_(-2.0).amax(1)
    s_an = s.masked_fill(same | (s >= s_ap[:, None]), -2.0).amax(1)
    valid = s_an > -2
    return torch.where(valid, F.softplus((s_an - s_ap) / 0.1), 0).sum() / valid.sum()


def tuplet(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Easiest positive against all negatives, temperature 0.1."""
    s, same = _similarities(embeddings, labels)
    s_ap = s.masked_fill(~same, -2.0).fill_diagonal_(-2.0).amax(1)
    return F.softplus((s / 0.1).masked_fill(same, -torch.inf).logsumexp(1) - s_ap / 0.1).mean()


def info_nce(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Each row is a query, and the row before it the key; temperature 0.1."""
    f = F.normalize(embeddings)
    return F.cross_entropy(f @ f.roll(1, 0).T / 0.1, torch.arange(len(f)))


def supcon(embeddings: Tensor, labels: Tensor) -> Tensor:
    """L_out, temperature 0.1."""
    s, same = _similarities(embeddings, labels)
    same = same.fill_diagonal_(False)
    logits = (s / 0.1).fill_diagonal_(-torch.inf)
    log_prob = torch.where(same, logits - logits.logsumexp(1, keepdim=True), 0)
    return -(log_prob.sum(1) / same.sum(1)).mean()


def batch_all(embeddings: Tensor, labels: Tensor) -> Tensor:
    """The mean over every triplet, margin 0.2 between squared distances, which are halved."""
    s, same = _similarities(embeddings, labels)
    other = ~same
    anchor, positive = same.fill_diagonal_(False).nonzero(as_tuple=True)
    terms = (s[anchor] - s[anchor, positive][:, None] + 0.1).relu()
    valid = other[anchor]
    return torch.where(valid, terms, 0).sum() / valid.sum()


def _info_nce_op(embeddings: Tensor, labels: Tensor) -> Tensor:
    return ops.info_nce_loss(embeddings, embeddings.roll(1, 0), temperature=0.1)


# Per loss, the op, and the same by hand.
LOSSES: dict[str, tuple[Loss, Loss]] = {
    "sct": (ops.sct_loss, sct),
    "epshn": (lambda x, y: ops.triplet_loss(x, y, negative="semihard"), epshn),
    "tuplet": (ops.tuplet_loss, tuplet),
    "info_nce": (_info_nce_op, info_nce),
    "supcon": (ops.supcon_loss, supcon),
    "batch_all": (lambda x, y: ops.batch_all_triplet_loss(x, y, margin=0.2), batch_all),
}
