"""The named modules: each equals its op with the options of its paper."""

import copy
import inspect
import math
import pickle

import pytest
import torch

from hardmine import losses, ops
from support.comparisons import assert_bitwise_equal
from support.inputs import HAND_POINTS, random_inputs


def nca(*differences: float) -> float:
    """The mean of softplus(x / 0.1)."""
    return sum(math.log1p(math.exp(x / 0.1)) for x in differences) / len(differences)


# Of HAND_POINTS (see support.inputs):
# s_ap = 0.6 0.8 -0.8 0.8 -0.8 easiest, 0 0.6 -0.8 0 -0.8 hardest;
# s_an = 0.8 0.96 0.96 0.6 0 hardest, -1 -0.6 none 0.6 -1 semi-hard relative to the easiest positive.
HARDEST = nca(0.2, 0.16, 1.76, -0.2, 0.8)
SEMIHARD = nca(-1.6, -1.4, -0.2, -0.2)
MODULES = {
    # module: its op, its options, and its value by hand
    "HNLoss": (ops.triplet_loss, {"positive": "easiest", "negative": "hardest", "term": "nca"}, HARDEST),
    "SHNLoss": (ops.triplet_loss, {"positive": "easiest", "negative": "semihard", "term": "nca"}, SEMIHARD),
    "EPHNLoss": (ops.triplet_loss, {"positive": "easiest", "negative": "hardest", "term": "nca"}, HARDEST),
    "EPSHNLoss": (ops.triplet_loss, {"positive": "easiest", "negative": "semihard", "term": "nca"}, SEMIHARD),
    "HPHNLoss": (
        ops.triplet_loss,
        {"positive": "hardest", "negative": "hardest", "term": "nca"},
        nca(0.8, 0.36, 1.76, 0.6, 0.8),
    ),
    "TripletLoss": (ops.triplet_loss, {}, SEMIHARD),
    # lam * s_an for all anchors but 3, and softplus(-2) for anchor 3
    "SCTLoss": (ops.sct_loss, {}, (0.8 + 0.96 + 0.96 + 0.0 + nca(-0.2)) / 5),
}
each_module = pytest.mark.parametrize("name", MODULES)

# Modules with other ops and other calls: see test_losses_of_all_pairs.py, test_hierarchical_triplet_loss.py,
# test_given_triplets_arguments.py and test_cross_batch_memory.py.
ON_ALL_PAIRS = [
    "BatchAllLoss",
    "BatchAllTripletLoss",
    "EPLoss",
    "HPLoss",
    "HierarchicalTripletLoss",
    "NPairLoss",
    "TupletLoss",
]
ON_GIVEN_TRIPLETS = ["GlobalLoss", "RatioTripletLoss"]
AROUND_OTHERS = ["CrossBatchMemory"]
ON_SOFTMAX = [
    "CircleLoss",
    "InfoNCELoss",
    "MultiSimilarityLoss",
    "SigmoidLoss",
    "SupConLoss",
]  # see test_soft_modules.py and test_circle_loss.py


def test_modules_all_are_covered():
    assert sorted(losses.__all__) == sorted([*MODULES, *ON_ALL_PAIRS, *ON_GIVEN_TRIPLETS, *AROUND_OTHERS, *ON_SOFTMAX])


@each_module
def test_module_hand_worked_points_match(name):
    module = getattr(losses, name)()
    assert isinstance(module, torch.nn.Module)
    assert module(*HAND_POINTS).item() == pytest.approx(MODULES[name][2], abs=1e-6)


@each_module
@pytest.mark.parametrize("refs", [None, 30], ids=["self", "refs"])
def test_module_equals_its_op(name, refs):
    op, options, _ = MODULES[name]
    inputs = random_inputs(refs=refs)
    inputs.embeddings.requires_grad_()
    more = {"temperature": 0.4, "similarity": "euclidean", "reduction": "sum"}
    for given in ({}, more):
        module = getattr(losses, name)(**given)
        loss, expected = module(*inputs), op(*inputs, **options, **given)
        assert_bitwise_equal(loss, expected)
        assert_bitwise_equal(*(torch.autograd.grad(value, inputs.embeddings)[0] for value in (loss, expected)))
        loss, selection = module(*inputs, return_selection=True)
        assert isinstance(selection, ops.Selection)
        assert_bitwise_equal(loss, expected)


@pytest.mark.parametrize("name", ["TripletLoss", "SCTLoss"])
def test_module_given_options_override_defaults(name):
    module = getattr(losses, name)(positive="hardest", negative="easiest")
    expected = MODULES[name][0](*HAND_POINTS, positive="hardest", negative="easiest")
    assert_bitwise_equal(module(*HAND_POINTS), expected)


@pytest.mark.parametrize("name", ["HNLoss", "SHNLoss", "EPHNLoss", "EPSHNLoss", "HPHNLoss"])
def test_init_option_fixed_by_name_raises(name):
    """Options that the name fixes are refused, and so are options that the module would ignore."""
    for option, value in {**MODULES[name][1], "margin": 0.2, "lam": 1.0, "generator": None}.items():
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{option}'"):
            getattr(losses, name)(**{option: value})


@each_module
def test_module_refs_by_keyword_are_equal(name):
    inputs = random_inputs(refs=30)
    module = getattr(losses, name)()
    assert_bitwise_equal(module(**inputs._asdict()), module(*inputs))


@each_module
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"temperatur": 0.1}, TypeError, "temperatur"),
        ({"temperature": 0.0}, ValueError, "temperature must be a number from 1e-30 to 1e.30, got 0.0"),
        (
            {"similarity": "cos"},
            ValueError,
            "similarity must be one of 'cosine', 'dot', 'euclidean', 'hyperbolic', got 'cos'",
        ),
    ],
)
def test_init_invalid_option_raises(name, options, error, message):
    with pytest.raises(error, match=message):
        getattr(losses, name)(**options)


@each_module
def test_module_repr_shows_options(name):
    text = repr(getattr(losses, name)(temperature=0.25))
    assert text.startswith(f"{name}(")
    assert "temperature=0.25" in text


@each_module
def test_module_has_no_state_and_copies_are_equal(name):
    module = getattr(losses, name)(temperature=0.25)
    assert not module.state_dict()
    assert not list(module.parameters())
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert_bitwise_equal(twin(*HAND_POINTS), module(*HAND_POINTS))


def test_op_defaults_match_design():
    """Names and defaults of the public API: new ones may be added, but existing ones must not change."""
    select = {"positive": "easiest", "negative": "hardest", "similarity": "cosine", "duplicate_threshold": None}
    fixed = {
        ops.select_triplets: select,
        ops.sct_loss: {"lam": 1.0, "temperature": 0.1, "preset": "paper"},
        ops.triplet_loss: {
            **{"positive": "easiest", "negative": "semihard", "term": "nca", "temperature": None, "margin": None},
            **{"similarity": "cosine", "reduction": "mean", "semihard_fallback": None},
        },
    }
    for op, expected in fixed.items():
        parameters = inspect.signature(op).parameters
        assert list(parameters)[:4] == ["embeddings", "labels", "ref_embeddings", "ref_labels"]
        assert {name: parameters[name].default for name in expected} == expected
        assert all(parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name in expected)


@pytest.mark.parametrize("name", ["ref_embeddings", "return_selection"])
def test_init_call_argument_as_option_raises(name):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
        losses.SCTLoss(**{name: None})
