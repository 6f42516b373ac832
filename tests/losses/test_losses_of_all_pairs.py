"""The modules over all negatives and over all triplets: the numbers of their papers' formulas; tables of margins."""

import copy
import inspect
import math
import pickle
import re

import pytest
import torch

from hardmine import losses, ops
from support.comparisons import assert_bitwise_equal
from support.inputs import HAND_POINTS, random_inputs


def formula(s_ap: float, *s_an: float, temperature: float = 1.0) -> float:
    """-log(exp(s_ap) / (exp(s_ap) + sum of exp(s_an))), as WACV 2020 prints it in sections 2.2 and 4."""
    positive = math.exp(s_ap / temperature)
    return -math.log(positive / (positive + sum(math.exp(s / temperature) for s in s_an)))


# The cosines of HAND_POINTS (labels 0 0 1 0 1, see support.inputs): every anchor's positives, and its negatives.
COSINES = [
    ([0.6, 0.0], [0.8, -1.0]),
    ([0.6, 0.8], [0.96, -0.6]),
    ([-0.8], [0.8, 0.96, 0.6]),
    ([0.0, 0.8], [0.6, 0.0]),
    ([-0.8], [-1.0, -0.6, 0.0]),
]


def by_hand(choose, temperature: float) -> float:
    """The mean over the anchors of the mean over the positives chosen of the formula."""
    means = []
    for positives, negatives in COSINES:
        values = [formula(s, *negatives, temperature=temperature) for s in choose(positives)]
        means.append(sum(values) / len(values))
    return sum(means) / len(means)


TUPLET_MODULES = {
    # module: the positive it takes, and the positives that the paper takes
    "EPLoss": ("easiest", lambda positives: [max(positives)]),
    "HPLoss": ("hardest", lambda positives: [min(positives)]),
    "BatchAllLoss": ("all", lambda positives: positives),
    "NPairLoss": ("easiest", lambda positives: [max(positives)]),
    "TupletLoss": ("easiest", lambda positives: [max(positives)]),
}
each_tuplet_module = pytest.mark.parametrize("name", TUPLET_MODULES)


@each_tuplet_module
@pytest.mark.parametrize("temperature", [None, 0.1, 1.0])
def test_worked_by_hand(name, temperature):
    """Printed without a temperature (1), and trained with 0.1 (section 5.1), the default."""
    module = getattr(losses, name)(**({} if temperature is None else {"temperature": temperature}))
    expected = by_hand(TUPLET_MODULES[name][1], temperature or 0.1)
    assert isinstance(module, torch.nn.Module)
    assert module(*HAND_POINTS).item() == pytest.approx(expected, abs=1e-6)


def test_n_pair_worked_by_hand():
    """The first four points in two classes of two, where every anchor's positive has the cosine 0.6.

    Negatives: 0.8 and 0; 0.96 and 0.8; 0.8 and 0.96; 0 and 0.8. EP, HP and Batch All are the same here (section 4).
    """
    batch = HAND_POINTS.embeddings[:4], torch.tensor([0, 0, 1, 1])
    expected = (2 * formula(0.6, 0.8, 0.0) + 2 * formula(0.6, 0.96, 0.8)) / 4
    for name in ("NPairLoss", "EPLoss", "HPLoss", "BatchAllLoss"):
        assert getattr(losses, name)(temperature=1.0)(*batch).item() == pytest.approx(expected, abs=1e-6)


def test_batch_all_triplet_loss_worked_by_hand():
    """HTL, section 3, with its first margin, 0.2: 1/2 [d_ap - d_an + 0.2]+ over the 18 triplets of HAND_POINTS.

    With d = 2 - 2 s: 0.4, 1.6 | 0.72, 0.32 | 3.2, 3.52, 2.8 | 1.2, 0 | 0.4, 1.6 remain, each + 0.2; the others are
    below -0.2.
    """
    total = (0.4 + 1.6 + 0.72 + 0.32 + 3.2 + 3.52 + 2.8 + 1.2 + 0.4 + 1.6 + 11 * 0.2) / 2
    module = losses.BatchAllTripletLoss()
    assert module(*HAND_POINTS[:2]).item() == pytest.approx(total / 18, rel=1e-6)
    _, counts = module(*HAND_POINTS[:2], return_counts=True)
    assert isinstance(counts, ops.TripletCounts)
    assert counts == (11, 18)
    # Dynamic margins (section 4.2): 0.1 for anchors of class 0, whose 0.4, 1.6, 0.72, 0.32, 1.2 and 0 remain, and 0.5
    # for those of class 1, whose 3.2, 3.52, 2.8, 0.4, 1.6 and 3.6 - 4 remain
    table = torch.tensor([[0.0, 0.1], [0.5, 0.0]])
    total = (0.4 + 1.6 + 0.72 + 0.32 + 1.2 + 6 * 0.1 + 3.2 + 3.52 + 2.8 + 0.4 + 1.6 - 0.4 + 6 * 0.5) / 2
    assert losses.BatchAllTripletLoss(table)(*HAND_POINTS[:2]).item() == pytest.approx(total / 18, rel=1e-6)


@each_tuplet_module
@pytest.mark.parametrize("refs", [None, 30], ids=["self", "refs"])
def test_modules_delegate_to_their_op(name, refs):
    inputs = random_inputs(refs=refs)
    inputs.embeddings.requires_grad_()
    for given in ({}, {"temperature": 0.4, "similarity": "euclidean", "reduction": "sum", "duplicate_threshold": -0.5}):
        module = getattr(losses, name)(**given)
        loss, expected = module(*inputs), ops.tuplet_loss(*inputs, positive=TUPLET_MODULES[name][0], **given)
        assert_bitwise_equal(loss, expected)
        assert_bitwise_equal(*(torch.autograd.grad(value, inputs.embeddings)[0] for value in (loss, expected)))
        loss, terms = module(**inputs._asdict(), return_terms=True)
        assert isinstance(terms, ops.TupletTerms)
        assert_bitwise_equal(loss, expected)


@each_tuplet_module
def test_a_module_is_what_its_name_says(name):
    if name == "TupletLoss":
        assert_bitwise_equal(losses.TupletLoss(positive="all")(*HAND_POINTS), losses.BatchAllLoss()(*HAND_POINTS))
        return
    meant = TUPLET_MODULES[name][0]
    getattr(losses, name)(positive=meant)
    other = "hardest" if meant == "easiest" else "easiest"
    with pytest.raises(ValueError, match=f"^positive must be {meant!r} in {name}, got {other!r}$"):
        getattr(losses, name)(positive=other)


@pytest.mark.parametrize("name", [*TUPLET_MODULES, "BatchAllTripletLoss"])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"temperatur": 0.1}, TypeError, "temperatur"),
        ({"reduction": "average"}, ValueError, "reduction must be one of 'mean', "),
        ({"similarity": "cos"}, ValueError, "similarity must be one of 'cosine', 'dot', 'euclidean', got 'cos'"),
        ({"labels": None}, TypeError, "labels belong to the call of the loss, not to its options"),
        ({"return_terms": True}, TypeError, "return_terms belong to the call of the loss, not to its options"),
        ({"return_counts": True}, TypeError, "return_counts belong to the call of the loss, not to its options"),
    ],
)
def test_bad_options_are_errors_when_the_module_is_made(name, options, error, message):
    with pytest.raises(error, match=message):
        getattr(losses, name)(**options)


@pytest.mark.parametrize("name", [*TUPLET_MODULES, "BatchAllTripletLoss"])
def test_modules_without_tables_hold_no_state_and_can_be_copied_and_pickled(name):
    module = getattr(losses, name)(similarity="euclidean")
    assert not module.state_dict()
    assert not list(module.parameters())
    text = repr(module)
    assert text.startswith(f"{name}(")
    assert "similarity='euclidean'" in text
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert_bitwise_equal(twin(*HAND_POINTS[:2]), module(*HAND_POINTS[:2]))


# Tables of margins


TABLE = torch.tensor([[0.0, 0.1], [0.5, 0.0]])
LABELS = torch.tensor([0, 1])
BATCH = HAND_POINTS[:2]


def test_a_table_moves_with_the_module():
    module = losses.BatchAllTripletLoss(TABLE, LABELS, squared=False)
    assert dict(module.named_buffers()).keys() == {"margin", "margin_labels"}
    assert not list(module.parameters())
    module.to(torch.float64)
    assert module.margin.dtype == torch.float64
    assert module.margin_labels.dtype == torch.int64
    module.to("meta")
    assert module.margin.device.type == module.margin_labels.device.type == "meta"
    assert "margin=[2, 2]" in repr(module)
    assert "squared=False" in repr(module)


def test_a_table_is_the_module_s_own():
    """Neither a change of the tensor given nor a gradient reaches it."""
    table = TABLE.clone().requires_grad_()
    module = losses.BatchAllTripletLoss(table)
    assert not module.margin.requires_grad
    before = module(*BATCH)
    with torch.no_grad():
        table += 1
    assert_bitwise_equal(module(*BATCH), before)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert_bitwise_equal(twin(*BATCH), before)
        twin.set_margin(0.0)
        assert_bitwise_equal(module(*BATCH), before)


def test_margins_are_replaced_each_epoch():
    """A number, a table, another table of more classes, a number."""
    module = losses.BatchAllTripletLoss(reduction="sum")
    assert module.margin == 0.2
    wide = torch.zeros(3, 3).index_put((torch.tensor([2]), torch.tensor([0])), torch.tensor(0.7))
    for margin, labels in ((TABLE, None), (wide, torch.tensor([1, 5, 0])), (TABLE.double(), LABELS), (0.3, None)):
        module.set_margin(margin, labels)
        expected = ops.batch_all_triplet_loss(*BATCH, margin=margin, margin_labels=labels, reduction="sum")
        assert_bitwise_equal(module(*BATCH), expected)
        kept = {"margin": margin, "margin_labels": labels}
        assert module.state_dict().keys() == {key for key, value in kept.items() if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize(
    "present", [{}, {"margin": TABLE * 3}, {"margin": torch.ones(5, 5), "margin_labels": torch.arange(5)}], ids=str
)
def test_tables_are_saved_and_loaded(present):
    """Into a module as it was made, in a network, whatever margin it has by then."""
    saved = torch.nn.ModuleDict({"loss": losses.BatchAllTripletLoss(TABLE, LABELS.flip(0))})
    other = torch.nn.ModuleDict({"loss": losses.BatchAllTripletLoss(**present)})
    expected = saved["loss"](*BATCH)
    assert other["loss"](*BATCH) != expected
    other.load_state_dict(saved.state_dict())
    assert_bitwise_equal(other["loss"](*BATCH), expected)
    assert_bitwise_equal(other["loss"].margin, TABLE)
    saved["loss"].margin.zero_()
    assert_bitwise_equal(other["loss"](*BATCH), expected)


@pytest.mark.parametrize(
    ("margin", "labels", "error", "message"),
    [
        (torch.zeros(2, 3), None, ValueError, "margin must be a number or [C, C], got [2, 3]"),
        (torch.full((2, 2), math.nan), None, ValueError, "margin must be finite, got nan at [0, 0]"),
        (math.nan, None, ValueError, "margin must be a number, got nan"),
        (TABLE, torch.tensor([3, 3]), ValueError, "margin_labels must be distinct, got 3 twice"),
        (0.2, LABELS, ValueError, "margin_labels must be None where margin is a number"),
    ],
)
def test_wrong_margins_are_errors_when_they_are_set(margin, labels, error, message):
    with pytest.raises(error, match=re.escape(message)):
        losses.BatchAllTripletLoss(margin, labels)
    module = losses.BatchAllTripletLoss(TABLE)
    with pytest.raises(error, match=re.escape(message)):
        module.set_margin(margin, labels)
    assert_bitwise_equal(module.margin, TABLE)


def test_the_defaults_of_the_ops():
    """Names and defaults of the public API; adding is fine, changing is not."""
    fixed = {
        ops.tuplet_loss: {
            **{"positive": "easiest", "temperature": 0.1, "similarity": "cosine", "duplicate_threshold": None},
            **{"reduction": "mean", "return_terms": False},
        },
        ops.batch_all_triplet_loss: {
            **{"margin": 0.2, "margin_labels": None, "squared": True, "similarity": "cosine"},
            **{"reduction": "mean", "return_counts": False},
        },
        ops.knn: {"exclude_self": None, "similarity": "cosine"},
    }
    for op, expected in fixed.items():
        parameters = inspect.signature(op).parameters
        assert {name: parameters[name].default for name in expected} == expected
        assert all(parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name in expected)
    assert list(inspect.signature(ops.knn).parameters)[:3] == ["queries", "refs", "k"]
    assert inspect.signature(ops.knn).parameters["k"].default == 10
