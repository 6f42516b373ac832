"""Plain PyTorch of :func:`hardmine.ops.select_triplets`."""

from __future__ import annotations

import math
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from hardmine._options import check_choice, resolve_options
from hardmine.reference._ignored import drops_ignored
from hardmine.types import AnySelection, AnySimilarity, PairSelection, Selection


def normalize(rows: Tensor) -> Tensor:
    """``F.normalize``, but with gradient 0 for rows of norm 1e-12 or less, which have no direction."""
    has_direction = rows.detach().norm(dim=1, keepdim=True) > 1e-12
    return F.normalize(torch.where(has_direction, rows, rows.detach()))


def clamp_cosine(s: Tensor) -> Tensor:
    """``s.clamp(-1, 1)`` with the gradient of ``s``, because only rounding puts a cosine outside [-1, 1]."""
    return s + (s.clamp(-1, 1) - s).detach()


def similarity_matrix(a: Tensor, b: Tensor, similarity: str) -> Tensor:
    """Similarities of all rows of ``a`` and ``b``, [B, M], in float32 or, for float64 inputs, float64."""
    check_choice("similarity", similarity, get_args(AnySimilarity))
    a, b = (rows if rows.dtype == torch.float64 else rows.float() for rows in (a, b))
    if similarity == "cosine":
        return clamp_cosine(normalize(a) @ normalize(b).T)
    if similarity == "dot":
        return a @ b.T
    if similarity == "hyperbolic":  # arcosh(1 + 2 u^2) = 2 arsinh(u)
        distance = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
        gaps = [1 - rows.square().sum(1) for rows in (a, b)]
        return -2 * torch.asinh(distance / (gaps[0].sqrt()[:, None] * gaps[1].sqrt()[None, :]))
    return -torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def extreme_candidate(s: Tensor, candidates: Tensor, smallest: bool = False) -> tuple[Tensor, Tensor]:
    """Index and value of each row's candidate of the largest (or smallest) similarity; -1 and NaN if there is none."""
    if s.shape[1] == 0:
        return s.new_full((len(s),), -1, dtype=torch.int64), s.new_full((len(s),), math.nan)
    key = -s if smallest else s
    value, index = key.masked_fill(~candidates | s.isnan(), -math.inf).max(1)
    found = value > -math.inf
    return torch.where(found, index, -1), torch.where(found, -value if smallest else value, math.nan)


def may_pair(s: Tensor, ids: Tensor | None, ref_ids: Tensor | None = None) -> Tensor:
    """Whether the ids allow each pair of the matrix ``s``, bool [B, M]: all but pairs of equal ids >= 0."""
    if ids is None:
        return torch.ones_like(s, dtype=torch.bool)
    ids = ids.long()[:, None]
    return (ids != (ids.T if ref_ids is None else ref_ids.long()[None, :])) | (ids < 0)


def candidate_pairs(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    ids: Tensor | None = None,
    ref_ids: Tensor | None = None,
    similarity: str = "cosine",
    duplicate_threshold: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """All similarities, and masks of the candidate positives and negatives, each [B, M]."""
    s = similarity_matrix(embeddings, embeddings if ref_embeddings is None else ref_embeddings, similarity)
    labels = labels.long()
    same = labels[:, None] == (labels if ref_labels is None else ref_labels.long())[None, :]
    allowed = may_pair(s, ids, ref_ids)
    positives, negatives = same & allowed, ~same & allowed
    if ref_embeddings is None:
        positives = positives & ~torch.eye(len(s), dtype=torch.bool, device=s.device)
    if duplicate_threshold is not None:
        positives = positives & (s <= duplicate_threshold)
    return s, positives, negatives


def random_pick(s: Tensor, candidates: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Index and similarity of each row's floor(u * count)-th candidate; -1 and NaN if there is none."""
    if s.shape[1] == 0:
        return extreme_candidate(s, candidates)
    candidates = candidates & ~s.isnan()
    count = candidates.sum(1)
    rank = (u * count).long().clamp(max=(count - 1).clamp(min=0))
    index = (candidates & (candidates.cumsum(1) == rank[:, None] + 1)).int().argmax(1)
    return (
        torch.where(count > 0, index, -1),
        torch.where(count > 0, s.gather(1, index[:, None]).squeeze(1), math.nan),
    )


@drops_ignored
def select_triplets(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    ids: Tensor | None = None,
    ref_ids: Tensor | None = None,
    ignore_index: int | None = None,
    positive: str = "easiest",
    negative: str = "hardest",
    negative_ranks: tuple[int, int] | None = None,
    similarity: str = "cosine",
    duplicate_threshold: float | None = None,
    semihard_fallback: str | None = None,
    tie: str | None = None,
    semihard_margin: float | None = None,
    generator: torch.Generator | None = None,
) -> AnySelection:
    """As :func:`hardmine.ops.select_triplets`, from the whole matrix.

    Example:
        >>> import torch
        >>> from hardmine import reference
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> reference.select_triplets(embeddings, labels).negative_index
        tensor([2, 2, 1, 1])
    """
    options: dict[str, Any] = {"positive": positive, "negative": negative, "tie": tie}
    options |= {"semihard_fallback": semihard_fallback, "semihard_margin": semihard_margin, "generator": generator}
    options |= {"negative_ranks": negative_ranks}
    resolve_options("select_triplets", options)
    s, positives, negatives = candidate_pairs(
        embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids, similarity, duplicate_threshold
    )
    if positive == "all":
        return every_pair(s, positives, negatives, negative, semihard_fallback, tie, semihard_margin)
    rows = (positive == "random") + (negative == "random")
    if rows:
        u = torch.rand(rows, len(s), dtype=torch.float64, device=s.device, generator=generator)
    if positive == "random":
        positive_index, s_ap = random_pick(s, positives, u[0])
    else:
        positive_index, s_ap = extreme_candidate(s, positives, smallest=positive == "hardest")

    if negative_ranks is not None:
        of_negatives = u[-1] if negative == "random" else None
        return _ranked(positive_index, s_ap, s, negatives, negative_ranks, of_negatives)
    if negative == "random":
        negative_index, s_an = random_pick(s, negatives, u[-1])
        return Selection(positive_index, negative_index, s_ap, s_an)
    if negative != "semihard":
        negative_index, s_an = extreme_candidate(s, negatives, smallest=negative == "easiest")
        return Selection(positive_index, negative_index, s_ap, s_an)
    negative_index, s_an = semihard_negative(s, negatives, s_ap, semihard_fallback, tie, semihard_margin)
    return Selection(positive_index, negative_index, s_ap, s_an)


def ranked_negatives(s: Tensor, negatives: Tensor, ranks: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Indices and similarities of each row's negatives of these ranks, [B, R]; -1 and NaN beyond the last."""
    first, last = ranks
    allowed = negatives & ~s.isnan() & (s > -math.inf)
    value, index = s.masked_fill(~allowed, -math.inf).sort(dim=1, descending=True, stable=True)
    missing = max(last - s.shape[1], 0)
    value, index = F.pad(value, (0, missing), value=-math.inf), F.pad(index, (0, missing))
    value, index = value[:, first - 1 : last], index[:, first - 1 : last]
    return torch.where(value > -math.inf, index, -1), torch.where(value > -math.inf, value, math.nan)


def _ranked(
    positive_index: Tensor,
    s_ap: Tensor,
    s: Tensor,
    negatives: Tensor,
    ranks: tuple[int, int],
    u: Tensor | None,
) -> AnySelection:
    negative_index, s_an = ranked_negatives(s, negatives, ranks)
    if u is None:
        count = negative_index.shape[1]
        anchor = torch.arange(len(s), device=s.device).repeat_interleave(count)
        positives = (each.repeat_interleave(count) for each in (positive_index, s_ap))
        return PairSelection(anchor, next(positives), negative_index.reshape(-1), next(positives), s_an.reshape(-1))
    found = (negative_index >= 0).sum(1)
    pick = (u * found).long().clamp(max=(found - 1).clamp(min=0))[:, None]
    return Selection(positive_index, negative_index.gather(1, pick)[:, 0], s_ap, s_an.gather(1, pick)[:, 0])


def semihard_negative(
    s: Tensor, negatives: Tensor, s_ap: Tensor, fallback: str | None, tie: str | None, margin: float | None
) -> tuple[Tensor, Tensor]:
    """Index and similarity of each row's semi-hard negative, below the similarity ``s_ap`` of its positive."""
    bound = s_ap.detach()[:, None]
    semihard = negatives & (s <= bound if tie == "include" else s < bound)
    if margin is not None:
        semihard = semihard & (s > bound - margin)
    negative_index, s_an = extreme_candidate(s, semihard)
    if fallback is not None:
        index, value = extreme_candidate(s, negatives, smallest=fallback == "easiest")
        s_an = torch.where(negative_index < 0, value, s_an)
        negative_index = torch.where(negative_index < 0, index, negative_index)
    return negative_index, s_an


def every_pair(
    s: Tensor,
    positives: Tensor,
    negatives: Tensor,
    negative: str,
    fallback: str | None,
    tie: str | None,
    margin: float | None,
) -> PairSelection:
    """Every pair of an anchor and one of its positives, with a negative of the anchor's row: [P, M] memory."""
    if negative not in ("hardest", "easiest", "semihard"):
        raise ValueError(f"negative must be 'hardest', 'easiest' or 'semihard' with positive='all', got {negative!r}")
    anchor, positive_index = (positives & s.isfinite()).nonzero().unbind(1)
    s_ap, rows, candidates = s[anchor, positive_index], s[anchor], negatives[anchor]
    if negative == "semihard":
        negative_index, s_an = semihard_negative(rows, candidates, s_ap, fallback, tie, margin)
    else:
        negative_index, s_an = extreme_candidate(rows, candidates, smallest=negative == "easiest")
    return PairSelection(anchor, positive_index, negative_index, s_ap, s_an)
