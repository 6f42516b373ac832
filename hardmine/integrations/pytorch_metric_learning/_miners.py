"""Miners of pytorch-metric-learning, computed by hardmine's ops or without lists of all pairs and triplets."""

from __future__ import annotations

import functools
from typing import Any

import torch
from pytorch_metric_learning import miners
from torch import Tensor

from hardmine.integrations._fallback import NotFused
from hardmine.integrations.pytorch_metric_learning._fused import (
    Geometry,
    fused_or_pml,
    geometry_of,
    pair_distances,
    positive_pairs,
    record_distance,
    refs_of,
)
from hardmine.ops.select_triplets import select_triplets
from hardmine.types import NegativeRule

Pairs = tuple[Tensor, Tensor, Tensor, Tensor]
_CHUNK = 2**22  # distances that are compared at once
_NEGATIVE_RULES: dict[str, NegativeRule] = {
    "hard": "hardest",
    "semihard": "semihard",
    "easy": "easiest",
    "all": "hardest",  # unused
}


class BatchEasyHardMiner(miners.BatchEasyHardMiner):
    """PML's ``BatchEasyHardMiner``, computed by :func:`hardmine.ops.select_triplets`.

    Arguments, statistics and results are those of PML. Positives that are semi-hard or in ``allowed_pos_range`` are
    selected from the positive pairs alone. PML's own code runs for ``allowed_neg_range``, and for the statistics of
    ``neg_strategy="all"``.

    Example:
        >>> import torch
        >>> from hardmine.integrations.pytorch_metric_learning import BatchEasyHardMiner
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]])
        >>> miner = BatchEasyHardMiner(pos_strategy="easy", neg_strategy="semihard")
        >>> miner(embeddings, torch.tensor([0, 0, 1, 1]))
        (tensor([0, 1, 2, 3]), tensor([1, 0, 3, 2]), tensor([0, 1, 2, 3]), tensor([2, 2, 1, 1]))
    """

    def mine(self, *inputs: Tensor) -> Pairs:
        """The selected pairs (a1, p, a2, n)."""
        return fused_or_pml(self, BatchEasyHardMiner, functools.partial(_mine, self), super().mine, *inputs)


class BatchHardMiner(miners.BatchHardMiner):
    """PML's ``BatchHardMiner``: the hardest positive and negative per anchor, as triplets (a, p, n).

    Computed by :func:`hardmine.ops.select_triplets`. Arguments, statistics and results are those of PML.

    Example:
        >>> import torch
        >>> from hardmine.integrations.pytorch_metric_learning import BatchHardMiner
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]])
        >>> BatchHardMiner()(embeddings, torch.tensor([0, 0, 1, 1]))
        (tensor([0, 1, 2, 3]), tensor([1, 0, 3, 2]), tensor([2, 2, 1, 1]))
    """

    def mine(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The selected triplets (a, p, n)."""

        def fused(*inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            a, p, _, n = _mine(self, *inputs)
            return a, p, n

        return fused_or_pml(self, BatchHardMiner, fused, super().mine, *inputs)


def _mine(miner: Any, embeddings: Tensor, labels: Tensor, refs: Tensor, ref_labels: Tensor) -> Pairs:
    """What ``BatchEasyHardMiner.mine`` returns."""
    geometry = geometry_of(miner.distance)
    pos, neg = miner.pos_strategy, miner.neg_strategy
    if miner.allowed_neg_range is not None:
        raise NotFused("it has an allowed_neg_range")
    if neg == miner.ALL and miner.collect_stats:
        raise NotFused("it collects statistics of all negatives")
    from_pairs = pos == miner.SEMIHARD or miner.allowed_pos_range is not None
    if from_pairs and neg == miner.SEMIHARD:
        raise NotFused("it has semi-hard negatives of positives in a range")
    record_distance(miner.distance, embeddings, refs)
    rows = geometry.rows(embeddings)
    ref_rows = rows if refs is embeddings else geometry.rows(refs)
    selection = select_triplets(
        rows,
        labels,
        **refs_of(rows, labels, ref_rows, ref_labels),
        similarity=geometry.similarity,
        positive="easiest" if pos == miner.EASY else "hardest",
        negative=_NEGATIVE_RULES[neg],
    )
    positive, negative = selection.positive_index, selection.negative_index
    unit = (miner.distance.maybe_normalize(embeddings), miner.distance.maybe_normalize(refs))
    if pos != miner.ALL and from_pairs:
        positive = _positive_of_pairs(miner, geometry, unit, labels, ref_labels, negative)

    def distances(pairs: tuple[Tensor, Tensor]) -> Tensor:
        return pair_distances(miner.distance, geometry, *unit, pairs)

    if miner.ALL not in (pos, neg):
        a1 = a2 = ((positive >= 0) & (negative >= 0)).nonzero().squeeze(1)
    else:
        a1, a2 = ((index >= 0).nonzero().squeeze(1) for index in (positive, negative))
    p, n = positive[a1], negative[a2]
    if pos == miner.ALL:
        a1, p = positive_pairs(labels, ref_labels)
    if neg == miner.ALL:
        a2, n = (labels[:, None] != ref_labels).nonzero(as_tuple=True)
    if miner.collect_stats:
        miner.set_stats(distances((a1, p)), distances((a2, n)))
    return a1, p, a2, n


def _positive_of_pairs(
    miner: Any, geometry: Geometry, rows: tuple[Tensor, Tensor], labels: Tensor, ref_labels: Tensor, negative: Tensor
) -> Tensor:
    """The easiest or hardest positive within the range and, if semi-hard, closer than the negative; else -1: [B]."""
    anchor, positive = positive_pairs(labels, ref_labels)
    if 8 * len(anchor) > len(labels) * len(ref_labels):
        raise NotFused(None)  # the rows of so many pairs take longer than the matrix
    value = pair_distances(miner.distance, geometry, *rows, (anchor, positive))
    keep = torch.ones_like(anchor, dtype=torch.bool)
    if miner.allowed_pos_range is not None:
        keep = (value >= miner.allowed_pos_range[0]) & (value <= miner.allowed_pos_range[1])
    if geometry.similarity == "euclidean":
        value = -value
    if miner.pos_strategy == miner.SEMIHARD:
        own = torch.arange(len(labels), device=labels.device)
        limit = pair_distances(miner.distance, geometry, *rows, (own, negative.clamp(min=0)))
        limit = limit if geometry.similarity != "euclidean" else -limit
        limit = torch.where(negative >= 0, limit, -torch.inf)
        keep &= value > limit[anchor]
    anchor, positive, value = anchor[keep], positive[keep], value[keep]
    # Per anchor, the first pair with the best value: sorts by value, then by anchor, both stable.
    order = value.sort(descending=miner.pos_strategy == miner.EASY, stable=True).indices
    order = order[anchor[order].sort(stable=True).indices]
    first = torch.ones_like(order, dtype=torch.bool)
    first[1:] = anchor[order][1:] != anchor[order][:-1]
    chosen = torch.full_like(negative, -1)
    chosen[anchor[order][first]] = positive[order][first]
    return chosen


class TripletMarginMiner(miners.TripletMarginMiner):
    """PML's ``TripletMarginMiner``, without a tensor of all triplets.

    Arguments, statistics and results are those of PML, bit for bit, with every distance. Memory is that of the matrix
    of distances, a few chunks of it, and the result.

    Example:
        >>> import torch
        >>> from hardmine.integrations.pytorch_metric_learning import TripletMarginMiner
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]])
        >>> TripletMarginMiner(margin=0.3)(embeddings, torch.tensor([0, 0, 1, 1]))
        (tensor([1, 2]), tensor([0, 3]), tensor([2, 1]))
    """

    def mine(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The triplets (a, p, n) of the type."""
        return fused_or_pml(self, TripletMarginMiner, self._mine, super().mine, *inputs)

    def _mine(
        self, embeddings: Tensor, labels: Tensor, refs: Tensor, ref_labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        distance = self.distance(embeddings, refs)
        is_negative = labels[:, None] != ref_labels
        anchor, positive = positive_pairs(labels, ref_labels)
        if self.collect_stats:
            self._set_means(distance, is_negative, anchor, positive)
        parts = []
        for a, p in zip(*(x.split(max(1, _CHUNK // max(len(refs), 1))) for x in (anchor, positive)), strict=True):
            to_positive, to_negative = distance[a, p][:, None], distance[a]
            margin = to_positive - to_negative if self.distance.is_inverted else to_negative - to_positive
            if self.type_of_triplets == "easy":
                keep = margin > self.margin
            else:
                keep = margin <= self.margin
                if self.type_of_triplets == "hard":
                    keep &= margin <= 0
                elif self.type_of_triplets == "semihard":
                    keep &= margin > 0
            pair, negative = (keep & is_negative[a]).nonzero(as_tuple=True)
            parts.append((a[pair], p[pair], negative))
        if not parts:
            return anchor, positive, positive.clone()
        a, p, n = (torch.cat(part) for part in zip(*parts, strict=True))
        return a, p, n

    def _set_means(self, distance: Tensor, is_negative: Tensor, anchor: Tensor, positive: Tensor) -> None:
        """PML's statistics, which are means over all triplets."""
        negatives = is_negative.sum(1)
        total = negatives[anchor].sum()
        self.pos_pair_dist = ((distance[anchor, positive] * negatives[anchor]).sum() / total).item()
        of_negatives = (distance * is_negative).sum(1)
        self.neg_pair_dist = (of_negatives[anchor].sum() / total).item()
        margin = self.neg_pair_dist - self.pos_pair_dist
        self.avg_triplet_margin = -margin if self.distance.is_inverted else margin


class MultiSimilarityMiner(miners.MultiSimilarityMiner):
    """PML's ``MultiSimilarityMiner``, which sorts only the pairs that are kept.

    Arguments and results are those of PML, in its order, with every distance. PML's own code runs if ``ref_labels`` is
    the very tensor ``labels``, and ``ref_emb`` is given.

    Example:
        >>> import torch
        >>> from hardmine.integrations.pytorch_metric_learning import MultiSimilarityMiner
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]])
        >>> MultiSimilarityMiner(epsilon=0.3)(embeddings, torch.tensor([0, 0, 1, 1]))
        (tensor([1, 2]), tensor([0, 3]), tensor([1, 2]), tensor([2, 1]))
    """

    def mine(self, *inputs: Tensor) -> Pairs:
        """The pairs (a1, p, a2, n) that epsilon keeps."""
        return fused_or_pml(self, MultiSimilarityMiner, self._mine, super().mine, *inputs)

    def _mine(self, embeddings: Tensor, labels: Tensor, refs: Tensor, ref_labels: Tensor) -> Pairs:
        if ref_labels is labels and refs is not embeddings:
            raise NotFused("its refs have the very tensor of labels")  # PML takes the pairs (i, i) for both kinds
        distance = self.distance(embeddings, refs)
        is_positive = labels[:, None] == ref_labels
        is_negative = ~is_positive
        if ref_labels is labels:
            is_positive.fill_diagonal_(False)
        if not (is_positive.any() and is_negative.any()):
            empty = torch.empty(0, dtype=torch.int64, device=labels.device)
            return empty, empty.clone(), empty.clone(), empty.clone()
        if refs is embeddings:
            is_positive.fill_diagonal_(False)
            is_negative.fill_diagonal_(False)
        finite = torch.finfo(distance.dtype)
        if self.distance.is_inverted:
            hardest_positive = distance.masked_fill(~is_positive, finite.max).amin(1, keepdim=True)
            hardest_negative = distance.masked_fill(~is_negative, finite.min).amax(1, keepdim=True)
            is_positive &= distance - self.epsilon < hardest_negative
            is_negative &= distance + self.epsilon > hardest_positive
        else:
            hardest_positive = distance.masked_fill(~is_positive, finite.min).amax(1, keepdim=True)
            hardest_negative = distance.masked_fill(~is_negative, finite.max).amin(1, keepdim=True)
            is_positive &= distance + self.epsilon > hardest_negative
            is_negative &= distance - self.epsilon < hardest_positive
        return *_by_distance(distance, is_positive), *_by_distance(distance, is_negative)


class PairMarginMiner(miners.PairMarginMiner):
    """PML's ``PairMarginMiner``, without lists of all pairs.

    Arguments, statistics and results are those of PML, bit for bit, with every distance.

    Example:
        >>> import torch
        >>> from hardmine.integrations.pytorch_metric_learning import PairMarginMiner
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]])
        >>> PairMarginMiner(pos_margin=0.2, neg_margin=1.0)(embeddings, torch.tensor([0, 0, 1, 1]))
        (tensor([0, 1, 2, 3]), tensor([1, 0, 3, 2]), tensor([1, 2]), tensor([2, 1]))
    """

    def mine(self, *inputs: Tensor) -> Pairs:
        """The pairs (a1, p, a2, n) beyond the margins."""
        return fused_or_pml(self, PairMarginMiner, self._mine, super().mine, *inputs)

    def _mine(self, embeddings: Tensor, labels: Tensor, refs: Tensor, ref_labels: Tensor) -> Pairs:
        distance = self.distance(embeddings, refs)
        is_negative = labels[:, None] != ref_labels
        anchor, positive = positive_pairs(labels, ref_labels)
        to_positive = distance[anchor, positive]
        if self.collect_stats:
            self.set_stats(to_positive, distance[is_negative])
        if self.distance.is_inverted:
            keep, is_hard = to_positive < self.pos_margin, distance > self.neg_margin
        else:
            keep, is_hard = to_positive > self.pos_margin, distance < self.neg_margin
        return anchor[keep], positive[keep], *(is_negative & is_hard).nonzero(as_tuple=True)


def _by_distance(distance: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """The pairs of a mask [B, M], by anchor and then by ascending distance."""
    count = pairs.sum(1)
    if 16 * count.sum() > pairs.numel():  # a sort of the rows is faster than one of so many pairs
        order = distance.masked_fill(~pairs, torch.finfo(distance.dtype).max).sort(dim=1, stable=True).indices
        number = torch.arange(pairs.shape[1], device=pairs.device)
        anchor = torch.arange(len(pairs), device=pairs.device).repeat_interleave(count)
        return anchor, order[number < count[:, None]]
    anchor, other = pairs.nonzero(as_tuple=True)
    order = distance[anchor, other].sort(stable=True).indices
    order = order[anchor[order].sort(stable=True).indices]
    return anchor[order], other[order]
