"""Losses of pytorch-metric-learning, computed by hardmine's ops."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_metric_learning import losses, reducers
from pytorch_metric_learning.utils import common_functions as c_f
from pytorch_metric_learning.utils import loss_and_miner_utils as lmu
from torch import Tensor

from hardmine.integrations._fallback import NotFused, as_theirs, forbid_zero_rows
from hardmine.integrations.pytorch_metric_learning._fused import (
    Geometry,
    as_cosine,
    geometry_of,
    loss_or_pml,
    pair_distances,
    positive_pairs,
    record_distance,
    refs_of,
)
from hardmine.ops.batch_all_triplet_loss import batch_all_triplet_loss
from hardmine.ops.circle_loss import circle_loss
from hardmine.ops.indexed_triplet_loss import indexed_triplet_loss
from hardmine.ops.logsumexp import logsumexp
from hardmine.ops.multi_similarity_loss import multi_similarity_loss
from hardmine.ops.supcon_loss import supcon_loss
from hardmine.ops.tuplet_loss import tuplet_loss

LossDict = dict[str, dict[str, Any]]


class TripletMarginLoss(losses.TripletMarginLoss):
    """PML's ``TripletMarginLoss``, without the matrix of distances.

    Arguments and results are those of PML. Given triplets run :func:`hardmine.ops.indexed_triplet_loss`, and work with
    every reducer. All triplets of a batch run :func:`hardmine.ops.batch_all_triplet_loss`, with the reducers
    ``AvgNonZeroReducer`` (the default), ``MeanReducer`` and ``SumReducer``. PML's own code runs for ``swap``, for
    ``smooth_loss`` with a margin or without an ``indices_tuple``, and where more triplets than B M / 8 are given.

    Example:
        >>> import torch
        >>> from hardmine.integrations.pytorch_metric_learning import BatchHardMiner, TripletMarginLoss
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]], requires_grad=True)
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> TripletMarginLoss(margin=0.2)(embeddings, labels, BatchHardMiner()(embeddings, labels))
        tensor(0.5496, grad_fn=<MeanBackward0>)
    """

    def compute_loss(self, *inputs: Any) -> LossDict:
        """The losses of the triplets, or their reduced loss."""
        return loss_or_pml(self, TripletMarginLoss, self._fused, super().compute_loss, *inputs)

    def _fused(self, embeddings: Tensor, labels: Tensor, indices: Any, refs: Tensor, ref_labels: Tensor) -> LossDict:
        c_f.labels_or_indices_tuple_required(labels, indices)
        if self.swap:
            raise NotFused("it has swap=True")
        if not isinstance(self.margin, (int, float)):
            raise NotFused("its margin is not a number")
        if indices is None and self.triplets_per_anchor == "all":
            return self._of_all(embeddings, labels, refs, ref_labels)
        if self.smooth_loss and self.margin != 0:
            raise NotFused("it has smooth_loss=True and a margin")
        geometry = geometry_of(self.distance)
        if geometry.squared:
            geometry = as_cosine(geometry, embeddings, refs)
            scale = 2.0
        else:
            scale = 1.0
        a, p, n = indices = lmu.convert_to_triplets(indices, labels, ref_labels, t_per_anchor=self.triplets_per_anchor)
        if len(a) == 0:
            return self.zero_losses()
        if 8 * len(a) > len(embeddings) * len(refs):
            raise NotFused(None)  # the rows of so many triplets take longer than the matrix
        record_distance(self.distance, embeddings, refs)
        rows, offset = embeddings, 0
        if refs is not embeddings or ((a == p) | (a == n)).any():
            rows, offset = torch.cat([embeddings, refs]), len(embeddings)
        if (p == n).any():
            raise NotFused("a triplet has one row as positive and negative")
        triplets = torch.stack([a, p + offset, n + offset], dim=1)
        options: dict[str, Any] = {"term": "hinge", "margin": self.margin / scale}
        if self.smooth_loss:  # log(1 + exp(scale x)) with x = s_an - s_ap
            options = {"term": "nca", "temperature": 1 / scale}
            scale = 1.0
        value = indexed_triplet_loss(
            geometry.rows(rows), triplets, similarity=geometry.similarity, reduction="none", **options
        )
        value = as_theirs(scale * value, embeddings)
        return {"loss": {"losses": value, "indices": indices, "reduction_type": "triplet"}}

    def _of_all(self, embeddings: Tensor, labels: Tensor, refs: Tensor, ref_labels: Tensor) -> LossDict:
        """The loss over all triplets of a batch."""
        if self.smooth_loss:
            raise NotFused("it has smooth_loss=True and no indices_tuple")
        reduction = _reduction_of(self, "all triplets")
        geometry = geometry_of(self.distance)
        if geometry.similarity == "dot":
            raise NotFused("its distance has normalize_embeddings=False, for all triplets")
        # The op has 0.5 max(0, d_ap - d_an + margin), and with d^2 = 2 - 2 s that is max(0, s_an - s_ap + margin / 2).
        margin, scale, squared = self.margin, 2.0, geometry.squared
        if geometry.similarity == "cosine":
            forbid_zero_rows(embeddings, refs)
            margin, scale, squared = 2 * self.margin, 1.0, True
        record_distance(self.distance, embeddings, refs)
        value = batch_all_triplet_loss(
            embeddings,
            labels,
            **refs_of(embeddings, labels, refs, ref_labels),
            margin=margin,
            squared=squared,
            similarity="cosine" if geometry.normalized else "euclidean",
            reduction=reduction,
        )
        return _reduced(scale * value, embeddings)


def _reduction_of(loss: Any, what: str) -> Any:
    """The name that ops have for the reducer, which must be one of those that need no list of losses."""
    reducer = loss.reducer
    if type(reducer) is reducers.MultipleReducers and "loss" in reducer.reducers:
        reducer = reducer.reducers["loss"]  # the other one is that of the embeddings' regularizer
    names = {
        reducers.AvgNonZeroReducer: "mean_active",
        reducers.MeanReducer: "mean",
        reducers.SumReducer: "sum",
    }
    if type(reducer) not in names:
        raise NotFused(f"its reducer is {type(reducer).__name__}, for {what}")
    if reducer.collect_stats:
        raise NotFused(f"its reducer collects statistics of {what}")
    return names[type(reducer)]


def _reduced(value: Tensor, embeddings: Tensor) -> LossDict:
    """A loss that no reducer changes."""
    return {"loss": {"losses": as_theirs(value, embeddings), "indices": None, "reduction_type": "already_reduced"}}


class NTXentLoss(losses.NTXentLoss):
    """PML's ``NTXentLoss``, without the matrix of similarities, and with every reducer.

    Arguments and results are those of PML: the loss of each positive pair against all negatives of its anchor, by
    :func:`hardmine.ops.logsumexp`. PML's own code runs for a given ``indices_tuple``, and for more positive pairs than
    B M / 8.

    Example:
        >>> import torch
        >>> from hardmine.integrations.pytorch_metric_learning import NTXentLoss
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]], requires_grad=True)
        >>> NTXentLoss(temperature=0.5)(embeddings, torch.tensor([0, 0, 1, 1]))
        tensor(0.8707, grad_fn=<MeanBackward0>)
    """

    def compute_loss(self, *inputs: Any) -> LossDict:
        """The losses of the positive pairs."""
        return loss_or_pml(self, NTXentLoss, self._fused, super().compute_loss, *inputs)

    def _fused(self, embeddings: Tensor, labels: Tensor, indices: Any, refs: Tensor, ref_labels: Tensor) -> LossDict:
        _require_all_pairs(labels, indices)
        geometry, temperature = _softmax_geometry(self, embeddings, refs)
        if _one_class(labels, ref_labels):
            return self.zero_losses()
        anchor, positive = positive_pairs(labels, ref_labels)
        if len(anchor) == 0:
            return self.zero_losses()
        if 8 * len(anchor) > len(embeddings) * len(refs):
            raise NotFused(None)  # the rows of so many pairs take longer than the matrix
        record_distance(self.distance, embeddings, refs)
        rows = geometry.rows(embeddings)
        ref_rows = rows if refs is embeddings else geometry.rows(refs)
        negatives = logsumexp(
            rows,
            labels,
            **refs_of(rows, labels, ref_rows, ref_labels),
            pairs="negative",
            temperature=temperature,
            similarity=geometry.similarity,
        )
        # The op sums in float32 or, for float64, in float64; so do the positives.
        first, second = (self.distance.maybe_normalize(x).to(negatives.dtype) for x in (embeddings, refs))
        similarity = pair_distances(self.distance, geometry, first, second, (anchor, positive))
        if geometry.similarity == "euclidean":
            similarity = -similarity
        log_share = torch.nn.functional.logsigmoid(similarity / temperature - negatives[anchor])
        # PML adds the smallest normal number to the share, which bounds the loss.
        value = -torch.log(log_share.exp() + c_f.small_val(embeddings.dtype))
        return {
            "loss": {
                "losses": as_theirs(value, embeddings),
                "indices": (anchor, positive),
                "reduction_type": "pos_pair",
            }
        }


class SupConLoss(losses.SupConLoss):
    """PML's ``SupConLoss``, computed by :func:`hardmine.ops.supcon_loss`, with every reducer.

    Arguments and results are those of PML. PML's own code runs for a given ``indices_tuple``.

    Example:
        >>> import torch
        >>> from hardmine.integrations.pytorch_metric_learning import SupConLoss
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]], requires_grad=True)
        >>> SupConLoss(temperature=0.5)(embeddings, torch.tensor([0, 0, 1, 1]))
        tensor(0.8707, grad_fn=<MeanBackward0>)
    """

    def compute_loss(self, *inputs: Any) -> LossDict:
        """The losses of the anchors."""
        return loss_or_pml(self, SupConLoss, self._fused, super().compute_loss, *inputs)

    def _fused(self, embeddings: Tensor, labels: Tensor, indices: Any, refs: Tensor, ref_labels: Tensor) -> LossDict:
        _require_all_pairs(labels, indices)
        geometry, temperature = _softmax_geometry(self, embeddings, refs)
        if _one_class(labels, ref_labels):
            return self.zero_losses()
        record_distance(self.distance, embeddings, refs)
        rows = geometry.rows(embeddings)
        ref_rows = rows if refs is embeddings else geometry.rows(refs)
        value = supcon_loss(
            rows,
            labels,
            **refs_of(rows, labels, ref_rows, ref_labels),
            temperature=temperature,
            similarity=geometry.similarity,
            reduction="none",
        )
        return _of_anchors(value, embeddings)


class NPairsLoss(losses.NPairsLoss):
    """PML's ``NPairsLoss``, computed by :func:`hardmine.ops.tuplet_loss`, with every reducer.

    Arguments and results are those of PML: one pair of each class, against the pairs of the other classes.

    Example:
        >>> import torch
        >>> from hardmine.integrations.pytorch_metric_learning import NPairsLoss
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]], requires_grad=True)
        >>> NPairsLoss()(embeddings, torch.tensor([0, 0, 1, 1]))
        tensor(0.5737, grad_fn=<MeanBackward0>)
    """

    def compute_loss(self, *inputs: Any) -> LossDict:
        """The losses of the pairs."""
        return loss_or_pml(self, NPairsLoss, self._fused, super().compute_loss, *inputs)

    def _fused(self, embeddings: Tensor, labels: Tensor, indices: Any, refs: Tensor, ref_labels: Tensor) -> LossDict:
        c_f.labels_required(labels)
        c_f.ref_not_supported(embeddings, labels, refs, ref_labels)
        anchor, positive = _pair_per_class(labels) if indices is None else _listed_pair_per_class(labels, indices)
        geometry, temperature = _softmax_geometry(self, embeddings, embeddings, temperature=1.0)
        self.num_pairs = len(anchor)
        if self.num_pairs == 0:
            return self.zero_losses()
        anchors, positives = embeddings[anchor], embeddings[positive]
        record_distance(self.distance, anchors, positives)
        number = torch.arange(len(anchor), device=labels.device)
        value = tuplet_loss(
            geometry.rows(anchors),
            number,
            geometry.rows(positives),
            number,
            temperature=temperature,
            similarity=geometry.similarity,
            reduction="none",
        )
        return _of_anchors(value, embeddings, anchor)


class MultiSimilarityLoss(losses.MultiSimilarityLoss):
    """PML's ``MultiSimilarityLoss``, computed by :func:`hardmine.ops.multi_similarity_loss`, with every reducer.

    Arguments and results are those of PML. PML's own code runs for a given ``indices_tuple``, and for distances that
    are no similarities.

    Example:
        >>> import torch
        >>> from hardmine.integrations.pytorch_metric_learning import MultiSimilarityLoss
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]], requires_grad=True)
        >>> MultiSimilarityLoss()(embeddings, torch.tensor([0, 0, 1, 1]))
        tensor(0.4988, grad_fn=<MeanBackward0>)
    """

    def compute_loss(self, *inputs: Any) -> LossDict:
        """The losses of the anchors."""
        return loss_or_pml(self, MultiSimilarityLoss, self._fused, super().compute_loss, *inputs)

    def _fused(self, embeddings: Tensor, labels: Tensor, indices: Any, refs: Tensor, ref_labels: Tensor) -> LossDict:
        _require_all_pairs(labels, indices)
        numbers: dict[str, Any] = {"alpha": self.alpha, "beta": self.beta, "base": self.base}
        for name, number in numbers.items():
            if not isinstance(number, (int, float)) or (name != "base" and number <= 0):
                raise NotFused(f"its {name} is {number!r}")
        geometry = geometry_of(self.distance)
        if geometry.similarity == "euclidean":
            raise NotFused(f"its distance is {type(self.distance).__name__}")
        if len(labels) < 2 or len(ref_labels) < 2:
            raise NotFused(None)  # PML has a rule for a single pair
        record_distance(self.distance, embeddings, refs)
        value = multi_similarity_loss(
            embeddings,
            labels,
            **refs_of(embeddings, labels, refs, ref_labels),
            **numbers,
            similarity=geometry.similarity,
            reduction="none",
        )
        return _of_anchors(value[:, None], embeddings)  # [B, 1], as in PML: reducers with weights tell the difference


class CircleLoss(losses.CircleLoss):
    """PML's ``CircleLoss``, computed by :func:`hardmine.ops.circle_loss`, with every reducer.

    Arguments and results are those of PML. PML's own code runs for a given ``indices_tuple``.

    Example:
        >>> import torch
        >>> from hardmine.integrations.pytorch_metric_learning import CircleLoss
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]], requires_grad=True)
        >>> CircleLoss(gamma=8)(embeddings, torch.tensor([0, 0, 1, 1]))
        tensor(3.1247, grad_fn=<MeanBackward0>)
    """

    def compute_loss(self, *inputs: Any) -> LossDict:
        """The losses of the anchors."""
        return loss_or_pml(self, CircleLoss, self._fused, super().compute_loss, *inputs)

    def _fused(self, embeddings: Tensor, labels: Tensor, indices: Any, refs: Tensor, ref_labels: Tensor) -> LossDict:
        _require_all_pairs(labels, indices)
        # PML's code reads the margins that its constructor derives from m.
        margins = (self.op, self.on, self.delta_p, self.delta_n)
        if not isinstance(self.m, (int, float)) or not -1 <= self.m <= 1:
            raise NotFused(f"its m is {self.m!r}")
        if margins != (1 + self.m, -self.m, 1 - self.m, self.m):
            raise NotFused("its margins are not those of its m")
        if not isinstance(self.gamma, (int, float)) or not 1e-30 <= self.gamma <= 1e30:
            raise NotFused(f"its gamma is {self.gamma!r}")
        if geometry_of(self.distance).similarity != "cosine":
            raise NotFused("its distance has normalize_embeddings=False")
        if len(labels) < 2 or len(ref_labels) < 2:
            raise NotFused(None)  # PML has a rule for a single pair
        record_distance(self.distance, embeddings, refs)
        value = circle_loss(
            embeddings,
            labels,
            **refs_of(embeddings, labels, refs, ref_labels),
            m=self.m,
            gamma=self.gamma,
            reduction="none",
        )
        return _of_anchors(value[:, None], embeddings)  # [B, 1], as in PML: reducers with weights tell the difference


def _pair_per_class(labels: Tensor) -> tuple[Tensor, Tensor]:
    """The first two rows of every class of at least two, in the order of the classes."""
    ascending, order = labels.sort(stable=True)
    first = torch.ones_like(labels, dtype=torch.bool)
    first[1:] = ascending[1:] != ascending[:-1]
    second = ~first
    second[2:] &= first[1:-1]
    second[:1] = False
    position = second.nonzero().squeeze(1)
    return order[position - 1], order[position]


def _listed_pair_per_class(labels: Tensor, indices: Any) -> tuple[Tensor, Tensor]:
    return lmu.convert_to_pos_pairs_with_unique_labels(indices, labels)


def _require_all_pairs(labels: Tensor | None, indices: Any) -> None:
    """All pairs of the labels: a loss of some pairs has no op."""
    c_f.labels_or_indices_tuple_required(labels, indices)
    if indices is not None:
        raise NotFused("an indices_tuple is given")


def _softmax_geometry(loss: Any, embeddings: Tensor, refs: Tensor, temperature: Any = None) -> tuple[Geometry, float]:
    """The similarity and temperature of a softmax, which does not change if a number is added to all similarities."""
    temperature = loss.temperature if temperature is None else temperature
    if not isinstance(temperature, (int, float)) or not 1e-30 <= temperature <= 1e30:
        raise NotFused(f"its temperature is {temperature!r}")
    geometry = geometry_of(loss.distance)
    if geometry.squared:  # -d^2 = 2 cos - 2
        return as_cosine(geometry, embeddings, refs), temperature / 2
    return geometry, float(temperature)


def _one_class(labels: Tensor, ref_labels: Tensor) -> bool:
    """Whether there is no pair of different labels."""
    if not len(labels) or not len(ref_labels):
        return True
    return bool((ref_labels == labels[0]).all() and (labels == labels[0]).all())


def _of_anchors(value: Tensor, embeddings: Tensor, anchor: Tensor | None = None) -> LossDict:
    """A loss of each anchor: all of them if None."""
    anchor = torch.arange(len(value), device=value.device) if anchor is None else anchor
    return {"loss": {"losses": as_theirs(value, embeddings), "indices": anchor, "reduction_type": "element"}}
