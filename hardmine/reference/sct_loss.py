"""Plain PyTorch of :func:`hardmine.ops.sct_loss`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hardmine._options import resolve_options
from hardmine.reference._ignored import drops_ignored
from hardmine.reference.select_triplets import select_triplets
from hardmine.reference.triplet_loss import poison, reduce_terms, results, valid_pairs, weights_of_entries
from hardmine.types import AnySelection, LossResult

CUTOFFS = {"code2020": 0.5, "code2021": 0.8}


def parts_of_selection(
    selection: AnySelection, preset: str, hard_cutoff: float | None, min_similarity: float | None
) -> tuple[Tensor, Tensor]:
    """Whether each anchor is easy, and whether it is hard, each bool [B]."""
    valid, s_ap, s_an = valid_pairs(selection, min_similarity)
    if preset == "paper":
        hard = s_an > s_ap
        easy = ~hard
        return easy & valid, hard & valid
    cutoff = CUTOFFS[preset] if hard_cutoff is None else hard_cutoff
    if preset == "code2020":
        hard = (s_an > s_ap) & (s_an > cutoff)
        easy = ~hard
    else:
        hard = (s_an > s_ap) | (s_an > cutoff)
        easy = (s_an < s_ap) & (s_an < cutoff)
    return easy & valid, hard & valid


def loss_of_selection(
    selection: AnySelection,
    *,
    lam: float = 1.0,
    temperature: float | Tensor = 0.1,
    preset: str = "paper",
    hard_cutoff: float | None = None,
    min_similarity: float | None = None,
    reduction: str = "mean",
    weights: Tensor | None = None,
) -> Tensor:
    """The loss of a given selection; ``weights`` are those of the anchors, [B]."""
    easy, hard = parts_of_selection(selection, preset, hard_cutoff, min_similarity)
    _, s_ap, s_an = valid_pairs(selection, None)
    value = torch.where(hard, lam * s_an, -F.logsigmoid((s_ap - s_an) / temperature))
    if reduction == "mean_active":
        hard, reduction = hard & (lam * s_an > 0), "mean"
    weights = weights_of_entries(selection, weights, value.dtype)
    return reduce_terms(value, easy, hard, reduction, separate_means=preset == "code2020", weights=weights)


def count_of_selection(
    selection: AnySelection,
    *,
    lam: float = 1.0,
    preset: str = "paper",
    hard_cutoff: float | None = None,
    min_similarity: float | None = None,
    reduction: str = "mean",
) -> Tensor:
    """The number of anchors that count in the mean, int64 []."""
    easy, hard = parts_of_selection(selection, preset, hard_cutoff, min_similarity)
    if reduction == "mean_active":
        hard = hard & (lam * selection.negative_similarity > 0)
    return (easy | hard).sum()


def preset_selection(
    preset: str,
    duplicate_threshold: float | None = None,
    tie: str | None = None,
    negative: str = "hardest",
    **_: Any,
) -> dict[str, Any]:
    """The options of the selection, with the preset's value for each None."""
    published: dict[str, Any] = {"duplicate_threshold": None, "tie": "exclude"}
    if preset != "paper":
        published = {"duplicate_threshold": 0.9999, "tie": "include"}
    if negative != "semihard":
        published["tie"] = None
    given = {"duplicate_threshold": duplicate_threshold, "tie": tie}
    return {key: published[key] if given[key] is None else given[key] for key in published}


@drops_ignored
def sct_loss(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    ids: Tensor | None = None,
    ref_ids: Tensor | None = None,
    ignore_index: int | None = None,
    lam: float = 1.0,
    temperature: float | Tensor = 0.1,
    preset: str = "paper",
    positive: str = "easiest",
    negative: str = "hardest",
    negative_ranks: tuple[int, int] | None = None,
    similarity: str = "cosine",
    reduction: str = "mean",
    hard_cutoff: float | None = None,
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
    """As :func:`hardmine.ops.sct_loss`, from the whole matrix.

    Example:
        >>> import torch
        >>> from hardmine import ops, reference
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> loss = reference.sct_loss(embeddings, labels)
        >>> torch.allclose(loss, ops.sct_loss(embeddings, labels))
        True
    """
    options: dict[str, Any] = {"positive": positive, "negative": negative, "tie": tie}
    resolve_options("sct_loss", {**options, "preset": preset, "hard_cutoff": hard_cutoff})
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
        **preset_selection(preset, duplicate_threshold, tie, negative),
    )
    terms: dict[str, Any] = {"lam": lam, "preset": preset, "hard_cutoff": hard_cutoff}
    terms |= {"min_similarity": min_similarity, "reduction": reduction}
    loss = loss_of_selection(selection, temperature=temperature, **terms, weights=weights)
    loss = poison(loss, embeddings, ref_embeddings)
    count = count_of_selection(selection, **terms)
    return results(loss, selection, count, return_selection, return_count)
