"""Where no op gives the result of pytorch-metric-learning (PML), PML's own code runs and says so once."""

import linecache
import subprocess
import sys
import warnings

import pytest
import torch
from pytorch_metric_learning import distances, reducers
from pytorch_metric_learning import losses as pml
from pytorch_metric_learning import miners as pml_miners

from hardmine.integrations import pytorch_metric_learning as integration
from hardmine.integrations.pytorch_metric_learning import losses, miners
from integrations.pml_cases import batch_of, value_and_gradients


class OwnDistance(distances.CosineSimilarity):
    def compute_mat(self, query_emb, ref_emb):
        return super().compute_mat(query_emb, ref_emb) ** 3


class OwnReducer(reducers.MeanReducer):
    pass


OWN_CLASSES = [name for name in integration.__all__ if name.endswith(("Loss", "Miner"))]
LOSSES = [
    ("TripletMarginLoss", {"swap": True}, "swap=True"),
    ("TripletMarginLoss", {"smooth_loss": True}, "smooth_loss=True and no indices_tuple"),
    ("TripletMarginLoss", {"distance": OwnDistance()}, "its distance is OwnDistance"),
    ("TripletMarginLoss", {"distance": distances.SNRDistance()}, "its distance is SNRDistance"),
    ("TripletMarginLoss", {"distance": distances.LpDistance(p=1)}, "its distance has p=1"),
    ("TripletMarginLoss", {"distance": distances.LpDistance(power=3)}, "its distance has power=3"),
    ("TripletMarginLoss", {"reducer": OwnReducer()}, "its reducer is OwnReducer"),
    ("TripletMarginLoss", {"reducer": reducers.ThresholdReducer(low=0.1)}, "its reducer is ThresholdReducer"),
    ("NTXentLoss", {"distance": OwnDistance()}, "its distance is OwnDistance"),
    ("NTXentLoss", {"temperature": -0.1}, "its temperature is -0.1"),
    ("MultiSimilarityLoss", {"distance": distances.LpDistance()}, "its distance is LpDistance"),
    ("MultiSimilarityLoss", {"alpha": -2}, "its alpha is -2"),
    ("CircleLoss", {"m": 1.5}, "its m is 1.5"),
    ("CircleLoss", {"gamma": -1}, "its gamma is -1"),
    ("SupConLoss", {"distance": distances.LpDistance(normalize_embeddings=False, power=2)}, "squared but not"),
]
MINERS = [
    ("MultiSimilarityMiner", {}, "its refs have the very tensor of labels"),
    ("BatchHardMiner", {"distance": OwnDistance()}, "its distance is OwnDistance"),
    ("BatchHardMiner", {"allowed_neg_range": (0.1, 1.0)}, "it has an allowed_neg_range"),
    ("BatchEasyHardMiner", {"neg_strategy": "all", "collect_stats": True}, "statistics of all negatives"),
]


@pytest.mark.parametrize(("name", "options", "reason"), LOSSES)
def test_losses_without_op_are_those_of_pml_with_one_warning(name, options, reason):
    batch = batch_of("some alone", "others, same labels", requires_grad=True)
    own, expected = (getattr(side, name)(**options) for side in (losses, pml))
    with pytest.warns(UserWarning, match=f"^{name} runs the code of pytorch-metric-learning itself: .*{reason}"):
        found = value_and_gradients(own, batch)
    for one, other in zip(found, value_and_gradients(expected, batch), strict=True):
        assert torch.equal(one, other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own(*batch[:2])


@pytest.mark.parametrize(("name", "options", "reason"), MINERS)
def test_miners_without_op_are_those_of_pml_with_one_warning(name, options, reason):
    batch = batch_of("some alone", "others, same labels")
    own, expected = (getattr(side, name)(**options) for side in (miners, pml_miners))
    with pytest.warns(UserWarning, match=f"^{name} runs the code of pytorch-metric-learning itself: .*{reason}"):
        found = own(*batch)
    assert all(map(torch.equal, found, expected(*batch)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own(*batch)


@pytest.mark.parametrize("wrapped", [False, True])
def test_warning_names_the_line_of_the_user(wrapped):
    embeddings, labels, *_ = batch_of("balanced")
    loss = losses.TripletMarginLoss(swap=True)
    if wrapped:
        loss = pml.CrossBatchMemory(loss, embedding_size=6, memory_size=50)
    with pytest.warns(UserWarning, match="swap=True") as caught:
        loss(embeddings, labels)
    assert caught[0].filename == __file__
    assert "loss(embeddings, labels)" in linecache.getline(caught[0].filename, caught[0].lineno)


@pytest.mark.parametrize("name", ["NTXentLoss", "SupConLoss", "MultiSimilarityLoss", "CircleLoss"])
def test_pairs_of_a_miner_are_those_of_pml(name):
    batch = batch_of("some alone", "others", requires_grad=True)
    indices = miners.BatchEasyHardMiner()(*batch)
    with pytest.warns(UserWarning, match=f"^{name} runs .* an indices_tuple is given"):
        found = value_and_gradients(getattr(losses, name)(), batch, indices)
    for one, other in zip(found, value_and_gradients(getattr(pml, name)(), batch, indices), strict=True):
        assert torch.equal(one, other)


def test_subclasses_follow_their_own_rules():
    class NoMargin(losses.TripletMarginLoss):
        def get_default_reducer(self):
            return reducers.MeanReducer()

    batch = batch_of("balanced")
    with pytest.warns(UserWarning, match="NoMargin runs .* it is a subclass of TripletMarginLoss"):
        found = NoMargin()(*batch[:2])
    torch.testing.assert_close(found, pml.TripletMarginLoss(reducer=reducers.MeanReducer())(*batch[:2]))


def test_labels_that_are_not_integers_are_those_of_pml():
    embeddings, labels, *_ = batch_of("balanced")
    with pytest.warns(UserWarning, match=r"labels of dtype torch\.float32"):
        found = losses.TripletMarginLoss()(embeddings, labels.float())
    assert torch.equal(found, pml.TripletMarginLoss()(embeddings, labels.float()))


@pytest.mark.parametrize("name", OWN_CLASSES)
def test_classes_are_subclasses_with_signature_of_pml(name):
    own = getattr(integration, name)
    parent = own.__mro__[1]
    assert parent.__module__.startswith("pytorch_metric_learning.")
    assert parent.__name__ == own.__name__
    assert own.__init__ is parent.__init__
    assert own.forward is parent.forward
    assert ">>> " in own.__doc__
    for module in (losses, miners):
        assert getattr(module, name, own) is own
    assert any(getattr(module, name, None) is own for module in (losses, miners))


def test_modules_have_every_class_of_pml():
    for own, module in ((losses, pml), (miners, pml_miners)):
        names = [name for name in dir(module) if isinstance(getattr(module, name), type)]
        assert names
        assert all(issubclass(getattr(own, name), getattr(module, name)) for name in names)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (((0, 20), (1, 2), (3, 4)), "a of indices_tuple must be rows of embeddings, 0 to 19, got 20"),
        (((0, 1), (1, -1), (3, 4)), "p of indices_tuple must be rows of ref_emb, or else embeddings, 0 to 26, got -1"),
        (
            ((0, 1), (1, 2), (3, 99)),
            "n of indices_tuple must be rows of ref_emb, or else embeddings, 0 to 26, got 99: is it from another",
        ),
        (
            ((0, 1), (1, 2), (3,), (27,)),
            "n of indices_tuple must be rows of ref_emb, or else embeddings, 0 to 26, got 27",
        ),
        (((0, 1), (1,), (3, 4)), "p of indices_tuple must be as long as a, 2, got 1"),
        (((0, 1), (1, 2), (3,), (5, 6)), "n of indices_tuple must be as long as a2, 1, got 2"),
        (((0, 1), (1, 2)), r"indices_tuple must have 3 tensors \(a, p, n\) or 4 \(a1, p, a2, n\), got 2"),
    ],
)
@pytest.mark.parametrize("name", [name for name in OWN_CLASSES if name.endswith("Loss")])
def test_indices_of_another_batch_are_an_error(name, indices, message):
    embeddings, labels, *refs = batch_of("balanced", "others")
    with pytest.raises(ValueError, match=message):
        getattr(losses, name)()(embeddings, labels, tuple(map(torch.tensor, indices)), *refs)


@pytest.mark.slow
@pytest.mark.subprocess
def test_importing_hardmine_imports_no_pml():
    code = "import sys, hardmine.ops, hardmine.integrations; print('pytorch_metric_learning' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
