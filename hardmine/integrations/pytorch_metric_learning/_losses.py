"""Losses of pytorch-metric-learning, computed by hardmine's ops."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_metric_learning import losses, reducers
from pytorch_metric_learning.utils import common_functions as c_f
from pytorch_metric_learning.utils import loss_and_miner_utils as lmu
from torch import Tensor

from hardmine.integrations.pytorch_metric_learning._fused import (
    NotFused,
    as_cosine,
    forbid_zero_rows,
    geometry_of,
    loss_or_pml,
    record_distance,
    refs_of,
)
from hardmine.ops.batch_all_triplet_loss import batch_all_triplet_loss
from hardmine.ops.indexed_triplet_loss import indexed_triplet_loss

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
        value = _as_pml(scale * value, embeddings)
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
    return {"loss": {"losses": _as_pml(value, embeddings), "indices": None, "reduction_type": "already_reduced"}}


def _as_pml(value: Tensor, embeddings: Tensor) -> Tensor:
    """The loss in the dtype of PML's: that of the embeddings, or what autocast gives."""
    return value if torch.is_autocast_enabled(embeddings.device.type) else value.to(embeddings.dtype)
