"""Losses of pytorch-metric-learning (PML) that compute what ours do, used as in its documentation.

By default PML averages over the terms above 0. Where our loss is a plain mean, PML's gets a MeanReducer.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

from torch import Tensor

from rivals.by_hand import MARGIN, TEMPERATURE
from rivals.common import SkippedRivalError

Loss = Callable[[Tensor, Tensor], Tensor]


def library() -> SimpleNamespace:
    try:
        from pytorch_metric_learning import distances, losses, miners, reducers
    except ImportError as error:
        raise SkippedRivalError("pytorch-metric-learning is not installed") from error
    return SimpleNamespace(distances=distances, losses=losses, miners=miners, reducers=reducers)


def batch_hard() -> Loss:
    pml = library()
    distance = pml.distances.CosineSimilarity()
    miner = pml.miners.BatchHardMiner(distance=distance)
    loss = pml.losses.TripletMarginLoss(margin=MARGIN, distance=distance, reducer=pml.reducers.MeanReducer())
    return lambda x, labels: loss(x, labels, miner(x, labels))


def supcon() -> Loss:
    pml = library()
    return pml.losses.SupConLoss(temperature=TEMPERATURE, reducer=pml.reducers.MeanReducer())


def multi_similarity() -> Loss:
    return library().losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5)


def circle() -> Loss:
    pml = library()
    return pml.losses.CircleLoss(m=0.4, gamma=80, reducer=pml.reducers.MeanReducer())


def batch_all() -> Loss:
    """TripletMarginLoss without a miner uses every triplet of the batch. HTL's factor 1/2 is ours."""
    pml = library()
    distance = pml.distances.LpDistance(normalize_embeddings=True, p=2, power=2)
    loss = pml.losses.TripletMarginLoss(margin=MARGIN, distance=distance, reducer=pml.reducers.MeanReducer())
    return lambda x, labels: loss(x, labels) / 2
