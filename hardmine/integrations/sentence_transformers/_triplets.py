"""The triplet losses of sentence-transformers, on labeled sentences."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from sentence_transformers.sentence_transformer import losses
from torch import Tensor

from hardmine.integrations._fallback import (
    NotFused,
    forbid_refused_labels,
    forbid_refused_rows,
    forbid_zero_rows,
    fused_or_theirs,
)
from hardmine.integrations.sentence_transformers._ranking import LIBRARY
from hardmine.ops._sums import ordered_sum
from hardmine.ops.batch_all_triplet_loss import batch_all_triplet_loss
from hardmine.ops.select_triplets import select_triplets
from hardmine.ops.triplet_loss import triplet_loss
from hardmine.types import DistanceSimilarity

_Distance = losses.BatchHardTripletLossDistanceFunction


class BatchHardTripletLoss(losses.BatchHardTripletLoss):
    """The ``BatchHardTripletLoss`` of sentence-transformers, without the matrix of distances.

    Arguments, values and gradients are those of sentence-transformers, also for sentences without a positive. Its own
    code runs for a ``distance_metric`` other than ``euclidean_distance`` and ``cosine_distance``, and for batches of
    one class.

    Example:
        >>> import torch
        >>> from hardmine.integrations.sentence_transformers import BatchHardTripletLoss
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]], requires_grad=True)
        >>> loss = BatchHardTripletLoss(model=None, margin=0.5)  # a training needs a SentenceTransformer
        >>> loss.compute_loss_from_embeddings([embeddings], torch.tensor([0, 0, 1, 1]))
        tensor(0.5438, grad_fn=<DivBackward0>)
    """

    def batch_hard_triplet_loss(self, labels: Tensor, embeddings: Tensor) -> Tensor:
        """The mean over all embeddings [B, D] of the hinge of the hardest triplet."""

        def fused(labels: Tensor, embeddings: Tensor) -> Tensor:
            margin = _margin_of(self.triplet_margin)
            return _mean(F.relu(_hardest_gap(self, labels, embeddings) + margin))

        theirs = super().batch_hard_triplet_loss
        loss: Tensor = fused_or_theirs(LIBRARY, self, BatchHardTripletLoss, fused, theirs, labels, embeddings)
        return loss


class BatchHardSoftMarginTripletLoss(losses.BatchHardSoftMarginTripletLoss):
    """The ``BatchHardSoftMarginTripletLoss`` of sentence-transformers, without the matrix of distances.

    As :class:`BatchHardTripletLoss`, with softplus in place of the hinge.

    Example:
        >>> import torch
        >>> from hardmine.integrations.sentence_transformers import BatchHardSoftMarginTripletLoss
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]], requires_grad=True)
        >>> loss = BatchHardSoftMarginTripletLoss(model=None)  # a training needs a SentenceTransformer
        >>> loss.compute_loss_from_embeddings([embeddings], torch.tensor([0, 0, 1, 1]))
        tensor(0.7269, grad_fn=<DivBackward0>)
    """

    def batch_hard_triplet_soft_margin_loss(self, labels: Tensor, embeddings: Tensor) -> Tensor:
        """The mean over all embeddings [B, D] of the softplus of the hardest triplet."""

        def fused(labels: Tensor, embeddings: Tensor) -> Tensor:
            return _mean(F.softplus(_hardest_gap(self, labels, embeddings)))

        theirs = super().batch_hard_triplet_soft_margin_loss
        own = BatchHardSoftMarginTripletLoss
        loss: Tensor = fused_or_theirs(LIBRARY, self, own, fused, theirs, labels, embeddings)
        return loss


class BatchSemiHardTripletLoss(losses.BatchSemiHardTripletLoss):
    """The ``BatchSemiHardTripletLoss`` of sentence-transformers, without the matrix of distances.

    Arguments, values and gradients are those of sentence-transformers: every pair of positives, with its closest
    negative that is farther away, or else the farthest negative. Its own code runs where that of
    :class:`BatchHardTripletLoss` does.

    Example:
        >>> import torch
        >>> from hardmine.integrations.sentence_transformers import BatchSemiHardTripletLoss
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]], requires_grad=True)
        >>> loss = BatchSemiHardTripletLoss(model=None, margin=0.5)  # a training needs a SentenceTransformer
        >>> loss.compute_loss_from_embeddings([embeddings], torch.tensor([0, 0, 1, 1]))
        tensor(0.2380, grad_fn=<...>)
    """

    def batch_semi_hard_triplet_loss(self, labels: Tensor, embeddings: Tensor) -> Tensor:
        """The mean over all pairs of positives among the embeddings [B, D]."""

        def fused(labels: Tensor, embeddings: Tensor) -> Tensor:
            margin, similarity = _margin_of(self.margin), _similarity_of(self)
            return triplet_loss(
                embeddings,
                _checked_labels(labels, embeddings),
                positive="all",
                negative="semihard",
                semihard_fallback="easiest",
                term="hinge",
                margin=margin,
                similarity=similarity,
            )

        theirs = super().batch_semi_hard_triplet_loss
        loss: Tensor = fused_or_theirs(LIBRARY, self, BatchSemiHardTripletLoss, fused, theirs, labels, embeddings)
        return loss


class BatchAllTripletLoss(losses.BatchAllTripletLoss):
    """The ``BatchAllTripletLoss`` of sentence-transformers, without a list of all triplets.

    Arguments, values and gradients are those of sentence-transformers: the mean over the triplets with a loss. Its own
    code runs where that of :class:`BatchHardTripletLoss` does, and with ``cosine_distance`` for an embedding of norm 0.

    Example:
        >>> import torch
        >>> from hardmine.integrations.sentence_transformers import BatchAllTripletLoss
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]], requires_grad=True)
        >>> loss = BatchAllTripletLoss(model=None, margin=0.5)  # a training needs a SentenceTransformer
        >>> loss.compute_loss_from_embeddings([embeddings], torch.tensor([0, 0, 1, 1]))
        tensor(0.4419, grad_fn=<MulBackward0>)
    """

    def batch_all_triplet_loss(self, labels: Tensor, embeddings: Tensor) -> Tensor:
        """The mean over the triplets of the embeddings [B, D] that have a loss above 0."""

        def fused(labels: Tensor, embeddings: Tensor) -> Tensor:
            margin, similarity = _margin_of(self.triplet_margin), _similarity_of(self)
            labels = _checked_labels(labels, embeddings)
            is_cosine = similarity == "cosine"
            if is_cosine:
                forbid_zero_rows(embeddings)
            # The op has 0.5 max(0, d_ap - d_an + margin). With d^2 = 2 - 2 s it is max(0, s_an - s_ap + margin / 2).
            value = batch_all_triplet_loss(
                embeddings,
                labels,
                margin=2 * margin if is_cosine else margin,
                squared=is_cosine,
                similarity=similarity,
                reduction="mean_active",
            )
            return value if is_cosine else 2 * value

        theirs = super().batch_all_triplet_loss
        loss: Tensor = fused_or_theirs(LIBRARY, self, BatchAllTripletLoss, fused, theirs, labels, embeddings)
        return loss


def _similarity_of(loss: Any) -> DistanceSimilarity:
    """The similarity of which the distance is a decreasing function."""
    if loss.distance_metric is _Distance.euclidean_distance:
        return "euclidean"
    if loss.distance_metric is _Distance.cosine_distance:
        return "cosine"
    raise NotFused(f"its distance_metric is {loss.get_config_dict()['distance_metric']}")


def _margin_of(margin: Any) -> float:
    if not isinstance(margin, (int, float)) or not math.isfinite(margin):
        raise NotFused(f"its margin is {margin!r}")
    return float(margin)


def _checked_labels(labels: Tensor, embeddings: Tensor) -> Tensor:
    """The labels [B] of embeddings with at least two classes."""
    forbid_refused_rows(embeddings, embeddings)
    if labels.numel() != len(embeddings) or not labels.numel():
        raise NotFused(None)  # theirs raises
    labels = labels.reshape(-1)
    forbid_refused_labels(labels)
    if (labels == labels[0]).all():
        raise NotFused(None)  # theirs has a rule for no negatives
    return labels


def _hardest_gap(loss: Any, labels: Tensor, embeddings: Tensor) -> Tensor:
    """The largest distance of a positive minus the smallest of a negative; without a positive, the former is 0: [B]."""
    similarity = _similarity_of(loss)
    labels = _checked_labels(labels, embeddings)
    selection = select_triplets(embeddings, labels, positive="hardest", negative="hardest", similarity=similarity)
    itself = 1.0 if similarity == "cosine" else 0.0
    positive = torch.where(selection.positive_index < 0, itself, selection.positive_similarity)
    return selection.negative_similarity - positive


def _mean(value: Tensor) -> Tensor:
    return ordered_sum(value) / len(value)
