"""Losses have the values and gradients of those of pytorch-metric-learning."""

import itertools

import pytest
import torch
from pytorch_metric_learning import losses as pml
from pytorch_metric_learning import miners as pml_miners
from pytorch_metric_learning import reducers, regularizers
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper

from hardmine.integrations.pytorch_metric_learning import losses, miners
from integrations.pml_cases import DTYPES, LABELS, REFS, assert_same_loss, batch_of, fused, value_and_gradients
from integrations.test_pml_miners import DISTANCES
from support.ranks import run_ranks

UNIT = [name for name in DISTANCES if name not in ("dot", "euclidean", "squared")]


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


@pytest.mark.parametrize("name", ["NTXentLoss", "SupConLoss"])
@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("distance", [name for name in DISTANCES if name != "squared"])
def test_softmax_losses_of_all_pairs_are_those_of_pml(distance, labels, name):
    own, expected = (getattr(side, name)(temperature=0.3, distance=DISTANCES[distance]()) for side in (losses, pml))
    for refs, dtype in itertools.product(REFS, DTYPES):
        loss = assert_same_loss(own, expected, batch_of(labels, refs, dtype, requires_grad=True))
        assert loss > 0 or labels in ("no positives", "one class")


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("distance", ["cosine", "normalized dot", "dot"])
def test_multi_similarity_loss_of_all_pairs_is_that_of_pml(distance, labels):
    options = [{}, {"alpha": 0.7, "beta": 5, "base": -0.2}]
    for refs, dtype, each in itertools.product(REFS, DTYPES, options):
        own, expected = (side.MultiSimilarityLoss(**each, distance=DISTANCES[distance]()) for side in (losses, pml))
        assert assert_same_loss(own, expected, batch_of(labels, refs, dtype, requires_grad=True)) > 0


@pytest.mark.parametrize("labels", LABELS)
def test_circle_loss_of_all_pairs_is_that_of_pml(labels):
    options = [{}, {"m": 0.25, "gamma": 256}, {"m": -0.1, "gamma": 2.5}]
    for refs, dtype, each in itertools.product(REFS, DTYPES, options):
        own, expected = (side.CircleLoss(**each) for side in (losses, pml))
        tolerances = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-7, "atol": 1e-7}
        loss = assert_same_loss(own, expected, batch_of(labels, refs, dtype, requires_grad=True), **tolerances)
        assert loss > 0 or labels in ("no positives", "one class")


@pytest.mark.parametrize("name", ["NTXentLoss", "SupConLoss", "NPairsLoss", "MultiSimilarityLoss", "CircleLoss"])
@pytest.mark.parametrize(
    "reducer",
    [
        reducers.AvgNonZeroReducer(),
        reducers.MeanReducer(),
        reducers.SumReducer(),
        reducers.ThresholdReducer(low=0.1, high=4.0, collect_stats=True),
        reducers.ClassWeightedReducer(torch.arange(1.0, 21.0)),
        None,
    ],
    ids=lambda reducer: type(reducer).__name__,
)
def test_losses_with_default_options_take_reducers_of_pml(reducer, name):
    batch = batch_of("some alone", requires_grad=True)
    options = {"gamma": 0.5} if name == "CircleLoss" else {}
    own, expected = (getattr(side, name)(**options, reducer=reducer) for side in (losses, pml))
    assert assert_same_loss(own, expected, batch) > 0
    assert vars(own.reducer).get("num_past_filter") == vars(expected.reducer).get("num_past_filter")


def test_ntxent_loss_is_bounded_like_that_of_pml():
    batch = batch_of("balanced", requires_grad=True)
    batch = batch._replace(embeddings=batch.embeddings * 10)
    own, expected = (
        side.NTXentLoss(temperature=0.5, distance=DISTANCES["dot"](), reducer=reducers.SumReducer())
        for side in (losses, pml)
    )
    assert assert_same_loss(own, expected, batch) > 87 * 3


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("distance", [name for name in DISTANCES if name != "squared"])
def test_n_pairs_loss_is_that_of_pml(distance, labels):
    own, expected = (
        side.NPairsLoss(distance=DISTANCES[distance](collect_stats=True), collect_stats=True) for side in (losses, pml)
    )
    for dtype in DTYPES:
        batch = batch_of(labels, dtype=dtype, requires_grad=True)
        loss = assert_same_loss(own, expected, batch)
        assert loss > 0 or labels in ("no positives", "one class")
        assert own.num_pairs == expected.num_pairs
        mined = miners.BatchHardMiner()(*batch)
        assert_same_loss(own, expected, batch, mined)
        if own.num_pairs:
            assert own.distance.initial_avg_ref_norm == pytest.approx(expected.distance.initial_avg_ref_norm)


@pytest.mark.parametrize("name", ["TripletMarginLoss", "NTXentLoss", "SupConLoss", "MultiSimilarityLoss", "CircleLoss"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_losses_work_in_self_supervised_loss(name, symmetric):
    batch = batch_of("balanced", "others, same labels", requires_grad=True)

    def wrapped(side):
        loss = pml.SelfSupervisedLoss(getattr(side, name)(), symmetric=symmetric)
        return lambda embeddings, labels, indices, refs, ref_labels: loss(embeddings, refs)

    assert assert_same_loss(wrapped(losses), wrapped(pml), batch) > 0


@pytest.mark.filterwarnings("ignore:.* runs the code of pytorch-metric-learning itself")
@pytest.mark.parametrize("name", ["TripletMarginLoss", "NTXentLoss", "SupConLoss", "MultiSimilarityLoss", "CircleLoss"])
@pytest.mark.parametrize("mine", [True, False])
def test_losses_work_in_cross_batch_memory(name, mine):
    def wrapped(side, side_miners):
        miner = side_miners.BatchHardMiner() if mine and name == "TripletMarginLoss" else None
        return pml.CrossBatchMemory(getattr(side, name)(), embedding_size=6, memory_size=50, miner=miner)

    own, expected = wrapped(losses, miners), wrapped(pml, pml_miners)
    for seed in range(4):
        embeddings, labels, *_ = batch_of("balanced", dtype=torch.float64, seed=seed, requires_grad=True)
        found, wanted = own(embeddings, labels), expected(embeddings, labels)
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(*(torch.autograd.grad(loss, embeddings)[0] for loss in (found, wanted)))


@pytest.mark.filterwarnings("ignore:.* runs the code of pytorch-metric-learning itself")
@pytest.mark.parametrize("efficient", [False, True])
def test_losses_work_in_distributed_loss_wrapper(efficient):
    def of_rank(rank):
        batch = batch_of("balanced", dtype=torch.float64, seed=rank, requires_grad=True)
        return [
            [
                x.detach()
                for name in ("TripletMarginLoss", "NTXentLoss", "SupConLoss", "MultiSimilarityLoss", "CircleLoss")
                for x in value_and_gradients(
                    lambda embeddings, labels, *_, name=name, side=side: DistributedLossWrapper(
                        getattr(side, name)(), efficient=efficient
                    )(embeddings, labels),
                    batch,
                )
            ]
            for side in (losses, pml)
        ]

    for found, expected in run_ranks(2, of_rank):
        torch.testing.assert_close(found, expected)


ALL_LOSSES = ["TripletMarginLoss", "NTXentLoss", "SupConLoss", "MultiSimilarityLoss", "CircleLoss", "NPairsLoss"]


@pytest.mark.parametrize("name", ALL_LOSSES)
def test_losses_take_regularizer_of_embeddings(name):
    options = {"embedding_regularizer": regularizers.LpRegularizer(), "embedding_reg_weight": 0.3}
    own, expected, plain = (
        getattr(losses, name)(**options),
        getattr(pml, name)(**options),
        getattr(pml, name)(),
    )
    batch = batch_of("some alone", dtype=torch.float64, requires_grad=True)
    assert assert_same_loss(own, expected, batch) > plain(*batch[:2]) + 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ALL_LOSSES)
def test_losses_of_half_precision_are_those_of_pml(name, dtype):
    embeddings, labels, *_ = batch_of("some alone", dtype=dtype)
    own, expected = (getattr(side, name)(distance=DISTANCES["cosine"]()) for side in (losses, pml))
    with fused():
        found = own(embeddings, labels)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected(embeddings, labels), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", ALL_LOSSES)
def test_losses_under_autocast_are_those_of_float32(name):
    batch = batch_of("some alone", requires_grad=True)
    own, expected = getattr(losses, name)(), getattr(pml, name)()
    with torch.autocast("cpu", torch.bfloat16), fused():
        found = own(*batch[:2])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected(*batch[:2]))


@pytest.mark.parametrize("name", ALL_LOSSES)
@pytest.mark.parametrize("distance", UNIT)
@pytest.mark.filterwarnings("ignore:.* runs the code of pytorch-metric-learning itself. an embedding has norm 0")
def test_losses_of_zero_rows_are_those_of_pml(name, distance):
    if name == "CircleLoss" and distance != "cosine":
        pytest.skip("is of cosine similarities only")
    own, expected = (getattr(side, name)(distance=DISTANCES[distance]()) for side in (losses, pml))
    if name == "MultiSimilarityLoss" and "dot" not in distance and distance != "cosine":
        pytest.skip("runs PML's own code")
    embeddings, labels, *_ = batch_of("some alone", dtype=torch.float64)
    embeddings[1] = 0
    torch.testing.assert_close(own(embeddings, labels), expected(embeddings, labels))


@pytest.mark.parametrize("name", ALL_LOSSES)
def test_losses_of_other_embeddings_than_finite_are_nan(name):
    embeddings, labels, *_ = batch_of("balanced")
    embeddings[0, 0] = torch.nan
    assert getattr(losses, name)(reducer=reducers.MeanReducer())(embeddings, labels).isnan()


def test_triplet_margin_loss_draws_triplets_of_pml():
    batch = batch_of("balanced", dtype=torch.float64, requires_grad=True)
    found = []
    for side in (losses, pml):
        torch.manual_seed(0)
        found.append(value_and_gradients(side.TripletMarginLoss(triplets_per_anchor=2), batch))
    torch.testing.assert_close(*found)


def test_triplet_margin_loss_without_labels_is_that_of_pml():
    batch = batch_of("balanced", dtype=torch.float64, requires_grad=True)
    indices = miners.BatchHardMiner()(*batch)
    own, expected = (side.TripletMarginLoss() for side in (losses, pml))
    assert assert_same_loss(own, expected, batch._replace(labels=None), indices) > 0
    with pytest.raises(ValueError, match="labels and indices_tuple cannot both be None"):
        own(batch.embeddings)
