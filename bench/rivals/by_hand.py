"""The rivals: each loss in the shortest plain PyTorch that a competent user writes for it alone.

They have no options. Unless said otherwise, a loss takes embeddings [N, D] and labels [N], and every class has at least
two rows and some negatives. Of several short spellings this is the fastest: selections need no gradient, for example.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 0.1
MARGIN = 0.2


def same_class(labels: Tensor) -> Tensor:
    return labels[:, None] == labels


def selected(f: Tensor, index: Tensor) -> Tensor:
    """Similarity of each row to the row of its index."""
    return (f * f[index]).sum(1)


# --- one positive and one negative per anchor ------------------------------------------------------------------------


def sct(x: Tensor, labels: Tensor) -> Tensor:
    """Easiest positive, hardest negative, lam 1."""
    f, same = F.normalize(x), same_class(labels)
    with torch.no_grad():
        s = f @ f.T
        p = s.masked_fill(~same, -2.0).fill_diagonal_(-2.0).argmax(1)
        n = s.masked_fill_(same, -2.0).argmax(1)
    s_ap, s_an = selected(f, p), selected(f, n)
    return torch.where(s_an > s_ap, s_an, F.softplus((s_an - s_ap) / TEMPERATURE)).mean()


def batch_hard(x: Tensor, labels: Tensor) -> Tensor:
    """Hardest positive and negative. An anchor's similarity to itself is never the least, so it needs no mask."""
    f, same = F.normalize(x), same_class(labels)
    with torch.no_grad():
        s = f @ f.T
        p = s.masked_fill(~same, 2.0).argmin(1)
        n = s.masked_fill_(same, -2.0).argmax(1)
    return F.relu(selected(f, n) - selected(f, p) + MARGIN).mean()


def epshn(x: Tensor, labels: Tensor) -> Tensor:
    """Easiest positive, semi-hard negative; an anchor without a semi-hard negative does not count."""
    f, same = F.normalize(x), same_class(labels)
    with torch.no_grad():
        s = f @ f.T
        bound, p = s.masked_fill(~same, -2.0).fill_diagonal_(-2.0).max(1)
        best, n = s.masked_fill_(same | (s >= bound[:, None]), -2.0).max(1)
        counts = best > -2.0
    terms = F.softplus((selected(f, n) - selected(f, p)) / TEMPERATURE)
    return torch.where(counts, terms, 0.0).sum() / counts.sum()


def semihard(x: Tensor, labels: Tensor) -> Tensor:
    """FaceNet: every positive with the most similar negative below it, else the anchor's least similar negative.

    One row per positive pair: for small classes faster than a sort per anchor.
    """
    f, same = F.normalize(x), same_class(labels)
    s = f @ f.T
    a, p = same.clone().fill_diagonal_(False).nonzero(as_tuple=True)
    with torch.no_grad():
        rows = s.masked_fill(same, -2.0)[a]
        best, n = rows.masked_fill_(rows >= s[a, p][:, None], -2.0).max(1)
        n = torch.where(best > -2.0, n, s.masked_fill(same, 2.0).argmin(1)[a])
    return F.relu(s[a, n] - s[a, p] + MARGIN).mean()


# --- sums over all candidates ----------------------------------------------------------------------------------------


def cosine(x: Tensor) -> Tensor:
    f = F.normalize(x)
    return f @ f.T


def tuplet(x: Tensor, labels: Tensor) -> Tensor:
    """The easiest positive against all negatives, as N-pairs with classes of two."""
    s, same = cosine(x) / TEMPERATURE, same_class(labels)
    s_ap = s.masked_fill(~same, -torch.inf).fill_diagonal_(-torch.inf).max(1).values
    return F.softplus(s.masked_fill(same, -torch.inf).logsumexp(1) - s_ap).mean()


def supcon(x: Tensor, labels: Tensor) -> Tensor:
    """The cross entropy with all positives of an anchor as its equally probable targets."""
    positives = same_class(labels).fill_diagonal_(False).float()
    s = (cosine(x) / TEMPERATURE).fill_diagonal_(-1e9)
    return F.cross_entropy(s, positives / positives.sum(1, keepdim=True))


def multi_similarity(x: Tensor, labels: Tensor) -> Tensor:
    """Alpha 2, beta 50, base 0.5, without mining; no exponent can overflow."""
    s, same = cosine(x) - 0.5, same_class(labels)
    of_negatives = (50 * s).exp().masked_fill(same, 0.0).sum(1)
    of_positives = (-2 * s).exp().masked_fill(~same, 0.0).fill_diagonal_(0.0).sum(1)
    return (of_positives.log1p() / 2 + of_negatives.log1p() / 50).mean()


def circle(x: Tensor, labels: Tensor) -> Tensor:
    """Relaxation 0.4, gamma 80; the weights of the logits are constants."""
    s, same = cosine(x), same_class(labels)
    fixed = s.detach()
    of_negatives = (80 * F.relu(fixed + 0.4) * (s - 0.4)).masked_fill(same, -torch.inf).logsumexp(1)
    positives = (-80 * F.relu(1.4 - fixed) * (s - 0.6)).masked_fill(~same, -torch.inf)
    return F.softplus(positives.fill_diagonal_(-torch.inf).logsumexp(1) + of_negatives).mean()


# --- pairs of queries [N, D] and keys [N, D] --------------------------------------------------------------------------


def info_nce(query: Tensor, key: Tensor) -> Tensor:
    logits = F.normalize(query) @ F.normalize(key).T / TEMPERATURE
    return F.cross_entropy(logits, torch.arange(len(query)))


def clip(query: Tensor, key: Tensor) -> Tensor:
    """InfoNCE in both directions."""
    logits, target = F.normalize(query) @ F.normalize(key).T / TEMPERATURE, torch.arange(len(query))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def sigmoid(query: Tensor, key: Tensor) -> Tensor:
    """SigLIP with scale 10 and bias -10."""
    logits = 10 * F.normalize(query) @ F.normalize(key).T - 10
    return F.binary_cross_entropy_with_logits(logits, torch.eye(len(query)), reduction="sum") / len(query)


# --- all triplets, neighbors -----------------------------------------------------------------------------------------


def batch_all(x: Tensor, labels: Tensor) -> Tensor:
    """HTL's hinge on squared distances, over all triplets: one row per positive pair.

    Half of |a - p|^2 - |a - n|^2 + margin is s_an - s_ap + margin / 2.
    """
    s, same = cosine(x), same_class(labels)
    a, p = same.clone().fill_diagonal_(False).nonzero(as_tuple=True)
    s_an = s.masked_fill(same, -9.0).index_select(0, a)  # no term of -9 is above 0
    return F.relu(s_an - s[a, p][:, None] + MARGIN / 2).sum() / (~same)[a].sum()


def knn(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Similarities and indices [N, k], by blocks of 256 rows: the fastest of 256, 1,024 and 4,096 on 100,000 rows."""
    f = F.normalize(x)
    parts = []
    for start in range(0, len(f), 256):
        s = f[start : start + 256] @ f.T
        s[:, start:].fill_diagonal_(-torch.inf)
        parts.append(s.topk(k))
    similarity, index = (torch.cat(part) for part in zip(*parts, strict=True))
    return similarity, index
