"""Selection with all positives on devices without a kernel of its own, such as GPUs: from selections of blocks.

The pairs are listed from the labels. Each pair is then an anchor of ``select_triplets_block``, first to measure its
positive, then to select the negative that the positive bounds. This takes N D multiply-adds per pair.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hardmine.ops._arguments import FALLBACKS, HARD_RULES, NEGATIVES, POSITIVES, TERM_REDUCTIONS, TERMS
from hardmine.ops._fakes import accumulate_dtype
from hardmine.ops._sums import ordered_sum, softplus

_CHUNK = 8192  # pairs whose rows are copied at a time
_EASIEST, _SEMIHARD = POSITIVES.index("easiest"), NEGATIVES.index("semihard")


def positive_pairs(
    labels: Tensor, ref_labels: Tensor, ids: Tensor | None, ref_ids: Tensor | None, skips_self: bool
) -> tuple[Tensor, Tensor]:
    """Anchors and positives of all pairs of equal labels, each int64 [P], ascending. The host reads P."""
    sorted_labels, order = ref_labels.sort(stable=True)
    begin = torch.searchsorted(sorted_labels, labels)
    counts = torch.searchsorted(sorted_labels, labels, right=True) - begin
    anchor = torch.repeat_interleave(torch.arange(len(labels), device=labels.device), counts)
    place = torch.arange(len(anchor), device=labels.device) - (counts.cumsum(0) - counts)[anchor]
    positive = order[begin[anchor] + place]
    keep = anchor != positive if skips_self else torch.ones_like(anchor, dtype=torch.bool)
    if ids is not None and ref_ids is not None:
        keep = keep & ((ids[anchor] != ref_ids[positive]) | (ids[anchor] < 0))
    return anchor[keep], positive[keep]


def select_in_blocks(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None,
    ref_labels: Tensor | None,
    ids: Tensor | None,
    ref_ids: Tensor | None,
    similarity: int,
    negative: int,
    semihard_fallback: int,
    tie: int,
    duplicate_threshold: float,
    semihard_margin: float,
    allow_tf32: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As ``torch.ops.hardmine.select_all_positives``."""
    block = torch.ops.hardmine.select_triplets_block
    refs = embeddings if ref_embeddings is None else ref_embeddings
    of_refs = labels if ref_labels is None else ref_labels
    ids_of_refs = ids if ref_embeddings is None else ref_ids
    anchor, positive = positive_pairs(labels, of_refs, ids, ids_of_refs, ref_embeddings is None)

    def chunks() -> zip[tuple[Tensor, Tensor]]:
        return zip(anchor.split(_CHUNK), positive.split(_CHUNK), strict=True)

    # Each pair has a label of its own. Without a given key, only positives are selected.
    options = similarity, _EASIEST, _SEMIHARD, tie
    limits = duplicate_threshold, math.inf, allow_tf32
    parts = []
    for a, p in chunks():
        pair = torch.arange(len(a), device=a.device)
        parts.append(block(embeddings[a], pair, refs[p], pair, None, None, None, *options, *limits))
    values = embeddings.new_empty(0, dtype=accumulate_dtype(embeddings.dtype))
    s_ap, key = (torch.cat([values, *(part[i] for part in parts)]) for i in (0, 4))
    listed = key.isfinite()
    anchor, positive, s_ap, key = anchor[listed], positive[listed], s_ap[listed], key[listed]

    def of_anchors(rule: int) -> tuple[Tensor, Tensor]:
        """The hardest or easiest negative of the anchor of each pair."""
        rows = embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids
        limits = math.inf, math.inf, allow_tf32
        _, s_an, _, index = torch.ops.hardmine.select_triplets(
            *rows, None, similarity, _EASIEST, rule, FALLBACKS.index(None), 0, *limits
        )
        return s_an[anchor], index[anchor]

    if negative != _SEMIHARD:
        s_an, index = of_anchors(negative)
        return s_ap, s_an, anchor, positive, index
    limits = math.inf, semihard_margin, allow_tf32
    parts = [
        block(
            embeddings[a], labels[a], refs, of_refs, None if ids is None else ids[a], ids_of_refs, k, *options, *limits
        )
        for a, k in zip(anchor.split(_CHUNK), key.split(_CHUNK), strict=True)
    ]
    s_an = torch.cat([values, *(part[1] for part in parts)])
    index = torch.cat([anchor[:0], *(part[3] for part in parts)])
    fallback = FALLBACKS[semihard_fallback]
    if fallback is not None:
        other, other_index = of_anchors(NEGATIVES.index(fallback))
        s_an, index = torch.where(index < 0, other, s_an), torch.where(index < 0, other_index, index)
    return s_ap, s_an, anchor, positive, index


def loss_in_blocks(*arguments: Any) -> tuple[Tensor, ...]:
    """As ``torch.ops.hardmine.all_positives_triplet_loss``."""
    embeddings, ref_embeddings = arguments[0], arguments[2]
    pairs = select_in_blocks(*arguments[:13])
    loss = _loss_of_pairs(pairs[0], pairs[1], pairs[4] >= 0, *arguments[13:])
    for rows in (embeddings, ref_embeddings):
        if rows is not None:
            squares = rows.to(loss.dtype).square().sum(1)
            loss = torch.where(squares.isfinite().all(), loss, math.nan)
    return loss, *pairs


def _loss_of_pairs(
    s_ap: Tensor,
    s_an: Tensor,
    valid: Tensor,
    term: int,
    hard_rule: int,
    separate_means: bool,
    temperature: float,
    margin: float,
    lam: float,
    hard_cutoff: float,
    min_similarity: float,
    reduction: int,
) -> Tensor:
    """The loss of pairs, as csrc/core/losses has it."""
    name, how = TERMS[term], TERM_REDUCTIONS[reduction]
    if min_similarity > -math.inf:
        valid = valid & (s_ap > min_similarity) & (s_an > min_similarity)
    hard = torch.zeros_like(valid)
    active = torch.ones_like(valid)
    if name == "hinge":
        value = F.relu(s_an - s_ap + margin)
        active = value > 0
    elif name == "soft_margin":
        value = softplus(s_an - s_ap)
    else:
        value = softplus((s_an - s_ap) / temperature)
    if name == "sct":
        hard = s_an > s_ap
        if HARD_RULES[hard_rule] == "above_and_cutoff":
            hard = hard & (s_an > hard_cutoff)
        elif HARD_RULES[hard_rule] == "above_or_cutoff":
            hard = hard | (s_an > hard_cutoff)
            valid = valid & (hard | ((s_an < s_ap) & (s_an < hard_cutoff)))
        value = torch.where(hard, lam * s_an, value)
        active = ~hard | (value > 0)
    if how == "mean_active":
        valid = valid & active
    value = torch.where(valid, value, 0.0)
    if how == "none":
        return value
    parts = (hard & valid, valid & ~hard) if separate_means else (valid,)
    sums = [ordered_sum(torch.where(part, value, 0.0).double()) for part in parts]
    if how != "sum":
        sums = [total / part.sum().clamp(min=1) for total, part in zip(sums, parts, strict=True)]
    return sum(sums[1:], sums[0]).to(value.dtype)
