"""Rivals from pytorch-metric-learning (PML), used as in its documentation.

PML says "easy" for our "easiest" and "hard" for "hardest". By default PML averages over non-zero losses; if our loss is
a plain mean, the PML loss gets a MeanReducer.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from rivals.common import Inputs, Rival, SkippedRivalError, gradient_of


def library() -> SimpleNamespace:
    try:
        from pytorch_metric_learning import distances, losses, miners, reducers
    except ImportError as error:
        raise SkippedRivalError("pytorch-metric-learning is not installed") from error
    return SimpleNamespace(distances=distances, losses=losses, miners=miners, reducers=reducers)


def build_miner(inputs: Inputs, positive: str, negative: str, loss: dict[str, Any] | None = None) -> Rival:
    """The miner alone; or, if `loss` has arguments of TripletMarginLoss, `loss(embeddings, labels, miner(...))`."""
    pml = library()
    distance = pml.distances.CosineSimilarity()
    if positive == negative == "hard":
        miner = pml.miners.BatchHardMiner(distance=distance)
    else:
        miner = pml.miners.BatchEasyHardMiner(positive, negative, distance=distance)
    name = "pytorch-metric-learning"
    if loss is None:
        embeddings = inputs.embeddings.detach()
        return Rival(name, lambda: miner(embeddings, inputs.labels), None, inputs)
    term = pml.losses.TripletMarginLoss(distance=distance, reducer=pml.reducers.MeanReducer(), **loss)
    embeddings, labels, _ = inputs
    return Rival(name, lambda: term(embeddings, labels, miner(embeddings, labels)), gradient_of(inputs), inputs)


def build_all_triplets(inputs: Inputs, margin: float, active_only: bool) -> Rival:
    """TripletMarginLoss without a miner: all triplets, on squared distances of unit vectors."""
    pml = library()
    reducer = pml.reducers.AvgNonZeroReducer() if active_only else pml.reducers.MeanReducer()
    distance = pml.distances.LpDistance(normalize_embeddings=True, p=2, power=2)
    loss = pml.losses.TripletMarginLoss(margin=margin, distance=distance, reducer=reducer)
    embeddings, labels, _ = inputs
    return Rival("pytorch-metric-learning", lambda: loss(embeddings, labels), gradient_of(inputs), inputs)


def build_all_pairs(inputs: Inputs, loss: str, temperature: float) -> Rival:
    """NTXentLoss or SupConLoss on cosine similarities, without a miner: all pairs."""
    pml = library()
    term = getattr(pml.losses, loss)(temperature=temperature, reducer=pml.reducers.MeanReducer())
    embeddings, labels, _ = inputs
    return Rival(loss, lambda: term(embeddings, labels), gradient_of(inputs), inputs)
