"""Losses have the values and gradients of those of pytorch-metric-learning."""

import itertools

import pytest
import torch
from pytorch_metric_learning import losses as pml
from pytorch_metric_learning import miners as pml_miners
from pytorch_metric_learning import reducers

from hardmine.integrations.pytorch_metric_learning import losses, miners
from integrations.pml_cases import DTYPES, LABELS, REFS, assert_same_loss, batch_of
from integrations.test_pml_miners import DISTANCES


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("distance", [name for name in DISTANCES if name != "dot"])
def test_triplet_margin_loss_of_all_triplets_is_that_of_pml(distance, labels):
    own, expected = (side.TripletMarginLoss(margin=0.3, distance=DISTANCES[distance]()) for side in (losses, pml))
    for refs, dtype in itertools.product(REFS, DTYPES):
        loss = assert_same_loss(own, expected, batch_of(labels, refs, dtype, requires_grad=True))
        assert loss > 0 or labels in ("no positives", "one class")


@pytest.mark.parametrize("smooth_loss", [False, True])
@pytest.mark.parametrize("distance", [name for name in DISTANCES if name != "squared"])
@pytest.mark.parametrize("mined", [miners, pml_miners])
def test_triplet_margin_loss_of_mined_triplets_is_that_of_pml(mined, distance, smooth_loss):
    own, expected = (
        side.TripletMarginLoss(
            margin=0 if smooth_loss else 0.2, smooth_loss=smooth_loss, distance=DISTANCES[distance]()
        )
        for side in (losses, pml)
    )
    for refs, dtype in itertools.product(REFS, DTYPES):
        batch = batch_of("some alone", refs, dtype, requires_grad=True)
        indices = mined.BatchHardMiner(distance=DISTANCES[distance]())(*batch)
        assert assert_same_loss(own, expected, batch, indices) > 0


@pytest.mark.parametrize(
    "reducer",
    [
        reducers.AvgNonZeroReducer(),
        reducers.MeanReducer(),
        reducers.SumReducer(),
        reducers.ThresholdReducer(low=0.1, high=0.9),
        reducers.ClassWeightedReducer(torch.rand(20)),
    ],
    ids=lambda reducer: type(reducer).__name__,
)
def test_triplet_margin_loss_takes_reducers_of_pml(reducer):
    batch = batch_of("some alone", dtype=torch.float64, requires_grad=True)
    own, expected = (side.TripletMarginLoss(reducer=reducer) for side in (losses, pml))
    assert assert_same_loss(own, expected, batch, miners.BatchHardMiner()(*batch)) > 0
    if type(reducer) not in (reducers.ThresholdReducer, reducers.ClassWeightedReducer):  # these need every loss
        assert assert_same_loss(own, expected, batch) > 0
