"""The modules over all negatives and over all triplets: the values of their papers' formulas."""

import copy
import inspect
import math
import pickle

import pytest
import torch

from hardmine import losses, ops
from support.comparisons import assert_bitwise_equal
from support.inputs import HAND_POINTS, random_inputs


def formula(s_ap: float, *s_an: float, temperature: float = 1.0) -> float:
    """-log(exp(s_ap) / (exp(s_ap) + sum of exp(s_an))), as WACV 2020 prints it in sections 2.2 and 4."""
    positive = math.exp(s_ap / temperature)
    return -math.log(positive / (positive + sum(math.exp(s / temperature) for s in s_an)))


# The cosines of HAND_POINTS (labels 0 0 1 0 1, see support.inputs): the positives of every anchor, then its negatives.
COSINES = [
    ([0.6, 0.0], [0.8, -1.0]),
    ([0.6, 0.8], [0.96, -0.6]),
    ([-0.8], [0.8, 0.96, 0.6]),
    ([0.0, 0.8], [0.6, 0.0]),
    ([-0.8], [-1.0, -0.6, 0.0]),
]


def hand_worked_loss(choose, temperature: float) -> float:
    """The formula, averaged over the chosen positives, then over the anchors."""
    means = []
    for positives, negatives in COSINES:
        values = [formula(s, *negatives, temperature=temperature) for s in choose(positives)]
        means.append(sum(values) / len(values))
    return sum(means) / len(means)


TUPLET_MODULES = {
    # module: the positives it selects, and the positives that the paper selects
    "EPLoss": ("easiest", lambda positives: [max(positives)]),
    "HPLoss": ("hardest", lambda positives: [min(positives)]),
    "BatchAllLoss": ("all", lambda positives: positives),
    "NPairLoss": ("easiest", lambda positives: [max(positives)]),
    "TupletLoss": ("easiest", lambda positives: [max(positives)]),
}
each_tuplet_module = pytest.mark.parametrize("name", TUPLET_MODULES)


@each_tuplet_module
@pytest.mark.parametrize("temperature", [None, 0.1, 1.0])
def test_tuplet_module_hand_worked_points_match(name, temperature):
    """The paper prints the formula without a temperature (1), and trains with 0.1 (section 5.1), the default."""
    module = getattr(losses, name)(**({} if temperature is None else {"temperature": temperature}))
    expected = hand_worked_loss(TUPLET_MODULES[name][1], temperature or 0.1)
    assert isinstance(module, torch.nn.Module)
    assert module(*HAND_POINTS).item() == pytest.approx(expected, abs=1e-6)


def test_n_pair_hand_worked_points_match():
    """The first four points in two classes of two: every anchor's positive has cosine 0.6.

    Negatives: 0.8 and 0; 0.96 and 0.8; 0.8 and 0.96; 0 and 0.8. EP, HP and Batch All are equal here (section 4).
    """
    batch = HAND_POINTS.embeddings[:4], torch.tensor([0, 0, 1, 1])
    expected = (2 * formula(0.6, 0.8, 0.0) + 2 * formula(0.6, 0.96, 0.8)) / 4
    for name in ("NPairLoss", "EPLoss", "HPLoss", "BatchAllLoss"):
        assert getattr(losses, name)(temperature=1.0)(*batch).item() == pytest.approx(expected, abs=1e-6)


def test_batch_all_triplet_module_hand_worked_points_match():
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
    # Dynamic margins (section 4.2): 0.1 for anchors of class 0, where 0.4, 1.6, 0.72, 0.32, 1.2 and 0 remain.
    # The margin is 0.5 for anchors of class 1, where 3.2, 3.52, 2.8, 0.4, 1.6 and 3.6 - 4 remain.
    table = torch.tensor([[0.0, 0.1], [0.5, 0.0]])
    total = (0.4 + 1.6 + 0.72 + 0.32 + 1.2 + 6 * 0.1 + 3.2 + 3.52 + 2.8 + 0.4 + 1.6 - 0.4 + 6 * 0.5) / 2
    assert losses.BatchAllTripletLoss(margin=table)(*HAND_POINTS[:2]).item() == pytest.approx(total / 18, rel=1e-6)


@pytest.mark.parametrize("margin", [0.4, torch.rand(6, 6)], ids=["number", "table"])
def test_batch_all_module_with_refs_equals_its_op(margin):
    inputs = random_inputs(refs=30)
    inputs = inputs._replace(labels=(inputs.labels + 4) // 3, ref_labels=(inputs.ref_labels + 4) // 3)
    module = losses.BatchAllTripletLoss(margin=margin, squared=False)
    ids = {"ids": torch.arange(48), "ref_ids": torch.arange(30)}
    loss, counts = module(**inputs._asdict(), **ids, return_counts=True)
    expected = ops.batch_all_triplet_loss(*inputs, **ids, margin=margin, squared=False, return_counts=True)
    assert_bitwise_equal(loss, expected[0])
    assert counts == expected[1]


@each_tuplet_module
@pytest.mark.parametrize("refs", [None, 30], ids=["self", "refs"])
def test_tuplet_module_equals_its_op(name, refs):
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
def test_init_option_fixed_by_name_raises(name):
    positive = TUPLET_MODULES[name][0]
    if name == "TupletLoss":
        assert_bitwise_equal(losses.TupletLoss(positive="all")(*HAND_POINTS), losses.BatchAllLoss()(*HAND_POINTS))
    else:
        with pytest.raises(TypeError, match="unexpected keyword argument 'positive'"):
            getattr(losses, name)(positive=positive)


@pytest.mark.parametrize("name", [*TUPLET_MODULES, "BatchAllTripletLoss"])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"temperatur": 0.1}, TypeError, "temperatur"),
        ({"reduction": "average"}, ValueError, "reduction must be one of 'mean', "),
        (
            {"similarity": "cos"},
            ValueError,
            "similarity must be one of 'cosine', 'dot', 'euclidean'.*, got 'cos'",
        ),
        ({"labels": None}, TypeError, "unexpected keyword argument 'labels'"),
        ({"return_terms": True}, TypeError, "unexpected keyword argument 'return_terms'"),
        ({"return_counts": True}, TypeError, "unexpected keyword argument 'return_counts'"),
    ],
)
def test_init_invalid_option_raises(name, options, error, message):
    with pytest.raises(error, match=message):
        getattr(losses, name)(**options)


@pytest.mark.parametrize("name", [*TUPLET_MODULES, "BatchAllTripletLoss"])
def test_module_without_table_has_no_state_and_copies_are_equal(name):
    module = getattr(losses, name)(similarity="euclidean")
    assert not module.state_dict()
    assert not list(module.parameters())
    text = repr(module)
    assert text.startswith(f"{name}(")
    assert "similarity='euclidean'" in text
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert_bitwise_equal(twin(*HAND_POINTS[:2]), module(*HAND_POINTS[:2]))


def test_op_defaults_match_design():
    """Names and defaults of the public API: new ones may be added, but existing ones must not change."""
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
