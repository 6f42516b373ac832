"""Plain PyTorch of :func:`hardmine.ops.triplet_loss`."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hardmine._options import resolve_options
from hardmine.reference._ignored import drops_ignored
from hardmine.reference.select_triplets import select_triplets
from hardmine.types import AnySelection, LossResult, PairSelection


def reduce_terms(
    value: Tensor,
    easy: Tensor,
    hard: Tensor,
    reduction: str,
    separate_means: bool = False,
    weights: Tensor | None = None,
) -> Tensor:
    """Sums or averages the values of the anchors that are ``easy`` or ``hard``; others are ignored."""
    value = torch.where(easy | hard, value, 0.0)
    if weights is not None:
        value = value * weights.to(value.dtype)
    if reduction == "none":
        return value
    if reduction == "sum":
        return value.sum()

    def mean(part: Tensor) -> Tensor:
        total = torch.where(part, value, 0.0).sum()
        if weights is None:
            return total / part.sum().clamp(min=1)
        weight = torch.where(part, weights.to(value.dtype), 0.0).sum()
        return total / weight if weight != 0 else torch.where(total.isnan(), total, 0.0)

    return mean(easy) + mean(hard) if separate_means else mean(easy | hard)


def all_count(value: Tensor) -> tuple[Tensor, Tensor]:
    """For :func:`reduce_terms`: all anchors are easy."""
    every = torch.ones_like(value, dtype=torch.bool)
    return every, ~every


def valid_pairs(selection: AnySelection, min_similarity: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """Which anchors count, and their two similarities (0 without a positive or a negative)."""
    valid = (selection.positive_index >= 0) & (selection.negative_index >= 0)
    s_ap = torch.where(valid, selection.positive_similarity, 0.0)
    s_an = torch.where(valid, selection.negative_similarity, 0.0)
    if min_similarity is not None:
        valid = valid & (s_ap > min_similarity) & (s_an > min_similarity)
    return valid, s_ap, s_an


def poison(loss: Tensor, *rows: Tensor | None) -> Tensor:
    """NaN if any element or any norm of ``rows`` is not finite, else the loss unchanged."""
    given = [r if r.dtype == torch.float64 else r.float() for r in rows if r is not None]
    finite = torch.stack([r.detach().square().sum(1).isfinite().all() for r in given]).all()
    return loss * torch.where(finite, 1.0, math.nan).to(loss.dtype)


def loss_of_selection(
    selection: AnySelection,
    *,
    term: str,
    temperature: Any,
    margin: Any,
    lam: Any,
    min_similarity: float | None = None,
    reduction: str = "mean",
    weights: Tensor | None = None,
    counts: Tensor | None = None,
) -> Tensor:
    """The loss of a given selection; numbers that the term does not use are None.

    ``weights`` are those of the anchors, [B]; ``counts`` replaces which entries count.
    """
    numbers = {"term": term, "temperature": temperature, "margin": margin, "lam": lam}
    if counts is None:
        counts = entries_that_count(selection, **numbers, min_similarity=min_similarity, reduction=reduction)
    value, _ = terms_of_selection(selection, term, temperature, margin, lam)
    reduction = "mean" if reduction == "mean_active" else reduction
    weights = weights_of_entries(selection, weights, value.dtype)
    return reduce_terms(value, counts, torch.zeros_like(counts), reduction, weights=weights)


def weights_of_entries(selection: AnySelection, weights: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """The weight of each entry of a selection, from those of the anchors."""
    if weights is None:
        return None
    return (weights[selection.anchor_index] if isinstance(selection, PairSelection) else weights).to(dtype)


def terms_of_selection(
    selection: AnySelection, term: str, temperature: Any, margin: Any, lam: Any
) -> tuple[Tensor, Tensor]:
    """The term of each entry of a selection, and whether it is above 0; of no meaning for entries without a pair."""
    _, s_ap, s_an = valid_pairs(selection, None)
    always = torch.ones_like(s_ap, dtype=torch.bool)  # softplus is above 0, even where it underflows
    if term == "hinge":
        value = F.relu(s_an - s_ap + margin)
    elif term == "soft_margin":
        value = -F.logsigmoid(s_ap - s_an)
    else:
        value = -F.logsigmoid((s_ap - s_an) / temperature)
        if term == "sct":
            value = torch.where(s_an > s_ap, lam * s_an, value)
            return value, (value > 0) | (s_an <= s_ap)
    return value, value > 0 if term == "hinge" else always


def count_of_selection(selection: AnySelection, **options: Any) -> Tensor:
    """The number of anchors that count in the mean, int64 []."""
    return entries_that_count(selection, **options).sum()


def entries_that_count(
    selection: AnySelection,
    *,
    term: str = "nca",
    temperature: Any = None,
    margin: Any = None,
    lam: Any = None,
    min_similarity: float | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Whether each anchor counts in the mean, bool [B], or each pair, [P]."""
    valid = valid_pairs(selection, min_similarity)[0]
    if reduction == "mean_active":
        valid = valid & terms_of_selection(selection, term, temperature, margin, lam)[1]
    return valid


def results(loss: Tensor, returned: Any, count: Tensor, return_this: bool, return_count: bool) -> Any:
    """The loss, or a tuple of the loss and what was requested."""
    wanted = (loss, *([returned] if return_this else []), *([count] if return_count else []))
    return wanted if len(wanted) > 1 else loss


@drops_ignored
def triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    ids: Tensor | None = None,
    ref_ids: Tensor | None = None,
    ignore_index: int | None = None,
    positive: str = "easiest",
    negative: str = "semihard",
    negative_ranks: tuple[int, int] | None = None,
    term: str = "nca",
    temperature: float | Tensor | None = None,
    margin: float | None = None,
    lam: float | None = None,
    similarity: str = "cosine",
    reduction: str = "mean",
    semihard_fallback: str | None = None,
    tie: str | None = None,
    semihard_margin: float | None = None,
    duplicate_threshold: float | None = None,
    min_similarity: float | None = None,
    weights: Tensor | None = None,
    return_selection: bool = False,
    return_count: bool = False,
    generator: torch.Generator | None = None,
) -> LossResult[AnySelection]:
    """As :func:`hardmine.ops.triplet_loss`, from the whole matrix.

    Example:
        >>> import torch
        >>> from hardmine import ops, reference
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> loss = reference.triplet_loss(embeddings, labels, negative="hardest")
        >>> torch.allclose(loss, ops.triplet_loss(embeddings, labels, negative="hardest"))
        True
    """
    options: dict[str, Any] = {"positive": positive, "negative": negative}
    options |= {"term": term, "temperature": temperature, "margin": margin, "lam": lam}
    options = resolve_options("triplet_loss", options)
    selection = select_triplets(
        embeddings,
        labels,
        ref_embeddings,
        ref_labels,
        ids=ids,
        ref_ids=ref_ids,
        positive=positive,
        negative=negative,
        negative_ranks=negative_ranks,
        similarity=similarity,
        semihard_fallback=semihard_fallback,
        semihard_margin=semihard_margin,
        generator=generator,
        tie=tie,
        duplicate_threshold=duplicate_threshold,
    )
    terms: dict[str, Any] = {name: options[name] for name in ("term", "temperature", "margin", "lam")}
    terms |= {"min_similarity": min_similarity, "reduction": reduction}
    loss = poison(loss_of_selection(selection, **terms, weights=weights), embeddings, ref_embeddings)
    count = count_of_selection(selection, **terms)
    return results(loss, selection, count, return_selection, return_count)
