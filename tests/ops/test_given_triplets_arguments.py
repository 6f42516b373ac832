"""Direct calls of the compiled losses on given triplets with invalid arguments; the modules that pass arguments on."""

import inspect

import pytest
import torch

from hardmine import losses, ops
from support.comparisons import assert_bitwise_equal
from support.ops import EMULATED
from triplets import (
    GIVEN,
    NO_TRIPLETS,
    Batch,
    assert_outcomes_equal,
    compiled_arguments,
    random_batch,
    run_given,
    skip_if_triplets_are_unchecked,
)

each_op = pytest.mark.parametrize("name", GIVEN)
INDEXED, GLOBAL = GIVEN

each_bad_list = pytest.mark.parametrize(
    "triplets",
    [[[0, 1, 40]], [[0, 1, 2], [-1, 2, 3]], [[0, 2**62, 1]], [[-(2**63), 1, 2]], [[1, 1, 0]]],
    ids=str,
)


@each_op
@each_bad_list
@skip_if_triplets_are_unchecked
def test_compiled_ops_bad_triplets_raise(name, triplets):
    """Forward and backward are called directly."""
    x, *options = (a for i, a in enumerate(compiled_arguments(name, random_batch())) if i != 1)
    bad = torch.tensor(triplets)
    with pytest.raises(ValueError, match="triplets must"):
        getattr(torch.ops.hardmine, name)(x, bad, *options)
    values = torch.ones(len(bad))
    with pytest.raises(ValueError, match="triplets must"):
        getattr(torch.ops.hardmine, f"{name}_backward")(torch.tensor(1.0), None, None, x, bad, values, values, *options)


@each_op
@each_bad_list
@pytest.mark.parametrize("good", [0, 1, 1500])
def test_op_bad_triplets_on_gpu_give_nan(name, triplets, good, device):
    """Nothing waits for a check there. The gradients of rows in valid triplets, or in none, are NaN too."""
    if torch.device(device).type == "cpu" and not EMULATED:
        pytest.skip("on the CPU they are errors")
    batch = random_batch()
    many = batch.triplets.repeat(good // 60 + 1, 1)[:good]
    listed = torch.cat([many[: good // 2], torch.tensor(triplets), many[good // 2 :]])
    for options in ({}, {"reduction": "none", "term": "hinge"})[: 1 if name == "global_loss" else 2]:
        outcome = run_given(getattr(ops, name), Batch(batch.embeddings, listed).to(device), **options)
        assert outcome.loss.isnan().all()
        assert outcome.grad.isnan().all()


@each_op
def test_compiled_ops_wrong_shapes_and_dtypes_raise(name):
    x, triplets, *options = compiled_arguments(name, random_batch())
    op, backward = getattr(torch.ops.hardmine, name), getattr(torch.ops.hardmine, f"{name}_backward")
    for wrong in (triplets.int(), triplets[:, :2], triplets[0], triplets.float()):
        with pytest.raises(ValueError, match=r"triplets must be an int64 CPU tensor \[T, 3\]"):
            op(x, wrong, *options)
    good = {"grad_loss": torch.tensor(1.0), "grad_positive": None, "grad_negative": None}
    s = torch.zeros(60)
    kind = "similarity" if name == INDEXED else "distance"
    names = (f"positive_{kind}", f"negative_{kind}")
    arguments = {**good, "embeddings": x, "triplets": triplets, names[0]: s, names[1]: s}
    schema = op.default._schema.arguments
    arguments |= {option.name: value for option, value in zip(schema[2:], options, strict=True)}
    assert backward(**arguments).shape == x.shape
    for argument, wrong in (
        ("grad_loss", torch.ones(2)),
        ("grad_loss", torch.tensor(1.0).double()),
        ("grad_positive", torch.ones(59)),
        ("grad_negative", torch.ones(61)),
        (names[0], s[1:]),
        (names[1], s.double()),
    ):
        with pytest.raises(ValueError, match=argument):
            backward(**{**arguments, argument: wrong})


@each_op
def test_op_valid_labels_change_nothing(name):
    x, labels = random_batch(12).embeddings, torch.arange(12) // 4 * 7 - 7
    triplets = torch.tensor([[a, a // 4 * 4 + (a + 1) % 4, (a + 5) % 12] for a in range(12)])
    assert (labels[triplets[:, 0]] != labels[triplets[:, 2]]).all()
    expected = run_given(getattr(ops, name), Batch(x, triplets))
    assert_outcomes_equal(run_given(getattr(ops, name), Batch(x, triplets), labels=labels), expected)
    for dtype in (torch.int8, torch.int32):
        assert_outcomes_equal(run_given(getattr(ops, name), Batch(x, triplets), labels=labels.to(dtype)), expected)
    getattr(ops, name)(x, NO_TRIPLETS, labels=labels)


# Modules


@pytest.mark.parametrize(("name", "module"), [(INDEXED, losses.RatioTripletLoss), (GLOBAL, losses.GlobalLoss)])
def test_module_equals_its_op(name, module):
    batch, op = random_batch(), getattr(ops, name)
    own = {"margin": 0.3} if name == INDEXED else {"lam": 0.3}
    for options in ({}, {**own, "similarity": "euclidean"}):
        assert_bitwise_equal(module(**options)(*batch), op(*batch, **options))
    assert_bitwise_equal(module()(embeddings=batch.embeddings, triplets=batch.triplets, labels=None), op(*batch))
    with pytest.raises(ValueError, match="a positive of the same class"):
        module()(*batch, torch.arange(40))
    assert repr(module(similarity="euclidean")) == f"{module.__name__}(similarity='euclidean')"


@pytest.mark.parametrize("module", [losses.RatioTripletLoss, losses.GlobalLoss])
def test_module_invalid_option_raises_in_init(module):
    with pytest.raises(ValueError, match="similarity must be one of"):
        module(similarity="l2")
    with pytest.raises(TypeError, match="lamb"):
        module(lamb=1.0)
    for name in ("embeddings", "triplets", "labels", "term"):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            module(**{name: None})


def test_signatures_match_design():
    for op in (ops.indexed_triplet_loss, ops.global_loss):
        parameters = inspect.signature(op).parameters
        assert list(parameters)[:2] == ["embeddings", "triplets"]
        assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in list(parameters.values())[2:])
    assert inspect.signature(ops.indexed_triplet_loss).parameters["term"].default == "ratio"
